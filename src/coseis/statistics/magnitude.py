"""Areas in, the magnitude of a landslide event out."""

from __future__ import annotations

import numpy as np
from scipy.special import chdtri

from coseis.statistics.areas import AreaSample, Interval
from coseis.statistics.size_law import MALAMUD
from coseis.types import Value

TAIL_M2 = 10_000.0
"""From here on Malamud's law is a power law to 3 %, and inventories are complete."""


class Magnitudes(Value):
    """log10 of the number of landslides, NLT.

    The first counts those at or above the completeness area. The other two say how many Malamud's law would
    need to have as many large ones, or as large an area in all. An event with larger landslides than that
    law, such as Iburi, has a smaller number than its tail and its area say.

    Reference: Malamud et al. (2004), section 6, doi:10.1002/esp.1064.
    """

    by_number: float | None
    """None where there is no landslide; so for the others."""
    by_tail: Interval | None
    tail_m2: float
    """Least area of the tail."""
    tail_count: int
    by_area: float | None


def measure_magnitude(sample: AreaSample, *, confidence: float = 0.95) -> Magnitudes:
    """The three magnitudes; cut landslides count with what was seen of them.

    Args:
        sample: Areas of the event.
        confidence: Of the tail's interval, which is that of a Poisson count.
    """
    tail_m2 = max(TAIL_M2, sample.completeness_m2)
    tail = int((sample.all_m2 >= tail_m2).sum())
    total = float(sample.all_m2.sum())
    return Magnitudes(
        by_number=float(np.log10(sample.count)) if sample.count else None,
        by_tail=_tail_magnitude(tail, tail_m2, confidence) if tail else None,
        tail_m2=tail_m2,
        tail_count=tail,
        by_area=float(np.log10(total / MALAMUD.mean_m2)) if sample.count else None,
    )


def _tail_magnitude(count: int, tail_m2: float, confidence: float) -> Interval:
    share = float(MALAMUD.survival(np.array(tail_m2)))
    # Garwood's exact interval of a Poisson count.
    low = chdtri(2 * count, (1 + confidence) / 2) / 2
    high = chdtri(2 * count + 2, (1 - confidence) / 2) / 2
    value, low, high = (float(np.log10(number / share)) for number in (count, low, high))
    return Interval(value=value, low=low, high=high, confidence=confidence)
