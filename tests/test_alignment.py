"""A run whose scene before the event lies 2.5, -1.5 px off: it is said or repaired, and measured once."""

import json
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
from affine import Affine
from rasterio.windows import Window

from coseis.alignment import SHIFTS, align_scenes, measure_block, sample_blocks
from coseis.config import (
    ClusterConfig,
    CoregistrationConfig,
    MapConfig,
    ModelConfig,
    OutputConfig,
    SearchConfig,
)
from coseis.coregister import UNMEASURED
from coseis.cube import read_window
from coseis.errors import InputRefusedError
from coseis.pipeline import map_event
from coseis.plan import ITEMS, read_plan
from making import EVENT_TIME, area_of, found_of, grid, write_scene
from shift_injections import photograph
from test_pipeline import client, model  # noqa: F401  (fixtures)

GRID = grid(520, 620)
SIDE_PX = 700
OFF_PX = (2.5, -1.5)
"""Down and to the right."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Before the event where it belongs, the same pixels with another transform, and after the event."""
    folder = tmp_path_factory.mktemp("scenes")
    pre, post = (
        np.clip(image * 900, 1, 255).astype(np.uint8)
        for image in photograph(np.random.default_rng(3), SIDE_PX)[1:]
    )
    there = GRID.affine @ Affine.translation(-40, -40)
    off = there @ Affine.translation(OFF_PX[1], OFF_PX[0])
    return {
        "right": write_scene(folder / "right.tif", pre, there, phase="pre"),
        "off": write_scene(folder / "off.tif", pre, off, phase="pre"),
        "post": write_scene(folder / "after.tif", post, there),
    }


@pytest.fixture(scope="module")
def run(scenes, model, tmp_path_factory):  # noqa: F811
    area = tmp_path_factory.mktemp("area") / "aoi.geojson"
    found = found_of([scenes["off"], scenes["post"]], area_of(GRID, inset_px=10))
    area.write_text(json.dumps(found.event.aoi))

    def start(out, connection, coregister, *, resume=False):
        config = MapConfig(
            search=SearchConfig(catalog="-", aoi=str(area), event_time=EVENT_TIME.isoformat()),
            model=ModelConfig(model=str(model.path), core=256, precision="float32"),
            output=OutputConfig(out=str(out), resolution=3.0, resume=resume),
            cluster=ClusterConfig(),
            coregistration=CoregistrationConfig(coregister=coregister),
        )
        report = map_event(config, client=connection)
        return report, read_plan((out / ITEMS).read_bytes(), str(out))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coseis.plan.find_scenes", lambda search, card: found)
        yield start


@pytest.fixture(scope="module")
def checked(run, client, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("checked") / "run"
    return out, *run(out, client, "check")


@pytest.fixture(scope="module")
def repaired(run, client, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("repaired") / "run"
    return out, *run(out, client, "repair")


def pre_image(plan, scene=None):
    """The scene before the event as a run reads it, where it has pixels of any place."""
    recipe = plan.recipe()
    if scene is not None:
        recipe = replace(recipe, scenes=(scene, *recipe.scenes[1:]))
    return read_window(recipe, Window(20, 20, 460, 460)).image[0]


def test_a_check_says_how_far_a_scene_lies_off(checked):
    out, report, plan = checked
    measured = json.loads((out / "run.json").read_text())["coregistration"]
    [scene] = measured["scenes"]
    assert np.hypot(measured["median_dy_px"] - OFF_PX[0], measured["median_dx_px"] - OFF_PX[1]) < 0.2
    assert measured["ce90_px"] == pytest.approx(np.hypot(*OFF_PX), abs=0.2)
    assert measured["flagged"] == ["pre-off"]
    assert scene["flag"] == "it lies 2.9 px off; --coregister repair moves it"
    assert (scene["after"], measured["ce90_after_px"], scene["shift_m"]) == (None, None, [0, 0])
    assert plan.found.scenes[0].shift_m == (0, 0)
    assert plan.coregistration == report.coregistration


def test_the_shift_field_is_an_output(checked):
    out, _, plan = checked
    field = gpd.read_parquet(out / SHIFTS)
    assert field.crs.to_epsg() == 32654
    assert set(field.columns) >= {"dy_px", "dx_px", "confidence", "state", "pre", "post", "geometry"}
    good = field[field.state == "good"]
    assert len(field) == plan.coregistration.blocks
    assert len(good) > 0
    assert np.hypot(good.dy_px - OFF_PX[0], good.dx_px - OFF_PX[1]).max() < 0.2
    assert set(good.pre) == {"pre-off"}
    assert set(good.post) == {"post-after"}
    assert good.geometry.iloc[0].bounds == (
        plan.geobox.affine.c,
        plan.geobox.affine.f - 512 * 3,
        plan.geobox.affine.c + 512 * 3,
        plan.geobox.affine.f,
    )
    assert SHIFTS in json.loads((out / "item.json").read_text())["assets"]


def test_a_repair_brings_the_scene_back(repaired, checked, scenes):
    _, report, plan = repaired
    moved = plan.found.scenes[0]
    assert moved.shift_m == pytest.approx((-3 * OFF_PX[0], -3 * OFF_PX[1]), abs=0.6)
    assert report.coregistration.flagged == ()
    assert report.coregistration.ce90_after_px < 0.2 < 2.5 < report.coregistration.ce90_px
    assert plan.identity.scenes != checked[2].identity.scenes
    unshifted = pre_image(plan, scenes["right"].model_copy(update={"statistics": moved.statistics}))
    wrong = np.abs(pre_image(checked[2]) - unshifted).mean()
    # What a shift by a tenth of a pixel costs; the scene itself differs by far more when it lies off.
    assert np.abs(pre_image(plan) - unshifted).mean() < 0.1 * wrong


def test_a_resumed_run_measures_nothing_again(repaired, run, client, monkeypatch):  # noqa: F811
    out, _, plan = repaired
    monkeypatch.setattr("coseis.pipeline.align_scenes", None)
    report, again = run(out, client, "repair", resume=True)
    assert again == plan
    assert report.throughput.chunks == 0
    assert report.coregistration == plan.coregistration


def test_a_resumed_run_is_not_asked_for_another_check(repaired, run, client):  # noqa: F811
    with pytest.raises(InputRefusedError, match="holds a run with --coregister repair; go on with that"):
        run(repaired[0], client, "check", resume=True)


def test_a_run_may_go_without(run, client, tmp_path):  # noqa: F811
    report, plan = run(tmp_path / "off", client, "off")
    assert plan.coregistration is None
    assert report.coregistration is None
    assert not (tmp_path / "off" / SHIFTS).exists()
    assert SHIFTS not in json.loads((tmp_path / "off" / "item.json").read_text())["assets"]


def test_a_scene_too_far_off_is_left_and_flagged(checked, scenes, client):  # noqa: F811
    plan = checked[2]
    far = plan.found.scenes[0].model_copy(update={"shift_m": (15.0, 0.0)})
    found = plan.found.model_copy(update={"scenes": (far, *plan.found.scenes[1:])})
    plan, _ = align_scenes(plan.model_copy(update={"found": found}), "repair", client)
    [scene] = plan.coregistration.scenes
    assert plan.found.scenes[0].shift_m == (15.0, 0.0)
    assert np.hypot(scene.before.dy_px - 7.5, scene.before.dx_px + 1.5) < 0.2
    assert scene.flag.endswith("px off, more than the 5 that are repaired")


def test_a_block_without_the_scene_is_unmeasured(checked):
    block = measure_block(checked[2].recipe(), 40, 40, pre=0)
    assert (block.pre, block.post, block.shift) == (0, None, UNMEASURED)


def test_a_sample_is_bounded_and_always_the_same(checked, monkeypatch):
    plan = checked[2]
    large = plan.identity.model_copy(update={"shape": (4 * 512, 4 * 512)})
    everywhere = area_of(grid(4 * 512, 4 * 512))
    scenes = tuple(scene.model_copy(update={"geometry": everywhere}) for scene in plan.found.scenes)
    event = plan.found.event.model_copy(update={"aoi": everywhere})
    found = plan.found.model_copy(update={"scenes": scenes, "event": event})
    plan = plan.model_copy(update={"identity": large, "found": found})
    plan.__dict__.pop("geobox", None)
    assert len(sample_blocks(plan)) == 16
    monkeypatch.setattr("coseis.alignment.MOST_BLOCKS", 5)
    assert len(sample_blocks(plan)) == 5
    assert sample_blocks(plan) == sample_blocks(plan)
