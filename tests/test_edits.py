"""Verdicts of mappers: the inventory is exactly what they say, whatever is drawn later."""

import sqlite3
import subprocess
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from coseis.edit_files import write_edit_file
from coseis.edits import (
    ACCEPT,
    ADDED,
    EDITS,
    KEPT,
    REDRAWN,
    REJECT,
    VERDICTS,
    keep_edits,
    lay_edits,
    read_edits,
)
from coseis.errors import InputRefusedError, UsageError
from coseis.statements import Judged, read_edit_file
from making import UTM

NOW = datetime(2018, 9, 10, tzinfo=UTC)
PIXEL_M2 = 9.0
SQUARES = 12


def squares(count=SQUARES, *, side_m=60.0):
    """Drawn polygons in a row, 100 m apart."""
    shapes = [shapely.box(100 * i, 0, 100 * i + side_m, side_m) for i in range(count)]
    ids = [f"32654-E{100 * i}-N60" for i in range(count)]
    table = {"id": ids, "area_m2": [shape.area for shape in shapes], "probability_mean": 0.7}
    return gpd.GeoDataFrame(table, geometry=shapes, crs=UTM)


def measure(outlines):
    """Stands for the cube: what is not of the outline is known by its number."""
    return outlines.assign(area_m2=outlines.area, probability_mean=0.1)[
        ["id", "area_m2", "probability_mean", "geometry"]
    ]


def judged(drawn=None, known=None):
    drawn = squares() if drawn is None else drawn
    return Judged(drawn, known, shapely.box(-1000, -1000, 5000, 5000), PIXEL_M2)


def said(path, rows):
    """A mapper's work by a program that knows nothing of triggers: rows is a frame of the file's columns."""
    pyogrio.write_dataframe(rows, path, driver="GPKG", layer="landslides", promote_to_multi=True)
    return path


def file_rows(drawn=None, known=None):
    """The file for a mapper, read as a program reads it."""
    return plain_rows().copy() if drawn is known is None else read_rows(drawn, known)


@cache
def plain_rows():
    return read_rows(squares(), None)


def read_rows(drawn, known):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "written.gpkg"
        write_edit_file(path, squares() if drawn is None else drawn, known)
        rows = gpd.read_file(path, layer="landslides")
    times = rows["edited_at"].astype("string").astype(object)
    return rows.assign(edited_at=times.where(times.notna(), None))


def merged(path, known=None, *, editor="M", now=NOW, drawn=None):
    """All statements after a file is merged beside those that are known."""
    fresh = read_edit_file(path, judged(drawn, known), editor=editor, now=now)
    store = MemoryStore()
    if known is not None:
        keep_edits(store, lambda _: known.records)
    return keep_edits(store, lambda _: fresh)


def laid(edits, drawn=None):
    return lay_edits(squares() if drawn is None else drawn, edits, measure, pixel_m2=PIXEL_M2)


def shifted(shape):
    return shapely.transform(shape, lambda xy: xy + np.array([7, 5]))


plans = st.lists(st.sampled_from([None, *VERDICTS]), min_size=SQUARES, max_size=SQUARES)


@settings(max_examples=15, deadline=None)
@given(plan=plans)
def test_the_inventory_is_what_the_verdicts_say(tmp_path_factory, plan):
    folder = tmp_path_factory.mktemp("plan")
    drawn, rows = squares(), file_rows()
    added = []
    for number, verdict in enumerate(plan):
        if verdict == ADDED:
            added.append(
                {"geometry": shapely.MultiPolygon([shapely.box(100 * number, 500, 100 * number + 40, 540)])}
            )
            continue
        rows.loc[number, "verdict"] = verdict
        if verdict == REDRAWN:
            rows.loc[number, "geometry"] = shifted(rows.geometry[number])
    if added:
        more = gpd.GeoDataFrame(added, crs=UTM).assign(verdict=ADDED)
        rows = gpd.GeoDataFrame(pd.concat([rows, more], ignore_index=True), crs=UTM)
    path = said(folder / "said.gpkg", rows)
    edits = merged(path)
    if edits is None:
        assert set(plan) == {None}
        return
    polygons, report = laid(edits)
    by_id = polygons.set_index("id")
    for number, verdict in enumerate(plan):
        name, before = drawn["id"][number], drawn.iloc[number]
        if verdict == REJECT:
            assert name not in by_id.index
            continue
        row = by_id.loc[name]
        if verdict == REDRAWN:
            assert row.geometry.equals(shifted(before.geometry))
            assert row["probability_mean"] == 0.1
        else:
            assert row.geometry.equals(before.geometry)
            assert row["probability_mean"] == 0.7
        signed = verdict in (ACCEPT, REDRAWN)
        assert pd.isna(row["verdict"]) == (not signed)
        if signed:
            assert (row["verdict"], row["edited_by"], row["edited_at"]) == (
                verdict,
                "M",
                "2018-09-10T00:00:00.000Z",
            )
    new = polygons[polygons["verdict"] == ADDED]
    assert len(new) == plan.count(ADDED)
    assert new["id"].str.fullmatch("added-[0-9a-f]{32}").all()
    assert report.counts == {verdict: plan.count(verdict) for verdict in VERDICTS}
    assert (report.cut, report.gone, report.conflicts, report.doubled) == ((), (), (), ())
    again = read_edit_file(path, judged(known=edits), editor="M", now=datetime(2018, 10, 1, tzinfo=UTC))
    assert again.empty


def verdicts(tmp_path, changes, *, drawn=None, known=None, editor=None, name="said.gpkg", **columns):
    """A file with some rows changed: by row a verdict and an outline, or what else is to be in them."""
    rows = file_rows(drawn, known).assign(**columns)
    for number, change in changes.items():
        for column, value in (change if isinstance(change, dict) else {"verdict": change}).items():
            rows.loc[number, column] = value
    return said(tmp_path / name, rows)


@pytest.mark.parametrize(
    ("change", "said_of_it"),
    [
        ({"verdict": "maybe"}, "32654-E300-N60: verdict is 'maybe'; expected accept, reject, redrawn, added"),
        (
            {"geometry": shapely.box(300, 0, 350, 60)},
            "its outline was changed, but it has no verdict: expected redrawn",
        ),
        (
            {"verdict": "accept", "geometry": shapely.box(300, 0, 350, 60)},
            "it is accepted, but its outline was",
        ),
        ({"verdict": "redrawn", "geometry": None}, "it has no outline"),
        ({"verdict": "redrawn", "geometry": shapely.MultiPolygon()}, "it has no outline"),
        (
            {"verdict": "redrawn", "geometry": shapely.Polygon([(0, 0), (9, 9), (9, 0), (0, 9)])},
            "invalid .Self-inters",
        ),
        ({"verdict": "redrawn", "geometry": shapely.box(9000, 0, 9060, 60)}, "lies outside the area"),
        ({"verdict": "redrawn", "geometry": shapely.box(300, 0, 302, 2)}, "smaller than a pixel"),
        (
            {"verdict": "accept", "id": "32654-E100-N60"},
            "its id is there twice: empty the id of what was added",
        ),
        (
            {"verdict": "accept", "edited_at": "2031-01-01T00:00:00Z"},
            "2031-01-01T00:00:00.000Z, which is yet to come",
        ),
        ({"verdict": "accept", "note": "x" * 10_001}, "a text has 10001 letters; expected at most 10000"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_row_is_named_and_nothing_is_merged(tmp_path, change, said_of_it):
    path = verdicts(tmp_path, {0: "accept", 3: change})
    with pytest.raises(
        UsageError, match=rf"said\.gpkg cannot be merged, [12] of 12 rows are wrong: .*{said_of_it}"
    ):
        merged(path)


def test_a_wrong_file_is_named(tmp_path):
    path = verdicts(tmp_path, {0: "accept"})
    with pytest.raises(UsageError, match="nobody is named as its editor: fill it in, or give --editor"):
        merged(path, editor=None)
    rows = gpd.read_file(path, layer="landslides")
    with pytest.raises(UsageError, match=r"have the CRS EPSG:32655, but the inventory has EPSG:32654"):
        merged(said(tmp_path / "zone.gpkg", rows.set_crs(32655, allow_override=True)))
    with pytest.raises(
        UsageError, match="it has no column note, outline; expected a file that coseis edit wrote"
    ):
        merged(said(tmp_path / "short.gpkg", rows.drop(columns=["note", "outline"])))
    (tmp_path / "torn.gpkg").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UsageError, match=r"torn\.gpkg cannot be read: it is no readable GeoPackage"):
        merged(tmp_path / "torn.gpkg")
    rows.to_file(tmp_path / "said.geojson")
    with pytest.raises(UsageError, match=r"it is no GeoPackage \(\.gpkg\)"):
        merged(tmp_path / "said.geojson")


def test_a_file_without_verdicts_says_nothing(tmp_path):
    assert merged(verdicts(tmp_path, {})) is None


def test_the_later_statement_counts_and_the_other_is_listed(tmp_path):
    first = merged(
        verdicts(tmp_path, {0: "accept", 1: "accept", 2: "reject"}, edited_at="2018-09-07T10:00:00+09:00"),
        editor="A",
    )
    changes = {0: "reject", 1: "accept", 2: "accept"}
    # The earlier of two, though it is merged later, and a time of another zone.
    times = {0: "2018-09-07T01:00:01Z", 1: "2018-09-07T03:00:00Z", 2: "2018-09-07T00:59:59Z"}
    path = verdicts(tmp_path, {row: {"verdict": changes[row], "edited_at": times[row]} for row in changes})
    both = merged(path, first, editor="B")
    polygons, report = laid(both)
    names = squares()["id"]
    assert set(names) - set(polygons["id"]) == {names[0], names[2]}
    assert polygons.set_index("id").loc[names[1], "edited_by"] == "B"
    told = [(one.id, one.counts.editor, [other.editor for other in one.against]) for one in report.conflicts]
    assert told == [(names[0], "B", ["A"]), (names[2], "A", ["B"])]
    assert report.editors == ("A", "B")
    assert len(both.records) == 6


def test_another_thing_at_the_same_time_is_refused(tmp_path):
    when = "2018-09-07T10:00:00Z"
    first = merged(verdicts(tmp_path, {0: "accept"}, edited_at=when))
    with pytest.raises(UsageError, match=r"M said accept of it at the same time, 2018-09-07T10:00:00\.000Z"):
        merged(verdicts(tmp_path, {0: "reject"}, edited_at=when), first)


def test_what_was_rejected_can_be_taken_back(tmp_path):
    first = merged(verdicts(tmp_path, {4: "reject"}))
    left = laid(first)[0]
    rows = file_rows(left, first)
    assert list(rows["verdict"][rows["id"] == squares()["id"][4]]) == ["reject"]
    rows.loc[rows["verdict"] == "reject", ["verdict", "edited_at"]] = ["accept", None]
    second = merged(
        said(tmp_path / "back.gpkg", rows), first, drawn=left, now=datetime(2018, 9, 11, tzinfo=UTC)
    )
    assert sorted(laid(second)[0]["id"]) == sorted(squares()["id"])


def test_an_outline_that_was_added_stays_one_landslide_when_it_is_changed(tmp_path):
    row = {"verdict": "added", "id": "added-" + "a" * 32, "geometry": shapely.box(0, 500, 40, 540)}
    first = merged(verdicts(tmp_path, {SQUARES: row}))
    row |= {"geometry": shapely.box(0, 500, 60, 540), "edited_at": "2018-09-11T00:00:00Z"}
    second = merged(verdicts(tmp_path, {SQUARES: row}), first, now=datetime(2018, 9, 12, tzinfo=UTC))
    polygons, report = laid(second)
    assert polygons["area_m2"][polygons["id"] == row["id"]].tolist() == [2400]
    assert report.counts["added"] == 1


def test_two_who_add_the_same_landslide_are_told(tmp_path):
    path = verdicts(
        tmp_path,
        {
            SQUARES + number: {"verdict": "added", "geometry": shapely.box(0, 500, 40 + 5 * number, 540)}
            for number in range(2)
        },
    )
    assert len(laid(merged(path))[1].doubled) == 1


def test_a_redrawn_outline_takes_in_what_it_covers(tmp_path):
    drawn = squares(side_m=100)  # each touches the next
    whole, part = shapely.box(0, 0, 200, 100), shapely.box(500, 0, 620, 100)
    changes = {0: {"verdict": "redrawn", "geometry": whole}, 5: {"verdict": "redrawn", "geometry": part}}
    polygons, report = laid(merged(verdicts(tmp_path, changes, drawn=drawn), drawn=drawn), drawn)
    assert report.gone == (drawn["id"][1],)
    assert report.cut == (drawn["id"][6],)
    assert polygons["area_m2"].tolist() == [20_000, 10_000, 10_000, 10_000, 12_000, 8_000, *[10_000] * 5]
    assert polygons.union_all().area == pytest.approx(polygons["area_m2"].sum())


@settings(max_examples=15, deadline=None)
@given(plan=plans, seed=st.integers(0, 100))
def test_settled_ground_stays_settled_whatever_is_drawn(tmp_path_factory, plan, seed):
    """Another threshold draws other polygons, with other ids or the same, larger, smaller, or several."""
    folder = tmp_path_factory.mktemp("plan")
    changes = {
        number: {"verdict": verdict, "geometry": shifted(shape)} if verdict in (REDRAWN, ADDED) else verdict
        for number, (verdict, shape) in enumerate(zip(plan, squares().geometry, strict=True))
        if verdict
    }
    edits = merged(verdicts(folder, changes))
    if edits is None:
        return
    random = np.random.default_rng(seed)
    places = random.integers(0, 1100, 30)
    sizes = random.integers(10, 150, (30, 2))
    shapes = [shapely.box(x, 0, x + w, h) for x, (w, h) in zip(places, sizes, strict=True)]
    # Drawn polygons never lie on each other.
    apart = [
        shapely.difference(shape, shapely.union_all(shapes[:number])) for number, shape in enumerate(shapes)
    ]
    parts = [part for shape in apart for part in shapely.get_parts(shape) if part.area > 20]
    ids = [f"32654-E{100 * number}-N60" for number in range(len(parts))]
    table = {"id": ids, "area_m2": shapely.area(parts), "probability_mean": 0.7}
    drawn = gpd.GeoDataFrame(table, geometry=parts, crs=UTM)
    polygons, _ = laid(edits, drawn)
    assert polygons["id"].is_unique
    kept = edits.records[edits.records["verdict"].isin(KEPT)]
    by_id = polygons.set_index("id").geometry
    assert all(by_id[row.id].equals(row.geometry) for row in kept.itertuples())
    others = polygons[polygons["verdict"].isna()]
    settled = shapely.union_all([*edits.records.geometry, *edits.records["judged"].dropna()])
    assert shapely.area(shapely.intersection(others.geometry.to_numpy(), settled)).max(initial=0) < PIXEL_M2
    ground = shapely.union_all([*others.geometry, settled]).area - settled.area
    lost = shapely.difference(drawn.union_all(), settled).area - ground
    assert lost <= 0.5 * drawn.area.sum()
    assert others.area.to_numpy() == pytest.approx(others["area_m2"].to_numpy())
    whole = drawn[shapely.disjoint(drawn.geometry.to_numpy(), settled)]
    assert set(whole.geometry.to_wkb()) <= set(others.geometry.to_wkb())


def test_several_who_merge_at_once_lose_nothing(tmp_path):
    store = MemoryStore()
    first, second = (
        read_edit_file(verdicts(tmp_path, {row: "accept"}), judged(), editor="M", now=NOW) for row in (0, 1)
    )
    tries = []

    def late(known):
        """Another one is quicker, once."""
        tries.append(known)
        if len(tries) == 1:
            keep_edits(store, lambda _: first)
        return second

    assert sorted(keep_edits(store, late).records["id"]) == sorted(squares()["id"][:2])
    assert [known is None for known in tries] == [True, False]
    assert len(read_edits(store).records) == 2


def test_damaged_statements_are_refused():
    store = MemoryStore()
    store.put(EDITS, b"PAR1 and no more")
    with pytest.raises(InputRefusedError, match=r"edits\.parquet of the run is damaged"):
        read_edits(store)


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    write_edit_file(tmp_path / "edits.gpkg", squares(), None)
    before = (tmp_path / "edits.gpkg").read_bytes()
    with pytest.raises(UsageError, match=r"edits\.gpkg exists, and may hold edits"):
        write_edit_file(tmp_path / "edits.gpkg", squares(), None)
    assert (tmp_path / "edits.gpkg").read_bytes() == before
    with pytest.raises(UsageError, match="expected one that ends in"):
        write_edit_file(tmp_path / "edits.shp", squares(), None)
    with pytest.raises(InputRefusedError, match="cannot be written"):
        write_edit_file(tmp_path / "none" / "edits.gpkg", squares(), None)


def test_the_style_colours_every_verdict_and_is_the_layers_own(tmp_path):
    write_edit_file(tmp_path / "edits.gpkg", squares(), None)
    with closing(sqlite3.connect(tmp_path / "edits.gpkg")) as connection:
        [(catalog, schema, table, geometry, default, qml)] = connection.execute(
            "SELECT f_table_catalog, f_table_schema, f_table_name, f_geometry_column, useAsDefault, styleQML "
            "FROM layer_styles"
        )
        assert (catalog, schema, table, geometry, default) == ("", "", "landslides", "geom", 1)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    root = ElementTree.fromstring(qml)
    renderer = root.find("renderer-v2")
    assert renderer.get("attr") == "verdict"
    categories = {one.get("value"): one.get("symbol") for one in renderer.iter("category")}
    assert set(categories) == {"", *VERDICTS}
    assert set(categories.values()) == {one.get("name") for one in renderer.iter("symbol")}
    [choices] = root.findall(".//field[@name='verdict']/editWidget[@type='ValueMap']")
    assert {one.get("value") for one in choices.iter("Option")} >= set(VERDICTS)
    locked = {
        one.get("field") or one.get("name") for one in root.find("editable") if one.get("editable") == "0"
    }
    assert {"id", "area_m2", "outline", "edited_at"} <= locked
    assert not locked & {"verdict", "editor", "note"}


@pytest.mark.slow
@pytest.mark.integration
def test_another_gdal_opens_it_and_its_triggers_sign_each_change(tmp_path):
    path = tmp_path / "edits.gpkg"
    write_edit_file(path, squares(), None)

    def ogr(*words):
        done = subprocess.run(["ogrinfo", *words], capture_output=True, text=True, check=True)
        assert "ERROR" not in done.stderr, done.stderr
        return done.stdout

    assert "Feature Count: 12" in ogr("-so", "-al", str(path))
    for statement in (
        "UPDATE landslides SET verdict = 'reject' WHERE fid = 1",
        "UPDATE landslides SET geom = (SELECT geom FROM landslides WHERE fid = 3) WHERE fid = 2",
        "UPDATE landslides SET area_m2 = 1 WHERE fid = 5",
        "INSERT INTO landslides (id, geom) SELECT id, geom FROM landslides WHERE fid = 4",
        "INSERT INTO landslides (geom) SELECT geom FROM landslides WHERE fid = 4",
    ):
        ogr(str(path), "-sql", statement)
    rows = gpd.read_file(path, layer="landslides")
    assert list(rows["verdict"][:5]) == ["reject", "redrawn", None, None, None]
    assert rows["edited_at"].notna().tolist() == [True, True, *[False] * 10, True, True]
    assert abs(rows["edited_at"][0] - pd.Timestamp.now("UTC")) < pd.Timedelta(minutes=1)
    assert list(rows["verdict"][12:]) == ["added", "added"]
    assert rows["id"].is_unique
    assert rows["id"][12:].str.fullmatch("added-[0-9a-f]{32}").all()
    statements = read_edit_file(path, judged(), editor="M", now=datetime.now(UTC))
    assert list(statements["verdict"]) == ["reject", "redrawn", "added", "added"]
