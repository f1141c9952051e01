"""The address of a catalog's document goes in, its value comes out: bounded in bytes, time and number.

What breaks off on its way is asked for again. pystac-client asks through it too: its own reader takes a
whole answer however long it is, opens what is no web address as a local file, sends whatever method a link
asks for, follows next links in a circle for ever, and takes an empty page for the last.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pystac
import requests
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from urllib3.exceptions import HTTPError, MaxRetryError

from coseis.addresses import (
    PLANET_HOST,
    AddressPolicy,
    absolute_address,
    check_address,
    host_of,
    is_remote,
    is_secret,
    public_form,
    unanswered,
)
from coseis.documents import parse_json, parsed_bytes
from coseis.errors import InputRefusedError, UnreachableError
from coseis.items import Document

MAX_DOCUMENT_BYTES = 256 * 2**20
MAX_CATALOG_BYTES = 3 * 2**30
"""Most memory for all documents of one search, parsed; see `parsed_bytes`. 20,000 items take half of it."""
MAX_DOCUMENTS = 30_000
"""Most documents that are asked for in one search."""
DOCUMENT_S = 300.0
"""Most time for one document: a server that sends a byte now and then keeps no timeout waiting."""
SEARCH_S = 1800.0
"""Most time for all documents of one search."""
ATTEMPTS = 4
RETRY_DELAY_S = 0.5
"""First delay; it doubles and is drawn at random, so that many clients do not come back at once."""
MAX_EMPTY_PAGES = 3
"""Empty pages in a row that are followed: some servers filter a page after it is cut, others never end."""
MAX_KNOWN_PAGES = 3
"""Pages in a row without a new item before the server is taken to go in a circle."""
PART_BYTES = 2**18
METHODS = ("GET", "POST")


class TooMuchError(InputRefusedError):
    """The catalog as a whole is too large: reading on cannot help."""


class MissingDocumentError(InputRefusedError):
    """There is nothing at that address: HTTP 404 or 410."""


class BrokenDocumentError(InputRefusedError):
    """What came is no JSON."""


class _CutShortError(UnreachableError):
    """Less came than was announced."""


class Request(NamedTuple):
    """A document that is asked for."""

    address: str
    method: str = "GET"
    parameters: Mapping[str, Any] | None = None
    """The query, or the body of a POST."""


class DocumentReader:
    """Reads the documents of one catalog, from several threads at once."""

    def __init__(self, session: requests.Session, policy: AddressPolicy) -> None:
        self._session, self._policy = session, policy
        self._lock = threading.Lock()
        self._asked, self._bytes = 0, 0
        self._ends = time.monotonic() + SEARCH_S
        pairs = parse_qsl(urlsplit(policy.catalog).query) if is_remote(policy.catalog) else []
        self._tokens = {name: value for name, value in pairs if is_secret(name)}

    def read(self, address: str) -> Document:
        """The document that lies at an address.

        Raises:
            InputRefusedError: not allowed, missing, denied, no JSON object, or too large.
            UnreachableError: no answer, or it breaks off, time after time; or it takes too long.
        """
        return self.ask(Request(address))

    def ask(self, request: Request) -> Document:
        """The answer to a request; errors as of `read`."""
        checked = check_address(request.address, self._policy)
        if not is_remote(checked):
            return self._parse(_read_file(Path(checked)), checked)
        if request.method not in METHODS:
            raise InputRefusedError(
                f"{public_form(checked)}: a link asks for {request.method[:20]!r}; expected GET or POST"
            )
        attempts = Retrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_random_exponential(multiplier=RETRY_DELAY_S, max=8),
            stop=stop_after_attempt(ATTEMPTS),
            reraise=True,
        )
        try:
            return attempts(self._ask_once, request._replace(address=checked))
        except (requests.RequestException, HTTPError) as error:
            raise unanswered(checked, error) from error

    def _ask_once(self, request: Request) -> Document:
        shown = public_form(request.address)
        self._count(shown)
        query = dict(self._tokens) if host_of(request.address) == host_of(self._policy.catalog) else {}
        given = {name for name, _ in parse_qsl(urlsplit(request.address).query)}
        query = {name: value for name, value in query.items() if name not in given}
        sent = dict(request.parameters or {})
        with self._session.request(
            request.method,
            request.address,
            headers={"Accept": "application/geo+json, application/json, */*;q=0.5"},
            params=query | sent if request.method == "GET" else query,
            json=sent if request.method == "POST" else None,
            stream=True,
        ) as response:
            _check_status(response.status_code, shown)
            body = _bounded(response, shown, min(self._ends, time.monotonic() + DOCUMENT_S))
            kind = response.headers.get("Content-Type", "no content type")[:100]
        return self._parse(body, f"{shown} ({kind})")

    def _count(self, shown: str) -> None:
        with self._lock:
            self._asked += 1
            if self._asked > MAX_DOCUMENTS:
                raise TooMuchError(f"{shown}: more than {MAX_DOCUMENTS} documents; narrow the search")
        if time.monotonic() > self._ends:
            raise UnreachableError(f"{shown}: its catalog takes longer than {SEARCH_S:.0f} s; run again")

    def _parse(self, body: bytes, shown: str) -> Document:
        with self._lock:
            self._bytes += parsed_bytes(body)
            if self._bytes > MAX_CATALOG_BYTES:
                raise TooMuchError(
                    f"{shown}: the documents of its catalog would take more than "
                    f"{MAX_CATALOG_BYTES // 2**20} MiB; narrow it by --collection, --aoi, --pre and --post"
                )
        try:
            document = parse_json(body)
        except ValueError as error:
            raise BrokenDocumentError(
                f"{shown} is not JSON; expected a STAC API, catalog, collection or item file ({error})"
            ) from error
        if not isinstance(document, dict):
            raise InputRefusedError(
                f"{shown} holds a JSON {type(document).__name__}; expected a STAC document"
            )
        return document


class CheckedStacIO(StacApiIO):  # type: ignore[misc, unused-ignore]
    """What pystac-client reads with."""

    def __init__(self, reader: DocumentReader) -> None:
        super().__init__(max_retries=None)
        self._reader = reader

    def read_json(self, source: Any, *_: Any, **__: Any) -> Document:
        """The API's root or one of its collections. Raises APIError with status 404 if there is none."""
        return self._ask(Request(source.href if isinstance(source, pystac.Link) else str(source)))

    def read_text(self, source: Any, *_: Any, **__: Any) -> str:
        """Nothing reads text: all that is read goes through `read_json` and `get_pages`."""
        raise InputRefusedError(f"{public_form(str(source))[:200]} is not read as text")

    def get_pages(
        self, url: str, method: str | None = None, parameters: dict[str, Any] | None = None
    ) -> Iterator[Document]:
        """The pages of a search or of the list of collections that list anything.

        Raises:
            InputRefusedError: the pages go in a circle, or one is no page.
            UnreachableError: a page is no JSON: a server that fails in the middle.
        """
        request: Request | None = Request(url, (method or "GET").upper(), parameters)
        kind = "collections" if urlsplit(url).path.rstrip("/").endswith("/collections") else "features"
        asked: set[str] = set()
        seen: set[tuple[str, str]] = set()
        empty = known = 0
        while request and empty < MAX_EMPTY_PAGES:
            shown = public_form(request.address)
            mark = json.dumps(request, sort_keys=True, default=str)
            if mark in asked:
                raise _circle(f"{shown}: page {len(asked)} links to one before it as the next")
            asked.add(mark)
            page = self._ask(request)
            if not isinstance(page.get(kind), list):
                raise InputRefusedError(
                    f"{shown} does not answer as a STAC API does: page {len(asked)} has no list of {kind}"
                )
            entries = dicts(page[kind])
            before = len(seen)
            seen.update((str(entry.get("collection") or ""), str(entry.get("id"))) for entry in entries)
            known = known + 1 if entries and len(seen) == before else 0
            if known >= MAX_KNOWN_PAGES:
                raise _circle(f"{shown}: {known} pages in a row list no new item")
            empty = 0 if entries else empty + 1
            if entries:
                yield {**page, kind: entries}
            request = _next(page, request)

    def _ask(self, request: Request) -> Document:
        if not is_remote(request.address):
            raise InputRefusedError(
                f"{public_form(request.address)[:200]} is no web address; expected one of the API's"
            )
        try:
            return self._reader.ask(request)
        except MissingDocumentError as error:
            missing = APIError(str(error))
            missing.status_code = 404
            raise missing from error
        except BrokenDocumentError as error:
            raise UnreachableError(f"{str(error).partition(';')[0]}; run again") from error


def dicts(listed: object) -> list[Document]:
    """The objects of what should be a list of them."""
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _next(page: Document, request: Request) -> Request | None:
    """What the next link of a page asks for. Its headers are not sent: a page may not speak in our name."""
    link = next(
        (link for link in dicts(page.get("links")) if link.get("rel") == "next" and link.get("href")), None
    )
    if link is None:
        return None
    address = absolute_address(str(link["href"]), request.address)
    method = str(link.get("method", "GET")).upper()
    if method != "POST":
        return Request(address, method)
    body = link.get("body")
    body = body if isinstance(body, dict) else {}
    return Request(address, method, {**(request.parameters or {}), **body} if link.get("merge") else body)


def _circle(what: str) -> InputRefusedError:
    return InputRefusedError(
        f"{what}; its list cannot be read to its end. Search other dates by --pre and --post, or a saved file"
    )


def _may_pass(error: BaseException) -> bool:
    """Whether asking again may help: what broke off may, what the session has repeated already will not."""
    if isinstance(error, requests.ConnectionError | requests.exceptions.RetryError):
        return not (error.args and isinstance(error.args[0], MaxRetryError))
    return isinstance(error, HTTPError | BrokenDocumentError | _CutShortError)


def _check_status(status: int, shown: str) -> None:
    if status in (401, 403):
        key = "; set PL_API_KEY to your key" if PLANET_HOST in shown else ""
        raise InputRefusedError(f"{shown} denies access (HTTP {status}){key}")
    if status in (404, 410):
        raise MissingDocumentError(f"{shown} answers HTTP {status}; is the address right?")
    if 400 <= status < 500:
        raise InputRefusedError(f"{shown} answers HTTP {status}; is the address right?")
    if status >= 500:
        raise UnreachableError(f"{shown} answers HTTP {status}; run again")


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            body = file.read(MAX_DOCUMENT_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputRefusedError(f"{path} cannot be read ({reason})") from error
    if len(body) > MAX_DOCUMENT_BYTES:
        raise InputRefusedError(f"{path} is larger than {MAX_DOCUMENT_BYTES // 2**20} MiB")
    return body


def _bounded(response: requests.Response, shown: str, ends: float) -> bytes:
    begun = time.monotonic()
    body = bytearray()
    # Whatever has come: `iter_content` would wait for a whole part, byte by byte.
    while part := response.raw.read1(PART_BYTES, decode_content=True):
        body += part
        if len(body) > MAX_DOCUMENT_BYTES:
            raise InputRefusedError(f"{shown} is larger than {MAX_DOCUMENT_BYTES // 2**20} MiB")
        if time.monotonic() > ends:
            raise UnreachableError(f"{shown} takes longer than {ends - begun:.0f} s; run again")
    if response.raw.length_remaining:
        raise _CutShortError(f"{shown} breaks off after {len(body)} bytes; run again")
    return bytes(body)
