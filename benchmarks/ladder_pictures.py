"""Splits, or patches with a rung's maps of them, in; a PNG to look at out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from coseis.evaluation import Outcome, outcome_of
from coseis.evaluation.figure import COLOURS
from coseis.training.patches import Patch
from coseis.types import CODE_SCALE, LABEL_IGNORE, least_code
from ladder_results import Result, UintArray, patch_key
from ladder_splits import SCENE, TILES, Splits, read_groups

SHOWN = 8
"""Patches on a sheet of the worst."""
GROUP_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
"""Told apart by colour-blind people too (Okabe and Ito, 2008)."""


def draw_splits(data: Path, splits: Splits, path: Path) -> None:
    """Draws the labelled tiles on the ground, coloured by group, and how many patches each block has.

    Args:
        data: The data folder.
        splits: Groups, strata and blocks.
        path: The PNG.

    Raises:
        UsageError: The data folder lacks a set.
    """
    figure = Figure(figsize=(11, 7), dpi=110, facecolor="white", layout="constrained")
    ground, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_ground(ground, data, splits)
    names = [f"hrgldd-{block}" for block in splits.hrgldd.blocks]
    patches = read_groups(data, splits, names)
    counts = [sum(patch.group == name for patch in patches) for name in names]
    bars.bar(names, counts, color="#777777")
    for place, count in enumerate(counts):
        bars.text(place, count, str(count), ha="center", va="bottom", fontsize=9)
    bars.set(ylabel="patches of 128 x 128 px", title="HR-GLDD: each block is left out in turn")
    bars.spines[["top", "right"]].set_visible(False)
    _write(figure, path)


def draw_worst(patches: Sequence[Patch], maps: Mapping[str, UintArray], result: Result, path: Path) -> None:
    """Draws the patches with the most wrong pixels further than 2 px from a label's border, worst first.

    Closer ones are a matter of how loosely the labels were drawn.

    Args:
        patches: The test patches of a split.
        maps: Codes uint8 (y, x) of each, by group and name.
        result: Of the rung that made the maps.
        path: The PNG: picture, labels, probability and outcome of each patch.
    """
    counts = zip(result.patches, result.counts, strict=True)
    wrong_px = {f"{p.group}/{p.name}": c.beyond_2px.fp + c.beyond_2px.fn for p, c in counts}
    worst = sorted(patches, key=lambda patch: wrong_px[patch_key(patch)], reverse=True)[:SHOWN]
    figure = Figure(figsize=(11, 2.9 * len(worst) + 0.6), dpi=90, facecolor="white", layout="constrained")
    rows = figure.subplots(len(worst), 4, squeeze=False)
    for row, patch in zip(rows, worst, strict=True):
        codes = maps[patch_key(patch)]
        picture = _picture(patch)
        landslide = (patch.mask != 0) & (patch.mask != LABEL_IGNORE)
        predicted = codes >= least_code(result.threshold)
        outcome = outcome_of(predicted, landslide, np.asarray(patch.mask != LABEL_IGNORE))
        row[0].imshow(picture)
        row[0].set_title(f"{patch_key(patch)}: {wrong_px[patch_key(patch)]} px wrong", fontsize=8, loc="left")
        row[1].imshow(picture)
        if landslide.any() and not landslide.all():
            row[1].contour(landslide, levels=[0.5], colors="#ffe100", linewidths=0.8)
        row[1].set_title("labels", fontsize=8, loc="left")
        row[2].imshow(codes / CODE_SCALE, vmin=0, vmax=1, cmap="magma")
        row[2].set_title("probability", fontsize=8, loc="left")
        row[3].imshow(_marked(picture, outcome))
        row[3].set_title("green true, orange false, blue missed", fontsize=8, loc="left")
        for axes in row:
            axes.set_axis_off()
    figure.suptitle(
        f"{result.rung} on {result.split}, seed {result.seed}, at {result.threshold:.2f}", fontsize=11
    )
    _write(figure, path)


def _draw_ground(axes: Axes, data: Path, splits: Splits) -> None:
    """The tiles with their strata, and in a corner where the scene without labels lies."""
    stratum_of = {name: stratum for stratum, names in splits.tiles.strata.items() for name in names}
    inset = axes.inset_axes((0.52, 0.04, 0.46, 0.52))
    with rasterio.open(data / SCENE) as source:
        crs = source.crs
        inset.add_patch(_rectangle(source.bounds, fill=False, ec="#777777", ls="--"))
        inset.text(
            source.bounds[2], source.bounds[3], "scene without labels", ha="right", va="bottom", fontsize=7
        )
    for number, group in enumerate(splits.tiles.groups):
        colour = GROUP_COLOURS[number % len(GROUP_COLOURS)]
        for name in group:
            with rasterio.open(data / TILES / f"{name}.tif") as source:
                left, bottom, right, top = source.bounds
            for some in (axes, inset):
                some.add_patch(_rectangle((left, bottom, right, top), fc=colour, ec="white", alpha=0.85))
            label = "\n".join((name, *stratum_of.get(name, "").split(" and ")))
            axes.text((left + right) / 2, (bottom + top) / 2, label, ha="center", va="center", fontsize=7)
    for some in (axes, inset):
        some.autoscale_view()
        some.set_aspect("equal")
    inset.set(xticks=[], yticks=[])
    axes.set(
        xlabel=f"easting, m ({crs})",
        ylabel="northing, m",
        title="Iburi: each colour is left out in turn, all for transfer",
    )
    axes.ticklabel_format(useOffset=False, style="plain")
    axes.tick_params(labelsize=7)


def _rectangle(bounds: tuple[float, float, float, float], **look: Any) -> Rectangle:
    left, bottom, right, top = bounds
    return Rectangle((left, bottom), right - left, top - bottom, **look)


def _picture(patch: Patch) -> npt.NDArray[np.float32]:
    """The patch as people see it, stretched from the scene's 2 % to above its 98 %; float32 (y, x, 3)."""
    low, high = patch.percentiles[0], patch.percentiles[2]
    stretched = (patch.intensity[..., :3] - low[:3]) / np.maximum(1.2 * (high - low)[:3], 1e-3)
    return np.asarray(np.clip(np.nan_to_num(stretched), 0, 1), dtype=np.float32)


def _marked(picture: npt.NDArray[np.float32], outcome: UintArray) -> npt.NDArray[np.float32]:
    marked = picture.copy()
    for code in (Outcome.TRUE, Outcome.FALSE, Outcome.MISSED):
        marked[outcome == code] = 0.4 * marked[outcome == code] + 0.6 * np.array(
            to_rgb(COLOURS[code]), np.float32
        )
    return marked


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
