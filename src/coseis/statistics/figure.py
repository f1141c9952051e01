"""Areas and their laws in, a PNG of the area-frequency distribution out."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coseis.canvas import png_of
from coseis.statistics.areas import AreaSample, FloatArray
from coseis.statistics.fit import SizeFit, sample_laws
from coseis.statistics.size_law import MALAMUD, SizeLaw

COLOURS = ("#c8401a", "#1f5fbf", "#5d8a00", "#7a4fa3")
"""Of inventories, ours first; told apart by colour-blind people too."""
MALAMUD_COLOUR = "#777777"
BINS_A_DECADE = 6
"""Of the points alone: no fit ever sees a bin."""
POINTS = 300
LABEL_IN = 4.5
"""Width of the longest label of the legend, inches."""
ROW_IN = 0.19
"""Height of a row of the legend."""
LAWS = 200
"""Drawn for a band."""


def draw_sizes(
    series: Mapping[str, tuple[AreaSample, SizeFit | None]],
    *,
    title: str = "",
    size_in: tuple[float, float] = (11, 4.8),
) -> bytes:
    """Draws the density of areas with its law and the band of its laws, and the number of larger landslides.

    Args:
        series: Inventories by name, the first in the foreground: areas, and the fit where there is one.
        title: Over both panels.
        size_in: Width and height: letters keep their size, so they are larger beside a smaller figure.

    Returns:
        A PNG of 150 px an inch, 1650 px wide by default.
    """
    width_in, height_in = size_in
    legend_in = 0.0
    figure = Figure(figsize=size_in, dpi=150, facecolor="white")
    density, larger = figure.subplots(1, 2)
    heights: list[FloatArray] = []
    drawn = {name: pair for name, pair in series.items() if pair[0].count}
    for (name, (sample, fit)), colour in zip(drawn.items(), COLOURS, strict=False):
        heights.append(_draw_density(density, sample, fit, name, colour))
        _draw_larger(larger, sample, fit, colour)
    if drawn:
        _draw_malamud(density, next(iter(drawn.values()))[0])
        # Far from the data a law may fall to nothing: they set the scale.
        shown = np.concatenate(heights)
        density.set_ylim(shown.min() / 30, shown.max() * 5)
    for axes, label in ((density, "probability density, 1/m²"), (larger, "landslides at least so large")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("landslide area, m²")
        axes.set_ylabel(label)
        axes.grid(color="#dddddd", linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    if drawn:
        # Below both panels: the words of a fit are wider than a panel of a small figure.
        columns = max(1, int(width_in // LABEL_IN))
        legend = figure.legend(
            frameon=False, fontsize=8.5, loc="lower left", ncols=columns, borderaxespad=0.3
        )
        legend_in = ROW_IN * ceil(len(legend.get_texts()) / columns)
    if title:
        figure.text(0.1 / width_in, 1 - 0.1 / height_in, title, fontsize=11, va="top")
    # By hand, in inches: a layout that matplotlib finds by itself costs as long as all the drawing.
    figure.subplots_adjust(
        left=0.7 / width_in,
        right=1 - 0.1 / width_in,
        bottom=(0.6 + legend_in) / height_in,
        top=1 - (0.4 if title else 0.12) / height_in,
        wspace=1.6 / width_in,
    )
    return png_of(figure)


def _draw_density(axes: Axes, sample: AreaSample, fit: SizeFit | None, name: str, colour: str) -> FloatArray:
    """Draws one inventory; the heights of its points."""
    places, heights = _binned(sample)
    axes.plot(places, heights, "o", color=colour, markersize=3.5, label=f"{name}, {sample.count} landslides")
    if fit is None:
        return heights
    grid = _grid(sample)
    curves = np.array([_cut_off(law, sample, grid) for law in sample_laws(sample, fit.law, LAWS)])
    axes.fill_between(
        grid, *np.quantile(curves, (0.025, 0.975), axis=0), color=colour, alpha=0.2, linewidth=0
    )
    axes.plot(
        grid, _cut_off(fit.law, sample, grid), color=colour, linewidth=1.2, label=f"  tail {_said(fit)}"
    )
    if fit.rollover_is_seen:
        axes.axvline(fit.law.rollover_m2, color=colour, linewidth=0.8, linestyle=":")
    return heights


def _said(fit: SizeFit) -> str:
    tail, rollover = fit.tail_exponent, fit.rollover_m2
    bounds = f"{tail.value:.2f} ({_bound(tail.low, '.2f')}-{_bound(tail.high, '.2f')})"
    if not fit.rollover_is_seen:
        return f"{bounds}, rollover below what is complete"
    ends = f"{_bound(rollover.low, '.0f')}-{_bound(rollover.high, '.0f')}"
    return f"{bounds}, rollover {rollover.value:.0f} ({ends}) m²"


def _bound(end: float | None, form: str) -> str:
    return "?" if end is None else format(end, form)


def _draw_larger(axes: Axes, sample: AreaSample, fit: SizeFit | None, colour: str) -> None:
    areas = np.sort(sample.all_m2)
    axes.step(areas, np.arange(areas.size, 0, -1), where="pre", color=colour, linewidth=1)
    if fit is not None:
        grid = _grid(sample)
        share = np.exp(fit.law.log_survival(grid) - fit.law.log_survival(np.array(sample.completeness_m2)))
        axes.plot(grid, sample.count * share, color=colour, linewidth=1, linestyle="--")
    axes.set_ylim(bottom=0.5)


def _draw_malamud(axes: Axes, sample: AreaSample) -> None:
    grid = _grid(sample)
    label = f"Malamud et al. 2004, tail {MALAMUD.tail_exponent:.2f}, rollover {MALAMUD.rollover_m2:.0f} m²"
    axes.plot(
        grid, _cut_off(MALAMUD, sample, grid), color=MALAMUD_COLOUR, linewidth=1, linestyle="--", label=label
    )


def _grid(sample: AreaSample) -> FloatArray:
    areas = sample.all_m2
    return np.geomspace(max(sample.completeness_m2, areas.min()), 1.2 * areas.max(), POINTS)


def _cut_off(law: SizeLaw, sample: AreaSample, grid: FloatArray) -> FloatArray:
    """Density of a law that is cut off at the completeness area, 1/m2."""
    density: FloatArray = np.exp(law.log_density(grid) - law.log_survival(np.array(sample.completeness_m2)))
    return density


def _binned(sample: AreaSample) -> tuple[FloatArray, FloatArray]:
    """Middles and densities of logarithmic bins, for the eye; empty ones are left out."""
    areas = sample.all_m2
    decades = np.log10(areas.max() / areas.min())
    edges = np.geomspace(areas.min(), areas.max() * 1.0001, max(2, int(BINS_A_DECADE * decades) + 1))
    counts, edges = np.histogram(areas, edges)
    held = counts > 0
    return np.sqrt(edges[1:] * edges[:-1])[held], (counts / areas.size / np.diff(edges))[held]
