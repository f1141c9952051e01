"""Scores of masks: hand-made maps, sums, and the same rates at another prevalence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from coseis.errors import UsageError
from coseis.evaluation import Scores, restate_scores, score

SHAPE = (60, 80)


def masks(seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    random = np.random.default_rng(seed)
    predicted, truth, observed = random.random((3, *SHAPE)) < random.random((3, 1, 1))
    return predicted, truth, observed


def test_scores_of_a_hand_made_map() -> None:
    predicted = np.array([[1, 1, 0], [0, 1, 0]], dtype=bool)
    truth = np.array([[1, 0, 0], [1, 1, 1]], dtype=bool)
    scores = score(predicted, truth, observed=np.array([[1, 1, 1], [1, 1, 0]], dtype=bool))
    assert scores == Scores(tp=2, fp=1, fn=1, tn=1)
    assert scores.precision == scores.recall == scores.f1 == pytest.approx(2 / 3)
    assert scores.iou == 0.5
    assert scores.accuracy == scores.prevalence == 0.6
    assert scores.area_ratio == 1
    assert Scores.model_validate_json(scores.model_dump_json()) == scores


@given(seed=st.integers(0, 999))
def test_every_pixel_is_counted_once(seed: int) -> None:
    predicted, truth, observed = masks(seed)
    scores = score(predicted, truth, observed)
    assert scores.pixels == observed.sum()
    assert scores.tp + scores.fn == (truth & observed).sum()
    assert scores.tp + scores.fp == (predicted & observed).sum()


@given(seed=st.integers(0, 99), y=st.integers(0, 60), x=st.integers(0, 80))
def test_blocks_add_up_to_the_whole(seed: int, y: int, x: int) -> None:
    arrays = masks(seed)
    blocks = [(rows, columns) for rows in (np.s_[:y], np.s_[y:]) for columns in (np.s_[:x], np.s_[x:])]
    parts = [score(*(array[block] for array in arrays)) for block in blocks]
    assert sum(parts, Scores()) == score(*arrays)


def test_a_score_without_denominator_is_none() -> None:
    nothing = np.zeros((2, 2), dtype=bool)
    assert score(nothing, nothing).summary() == {
        "tp": 0, "fp": 0, "fn": 0, "tn": 4, "accuracy": 1.0, "prevalence": 0.0,
        "precision": None, "recall": None, "f1": None, "iou": None, "area_ratio": None,
    }  # fmt: skip
    assert Scores().prevalence is None
    assert score(~nothing, nothing).f1 == 0
    assert restate_scores(Scores(tn=4)).f1 is None


def test_masks_of_other_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="truth"):
        score(np.zeros((2, 2), bool), np.zeros((2, 3), bool))


@given(
    tp=st.integers(1, 99), fp=st.integers(0, 99), fn=st.integers(0, 99), tn=st.integers(1, 99),
    more=st.integers(1, 20),
)  # fmt: skip
def test_restated_scores_are_those_of_repeated_background(
    tp: int, fp: int, fn: int, tn: int, more: int
) -> None:
    scores = Scores(tp=tp, fp=fp, fn=fn, tn=tn)
    repeated = Scores(tp=tp, fp=more * fp, fn=fn, tn=more * tn)
    restated = restate_scores(scores, repeated.prevalence)
    assert restated.precision == pytest.approx(repeated.precision)
    assert restated.f1 == pytest.approx(repeated.f1)
    assert restated.accuracy == pytest.approx(repeated.accuracy)


@pytest.mark.parametrize("prevalence", [0, 1, 5])
def test_what_is_no_prevalence_is_refused(prevalence: float) -> None:
    with pytest.raises(UsageError, match=f"prevalence is {prevalence}; expected a share between 0 and 1"):
        restate_scores(Scores(tp=1), prevalence)
