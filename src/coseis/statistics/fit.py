"""Areas in, the inverse gamma law that makes them likeliest and the intervals of its parameters out.

Maximum likelihood, of the law as cut off at the completeness area; never a line through log-binned counts,
whose exponent depends on the bins. What landslides that were seen in part say is decided in `areas`.

Intervals are those of the profile likelihood: they need some fifty searches, a bootstrap needs a thousand
fits, hold in any parametrization, are as lopsided as the data make them, and are open where the data set no
bound (a rollover below the completeness area).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, digamma, gammaln

from coseis.errors import UsageError
from coseis.statistics.areas import AreaSample, FloatArray, Interval, scaled
from coseis.statistics.descent import descend
from coseis.statistics.size_law import SizeLaw, log_lower_gamma
from coseis.types import Value

LEAST_COUNT = 50
"""Landslides that three parameters need: below it intervals cover anything."""
RHO_RANGE = (0.05, 40.0)
SCALE_RANGE = (1e-6, 1e5)
"""Of a, in units of the median area."""
SHIFT_RANGE = (1e-6, 1e3)
"""Of the completeness area less s, in the same units."""
STARTS = ((1.4, 1.0, 0.3), (2.5, 2.0, 1.0), (0.8, 0.3, 0.1), (1.4, 0.05, 0.5))
"""rho, a and the completeness area less s, where fits begin: the likeliest end of all is kept."""
STEP = 1e-5
"""Relative step of the one derivative that has no closed form."""
FIRST_STEP = 0.02
"""Of the logarithm, on the way to an end of an interval."""
REACH = 1e6
"""Ends of intervals are looked for within this factor of the estimate."""
LEAST_ROLLOVER = 1e-3
"""In units of the median area: where its upper end is sought from if the likeliest one is below 0."""

Parameters = tuple[float, float, float]
"""rho, a and s, the latter two in units of the median area."""
Likelihood = tuple[float, FloatArray]
"""Logarithm of a likelihood, and its derivatives."""


class SizeFit(Value):
    """An inventory's law of size."""

    law: SizeLaw
    count: int
    """Landslides that it is fitted to, at or above the completeness area."""
    cut_count: int
    """Those of them that were seen in part."""
    completeness_m2: float
    log_likelihood: float
    """Of areas in m2, given that they are at or above the completeness area."""
    tail_exponent: Interval
    """Of the density: rho + 1."""
    rollover_m2: Interval
    rollover_is_seen: bool
    """Whether the rollover lies above the completeness area, with its interval; else it is extrapolated."""


def fit_size_law(sample: AreaSample, *, confidence: float = 0.95) -> SizeFit:
    """Fits the three parameters, and bounds the two that are reported.

    Args:
        sample: LEAST_COUNT or more landslides.
        confidence: Of the intervals.

    Raises:
        UsageError: Too few landslides, or all of one size.

    Reference:
        Malamud et al. (2004), doi:10.1002/esp.1064, for the law. The likelihood of cut-off and cut samples:
        Klein and Moeschberger (2003), Survival analysis, chapter 3.5, doi:10.1007/b97377.
    """
    law, log_likelihood = likeliest_law(sample)
    unit_sample, unit = scaled(sample)
    best = _to_unit(law, unit)
    target = _log_likelihood(unit_sample, *best)[0] - chdtri(1, 1 - confidence) / 2
    rho = _interval(lambda value: _profile_rho(unit_sample, value, best), best[0], target)
    # If the data show the tail alone, the likeliest rollover may lie where no area can be: it is sought
    # above.
    mode = max(law.rollover_m2 / unit, LEAST_ROLLOVER)
    rollover = _interval(lambda value: _profile_rollover(unit_sample, value, best), mode, target)
    low, high = (None if end is None else end * unit for end in rollover)
    return SizeFit(
        law=law,
        count=sample.count,
        cut_count=sample.cut_m2.size,
        completeness_m2=sample.completeness_m2,
        log_likelihood=log_likelihood,
        tail_exponent=Interval(
            value=law.tail_exponent,
            low=None if rho[0] is None else rho[0] + 1,
            high=None if rho[1] is None else rho[1] + 1,
            confidence=confidence,
        ),
        rollover_m2=Interval(value=law.rollover_m2, low=low, high=high, confidence=confidence),
        rollover_is_seen=low is not None and low > sample.completeness_m2,
    )


def likeliest_law(sample: AreaSample, *, start: SizeLaw | None = None) -> tuple[SizeLaw, float]:
    """The law alone, and the logarithm of its likelihood; arguments and errors as `fit_size_law`.

    Args:
        sample: Of `fit_size_law`.
        start: A law near the answer, where one is known: spares the other starts.
    """
    known = sample.known_m2
    if known.size < LEAST_COUNT or known[0] == known[-1]:
        raise UsageError(
            f"{known.size} whole landslides of {sample.completeness_m2:g} m2 or more, of "
            f"{np.unique(known).size} sizes, are too few for a law; it takes {LEAST_COUNT}"
        )
    unit_sample, unit = scaled(sample)
    least = unit_sample.completeness_m2
    starts = STARTS if start is None else (_to_start(start, unit, least),)

    def negative(log: FloatArray) -> Likelihood:
        rho, a, gap = np.exp(log)
        value, slope = _log_likelihood(unit_sample, rho, a, least - gap)
        return -value, -slope * np.array([rho, a, -gap])

    bounds = np.log([RHO_RANGE, SCALE_RANGE, SHIFT_RANGE])
    ends = [descend(negative, np.log(begin), bounds) for begin in starts]
    log, value = min(ends, key=lambda end: end[1])
    rho, a, gap = np.exp(log)
    law = SizeLaw(rho=float(rho), a_m2=float(a * unit), s_m2=float((least - gap) * unit))
    return law, float(-value - sample.weight.sum() * np.log(unit))


def _to_unit(law: SizeLaw, unit: float) -> Parameters:
    return law.rho, law.a_m2 / unit, law.s_m2 / unit


def _to_start(law: SizeLaw, unit: float, least: float) -> Parameters:
    rho, a, s = _to_unit(law, unit)
    return rho, a, max(least - s, SHIFT_RANGE[0])


def _log_likelihood(sample: AreaSample, rho: float, a: float, s: float) -> Likelihood:
    """Logarithm of the likelihood and its derivatives by rho, a and s, float64 (3,)."""
    x = sample.known_m2 - s
    inverse = 1 / x
    weight = sample.weight
    # Sums, not products of matrices: BLAS takes all cores for ten thousand numbers, and waits for them.
    whole, log_sum, inverse_sum = weight.sum(), (weight * np.log(x)).sum(), (weight * inverse).sum()
    value = whole * (rho * np.log(a) - gammaln(rho)) - (rho + 1) * log_sum - a * inverse_sum
    slope = np.array(
        [
            whole * (np.log(a) - digamma(rho)) - log_sum,
            whole * rho / a - inverse_sum,
            (rho + 1) * inverse_sum - a * (weight * inverse**2).sum(),
        ]
    )
    # Survival beyond what was seen of the cut ones; and beyond the completeness area, once a landslide.
    least = sample.least_m2
    x = np.append(least, sample.completeness_m2) - s
    weight = np.append(np.ones(least.size), -float(whole + least.size))
    z = a / x
    log = log_lower_gamma(rho, z)
    by_z = np.exp((rho - 1) * np.log(z) - z - gammaln(rho) - log)
    step = STEP * rho
    by_rho = (log_lower_gamma(rho + step, z) - log_lower_gamma(rho - step, z)) / (2 * step)
    value += (weight * log).sum()
    slope += np.array([(weight * part).sum() for part in (by_rho, by_z / x, by_z * z / x)])
    return float(value), slope


def _profile_rho(sample: AreaSample, rho: float, best: Parameters) -> float:
    """Greatest likelihood of a given rho."""
    least = sample.completeness_m2

    def negative(log: FloatArray) -> Likelihood:
        a, gap = np.exp(log)
        value, slope = _log_likelihood(sample, rho, a, least - gap)
        return -value, -slope[1:] * np.array([a, -gap])

    bounds = np.log([SCALE_RANGE, SHIFT_RANGE])
    # The likelihood may have a second peak without a rollover, a power law from a shift on.
    starts = [(best[1], least - best[2]), (1e-3, rho)]
    return -min(descend(negative, np.log(start), bounds)[1] for start in starts)


def _profile_rollover(sample: AreaSample, rollover: float, best: Parameters) -> float:
    """Greatest likelihood of a given rollover: a follows from rho and s."""
    top = min(rollover, sample.completeness_m2)

    def negative(log: FloatArray) -> Likelihood:
        rho, gap = np.exp(log)
        s = top - gap
        reach = rollover - s
        value, (by_rho, by_a, by_s) = _log_likelihood(sample, rho, (rho + 1) * reach, s)
        slope = np.array([by_rho + by_a * reach, by_s - by_a * (rho + 1)])
        return -value, -slope * np.array([rho, -gap])

    bounds = np.log([RHO_RANGE, SHIFT_RANGE])
    starts = [(best[0], max(top - best[2], 0.1)), (1.0, 0.1)]
    return -min(descend(negative, np.log(start), bounds)[1] for start in starts)


def _interval(
    profile: Callable[[float], float], estimate: float, target: float
) -> tuple[float | None, float | None]:
    """Where a profile falls to a target below and above the estimate; None: within REACH it does not."""

    def excess(log: float) -> float:
        return profile(float(np.exp(log))) - target

    centre = float(np.log(estimate))
    ends: list[float | None] = []
    for side in (-1, 1):
        inner, step = centre, FIRST_STEP
        while step < np.log(REACH) and excess(centre + side * step) > 0:
            inner, step = centre + side * step, 2 * step
        outer = centre + side * step
        crossed = step < np.log(REACH) and excess(inner) > 0
        ends.append(float(np.exp(brentq(excess, inner, outer, xtol=1e-3))) if crossed else None)
    return ends[0], ends[1]


def sample_laws(sample: AreaSample, law: SizeLaw, count: int, *, seed: int = 0) -> list[SizeLaw]:
    """Laws that the areas leave possible, for the band around a curve.

    Drawn from the normal law of the logarithms of rho, a and the completeness area less s that the curvature
    of the likelihood gives; where it is flat the draws are held to ten times or a tenth.

    Args:
        sample: As for `fit_size_law`.
        law: The likeliest law.
        count: How many.
        seed: Of the draws.
    """
    unit_sample, unit = scaled(sample)
    least = unit_sample.completeness_m2
    centre = np.log(_to_start(law, unit, least))

    def slope(log: FloatArray) -> FloatArray:
        rho, a, gap = np.exp(log)
        by_log: FloatArray = _log_likelihood(unit_sample, rho, a, least - gap)[1] * np.array([rho, a, -gap])
        return by_log

    steps = STEP * 10 * np.eye(3)
    curvature = -np.array([(slope(centre + step) - slope(centre - step)) / (2 * STEP * 10) for step in steps])
    values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
    spread = 1 / np.sqrt(np.maximum(values, 1.0))
    drawn = np.random.default_rng(seed).standard_normal((count, 3)) * spread @ vectors.T
    rho, a, gap = np.exp(centre + np.clip(drawn, -np.log(10), np.log(10))).T
    return [
        SizeLaw(rho=float(r), a_m2=float(scale * unit), s_m2=float((least - g) * unit))
        for r, scale, g in zip(rho, a, gap, strict=True)
    ]
