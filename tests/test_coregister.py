"""Shifts that were put in come out again, or the block is not called good."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coseis.coregister import REACH_PX, UNMEASURED, WINDOW_PX, BlockShift, measure_shift
from coseis.errors import UsageError
from coseis.scene_shift import fit_shift
from shift_injections import is_right, make_pair, photograph

SIDE_PX = 256
REACH = 8
"""Farthest whole shift that is put in, px."""


@pytest.fixture(scope="module")
def ground():
    """Two photographs of the same ground, larger than a block by the reach on every side."""
    return photograph(np.random.default_rng(5), SIDE_PX + 2 * REACH)[1:]


def cut(image, dy=0, dx=0):
    """A block of a photograph whose content lies (dy, dx) px down and to the right."""
    return image[:, REACH - dy : REACH - dy + SIDE_PX, REACH - dx : REACH - dx + SIDE_PX]


def everywhere(value=True):
    return np.full((SIDE_PX, SIDE_PX), value)


def test_the_known_shift_is_recovered():
    pair = make_pair("known", seed=3, side_px=384)
    found = measure_shift(pair.pre, pair.post, pair.valid)
    assert found.state == "good"
    assert np.hypot(found.dy_px - 2.5, found.dx_px + 1.5) < 0.2


@pytest.mark.parametrize("kind", ["change", "cloud", "holes"])
def test_what_hides_a_part_drags_no_shift(kind):
    """Other ground on 30 %, clouds, missing pixels: what is left says the shift, or nothing does."""
    states = []
    for seed in (3, 4, 5):
        pair = make_pair(kind, seed, side_px=384)
        found = measure_shift(pair.pre, pair.post, pair.valid)
        states.append(found.state)
        if found.state != "unmeasured":
            assert np.hypot(*(pair.shift_px[:, 0, 0] - (found.dy_px, found.dx_px))) < 0.2
    assert "good" in states


@given(st.integers(-REACH, REACH), st.integers(-REACH, REACH))
@settings(max_examples=8)
def test_whole_pixels_are_recovered(ground, dy, dx):
    found = measure_shift(cut(ground[0], dy, dx), cut(ground[1]), everywhere())
    assert found.state == "good"
    assert abs(found.dy_px - dy) < 0.1
    assert abs(found.dx_px - dx) < 0.1


def test_swapped_images_flip_the_sign(ground):
    first, second = cut(ground[0], 3, -2), cut(ground[1])
    one, other = measure_shift(first, second, everywhere()), measure_shift(second, first, everywhere())
    assert (one.dy_px, one.dx_px) == pytest.approx((-other.dy_px, -other.dx_px), abs=0.03)
    assert one.state == other.state == "good"


def test_other_units_and_bands_change_nothing(ground):
    first, second = cut(ground[0], 1, 2), cut(ground[1])
    one = measure_shift(first, second, everywhere())
    other = measure_shift(first[::-1] * np.float32(2.5e4) + 7, second[::-1], everywhere())
    assert (one.dy_px, one.dx_px) == pytest.approx((other.dy_px, other.dx_px), abs=0.02)


def test_what_is_not_valid_is_not_read(ground):
    valid = everywhere()
    valid[:, :80] = False
    first, second = cut(ground[0], 2, 2).copy(), cut(ground[1]).copy()
    clean = measure_shift(first, second, valid)
    first[:, ~valid], second[:, ~valid] = np.nan, 1e9
    assert measure_shift(first, second, valid) == clean
    assert clean.state == "good"


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_constant_images_are_unmeasured(ground, value):
    flat = np.full((3, SIDE_PX, SIDE_PX), value, np.float32)
    for first, second in ((flat, flat), (flat, cut(ground[1])), (cut(ground[0]), flat)):
        assert measure_shift(first, second, everywhere()) == UNMEASURED


def test_missing_and_unrelated_blocks_are_unmeasured(ground):
    assert measure_shift(cut(ground[0]), cut(ground[1]), everywhere(False)) == UNMEASURED
    sliver = everywhere(False)
    sliver[:, :40] = True
    assert measure_shift(cut(ground[0]), cut(ground[1]), sliver) == UNMEASURED
    other = photograph(np.random.default_rng(6), SIDE_PX)[2]
    assert measure_shift(cut(ground[0]), other, everywhere()) == UNMEASURED


def test_a_jump_in_a_block_is_not_called_good(ground):
    """A seam between strips: one half lies 3 px off, the other does not."""
    first = cut(ground[0]).copy()
    first[:, :, SIDE_PX // 2 :] = cut(ground[0], 0, 3)[:, :, SIDE_PX // 2 :]
    assert measure_shift(first, cut(ground[1]), everywhere()).state == "weak"


@pytest.mark.parametrize("kind", ["ramp", "relief", "strip", "faint"])
def test_what_no_shift_repairs_is_not_called_good(kind):
    for seed in (11, 12):
        pair = make_pair(kind, seed, side_px=384)
        found = measure_shift(pair.pre, pair.post, pair.valid)
        assert found.state != "good" or is_right(pair, (found.dy_px, found.dx_px))


def test_other_shapes_are_refused(ground):
    with pytest.raises(
        UsageError, match=r"images are \(3, 256, 256\) and \(3, 256, 255\).*expected the same"
    ):
        measure_shift(cut(ground[0]), cut(ground[1])[..., 1:], everywhere())
    small = np.zeros((3, 100, 300), np.float32)
    with pytest.raises(UsageError, match=f"expected at least {WINDOW_PX + REACH_PX} px a side"):
        measure_shift(small, small, np.ones((100, 300), bool))


def block(dy_px, dx_px, state="good"):
    return BlockShift(dy_px, dx_px, 0.1, 1.0, 0.99 if state == "good" else 0.3, state)


def blocks_around(dy_px, dx_px, count=30, deviation=0.1, seed=0):
    random = np.random.default_rng(seed)
    return [block(*(random.normal((dy_px, dx_px), deviation))) for _ in range(count)]


def test_one_shift_of_many_blocks():
    fit = fit_shift([*blocks_around(2.5, -1.5), UNMEASURED, block(40, 40, "weak")])
    assert (fit.dy_px, fit.dx_px) == pytest.approx((2.5, -1.5), abs=0.06)
    assert (fit.good, fit.weak, fit.unmeasured) == (30, 1, 1)
    assert fit.residual_ce90_px < 0.3 < 2.5 < fit.ce90_px
    assert fit.review is None


def test_a_few_wrong_blocks_move_no_scene():
    clean = fit_shift(blocks_around(1, 1))
    spoilt = fit_shift([*blocks_around(1, 1), block(9, -9), block(-8, 5)])
    assert (spoilt.dy_px, spoilt.dx_px) == pytest.approx((clean.dy_px, clean.dx_px), abs=0.05)
    assert spoilt.review is None


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        ([], "none of 0 blocks is good"),
        ([UNMEASURED, block(1, 1, "weak")], "none of 2 blocks is good"),
        (blocks_around(4, -4), r"it lies 5\.[67] px off, more than the 5 that are repaired"),
        ([block(step / 10, 0) for step in range(-30, 30)], "its blocks differ: CE90 2.. px"),
        ([block(1, 1)] + [block(9, 9, "weak")] * 3, "only 1 of 4 measured blocks are good"),
    ],
)
def test_what_cannot_be_repaired_says_why(blocks, said):
    assert re.match(said, fit_shift(blocks).review)
