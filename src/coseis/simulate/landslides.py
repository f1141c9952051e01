"""From a terrain and a seed, the landslides of one earthquake: where, how large, and each one's outline."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray
from scipy import ndimage, stats
from scipy.spatial import cKDTree

from coseis.simulate.terrain import (
    CELL_M,
    MARGIN_CELLS,
    PIXEL_M,
    FloatArray,
    Preset,
    Terrain,
    slope_deg,
    smooth_noise,
)

Positions = NDArray[np.float64]

SIZE_LAW = stats.invgamma(1.40, loc=-132.0, scale=1500.0)
"""Landslide area, square metres: the three-parameter inverse gamma law (Malamud et al., 2004,
doi:10.1002/esp.1064) with their exponent and shift, and the scale that gives the mean of 3,650 m2 mapped
after the 2018 Eastern Iburi earthquake."""
LEAST_AREA_M2 = 100.0
GREATEST_AREA_M2 = 500_000.0
DENSITY_PER_KM2 = 14.0
"""9,314 landslides on 671.87 km2."""
TEPHRA_RANGE_M, FIRM_SHARE = 900.0, 0.58
"""How far patches of thick, loose tephra reach, and the share of the map that has none and holds."""
SLOPE_BELL_DEG: dict[Preset, tuple[float, float]] = {"iburi": (20.0, 7.0), "steep": (35.0, 8.0)}
"""Slope at which landslides are likeliest, and the standard deviation around it."""
REACH_M, REACH_POWER, REACH_SD = 18.454, 0.612, 0.3
"""Length over drop to the power, both in metres, and the standard deviation of its logarithm: how far the
landslides of the 2018 earthquake ran, fluid tephra that came to rest on valley floors."""
PLACES = 16
"""Heads tried for each landslide: the one whose path has the drop that goes with its length is taken."""
CROWDED, CROWDED_ROUNDS = 0.7, 3
"""What a place on top of another landslide costs, in units of the law's logarithm, and how often all move."""
STEP_PX = 2.0**-10
"""Of the corners of outlines: 3 mm."""
POINTS = 36
"""Points along one path; a small landslide has them closer."""
SOURCE_SHARE = 0.6
"""Upper share of the path that is scar; the rest is runout."""


@dataclass(frozen=True)
class Landslides:
    """Landslides of one event, in pixel coordinates (x right, y down, 0 at the map's upper left corner)."""

    bodies: NDArray[np.object_]
    """A valid shapely Polygon each; bodies may overlap, as neighbouring landslides merge."""
    runouts: NDArray[np.object_]
    """The lower part of each body: a polygon that lies mostly inside it."""
    crowns: Positions
    """Pixels, (2, n), y and x: where each started."""

    @property
    def area_m2(self) -> NDArray[np.float64]:
        """Area of each body."""
        return np.asarray(shapely.area(self.bodies)) * PIXEL_M**2


def make_landslides(
    terrain: Terrain,
    *,
    seed: int,
    density_per_km2: float = DENSITY_PER_KM2,
    event: int = 0,
    again: Positions | None = None,
) -> Landslides:
    """Set off landslides where the ground shook and the slope is right, and let each run down the slope.

    Args:
        terrain: the carved landscape.
        seed: equal seeds give equal polygons.
        density_per_km2: mean number per square kilometre; they cluster by shaking.
        event: 0 for the earthquake that is mapped; other numbers give other, earlier events.
        again: pixels, (2, k), y and x, where so many of the landslides start: in scars that move again.
    """
    rng = np.random.default_rng([seed, 3, event])
    map_km2 = (terrain.size_px * PIXEL_M / 1000) ** 2
    count = max(1, round(density_per_km2 * map_km2))
    areas_m2 = draw_areas_m2(rng, count, greatest_m2=min(GREATEST_AREA_M2, 0.02 * map_km2 * 1e6))
    heads = _draw_heads(rng, terrain, PLACES * count).reshape(2, PLACES, count)
    if again is not None:
        again = again[:, :count]
        heads[:, :, : again.shape[1]] = again[:, None]
    ratio = np.clip(np.exp(rng.normal(np.log(2.25), 0.4, count)), 1.2, 4.5)
    length_m = np.sqrt(1.35 * areas_m2 * ratio)
    path = _trace(rng, terrain, heads.reshape(2, -1), np.tile(length_m, PLACES))
    path = _choose_places(rng, terrain, path.reshape(POINTS, 2, PLACES, count))
    return _outline(rng, terrain, path, areas_m2)


def draw_areas_m2(
    rng: np.random.Generator, count: int, *, greatest_m2: float = GREATEST_AREA_M2
) -> Positions:
    """Areas from the size law, cut to [100 m2, greatest_m2] by inversion, float64 (count,)."""
    low, high = SIZE_LAW.cdf([LEAST_AREA_M2, greatest_m2])
    return np.asarray(SIZE_LAW.ppf(rng.uniform(low, high, count)))


def susceptibility(rng: np.random.Generator, terrain: Terrain) -> NDArray[np.float64]:
    """Relative likelihood of a landslide, float64 (cell, cell): shaking x weak cover x slope x form."""
    height = ndimage.gaussian_filter(terrain.coarse_elevation_m, 1.1)
    peak, spread = SLOPE_BELL_DEG[terrain.preset]
    bell = np.exp(-0.5 * ((slope_deg(height, CELL_M) - peak) / spread) ** 2)
    curvature = ndimage.gaussian_laplace(height, 2.4)
    hollow = np.where(curvature > np.percentile(curvature, 75), 2.0, 1.0)
    ridge = np.where(curvature < np.percentile(curvature, 20), 1.3, 1.0)
    dry = 1 - ndimage.gaussian_filter(terrain.coarse_plain.astype(np.float32), 1.6)
    inside = np.zeros(height.shape, bool)
    inside[MARGIN_CELLS:-MARGIN_CELLS, MARGIN_CELLS:-MARGIN_CELLS] = True
    tephra = smooth_noise(rng, height.shape, TEPHRA_RANGE_M / CELL_M)
    weak = np.clip(2 * (tephra - np.quantile(tephra[inside], FIRM_SHARE)), 0, 1)
    likelihood = (_shaking(rng, height.shape) * weak * bell * hollow * ridge * dry**4).astype(np.float64)
    likelihood[~inside | terrain.coarse_plain] = 0
    return np.asarray(likelihood)


def _shaking(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Decay from an epicentre beside the map times a lognormal field: sd 0.6, in patches of 0.4-2 km."""
    y, x = (np.arange(n, dtype=np.float32) * CELL_M for n in shape)
    bearing = rng.uniform(0, 2 * np.pi)
    reach_m = 0.7 * CELL_M * max(shape)
    centre = [0.5 * CELL_M * n + reach_m * f(bearing) for n, f in zip(shape, (np.sin, np.cos), strict=True)]
    distance = np.hypot(y[:, None] - centre[0], x[None, :] - centre[1])
    local = smooth_noise(rng, shape, 800 / CELL_M)
    patchy = smooth_noise(rng, shape, 160 / CELL_M)
    return np.asarray(np.exp(0.3 * local + 0.5 * patchy - distance / 12_000), np.float32)


def _draw_heads(rng: np.random.Generator, terrain: Terrain, count: int) -> Positions:
    """Pixel positions (2, count), y and x, of the landslides' upper ends."""
    likelihood = susceptibility(rng, terrain)
    if not likelihood.any():
        likelihood = np.pad(np.ones(np.array(likelihood.shape) - 2 * MARGIN_CELLS), MARGIN_CELLS)
    cells = rng.choice(likelihood.size, size=count, p=likelihood.ravel() / likelihood.sum())
    y, x = np.divmod(cells, likelihood.shape[1])
    jitter = rng.uniform(-0.5, 0.5, (2, count))
    return np.clip(terrain.to_pixel(np.stack([y, x]) + jitter), 0, terrain.size_px)


def _trace(rng: np.random.Generator, terrain: Terrain, heads: Positions, length_m: Positions) -> Positions:
    """Paths of steepest descent with some inertia, pixels, float64 (POINTS, 2, n); slow on the flat."""
    height = ndimage.gaussian_filter(terrain.coarse_elevation_m, 1.1)
    fields = np.gradient(height, CELL_M)
    position = heads.copy()
    direction = np.zeros_like(heads)
    step_px = length_m / PIXEL_M / (POINTS - 1)
    path = [position]
    for _ in range(POINTS - 1):
        cell = terrain.to_cell(position[0], position[1])
        gradient = np.stack([ndimage.map_coordinates(f, cell, order=1, mode="nearest") for f in fields])
        steepness = np.hypot(*gradient)
        downhill = -gradient / np.maximum(steepness, 1e-6)
        direction = 0.7 * direction + 0.3 * downhill + 0.06 * rng.standard_normal(heads.shape)
        direction /= np.maximum(np.hypot(*direction), 1e-6)
        fall = -(direction * gradient).sum(axis=0)
        position = position + direction * step_px * np.clip(fall / 0.05, 0.2, 1)
        path.append(position)
    return np.asarray(ndimage.gaussian_filter1d(np.stack(path), 1.2, axis=0, mode="nearest"))


def _choose_places(rng: np.random.Generator, terrain: Terrain, paths: Positions) -> Positions:
    """Of the paths (POINTS, 2, place, n) of each landslide, one near the law of reach and off the others'."""
    count = paths.shape[-1]
    length_px = np.hypot(*np.diff(paths, axis=0).transpose(1, 0, 2, 3)).sum(axis=0)
    drop_m = _height_m(terrain, paths[0]) - _height_m(terrain, paths[-1])
    excess = np.log(PIXEL_M * length_px / (REACH_M * np.maximum(drop_m, 1) ** REACH_POWER))
    misfit = np.abs(excess - rng.normal(0, REACH_SD, count))
    middles = paths[POINTS // 2].transpose(1, 2, 0)  # (place, n, 2)
    every, crowded = np.arange(count), np.zeros_like(misfit)
    for _ in range(CROWDED_ROUNDS):
        chosen = (misfit + crowded).argmin(axis=0)
        gap_px, nearest = cKDTree(middles[chosen, every]).query(middles, k=2)
        other = np.where(nearest[..., 0] == every, gap_px[..., 1], gap_px[..., 0])
        crowded = np.maximum(crowded, CROWDED * np.clip(1 - other / np.maximum(length_px, 1), 0, 1))
    return paths[:, :, (misfit + crowded).argmin(axis=0), every]


def _outline(rng: np.random.Generator, terrain: Terrain, path: Positions, areas_m2: Positions) -> Landslides:
    """Polygons around the paths whose areas are the wanted ones: widths are scaled until they agree."""
    count = areas_m2.size
    areas_px = areas_m2 / PIXEL_M**2
    length_px = np.hypot(*np.diff(path, axis=0).transpose(1, 0, 2)).sum(axis=0)
    width_px = areas_px / np.maximum(length_px, 1.0) / 0.75
    trunk = _Strand(np.arange(count), path, *_half_widths(rng, count))
    branches = _branch(rng, terrain, trunk, width_px, areas_m2)
    for _ in range(4):
        bodies = _merge(trunk, branches, width_px)
        width_px = width_px * np.clip(areas_px / np.maximum(shapely.area(bodies), 0.5), 0.4, 2.5)
    bodies = _merge(trunk, branches, width_px)
    bodies = _leave_islands(rng, bodies, path, width_px)
    bodies = _largest_parts(shapely.intersection(bodies, shapely.box(0, 0, terrain.size_px, terrain.size_px)))
    kept = shapely.area(bodies) * PIXEL_M**2 >= LEAST_AREA_M2
    start = round(SOURCE_SHARE * POINTS)
    tail = _Strand(trunk.member, path[start:], trunk.left[start:], trunk.right[start:])
    runouts = _ribbons(tail, 1.1 * width_px)
    return Landslides(_snap(bodies[kept]), _snap(runouts[kept]), path[0][:, kept])


def _snap(shapes: NDArray[np.object_]) -> NDArray[np.object_]:
    """Shapes on a grid that metres of a zone hold exactly: rounding them can make two edges cross."""
    return _largest_parts(shapely.set_precision(shapes, STEP_PX))


def _height_m(terrain: Terrain, position: Positions) -> Positions:
    """Elevation at pixel positions (2, ...), metres."""
    cell = terrain.to_cell(position[0], position[1])
    return np.asarray(ndimage.map_coordinates(terrain.coarse_elevation_m, cell, order=1, mode="nearest"))


class _Strand(NamedTuple):
    """Paths with a width on each side: one for the trunk of every landslide, others for side branches."""

    member: NDArray[np.int64]
    """Which landslide each path belongs to, (n,)."""
    path: Positions
    """Pixels, (points, 2, n), y and x."""
    left: Positions
    """Half width to the left in units of the landslide's width, (points, n)."""
    right: Positions


def _half_widths(rng: np.random.Generator, count: int) -> tuple[Positions, Positions]:
    """A round crown, a body that narrows or fans out, a round toe, and uneven flanks."""
    t = np.linspace(0, 1, POINTS)[:, None]
    crown = np.sqrt(1 - (1 - np.clip(t / 0.14, 0.04, 1)) ** 2)
    toe = np.sqrt(1 - np.clip((t - 0.9) / 0.1, 0, 0.98) ** 2)
    narrowing = rng.uniform(-0.25, 0.65, count) * _smoothstep((t - 0.35) / 0.45)
    profile = 0.5 * crown * toe * (1 - narrowing)
    flanks = ndimage.gaussian_filter1d(rng.standard_normal((2, POINTS, count)), 1.5, axis=1)
    uneven = np.exp(0.35 * flanks)
    return profile * uneven[0], profile * uneven[1]


def _branch(
    rng: np.random.Generator, terrain: Terrain, trunk: _Strand, width_px: Positions, areas_m2: Positions
) -> _Strand:
    """Further heads of the larger landslides: they start beside the trunk's and join it on their way down."""
    wanted = np.where(areas_m2 > 3000, rng.poisson(0.7 + areas_m2 / 15_000), 0)
    member = np.repeat(np.arange(areas_m2.size), np.minimum(wanted, 4))
    course = trunk.path[-1] - trunk.path[0]
    lateral = rng.uniform(0.5, 1.2, member.size) * rng.choice([-1.0, 1.0], member.size)
    along = rng.uniform(-0.1, 0.3, member.size)
    sideways = np.stack([-course[1], course[0]]) * width_px / np.maximum(np.hypot(*course), 1e-9)
    heads = trunk.path[0][:, member] + lateral * sideways[:, member] + along * course[:, member]
    higher = _height_m(terrain, heads) > _height_m(terrain, trunk.path[POINTS // 2][:, member])
    member, heads = member[higher], heads[:, higher]  # the others would have to run uphill
    own = trunk.path[:, :, member]
    length_m = (
        PIXEL_M
        * rng.uniform(0.5, 0.9, member.size)
        * np.hypot(*np.diff(own, axis=0).transpose(1, 0, 2)).sum(0)
    )
    joined = _smoothstep(
        (np.linspace(0, 1, POINTS)[:, None, None] - 0.2) / rng.uniform(0.3, 0.6, member.size)
    )
    path = (1 - joined) * _trace(rng, terrain, heads, length_m) + joined * own
    left, right = _half_widths(rng, member.size)
    share = rng.uniform(0.45, 0.8, member.size)
    return _Strand(member, path, share * left, share * right)


def _ribbons(strand: _Strand, width_px: Positions) -> NDArray[np.object_]:
    """Valid polygons (n,) of the strands at the given widths of their landslides."""
    tangent = np.gradient(strand.path, axis=0)
    tangent /= np.maximum(np.hypot(tangent[:, 0], tangent[:, 1])[:, None], 1e-9)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    width = width_px[strand.member]
    left = strand.path + normal * (strand.left * width)[:, None]
    right = strand.path - normal * (strand.right * width)[:, None]
    ring = np.concatenate([left, right[::-1], left[:1]])  # (points, 2, n), y and x
    return _largest_parts(shapely.make_valid(shapely.polygons(ring.transpose(2, 0, 1)[:, :, ::-1])))


def _merge(trunk: _Strand, branches: _Strand, width_px: Positions) -> NDArray[np.object_]:
    """Trunk and branches of each landslide as one polygon."""
    bodies = _ribbons(trunk, width_px)
    for member, ribbon in zip(branches.member, _ribbons(branches, width_px), strict=True):
        bodies[member] = shapely.union(bodies[member], ribbon)
    return _largest_parts(bodies)


def _leave_islands(
    rng: np.random.Generator, bodies: NDArray[np.object_], path: Positions, width_px: Positions
) -> NDArray[np.object_]:
    """Cut islands of standing trees out of some of the large landslides."""
    large = np.flatnonzero((shapely.area(bodies) * PIXEL_M**2 > 8000) & (rng.random(bodies.size) < 0.4))
    for body in large:
        y, x = path[rng.integers(POINTS // 4, 3 * POINTS // 4), :, body]
        radius = rng.uniform(0.08, 0.18) * width_px[body]
        island = shapely.affinity.scale(shapely.Point(x, y).buffer(radius, 4), 1.0, rng.uniform(0.5, 1.8))
        bodies[body] = shapely.difference(bodies[body], island)
    return bodies


def _largest_parts(geometries: Any) -> NDArray[np.object_]:
    """The largest polygon of each geometry, so that a landslide is one polygon; empty where there is none."""
    parts, index = shapely.get_parts(geometries, return_index=True)
    more, inner = shapely.get_parts(
        parts, return_index=True
    )  # make_valid can nest a MultiPolygon in a collection
    index = index[inner]
    polygonal = shapely.get_type_id(more) == shapely.GeometryType.POLYGON
    more, index = more[polygonal], index[polygonal]
    largest = np.full(len(geometries), shapely.Polygon(), dtype=object)
    order = np.argsort(shapely.area(more), kind="stable")
    largest[index[order]] = more[order]  # the last assignment wins
    return largest


def _smoothstep(t: Positions) -> Positions:
    """0 below 0, 1 above 1, smooth between."""
    t = np.clip(t, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))
