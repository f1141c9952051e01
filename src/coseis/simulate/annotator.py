"""Exact outlines of landslides in, what a person would have drawn out: smooth, merged, some forgotten."""

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

LEAST_AREA_M2 = 400.0
JITTER_M = (3.0, 6.0)
"""Standard deviation of the distance between the drawn and the true outline: each polygon has its own."""
FORGOTTEN_SHARE = 0.05
JOINED_M = 6.0
"""Landslides closer than this are drawn as one."""
VERTEX_M = 8.0
SMOOTH_VERTICES = 2.5


def annotate(outlines: NDArray[np.object_], *, seed: int) -> NDArray[np.object_]:
    """The polygons of a simulated annotator, in the order of their place, valid and apart from each other.

    Args:
        outlines: shapely polygons (n,), metres; they may overlap.
        seed: equal seeds give equal polygons.
    """
    rng = np.random.default_rng([seed, 9])
    half = JOINED_M / 2
    joined = shapely.buffer(shapely.union_all(shapely.buffer(outlines, half)), -half)
    parts = shapely.get_parts(joined)
    parts = parts[shapely.area(parts) >= LEAST_AREA_M2]
    kept = rng.random(len(parts)) >= FORGOTTEN_SHARE
    drawn = [_redraw(rng, part, rng.uniform(*JITTER_M)) for part in parts[kept]]
    whole = shapely.get_parts(shapely.union_all(drawn)) if drawn else np.empty(0, object)
    return np.asarray(whole[shapely.area(whole) >= LEAST_AREA_M2])


def _redraw(rng: np.random.Generator, polygon: shapely.Polygon, jitter_m: float) -> shapely.Geometry:
    """The polygon with vertices moved across its outline, neighbours alike; nobody draws small holes."""
    rings = [polygon.exterior, *(r for r in polygon.interiors if shapely.Polygon(r).area >= LEAST_AREA_M2)]
    shell, *holes = (_wobble(rng, ring, jitter_m) for ring in rings)
    drawn = shapely.make_valid(shapely.Polygon(shell))
    for hole in holes:
        drawn = shapely.difference(drawn, shapely.make_valid(shapely.Polygon(hole)))
    parts = shapely.get_parts(drawn)
    polygonal = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    return polygonal[np.argmax(shapely.area(polygonal))] if len(polygonal) else shapely.Polygon()


def _wobble(rng: np.random.Generator, ring: shapely.LinearRing, jitter_m: float) -> NDArray[np.float64]:
    """Points (n, 2) along a ring, each moved across it by smooth noise of the given standard deviation."""
    count = max(8, round(ring.length / VERTEX_M))
    points = shapely.get_coordinates(
        shapely.line_interpolate_point(ring, np.arange(count) / count, normalized=True)
    )
    tangent = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    normal /= np.maximum(np.hypot(*normal.T)[:, None], 1e-9)
    noise = ndimage.gaussian_filter1d(rng.standard_normal(count), SMOOTH_VERTICES, mode="wrap")
    noise *= jitter_m / max(float(noise.std()), 1e-9)
    return np.asarray(points + normal * noise[:, None])
