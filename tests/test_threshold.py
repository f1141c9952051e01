"""Thresholds against scikit-image on the whole array of codes, exactness, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.filters import threshold_isodata, threshold_otsu

from coseis.errors import UsageError
from coseis.threshold import choose_threshold, count_codes, isodata_code, otsu_code
from coseis.types import CODE_FILL, CODE_SCALE, least_code

CODES = hnp.arrays(np.uint8, st.integers(2, 60), elements=st.integers(0, CODE_SCALE)).filter(
    lambda codes: np.unique(codes).size > 1
)


def two_groups(seed: int, size: int = 40_000, share: float = 0.05) -> np.ndarray:
    """Codes uint8 (size,): most near 0, a share near 1, as a sound network gives them."""
    rng = np.random.default_rng(seed)
    slid = rng.random(size) < share
    probability = np.where(slid, 1 - rng.beta(1, 8, size), rng.beta(0.5, 20, size))
    return np.round(CODE_SCALE * probability).astype(np.uint8)


def test_otsu_and_isodata_equal_scikit_image_on_arrays() -> None:
    rng = np.random.default_rng(7)
    for seed in range(300):
        low, high = np.sort(rng.integers(0, CODE_SCALE + 1, 2))
        codes = np.concatenate(
            [two_groups(seed, 500, rng.random()), rng.integers(low, high + 1, 300).astype(np.uint8)]
        )
        histogram = count_codes(codes)
        np.testing.assert_array_equal(codes >= otsu_code(histogram), codes > threshold_otsu(codes))
        np.testing.assert_array_equal(codes >= isodata_code(histogram), codes > threshold_isodata(codes))


@given(CODES)
def test_otsu_and_isodata_equal_scikit_image_on_any_codes(codes: np.ndarray) -> None:
    histogram = count_codes(codes)
    np.testing.assert_array_equal(codes >= otsu_code(histogram), codes > threshold_otsu(codes))
    np.testing.assert_array_equal(codes >= isodata_code(histogram), codes > threshold_isodata(codes))


@given(hnp.arrays(np.uint8, (7, 9)), st.integers(0, 7))
def test_counts_of_chunks_add_up_to_those_of_the_whole(codes: np.ndarray, cut: int) -> None:
    codes[(codes > CODE_SCALE) & (codes != CODE_FILL)] = CODE_FILL
    whole = count_codes(codes)
    np.testing.assert_array_equal(whole, count_codes(codes[:cut]) + count_codes(codes[cut:]))
    assert whole.dtype == np.int64
    assert whole.shape == (CODE_SCALE + 1,)
    assert whole.sum() == np.count_nonzero(codes != CODE_FILL)


def test_every_threshold_of_two_decimals_is_exact() -> None:
    for hundredths in range(101):
        assert least_code(float(f"{hundredths / 100:.2f}")) == 2 * hundredths
        assert least_code(hundredths / 100) == 2 * hundredths


@given(st.floats(0, 1))
def test_least_code_is_the_least_at_or_above(threshold: float) -> None:
    code = least_code(threshold)
    # A code stands for the double nearest to code / 200, as it does when it is read as a number.
    assert code / CODE_SCALE >= threshold
    assert code == 0 or (code - 1) / CODE_SCALE < threshold
    assert Fraction(code - 1, CODE_SCALE) < Fraction(threshold) + Fraction(1, 2**53)


@pytest.mark.parametrize("rule", ["card", "otsu", "isodata", 0.56])
def test_choice_always_reports_both_automatic_thresholds(rule: str | float) -> None:
    codes = two_groups(1)
    choice = choose_threshold(rule, count_codes(codes), 0.5)
    assert choice.otsu is not None
    assert choice.isodata is not None
    assert choice.otsu.bimodal
    assert choice.otsu.share_above == pytest.approx((codes >= choice.otsu.code).mean())
    expected = {"card": 100, "otsu": choice.otsu.code, "isodata": choice.isodata.code, 0.56: 112}
    assert choice.code == expected[rule]
    assert choice.rule == (rule if isinstance(rule, str) else "fixed")
    assert choice == type(choice).model_validate_json(choice.model_dump_json())


def test_separation_is_the_share_of_variance_between_the_classes() -> None:
    codes = two_groups(2).astype(float)
    split = choose_threshold("otsu", count_codes(codes.astype(np.uint8)), 0.5).otsu
    assert split is not None
    above = codes >= split.code
    within = above.mean() * codes[above].var() + (1 - above.mean()) * codes[~above].var()
    assert split.separation == pytest.approx(1 - within / codes.var())


@pytest.mark.parametrize("share", [0.003, 0.03, 0.3, 0.9])
def test_two_groups_are_accepted_at_any_prevalence(share: float) -> None:
    histogram = count_codes(two_groups(3, 400_000, share))
    for rule in ("otsu", "isodata"):
        assert 0.1 < choose_threshold(rule, histogram, 0.5).value < 0.9


@pytest.mark.parametrize(
    "probability",
    [
        np.random.default_rng(0).beta(0.3, 8, 200_000),
        np.random.default_rng(0).exponential(0.08, 200_000).clip(0, 1),
        np.random.default_rng(0).random(200_000),
        np.random.default_rng(0).normal(0.5, 0.1, 200_000).clip(0, 1),
        np.append(np.zeros(200_000), np.linspace(0, 1, 2_000)),
        np.append(np.zeros(200_000), np.ones(20)),
    ],
    ids=["beta", "exponential", "uniform", "normal", "flat tail", "too few"],
)
@pytest.mark.parametrize("rule", ["otsu", "isodata"])
def test_automatic_rules_are_refused_where_nothing_slid(rule: str, probability: np.ndarray) -> None:
    histogram = count_codes(np.round(CODE_SCALE * probability).astype(np.uint8))
    with pytest.raises(UsageError, match=f"{rule} is refused.*two groups.*card's threshold"):
        choose_threshold(rule, histogram, 0.5)
    assert choose_threshold("card", histogram, 0.5).code == 100


@pytest.mark.parametrize("rule", ["otsu", "isodata"])
@pytest.mark.parametrize(("codes", "found"), [([], "no predicted pixel"), ([40, 40, 40], "the code 40 only")])
def test_automatic_rules_need_two_codes(rule: str, codes: list[int], found: str) -> None:
    histogram = count_codes(np.array(codes, dtype=np.uint8))
    with pytest.raises(UsageError, match=f"{rule} needs at least two.*{found}.*card's threshold"):
        choose_threshold(rule, histogram, 0.5)
    choice = choose_threshold("card", histogram, 0.5)
    assert (choice.otsu, choice.isodata) == (None, None)


def test_isodata_that_loses_a_class_in_rounding_is_reported_as_none() -> None:
    histogram = np.zeros(CODE_SCALE + 1, dtype=np.int64)
    histogram[[0, CODE_SCALE]] = 10**9, 1
    assert choose_threshold("card", histogram, 0.5).isodata is None
    with pytest.raises(UsageError, match="isodata finds no threshold"):
        choose_threshold("isodata", histogram, 0.5)


@pytest.mark.parametrize("rule", ["median", -0.01, 1.01, float("nan")])
def test_other_rules_are_refused(rule: str | float) -> None:
    with pytest.raises(UsageError, match=r"threshold is .*; expected card, otsu, isodata or a number"):
        choose_threshold(rule, count_codes(two_groups(4)), 0.5)
