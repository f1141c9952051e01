"""Counts of labels by cell in, an epoch's seeded plan out: where each patch lies, how it is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coseis.errors import UsageError
from coseis.training.settings import TrainConfig
from coseis.training.sources import CELL_PX, Source


class Draw(NamedTuple):
    """One patch of an epoch; whoever has it makes the same patch."""

    source: int
    """Place in the list of sources."""
    y: float
    """Centre of the patch in the source, px."""
    x: float
    angle_rad: float
    """Counter-clockwise turn of the picture."""
    scale: float
    """Above 1 the picture is enlarged."""
    mirrored: bool
    seed: int
    """Of the light, the noise and whatever else is drawn for this patch."""


class DrawTable:
    """All cells of all sources as a table to draw from: 32 bytes a cell, whatever the cells hold.

    A region of 11 Gpx has 11 million cells.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        counts = [source.cells() for source in sources]
        self._shapes = [source.shape for source in sources]
        self._columns = [cells.known.shape[1] for cells in counts]
        sizes = [cells.known.size for cells in counts]
        self._first = np.concatenate([[0], np.cumsum(sizes)])
        weights = np.repeat([source.weight for source in sources], sizes)
        self._known = np.cumsum(np.concatenate([cells.known.ravel() for cells in counts]) * weights)
        self._landslide = np.cumsum(np.concatenate([cells.landslide.ravel() for cells in counts]) * weights)
        if not self._known[-1]:
            raise UsageError("no pixel of the training regions has a known label")

    def draw_epoch(self, config: TrainConfig, epoch: int) -> list[Draw]:
        """The patches of an epoch in their order, from (seed, epoch) alone.

        A share of them, which falls over the epochs, holds a place in a cell drawn by its landslide pixels,
        anywhere in its core; the others have their centre in a cell drawn by its labelled pixels.
        """
        random = np.random.default_rng((config.seed, epoch))
        count = config.steps_per_epoch * config.batch
        biased = random.random(count) < config.class_weight_of(epoch)
        if not self._landslide[-1]:
            biased[:] = False
        cells = np.where(biased, _pick(self._landslide, random, count), _pick(self._known, random, count))
        # A landslide in the middle of every patch would teach the network that the middle slides: it knows
        # its place from the border that it sees.
        shifts_px = np.where(biased, config.core_px, 0.0)
        return [
            self._draw_patch(int(cell), float(shift_px), config, random)
            for cell, shift_px in zip(cells, shifts_px, strict=True)
        ]

    def _draw_patch(
        self, cell: int, shift_px: float, config: TrainConfig, random: np.random.Generator
    ) -> Draw:
        source = int(np.searchsorted(self._first, cell, side="right")) - 1
        place = divmod(cell - int(self._first[source]), self._columns[source])
        y, x = (
            _centre(
                (index + random.random()) * CELL_PX + (random.random() - 0.5) * shift_px, size, config.core_px
            )
            for index, size in zip(place, self._shapes[source], strict=True)
        )
        change = config.augmentation
        spread = float(np.clip(random.normal(), -2, 2))
        angle_rad, mirrored = float(random.uniform(0, 2 * np.pi)), bool(random.integers(2))
        return Draw(
            source=source,
            y=y,
            x=x,
            angle_rad=angle_rad if change.rotate else 0.0,
            scale=float(np.exp(change.scale * spread)),
            mirrored=mirrored and change.mirror,
            seed=int(random.integers(1 << 62)),
        )


def validation_draws(sources: Sequence[Source], config: TrainConfig) -> list[Draw]:
    """Every core that holds a known label, once and unchanged, row by row.

    Args:
        sources: Of the validation part.
        config: Its core; the cores lie side by side from the upper left corner of a source.
    """
    draws = []
    half = config.core_px / 2
    for number, source in enumerate(sources):
        known = source.cells().known > 0
        for y in range(0, source.shape[0], config.core_px):
            for x in range(0, source.shape[1], config.core_px):
                # Outwards to whole cells: a core that is no multiple of a cell may meet one that it shares.
                rows, columns = (
                    slice(start // CELL_PX, -(-(start + config.core_px) // CELL_PX)) for start in (y, x)
                )
                if known[rows, columns].any():
                    draws.append(Draw(number, y + half, x + half, 0.0, 1.0, mirrored=False, seed=0))
    return draws


def _pick(
    cumulative: npt.NDArray[np.float64], random: np.random.Generator, count: int
) -> npt.NDArray[np.int64]:
    places = np.searchsorted(cumulative, random.random(count) * cumulative[-1], side="right")
    picked: npt.NDArray[np.int64] = np.minimum(places, len(cumulative) - 1)
    return picked


def _centre(place: float, size: int, core_px: int) -> float:
    """Moved inwards until the core fits into the source; a source smaller than a core is taken whole."""
    return size / 2 if size <= core_px else float(np.clip(place, core_px / 2, size - core_px / 2))
