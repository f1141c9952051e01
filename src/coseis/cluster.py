"""A Dask client for a run: a local cluster, a scheduler's address, or the client that was passed in."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin

from coseis.config import ClusterConfig
from coseis.errors import UnreachableError, UsageError
from coseis.jobs import Patience, await_workers, set_patience
from coseis.scheduler import await_scheduler
from coseis.security import client_security, local_security

CONNECT_TIMEOUT_S = 30
"""A scheduler that does not answer ends the run after this long."""
CLOSE_TIMEOUT_S = 3
"""For the goodbye to a scheduler, which may hang."""
LOOPBACK = "127.0.0.1"
"""What a local cluster listens on, and on nothing else."""
DASHBOARD = f"{LOOPBACK}:0"
"""Any free port: with None Dask takes 8787, and warns on stderr when another run has it."""
SILENT = ("distributed", "distributed.client", "tornado.application", "asyncio")
"""Loggers: of a scheduler or worker that is lost Dask logs tracebacks; `jobs` says it in a line."""
UNPROFILED = {
    "distributed.worker.profile.enabled": False,
    "distributed.nanny.pre-spawn-environ.DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "false",
}
"""Dask's profiler looks at all threads a hundred times a second, and in Python 3.11 that look may end in a
deadlock of the whole process (https://github.com/python/cpython/issues/106883)."""
LOCAL_WORKERS = UNPROFILED | {
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
    # A job that was there when a worker died twice is tried alone, see `jobs`: no need for Dask's four.
    "distributed.scheduler.allowed-failures": 1,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 1 << 27,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 1 << 25,
    "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 1,
}
"""Local workers are silent as their client is, and glibc keeps 128 MiB of freed memory and uses it again.
Dask's own setting gives 64 KiB and more back to the system at once: half the time of a training batch went
into page faults. One arena for all threads, because what one arena keeps no thread of another can use:
memory stays flat."""


@contextmanager
def connected(config: ClusterConfig, client: Client | None = None) -> Iterator[Client]:
    """The client to work with; one made here is closed at the end, one passed in is left alone.

    One made here is not Dask's default: what the caller computes meanwhile is not for the run's workers, and
    a client that could not connect would stay the default, on which nothing computes any more.

    Raises:
        UsageError: a scheduler that may not be reached in this way, see `security.check_scheduler`.
        UnreachableError: the scheduler does not answer, or no worker comes in time.
    """
    patience = Patience(config.scheduler_timeout_s, config.worker_timeout_s)
    if client is not None:
        set_patience(client, patience)
        await_workers(client)
        yield client
        return
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if config.scheduler in ("local", "local-cuda"):
        local = _local_cluster if config.scheduler == "local" else _cuda_cluster
        with local(config) as cluster, Client(cluster, set_as_default=False) as own:
            set_patience(own, patience)
            own.register_plugin(_IgnoreInterrupt())
            yield own
        return
    await_scheduler(config, CONNECT_TIMEOUT_S)
    try:
        own = Client(
            config.scheduler,
            timeout=CONNECT_TIMEOUT_S,
            security=client_security(config),
            set_as_default=False,
        )
    except OSError as error:
        raise UnreachableError(
            f"scheduler {config.scheduler} does not answer ({error}); run again"
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"scheduler {config.scheduler} cannot be used ({error})") from error
    set_patience(own, patience)
    try:
        await_workers(own)
        yield own
    finally:
        with suppress(TimeoutError, OSError):
            own.close(timeout=CLOSE_TIMEOUT_S)


class _IgnoreInterrupt(WorkerPlugin):
    """Ctrl-C reaches all processes of a terminal: one ends the run, others would print tracebacks."""

    def setup(self, worker: Worker) -> None:
        """Called in the main thread of each worker process, also of one that was started again."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _local_cluster(config: ClusterConfig) -> Iterator[LocalCluster]:
    with dask.config.set(LOCAL_WORKERS):
        try:
            cluster = LocalCluster(
                n_workers=config.workers,
                threads_per_worker=config.threads,
                processes=True,
                dashboard_address=DASHBOARD,
                host=LOOPBACK,
                security=local_security(),
                silence_logs=logging.CRITICAL,
            )
        except (RuntimeError, OSError) as error:
            raise UnreachableError(f"the local workers do not start ({error}); run again") from error
        with _closing(cluster):
            yield cluster


@contextmanager
def _cuda_cluster(config: ClusterConfig) -> Iterator[LocalCluster]:
    """A worker process for each GPU of this machine."""
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise UsageError(
            f"scheduler local-cuda needs dask-cuda ({error}); pip install 'coseis[gpu]' on a machine with "
            "NVIDIA GPUs, or use local"
        ) from error
    try:
        with dask.config.set(UNPROFILED):
            cluster = LocalCUDACluster(
                threads_per_worker=config.threads,
                dashboard_address=DASHBOARD,
                host=LOOPBACK,
                security=local_security(),
                silence_logs=logging.CRITICAL,
                # TensorFlow has the memory of the GPU: Dask holds nothing there.
                rmm_pool_size=None,
                device_memory_limit=None,
            )
    except (ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"scheduler local-cuda finds no GPU to use ({error}); use local") from error
    with _closing(cluster):
        yield cluster


@contextmanager
def _closing(cluster: LocalCluster) -> Iterator[None]:
    """Ends the workers; one that dies slowly, on a machine with too much to do, fails no run that is done."""
    try:
        yield
    finally:
        with suppress(TimeoutError):
            cluster.close()
