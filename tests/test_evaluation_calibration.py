"""Calibration: known temperatures and priors are found again, and scores equal those of single pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coseis.errors import UsageError
from coseis.evaluation import (
    CodeCounts,
    brier_score,
    calibration_error,
    count_pixels,
    fit_temperature,
    reliability_curve,
    shift_prior,
    temper,
)
from coseis.types import CODE_SCALE
from test_evaluation_counts import patch

CODES = np.arange(CODE_SCALE + 1) / CODE_SCALE


def counts_of(background: np.ndarray, landslide: np.ndarray) -> CodeCounts:
    zones = np.zeros((4, 2, CODE_SCALE + 1), np.int64)
    zones[3] = np.rint([background, landslide])
    return CodeCounts(pixels=zones.tolist())


def calibrated(pixels_each: int = 1_000_000) -> CodeCounts:
    """As many landslides at each code but the outermost as it says."""
    weight = np.full(CODES.size, pixels_each)
    weight[[0, -1]] = 0
    return counts_of(weight * (1 - CODES), weight * CODES)


def test_what_is_calibrated_needs_nothing() -> None:
    counts = calibrated()
    assert calibration_error(reliability_curve(counts)) == pytest.approx(0, abs=1e-6)
    assert fit_temperature(counts) == pytest.approx(1, abs=1e-3)


@given(temperature=st.floats(0.3, 4))
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    truth = temper(temperature)
    weight = np.full(CODES.size, 1e7)
    weight[[0, -1]] = 0
    counts = counts_of(weight * (1 - truth), weight * truth)
    fitted = fit_temperature(counts)
    assert fitted == pytest.approx(temperature, rel=1e-3)
    assert calibration_error(reliability_curve(counts, probability=temper(fitted))) < 1e-3


@given(prevalence=st.floats(0.01, 0.5))
def test_prior_shift_calibrates_another_prevalence(prevalence: float) -> None:
    counts = calibrated()
    shifted = shift_prior(CODES, from_prevalence=0.5, to_prevalence=prevalence)
    curve = reliability_curve(counts, prevalence=prevalence, probability=shifted)
    assert calibration_error(curve) == pytest.approx(0, abs=1e-6)
    as_it_was = reliability_curve(counts, prevalence=prevalence)
    assert prevalence > 0.45 or calibration_error(as_it_was) > 0.01
    there_and_back = shift_prior(shifted, from_prevalence=prevalence, to_prevalence=0.5)
    np.testing.assert_allclose(there_and_back, CODES, atol=1e-12)


@given(seed=st.integers(0, 99))
def test_curve_and_brier_score_are_those_of_single_pixels(seed: int) -> None:
    codes, truth = patch(seed)
    known = (codes <= 200) & (truth <= 1)
    probability, landslide = codes[known] / 200, truth[known] == 1
    counts = count_pixels(codes, truth)
    assert brier_score(counts) == pytest.approx(np.mean((probability - landslide) ** 2))
    curve = reliability_curve(counts)
    assert sum(part.weight for part in curve) == known.sum()
    for part in curve:
        last = part.high == 1
        here = (codes[known] >= round(200 * part.low)) & (last | (codes[known] < round(200 * part.high)))
        assert part.weight == here.sum()
        if here.any():
            assert part.predicted == pytest.approx(probability[here].mean())
            assert part.observed == pytest.approx(landslide[here].mean())


def test_reweighting_equals_repeating_pixels() -> None:
    background, landslide = np.random.default_rng(0).integers(0, 50, (2, CODES.size))
    repeated = counts_of(9 * background, landslide)
    one = reliability_curve(counts_of(background, landslide), prevalence=repeated.prevalence)
    for part, expected in zip(one, reliability_curve(repeated), strict=True):
        assert part.observed == pytest.approx(expected.observed)
    assert brier_score(counts_of(background, landslide), prevalence=repeated.prevalence) == pytest.approx(
        brier_score(repeated)
    )


def test_no_pixel_no_score() -> None:
    assert brier_score(CodeCounts()) is None
    assert calibration_error(reliability_curve(CodeCounts())) is None


def test_one_class_is_refused() -> None:
    counts = counts_of(np.ones(CODES.size), np.zeros(CODES.size))
    with pytest.raises(UsageError, match="a temperature needs landslides and background"):
        fit_temperature(counts)
    with pytest.raises(UsageError, match=r"labels of one class cannot be weighed to a prevalence of 0\.05"):
        reliability_curve(counts, prevalence=0.05)
    with pytest.raises(UsageError, match="prevalence is 0; expected a share"):
        shift_prior(CODES, from_prevalence=0.5, to_prevalence=0)
