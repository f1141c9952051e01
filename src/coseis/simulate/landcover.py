"""From a terrain and a seed, what covers the ground before an earthquake: forest, fields, roads, rivers."""

from dataclasses import dataclass
from enum import IntEnum
from typing import cast

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy import ndimage
from scipy.spatial import cKDTree

from coseis.simulate.terrain import (
    CELL_M,
    MARGIN_CELLS,
    PIXEL_M,
    FloatArray,
    Terrain,
    slope_deg,
    smooth_noise,
)

CoverArray = NDArray[np.uint8]


class Cover(IntEnum):
    """Land cover codes of classes.tif; 0 is never used."""

    BROADLEAF = 1
    CONIFER = 2
    GRASS = 3
    RICE = 4
    BARE_FIELD = 5
    WATER = 6
    GRAVEL = 7
    ROAD = 8
    OLD_SCAR = 9
    SCAR_BROWN = 10
    SCAR_PALE = 11
    RUNOUT = 12
    CLEAR_CUT = 13
    WINDTHROW = 14
    QUARRY = 15
    CORRIDOR = 16
    FRESH_GRAVEL = 17
    LOG_RAFT = 18
    MUDDY_WATER = 19


NEW_LANDSLIDE = (Cover.SCAR_BROWN, Cover.SCAR_PALE, Cover.RUNOUT, Cover.LOG_RAFT)
"""What covers new landslides, and nothing else."""
FOREST = (Cover.BROADLEAF, Cover.CONIFER)


@dataclass(frozen=True)
class LandCover:
    """What covers each pixel of the map before and after the event, landslides not yet drawn."""

    before: CoverArray
    """uint8 (y, x), codes of `Cover`."""
    after: CoverArray
    """uint8 (y, x), the same but for what people, storms and rivers did in between."""
    tone: NDArray[np.float16]
    """float16 (y, x), factor on the reflectance of the cover, about 1: each stand and parcel has its own."""
    grass: NDArray[np.uint8]
    """uint8 (y, x), percent of the cover that grass has grown over."""


def make_land_cover(terrain: Terrain, *, seed: int) -> LandCover:
    """Cover the terrain: each part a small function, later ones over earlier ones.

    Args:
        terrain: the carved landscape.
        seed: equal seeds give equal arrays.
    """
    rng = np.random.default_rng([seed, 2])
    shape = (terrain.size_px, terrain.size_px)
    cover = np.full(shape, Cover.BROADLEAF, np.uint8)
    tone = _plant_forest(rng, terrain, cover)
    after = cover.copy()
    _lay_fields(rng, terrain, cover, after, tone)
    roads = _road_mask(rng, terrain)
    for surface in (cover, after):
        surface[roads] = Cover.ROAD
    _fill_rivers(rng, terrain, (cover, after))
    _roughen(rng, terrain, cover, tone)
    return LandCover(cover, after, tone.astype(np.float16), np.zeros(shape, np.uint8))


def _plant_forest(rng: np.random.Generator, terrain: Terrain, cover: CoverArray) -> FloatArray:
    """Stands of about 6 ha: broadleaf, a quarter conifer plantations, a few clearings under grass."""
    shape = terrain.coarse_plain.shape
    count = max(8, round(shape[0] * shape[1] * CELL_M**2 / 60_000))
    centres = rng.uniform(0, shape, (count, 2))
    cells = np.indices(shape).reshape(2, -1).T + 2.4 * rng.standard_normal((shape[0] * shape[1], 2))
    stand = cKDTree(centres).query(cells)[1].reshape(shape)
    kind = rng.random(count)
    slope = slope_deg(terrain.coarse_elevation_m, CELL_M)
    clearing = (kind[stand] > 0.93) & (slope < 18)
    conifer = kind[stand] < 0.25
    wobble = np.clip(
        0.18 * smooth_noise(rng, cover.shape, 2.0), -0.4, 0.4
    )  # no straight edge along the coarse grid
    cover[terrain.upsample(conifer.astype(np.float32)) + wobble > 0.5] = Cover.CONIFER
    cover[terrain.upsample(clearing.astype(np.float32)) + wobble > 0.5] = Cover.GRASS
    tones = np.exp(0.13 * rng.standard_normal(count))[stand] * np.exp(0.06 * smooth_noise(rng, shape, 16.0))
    return terrain.upsample(tones.astype(np.float32))


def _lay_fields(
    rng: np.random.Generator, terrain: Terrain, before: CoverArray, after: CoverArray, tone: FloatArray
) -> None:
    """Parcels of 0.3-0.9 ha along the river on the plain: rice, grass, 30 % bare, half of those newly."""
    edge = smooth_noise(rng, terrain.coarse_plain.shape, 1.6)  # and not the steps of the coarse grid
    plain = (
        terrain.upsample(ndimage.gaussian_filter(terrain.coarse_plain.astype(np.float32), 1.9) + 0.05 * edge)
        > 0.6
    )
    y_px, x_px = np.nonzero(plain)
    if y_px.size == 0:
        return
    y_m, x_m = ((v.astype(np.float32) + 0.5) * PIXEL_M for v in (y_px, x_px))
    river = terrain.rivers[0]
    u = river.downstream_m(y_m, x_m)
    v = river.across_m(y_m, x_m)
    row = np.floor(v / 105).astype(np.int64)
    width = 32 + 54 * rng.random(64)[row % 64]
    column = np.floor(u / width).astype(np.int64)
    parcel = (column * 7919 + row * 104729) % 4096
    kind = rng.random(4096)[parcel]
    covers = np.array([Cover.RICE, Cover.GRASS, Cover.BARE_FIELD, Cover.BARE_FIELD], np.uint8)
    use = np.digitize(kind, [0.45, 0.70, 0.85])
    bank = (u - column * width < 4) | (v - row * 105 < 5)
    before[plain] = np.where(bank, Cover.GRASS, np.where(use == 3, Cover.RICE, covers[use]))
    after[plain] = np.where(bank, Cover.GRASS, covers[use])
    tone[plain] = np.exp(0.25 * rng.standard_normal(4096))[parcel]  # moist and dry soil differ most


def _road_mask(rng: np.random.Generator, terrain: Terrain) -> NDArray[np.bool_]:
    """Dirt roads 4 m wide, 1.2 km per square kilometre, up the valleys: they follow flow paths."""
    drainage = terrain.drainage
    side = terrain.coarse_plain.shape[0]
    area = drainage.area_m2()
    map_km2 = (terrain.size_px * PIXEL_M / 1000) ** 2
    y, x = np.divmod(drainage.cells, side)
    inside = (np.minimum(y, x) >= MARGIN_CELLS) & (np.maximum(y, x) < side - MARGIN_CELLS)
    heads = np.flatnonzero(inside & (area > 20_000) & (area < 400_000))
    taken = np.zeros(area.size, bool)
    lines, missing_m = [], 1200 * map_km2
    for place in rng.permutation(heads).tolist():
        if missing_m <= 0:
            break
        path = []
        while place >= 0 and not taken[place]:
            taken[place] = True
            path.append(place)
            place = int(drainage.receiver[place])
        if len(path) < 19:
            continue
        points = np.stack([x[path], y[path]], axis=1) + rng.normal(0.0, 0.6, (len(path), 2)) + 1.3
        points = ndimage.gaussian_filter1d(points, 2.6, axis=0, mode="nearest")
        line = shapely.LineString(terrain.to_pixel(points))
        lines.append(line)
        missing_m -= line.length * PIXEL_M
    if not lines:
        return np.zeros((terrain.size_px, terrain.size_px), bool)
    roads = shapely.buffer(np.array(lines), 2.0 / PIXEL_M)
    burnt = rasterize(roads, out_shape=(terrain.size_px, terrain.size_px), dtype=np.uint8)
    return cast(NDArray[np.bool_], burnt.astype(bool))


def _fill_rivers(rng: np.random.Generator, terrain: Terrain, surfaces: tuple[CoverArray, CoverArray]) -> None:
    """Water 16-30 m wide, gravel bars beside it."""
    centres = ((np.arange(terrain.size_px) + 0.5) * PIXEL_M).astype(np.float32)
    width = terrain.upsample(smooth_noise(rng, terrain.coarse_plain.shape, 10.0))
    for river in terrain.rivers:
        distance = river.distance_m(centres[:, None], centres[None, :])
        bar = np.abs(distance + 6 * width) < 14 + 9 * width
        water = np.abs(distance) < 11 + 2.5 * width
        for surface in surfaces:
            surface[bar] = Cover.GRAVEL
            surface[water] = Cover.WATER


def _roughen(rng: np.random.Generator, terrain: Terrain, cover: CoverArray, tone: FloatArray) -> None:
    """Texture of 2-8 px in place: tree crowns most, fields and water least, and more in some stands."""
    sd = np.zeros(len(Cover) + 1, np.float32)
    sd[:] = 0.06
    sd[[Cover.BROADLEAF, Cover.CONIFER]] = 0.30, 0.30
    sd[Cover.WATER] = 0.02
    crowns = smooth_noise(rng, cover.shape, 0.8)
    crowns += 0.5 * smooth_noise(rng, cover.shape, 2.2)
    crowns *= np.exp(0.5 * terrain.upsample(smooth_noise(rng, terrain.coarse_plain.shape, 8.0)))
    crowns *= sd[cover]
    tone *= np.exp(crowns, out=crowns)
