"""Rivals on the same patches: a bootstrap that equals one done by hand, and sums by stratum."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coseis.errors import UsageError
from coseis.evaluation import Scores, paired_bootstrap, sum_strata

F1: Callable[[Scores], float | None] = lambda scores: scores.f1  # noqa: E731


def rivals(seed: int, patches: int = 12) -> tuple[list[Scores], list[Scores]]:
    """The second misses more of what is there."""
    random = np.random.default_rng(seed)
    ours, theirs = [], []
    for _ in range(patches):
        landslide, alarms = (int(n) for n in random.integers(50, 500, 2))
        for rival, share in ((ours, 0.85), (theirs, 0.7)):
            tp = int(random.binomial(landslide, share))
            rival.append(Scores(tp=tp, fn=landslide - tp, fp=alarms // 4, tn=5000))
    return ours, theirs


@given(seed=st.integers(0, 99))
def test_resamples_are_sums_over_the_same_patches(seed: int) -> None:
    ours, theirs = rivals(seed, patches=4)
    drawn = np.random.default_rng(seed).multinomial(4, [0.25] * 4, size=20)
    differences = []
    for times in drawn:
        f1 = []
        for rival in (ours, theirs):
            repeated = [scores for scores, count in zip(rival, times, strict=True) for _ in range(count)]
            f1.append(sum(repeated, Scores()).f1 or 0)
        differences.append(f1[0] - f1[1])
    found = paired_bootstrap(ours, theirs, F1, resamples=20, confidence=0.8, seed=seed)
    assert (found.low, found.high) == pytest.approx(np.quantile(differences, (0.1, 0.9)))
    assert found.share_above == np.mean(np.array(differences) > 0)


def test_the_better_rival_is_better_and_the_order_matters_not() -> None:
    ours, theirs = rivals(0)
    found = paired_bootstrap(ours, theirs, F1)
    assert 0 < found.low < found.value < found.high
    swapped = paired_bootstrap(theirs, ours, F1)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))
    assert paired_bootstrap(ours, ours, F1).high == 0
    assert found == paired_bootstrap(ours, theirs, F1)


def test_resamples_without_a_score_are_left_out() -> None:
    nothing, something = Scores(tn=9), Scores(tp=1, tn=8)
    found = paired_bootstrap([nothing, something], [nothing, something], F1, resamples=200)
    assert 100 < found.resamples < 200
    with pytest.raises(UsageError, match="not defined on these patches"):
        paired_bootstrap([nothing], [nothing], F1)


def test_other_patches_are_refused() -> None:
    with pytest.raises(UsageError, match="2 patches of one rival, 1 of the other"):
        paired_bootstrap([Scores()] * 2, [Scores()], F1)


def test_strata_are_sums_of_their_patches() -> None:
    counts = {"a": Scores(tp=1), "b": Scores(fp=2), "c": Scores(tp=4)}
    assert sum_strata(counts, {"dense": ["a", "c"], "small": ["b"]}) == {
        "dense": Scores(tp=5),
        "small": Scores(fp=2),
    }
    with pytest.raises(UsageError, match="stratum dense names d; known are a, b, c"):
        sum_strata(counts, {"dense": ["a", "d"]})
    with pytest.raises(UsageError, match="stratum dense names no patch"):
        sum_strata(counts, {"dense": []})
