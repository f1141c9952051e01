"""Areas in, how well other laws describe them out: the lognormal, and a power law of the tail alone."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_ndtr, ndtr, ndtri

from coseis.statistics.areas import AreaSample, FloatArray, Interval
from coseis.statistics.fit import LEAST_COUNT
from coseis.statistics.size_law import SizeLaw
from coseis.types import Value

SURE = 0.05
"""Least probability of a likelihood ratio by chance at which no law is called the better one."""
MOST_CUTOFFS = 200
"""Beginnings of the tail that are tried: quantiles, for of 100,000 areas each would be one more."""
SIGMA_RANGE = (1e-3, 20.0)


class Lognormal(Value):
    """Normal law of the natural logarithm of areas in m2."""

    mu: float
    sigma: float

    def log_density(self, area_m2: FloatArray) -> FloatArray:
        """Logarithm of the density, 1/m2, in the shape of the areas."""
        log = np.log(area_m2)
        z = (log - self.mu) / self.sigma
        density: FloatArray = -(z**2) / 2 - np.log(self.sigma * np.sqrt(2 * np.pi)) - log
        return density

    def log_survival(self, area_m2: FloatArray) -> FloatArray:
        """Logarithm of the share of landslides that are larger, in the shape of the areas."""
        with np.errstate(divide="ignore"):
            survival: FloatArray = log_ndtr((self.mu - np.log(area_m2)) / self.sigma)
        return survival


class LikelihoodRatio(Value):
    """The inverse gamma law against the lognormal one, both fitted to the same areas.

    Reference: Vuong (1989), doi:10.2307/1912557.
    """

    lognormal: Lognormal
    log_ratio: float
    """Logarithm of the ratio of the likelihoods; above 0 the inverse gamma law is likelier."""
    z: float
    """In standard deviations of chance, less what the third parameter is worth (Schwarz)."""
    p_value: float
    """Probability of a ratio so far from 1, either way, if both laws were as near to the truth."""
    better: str
    """inverse gamma, lognormal, or neither where chance may have decided."""


class PowerTail(Value):
    """A power law fitted to the largest areas alone: a second opinion of the exponent.

    Reference: Clauset et al. (2009), doi:10.1137/070710111.
    """

    least_m2: float
    """Where the tail begins: the area at which data and law are nearest each other (Kolmogorov-Smirnov)."""
    count: int
    exponent: Interval
    """Of the density."""


def compare_lognormal(sample: AreaSample, law: SizeLaw) -> LikelihoodRatio:
    """Which of the two laws the areas speak for.

    Args:
        sample: What `law` was fitted to.
        law: The likeliest inverse gamma law.
    """
    lognormal = fit_lognormal(sample)
    difference = _log_likelihoods(sample, law) - _log_likelihoods(sample, lognormal)
    weight = _weights(sample)
    total, count = float((weight * difference).sum()), float(weight.sum())
    spread = float(np.sqrt((weight * (difference - total / count) ** 2).sum()))
    corrected = total - np.log(count) / 2
    z = corrected / spread if spread > 0 else 0.0
    p_value = float(2 * ndtr(-abs(z)))
    better = "neither" if p_value > SURE else "inverse gamma" if z > 0 else "lognormal"
    return LikelihoodRatio(lognormal=lognormal, log_ratio=total, z=float(z), p_value=p_value, better=better)


def fit_lognormal(sample: AreaSample) -> Lognormal:
    """The likeliest lognormal law, cut off at the completeness area."""
    log = np.log(sample.all_m2)
    weight = _weights(sample)
    # Far below the data a lognormal looks like a power law: without bounds the fit would walk there for ever.
    start = np.array([log.mean(), np.log(max(log.std(), SIGMA_RANGE[0]))])
    spread = max(float(np.ptp(log)), 1.0)
    bounds = [(log.min() - 20 * spread, log.max() + spread), tuple(np.log(SIGMA_RANGE))]

    def negative(place: FloatArray) -> float:
        law = Lognormal(mu=place[0], sigma=float(np.exp(place[1])))
        return -float((weight * _log_likelihoods(sample, law)).sum())

    end = minimize(
        negative, start, bounds=bounds, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-8}
    )
    return Lognormal(mu=float(end.x[0]), sigma=float(np.exp(end.x[1])))


def fit_power_tail(sample: AreaSample, *, confidence: float = 0.95) -> PowerTail | None:
    """The likeliest power law above the beginning that fits best; None where the whole areas are too few.

    Cut landslides are left out: beyond what was seen of them the tail says nothing.
    """
    areas = np.sort(sample.whole_m2)
    if areas.size < LEAST_COUNT:
        return None
    tops = np.unique(np.linspace(0, areas.size - LEAST_COUNT, MOST_CUTOFFS).astype(int))
    firsts = np.unique(np.searchsorted(areas, areas[tops]))
    _, first, exponent = min(_tail_at(areas, int(first)) for first in firsts)
    count = areas.size - first
    reach = float(ndtri((1 + confidence) / 2)) * (exponent - 1) / np.sqrt(count)
    return PowerTail(
        least_m2=float(areas[first]),
        count=int(count),
        exponent=Interval(value=exponent, low=exponent - reach, high=exponent + reach, confidence=confidence),
    )


def _tail_at(areas: FloatArray, first: int) -> tuple[float, int, float]:
    """Distance of data and law, the first area's place, and the exponent, of a tail that begins there."""
    log = np.log(areas[first:] / areas[first])
    total = float(log.sum())
    if total == 0:
        return np.inf, first, np.inf
    slope = log.size / total
    below = -np.expm1(-slope * log)
    steps = np.arange(log.size + 1) / log.size
    distance = max(float((steps[1:] - below).max()), float((below - steps[:-1]).max()))
    return distance, first, 1 + slope


def _log_likelihoods(sample: AreaSample, law: SizeLaw | Lognormal) -> FloatArray:
    """Of each landslide, given that it is at or above the completeness area, float64 (known + cut,)."""
    seen = np.concatenate([law.log_density(sample.known_m2), law.log_survival(sample.least_m2)])
    return seen - float(law.log_survival(np.array(sample.completeness_m2)))


def _weights(sample: AreaSample) -> FloatArray:
    return np.concatenate([sample.weight, np.ones(sample.least_m2.size)])
