"""Fixed pages in, a real HTTP server on loopback out: for tests of redirects, broken answers and catalogs."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Page(NamedTuple):
    body: Any
    """A JSON document, or text for a page of its own type."""
    status: int = 200
    location: str | None = None


@contextmanager
def serve(pages: Mapping[str, Page]) -> Iterator[str]:
    """Serve the pages by their path; yields the root address, without a slash at its end."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path, Page("not here", 404))
            is_text = isinstance(page.body, str)
            body = (page.body if is_text else json.dumps(page.body)).encode()
            self.send_response(page.status)
            self.send_header("Content-Type", "text/html" if is_text else "application/json")
            self.send_header("Content-Length", str(len(body)))
            if page.location:
                self.send_header("Location", page.location)
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET  # noqa: N815 -- the base class looks for this name

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
