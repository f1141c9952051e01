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
from coseis.simulate.landcover import Cover, CoverArray, LandCover, make_land_cover
from coseis.simulate.landslides import DENSITY_PER_KM2, Landslides, make_landslides
from coseis.simulate.terrain import PIXEL_M, RELIEF, FloatArray, Preset, Terrain, make_terrain, smooth_noise
from coseis.types import Phase

CENTRE_LON_LAT = (142.0, 42.7)
"""Atsuma, Hokkaido: where the 2018 Eastern Iburi earthquake set off its landslides."""
EPSG = 32654
LEAST_SIZE_PX = 64
OLD_SHARE = 0.15
"""Scars of earlier events, as a share of the new landslides' number."""

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
    landslides: gpd.GeoDataFrame
    """id, area_m2, kind, geometry: one polygon per new landslide; they may overlap."""
    mask: NDArray[np.uint8]
    """1 where the centre of a pixel lies in a new landslide."""


def make_ground(
    size_px: int, *, seed: int, preset: Preset = "iburi", density_per_km2: float = DENSITY_PER_KM2
) -> Ground:
    """Terrain, cover and landslides of one event; nothing is photographed yet.

    Args:
        size_px: side of the square, pixels of 3 m; at least 64.
        seed: equal arguments give equal arrays.
        preset: iburi: low hills; steep: mountains.
        density_per_km2: mean number of landslides per square kilometre.

    Raises:
        UsageError: if an argument is out of range.
    """
    check_arguments(size_px, seed=seed, preset=preset, density_per_km2=density_per_km2)
    terrain = make_terrain(size_px, seed=seed, preset=preset)
    cover = make_land_cover(terrain, seed=seed)
    _scar_earlier(terrain, cover, seed=seed, density_per_km2=OLD_SHARE * density_per_km2)

    grid = _grid(size_px)
    slides = make_landslides(terrain, seed=seed, density_per_km2=density_per_km2)
    bodies = to_crs(slides.bodies, grid)
    table = {"id": np.arange(1, len(bodies) + 1), "area_m2": shapely.area(bodies), "kind": "new"}
    landslides = gpd.GeoDataFrame(table, geometry=bodies, crs=EPSG)
    mask = _burn(bodies, grid.transform, size_px)
    tone = cover.tone.copy()
    _uncover(np.random.default_rng([seed, 5]), terrain, slides, cover=cover.after, tone=tone, slid=mask > 0)
    return Ground(
        grid=grid,
        elevation_m=terrain.elevation_m,
        cover={"pre": cover.before, "post": cover.after},
        tone={"pre": cover.tone, "post": tone},
        landslides=landslides,
        mask=mask,
    )


def check_arguments(size_px: int, *, seed: int, preset: Preset, density_per_km2: float) -> None:
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


def to_crs(shapes: _Shapes, grid: GeoBox) -> _Shapes:
    """Shapes in pixels (x right, y down) as shapes in the grid's CRS, metres."""
    corner = np.array([grid.transform.c, grid.transform.f])
    return shapely.transform(shapes, lambda xy: corner + xy * [PIXEL_M, -PIXEL_M])


def _grid(size_px: int) -> GeoBox:
    """A square of 3 m pixels around the centre, on whole multiples of 3 m as Planet's ortho grid."""
    centre = point(*CENTRE_LON_LAT, "EPSG:4326").to_crs(f"EPSG:{EPSG}")
    left, top = (np.round(v / PIXEL_M) for v in centre.coords[0])
    half = size_px // 2
    corner = Affine(PIXEL_M, 0.0, (left - half) * PIXEL_M, 0.0, -PIXEL_M, (top + half) * PIXEL_M)
    return GeoBox((size_px, size_px), corner, f"EPSG:{EPSG}")


def _scar_earlier(terrain: Terrain, cover: LandCover, *, seed: int, density_per_km2: float) -> None:
    """Old scars under grass, in place: they look like landslides, but they were there before."""
    old = make_landslides(terrain, seed=seed, density_per_km2=density_per_km2, event=1)
    scarred = _burn(old.bodies, Affine.identity(), terrain.size_px) > 0
    scarred &= ~np.isin(cover.before, [Cover.WATER, Cover.ROAD])
    for surface in (cover.before, cover.after):
        surface[scarred] = Cover.OLD_SCAR


def _uncover(
    rng: np.random.Generator,
    terrain: Terrain,
    slides: Landslides,
    *,
    cover: CoverArray,
    tone: NDArray[np.float16],
    slid: NDArray[np.bool_],
) -> None:
    """Lay the landslides bare, in place: brown scar, pale pumice in places, and runout mixed with wood."""
    size = terrain.size_px
    pale = terrain.upsample(
        smooth_noise(rng, terrain.coarse_plain.shape, 40.0)
        + 1.1 * smooth_noise(rng, terrain.coarse_plain.shape, 1.5)
    )
    runout = _burn(slides.runouts, Affine.identity(), size) > 0
    cover[slid] = Cover.SCAR_BROWN
    cover[slid & (pale > 2.0)] = Cover.SCAR_PALE
    cover[slid & runout] = Cover.RUNOUT
    own = np.exp(0.15 * rng.standard_normal(len(slides.bodies))).astype(np.float32)
    burnt = np.ones((size, size), np.float32)
    if own.size:
        rasterize(zip(slides.bodies, own.tolist(), strict=True), out=burnt)
    rough = 0.09 * smooth_noise(rng, slid.shape, 1.2) + 0.10 * smooth_noise(rng, slid.shape, 3.5)
    rough[runout] *= 2  # debris and uprooted trees
    tone[slid] = (burnt[slid] * np.exp(rough[slid])).astype(np.float16)


def _burn(shapes: NDArray[np.object_], transform: Affine, size_px: int) -> NDArray[np.uint8]:
    """uint8 (y, x), 1 where the centre of a pixel lies in any of the shapes."""
    burnt = np.zeros((size_px, size_px), np.uint8)
    if len(shapes):
        rasterize([s for s in shapes if not s.is_empty], out=burnt, transform=transform)
    return burnt
