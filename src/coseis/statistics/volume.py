"""Areas in, volumes by published relations and how far their sum may be off out.

    V = alpha * A^gamma

Relations were fitted to logarithms: at an area they give the median volume. The mean is larger, by exp(s^2 /
2) for a scatter of s, and so is the sum of many landslides; what other papers print is the plain sum, so both
are given.
"""

from __future__ import annotations

from math import log10

import numpy as np

from coseis.errors import UsageError
from coseis.statistics.areas import FloatArray, Interval
from coseis.types import Value

SCATTER_DEX = 0.4
"""Standard deviation of log10 V around a relation: volumes of one area spread over two orders of magnitude,
which is 5 such deviations."""
DRAW_SHARE = 2**22
"""Numbers that are drawn at once."""


class VolumeRelation(Value):
    """V = alpha A^gamma, in m3 and m2."""

    name: str
    reference: str
    log10_alpha: float
    log10_alpha_sd: float
    gamma: float
    gamma_sd: float
    """Taken to be independent of alpha's, which makes the interval too wide rather than too narrow."""
    scatter_dex: float = SCATTER_DEX
    """Standard deviation of log10 V of single landslides."""

    def volume_m3(self, area_m2: FloatArray) -> FloatArray:
        """Median volume of a landslide of each area, m3, in the shape of the areas."""
        volume: FloatArray = 10**self.log10_alpha * np.asarray(area_m2, dtype=np.float64) ** self.gamma
        return volume


GUZZETTI = VolumeRelation(
    name="all slides",
    reference="Guzzetti et al. (2009), doi:10.1016/j.epsl.2009.01.005",
    log10_alpha=log10(0.074),
    log10_alpha_sd=0.033,
    gamma=1.450,
    gamma_sd=0.0097,
)
"""677 slides of all depths. The deviations follow from their number and from R2 = 0.9707."""
LARSEN_SOIL = VolumeRelation(
    name="shallow, in soil",
    reference="Larsen et al. (2010), doi:10.1038/ngeo776",
    log10_alpha=-0.44,
    log10_alpha_sd=0.02,
    gamma=1.145,
    gamma_sd=0.008,
)
"""Whole landslides, scar and deposit, as a map shows them; of scars alone log10 alpha is -0.649, gamma
1.262."""
RELATIONS = (GUZZETTI, LARSEN_SOIL)


class TotalVolume(Value):
    """Volume of all landslides by one relation."""

    relation: VolumeRelation
    plain_m3: float
    """Sum of the median volumes, as other inventories have it."""
    total_m3: Interval
    """Median and interval of the sum with the scatter of single landslides and the relation's own errors."""
    draws: int


def estimate_volume(
    area_m2: FloatArray,
    relation: VolumeRelation,
    *,
    draws: int = 400,
    confidence: float = 0.95,
    seed: int = 0,
) -> TotalVolume:
    """The volume of an inventory by Monte Carlo.

    A relation is meant for single landslides: several that are mapped as one get too large a volume, for
    gamma is above 1 (Marc and Hovius, 2015, doi:10.5194/nhess-15-723-2015).

    Args:
        area_m2: float64 (landslides,).
        relation: One of RELATIONS, or another.
        draws: Sums that are drawn.
        confidence: Of the interval.
        seed: Of the draws.

    Raises:
        UsageError: Fewer than 100 draws, which have no quantiles.
    """
    if draws < 100:
        raise UsageError(f"{draws} draws; expected 100 or more, or the interval is made of chance")
    area = np.asarray(area_m2, dtype=np.float64)
    plain = float(relation.volume_m3(area).sum())
    random = np.random.default_rng(seed)
    alpha = random.normal(relation.log10_alpha, relation.log10_alpha_sd, draws)
    gamma = random.normal(relation.gamma, relation.gamma_sd, draws)
    log_area = np.log10(area)
    sums = np.zeros(draws)
    step = max(1, DRAW_SHARE // max(area.size, 1))
    for first in range(0, draws, step):
        some = slice(first, min(first + step, draws))
        shape = (some.stop - some.start, area.size)
        scatter = random.normal(0, relation.scatter_dex, shape)
        sums[some] = (10 ** (alpha[some, None] + gamma[some, None] * log_area + scatter)).sum(axis=1)
    low, middle, high = np.quantile(sums, [(1 - confidence) / 2, 0.5, (1 + confidence) / 2])
    return TotalVolume(
        relation=relation,
        plain_m3=plain,
        total_m3=Interval(value=float(middle), low=float(low), high=float(high), confidence=confidence),
        draws=draws,
    )
