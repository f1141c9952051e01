"""A function of two or three numbers and its slope in, the place of its nearest minimum out.

Quasi-Newton steps (BFGS) within bounds. SciPy's own searches are made for large problems: its L-BFGS-B has
all threads of BLAS spin over matrices of 3 x 3 (6 times the processor's seconds), its TNC calls the function
ten times as often; a fit takes a hundred such searches.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coseis.statistics.areas import FloatArray

Sloped = Callable[[FloatArray], tuple[float, FloatArray]]
"""Value and slope, float64 (numbers,), at a place."""

MOST_STEPS = 200
LONGEST_STEP = 1.0
"""Of any of the numbers, in one step: they are logarithms, in which e is far."""
ENOUGH = 1e-4
"""Share of the decrease that the slope promises which a step must bring (Armijo)."""
LEAST_DECREASE = 1e-9
"""Where the slope promises less the search ends: of a log-likelihood, which is judged in tenths."""
LEAST_STEP = 1e-12


def descend(function: Sloped, begin: FloatArray, bounds: FloatArray) -> tuple[FloatArray, float]:
    """The minimum that a search from a place arrives at, and its value.

    Args:
        function: To be made least.
        begin: float64 (numbers,); what lies beyond the bounds is moved there.
        bounds: float64 (numbers, 2), least and greatest of each.

    Reference:
        Nocedal and Wright (2006), Numerical optimization, algorithm 6.1, doi:10.1007/978-0-387-40065-5; a
        number at a bound that the slope pushes against it is held there.
    """
    place = np.clip(np.asarray(begin, dtype=np.float64), bounds[:, 0], bounds[:, 1])
    value, slope = function(place)
    inverse = _fresh(slope)
    for _ in range(MOST_STEPS):
        free = ~((place <= bounds[:, 0]) & (slope > 0)) & ~((place >= bounds[:, 1]) & (slope < 0))
        step = np.where(free, -(inverse * np.where(free, slope, 0)).sum(axis=1), 0.0)
        promised = -float((slope * step).sum())
        if promised <= 0:
            inverse = _fresh(slope)
            step = np.where(free, -np.diag(inverse) * slope, 0.0)
            promised = -float((slope * step).sum())
        if promised < LEAST_DECREASE:
            break
        step *= min(1.0, LONGEST_STEP / float(np.abs(step).max()))
        moved = _walk(function, place, value, slope, step, bounds)
        if moved is None:
            break
        (after, after_value, after_slope) = moved
        inverse = _updated(inverse, after - place, after_slope - slope)
        place, value, slope = after, after_value, after_slope
    return place, value


def _walk(
    function: Sloped,
    place: FloatArray,
    value: float,
    slope: FloatArray,
    step: FloatArray,
    bounds: FloatArray,
) -> tuple[FloatArray, float, FloatArray] | None:
    """The end of as much of a step as brings enough, its value and slope; None if no part of it does."""
    share = 1.0
    while share * float(np.abs(step).max()) > LEAST_STEP:
        after = np.clip(place + share * step, bounds[:, 0], bounds[:, 1])
        after_value, after_slope = function(after)
        promised = float((slope * (after - place)).sum())
        if np.isfinite(after_value) and after_value <= value + ENOUGH * promised:
            return after, after_value, after_slope
        share /= 4
    return None


def _fresh(slope: FloatArray) -> FloatArray:
    """A first guess of the inverse curvature: a step of a tenth along the steepest number."""
    first: FloatArray = np.eye(slope.size) * 0.1 / max(float(np.abs(slope).max()), 1e-12)
    return first


def _updated(inverse: FloatArray, moved: FloatArray, turned: FloatArray) -> FloatArray:
    """The inverse curvature after a step, given how far it moved and how the slope turned."""
    along = float((moved * turned).sum())
    if along <= 1e-12 * float(np.abs(moved).max() * np.abs(turned).max()):
        return inverse
    turned_back = (inverse * turned).sum(axis=1)
    weight = (along + float((turned * turned_back).sum())) / along**2
    mixed = np.outer(turned_back, moved) / along
    updated: FloatArray = inverse + weight * np.outer(moved, moved) - mixed - mixed.T
    return updated
