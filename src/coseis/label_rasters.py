"""A raster of labels on any grid in, the truth on any part of the output grid out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from rasterio.windows import Window

from coseis.errors import UsageError
from coseis.grid import crs_of
from coseis.types import LABEL_IGNORE

UintArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
DRIVER = "GTiff"
"""Forced: of a file that names other files, such as a VRT, GDAL would read those."""
SAMPLE_PX = 4096
"""Longest side of the sample in which the classes of a label raster are counted."""


@dataclass(frozen=True)
class RasterLabels:
    """A one-band label raster on any grid; not 0 is landslide, nodata and what lies outside is not known."""

    path: Path

    def mask(self, geobox: GeoBox) -> UintArray:
        """The label under each pixel's centre, so nearest neighbour and alike for any block; uint8 (y, x)."""
        mask = np.full(geobox.shape, LABEL_IGNORE, dtype=np.uint8)
        with rasterio.open(self.path, driver=DRIVER) as source:
            rows, columns = _source_pixels(geobox, source)
            inside = (rows >= 0) & (rows < source.height) & (columns >= 0) & (columns < source.width)
            if not inside.any():
                return mask
            rows, columns = rows[inside], columns[inside]
            top, left = int(rows.min()), int(columns.min())
            window = Window(left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1)
            labels = source.read(1, window=window)
            known = (source.read_masks(1, window=window) > 0) & ~np.isnan(labels)
        values = np.where(known, labels != 0, LABEL_IGNORE).astype(np.uint8)
        mask[inside] = values[rows - top, columns - left]
        return mask


def open_raster(path: Path, geobox: GeoBox) -> RasterLabels:
    """Opens a label raster that touches a grid.

    Raises:
        UsageError: Not readable, of several bands or classes, without CRS, or somewhere else.
    """
    path = path.resolve()
    try:
        with rasterio.open(path, driver=DRIVER) as source:
            if source.count != 1:
                raise UsageError(
                    f"label raster {path} has {source.count} bands; expected one, 0 being background"
                )
            if source.crs is None:
                raise UsageError(
                    f"label raster {path} has no CRS, so its place is unknown; store it with one"
                )
            bounds = rasterio.warp.transform_bounds(source.crs, crs_of(geobox).wkt, *source.bounds)
            _check_one_class(path, source)
    except rasterio.errors.RasterioIOError as error:
        raise UsageError(f"labels {path} cannot be read: {error}") from error
    extent = geobox.extent.boundingbox
    if (
        bounds[0] >= extent.right
        or bounds[2] <= extent.left
        or bounds[1] >= extent.top
        or bounds[3] <= extent.bottom
    ):
        raise elsewhere(path, bounds, geobox)
    return RasterLabels(path)


def elsewhere(path: Path, bounds: tuple[float, ...], geobox: GeoBox) -> UsageError:
    """What to raise for labels whose bounds (left, bottom, right, top) nowhere touch the grid."""
    extent = geobox.extent.boundingbox
    return UsageError(
        f"labels {path} lie elsewhere: they cover x {bounds[0]:.0f} to {bounds[2]:.0f}, y {bounds[1]:.0f} to "
        f"{bounds[3]:.0f}, the map x {extent.left:.0f} to {extent.right:.0f}, y {extent.bottom:.0f} to "
        f"{extent.top:.0f} in {geobox.crs}"
    )


def _check_one_class(path: Path, source: rasterio.DatasetReader) -> None:
    """Refuses a raster of several classes: scored as one, a land cover map would be all landslide."""
    shape = (min(source.height, SAMPLE_PX), min(source.width, SAMPLE_PX))
    sample = source.read(1, out_shape=shape, masked=True).compressed()
    classes = np.unique(sample[(sample != 0) & ~np.isnan(sample)])
    if classes.size > 1:
        shown = ", ".join(f"{value:g}" for value in classes[:5]) + (", ..." if classes.size > 5 else "")
        raise UsageError(
            f"label raster {path} holds {classes.size} values beside 0 ({shown}); "
            "expected one: 0 is background, the other landslide"
        )


def _source_pixels(
    geobox: GeoBox, source: rasterio.DatasetReader
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row and column of a raster under the centre of each pixel of a grid, int64 (y, x), maybe outside."""
    columns, rows = np.meshgrid(np.arange(geobox.shape[1]) + 0.5, np.arange(geobox.shape[0]) + 0.5)
    x, y = _transformed(geobox.affine, columns, rows)
    grid_crs, source_crs = CRS.from_user_input(crs_of(geobox)), CRS.from_user_input(source.crs)
    if grid_crs != source_crs:
        x, y = Transformer.from_crs(grid_crs, source_crs, always_xy=True).transform(x, y)
    source_columns, source_rows = _transformed(~source.transform, x, y)
    # Places that the source's CRS cannot express come back infinite; -1 is outside of any raster.
    finite = np.isfinite(source_columns) & np.isfinite(source_rows)
    return (
        np.where(finite, np.floor(source_rows), -1).astype(np.int64),
        np.where(finite, np.floor(source_columns), -1).astype(np.int64),
    )


def _transformed(affine: Affine, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Affine's own operator takes arrays too, but its types do not say so."""
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f
