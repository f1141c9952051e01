"""What was published of a run before goes in, the grade of what is published now comes out.

Emergency rooms tell products apart by grade and issue time: a first estimate from what is there, the
delineation of all of the area, and updates. Each supersedes the last one, whatever their grades.
"""

from collections.abc import Sequence
from datetime import datetime

from obstore.store import ObjectStore
from pydantic import AwareDatetime, ConfigDict, ValidationError

from coseis.objects import delete_object, get_object, put_object
from coseis.types import Value

ISSUED = "products.json"
"""What was issued before the products that run.json lists: a run has no run.json while its files change."""
FIRST_ESTIMATE, DELINEATION = "first estimate", "delineation"


class Product(Value):
    """One issue of a run's map."""

    number: int
    """From 1."""
    grade: str
    """`first estimate` while chunks are missing or failed, then `delineation`; `update 1` after an update."""
    complete: bool
    """No chunk is missing or failed: an update may be issued before it has reached all of the area."""
    issued: AwareDatetime
    supersedes: int | None
    """Number of the product that this one takes the place of: the last one. None: it is the first."""

    @property
    def title(self) -> str:
        """The grade, and that it is incomplete where the grade does not say so."""
        says_so = self.complete or self.grade == FIRST_ESTIMATE
        return self.grade if says_so else f"{self.grade}, incomplete"


class _Products(Value):
    """What is read of run.json and of products.json."""

    model_config = ConfigDict(extra="ignore")

    products: tuple[Product, ...] = ()


def grade_product(issued: Sequence[Product], *, complete: bool, updates: int, time: datetime) -> Product:
    """The next product of a run.

    Args:
        issued: All products before it, the last one last.
        complete: No chunk is missing or failed.
        updates: How often the run was updated.
        time: When it is issued, with a zone.
    """
    whole = DELINEATION if complete else FIRST_ESTIMATE
    grade = f"update {updates}" if updates else whole
    last = issued[-1].number if issued else None
    return Product(number=(last or 0) + 1, grade=grade, complete=complete, issued=time, supersedes=last)


def withdraw_report(store: ObjectStore, name: str) -> tuple[Product, ...]:
    """Deletes run.json, which would be wrong beside files that change, and keeps the list of what was issued.

    A run that is killed while it publishes has issued nothing: run.json, which lists it, is written last.

    Args:
        store: Where the run lies.
        name: Of its report.

    Returns:
        All products issued so far, the last one last; none of a run that has published nothing.

    Raises:
        InputRefusedError: the store refuses it.
        UnreachableError: the store does not answer.
    """
    kept = [_read_products(get_object(store, key)) for key in (name, ISSUED)]
    issued = max(kept, key=len)
    if issued:
        put_object(store, ISSUED, _Products(products=issued).model_dump_json(indent=1).encode())
    delete_object(store, name)
    return issued


def _read_products(content: bytes | None) -> tuple[Product, ...]:
    """Those of a document; none of a damaged one, which costs the history and no map."""
    try:
        return _Products.model_validate_json(content).products if content else ()
    except ValidationError:
        return ()
