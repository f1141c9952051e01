"""Grades of products: what each supersedes, and that no history is lost, wherever a run is killed."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from coseis.grades import DELINEATION, FIRST_ESTIMATE, ISSUED, Product, grade_product, withdraw_report
from coseis.objects import get_object, put_object

TIME = datetime(2018, 9, 6, 3, 0, tzinfo=UTC)
RUN = "run.json"


def issue(store, *, complete=True, updates=0, killed=False):
    """One publishing: the report is withdrawn, files are written, and at the end there is a new report."""
    earlier = withdraw_report(store, RUN)
    assert get_object(store, RUN) is None
    time = TIME + timedelta(hours=len(earlier))
    product = grade_product(earlier, complete=complete, updates=updates, time=time)
    if not killed:
        products = ",".join(one.model_dump_json() for one in (*earlier, product))
        put_object(store, RUN, f'{{"observed_share": 1, "products": [{products}]}}'.encode())
    return product


@pytest.mark.parametrize(
    ("complete", "updates", "grade", "title"),
    [
        (False, 0, FIRST_ESTIMATE, "first estimate"),
        (True, 0, DELINEATION, "delineation"),
        (True, 2, "update 2", "update 2"),
        (False, 2, "update 2", "update 2, incomplete"),
    ],
)
def test_grades_follow_from_what_is_there(complete, updates, grade, title):
    product = grade_product((), complete=complete, updates=updates, time=TIME)
    assert (product.number, product.supersedes, product.issued) == (1, None, TIME)
    assert (product.grade, product.title, product.complete) == (grade, title, complete)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=8))
def test_each_product_supersedes_the_last_one_that_was_issued(publishings):
    """Whatever is killed: what is issued is numbered without a gap, and none is forgotten."""
    store, last = MemoryStore(), None
    for complete, killed in publishings:
        product = issue(store, complete=complete, killed=killed)
        assert product.supersedes == (last.number if last else None)
        assert product.number == (last.number if last else 0) + 1
        last = last if killed else product
    issued = withdraw_report(store, RUN)
    assert [one.number for one in issued] == list(range(1, len(issued) + 1))
    assert (issued[-1] if issued else None) == last


def test_a_damaged_history_is_none():
    store = MemoryStore()
    for content in (b"{", b"[]", b'{"products": [{"number": "one"}]}', b"\xff"):
        put_object(store, RUN, content)
        put_object(store, ISSUED, content)
        assert withdraw_report(store, RUN) == ()


def test_a_product_reads_back_equal():
    product = grade_product((), complete=True, updates=0, time=TIME)
    assert Product.model_validate_json(product.model_dump_json()) == product
