"""A scheduler's address and paths of certificates go in; what Dask connects with comes out, or why not.

Whoever reaches a plain scheduler runs code on it, and a scheduler runs code on its clients. So beyond this
machine both sides show a certificate of one CA that is kept for the cluster.
"""

import ipaddress
import ssl
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import dask
from cryptography import x509
from distributed.security import Security

from coseis.config import ClusterConfig
from coseis.errors import UsageError

LOCAL = ("local", "local-cuda")
TLS_OPTIONS = ("tls_ca", "tls_cert", "tls_key")
DASK_SETTINGS = {
    "tls_ca": "distributed.comm.tls.ca-file",
    "tls_cert": "distributed.comm.tls.client.cert",
    "tls_key": "distributed.comm.tls.client.key",
}
"""Where Dask's own configuration names what an option of ours does."""
REMEDY = (
    "give --tls-ca, --tls-cert and --tls-key, or set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
    "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY"
)


class Certificates(NamedTuple):
    """Where the certificates of a client lie. Their contents are neither kept nor shown."""

    ca: str
    """File of the CA's certificate."""
    cert: str
    """File of our certificate, with the chain to the CA if there is one between."""
    key: str | None
    """File of our private key; None: it lies in the certificate's file."""


class _NamedScheduler(Security):
    """Dask's security of a client that also compares the scheduler's name with its certificate.

    Dask leaves that out, as any certificate of a CA that is the cluster's own will do. But people use the CA
    that they have, and then any machine of the company could stand in for the scheduler.
    """

    def get_connection_args(self, role: str) -> dict[str, Any]:
        """As Dask's, which sets the check off."""
        arguments: dict[str, Any] = super().get_connection_args(role)  # type: ignore[no-untyped-call]
        arguments["ssl_context"].check_hostname = True
        return arguments


def check_scheduler(config: ClusterConfig) -> None:
    """Refuses a scheduler that would be reached without TLS, and bad certificates, before anything connects.

    Raises:
        UsageError: plain TCP to another machine, TLS options without TLS, or certificates that do not do.
    """
    given = [f"--{name.replace('_', '-')}" for name in TLS_OPTIONS if getattr(config, name)]
    if not config.scheduler.startswith("tls://"):
        if given:
            raise UsageError(
                f"{', '.join(given)} given, but scheduler {config.scheduler} does not use them; "
                "expected tls://HOST:PORT"
            )
        beyond = config.scheduler not in LOCAL and not _is_loopback(config.scheduler)
        if beyond and not config.plain_scheduler:
            raise UsageError(
                f"scheduler {config.scheduler} is plain TCP to another machine: whoever reaches it runs code "
                "there; start it with TLS and use tls://HOST:PORT, or add --plain-scheduler if you trust "
                "everybody on that network"
            )
        return
    _check_certificates(find_certificates(config))


def find_certificates(config: ClusterConfig) -> Certificates:
    """The certificates for a tls:// scheduler, by our settings or, where there is none, by Dask's.

    Raises:
        UsageError: one is not configured, is no path, or is not there.
    """
    paths = configured_paths(config)
    missing = [f"--{name.replace('_', '-')}" for name in ("tls_ca", "tls_cert") if not paths[name]]
    if missing:
        raise UsageError(
            f"scheduler {config.scheduler} needs certificates: there is no {' and no '.join(missing)}; "
            f"{REMEDY}"
        )
    for name, path in paths.items():
        option = f"--{name.replace('_', '-')}"
        if path and holds_contents(path):
            # Never quoted: it may be the key. What is set is also stored with the run.
            raise UsageError(f"{option} holds a certificate or key itself; expected the path of its file")
        try:
            if path:
                Path(path).expanduser().open("rb").close()
        except OSError as error:
            raise UsageError(f"{option} {path} cannot be read ({error.strerror}); {REMEDY}") from error
    ca, cert, key = (str(Path(path).expanduser()) if path else None for path in paths.values())
    return Certificates(str(ca), str(cert), key)


def configured_paths(config: ClusterConfig) -> dict[str, str | None]:
    """What is set for each of TLS_OPTIONS, by our settings or else by Dask's; not yet looked at."""
    paths: dict[str, str | None] = {
        name: getattr(config, name) or dask.config.get(DASK_SETTINGS[name]) for name in TLS_OPTIONS
    }
    if config.tls_cert and not config.tls_key:
        paths["tls_key"] = None  # Dask's key belongs to Dask's certificate
    return paths


def holds_contents(path: str) -> bool:
    """Whether somebody gave a certificate or a key where its file's path belongs: it must not be shown."""
    return "\n" in path or "-----BEGIN" in path


def client_security(config: ClusterConfig) -> Security | None:
    """What a Dask client connects to this scheduler with; None for plain TCP. Raises as `check_scheduler`."""
    check_scheduler(config)
    if not config.scheduler.startswith("tls://"):
        return None
    return dask_security(find_certificates(config), kind=_NamedScheduler)


def dask_security(certificates: Certificates, kind: type[Security] = Security) -> Security:
    """Dask's own security of a client: any certificate of the CA will do for a scheduler."""
    return kind(
        require_encryption=True,
        tls_ca_file=certificates.ca,
        tls_client_cert=certificates.cert,
        tls_client_key=certificates.key,
    )


def local_security() -> Security:
    """Certificates of one local cluster, in memory: the machine's other users reach loopback too."""
    security: Security = Security.temporary()
    return security


def valid_until(path: str) -> datetime:
    """When the first certificate of a PEM file expires.

    Raises:
        UsageError: the file holds none.
    """
    try:
        return x509.load_pem_x509_certificates(Path(path).read_bytes())[0].not_valid_after_utc
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} holds no certificate in PEM form") from error


def _is_loopback(address: str) -> bool:
    """By what is written: a name may resolve to another machine on the workers, or tomorrow."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_certificates(certificates: Certificates) -> None:
    """Lets our certificate be judged as a scheduler will judge it: both sides of a handshake, in memory."""
    security = dask_security(certificates)
    key = certificates.key or certificates.cert
    try:
        theirs = security.get_listen_args("client")["ssl_context"]
        ours = security.get_connection_args("client")["ssl_context"]
    except (ssl.SSLError, OSError) as error:
        # OpenSSL says little: which of the files it was is found by reading them.
        for path in (certificates.ca, certificates.cert):
            valid_until(path)
        reason = getattr(error, "reason", None) or error
        raise UsageError(
            f"private key {key} cannot be used with certificate {certificates.cert} ({reason}); expected the "
            "PEM file of the key that it was made with, without a password"
        ) from error
    ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE
    try:
        _shake_hands(theirs, ours)
    except ssl.SSLCertVerificationError as error:
        raise UsageError(
            f"certificate {certificates.cert} is of no use with CA {certificates.ca} "
            f"({error.verify_message}); expected one that this CA has issued and that is still valid"
        ) from error
    except ssl.SSLError as error:
        raise UsageError(f"certificate {certificates.cert} cannot be used ({error.reason})") from error


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    # A TLS 1.3 handshake is over for the client before the server has judged its certificate.
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
