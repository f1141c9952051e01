"""Sizes and places of windows, cores and chunks: from a padding rule and a grid to an exact tiling.

A U-Net with four 2x poolings repeats every 16 px. A window gives the same answer as the whole image
only if its origin lies on one global lattice of 16 px and enough context is cut off each side. The
sizes follow from two 3x3 convolutions a level on five levels:

    valid  the network turns n px into n - 184, which is 4 (mod 16); 2 px more are cut each side, so
           that cores tile the lattice: core = n - 188, halo 94
    same   the zero border reaches 93 px inwards; 96 px are cut each side: core = n - 192, halo 96

Reference: Ronneberger, Fischer and Brox (2015), https://doi.org/10.1007/978-3-319-24574-4_28, whose
572 -> 388 tiling with stride 388 leaves the lattice; stride 384 is exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from coseis.card import LATTICE_PX, Padding
from coseis.errors import UsageError

HALO_PX: dict[Padding, int] = {"same": 96, "valid": 94}
"""Context cut off each side of a window, px."""
VALID_SHRINK_PX = 92
"""What a `valid` network itself takes off each side, px."""
MAX_CORE_PX = 1024
"""Largest core that is chosen unasked: a 1216 px window of 16 filters needs about 0.5 GB."""


@dataclass(frozen=True)
class Chunk:
    """One write: a rectangle of the output array, its origin on the chunk grid."""

    row: int
    """Row of the chunk in the chunk grid, from the top."""
    col: int
    """Column of the chunk in the chunk grid, from the left."""
    y0: int
    """First pixel row."""
    x0: int
    """First pixel column."""
    height: int
    """Pixel rows; less than the chunk size at the lower edge."""
    width: int
    """Pixel columns; less than the chunk size at the right edge."""

    @property
    def name(self) -> str:
        """Key of the chunk in done-records and messages: `row_col`."""
        return f"{self.row}_{self.col}"

    @property
    def slices(self) -> tuple[slice, slice]:
        """Where the chunk lies in the output array, (rows, columns)."""
        return slice(self.y0, self.y0 + self.height), slice(self.x0, self.x0 + self.width)


def window_px(core_px: int, padding: Padding) -> int:
    """Side of the window that yields a core, px.

    Raises:
        UsageError: the core is not a positive multiple of 16 px; the nearest legal one is named.
    """
    if core_px < LATTICE_PX or core_px % LATTICE_PX:
        nearest = max(LATTICE_PX, round(core_px / LATTICE_PX) * LATTICE_PX)
        raise UsageError(
            f"core {core_px} px is not a positive multiple of {LATTICE_PX} px, so windows would not join "
            f"without a seam; the nearest legal core is {nearest} px"
        )
    return core_px + 2 * HALO_PX[padding]


def core_px(window: int, padding: Padding) -> int:
    """Side of the core that a window yields, px: the inverse of `window_px`.

    Raises:
        UsageError: no core on the lattice fits the window; the nearest legal window is named.
    """
    margin = 2 * HALO_PX[padding]
    core = window - margin
    if core < LATTICE_PX or core % LATTICE_PX:
        nearest = max(LATTICE_PX, round(core / LATTICE_PX) * LATTICE_PX) + margin
        raise UsageError(
            f"window {window} px is not exact for {padding} padding (a core of {core} px would leave the "
            f"{LATTICE_PX} px lattice); the nearest legal window is {nearest} px"
        )
    return core


def choose_core(shape: tuple[int, int], padding: Padding, *, most_px: int = MAX_CORE_PX) -> int:
    """The core up to `most_px` whose windows compute the fewest pixels over an array of `shape`.

    Larger cores waste less context (2.2 x the delivered pixels at 384, 1.4 x at 1024), but a core that
    overhangs the array wastes its overhang; of equals the larger wins. Depends on the shape alone.
    """
    halo = HALO_PX[padding]

    def computed_px(core: int) -> int:
        windows = -(-shape[0] // core) * -(-shape[1] // core)
        return windows * (core + 2 * halo) ** 2

    legal = range(min(256, most_px), most_px + 1, LATTICE_PX)
    return min(legal, key=lambda core: (computed_px(core), -core))


def check_chunk(chunk_px: int, core: int) -> int:
    """The chunk size, if it is a whole number of cores.

    Raises:
        UsageError: it is not; the nearest legal size is named.
    """
    if chunk_px < core or chunk_px % core:
        nearest = max(1, round(chunk_px / core)) * core
        raise UsageError(
            f"chunk {chunk_px} px is not a whole number of cores of {core} px; "
            f"the nearest legal chunk is {nearest} px"
        )
    return chunk_px


def chunk_grid(shape: tuple[int, int], chunk_px: int) -> Iterator[Chunk]:
    """All chunks of an array of `shape` (height, width), row by row; the last of each axis may be smaller."""
    height, width = shape
    for row, y0 in enumerate(range(0, height, chunk_px)):
        for col, x0 in enumerate(range(0, width, chunk_px)):
            yield Chunk(row, col, y0, x0, min(chunk_px, height - y0), min(chunk_px, width - x0))
