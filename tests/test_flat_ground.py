"""The mask of flat ground: a pure function of DEM and pixel, and what it takes away is counted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coseis.flat_ground import FlatCount, FlatGround, find_flat, slope_at
from coseis.windows import chunk_grid
from making import ORIGIN, UTM, grid
from making_dem import dem_of, hills, write_dem

GRID = grid(700, 900)
CRS = GRID.crs.to_wkt()


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return FlatGround(
        dem=dem_of(write_dem(tmp_path_factory.mktemp("dem") / "dem.tif", hills(70, 85))), min_slope_deg=10
    )


@pytest.fixture(scope="module")
def landslide():
    return np.random.default_rng(0).random((700, 900)) < 0.3


def test_slope_is_bilinear_between_pixel_centres(tmp_path):
    """Slope that grows evenly to the east: z = x^2 / 2 has slope tan = x."""
    x_m = (np.arange(60) + 0.5) * 30
    z = np.repeat((0.0002 * x_m**2)[None], 40, axis=0).astype(np.float32)
    dem = dem_of(write_dem(tmp_path / "dem.tif", z))
    places = np.linspace(60, 1700, 200)
    slope = slope_at(dem, ORIGIN[0] + places, np.full(200, ORIGIN[1] - 600), CRS)
    np.testing.assert_allclose(np.tan(np.radians(slope)), 0.0004 * places, atol=1e-3)


def test_a_plane_is_flat_or_not_as_a_whole(tmp_path):
    z = np.repeat(np.arange(80, dtype=np.float32)[None] * 30 * np.tan(np.radians(7)), 80, axis=0)
    dem = dem_of(write_dem(tmp_path / "dem.tif", z.astype(np.float32)))
    everywhere = np.ones((300, 300), bool)
    for min_slope_deg, share in ((6.9, 0), (7.1, 1)):
        ground = FlatGround(dem=dem, min_slope_deg=min_slope_deg)
        flat, count = find_flat(everywhere, GRID, ground, origin=(200, 200))
        assert count == FlatCount(landslide_px=90_000, flat_px=90_000 * share)
        assert (flat == share).all()
        assert count.flat_share == share


@given(st.integers(50, 900), st.integers(0, 2**32 - 1))
def test_blocks_change_nothing(ground, landslide, side_px, seed):
    whole, count = find_flat(landslide, GRID, ground)
    assert 0.1 < count.flat_share < 0.9
    assert count.unknown_px > 0  # the DEM ends before the grid does
    pieces, summed = np.zeros_like(whole), FlatCount()
    blocks = list(chunk_grid(landslide.shape, side_px))
    np.random.default_rng(seed).shuffle(blocks)
    for block in blocks:
        flat, part = find_flat(landslide[block.slices], GRID, ground, origin=(block.y0, block.x0))
        pieces[block.slices] = flat
        summed += part
    np.testing.assert_array_equal(pieces, whole)
    assert summed == count


def test_only_landslides_are_taken_and_unknown_ground_is_kept(ground, landslide):
    flat, count = find_flat(landslide, GRID, ground)
    assert not (flat & ~landslide).any()
    rows, cols = np.nonzero(landslide)
    x, y = ORIGIN[0] + 3 * (cols + 0.5), ORIGIN[1] - 3 * (rows + 0.5)
    slope = slope_at(ground.dem, x, y, CRS)
    np.testing.assert_array_equal(flat[rows, cols], slope < 10)
    assert count.unknown_px == np.isnan(slope).sum() == (~(slope < 10) & ~(slope >= 10)).sum()
    assert str(GRID.crs) == UTM


def test_no_landslide_reads_nothing(ground):
    gone = ground.dem.tiles[0].model_copy(
        update={"source": ground.dem.tiles[0].source.model_copy(update={"href": "/gone.tif"})}
    )
    ground = FlatGround(dem=ground.dem.model_copy(update={"tiles": (gone,)}), min_slope_deg=5)
    flat, count = find_flat(np.zeros((50, 50), bool), GRID, ground)
    assert not flat.any()
    assert count == FlatCount()
    assert count.flat_share is None
