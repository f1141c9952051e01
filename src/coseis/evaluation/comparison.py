"""Counts of many patches in, their sums by stratum and how sure a difference between two rivals is out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from coseis.errors import UsageError
from coseis.evaluation.additive import Additive
from coseis.types import Value

Counts = TypeVar("Counts", bound=Additive)


class PairedDifference(Value):
    """A score's difference between two rivals on the same patches."""

    value: float
    """Ours minus theirs, over all patches."""
    low: float
    high: float
    """Percentile interval of the resampled differences."""
    share_above: float
    """Share of the resamples in which ours is the greater."""
    resamples: int
    """How many had the score of both."""


def paired_bootstrap(
    ours: Sequence[Counts],
    theirs: Sequence[Counts],
    score: Callable[[Counts], float | None],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """How much a difference depends on which patches were looked at.

    Patches are drawn with replacement, the same ones for both, and their counts are added up before they
    are scored: a mean of the patches' own scores would weigh a patch with three landslide pixels like one
    with ten thousand. Patches are taken to be independent; neighbours are not quite, so the interval is
    rather too narrow.

    Args:
        ours: Counts of one rival, a patch each.
        theirs: Of the other, the same patches in the same order.
        score: From summed counts to a score, None where it is not defined.
        resamples: How many times patches are drawn.
        confidence: Of the interval.
        seed: Of the draws.

    Raises:
        UsageError: Not the same patches, or no resample has a score.

    Reference:
        Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 13, doi:10.1201/9780429246593.
    """
    if len(ours) != len(theirs) or not ours:
        raise UsageError(
            f"{len(ours)} patches of one rival, {len(theirs)} of the other; expected the same, one or more"
        )
    random = np.random.default_rng(seed)
    patches = len(ours)
    times = random.multinomial(patches, np.full(patches, 1 / patches), size=resamples)
    # In float64, which holds every count exactly: products of integers are not done by BLAS.
    stacked = [np.stack([counts.vector() for counts in rival]).astype(np.float64) for rival in (ours, theirs)]
    summed = [(times @ counts).astype(np.int64) for counts in stacked]
    differences = [
        a - b
        for mine, other in zip(*summed, strict=True)
        if (a := score(ours[0].filled(mine))) is not None and (b := score(ours[0].filled(other))) is not None
    ]
    whole = [score(ours[0].filled(counts.sum(axis=0).astype(np.int64))) for counts in stacked]
    if not differences or whole[0] is None or whole[1] is None:
        raise UsageError("the score is not defined on these patches, so there is no difference to be sure of")
    low, high = np.quantile(differences, ((1 - confidence) / 2, (1 + confidence) / 2))
    return PairedDifference(
        value=whole[0] - whole[1],
        low=float(low),
        high=float(high),
        share_above=float(np.mean(np.greater(differences, 0))),
        resamples=len(differences),
    )


def sum_strata(counts: Mapping[str, Counts], strata: Mapping[str, Sequence[str]]) -> dict[str, Counts]:
    """Sums over the patches of each stratum, such as dense, small, and farmland and roads.

    Args:
        counts: By patch name.
        strata: Patch names by stratum; a patch may be in several or in none.

    Raises:
        UsageError: A stratum is empty or names a patch that is not there.
    """
    sums = {}
    for stratum, names in strata.items():
        unknown = sorted(set(names) - counts.keys())
        if unknown or not names:
            raise UsageError(
                f"stratum {stratum} names {', '.join(unknown) or 'no patch'}; known are "
                f"{', '.join(sorted(counts))}"
            )
        first, *others = (counts[name] for name in names)
        sums[stratum] = sum(others, start=first)
    return sums
