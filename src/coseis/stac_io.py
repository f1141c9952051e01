"""The address of a catalog's document goes in, its value comes out: bounded in bytes, time and number.

pystac-client asks through it too. Its own reader takes a whole answer however long it is, opens what is no
web address as a local file, and sends whatever method a link asks for.
"""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pystac
import requests
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3.exceptions import HTTPError

from coseis.addresses import (
    AddressPolicy,
    check_address,
    host_of,
    is_remote,
    is_secret,
    public_form,
    unanswered,
)
from coseis.documents import parse_json, parsed_bytes
from coseis.errors import InputRefusedError, UnreachableError

MAX_DOCUMENT_BYTES = 256 * 2**20
MAX_CATALOG_BYTES = 3 * 2**30
"""Most memory for all documents of one search, parsed; see `parsed_bytes`. 20,000 items take half of it."""
MAX_DOCUMENTS = 30_000
"""Most documents that are asked for in one search."""
DOCUMENT_S = 300.0
"""Most time for one document: a server that sends a byte now and then keeps no timeout waiting."""
PART_BYTES = 2**18
METHODS = ("GET", "POST")


class TooMuchError(InputRefusedError):
    """The catalog as a whole is too large: reading on cannot help."""


class DocumentReader:
    """Reads the documents of one catalog, from several threads at once."""

    def __init__(self, session: requests.Session, policy: AddressPolicy) -> None:
        self._session, self._policy = session, policy
        self._lock = threading.Lock()
        self._asked, self._bytes = 0, 0
        pairs = parse_qsl(urlsplit(policy.catalog).query) if is_remote(policy.catalog) else []
        self._tokens = {name: value for name, value in pairs if is_secret(name)}

    def read(self, address: str) -> dict[str, Any]:
        """A JSON object.

        Raises:
            InputRefusedError: not allowed, missing, denied, no JSON object, or too large.
            UnreachableError: no answer.
        """
        checked = check_address(address, self._policy)
        if not is_remote(checked):
            return self._parse(_read_file(Path(checked)), checked)
        shown = public_form(checked)
        body, status, kind = self.fetch(checked, headers={"Accept": "application/json, */*;q=0.5"})
        check_status(status, shown)
        return self._parse(body, f"{shown} ({kind})")

    def fetch(
        self,
        address: str,
        method: str = "GET",
        *,
        headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> tuple[bytes, int, str]:
        """Body, status and media type of an answer; `parameters` are the query, or the body of a POST."""
        if method not in METHODS:
            raise InputRefusedError(
                f"{public_form(address)}: a link asks for {method[:20]!r}; expected GET or POST"
            )
        shown = public_form(address)
        with self._lock:
            self._asked += 1
            if self._asked > MAX_DOCUMENTS:
                raise TooMuchError(f"{shown}: more than {MAX_DOCUMENTS} documents; narrow the search")
        query = dict(self._tokens) if host_of(address) == host_of(self._policy.catalog) else {}
        given = {name for name, _ in parse_qsl(urlsplit(address).query)}
        query = {name: value for name, value in query.items() if name not in given}
        try:
            with self._session.request(
                method,
                address,
                headers=dict(headers or {}),
                params=query | dict(parameters or {}) if method == "GET" else query,
                json=parameters if method == "POST" else None,
                stream=True,
            ) as response:
                kind = response.headers.get("Content-Type", "no content type")
                return _bounded(response, shown), response.status_code, kind[:100]
        except (requests.RequestException, HTTPError) as error:
            raise unanswered(address, error) from error

    def spend(self, body: bytes, shown: str) -> None:
        """Counts a document. Raises TooMuchError when all together would fill the memory."""
        with self._lock:
            self._bytes += parsed_bytes(body)
            if self._bytes > MAX_CATALOG_BYTES:
                raise TooMuchError(
                    f"{shown}: the documents of its catalog would take more than "
                    f"{MAX_CATALOG_BYTES // 2**20} MiB; narrow it by --collection, --aoi, --pre and --post"
                )

    def _parse(self, body: bytes, shown: str) -> dict[str, Any]:
        self.spend(body, shown)
        try:
            document = parse_json(body)
        except ValueError as error:
            raise InputRefusedError(
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

    def read_text(self, source: Any, *args: Any, **options: Any) -> str:
        """A document of the API, by address or by a link of one of its pages."""
        if not isinstance(source, pystac.Link):
            return self.request(str(source), *args, **options)
        link = source.to_dict(transform_href=False)
        body = link.get("body") or {}
        if link.get("merge"):
            body = {**(options.get("parameters") or {}), **body}
        # Its headers are not sent: a page may not choose what we say in our name.
        method = str(link.get("method", "GET")).upper()
        return self.request(str(link["href"]), method, parameters=body if method == "POST" else None)

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of an answer. Raises APIError with the status of one that is no success."""
        if not is_remote(href):
            raise InputRefusedError(f"{public_form(href)[:200]} is no web address; expected one of the API's")
        body, status, _ = self._reader.fetch(
            href, (method or "GET").upper(), headers=headers, parameters=parameters
        )
        if not 200 <= status < 300:
            error = APIError(f"HTTP {status}")
            error.status_code = status
            raise error
        self._reader.spend(body, public_form(href))
        return body.decode("utf-8", errors="replace")


def check_status(status: int | None, shown: str, hint: str = "") -> None:
    """Raises InputRefusedError or UnreachableError for what is no success."""
    if status in (401, 403):
        raise InputRefusedError(f"{shown} denies access (HTTP {status}){hint}")
    if status is not None and 400 <= status < 500:
        raise InputRefusedError(f"{shown} answers HTTP {status}; is the address right?")
    if status is not None and status >= 500:
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


def _bounded(response: requests.Response, shown: str) -> bytes:
    ends = time.monotonic() + DOCUMENT_S
    body = bytearray()
    # Whatever has come: `iter_content` would wait for a whole part, byte by byte.
    while part := response.raw.read1(PART_BYTES, decode_content=True):
        body += part
        if len(body) > MAX_DOCUMENT_BYTES:
            raise InputRefusedError(f"{shown} is larger than {MAX_DOCUMENT_BYTES // 2**20} MiB")
        if time.monotonic() > ends:
            raise UnreachableError(f"{shown} takes longer than {DOCUMENT_S:.0f} s; run again")
    if response.raw.length_remaining:
        raise UnreachableError(f"{shown} breaks off after {len(body)} bytes; run again")
    return bytes(body)
