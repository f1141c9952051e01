"""Rows and curves: a file holds each epoch once, whatever was killed; the picture shows what there is."""

import csv
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from coseis.training.curves import CURVES_NAME, SHOWN, draw_curves, write_rows

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)


def rows_of(epoch: int, values: tuple[float, ...]) -> list[dict[str, float]]:
    return [{"epoch": float(epoch), "loss": value} for value in values]


def read_rows(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_rows_read_back_as_they_were(tmp_path: Path) -> None:
    rows = rows_of(0, (0.1 + 0.2, 1e-300, float("inf")))
    write_rows(tmp_path / "batches.csv", rows)
    assert read_rows(tmp_path / "batches.csv") == rows


def test_a_later_epoch_follows_and_the_same_one_replaces(tmp_path: Path) -> None:
    path = tmp_path / "batches.csv"
    first, second, again = rows_of(0, (1, 2)), rows_of(1, (3, 4)), rows_of(1, (3, 5))
    for rows in (first, second, rows_of(2, (9,)), again):
        write_rows(path, rows)
    assert read_rows(path) == [*first, *again]
    write_rows(path, rows_of(0, (7,)))
    assert read_rows(path) == rows_of(0, (7,))
    assert [found.name for found in tmp_path.iterdir()] == ["batches.csv"]


@pytest.mark.parametrize("prefixes", [("",), ("", "val_")])
@pytest.mark.parametrize("epochs", [1, 12])
def test_curves_are_drawn(tmp_path: Path, prefixes: tuple[str, ...], epochs: int) -> None:
    history = [
        {"epoch": float(epoch)}
        | {
            prefix + name: 0.9 - 0.8 / (epoch + 1) + 0.05 * len(prefix) / 4
            for prefix in prefixes
            for name in SHOWN
        }
        for epoch in range(epochs)
    ]
    path = draw_curves(history, tmp_path, kept_epoch=epochs // 2)
    assert path == tmp_path / CURVES_NAME
    picture = matplotlib.image.imread(path)
    assert picture.shape == (360, 1920, 4)
    # Lines of each part in their colours, blue and orange.
    drawn = [(np.rint(picture[..., :3] * 255) == colour).all(axis=-1).any() for colour in (BLUE, ORANGE)]
    assert drawn == [True, "val_" in prefixes]
