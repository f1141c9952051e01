"""A labelled sample and mapped areas in; areas corrected for the map's errors, with intervals, out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from coseis.errors import UsageError
from coseis.types import Value


class Estimate(Value):
    """A number and its confidence interval."""

    value: float
    low: float
    high: float


class AreaEstimates(Value):
    """What a stratified sample says of each class, in the order of the error matrix."""

    areas: tuple[Estimate, ...]
    """Area of each class on the ground, in the unit of the mapped areas."""
    user_accuracy: tuple[Estimate, ...]
    """Share of the map's class that is right: precision."""
    producer_accuracy: tuple[float | None, ...]
    """Share of the class on the ground that is mapped so, by area: recall. None where the sample has none."""
    overall_accuracy: Estimate


def estimate_areas(
    error_matrix: npt.ArrayLike, mapped_areas: npt.ArrayLike, *, confidence: float = 0.95
) -> AreaEstimates:
    """Areas of the classes from a sample that was drawn at random within each class of a map.

    Counting a map's pixels gives a biased area, for its errors do not cancel; this estimator is unbiased,
    and its interval says how much the sample knows.

    Args:
        error_matrix: Integers (class, class): sampled places by the map's class (row) and the true one.
        mapped_areas: (class,), area of each class on the map, in any unit.
        confidence: Of the intervals, in (0, 1).

    Raises:
        UsageError: The shapes do not fit, a class on the map has fewer than two places, or a number is
            negative.

    Reference:
        Olofsson et al. (2014), equations 5 to 11, doi:10.1016/j.rse.2014.02.015.
    """
    counts, areas = _checked(error_matrix, mapped_areas, confidence)
    whole = areas.sum()
    share = areas / whole
    sampled = counts.sum(axis=1)
    of_row = counts / sampled[:, None]
    joint = share[:, None] * of_row
    quantile = float(ndtri((1 + confidence) / 2))

    spread = of_row * (1 - of_row) / (sampled - 1)[:, None]
    area_error = quantile * np.sqrt((share[:, None] ** 2 * spread).sum(axis=0))
    right = of_row.diagonal()
    row_error = quantile * np.sqrt(spread.diagonal())
    total_error = quantile * float(np.sqrt(share**2 @ spread.diagonal()))
    truth = joint.sum(axis=0)
    return AreaEstimates(
        areas=tuple(_estimate(whole * p, whole * e, whole) for p, e in zip(truth, area_error, strict=True)),
        user_accuracy=tuple(_estimate(p, e, 1.0) for p, e in zip(right, row_error, strict=True)),
        producer_accuracy=tuple(
            float(hit / all_) if all_ else None for hit, all_ in zip(joint.diagonal(), truth, strict=True)
        ),
        overall_accuracy=_estimate(float(joint.trace()), total_error, 1.0),
    )


def _estimate(value: float, error: float, most: float) -> Estimate:
    """Cut at what is possible: no negative area, none beyond the map's."""
    return Estimate(
        value=float(value), low=float(max(0.0, value - error)), high=float(min(most, value + error))
    )


def _checked(
    error_matrix: npt.ArrayLike, mapped_areas: npt.ArrayLike, confidence: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    counts = np.asarray(error_matrix, dtype=np.float64)
    areas = np.asarray(mapped_areas, dtype=np.float64)
    if areas.ndim != 1 or counts.shape != (areas.size, areas.size):
        raise UsageError(
            f"the error matrix has shape {counts.shape} for {areas.size} mapped areas; expected one row and "
            "one column a class, in one order"
        )
    if (counts < 0).any() or (areas < 0).any() or not areas.sum() > 0:
        raise UsageError("sampled places and mapped areas must not be negative, and some area be mapped")
    few = np.flatnonzero(counts.sum(axis=1) < 2)
    if few.size:
        raise UsageError(
            f"the map's classes {', '.join(map(str, few))} have fewer than two sampled places; sample more "
            "there, or join classes"
        )
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence}; expected a share between 0 and 1, such as 0.95")
    return counts, areas
