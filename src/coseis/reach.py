"""Outlines and elevations go in; how far down and how far out each landslide reaches comes out."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window

from coseis.dem import Lattice

REACH_COLUMNS = ("drop_m", "runout_m", "h_over_l")
"""Numbers of a polygon, float64; see `measure_reach`."""
STEP_PX = 0.5
"""Between the places of an outline that are looked at, pixels of the DEM."""
LEAST_PLACES = 40
"""Of an outline, however small: two for each end."""
END_SHARE = 0.05
"""Of the outline, and of the drop, for each end: one wrong pixel of the DEM does not decide."""
LEAST_KNOWN = 0.95
"""Share of the outline that has elevations: of less, an end may be missing."""
LEAST_DROP_M = 1.0
"""Of less, a DEM does not tell which end is up."""
TILE_PX = 1024
"""Elevations are read in squares of this side, so that memory is bounded."""

Floats = NDArray[np.float64]
ReadElevation = Callable[[Window], NDArray[np.float32]]


class Reach(NamedTuple):
    """float64 (polygons,) each."""

    drop_m: Floats
    runout_m: Floats
    h_over_l: Floats


def measure_reach(shapes: NDArray[np.object_], lattice: Lattice) -> Reach:
    """Drop, runout and their ratio of outlines on a DEM. A pure function of each shape.

    Elevations are interpolated between the DEM's pixels at places along the outline. The crown is the mean
    place and elevation of those at or above the 95th percentile, less a twentieth of what lies between that
    and the 5th; the toe likewise. On a plane the ratio is the tangent of the slope between them, exactly.

    Args:
        shapes: object (polygons,), polygons or multipolygons in pixels of the lattice, x columns and y rows.
        lattice: Of the DEM.

    Returns:
        `drop_m`, crown less toe, at least 0, NaN where less than LEAST_KNOWN of the outline has elevations;
        `runout_m`, the horizontal distance between them in a straight line; `h_over_l`, drop by runout, the
        tangent of the reach angle. The last two are NaN also where the drop is less than LEAST_DROP_M: the
        ground is flat.

    Raises:
        InputRefusedError: a tile of the DEM cannot be read.

    Reference:
        Corominas (1996), doi:10.1139/t96-005, for the reach angle. It is meant from the top of the scar to
        the tip of the deposit, along the path; ours is straight, on the DEM that there is, and of what is
        mapped as one landslide.
    """
    out = Reach(*(np.full(len(shapes), np.nan) for _ in Reach._fields))
    if not len(shapes):
        return out
    x, y, start = _places(shapes)
    z = _interpolate(x, y, lattice.elevation)
    centre = shapely.bounds(shapes).reshape(-1, 2, 2).mean(axis=1)
    across_m, down_m = lattice.scale_m(centre[:, 0], centre[:, 1])
    for row, (begin, end) in enumerate(pairwise(start)):
        known = begin + np.flatnonzero(~np.isnan(z[begin:end]))
        if known.size < LEAST_KNOWN * (end - begin):
            continue
        lowest, highest = np.quantile(z[known], [END_SHARE, 1 - END_SHARE])
        # All of an end that lies along a contour belongs to it, whatever noise says which place is higher.
        reach_m = END_SHARE * (highest - lowest)
        crown, toe = known[z[known] >= highest - reach_m], known[z[known] <= lowest + reach_m]
        drop_m = z[crown].mean() - z[toe].mean()
        out.drop_m[row] = drop_m
        if drop_m < LEAST_DROP_M:
            continue
        runout_m = np.hypot(
            (x[crown].mean() - x[toe].mean()) * across_m[row], (y[crown].mean() - y[toe].mean()) * down_m[row]
        )
        out.runout_m[row] = runout_m
        out.h_over_l[row] = drop_m / runout_m if runout_m > 0 else np.nan
    return out


def _places(shapes: NDArray[np.object_]) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Places evenly along the outer rings of shapes: columns, rows, and where each shape's begin."""
    parts, owner = shapely.get_parts(shapes, return_index=True)
    rings = shapely.get_exterior_ring(parts)
    lengths = shapely.length(rings)
    whole = np.bincount(owner, lengths, minlength=len(shapes))
    counts = np.maximum(LEAST_PLACES, np.ceil(whole / STEP_PX))[owner] * lengths / whole[owner]
    counts = np.maximum(1, np.round(counts)).astype(np.int64)
    coordinates, ring_of = shapely.get_coordinates(rings, return_index=True)
    steps = np.hypot(*np.diff(coordinates, axis=0, prepend=coordinates[:1]).T)
    # From one ring to the next there is no way.
    steps[np.diff(ring_of, prepend=0) > 0] = 0
    x, y = np.empty(counts.sum()), np.empty(counts.sum())
    ends = np.cumsum(counts)
    first = np.searchsorted(ring_of, np.arange(len(rings) + 1))
    for ring, end in enumerate(ends):
        vertices = slice(first[ring], first[ring + 1])
        along = np.cumsum(steps[vertices])
        wanted = (np.arange(counts[ring]) + 0.5) / counts[ring] * along[-1]
        place = slice(end - counts[ring], end)
        x[place] = np.interp(wanted, along, coordinates[vertices, 0])
        y[place] = np.interp(wanted, along, coordinates[vertices, 1])
    start = np.append(0, np.cumsum(np.bincount(owner, counts, minlength=len(shapes)))).astype(np.int64)
    return x, y, start


def _interpolate(x: Floats, y: Floats, read: ReadElevation) -> Floats:
    """Elevations between the four pixels around each place, float64; NaN where one of them is missing."""
    z = np.full(x.size, np.nan)
    # Elevations are those of pixel centres.
    left, top = np.floor(x - 0.5).astype(np.int64), np.floor(y - 0.5).astype(np.int64)
    right, below = x - 0.5 - left, y - 0.5 - top
    tile_x, tile_y = left // TILE_PX, top // TILE_PX
    order = np.lexsort((tile_x, tile_y))
    changes = np.flatnonzero((np.diff(tile_x[order]) != 0) | (np.diff(tile_y[order]) != 0)) + 1
    for places in np.split(order, changes):
        col, row = left[places].min(), top[places].min()
        window = Window(
            int(col), int(row), int(left[places].max() - col) + 2, int(top[places].max() - row) + 2
        )
        elevation = read(window).astype(np.float64)
        i, j, v, u = top[places] - row, left[places] - col, below[places], right[places]
        upper = elevation[i, j] * (1 - u) + elevation[i, j + 1] * u
        lower = elevation[i + 1, j] * (1 - u) + elevation[i + 1, j + 1] * u
        z[places] = upper * (1 - v) + lower * v
    return z
