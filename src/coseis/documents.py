"""An address goes in; the JSON document that lies there comes out, whole, or the error that says why not.

What breaks off on its way is asked for again. Each document has a size and a time that it may take: a server
that sends a byte a minute never exceeds the timeout of a single read.
"""

import json
import time
from pathlib import Path
from typing import Any

import requests
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from urllib3.exceptions import HTTPError, MaxRetryError

from coseis.addresses import PLANET_HOST, public_form, unanswered
from coseis.errors import InputRefusedError, UnreachableError

MAX_DOCUMENT_BYTES = 256 * 2**20
DOCUMENT_LIMIT_S = 300
"""Longest that one document may take, however steadily it comes."""
ATTEMPTS = 4
RETRY_DELAY_S = 0.5
"""First delay; it doubles and is drawn at random, so that many clients do not come back at once."""
READ_BYTES = 2**16

Document = dict[str, Any]


class MissingDocumentError(InputRefusedError):
    """There is nothing at that address: HTTP 404 or 410."""


class BrokenDocumentError(InputRefusedError):
    """What came is no JSON."""


def read_document(
    address: str, session: requests.Session, *, until: float, query: Document | None = None
) -> Document:
    """A JSON document from the web.

    Args:
        address: Checked; the session checks each hop again.
        session: Of `checked_session`: it repeats what is answered with HTTP 429 or 5xx, or with nothing.
        until: Time of the monotonic clock at which the whole search must be over.
        query: Sent as JSON by POST; None: GET.

    Raises:
        InputRefusedError: missing, too large, access denied, or no JSON object, time after time.
        UnreachableError: no answer, or it breaks off, time after time; or it takes too long.
    """
    attempts = Retrying(
        retry=retry_if_exception(_may_pass),
        wait=wait_random_exponential(multiplier=RETRY_DELAY_S, max=8),
        stop=stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    try:
        return attempts(_read_once, address, session, until, query)
    except (requests.RequestException, HTTPError) as error:
        raise unanswered(address, error) from error


def read_file(path: Path) -> Document:
    """A JSON document of this machine. Raises InputRefusedError."""
    try:
        return _parse(path.read_bytes(), str(path))
    except OSError as error:
        raise InputRefusedError(f"{path} cannot be read ({error.strerror})") from error


def _may_pass(error: BaseException) -> bool:
    """Whether asking again may help: what broke off may, what the session has repeated already will not."""
    if isinstance(error, requests.ConnectionError | requests.exceptions.RetryError):
        return not (error.args and isinstance(error.args[0], MaxRetryError))
    return isinstance(error, HTTPError | BrokenDocumentError)


def _read_once(address: str, session: requests.Session, until: float, query: Document | None) -> Document:
    shown = public_form(address)
    until = min(until, time.monotonic() + DOCUMENT_LIMIT_S)
    headers = {"Accept": "application/geo+json, application/json, */*;q=0.5"}
    method = "GET" if query is None else "POST"
    body = bytearray()
    with session.request(method, address, headers=headers, json=query, stream=True) as response:
        _check_status(response.status_code, shown)
        # What is there, not what was asked for: else a slow server is waited for beyond any limit.
        while part := response.raw.read1(READ_BYTES, decode_content=True):
            body += part
            if len(body) > MAX_DOCUMENT_BYTES:
                raise InputRefusedError(f"{shown} is larger than {MAX_DOCUMENT_BYTES // 2**20} MiB")
            if time.monotonic() > until:
                raise UnreachableError(f"{shown} takes too long ({len(body)} bytes so far); run again")
        return _parse(bytes(body), f"{shown} ({response.headers.get('Content-Type', 'no content type')})")


def _parse(body: bytes, shown: str) -> Document:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BrokenDocumentError(
            f"{shown} is not JSON; expected a STAC API, catalog, collection or item file"
        ) from error
    if not isinstance(document, dict):
        raise InputRefusedError(f"{shown} holds a JSON {type(document).__name__}; expected a STAC document")
    return document


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
