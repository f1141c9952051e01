"""The proxy that the fault tests trust: each fault as a plain HTTP client sees it, and the table of them."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from fault_log import BEGIN, END, Outcome, main, note_fault
from fault_proxy import Fault, Request, faulty, seeded
from serving import Page, serve

BODY = "0123456789"


def answer(fault):
    with (
        serve({"/x": Page(BODY)}) as upstream,
        faulty(upstream, lambda request: fault, stall_s=5) as proxy,
    ):
        answer = requests.get(f"{proxy.address}/x", timeout=0.5)
        assert [known for _, known in proxy.injected] == ([fault] if fault else [])
        return answer


def test_nothing_is_changed_without_a_fault():
    assert answer(None).text == BODY


@pytest.mark.parametrize("fault", [Fault.STATUS_429, Fault.STATUS_502, Fault.STATUS_503, Fault.STATUS_404])
def test_a_status_is_answered(fault):
    assert answer(fault).status_code == int(fault.value.split()[1])


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.TRUNCATED, Fault.STALL, Fault.TOO_LONG])
def test_a_broken_answer_breaks(fault):
    with pytest.raises(requests.RequestException):
        answer(fault)


def test_a_short_answer_looks_whole():
    assert answer(Fault.TOO_SHORT).text == BODY[:-1]


def test_what_is_asked_often_enough_arrives_and_a_seed_is_a_plan():
    asked = [Request("GET", f"/{n}", "", count) for n in range(50) for count in range(3)]
    plan, again = seeded(1, 0.5, list(Fault)), seeded(1, 0.5, list(Fault))
    drawn = [plan(request) for request in asked]
    assert drawn == [again(request) for request in asked]
    assert drawn != [seeded(2, 0.5, list(Fault))(request) for request in asked]
    assert not any(drawn[2::3])
    assert 25 < sum(fault is not None for fault in drawn) < 75


def test_requests_are_counted_under_threads():
    with serve({"/x": Page(BODY)}) as upstream, faulty(upstream, lambda request: None) as proxy:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: requests.get(f"{proxy.address}/x", timeout=5), range(40)))
        assert sorted(request.count for request in proxy.requests) == list(range(40))


def test_the_table_adds_up(tmp_path, monkeypatch):
    log, page = tmp_path / "log", tmp_path / "page.md"
    monkeypatch.setenv("COSEIS_FAULT_LOG", str(log))
    note_fault("worker", "kill -9", Outcome.EQUAL, times=2)
    note_fault("worker", "kill -9", Outcome.LISTED)
    note_fault("disk", "full", Outcome.REFUSED)
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    main(str(log), str(page))
    assert [json.loads(line)["times"] for line in log.read_text().splitlines()] == [2, 1, 1]
    assert page.read_text() == (
        f"before\n{BEGIN}\n"
        "| part | fault | injected | runs equal | runs listed | runs refused |\n"
        "|---|---|--:|--:|--:|--:|\n"
        "| disk | full | 1 |  |  | 1 |\n"
        "| worker | kill -9 | 3 | 1 | 1 |  |\n"
        "| all | | 4 | 1 | 1 | 1 |\n"
        f"{END}\nafter\n"
    )
