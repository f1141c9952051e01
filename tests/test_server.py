"""The server of the map page, over real HTTP: ranges as RFC 9110 has them, nothing but what is published."""

import asyncio
import http.client
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from coseis.errors import InputRefusedError, UsageError
from coseis.page import FACTS, page_files
from coseis.server import parse_range, serving

TILES = bytes(range(256)) * 9000
"""More than one part of what is sent at once."""


@contextmanager
def running(run):
    """The address of a server in a thread of its own."""
    loop = asyncio.new_event_loop()
    started, addresses, ended = threading.Event(), [], asyncio.Event()

    async def serve():
        async with serving(run) as address:
            addresses.append(address)
            started.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(20)
        yield addresses[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = tmp_path_factory.mktemp("served") / "run"
    (run / "model").mkdir(parents=True)
    (run / FACTS).write_text('{"event_time": 1}')
    (run / "codes.pmtiles").write_bytes(TILES)
    (run / "index.html").write_text("<!doctype html>")
    (run / "config.json").write_text("{}")
    (run / "model" / "weights.h5").write_text("weights")
    (run.parent / "run.json").write_text("the parent's")
    for name, content in page_files():
        (run / name).parent.mkdir(exist_ok=True, parents=True)
        (run / name).write_bytes(content)
    return run


@pytest.fixture(scope="module")
def server(folder):
    with running(str(folder)) as address:
        yield address.removeprefix("http://").rstrip("/")


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection(server, timeout=20)
    connection.request(
        method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=127-16510", 127, 16511),
        ("bytes=2303990-", 2303990, 2304000),
        ("bytes=-7", 2303993, 2304000),
        ("bytes=2303990-99999999", 2303990, 2304000),
        ("bytes=-99999999", 0, 2304000),
    ],
)
def test_a_range_is_that_part_of_the_file(server, asked, start, end):
    answer, body = ask(server, "/codes.pmtiles", Range=asked)
    assert answer.status == 206
    assert body == TILES[start:end]
    assert answer.getheader("Content-Range") == f"bytes {start}-{end - 1}/{len(TILES)}"
    assert answer.getheader("Content-Type") == "application/vnd.pmtiles"


@pytest.mark.parametrize("asked", ["bytes=2304000-", "bytes=99999999-99999999", "bytes=-0"])
def test_a_range_beyond_the_file_is_416(server, asked):
    answer, _ = ask(server, "/codes.pmtiles", Range=asked)
    assert (answer.status, answer.getheader("Content-Range")) == (416, "bytes */2304000")


@pytest.mark.parametrize("asked", [None, "bytes=1-2,5-6", "bytes=5-2", "items=1-2", "bytes=-", "bytes=a-b"])
def test_what_is_no_single_range_gives_the_whole_file(server, asked):
    answer, body = ask(server, "/codes.pmtiles", **({"Range": asked} if asked else {}))
    assert (answer.status, body) == (200, TILES)
    assert answer.getheader("Accept-Ranges") == "bytes"


@given(st.integers(0, 40), st.integers(0, 50), st.integers(0, 50))
def test_ranges_agree_with_slices(size, first, last):
    content = bytes(range(size))

    def cut(header):
        try:
            part = parse_range(header, size)
        except ValueError:
            return b""
        return content if part is None else content[slice(*part)]

    if first <= last:
        assert cut(f"bytes={first}-{last}") == content[first : last + 1]
    assert cut(f"bytes={first}-") == content[first:]
    assert cut(f"bytes=-{first}") == (content[-first:] if first else b"")


def test_the_page_is_served_with_the_types_that_browsers_insist_on(server):
    for path, kind in (
        ("/", "text/html; charset=utf-8"),
        ("/web/page.mjs", "text/javascript; charset=utf-8"),
        ("/web/vendor/maplibre-gl-worker.mjs?v=6.17.0", "text/javascript; charset=utf-8"),
        ("/web/page.css", "text/css; charset=utf-8"),
        ("/map.json", "application/json"),
    ):
        answer, body = ask(server, path)
        assert (answer.status, answer.getheader("Content-Type")) == (200, kind), path
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        assert len(body) == int(answer.getheader("Content-Length")) > 0


@pytest.mark.parametrize(
    "path",
    ["/../run.json", "/%2e%2e/run.json", "/web/../config.json", "/config.json", "/model/weights.h5", "/web/",
     "/web", "//index.html", "/records/", "/probability.zarr", "/..%5crun.json", "/index.html/", "/nothing"],
)  # fmt: skip
def test_nothing_else_is_served(server, path):
    answer, body = ask(server, path)
    assert (answer.status, body) == (404, b"")


def test_only_reading_is_allowed_and_head_sends_no_body(server):
    for method in ("POST", "PUT", "DELETE"):
        assert ask(server, "/index.html", method)[0].status == 405
    answer, body = ask(server, "/codes.pmtiles", "HEAD")
    assert (answer.status, body, answer.getheader("Content-Length")) == (200, b"", str(len(TILES)))


def test_an_unchanged_file_is_not_sent_again(server):
    answer, _ = ask(server, "/map.json")
    again, body = ask(server, "/map.json", If_None_Match=answer.getheader("Etag"))
    assert (again.status, body) == (304, b"")
    etag = ask(server, "/codes.pmtiles", "HEAD")[0].getheader("Etag")
    assert ask(server, "/codes.pmtiles", Range="bytes=0-3", If_Range=etag)[0].status == 206
    assert ask(server, "/codes.pmtiles", Range="bytes=0-3", If_Range='"older"')[0].status == 200


def test_another_name_for_this_machine_is_refused(server):
    assert ask(server, "/run.json", Host="evil.example")[0].status == 403
    assert ask(server, "/index.html", Host=f"localhost:{server.rpartition(':')[2]}")[0].status == 200


def test_the_server_listens_on_loopback_alone(server, monkeypatch):
    port = int(server.rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells the address that others know us by
        except OSError:
            pytest.skip("this machine has no address but loopback")
        own = probe.getsockname()[0]
    if own.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    with pytest.raises(OSError):  # noqa: PT011 -- refused, or no route
        socket.create_connection((own, port), timeout=2)


def test_a_run_without_a_page_and_a_taken_port_are_refused(tmp_path, server, folder):
    async def begin(run, port=0):
        async with serving(str(run), port):
            pass

    with pytest.raises(InputRefusedError, match="no map page"):
        asyncio.run(begin(tmp_path))
    with pytest.raises(InputRefusedError, match="no such folder"):
        asyncio.run(begin(tmp_path / "none"))
    with pytest.raises(UsageError, match="--port 0"):
        asyncio.run(begin(folder, int(server.rpartition(":")[2])))


def test_the_command_serves_until_it_is_interrupted(folder):
    command = [sys.executable, "-m", "coseis.cli", "view", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:")
        answer, body = ask(
            line.split()[0].removeprefix("http://").rstrip("/"), "/codes.pmtiles", Range="bytes=-4"
        )
        assert (answer.status, body) == (206, TILES[-4:])
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.slow
@pytest.mark.integration
def test_a_run_in_a_bucket_is_served_alike(monkeypatch):
    moto = ThreadedMotoServer("127.0.0.1", 0)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")  # moto keeps one memory a process: a bucket of its own
        client.create_bucket(Bucket="served")
        for name, content in ((FACTS, b"{}"), ("codes.pmtiles", TILES)):
            client.put_object(Bucket="served", Key=f"event/{name}", Body=content)
        with running("s3://served/event") as address:
            server = address.removeprefix("http://").rstrip("/")
            for asked, part in (("bytes=127-16510", TILES[127:16511]), ("bytes=-7", TILES[-7:])):
                answer, body = ask(server, "/codes.pmtiles", Range=asked)
                assert (answer.status, body) == (206, part)
            assert ask(server, "/codes.pmtiles")[1] == TILES
            assert ask(server, "/run.json")[0].status == 404
    finally:
        moto.stop()


@pytest.mark.parametrize(
    "path",
    ["/%2e%2e%2fmap.json", "/..%2f..%2fetc%2fpasswd", "/%252e%252e/run.json", "/web/%2e%2e/config.json",
     "/....//run.json", "/map.json%00.png", "/map.json%0d%0aX:1", "/file:///etc/passwd", "/C:/x",
     "/./map.json"],
)  # fmt: skip
def test_no_encoding_of_a_path_leads_elsewhere(server, path):
    answer, body = ask(server, path)
    assert answer.status in (400, 404)
    assert body == b""


def test_a_link_in_a_run_is_not_followed_out_of_it(tmp_path):
    """A run that somebody else sent."""
    run, secret = tmp_path / "run", tmp_path / "secret"
    run.mkdir()
    secret.write_text("s3cret")
    (run / "map.json").write_text("{}")
    (run / "map.png").symlink_to(secret)
    (run / "run.json").symlink_to(run / "map.json")
    with running(str(run)) as address:
        here = address.removeprefix("http://").rstrip("/")
        assert ask(here, "/map.png")[0].status == 404
        assert ask(here, "/run.json")[1] == b"{}"
        policy = ask(here, "/map.json")[0].getheader("Content-Security-Policy")
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
