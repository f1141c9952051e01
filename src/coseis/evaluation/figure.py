"""Pictures and the outcome of each pixel in, a PNG of what is true, false and missed out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch as Swatch

from coseis.canvas import png_of
from coseis.evaluation.outcomes import Outcome

UintArray = npt.NDArray[np.uint8]

COLOURS = {
    Outcome.TRUE: "#00c389",
    Outcome.FALSE: "#ff5a1f",
    Outcome.MISSED: "#2f7bff",
    Outcome.NOT_COUNTED: "#9a9a9a",
}
"""Told apart by colour-blind people too, and from forest, soil and water."""
OPACITY = 0.6
"""Of the colours, so that the ground is seen through them."""
WIDTH_IN = 12.0
DPI = 150
TITLE_IN = 0.25
MARGIN_IN = 0.45


@dataclass(frozen=True)
class Panel:
    """One patch or map as people see it, and what became of its pixels."""

    title: str
    rgb: UintArray
    """uint8 (y, x, 3)."""
    outcome: UintArray
    """uint8 (y, x), `Outcome` codes."""

    def __post_init__(self) -> None:
        if self.rgb.shape != (*self.outcome.shape, 3):
            raise ValueError(
                f"panel {self.title}: rgb has shape {self.rgb.shape}, the outcome {self.outcome.shape}"
            )


def draw_outcomes(panels: Sequence[Panel], *, title: str) -> bytes:
    """Draws panels in rows, each beside its plain picture, so that the eye can judge who is right.

    Args:
        panels: One or more.
        title: Over all of them.

    Returns:
        A PNG, 1800 px wide.
    """
    across = max(1, round(sqrt(len(panels) / 2)))
    rows = ceil(len(panels) / across)
    cell_in = (WIDTH_IN - 0.3) / (2 * across)
    height_in = cell_in * max(panel.rgb.shape[0] / panel.rgb.shape[1] for panel in panels) + TITLE_IN
    figure = Figure(figsize=(WIDTH_IN, rows * height_in + 2 * MARGIN_IN), dpi=DPI, facecolor="white")
    grid = figure.add_gridspec(
        rows, 2 * across,
        left=0.15 / WIDTH_IN, right=1 - 0.15 / WIDTH_IN,
        wspace=0.02, hspace=TITLE_IN / (height_in - TITLE_IN),
        bottom=MARGIN_IN / figure.get_figheight(),
        top=1 - (MARGIN_IN + TITLE_IN) / figure.get_figheight(),
    )  # fmt: skip
    for number, panel in enumerate(panels):
        row, column = divmod(number, across)
        plain, marked = (figure.add_subplot(grid[row, 2 * column + side]) for side in (0, 1))
        _show(plain, panel.rgb)
        _show(marked, _marked(panel))
        plain.set_title(panel.title, fontsize=7, loc="left", pad=2)
    figure.text(
        0.15 / WIDTH_IN, 1 - 0.3 / figure.get_figheight(), title, fontsize=11, weight="bold", va="center"
    )
    figure.legend(
        handles=[
            Swatch(facecolor=colour, label=code.name.lower().replace("_", " "))
            for code, colour in COLOURS.items()
        ],
        loc="lower left", bbox_to_anchor=(0.15 / WIDTH_IN, 0.12 / figure.get_figheight()), borderaxespad=0,
        ncols=len(COLOURS), frameon=False, fontsize=8,
    )  # fmt: skip
    return png_of(figure)


def _marked(panel: Panel) -> UintArray:
    """The picture with the colour of each pixel's outcome over it."""
    marked = panel.rgb.astype(np.float64)
    for code, colour in COLOURS.items():
        here = panel.outcome == code
        marked[here] = (1 - OPACITY) * marked[here] + OPACITY * 255 * np.array(to_rgb(colour))
    return np.rint(marked).astype(np.uint8)


def _show(axes: Axes, rgb: UintArray) -> None:
    axes.imshow(rgb, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
