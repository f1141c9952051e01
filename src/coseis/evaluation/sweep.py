"""Counts by code in, scores at many thresholds and at those of the automatic rules out."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from coseis.evaluation.counts import CodeCounts
from coseis.threshold import Split, choose_threshold
from coseis.types import Value

SWEEP_THRESHOLDS = (*(n / 10 for n in range(1, 10)), *(n / 100 for n in range(51, 60)))
"""The thresholds that the paper compares (doi:10.3390/rs12233992): coarse, then around its own 0.56."""


class ThresholdRow(Value):
    """Scores at one threshold; None where a score has no denominator."""

    rule: str
    """Where the threshold comes from."""
    threshold: float | None
    """None: the rule found none, and the row holds no scores."""
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    iou: float | None = None
    accuracy: float | None = None
    area_ratio: float | None = None
    false_alarms_per_km2: float | None = None
    """Further than 3 px from any label, px per km2 of such ground."""
    remark: str = ""
    """Why the threshold is not to be trusted."""


def sweep_thresholds(
    counts: CodeCounts, thresholds: Iterable[float] = SWEEP_THRESHOLDS, *, pixel_m2: float
) -> tuple[ThresholdRow, ...]:
    """A row a threshold, in rising order."""
    return tuple(_row(counts, "sweep", threshold, pixel_m2=pixel_m2) for threshold in sorted(set(thresholds)))


def compare_rules(counts: CodeCounts, threshold: float, *, pixel_m2: float) -> tuple[ThresholdRow, ...]:
    """The threshold in use beside the best for these labels, Otsu's and isodata's.

    The automatic rules see the probabilities of the labelled pixels only. They always split, also where
    nothing slid; where `coseis.threshold` would refuse them, the row says so.
    """
    automatic = choose_threshold(threshold, counts.by_truth.sum(axis=0), threshold)
    return (
        _row(counts, "in use", threshold, pixel_m2=pixel_m2),
        _row(
            counts, "best F1", counts.best_threshold, pixel_m2=pixel_m2, remark="chosen on what it scores on"
        ),
        _row_of_split(counts, "otsu", automatic.otsu, pixel_m2),
        _row_of_split(counts, "isodata", automatic.isodata, pixel_m2),
    )


def write_sweep(rows: Sequence[ThresholdRow], path: str | Path) -> None:
    """Writes rows as CSV, a column a field; a score without denominator is an empty cell."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(ThresholdRow.model_fields))
        writer.writeheader()
        writer.writerows(row.model_dump() for row in rows)


def _row_of_split(counts: CodeCounts, rule: str, split: Split | None, pixel_m2: float) -> ThresholdRow:
    if split is None:
        return ThresholdRow(rule=rule, threshold=None, remark="all probabilities are alike")
    remark = "" if split.bimodal else "refused: the probabilities are not in two groups"
    return _row(counts, rule, split.value, pixel_m2=pixel_m2, remark=remark)


def _row(
    counts: CodeCounts, rule: str, threshold: float | None, *, pixel_m2: float, remark: str = ""
) -> ThresholdRow:
    if threshold is None:
        return ThresholdRow(rule=rule, threshold=None, remark="no landslide is labelled or predicted")
    scores = counts.scores(threshold)
    values: dict[str, Any] = {
        name: getattr(scores, name) for name in ("precision", "recall", "f1", "iou", "accuracy", "area_ratio")
    }
    false_alarms = counts.false_alarms_per_km2(threshold, pixel_m2=pixel_m2)
    return ThresholdRow(
        rule=rule, threshold=threshold, false_alarms_per_km2=false_alarms, remark=remark, **values
    )
