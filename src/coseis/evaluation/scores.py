"""A predicted mask and labels in, counts of right and wrong pixels and the scores from them out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt

from coseis.errors import UsageError
from coseis.evaluation.additive import Additive, harmonic_mean, ratio
from coseis.types import Value

BoolArray = npt.NDArray[np.bool_]


class Scores(Additive):
    """Counts of pixels, which add up over chunks in any order, and the scores that they give.

    A score whose denominator is 0 is None: without a predicted pixel there is no precision.
    """

    tp: NonNegativeInt = 0
    """Landslide, and predicted so."""
    fp: NonNegativeInt = 0
    """Predicted, but no landslide."""
    fn: NonNegativeInt = 0
    """Landslide, but not predicted."""
    tn: NonNegativeInt = 0
    """Neither."""

    @property
    def pixels(self) -> int:
        """All that were counted."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def precision(self) -> float | None:
        """Share of the predicted pixels that are landslide."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """Share of the landslide pixels that were predicted."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; 0 if landslides and predictions never meet."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float | None:
        """Intersection over union of prediction and truth."""
        return ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def accuracy(self) -> float | None:
        """Share of the pixels that are right; high wherever landslides are rare."""
        return ratio(self.tp + self.tn, self.pixels)

    @property
    def area_ratio(self) -> float | None:
        """Predicted area over the labels' area."""
        return ratio(self.tp + self.fp, self.tp + self.fn)

    @property
    def prevalence(self) -> float | None:
        """Share of landslide pixels in the truth. F1 depends on it: compare only where it is alike."""
        return ratio(self.tp + self.fn, self.pixels)

    def summary(self) -> dict[str, float | None]:
        """Counts and scores by name, for a report."""
        names = ("tp", "fp", "fn", "tn", "precision", "recall", "f1", "iou", "accuracy", "area_ratio")
        return {name: getattr(self, name) for name in (*names, "prevalence")}


class RestatedScores(Value):
    """What the same rates would give where landslides are more or less common."""

    prevalence: float
    """The share of landslide pixels that the scores are stated for."""
    precision: float | None
    f1: float | None
    accuracy: float | None


def restate_scores(scores: Scores, prevalence: float = 0.05) -> RestatedScores:
    """Scores at another share of landslides, the rates of hits and false alarms being kept.

    Labelled patches are drawn towards landslides; a region is not. Recall stays as it is. The background
    is taken to be of the same kind, which flatters: most of a region is easier, some of it is other.

    Args:
        scores: As counted.
        prevalence: Share of landslide pixels to state them for, in (0, 1).

    Raises:
        UsageError: The prevalence is no share between 0 and 1.
    """
    check_prevalence(prevalence)
    hit_rate, alarm_rate = scores.recall, ratio(scores.fp, scores.fp + scores.tn)
    if hit_rate is None or alarm_rate is None:
        return RestatedScores(prevalence=prevalence, precision=None, f1=None, accuracy=None)
    hits, alarms = prevalence * hit_rate, (1 - prevalence) * alarm_rate
    precision = ratio(hits, hits + alarms)
    return RestatedScores(
        prevalence=prevalence,
        precision=precision,
        f1=harmonic_mean(precision, hit_rate),
        accuracy=hits + (1 - prevalence) - alarms,
    )


def check_prevalence(prevalence: float) -> None:
    """Refuses what is no share of landslides that also leaves background.

    Raises:
        UsageError: It is not between 0 and 1.
    """
    if not 0 < prevalence < 1:
        raise UsageError(f"prevalence is {prevalence}; expected a share between 0 and 1, such as 0.05")


def score(predicted: BoolArray, truth: BoolArray, observed: BoolArray | None = None) -> Scores:
    """Compares two masks pixel by pixel.

    Args:
        predicted: bool (y, x).
        truth: bool (y, x).
        observed: bool (y, x), pixels that count; None: all of them.

    Returns:
        Counts of pixels, and the scores that they give as properties: `precision`, `recall`, `f1`, `iou`.

    Raises:
        ValueError: The shapes differ.
    """
    for name, mask in (("truth", truth), ("observed", observed)):
        if mask is not None and mask.shape != predicted.shape:
            raise ValueError(
                f"predicted has shape {predicted.shape}, {name} {mask.shape}; expected the same grid"
            )
    counted = np.ones(predicted.shape, dtype=bool) if observed is None else observed
    hit = predicted & truth & counted
    tp = np.count_nonzero(hit)
    fp = np.count_nonzero(predicted & counted) - tp
    fn = np.count_nonzero(truth & counted) - tp
    return Scores(tp=tp, fp=fp, fn=fn, tn=np.count_nonzero(counted) - tp - fp - fn)
