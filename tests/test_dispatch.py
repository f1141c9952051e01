"""Dispatch: every chunk once, in runs of neighbours as long as they are worth, whoever is lost."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from coseis import dispatch
from coseis.dispatch import TASK_S, TASKS_AT_LEAST, ChunkQueue, Pace, predict_chunks
from coseis.jobs import Again, Failure
from coseis.store import DoneRecord
from coseis.task import TaskReport
from coseis.windows import Chunk, chunk_grid


def a_report(chunk: Chunk, seconds: float = 0.1) -> TaskReport:
    record = DoneRecord(
        chunk=chunk.name,
        identity="",
        digest="",
        histogram=(0,) * 201,
        observed_px=1,
        aoi_px=1,
        status_px=(),
    )
    return TaskReport(
        record=record, read_s=0, predict_s=seconds, write_s=0, bytes_read=0, bytes_fetched=0, bytes_needed=0
    )


def a_plan() -> Any:
    return SimpleNamespace(identity=SimpleNamespace(digest=lambda: "0123456789abcdef"))


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    counts=st.lists(st.integers(1, 9), min_size=1),
    order=st.randoms(),
)
def test_all_chunks_are_taken_once_in_runs_of_neighbours(shape, counts, order) -> None:
    chunks = list(chunk_grid(shape, 10))
    order.shuffle(chunks)
    queue, taken = ChunkQueue(chunks), []
    while run := queue.take(counts[len(taken) % len(counts)]):
        assert len(run) <= counts[len(taken) % len(counts)]
        assert [(c.row, c.col) for c in run] == [(run[0].row, run[0].col + n) for n in range(len(run))]
        waiting = [chunk for chunk in chunks if not any(chunk in others for others in taken)]
        assert run[0] == waiting[0]
        taken.append(run)
    assert sorted(chunk.name for run in taken for chunk in run) == sorted(chunk.name for chunk in chunks)
    assert len(queue) == 0


def test_a_task_is_worth_its_hand_out_and_the_end_is_even() -> None:
    chunks = list(chunk_grid((10, 1000), 10))
    pace = Pace()
    assert pace.run_length(10**6, threads=1) == 1
    pace.note([a_report(chunk, TASK_S / 8) for chunk in chunks[:10]])
    assert pace.run_length(10**6, threads=2) == 8
    assert pace.run_length(3 * TASKS_AT_LEAST * 2, threads=2) == 3
    assert pace.run_length(1, threads=2) == 1
    slow = Pace()
    slow.note([a_report(chunks[0], 10 * TASK_S)])
    assert slow.run_length(10**6, threads=1) == 1


def test_what_is_lost_is_tried_alone_and_what_is_unreached_once_all_else_is_done(monkeypatch) -> None:
    """As if one chunk killed every worker that it came to, and the file of another did not answer."""
    chunks = list(chunk_grid((10, 2000), 10))
    deadly, unreached = chunks[77], chunks[100]
    calls: list[tuple[str, Any]] = []

    def run_jobs(client, function, jobs, *, again=True):
        assert (function, again) in ((dispatch.map_run, False), (dispatch.map_one, True))
        for _, job, arguments in jobs:
            assert arguments == ("s3://maps/run", "0123456789abcdef", job)
            calls.append(("together" if function is dispatch.map_run else "later", job))
            if function is dispatch.map_one:
                yield job, a_report(job)
            elif deadly in job:
                yield job, Failure("its worker died", Again.ALONE)
            else:
                silent = Failure("no answer", Again.LATER)
                yield job, [silent if chunk == unreached else a_report(chunk, 0.5) for chunk in job]

    def run_alone(client, function, jobs):
        for _, chunk, _ in jobs:
            calls.append(("alone", chunk))
            yield chunk, Failure("it kills") if chunk == deadly else a_report(chunk)

    monkeypatch.setattr(dispatch, "run_jobs", run_jobs)
    monkeypatch.setattr(dispatch, "run_alone", run_alone)
    monkeypatch.setattr(dispatch, "thread_count", lambda client: 1)
    results = list(predict_chunks(a_plan(), chunks, "s3://maps/run", Any))
    assert sorted(chunk.name for chunk, _ in results) == sorted(chunk.name for chunk in chunks)
    assert [chunk for chunk, result in results if isinstance(result, Failure)] == [deadly]
    kinds = [kind for kind, _ in calls]
    assert kinds == sorted(kinds, key=["together", "later", "alone"].index)
    assert max(len(job) for kind, job in calls if kind == "together") == 4
    assert [job for kind, job in calls if kind == "later"] == [unreached]
    (lost_run,) = [job for kind, job in calls if kind == "together" and deadly in job]
    assert [job for kind, job in calls if kind == "alone"] == list(lost_run)
