"""A CA of our own goes in, PEM files of certificates that it issued come out: for tests of TLS."""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import trustme


class Files(NamedTuple):
    """Paths as an operator has them; as text, since they become command lines."""

    ca: str
    cert: str
    key: str

    def options(self) -> list[str]:
        """Of our command line."""
        return ["--tls-ca", self.ca, "--tls-cert", self.cert, "--tls-key", self.key]

    def dask_options(self) -> list[str]:
        """Of `dask scheduler` and `dask worker`."""
        return ["--tls-ca-file", self.ca, "--tls-cert", self.cert, "--tls-key", self.key]

    def settings(self) -> dict[str, str]:
        """Of `ClusterConfig`."""
        return {"tls_ca": self.ca, "tls_cert": self.cert, "tls_key": self.key}


class Authority:
    """A CA and its file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ca, self._folder = trustme.CA(key_type=trustme.KeyType.ECDSA), folder
        self.path = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.path))

    def issue(self, *names: str, expired: bool = False) -> Files:
        """A certificate for host names or addresses, and its key."""
        end = datetime(2020, 1, 2, tzinfo=UTC) if expired else None
        start = datetime(2020, 1, 1, tzinfo=UTC) if expired else None
        made = self._ca.issue_cert(*names, not_before=start, not_after=end, key_type=trustme.KeyType.ECDSA)
        stem = f"{names[0]}-expired" if expired else names[0]
        cert, key = self._folder / f"{stem}.pem", self._folder / f"{stem}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        key.write_bytes(made.private_key_pem.bytes())
        return Files(str(self.path), str(cert), str(key))
