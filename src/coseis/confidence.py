"""Probabilities of polygons and a model's card go in, how sure each polygon is comes out.

A card that knows them has two thresholds beside its own: from `high_precision` on, nine of ten pixels are
landslides, and above `high_recall` lie nine of ten landslide pixels, both on what the model was judged on.
They are found here too, from the same counts as the card's threshold.
"""

from collections.abc import Mapping

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from coseis.card import ModelCard
from coseis.types import CODE_SCALE

CONFIDENCES = ("certain", "likely", "possible")
"""The surest first."""
LEAST_PRECISION = 0.9
"""At `high_precision`; recall at `high_recall` is the same. Nine in ten is what "very likely" is commonly
used for (the IPCC's calibrated language, Mastrandrea et al. 2010)."""
STEP = CODE_SCALE // 100
"""Codes between thresholds of two decimals."""


def confidence_attributes(polygons: gpd.GeoDataFrame, card: ModelCard) -> gpd.GeoDataFrame:
    """The polygons with a column `confidence`; their columns are kept.

    By the mean probability over a polygon's pixels, `probability_mean`: `certain` at or above the card's
    `high_precision`, else `likely` at or above the card's threshold, else `possible` at or above its
    `high_recall`. None below that, which only a lower threshold than the card's draws, and of all polygons
    where the card lacks one of the two.
    """
    mean = polygons["probability_mean"].to_numpy(dtype=np.float64)
    named = np.full(len(mean), None, dtype=object)
    if card.high_precision is not None and card.high_recall is not None:
        least = (card.high_precision, card.threshold, card.high_recall)
        # From the least sure on, so that the surest has the last word.
        for name, value in reversed(list(zip(CONFIDENCES, least, strict=True))):
            named[mean >= value] = name
    return polygons.assign(confidence=named)


def sure_thresholds(
    counts: Mapping[str, NDArray[np.int64]], threshold: float, *, prevalence: float | None = None
) -> tuple[float | None, float | None]:
    """`high_precision` and `high_recall` of a card, from pixels that its network was not trained on.

    Args:
        counts: By group, int64 (truth, code): pixels of background and of landslides by probability code.
            Every group counts alike, however large it is.
        threshold: The card's, which lies between the two.
        prevalence: Share of landslides that precision is restated at; default: each group's own.

    Returns:
        The lowest threshold of two decimals, from `threshold` on, whose precision is at least
        LEAST_PRECISION, the mean over the groups; and the highest one up to `threshold` whose recall is.
        None where there is no such threshold.
    """
    precision, recall = (
        np.mean(values, axis=0)
        for values in zip(*(_rates(of_group, prevalence) for of_group in counts.values()), strict=True)
    )
    tried = np.arange(1, 100)
    own = round(threshold * 100)
    precise = tried[(precision[STEP:-1:STEP] >= LEAST_PRECISION) & (tried >= own)]
    complete = tried[(recall[STEP:-1:STEP] >= LEAST_PRECISION) & (tried <= own)]
    return (
        float(precise[0]) / 100 if precise.size else None,
        float(complete[-1]) / 100 if complete.size else None,
    )


def _rates(
    counts: NDArray[np.int64], prevalence: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall with each code as threshold, float64 (code,); no pixel above it: precision 0."""
    background, landslide = np.maximum(counts.sum(axis=1), 1)
    alarms, hits = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    share = prevalence or landslide / (landslide + background)
    recall = hits / landslide
    found, false = share * recall, (1 - share) * alarms / background
    return found / np.maximum(found + false, np.finfo(float).tiny), recall
