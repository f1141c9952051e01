"""Thresholds compared: the paper's rows, the automatic rules beside the best, and the file."""

import csv

import numpy as np
import pytest

from coseis.evaluation import CodeCounts, compare_rules, count_pixels, sweep_thresholds, write_sweep
from coseis.types import CODE_SCALE


def two_groups() -> CodeCounts:
    """Background around 0.1, landslides around 0.9, a tenth of each on the other side."""
    random = np.random.default_rng(0)
    truth = (random.random((200, 200)) < 0.3).astype(np.uint8)
    wrong = random.random(truth.shape) < 0.1
    probability = np.where((truth == 1) ^ wrong, 0.9, 0.1) + random.normal(0, 0.02, truth.shape)
    return count_pixels(np.rint(CODE_SCALE * probability).astype(np.uint8), truth)


def test_sweep_is_the_papers():
    rows = sweep_thresholds(two_groups(), pixel_m2=9)
    assert [row.threshold for row in rows] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, *np.arange(0.51, 0.595, 0.01), 0.6, 0.7, 0.8, 0.9]
    )
    recall = [row.recall for row in rows]
    assert recall == sorted(recall, reverse=True)
    assert rows[4].f1 == two_groups().scores(0.5).f1


def test_rules_stand_beside_each_other():
    counts = two_groups()
    rows = {row.rule: row for row in compare_rules(counts, 0.95, pixel_m2=9)}
    assert rows["in use"].threshold == 0.95
    assert rows["best F1"].f1 == max(counts.scores(n / 100).f1 for n in range(1, 101))
    assert 0.12 < rows["otsu"].threshold < 0.88
    assert 0.12 < rows["isodata"].threshold < 0.88
    assert not rows["otsu"].remark


def test_a_rule_that_is_not_to_be_trusted_says_so():
    random = np.random.default_rng(0)
    codes = np.minimum(random.exponential(8, (100, 100)), 200).astype(np.uint8)
    rows = {row.rule: row for row in compare_rules(count_pixels(codes, codes * 0), 0.5, pixel_m2=9)}
    assert "not in two groups" in rows["otsu"].remark
    assert rows["in use"].f1 is None
    rows = {row.rule: row for row in compare_rules(CodeCounts(), 0.5, pixel_m2=9)}
    assert rows["otsu"].threshold is rows["isodata"].threshold is rows["best F1"].threshold is None


def test_file_has_a_column_a_field(tmp_path):
    rows = compare_rules(CodeCounts(), 0.5, pixel_m2=9)
    write_sweep(rows, tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["rule"] for row in written] == ["in use", "best F1", "otsu", "isodata"]
    assert written[0]["threshold"] == "0.5"
    assert written[0]["f1"] == ""
