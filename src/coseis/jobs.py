"""Jobs go in, run on the workers of a Dask client, and their results come out as they end, whatever dies.

What fails for a while is tried again later, what is lost with its worker is tried again alone, and a
scheduler or workers that stay away end the run: nothing is waited for without end.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from distributed import Client, Future, KilledWorker
from distributed.client import ClosedClientError

from coseis.errors import CoseisError, InputRefusedError, UnreachableError
from coseis.stopping import in_order, seconds_left

QUEUED_PER_THREAD = 2
"""Tasks in flight per worker thread: one runs, one waits; what is not submitted costs no memory."""
LOOK_S = 1.0
"""How often the scheduler is asked who is there."""
WAITS_S = (5.0, 20.0, 60.0)
"""Before each further try of what was unreachable; the reading had retries of its own before each."""
DEADLY = 3
"""Workers that a job must kill, alone on each, before it is given up."""
# Below, UnboundLocalError stands beside TimeoutError: `distributed.utils.sync` ends in it where a timeout
# cancels what it waits for at the wrong moment.
KILLS = f"its worker died {DEADLY} times, with nothing else on it: too little memory, or a fault in a library"
STARVES = "its worker had too little memory for it, alone: give a smaller --core or --chunk, or more memory"

Job = TypeVar("Job")


class Again(StrEnum):
    """Whether another try may end otherwise."""

    NEVER = "never"
    LATER = "later"
    """Something did not answer."""
    ALONE = "alone"
    """Lost with its worker, or short of memory: perhaps by what else ran there."""


@dataclass(frozen=True)
class Failure:
    """Why a job has no result."""

    reason: str
    again: Again = Again.NEVER

    def error(self, what: str) -> CoseisError:
        """For work that cannot do without the job."""
        kind = UnreachableError if self.again == Again.LATER else InputRefusedError
        return kind(f"{what}: {self.reason}")


@dataclass(frozen=True)
class Patience:
    """How long a run waits for what does not come, seconds."""

    scheduler_s: float = 60.0
    workers_s: float = 300.0


_patience: WeakKeyDictionary[Client, Patience] = WeakKeyDictionary()


def set_patience(client: Client, patience: Patience) -> None:
    """How long jobs of this client wait; a client that nobody set it for has the defaults."""
    _patience[client] = patience


def run_jobs(
    client: Client,
    function: Callable[..., Any],
    jobs: Iterable[tuple[str, Job, tuple[Any, ...]]],
    *,
    again: bool = True,
) -> Iterator[tuple[Job, Any]]:
    """Runs a function over many jobs with a bounded number in flight, as they end.

    Args:
        client: Where to run.
        function: Called as function(*arguments).
        jobs: (key, job, arguments) each; the key names the task, the job is handed back with its result.
        again: Try those that failed for a while again, and those that were lost with their worker alone.

    Yields:
        (job, result) in the order of completion. A CoseisError, a lack of memory or a lost worker is handed
        back as a Failure, so that the rest goes on; any other exception is a fault of ours and is raised.

    Raises:
        UnreachableError: the scheduler is lost or hangs, or no worker is left, for longer than is waited.
        Stopped: the process was asked to end; what was in hand has ended, or the grace period has.
    """
    suspects: list[_Task[Job]] = []
    with in_order():
        tasks = (_Task(*entry) for entry in jobs)
        for task, result in _Round(client, function, tasks, waits_s=WAITS_S if again else ()).results():
            if again and isinstance(result, Failure) and result.again == Again.ALONE:
                suspects.append(task)
            else:
                yield task.job, result
        yield from _run_alone(client, function, suspects)


def run_alone(
    client: Client, function: Callable[..., Any], jobs: Iterable[tuple[str, Job, tuple[Any, ...]]]
) -> Iterator[tuple[Job, Any]]:
    """As `run_jobs`, one job at a time on a worker: the one that kills it is known, and no neighbour blamed.

    To be called when nothing else of this run is in flight. A job that kills `DEADLY` workers is given up.
    """
    with in_order():
        yield from _run_alone(client, function, [_Task(*entry) for entry in jobs])


def thread_count(client: Client) -> int:
    """Threads of all workers that are there now."""
    return sum(worker_threads(client).values())


def worker_threads(client: Client) -> dict[str, int]:
    """Threads of each worker that is there now, by address; raises as `worker_details`."""
    threads: dict[str, int] = _ask(client, "ncores")
    return threads


def worker_details(client: Client) -> dict[str, dict[str, Any]]:
    """What the scheduler knows of each worker that is there now, by address.

    Raises:
        UnreachableError: the scheduler is lost, or does not answer for as long as is waited for it.
    """
    details: dict[str, dict[str, Any]] = _ask(client, "identity", n_workers=-1)["workers"]
    return details


def await_workers(client: Client) -> None:
    """Waits until a worker is there.

    Raises:
        UnreachableError: none comes in time, or the scheduler is lost.
    """
    patience_s = _patience.get(client, Patience()).workers_s
    deadline = time.monotonic() + patience_s
    while not worker_threads(client):
        if time.monotonic() > deadline:
            raise UnreachableError(
                f"no worker joined the scheduler within {patience_s:g} s; are they started, with its address?"
            )
        time.sleep(min(LOOK_S, patience_s) / 5)


def failure_of(error: CoseisError | MemoryError) -> Failure:
    """What a worker tells of an error: its text, because GDAL's exceptions cannot be unpickled."""
    if isinstance(error, MemoryError):
        return Failure(STARVES, Again.ALONE)
    return Failure(str(error), Again.LATER if isinstance(error, UnreachableError) else Again.NEVER)


@dataclass
class _Task(Generic[Job]):
    """A job, and what became of it so far."""

    key: str
    job: Job
    arguments: tuple[Any, ...]
    tries: int = 0
    """Those that ended, in whatever way."""
    unreached: int = 0
    """Those in which something did not answer."""
    kills: int = 0
    """Workers that it killed, alone on them."""
    worker: str | None = None
    """Where it runs alone."""


class _Round(Generic[Job]):
    """One pass over jobs; a subclass places them elsewhere."""

    def __init__(
        self,
        client: Client,
        function: Callable[..., Any],
        tasks: Iterator[_Task[Job]],
        *,
        waits_s: tuple[float, ...],
    ) -> None:
        self._client, self._function, self._waits_s = client, function, waits_s
        self._waiting = tasks
        self._later: list[tuple[float, int, _Task[Job]]] = []
        """A heap of when, and a number that makes times that are equal different."""
        self._numbers = count()
        self._running: dict[Future[Any], _Task[Job]] = {}
        self._ended: SimpleQueue[Future[Any]] = SimpleQueue()
        self._threads: dict[str, int] = {}
        self._looked = -LOOK_S
        self._seen = time.monotonic()

    def results(self) -> Iterator[tuple[_Task[Job], Any]]:
        try:
            self._look()
            self._fill()
            while self._running or self._later:
                for task, result in self._wait():
                    if not self._tried_again(task, result):
                        yield task, result
                self._look()
                self._fill()
                left = seconds_left()
                if left is not None and (left <= 0 or not self._running):
                    return
        finally:
            self._abandon()

    def _place(self) -> list[str] | None:
        """Workers that may take one more task, None for any; empty where there is no room."""
        # Counted anew each time: workers join and leave while a run goes on.
        room = max(1, sum(self._threads.values())) * QUEUED_PER_THREAD
        return None if len(self._running) < room else []

    def _lost(self) -> Iterator[_Task[Job]]:
        """Tasks that will not end by themselves."""
        return iter(())

    def _fill(self) -> None:
        if seconds_left() is not None:
            return
        while (place := self._place()) != [] and (task := self._next()):
            task.worker = place[0] if place else None
            try:
                future = self._client.submit(
                    _guarded,
                    self._function,
                    *task.arguments,
                    # Another try is another task: Dask may not have forgotten the one before.
                    key=f"{task.key}-again{task.tries}" if task.tries else task.key,
                    pure=False,
                    workers=place,
                    allow_other_workers=False,
                )
            except ClosedClientError as error:
                raise _lost(error) from error
            self._running[future] = task
            future.add_done_callback(self._ended.put)

    def _next(self) -> _Task[Job] | None:
        if self._later and self._later[0][0] <= time.monotonic():
            return heappop(self._later)[-1]
        return next(self._waiting, None)

    def _wait(self) -> Iterator[tuple[_Task[Job], Any]]:
        """Those that have ended, at least one unless none does for a while."""
        until = LOOK_S
        if self._later and self._place() != []:
            until = max(0.0, min(until, self._later[0][0] - time.monotonic()))
        try:
            future = self._ended.get(timeout=until)
        except Empty:
            future = None
        if future in self._running:
            task = self._running[future]
            result = self._result(future)
            if result is not None:
                del self._running[future]
                yield task, result[0]
        yield from ((task, Failure(KILLS, Again.ALONE)) for task in self._lost())

    def _result(self, future: "Future[Any]") -> tuple[Any] | None:
        """What a task gave, as a tuple of one; None if that was lost with its worker and is made again."""
        try:
            result = future.result(timeout=LOOK_S)
        except KilledWorker:
            result = Failure(KILLS, Again.ALONE)
        except CancelledError as error:
            # Dask cancels the futures of a client whose scheduler is gone.
            raise _lost(error) from error
        except (TimeoutError, OSError, UnboundLocalError) as error:
            if future.status == "error":  # the function's own, and a fault of ours
                raise
            if self._client.status != "running":
                raise _lost(error) from error
            future.add_done_callback(self._ended.put)
            return None
        future.release()
        return (result,)

    def _tried_again(self, task: _Task[Job], result: Any) -> bool:
        task.tries += 1
        if not (isinstance(result, Failure) and result.again == Again.LATER):
            return False
        if task.unreached >= len(self._waits_s):
            return False
        self.put_off(task, self._waits_s[task.unreached])
        task.unreached += 1
        return True

    def put_off(self, task: _Task[Job], wait_s: float) -> None:
        """Has a task run, or run again, after a while."""
        heappush(self._later, (time.monotonic() + wait_s, next(self._numbers), task))

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._looked + LOOK_S:
            return
        self._threads = worker_threads(self._client)
        self._looked = now
        patience_s = _patience.get(self._client, Patience()).workers_s
        if self._threads:
            self._seen = now
        elif now > self._seen + patience_s:
            raise UnreachableError(
                f"all workers left, and none came back within {patience_s:g} s; run again with --resume"
            )

    def _abandon(self) -> None:
        """Nobody waits for these any more: what has not begun is dropped by the scheduler."""
        if self._running and self._client.status == "running":
            self._client.cancel(list(self._running))


class _AloneRound(_Round[Job]):
    """One task at a time on each worker process, so that whoever kills it is known."""

    def _place(self) -> list[str] | None:
        taken = {task.worker for task in self._running.values()}
        free = [address for address in self._threads if address not in taken]
        return free[:1]

    def _lost(self) -> Iterator[_Task[Job]]:
        # Dask would wait for that very worker, and has not counted to its own limit yet.
        gone = [future for future, task in self._running.items() if task.worker not in self._threads]
        for future in gone:
            if not future.done():
                task = self._running.pop(future)
                self._client.cancel([future])
                yield task

    def _tried_again(self, task: _Task[Job], result: Any) -> bool:
        if super()._tried_again(task, result):
            return True
        killed = isinstance(result, Failure) and result == Failure(KILLS, Again.ALONE)
        task.kills += killed
        if killed and task.kills < DEADLY:
            self.put_off(task, 0.0)
            return True
        return False


def _run_alone(
    client: Client, function: Callable[..., Any], tasks: Iterable[_Task[Job]]
) -> Iterator[tuple[Job, Any]]:
    alone: _AloneRound[Job] = _AloneRound(client, function, iter(()), waits_s=WAITS_S)
    for task in tasks:
        alone.put_off(task, 0.0)
    for task, result in alone.results():
        yield task.job, result


def _guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls on the worker."""
    try:
        return function(*arguments)
    except (CoseisError, MemoryError) as error:
        return failure_of(error)


def _ask(client: Client, question: str, **about: Any) -> Any:
    patience_s = _patience.get(client, Patience()).scheduler_s
    try:
        return client.sync(getattr(client.scheduler, question), callback_timeout=patience_s, **about)
    except (TimeoutError, UnboundLocalError) as error:
        raise UnreachableError(
            f"the scheduler did not answer for {patience_s:g} s; run again with --resume"
        ) from error
    except (OSError, RuntimeError, AttributeError, CancelledError) as error:
        # What Dask raises depends on how far it has closed the client.
        raise _lost(error) from error


def _lost(error: BaseException) -> UnreachableError:
    return UnreachableError(f"the scheduler is lost ({error}); run again with --resume")
