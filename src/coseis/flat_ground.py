"""Landslide pixels and a DEM go in; which of them lie on ground too flat for a landslide comes out.

Only the slope of landslide pixels is asked for, each interpolated at its own centre, so the mask does not
depend on how a region is cut into blocks.
"""

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from coseis.dem import Dem, Lattice
from coseis.grid import crs_of
from coseis.landform import Floats, read_surface
from coseis.types import Value
from coseis.windows import chunk_grid

STEP_PX = 512
"""Side of the squares whose slopes are read at once: 1.5 km at 3 m, few pixels of any DEM."""


class FlatGround(Value):
    """The mask: ground less steep than this is no landslide."""

    dem: Dem
    min_slope_deg: float
    """Degrees."""


class FlatCount(Value):
    """What the mask does to some landslide pixels: predicted ones, or true ones for what it loses."""

    landslide_px: int = 0
    flat_px: int = 0
    """On ground that is too flat: taken away."""
    unknown_px: int = 0
    """Where the DEM tells no slope: kept."""

    def __add__(self, other: "FlatCount") -> "FlatCount":
        return FlatCount(
            landslide_px=self.landslide_px + other.landslide_px,
            flat_px=self.flat_px + other.flat_px,
            unknown_px=self.unknown_px + other.unknown_px,
        )

    @property
    def flat_share(self) -> float | None:
        """Share of the landslide pixels that is taken away, 0-1; None where there is none."""
        return self.flat_px / self.landslide_px if self.landslide_px else None


def find_flat(
    landslide: NDArray[np.bool_], geobox: GeoBox, ground: FlatGround, *, origin: tuple[int, int] = (0, 0)
) -> tuple[NDArray[np.bool_], FlatCount]:
    """Which landslide pixels lie on flat ground, and how many.

    Args:
        landslide: bool (y, x).
        geobox: The grid of the whole region.
        ground: DEM and least slope.
        origin: Row and column on the grid of the first pixel of `landslide`.

    Returns:
        bool (y, x), True where a landslide pixel is on flat ground; and the counts.

    Raises:
        InputRefusedError: a tile of the DEM cannot be read.
    """
    flat, unknown_px = np.zeros(landslide.shape, bool), 0
    crs = crs_of(geobox).to_wkt()
    for square in chunk_grid(landslide.shape, STEP_PX):
        rows, cols = np.nonzero(landslide[square.slices])
        if rows.size:
            rows, cols = rows + square.y0, cols + square.x0
            x = np.float64(geobox.affine.c) + (cols + origin[1] + 0.5) * geobox.affine.a
            y = np.float64(geobox.affine.f) + (rows + origin[0] + 0.5) * geobox.affine.e
            slope = slope_at(ground.dem, x, y, crs)
            flat[rows, cols] = slope < ground.min_slope_deg
            unknown_px += int(np.isnan(slope).sum())
    count = FlatCount(landslide_px=int(landslide.sum()), flat_px=int(flat.sum()), unknown_px=unknown_px)
    return flat, count


def slope_at(dem: Dem, x: Floats, y: Floats, crs: str) -> Floats:
    """Slope at places that lie close together, bilinear between the pixels of the DEM.

    Args:
        dem: Where the elevations lie; of several lattices the finest with a value counts.
        x: float64 (places,), in the CRS.
        y: Likewise.
        crs: WKT.

    Returns:
        float64 (places,), degrees, NaN where a pixel around the place has no slope.
    """
    slope = np.full(x.shape, np.nan)
    for lattice in dem.lattices:
        missing = np.isnan(slope)
        if missing.any():
            slope[missing] = _bilinear(lattice, *lattice.to_pixels(x[missing], y[missing], crs))
    return slope


def _bilinear(lattice: Lattice, col: Floats, row: Floats) -> Floats:
    """Slope between the four pixel centres around each place."""
    slope = np.full(col.shape, np.nan)
    inside = np.zeros(col.shape, bool)
    finite = np.isfinite(col) & np.isfinite(row)
    if not finite.any():
        return slope
    left, right, top, bottom = (float(end(axis[finite])) for axis in (col, row) for end in (np.min, np.max))
    around = shapely.box(left, top, right, bottom)
    for box in lattice.boxes.geometries[lattice.boxes.query(around)]:
        west, north, east, south = box.bounds
        inside |= (col >= west) & (col <= east) & (row >= north) & (row <= south)
    if not inside.any():
        return slope
    col, row = col[inside] - 0.5, row[inside] - 0.5
    first_col, first_row = (np.floor(axis).astype(np.int64) for axis in (col, row))
    col0, row0 = int(first_col.min()), int(first_row.min())
    window = Window(col0, row0, int(first_col.max()) - col0 + 2, int(first_row.max()) - row0 + 2)
    known = read_surface(lattice, window).slope
    i, j = first_row - row0, first_col - col0
    down, across = row - first_row, col - first_col
    upper = known[i, j] * (1 - across) + known[i, j + 1] * across
    lower = known[i + 1, j] * (1 - across) + known[i + 1, j + 1] * across
    slope[inside] = upper * (1 - down) + lower * down
    return slope
