"""A scheduler and workers with TLS, as an operator starts them: who may join, and that all is encrypted."""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import dask
import psutil
import pytest
from distributed import Client
from distributed.security import Security

from certificates import Authority, Files
from coseis import cluster
from coseis.config import ClusterConfig
from coseis.errors import UnreachableError, UsageError
from making import EVENT_TIME, area_of
from test_cli import GRID, save_fake_model, write_catalog
from test_pipeline import assert_equal, contents

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
PRELOAD = {"DASK_DISTRIBUTED__WORKER__PRELOAD": str(TESTS / "fake_network.py")}
START_TIMEOUT_S = 90


def await_condition(condition: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    """Asks until it holds; a process that has ended or the time that is over fails the test."""
    tick = threading.Event()
    for _ in range(START_TIMEOUT_S * 10):
        if condition():
            return
        assert process is None or process.poll() is None, f"{process.args} ended with {process.returncode}"
        tick.wait(0.1)
    pytest.fail(f"{condition} did not come true within {START_TIMEOUT_S} s")


@contextmanager
def started(*words: object, log: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """A process that is ended with all its children."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(word) for word in words], stdout=out, stderr=out, env=os.environ | environment
        )
        try:
            yield process
        finally:
            tree = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            for one in (process, *tree):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait(20)


class Cluster(NamedTuple):
    address: str
    files: Files
    scheduler: subprocess.Popen
    worker: subprocess.Popen

    def config(self, **changes: object) -> ClusterConfig:
        return ClusterConfig(**({"scheduler": self.address} | self.files.settings() | changes))


@contextmanager
def dask_scheduler(folder: Path, *options: object) -> Iterator[tuple[str, subprocess.Popen]]:
    """A scheduler on loopback: its address and its process."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "scheduler.json"
    words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    words += ["--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file), *map(str, options)]
    with started(*words, log=folder / "scheduler.log") as process:
        await_condition(lambda: file.exists() and file.read_text().endswith("}"), process)
        yield json.loads(file.read_text())["address"], process


def dask_worker(address: str, *options: object) -> list[object]:
    words = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", 2, "--no-dashboard"]
    return [*words, "--host", "127.0.0.1", *options]


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls_cluster(authority, tmp_path_factory) -> Iterator[Cluster]:
    """A scheduler and one worker, each with a certificate of its own."""
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        address, scheduler = stack.enter_context(
            dask_scheduler(folder, "--protocol", "tls", *authority.issue("127.0.0.1").dask_options())
        )
        options = ("--preload", TESTS / "fake_network.py", *authority.issue("worker").dask_options())
        words = dask_worker(address, *options)
        worker = stack.enter_context(started(*words, log=folder / "worker.log"))
        made = Cluster(address, authority.issue("client"), scheduler, worker)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(cluster, "CONNECT_TIMEOUT_S", START_TIMEOUT_S)
        with cluster.connected(made.config()):  # waits for the worker
            pass
        yield made


class Event(NamedTuple):
    folder: Path

    def words(self, out: Path, *more: object) -> list[str]:
        """A whole map of a small event, in a process whose network is NumPy."""
        words = [
            sys.executable, TESTS / "fake_network.py", "map", "--catalog", self.folder / "items.json",
            "--aoi", self.folder / "aoi.geojson", "--event-time", EVENT_TIME.isoformat(), "--core", 160,
            "--model", self.folder / "model", "--min-area", 0, "--out", out, *more,
        ]  # fmt: skip
        return [str(word) for word in words]


@pytest.fixture(scope="module")
def event(tmp_path_factory) -> Event:
    folder = tmp_path_factory.mktemp("event")
    write_catalog(folder)
    (folder / "aoi.geojson").write_text(json.dumps(area_of(GRID, inset_px=8)))
    save_fake_model(folder / "model")
    return Event(folder)


def run(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, timeout=300)


def listening(process: subprocess.Popen) -> dict[tuple[str, int], int]:
    """What a process and all below it listen on: (address, port) to process id; IPv4 and IPv6."""
    found = {}
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(process.pid)
        for one in (top, *top.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                for connection in one.net_connections(kind="inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        found[connection.laddr.ip, connection.laddr.port] = one.pid
    return found


def listened(process: subprocess.Popen) -> set[tuple[str, int]]:
    """What it and all below it listened on at any time until it ended."""
    heard: set[tuple[str, int]] = set()

    def ended() -> bool:
        heard.update(listening(process))
        return process.poll() is not None

    await_condition(ended)
    return heard


def test_a_map_over_tls_equals_the_local_one(tls_cluster, event, tmp_path):
    with started(*event.words(tmp_path / "local"), log=tmp_path / "log", **PRELOAD) as local:
        heard = listened(local)
    assert local.returncode == 0, (tmp_path / "log").read_text()
    # Client, nanny and worker, each with its port, and the scheduler's and the worker's dashboards.
    assert len(heard) >= 5
    assert {address for address, _ in heard} == {"127.0.0.1"}
    options = ["--scheduler", tls_cluster.address, *tls_cluster.files.options()]
    done = run(event.words(tmp_path / "tls", *options))
    assert done.returncode == 0, done.stderr
    assert_equal(contents(tmp_path / "local"), contents(tmp_path / "tls"))
    stored = json.loads((tmp_path / "tls" / "run.json").read_text())["config"]["cluster"]
    assert stored["tls_key"] == tls_cluster.files.key
    key = Path(tls_cluster.files.key).read_text().splitlines()[1]
    assert not any(key.encode() in path.read_bytes() for path in tmp_path.rglob("*.json"))


def test_certificates_by_dasks_own_settings(tls_cluster):
    names = ("ca-file", "client.cert", "client.key")
    files = {f"distributed.comm.tls.{n}": f for n, f in zip(names, tls_cluster.files, strict=True)}
    with (
        dask.config.set(files),
        cluster.connected(ClusterConfig(scheduler=tls_cluster.address)) as client,
    ):
        assert client.submit(abs, -1).result() == 1


def test_every_connection_is_encrypted(tls_cluster):
    """No port of the cluster but the dashboard's answers without TLS, and the certificate is asked for."""
    with cluster.connected(tls_cluster.config()) as client:
        info = client.scheduler_info(n_workers=-1)
        [(worker, told)] = info["workers"].items()
        assert all(address.startswith("tls://") for address in (info["address"], worker, told["nanny"]))
        dashboards = {info["services"]["dashboard"]}
        ports = {port for one in (tls_cluster.scheduler, tls_cluster.worker) for _, port in listening(one)}
    comms = {int(address.rpartition(":")[2]) for address in (info["address"], worker, told["nanny"])}
    assert comms <= ports
    for port in ports - dashboards:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=1) as plain,
            suppress(TimeoutError, ConnectionError),
        ):
            assert not plain.recv(1), f"port {port} greets without TLS"
    for port in comms:
        with pytest.raises(OSError, match=r"CERTIFICATE_REQUIRED|alert"):
            _greet_without_certificate(port)


def _greet_without_certificate(port: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain) as connection,
    ):
        assert not connection.recv(1)


def refusal(config: ClusterConfig) -> str:
    with pytest.raises(UsageError) as error, cluster.connected(config):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def test_clients_that_may_not_join_are_told_why(tls_cluster, authority, tmp_path, monkeypatch):
    port = tls_cluster.address.rpartition(":")[2]
    stranger = Authority(tmp_path / "stranger").issue("127.0.0.1")
    assert "needs certificates" in refusal(ClusterConfig(scheduler=tls_cluster.address))
    assert "the CA of this cluster" in refusal(tls_cluster.config(**stranger.settings()))
    said = refusal(tls_cluster.config(scheduler=f"tls://localhost:{port}"))
    assert "is for 127.0.0.1, not for localhost; use such a name" in said
    said = refusal(ClusterConfig(scheduler=f"tcp://127.0.0.1:{port}"))
    assert said == f"scheduler tcp://127.0.0.1:{port} speaks TLS; use tls://127.0.0.1:{port}"
    # Ours trusts the scheduler, the scheduler does not trust ours: as of a client that was made elsewhere.
    monkeypatch.setattr("coseis.security._check_certificates", lambda certificates: None)
    said = refusal(tls_cluster.config(tls_cert=stranger.cert, tls_key=stranger.key))
    assert "refuses our certificate" in said
    assert "ALERT_UNKNOWN_CA" in said


def test_the_scheduler_itself_refuses_them(tls_cluster, authority, tmp_path):
    """Dask's own client, without our checks."""
    stranger = Authority(tmp_path / "stranger").issue("127.0.0.1")
    for files in (None, stranger, Files(tls_cluster.files.ca, stranger.cert, stranger.key)):
        security = None
        if files:
            security = Security(tls_ca_file=files.ca, tls_client_cert=files.cert, tls_client_key=files.key)
        with pytest.raises((OSError, TypeError)):
            Client(tls_cluster.address, security=security, timeout=2, set_as_default=False)
    with pytest.raises(OSError, match=r"Timed out|closed"):
        Client(tls_cluster.address.replace("tls:", "tcp:"), timeout=2, set_as_default=False)


def test_demo_and_view_listen_on_loopback_only(tmp_path):
    fake = TESTS / "fake_network.py"
    words = [sys.executable, fake, "demo", tmp_path / "demo", "--size-km", "0.5"]
    with started(*words, log=tmp_path / "log", **PRELOAD) as demo:
        heard = listened(demo)
    assert demo.returncode == 0, (tmp_path / "log").read_text()
    assert len(heard) >= 5
    assert {address for address, _ in heard} == {"127.0.0.1"}
    words = [sys.executable, fake, "view", tmp_path / "demo" / "run", "--port", "0"]
    with started(*words, log=tmp_path / "view") as view:
        await_condition(lambda: listening(view), view)
        assert {address for address, _ in listening(view)} == {"127.0.0.1"}


def test_workers_that_may_not_join(tls_cluster, authority, tmp_path):
    stranger = Authority(tmp_path / "stranger").issue("worker")
    plain = tls_cluster.address.replace("tls:", "tcp:")
    until = ("--no-nanny", "--death-timeout", 3)
    tries = {
        "none": dask_worker(tls_cluster.address, *until),
        "stranger": dask_worker(tls_cluster.address, *until, *stranger.dask_options()),
        "plain": dask_worker(plain, *until),
    }
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(*words, log=tmp_path / f"{name}.log"))
            for name, words in tries.items()
        ]
        for process in processes:
            await_condition(lambda one=process: one.poll() is not None)
            assert process.returncode
        with cluster.connected(tls_cluster.config()) as client:
            assert len(client.scheduler_info(n_workers=-1)["workers"]) == 1


def test_an_expired_scheduler_and_a_plain_one(authority, tmp_path):
    files = authority.issue("client").settings()
    expired = authority.issue("127.0.0.1", expired=True).dask_options()
    with dask_scheduler(tmp_path / "expired", "--protocol", "tls", *expired) as (address, _):
        said = refusal(ClusterConfig(scheduler=address, **files))
        assert "the certificate of scheduler" in said
        assert "certificate has expired" in said
    with dask_scheduler(tmp_path / "plain") as (address, _):
        said = refusal(ClusterConfig(scheduler=address.replace("tcp:", "tls:"), **files))
        assert "does not speak TLS" in said


def test_a_port_that_says_nothing_ends_within_its_time(authority, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        for config in (
            ClusterConfig(scheduler=f"tcp://{place}"),
            ClusterConfig(scheduler=f"tls://{place}", **authority.issue("client").settings()),
        ):
            with (
                pytest.raises(UnreachableError, match=rf"{place} does not answer .*run again"),
                cluster.connected(config),
            ):
                pass
