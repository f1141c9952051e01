"""Items of stac-geoparquet files: as the format's own library writes them, and as hostile text has them."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import box, mapping, shape
from stac_geoparquet.arrow import parse_stac_items_to_arrow, stac_table_to_items, to_parquet

from coseis import geoparquet
from coseis.addresses import AddressPolicy, absolute_address, check_address
from coseis.catalogs import Content, Query, catalog_address, read_catalog
from coseis.errors import CoseisError, InputRefusedError, UnreachableError
from coseis.event import read_event
from coseis.search import search_items

TIME = datetime(2018, 9, 5, tzinfo=UTC)
YEARS = (TIME - timedelta(days=4000), TIME + timedelta(days=4000))
WORLD = (-180.0, -90.0, 180.0, 90.0)
EVERYTHING = Query((), WORLD, (YEARS,))


AREA = box(142, 42, 143, 43)


def item(item_id: str, *, days: float = 0, area=AREA, collection="PSScene", **more) -> dict:
    moment = (TIME + timedelta(days=days)).isoformat().replace("+00:00", "Z")
    href = more.pop("href", "./x.tif")
    return {
        "type": "Feature", "stac_version": "1.0.0", "stac_extensions": [], "id": item_id,
        "collection": collection, "bbox": list(area.bounds),
        "geometry": json.loads(json.dumps(mapping(area))),
        "properties": {"datetime": moment, "eo:cloud_cover": 5.0, **more},
        "links": [],
        "assets": {
            f"{item_id}_visual": {"href": href, "type": "image/tiff", "pl:asset_type": "ortho_visual",
                                  "eo:bands": [{"common_name": name} for name in ("red", "green", "blue")]},
        },
    }  # fmt: skip


def write(path: Path, items: list[dict], **options) -> Path:
    to_parquet(parse_stac_items_to_arrow(items), path, **options)
    return path


def read(catalog: object, query: Query = EVERYTHING, **policy) -> Content:
    address = catalog_address(str(catalog))
    return read_catalog(address, query, AddressPolicy(catalog=address, **policy))


def ids(content: Content) -> list[str]:
    return [record.item["id"] for record in content.records]


def test_items_come_out_as_they_went_in(tmp_path):
    items = [item("a", gsd=3.7), item("b", days=1.5, **{"pl:quality_category": "standard"})]
    collections = {"PSScene": {"type": "Collection", "id": "PSScene", "license": "other"}}
    path = write(tmp_path / "items.parquet", items, collections=collections)
    content = read(path)
    assert content.refused == []
    for record, original in zip(content.records, items, strict=True):
        assert record.address == str(path)
        assert record.collection["license"] == "other"
        got = record.item
        assert datetime.fromisoformat(got["properties"].pop("datetime")) == datetime.fromisoformat(
            original["properties"].pop("datetime")
        )
        assert {name: value for name, value in got["properties"].items() if value is not None} == original[
            "properties"
        ]
        assert shape(got["geometry"]).equals(shape(original["geometry"]))
        for name in ("id", "collection", "bbox", "assets", "type"):
            assert got[name] == original[name]


_rows = st.lists(
    st.tuples(st.floats(-170, 170), st.floats(-80, 80), st.floats(-800, 800), st.sampled_from(["x", "y"])),
    min_size=1,
    max_size=12,
)


@settings(max_examples=15)  # each starts a process
@given(_rows, st.integers(1, 4))
def test_what_is_left_out_touches_neither_box_nor_window(tmp_path_factory, rows, size):
    items = [
        item(f"i{n}", days=days, area=box(x, y, x + 5, y + 5), collection=name)
        for n, (x, y, days, name) in enumerate(rows)
    ]
    path = tmp_path_factory.getbasetemp() / "drawn.parquet"
    table = pa.Table.from_batches(parse_stac_items_to_arrow(items))
    pq.write_table(table, path, row_group_size=size)
    asked = box(-60, -30, 60, 30)
    windows = ((TIME - timedelta(days=300), TIME), (TIME + timedelta(days=100), TIME + timedelta(days=400)))
    if not any(row[3] == "x" for row in rows):
        return
    content = read(path, Query(("x",), asked.bounds, windows))
    expected = [
        f"i{n}"
        for n, (x, y, days, name) in enumerate(rows)
        if name == "x"
        and box(x, y, x + 5, y + 5).intersects(asked)
        and any(start <= TIME + timedelta(days=days) <= end for start, end in windows)
    ]
    assert ids(content) == expected
    # The library of the format reads the same rows.
    assert [row["id"] for row in stac_table_to_items(pq.read_table(path))] == [i["id"] for i in items]


def test_intervals_and_rows_that_say_nothing(tmp_path):
    spans = {
        "straddling": (TIME - timedelta(days=9), TIME + timedelta(days=9)),
        "earlier": (TIME - timedelta(days=90), TIME - timedelta(days=80)),
    }
    items = [item(name) for name in (*spans, "untold")]
    for one, span in zip(items, [*spans.values(), (None, None)], strict=True):
        names = ("start_datetime", "end_datetime")
        one["properties"] |= {"datetime": None} | {
            name: moment.isoformat().replace("+00:00", "Z") if moment else None
            for name, moment in zip(names, span, strict=True)
        }
    items.append(item("dated"))
    path = write(tmp_path / "items.parquet", items)
    window = (TIME - timedelta(days=1), TIME + timedelta(days=1))
    assert ids(read(path, Query((), WORLD, (window,)))) == ["straddling", "untold", "dated"]


def test_a_box_across_the_antimeridian(tmp_path):
    items = [item("across") | {"bbox": [179.0, 0, -179.0, 1]}, item("elsewhere")]
    path = write(tmp_path / "items.parquet", items)
    assert ids(read(path, Query((), (-180, 0, -179.5, 1), (YEARS,)))) == ["across"]
    assert ids(read(path, Query((), (0, 0, 1, 1), (YEARS,)))) == []


def test_older_files_have_the_box_as_a_list_and_the_time_as_text(tmp_path):
    one = item("old")
    table = pa.table(
        {
            "id": ["old"], "geometry": [shape(one["geometry"]).wkb], "bbox": [one["bbox"]],
            "datetime": [one["properties"]["datetime"]], "assets": [one["assets"]], "collection": ["PSScene"],
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "old.geoparquet")
    (record,) = read(tmp_path / "old.geoparquet").records
    assert record.item["bbox"] == one["bbox"]
    assert record.item["properties"]["datetime"] == one["properties"]["datetime"]


def test_unknown_collection_names_the_known(tmp_path):
    path = write(tmp_path / "items.parquet", [item("a"), item("b", collection="sentinel-2")])
    assert ids(read(path, EVERYTHING._replace(collections=["PSScene"]))) == ["a"]
    with pytest.raises(
        InputRefusedError, match=r"no collection PScene; it has: PSScene, sentinel-2\. Did you"
    ):
        read(path, EVERYTHING._replace(collections=["PScene"]))
    nowhere = Query(["PSScene"], (0, 0, 1, 1), (YEARS,))
    assert ids(read(path, nowhere)) == []


def test_a_search_takes_it_as_any_catalog(tmp_path):
    event = read_event("2018-09-05T18:08:00Z", "142.1,42.1,142.9,42.9")
    items = [item("pre", days=-3), item("post", days=4), item("far", days=4, area=box(0, 0, 1, 1))]
    path = write(tmp_path / "items.parquet", items)
    found = search_items(str(path), event)
    assert [(s.item_id, s.phase, s.sources[0].href) for s in found.scenes] == [
        ("pre", "pre", str(tmp_path / "x.tif")),
        ("post", "post", str(tmp_path / "x.tif")),
    ]
    for href, message in (
        ("/etc/passwd.tif", "outside the catalog's folder"),
        ("../../x.tif", "outside the catalog's folder"),
        ("https://evil.example/x.tif", "--allow-host evil.example"),
        ("s3://bucket/x.tif", "--allow-host s3://bucket"),
    ):
        write(path, [items[0], item("post", days=4, href=href)])
        with pytest.raises(InputRefusedError, match=message):
            search_items(str(path), event)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: b"", "no Parquet file, or breaks off"),
        (lambda content: b"PAR1" + b"x" * 100, "no Parquet file"),
        (lambda content: content[:-20], "no Parquet file"),
        (lambda content: content[:-8] + b"\xff\xff\xff\x7fPAR1", "footer of 2147483647 bytes"),
        (lambda content: content[:-30] + b"x" * 22 + content[-8:], "cannot be read as stac-geoparquet"),
        (lambda content: content[:4] + b"\xff" * 600 + content[604:], "cannot be read as stac-geoparquet"),
    ],
)
def test_broken_files_are_refused_in_one_line(tmp_path, spoil, message):
    path = write(tmp_path / "items.parquet", [item("a")])
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputRefusedError, match=message) as refused:
        read(path)
    assert "\n" not in str(refused.value)


def test_other_tables_and_what_is_too_large_are_refused(tmp_path, monkeypatch):
    pq.write_table(pa.table({"id": [1], "value": [2]}), tmp_path / "a.parquet")
    with pytest.raises(InputRefusedError, match="no STAC items: it has no column geometry, assets"):
        read(tmp_path / "a.parquet")
    with pytest.raises(InputRefusedError, match=r"cannot be read as stac-geoparquet \(.*No such file"):
        read(tmp_path / "none.parquet")
    path = write(tmp_path / "items.parquet", [item("a"), item("b")])
    monkeypatch.setattr(geoparquet, "MAX_GROUP_ROWS", 1)
    with pytest.raises(InputRefusedError, match="a row group of 2 rows"):
        read(path)
    monkeypatch.setattr(geoparquet, "MAX_GROUP_ROWS", 10)
    monkeypatch.setattr("coseis.catalogs.MAX_DOCUMENTS", 1)
    with pytest.raises(InputRefusedError, match="more than 1 documents; narrow the search"):
        read(path)


DEEP = b"[" * 50_000
COLUMNS = st.one_of(
    st.lists(kind, min_size=2, max_size=2).map(pa.array)
    for kind in (
        st.none(),
        st.text(max_size=5),
        st.integers(-(2**62), 2**62),
        st.floats(),
        st.booleans(),
        st.binary(max_size=30),
        st.datetimes(),
        st.lists(st.floats(), max_size=4),
        st.lists(st.text(max_size=3), max_size=2),
        st.fixed_dictionaries({"xmin": st.floats(), "ymin": st.floats(), "xmax": st.text(max_size=3)}),
        st.fixed_dictionaries({"a": st.fixed_dictionaries({"href": st.integers(0, 9)})}),
        st.fixed_dictionaries({"a": st.fixed_dictionaries({"href": st.text(max_size=9)})}),
    )
)


@given(st.data())
def test_whatever_its_columns_hold_a_file_is_read_or_refused(tmp_path_factory, data):
    path = write(
        tmp_path_factory.getbasetemp() / "bent.parquet", [item("pre", days=-3), item("post", days=4)]
    )
    table = pq.read_table(path)
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(table.column_names))
        table = table.set_column(table.column_names.index(name), name, data.draw(COLUMNS))
    if data.draw(st.booleans()):
        said = data.draw(
            st.one_of(st.just(DEEP), st.binary(max_size=9), st.just(b'{"collection":{"id":[]}}'))
        )
        table = table.replace_schema_metadata({b"stac-geoparquet": said})
    pq.write_table(table, path)
    search(path)


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
def test_wherever_a_file_is_damaged_it_is_read_or_refused(tmp_path_factory, place, bytes_there):
    path = write(tmp_path_factory.getbasetemp() / "cut.parquet", [item("pre", days=-3), item("post", days=4)])
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place : place + len(bytes_there)] = bytes_there
    path.write_bytes(content)
    search(path)


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        # The physical type of a column's chunk: 2 (64 bit) becomes 57, which none is.
        (rb"\x15\x04(?=\x19.{1,6}\x18\x08datetime)", b"\x15r"),
        # The least of its values in the old form, eight bytes, becomes one of four.
        (rb"(?<=datetime)(.{1,90}?\x28)\x08(.{4}).{4}", b"\\1\x04\\2"),
    ],
)
def test_statistics_that_are_damaged_end_no_process(tmp_path, pattern, instead):
    """Where they are looked at, pyarrow ends it: found by the test above, with more examples."""
    path = write(tmp_path / "items.parquet", [item("a"), item("b")])
    pq.write_table(pq.read_table(path), path, row_group_size=1)
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer, count = re.subn(pattern, instead, content[-8 - length : -8], count=1, flags=re.S)
    assert count == 1
    path.write_bytes(content[: -8 - length] + footer + len(footer).to_bytes(4, "little") + content[-4:])
    with pytest.raises(InputRefusedError, match="its footer is damaged"):
        read(path)


def test_the_other_process_ends_in_time_and_imports_nothing_from_where_it_is(tmp_path, monkeypatch):
    path = write(tmp_path / "items.parquet", [item("a"), item("b")])
    pq.write_table(pq.read_table(path), path, row_group_size=1)
    (tmp_path / "pyarrow.py").write_text("raise SystemExit('a stranger's code was run')")
    monkeypatch.chdir(tmp_path)
    assert ids(read(path)) == ["a", "b"]
    monkeypatch.setattr("coseis.row_groups.TIMEOUT_S", 0.001)
    with pytest.raises(InputRefusedError, match="its footer is damaged"):
        read(path)


def search(path: Path) -> None:
    """Only an error of ours may come out."""
    event = read_event("2018-09-05T18:08:00Z", "142.1,42.1,142.9,42.9")
    with suppress(CoseisError):
        search_items(str(path), event, allow_missing_pre=True)


@contextmanager
def ranges(content: bytes, *, location: str = "", whole: bool = False) -> Iterator[tuple[str, list[int]]]:
    """A server of one file by ranges; yields its address and the length of each range that was asked for."""
    served: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start, end = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
            body = content[start : end + 1]
            served.append(len(body))
            self.send_response(302 if location else 200 if whole else 206)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/items.parquet", served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_of_a_remote_file_only_what_is_needed_is_fetched(tmp_path):
    items = [item(f"i{n}", days=n, note=f"{n} " * 400, more=str(n * 7919)) for n in range(1500)]
    table = pa.Table.from_batches(
        parse_stac_items_to_arrow([one | {"assets": items[0]["assets"]} for one in items])
    )
    path = tmp_path / "items.parquet"
    pq.write_table(table, path, row_group_size=50, compression="none")
    content = path.read_bytes()
    window = (TIME + timedelta(days=320), TIME + timedelta(days=322))
    with ranges(content) as (address, served):
        got = read(address, Query((), WORLD, (window,)))
        assert ids(got) == ["i320", "i321", "i322"]
        assert got.records[0].address == address
    assert sum(served) < len(content) / 4


def test_remote_files_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr("coseis.addresses.RETRY_DELAY_S", 0.0)
    content = write(tmp_path / "items.parquet", [item("a")]).read_bytes()
    with (
        ranges(content, location="http://127.0.0.1:9/") as (address, _),
        pytest.raises(InputRefusedError, match=r"--allow-host 127\.0\.0\.1:9"),
    ):
        read(address)
    with (
        ranges(content, whole=True) as (address, _),
        pytest.raises(InputRefusedError, match="HTTP 200 to a range"),
    ):
        read(address)
    with pytest.raises(UnreachableError, match=r"does not answer .*refused"):
        read("http://127.0.0.1:1/items.parquet")


def test_a_bucket_is_its_own_files_host_and_no_other():
    catalog = "s3://maps/event/items.parquet"
    assert catalog_address(catalog) == catalog
    policy = AddressPolicy(catalog=catalog)
    assert absolute_address("./a/x.tif", catalog) == "s3://maps/event/a/x.tif"
    assert absolute_address("../x.tif", catalog) == "s3://maps/x.tif"
    assert check_address("s3://maps/x.tif", policy) == "s3://maps/x.tif"
    for other in ("s3://other/x.tif", "gs://maps/x.tif", "/etc/passwd", "https://maps/x.tif"):
        with pytest.raises(InputRefusedError):
            check_address(other, policy)
    with pytest.raises(InputRefusedError, match=r"a stac-geoparquet file \(.parquet\) may lie in a bucket"):
        catalog_address("s3://maps/catalog.json")
