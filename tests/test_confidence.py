"""How sure a polygon is, and the thresholds that say so, against hand-made counts."""

import geopandas as gpd
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coseis.confidence import CONFIDENCES, confidence_attributes, sure_thresholds
from coseis.identity import digest_card
from coseis.types import CODE_SCALE
from making import UTM, a_card

SURE = {"threshold": 0.39, "high_precision": 0.63, "high_recall": 0.07}


def named(means, **changes):
    points = gpd.points_from_xy(range(len(means)), range(len(means)))
    polygons = gpd.GeoDataFrame({"probability_mean": means}, geometry=points, crs=UTM)
    return list(confidence_attributes(polygons, a_card(**(SURE | changes)))["confidence"])


def test_classes_begin_at_their_thresholds():
    means = [1.0, 0.63, 0.6299, 0.39, 0.3899, 0.07, 0.0699]
    assert named(means) == ["certain", "certain", "likely", "likely", "possible", "possible", None]
    assert named([]) == []


@pytest.mark.parametrize("lacking", ["high_precision", "high_recall"])
def test_a_card_that_lacks_one_says_nothing(lacking):
    assert named([0.1, 0.5, 0.9], **{lacking: None}) == [None] * 3


@given(st.lists(st.floats(0, 1), min_size=2))
def test_a_higher_probability_is_never_less_sure(means):
    order = {name: rank for rank, name in enumerate((*CONFIDENCES, None))}
    ranks = [order[name] for name in named(sorted(means))]
    assert ranks == sorted(ranks, reverse=True)


def test_thresholds_out_of_order_are_refused():
    with pytest.raises(ValueError, match=r"are \[0.07, 0.7, 0.63\]; expected rising ones"):
        a_card(**SURE | {"threshold": 0.7})


def test_they_change_no_pixel_and_so_no_identity():
    assert digest_card(a_card(**SURE)) == digest_card(a_card(threshold=0.39))
    assert digest_card(a_card(**SURE)) != digest_card(a_card(threshold=0.4))


def counted(background, landslide):
    """Pixels by code from {probability: pixels}."""
    counts = np.zeros((2, CODE_SCALE + 1), np.int64)
    for row, given_ in zip(counts, (background, landslide), strict=True):
        for probability, pixels in given_.items():
            row[round(probability * CODE_SCALE)] = pixels
    return counts


def test_thresholds_are_the_nearest_that_reach_nine_of_ten():
    """Precision is 100/160 at 0.50, 60/70 from 0.51 and 60/61 from 0.71; recall 100/105 up to 0.30."""
    counts = {"a": counted({0.1: 900, 0.5: 50, 0.7: 9, 0.9: 1}, {0.05: 5, 0.3: 20, 0.5: 20, 0.9: 60})}
    assert sure_thresholds(counts, 0.4) == (0.71, 0.3)
    # The card's own threshold lies between them.
    assert sure_thresholds(counts, 0.8) == (0.8, 0.3)
    assert sure_thresholds(counts, 0.2) == (0.71, 0.2)


def test_where_nothing_reaches_it_there_is_none():
    assert sure_thresholds({"a": counted({0.9: 100}, {0.1: 90, 0.9: 100})}, 0.5) == (None, 0.1)
    assert sure_thresholds({"a": counted({0.0: 100}, {0.0: 90, 0.9: 100})}, 0.5) == (0.5, None)


def test_precision_is_restated_and_groups_count_alike():
    half = counted({0.1: 950, 0.6: 50}, {0.6: 500, 0.8: 500})  # 1000 of 1050 at 0.6
    assert sure_thresholds({"a": half}, 0.5)[0] == 0.5
    # At 10 % landslides 0.1 of 0.1 + 0.9 * 0.05: 0.69.
    assert sure_thresholds({"a": half}, 0.5, prevalence=0.1)[0] == 0.61
    worse = counted({0.6: 10, 0.1: 1}, {0.6: 10})
    assert sure_thresholds({"a": 1000 * half, "b": worse}, 0.5)[0] is None
