"""From an exposed window of ground, the files and the STAC item that Planet would deliver for it."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from rasterio.enums import Resampling
from shapely.geometry.base import BaseGeometry

from coseis.simulate.scenes import BANDS, BoolArray, Look, Sky
from coseis.simulate.sensor import Exposure

SR_SCALE = 0.0001
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
EXTENSIONS = [
    "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    "https://stac-extensions.github.io/view/v1.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
]
SR_BANDS = [
    {"name": "Blue", "common_name": "blue", "center_wavelength": 0.485, "full_width_half_max": 0.06},
    {"name": "Green", "common_name": "green", "center_wavelength": 0.57, "full_width_half_max": 0.04},
    {"name": "Red", "common_name": "red", "center_wavelength": 0.63, "full_width_half_max": 0.08},
    {"name": "Near-Infrared", "common_name": "nir", "center_wavelength": 0.82, "full_width_half_max": 0.08},
]
UDM2_BANDS = (
    "Clear map (0: not clear, 1: clear)",
    "Snow map (0: no snow or ice, 1: snow or ice)",
    "Shadow map (0: no shadow, 1: shadow)",
    "Light haze map (0: no light haze, 1: light haze)",
    "Heavy haze map (0: no heavy haze, 1: heavy haze)",
    "Cloud map (0: no cloud, 1: cloud)",
    "Confidence map (percentage value: per-pixel algorithmic confidence in classification)",
    "Unusable pixels",
)


def write_scene(
    folder: Path,
    item_id: str,
    exposure: Exposure,
    *,
    grid: GeoBox,
    footprint: BaseGeometry,
    inside: BoolArray,
    taken: tuple[datetime, Look],
) -> pystac.Item:
    """Write one scene's reflectance and usable data mask as COGs, and return its item.

    Args:
        folder: existing or new folder of the item; the item's own JSON is left to the caller.
        item_id: Planet's form, date_time_satellite.
        exposure: the camera's view of the whole window, (y, x) as `grid`.
        grid: the scene's pixels.
        footprint: outline of what was seen, in the CRS of `grid`.
        inside: bool (y, x), pixels within the footprint; the others become nodata.
        taken: time of acquisition, and how it was taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.round(exposure.reflectance / SR_SCALE).astype(np.uint16)
    stored[:, ~inside] = 0
    names = {"sr": f"{item_id}_3B_AnalyticMS_SR", "udm2": f"{item_id}_3B_udm2"}
    write_cog(folder / f"{names['sr']}.tif", stored, grid, nodata=0, descriptions=BANDS)
    udm2 = _udm2(exposure, inside)
    words = tuple(text.split(" (")[0] for text in UDM2_BANDS)
    write_cog(folder / f"{names['udm2']}.tif", udm2, grid, nodata=None, descriptions=words)

    cloud_percent = round(100 * float((exposure.called[inside] == Sky.CLOUD).mean()), 1)
    item = _item(item_id, footprint, grid, taken, cloud_percent)
    sr_bands = [{"nodata": 0, "data_type": "uint16", "spatial_resolution": 3.0, "scale": SR_SCALE}] * 4
    udm2_bands = [{"data_type": "uint8", "spatial_resolution": 3.0}] * 8
    described = [{"name": f"B{k}", "description": text} for k, text in enumerate(UDM2_BANDS, 1)]
    _add_asset(item, names["sr"], "ortho_analytic_4b_sr", grid, sr_bands, SR_BANDS, ["data", "reflectance"])
    roles = ["data", "snow-ice", "cloud", "cloud-shadow"]
    _add_asset(item, names["udm2"], "ortho_udm2", grid, udm2_bands, described, roles)
    return item


def write_cog(
    path: Path,
    array: NDArray[np.generic],
    grid: GeoBox,
    *,
    nodata: float | None,
    descriptions: tuple[str, ...] = (),
) -> None:
    """Write an array, (y, x) or (band, y, x), as a deflated cloud-optimized GeoTIFF with overviews."""
    bands = array if array.ndim == 3 else array[None]
    floating = np.issubdtype(bands.dtype, np.floating)
    # Classes and masks must not be averaged in overviews.
    resampling = Resampling.average if floating or bands.dtype == np.uint16 else Resampling.nearest
    with rasterio.open(
        path,
        "w",
        driver="COG",
        count=bands.shape[0],
        height=grid.height,
        width=grid.width,
        dtype=bands.dtype.name,
        crs=f"EPSG:{grid.crs.epsg if grid.crs else 0}",
        transform=grid.transform,
        nodata=nodata,
        compress="DEFLATE",
        level=1,  # noise does not compress: higher levels cost time and save nothing
        predictor="FLOATING_POINT" if floating else "STANDARD",
        blocksize=512,
        overview_resampling=resampling.name,
        num_threads="ALL_CPUS",
        bigtiff="IF_SAFER",
    ) as target:
        target.write(bands)
        for number, text in enumerate(descriptions, 1):
            target.set_band_description(number, text)


def _udm2(exposure: Exposure, inside: BoolArray) -> NDArray[np.uint8]:
    """Planet's usable data mask, uint8 (8, y, x); every pixel inside has exactly one of the six classes."""
    udm2 = np.zeros((8, *inside.shape), np.uint8)
    for sky in Sky:
        udm2[sky - 1] = (exposure.called == sky) & inside
    hidden = inside & (exposure.called != Sky.CLEAR)
    udm2[6] = np.where(inside, np.where(hidden, 78, 96), 0)
    udm2[7] = np.where(inside, 2 * udm2[5], 1)  # bit 0: outside the footprint, bit 1: cloud
    return udm2


def _item(
    item_id: str,
    footprint: BaseGeometry,
    grid: GeoBox,
    taken: tuple[datetime, Look],
    cloud_percent: float,
) -> pystac.Item:
    when, look = taken
    outline = Geometry(footprint, grid.crs).to_crs("EPSG:4326")
    bounds = outline.boundingbox
    stamp = when.strftime("%Y-%m-%dT%H:%M:%SZ")
    properties: dict[str, Any] = {
        "created": stamp,
        "updated": stamp,
        "published": stamp,
        "gsd": 3.0,
        "constellation": "planetscope",
        "platform": item_id.rsplit("_", 1)[1],
        "instruments": ["PS2"],
        "eo:cloud_cover": cloud_percent,
        "view:off_nadir": 2.0,
        "view:sun_azimuth": look.sun_azimuth_deg,
        "view:sun_elevation": look.sun_elevation_deg,
        "pl:ground_control": True,
        "pl:item_type": "PSScene",
        "pl:pixel_resolution": 3,
        "pl:publishing_stage": "finalized",
        "pl:quality_category": "standard",
        "pl:strip_id": item_id.replace("_", ""),
        "proj:epsg": grid.crs.epsg if grid.crs else None,
    }
    return pystac.Item(
        id=item_id,
        geometry=outline.json,
        bbox=[bounds.left, bounds.bottom, bounds.right, bounds.top],
        datetime=when,
        properties=properties,
        stac_extensions=list(EXTENSIONS),
    )


def _add_asset(
    item: pystac.Item,
    name: str,
    asset_type: str,
    grid: GeoBox,
    raster_bands: list[dict[str, Any]],
    eo_bands: list[dict[str, Any]],
    roles: list[str],
) -> None:
    """Add the file `name`.tif beside the item, keyed as Planet's API does."""
    bounds = grid.boundingbox
    fields = {
        "pl:asset_type": asset_type,
        "pl:bundle_type": "analytic_sr_udm2",
        "raster:bands": raster_bands,
        "eo:bands": eo_bands,
        "proj:epsg": grid.crs.epsg if grid.crs else None,
        "proj:bbox": [bounds.left, bounds.bottom, bounds.right, bounds.top],
        "proj:shape": [grid.height, grid.width],
        "proj:transform": [*grid.transform[:6], 0.0, 0.0, 1.0],
    }
    asset = pystac.Asset(href=f"./{name}.tif", media_type=COG_TYPE, roles=roles, extra_fields=fields)
    item.add_asset(f"{name}_file_format_tif", asset)
