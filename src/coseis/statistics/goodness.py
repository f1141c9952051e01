"""Areas and their fitted law in, whether chance explains how far they lie from it out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coseis.errors import UsageError
from coseis.statistics.areas import AreaSample, FloatArray
from coseis.statistics.fit import likeliest_law
from coseis.statistics.size_law import SizeLaw
from coseis.types import Value


class GoodnessOfFit(Value):
    """Kolmogorov-Smirnov test by parametric bootstrap.

    Tables of the test hold for a law that was known beforehand. This one was fitted to the same areas, so
    each simulated inventory is fitted anew. With many thousands of landslides any law is refused: judge
    `distance` too.
    """

    distance: float
    """Greatest difference of the cumulative shares of data and law, above the completeness area, 0-1."""
    p_value: float
    """Share of inventories simulated by the fitted law that lie farther from their own fit; small:
    refused."""
    simulated: int


def check_fit(sample: AreaSample, *, simulated: int = 200, seed: int = 0) -> GoodnessOfFit:
    """Tests the inverse gamma law on the landslides that were seen whole, weighted for those that were not.

    Args:
        sample: As for `fit.fit_size_law`; simulated landslides are all whole.
        simulated: Inventories; the p-value is known to 1 / (simulated + 1) at best.
        seed: Of the simulations.

    Raises:
        UsageError: Too few landslides.

    Reference:
        Clauset et al. (2009), section 4.1, doi:10.1137/070710111; Davison and Hinkley (1997), Bootstrap
        methods, chapter 4, doi:10.1017/CBO9780511802843.
    """
    if simulated < 1:
        raise UsageError(f"{simulated} simulated inventories; expected 1 or more")
    random = np.random.default_rng(seed)
    data = replace(sample, rule="weighted")
    law, _ = likeliest_law(data)
    distance = distance_to(data, law)
    farther = 0
    for _ in range(simulated):
        drawn = law.draw(random, data.known_m2.size, least_m2=data.completeness_m2)
        again = AreaSample(data.completeness_m2, np.sort(drawn))
        fitted, _ = likeliest_law(again, start=law)
        farther += distance_to(again, fitted) >= distance
    # The data are one of the inventories that the law may have made: no p-value is 0.
    return GoodnessOfFit(distance=distance, p_value=(farther + 1) / (simulated + 1), simulated=simulated)


def distance_to(sample: AreaSample, law: SizeLaw) -> float:
    """Greatest difference of cumulative shares, of the whole landslides and of the law cut off alike, 0-1."""
    log_whole = float(law.log_survival(np.array(sample.completeness_m2)))
    below: FloatArray = -np.expm1(law.log_survival(sample.known_m2) - log_whole)
    steps = np.append(0.0, np.cumsum(sample.weight) / sample.weight.sum())
    return max(float((steps[1:] - below).max()), float((below - steps[:-1]).max()))
