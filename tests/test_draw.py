"""What a block of a run's cube gives, and that blocks, margins and threads change nothing."""

import itertools

import numpy as np
import pytest

from coseis.cells import join_cells
from coseis.change import HALO_PX, join_tables, name_changes
from coseis.draw import OUTSIDE, UNSEEN, Thresholds, draw_block
from coseis.missing import MissingChunks
from coseis.store import ChunkCodes, create_cube, write_chunk
from coseis.types import CODE_FILL, SCENE_FILL, Status
from coseis.vectorize import merge_blocks
from coseis.windows import chunk_grid
from making import area_of, grid

GRID = grid(230, 300)
PHASES = ("pre", "post")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A cube with two landslides after the event, one of them there before, beside a cloud and the border."""
    out = str(tmp_path_factory.mktemp("run"))
    probability = np.full((2, 1, *GRID.shape), 20, np.uint8)
    status = np.full((2, *GRID.shape), Status.OBSERVED, np.uint8)
    probability[1, 0, 50:80, 60:100] = 180
    probability[:, 0, 120:150, 110:170] = 180
    status[1, 40:50, 60:200] = Status.CLOUD
    status[:, 140:] = np.where(np.arange(300) >= 170, Status.OUTSIDE_AOI, status[:, 140:])
    seen = status == Status.OBSERVED
    probability[:, 0][~seen] = CODE_FILL
    scene = np.where(seen, np.arange(2)[:, None, None], SCENE_FILL).astype(np.uint16)
    vegetation = np.where(seen, 150, CODE_FILL).astype(np.uint8)
    vegetation[1, 50:80, 60:100] = 110
    create_cube(out, GRID, phases=PHASES, classes=("landslide",), core_px=64, chunk_px=64)
    for chunk in chunk_grid(GRID.shape, 64):
        layers = (layer[..., *chunk.slices] for layer in (probability, status, scene, vegetation))
        write_chunk(out, GRID, chunk, ChunkCodes(*layers))
    return out


def drawn(out, side_px, missing=None):
    blocks = [
        draw_block(GRID, PHASES, block, Thresholds(112, 112), out, None, missing)
        for block in chunk_grid(GRID.shape, side_px)
    ]
    tables = [merge_blocks(pieces, GRID) for pieces in zip(*(block.pieces for block in blocks), strict=True)]
    return name_changes(join_tables(tables), 100), join_cells([block.cells for block in blocks], GRID)


def test_polygons_know_what_they_are_and_what_they_touch(out):
    polygons, cells = drawn(out, 1000)
    new, old = polygons.itertuples()
    assert (new.change, old.change) == ("new", "pre-existing")
    assert new.vegetation_change == pytest.approx(-0.4)
    assert polygons[UNSEEN].tolist() == [40, 0]
    assert polygons[OUTSIDE].tolist() == [0, 10]
    assert cells.observed.min() < 1
    assert (cells.area_km2 * cells.cloud).sum() == pytest.approx(10 * 140 * 9 / 1e6, rel=1e-4)


@pytest.mark.parametrize("side_px", [HALO_PX, 100, 128])
def test_blocks_change_nothing(out, side_px):
    (polygons, cells), (cut, cut_cells) = drawn(out, 1000), drawn(out, side_px)
    assert polygons.drop(columns="geometry").equals(cut.drop(columns="geometry"))
    assert polygons.geometry.equals(cut.geometry)
    assert cells.drop(columns="geometry").equals(cut_cells.drop(columns="geometry"))


def test_nothing_of_a_chunk_that_is_not_done_counts(out):
    """Its shards may have been written, its record was not."""
    whole = drawn(out, 1000)[1]
    lost = [chunk for chunk in chunk_grid(GRID.shape, 64) if chunk.x0 == 64]
    for status, side_px in itertools.product((Status.FAILED, Status.NOT_COMPUTED), (100, 1000)):
        missing = MissingChunks(area_of(GRID), tuple((chunk, status) for chunk in lost))
        polygons, cells = drawn(out, side_px, missing=missing)
        new, *_ = polygons.itertuples()
        assert new.geometry.bounds[2] <= GRID.affine.c + 64 * 3
        lost_km2 = (cells.area_km2 * cells[status.name.lower()]).sum()
        assert lost_km2 == pytest.approx(64 * 230 * 9 / 1e6, rel=1e-3)
        assert cells.area_km2.sum() == pytest.approx(whole.area_km2.sum(), rel=1e-4)
        assert polygons[UNSEEN].iloc[0] > 0


def test_the_edge_of_the_grid_is_the_edge_of_the_area(tmp_path):
    """An area may end just at it; nothing outside is left to touch."""
    create_cube(str(tmp_path), GRID, phases=("post",), classes=("landslide",), core_px=64, chunk_px=64)
    for chunk in chunk_grid(GRID.shape, 64):
        shape = (1, chunk.height, chunk.width)
        codes = np.full((1, 1, *shape[1:]), 180, np.uint8)
        layers = (np.full(shape, Status.OBSERVED, np.uint8), np.zeros(shape, np.uint16))
        write_chunk(str(tmp_path), GRID, chunk, ChunkCodes(codes, *layers, np.zeros(shape, np.uint8)))
    block = next(iter(chunk_grid(GRID.shape, 1000)))
    drawing = draw_block(GRID, ("post",), block, Thresholds(112, 112), str(tmp_path), None, None)
    (whole,) = merge_blocks([drawing.pieces[0]], GRID)[OUTSIDE]
    assert whole == 2 * (230 + 300) - 4
