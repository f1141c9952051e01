"""Predicted and labelled landslides in, how many were found and how many are real out.

Small pieces are compared as masks; a whole map, whose landslides no block holds whole, as polygons. Both
give the same counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
from odc.geo.geobox import GeoBox
from pydantic import AfterValidator, NonNegativeInt
from scipy import ndimage

from coseis.evaluation.additive import Additive, IntArray, harmonic_mean, ratio

BoolArray = npt.NDArray[np.bool_]

SIZES_M2 = (400.0, 1000.0, 3000.0, 10_000.0)
"""Least area of each size class, m2. Below the first the labels hold nothing, so nothing is counted."""
MATCH_SHARE = 0.5
"""Least IoU, or least share covered, at which two landslides are the same."""


def _check_sizes(counts: tuple[int, ...]) -> tuple[int, ...]:
    if len(counts) != len(SIZES_M2):
        raise ValueError(f"{len(counts)} size classes; expected {len(SIZES_M2)}")
    return counts


_BySize = Annotated[tuple[NonNegativeInt, ...], AfterValidator(_check_sizes)]
_NONE = (0,) * len(SIZES_M2)


class LandslideCounts(Additive):
    """Landslides of at least the least size, pixels that share an edge belonging together."""

    predicted: NonNegativeInt = 0
    predicted_matched: NonNegativeInt = 0
    """Predicted ones whose IoU with a labelled one is at least one half."""
    predicted_covered: NonNegativeInt = 0
    """Predicted ones of which labels cover at least half."""
    labelled_matched: NonNegativeInt = 0
    """Labelled ones whose IoU with a predicted one is at least one half."""
    labelled: _BySize = _NONE
    """Labelled ones by size class, see SIZES_M2."""
    labelled_covered: _BySize = _NONE
    """Those of which the prediction covers at least half."""
    labelled_px: _BySize = _NONE
    """Their pixels."""
    hit_px: _BySize = _NONE
    """Those of these pixels that were predicted."""

    @property
    def recall_by_size(self) -> dict[str, float | None]:
        """Share of the labelled pixels that were predicted, by size class of their landslide."""
        shares = (ratio(hit, px) for hit, px in zip(self.hit_px, self.labelled_px, strict=True))
        return dict(zip(_size_names(), shares, strict=True))

    def summary(self) -> dict[str, float | None]:
        """Counts, and precision, recall and F1 of landslides by either rule of what is the same."""
        labelled = sum(self.labelled)
        rows: dict[str, float | None] = {"predicted": self.predicted, "labelled": labelled}
        for rule, right, found in (
            ("iou50", self.predicted_matched, self.labelled_matched),
            ("cover50", self.predicted_covered, sum(self.labelled_covered)),
        ):
            precision, recall = ratio(right, self.predicted), ratio(found, labelled)
            rows |= {
                f"{rule}_precision": precision,
                f"{rule}_recall": recall,
                f"{rule}_f1": harmonic_mean(precision, recall),
            }
        return rows


def count_landslides(
    predicted: BoolArray,
    truth: BoolArray,
    *,
    pixel_m2: float,
    counted: BoolArray,
    min_area_m2: float = SIZES_M2[0],
) -> LandslideCounts:
    """Compares the landslides of two masks that hold them whole.

    Args:
        predicted: bool (y, x).
        truth: bool (y, x).
        pixel_m2: Area of a pixel, m2.
        counted: bool (y, x); what lies outside is cut off both.
        min_area_m2: Smaller landslides are not counted, on either side. They still cover others.
    """
    theirs, labelled = ndimage.label(truth & counted)
    ours, count = ndimage.label(predicted & counted)
    both = (theirs > 0) & (ours > 0)
    keys, both_px = np.unique((theirs[both] - 1) * np.int64(count) + ours[both] - 1, return_counts=True)
    return count_pairs(
        np.bincount(theirs.ravel(), minlength=labelled + 1)[1:],
        np.bincount(ours.ravel(), minlength=count + 1)[1:],
        pairs=np.stack(np.divmod(keys, max(count, 1))),
        both_px=both_px,
        pixel_m2=pixel_m2,
        min_area_m2=min_area_m2,
    )


def match_polygons(
    predicted: gpd.GeoDataFrame,
    labelled: gpd.GeoDataFrame,
    shared: gpd.GeoDataFrame,
    *,
    geobox: GeoBox,
    min_area_m2: float = SIZES_M2[0],
) -> LandslideCounts:
    """Compares the landslides of a whole map.

    A polygon of what is predicted and labelled lies in one predicted and in one labelled landslide, so two
    look-ups of its first pixel tell the pair. Cutting polygons with each other takes minutes where one of
    them is large and full of holes.

    Args:
        predicted: From `vectorize.merge_blocks`, cut to the pixels that are counted.
        labelled: The same of the labels.
        shared: The same of pixels that are both.
        geobox: Grid of all three.
        min_area_m2: As for `count_landslides`.
    """
    affine = geobox.affine
    # Shells begin at the first pixel's corner, whose centre is half a pixel on.
    corner = shapely.get_coordinates(shapely.get_point(shapely.get_exterior_ring(shared.geometry.array), 0))
    centre = corner + np.array([affine.a / 2, affine.e / 2])
    centres = shapely.STRtree(np.atleast_1d(np.asarray(shapely.points(centre))))
    row, column = (_containing(frame, centres, len(shared)) for frame in (labelled, predicted))
    labelled_px, predicted_px, shared_px = (
        frame["pixel_count"].to_numpy(dtype=np.int64) for frame in (labelled, predicted, shared)
    )
    pairs, part = np.unique(np.stack([row, column]), axis=1, return_inverse=True)
    both_px = np.bincount(part.ravel(), weights=shared_px, minlength=pairs.shape[1]).astype(np.int64)
    return count_pairs(
        labelled_px,
        predicted_px,
        pairs=pairs,
        both_px=both_px,
        pixel_m2=abs(affine.a * affine.e),
        min_area_m2=min_area_m2,
    )


def count_pairs(
    labelled_px: IntArray,
    predicted_px: IntArray,
    *,
    pairs: IntArray,
    both_px: IntArray,
    pixel_m2: float,
    min_area_m2: float,
) -> LandslideCounts:
    """Counts from areas and what pairs share.

    Args:
        labelled_px: int64 (labelled,), pixels; or whole m2, with a pixel_m2 of 1.
        predicted_px: int64 (predicted,), the same.
        pairs: int64 (2, pairs), rows of labelled and predicted that share some.
        both_px: int64 (pairs,), how much.
        pixel_m2: Area of a pixel, m2.
        min_area_m2: As for `count_landslides`.
    """
    row, column = pairs
    same = both_px >= MATCH_SHARE * (labelled_px[row] + predicted_px[column] - both_px)
    matched = np.zeros(labelled_px.size, dtype=bool), np.zeros(predicted_px.size, dtype=bool)
    matched[0][row[same]] = matched[1][column[same]] = True
    # Weights are float64, which holds every count of pixels exactly.
    hit_px = np.bincount(row, weights=both_px, minlength=labelled_px.size).astype(np.int64)
    right_px = np.bincount(column, weights=both_px, minlength=predicted_px.size).astype(np.int64)
    large = predicted_px * pixel_m2 >= min_area_m2
    counted = labelled_px * pixel_m2 >= min_area_m2
    size = np.clip(np.digitize(labelled_px * pixel_m2, SIZES_M2) - 1, 0, None)[counted]

    def by_size(values: npt.NDArray[np.generic]) -> tuple[int, ...]:
        sums = np.bincount(size, weights=values[counted], minlength=len(SIZES_M2))
        return tuple(int(value) for value in sums)

    return LandslideCounts(
        predicted=int(large.sum()),
        predicted_matched=int((matched[1] & large).sum()),
        predicted_covered=int((right_px >= MATCH_SHARE * predicted_px)[large].sum()),
        labelled_matched=int((matched[0] & counted).sum()),
        labelled=by_size(np.ones_like(labelled_px)),
        labelled_covered=by_size(hit_px >= MATCH_SHARE * labelled_px),
        labelled_px=by_size(labelled_px),
        hit_px=by_size(hit_px),
    )


def _containing(frame: gpd.GeoDataFrame, centres: shapely.STRtree, count: int) -> IntArray:
    """Row of the polygon that holds each of so many centres, int64 (centre,)."""
    rows = np.zeros(count, dtype=np.int64)
    row, centre = centres.query(frame.geometry.to_numpy(), predicate="contains")
    rows[centre] = row
    return rows


def _size_names() -> Sequence[str]:
    names = [f"{low:g}-{high:g} m2" for low, high in pairwise(SIZES_M2)]
    return [*names, f"over {SIZES_M2[-1]:g} m2"]
