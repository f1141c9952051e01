"""A labelled region in, squares of pixels with their labels out: what training reads, wherever it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from coseis.types import LABEL_IGNORE

FloatArray = npt.NDArray[np.float32]
UintArray = npt.NDArray[np.uint8]
CELL_PX = 32
"""Side of the cells in which labels are counted: what draws and splits know of a region."""


@dataclass(frozen=True)
class Square:
    """A square of pixels, stretched to intensity so that sensors are alike from here on."""

    intensity: FloatArray
    """float32 (y, x, channel) in [0, 1], NaN where missing."""
    classes: UintArray
    """uint8 (y, x): 0 background, 1 and up the classes, LABEL_IGNORE where the truth is not known."""
    percentiles: FloatArray
    """float32 (3, channel): the scene's 2, 50 and 98 % intensities."""


@dataclass(frozen=True)
class Cells:
    """How many pixels of a region have a known label, and how many are landslides, cell by cell."""

    known: npt.NDArray[np.int64]
    """int64 (cell y, cell x); cells of CELL_PX, the last ones cut by the border."""
    landslide: npt.NDArray[np.int64]
    """The same of pixels with any class."""


class Source(Protocol):
    """A labelled region that training draws from: an array in memory, or scenes of a catalog.

    Plain enough to be sent to a worker; reading the same square twice gives the same pixels.
    """

    @property
    def group(self) -> str:
        """What may only be on one side of a split: an event, a place."""
        ...

    @property
    def weight(self) -> float:
        """How often it is drawn, relative to other sources of the same area."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px."""
        ...

    @property
    def channels(self) -> int:
        """Length of the last axis of `Square.intensity`."""
        ...

    def cells(self) -> Cells:
        """Counts of labels in cells of CELL_PX."""
        ...

    def square(self, y: int, x: int, size_px: int) -> Square:
        """The square with its upper left corner at (y, x), which may lie partly outside of the region."""
        ...


@dataclass(frozen=True)
class Part:
    """Some cells of a source: the labels of all others are unknown, so that nothing is learnt from them."""

    source: Source
    kept: npt.NDArray[np.bool_]
    """bool (cell y, cell x)."""
    name: str
    """Told apart from the source's other part by it."""

    @property
    def group(self) -> str:
        """The source's group and the part's name."""
        return f"{self.source.group}/{self.name}"

    @property
    def weight(self) -> float:
        """As of the source."""
        return self.source.weight

    @property
    def shape(self) -> tuple[int, int]:
        """As of the source."""
        return self.source.shape

    @property
    def channels(self) -> int:
        """As of the source."""
        return self.source.channels

    def cells(self) -> Cells:
        """Counts of labels, 0 in the cells of other parts."""
        cells = self.source.cells()
        return Cells(np.where(self.kept, cells.known, 0), np.where(self.kept, cells.landslide, 0))

    def square(self, y: int, x: int, size_px: int) -> Square:
        """The source's pixels; LABEL_IGNORE in the cells of other parts."""
        square = self.source.square(y, x, size_px)
        rows, columns = (
            np.clip(np.arange(start, start + size_px) // CELL_PX, 0, count - 1)
            for start, count in zip((y, x), self.kept.shape, strict=True)
        )
        kept = self.kept[np.ix_(rows, columns)]
        return Square(
            square.intensity,
            np.where(kept, square.classes, np.uint8(LABEL_IGNORE)),
            square.percentiles,
        )


def count_cells(classes: UintArray) -> Cells:
    """Counts the labels uint8 (y, x) of a whole region in memory."""
    height, width = (-(-size // CELL_PX) for size in classes.shape)
    padded = np.full((height * CELL_PX, width * CELL_PX), LABEL_IGNORE, np.uint8)
    padded[: classes.shape[0], : classes.shape[1]] = classes
    blocks = padded.reshape(height, CELL_PX, width, CELL_PX)
    known = blocks != LABEL_IGNORE
    return Cells(
        np.count_nonzero(known, axis=(1, 3)).astype(np.int64),
        np.count_nonzero(known & (blocks > 0), axis=(1, 3)).astype(np.int64),
    )
