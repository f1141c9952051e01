"""A Dask client for a run: a local cluster, a scheduler's address, or the client that was passed in."""

import logging
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import dask
from distributed import Client, KilledWorker, LocalCluster, Worker, WorkerPlugin, as_completed
from distributed.comm.core import CommClosedError

from coseis.config import ClusterConfig
from coseis.errors import CoseisError, UnreachableError, UsageError
from coseis.scheduler import await_scheduler
from coseis.security import client_security, local_security

CONNECT_TIMEOUT_S = 30
"""A scheduler that does not answer, and workers that do not come, end the run after this long."""
LOOPBACK = "127.0.0.1"
"""What a local cluster listens on, and on nothing else."""
DASHBOARD = f"{LOOPBACK}:0"
SILENT = logging.CRITICAL
"""What ends a run is told in a line; Dask adds tracebacks of its own, of heartbeats while it closes too."""
KEPT_MEMORY = {
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 1 << 27,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 1 << 25,
    "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 2,
}
"""Local workers: glibc keeps 128 MiB of freed memory and uses it again. Dask's own setting
gives 64 KiB and more back to the system at once: half the time of a training batch went into page faults.
Two arenas for all threads, because what one arena keeps no thread of another can use: memory stays flat."""
QUEUED_PER_THREAD = 2
"""Tasks in flight per worker thread: one runs, one waits; what is not submitted costs no memory."""

Job = TypeVar("Job")


@dataclass(frozen=True)
class Failure:
    """Why a job has no result."""

    reason: str


@contextmanager
def connected(config: ClusterConfig, client: Client | None = None) -> Iterator[Client]:
    """The client to work with; one made here is closed at the end, one passed in is left alone.

    Raises:
        UsageError: a scheduler that may not be reached in this way, see `security.check_scheduler`.
        UnreachableError: the scheduler does not answer, or no worker comes, within CONNECT_TIMEOUT_S.
    """
    if client is not None:
        _await_workers(client)
        yield client
        return
    if config.scheduler in ("local", "local-cuda"):
        local = _local_cluster if config.scheduler == "local" else _cuda_cluster
        with local(config) as cluster, Client(cluster) as own:
            own.register_plugin(_IgnoreInterrupt())
            yield own
        return
    # Of a scheduler that is lost Dask logs a traceback an attempt to reconnect; `run_jobs` says it in a line.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    await_scheduler(config, CONNECT_TIMEOUT_S)
    try:
        own = Client(config.scheduler, timeout=CONNECT_TIMEOUT_S, security=client_security(config))
    except OSError as error:
        raise UnreachableError(
            f"scheduler {config.scheduler} does not answer ({error}); run again"
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"scheduler {config.scheduler} cannot be used ({error})") from error
    with own:
        _await_workers(own)
        yield own


def run_jobs(
    client: Client, function: Callable[..., Any], jobs: Iterable[tuple[str, Job, tuple[Any, ...]]]
) -> Iterator[tuple[Job, Any]]:
    """Runs a function over many jobs with a bounded number in flight, as they end.

    Args:
        client: Where to run.
        function: Called as function(*arguments).
        jobs: (key, job, arguments) each; the key names the task, the job is handed back with its result.

    Yields:
        (job, result) in the order of completion. A CoseisError or a lost worker is handed back as a
        Failure, so that the rest goes on; any other exception is a fault of ours and is raised.

    Raises:
        UnreachableError: the scheduler is lost.
    """
    waiting = iter(jobs)
    running: dict[Any, Job] = {}

    def most_running() -> int:
        return max(1, thread_count(client)) * QUEUED_PER_THREAD

    def submit(count: int) -> Iterable[Any]:
        # The range first: zip would else take a job from `waiting` and drop it.
        for _, (key, job, arguments) in zip(range(count), waiting, strict=False):
            future = client.submit(_guarded, function, *arguments, key=key, pure=False)
            running[future] = job
            yield future

    try:
        ended = as_completed(list(submit(most_running())))
        for future in ended:
            job = running.pop(future)
            try:
                result = future.result()
            except KilledWorker:
                result = Failure(
                    "its worker died again and again: too little memory, or a fault in a library"
                )
            # Counted anew each time: workers join and leave while a run goes on.
            ended.update(list(submit(max(not running, most_running() - len(running)))))
            future.release()
            yield job, result
    except (CancelledError, CommClosedError, TimeoutError, ConnectionError) as error:
        # Dask cancels the futures of a client whose scheduler is gone.
        raise UnreachableError(f"the scheduler is lost ({error}); run again with --resume") from error


def _guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls on the worker; an error travels as its text, because GDAL's exceptions cannot be unpickled."""
    try:
        return function(*arguments)
    except CoseisError as error:
        return Failure(str(error))


class _IgnoreInterrupt(WorkerPlugin):
    """Ctrl-C reaches all processes of a terminal: one ends the run, others would print tracebacks."""

    def setup(self, worker: Worker) -> None:
        """Called in the main thread of each worker process, also of one that was started again."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _local_cluster(config: ClusterConfig) -> Iterator[LocalCluster]:
    with (
        dask.config.set(KEPT_MEMORY),
        LocalCluster(
            n_workers=config.workers,
            threads_per_worker=config.threads,
            processes=True,
            # Any free port: with None Dask takes 8787, and warns on stderr when another run has it.
            dashboard_address=DASHBOARD,
            host=LOOPBACK,
            security=local_security(),
            silence_logs=SILENT,
        ) as cluster,
    ):
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
        cluster = LocalCUDACluster(
            threads_per_worker=config.threads,
            dashboard_address=DASHBOARD,
            host=LOOPBACK,
            security=local_security(),
            silence_logs=SILENT,
            # TensorFlow has the memory of the GPU: Dask holds nothing there.
            rmm_pool_size=None,
            device_memory_limit=None,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"scheduler local-cuda finds no GPU to use ({error}); use local") from error
    with cluster:
        yield cluster


def _await_workers(client: Client) -> None:
    try:
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
    except (TimeoutError, OSError) as error:
        raise UnreachableError(
            f"no worker joined scheduler {client.scheduler_info()['address']} within {CONNECT_TIMEOUT_S} s"
        ) from error


def thread_count(client: Client) -> int:
    """Threads of all workers that are there now."""
    return sum(client.nthreads().values())
