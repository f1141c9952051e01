"""What a chunk was made from: the same for any plan in which nothing of it has changed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window

from coseis.grid import SceneIndex, scenes_touching
from coseis.plan import Identity, Plan, read_plan
from coseis.types import Percentiles
from making import a_card, area_of, found_of, grid, write_scene

GRID = grid(420, 560)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Three scenes after the event, one of them in the west alone."""
    folder = tmp_path_factory.mktemp("scenes")
    widths = {"west": 120, "whole": 560, "other": 560}
    scenes = [
        write_scene(folder / f"{name}.tif", np.full((3, 420, width), 9, np.uint8), GRID.affine)
        for name, width in widths.items()
    ]
    identity = Identity(
        scenes="", aoi="", crs=str(GRID.crs), transform=tuple(GRID.affine)[:6], shape=tuple(GRID.shape),
        beyond=(), phases=("post",), masked=(), vegetation=None, block_px=512, core_px=112, batch=1,
        precision="float32", device="cpu", platform="linux", model="", card="", code="1",
    )  # fmt: skip
    found = found_of(scenes, area_of(GRID))
    return Plan(identity=identity, found=found, card=a_card(), forced_resolution=False, chunk_px=112)


def with_scenes(plan, scenes):
    found = plan.found.model_copy(update={"scenes": tuple(scenes)})
    identity = plan.identity.model_copy(update={"scenes": "others"})
    return Plan(
        identity=identity, found=found, card=plan.card, forced_resolution=False, chunk_px=plan.chunk_px
    )


def identities(plan):
    return {chunk.name: plan.chunk_identity(chunk) for chunk in plan.chunks(plan.chunk_px)}


def changed_columns(plan, other):
    one, two = identities(plan), identities(other)
    return {int(name.split("_")[1]) for name in one if one[name] != two[name]}


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({"cloud_cover": 7.0, "attribution": "somebody", "licence": "other"}, set()),
        ({"statistics": {"red": Percentiles(p02=0, p50=1, p98=2)}}, {0, 1, 2}),
        ({"shift_m": (3.0, 0.0)}, {0, 1, 2}),
        ({"index": 9}, {0, 1, 2}),
        ({"content": "another file"}, {0, 1, 2}),
    ],
)
def test_only_chunks_that_a_changed_scene_touches_are_others(plan, changes, columns):
    """The western scene reaches 120 px and its margin; a chunk of 112 px reads 96 px more each side."""
    west, *rest = plan.found.scenes
    changed = with_scenes(plan, [west.model_copy(update=changes), *rest])
    assert changed_columns(plan, changed) == columns


def test_order_and_absence_count(plan):
    west, whole, other = plan.found.scenes
    assert changed_columns(plan, with_scenes(plan, [whole, west, other])) == {0, 1, 2}
    assert changed_columns(plan, with_scenes(plan, [whole, other])) == {0, 1, 2}
    assert changed_columns(plan, with_scenes(plan, [west, other, whole])) == {0, 1, 2, 3, 4}


def test_all_else_of_the_identity_counts_everywhere(plan):
    for change in ({"batch": 2}, {"vegetation": "ndvi"}, {"masked": ("cloud",)}, {"code": "2"}):
        other = plan.model_copy(update={"identity": plan.identity.model_copy(update=change)})
        other = read_plan(other.model_dump_json().encode(), "out")
        assert changed_columns(plan, other) == {0, 1, 2, 3, 4}


def test_a_narrowed_plan_and_one_that_was_read_say_the_same(plan):
    again = read_plan(plan.model_dump_json().encode(), "out")
    assert identities(again) == identities(plan)
    for chunk in plan.chunks(112):
        assert plan.for_area(plan.area(chunk)).chunk_identity(chunk) == plan.chunk_identity(chunk)
    assert not set(identities(plan).values()) & {plan.chunk_identity(chunk) for chunk in plan.chunks(224)}


@given(
    window=st.tuples(st.integers(-200, 700), st.integers(-200, 700), st.integers(1, 300), st.integers(1, 300))
)
def test_an_index_of_scenes_finds_what_a_scan_does(plan, window):
    area = Window(*window)
    scenes = plan.found.scenes
    assert SceneIndex(scenes, GRID).touching(area) == scenes_touching(scenes, GRID, area)
