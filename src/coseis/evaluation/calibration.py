"""Counts by code in, how far probabilities can be taken at their word and what would correct them out.

Everything works on the probability of each of the 201 codes, so a correction is one table of 201 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeFloat
from scipy.optimize import minimize_scalar

from coseis.errors import UsageError
from coseis.evaluation.counts import CodeCounts
from coseis.evaluation.scores import check_prevalence
from coseis.types import CODE_SCALE, Value

FloatArray = npt.NDArray[np.float64]

CODE_PROBABILITY: FloatArray = np.arange(CODE_SCALE + 1) / CODE_SCALE
"""What each code stands for, float64 (201,)."""
END_PROBABILITY = 0.25 / CODE_SCALE
"""Mean of what is rounded to the codes 0 and 200, from there to the end: neither is certainty."""
MOST_TEMPERATURE = 100.0
"""Bound of the fit; beyond it all probabilities are 0.5 to two decimals."""


class ReliabilityBin(Value):
    """The pixels of one range of probability."""

    low: float
    high: float
    """Probability range; the upper end belongs to the next bin but for the last."""
    weight: NonNegativeFloat
    """Pixels, reweighted where a prevalence was asked for."""
    predicted: float | None
    """Their mean probability; None for an empty bin."""
    observed: float | None
    """Share of landslides among them."""


def reliability_curve(
    counts: CodeCounts,
    *,
    prevalence: float | None = None,
    probability: FloatArray = CODE_PROBABILITY,
    bins: int = 10,
) -> tuple[ReliabilityBin, ...]:
    """Predicted probability against the share of landslides, in bins of equal width.

    Args:
        counts: Labelled pixels.
        prevalence: Weighs landslides and background to this share; None: as counted.
        probability: float64 (201,), what each code is taken for, see `temper` and `shift_prior`.
        bins: How many.

    Raises:
        UsageError: A prevalence is asked for, but one of the classes was not counted.
    """
    background, landslide = _weights(counts, prevalence)
    place = np.clip((probability * bins).astype(np.int64), 0, bins - 1)
    weight = np.bincount(place, weights=background + landslide, minlength=bins)
    predicted = np.bincount(place, weights=(background + landslide) * probability, minlength=bins)
    observed = np.bincount(place, weights=landslide, minlength=bins)
    return tuple(
        ReliabilityBin(
            low=n / bins,
            high=(n + 1) / bins,
            weight=float(weight[n]),
            predicted=float(predicted[n] / weight[n]) if weight[n] else None,
            observed=float(observed[n] / weight[n]) if weight[n] else None,
        )
        for n in range(bins)
    )


def calibration_error(curve: Sequence[ReliabilityBin]) -> float | None:
    """Expected calibration error: the mean gap of a reliability curve, weighted by pixels.

    Reference:
        Naeini, Cooper and Hauskrecht (2015), doi:10.1609/aaai.v29i1.9602.
    """
    full = [part for part in curve if part.predicted is not None and part.observed is not None]
    whole = sum(part.weight for part in full)
    gaps = sum(part.weight * abs((part.predicted or 0.0) - (part.observed or 0.0)) for part in full)
    return gaps / whole if whole else None


def brier_score(
    counts: CodeCounts, *, prevalence: float | None = None, probability: FloatArray = CODE_PROBABILITY
) -> float | None:
    """Mean squared difference of probability and truth; None without pixels.

    Arguments and errors as those of `reliability_curve`.
    """
    background, landslide = _weights(counts, prevalence)
    whole = background.sum() + landslide.sum()
    if not whole:
        return None
    return float((background @ probability**2 + landslide @ (1 - probability) ** 2) / whole)


def fit_temperature(counts: CodeCounts, *, prevalence: float | None = None) -> float:
    """The temperature that makes development labels likeliest; above 1 the network was too sure.

    Args:
        counts: Of the development part, never of what is scored afterwards.
        prevalence: As for `reliability_curve`.

    Raises:
        UsageError: Only one class was counted: any certainty would then be right.

    Reference:
        Guo et al. (2017), On calibration of modern neural networks, arXiv:1706.04599; here for two classes.
    """
    background, landslide = _weights(counts, prevalence)
    if not (background.any() and landslide.any()):
        raise UsageError("a temperature needs landslides and background; the labels hold only one of them")
    logit = _logit(CODE_PROBABILITY)

    def loss(log_temperature: float) -> float:
        scaled = logit / np.exp(log_temperature)
        return float(landslide @ np.logaddexp(0, -scaled) + background @ np.logaddexp(0, scaled))

    limit = float(np.log(MOST_TEMPERATURE))
    fitted = minimize_scalar(loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(fitted.x))


def temper(temperature: float, probability: FloatArray = CODE_PROBABILITY) -> FloatArray:
    """Probabilities with their log-odds divided by a temperature, float64 of the same shape.

    0 and 1 stand for what is rounded to them, so they come back a little inside.
    """
    return np.asarray(1 / (1 + np.exp(-_logit(probability) / temperature)), dtype=np.float64)


def shift_prior(probability: FloatArray, *, from_prevalence: float, to_prevalence: float) -> FloatArray:
    """Probabilities for a region in which landslides are more or less common than in the development part.

    Args:
        probability: float64, any shape, in [0, 1].
        from_prevalence: Share of landslide pixels that the probabilities were fitted at.
        to_prevalence: Share in the region.

    Raises:
        UsageError: A prevalence is no share between 0 and 1.

    Reference:
        Saerens, Latinne and Decaestecker (2002), equation 2.4, doi:10.1162/089976602753284446.
    """
    check_prevalence(from_prevalence)
    check_prevalence(to_prevalence)
    landslide = to_prevalence / from_prevalence * probability
    background = (1 - to_prevalence) / (1 - from_prevalence) * (1 - probability)
    return landslide / (landslide + background)


def _weights(counts: CodeCounts, prevalence: float | None) -> tuple[FloatArray, FloatArray]:
    """Background and landslide pixels of each code, float64 (201,) each; their sum is kept if reweighted."""
    background, landslide = counts.by_truth.astype(np.float64)
    if prevalence is None:
        return background, landslide
    check_prevalence(prevalence)
    if not (background.any() and landslide.any()):
        raise UsageError(
            f"labels of one class cannot be weighed to a prevalence of {prevalence}; expected landslides and "
            "background"
        )
    whole = background.sum() + landslide.sum()
    return (
        background * (1 - prevalence) * whole / background.sum(),
        landslide * prevalence * whole / landslide.sum(),
    )


def _logit(probability: FloatArray) -> FloatArray:
    inside = np.clip(probability, END_PROBABILITY, 1 - END_PROBABILITY)
    return np.asarray(np.log(inside) - np.log1p(-inside), dtype=np.float64)
