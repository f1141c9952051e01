"""Documents from the web: what breaks off is asked for again, and no server may take as long as it likes."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from coseis.addresses import AddressPolicy, checked_session
from coseis.errors import InputRefusedError, UnreachableError
from coseis.items import Document
from coseis.stac_io import ATTEMPTS, BrokenDocumentError, DocumentReader, MissingDocumentError
from fault_proxy import Fault, faulty
from serving import Page, serve


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("coseis.stac_io.RETRY_DELAY_S", 0.0)
    monkeypatch.setattr("coseis.addresses.RETRY_DELAY_S", 0.0)


def read(address: str) -> Document:
    policy = AddressPolicy(catalog=address)
    with checked_session(policy) as session:
        return DocumentReader(session, policy).read(address)


@contextmanager
def dripping() -> Iterator[str]:
    """A server that sends a blank every few milliseconds, for ever."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve_one() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not ended.wait(0.005):
                    connection.sendall(b" ")

        thread = threading.Thread(target=serve_one)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        ended.set()
        thread.join()


def test_a_byte_at_a_time_is_not_waited_for(monkeypatch):
    """No single read ever times out."""
    monkeypatch.setattr("coseis.stac_io.DOCUMENT_S", 0.2)
    with dripping() as address, pytest.raises(UnreachableError, match=r"takes longer than 0 s; run again"):
        read(address)


@pytest.mark.parametrize("fault", [Fault.TRUNCATED, Fault.TOO_LONG, Fault.TOO_SHORT, Fault.RESET])
def test_what_breaks_off_is_asked_for_again(fault):
    pages = {"/": Page({"answer": list(range(1000))})}
    with (
        serve(pages) as root,
        faulty(root, lambda request: fault if request.count < ATTEMPTS - 1 else None) as proxy,
    ):
        assert read(f"{proxy.address}/") == pages["/"].body
        assert len(proxy.injected) == ATTEMPTS - 1


def test_what_is_missing_or_refused_is_asked_for_once():
    with serve({"/no": Page("no", 403)}) as root, faulty(root, lambda request: None) as proxy:
        with pytest.raises(MissingDocumentError, match="answers HTTP 404; is the address right"):
            read(f"{proxy.address}/nothing?token=s3cret")
        with pytest.raises(InputRefusedError, match=r"/no denies access \(HTTP 403\)"):
            read(f"{proxy.address}/no")
        assert len(proxy.requests) == 2


def test_what_is_no_document(tmp_path):
    with serve({"/": Page("<html>"), "/list": Page([1])}) as root:
        with pytest.raises(BrokenDocumentError, match=r"/ \(text/html\) is not JSON"):
            read(f"{root}/")
        with pytest.raises(InputRefusedError, match="holds a JSON list; expected a STAC document"):
            read(f"{root}/list")
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"a": 1}))
    assert read(str(path)) == {"a": 1}
