"""Probability codes and labels in, counts from which every threshold's scores follow out.

One pass counts the pixels by code, truth and distance from the labels' borders. The counts are integers
and add up over patches and blocks, and thresholds act on codes, so no score depends on how a region was cut.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, NonNegativeInt

from coseis.evaluation.additive import Additive, IntArray, ratio
from coseis.evaluation.borders import REACH_PX, border_zones
from coseis.evaluation.scores import Scores
from coseis.types import CODE_SCALE, LABEL_IGNORE, least_code

UintArray = npt.NDArray[np.uint8]
SHAPE = (REACH_PX + 1, 2, CODE_SCALE + 1)
"""Zones of distance, background and landslide, codes."""

_Nested = tuple[tuple[tuple[NonNegativeInt, ...], ...], ...]


def _check_shape(pixels: _Nested) -> _Nested:
    lengths = {(len(pixels), len(zone), len(codes)) for zone in pixels for codes in zone}
    if lengths != {SHAPE}:
        raise ValueError(f"counts have shapes {sorted(lengths)}; expected {SHAPE}")
    return pixels


class CodeCounts(Additive):
    """Pixels by distance from a border of the labels, by truth and by probability code."""

    pixels: Annotated[_Nested, AfterValidator(_check_shape)] = (((0,) * SHAPE[2],) * SHAPE[1],) * SHAPE[0]
    """(zone, truth, code): zone as `borders.border_zones` has it, truth 0 background and 1 landslide."""

    @property
    def array(self) -> IntArray:
        """The same as int64 (zone, truth, code)."""
        return np.array(self.pixels, dtype=np.int64)

    @property
    def by_truth(self) -> IntArray:
        """Pixels of any distance, int64 (truth, code)."""
        by_truth: IntArray = self.array.sum(axis=0)
        return by_truth

    @property
    def prevalence(self) -> float | None:
        """Share of landslide pixels."""
        background, landslide = self.by_truth.sum(axis=1)
        return ratio(landslide, background + landslide)

    def scores(self, threshold: float, *, ignore_px: int = 0) -> Scores:
        """Scores at a threshold.

        Args:
            threshold: Least probability that counts as landslide, of two decimals to be exact.
            ignore_px: Pixels within this distance of a label's border are not counted, 0 to 3.
        """
        code = least_code(threshold)
        background, landslide = self.array[ignore_px:].sum(axis=0)
        return Scores(
            tp=int(landslide[code:].sum()),
            fp=int(background[code:].sum()),
            fn=int(landslide[:code].sum()),
            tn=int(background[:code].sum()),
        )

    def false_alarms_per_km2(self, threshold: float, *, pixel_m2: float) -> float | None:
        """Predicted pixels on clear ground, per km2 of it; None without any.

        Clear ground is background further than 3 px from any label: no loose outline explains these.
        """
        clear = self.array[REACH_PX, 0]
        return ratio(clear[least_code(threshold) :].sum(), clear.sum() * pixel_m2 / 1e6)

    @property
    def average_precision(self) -> float | None:
        """Area under the precision-recall curve; None without landslides.

        Summed in steps of recall, as scikit-learn's average_precision_score: a straight line between two
        points of the curve would promise precision that no threshold reaches.
        """
        alarms, hits = np.cumsum(self.by_truth[:, ::-1], axis=1)
        if not hits[-1]:
            return None
        gained = np.diff(hits, prepend=0)
        precision = hits / np.maximum(hits + alarms, 1)
        return float((gained * precision).sum() / hits[-1])

    @property
    def best_threshold(self) -> float | None:
        """The threshold of two decimals above 0 with the highest F1, the lowest of equals.

        Chosen on what it is scored on it flatters: to be reported beside a threshold, not as one.
        """
        alarms, hits = np.cumsum(self.by_truth[:, ::-1], axis=1)[:, ::-1]
        sizes = hits + alarms + hits[0]
        if not sizes[0]:
            return None
        f1 = 2 * hits / np.maximum(sizes, 1)
        step = CODE_SCALE // 100
        return (int(np.argmax(f1[step::step])) + 1) / 100


def count_pixels(
    codes: UintArray,
    truth: UintArray,
    *,
    frame_px: int = 0,
    counted: npt.NDArray[np.bool_] | None = None,
) -> CodeCounts:
    """Counts the pixels whose code and truth are known.

    Args:
        codes: uint8 (y, x), round(200 p), 255 = not predicted.
        truth: uint8 (y, x), 0 background, LABEL_IGNORE where not known, others landslide.
        frame_px: Width of a frame that is not counted: annotators thin out towards a patch's edge. Its
            labels still have borders.
        counted: bool (y, x), pixels that may count; None: all. A block of a larger map is read with
            a margin of REACH_PX, which is False here.

    Raises:
        ValueError: The shapes differ.
    """
    known = counted_pixels(codes, truth, frame_px=frame_px, counted=counted)
    landslide = (truth != 0) & (truth != LABEL_IGNORE)
    zone = border_zones(truth)
    place = np.ravel_multi_index((zone[known], landslide[known].astype(np.uint8), codes[known]), SHAPE)
    pixels = np.bincount(place, minlength=np.prod(SHAPE)).reshape(SHAPE)
    return CodeCounts(pixels=pixels.tolist())


def counted_pixels(
    codes: UintArray,
    truth: UintArray,
    *,
    frame_px: int = 0,
    counted: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.bool_]:
    """The pixels that `count_pixels` counts, bool (y, x); arguments and errors as there."""
    if codes.shape != truth.shape or (counted is not None and counted.shape != truth.shape):
        raise ValueError(
            f"codes have shape {codes.shape}, truth {truth.shape}, counted "
            f"{None if counted is None else counted.shape}; expected the same grid"
        )
    known: npt.NDArray[np.bool_] = (codes <= CODE_SCALE) & (truth != LABEL_IGNORE)
    if frame_px:
        inside = np.zeros_like(known)
        inside[frame_px:-frame_px, frame_px:-frame_px] = True
        known &= inside
    if counted is not None:
        known &= counted
    return known
