"""The output grid and what lies on it: areas in degrees go in, geoboxes, footprints and masks come out."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from pyproj.exceptions import CRSError
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from coseis.errors import UsageError
from coseis.types import Scene

MOST_SIDE_PX = 2**20
"""Longest side of a grid: 3,100 km at 3 m, five UTM zones; more is a mistake in the pixel size."""
FOOTPRINT_MARGIN_PX = 32
"""How far a scene's file may reach beyond its footprint in the catalog."""
DENSIFY_DEG = 0.01
"""Edges given in degrees are cut to pieces this long before they are projected: they bend."""


def output_geobox(aoi: dict[str, Any], *, resolution_m: float, crs: str | None = None) -> GeoBox:
    """The output grid: the UTM zone of the AOI's centre, snapped to whole multiples of the pixel size.

    Snapped so, Planet's own 3 m grids coincide with it and need no warp.

    Args:
        aoi: GeoJSON geometry, longitude and latitude.
        resolution_m: Pixel size, metres.
        crs: Use this projected CRS instead of the UTM zone.

    Raises:
        UsageError: the CRS is not projected in metres, or not known, or the grid would be too large.
    """
    area = Geometry(aoi, "EPSG:4326")
    centre = area.centroid
    try:
        target = CRS(crs) if crs else CRS.utm(centre.coords[0][0], centre.coords[0][1])
    except CRSError as error:
        raise UsageError(f"output CRS {crs!r} is not known; give a UTM zone, e.g. EPSG:32654") from error
    if not target.projected or target.units[0] not in ("metre", "m"):
        raise UsageError(f"output CRS {crs} is not projected in metres; give a UTM zone, e.g. EPSG:32654")
    area = area.to_crs(target, resolution=DENSIFY_DEG)
    west, south, east, north = area.boundingbox
    side_px = max(east - west, north - south) / resolution_m
    if side_px > MOST_SIDE_PX:
        raise UsageError(
            f"the grid would have {side_px:.3g} pixels a side; at most {MOST_SIDE_PX} are expected: is the "
            f"pixel size of {resolution_m:g} m right, and the area in degrees?"
        )
    return GeoBox.from_bbox(area.boundingbox, crs=target, resolution=resolution_m, anchor="edge")


def native_resolution_m(scenes: Sequence[Scene]) -> float:
    """Pixel size of the best post scene that states one, metres.

    Raises:
        UsageError: none does.
    """
    for scene in sorted(scenes, key=lambda scene: scene.phase != "post"):
        if scene.resolution_m:
            return scene.resolution_m
    raise UsageError("no scene states its resolution (gsd); give --resolution in metres")


def crs_of(geobox: GeoBox) -> CRS:
    """The CRS of a grid.

    Raises:
        UsageError: it has none, or none with an EPSG code.
    """
    if geobox.crs is None or geobox.crs.epsg is None:
        raise UsageError("the output grid needs a CRS with an EPSG code, e.g. EPSG:32654")
    return geobox.crs


def epsg_of(geobox: GeoBox) -> int:
    """EPSG code of a grid's CRS: the name of its group in the cube. Raises UsageError if it has none."""
    return int(crs_of(geobox).epsg or 0)


def scenes_touching(scenes: Sequence[Scene], geobox: GeoBox, window: Window) -> tuple[Scene, ...]:
    """The scenes whose footprint's bounding box meets a window, in their order."""
    bounds = window_bounds(geobox, window)
    return tuple(scene for scene in scenes if _meet(footprint_bounds(scene, geobox), bounds))


class SceneIndex:
    """Scenes by their place: a region has thousands, and is asked for those of as many chunks."""

    def __init__(self, scenes: Sequence[Scene], geobox: GeoBox) -> None:
        self._scenes, self._geobox = tuple(scenes), geobox
        self._bounds = [footprint_bounds(scene, geobox) for scene in scenes]
        self._tree = shapely.STRtree([shapely.box(*sides) for sides in self._bounds])

    def touching(self, window: Window) -> tuple[Scene, ...]:
        """As `scenes_touching` says."""
        bounds = window_bounds(self._geobox, window)
        near = sorted(self._tree.query(shapely.box(*bounds)))
        return tuple(self._scenes[number] for number in near if _meet(self._bounds[number], bounds))


def pixels_inside(geometry: dict[str, Any], geobox: GeoBox, window: Window) -> NDArray[np.bool_]:
    """Which pixel centres lie in a geometry. A pure function of each pixel, whatever the window."""
    shape = (window.height, window.width)
    polygon = footprint(geometry, geobox)
    window_box = shapely.box(*window_bounds(geobox, window))
    if polygon.contains(window_box):
        return np.ones(shape, bool)
    if not polygon.intersects(window_box):
        return np.zeros(shape, bool)
    columns = np.arange(window.col_off, window.col_off + window.width) + 0.5
    rows = np.arange(window.row_off, window.row_off + window.height) + 0.5
    x = geobox.affine.c + columns * geobox.affine.a
    y = geobox.affine.f + rows * geobox.affine.e
    xx, yy = np.meshgrid(x, y)
    return shapely.contains_xy(polygon, xx, yy)


def footprint(geometry: dict[str, Any], geobox: GeoBox) -> BaseGeometry:
    """A GeoJSON geometry in degrees as a prepared shapely geometry in the grid's CRS."""
    return _projected(json.dumps(geometry), crs_of(geobox))


def footprint_bounds(scene: Scene, geobox: GeoBox) -> tuple[float, float, float, float]:
    """(left, bottom, right, top) within which a scene is used at all, in the grid's CRS.

    Its footprint's, moved as the scene is, and a margin for coordinates that the catalog has rounded. Whether
    a scene is read for a window and which of its pixels count both follow from these bounds, so no pixel
    depends on the window.
    """
    west, south, east, north = footprint(scene.geometry, geobox).bounds
    margin = FOOTPRINT_MARGIN_PX * abs(geobox.affine.a)
    down, right = scene.shift_m
    return (
        west + right - margin,
        south - down - margin,
        east + right + margin,
        north - down + margin,
    )


def window_bounds(geobox: GeoBox, window: Window) -> tuple[float, float, float, float]:
    """(left, bottom, right, top) of a window of the grid, in its CRS."""
    left, top = geobox.affine @ (window.col_off, window.row_off)
    right, bottom = geobox.affine @ (window.col_off + window.width, window.row_off + window.height)
    return left, bottom, right, top


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Whether two boxes (left, bottom, right, top) share more than their edges."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@lru_cache(maxsize=4096)
def _projected(geometry: str, crs: CRS) -> BaseGeometry:
    area = Geometry(json.loads(geometry), "EPSG:4326").to_crs(crs, resolution=DENSIFY_DEG)
    polygon: BaseGeometry = area.geom
    shapely.prepare([polygon])
    return polygon
