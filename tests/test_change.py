"""New, reactivated and old: made cases, independence of blocks, and what each number means."""

import numpy as np
import pytest
from scipy import ndimage

from coseis.change import (
    HALO_PX,
    TOLERANCE_PX,
    BeforeAfter,
    change_layers,
    join_tables,
    name_changes,
    near_old_pixels,
    old_pixels,
)
from coseis.types import CODE_FILL
from coseis.vectorize import merge_blocks, trace_block
from coseis.windows import chunk_grid
from making import grid

CODE = 112


def phases_of(post, pre, *, seen=None, greener=0):
    """Masks to codes: 160 where landslide, 20 elsewhere; the vegetation changes by `greener` hundredths."""
    pre_codes = np.where(pre, 160, 20).astype(np.uint8)
    if seen is not None:
        pre_codes[~seen] = CODE_FILL
    before = np.full(post.shape, 150, np.uint8)
    return BeforeAfter(
        post=np.where(post, 160, 20).astype(np.uint8),
        pre=pre_codes,
        pre_seen=pre_codes != CODE_FILL,
        vegetation_post=(before + np.where(post, greener, 0)).astype(np.uint8),
        vegetation_pre=before,
        post_code=CODE,
        pre_code=CODE,
    )


def box(shape, *places):
    mask = np.zeros(shape, bool)
    for rows, cols in places:
        mask[rows, cols] = True
    return mask


def polygons_of(phases, side_px=None):
    """The named polygons, traced in blocks of a side, each with its margin."""
    height, width = phases.post.shape
    old_pieces, new_pieces = [], []
    for block in chunk_grid((height, width), side_px or max(height, width)):
        y0, x0 = max(0, block.y0 - HALO_PX), max(0, block.x0 - HALO_PX)
        area = (
            slice(y0, block.y0 + block.height + HALO_PX),
            slice(x0, block.x0 + block.width + HALO_PX),
        )
        names = ("post", "pre", "pre_seen", "vegetation_post", "vegetation_pre")
        layers = {name: getattr(phases, name)[area] for name in names}
        part = BeforeAfter(**layers, post_code=phases.post_code, pre_code=phases.pre_code)
        near_old = near_old_pixels(part)
        old = old_pixels(part, near_old)
        inner = (
            slice(block.y0 - y0, block.y0 - y0 + block.height),
            slice(block.x0 - x0, block.x0 - x0 + block.width),
        )
        sums = {name: layer[inner] for name, layer in change_layers(part, near_old, old).items()}
        for pieces, kept in ((old_pieces, old), (new_pieces, ~old)):
            codes = np.where(kept, part.post, np.uint8(CODE_FILL))[inner]
            pieces.append(
                trace_block(codes, None, sums, origin=(block.y0, block.x0), threshold_code=part.post_code)
            )
    geobox = grid(height, width)
    tables = [merge_blocks(pieces, geobox) for pieces in (old_pieces, new_pieces)]
    return name_changes(join_tables(tables), 100)


SHAPE = (120, 160)
SCAR = (slice(30, 60), slice(30, 70))


def test_what_was_not_there_before_is_new():
    (row,) = polygons_of(phases_of(box(SHAPE, SCAR), box(SHAPE), greener=-40)).itertuples()
    assert (row.change, row.pre_overlap, row.pre_observed) == ("new", 0, 1)
    assert row.vegetation_change == pytest.approx(-0.4)


@pytest.mark.parametrize("shift", [0, 1, TOLERANCE_PX])
def test_an_old_landslide_stays_old_whatever_the_misfit(shift):
    """Also larger by a pixel around: no sliver of it becomes new."""
    before = box(SHAPE, SCAR)
    after = ndimage.binary_dilation(np.roll(before, (shift, -shift), (0, 1)))
    table = polygons_of(phases_of(after, before))
    assert table.change.tolist() == ["pre-existing"]
    assert table.pixel_count.tolist() == [after.sum()]


def test_beyond_the_tolerance_the_misfit_shows():
    before = box(SHAPE, SCAR)
    table = polygons_of(phases_of(np.roll(before, 12, 0), before))
    assert set(table.change) == {"pre-existing", "reactivated"}


def test_a_new_landslide_that_joins_an_old_one_is_taken_apart():
    before = box(SHAPE, SCAR)
    joined = before | box(SHAPE, (slice(40, 55), slice(60, 150)))
    table = polygons_of(phases_of(joined, before)).set_index("change")
    assert set(table.index) == {"pre-existing", "reactivated"}
    assert table.pixel_count["reactivated"] == pytest.approx(15 * 80, rel=0.05)
    assert table.pixel_count.sum() == joined.sum()
    assert table.pre_overlap["reactivated"] < 0.05


def test_an_old_landslide_that_lost_its_green_has_moved_again():
    scar = box(SHAPE, SCAR)
    assert polygons_of(phases_of(scar, scar, greener=-20)).change.tolist() == ["reactivated"]
    assert polygons_of(phases_of(scar, scar, greener=-10)).change.tolist() == ["pre-existing"]


def test_what_the_pre_phase_did_not_see_is_unknown():
    scar = box(SHAPE, SCAR)
    assert polygons_of(phases_of(scar, ~scar & False, seen=~scar)).change.tolist() == ["unknown"]
    half = np.arange(SHAPE[1]) < 60
    seen = np.broadcast_to(half, SHAPE)
    (row,) = polygons_of(phases_of(scar, box(SHAPE), seen=seen)).itertuples()
    assert (row.change, row.pre_observed) == ("new", 0.75)


def test_a_small_new_landslide_far_from_old_ones_is_kept():
    tiny = box(SHAPE, (slice(90, 93), slice(100, 104)))
    assert polygons_of(phases_of(tiny, box(SHAPE, SCAR))).change.tolist() == ["new"]


def test_hysteresis_reaches_over_what_is_half_sure_and_no_farther():
    phases = phases_of(box(SHAPE), box(SHAPE, (slice(50, 60), slice(10, 20))))
    phases.pre[50:60, 20:120] = CODE // 2
    near = near_old_pixels(phases)
    assert near[55, 20 + 16 + TOLERANCE_PX - 1]
    assert not near[55, 20 + 16 + TOLERANCE_PX + 1]
    phases.pre[50:60, 20:120] = CODE // 2 - 1
    assert not near_old_pixels(phases)[55, 20 + TOLERANCE_PX + 1]


@pytest.mark.parametrize("side_px", [16, 37, 64])
def test_blocks_change_nothing(side_px):
    rng = np.random.default_rng(side_px)
    noise = [ndimage.gaussian_filter(rng.standard_normal((150, 170)), 5) for _ in range(2)]
    post, before = (field > np.quantile(field, 0.8) for field in noise)
    phases = phases_of(
        post | (before & (noise[0] > -0.05)), before, seen=noise[1] < np.quantile(noise[1], 0.97)
    )
    phases.pre[(noise[1] > np.quantile(noise[1], 0.6)) & ~before] = 70
    whole, cut = polygons_of(phases), polygons_of(phases, side_px)
    assert len(whole.change.unique()) >= 3
    assert whole.drop(columns="geometry").equals(cut.drop(columns="geometry"))
    np.testing.assert_array_equal(whole.geometry.to_wkb(), cut.geometry.to_wkb())
    assert whole.pixel_count.sum() == (phases.post >= CODE).sum()
