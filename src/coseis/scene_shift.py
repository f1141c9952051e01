"""The shifts of a scene's blocks go in, one shift for the scene comes out, or why there is none."""

from collections.abc import Sequence
from math import hypot
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coseis.coregister import BlockShift, consensus
from coseis.types import Value

MOST_SHIFT_PX = 5.0
"""Largest shift of a scene that is repaired; more is a fault of the scene, not of its place."""
LEAST_GOOD_SHARE = 0.5
"""Of the measured blocks of a scene, for its shift to be believed."""
REVIEW_PX = 1.0
"""CE90 of a scene's good blocks from which somebody should look."""


class ShiftFit(Value):
    """One shift for the blocks of a scene."""

    dy_px: float | None
    """Of the good blocks; None where there are none."""
    dx_px: float | None
    ce90_px: float | None
    """Nine tenths of the good blocks are shifted by no more."""
    residual_ce90_px: float | None
    """The same, of what is left when the scene is moved as a whole."""
    good: int
    """Blocks, and so are the two below."""
    weak: int
    unmeasured: int
    review: str | None
    """Why one shift does not repair the scene; None where it does."""


class SceneShift(Value):
    """How one scene before the event lies on the scenes after it."""

    item_id: str
    before: ShiftFit
    """As the catalog has it."""
    shift_m: tuple[float, float]
    """(southwards, eastwards), metres: how far it was moved."""
    after: ShiftFit | None
    """Measured again where it was moved."""
    flag: str | None
    """Why somebody should look at it; None where it lies within a pixel, or was brought there."""


class Coregistration(Value):
    """How the scenes before the event lie on those after it: in items.json and in run.json."""

    mode: Literal["check", "repair"]
    blocks: int
    """Measured, at most so many a scene as `alignment` says."""
    good_share: float
    weak_share: float
    unmeasured_share: float
    median_dy_px: float | None
    """Of all good blocks, before any repair; None where there are none."""
    median_dx_px: float | None
    ce90_px: float | None
    """Nine tenths of the good blocks are shifted by no more."""
    ce90_after_px: float | None
    """The same with the moved scenes measured again; None where none was moved."""
    flagged: tuple[str, ...]
    """Item ids of the scenes with a flag."""
    scenes: tuple[SceneShift, ...]
    """Those that show in a measured block; others lie below them."""


def fit_shift(blocks: Sequence[BlockShift]) -> ShiftFit:
    """One shift for the blocks of a scene: the mean of the good ones that lie within a pixel of their median.

    Only good blocks count. Windows within a block have judged each other already, so the median has few
    outliers to bear, and the mean of the others has the smaller error.
    """
    good = np.array([(block.dy_px, block.dx_px) for block in blocks if block.state == "good"]).reshape(-1, 2)
    weak = sum(block.state == "weak" for block in blocks)
    counts = {"good": len(good), "weak": weak, "unmeasured": len(blocks) - len(good) - weak}
    if not len(good):
        none = f"none of {len(blocks)} blocks is good"
        return ShiftFit(dy_px=None, dx_px=None, ce90_px=None, residual_ce90_px=None, review=none, **counts)
    shift = consensus(good)
    residual = ce90(good - shift)
    review: str | None = None
    if hypot(*shift) > MOST_SHIFT_PX:
        review = f"it lies {hypot(*shift):.1f} px off, more than the {MOST_SHIFT_PX:g} that are repaired"
    elif residual > REVIEW_PX:
        review = f"its blocks differ: CE90 {residual:.1f} px when it is moved as a whole"
    elif len(good) < LEAST_GOOD_SHARE * (len(good) + weak):
        review = f"only {len(good)} of {len(good) + weak} measured blocks are good"
    return ShiftFit(
        dy_px=round(float(shift[0]), 3),
        dx_px=round(float(shift[1]), 3),
        ce90_px=round(ce90(good), 3),
        residual_ce90_px=round(residual, 3),
        review=review,
        **counts,
    )


def ce90(shifts_px: NDArray[np.float64]) -> float:
    """The circle that nine tenths of some shifts (number, 2) lie in: its radius, px."""
    return float(np.quantile(np.hypot(*shifts_px.T), 0.9))
