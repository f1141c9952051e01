"""Areas of an inventory's landslides, and which of them are whole: what every law of size is fitted to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from coseis.errors import UsageError
from coseis.types import Value

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


SLIVERS = 0.01
"""Share of an inventory's landslides that may be remains of drawing. Below the least area that was mapped
there is nothing but those, and with them in a fit that gap would be a rollover."""
LEAST_CHANCE = 0.2
"""Of a landslide to be seen whole: beyond it one weight would stand for five landslides."""


class Interval(Value):
    """A number and how far it may be off."""

    value: float
    low: float | None
    """None: the data set no bound on this side."""
    high: float | None
    confidence: float
    """Share of repetitions in which such an interval holds the truth, 0-1."""


CutRule = Literal["weighted", "at least", "whole"]
"""What becomes of landslides that were seen in part: left out, with the whole ones weighted for it; taken as
at least so large; taken as whole. See docs/decisions/0020."""


@dataclass(frozen=True)
class AreaSample:
    """Areas at or above the least one at which an inventory is complete; what is smaller is left out."""

    completeness_m2: float
    """The sample is cut off below it, and every law is fitted as cut off there."""
    whole_m2: FloatArray
    """float64 (landslides,): areas that are known, ascending."""
    cut_m2: FloatArray = field(default_factory=lambda: np.zeros(0))
    """float64 (landslides,): of landslides that go on where nothing was seen; the area is at least this."""
    rule: CutRule = "weighted"

    @property
    def count(self) -> int:
        """Landslides, whole and cut."""
        return self.whole_m2.size + self.cut_m2.size

    @property
    def all_m2(self) -> FloatArray:
        """All areas, the cut ones as they were seen, float64 (landslides,)."""
        return np.concatenate([self.whole_m2, self.cut_m2])

    @cached_property
    def known_m2(self) -> FloatArray:
        """Areas that the rule takes as known, float64 (known,)."""
        return np.sort(self.all_m2) if self.rule == "whole" else self.whole_m2

    @property
    def least_m2(self) -> FloatArray:
        """Areas that the rule takes as the least possible, float64 (cut,)."""
        return self.cut_m2 if self.rule == "at least" else np.zeros(0)

    @cached_property
    def weight(self) -> FloatArray:
        """How much each known area counts, float64 (known,); their sum is the number that they are worth.

        A large landslide is rarely seen whole: the chance falls with its width, of which the root of its area
        is a measure, and the number of the cut ones says how fast. Each counts by the inverse of its chance.

        Reference: Miles (1974) and Lantuejoul (1978), see Baddeley (1999), Spatial sampling and censoring,
        section 2.2, in Stochastic geometry: likelihood and computation. Here the length of the border follows
        from the cut.
        """
        width = np.sqrt(self.known_m2)
        if self.rule != "weighted" or not self.cut_m2.size or not width.size:
            return np.ones(width.size)
        # Of the landslides that meet a border half have their centre within it.
        per_width = self.cut_m2.size / (2 * self.whole_m2.size + self.cut_m2.size) / width.mean()
        weight = 1 / np.maximum(1 - per_width * width, LEAST_CHANCE)
        # Kish's effective number: unequal weights know less.
        effective: FloatArray = weight * weight.sum() / (weight**2).sum()
        return effective


def take_areas(
    area_m2: npt.ArrayLike,
    *,
    is_cut: npt.ArrayLike | None = None,
    completeness_m2: float | None = None,
    rule: CutRule = "weighted",
) -> AreaSample:
    """The part of an inventory that a law can be fitted to.

    Args:
        area_m2: (landslides,), m2 on the ground.
        is_cut: bool (landslides,): those that touch the border of what was mapped; None: none does.
        completeness_m2: Least area from which on nothing is missing; None: SLIVERS of them are
            smaller.
        rule: What becomes of the cut ones in fits.

    Raises:
        UsageError: An area is not above zero, the shapes do not fit, or the least area is no number.
    """
    area = np.asarray(area_m2, dtype=np.float64)
    cut = np.zeros(area.shape, bool) if is_cut is None else np.asarray(is_cut, dtype=bool)
    if area.ndim != 1 or cut.shape != area.shape:
        raise UsageError(
            f"areas have shape {area.shape}, is_cut {cut.shape}; expected one of each a landslide"
        )
    if not (np.isfinite(area) & (area > 0)).all():
        raise UsageError("areas of landslides must be above 0 m2; leave out what has none")
    if completeness_m2 is not None:
        least = float(completeness_m2)
    else:
        least = float(np.quantile(area, SLIVERS, method="lower")) if area.size else 0.0
    if not 0 <= least < np.inf:
        raise UsageError(f"the completeness area is {completeness_m2}; expected 0 m2 or more")
    kept = area >= least
    return AreaSample(
        completeness_m2=least,
        whole_m2=np.sort(area[kept & ~cut]),
        cut_m2=np.sort(area[kept & cut]),
        rule=rule,
    )


def scaled(sample: AreaSample) -> tuple[AreaSample, float]:
    """The sample in units of its median, in which its parameters are numbers around 1; and that unit, m2."""
    unit = float(np.median(sample.all_m2))
    return replace(
        sample,
        completeness_m2=sample.completeness_m2 / unit,
        whole_m2=sample.whole_m2 / unit,
        cut_m2=sample.cut_m2 / unit,
    ), unit
