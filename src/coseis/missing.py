"""The chunks of a run that are not done go in; what a reader of its cube must see in their place comes out.

Of such a chunk nothing, half or all may be written, by a task that was killed or before the last update: none
of it counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from coseis.grid import pixels_inside
from coseis.types import CODE_FILL, SCENE_FILL, Status
from coseis.windows import Chunk

FILLS = {"probability": CODE_FILL, "scene": SCENE_FILL, "vegetation": CODE_FILL}
"""By array of the cube; in `status` the reason stands."""


@dataclass(frozen=True)
class MissingChunks:
    """Of one UTM zone."""

    aoi: dict[str, Any]
    """Its area, GeoJSON in longitude and latitude."""
    chunks: tuple[tuple[Chunk, Status], ...]
    """Each with what its pixels of the area are: FAILED, or NOT_COMPUTED."""

    def meeting(self, rows: slice, cols: slice) -> "MissingChunks | None":
        """Those that lie in a part of the grid; None if none does."""
        near = tuple(
            (chunk, status)
            for chunk, status in self.chunks
            if chunk.y0 < rows.stop
            and rows.start < chunk.y0 + chunk.height
            and chunk.x0 < cols.stop
            and cols.start < chunk.x0 + chunk.width
        )
        return replace(self, chunks=near) if near else None


def hide_missing(
    arrays: Mapping[str, NDArray[Any]],
    missing: MissingChunks | None,
    geobox: GeoBox,
    rows: slice,
    cols: slice,
) -> None:
    """Puts fill in place of the chunks that are not done, in arrays that were read from a part of the cube.

    Args:
        arrays: By name in the cube, (..., y, x); changed in place.
        missing: Of the zone; None: all is done.
        geobox: The zone's grid.
        rows: Which part of the grid was read.
        cols: Likewise.
    """
    near = missing and missing.meeting(rows, cols)
    for chunk, status in near.chunks if near else ():
        top, bottom = max(rows.start, chunk.y0), min(rows.stop, chunk.y0 + chunk.height)
        left, right = max(cols.start, chunk.x0), min(cols.stop, chunk.x0 + chunk.width)
        window = Window(left, top, right - left, bottom - top)
        place = (
            slice(top - rows.start, bottom - rows.start),
            slice(left - cols.start, right - cols.start),
        )
        for name, fill in FILLS.items():
            if name in arrays:
                arrays[name][(..., *place)] = fill
        if near and "status" in arrays:
            inside = pixels_inside(near.aoi, geobox, window)
            arrays["status"][(..., *place)] = np.where(inside, status, Status.OUTSIDE_AOI)


def slices_of(block: Chunk, shape: Sequence[int], margin_px: int = 0) -> tuple[slice, slice]:
    """(rows, columns) of a block with a margin, as far as there is a grid."""
    return (
        slice(max(0, block.y0 - margin_px), min(shape[0], block.y0 + block.height + margin_px)),
        slice(max(0, block.x0 - margin_px), min(shape[1], block.x0 + block.width + margin_px)),
    )
