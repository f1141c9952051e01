"""Documents go in, a real STAC API on loopback comes out: pgstac on PostGIS behind stac-fastapi."""

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

POSTGRES = Path("/usr/lib/postgresql/15/bin")
POSTGIS = Path("/usr/share/postgresql/15/extension/postgis.control")
START_TIMEOUT_S = 60


class StacServer(NamedTuple):
    address: str
    database: dict[str, str]
    """Environment variables by which a client of Postgres finds what the API serves."""


@contextmanager
def stac_server(collections: list[dict[str, Any]], items: list[dict[str, Any]]) -> Iterator[StacServer]:
    """A STAC API that holds these. Skipped where Postgres is not installed, but not in CI."""
    if not (POSTGRES / "postgres").exists() or not POSTGIS.exists():
        message = "needs the Debian packages postgresql-15 and postgresql-15-postgis-3"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgstac-")))
        database = stack.enter_context(_postgres(folder))
        _load(database, folder, collections, items)
        yield StacServer(stack.enter_context(_stac_api(database, folder)), database)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _postgres(folder: Path) -> Iterator[dict[str, str]]:
    """A server of its own in `folder`; it refuses to run as root, so root hands it to the package's user."""
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    port, cluster = _free_port(), folder / "cluster"
    if os.getuid() == 0:
        folder.chmod(0o755)
        cluster.mkdir()
        shutil.chown(cluster, user)
    # initdb looks for its current directory, which the other user may not be able to enter.
    other = {"user": user, "cwd": folder} if os.getuid() == 0 else {"cwd": folder}
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    initdb = [POSTGRES / "initdb", "-D", cluster, "-U", "postgres", "--auth=trust", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, env=environment, **other)
    command = [POSTGRES / "postgres", "-D", cluster, "-p", str(port), "-h", "127.0.0.1", "-k", cluster, "-F"]
    with (folder / "postgres.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, **other)
    try:
        _await_port(port, server, folder / "postgres.log")
        yield {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": "postgres",
            "PGPASSWORD": "trusted",
            "PGDATABASE": "postgres",
        }
    finally:
        server.terminate()
        server.wait(START_TIMEOUT_S)


def _load(database: dict[str, str], folder: Path, collections: list[dict], items: list[dict]) -> None:
    pypgstac = [sys.executable, "-m", "pypgstac.pypgstac"]
    environment = os.environ | database
    _run([*pypgstac, "migrate"], environment, folder)
    for kind, documents in (("collections", collections), ("items", items)):
        path = folder / f"{kind}.ndjson"
        path.write_text("\n".join(json.dumps(document) for document in documents))
        _run([*pypgstac, "load", kind, str(path)], environment, folder)


def _run(command: list[str], environment: dict[str, str], folder: Path) -> None:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"{command[1:]} ended with {done.returncode}: {done.stderr[-2000:]}")


@contextmanager
def _stac_api(database: dict[str, str], folder: Path) -> Iterator[str]:
    port = _free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (folder / "api.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | database, cwd=folder)
    try:
        _await_port(port, server, folder / "api.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(START_TIMEOUT_S)


def _await_port(port: int, server: subprocess.Popen, log: Path) -> None:
    """Returns when the server accepts a connection."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.returncode is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(0.1)
    pytest.fail(f"server did not start: {log.read_text()[-2000:]}")
