"""A DEM: files of elevations in, elevations on the DEM's own pixels out, wherever a window lies.

Tiles whose pixels continue each other make one lattice, so that slope is whole across their borders. A DEM
of several zones or pixel sizes is several lattices, the finest first.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from coseis.addresses import is_remote, public_form
from coseis.geotiff import fill_physical, header_of, overlap
from coseis.store import digest_of
from coseis.types import AddressPolicy, BandSource, Value

LOWEST_M, HIGHEST_M = -1000.0, 9500.0
"""Land lies between; what does not is a void whose number the file forgot to declare, such as -32768."""
ON_LATTICE_PX = 0.01
"""Tiles continue each other if their pixels lie no farther apart than this."""
SCALE_PX = 256
"""Along a row, metres per pixel are computed once for so many pixels."""

_EARTH = pyproj.Geod(ellps="WGS84")


class DemTile(Value):
    """One file of a DEM, north-up, elevations in metres."""

    name: str
    """Item id, or the file's name."""
    source: BandSource
    crs: str
    """Horizontal CRS, WKT."""
    transform: tuple[float, float, float, float, float, float]
    shape: tuple[int, int]
    """(height, width)."""
    reach: AddressPolicy | None = None
    """What redirects of its file may lead to; None: its own host alone."""


class Dem(Value):
    """A DEM as a worker reads it: plain data, nothing open, nothing signed."""

    address: str
    """As it was asked for."""
    collections: tuple[str, ...]
    source: str
    """What the attributes name: the collections, or the file."""
    tiles: tuple[DemTile, ...]
    """Where two have a value, the first counts."""
    attribution: str | None = None

    def digest(self) -> str:
        """SHA-256 over all of it."""
        return digest_of(self.model_dump(mode="json"))

    @cached_property
    def lattices(self) -> tuple["Lattice", ...]:
        """The tiles by the lattice of pixels that they lie on, the finest first."""
        groups: list[Lattice] = []
        for tile in self.tiles:
            for number, lattice in enumerate(groups):
                if (place := lattice.place_of(tile)) is not None:
                    groups[number] = Lattice(
                        lattice.crs, lattice.transform, (*lattice.tiles, tile), (*lattice.places, place)
                    )
                    break
            else:
                groups.append(Lattice(tile.crs, Affine(*tile.transform), (tile,), ((0, 0),)))
        return tuple(sorted(groups, key=lambda lattice: lattice.pixel_m))


@dataclass(frozen=True)
class Lattice:
    """An unbounded grid of pixels, and the tiles that give some of them a value."""

    crs: str
    """WKT."""
    transform: Affine
    """Of row 0, column 0: the upper left pixel of the first tile."""
    tiles: tuple[DemTile, ...]
    places: tuple[tuple[int, int], ...]
    """(row, column) of each tile's first pixel."""

    @cached_property
    def pixel_m(self) -> float:
        """Height of a pixel in the middle of the first tile, metres."""
        height, width = self.tiles[0].shape
        return float(self.pixel_size_m(Window(width // 2, height // 2, 1, 1))[0][0, 0])

    def place_of(self, tile: DemTile) -> tuple[int, int] | None:
        """(row, column) of a tile's first pixel, None if its pixels do not continue these."""
        if tile.crs != self.crs:
            return None
        to_lattice = ~self.transform @ Affine(*tile.transform)
        row, col = round(to_lattice.f), round(to_lattice.c)
        # Over the whole tile, not only at its corner: neighbours may differ in pixel size.
        far = to_lattice @ (tile.shape[1], tile.shape[0])
        drift = (
            to_lattice.c - col,
            to_lattice.f - row,
            far[0] - col - tile.shape[1],
            far[1] - row - tile.shape[0],
        )
        return (row, col) if max(map(abs, drift)) <= ON_LATTICE_PX else None

    @cached_property
    def boxes(self) -> shapely.STRtree:
        """The tiles by their place; columns are x, rows are y."""
        height, width = np.array([tile.shape for tile in self.tiles]).T
        row, col = np.array(self.places).T
        return shapely.STRtree(shapely.box(col, row, col + width, row + height))

    def to_pixels(
        self, x: NDArray[np.float64], y: NDArray[np.float64], crs: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Places in another CRS (WKT) as columns and rows, float64; whole numbers are pixel edges."""
        to_x, to_y = transformer(crs, self.crs).transform(x, y)
        affine = ~self.transform
        return np.asarray(affine.a * to_x + affine.c), np.asarray(affine.e * to_y + affine.f)

    def elevation(self, window: Window) -> NDArray[np.float32]:
        """Elevations of a window, float32 (y, x), metres; NaN where no tile has a value.

        Raises:
            InputRefusedError: a tile cannot be read; it is named.
        """
        out = np.full((window.height, window.width), np.nan, np.float32)
        col0, row0 = window.col_off, window.row_off
        seen = shapely.box(col0, row0, col0 + window.width, row0 + window.height)
        for number in sorted(self.boxes.query(seen)):
            tile, (row, col) = self.tiles[number], self.places[number]
            into_y, from_y = overlap(window.row_off, window.height, row, tile.shape[0])
            into_x, from_x = overlap(window.col_off, window.width, col, tile.shape[1])
            part = out[into_y, into_x]
            if into_y.start < into_y.stop and into_x.start < into_x.stop and np.isnan(part).any():
                part[...] = np.where(np.isnan(part), _read_tile(tile, from_y, from_x), part)
        return out

    def pixel_size_m(
        self, window: Window
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Metres per pixel down and across, and the azimuth of up, in degrees, at each pixel of a window.

        On the ellipsoid, whatever the CRS: degrees shrink towards the poles, Web Mercator's metres are none,
        and up is not north away from a zone's central meridian. A pure function of each pixel's place.

        Returns:
            float64 (y, x) each.
        """
        row = np.arange(window.row_off, window.row_off + window.height) + 0.5
        groups = np.arange(window.col_off, window.col_off + window.width) // SCALE_PX
        blocks, number = np.unique(groups, return_inverse=True)
        row, col = np.meshgrid(row, (blocks + 0.5) * SCALE_PX, indexing="ij")
        to_degrees = transformer(self.crs, "OGC:CRS84")

        def place(d_row: float, d_col: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            x = self.transform.c + (col + d_col) * self.transform.a
            y = self.transform.f + (row + d_row) * self.transform.e
            longitude, latitude = to_degrees.transform(x, y)
            return longitude, latitude

        up_deg, _, down_m = _EARTH.inv(*place(0.5, 0), *place(-0.5, 0))
        _, _, across_m = _EARTH.inv(*place(0, -0.5), *place(0, 0.5))
        return down_m[:, number], across_m[:, number], up_deg[:, number]

    def scale_m(
        self, col: NDArray[np.float64], row: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Metres per pixel across and down at places, on the ellipsoid as `pixel_size_m`; float64 each."""
        to_degrees = transformer(self.crs, "OGC:CRS84")

        def place(d_col: float, d_row: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            x = self.transform.c + (col + d_col) * self.transform.a
            y = self.transform.f + (row + d_row) * self.transform.e
            longitude, latitude = to_degrees.transform(x, y)
            return longitude, latitude

        across_m: NDArray[np.float64] = _EARTH.inv(*place(-0.5, 0), *place(0.5, 0))[2]
        down_m: NDArray[np.float64] = _EARTH.inv(*place(0, 0.5), *place(0, -0.5))[2]
        return across_m, down_m


@lru_cache(64)
def transformer(source: str, target: str) -> pyproj.Transformer:
    """From one CRS to another, x before y."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def _read_tile(tile: DemTile, rows: slice, cols: slice) -> NDArray[np.float32]:
    label = f"DEM {tile.name}, {public_form(tile.source.href)}"
    tiff = header_of(tile.source.href, label, tile.reach)
    window = Window.from_slices(rows, cols)
    out = np.full((window.height, window.width), np.nan, np.float32)
    # Neighbouring windows share any of the blocks, so all are kept while there is room.
    shared_px = max(window.height, window.width)
    fill_physical(
        tiff, [tile.source], window, out[None], shared_px=shared_px, concurrently=is_remote(tiff.href)
    )
    out[(out < LOWEST_M) | (out > HIGHEST_M)] = np.nan
    return out
