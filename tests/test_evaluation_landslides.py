"""Matched landslides: hand-made cases, brute force, and polygons of a whole map equal to masks."""

from itertools import product

import numpy as np
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from skimage.measure import label

from coseis.evaluation import LandslideCounts, count_landslides, match_polygons, trace_mask
from coseis.vectorize import merge_blocks
from test_evaluation_counts import patch

SHAPE = (30, 41)
GRID = GeoBox(SHAPE, Affine(10, 0, 583_200, 0, -10, 4_737_000), "EPSG:32654")
EVERYTHING = np.ones(SHAPE, bool)


def masks(seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    codes, truth = patch(seed, *SHAPE)
    return (codes >= 100) & (codes <= 200), truth == 1


def boxes(*places: tuple[slice, slice]) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    for place in places:
        mask[place] = True
    return mask


def test_hand_made_landslides() -> None:
    truth = boxes(np.s_[0:4, 0:4], np.s_[10:20, 0:10], np.s_[0:2, 20:22], np.s_[25:27, 0:1])
    predicted = boxes(
        np.s_[0:4, 0:2],  # half of the first: IoU 0.5, covers it by half
        np.s_[10:20, 0:4],  # less than half of the second, yet itself covered
        np.s_[0:2, 24:26],  # beside the third
        np.s_[29:30, 40:41],  # too small to count
    )
    counts = count_landslides(predicted, truth, pixel_m2=100, counted=EVERYTHING)
    assert counts == LandslideCounts(
        predicted=3,
        predicted_matched=1,
        predicted_covered=2,
        labelled_matched=1,
        labelled=(1, 1, 0, 1),
        labelled_covered=(0, 1, 0, 0),
        labelled_px=(4, 16, 0, 100),
        hit_px=(0, 8, 0, 40),
    )
    assert counts.recall_by_size == {
        "400-1000 m2": 0, "1000-3000 m2": 0.5, "3000-10000 m2": None, "over 10000 m2": 0.4,
    }  # fmt: skip
    assert counts.summary()["cover50_precision"] == 2 / 3
    assert counts.summary()["cover50_recall"] == 1 / 3


@given(seed=st.integers(0, 999))
def test_counts_are_those_of_all_pairs(seed: int) -> None:
    predicted, truth = masks(seed)
    ours, theirs = (
        [labels == n for n in range(1, labels.max() + 1)]
        for labels in (label(mask, connectivity=1) for mask in (predicted, truth))
    )

    def matched(one: NDArray[np.bool_], others: list[NDArray[np.bool_]]) -> bool:
        return any((one & other).sum() / (one | other).sum() >= 0.5 for other in others)

    large_ours, large_theirs = ([one for one in all_ if one.sum() >= 4] for all_ in (ours, theirs))
    counts = count_landslides(predicted, truth, pixel_m2=100, counted=EVERYTHING)
    assert counts.predicted == len(large_ours)
    assert sum(counts.labelled) == len(large_theirs)
    assert counts.predicted_matched == sum(matched(one, theirs) for one in large_ours)
    assert counts.labelled_matched == sum(matched(one, ours) for one in large_theirs)
    assert counts.predicted_covered == sum(truth[one].mean() >= 0.5 for one in large_ours)
    assert sum(counts.labelled_covered) == sum(predicted[one].mean() >= 0.5 for one in large_theirs)
    assert sum(counts.hit_px) == sum(predicted[one].sum() for one in large_theirs)
    assert sum(counts.labelled_px) == sum(one.sum() for one in large_theirs)


@given(seed=st.integers(0, 999), y=st.integers(1, 29), x=st.integers(1, 40))
def test_polygons_of_blocks_give_what_masks_give(seed: int, y: int, x: int) -> None:
    predicted, truth = masks(seed)
    places = list(product((slice(0, y), slice(y, 30)), (slice(0, x), slice(x, 41))))
    polygons = [
        merge_blocks(
            [trace_mask(mask[place], origin=(place[0].start, place[1].start)) for place in places], GRID
        )
        for mask in (predicted, truth, predicted & truth)
    ]
    expected = count_landslides(predicted, truth, pixel_m2=100, counted=EVERYTHING)
    assert match_polygons(*polygons, geobox=GRID) == expected


def test_nothing_to_match() -> None:
    nothing = boxes()
    empty = merge_blocks([trace_mask(nothing)], GRID)
    assert match_polygons(empty, empty, empty, geobox=GRID) == LandslideCounts()
    counts = count_landslides(nothing, EVERYTHING, pixel_m2=100, counted=EVERYTHING)
    assert counts.summary()["iou50_precision"] is None
    assert counts.summary()["iou50_recall"] == 0
