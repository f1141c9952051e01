"""In: addresses that a catalog or a user names. Out: checked ones, and how GDAL, requests, obstore open them.

A catalog is somebody else's text: what it names is opened by libraries that also read local files, archives
and the network behind the firewall. So every address is compared with a short list of allowed places first.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, Retry

from coseis.errors import CoseisError, InputRefusedError, UnreachableError
from coseis.types import Value

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
"""Longest silence of a server that answers; also the time in which GDAL must get one block."""
RETRIES = 3
RETRY_DELAY_S = 0.5
MAX_REDIRECTS = 5
MAX_RETRY_AFTER_S = 60
"""A server that says when to come back is believed up to this: it could make us wait for hours."""
GDAL_CACHE_MB = "256"
PLANET_HOST = "api.planet.com"

WEB = ("http", "https")
BUCKETS = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}
"""Object stores and the name of each in GDAL."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_+.-]*):")
_URL_IN_TEXT = re.compile(
    r"(?i)\b((?:https?|s3|gs|az|file)://)(?:[^\s/?#]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?"
)
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_REMOTE = re.compile(r"\w+://[^/?#@]+(/.*)?")
# Blanks, controls and backslashes are read otherwise by each URL parser; a checked address has none.
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")


class AddressRefusedError(InputRefusedError):
    """A catalog names a place that it may not reach. `host` is what would have to be allowed."""

    def __init__(self, message: str, host: str) -> None:
        super().__init__(message)
        self.host = host


class AddressPolicy(Value):
    """Which places the addresses of a catalog may reach."""

    catalog: str = ""
    """Absolute address of the catalog that the user named: its host, or its folder, is allowed."""
    allow_hosts: tuple[str, ...] = ()
    """More hosts, by exact name (`host`, `host:port`) or bucket (`s3://name`); they may be private."""
    allow_roots: tuple[str, ...] = ()
    """More folders that a local catalog may reach."""

    def bound_to(self, catalog: str) -> "AddressPolicy":
        """The same policy for one catalog."""
        return self.model_copy(update={"catalog": catalog})


def check_address(address: str, policy: AddressPolicy) -> str:
    """Check an absolute address of a catalog against the policy and return it as it may be opened.

    A web address must lie on the catalog's own host (and port) or on an allowed one; a bucket must be
    allowed; a file is reached by a local catalog only, below its folder or an allowed root after `..` and
    symbolic links are resolved. A host that is allowed only because it is the catalog's own must resolve to
    public addresses, unless the user named the private address itself: a name can be moved to another one.

    Raises:
        AddressRefusedError: any other place, or another form (GDAL's /vsi and DRIVER: forms, user names).
        UnreachableError: the catalog's host cannot be resolved.
    """
    scheme = scheme_of(address)
    if scheme in WEB or scheme in BUCKETS:
        _check_host(address, policy)
        return address
    if scheme not in ("", "file"):
        raise AddressRefusedError(
            f"{public_form(address)} starts with {scheme}:, which is not opened; "
            "expected http, https, s3, gs, az or a file path",
            host=scheme,
        )
    return str(_check_file(address, policy))


def absolute_address(href: str, base: str) -> str:
    """An href of a STAC document as an absolute address, not yet checked.

    Args:
        href: As the document gives it, absolute or relative to it.
        base: Absolute address of the document.
    """
    if scheme_of(href):
        return href
    if scheme_of(base) in WEB:
        return urljoin(base, href)
    if is_remote(base):
        scheme, _, place = base.partition("://")
        joined = urljoin(f"https://{place}", href)  # urljoin knows no buckets
        return scheme + joined.removeprefix("https")
    return str(Path(base).parent / href)


def host_of(address: str) -> str:
    """What --allow-host takes: `host` or `host:port` of a web address, `s3://bucket`, "file" for a file."""
    scheme = scheme_of(address)
    if scheme in WEB:
        host, port = _endpoint(address)
        return host if port is None else f"{host}:{port}"
    if scheme in BUCKETS:
        return f"{scheme}://{address.split('/')[2].lower()}"
    return "file"


def is_remote(address: str) -> bool:
    """Whether an address is read over the network."""
    return host_of(address) != "file"


def public_form(address: str) -> str:
    """An address, or a message that holds some, without user names and query strings: they carry secrets."""
    return _URL_IN_TEXT.sub(r"\1\2", address)


def checked_session(policy: AddressPolicy) -> requests.Session:
    """A session that checks each address, redirects too, before it connects; with timeouts and few retries.

    Raises (on use):
        AddressRefusedError: the address, or one that it is redirected to, is not allowed.
    """
    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    session.mount("http://", _CheckedAdapter(policy))
    session.mount("https://", _CheckedAdapter(policy))
    return session


def check_redirects(address: str, policy: AddressPolicy) -> str:
    """Follow the redirects of a web address, each checked, and return where they end.

    GDAL follows redirects whatever it is told, so they are walked here first, with a GET of one byte: signed
    addresses often refuse HEAD. Other addresses are only checked, since nothing redirects them.

    Raises:
        AddressRefusedError: a hop is not allowed.
        InputRefusedError: more than MAX_REDIRECTS hops.
        UnreachableError: no answer.
    """
    if scheme_of(address) not in WEB:
        return check_address(address, policy)
    try:
        with (
            checked_session(policy) as session,
            session.get(address, headers={"Range": "bytes=0-0"}, stream=True) as response,
        ):
            return str(response.url)
    except requests.RequestException as error:
        raise unanswered(address, error) from error


def unanswered(address: str, error: Exception) -> CoseisError:
    """The error to raise when a web request failed: run again, unless the address itself is at fault."""
    shown, reason = public_form(address), root_reason(error)
    if isinstance(error, requests.TooManyRedirects):
        return InputRefusedError(f"{shown} is redirected more than {MAX_REDIRECTS} times")
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return InputRefusedError(f"{shown} is no web address ({reason})")
    return UnreachableError(f"{shown} does not answer ({reason}); run again")


def to_gdal(address: str) -> str:
    """The name by which GDAL opens a checked address.

    Raises:
        InputRefusedError: a scheme that GDAL is not given.
    """
    scheme = scheme_of(address)
    if scheme in WEB:
        return f"/vsicurl/{address}"
    if scheme in BUCKETS:
        return BUCKETS[scheme] + address.split("://", 1)[1]
    if scheme:
        raise InputRefusedError(f"{public_form(address)} starts with {scheme}:; expected a checked address")
    return address


def gdal_environment() -> dict[str, str]:
    """Options for `rasterio.Env`: bounded waiting, few requests, and the S3 endpoint that obstore uses.

    GDAL waits for ever and never retries by default, looks for sidecar files beside each file, and does not
    know AWS_ENDPOINT_URL.
    """
    options = {
        "GDAL_HTTP_TIMEOUT": str(READ_TIMEOUT_S),
        "GDAL_HTTP_CONNECTTIMEOUT": str(CONNECT_TIMEOUT_S),
        "GDAL_HTTP_LOW_SPEED_TIME": str(READ_TIMEOUT_S // 2),
        "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",  # bytes a second
        "GDAL_HTTP_MAX_RETRY": str(RETRIES),
        "GDAL_HTTP_RETRY_DELAY": str(RETRY_DELAY_S),
        "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_PAM_ENABLED": "NO",
        # One GET of the first 32 KiB holds a COG's header.
        "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
        "CPL_VSIL_CURL_USE_HEAD": "NO",
        # Blocks are read once: a second copy of the bytes would only cost memory.
        "VSI_CACHE": "FALSE",
    }
    endpoint = s3_endpoint(os.environ)
    if endpoint:
        parts = urlsplit(endpoint)
        options["AWS_S3_ENDPOINT"] = parts.netloc
        options["AWS_HTTPS"] = "YES" if parts.scheme == "https" else "NO"
        options["AWS_VIRTUAL_HOSTING"] = "FALSE"
    return options


def harden_process() -> None:
    """Keep GDAL from following files that name other files, and from filling the memory with old pixels.

    Call before rasterio is first used: GDAL reads both variables once, from the environment. A body that is
    VRT XML makes it open any path inside it, so the drivers VRT and DERIVED are not loaded. Its cache would
    grow to a twentieth of the machine in every process; what is worth keeping is kept in `blocks`.
    """
    os.environ.setdefault("GDAL_CACHEMAX", GDAL_CACHE_MB)
    skipped = os.environ.get("GDAL_SKIP", "").replace(",", " ").split()
    os.environ["GDAL_SKIP"] = " ".join(dict.fromkeys([*skipped, "VRT", "DERIVED"]))


def scheme_of(address: str) -> str:
    """Scheme in lower case, empty for a path; a GDAL prefix such as GTIFF_DIR: counts as a scheme."""
    match = _SCHEME.match(address)
    return match.group(1).lower() if match else ""


def local_path(address: str) -> Path:
    """A path or file:// address as a path. Raises AddressRefusedError for another machine's file."""
    if scheme_of(address) != "file":
        return Path(address).expanduser()
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise AddressRefusedError(f"{address!r} names a file of another machine", host=parts.netloc)
    return Path(unquote(parts.path))


def s3_endpoint(environment: Mapping[str, str]) -> str:
    """The S3 server that the environment names, empty for AWS's own."""
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""


def root_reason(error: Exception) -> str:
    """One line, from the root of what urllib3 wraps: "Connection refused" rather than the whole pool."""
    cause: BaseException = error
    while cause.args and isinstance(inner := getattr(cause.args[0], "reason", cause.args[0]), Exception):
        cause = inner
    return public_form(str(cause).splitlines()[0]) if str(cause) else type(cause).__name__


class _PatientRetry(Retry):
    """Waits as long as the server says in Retry-After, within reason."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Seconds, None if the server does not say."""
        said = super().get_retry_after(response)
        return None if said is None else min(said, MAX_RETRY_AFTER_S)


class _CheckedAdapter(HTTPAdapter):
    """Transport of `checked_session`: requests asks it for every hop, so no redirect escapes the check."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        retry = _PatientRetry(
            total=RETRIES,
            backoff_factor=RETRY_DELAY_S,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=("GET", "POST"),  # a STAC search by POST only reads
            redirect=0,
        )
        super().__init__(max_retries=retry)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        check_address(request.url or "", self._policy)
        timeout = timeout or (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        return super().send(request, stream, timeout, verify, cert, dict(proxies or {}))


def _endpoint(address: str) -> tuple[str, int | None]:
    """Host and port of a web address; None stands for both usual ports."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise AddressRefusedError(f"{public_form(address)} is no web address ({error})", host="") from error
    host = (parts.hostname or "").rstrip(".")
    return f"[{host}]" if ":" in host else host, None if port in (80, 443) else port


def _check_host(address: str, policy: AddressPolicy) -> None:
    shown = public_form(address)
    if _UNSAFE.search(address) or not _REMOTE.fullmatch(address):
        raise AddressRefusedError(f"{shown} holds a blank, backslash or user name, or no host", host="")
    host = host_of(address)
    is_bucket = host.startswith(tuple(BUCKETS))
    name = host.split("://")[1] if is_bucket else _endpoint(address)[0]
    if not _HOST.fullmatch(name) or (is_bucket and ".." in address.split("/")):
        raise AddressRefusedError(f"{shown} is no valid address", host=host)
    if {host, host if is_bucket else name} & {allowed.lower() for allowed in policy.allow_hosts}:
        return
    if scheme_of(policy.catalog) not in (*WEB, *BUCKETS) or host != host_of(policy.catalog):
        raise AddressRefusedError(
            f"{shown} lies on {host}, which is not the catalog's own host; to trust it: --allow-host {host}",
            host=host,
        )
    if is_bucket:
        return
    for ip in _resolve(name, shown):
        typed = name in ("localhost", f"[{ip}]", str(ip)) and not ip.is_link_local
        if not typed and (not ip.is_global or ip.is_multicast):
            raise AddressRefusedError(
                f"{shown}: {host} is the private address {ip}; to trust it: --allow-host {host}", host=host
            )


def _resolve(name: str, shown: str) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        answers = socket.getaddrinfo(name.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnreachableError(f"{shown}: host {name} cannot be resolved ({error}); run again") from error
    for *_, place in answers:
        ip = ipaddress.ip_address(str(place[0]).split("%")[0])
        yield getattr(ip, "ipv4_mapped", None) or ip


def _check_file(address: str, policy: AddressPolicy) -> Path:
    if not policy.catalog or is_remote(policy.catalog):
        raise AddressRefusedError(
            f"{public_form(address)} is a local file, which a remote catalog may not name; "
            "use a local copy of the catalog",
            host="file",
        )
    path = local_path(address)
    if "\x00" in address or str(path).lower().startswith("/vsi"):
        raise AddressRefusedError(f"{address!r} is a GDAL file system; expected a plain path", host="file")
    real = path.resolve()
    roots = [Path(policy.catalog).parent, *(Path(root).expanduser() for root in policy.allow_roots)]
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise AddressRefusedError(
            f"{real} lies outside the catalog's folder {roots[0]}; to trust it: --allow-root {real.parent}",
            host="file",
        )
    return real
