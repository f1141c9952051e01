"""Small DEMs for tests: surfaces with known slope, written as GeoTIFFs."""

import json
from pathlib import Path

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.warp import transform_bounds

from coseis.dem import Dem
from coseis.dem_search import find_dem
from making import ORIGIN, UTM


def hills(height: int, width: int, *, seed: int = 0, pixel_m: float = 30.0) -> np.ndarray:
    """float32 (y, x), metres: `height_at` the pixels of a grid whose corner is 0, 0."""
    row, col = np.mgrid[:height, :width] + 0.5
    return height_at(col * pixel_m, -row * pixel_m, seed=seed)


def height_at(x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """float32, metres: a few waves of 300 m to 2 km length, slopes up to about 40 degrees."""
    rng = np.random.default_rng(seed)
    z = np.full(x.shape, 300.0)
    for length_m in (300, 500, 900, 2000):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        along = x * np.cos(angle) + y * np.sin(angle)
        z += length_m / 25 * np.sin(2 * np.pi * along / length_m + phase)
    return z.astype(np.float32)


def write_dem(
    path: Path,
    elevation: np.ndarray,
    *,
    affine: Affine | None = None,
    pixel_m: float = 30.0,
    crs: str | None = UTM,
    nodata: float | None = None,
) -> Path:
    """Writes (y, x) or (band, y, x) elevations as a GeoTIFF, its corner at `making.ORIGIN` unless told."""
    bands = elevation if elevation.ndim == 3 else elevation[None]
    profile = {
        "driver": "GTiff", "count": len(bands), "dtype": bands.dtype, "height": bands.shape[1],
        "width": bands.shape[2], "crs": crs, "nodata": nodata, "tiled": True, "blockxsize": 64,
        "blockysize": 64, "transform": affine or Affine(pixel_m, 0, ORIGIN[0], 0, -pixel_m, ORIGIN[1]),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(bands)
    return path


def dem_of(path: Path) -> Dem:
    """The DEM of one file, over all of it."""
    with rasterio.open(path) as file:
        area = shapely.box(*transform_bounds(file.crs, "EPSG:4326", *file.bounds))
    return find_dem(str(path), json.loads(shapely.to_geojson(area)))
