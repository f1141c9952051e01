"""A server's address goes in, one that misbehaves comes out: a reverse proxy that breaks answers."""

import contextlib
import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

UPSTREAM_TIMEOUT_S = 60
# Of one hop, so not passed on.
HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"}


class Fault(StrEnum):
    STATUS_429 = "HTTP 429"
    STATUS_502 = "HTTP 502"
    STATUS_503 = "HTTP 503"
    STATUS_404 = "HTTP 404"
    RESET = "connection reset"
    TRUNCATED = "body cut off"
    STALL = "stall"
    TOO_LONG = "length too large"
    """Content-Length says one byte more than ever comes."""
    TOO_SHORT = "length too small"
    """A whole, consistent answer that lacks the last byte of what was asked for."""


class Request(NamedTuple):
    method: str
    path: str
    byte_range: str
    """The Range header, or nothing."""
    count: int
    """How often this was asked before, so that a plan does not depend on the order of threads."""


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    content: bytes


Plan = Callable[[Request], Fault | None]
Rewrite = Callable[[Request, Answer], Answer]


class FaultProxy(NamedTuple):
    address: str
    """Root address, without a slash at its end."""
    injected: list[tuple[Request, Fault]]
    requests: list[Request]


def seeded(seed: int, share: float, faults: Sequence[Fault], *, most: int = 2) -> Plan:
    """Breaks a share of the requests, each at most `most` times: what is asked for often enough arrives."""

    def plan(request: Request) -> Fault | None:
        draw = random.Random(f"{seed} {request}")
        return draw.choice(faults) if request.count < most and draw.random() < share else None

    return plan


@contextmanager
def faulty(
    upstream: str, plan: Plan, *, stall_s: float = 30, rewrite: Rewrite | None = None
) -> Iterator[FaultProxy]:
    """Forwards to `upstream` (http://host:port) and breaks what the plan says.

    Args:
        upstream: Where whole answers come from.
        plan: What to break.
        stall_s: How long a stall lasts.
        rewrite: Changes an answer that the plan leaves whole: what no broken wire makes, but a bad server.
    """
    proxy_lock = threading.Lock()
    counts: Counter[tuple[str, str, str]] = Counter()
    injected: list[tuple[Request, Fault]] = []
    requests: list[Request] = []
    stopped = threading.Event()
    host = urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            asked = (self.command, self.path, self.headers.get("Range", ""))
            with proxy_lock:
                request = Request(*asked, counts[asked])
                counts[asked] += 1
                requests.append(request)
                if fault := plan(request):
                    injected.append((request, fault))
            body = self._body()
            if fault and fault.value.startswith("HTTP "):
                return self._answer(int(fault.value[5:]), [("Content-Type", "text/plain")], b"try later")
            if fault is Fault.RESET:
                return self._reset()
            status, headers, content = self._ask(body)
            if fault is None and rewrite:
                status, headers, content = rewrite(request, Answer(status, headers, content))
            if fault is None or self.command == "HEAD":
                return self._answer(status, headers, content)
            self.close_connection = True
            if fault is Fault.TOO_SHORT:
                return self._answer(status, headers, content[:-1])
            length = len(content) + (fault is Fault.TOO_LONG)
            sent = content if fault is Fault.TOO_LONG else content[: len(content) // 2]
            self._answer(status, headers, sent, length=length)
            if fault is Fault.STALL:
                stopped.wait(stall_s)
            return None

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815 -- the base class's names

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") == "chunked":
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(host, timeout=UPSTREAM_TIMEOUT_S)
            # What is to be rewritten must be readable.
            left_out = HOP | {"accept-encoding"} if rewrite else HOP
            headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
            try:
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
                return answer.status, kept, answer.read()
            finally:
                connection.close()

        def _answer(
            self,
            status: int,
            headers: Sequence[tuple[str, str]],
            content: bytes,
            *,
            length: int | None = None,
        ) -> None:
            self.send_response_only(status)
            stated = None
            for name, value in headers:
                if name.lower() == "content-length":
                    stated = value
                else:
                    self.send_header(name, value)
            if self.command == "HEAD" and stated:
                self.send_header("Content-Length", stated)
            else:
                self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
                self.wfile.flush()

        def _reset(self) -> None:
            # Closing with nothing lingering sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def finish(self) -> None:
            with contextlib.suppress(OSError):  # the client has gone, or was reset
                super().finish()

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (OSError, ValueError):  # the same, while it was answered
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
            if request.fileno() >= 0:
                super().shutdown_request(request)

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield FaultProxy(f"http://127.0.0.1:{server.server_port}", injected, requests)
    finally:
        stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
