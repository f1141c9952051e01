"""Where a run should begin goes in, its chunks come out in order: by a place, or by a raster's values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.geom import point
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

from coseis.errors import UsageError
from coseis.grid import crs_of
from coseis.windows import Chunk

DRIVERS = {".asc": "AAIGrid", ".flt": "EHdr"}
"""By the ending of a name; what is not here is a GeoTIFF. No format that names other files."""


def order_chunks(chunks: Sequence[Chunk], geobox: GeoBox, first: str | None) -> list[Chunk]:
    """The chunks by what is wanted first; of equals, and without a wish, row by row.

    Args:
        chunks: Row by row.
        geobox: Their grid.
        first: `longitude,latitude` in degrees, such as the epicentre: the nearest come first. Or a raster
            file, such as shaking intensity: those with the greatest value come first, those beyond it last.

    Raises:
        UsageError: neither, or a raster without values on the grid.
    """
    if first is None:
        return list(chunks)
    place = _place(first)
    if place is None:
        keys = -_strongest(chunks, geobox, first)
    else:
        x, y = point(*place, "EPSG:4326").to_crs(crs_of(geobox)).coords[0]
        column, row = ~geobox.affine @ (x, y)
        middles = np.array([(c.y0 + c.height / 2, c.x0 + c.width / 2) for c in chunks]).reshape(-1, 2)
        keys = np.hypot(*(middles - (row, column)).T)
    return [chunks[number] for number in np.argsort(keys, kind="stable")]


def _place(first: str) -> tuple[float, float] | None:
    """Longitude and latitude; None for what is no pair of numbers."""
    try:
        longitude, latitude = (float(part) for part in first.split(","))
    except ValueError:
        return None
    if not (-180 <= longitude <= 180 and -90 <= latitude <= 90):
        raise UsageError(f"first {first!r} is no place; expected longitude,latitude in degrees")
    return longitude, latitude


def _strongest(chunks: Sequence[Chunk], geobox: GeoBox, path: str) -> NDArray[np.float64]:
    """The raster's value at the middle of each chunk, -inf where it has none."""
    if not Path(path).is_file():
        raise UsageError(f"first {path!r} is neither longitude,latitude in degrees nor a raster file")
    driver = DRIVERS.get(Path(path).suffix.lower(), "GTiff")
    try:
        with (
            rasterio.open(Path(path).resolve(), driver=driver) as source,
            WarpedVRT(source, crs=crs_of(geobox).wkt, resampling=Resampling.nearest) as raster,
        ):
            middles = [geobox.affine @ (c.x0 + c.width / 2, c.y0 + c.height / 2) for c in chunks]
            samples = raster.sample(middles, indexes=1, masked=True)
            values = np.array([np.ma.filled(sample.astype(float), -np.inf)[0] for sample in samples])
    except RasterioError as error:
        raise UsageError(f"first {path} cannot be read as a raster: {error}") from error
    if not np.isfinite(values).any():
        raise UsageError(f"first {path} has no value anywhere on the grid of the run")
    return np.where(np.isnan(values), -np.inf, values)
