"""Small scenes and patches for tests: GeoTIFFs with known pixels, and the values that describe them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.warp import transform_geom

from coseis.card import ModelCard, Normalization, Stretch
from coseis.event import Event, Found
from coseis.training.patches import Patch, scene_percentiles
from coseis.types import LABEL_IGNORE, BandSource, Scene
from coseis.usable import UDM2_BANDS

BANDS = ("red", "green", "blue")
EVENT_TIME = datetime(2018, 9, 5, 18, 8, tzinfo=UTC)
UTM = "EPSG:32654"
ORIGIN = (583200.0, 4737000.0)
"""Upper left corner of the test grids, a whole multiple of 3 m."""


def grid(height: int, width: int, *, resolution_m: float = 3.0) -> GeoBox:
    affine = Affine(resolution_m, 0, ORIGIN[0], 0, -resolution_m, ORIGIN[1])
    return GeoBox((height, width), affine, UTM)


def texture(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """uint8 noise with structure at several scales, 1-255, so that 0 may mean nodata."""
    rng = np.random.default_rng(seed)
    out = np.zeros(shape)
    for step in (1, 4, 16, 64):
        coarse = rng.normal(size=(*shape[:-2], -(-shape[-2] // step), -(-shape[-1] // step)))
        out += np.kron(coarse, np.ones((step, step)))[..., : shape[-2], : shape[-1]] * step**0.3
    return np.clip(out * 20 + 110, 1, 255).astype(np.uint8)


def write_scene(
    path: Path,
    pixels: np.ndarray,
    affine: Affine,
    *,
    crs: str = UTM,
    phase: str = "post",
    index: int = 0,
    nodata: float | None = 0,
    cloud: float | None = 0.0,
) -> Scene:
    """Writes (band, y, x) pixels as a tiled GeoTIFF and returns its Scene; uint8 is display."""
    profile = {
        "driver": "GTiff", "count": len(pixels), "dtype": pixels.dtype, "height": pixels.shape[1],
        "width": pixels.shape[2], "crs": crs, "transform": affine, "nodata": nodata, "tiled": True,
        "blockxsize": 256, "blockysize": 256, "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
        bounds = file.bounds
    left, bottom, right, top = bounds
    ring = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    geometry = transform_geom(crs, "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})
    display = pixels.dtype == np.uint8
    sources = tuple(
        BandSource(
            band=band,
            asset="visual",
            href=str(path),
            index=number,
            nodata=nodata,
            scale=1.0 if display else 1e-4,
        )
        for number, band in enumerate(BANDS[: len(pixels)], 1)
    )
    moment = EVENT_TIME.replace(month=8 if phase == "pre" else 10)
    return Scene(
        index=index, item_id=f"{phase}-{path.stem}", collection="test", phase=phase,
        kind="display" if display else "reflectance", sources=sources, start=moment, end=moment,
        cloud_cover=cloud, resolution_m=abs(affine.a) if crs == UTM else None, geometry=geometry,
    )  # fmt: skip


def write_udm2(
    path: Path,
    classes: dict[str, tuple[slice, slice]],
    shape: tuple[int, int],
    affine: Affine,
    *,
    crs: str = UTM,
) -> BandSource:
    """Writes a usable data mask of eight bands, clear but where `classes` names a rectangle."""
    flags = np.zeros((len(UDM2_BANDS), *shape), np.uint8)
    flags[0] = 1
    for name, place in classes.items():
        flags[0][place] = 0
        flags[UDM2_BANDS.index(name)][place] = 4 if name == "unusable" else 1
    profile = {
        "driver": "GTiff", "count": len(flags), "dtype": "uint8", "height": shape[0], "width": shape[1],
        "crs": crs, "transform": affine, "tiled": True, "blockxsize": 256, "blockysize": 256,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(flags)
    return BandSource(band="udm2", asset="udm2", href=str(path), index=1)


def area_of(geobox: GeoBox, *, inset_px: float = 0) -> dict:
    """The grid's rectangle as a GeoJSON polygon in degrees."""
    corners = [
        (inset_px, inset_px), (inset_px, geobox.shape.y - inset_px),
        (geobox.shape.x - inset_px, geobox.shape.y - inset_px), (geobox.shape.x - inset_px, inset_px),
    ]  # fmt: skip
    ring = [geobox.affine @ corner for corner in [*corners, corners[0]]]
    return dict(transform_geom(UTM, "EPSG:4326", {"type": "Polygon", "coordinates": [ring]}))


def found_of(scenes: list[Scene], aoi: dict) -> Found:
    numbered = tuple(scene.model_copy(update={"index": number}) for number, scene in enumerate(scenes))
    return Found(event=Event(time=EVENT_TIME, aoi=aoi), scenes=numbered, coverage={}, searched="test scenes")


def a_card(**changes: Any) -> ModelCard:
    """A card of a network with two base filters, normalized by scene."""
    values: dict[str, Any] = {
        "name": "tiny",
        "bands": ("red", "green", "blue"),
        "inputs": {"display": Stretch(low=0, high=255)},
        "normalization": Normalization(kind="scene"),
        "resolution_m": (2.5, 6),
        "padding": "same",
        "base_filters": 2,
        "halo_px": 96 if changes.get("padding", "same") == "same" else 94,
        "weights_sha256": "",
    }
    return ModelCard(**(values | changes))


def a_patch(height: int = 40, width: int = 56, seed: int = 0, group: str = "event") -> Patch:
    """Noise, a landslide wherever the first band is bright."""
    intensity = np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)
    return Patch(intensity, (intensity[..., 0] > 0.7).astype(np.uint8), group, scene_percentiles(intensity))


def a_labelled_patch(mask: np.ndarray, group: str = "event", weight: float = 1.0) -> Patch:
    """Labels uint8 (y, x) under a black image."""
    image = np.zeros((*mask.shape, 3), np.float32)
    return Patch(image, mask, group, np.zeros((3, 3), np.float32), weight=weight)


def scattered_labels(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Background, two classes and unknown truth, pixel by pixel."""
    values = np.array([0, 0, 0, 1, 2, LABEL_IGNORE], np.uint8)
    return np.random.default_rng(seed).choice(values, shape)
