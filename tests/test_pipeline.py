"""The main job end to end on small scenes: one identity, one result, however it was computed."""

import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import geopandas as gpd
import keras
import numpy as np
import obstore
import pandas as pd
import pytest
import rasterio
import xarray as xr
from affine import Affine
from distributed import Client, LocalCluster
from odc.geo.geom import point

from coseis.config import ClusterConfig, MapConfig, ModelConfig, OutputConfig, SearchConfig
from coseis.errors import InputRefusedError, UsageError
from coseis.model import build_unet, save_model
from coseis.objects import open_store
from coseis.pipeline import finish_run, map_event, map_part, vectorize_run
from coseis.plan import ITEMS, read_done, read_plan
from coseis.publish import read_tile_ids
from coseis.store import open_arrays
from coseis.task import fail_chunk
from coseis.types import Status
from making import EVENT_TIME, area_of, found_of, grid, texture, write_scene
from test_predict import tiny_card

GRID = grid(420, 560)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    keras.utils.set_random_seed(11)
    card = tiny_card()
    network = build_unet(card)
    # A random network says 0.5 everywhere; steeper logits give codes from 0 to 200.
    kernel, bias = network.get_layer("logits").get_weights()
    network.get_layer("logits").set_weights([kernel * 40, bias])
    return save_model(network, card, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A pre and a post scene that must be warped (2.7 m pixels, not on the grid), one with a hole."""
    folder = tmp_path_factory.mktemp("scenes")
    affine = GRID.affine @ Affine.translation(10.3, 7.7) @ Affine.scale(0.9)
    holed = texture((3, 440, 580), seed=2)
    holed[:, 100:160, 200:300] = 0
    scenes = [
        write_scene(folder / "before.tif", texture((3, 440, 400), seed=1), affine, phase="pre"),
        write_scene(folder / "after.tif", holed, affine),
    ]
    return found_of(scenes, area_of(GRID, inset_px=15))


@pytest.fixture(scope="module")
def run(model, found, tmp_path_factory):
    """Runs the job with the search replaced by the scenes above; everything after it is real."""
    area = tmp_path_factory.mktemp("area") / "aoi.geojson"
    area.write_text(json.dumps(found.event.aoi))

    def start(
        out, client, *, chunk=None, resume=False, core=112, scheduler="local", time=EVENT_TIME, **cluster
    ):
        config = MapConfig(
            search=SearchConfig(catalog="-", aoi=str(area), event_time=time.isoformat()),
            model=ModelConfig(model=str(model.path), core=core, precision="float32"),
            output=OutputConfig(out=str(out), resolution=3.0, chunk=chunk, resume=resume, min_area=0),
            cluster=ClusterConfig(scheduler=scheduler, **cluster),
        )
        return (map_part if "part" in cluster else map_event)(config, client=client)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coseis.plan.find_scenes", lambda search, card: found)
        yield start


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as connection,
    ):
        yield connection


@pytest.fixture(scope="module")
def reference(run, client, tmp_path_factory):
    """One run that the others are compared with; nobody writes to it."""
    out = tmp_path_factory.mktemp("reference") / "run"
    return out, run(out, client)


@pytest.fixture
def copied(reference, tmp_path):
    return Path(shutil.copytree(reference[0], tmp_path / "copy"))


def contents(out):
    """Everything that equal identity makes equal: decoded arrays and polygons."""
    store = open_store(str(out))
    plan = read_plan(bytes(obstore.get(store, ITEMS).bytes()), str(out))
    arrays = {name: np.asarray(array[:]) for name, array in open_arrays(str(out), plan.geobox).items()}
    return arrays, gpd.read_parquet(out / "landslides.parquet")


def place_of_the_last_chunk():
    x, y = GRID.affine @ (GRID.shape.x - 20, GRID.shape.y - 20)
    longitude, latitude = point(x, y, GRID.crs).to_crs("EPSG:4326").coords[0]
    return f"{longitude:.6f},{latitude:.6f}"


def assert_equal(one, other):
    for name in one[0]:
        np.testing.assert_array_equal(one[0][name], other[0][name], err_msg=name)
    pd.testing.assert_frame_equal(one[1].to_wkb(), other[1].to_wkb())


def test_whole_job(reference):
    out, report = reference
    arrays, polygons = contents(out)
    status = arrays["status"] & 0x7F
    assert report.failed == ()
    assert 0.9 < report.observed_share < 1
    assert set(np.unique(status)) == {Status.OBSERVED, Status.NODATA, Status.NOT_ACQUIRED, Status.OUTSIDE_AOI}
    np.testing.assert_array_equal(arrays["probability"][:, 0] == 255, status != Status.OBSERVED)
    np.testing.assert_array_equal(arrays["scene"] == 65535, status != Status.OBSERVED)
    assert len(np.unique(arrays["probability"])) > 50
    post = arrays["probability"][1, 0]
    assert report.landslide_count == (polygons.change != "pre-existing").sum() > 10
    assert sum(total.count for total in report.changes.values()) == len(polygons)
    assert sum(total.count > 0 for total in report.changes.values()) > 1
    assert polygons.pixel_count.sum() == ((post >= report.threshold.code) & (post != 255)).sum()
    assert set(polygons.scenes) == {"post-after"}
    assert (out / "map.png").read_bytes().startswith(b"\x89PNG")


def test_formats_open_with_their_crs(reference):
    out, _ = reference
    arrays, polygons = contents(out)
    cube = xr.open_zarr(out / "probability.zarr", group="32654", consolidated=False)
    assert cube.rio.crs.to_epsg() == 32654
    assert cube.odc.geobox == GRID[15:-15, 15:-15] or cube.odc.geobox.shape == arrays["status"].shape[1:]
    decoded = cube.probability.sel(phase="post").values[0]
    codes = arrays["probability"][1, 0]
    np.testing.assert_array_equal(np.isnan(decoded), codes == 255)
    np.testing.assert_allclose(decoded[codes != 255], codes[codes != 255] / 200, atol=1e-9)
    with rasterio.open(out / "probability.tif") as file:
        assert file.crs.to_epsg() == 32654
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        np.testing.assert_array_equal(file.read(), arrays["probability"][::-1, 0])
    with rasterio.open(out / "status.tif") as file:
        np.testing.assert_array_equal(file.read(), arrays["status"][::-1])
    assert polygons.crs.to_epsg() == 32654
    assert read_tile_ids(out / "landslides.pmtiles", 14) == set(polygons.id)
    report = json.loads((out / "run.json").read_text())
    read = report["throughput"]
    assert 0 < read["bytes_fetched"] < 2 * read["bytes_read"]
    assert read["read_amplification"] == pytest.approx(read["bytes_read"] / read["bytes_needed"], abs=1e-3)
    assert report["seconds"].keys() == {"plan", "predict", "vectorize", "tiles", "publish"}


def test_chunking_and_order_change_nothing(reference, run, client, tmp_path, monkeypatch):
    """Other chunks, in shuffled order, on an empty output with --resume: the same bytes."""
    import coseis.dispatch as module

    real = module.run_jobs

    def shuffled(connection, function, jobs, **options):
        return real(
            connection, function, sorted(jobs, key=lambda job: random.Random(job[0]).random()), **options
        )

    monkeypatch.setattr(module, "run_jobs", shuffled)
    run(tmp_path / "other", client, chunk=224, resume=True)
    assert_equal(contents(reference[0]), contents(tmp_path / "other"))


def test_a_chunk_that_fails_after_it_was_done_is_not_done(copied, run, client):
    """A task that did it may be lost with its worker, and the next try find a file gone."""
    store = open_store(str(copied))
    plan = read_plan(bytes(obstore.get(store, ITEMS).bytes()), str(copied))
    chunk = plan.chunks(112)[7]
    fail_chunk(plan, chunk, str(copied))
    assert chunk.name not in read_done(plan, store)
    status = open_arrays(str(copied), plan.geobox)["status"][(1, *chunk.slices)] & 0x7F
    assert set(np.unique(status)) == {Status.FAILED}
    report = finish_run(OutputConfig(out=str(copied)), client=client)
    assert [failure.chunk for failure in report.failed] == [chunk.name]
    assert run(copied, client, resume=True).throughput.chunks == 1


def test_resume_redoes_only_what_is_missing(reference, copied, run, client):
    store = open_store(str(copied))
    plan = read_plan(bytes(obstore.get(store, ITEMS).bytes()), str(copied))
    records = list(read_done(plan, store))
    for name in records[:3]:
        obstore.delete(store, f"records/32654/{name}.json")
    obstore.put(store, f"records/32654/{records[4]}.json", b'{"torn')
    undone = plan.chunks(112)[[c.name for c in plan.chunks(112)].index(records[0])]
    open_arrays(str(copied), plan.geobox)["probability"][(..., *undone.slices)] = 7
    lost = records[7].replace("_", "/")
    obstore.delete(store, f"probability.zarr/32654/status/c/0/{lost}")
    report = run(copied, client, resume=True)
    assert report.throughput.chunks == 5
    assert_equal(contents(reference[0]), contents(copied))


def test_parts_at_once_and_again_make_the_same_map(reference, run, client, tmp_path):
    """Three parts begun at once on an empty output, one of them twice: one plan, one map."""
    out = tmp_path / "parts"
    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda share: run(out, client, part=f"{share}/3"), (2, 0, 1)))
    chunks = len(read_plan((out / ITEMS).read_bytes(), str(out)).chunks(112))
    assert sum(report.throughput.chunks for report in reports) == chunks
    assert run(out, client, part="1/3").throughput.chunks == 0
    report = finish_run(OutputConfig(out=str(out)), client=client)
    assert not report.failed
    assert report.observed_share == reference[1].observed_share
    assert_equal(contents(reference[0]), contents(out))


def test_a_map_of_what_is_there_can_be_drawn_at_any_time(reference, run, client, tmp_path):
    out = tmp_path / "half"
    run(out, client, part="0/2", first=place_of_the_last_chunk())
    early = finish_run(OutputConfig(out=str(out), tolerate_failed=100), client=client)
    assert {failure.reason for failure in early.failed} == {"it was never computed"}
    assert 0 < early.observed_share < reference[1].observed_share
    assert early.config.output.tolerate_failed == 100
    assert list(early.throughput.reached_s) == ["first_chunk", "half", "all"]
    assert list(early.throughput.reached_s.values()) == sorted(early.throughput.reached_s.values())
    run(out, client, part="1/2")
    finish_run(OutputConfig(out=str(out)), client=client)
    assert_equal(contents(reference[0]), contents(out))


def test_a_part_is_no_whole_map(run, client, model, tmp_path):
    with pytest.raises(UsageError, match="a part of a run is predicted by map_part"):
        map_event(
            MapConfig(
                search=SearchConfig(catalog="-", aoi="0,0,1,1", event_time=EVENT_TIME.isoformat()),
                output=OutputConfig(out=str(tmp_path)),
                cluster=ClusterConfig(part="0/2"),
            ),
            client=client,
        )
    with pytest.raises(InputRefusedError, match=r"holds no run \(no config.json\); run coseis map first"):
        finish_run(OutputConfig(out=str(tmp_path)), client=client)


def test_another_identity_is_refused_by_name(reference, run, client):
    out, _ = reference
    with pytest.raises(InputRefusedError, match="already holds a run; go on with it by --resume"):
        run(out, client)
    with pytest.raises(InputRefusedError, match="holds a run of another time, pre, post; choose another"):
        run(out, client, resume=True, time=EVENT_TIME + timedelta(hours=1))
    with pytest.raises(InputRefusedError, match="holds another run: core_px is 112 there, 128 now"):
        run(out, client, resume=True, core=128)


def test_failed_chunks_are_listed_and_marked(run, client, tmp_path, found, monkeypatch):
    """A file that breaks off beyond its overview fails chunks, never turns into nodata."""
    whole = Path(found.scenes[1].sources[0].href)
    cut = tmp_path / "after.tif"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    sources = tuple(source.model_copy(update={"href": str(cut)}) for source in found.scenes[1].sources)
    broken = found.scenes[1].model_copy(update={"sources": sources})
    monkeypatch.setattr("coseis.plan.inspect_scenes", lambda found: (found.scenes[0], broken))
    report = run(tmp_path / "broken", client)
    assert report.failed
    assert report.observed_share == 0
    assert report.aoi_km2 == pytest.approx(390 * 530 * 9 / 1e6, rel=1e-3)
    assert all("after.tif cannot be read" in failure.reason for failure in report.failed)
    status = contents(tmp_path / "broken")[0]["status"]
    row, col = map(int, report.failed[0].chunk.split("_"))
    assert (status[:, row * 112 : row * 112 + 112, col * 112 : col * 112 + 112] == Status.FAILED).all()
    assert json.loads((tmp_path / "broken" / "run.json").read_text())["failed"]


def test_new_threshold_without_inference(copied, client, monkeypatch):
    out = copied
    monkeypatch.setattr("coseis.dispatch.map_run", None)
    codes = contents(out)[0]["probability"][1, 0]
    report = vectorize_run(OutputConfig(out=str(out), threshold=0.8, min_area=0), client=client)
    polygons = gpd.read_parquet(out / "landslides.parquet")
    assert polygons.pixel_count.sum() == ((codes >= 160) & (codes != 255)).sum()
    assert report.threshold.value == 0.8


def test_new_least_area_keeps_the_threshold(copied, client):
    before = json.loads((copied / "run.json").read_text())["config"]["output"]
    report = vectorize_run(OutputConfig(out=str(copied), min_area=5000), client=client)
    assert report.config.output.threshold == before["threshold"] == "card"
    assert report.throughput.chunks == 20
    assert gpd.read_parquet(copied / "landslides.parquet").area_m2.min() >= 5000


def test_a_torn_report_and_a_missing_run_are_refused(copied, tmp_path):
    (copied / "run.json").write_text("{")
    with pytest.raises(InputRefusedError, match=r"run\.json is damaged"):
        vectorize_run(OutputConfig(out=str(copied), threshold=0.5))
    with pytest.raises(InputRefusedError, match="holds no run: there is no such folder"):
        vectorize_run(OutputConfig(out=str(tmp_path / "none"), threshold=0.5))
    assert not (tmp_path / "none").exists()


def test_what_no_worker_can_hold_is_refused(run, client, tmp_path):
    with pytest.raises(UsageError, match="give a smaller --core, --chunk or --batch"):
        run(tmp_path / "huge", client, core=16_000)
    assert not list((tmp_path / "huge").iterdir())


@pytest.mark.slow
def test_a_remote_scheduler_with_four_workers_changes_nothing(reference, run, tmp_path):
    """tcp:// and four processes, each with its own TensorFlow."""
    with LocalCluster(
        n_workers=4, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
    ) as cluster:
        run(tmp_path / "four", None, scheduler=cluster.scheduler_address)
    assert_equal(contents(reference[0]), contents(tmp_path / "four"))
