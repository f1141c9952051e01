"""Counts by code: the same from any cut of the map, every threshold equal to brute force on the whole."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import ndimage

from coseis.evaluation import (
    REACH_PX,
    Assessment,
    BoundaryCounts,
    CodeCounts,
    assess_patch,
    border_zones,
    count_boundary,
    count_pixels,
    score,
    summarize,
)
from coseis.types import CODE_FILL, LABEL_IGNORE

Array = NDArray[np.uint8]


def patch(seed: int, height: int = 30, width: int = 41) -> tuple[Array, Array]:
    """Codes with missing pixels and labels with unknown ones, both with shapes like landslides."""
    random = np.random.default_rng(seed)
    ground = ndimage.gaussian_filter(random.normal(size=(height, width)), random.uniform(0.5, 3))
    truth = (ground > np.quantile(ground, random.random())).astype(np.uint8)
    probability = np.clip(truth * 0.6 + 0.2 + random.normal(0, 0.3, truth.shape), 0, 1)
    codes = np.rint(200 * probability).astype(np.uint8)
    for array, missing in ((codes, CODE_FILL), (truth, LABEL_IGNORE)):
        array[random.random(array.shape) < random.choice([0, 0.05])] = missing
    return codes, truth


def zones_by_hand(truth: Array) -> Array:
    """The nearest pixel of the other class, looked for one by one."""
    zones = np.full(truth.shape, 3, np.uint8)
    for (y, x), value in np.ndenumerate(truth):
        others = np.argwhere((truth == 0) if value == 1 else (truth == 1))
        if len(others):
            squared = ((others - (y, x)) ** 2).sum(axis=1).min()
            zones[y, x] = 0 if squared <= 1 else 1 if squared <= 4 else 2 if squared <= 9 else 3
    return zones


@given(seed=st.integers(0, 999))
def test_zones_are_distances_to_the_other_class(seed: int) -> None:
    _, truth = patch(seed, 13, 17)
    known = truth != LABEL_IGNORE
    np.testing.assert_array_equal(border_zones(truth)[known], zones_by_hand(truth)[known])


@given(seed=st.integers(0, 999), threshold=st.integers(0, 100).map(lambda n: n / 100))
def test_scores_are_those_of_the_masks(seed: int, threshold: float) -> None:
    codes, truth = patch(seed)
    known = (codes != CODE_FILL) & (truth != LABEL_IGNORE)
    # Probabilities as they were read: 0.07 must include the code 14, whatever 0.07 * 200 comes to.
    predicted = np.array([round(code / 200, 3) for code in codes.ravel()]).reshape(codes.shape) >= threshold
    counts = count_pixels(codes, truth)
    assert counts.scores(threshold) == score(predicted, truth == 1, known)
    zones = zones_by_hand(truth)
    for px in (1, 2, 3):
        assert counts.scores(threshold, ignore_px=px) == score(predicted, truth == 1, known & (zones >= px))
    clear = known & (truth == 0) & (zones == 3)
    expected = (predicted & clear).sum() / (clear.sum() * 9e-6) if clear.any() else None
    assert counts.false_alarms_per_km2(threshold, pixel_m2=9) == pytest.approx(expected)


@given(seed=st.integers(0, 999), y=st.integers(1, 29), x=st.integers(1, 40))
def test_blocks_with_a_margin_add_up_to_the_whole(seed: int, y: int, x: int) -> None:
    codes, truth = patch(seed)
    pixels, boundary = CodeCounts(), BoundaryCounts()
    for rows, columns in product(((0, y), (y, 30)), ((0, x), (x, 41))):
        wide = tuple(slice(max(0, start - REACH_PX), stop + REACH_PX) for start, stop in (rows, columns))
        inner = np.zeros(truth.shape, dtype=bool)
        inner[slice(*rows), slice(*columns)] = (codes <= 200)[slice(*rows), slice(*columns)]
        inner &= truth != LABEL_IGNORE
        pixels += count_pixels(codes[wide], truth[wide], counted=inner[wide])
        boundary += count_boundary(codes[wide], truth[wide], threshold=0.4, counted=inner[wide])
    known = (codes <= 200) & (truth != LABEL_IGNORE)
    assert pixels == count_pixels(codes, truth)
    assert boundary == count_boundary(codes, truth, threshold=0.4, counted=known)


@given(seed=st.integers(0, 999))
def test_average_precision_is_the_mean_precision_at_each_landslide(seed: int) -> None:
    codes, truth = patch(seed)
    known = (codes <= 200) & (truth != LABEL_IGNORE)
    codes, truth = codes[known], truth[known]
    counts = count_pixels(codes[None], truth[None])
    if truth.any():
        at_or_above = [codes >= code for code in codes[truth == 1]]
        expected = np.mean([truth[above].mean() for above in at_or_above])
        assert counts.average_precision == pytest.approx(expected)
    else:
        assert counts.average_precision is None


@given(seed=st.integers(0, 999))
def test_best_threshold_is_the_best_of_all(seed: int) -> None:
    counts = count_pixels(*patch(seed))
    f1 = [counts.scores(n / 100).f1 or 0 for n in range(1, 101)]
    assert counts.best_threshold is None or (counts.scores(counts.best_threshold).f1 or 0) == max(f1)


def test_frame_is_not_counted_but_its_labels_have_borders() -> None:
    truth = np.zeros((11, 11), np.uint8)
    truth[:, :3] = 1
    counts = count_pixels(np.full_like(truth, 200), truth, frame_px=3)
    assert counts.scores(0.5).pixels == 25
    assert counts.scores(0.5, ignore_px=1).pixels == 20
    assert counts.scores(0.5, ignore_px=2).pixels == 15
    assert counts.false_alarms_per_km2(0.5, pixel_m2=1e6) == 1.0


def test_boundary_iou_of_a_square_that_is_one_pixel_off() -> None:
    truth = np.zeros((12, 12), np.uint8)
    truth[2:8, 2:8] = 1
    codes = np.roll(truth, 1, axis=1) * np.uint8(200)
    counted = np.ones(truth.shape, bool)
    # Strips one pixel wide: 20 px each; of the rows' five shared px and the shared columns' none meet.
    assert count_boundary(codes, truth, threshold=0.5, counted=counted, width_px=1) == BoundaryCounts(
        both=10, either=30
    )
    assert count_boundary(truth * np.uint8(200), truth, threshold=0.5, counted=counted).iou == 1
    # A landslide that the patch cuts has no outline along its edge.
    whole = np.ones_like(truth)
    assert count_boundary(whole * np.uint8(200), whole, threshold=0.5, counted=counted).iou is None


def test_boundary_of_missing_pixels_is_no_outline() -> None:
    codes = np.array([[200, 200, 200, 255, 0]], np.uint8)
    truth = np.array([[1, 1, 1, 0, 0]], np.uint8)
    counted = codes != 255
    assert count_boundary(codes, truth, threshold=0.5, counted=counted, width_px=1).either == 0
    truth[0, 2:] = LABEL_IGNORE
    counted[0, 2:] = False
    assert count_boundary(codes, truth, threshold=0.5, counted=counted, width_px=1).either == 0


@given(seed=st.integers(0, 99), times=st.integers(0, 3))
def test_assessments_add_up_and_survive_json(seed: int, times: int) -> None:
    one = assess_patch(*patch(seed), threshold=0.5, pixel_m2=100)
    total = sum([one] * times, Assessment())
    np.testing.assert_array_equal(total.vector(), times * one.vector())
    assert Assessment.model_validate_json(total.model_dump_json()) == total
    assert one.filled(total.vector()) == total


def test_summary_of_a_perfect_and_of_an_empty_map() -> None:
    _, truth = patch(3)
    truth[truth == LABEL_IGNORE] = 0
    perfect = assess_patch(truth * np.uint8(200), truth, threshold=0.5, pixel_m2=100)
    metrics = summarize(perfect, threshold=0.5, pixel_m2=100)
    for name in ("precision", "f1", "f1_beyond_2px", "boundary_iou", "average_precision", "area_ratio"):
        assert metrics[name] == 1, name
    assert metrics["restated"] == {"prevalence": 0.05, "precision": 1, "f1": 1, "accuracy": 1}
    assert metrics["landslides"]["iou50_f1"] == metrics["landslides"]["cover50_f1"] == 1
    empty = summarize(Assessment(), threshold=0.5, pixel_m2=100)
    assert empty["f1"] is empty["boundary_iou"] is empty["false_alarms_per_km2"] is None


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"codes have shape \(2, 2\), truth \(2, 3\)"):
        count_pixels(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValidationError, match="counts have shapes"):
        CodeCounts(pixels=(((1,),),))
