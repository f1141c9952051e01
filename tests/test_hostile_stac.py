"""Catalogs that strangers made: no file is read and no server asked that was not allowed, one clear line."""

import contextlib
import copy
import gzip
import json
import math
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coseis import stac_io
from coseis.addresses import AddressPolicy
from coseis.dem_search import find_dem
from coseis.errors import CoseisError, InputRefusedError, UnreachableError
from coseis.event import Event
from coseis.items import MAX_ID
from coseis.search import SearchFilters, search_items
from fault_log import Outcome, note_fault
from making import EVENT_TIME, area_of
from serving import Page, serve
from test_catalogs import EVERYTHING, api_root, link, read
from test_cli import GRID, coseis, files, job, no_workers  # noqa: F401

SECRET = "canary-4711"
AREA = area_of(GRID, inset_px=8)
EVENT = Event(time=EVENT_TIME, aoi=AREA)


class Forbidden(NamedTuple):
    """A server on loopback that no catalog may reach."""

    port: int
    asked: list[str]


@contextmanager
def forbidden_server() -> Iterator[Forbidden]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SECRET.encode())

        do_POST = do_HEAD = do_PUT = do_DELETE = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Forbidden(server.server_port, asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


HREFS = [
    "{secret}", "file://{secret}", "FILE:{secret}", "file://localhost{secret}", "file://elsewhere/etc/passwd",
    "../../../../../../../../{secret}", "..%2f..%2f{secret}", "~/secret.tif", "~nosuchuser/x.tif",
    "/vsicurl/http://127.0.0.1:{port}/x.tif", "/vsizip/{secret}", "/vsimem/x.tif", "/vsistdin/",
    "/vsisubfile/0_100,{secret}", "/vsicached?file={secret}", "/VSICURL/http://127.0.0.1:{port}/x.tif",
    "vrt://{secret}", "VRT://http://127.0.0.1:{port}/x.tif", "GTIFF_DIR:1:{secret}", "GTIFF_RAW:{secret}",
    "NETCDF:{secret}:x", "HDF5:{secret}://x",
    "<VRTDataset><SourceFilename>{secret}</SourceFilename></VRTDataset>",
    "data:image/tiff;base64,SUkqAA==", "javascript:alert(1)", "ftp://127.0.0.1:{port}/x.tif",
    "gopher://127.0.0.1:{port}/x", "jar:file://{secret}!/x", "zip+https://127.0.0.1:{port}/x.zip",
    "http://127.0.0.1:{port}/x.tif", "http://localhost:{port}/x.tif", "//127.0.0.1:{port}/x.tif",
    "http://2130706433:{port}/x.tif", "http://0177.0.0.1:{port}/x.tif", "http://0x7f.0.0.1:{port}/x.tif",
    "http://0x7f000001:{port}/x.tif", "http://127.1:{port}/x.tif", "http://0:{port}/x.tif",
    "http://[::1]:{port}/x.tif", "http://[::ffff:127.0.0.1]:{port}/x.tif",
    "http://[::ffff:7f00:1]:{port}/x.tif",
    "http://[0:0:0:0:0:ffff:127.0.0.1]:{port}/x.tif", "http://[64:ff9b::127.0.0.1]:{port}/x.tif",
    "http://127\u30020\u30020\u30021:{port}/x.tif", "http://\u2460\u2461\u2466.0.0.1:{port}/x.tif",
    "http://localhost.:{port}/x.tif", "http://LOCALHOST:{port}/x.tif",
    "http://127.0.0.1%00.example.org:{port}/x.tif",
    "http://169.254.169.254/latest/meta-data/", "http://[fe80::1%25eth0]:{port}/x.tif",
    "http://[fd00::1]/x.tif",
    "http://metadata.google.internal/computeMetadata/v1/", "http://10.0.0.1/x.tif", "http://100.64.0.1/x.tif",
    "http://user:pw@127.0.0.1:{port}/x.tif", "{root}@127.0.0.1:{port}/x.tif",
    "{root}\\@127.0.0.1:{port}/x.tif",
    "{root}#@127.0.0.1:{port}/", "http://127.0.0.1:{port}\\.example.org/x.tif",
    "http:\\\\127.0.0.1:{port}\\x.tif",
    "http:///127.0.0.1:{port}/x.tif", "http:127.0.0.1:{port}/x.tif", "\thttp://127.0.0.1:{port}/x.tif",
    "http://127.0.0.1:{port}/x.tif\r\nX-Evil: 1", "ht\ntp://127.0.0.1:{port}/x.tif",
    "http://127.0.0.1:{port}/\0.tif",
    "http://[", "http://[::1", "http://127.0.0.1:99999/x.tif", "http://127.0.0.1:port/x.tif", "http://",
    "://", ":",
    "s3://bucket/x.tif", "s3:bucket", "s3://", "gs://../x", "az://c/../../x.tif", "s3://a@b/x.tif",
    "\ud800.tif", "a" * 100_000, "x.tif\x1b[2J", "\u202ex.tif", "CON", "", " ", ".", "..", "?x", "#x",
]  # fmt: skip


def feature(href: Any = "./post.tif", **more: Any) -> dict[str, Any]:
    asset = {"href": href, "type": "image/tiff", "pl:asset_type": "ortho_visual"}
    return {
        "type": "Feature", "id": "post", "collection": "PSScene", "geometry": AREA,
        "properties": {"datetime": EVENT_TIME.replace(month=10).isoformat(), "gsd": 3},
        "assets": {"a": asset}, "links": [],
    } | more  # fmt: skip


def asked(href: Any, **more: Any) -> dict[str, Any]:
    return link("search", href, type="application/geo+json", **more)


def words_of(job: Any, *more: object, **changes: object) -> list[object]:  # noqa: F811
    """`coseis search` for what the job maps."""
    return [
        "search",
        *job.words("--allow-missing-pre", *more, out=None, core=None, min_area=None, **changes)[1:],
    ]


@pytest.mark.parametrize("href", HREFS, ids=lambda href: ascii(href)[:40])
@pytest.mark.parametrize("place", ["http", "file"])
@pytest.mark.usefixtures("no_workers")
def test_no_href_of_an_asset_is_followed(coseis, job, href, place):  # noqa: F811
    secret = job.folder / "private" / "secret.tif"
    secret.parent.mkdir()
    secret.write_bytes((job.folder / "event" / "post.tif").read_bytes() + SECRET.encode())
    document: dict[str, Any] = {"type": "FeatureCollection", "features": []}
    with forbidden_server() as forbidden, serve({"/items.json": Page(document)}) as root:
        full = href.format(secret=secret, port=forbidden.port, root=root) if "{" in href else href
        document["features"] = [feature(full)]
        catalog: object = f"{root}/items.json"
        if place == "file":
            catalog = job.folder / "event" / "hostile.json"
            Path(str(catalog)).write_text(json.dumps(document))
        searched = coseis(*words_of(job, catalog=catalog))
        if searched.code == 0:
            # A relative name of the catalog's own host or folder: there is nothing there.
            host = "file" if place == "file" else root.removeprefix("http://")
            assert searched.out.splitlines()[-1] == f"assets lie on: {host}"
        else:
            searched.refused(42)
        mapped = coseis(*job.words("--allow-missing-pre", catalog=catalog)).refused(42)
    assert forbidden.asked == []
    assert SECRET not in mapped + searched.out + searched.err
    assert not files(job.out)


@pytest.mark.parametrize("href", [href for href in HREFS if href.strip()], ids=lambda href: ascii(href)[:40])
def test_no_link_of_a_catalog_is_followed(tmp_path, href):
    secret = tmp_path / "private" / "secret.json"
    secret.parent.mkdir()
    secret.write_text(json.dumps(feature(id=SECRET)))
    document: dict[str, Any] = {"type": "Catalog", "links": []}
    (tmp_path / "catalog").mkdir()
    with forbidden_server() as forbidden, serve({"/catalog.json": Page(document)}) as root:
        full = href.format(secret=secret, port=forbidden.port, root=root) if "{" in href else href
        document["links"] = [link(rel, full) for rel in ("item", "child", "items", "next")]
        local = tmp_path / "catalog" / "catalog.json"
        local.write_text(json.dumps(document))
        for catalog in (f"{root}/catalog.json", str(local)):
            with contextlib.suppress(CoseisError):
                content = read(catalog)
                assert content.records == []
    assert forbidden.asked == []


@pytest.mark.parametrize(
    "hostile",
    [
        {"links": [asked("{secret}")]},
        {"links": [asked("file://{secret}")]},
        {"links": [asked("http://127.0.0.1:{port}/search")]},
        {"links": [asked("http://127.0.0.1:{port}/search", method="POST")]},
        {"links": [asked("{root}/search"), link("data", "{secret}")]},
        {"links": [asked("{root}/to-secret")]},
        {"links": [asked("{root}/to-file")]},
        {"links": [asked("{root}/to-server")]},
        {"links": [asked("{root}/deletes")]},
        {"links": [asked(["{secret}"]), 3, None]},
        {"links": [{"rel": "search"}]},
        {"links": [{"rel": {"a": 1}, "href": 3, "method": ["GET"]}, asked("{root}/search")]},
        {"links": [asked("{root}/search")], "conformsTo": ["item-search", 3, {}]},
        {"links": [asked("{root}/search")], "stac_extensions": 7, "id": {"a": 1}},
    ],
    ids=lambda hostile: json.dumps(hostile)[:60],
)
def test_no_api_makes_us_read_a_file_or_ask_elsewhere(tmp_path, hostile, monkeypatch):
    monkeypatch.setattr("coseis.addresses.RETRIES", 0)
    secret = tmp_path / "secret.json"
    secret.write_text(
        json.dumps({"type": "FeatureCollection", "features": [feature(id=SECRET)], "links": []})
    )
    pages: dict[str, Page] = {}
    with forbidden_server() as forbidden, serve(_ByPath(pages)) as root:

        def filled(value: Any) -> Any:
            text = json.dumps(value)
            for name, to in (("secret", str(secret)), ("port", str(forbidden.port)), ("root", root)):
                text = text.replace("{" + name + "}", to)
            return json.loads(text)

        pages["/"] = Page(filled(api_root() | hostile))
        page = {"type": "FeatureCollection", "features": [feature(id="first")]}
        for name, href in (("secret", str(secret)), ("file", f"file://{secret}"),
                           ("server", f"http://127.0.0.1:{forbidden.port}/x")):  # fmt: skip
            pages[f"/to-{name}"] = Page(page | {"links": [link("next", href)]})
        pages["/deletes"] = Page(page | {"links": [link("next", f"{root}/search", method="DELETE")]})
        with contextlib.suppress(InputRefusedError, UnreachableError):
            assert SECRET not in [record.item["id"] for record in read(f"{root}/").records]
    assert forbidden.asked == []


class _ByPath(dict[str, Page]):
    """Pages by their path, whatever the query."""

    def __init__(self, pages: dict[str, Page]) -> None:
        super().__init__()
        self._pages = pages

    def get(self, path: str, default: Page | None = None) -> Page:
        return self._pages.get(path.split("?")[0]) or Page("not here", 404)


IDS = ["../../outside", "/etc/passwd", "a/b", "..", "C:\\x", "a\0b", "a\nb", "\x1b]0;x\x07", "x" * 10_000, "",
       "\ud800", "\u202etxt.exe", None, 7, True, ["a"], {"a": 1}, "a,b", "$\\frac{", "<b>x</b>", "%s%n",
       "{0.__class__}", "[red]x[/red]"]  # fmt: skip


@pytest.mark.parametrize("item_id", IDS, ids=lambda value: ascii(value)[:30])
@pytest.mark.usefixtures("no_workers")
def test_ids_make_no_names_and_no_lines(coseis, job, item_id):  # noqa: F811
    items = job.folder / "event" / "items.json"
    document = json.loads(items.read_text())
    document["features"][1]["id"] = item_id
    document["features"].append(feature(id="good", collection=item_id))
    items.write_text(json.dumps(document))
    before = files(job.folder)
    found = coseis(*words_of(job))
    assert found.code == 0, found
    assert all(line.isprintable() for line in found.out.splitlines())
    assert max(map(len, found.out.splitlines())) < 2 * MAX_ID + 200
    assert files(job.folder) == before


GEOMETRIES: list[Any] = [
    None, {}, [], 3, "POLYGON((0 0,1 1,1 0,0 0))", {"type": "Polygon"}, {"type": "Polygon",
    "coordinates": []},
    {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, {"type": "Polygon", "coordinates": [[["a",
    "b"]] * 4]},
    {"type": "Polygon", "coordinates": [[[math.nan, 0], [1, 1], [1, 0], [math.nan, 0]]]},
    {"type": "Polygon", "coordinates": [[[1e308, 0], [1e308, 1e308], [0, 1e308], [1e308, 0]]]},
    {"type": "Polygon", "coordinates": [[[10**400, 0], [1, 1], [1, 0], [0, 0]]]},
    {"type": "Point", "coordinates": [0, 0]}, {"type": "Feature", "geometry": AREA},
    {"type": "GeometryCollection", "geometries": [AREA]}, {"type": "GeometryCollection",
    "geometries": [{}] * 3},
    {"type": "Polygon", "coordinates": json.loads("[" * 500 + "]" * 500)},
    {"type": "Polygon", "coordinates": {"0": 1}}, {"type": ["Polygon"], "coordinates": [[]]},
]  # fmt: skip
BOXES: list[Any] = [None, [], [1, 2, 3], ["a"] * 4, [math.nan] * 4, [10**400] * 4, [-1e308, -1e308, 1e308,
                    1e308],
                    {"a": 1}, "1,2,3,4", [[1], [2], [3], [4]], [0] * 100_000]  # fmt: skip
TIMES: list[Any] = ["", "yesterday", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", 20180911,
                    1e400,
                    "2018-10-05T00:00:00Z" * 1000, ["2018"], {"a": 1}, True,
                    "2018-13-45T99:99:99Z"]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        *({"geometry": geometry} for geometry in GEOMETRIES),
        *({"geometry": None, "bbox": box} for box in BOXES),
        *({"properties": {"datetime": time}} for time in TIMES),
        *({"properties": {"start_datetime": time, "end_datetime": time}} for time in TIMES),
        *({"properties": value} for value in (None, [], "x", 3)),
        *(
            {"assets": value}
            for value in (None, [], "x", 3, {"a": None}, {"a": []}, {"a": "x"}, [{}], [["x"]])
        ),
        *({"links": value} for value in (None, {}, "x", [None], [{"rel": {}}], [link("self", "http://[")])),
    ],
    ids=lambda change: ascii(change)[:60],
)
def test_odd_fields_leave_an_item_out_and_no_more(tmp_path, change):
    path = tmp_path / "items.json"
    odd = feature(id="odd") | change
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [odd, feature()]}))
    found = search_items(str(path), EVENT, allow_missing_pre=True)
    assert "post" in [scene.item_id for scene in found.scenes]
    assert found.model_validate_json(found.model_dump_json()) == found


def test_a_footprint_of_countless_vertices_is_left_out(tmp_path):
    ring = [[141.9 + 0.1 * math.cos(t / 3000), 42.7 + 0.1 * math.sin(t / 3000)] for t in range(20_000)]
    big = feature(id="big", geometry={"type": "Polygon", "coordinates": [[*ring, ring[0]]]})
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [big, feature()]}))
    found = search_items(str(path), EVENT, allow_missing_pre=True)
    assert [scene.item_id for scene in found.scenes] == ["post"]


def test_links_in_a_circle_end(tmp_path):
    documents = {
        "a.json": {"type": "Catalog", "links": [link("child", "b.json"), link("child", "./a.json")]},
        "b.json": {"type": "Catalog", "links": [link("child", "a.json"), link("item", "i.json")]},
        "i.json": feature(),
    }
    for name, document in documents.items():
        (tmp_path / name).write_text(json.dumps(document))
    assert [record.item["id"] for record in read(str(tmp_path / "a.json")).records] == ["post"]


def test_links_of_the_file_system_in_a_circle_end(tmp_path):
    (tmp_path / "loop.json").symlink_to(tmp_path / "pool.json")
    (tmp_path / "pool.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "a.json").write_text(json.dumps({"type": "Catalog", "links": [link("item", "loop.json")]}))
    content = read(str(tmp_path / "a.json"))
    assert content.records == []
    assert len(content.refused) == 1


def test_a_catalog_that_never_ends_is_given_up(monkeypatch):
    """Each page names another; none holds an item."""
    monkeypatch.setattr(stac_io, "MAX_DOCUMENTS", 50)
    count = iter(range(10_000))

    class Endless(dict[str, Page]):
        def get(self, path: str, default: Page | None = None) -> Page:
            return Page({"type": "Catalog", "links": [link("child", f"{next(count)}.json")]})

    with serve(Endless()) as root, pytest.raises(InputRefusedError, match="more than 50 documents"):
        read(f"{root}/catalog.json")
    assert next(count) < 60


def test_an_api_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(stac_io, "MAX_DOCUMENTS", 50)
    count = iter(range(10_000))
    pages: dict[str, Page] = {}

    class Endless(dict[str, Page]):
        def get(self, path: str, default: Page | None = None) -> Page:
            if path.split("?")[0] in pages:
                return pages[path.split("?")[0]]
            number = next(count)
            more = [link("next", f"{pages['root'].body}/page{number}")]
            item = feature(collection=None, id=f"post-{number}")
            return Page({"type": "FeatureCollection", "features": [item], "links": more})

    with serve(Endless()) as root:
        pages["root"] = Page(root)
        pages["/"] = Page(api_root() | {"links": [asked(f"{root}/search")]})
        with pytest.raises(InputRefusedError, match="more than 50 documents"):
            read(f"{root}/")


def deep(depth: int) -> str:
    return '{"type": "Catalog", "links": ' + '{"a":' * depth + "1" + "}" * depth + "}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (deep(100_000), "nested too deeply"),
        (deep(100), None),
        ('{"type": "Catalog", "type": "FeatureCollection", "features": [], "features": 7}', None),
        ('{"type": "Catalog", "links": ' + "9" * 5000 + "}", "no JSON"),
        ('{"type": "Catalog", "links": ' + "9" * 4000 + "}", None),
        ('{"type": "Catalog", "id": "\\ud800"}', None),
        ('{"type": "Catalog", "links": NaN}', None),
        ('{"type": {"a": 1}}', "no STAC catalog"),
        ('{"type": "Catalog"', "is not JSON"),
        ("\ufeff{}", "no STAC catalog"),
        ("\x00\x01", "is not JSON"),
        ("null", "holds a JSON NoneType"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_odd_documents_are_refused_in_a_line(tmp_path, text, said):
    path = tmp_path / "catalog.json"
    path.write_text(text, encoding="utf-8")
    if said is None:
        assert read(str(path)).records == []
    else:
        with pytest.raises(InputRefusedError, match=said):
            read(str(path))


PEAK = """
import resource, sys
from coseis import stac_io
from coseis.addresses import AddressPolicy
from coseis.catalogs import read_catalog
from coseis.errors import CoseisError
from test_catalogs import EVERYTHING
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(len(read_catalog(sys.argv[1], EVERYTHING, AddressPolicy(catalog=sys.argv[1])).records))
except CoseisError as error:
    print(str(error)[:300])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def squeezed(count: int, unit: bytes, before: bytes, after: bytes) -> bytes:
    """A document of `count` MiB of one text, as gzip sends it."""
    out = gzip.compress(before)
    many = gzip.compress(unit * (2**20 // len(unit)), compresslevel=9)
    return out + many * count + gzip.compress(after)


@contextmanager
def encoded(body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/catalog.json"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
    ("body", "said", "most_mib"),
    [
        (squeezed(4000, b" ", b'{"type": "Catalog",', b"}"), "is larger than 256 MiB", 700),
        (squeezed(200, b"[],", b'{"type": "Catalog", "links": [', b"[]]}"), "would take more than", 700),
    ],
    ids=["gzip bomb", "lists"],
)
def test_memory_is_bounded_whatever_an_answer_unpacks_to(body, said, most_mib):
    assert len(body) < 2**23
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["src", "tests", *sys.path])}
    with encoded(body) as address:
        done = subprocess.run(
            [sys.executable, "-c", PEAK, address], capture_output=True, text=True, check=True, env=environment
        )
    message, peak = done.stdout.splitlines()
    assert said in message
    assert int(peak) < most_mib, peak
    note_fault("hostile input", "document that fills the memory", Outcome.REFUSED)


def test_a_server_that_drips_is_given_up(monkeypatch):
    monkeypatch.setattr(stac_io, "DOCUMENT_S", 0.2)
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                while not ended.wait(0.02):
                    self.wfile.write(b" ")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with pytest.raises(UnreachableError, match=r"takes longer than 0 s; run again"):
            read(f"http://127.0.0.1:{server.server_port}/catalog.json")
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["http://[", "file:///etc/passwd", "\ud800", "x" * 9000, 10**400,
    "2018-10-01T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.copy(document)
    changed[path[0]] = replaced(document[path[0]], path[1:], value)
    return changed


@st.composite
def mutated(draw: st.DrawFn, documents: list[Any]) -> Any:
    """A document with up to three of its values replaced by anything."""
    document = draw(st.sampled_from(documents))
    for _ in range(draw(st.integers(1, 3))):
        document = replaced(document, draw(st.sampled_from(list(places(document)))), draw(JSON))
    return document


def full_feature() -> dict[str, Any]:
    bands = [{"name": n, "eo:common_name": n, "data_type": "uint8"} for n in ("red", "green", "blue")]
    reflectance = [{"common_name": n, "scale": 1e-4, "offset": 0} for n in ("blue", "green", "red", "nir")]
    item = feature("./a.tif")
    item["assets"]["b"] = {"href": "b.tif", "roles": ["data"], "bands": bands, "type": "image/tiff"}
    item["assets"]["c"] = {"href": "c.tif", "roles": ["reflectance"], "eo:bands": reflectance,
                           "raster:bands": [{"scale": 1e-4, "nodata": 0}] * 4}  # fmt: skip
    item["properties"] |= {"providers": [{"name": "A"}], "license": "x", "eo:cloud_cover": 3.0,
                           "view:sun_azimuth": 100, "pl:quality_category": "standard"}  # fmt: skip
    return item


CATALOGS: list[Any] = [
    {"type": "FeatureCollection", "features": [full_feature()], "links": [link("next", "x.json")]},
    full_feature(),
    {
        "type": "Collection",
        "id": "a",
        "license": "x",
        "providers": [{"name": "P"}],
        "links": [link("item", "i.json")],
    },
    api_root(),
]


def search_all(path: Path, kinds: tuple[Any, ...]) -> None:
    with contextlib.suppress(CoseisError):
        found = search_items(str(path), EVENT, filters=SearchFilters(kinds=kinds), allow_missing_pre=True)
        assert found.model_validate_json(found.model_dump_json()) == found
    with contextlib.suppress(CoseisError):
        find_dem(str(path), AREA)


@given(mutated(CATALOGS), st.sampled_from([("display",), ("reflectance",), ("display", "reflectance")]))
def test_whatever_a_catalog_holds_only_our_errors_come_out(tmp_path_factory, document, kinds):
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps(document))
    search_all(path, kinds)


@pytest.mark.slow
def test_real_items_bent_at_random_raise_only_our_errors(real_data, tmp_path):
    values = [
        None,
        [],
        {},
        -1,
        1e400,
        "http://[",
        "\ud800",
        [None],
        [{}],
        {"a": []},
        True,
        "x" * 10_000,
        10**400,
    ]
    paths = sorted((real_data / "planet_stac").rglob("*.json"))
    documents = [json.loads(path.read_text()) for path in paths if path.stat().st_size < 200_000]
    items = [
        document for document in documents if isinstance(document, dict) and document.get("type") == "Feature"
    ]
    assert items
    rng = random.Random(0)
    for number in range(600):
        document = rng.choice(items)
        document = document | {"geometry": AREA, "links": []}
        for _ in range(rng.randint(1, 3)):
            document = replaced(document, rng.choice(list(places(document))), rng.choice(values))
        path = tmp_path / "item.json"
        path.write_text(json.dumps(document))
        search_all(path, ("reflectance", "display") if number % 2 else ("display",))


def answers(root: str) -> list[Any]:
    page = {
        "type": "FeatureCollection",
        "features": [feature(collection="c")],
        "links": [link("next", f"{root}/end")],
    }
    extent = {"spatial": {"bbox": [[0, 0, 1, 1]]}, "temporal": {"interval": [[None, None]]}}
    collection = {"type": "Collection", "id": "c", "stac_version": "1.0.0", "description": "", "license": "x",
                  "links": [], "extent": extent}  # fmt: skip
    links = [asked(f"{root}/search"), link("data", f"{root}/collections")]
    return [api_root() | {"links": links}, page, collection, {"collections": [collection], "links": []}]


def test_whatever_an_api_answers_only_our_errors_come_out():
    pages: dict[str, Page] = {}
    with serve(_ByPath(pages)) as root:
        names = ["/", "/search", "/collections/c", "/collections"]
        good = answers(root)

        @settings(max_examples=30)
        @given(st.sampled_from(range(4)), st.data(), st.sampled_from([(), ("c",)]))
        def check(number: int, data: st.DataObject, collections: tuple[str, ...]) -> None:
            pages.update(zip(names, map(Page, good), strict=True))
            pages[names[number]] = Page(data.draw(mutated([good[number]])))
            with contextlib.suppress(CoseisError):
                read(f"{root}/", EVERYTHING._replace(collections=collections))

        check()


def test_what_an_answer_quotes_is_cut(tmp_path):
    with serve(_ByPath({"/": Page(api_root() | {"links": "x" * 100_000})})) as root:
        with contextlib.suppress(InputRefusedError):
            read(f"{root}/")
        policy = AddressPolicy(catalog=root)
        assert len(policy.catalog) < 100
    long = tmp_path / "c.json"
    long.write_text(json.dumps({"type": "x" * 100_000}))
    with pytest.raises(InputRefusedError) as refused:
        read(str(long))
    assert re.search("no STAC catalog", str(refused.value))
    assert len(str(refused.value)) < 1000
