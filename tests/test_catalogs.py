import json
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from coseis import catalogs, stac_io
from coseis.addresses import AddressPolicy, host_of
from coseis.catalogs import Query, catalog_address, read_catalog
from coseis.errors import InputRefusedError, UnreachableError
from serving import Page, serve

WINDOW = (datetime(2018, 1, 1, tzinfo=UTC), datetime(2018, 12, 31, tzinfo=UTC))
EVERYTHING = Query((), (-180.0, -90.0, 180.0, 90.0), (WINDOW,))
ITEM_SEARCH = "https://api.stacspec.org/v1.0.0/item-search"


def read(catalog: str, query: Query = EVERYTHING):
    address = catalog_address(catalog)
    return read_catalog(address, query, AddressPolicy(catalog=address))


def ids(content) -> list[str]:
    return [record.item["id"] for record in content.records]


def item(item_id: str, collection: str | None = None, **more) -> dict:
    return {"type": "Feature", "id": item_id, "collection": collection, "assets": {}, **more}


def link(rel: str, href: str, **more) -> dict:
    return {"rel": rel, "href": href, **more}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("coseis.stac_io.RETRY_DELAY_S", 0.0)


@pytest.fixture
def tree(tmp_path) -> Path:
    """A catalog of collections `a` (two items, one in a file of several) and `b` (one item)."""
    documents = {
        "catalog.json": {"type": "Catalog", "links": [link("child", "a/a.json"), link("child", "b/b.json")]},
        "a/a.json": {
            "type": "Collection",
            "id": "a",
            "license": "other",
            "links": [
                {},
                link("item", "1.json"),
                link("items", "more.json"),
                link("parent", "../catalog.json"),
            ],
        },
        "a/1.json": item("a1", links=[link("self", "https://elsewhere.example/a1.json")]),
        "a/more.json": {
            "type": "FeatureCollection",
            "features": [item("a2", "a", links=[link("self", "https://elsewhere.example/a2.json")])],
            "links": [link("next", "https://elsewhere.example/page2")],
        },
        "b/b.json": {
            "type": "Collection",
            "id": "b",
            "links": [link("item", "./1.json"), link("item", "./1.json")],
        },
        "b/1.json": item("b1", "b"),
    }
    for name, document in documents.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    return tmp_path / "tree"


def test_walk_gives_each_item_once_in_the_order_of_links(tree):
    for name in (str(tree), str(tree / "catalog.json"), (tree / "catalog.json").as_uri()):
        content = read(name)
        assert ids(content) == ["a1", "a2", "b1"]
        assert content.refused == []
    a1, a2, b1 = content.records
    # A file is where it lies, whatever its self link says of the place it was published at.
    assert a1.address == str((tree / "a" / "1.json").resolve())
    assert a2.address == "https://elsewhere.example/a2.json"
    assert a1.collection["license"] == "other"
    assert b1.collection["id"] == "b"


def test_walk_of_one_collection_reads_no_other_item(tree):
    (tree / "b" / "1.json").write_text("not read")
    assert ids(read(str(tree), EVERYTHING._replace(collections=["a"]))) == ["a1", "a2"]


def test_walk_over_http_is_the_same_and_follows_pages(tree):
    pages = {
        f"/{path.relative_to(tree)}": Page(json.loads(path.read_text())) for path in tree.rglob("*.json")
    }
    more = pages["/a/more.json"].body
    more["links"] = [link("next", "page2.json")]
    pages["/a/page2.json"] = Page({"type": "FeatureCollection", "features": [item("a3", "a")]})
    with serve(pages) as root:
        content = read(f"{root}/catalog.json")
    assert ids(content) == ["a1", "a2", "b1", "a3"]
    assert content.records[0].address == f"{root}/a/1.json"


def test_links_that_lead_nowhere_are_listed(tree):
    document = {
        "type": "Catalog",
        "links": [
            link("item", "a/1.json"),
            link("item", "a/none.json"),
            link("item", "/etc/passwd"),
            link("child", "https://evil.example/catalog.json"),
        ],
    }
    (tree / "catalog.json").write_text(json.dumps(document))
    content = read(str(tree))
    assert ids(content) == ["a1"]
    reasons = {refused.item_id: refused.reason for refused in content.refused}
    assert "No such file" in reasons["a/none.json"]
    assert "outside the catalog's folder" in reasons["etc/passwd"]
    assert "--allow-host evil.example" in reasons["evil.example/catalog.json"]


def test_endless_catalog_is_refused(tree, monkeypatch):
    monkeypatch.setattr(catalogs, "MAX_DOCUMENTS", 3)
    with pytest.raises(InputRefusedError, match="more than 3 documents; narrow the search"):
        read(str(tree))


def test_unknown_collection_names_the_known(tree):
    with pytest.raises(InputRefusedError, match=r"no collection B, c; it has: a, b\. Did you mean b\?"):
        read(str(tree), EVERYTHING._replace(collections=["a", "B", "c"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read .No such file"),
        ("<html>", "is not JSON; expected a STAC API"),
        ("[1]", "holds a JSON list"),
        ('{"type": "Topology"}', "is no STAC catalog: its type is 'Topology'"),
        ("{}", "its type is None"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_no_catalog(tmp_path, content, message):
    path = tmp_path / "catalog.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputRefusedError, match=message):
        read(str(path))


def test_other_schemes_are_refused():
    with pytest.raises(InputRefusedError, match="starts with s3://; expected http, https or a path"):
        catalog_address("s3://bucket/catalog.json")


@pytest.mark.parametrize(
    ("page", "error", "message"),
    [
        (Page("<html>hello</html>"), InputRefusedError, r"/ \(text/html\) is not JSON"),
        (Page("gone", 404), InputRefusedError, "answers HTTP 404; is the address right"),
        (Page("who?", 401), InputRefusedError, r"denies access \(HTTP 401\)$"),
        (Page("later", 503), UnreachableError, "does not answer .too many 503.*; run again"),
        (Page("", 302, "http://127.0.0.1:9/"), InputRefusedError, "--allow-host 127.0.0.1:9"),
        (Page("", 302, "file:///etc/passwd"), InputRefusedError, "is no web address"),
        (Page("", 302, "/"), InputRefusedError, "redirected more than"),
    ],
)
def test_bad_answers(monkeypatch, page, error, message):
    monkeypatch.setattr("coseis.addresses.RETRY_DELAY_S", 0.0)
    with serve({"/": page}) as root, pytest.raises(error, match=message):
        read(f"{root}/")


def test_larger_than_any_catalog(monkeypatch):
    monkeypatch.setattr(stac_io, "MAX_DOCUMENT_BYTES", 2**20)
    with (
        serve({"/": Page({"x": "x" * 2**21})}) as root,
        pytest.raises(InputRefusedError, match="larger than 1 MiB"),
    ):
        read(f"{root}/")


def test_closed_port(monkeypatch):
    monkeypatch.setattr("coseis.addresses.RETRY_DELAY_S", 0.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UnreachableError, match=f"http://127.0.0.1:{port}/ does not answer .*refused"):
        read(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    ("catalog", "url", "sent"),
    [
        ("https://api.planet.com/x/stac/v1/", "https://api.planet.com/x/stac/v1/search", True),
        ("https://api.planet.com/x/stac/v1/", "http://api.planet.com/x/stac/v1/search", False),
        ("https://api.planet.com/x/stac/v1/", "https://elsewhere.example/search", False),
        ("https://elsewhere.example/", "https://api.planet.com/x/stac/v1/search", False),
    ],
)
def test_planet_key_goes_to_planet_only(monkeypatch, catalog, url, sent):
    monkeypatch.setenv("PL_API_KEY", "s3cret")
    request = requests.Request("GET", url, auth=catalogs._PlanetKey(host_of(catalog))).prepare()
    assert ("Authorization" in request.headers) == sent


def api_root() -> dict:
    return {
        "type": "Catalog",
        "id": "api",
        "description": "",
        "stac_version": "1.0.0",
        "conformsTo": [ITEM_SEARCH, "https://api.stacspec.org/v1.0.0/collections"],
        "links": [link("search", "", type="application/geo+json")],
    }


def test_api_that_breaks_off_in_a_search():
    pages = {"/": Page(api_root())}
    query = (
        "/search?limit=250&bbox=-180.0%2C-90.0%2C180.0%2C90.0"
        "&datetime=2018-01-01T00%3A00%3A00Z%2F2018-12-31T00%3A00%3A00Z"
    )
    with serve(pages) as root:
        pages["/"].body["links"][0]["href"] = f"{root}/search"
        with pytest.raises(InputRefusedError, match="answers HTTP 404"):
            read(f"{root}/")
        pages[query] = Page("<html>")
        with pytest.raises(UnreachableError, match=r"/search \(text/html\) is not JSON; run again"):
            read(f"{root}/")
        pages[query] = Page("", 302, "http://127.0.0.1:9/")
        with pytest.raises(InputRefusedError, match=r"--allow-host 127\.0\.0\.1:9"):
            read(f"{root}/")
        page = {
            "type": "FeatureCollection",
            "features": [item("x")],
            "links": [link("next", f"{root}/page2")],
        }
        pages[query] = Page(page)
        pages["/page2"] = Page({"type": "FeatureCollection", "features": [item("y")], "links": []})
        assert ids(read(f"{root}/")) == ["x", "y"]
        pages["/page2"] = Page("", 302, "http://127.0.0.1:9/")
        with pytest.raises(InputRefusedError, match=r"--allow-host 127\.0\.0\.1:9"):
            read(f"{root}/")
