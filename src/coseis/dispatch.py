"""The chunks of a plan that are still to do go in, tasks on the cluster run, what became of each comes out.

A task is a run of adjacent chunks worth a second or two: a scheduler hands out some hundred tasks a second,
and a GPU does a chunk in a few hundredths. How many that is follows from the tasks that have ended.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from math import ceil

from distributed import Client

from coseis.jobs import Again, Failure, run_alone, run_jobs, thread_count
from coseis.plan import Plan
from coseis.store import digest_of
from coseis.task import TaskReport, map_one, map_run
from coseis.windows import Chunk

TASK_S = 2.0
"""What a task should be worth, seconds."""
TASKS_AT_LEAST = 4
"""Tasks a worker thread that the rest is still divided into, so that all end at about the same time."""

Run = tuple[Chunk, ...]
Job = tuple[str, Run, tuple[str, str, Run]]
SingleJob = tuple[str, Chunk, tuple[str, str, Chunk]]


class ChunkQueue:
    """Chunks in the order in which they are wanted, taken as runs of neighbours in a row."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._waiting = OrderedDict(((chunk.row, chunk.col), chunk) for chunk in chunks)

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, count: int) -> Run:
        """The first chunk and up to `count` - 1 that follow it to the right; empty if there is none."""
        if not self._waiting:
            return ()
        (row, col), first = self._waiting.popitem(last=False)
        run = [first]
        while len(run) < count and (following := self._waiting.pop((row, col + len(run)), None)):
            run.append(following)
        return tuple(run)


class Pace:
    """How many chunks a task should hold, from those that have ended."""

    def __init__(self) -> None:
        self._seconds, self._chunks = 0.0, 0

    def note(self, reports: Sequence[TaskReport]) -> None:
        """Adds the chunks of a task that has ended."""
        self._seconds += sum(report.read_s + report.predict_s + report.write_s for report in reports)
        self._chunks += len(reports)

    def run_length(self, waiting: int, threads: int) -> int:
        """Chunks for the next task: one until any has ended, and towards the end."""
        if not self._chunks:
            return 1
        worth = ceil(TASK_S / max(self._seconds / self._chunks, 1e-6))
        return max(1, min(worth, waiting // (TASKS_AT_LEAST * max(1, threads))))


def predict_chunks(
    plan: Plan, chunks: Iterable[Chunk], out: str, client: Client
) -> Iterator[tuple[Chunk, TaskReport | Failure]]:
    """Predicts and writes chunks on the cluster, in about the order given, as they end.

    Workers read the frozen plan from the output, so that a task carries names alone. What could not be
    reached is tried again when the other chunks are done, for what is down now may be up by then. A run of
    chunks that was lost with its workers is tried again chunk by chunk, each alone on its worker: one that
    kills them takes no other along.

    Args:
        plan: As it lies in the output.
        chunks: Those to do.
        out: Address of the run.
        client: Where to run.

    Raises:
        UnreachableError, Stopped: as `run_jobs`.
    """
    identity = plan.identity.digest()
    queue, pace = ChunkQueue(chunks), Pace()
    unreached, suspects = list[Chunk](), list[Chunk]()
    # Another output is other work: a scheduler that is shared would else run it once.
    prefix = f"map-{identity[:8]}-{digest_of(out)[:8]}"

    def jobs() -> Iterator[Job]:
        # Made one by one, as workers get free: a region's tasks never lie in memory together.
        while run := queue.take(pace.run_length(len(queue), thread_count(client))):
            yield f"{prefix}-{len(run)}-{run[0].name}", run, (out, identity, run)

    for run, results in run_jobs(client, map_run, jobs(), again=False):
        pairs = _pair(run, results)
        pace.note([result for _, result in pairs if isinstance(result, TaskReport)])
        for chunk, result in pairs:
            again = result.again if isinstance(result, Failure) else Again.NEVER
            if again == Again.NEVER:
                yield chunk, result
            else:
                (unreached if again == Again.LATER else suspects).append(chunk)

    def singly(chunks: Iterable[Chunk]) -> Iterator[SingleJob]:
        # Of this run only: another at the same place and time may choose another worker for the chunk.
        begun = time.time_ns()
        return ((f"{prefix}-{begun}-{chunk.name}", chunk, (out, identity, chunk)) for chunk in chunks)

    yield from run_jobs(client, map_one, singly(unreached))
    yield from run_alone(client, map_one, singly(suspects))


def _pair(
    run: Run, results: Sequence[TaskReport | Failure] | Failure
) -> list[tuple[Chunk, TaskReport | Failure]]:
    if isinstance(results, Failure):
        return [(chunk, results) for chunk in run]
    return list(zip(run, results, strict=True))
