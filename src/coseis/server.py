"""A run's address goes in; its map page is served to the browsers of this machine, from a folder or a bucket.

Tornado, which Dask brings along, speaks HTTP. Ranges are read from any store by obstore, so a tile of an
archive in a bucket costs one request there; tornado's own handler for files reads folders only, and blocks.
"""

import asyncio
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler

from coseis.errors import InputRefusedError, UsageError
from coseis.objects import get_object, open_store
from coseis.page import FACTS, PAGE, media_type_of, page_files
from coseis.publish import OUTPUTS
from coseis.situation import SITUATION
from coseis.situation import policy as situation_policy

LOOPBACK = "127.0.0.1"
SERVED = frozenset(
    [name for name in OUTPUTS if not name.endswith(".zarr")] + [name for name, _ in page_files()]
)
"""What is served, by name: nothing else of the run, whatever a request says."""
POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; style-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'"
)
"""Of index.html, as the page says it itself."""
UNFRAMED = "frame-ancestors 'none'"
"""No other page may show one of ours in a frame, which only a header can say."""
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
PART_BYTES = 2**20
"""A whole file is sent in parts of this size."""


def serve_run(run: str, port: int, tell: Callable[[str], None]) -> None:
    """Serves a run's page on loopback until the process is interrupted or terminated.

    Args:
        run: Address of a finished run: folder, s3://, gs:// or az://.
        port: Where; 0 takes any that is free.
        tell: Called with the page's address once it can be opened.

    Raises:
        InputRefusedError: there is no page at `run`.
        UsageError: the port is taken.
        UnreachableError: the store does not answer.
    """
    asyncio.run(_serve_until_interrupted(run, port, tell))


@asynccontextmanager
async def serving(run: str, port: int = 0) -> AsyncIterator[str]:
    """Serves a run while the context lasts; yields the page's address. Raises as `serve_run`."""
    store = open_store(run, must_exist=True)
    if get_object(store, FACTS) is None:
        raise InputRefusedError(
            f"{run} holds no map page (no {FACTS}); coseis map and coseis finish write it"
        )
    try:
        # Not tornado's bind_sockets, which leaves a socket open when the port is taken.
        listener = socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise UsageError(
            f"port {port} cannot be used ({error.strerror}); another coseis view? give --port 0"
        ) from error
    listener.setblocking(False)
    bound = listener.getsockname()[1]
    hosts = {f"{LOOPBACK}:{bound}", f"localhost:{bound}"}
    server = HTTPServer(
        Application([(r"/(.*)", _File, {"store": store, "hosts": hosts})], log_function=_quiet)
    )
    server.add_sockets([listener])
    try:
        yield f"http://{LOOPBACK}:{bound}/"
    finally:
        server.stop()
        await server.close_all_connections()


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of the one range that is asked for, cut to the file.

    Args:
        header: Of the request, `bytes=2-5`, `bytes=2-` or `bytes=-4`.
        size: Of the file, bytes.

    Returns:
        None for the whole file: no range, several, or what is no range of bytes, which RFC 9110 says to
        ignore.

    Raises:
        ValueError: nothing of the range lies within the file.
    """
    match = RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
        if match[2] and int(match[2]) < start:
            return None
    if start >= end:
        raise ValueError(f"range {header} has nothing of {size} bytes")
    return start, end


class _File(RequestHandler):
    """One published file, or a range of it."""

    def initialize(self, store: ObjectStore, hosts: set[str]) -> None:
        self._store, self._hosts = store, hosts

    def prepare(self) -> None:
        # A page elsewhere whose name is made to point here (DNS rebinding) must not read the run.
        if self.request.headers.get("Host") not in self._hosts:
            self._end(403)

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Cache-Control", "no-cache")
        # The page says the same of itself; a run that somebody else sent may bring another page.
        self.set_header("Content-Security-Policy", f"{POLICY}; {UNFRAMED}")

    async def head(self, path: str) -> None:
        await self.get(path)

    async def get(self, path: str) -> None:
        key = path or PAGE
        if key not in SERVED or not _is_inside(self._store, key):
            self._end(404)
            return
        try:
            # In threads, which end with the loop: those of obstore's own async calls outlive it, and a
            # process that ended among them was seen to abort.
            found = await asyncio.to_thread(obstore.head, self._store, key)
        except FileNotFoundError:
            self._end(404)
            return
        except BaseError:
            self._end(502)
            return
        size = found["size"]
        if key == SITUATION:
            self.set_header("Content-Security-Policy", f"{situation_policy()}; {UNFRAMED}")
        etag = f'"{(found["e_tag"] or str(size)).strip(chr(34))}"'
        self.set_header("Content-Type", media_type_of(key))
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("Etag", etag)
        header = self.request.headers.get("Range")
        if self.request.headers.get("If-Range", etag) != etag:
            header = None
        try:
            part = parse_range(header, size)
        except ValueError:
            self.set_header("Content-Range", f"bytes */{size}")
            self._end(416)
            return
        if part is None and self.check_etag_header():
            self._end(304)
            return
        if part is not None:
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {part[0]}-{part[1] - 1}/{size}")
        # Browsers leave tiles that have moved out of sight: nobody is there to be told.
        with suppress(StreamClosedError):
            await self._send(key, *(part or (0, size)))

    async def _send(self, key: str, start: int, end: int) -> None:
        self.set_header("Content-Length", str(end - start))
        if self.request.method == "HEAD":
            await self.finish()
            return
        for first in range(start, end, PART_BYTES):
            last = min(end, first + PART_BYTES)
            content = await asyncio.to_thread(obstore.get_range, self._store, key, start=first, end=last)
            self.write(bytes(content))
            await self.flush()
        await self.finish()

    def _end(self, status: int) -> None:
        self.set_status(status)
        self.clear_header("Content-Type")
        self.finish()

    def compute_etag(self) -> None:
        """Tornado's own is of the body; ours is the store's."""


def _is_inside(store: ObjectStore, key: str) -> bool:
    """Whether a file is one of the run's folder, not a link to another of this machine; true in a bucket."""
    if not isinstance(store, LocalStore) or store.prefix is None:
        return True
    root = Path(store.prefix).resolve()
    return (root / key).resolve().is_relative_to(root)


async def _serve_until_interrupted(run: str, port: int, tell: Callable[[str], None]) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt
            loop.add_signal_handler(number, ended.set)
    async with serving(run, port) as address:
        tell(address)
        await ended.wait()


def _quiet(handler: Any) -> None:
    """A line a request would hide the address."""
