"""From a seed and a size, the ground before and after an earthquake: terrain, cover and landslides."""

from dataclasses import dataclass
from typing import TypeVar

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.geom import point
from rasterio.features import rasterize

from coseis.errors import UsageError
from coseis.simulate.confusers import add_confusers
from coseis.simulate.landcover import Cover, CoverArray, LandCover, make_land_cover
from coseis.simulate.landslides import DENSITY_PER_KM2, Landslides, make_landslides
from coseis.simulate.scenes import Surface
from coseis.simulate.terrain import PIXEL_M, RELIEF, FloatArray, Preset, Terrain, make_terrain, smooth_noise
from coseis.types import Phase

EPSG = 32654
EAST_EPSG = 32655
"""The next zone, for events on the border."""
CENTRE_LON_LAT = {1: (142.0, 42.7), 2: (144.0, 43.2)}
"""By number of UTM zones. Atsuma, Hokkaido, where the 2018 Eastern Iburi earthquake set off its landslides;
and the border of zones 54 and 55, farther east on the same island."""
PIXELS = Affine.identity()
"""Of shapes that are in pixels of the map."""
LEAST_SIZE_PX = 64
OLD_SHARE = 0.15
"""Scars of earlier events, as a share of the new landslides' number."""
AGAIN_SHARE = 0.25
"""Of the old scars, those in which a new landslide starts."""
OVERGROWN_PERCENT = (40, 80)
LEAST_OVERLAP = 0.1
"""Share of an old scar that moved, or of a new landslide on old scars, from which it is reactivated."""
SPARED_SHARE, SPARED_PERCENT, PATCHY_PERCENT = 0.15, (15.0, 50.0), 9.0
"""Landslides that carried their plants with them, how much of each these hide, and its variation within."""
RAFT_SHARE = 0.08
"""Of the runout, under logs."""

_Shapes = TypeVar("_Shapes", shapely.Polygon, NDArray[np.object_])


@dataclass(frozen=True)
class Ground:
    """The ground before and after, all arrays (y, x) on `grid`, never missing."""

    grid: GeoBox
    elevation_m: FloatArray
    cover: dict[Phase, CoverArray]
    """uint8, codes of `Cover`."""
    tone: dict[Phase, NDArray[np.float16]]
    """Factor on the cover's reflectance."""
    grass: dict[Phase, NDArray[np.uint8]]
    """Percent of the cover that grass has grown over."""
    landslides: gpd.GeoDataFrame
    """id, area_m2, kind, geometry: one polygon per new landslide; they may overlap. Of kind reactivated are
    those of which a tenth or more lies on old scars."""
    parts: gpd.GeoDataFrame
    """id, part, geometry: source and deposit of each landslide, which together are its polygon."""
    old_scars: gpd.GeoDataFrame
    """id, area_m2, kind, geometry: scars of earlier events; reactivated are those of which a tenth moved."""
    mask: NDArray[np.uint8]
    """1 where the centre of a pixel lies in a new landslide."""

    def surface(self, phase: Phase, window: tuple[slice, slice]) -> Surface:
        """What a camera sees of a window."""
        return Surface(
            self.elevation_m[window],
            self.cover[phase][window],
            self.tone[phase][window],
            self.grass[phase][window],
        )


def make_ground(
    size_px: int,
    *,
    seed: int,
    preset: Preset = "iburi",
    density_per_km2: float = DENSITY_PER_KM2,
    zones: int = 1,
) -> Ground:
    """Terrain, cover and landslides of one event; nothing is photographed yet.

    Args:
        size_px: side of the square, pixels of 3 m; at least 64.
        seed: equal arguments give equal arrays.
        preset: iburi: low hills; steep: mountains.
        density_per_km2: mean number of landslides per square kilometre.
        zones: 2 centres the square on the border of two UTM zones; its grid is that of the western one.

    Raises:
        UsageError: if an argument is out of range.
    """
    check_arguments(size_px, seed=seed, preset=preset, density_per_km2=density_per_km2, zones=zones)
    terrain = make_terrain(size_px, seed=seed, preset=preset)
    cover = make_land_cover(terrain, seed=seed)
    add_confusers(terrain, cover, seed=seed)
    rng = np.random.default_rng([seed, 5])
    old = make_landslides(terrain, seed=seed, density_per_km2=OLD_SHARE * density_per_km2, event=1)
    _scar_earlier(rng, terrain, cover, old.bodies)

    again = old.crowns[:, rng.random(len(old.bodies)) < AGAIN_SHARE]
    slides = make_landslides(terrain, seed=seed, density_per_km2=density_per_km2, again=again)
    grid = _grid(size_px, zones)
    bodies, deposits = (to_crs(shapes, grid) for shapes in (slides.bodies, slides.runouts))
    slid = _burn(bodies, size_px, grid.transform) > 0  # as anybody would burn the polygons of the truth
    tone, grass = cover.tone.copy(), cover.grass.copy()
    _uncover(rng, terrain, slides, (cover.after, tone, grass), slid)

    scars = to_crs(old.bodies, grid)
    return Ground(
        grid=grid,
        elevation_m=terrain.elevation_m,
        cover={"pre": cover.before, "post": cover.after},
        tone={"pre": cover.tone, "post": tone},
        grass={"pre": cover.grass, "post": grass},
        landslides=_table(
            bodies, np.where(_covered_share(bodies, scars) >= LEAST_OVERLAP, "reactivated", "new")
        ),
        parts=_parts(bodies, deposits),
        old_scars=_table(
            scars, np.where(_covered_share(scars, bodies) >= LEAST_OVERLAP, "reactivated", "old")
        ),
        mask=slid.astype(np.uint8),
    )


def check_arguments(
    size_px: int, *, seed: int, preset: Preset, density_per_km2: float, zones: int = 1
) -> None:
    """Refuse what `make_ground` cannot make, before any work is done or any folder made.

    Raises:
        UsageError: naming the argument, its value and what was expected.
    """
    if size_px < LEAST_SIZE_PX:
        raise UsageError(f"size_px is {size_px}; expected at least {LEAST_SIZE_PX} pixels of {PIXEL_M:g} m")
    if seed < 0:
        raise UsageError(f"seed is {seed}; expected 0 or a positive whole number")
    if not 0 < density_per_km2 <= 200:
        raise UsageError(f"density_per_km2 is {density_per_km2}; expected above 0 and at most 200")
    if preset not in RELIEF:
        raise UsageError(f"preset is {preset!r}; expected one of {', '.join(RELIEF)}")
    if zones not in CENTRE_LON_LAT:
        raise UsageError(f"zones is {zones}; expected 1 or 2 UTM zones")


def to_crs(shapes: _Shapes, grid: GeoBox) -> _Shapes:
    """Shapes in pixels (x right, y down) as shapes in the grid's CRS, metres."""
    corner = np.array([grid.transform.c, grid.transform.f])
    return shapely.transform(shapes, lambda xy: corner + xy * [PIXEL_M, -PIXEL_M])


def _grid(size_px: int, zones: int) -> GeoBox:
    """A square of 3 m pixels around the centre, on whole multiples of 3 m as Planet's ortho grid."""
    centre = point(*CENTRE_LON_LAT[zones], "EPSG:4326").to_crs(f"EPSG:{EPSG}")
    left, top = (np.round(v / PIXEL_M) for v in centre.coords[0])
    half = size_px // 2
    corner = Affine(PIXEL_M, 0.0, (left - half) * PIXEL_M, 0.0, -PIXEL_M, (top + half) * PIXEL_M)
    return GeoBox((size_px, size_px), corner, f"EPSG:{EPSG}")


def _table(shapes: NDArray[np.object_], kind: NDArray[np.str_]) -> gpd.GeoDataFrame:
    columns = {"id": np.arange(1, len(shapes) + 1), "area_m2": shapely.area(shapes), "kind": kind}
    return gpd.GeoDataFrame(columns, geometry=shapes, crs=EPSG)


def _parts(bodies: NDArray[np.object_], deposits: NDArray[np.object_]) -> gpd.GeoDataFrame:
    """Source and deposit of each body, empty ones left out."""
    lower = shapely.intersection(bodies, deposits)
    upper = shapely.difference(bodies, lower)
    ids = np.arange(1, len(bodies) + 1)
    columns = {"id": np.tile(ids, 2), "part": np.repeat(["source", "deposit"], len(ids))}
    parts = gpd.GeoDataFrame(columns, geometry=np.concatenate([upper, lower]), crs=EPSG)
    return parts[parts.area > 0].sort_values(["id", "part"], ignore_index=True)


def _covered_share(shapes: NDArray[np.object_], by: NDArray[np.object_]) -> NDArray[np.float64]:
    """Share of each shape that any of the others cover, float64 (n,)."""
    cover = shapely.union_all(by)
    shapely.prepare(cover)
    share = np.zeros(len(shapes))
    met = np.flatnonzero(shapely.intersects(cover, shapes))
    share[met] = shapely.area(shapely.intersection(cover, shapes[met])) / shapely.area(shapes[met])
    return share


def _scar_earlier(
    rng: np.random.Generator, terrain: Terrain, cover: LandCover, bodies: NDArray[np.object_]
) -> None:
    """Old scars under grass, in place: they look like landslides, but they were there before."""
    size = terrain.size_px
    percent = np.zeros((size, size), np.uint8)
    if len(bodies):
        grown = rng.integers(*OVERGROWN_PERCENT, len(bodies)).astype(np.uint8)
        rasterize(zip(bodies, grown.tolist(), strict=True), out=percent)
    scarred = (percent > 0) & ~np.isin(cover.before, [Cover.WATER, Cover.ROAD])
    for surface in (cover.before, cover.after):
        surface[scarred] = Cover.OLD_SCAR
    patchy = 15 * smooth_noise(rng, (size, size), 2.5)[scarred]
    cover.grass[scarred] = np.clip(percent[scarred] + patchy, 5, 95).astype(np.uint8)


def _uncover(
    rng: np.random.Generator,
    terrain: Terrain,
    slides: Landslides,
    surface: tuple[CoverArray, NDArray[np.float16], NDArray[np.uint8]],
    slid: NDArray[np.bool_],
) -> None:
    """Lay the landslides bare, in place: brown scar, pale pumice in places, and runout mixed with wood."""
    cover, tone, grass = surface
    size = terrain.size_px
    pale = terrain.upsample(
        smooth_noise(rng, terrain.coarse_plain.shape, 64.0)
        + 1.1 * smooth_noise(rng, terrain.coarse_plain.shape, 2.4)
    )
    runout = _burn(slides.runouts, size) > 0
    cover[slid] = Cover.SCAR_BROWN
    cover[slid & (pale > 2.0)] = Cover.SCAR_PALE
    runout &= slid
    cover[runout] = Cover.RUNOUT
    count = len(slides.bodies)
    own = np.exp(0.15 * rng.standard_normal(count)).astype(np.float32)
    torn = rng.random(count) >= SPARED_SHARE
    green = np.where(torn, -5, rng.uniform(*SPARED_PERCENT, count)).astype(np.float32)
    burnt, spared = np.ones((size, size), np.float32), np.zeros((size, size), np.float32)
    if count:
        rasterize(zip(slides.bodies, own.tolist(), strict=True), out=burnt)
        rasterize(zip(slides.bodies, green.tolist(), strict=True), out=spared)
    fine, broad = smooth_noise(rng, slid.shape, 1.2), smooth_noise(rng, slid.shape, 3.5)
    grass[slid] = np.clip(spared[slid] + PATCHY_PERCENT * broad[slid], 0, 90).astype(np.uint8)
    rough = 0.09 * fine + 0.10 * broad
    rough[runout] *= 2  # debris and uprooted trees
    tone[slid] = (burnt[slid] * np.exp(rough[slid])).astype(np.float16)
    if runout.any():
        cover[runout & (fine < np.quantile(fine[runout], RAFT_SHARE))] = Cover.LOG_RAFT


def _burn(shapes: NDArray[np.object_], size_px: int, transform: Affine = PIXELS) -> NDArray[np.uint8]:
    """uint8 (y, x), 1 where the centre of a pixel lies in any of the shapes."""
    burnt = np.zeros((size_px, size_px), np.uint8)
    if len(shapes):
        rasterize([s for s in shapes if not s.is_empty], out=burnt, transform=transform)
    return burnt
