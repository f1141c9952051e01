"""Laws of size: scipy as oracle, known laws found again, intervals that hold them as often as they say."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from scipy.special import gammainc, gammaln

from coseis.errors import UsageError
from coseis.statistics.areas import AreaSample, Interval, take_areas
from coseis.statistics.fit import fit_size_law, likeliest_law, sample_laws
from coseis.statistics.goodness import check_fit, distance_to
from coseis.statistics.rivals import compare_lognormal, fit_lognormal, fit_power_tail
from coseis.statistics.size_law import MALAMUD, SizeLaw, log_lower_gamma

IBURI = SizeLaw(rho=1.46, a_m2=12_700.0, s_m2=-160.0)
"""Rollover near 5,000 m2 and a density tail of 2.46, as Kasai and Yamada (2019) report of Iburi."""


def drawn(law: SizeLaw, count: int, seed: int, least_m2: float) -> AreaSample:
    areas = law.draw(np.random.default_rng(seed), count, least_m2=least_m2)
    return take_areas(areas, completeness_m2=least_m2)


def binomial_low(trials: int, share: float) -> int:
    """Least successes that are seen in all but one of a million repetitions."""
    return int(stats.binom.ppf(1e-6, trials, share))


def test_malamuds_law_is_the_published_one() -> None:
    assert MALAMUD.tail_exponent == pytest.approx(2.40)
    assert MALAMUD.rollover_m2 == pytest.approx(400, rel=0.01)
    assert MALAMUD.mean_m2 == pytest.approx(3070, rel=0.01)


@given(
    rho=st.floats(0.3, 8), a_m2=st.floats(50, 50_000), s_m2=st.floats(-2000, 200), area=st.floats(201, 1e8)
)
def test_densities_are_scipys(rho: float, a_m2: float, s_m2: float, area: float) -> None:
    law, oracle = SizeLaw(rho=rho, a_m2=a_m2, s_m2=s_m2), stats.invgamma(rho, loc=s_m2, scale=a_m2)
    areas = np.array([area])
    assert law.log_density(areas) == pytest.approx(oracle.logpdf(areas), rel=1e-9, abs=1e-9)
    assert law.survival(areas) == pytest.approx(oracle.sf(areas), rel=1e-6)


def test_survival_goes_on_where_scipys_underflows() -> None:
    law = SizeLaw(rho=30, a_m2=1.0, s_m2=0.0)
    far = np.array([1e12, 1e13])
    assert np.diff(law.log_survival(far)) == pytest.approx(-30 * np.log(10), rel=1e-9)
    assert law.log_density(np.array([-1.0, 0.0])).tolist() == [-np.inf, -np.inf]
    assert law.survival(np.array([-1.0, 0.0])).tolist() == [1, 1]


@settings(max_examples=200)
@given(rho=st.floats(0.05, 2000), log_z=st.floats(-40, 12))
def test_the_incomplete_gamma_function_never_underflows(rho: float, log_z: float) -> None:
    z = np.exp(log_z)
    found = float(log_lower_gamma(rho, np.array([z]))[0])
    if rho < 2 or z > rho - 2:
        assert found == pytest.approx(np.log(gammainc(rho, z)), rel=1e-9, abs=1e-300)
        return
    # With t = z u the integrand has its greatest value, 1, at u = 1.
    near = 1 - min(0.5, 20 / (rho - 1 - z))
    parts = [
        quad(lambda u: np.exp((rho - 1) * np.log(u) + z * (1 - u)), *ends, epsabs=0, limit=500)[0]
        for ends in ((0, near), (near, 1))
    ]
    assert found == pytest.approx(rho * log_z - gammaln(rho) - z + np.log(sum(parts)), rel=1e-6, abs=1e-9)


@given(seed=st.integers(0, 999), least_m2=st.sampled_from([-500.0, 0.0, 100.0, 5000.0]))
def test_draws_follow_the_law(seed: int, least_m2: float) -> None:
    areas = MALAMUD.draw(np.random.default_rng(seed), 400, least_m2=least_m2)
    assert areas.min() >= least_m2
    whole = MALAMUD.survival(np.array(least_m2))
    p_value = stats.kstest(MALAMUD.survival(areas) / whole, "uniform").pvalue
    assert p_value > 1e-6


@pytest.mark.parametrize(("law", "least_m2"), [(MALAMUD, 100), (MALAMUD, 900), (IBURI, 400)])
def test_a_known_law_is_found_again(law: SizeLaw, least_m2: float) -> None:
    fit = fit_size_law(drawn(law, 9000, 1, least_m2))
    assert fit.tail_exponent.low < law.tail_exponent < fit.tail_exponent.high
    assert fit.tail_exponent.high - fit.tail_exponent.low < 0.25
    assert fit.rollover_m2.high > law.rollover_m2
    assert fit.rollover_is_seen == (least_m2 < law.rollover_m2)
    if fit.rollover_is_seen:
        assert fit.rollover_m2.low < law.rollover_m2
        assert fit.law.rollover_m2 == pytest.approx(law.rollover_m2, rel=0.1)


def test_a_likelihood_is_the_product_of_densities_and_has_its_peak_there() -> None:
    sample = drawn(MALAMUD, 400, 3, 300)
    law, log_likelihood = likeliest_law(sample)

    def by_hand(law: SizeLaw) -> float:
        whole = quad(lambda area: np.exp(law.log_density(area)), 300, np.inf, limit=500)[0]
        return float(law.log_density(sample.whole_m2).sum() - 400 * np.log(whole))

    assert log_likelihood == pytest.approx(by_hand(law), abs=0.01)
    for change in ({"rho": law.rho * 1.05}, {"a_m2": law.a_m2 * 1.05}, {"s_m2": law.s_m2 - 20}):
        assert by_hand(law.model_copy(update=change)) < log_likelihood


@settings(max_examples=10)
@given(seed=st.integers(0, 99), unit=st.floats(1e-6, 1e6))
def test_the_unit_of_area_does_not_matter(seed: int, unit: float) -> None:
    sample = drawn(MALAMUD, 120, seed, 200)
    scaled = AreaSample(200 * unit, sample.whole_m2 * unit)
    (law, log), (other, other_log) = likeliest_law(sample), likeliest_law(scaled)
    assert other_log == pytest.approx(log - 120 * np.log(unit), abs=1e-4)
    assert other.rho == pytest.approx(law.rho, rel=1e-2)


@pytest.mark.parametrize("law", [MALAMUD, pytest.param(IBURI, marks=pytest.mark.slow)])
def test_intervals_hold_the_truth_as_often_as_they_say(law: SizeLaw) -> None:
    """Intervals that hold everything would pass for sure ones; half as sure must hold it less often."""
    samples = [drawn(law, 500, seed, 0.3 * law.rollover_m2) for seed in range(24)]
    for confidence, most in ((0.95, 24), (0.5, 24 - binomial_low(24, 0.5))):
        fits = [fit_size_law(sample, confidence=confidence) for sample in samples]
        for name, truth in (("tail_exponent", law.tail_exponent), ("rollover_m2", law.rollover_m2)):
            held = sum(holds(getattr(fit, name), truth) for fit in fits)
            assert binomial_low(24, confidence) <= held <= most


def holds(interval: Interval, truth: float) -> bool:
    return (interval.low or 0) <= truth <= (interval.high or np.inf)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "least", "trials"), [(300, 0.3, 100), (1000, 0.3, 50), (1000, 1.5, 40)])
def test_coverage_over_many_inventories(count: int, least: float, trials: int) -> None:
    least_m2 = least * MALAMUD.rollover_m2
    fits = [fit_size_law(drawn(MALAMUD, count, seed, least_m2)) for seed in range(trials)]
    for name, truth in (("tail_exponent", 2.40), ("rollover_m2", MALAMUD.rollover_m2)):
        held = sum(holds(getattr(fit, name), truth) for fit in fits)
        low, high = stats.binom.ppf([1e-4, 1 - 1e-4], trials, 0.95)
        assert held >= low
        if name == "tail_exponent":
            assert held <= high


def test_below_the_completeness_area_nothing_is_said_of_the_rollover() -> None:
    fit = fit_size_law(drawn(MALAMUD, 2000, 5, 4000))
    assert fit.rollover_m2.low is None
    assert not fit.rollover_is_seen
    assert fit.tail_exponent.low < 2.40 < fit.tail_exponent.high


def ellipses_in_a_square(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Areas as seen, and which are cut, of ellipses strewn over a square's border: 12 % are cut."""
    random = np.random.default_rng(seed)
    areas = np.minimum(WIDE.draw(random, 3000, least_m2=300), 2e6)
    angle = np.linspace(0, 2 * np.pi, 33)[:-1]
    ring = np.stack([np.sqrt(2) * np.cos(angle), np.sin(angle) / np.sqrt(2)], axis=1)
    ring /= np.sqrt(shapely.polygons(ring).area)
    outlines = shapely.polygons(
        random.uniform(-2000, 6000, (3000, 1, 2)) + np.sqrt(areas)[:, None, None] * ring
    )
    seen = shapely.area(shapely.intersection(outlines, shapely.box(0, 0, 4000, 4000)))
    return seen[seen > 0], (seen < areas * (1 - 1e-9))[seen > 0]


WIDE = SizeLaw(rho=1.4, a_m2=12_800.0, s_m2=-1320.0)


def test_cut_landslides_bias_no_law() -> None:
    """Docs/decisions/0020: weighting is within its own error of the truth, other rules are not."""
    found = {rule: [] for rule in ("weighted", "at least", "whole")}
    for seed in range(16):
        areas, cut = ellipses_in_a_square(seed)
        for rule in found:
            sample = take_areas(areas, is_cut=cut, completeness_m2=1000, rule=rule)
            law, _ = likeliest_law(sample)
            found[rule].append((law.tail_exponent, law.rollover_m2))
    means = {rule: np.mean(laws, axis=0) for rule, laws in found.items()}
    errors = {rule: np.std(laws, axis=0) / 4 for rule, laws in found.items()}
    off = {rule: (means[rule] - (WIDE.tail_exponent, WIDE.rollover_m2)) / errors[rule] for rule in found}
    assert np.abs(off["weighted"]).max() < 3
    assert off["at least"][0] < -4
    assert off["whole"][1] < -3


def test_landslides_that_may_be_larger_are_not_taken_as_so_large() -> None:
    """Cut at a place that has nothing to do with their size, they are what censoring is made for."""
    random = np.random.default_rng(2)
    areas, limits = MALAMUD.draw(random, 4000, least_m2=200), MALAMUD.draw(random, 4000, least_m2=200)
    seen, cut = np.minimum(areas, limits), limits < areas
    fit = fit_size_law(take_areas(seen, is_cut=cut, completeness_m2=200, rule="at least"))
    assert fit.tail_exponent.low < 2.40 < fit.tail_exponent.high
    naive = fit_size_law(take_areas(seen, completeness_m2=200))
    assert naive.tail_exponent.low > 2.40


def test_weights_are_one_where_nothing_is_cut() -> None:
    areas = np.array([100.0, 400.0, 900.0, 1600.0])
    assert take_areas(areas).weight.tolist() == [1, 1, 1, 1]
    weighted = take_areas(areas, is_cut=[False, False, True, False]).weight
    assert np.all(np.diff(weighted) > 0)
    assert 2.5 < weighted.sum() < 3


@settings(max_examples=10)
@given(seed=st.integers(0, 99))
def test_order_of_landslides_changes_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    areas, cut = MALAMUD.draw(random, 80, least_m2=100), random.random(80) < 0.1
    order = random.permutation(80)
    one, other = take_areas(areas, is_cut=cut), take_areas(areas[order], is_cut=cut[order])
    np.testing.assert_array_equal(one.whole_m2, other.whole_m2)
    assert likeliest_law(one) == likeliest_law(other)


def test_goodness_keeps_its_own_law_and_refuses_another() -> None:
    own = check_fit(drawn(MALAMUD, 400, 8, 100), simulated=40)
    assert own.p_value > 0.05
    random = np.random.default_rng(9)
    two_kinds = np.concatenate([random.normal(1000, 30, 200), random.normal(20_000, 500, 200)])
    other = check_fit(take_areas(two_kinds), simulated=40)
    assert other.p_value == 1 / 41
    assert other.distance > 3 * own.distance
    assert own == check_fit(drawn(MALAMUD, 400, 8, 100), simulated=40)


@pytest.mark.slow
def test_goodness_is_uniform_under_its_own_law() -> None:
    """The fit is part of the test: without it small p-values would be rarer than they say."""
    p_values = [
        check_fit(drawn(MALAMUD, 100, seed, 100), simulated=19, seed=seed).p_value for seed in range(40)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4


def test_the_distance_is_scipys() -> None:
    sample = drawn(MALAMUD, 300, 4, 500)
    whole = MALAMUD.survival(np.array(500.0))
    oracle = stats.kstest(sample.whole_m2, lambda area: 1 - MALAMUD.survival(area) / whole).statistic
    assert distance_to(sample, MALAMUD) == pytest.approx(oracle, rel=1e-9)


def test_the_likelier_of_two_laws_is_named() -> None:
    gamma = drawn(MALAMUD, 4000, 6, 50)
    ratio = compare_lognormal(gamma, likeliest_law(gamma)[0])
    assert ratio.better == "inverse gamma"
    assert ratio.log_ratio > 20
    random = np.random.default_rng(7)
    normal = take_areas(np.exp(random.normal(8, 1, 4000)), completeness_m2=50)
    ratio = compare_lognormal(normal, likeliest_law(normal)[0])
    assert ratio.better == "lognormal"
    assert (ratio.lognormal.mu, ratio.lognormal.sigma) == pytest.approx((8, 1), abs=0.06)
    few = drawn(MALAMUD, 60, 7, 400)
    assert compare_lognormal(few, likeliest_law(few)[0]).better == "neither"


def test_a_lognormal_that_is_not_cut_off_has_the_moments_of_its_logarithms() -> None:
    areas = np.exp(np.random.default_rng(1).normal(7, 0.8, 500))
    law = fit_lognormal(take_areas(areas, completeness_m2=0))
    assert (law.mu, law.sigma) == pytest.approx((np.log(areas).mean(), np.log(areas).std()), rel=1e-4)


def test_the_tail_alone_says_the_same() -> None:
    random = np.random.default_rng(3)
    pareto = 5000 * random.random(3000) ** (-1 / 1.4)
    body = random.uniform(200, 5000, 2000)
    tail = fit_power_tail(take_areas(np.concatenate([pareto, body])))
    assert tail.exponent.value == pytest.approx(2.4, abs=0.1)
    assert tail.exponent.high - tail.exponent.low == pytest.approx(4 * 1.4 / np.sqrt(tail.count), rel=0.1)
    assert 3000 < tail.least_m2 < 9000
    assert tail.count == (np.concatenate([pareto, body]) >= tail.least_m2).sum()
    assert fit_power_tail(take_areas(pareto[:30])) is None


def test_laws_of_a_band_spread_as_intervals_do() -> None:
    sample = drawn(MALAMUD, 3000, 2, 100)
    fit = fit_size_law(sample)
    tails = [law.tail_exponent for law in sample_laws(sample, fit.law, 2000)]
    assert np.quantile(tails, [0.025, 0.975]) == pytest.approx(
        [fit.tail_exponent.low, fit.tail_exponent.high], abs=0.03
    )


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(UsageError, match=r"49 whole landslides of 100 m2 or more.*it takes 50"):
        fit_size_law(drawn(MALAMUD, 49, 0, 100))
    with pytest.raises(UsageError, match=r"of 1 sizes"):
        fit_size_law(take_areas(np.full(100, 900.0)))
    with pytest.raises(UsageError, match=r"must be above 0 m2"):
        take_areas([100.0, 0.0])
    with pytest.raises(UsageError, match=r"completeness area is -1"):
        take_areas([100.0], completeness_m2=-1)
    with pytest.raises(UsageError, match=r"one of each a landslide"):
        take_areas([100.0], is_cut=[True, False])
    with pytest.raises(UsageError, match=r"0 simulated inventories"):
        check_fit(drawn(MALAMUD, 60, 0, 100), simulated=0)
    assert take_areas([]).count == 0
