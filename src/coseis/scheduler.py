"""A scheduler's address goes in; it answers as it should, or one line says why not and what to do.

Dask itself says of most mistakes only that it timed out, after half a minute of tries. Here the first byte
that a scheduler sends is waited for, over the connection that Dask will use.
"""

import socket
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

from coseis.config import ClusterConfig
from coseis.errors import UnreachableError, UsageError
from coseis.security import Certificates, client_security, dask_security, find_certificates

SILENCE_S = 2.0
"""A scheduler greets whoever connects; one that has not after this long is asked whether it speaks TLS."""
ATTEMPT_DELAY_S = 0.2


def await_scheduler(config: ClusterConfig, timeout_s: float) -> None:
    """Waits until the scheduler greets us as Dask's do, and says what is wrong if it never does.

    Raises:
        UsageError: certificates that either side refuses, or TLS on one side only.
        UnreachableError: no answer within the time.
    """
    security, address = client_security(config), config.scheduler
    context = security.get_connection_args("client")["ssl_context"] if security else None
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            greeting = _greeting(address, context, deadline)
        # Both are OSErrors too, and no waiting mends them.
        except ssl.SSLCertVerificationError as error:
            raise UsageError(_why_untrusted(address, error, config, deadline)) from error
        except ssl.SSLError as error:
            raise UsageError(_why_no_tls(address, error, config)) from error
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
        else:
            if greeting:
                return
            if context is None and _speaks_tls(address, deadline):
                raise UsageError(f"scheduler {address} speaks TLS; use {address.replace('tcp:', 'tls:', 1)}")
            reason = "it accepts connections, but does not greet as a Dask scheduler does"
        if time.monotonic() + ATTEMPT_DELAY_S > deadline:
            raise UnreachableError(f"scheduler {address} does not answer ({reason}); run again")
        time.sleep(ATTEMPT_DELAY_S)


def _endpoint(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    return str(parts.hostname), int(parts.port or 0)


def _left(deadline: float) -> float:
    return max(0.05, deadline - time.monotonic())


def _greeting(address: str, context: ssl.SSLContext | None, deadline: float) -> bytes:
    """The first byte that a scheduler sends; nothing if it stays silent. Raises OSError."""
    host, port = _endpoint(address)
    with socket.create_connection((host, port), timeout=_left(deadline)) as plain:
        connection = context.wrap_socket(plain, server_hostname=host) if context else plain
        with connection:
            # TLS needs several round trips of a scheduler that may be busy.
            connection.settimeout(_left(deadline) if context else min(SILENCE_S, _left(deadline)))
            try:
                first = connection.recv(1)
            except TimeoutError:
                return b""
            if not first:
                raise ConnectionResetError("it closed the connection")
            return first


def _speaks_tls(address: str, deadline: float) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(_endpoint(address), timeout=_left(deadline)) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except OSError:
        return False


def _why_untrusted(
    address: str, error: ssl.SSLCertVerificationError, config: ClusterConfig, deadline: float
) -> str:
    """Why we refuse the scheduler's certificate."""
    certificates = find_certificates(config)
    host, _ = _endpoint(address)
    if "mismatch" not in error.verify_message:
        return (
            f"the certificate of scheduler {address} is refused ({error.verify_message}); expected one that "
            f"{certificates.ca} has issued and that is still valid: is --tls-ca the CA of this cluster?"
        )
    names = ", ".join(_names_of(address, certificates, deadline)) or "nothing"
    return (
        f"the certificate of scheduler {address} is for {names}, not for {host}; use such a name in "
        f"--scheduler, or make the scheduler a certificate for {host}"
    )


def _names_of(address: str, certificates: Certificates, deadline: float) -> list[str]:
    """Host names and addresses that a scheduler's certificate is for; it is of our CA."""
    context = dask_security(certificates).get_connection_args("client")["ssl_context"]
    try:
        with (
            socket.create_connection(_endpoint(address), timeout=_left(deadline)) as plain,
            context.wrap_socket(plain) as connection,
        ):
            named: Any = (connection.getpeercert() or {}).get("subjectAltName", ())
            return [str(name) for _, name in named]
    except OSError:
        return []


def _why_no_tls(address: str, error: ssl.SSLError, config: ClusterConfig) -> str:
    reason = error.reason or str(error)
    if "ALERT" in reason:
        certificate = find_certificates(config).cert
        return (
            f"scheduler {address} refuses our certificate {certificate} ({reason}); expected one of the CA "
            "that it was started with"
        )
    return (
        f"what answers at {address} does not speak TLS ({reason}); start the scheduler with --tls-ca-file, "
        "--tls-cert and --tls-key, or is the port right?"
    )
