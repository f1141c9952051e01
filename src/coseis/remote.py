"""The address of a remote file and a range go in, exactly those bytes come out, or why there are none.

Nothing but this module reads scenes over the network: every hop of every request is checked, what fails for
a while is asked again for a while, and an answer counts only if it is the range that was asked for, of the
file that was begun with.
"""

import os
import re
import time
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple

import obstore
import requests
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from urllib3.exceptions import HTTPError

from coseis.addresses import (
    CONNECT_TIMEOUT_S,
    MAX_REDIRECTS,
    WEB,
    AddressPolicy,
    AddressRefusedError,
    check_address,
    checked_session,
    public_form,
    root_reason,
    scheme_of,
)
from coseis.errors import InputRefusedError, UnreachableError
from coseis.objects import open_bucket

STALL_S = 20
"""Longest silence of a server that has begun to answer; then it is asked again."""
REQUEST_S = 60
"""One request must end in this time, and in what its bytes take at LEAST_BYTES_S."""
LEAST_BYTES_S = 100_000
"""A link that is slower than this, bytes a second, does not carry a map."""
TRIES = 6
FIRST_WAIT_S, MOST_WAIT_S = 0.5, 20.0
"""Between tries, doubled each time, with jitter so that workers do not come back together."""
RETRY_AFTER_S = 30.0
"""A server that asks for a longer pause gets this one."""
WHOLE_FILE_BYTES = 16 * 2**20
"""A server without ranges sends whole files; larger ones are refused."""
CONNECTIONS = 32
"""Kept open to a host, for all threads that read."""

TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_PIECE_BYTES = 2**17
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_CLIENT_STATUS = re.compile(r"status(?: code)?:? (4\d\d|301|30[278])")


class ChangedError(InputRefusedError):
    """A file is another than it was when it was first read."""


class Stamp(NamedTuple):
    """What tells one state of a file from another; empty where the server does not say."""

    size: int
    etag: str
    modified: str


class Answer(NamedTuple):
    """Bytes of a file from `start` on: those asked for, or the whole file."""

    start: int
    content: bytes
    stamp: Stamp


@dataclass(frozen=True)
class RemoteFile:
    """A file in the web or in a bucket."""

    href: str
    label: str
    """Its name in messages: item, asset, public form of the address."""
    policy: AddressPolicy | None
    """What redirects may lead to; None: the file's own host alone."""


class _TemporaryError(Exception):
    """An answer that may be another in a while."""

    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


def fetch(file: RemoteFile, start: int, stop: int, known: Stamp | None = None) -> Answer:
    """Bytes of a remote file.

    Args:
        file: The file.
        start: First byte.
        stop: Byte after the last; what lies beyond the end of the file is not there.
        known: The file's stamp when it was first read.

    Raises:
        AddressRefusedError: the address, or one that it is redirected to, may not be reached.
        ChangedError: the file is another than `known`.
        InputRefusedError: what asking again cannot mend: missing, forbidden, no ranges.
        UnreachableError: no good answer in TRIES tries.
    """
    policy = file.policy or AddressPolicy(catalog=file.href)
    ask = _ask_web if scheme_of(file.href) in WEB else _ask_bucket
    retrying = Retrying(
        retry=retry_if_exception_type(_TemporaryError),
        stop=stop_after_attempt(TRIES),
        wait=_pause,
        reraise=True,
    )
    try:
        answer: Answer = retrying(ask, file, policy, start, stop)
    except _TemporaryError as error:
        raise UnreachableError(
            f"{file.label} cannot be fetched: {error}, {TRIES} times; run again"
        ) from error
    except AddressRefusedError as error:
        raise AddressRefusedError(f"{file.label} cannot be read: {error}", error.host) from error
    if known is not None:
        check_same(file.label, known, answer.stamp)
    return answer


def check_same(label: str, known: Stamp, now: Stamp) -> None:
    """Raises ChangedError if two stamps are of different states of a file; what is not said is equal."""
    for name, old, new in zip(("size", "ETag", "Last-Modified"), known, now, strict=True):
        if old and new and old != new:
            raise ChangedError(
                f"{label} cannot be read: it changed while it was read ({name} was {old}, is {new} now); "
                "run again when it stays as it is"
            )


def _pause(state: RetryCallState) -> float:
    """Exponential with jitter, but at least what the server asks for, within reason."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.pause_s if isinstance(error, _TemporaryError) else 0.0
    wait = min(MOST_WAIT_S, FIRST_WAIT_S * 2.0 ** (state.attempt_number - 1))
    return max(min(asked, RETRY_AFTER_S), wait * (0.5 + _jitter()))


def _jitter() -> float:
    """In [0, 1), another in each process; no result depends on it."""
    return int.from_bytes(os.urandom(2), "big") / 65536


def _ask_web(file: RemoteFile, policy: AddressPolicy, start: int, stop: int) -> Answer:
    """One GET of a range, its redirects walked and checked."""
    deadline = time.monotonic() + REQUEST_S + (stop - start) / LEAST_BYTES_S
    headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    try:
        with _session(policy).get(
            file.href, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT_S, STALL_S)
        ) as response:
            _check_status(file, response)
            if response.status_code == 200:
                return _whole_file(file, response, deadline)
            return _range(response, start, stop, deadline)
    except UnreachableError as error:  # a name that does not resolve
        raise _TemporaryError(str(error)) from error
    except requests.TooManyRedirects as error:
        raise InputRefusedError(
            f"{file.label} cannot be read: it is redirected more than {MAX_REDIRECTS} times"
        ) from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise InputRefusedError(f"{file.label} cannot be read: {root_reason(error)}") from error
    except (requests.RequestException, HTTPError, OSError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise InputRefusedError(f"{file.label} cannot be read: {root_reason(error)}") from error
        raise _TemporaryError(root_reason(error)) from error


def _check_status(file: RemoteFile, response: requests.Response) -> None:
    status = response.status_code
    if status in TEMPORARY:
        raise _TemporaryError(f"HTTP {status}", _asked_pause(response.headers.get("Retry-After", "")))
    if status not in (200, 206):
        raise InputRefusedError(f"{file.label} cannot be read: HTTP {status} {response.reason}")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise InputRefusedError(
            f"{file.label} cannot be read: the server sends it as {encoding}, so ranges of it are none"
        )


def _asked_pause(value: str) -> float:
    """Seconds of a Retry-After header, which holds a number or a date."""
    try:
        if value.strip().isdigit():
            return float(value)
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _range(response: requests.Response, start: int, stop: int, deadline: float) -> Answer:
    """The body of a 206, if it is what was asked for."""
    said = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(said.strip())
    if not match:
        raise _TemporaryError(f"HTTP 206 with Content-Range {said!r}")
    first, last, size = map(int, match.groups())
    if first != start or last != min(stop, size) - 1:
        raise _TemporaryError(f"Content-Range {said} for bytes {start}-{stop - 1}")
    content = _body(response, last - first + 1, deadline)
    if len(content) != last - first + 1:
        raise _TemporaryError(f"{len(content)} of {last - first + 1} bytes came")
    return Answer(start, content, _stamp(response, size))


def _whole_file(file: RemoteFile, response: requests.Response, deadline: float) -> Answer:
    """The body of a 200, from a server that knows no ranges."""
    stated = response.headers.get("Content-Length", "")
    size = int(stated) if stated.isdigit() else None
    content = b"" if (size or 0) > WHOLE_FILE_BYTES else _body(response, WHOLE_FILE_BYTES + 1, deadline)
    if (size or len(content)) > WHOLE_FILE_BYTES:
        raise InputRefusedError(
            f"{file.label} cannot be read: the server sends the whole file ({stated or 'more'} bytes; at "
            f"most {WHOLE_FILE_BYTES}) where a range was asked for; expected a server of byte ranges"
        )
    if size is not None and len(content) != size:
        raise _TemporaryError(f"{len(content)} of {size} bytes came")
    return Answer(0, content, _stamp(response, len(content)))


def _body(response: requests.Response, most_bytes: int, deadline: float) -> bytes:
    """At most so many bytes, by the deadline: a server may send one byte every few seconds for ever."""
    pieces: list[bytes] = []
    missing = most_bytes
    while missing and (piece := response.raw.read1(min(missing, _PIECE_BYTES))):
        pieces.append(piece)
        missing -= len(piece)
        if time.monotonic() > deadline:
            raise _TemporaryError(f"{most_bytes - missing} of {most_bytes} bytes came in time")
    if not missing and response.headers.get("Content-Length") == str(most_bytes):
        response.raw.drain_conn()  # of nothing: gives the connection back
    return b"".join(pieces)


def _stamp(response: requests.Response, size: int) -> Stamp:
    return Stamp(size, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))


@lru_cache(16)
def _session(policy: AddressPolicy) -> requests.Session:
    """One of a policy, so that all threads of a process share its connections."""
    return checked_session(policy, retries=0, connections=CONNECTIONS)


def _ask_bucket(file: RemoteFile, policy: AddressPolicy, start: int, stop: int) -> Answer:
    """One GET of a range of an object; the store alone knows where it lies."""
    check_address(file.href, policy)
    scheme, _, place = file.href.partition("://")
    bucket, _, key = place.partition("/")
    try:
        result = obstore.get(
            _bucket(f"{scheme}://{bucket}", _credentials()), key, options={"range": (start, stop)}
        )
        meta, content = result.meta, bytes(result.bytes())
    except FileNotFoundError as error:
        raise InputRefusedError(f"{file.label} cannot be read: there is no such object") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise InputRefusedError(
            f"{file.label} cannot be read: access is denied; do the credentials in the environment allow it?"
        ) from error
    except BaseError as error:
        reason = _shown(error)
        status = _CLIENT_STATUS.search(str(error))
        if status and int(status[1]) not in TEMPORARY:
            raise InputRefusedError(f"{file.label} cannot be read: {reason}") from error
        raise _TemporaryError(reason) from error
    wanted = min(stop, meta["size"]) - start
    if len(content) != wanted:
        raise _TemporaryError(f"{len(content)} of {wanted} bytes came")
    modified = meta["last_modified"].isoformat() if meta["last_modified"] else ""
    return Answer(start, content, Stamp(meta["size"], meta["e_tag"] or "", modified))


def _shown(error: BaseError) -> str:
    """What a store says in its first line, without the address and its query."""
    return public_form(str(error).splitlines()[0])


@lru_cache(32)
def _bucket(address: str, credentials: tuple[tuple[str, str], ...]) -> ObjectStore:
    """A bucket as an obstore store, kept as long as the environment stays."""
    return open_bucket(
        address,
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=REQUEST_S)},
        read_timeout_s=STALL_S,
        timeout_s=2 * REQUEST_S,
    )


def _credentials() -> tuple[tuple[str, str], ...]:
    """What of the environment a store is opened with: only to know when it changes."""
    return tuple(
        sorted(pair for pair in os.environ.items() if pair[0].startswith(("AWS_", "GOOGLE_", "AZURE_")))
    )
