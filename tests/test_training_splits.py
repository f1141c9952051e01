"""Splits: both parts are apart by at least the gap, the share is what was asked for, others are refused."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt

from coseis.errors import UsageError
from coseis.training.splits import SplitRule, split_source
from coseis.types import LABEL_IGNORE
from making import a_labelled_patch, scattered_labels

RULES = get_args(SplitRule)


def known_pixels(part, height: int, width: int) -> np.ndarray:
    """bool (y, x): where a part's label is known."""
    return (part.square(0, 0, max(height, width)).classes != LABEL_IGNORE)[:height, :width]


@given(
    rule=st.sampled_from(RULES),
    height=st.integers(40, 1200),
    width=st.integers(40, 1200),
    share=st.floats(0.05, 0.95),
    gap=st.integers(0, 130),
    seed=st.integers(0, 99),
)
def test_parts_are_disjoint_and_apart(rule, height, width, share, gap, seed) -> None:
    source = a_labelled_patch(scattered_labels((height, width), seed))
    try:
        train, validation = split_source(source, rule, share=share, gap_px=gap, seed=seed)
    except UsageError:
        assume(False)
    ours, theirs = (known_pixels(part, height, width) for part in (train, validation))
    assert ours.any()
    assert theirs.any()
    # Steps in any direction from each training label to the nearest one of validation, without themselves.
    assert (distance_transform_cdt(~theirs, "chessboard")[ours] - 1).min() >= gap


@pytest.mark.parametrize(
    ("rule", "corner"), [("north", (0, 0)), ("south", (-1, 0)), ("west", (0, 0)), ("east", (0, -1))]
)
def test_a_side_holds_the_share_and_the_rest_is_gap_or_training(rule: SplitRule, corner) -> None:
    mask = np.arange(640 * 640, dtype=np.uint8).reshape(640, 640) % 2
    train, validation = split_source(a_labelled_patch(mask), rule, share=0.4, gap_px=94)
    ours, theirs = (known_pixels(part, 640, 640) for part in (train, validation))
    assert theirs[corner]
    assert not ours[corner]
    assert theirs.mean() == 0.4
    # A gap of 94 px takes three cells of 32.
    assert ours.mean() == pytest.approx(0.6 - 96 / 640)
    assert (train.group, validation.group) == ("event/train", "event/validation")


def test_blocks_are_scattered_by_the_seed() -> None:
    source = a_labelled_patch(scattered_labels((2048, 2048), 0))
    first, again, other = (
        split_source(source, "blocks", share=0.25, gap_px=94, seed=seed)[1].kept for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    blocks = first.reshape(4, 16, 4, 16).any(axis=(1, 3))
    assert blocks.sum() == 4
    assert first.sum() == 4 * 16 * 16


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5])
def test_share_must_be_a_part(share: float) -> None:
    with pytest.raises(UsageError, match=f"share for validation is {share:g}; expected a number between"):
        split_source(a_labelled_patch(np.zeros((64, 64), np.uint8)), "north", share=share, gap_px=0)


@pytest.mark.parametrize("rule", RULES)
def test_a_part_without_landslides_or_background_is_refused(rule: SplitRule) -> None:
    mask = np.zeros((1200, 1200), np.uint8)
    with pytest.raises(UsageError, match=rf"split {rule} with 0.4 .* event 0 landslide px of \d+ labelled"):
        split_source(a_labelled_patch(mask), rule, share=0.4, gap_px=32)
    with pytest.raises(UsageError, match="choose another rule or share"):
        split_source(a_labelled_patch(mask + 1), rule, share=0.4, gap_px=32)


@pytest.mark.parametrize("rule", RULES)
def test_a_region_too_small_for_the_gap_is_refused(rule: SplitRule) -> None:
    mask = scattered_labels((30, 30), 0)
    with pytest.raises(UsageError, match=r"leaves the (train|validation) part of event 0 landslide px of 0"):
        split_source(a_labelled_patch(mask), rule, share=0.5, gap_px=94)
