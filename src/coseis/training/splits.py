"""A source in, its training and its validation part out: split by place, with a gap between them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter

from coseis.errors import UsageError
from coseis.training.sources import CELL_PX, Part, Source

SplitRule = Literal["north", "south", "west", "east", "blocks"]
"""The side, or the scattered blocks, that are kept for validation."""
BLOCK_CELLS = 16
"""Side of a block of the rule `blocks`: 512 px, so that the gap leaves most of it."""


def split_source(
    source: Source, rule: SplitRule, *, share: float, gap_px: int, seed: int = 0
) -> tuple[Part, Part]:
    """Splits a region by place.

    Labels nearer than the gap to the validation part are unknown to the training part, so that no pixel
    that a validation window sees within its halo was ever trained on.

    Args:
        source: The whole region.
        rule: Where the validation part lies. The paper trained on the northern 60 % of its scene and
            validated on the south: `south` with a share of 0.4.
        share: Of the region's area, for validation, between 0 and 1.
        gap_px: At least the model's halo.
        seed: Of the rule `blocks`.

    Returns:
        Training part, validation part.

    Raises:
        UsageError: A part is left without a landslide or without background.
    """
    if not 0 < share < 1:
        raise UsageError(f"the share for validation is {share:g}; expected a number between 0 and 1")
    held = _held_cells(source.cells().known.shape, rule, share, seed)
    reach = -(-gap_px // CELL_PX)
    near = maximum_filter(held, 2 * reach + 1, mode="constant", cval=False)
    parts = Part(source, ~near, "train"), Part(source, held, "validation")
    for part in parts:
        cells = part.cells()
        known, landslide = int(cells.known.sum()), int(cells.landslide.sum())
        if not 0 < landslide < known:
            raise UsageError(
                f"split {rule} with {share:g} for validation leaves the {part.name} part of {source.group} "
                f"{landslide} landslide px of {known} labelled; choose another rule or share"
            )
    return parts


def _held_cells(shape: tuple[int, ...], rule: SplitRule, share: float, seed: int) -> npt.NDArray[np.bool_]:
    held = np.zeros(shape, bool)
    rows, columns = shape
    if rule == "blocks":
        blocks = (-(-rows // BLOCK_CELLS), -(-columns // BLOCK_CELLS))
        count = max(1, round(share * blocks[0] * blocks[1]))
        chosen = np.zeros(blocks[0] * blocks[1], bool)
        chosen[np.random.default_rng(seed).permutation(chosen.size)[:count]] = True
        large = np.kron(chosen.reshape(blocks), np.ones((BLOCK_CELLS, BLOCK_CELLS), bool))
        return large[:rows, :columns]
    along = rows if rule in ("north", "south") else columns
    count = min(max(1, round(share * along)), along - 1)
    part = slice(0, count) if rule in ("north", "west") else slice(along - count, None)
    held[(part, slice(None)) if rule in ("north", "south") else (slice(None), part)] = True
    return held
