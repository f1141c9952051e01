"""Edits end to end, by the command line: into all that is published from an inventory, and out as labels."""

import json
import re
import shutil
from contextlib import contextmanager

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely

from coseis.draw import Thresholds
from coseis.edits import EDITS, read_edits
from coseis.event import read_area
from coseis.labels import open_labels
from coseis.learn.limits import LimitedLabels
from coseis.missing import MissingChunks
from coseis.objects import open_store
from coseis.outlines import measure_outlines
from coseis.plan import ITEMS, read_plan
from coseis.publish import read_tile_ids
from coseis.types import LABEL_IGNORE
from making import EVENT_TIME
from test_cli import GRID, client, coseis, files, job, no_workers, workers  # noqa: F401


def inventory(out):
    return gpd.read_parquet(out / "landslides.parquet")


def report(out):
    return json.loads((out / "run.json").read_text())


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the first test to come leaves its run for the others."""
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def mapped(coseis, job, workers, kept):  # noqa: F811
    """A finished run of large polygons, and a file to judge it."""
    if not kept.exists():
        assert coseis(*job.words(min_area=200)).code == 0
        shutil.copytree(job.out, kept)
    else:
        shutil.copytree(kept, job.out)
    result = coseis("edit", job.out, "--out", job.folder / "edits.gpkg")
    assert result.code == 0, result.err
    assert f"then coseis edit {job.out} --merge {job.folder / 'edits.gpkg'}" in result.out
    return job.out


def rows_of(path):
    return gpd.read_file(path, layer="landslides")


def filled(path, rows):
    pyogrio.write_dataframe(rows, path, driver="GPKG", layer="landslides", promote_to_multi=True)
    return path


def large(polygons):
    """Row numbers of the polygons, the largest first."""
    return np.argsort(-shapely.area(polygons.geometry.to_numpy()), kind="stable")


def judge(folder):
    """Accepts, rejects, redraws and adds one each; returns the file, ids by verdict, and the new outlines."""
    rows = rows_of(folder / "edits.gpkg")
    one, two, three = large(rows)[:3]
    rows.loc[[one, two, three], "verdict"] = ["accept", "reject", "redrawn"]
    rows.loc[[one, two, three], "note"] = ["", "a field", "too wide"]
    west, south, east, north = rows.geometry[three].bounds
    redrawn = shapely.box(west, south, (west + east) / 2, north)
    added = shapely.box(*(GRID.affine @ (20, 40)), *(GRID.affine @ (40, 20)))
    rows.loc[three, "geometry"] = redrawn
    rows.loc[len(rows), ["verdict", "geometry"]] = ["added", added]
    ids = dict(zip(("accept", "reject", "redrawn"), rows["id"][[one, two, three]], strict=True))
    return filled(folder / "judged.gpkg", rows), ids, redrawn, added


def test_edits_reach_all_that_is_published(coseis, mapped, job, monkeypatch):  # noqa: F811
    before = inventory(mapped).set_index("id")
    path, ids, redrawn, added = judge(job.folder)
    monkeypatch.setattr("coseis.dispatch.map_run", None)
    result = coseis("edit", mapped, "--merge", path, "--editor", "A. Mapper")
    assert result.code == 0, result.err
    assert "4 new statements merged" in result.out
    assert "by A. Mapper: 1 accepted, 1 rejected, 1 redrawn, 1 added" in result.out
    polygons = inventory(mapped)
    after = polygons.set_index("id")
    [new] = after.index[after["verdict"] == "added"]
    assert ids["reject"] not in after.index
    assert after.geometry[ids["redrawn"]].equals(redrawn)
    assert after.geometry[new].equals(added)
    assert set(after["edited_by"].dropna()) == {"A. Mapper"}
    moments = pd.to_datetime(after["edited_at"].dropna(), format="ISO8601")
    assert len(moments) == 3
    assert (pd.Timestamp.now("UTC") - moments).between(pd.Timedelta(0), pd.Timedelta(minutes=5)).all()
    pd.testing.assert_frame_equal(
        after.loc[[ids["accept"]], list(before.columns)].to_wkb(), before.loc[[ids["accept"]]].to_wkb()
    )
    for name, outline in ((ids["redrawn"], redrawn), (new, added)):
        assert after.area_m2[name] == pytest.approx(outline.area, rel=2e-3)
        assert after.perimeter_m[name] == pytest.approx(outline.length)
        assert 0 <= after.probability_mean[name] <= after.probability_max[name] <= 1
        assert after.scenes[name] == "post"
        # Of the model and the scenes of this test neither surer thresholds nor view angles are known.
        unknown = ["vegetation_change", "pre_overlap", "confidence", "off_nadir_deg"]
        assert after.loc[name].drop(unknown).notna().all()
    said = report(mapped)
    assert said["edits"]["counts"] == {"accept": 1, "reject": 1, "redrawn": 1, "added": 1}
    assert said["edits"]["editors"] == ["A. Mapper"]
    assert said["landslide_count"] == (polygons.change != "pre-existing").sum()
    assert said["landslide_area_m2"] == pytest.approx(
        polygons.area_m2[polygons.change != "pre-existing"].sum()
    )
    assert read_tile_ids(mapped / "landslides.pmtiles", 14) == set(polygons.id)
    assert EDITS in json.loads((mapped / "item.json").read_text())["assets"]
    records = read_edits(open_store(str(mapped))).records.set_index("id")
    assert records.note[ids["reject"]] == "a field"
    assert records.geometry[ids["reject"]].equals(before.geometry[ids["reject"]])
    statistics = json.loads((mapped / "statistics.json").read_text())
    assert statistics["sizes"]["count"] == said["landslide_count"]

    published = files(mapped)
    result = coseis("edit", mapped, "--merge", path, "--editor", "A. Mapper")
    assert (result.code, "0 new statements merged" in result.out) == (0, True), result.err
    assert files(mapped) == published


def test_edits_outlive_new_thresholds_and_updates(coseis, mapped, job):  # noqa: F811
    path, ids, redrawn, added = judge(job.folder)
    assert coseis("edit", mapped, "--merge", path, "--editor", "M").code == 0
    first = inventory(mapped)
    judged_ground = rows_of(job.folder / "edits.gpkg").set_index("id").geometry
    for words in (
        ["vectorize", mapped, "--threshold", "0.9"],
        ["vectorize", mapped, "--threshold", "0.1"],
        job.words("--update", min_area=200),
    ):
        result = coseis(*words)
        assert result.code == 0, result.err
        assert "by M: 1 accepted, 1 rejected, 1 redrawn, 1 added" in result.out
        polygons = inventory(mapped).set_index("id")
        assert polygons.geometry[ids["redrawn"]].equals(redrawn)
        assert polygons.geometry[ids["accept"]].equals(first.set_index("id").geometry[ids["accept"]])
        assert (polygons["verdict"] == "added").sum() == 1
        others = polygons.geometry[polygons["verdict"].isna()]
        settled = shapely.union_all([judged_ground[name] for name in ids.values()] + [redrawn, added])
        assert shapely.area(shapely.intersection(others.to_numpy(), settled)).max() < 9
    pd.testing.assert_frame_equal(inventory(mapped).to_wkb(), first.to_wkb())


def test_a_merge_that_was_killed_is_done_by_the_next(coseis, mapped, job, monkeypatch):  # noqa: F811
    path, ids, *_ = judge(job.folder)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("coseis.editing.vectorize_run", killed)
        assert coseis("edit", mapped, "--merge", path, "--editor", "M").code == 130
    assert ids["reject"] in set(inventory(mapped).id)
    result = coseis("edit", mapped, "--merge", path, "--editor", "M")
    assert (result.code, "0 new statements merged" in result.out) == (0, True), result.err
    assert ids["reject"] not in set(inventory(mapped).id)


def test_a_wrong_file_leaves_the_run_as_it_was(coseis, mapped, job):  # noqa: F811
    path, *_ = judge(job.folder)
    rows = rows_of(path)
    rows.loc[0, "verdict"] = "perhaps"
    wrong = filled(job.folder / "wrong.gpkg", rows)
    before = files(mapped)
    line = coseis("edit", mapped, "--merge", path, "--merge", wrong, "--editor", "M").refused(2)
    assert "wrong.gpkg cannot be merged" in line
    assert "verdict is 'perhaps'; expected accept, reject, redrawn, added" in line
    assert "nobody is named" in coseis("edit", mapped, "--merge", path).refused(2)
    assert "nothere.gpkg cannot be read" in coseis("edit", mapped, "--merge", "nothere.gpkg").refused(2)
    assert "exists, and may hold edits" in coseis("edit", mapped, "--out", path).refused(2)
    assert "holds no merged edits" in coseis("edit", mapped, "--labels", job.folder / "l.gpkg").refused(42)
    assert files(mapped) == before


def test_two_mappers_and_a_conflict(coseis, mapped, job):  # noqa: F811
    path, ids, *_ = judge(job.folder)
    rows = rows_of(job.folder / "edits.gpkg")
    rows.loc[rows["id"] == ids["accept"], ["verdict", "editor"]] = ["reject", "B"]
    rows["edited_at"] = pd.Timestamp("2018-09-07T00:00:00Z")
    other = filled(job.folder / "other.gpkg", rows)
    result = coseis("edit", mapped, "--merge", path, "--merge", other, "--editor", "A")
    assert result.code == 0, result.err
    assert f"{ids['accept']}: accept by A (" in result.out
    assert "counts, not reject by B (2018-09-07T00:00:00.000Z)" in result.out
    [conflict] = report(mapped)["edits"]["conflicts"]
    assert (conflict["id"], conflict["counts"]["editor"]) == (ids["accept"], "A")
    assert inventory(mapped).set_index("id")["edited_by"][ids["accept"]] == "A"


def test_labels_are_known_where_mappers_looked(coseis, mapped, job):  # noqa: F811
    path, ids, *_ = judge(job.folder)
    assert coseis("edit", mapped, "--merge", path, "--editor", "M").code == 0
    labels, area = job.folder / "labels.gpkg", job.folder / "labels-area.gpkg"
    result = coseis("edit", mapped, "--labels", labels)
    assert f"coseis train --labels {labels} --labelled-area {area}" in result.out
    mask = LimitedLabels(open_labels(labels, GRID), read_area(area)).mask(GRID)
    polygons = inventory(mapped).set_index("id")
    drawn = rows_of(job.folder / "edits.gpkg").set_index("id").geometry

    def under(shape):
        """Labels of the pixels well within a polygon: where it begins may be rounded."""
        inner = shape.buffer(-3)
        x, y = np.meshgrid(*(np.arange(size) + 0.5 for size in GRID.shape[::-1]))
        return mask[shapely.contains_xy(inner, *(GRID.affine @ (x, y)))]

    kept = polygons[polygons["verdict"].notna() & (polygons.change != "pre-existing")]
    assert len(kept) > 1
    for shape in kept.geometry:
        assert set(under(shape)) <= {1}
    assert set(under(drawn[ids["reject"]].difference(shapely.union_all(kept.geometry)))) == {0}
    unjudged = polygons.geometry[polygons["verdict"].isna()]
    assert {value for shape in unjudged for value in under(shape)} == {LABEL_IGNORE}
    assert (mask == LABEL_IGNORE).mean() > 0.2


@pytest.mark.slow
def test_edits_train_a_model_as_they_come_out(coseis, mapped, job, client, monkeypatch):  # noqa: F811
    path, *_ = judge(job.folder)
    assert coseis("edit", mapped, "--merge", path, "--editor", "M").code == 0
    given = re.search(
        r"coseis train (.*)", coseis("edit", mapped, "--labels", job.folder / "labels.gpkg").out
    )[1]
    place = ["--catalog", job.settings["catalog"], "--aoi", job.settings["aoi"]]
    tiny = ["--epochs", "1", "--patches-per-epoch", "2", "--base-filters", "2", "--core-px", "32"]
    monkeypatch.undo()  # a real network from here on

    @contextmanager
    def connected(*_):
        yield client

    monkeypatch.setattr("coseis.learn.learning.connected", connected)
    words = [*given.split(), *place, "--event-time", EVENT_TIME.isoformat(), *tiny]
    result = coseis("train", *words, "--out", job.folder / "m")
    assert result.code == 0, result.err
    assert "epoch 1 of 1 is kept" in result.out


def measured_again(out):
    """The inventory of a run, and what its outlines give if they are measured as somebody's."""
    polygons = inventory(out)
    plan = read_plan((out / ITEMS).read_bytes(), str(out))
    code = report(out)["threshold"]["code"]
    outlines = polygons[["id", "geometry"]].sample(frac=1, random_state=3)
    missing = {zone.identity.crs: MissingChunks(zone.found.event.aoi, ()) for zone in plan.zones}
    again = measure_outlines(plan, outlines, out=str(out), thresholds=Thresholds(code, code), missing=missing)
    again = again.set_index("id").loc[polygons["id"]].reset_index()[polygons.columns]
    # Columns of nothing have no type of their own.
    return polygons, again.astype({"confidence": polygons["confidence"].dtype})


def test_outlines_as_drawn_measure_as_drawn(mapped):
    """The oracle: an outline along pixel edges has the attributes that tracing those pixels gave."""
    polygons, again = measured_again(mapped)
    assert len(polygons) > 10
    pd.testing.assert_frame_equal(again.to_wkb(), polygons.to_wkb(), rtol=1e-12, check_dtype=False)
