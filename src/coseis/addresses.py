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
from requests.utils import select_proxy
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from coseis.errors import CoseisError, InputRefusedError, UnreachableError
from coseis.types import AddressPolicy as AddressPolicy

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
BUCKETS = ("s3", "gs", "az")
"""Object stores."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_+.-]*):")
# A quote ends the address in a message only where the word ends with it: a secret may hold one.
_URL_IN_TEXT = re.compile(
    r"(?i)\b([a-z][a-z0-9+.-]*://)(?:[^\s/?#]*@)?([^\s?#'\"<>]*)"
    r"(?:[?#](?:[^\s'\"<>]|['\"<>](?![,;:.)\]}>'\"]*(?:\s|$)))*)?"
)
_QUERY_IN_TEXT = re.compile(r"(?<=\S)\?[^\s=&?]+=\S*")
_SECRET_WORDS = re.compile(
    r"(?i)token|secret|passw|pwd|signature|credential|jwt|auth|hmac|session|policy|api[-_.]?key"
    r"|access[-_.]?key|googleaccessid|^x-(amz|goog|oss|ms)-|(^|[-_.])(key|sig|sas|code)($|[-_.])|key-pair-id"
)
MAX_ADDRESS = 8192
"""Letters; some servers take less."""
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_REMOTE = re.compile(r"\w+://[^/?#@]+(/.*)?")
# Blanks, controls and backslashes are read otherwise by each URL parser; a checked address has none.
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")


class AddressRefusedError(InputRefusedError):
    """A catalog names a place that it may not reach. `host` is what would have to be allowed."""

    def __init__(self, message: str, host: str) -> None:
        super().__init__(message)
        self.host = host


def reach_of(policy: AddressPolicy) -> AddressPolicy:
    """What a reader of checked addresses needs of a policy: where redirects may lead. Holds no secret.

    A file is not checked again, and redirects nowhere, so no path stays in it.
    """
    catalog = ""
    if is_remote(policy.catalog):
        authority = re.split(r"[/?#]", policy.catalog.split("://", 1)[1])[0]
        catalog = f"{scheme_of(policy.catalog)}://{authority.rpartition('@')[2]}/"
    return AddressPolicy(catalog=catalog, allow_hosts=policy.allow_hosts)


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
    if len(address) > MAX_ADDRESS:
        raise AddressRefusedError(
            f"{public_form(address)[:200]}... has {len(address)} letters; expected at most {MAX_ADDRESS}",
            host="",
        )
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

    Raises:
        AddressRefusedError: no address can be made of them.
    """
    if scheme_of(href):
        return href
    try:
        if scheme_of(base) in WEB:
            return urljoin(base, href)
        if is_remote(base):
            scheme, _, place = base.partition("://")
            joined = urljoin(f"https://{place}", href)  # urljoin knows no buckets
            return scheme + joined.removeprefix("https")
    except ValueError as error:
        raise AddressRefusedError(f"{public_form(href)[:200]!r} is no address ({error})", host="") from error
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
    return _QUERY_IN_TEXT.sub("", _URL_IN_TEXT.sub(r"\1\2", address))


def is_secret(parameter: str) -> bool:
    """Whether the name of a query parameter says that its value is a credential, or part of a signature."""
    return bool(_SECRET_WORDS.search(parameter))


def checked_session(
    policy: AddressPolicy, *, retries: int = RETRIES, connections: int = 10
) -> requests.Session:
    """A session that checks each address, redirects too, before it connects; with timeouts and few retries.

    A name is resolved once, and what was checked is what is connected to: it cannot move in between.

    Args:
        policy: What may be reached.
        retries: Of what failed for a while.
        connections: Kept open to each host, for so many threads.

    Raises (on use):
        AddressRefusedError: the address, or one that it is redirected to, is not allowed.
    """
    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    for scheme in WEB:
        session.mount(f"{scheme}://", _CheckedAdapter(policy, retries, connections))
    return session


def unanswered(address: str, error: Exception) -> CoseisError:
    """The error to raise when a web request failed: run again, unless the address itself is at fault."""
    shown, reason = public_form(address), root_reason(error)
    if isinstance(error, requests.TooManyRedirects):
        return InputRefusedError(f"{shown} is redirected more than {MAX_REDIRECTS} times")
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return InputRefusedError(f"{shown} is no web address ({reason})")
    return UnreachableError(f"{shown} does not answer ({reason}); run again")


def gdal_environment() -> dict[str, str]:
    """Options for `rasterio.Env` where GDAL opens a file: no file beside it, and no network.

    GDAL is given memory alone (see `tiff`); this holds should one of its drivers still follow a name.
    """
    return {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_PAM_ENABLED": "NO",
        # The one name that its remote file systems open: none has it.
        "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
        "VSI_CACHE": "FALSE",
    }


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
        return expanded_path(address)
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise AddressRefusedError(f"{address!r} names a file of another machine", host=parts.netloc)
    return Path(unquote(parts.path))


def expanded_path(path: str) -> Path:
    """A path whose ~ is the home directory; as it is where that has none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def s3_endpoint(environment: Mapping[str, str]) -> str:
    """The S3 server that the environment names, empty for AWS's own."""
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""


def root_reason(error: Exception) -> str:
    """One line, from the root of what urllib3 wraps: "Connection refused" rather than the whole pool."""
    cause: BaseException = error
    while cause.args and isinstance(inner := getattr(cause.args[0], "reason", cause.args[0]), Exception):
        cause = inner
    return public_form(str(cause).splitlines()[0]) if str(cause) else type(cause).__name__


class _CheckedConnection(HTTPConnection):
    """Connects to the address that was checked, so that no second look-up can lead elsewhere."""

    policy: AddressPolicy

    def _new_conn(self) -> socket.socket:
        name = self._dns_host
        host = f"[{name}]" if ":" in name else name
        scheme = "https" if isinstance(self, HTTPSConnection) else "http"
        address = f"{scheme}://{host}:{self.port}/"
        if not _check_name(address, self.policy):
            return super()._new_conn()
        places = list(_public_places(address))
        try:
            for number, place in enumerate(places, 1):
                self._dns_host = str(place)
                try:
                    return super()._new_conn()
                except HTTPError:
                    if number == len(places):
                        raise
        finally:
            # TLS names the host, and checks its certificate, by this.
            self._dns_host = name
        raise UnreachableError(f"{address} resolves to no address; run again")


class _CheckedTlsConnection(_CheckedConnection, HTTPSConnection):
    """The same over TLS."""


class _PatientRetry(Retry):
    """Waits as long as the server says in Retry-After, within reason."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Seconds, None if the server does not say."""
        said = super().get_retry_after(response)
        return None if said is None else min(said, MAX_RETRY_AFTER_S)


class _CheckedAdapter(HTTPAdapter):
    """Transport of `checked_session`: requests asks it for every hop, so no redirect escapes the check."""

    def __init__(self, policy: AddressPolicy, retries: int, connections: int) -> None:
        self._policy = policy
        retry = _PatientRetry(
            total=retries,
            backoff_factor=RETRY_DELAY_S,
            status_forcelist=(429, 500, 502, 503, 504) if retries else (),
            allowed_methods=("GET", "POST"),  # a STAC search by POST only reads
            redirect=0,
        )
        super().__init__(max_retries=retry, pool_maxsize=connections)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Called by the base class: its pools make connections that check."""
        super().init_poolmanager(*arguments, **options)
        checked = {"policy": self._policy}
        plain = type("_Plain", (_CheckedConnection,), checked)
        tls = type("_Tls", (_CheckedTlsConnection,), checked)
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("_PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("_TlsPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
        }

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        address = request.url or ""
        if select_proxy(address, dict(proxies or {})):
            check_address(address, self._policy)  # the proxy connects, not we
        else:
            _check_name(address, self._policy)  # what it resolves to is checked when it is connected to
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
    """Checks the name, and where it is not trusted what it resolves to."""
    if _check_name(address, policy):
        list(_public_places(address))


def _check_name(address: str, policy: AddressPolicy) -> bool:
    """Checks a web or bucket address by its name; whether what it resolves to must be checked too."""
    shown = public_form(address)
    if _UNSAFE.search(address) or not _REMOTE.fullmatch(address):
        raise AddressRefusedError(f"{shown} holds a blank, backslash or user name, or no host", host="")
    host = host_of(address)
    is_bucket = host.startswith(BUCKETS)
    name = host.split("://")[1] if is_bucket else _endpoint(address)[0]
    if not _HOST.fullmatch(name) or (is_bucket and ".." in address.split("/")):
        raise AddressRefusedError(f"{shown} is no valid address", host=host)
    if {host, host if is_bucket else name} & {allowed.lower() for allowed in policy.allow_hosts}:
        return False
    if scheme_of(policy.catalog) not in (*WEB, *BUCKETS) or host != host_of(policy.catalog):
        raise AddressRefusedError(
            f"{shown} lies on {host}, which is not the catalog's own host; to trust it: --allow-host {host}",
            host=host,
        )
    return not is_bucket


def _public_places(address: str) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """What the host of an address resolves to, each public, or private and typed by the user as such."""
    name, shown = _endpoint(address)[0], public_form(address)
    for ip in _resolve(name, shown):
        typed = name in ("localhost", f"[{ip}]", str(ip)) and not ip.is_link_local
        if not typed and (not ip.is_global or ip.is_multicast):
            host = host_of(address)
            raise AddressRefusedError(
                f"{shown}: {host} is the private address {ip}; to trust it: --allow-host {host}", host=host
            )
        yield ip


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
    if not address.isprintable() or str(path).lower().startswith("/vsi"):
        raise AddressRefusedError(
            f"{address!r} is a GDAL file system, or no plain text; expected a plain path", host="file"
        )
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise AddressRefusedError(f"{address!r} cannot be followed ({error})", host="file") from error
    roots = [Path(policy.catalog).parent, *(Path(root).expanduser() for root in policy.allow_roots)]
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise AddressRefusedError(
            f"{real} lies outside the catalog's folder {roots[0]}; to trust it: --allow-root {real.parent}",
            host="file",
        )
    return real
