"""A STAC API on bad days: the same scenes as on a good one, or a refusal in one line; never without end."""

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from coseis import catalogs
from coseis.addresses import AddressPolicy
from coseis.catalogs import Query, read_catalog
from coseis.errors import CoseisError, InputRefusedError, UnreachableError
from coseis.event import read_event
from coseis.search import search_items
from coseis.types import Scene
from fault_log import Outcome, note_fault
from fault_proxy import Answer, Fault, Request, faulty, seeded
from stac_server import StacServer, stac_server
from test_cli import coseis  # noqa: F401  (fixture)

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.faults]

PART = "STAC API"
EVENT_TIME = datetime(2018, 9, 5, 18, 8, tzinfo=UTC)
AREA = "142.0,42.0,143.0,43.0"
EVENT = read_event(EVENT_TIME.isoformat(), AREA)
POLICY = AddressPolicy(allow_hosts=("assets.example",))
SMALL, MANY = 24, 10_000
PAGE = 5
TOKEN = "s3cret-t0ken"
Json = dict[str, Any]


def an_item(number: int, collection: str, **changes: Any) -> Json:
    """Half before and half after the event, all in the area."""
    when = EVENT_TIME + timedelta(hours=number + 0.5 if number % 2 else -number - 1)
    west, south = 142 + number % 90 / 100, 42 + number % 80 / 100
    ring = [[west, south], [west + 0.1, south], [west + 0.1, south + 0.1], [west, south + 0.1], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"{collection}-{number:05}",
        "collection": collection,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, south, west + 0.1, south + 0.1],
        "properties": {"datetime": when.isoformat()},
        "links": [],
        "assets": {
            "a": {
                "href": f"https://assets.example/{collection}/{number}.tif",
                "type": "image/tiff",
                "pl:asset_type": "ortho_visual",
            }
        },
    } | changes


def a_collection(name: str) -> Json:
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": name,
        "description": name,
        "license": "CC-BY-4.0",
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
        "links": [],
    }


@pytest.fixture(scope="module")
def server() -> Iterator[StacServer]:
    sizes = {"small": SMALL, "many": MANY, "moving": SMALL}
    items = [an_item(number, name) for name, size in sizes.items() for number in range(size)]
    with stac_server([a_collection(name) for name in sizes], items) as made:
        yield made


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    monkeypatch.setattr("coseis.addresses.RETRY_DELAY_S", 0.01)
    monkeypatch.setattr("coseis.stac_io.RETRY_DELAY_S", 0.01)
    monkeypatch.setattr("coseis.addresses.READ_TIMEOUT_S", 3)
    monkeypatch.setattr(catalogs, "PAGE_ITEMS", PAGE)


def scenes(address: str, collection: str = "small") -> tuple[Scene, ...]:
    """What a search finds, but for the catalog's address."""
    found = search_items(address, EVENT, collections=[collection], policy=POLICY).scenes
    return tuple(scene.model_copy(update={"reach": POLICY}) for scene in found)


@pytest.fixture(scope="module")
def undisturbed(server) -> tuple[Scene, ...]:
    found = scenes(server.address)
    assert len(found) == SMALL
    return found


def is_search(request: Request) -> bool:
    return request.path.startswith("/search")


PLACES: dict[str, Callable[[Request], bool]] = {
    "root": lambda request: request.path == "/",
    "collection": lambda request: request.path.startswith("/collections"),
    # Pages are asked for by POST at one address: they differ by how often that was asked.
    "first page": lambda request: is_search(request) and request.count == 0,
    "later page": lambda request: is_search(request) and request.count == 3,
}
BROKEN = [
    Fault.STATUS_429, Fault.STATUS_502, Fault.STATUS_503, Fault.RESET, Fault.TRUNCATED, Fault.STALL,
    Fault.TOO_LONG, Fault.TOO_SHORT,
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.name)
def test_a_fault_that_passes_changes_nothing(server, undisturbed, fault, place):
    def plan(request: Request) -> Fault | None:
        return fault if PLACES[place](request) and not proxy.injected else None

    with faulty(server.address, plan) as proxy:
        assert scenes(f"{proxy.address}/") == undisturbed
        assert len(proxy.injected) == 1
    note_fault(PART, f"{fault.value}, once, {place}", Outcome.EQUAL)


@pytest.mark.parametrize("seed", range(3))
def test_many_faults_in_one_search(server, undisturbed, seed):
    plan = seeded(seed, 0.4, [fault for fault in BROKEN if fault is not Fault.STALL], most=40)
    with faulty(server.address, plan) as proxy:
        assert scenes(f"{proxy.address}/") == undisturbed
    assert proxy.injected
    note_fault(PART, "any, at random moments", Outcome.EQUAL, times=len(proxy.injected))


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.name)
def test_a_fault_that_lasts_ends_with_75(server, fault, monkeypatch, coseis):  # noqa: F811
    monkeypatch.setattr("coseis.addresses.READ_TIMEOUT_S", 1)
    with faulty(
        server.address, lambda request: fault if is_search(request) and request.count else None
    ) as proxy:
        words = ["search", "--catalog", f"{proxy.address}/", "--collection", "small"]
        words += ["--event-time", EVENT_TIME.isoformat(), "--aoi", AREA, "--allow-host", "assets.example"]
        line = coseis(*words).refused(75)
        assert "run again" in line
        assert proxy.address in line
    note_fault(PART, f"{fault.value}, lasting", Outcome.REFUSED, times=len(proxy.injected))


@pytest.mark.parametrize(("said", "waited"), [("2", 2), ("86400", 60)])
def test_the_server_says_when_to_come_back(server, undisturbed, monkeypatch, said, waited):
    waits: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)

    def later(request: Request, answer: Answer) -> Answer:
        if is_search(request) and request.count == 1:
            return Answer(429, [("Retry-After", said), ("Content-Type", "text/plain")], b"slower")
        return answer

    with faulty(server.address, lambda request: None, rewrite=later) as proxy:
        assert scenes(f"{proxy.address}/") == undisturbed
    assert waits == [waited]
    note_fault(PART, "HTTP 429 with Retry-After", Outcome.EQUAL)


def edited(edit: Callable[[Json, int], Json | None]) -> Callable[[Request, Answer], Answer]:
    """Rewrites the pages of a search: edit(page, its number) returns it, or None for nothing to change."""

    def rewrite(request: Request, answer: Answer) -> Answer:
        if not is_search(request):
            return answer
        page = json.loads(answer.content) if answer.status == 200 else {}
        changed = edit(page, request.count)
        if changed is None:
            return answer
        return Answer(200, [("Content-Type", "application/geo+json")], json.dumps(changed).encode())

    return rewrite


def next_of(page: Json) -> Json:
    return next((link for link in page["links"] if link["rel"] == "next"), {})


def test_the_merged_body_of_a_next_link(server, undisturbed):
    def merge(page: Json, number: int) -> Json:
        if link := next_of(page):
            link |= {"merge": True, "body": {"token": link["body"]["token"]}}
        return page

    with faulty(server.address, lambda request: None, rewrite=edited(merge)) as proxy:
        assert scenes(f"{proxy.address}/") == undisturbed
        assert sum(map(is_search, proxy.requests)) > 2


def test_a_server_that_searches_by_get_alone(server, undisturbed):
    def rewrite(request: Request, answer: Answer) -> Answer:
        if request.path != "/":
            return answer
        root = json.loads(answer.content)
        root["links"] = [link for link in root["links"] if link.get("method") != "POST"]
        return Answer(answer.status, answer.headers, json.dumps(root).encode())

    with faulty(server.address, lambda request: None, rewrite=rewrite) as proxy:
        assert scenes(f"{proxy.address}/") == undisturbed
        pages = [request for request in proxy.requests if is_search(request)]
        assert {page.method for page in pages} == {"GET"}
        assert len(pages) > 2


class Circle:
    """Rewrites the pages of one search so that they never end."""

    def __init__(self) -> None:
        self.first: Json = {}

    def to_itself(self, page: Json, number: int) -> Json:
        """Page 2 links to page 2, with the very same request."""
        return self._linked_to_second(page, number, 1)

    def round(self, page: Json, number: int) -> Json:
        """Page 3, which is the last, links to page 2."""
        return self._linked_to_second(page, number, 2)

    def always_the_first(self, page: Json, number: int) -> Json:
        """The same page again and again, under a token that is new each time."""
        self.first = self.first or page
        again: Json = json.loads(json.dumps(self.first))
        next_of(again)["body"]["token"] = f"next:{number}"
        return again

    def _linked_to_second(self, page: Json, number: int, last: int) -> Json:
        self.first = self.first or page
        if number == last:
            page["links"] = [next_of(self.first)]
        return page


@pytest.mark.parametrize("name", ["to_itself", "round", "always_the_first"])
def test_a_circle_of_pages_is_refused(server, name):
    edit = getattr(Circle(), name)
    with faulty(server.address, lambda request: None, rewrite=edited(edit)) as proxy:
        with pytest.raises(InputRefusedError, match="its list cannot be read to its end") as error:
            scenes(f"{proxy.address}/")
        assert sum(map(is_search, proxy.requests)) < 10
    assert "\n" not in str(error.value)
    note_fault(PART, "page given again", Outcome.REFUSED)


def test_empty_pages_for_ever_end_the_search(server, undisturbed):
    """As of servers that link on as long as they are asked; but what follows one empty page is found."""

    def endless(page: Json, number: int) -> Json:
        if not page.get("features") or not next_of(page):
            page = {"type": "FeatureCollection", "features": page.get("features", []), "links": []}
            page["links"] = [
                {
                    "rel": "next",
                    "method": "POST",
                    "href": f"{proxy.address}/search",
                    "body": {"token": f"next:{number}"},
                }
            ]
        return page

    with faulty(server.address, lambda request: None, rewrite=edited(endless)) as proxy:
        assert scenes(f"{proxy.address}/") == undisturbed
    note_fault(PART, "empty pages without end", Outcome.EQUAL)

    def gap(page: Json, number: int) -> Json:
        return page | {"features": []} if number == 0 else page

    with faulty(server.address, lambda request: None, rewrite=edited(gap)) as proxy:
        found = scenes(f"{proxy.address}/")
    assert len(found) == SMALL - PAGE
    assert {scene.item_id for scene in found} < {scene.item_id for scene in undisturbed}
    note_fault(PART, "empty page in the middle", Outcome.EQUAL)


def _twice(page: Json, number: int) -> Json:
    page["features"] = [item for item in page["features"] for _ in range(2)]
    return page


def _shifted(page: Json, number: int) -> Json:
    """Items that came meanwhile move all others: some of one page are listed on the next again."""
    page["features"] = [an_item(7, "small"), an_item(8, "small"), *page["features"]]
    return page


def _elsewhere(page: Json, number: int) -> Json:
    """Items that were not asked for: of another collection, another place, another time."""
    strange = [
        an_item(7, "many", id="other"),
        an_item(
            7, "small", id="far", geometry={"type": "Point", "coordinates": [10, 10]}, bbox=[10, 10, 10, 10]
        ),
        an_item(7, "small", id="old", properties={"datetime": "1999-01-01T00:00:00Z"}),
    ]
    page["features"] = [*strange, *page["features"]]
    return page


def _odd(page: Json, number: int) -> Json:
    """Items that cannot be used, each in another way."""
    odd = [
        an_item(7, "small", id="no-assets", assets={}),
        an_item(7, "small", id="null-assets", assets=None),
        an_item(7, "small", id="null-asset", assets={"a": None}),
        an_item(7, "small", id="no-href", assets={"a": {"type": "image/tiff"}}),
        an_item(7, "small", id="null-geometry", geometry=None, bbox=None),
        an_item(7, "small", id="null-properties", properties=None),
        an_item(7, "small", id="words-for-links", links="none"),
        None,
        "item",
    ]
    odd[6]["assets"] = {}  # type: ignore[index]
    del odd[0]["assets"]  # type: ignore[union-attr]
    page["features"] = [*odd, *page["features"]]
    return page


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (_twice, "item listed twice"),
        (_shifted, "pages shift between requests"),
        (_elsewhere, "items that were not asked for"),
        (_odd, "items without assets, geometry or properties"),
    ],
)
def test_items_that_should_not_be_there_change_nothing(server, undisturbed, edit, fault):
    with faulty(server.address, lambda request: None, rewrite=edited(edit)) as proxy:
        assert scenes(f"{proxy.address}/") == undisturbed
        pages = sum(map(is_search, proxy.requests))
    note_fault(PART, fault, Outcome.EQUAL, times=pages)


def test_a_server_that_ignores_what_was_asked(server, undisturbed):
    """One page of everything, whatever limit, box, dates and collections were."""
    everything = [an_item(number, name) for name in ("small", "moving") for number in range(SMALL)]

    def ignore(page: Json, number: int) -> Json:
        return {"type": "FeatureCollection", "features": everything, "links": []}

    with faulty(server.address, lambda request: None, rewrite=edited(ignore)) as proxy:
        found = scenes(f"{proxy.address}/")
    assert {scene.item_id for scene in found} == {scene.item_id for scene in undisturbed}
    note_fault(PART, "limit, box, dates and collections ignored", Outcome.EQUAL)


def change(server: StacServer, statement: str, argument: str) -> None:
    names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password"}
    place: Any = {name: server.database[variable] for variable, name in names.items()}
    with psycopg.connect(**place, dbname=server.database["PGDATABASE"], autocommit=True) as connection:
        connection.execute("SET search_path TO pgstac, public")
        connection.execute(statement, [argument])


def test_items_that_vanish_and_appear_between_pages(server):
    """Whatever is there all the time is found, once."""
    query = Query(["moving"], (142, 42, 143, 43), (EVENT.post,))

    def ids(address: str) -> list[str]:
        return [record.item["id"] for record in read_catalog(f"{address}/", query, bound(address)).records]

    before = ids(server.address)
    assert len(before) == SMALL // 2
    gone, named = before[-1], before[PAGE - 1]

    def plan(request: Request) -> None:
        if is_search(request) and request.count == 1:
            change(server, "SELECT delete_item(%s, 'moving')", gone)
            new = an_item(3, "moving", id="moving-new")
            change(server, "SELECT create_item(%s::jsonb)", json.dumps(new))

    with faulty(server.address, plan) as proxy:
        found = ids(proxy.address)
    assert len(found) == len(set(found))
    assert set(before) - {gone} <= set(found) <= {*before, "moving-new"} - {gone}
    note_fault(PART, "items vanish and appear between pages", Outcome.EQUAL, times=2)

    # pgstac's token names the last item of a page: without it no next page comes, but a new search does.
    def vanish(request: Request) -> None:
        if is_search(request) and request.count == 1:
            change(server, "SELECT delete_item(%s, 'moving')", named)

    with (
        faulty(server.address, vanish) as proxy,
        pytest.raises(UnreachableError, match=r"too many 500 error responses.*run again"),
    ):
        ids(proxy.address)
    assert set(ids(server.address)) == {*before, "moving-new"} - {gone, named}
    note_fault(PART, "item that a page's token names vanishes", Outcome.REFUSED)


def bound(address: str) -> AddressPolicy:
    return POLICY.bound_to(f"{address}/")


@pytest.mark.parametrize("content", [b"<html>maintenance</html>", b'{"type": "FeatureColl', b""])
def test_a_page_that_is_no_json(server, undisturbed, content):
    """With HTTP 200 and the right length: for a moment, and for good."""

    def rewrite(request: Request, answer: Answer) -> Answer:
        if is_search(request) and 2 <= request.count < until:
            return Answer(200, [("Content-Type", "text/html")], content)
        return answer

    until = 4
    with faulty(server.address, lambda request: None, rewrite=rewrite) as proxy:
        assert scenes(f"{proxy.address}/") == undisturbed
    note_fault(PART, "no JSON with HTTP 200, passing", Outcome.EQUAL, times=2)
    until = sys.maxsize
    with (
        faulty(server.address, lambda request: None, rewrite=rewrite) as proxy,
        pytest.raises(UnreachableError, match=r"is not JSON; run again"),
    ):
        scenes(f"{proxy.address}/")
    note_fault(PART, "no JSON with HTTP 200, lasting", Outcome.REFUSED, times=4)


@pytest.mark.parametrize(
    "page",
    [
        {"type": "FeatureCollection", "features": None, "links": []},
        {"type": "FeatureCollection", "features": {"a": 1}},
        {"message": "internal error"},
    ],
)
def test_a_page_that_is_no_item_collection(server, page):
    with (
        faulty(server.address, lambda request: None, rewrite=edited(lambda *_: page)) as proxy,
        pytest.raises(InputRefusedError, match="page 1 has no list of features"),
    ):
        scenes(f"{proxy.address}/")
    note_fault(PART, "page without a list of items", Outcome.REFUSED)


@pytest.mark.parametrize(
    ("href", "said"),
    [
        (f"https://evil.example/search?token={TOKEN}", "--allow-host evil.example"),
        (f"http://169.254.169.254/latest?token={TOKEN}", "169.254.169.254, which is not the catalog's own"),
        (f"http://10.0.0.1/search?token={TOKEN}", "10.0.0.1, which is not the catalog's own host"),
        (f"http://user:{TOKEN}@127.0.0.1/search", "user name"),
        (f"file:///etc/passwd?token={TOKEN}", "no web address"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_next_link_to_another_place_is_refused(server, href, said, method):
    def lead_away(page: Json, number: int) -> Json:
        if link := next_of(page):
            link |= {"href": href, "method": method, "body": {"token": TOKEN}}
        return page

    with (
        faulty(server.address, lambda request: None, rewrite=edited(lead_away)) as proxy,
        pytest.raises(CoseisError, match=said) as error,
    ):
        scenes(f"{proxy.address}/")
    assert error.value.exit_code == 42
    assert TOKEN not in str(error.value)
    note_fault(PART, "next link to another place", Outcome.REFUSED)


def test_a_token_in_a_next_link_is_never_shown(server):
    def secret(page: Json, number: int) -> Json:
        if link := next_of(page):
            link |= {"href": f"{proxy.address}/search?token={TOKEN}", "method": "GET"}
        return page

    def plan(request: Request) -> Fault | None:
        return Fault.STATUS_503 if TOKEN in request.path else None

    with (
        faulty(server.address, plan, rewrite=edited(secret)) as proxy,
        pytest.raises(UnreachableError, match=r"/search does not answer .*run again") as error,
    ):
        scenes(f"{proxy.address}/")
    assert TOKEN not in str(error.value)
    note_fault(PART, "HTTP 503, lasting", Outcome.REFUSED, times=len(proxy.injected))


def test_a_search_has_an_end(server, monkeypatch):
    monkeypatch.setattr("coseis.stac_io.SEARCH_S", -1)
    with pytest.raises(UnreachableError, match="takes longer than -1 s; run again"):
        scenes(server.address)


def test_ten_thousand_items_are_found_once_and_in_order(server, monkeypatch):
    monkeypatch.setattr("coseis.addresses.READ_TIMEOUT_S", 60)
    monkeypatch.setattr(catalogs, "PAGE_ITEMS", 250)
    always = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
    query = Query(["many"], (141, 41, 144, 44), (always,))
    by_time = sorted(range(MANY), key=lambda n: an_item(n, "many")["properties"]["datetime"], reverse=True)
    faults = [Fault.STATUS_429, Fault.STATUS_503, Fault.RESET, Fault.TRUNCATED, Fault.TOO_SHORT]
    with faulty(server.address, seeded(1, 0.3, faults, most=100)) as proxy:
        disturbed = read_catalog(f"{proxy.address}/", query, bound(proxy.address)).records
    assert [record.item["id"] for record in disturbed] == [f"many-{number:05}" for number in by_time]
    assert len(proxy.injected) > 5
    note_fault(PART, "any, at random moments of 10,000 items", Outcome.EQUAL, times=len(proxy.injected))
