"""Areas from a sample: the paper's worked example, a census, and how often the interval holds the truth."""

import numpy as np
import pytest

from coseis.errors import UsageError
from coseis.evaluation import estimate_areas


def test_worked_example_of_olofsson() -> None:
    """Deforestation, forest gain, stable forest, stable non-forest, in pixels of 30 m."""
    sample = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
    estimates = estimate_areas(sample, [200_000, 150_000, 3_200_000, 6_450_000])
    deforestation = estimates.areas[0]
    assert deforestation.value == pytest.approx(235_086, abs=0.5)
    # The paper rounds the quantile to 1.96.
    assert deforestation.high - deforestation.value == pytest.approx(68_418, abs=2)
    assert estimates.overall_accuracy.value == pytest.approx(0.95, abs=0.005)
    assert [round(accuracy.value, 2) for accuracy in estimates.user_accuracy] == [0.88, 0.73, 0.93, 0.96]
    assert [round(accuracy or 0, 2) for accuracy in estimates.producer_accuracy] == [0.75, 0.85, 0.93, 0.96]
    assert sum(area.value for area in estimates.areas) == pytest.approx(10_000_000)


def test_a_map_without_errors_keeps_its_areas() -> None:
    estimates = estimate_areas([[50, 0], [0, 50]], [12.0, 88.0])
    assert [(area.low, area.value, area.high) for area in estimates.areas] == [(12, 12, 12), (88, 88, 88)]


def test_interval_holds_the_true_area_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    mapped, right = np.array([10.0, 90.0]), np.array([0.8, 0.95])
    truth = mapped[0] * right[0] + mapped[1] * (1 - right[1])
    held = 0
    for _ in range(500):
        hits = random.binomial(200, right)
        area = estimate_areas([[hits[0], 200 - hits[0]], [200 - hits[1], hits[1]]], mapped).areas[0]
        held += area.low <= truth <= area.high
    assert 0.91 < held / 500 < 0.98


def test_a_class_that_the_sample_never_met_has_no_producer_accuracy() -> None:
    assert estimate_areas([[0, 9], [0, 9]], [1, 9]).producer_accuracy == (None, 0.9)


def test_samples_that_say_nothing_are_refused() -> None:
    for matrix, areas, match in (
        ([[1, 2]], [1, 2], r"shape \(1, 2\) for 2 mapped areas"),
        ([[5, 5], [1, 0]], [1, 2], "classes 1 have fewer than two"),
        ([[5, -5], [1, 5]], [1, 2], "must not be negative"),
        ([[5, 5], [1, 5]], [0, 0], "some area be mapped"),
    ):
        with pytest.raises(UsageError, match=match):
            estimate_areas(matrix, areas)
    with pytest.raises(UsageError, match=r"confidence is 95"):
        estimate_areas([[5, 5], [1, 5]], [1, 2], confidence=95)
