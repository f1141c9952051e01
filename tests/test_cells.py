"""Kilometre cells: counts against a plain loop, and independence of blocks."""

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from coseis.cells import CELL_M, count_cells, join_cells
from coseis.types import CONTEXT_INCOMPLETE, SCENE_FILL, Status
from coseis.windows import chunk_grid

GRID = GeoBox((250, 330), Affine(10.0, 0, 583_213.0, 0, -10.0, 4_737_042.0), "EPSG:32654")


@pytest.fixture(scope="module")
def layers():
    rng = np.random.default_rng(3)
    choices = [Status.OBSERVED, Status.CLOUD, Status.SHADOW, Status.NODATA, Status.OUTSIDE_AOI]
    status = rng.choice(choices, (2, *GRID.shape), p=[0.6, 0.1, 0.1, 0.1, 0.1]).astype(np.uint8)
    status[:, :, 300:] = Status.OUTSIDE_AOI
    status[1] = np.where(status[0] == Status.OUTSIDE_AOI, status[0], status[1])
    status[0][status[1] == Status.OUTSIDE_AOI] = Status.OUTSIDE_AOI
    scene = np.where(status == Status.OBSERVED, 0, SCENE_FILL).astype(np.uint16)
    scene[status == Status.SHADOW] = 1  # a user lets shadow pass
    status[status == Status.OBSERVED] |= CONTEXT_INCOMPLETE
    return status, scene


def cells_of(layers, side_px):
    status, scene = layers
    counts = [
        count_cells(
            status[:, *block.slices],
            scene[:, *block.slices],
            ("pre", "post"),
            GRID,
            origin=(block.y0, block.x0),
        )
        for block in chunk_grid(GRID.shape, side_px)
    ]
    return join_cells(counts, GRID)


@pytest.mark.parametrize("side_px", [40, 77, 128])
def test_blocks_change_nothing(layers, side_px):
    whole, cut = cells_of(layers, 1000), cells_of(layers, side_px)
    assert whole.drop(columns="geometry").equals(cut.drop(columns="geometry"))
    assert whole.geometry.equals(cut.geometry)


def test_each_cell_counts_the_pixels_whose_centres_it_holds(layers):
    status, scene = layers
    codes = status & 0x7F
    x, y = GRID.coordinates["x"].values, GRID.coordinates["y"].values
    cells = cells_of(layers, 100)
    assert cells.crs.to_epsg() == 32654
    for cell in cells.itertuples():
        west, south, east, north = cell.geometry.bounds
        assert (east - west, north - south) == (CELL_M, CELL_M)
        here = np.ix_((y > south) & (y < north), (x > west) & (x < east))
        inside = codes[1][here] != Status.OUTSIDE_AOI
        assert cell.area_km2 == pytest.approx(inside.sum() * 100 / 1e6)
        assert cell.observed == pytest.approx((scene[1][here] != SCENE_FILL).sum() / inside.sum(), abs=1e-6)
        assert cell.pre_observed == pytest.approx(
            (scene[0][here] != SCENE_FILL).sum() / inside.sum(), abs=1e-6
        )
        assert cell.cloud == pytest.approx((codes[1][here] == Status.CLOUD).sum() / inside.sum(), abs=1e-6)
    assert cells.area_km2.sum() == pytest.approx((codes[1] != Status.OUTSIDE_AOI).sum() * 100 / 1e6)


def test_a_map_that_is_all_outside_has_no_cells():
    status = np.full((1, 20, 20), Status.OUTSIDE_AOI, np.uint8)
    scene = np.full((1, 20, 20), SCENE_FILL, np.uint16)
    assert len(join_cells([count_cells(status, scene, ("post",), GRID, origin=(0, 0))], GRID)) == 0
