"""Jobs: what fails for a while ends well, what kills is found, and nothing is waited for without end."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from distributed import Client, LocalCluster, get_worker

from coseis import jobs
from coseis.errors import InputRefusedError, UnreachableError
from coseis.jobs import Again, Failure, Patience, await_workers, run_alone, run_jobs, set_patience
from coseis.stopping import Stopped, in_order, obeying_sigterm, set_grace


@pytest.fixture
def client():
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as connection,
    ):
        yield connection


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(jobs, "WAITS_S", (0.01, 0.02, 0.03))
    monkeypatch.setattr(jobs, "LOOK_S", 0.05)


calls: list[int] = []
"""Of functions that run in this process."""
gate = threading.Event()


@pytest.fixture(autouse=True)
def fresh():
    calls.clear()
    gate.clear()


def entries(numbers):
    return [(f"job-{number}-{os.urandom(4).hex()}", number, (number,)) for number in numbers]


def answers_the_third_time(number):
    calls.append(number)
    if number == 3 and calls.count(3) < 3:
        raise UnreachableError("no answer")
    return number


def never_answers(number):
    calls.append(number)
    if number == 3:
        raise UnreachableError("no answer")
    return number


def refuses(number):
    calls.append(number)
    raise InputRefusedError("a torn file")


def starves(number):
    calls.append(number)
    if number == 3:
        raise MemoryError
    return number


def starves_among_others(number):
    calls.append(number)
    if number == 3 and calls.count(3) == 1:
        raise MemoryError
    return number


def where(number):
    return get_worker().address


busy: set[str] = set()
lock = threading.Lock()


def note_company(number):
    """Whether another job runs on this worker."""
    address = get_worker().address
    with lock:
        calls.append(address in busy)
        busy.add(address)
    gate.wait(0.01)
    with lock:
        busy.discard(address)


def waits(number):
    calls.append(number)
    assert gate.wait(20)
    return number


def test_what_does_not_answer_is_tried_again_and_holds_nobody_up(client):
    ended = [job for job, _ in run_jobs(client, answers_the_third_time, entries(range(50)))]
    assert sorted(ended) == list(range(50))
    assert calls.count(3) == 3
    assert len(calls) == 52


def test_what_never_answers_is_given_up(client):
    results = dict(run_jobs(client, never_answers, entries(range(9))))
    assert results[3] == Failure("no answer", Again.LATER)
    assert [results[number] for number in range(9) if number != 3] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert calls.count(3) == 1 + len(jobs.WAITS_S)
    assert isinstance(results[3].error("the map"), UnreachableError)


def test_what_is_refused_is_not_tried_again(client):
    results = dict(run_jobs(client, refuses, entries(range(4))))
    assert set(results.values()) == {Failure("a torn file")}
    assert len(calls) == 4
    assert isinstance(results[0].error("the map"), InputRefusedError)


def test_what_lacks_memory_is_tried_alone(client):
    assert dict(run_jobs(client, starves_among_others, entries(range(9))))[3] == 3
    calls.clear()
    results = dict(run_jobs(client, starves, entries(range(9))))
    assert calls.count(3) == 2
    assert "too little memory" in results[3].reason
    assert calls[-1] == 3


def test_alone_is_one_job_a_worker(client):
    """Each worker has two threads and both are used, one job at a time."""
    places = dict(run_alone(client, where, entries(range(20))))
    assert len(set(places.values())) == 2
    assert len(list(run_alone(client, note_company, entries(range(20))))) == 20
    assert len(calls) == 20
    assert not any(calls)
    list(run_jobs(client, note_company, entries(range(20))))
    assert any(calls)


def test_workers_that_stay_away_end_the_run():
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as connection,
    ):
        set_patience(connection, Patience(workers_s=0.2))
        with pytest.raises(UnreachableError, match=r"no worker joined the scheduler within 0\.2 s"):
            await_workers(connection)
        with pytest.raises(UnreachableError, match=r"all workers left.* within 0\.2 s; run again with --res"):
            list(run_jobs(connection, abs, entries([1])))


def test_workers_that_come_late_do_the_work():
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as connection,
        ThreadPoolExecutor(1) as pool,
    ):
        ended = pool.submit(lambda: list(run_jobs(connection, abs, entries([-1]))))
        cluster.scale(1)
        assert ended.result(30) == [(-1, 1)]


def test_a_fault_of_ours_is_raised(client):
    with pytest.raises(TimeoutError, match="ours"):
        list(run_jobs(client, raise_timeout, entries([1])))


def raise_timeout(number):
    raise TimeoutError("ours")


def test_sigterm_lets_what_is_in_hand_end_and_hands_out_no_more(client):
    results = []

    def run():
        for job, _ in run_jobs(client, abs, entries(range(1000))):
            results.append(job)
            if len(results) == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with obeying_sigterm(), pytest.raises(Stopped):
        run()
    assert 3 <= len(results) <= 3 + 2 * 4 * jobs.QUEUED_PER_THREAD


def test_the_grace_period_ends(client):
    stop = threading.Thread(target=stop_when_begun)
    with obeying_sigterm():
        set_grace(0.0)
        stop.start()
        with pytest.raises(Stopped):
            list(run_jobs(client, waits, entries(range(100))))
    gate.set()
    stop.join()
    assert len(calls) <= 2 * 4 * jobs.QUEUED_PER_THREAD


def stop_when_begun():
    while not calls:
        gate.wait(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_between_pieces_of_work_stops_at_once():
    with obeying_sigterm():
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with in_order():
        pass
