"""Ranges of remote files: what is asked again, what is refused at once, and who is never asked."""

import itertools
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest

from coseis import remote
from coseis.addresses import AddressPolicy, AddressRefusedError
from coseis.errors import InputRefusedError, UnreachableError
from coseis.remote import ChangedError, RemoteFile, fetch

BODY = bytes(range(256)) * 8


class Reply(NamedTuple):
    """One answer of the scripted server; None: as a good server would."""

    status: int = 206
    headers: dict = {}
    body: bytes | None = None
    pause_s: float = 0
    """Between any two bytes of the body."""


@contextmanager
def scripted(*replies: Reply):
    """A server that gives these answers in turn, the last one for ever; yields address and requests."""
    script = itertools.chain(replies, itertools.repeat(replies[-1]))
    ended, asked = threading.Event(), []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            reply = next(script)
            first, last = (int(end) for end in self.headers["Range"][6:].split("-"))
            body = BODY[first : last + 1] if reply.body is None else reply.body
            asked.append((self.client_address, self.path, self.headers["Range"]))
            self.send_response(reply.status)
            stated = {"Content-Length": len(body), "ETag": '"one"'}
            if reply.status == 206:
                stated["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{len(BODY)}"
            for name, value in (stated | reply.headers).items():
                if value is not None:
                    self.send_header(name, str(value))
            self.end_headers()
            pieces = [body] if not reply.pause_s else [body[n : n + 1] for n in range(len(body))]
            for piece in pieces:
                try:
                    self.wfile.write(piece)
                except OSError:
                    break
                if reply.pause_s and ended.wait(reply.pause_s):
                    break

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> Sequence[float]:
    """What is waited between tries, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    remote._session.cache_clear()
    return waited


def of(address, **policy) -> RemoteFile:
    return RemoteFile(
        f"{address}/x.tif?token=secret", "item a, asset b, x.tif", AddressPolicy(catalog=address, **policy)
    )


GOOD = Reply()


@pytest.mark.parametrize(
    "bad",
    [
        *(Reply(status, body=b"later") for status in (429, 500, 502, 503, 504)),
        Reply(body=BODY[10:19]),
        Reply(headers={"Content-Range": "bytes 11-20/2048"}),
        Reply(headers={"Content-Range": "bytes 10-19/*"}),
        Reply(headers={"Content-Range": None}),
        Reply(headers={"Content-Length": 5}, body=BODY[10:15]),
    ],
    ids=str,
)
def test_what_may_be_better_next_time_is_asked_again(bad, pauses):
    with scripted(bad, bad, GOOD) as (address, asked):
        answer = fetch(of(address), 10, 20)
    assert answer.content == BODY[10:20]
    assert len(asked) == 3
    assert len(pauses) == 2
    assert 0.25 <= pauses[0] < 0.75
    assert 0.5 <= pauses[1] < 1.5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416])
def test_what_stays_as_it_is_is_refused_at_once(status):
    with (
        scripted(Reply(status, body=b"no")) as (address, asked),
        pytest.raises(
            InputRefusedError, match=f"item a, asset b, x.tif cannot be read: HTTP {status}"
        ) as caught,
    ):
        fetch(of(address), 0, 10)
    assert len(asked) == 1
    assert "secret" not in str(caught.value)


def test_what_never_gets_better_is_unreachable(pauses):
    with (
        scripted(Reply(503, body=b"")) as (address, asked),
        pytest.raises(UnreachableError, match=r"x\.tif cannot be fetched: HTTP 503, 6 times; run again"),
    ):
        fetch(of(address), 0, 10)
    assert len(asked) == 6
    assert 0.5 * 15.5 <= sum(pauses) < 1.5 * 15.5


@pytest.mark.parametrize(("said", "least", "most"), [("7", 7, 7), ("86400", 30, 30), ("soon", 0.25, 0.75)])
def test_a_server_may_ask_for_a_pause_within_reason(pauses, said, least, most):
    with scripted(Reply(429, {"Retry-After": said}, b""), GOOD) as (address, _):
        fetch(of(address), 0, 10)
    assert least <= pauses[0] <= most


def test_a_server_without_ranges_may_send_small_files_whole(monkeypatch):
    with scripted(Reply(200, body=BODY)) as (address, _):
        answer = fetch(of(address), 10, 20)
        assert (answer.start, answer.content, answer.stamp.size) == (0, BODY, len(BODY))
        monkeypatch.setattr(remote, "WHOLE_FILE_BYTES", 1000)
        with pytest.raises(InputRefusedError, match=r"sends the whole file \(2048 bytes; at most 1000\)"):
            fetch(of(address), 10, 20)
    with (
        scripted(Reply(200, {"Content-Length": None, "Connection": "close"}, BODY)) as (address, _),
        pytest.raises(InputRefusedError, match=r"whole file \(more bytes; at most 1000\)"),
    ):
        fetch(of(address), 10, 20)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Reply(headers={"ETag": '"two"'}), 'ETag was "one", is "two" now'),
        (Reply(headers={"Content-Range": "bytes 0-9/2049"}), "size was 2048, is 2049 now"),
    ],
    ids=["etag", "size"],
)
def test_a_file_that_changes_while_it_is_read_is_refused(now, said):
    with scripted(GOOD, now) as (address, _):
        known = fetch(of(address), 0, 10).stamp
        with pytest.raises(ChangedError, match=said):
            fetch(of(address), 0, 10, known)


def test_a_server_that_drips_is_given_up(monkeypatch):
    monkeypatch.setattr(remote, "REQUEST_S", 0.2)
    with (
        scripted(Reply(pause_s=0.05)) as (address, asked),
        pytest.raises(UnreachableError, match=r"[0-9]+ of 200 bytes came in time, 6 times"),
    ):
        fetch(of(address), 0, 200)
    assert len(asked) == 6


def test_connections_are_used_again():
    with scripted(GOOD) as (address, asked):
        for start in range(0, 200, 10):
            assert fetch(of(address), start, start + 10).content == BODY[start : start + 10]
    assert len(asked) == 20
    assert len({client for client, _, _ in asked}) == 1


@pytest.mark.parametrize(
    "place", ["http://169.254.169.254/latest/", "http://localhost:1/", "file:///etc/passwd"]
)
def test_a_redirect_leads_nowhere_that_is_not_allowed(place):
    with scripted(Reply(302, {"Location": place}, b"")) as (address, asked):
        with pytest.raises(InputRefusedError, match=r"item a, asset b, x\.tif cannot be read"):
            fetch(of(address), 0, 10)
        assert len(asked) == 1


def test_a_redirect_to_another_host_is_followed_when_it_is_allowed():
    with (
        scripted(GOOD) as (other, met),
        scripted(Reply(302, {"Location": f"{other}/y.tif"}, b"")) as (address, _),
    ):
        with pytest.raises(AddressRefusedError, match="not the catalog's own host"):
            fetch(of(address), 0, 10)
        assert not met
        allowed = other.removeprefix("http://")
        assert fetch(of(address, allow_hosts=(allowed,)), 0, 10).content == BODY[:10]
        assert len(met) == 1


def test_endless_redirects_are_refused():
    with (
        scripted(Reply(302, {"Location": "/x.tif"}, b"")) as (address, _),
        pytest.raises(InputRefusedError, match="redirected more than 5 times"),
    ):
        fetch(of(address), 0, 10)


def test_without_a_policy_the_own_host_alone_is_reached():
    with (
        scripted(GOOD) as (other, met),
        scripted(Reply(302, {"Location": f"{other}/y.tif"}, b"")) as (address, _),
    ):
        with pytest.raises(AddressRefusedError):
            fetch(RemoteFile(f"{address}/x.tif", "x", None), 0, 10)
        assert not met
        assert fetch(RemoteFile(f"{other}/x.tif", "x", None), 0, 10).content == BODY[:10]
