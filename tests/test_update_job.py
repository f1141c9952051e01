"""Updates of the whole job: polygons, files and report are those of a fresh map, or say what is missing."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from distributed import Client, LocalCluster

import fake_network
from coseis.assess import assess_run
from coseis.config import CoregistrationConfig, OutputConfig
from coseis.errors import InputRefusedError
from coseis.pipeline import estimate_event, finish_run, map_event, map_part
from coseis.types import Status
from updating import CHUNK_PX, GRID, Event, Item, KilledError, assert_same_codes, codes_of, plan_of, settle

FIRST = {"pre": Item(), "post": Item()}
SECOND = {**FIRST, "post-west": Item()}


@pytest.fixture(scope="module")
def event(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coseis.task.probe_device", fake_network.probe_device)
        patch.setattr("coseis.pipeline.probe_device", fake_network.probe_device)
        patch.setattr("coseis.task.ready_network", fake_network.ready_network)
        yield Event(tmp_path_factory.mktemp("event"))


@contextmanager
def connected():
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as connection,
    ):
        yield connection


@pytest.fixture(scope="module")
def client():
    with connected() as connection:
        yield connection


@pytest.fixture(scope="module")
def first(event, client, tmp_path_factory):
    event.publish(FIRST)
    out = tmp_path_factory.mktemp("first") / "run"
    map_event(event.config(out), client=client)
    return out


@pytest.fixture(scope="module")
def second(event, client, tmp_path_factory):
    event.publish(SECOND)
    out = tmp_path_factory.mktemp("second") / "run"
    return out, map_event(event.config(out), client=client)


@pytest.fixture
def run(first, tmp_path):
    return Path(shutil.copytree(first, tmp_path / "run"))


def assert_same_map(one, other):
    assert_same_codes(codes_of(one), codes_of(other))
    for name in ("landslides", "observed"):
        tables = [gpd.read_parquet(out / f"{name}.parquet").to_wkb() for out in (one, other)]
        pd.testing.assert_frame_equal(*tables)
    for name in ("probability", "status"):
        with rasterio.open(one / f"{name}.tif") as here, rasterio.open(other / f"{name}.tif") as there:
            np.testing.assert_array_equal(here.read(), there.read())


def test_an_updated_run_publishes_the_fresh_map(event, client, run, second):
    fresh, expected = second
    event.publish(SECOND)
    config = event.config(run, update=True)
    report = map_event(config, client=client)
    assert_same_map(run, fresh)
    scenes = set(",".join(gpd.read_parquet(run / "landslides.parquet").scenes).split(","))
    assert scenes == {"post", "post-west"}
    said = json.loads((run / "run.json").read_text())
    [update] = said["updates"]
    assert (update["number"], update["added"], update["removed"]) == (1, ["post-west"], [])
    assert update["changed_chunks"] == report.throughput.chunks == 2
    assert said["issued"] > update["issued"]
    assert (report.status_shares, report.failed) == (expected.status_shares, ())
    assert expected.updates == ()
    again = map_event(config, client=client)
    assert again.throughput.chunks == 0
    assert len(again.updates) == 1
    assert_same_map(run, fresh)


def test_two_whole_runs_at_once_end_in_one_result(event, client, tmp_path, second):
    """Begun at once on an empty output, each with workers of its own: one plan, and both draw its map."""
    event.publish(SECOND)
    out = tmp_path / "both"
    with connected() as other, ThreadPoolExecutor(2) as pool:
        started = [pool.submit(map_event, event.config(out, update=True), client=c) for c in (client, other)]
        reports = [run.result() for run in started]
    assert reports[0].identity == reports[1].identity
    assert [report.failed for report in reports] == [(), ()]
    assert_same_map(out, second[0])


def test_the_estimate_of_an_update_writes_nothing(event, client, run):
    event.publish(SECOND)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert estimate_event(event.config(run, update=True), client=client).scenes == 3
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_what_an_update_has_not_reached_is_not_published(event, client, run, second, monkeypatch):
    """Killed before any chunk: the cube holds the old pixels, and finish calls them not computed."""
    old = codes_of(run)
    event.publish(SECOND)
    monkeypatch.setattr("coseis.pipeline.predict_chunks", killed)
    with pytest.raises(KilledError):
        map_event(event.config(run, update=True), client=client)
    monkeypatch.undo()
    with pytest.raises(InputRefusedError, match="is being updated: its cube and its report are of different"):
        assess_run(str(run), event.folder / "aoi.geojson")
    report = finish_run(OutputConfig(out=str(run)), client=client)
    assert [(lost.chunk, lost.tried) for lost in report.failed] == [("0_0", False), ("0_1", False)]
    shown = slice(0, 2 * CHUNK_PX), slice(2 * CHUNK_PX, None)
    with rasterio.open(run / "probability.tif") as file:
        codes = file.read()
    with rasterio.open(run / "status.tif") as file:
        status = file.read() & 0x7F
    assert (codes[..., shown[0]] == 255).all()
    assert set(np.unique(status[..., shown[0]])) <= {Status.NOT_COMPUTED, Status.OUTSIDE_AOI}
    np.testing.assert_array_equal(codes[0][..., shown[1]], old["probability"][1, 0][..., shown[1]])
    share = (status[0] == Status.NOT_COMPUTED).sum() / (status[0] != Status.OUTSIDE_AOI).sum()
    assert report.status_shares["post"]["not_computed"] == pytest.approx(share, abs=1e-6)
    cells = gpd.read_parquet(run / "observed.parquet")
    assert cells.area_km2.sum() == pytest.approx(report.aoi_km2, abs=1e-3)
    lost_km2 = (cells.area_km2 * cells.not_computed).sum()
    assert lost_km2 == pytest.approx(share * report.aoi_km2, abs=1e-3)
    assessed = assess_run(str(run), event.folder / "aoi.geojson")
    assert assessed.total.pixels.array.sum() == (codes[0] != 255).sum()
    map_event(event.config(run, resume=True), client=client)
    assert_same_map(run, second[0])


def killed(*_):
    raise KilledError
    yield


def test_parts_update_together_and_finish_says_what_is_missing(event, client, run, second):
    event.publish({**SECOND, "post-east": Item()})
    first_part, other_part = (
        event.config(run, update=True, cluster={"part": f"{share}/2"}) for share in range(2)
    )
    assert map_part(other_part, client=client).throughput.chunks == 2
    assert len(plan_of(run).updates) == 1
    report = finish_run(OutputConfig(out=str(run)), client=client)
    assert {lost.reason for lost in report.failed} == {"it was never computed"}
    assert 0.4 < report.status_shares["post"]["not_computed"] < 0.7
    assert "failed" not in report.status_shares["post"]
    assert map_part(first_part, client=client).throughput.chunks == 2
    report = finish_run(OutputConfig(out=str(run)), client=client)
    assert report.failed == ()
    fresh = run.parent / "fresh"
    map_event(event.config(fresh), client=client)
    assert_same_map(run, fresh)


def test_parts_that_never_came_are_not_computed(event, client, tmp_path):
    """Of an empty output: what was never written lies outside the area too, and must not count there."""
    event.publish(FIRST)
    out = tmp_path / "half"
    map_part(event.config(out, cluster={"part": "0/2"}), client=client)
    report = finish_run(OutputConfig(out=str(out)), client=client)
    cells = gpd.read_parquet(out / "observed.parquet")
    area_km2 = (GRID.shape.y - 30) * (GRID.shape.x - 30) * 9e-6
    assert cells.area_km2.sum() == pytest.approx(area_km2, rel=0.01)
    assert (cells.area_km2 * cells.not_computed).sum() == pytest.approx(146 / 370 * area_km2, rel=0.02)
    assert cells.failed.max() == 0
    assert report.status_shares["post"]["not_computed"] == pytest.approx(146 / 370, abs=0.01)


def test_shifts_of_an_update_are_those_of_a_fresh_map(event, client, tmp_path, monkeypatch):
    """They are measured before scenes get the indices that they had: in order of preference, as ever."""
    moves = {"pre": (1.0, -2.0), "pre-west": (4.0, 3.0)}
    seen = []

    def align(plan, mode, *_):
        seen.append([(scene.index, scene.item_id) for scene in plan.found.scenes])
        shifts = {s.index: moves[s.item_id] for s in plan.found.of_phase("pre")}
        return plan.with_shifts(shifts), []

    monkeypatch.setattr("coseis.pipeline.align_scenes", align)
    repair = {"coregistration": CoregistrationConfig(coregister="repair")}
    out, fresh = tmp_path / "run", tmp_path / "fresh"
    event.publish(FIRST)
    map_event(event.config(out).model_copy(update=repair), client=client)
    event.publish({**FIRST, "pre-west": Item(), "pre": Item(cloud=50)})
    report = map_event(event.config(out, update=True).model_copy(update=repair), client=client)
    map_event(event.config(fresh).model_copy(update=repair), client=client)
    assert seen[1] == seen[2] == [(0, "pre-west"), (1, "pre"), (2, "post")]
    assert {s.item_id: s.shift_m for s in plan_of(out).found.of_phase("pre")} == moves
    assert (report.updates[0].changed, report.updates[0].changed_chunks) == (("pre",), 2)
    assert_same_map(out, fresh)
    # The same scenes are not measured again, nor are those that stay moved.
    settle(event.config(out, update=True).model_copy(update=repair), pytest.fail)
