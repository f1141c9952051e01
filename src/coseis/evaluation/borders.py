"""Masks in, pixels near their borders and how well borders agree out.

Hand-drawn labels are loose by one to three pixels, so whether a pixel lies near a border decides what a
difference there means.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt
from scipy.ndimage import distance_transform_edt

from coseis.evaluation.additive import Additive, ratio
from coseis.types import CODE_SCALE, LABEL_IGNORE, least_code

BoolArray = npt.NDArray[np.bool_]
UintArray = npt.NDArray[np.uint8]

REACH_PX = 3
"""Greatest distance from a border that is told apart, so also the margin that a block needs around it."""
BOUNDARY_PX = 2
"""Width of the strip that boundary IoU compares: how loosely the labels were drawn."""


class BoundaryCounts(Additive):
    """Pixels of the two strips along the inside of predicted and of labelled outlines."""

    both: NonNegativeInt = 0
    """In both strips."""
    either: NonNegativeInt = 0
    """In one of them or in both."""

    @property
    def iou(self) -> float | None:
        """Boundary IoU; None without any outline."""
        return ratio(self.both, self.either)


def border_zones(truth: UintArray) -> UintArray:
    """How far each pixel lies from the nearest pixel of the other class.

    Args:
        truth: uint8 (y, x), 0 background, LABEL_IGNORE where not known, others landslide. What is not
            known makes no border, nor does the array's edge.

    Returns:
        uint8 (y, x): 0 within 1 px, 1 within 2 px, 2 within 3 px (between pixel centres), 3 further.
    """
    background = truth == 0
    landslide = ~background & (truth != LABEL_IGNORE)
    distance_px = np.where(landslide, distance_to(background), distance_to(landslide))
    return np.digitize(distance_px, np.arange(1, REACH_PX + 1), right=True).astype(np.uint8)


def count_boundary(
    codes: UintArray,
    truth: UintArray,
    *,
    threshold: float,
    counted: BoolArray,
    width_px: float = BOUNDARY_PX,
) -> BoundaryCounts:
    """Compares the outlines of two masks, each drawn as a strip along its inside.

    IoU of whole areas hardly sees an outline that is wrong by a pixel or two around a large landslide.

    Args:
        codes: uint8 (y, x), round(200 p), 255 = not predicted, which makes no outline.
        truth: uint8 (y, x), 0 background, LABEL_IGNORE where not known, others landslide.
        threshold: Least probability that counts as landslide.
        counted: bool (y, x), pixels that count, all of them known; False in the margin that a block was read
            with.
        width_px: Width of the strips, at most the margin.

    Reference:
        Cheng et al. (2021), doi:10.1109/CVPR46437.2021.01508. Changed: the width is fixed in pixels, not 2 %
        of the image's diagonal, which a region has not; Euclidean distance in place of repeated erosion; and
        the image's edge is no outline, so that blocks add up to the whole.
    """
    # An outline is drawn only where both sides of it are known in both: a cloud is no landslide's end.
    known = (codes <= CODE_SCALE) & (truth != LABEL_IGNORE)
    predicted, landslide = codes >= least_code(threshold), truth != 0
    ours = counted & predicted & (distance_to(known & ~predicted) <= width_px)
    theirs = counted & landslide & (distance_to(known & ~landslide) <= width_px)
    return BoundaryCounts(both=np.count_nonzero(ours & theirs), either=np.count_nonzero(ours | theirs))


def distance_to(mask: BoolArray) -> npt.NDArray[np.float64]:
    """Distance from each pixel's centre to the nearest True pixel's, px, float64 (y, x); inf without any."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    distance_px: npt.NDArray[np.float64] = distance_transform_edt(~mask)
    return distance_px
