"""Amalgamated outlines cut along the lowest probability: shapes with a known number of landslides."""

import geopandas as gpd
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from zarr.storage import MemoryStore

from coseis.describe import _kept_codes
from coseis.statistics.shape import shape_attributes
from coseis.statistics.split import LEAST_PART_M2, split_pixels, split_polygons
from coseis.vectorize import merge_blocks, trace_block
from making import grid

PIXEL_M = 3.0
GRID = grid(160, 300)


def discs(*places, shape=GRID.shape):
    """bool (y, x): discs of (row, column, radius), px."""
    row, col = np.mgrid[: shape[0], : shape[1]]
    inside = np.zeros(shape, bool)
    for y, x, radius in places:
        inside |= np.hypot(row - y, col - x) <= radius
    return inside


def dumbbell(neck_px=6):
    """Two landslides of 20 px radius, 60 px apart, and what joins them."""
    inside = discs((80, 60, 20), (80, 120, 20))
    inside[80 - neck_px // 2 : 80 - neck_px // 2 + neck_px, 60:120] = True
    return inside


def corner():
    """Three landslides in a corner, joined to what no ellipse is like."""
    inside = discs((30, 60, 16), (30, 130, 16), (110, 60, 16))
    inside[27:33, 60:130] = True
    inside[30:110, 57:63] = True
    return inside


def codes_of(inside, value=190):
    return np.where(inside, value, 10).astype(np.uint8)


def split(inside, codes=None):
    return split_pixels(codes_of(inside) if codes is None else codes, inside, pixel_m=PIXEL_M)


def test_two_that_meet_in_a_neck_are_two():
    labels = split(dumbbell())
    assert labels.max() == 2
    # Cut in the middle, the one farther up or left first.
    assert set(np.unique(labels[:, :85])) == {0, 1}
    assert set(np.unique(labels[:, 95:])) == {0, 2}


@pytest.mark.parametrize(
    "inside",
    [
        discs((80, 80, 30)),
        discs((80, 60, 20), (80, 70, 20)),  # one bulge of another
        np.hypot(*(np.mgrid[:160, :300] - np.array([80, 150])[:, None, None]) / [[[20]], [[100]]]) <= 1,
        dumbbell(neck_px=36),
    ],
    ids=["disc", "bulge", "ellipse", "broad neck"],
)
def test_one_stays_one(inside):
    np.testing.assert_array_equal(split(inside), inside)


def test_a_broad_neck_of_low_probability_is_cut():
    inside = dumbbell(neck_px=36)
    codes = codes_of(inside)
    codes[:, 84:97] = np.where(inside[:, 84:97], 90, 10)
    assert split(inside, codes).max() == 2


def test_parts_too_small_belong_to_their_neighbour():
    """A knob of 113 px is 1017 m2 where pixels have 3 m, 254 m2 where they have half of that."""
    inside = discs((80, 60, 20), (80, 100, 6))
    inside[79:82, 60:100] = True
    for pixel_m, count in ((3.0, 2), (1.5, 1)):
        labels = split_pixels(codes_of(inside), inside, pixel_m=pixel_m)
        assert labels.max() == count


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([np.fliplr, np.flipud, np.transpose]))
def test_parts_cover_the_whole_once_each_in_one_piece(seed, turn):
    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(rng.normal(size=(90, 90)), 5) > 0.02
    pieces, count = ndimage.label(blobs)
    inside = pieces == 1 + rng.integers(max(count, 1))
    codes = rng.integers(120, 201, inside.shape).astype(np.uint8)
    labels = split(inside, codes)
    np.testing.assert_array_equal(labels > 0, inside)
    sizes = np.bincount(labels.ravel())[1:]
    assert (sizes > 0).all()
    assert len(sizes) < 2 or sizes.min() * PIXEL_M**2 >= LEAST_PART_M2
    for number in range(1, len(sizes) + 1):
        assert ndimage.label(labels == number, structure=np.ones((3, 3)))[1] == 1
    # How the map lies changes nothing that counts.
    turned = split(turn(inside), turn(codes))
    assert turned.max() == labels.max()


def inventory(inside):
    pieces = trace_block(codes_of(inside), None, {}, origin=(0, 0), threshold_code=100)
    polygons = shape_attributes(merge_blocks([pieces], GRID))
    return polygons.assign(
        touches_unobserved=[n % 2 == 0 for n in range(len(polygons))], touches_aoi_border=False
    )


def test_an_inventory_keeps_its_area_and_says_what_was_whole():
    inside = corner() | discs((60, 220, 25))
    whole = inventory(inside)
    codes = codes_of(inside)
    cut = split_polygons(whole, GRID, lambda rows, cols: codes[rows, cols])
    first, second = whole["id"]
    assert list(cut["id"]) == [f"{first}-1", f"{first}-2", f"{first}-3", second]
    assert list(cut["whole_id"]) == [first, first, first, second]
    sums = cut.groupby("whole_id")["area_m2"].sum()
    assert sums[list(whole["id"])].to_list() == pytest.approx(whole["area_m2"].to_list())
    assert cut.geometry.area.to_list() == pytest.approx(cut["area_m2"].to_list())
    assert cut.geometry.union_all().symmetric_difference(whole.geometry.union_all()).area < 1e-6
    assert list(cut["touches_unobserved"]) == [True, True, True, False]
    # Of a relation that grows faster than the area, parts hold less than the whole.
    assert cut["volume_m3"][:3].sum() < 0.7 * whole["volume_m3"][0]
    assert (cut["amalgamation"] < 0.5).all()


def test_degrees_one_and_no_landslide_are_taken_too():
    whole = inventory(corner())
    codes = codes_of(corner())
    cut = split_polygons(whole.to_crs(4326), GRID, lambda rows, cols: codes[rows, cols])
    assert len(cut) == 3
    assert cut.crs == whole.to_crs(4326).crs
    # Two in a line are like one long landslide: their outline alone does not make them several.
    line = inventory(dumbbell())
    assert len(split_polygons(line, GRID, lambda rows, cols: codes_of(dumbbell())[rows, cols])) == 1
    none = split_polygons(whole.iloc[:0], GRID, lambda rows, cols: codes[rows, cols])
    assert none.empty
    assert {"whole_id", "volume_m3"} <= set(none.columns)


def test_what_this_grid_holds_a_part_of_stays_whole():
    """Joined across the border of two zones it has more pixels than lie here."""
    whole = inventory(corner())
    codes = codes_of(corner())
    beyond = whole.assign(pixel_count=whole["pixel_count"] + 5)
    cut = split_polygons(beyond, GRID, lambda rows, cols: codes[rows, cols])
    assert isinstance(cut, gpd.GeoDataFrame)
    assert list(cut["id"]) == list(whole["id"])


@given(st.data())
def test_codes_read_by_chunks_are_those_of_the_cube(data):
    array = zarr.create_array(MemoryStore(), shape=(2, 1, 23, 37), chunks=(1, 1, 10, 8), dtype="u1")
    array[:] = np.arange(array.size, dtype=np.uint32).reshape(array.shape) % 251
    read = _kept_codes(array, 1)
    for _ in range(3):
        (top, bottom), (left, right) = (
            sorted(data.draw(st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True)))
            for size in array.shape[-2:]
        )
        window = slice(top, bottom), slice(left, right)
        assert np.array_equal(read(*window), array[1, 0, window[0], window[1]])
