"""Polygons against rasterio on the full mask, sums against scipy, and sameness under any blocking."""

import pickle
from itertools import pairwise

import dask
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.features import shapes
from scipy import ndimage

from coseis.errors import UsageError
from coseis.types import CODE_FILL, CODE_SCALE, CONTEXT_INCOMPLETE, SCENE_FILL, Status
from coseis.vectorize import INCOMPLETE, BlockPieces, merge_blocks, polygonize, trace_block

CODE = 112
NORTH_UP = Affine(3, 0, 583_200, 0, -3, 4_737_072)
CUT = st.lists(st.integers(1, 30), max_size=3)


def grid(shape: tuple[int, int], affine: Affine = NORTH_UP, crs: str = "EPSG:32654") -> GeoBox:
    return GeoBox(shape, affine, crs)


def layers_of(mask: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, status and scene that give this mask at CODE, with all kinds of values on either side."""
    rng = np.random.default_rng(seed)
    below = np.where(rng.random(mask.shape) < 0.2, CODE_FILL, rng.integers(0, CODE, mask.shape))
    codes = np.where(mask, rng.integers(CODE, CODE_SCALE + 1, mask.shape), below).astype(np.uint8)
    status = np.where(rng.random(mask.shape) < 0.3, Status.OBSERVED | CONTEXT_INCOMPLETE, Status.OBSERVED)
    scene = rng.choice([0, 1, 7, 300, SCENE_FILL], mask.shape, p=[0.5, 0.2, 0.1, 0.1, 0.1])
    return codes, status.astype(np.uint8), scene.astype(np.uint16)


def trace_all(layers: tuple[np.ndarray, ...], row_cuts: list[int], col_cuts: list[int]) -> list[BlockPieces]:
    """Trace the blocks between the cuts; cuts beyond the array and repeated ones do nothing."""
    height, width = layers[0].shape
    rows = sorted({0, height, *(cut for cut in row_cuts if cut < height)})
    cols = sorted({0, width, *(cut for cut in col_cuts if cut < width)})
    pieces = []
    for top, bottom in pairwise(rows):
        for left, right in pairwise(cols):
            codes, status, scene = (layer[top:bottom, left:right] for layer in layers)
            summed = {INCOMPLETE: status & CONTEXT_INCOMPLETE > 0}
            pieces.append(trace_block(codes, scene, summed, origin=(top, left), threshold_code=CODE))
    return pieces


def expected_polygons(mask: np.ndarray, affine: Affine) -> list[shapely.Polygon]:
    found = shapes(mask.astype(np.uint8), mask=mask, connectivity=4, transform=affine)
    return sorted((shapely.geometry.shape(polygon).normalize() for polygon, _ in found), key=shapely.to_wkb)


def assert_equals_rasterio(table: gpd.GeoDataFrame, mask: np.ndarray, affine: Affine = NORTH_UP) -> None:
    assert shapely.is_valid(table.geometry).all()
    found = sorted(table.geometry.normalize(), key=shapely.to_wkb)
    assert found == expected_polygons(mask, affine)


def spiral(size: int) -> np.ndarray:
    """One arm, a pixel wide, with a gap of a pixel between its turns."""
    mask = np.zeros((size + 4, size + 4), dtype=bool)
    free = np.pad(np.ones((size, size), dtype=bool), 2)
    place, step, turns = np.array([2, 2]), np.array([0, 1]), 0
    while turns < 2:
        mask[tuple(place)] = True
        ahead, beyond = tuple(place + step), tuple(place + 2 * step)
        if free[ahead] and not mask[ahead] and not mask[beyond]:
            place, turns = place + step, 0
        else:
            step, turns = np.array([step[1], -step[0]]), turns + 1
    return mask[2:-2, 2:-2]


def special_masks() -> dict[str, np.ndarray]:
    checkers = np.indices((17, 19)).sum(axis=0) % 2 == 0
    rings = np.indices((21, 21)).max(axis=0) % 2 == 0
    frame = np.ones((16, 16), dtype=bool)
    frame[5:11, 5:11] = False
    island = frame.copy()
    island[7:9, 7:9] = True
    comb = np.zeros((15, 15), dtype=bool)
    comb[::2] = comb[:, 7] = True
    pinched = np.array([[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]], dtype=bool)
    return {
        "all": np.ones((13, 11), dtype=bool),
        "none": np.zeros((5, 7), dtype=bool),
        "one pixel": np.ones((1, 1), dtype=bool),
        "checkerboard": checkers,
        "checkerboard with joined corners": checkers | (np.indices((17, 19))[0] % 4 == 0),
        "nested angles": rings,
        "hole": frame,
        "island in a hole": island,
        "comb": comb,
        "holes that touch at corners": pinched,
        "spiral": spiral(24),
        "inverse spiral": ~spiral(24),
    }


def random_mask(rng: np.random.Generator) -> np.ndarray:
    shape = tuple(rng.integers(1, 32, 2))
    density = rng.choice([0.03, 0.2, 0.5, 0.6, 0.8, 0.97])
    noise = rng.random(shape)
    kind = rng.integers(4)
    if kind == 0:
        return noise < density
    if kind == 1:
        smooth = ndimage.gaussian_filter(noise, rng.uniform(0.5, 3))
        return smooth < np.quantile(smooth, density)
    if kind == 2:
        return np.kron(noise < density, np.ones((2, 3), dtype=bool))
    checkers = np.indices(shape).sum(axis=0) % 2 == 0
    return checkers ^ (noise < density / 4)


@pytest.mark.parametrize("mask", list(special_masks().values()), ids=special_masks())
def test_special_masks_equal_rasterio_for_every_cut_in_four(mask: np.ndarray) -> None:
    layers = layers_of(mask)
    whole = merge_blocks(trace_all(layers, [], []), grid(mask.shape))
    assert_equals_rasterio(whole, mask)
    for cut in range(1, max(mask.shape)):
        table = merge_blocks(trace_all(layers, [cut], [(cut * 7) % mask.shape[1]]), grid(mask.shape))
        pd.testing.assert_frame_equal(table, whole)
    single = merge_blocks(trace_all(layers, list(range(99)), list(range(99))), grid(mask.shape))
    pd.testing.assert_frame_equal(single, whole)


@pytest.mark.parametrize("seed", range(10))
def test_400_random_masks_and_chunkings_equal_rasterio(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(40):
        mask = random_mask(rng)
        cuts = [rng.integers(1, 33, rng.integers(0, 5)).tolist() for _ in range(2)]
        pieces = trace_all(layers_of(mask), *cuts)
        rng.shuffle(pieces)
        assert_equals_rasterio(merge_blocks(pieces, grid(mask.shape)), mask)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)), CUT, CUT, st.randoms())
def test_table_is_the_same_for_any_blocking_and_order(mask, row_cuts, col_cuts, random) -> None:
    layers = layers_of(mask)
    whole = merge_blocks(trace_all(layers, [], []), grid(mask.shape), min_area_m2=18)
    pieces = trace_all(layers, row_cuts, col_cuts)
    random.shuffle(pieces)
    pieces = pickle.loads(pickle.dumps(pieces))
    table = merge_blocks(pieces, grid(mask.shape), min_area_m2=18)
    pd.testing.assert_frame_equal(table, whole)
    np.testing.assert_array_equal(shapely.to_wkb(table.geometry), shapely.to_wkb(whole.geometry))


@pytest.mark.parametrize(
    "affine",
    [NORTH_UP, Affine(3, 0, 0, 0, 3, 0), Affine(2, 0, 9, 0, -5, 90), Affine(-2, 0, 9, 0, -5, 90)],
    ids=["north-up", "south-up", "pixels not square", "mirrored"],
)
def test_sums_equal_scipy_on_the_whole_array(affine: Affine) -> None:
    rng = np.random.default_rng(5)
    mask = ndimage.gaussian_filter(rng.random((60, 70)), 1) > 0.52
    codes, status, scene = layers = layers_of(mask, seed=6)
    table = merge_blocks(trace_all(layers, [16, 32, 48], [9, 60]), grid(mask.shape, affine))
    assert_equals_rasterio(table, mask, affine)
    labels, count = ndimage.label(mask)
    every = np.arange(1, count + 1)
    first = [np.flatnonzero(labels == label)[0] for label in every]
    assert first == sorted(first)
    assert len(table) == count
    np.testing.assert_array_equal(table.pixel_count, ndimage.sum_labels(mask, labels, every))
    mean = ndimage.sum_labels(codes.astype(int), labels, every) / (table.pixel_count * CODE_SCALE)
    np.testing.assert_array_equal(table.probability_mean, mean)
    np.testing.assert_array_equal(table.probability_max, ndimage.maximum(codes, labels, every) / CODE_SCALE)
    share = ndimage.sum_labels(status >= CONTEXT_INCOMPLETE, labels, every) / table.pixel_count
    np.testing.assert_array_equal(table.context_incomplete_share, share)
    for label, scenes in zip(every, table.scenes, strict=True):
        covered = np.unique(scene[(labels == label) & (scene != SCENE_FILL)])
        assert scenes == ",".join(map(str, covered))
    np.testing.assert_allclose(table.area_m2, table.geometry.area, rtol=1e-12)
    np.testing.assert_allclose(table.perimeter_m, table.geometry.length, rtol=1e-12)
    assert table.id.is_unique
    assert shapely.is_ccw(shapely.get_exterior_ring(table.geometry)).all()
    holes = shapely.get_parts(
        shapely.get_rings(table.geometry[shapely.get_num_interior_rings(table.geometry) > 0])
    )
    assert shapely.is_ccw(holes).sum() < len(holes)


def test_hole_touches_the_shell_where_pixels_of_one_component_touch_at_a_corner() -> None:
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=bool)
    (polygon,) = merge_blocks(
        trace_all(layers_of(mask), [1], [2]), grid(mask.shape, Affine(1, 0, 0, 0, -1, 0))
    ).geometry
    shell = [(0, 0), (0, -3), (2, -3), (2, -2), (3, -2), (3, 0), (0, 0)]
    assert list(polygon.exterior.coords) == shell
    assert [list(hole.coords) for hole in polygon.interiors] == [
        [(1, -1), (2, -1), (2, -2), (1, -2), (1, -1)]
    ]


def test_pixels_that_touch_only_at_a_corner_stay_apart() -> None:
    mask = np.eye(4, dtype=bool)
    assert len(merge_blocks(trace_all(layers_of(mask), [2], [2]), grid(mask.shape))) == 4


def test_ids_name_the_place_of_the_first_pixel_whatever_the_area_of_interest() -> None:
    mask = np.random.default_rng(0).random((20, 20)) < 0.1
    whole = merge_blocks(trace_all(layers_of(mask), [], []), grid(mask.shape))
    row, col = np.argwhere(mask)[0]
    assert whole.id[0] == f"32654-E{583_200 + 3 * col}-N{4_737_072 - 3 * row}"
    padded = np.pad(mask, ((4, 2), (9, 1)))
    shifted = merge_blocks(
        trace_all(layers_of(padded), [5], [6]),
        grid(padded.shape, Affine(3, 0, 583_200 - 9 * 3, 0, -3, 4_737_072 + 4 * 3)),
    )
    assert list(shifted.id) == list(whole.id)


@pytest.mark.parametrize("size_m", [0.3, 0.5, 1.0, 10 / 3, 3.75])
@pytest.mark.parametrize("offset_px", [0, 0.5])
def test_ids_are_unique_and_stable_for_odd_pixel_sizes(size_m: float, offset_px: float) -> None:
    mask = np.indices((40, 40)).sum(axis=0) % 2 == 0
    ids = []
    for skip in (0, 12):
        origin = (171_234 + skip + offset_px) * size_m
        part = mask[:, skip:]
        box = grid(part.shape, Affine(size_m, 0, origin, 0, -size_m, origin))
        ids.append(set(merge_blocks(trace_all(layers_of(part), [], []), box).id))
    assert len(ids[0]) == mask.sum()
    assert len(ids[1]) == mask[:, 12:].sum()
    assert all(name.startswith("32654-E") for name in ids[0])


def test_scene_names_digest_and_least_area() -> None:
    mask = np.zeros((6, 6), dtype=bool)
    mask[0, 0] = mask[2:4, 2:5] = True
    codes, status, scene = layers_of(mask)
    scene[:] = 1
    scene[2, 2] = 0
    table = merge_blocks(
        trace_all((codes, status, scene), [3], [3]),
        grid(mask.shape),
        item_ids=["before", "after"],
        model_digest="sha256:12",
        min_area_m2=10,
    )
    assert table.scenes.tolist() == ["before,after"]
    preferred = {1: "after", 0: "before"}
    pieces = trace_all((codes, status, scene), [3], [3])
    assert merge_blocks(pieces, grid(mask.shape), item_ids=preferred).scenes.tolist()[-1] == "after,before"
    assert table.model_digest.tolist() == ["sha256:12"]
    assert table.area_m2.tolist() == [54.0]
    with pytest.raises(UsageError, match=r"names scenes \[0, 1\], but only 1 item ids"):
        merge_blocks(trace_all((codes, status, scene), [3], [3]), grid(mask.shape), item_ids=["before"])


@pytest.mark.parametrize("blocks", [0, 1])
def test_nothing_found_gives_an_empty_table_with_all_columns(blocks: int) -> None:
    full = merge_blocks(trace_all(layers_of(np.ones((4, 4), dtype=bool)), [], []), grid((4, 4)))
    pieces = trace_all(layers_of(np.zeros((4, 4), dtype=bool)), [], [])[:blocks]
    empty = merge_blocks(pieces, grid((4, 4)))
    assert len(empty) == 0
    assert list(empty.columns) == list(full.columns)
    assert empty.crs == full.crs
    assert empty.area_m2.dtype == full.area_m2.dtype


def on_grid(values: np.ndarray, box: GeoBox | None = None) -> xr.DataArray:
    box = box or grid(values.shape)
    return xr.DataArray(values, dims=box.dimensions, coords=xr_coords(box))


def test_polygonize_is_the_same_for_codes_floats_numpy_dask_and_any_chunks() -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(8).random((50, 40)), 1) > 0.52
    codes, status, scene = layers_of(mask)
    floats = np.where(codes == CODE_FILL, np.nan, codes / CODE_SCALE).astype(np.float32)
    layers = {"status": on_grid(status).transpose("x", "y"), "scene": on_grid(scene)}
    whole = merge_blocks(trace_all((codes, status, scene), [], []), grid(mask.shape))
    for probability in (
        on_grid(codes),
        on_grid(floats),
        on_grid(codes).chunk(y=(20, 30), x=17),
        on_grid(floats).chunk(y=7, x=40),
    ):
        pd.testing.assert_frame_equal(polygonize(probability, 0.56, **layers), whole)
    bare = polygonize(on_grid(codes), 0.56)
    assert bare.scenes.tolist() == [""] * len(whole)
    assert (bare.context_incomplete_share == 0).all()
    np.testing.assert_array_equal(bare.geometry, whole.geometry)


def test_polygonize_computes_each_chunk_once() -> None:
    seen = []

    def read(block: np.ndarray) -> np.ndarray:
        seen.append(block.shape)
        return block

    probability = on_grid(layers_of(np.ones((20, 20), dtype=bool))[0]).chunk(y=10, x=20)
    probability = probability.copy(
        data=probability.data.map_blocks(read, dtype=np.uint8, meta=np.empty((0, 0), np.uint8))
    )
    with dask.config.set(scheduler="synchronous"):
        assert len(polygonize(probability, 0.5)) == 1
    assert seen == [(10, 20), (10, 20)]


@pytest.mark.parametrize(
    ("probability", "message"),
    [
        (on_grid(np.zeros((4, 4), np.uint8)).expand_dims(phase=["post"]), "select a phase and a class"),
        (on_grid(np.zeros((4, 4), np.int16)), "dtype int16; expected float"),
        (on_grid(np.zeros((4, 4), np.uint8)).transpose("x", "y"), "no regular grid.*in this order"),
        (xr.DataArray(np.zeros((4, 4)), dims=("y", "x")), "no regular grid|CRS is missing"),
        (on_grid(np.zeros((4, 4)), grid((4, 4), crs="EPSG:4326")), "CRS is WGS 84; expected a projected"),
        (on_grid(np.zeros((4, 4)), grid((4, 4), Affine(3, 1, 0, 1, -3, 0))), "rotated"),
        (on_grid(np.full((4, 4), 1.5)), "runs from 1.5 to 1.5 in the block at row 0.*expected 0 to 1"),
    ],
    ids=["3-d", "dtype", "order", "no CRS", "degrees", "rotated", "range"],
)
def test_polygonize_refuses(probability: xr.DataArray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        polygonize(probability, 0.5)


def test_polygonize_refuses_other_thresholds_and_layers_of_another_shape() -> None:
    probability = on_grid(np.zeros((4, 4), np.uint8))
    with pytest.raises(UsageError, match="threshold is 56; expected a probability"):
        polygonize(probability, 56)
    with pytest.raises(UsageError, match=r"layer 'status' has sizes .*'x': 5"):
        polygonize(probability, 0.5, status=on_grid(np.zeros((4, 5), np.uint8)).rename("status"))


@pytest.mark.slow
def test_large_mask_with_100_thousand_polygons_equals_rasterio() -> None:
    noise = ndimage.gaussian_filter(
        np.random.default_rng(1).standard_normal((4096, 4096)).astype(np.float32), 1.5
    )
    mask = noise > np.quantile(noise[::7, ::7], 0.93)
    pieces = trace_all(layers_of(mask), list(range(0, 4096, 1024)), list(range(0, 4096, 1000)))
    table = merge_blocks(pieces, grid(mask.shape))
    assert len(table) > 100_000
    assert_equals_rasterio(table, mask)
