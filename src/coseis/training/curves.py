"""The rows of a training in, CSV files and the picture of its curves out (the paper's figures 8 and 9)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

HISTORY_NAME = "history.csv"
"""A row an epoch."""
BATCHES_NAME = "batches.csv"
"""A row a batch."""
CURVES_NAME = "curves.png"
SHOWN = ("loss", "accuracy", "precision", "recall", "f1")


def write_rows(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Writes rows of equal keys as CSV, after those of earlier epochs that the file holds.

    Rows of the same epoch or of later ones are replaced: a training that was killed left them.
    """
    earlier = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            earlier = [row for row in csv.DictReader(file) if float(row["epoch"]) < rows[0]["epoch"]]
    unfinished = path.with_name(f"{path.name}.new")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows([*earlier, *rows])
    unfinished.replace(path)


def draw_curves(history: Sequence[Mapping[str, float]], folder: Path, *, kept_epoch: int) -> Path:
    """Draws loss and scores over the epochs, training and validation, with the epoch that was kept.

    Args:
        history: Rows of history.csv.
        folder: Where curves.png is written.
        kept_epoch: Marked by a line.
    """
    figure = Figure(figsize=(3.2 * len(SHOWN), 3), layout="constrained")
    epochs = [row["epoch"] + 1 for row in history]
    for axes, name in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        for prefix, part in (("", "training"), ("val_", "validation")):
            if prefix + name in history[0]:
                axes.plot(epochs, [row[prefix + name] for row in history], ".-", label=part)
        axes.axvline(kept_epoch + 1, color="0.7", linewidth=1, zorder=0, label="kept")
        axes.set(title=name, xlabel="epoch", ylim=(0, None if name == "loss" else 1))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    axes.legend()
    path = folder / CURVES_NAME
    figure.savefig(path, dpi=120)
    return path
