"""Polygons in, what their outlines tell out: length, width, size, volume, and whether one is several."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from coseis.statistics.areas import FloatArray
from coseis.statistics.volume import GUZZETTI, LARSEN_SOIL

SIZES_M2 = (0.0, 400.0, 1000.0, 3000.0, 10_000.0, 100_000.0)
"""Least area of each size class; from 400 m2 on those that an evaluation counts by."""
SEVERAL = 0.5
"""Amalgamation from which on an outline is no longer one landslide's: ellipticity below one half."""
CORNERS = 64
"""Of the polygon that stands for an ellipse; its area is the ellipse's to 0.2 % before it is scaled to it."""

Geometries = NDArray[np.object_]


def shape_attributes(polygons: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The table with what the outlines tell.

    Returns:
        New columns: `length_m` and `width_m`, the sides of the smallest rectangle around the outline, in any
        direction (a landslide that is wider than long has them swapped: which way is down is not in an
        outline); `amalgamation`, 0-1, the share of the landslide outside of the ellipse of its area that its
        hull is like: from SEVERAL on it is likely to be several that run into each other; `size_class`, by
        `area_m2`.

    Reference:
        Niculita (2016), doi:10.5194/nhess-16-2021-2016, for the rectangle. Taylor et al. (2018),
        doi:10.1002/esp.4479, for the ellipse: one in five of their landslides is below an ellipticity of one
        half, coalescence being a reason. Marc and Hovius (2015), doi:10.5194/nhess-15-723-2015, for what it
        does to sizes and volumes.
    """
    outlines = planar(polygons.geometry).to_numpy()
    area_m2 = polygons["area_m2"].to_numpy()
    sides, direction = _rectangles(outlines)
    return polygons.assign(
        length_m=sides[:, 0],
        width_m=sides[:, 1],
        amalgamation=1 - ellipticity(outlines, direction),
        size_class=name_sizes(area_m2),
        volume_m3=GUZZETTI.volume_m3(area_m2),
        volume_soil_m3=LARSEN_SOIL.volume_m3(area_m2),
    )


def planar(shapes: gpd.GeoSeries) -> gpd.GeoSeries:
    """The same in metres: as they are, or in the UTM zone of their middle."""
    crs = shapes.crs
    in_metres = crs is not None and crs.is_projected and crs.axis_info[0].unit_name == "metre"
    return shapes if in_metres or not len(shapes) else shapes.to_crs(shapes.estimate_utm_crs())


def name_sizes(area_m2: FloatArray) -> NDArray[Any]:
    """Size class of each area, str (landslides,)."""
    names = [f"{low:g}-{high:g} m2" for low, high in pairwise(map(int, SIZES_M2))]
    named = np.array(["under 400 m2", *names[1:], f"over {int(SIZES_M2[-1])} m2"])
    classes: NDArray[Any] = named[np.digitize(area_m2, SIZES_M2) - 1]
    return classes


def ellipticity(outlines: Geometries, direction: FloatArray) -> FloatArray:
    """Share of each outline within its ellipse, float64 (outlines,), 0-1.

    The ellipse has area and perimeter of the convex hull in ratio, the outline's own area, centroid and
    direction.

    Args:
        outlines: object (outlines,), polygons in metres.
        direction: float64 (outlines, 2), unit vectors along them.
    """
    hull = shapely.convex_hull(outlines)
    area = shapely.area(outlines)
    # Ramanujan's perimeter of an ellipse, solved for the sum t of the root of its axes' ratio and its
    # inverse.
    around = shapely.length(hull) / np.sqrt(np.pi * np.maximum(shapely.area(hull), np.finfo(float).tiny))
    t = np.maximum((6 * around + np.sqrt(12 * around**2 + 96)) / 12, 2)
    root = (t + np.sqrt(t**2 - 4)) / 2
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    polygon_m2 = CORNERS / 2 * np.sin(2 * np.pi / CORNERS)
    radius = np.sqrt(area / polygon_m2)
    along, across = radius * root, radius / root
    x = along[:, None] * np.cos(angle)
    y = across[:, None] * np.sin(angle)
    centre = shapely.centroid(outlines)
    ring = np.stack(
        [
            shapely.get_x(centre)[:, None] + direction[:, :1] * x - direction[:, 1:] * y,
            shapely.get_y(centre)[:, None] + direction[:, 1:] * x + direction[:, :1] * y,
        ],
        axis=2,
    )
    ellipses = shapely.polygons(ring) if len(ring) else np.zeros(0, object)
    shared: FloatArray = shapely.area(shapely.intersection(outlines, ellipses))
    return np.clip(shared / area, 0, 1)


def _rectangles(outlines: Geometries) -> tuple[FloatArray, FloatArray]:
    """Sides of the smallest rectangle, the longer first, and its direction; float64 (outlines, 2) each."""
    if not len(outlines):
        return np.zeros((0, 2)), np.zeros((0, 2))
    corners = shapely.get_coordinates(shapely.oriented_envelope(outlines)).reshape(-1, 5, 2)
    edges = np.diff(corners[:, :3], axis=1)
    sides = np.hypot(edges[..., 0], edges[..., 1])
    longer = sides.argmax(axis=1)
    every = np.arange(len(outlines))
    return np.sort(sides, axis=1)[:, ::-1], edges[every, longer] / sides[every, longer, None]
