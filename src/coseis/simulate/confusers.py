"""From a covered terrain and a seed, what is bare or disturbed but no landslide, drawn in place."""

import numpy as np
import shapely
import shapely.affinity
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from coseis.simulate.landcover import FOREST, Cover, LandCover
from coseis.simulate.terrain import CELL_M, MARGIN_CELLS, PIXEL_M, Terrain, slope_deg, smooth_noise

CLEAR_CUT_SHARE = 0.0075
"""Of the forest; half of it is cut between the scenes before and after."""
CLEAR_CUT_HA = (1.0, 10.0)
WINDTHROW_SHARE = 0.002
"""Of the forest, and half as much again in streaks of a former storm that grass has grown over."""
QUARRY_KM2 = 50.0
"""Square kilometres for each quarry."""
CORRIDOR_KM2 = 30.0
"""Square kilometres for each line of pylons."""
CORRIDOR_M, PYLON_M, PYLON_STEP_M = 27.0, 12.0, 280.0
GRAVEL_SHARE = 0.12
"""Of the channels; a third of it was moved by the event."""
CHANNEL_M2 = 250_000.0
"""Drainage area from which a channel is wide enough to be seen."""
MUDDY_SHARE = 0.5
"""Of the rivers' course, after the event."""


def add_confusers(terrain: Terrain, cover: LandCover, *, seed: int) -> None:
    """Cut forest, draw power lines and quarries, let storms fell trees and rivers move gravel, in place.

    Args:
        terrain: the carved landscape.
        cover: before and after are both changed.
        seed: equal seeds give equal arrays.
    """
    rng = np.random.default_rng([seed, 8])
    _fell_trees(rng, cover)
    _cut_forest(rng, terrain, cover)
    _draw_power_lines(rng, terrain, cover)
    _open_quarries(rng, terrain, cover)
    _lay_gravel(rng, terrain, cover)
    _muddy_rivers(rng, terrain, cover)


def _fell_trees(rng: np.random.Generator, cover: LandCover) -> None:
    """Windthrow: patches of some 10-30 m, in swarms, where the storm blew hardest."""
    forest = np.isin(cover.before, FOREST)
    if not forest.any():
        return
    gust = smooth_noise(rng, tuple(-(-n // 8) for n in forest.shape), 6.0).repeat(8, 0).repeat(8, 1)
    blow = smooth_noise(rng, forest.shape, 1.8)
    blow += 1.2 * gust[: forest.shape[0], : forest.shape[1]]
    former, new = np.quantile(blow[forest], [1 - 1.5 * WINDTHROW_SHARE, 1 - WINDTHROW_SHARE])
    cover.after[forest & (blow > new)] = Cover.WINDTHROW
    old = forest & (blow > former) & (blow <= new)
    for surface in (cover.before, cover.after):
        surface[old] = Cover.WINDTHROW
    cover.grass[old] = 50


def _cut_forest(rng: np.random.Generator, terrain: Terrain, cover: LandCover) -> None:
    """Clear-cuts of 1-10 ha with straight sides, every second one new; grass has grown over the others."""
    forest = np.isin(cover.before, FOREST)
    wanted_px = CLEAR_CUT_SHARE * forest.sum()
    gentle = np.flatnonzero(forest.ravel()[::97]) * 97
    number, spent_px = int(rng.integers(2)), 0.0
    least, most = np.log(np.array(CLEAR_CUT_HA) * 1e4 / PIXEL_M**2)
    while gentle.size and number < 2000:
        area_px = float(np.exp(rng.uniform(least, most)))
        if spent_px + 0.5 * area_px > wanted_px:
            break
        y, x = divmod(int(rng.choice(gentle)), forest.shape[1])
        parcel = _parcel(rng, (x, y), area_px)
        window, burnt = _burn(parcel, terrain.size_px)
        cut = burnt & forest[window]
        new = number % 2 == 0
        cover.after[window][cut] = Cover.CLEAR_CUT
        if not new:
            cover.before[window][cut] = Cover.CLEAR_CUT
            cover.grass[window][cut] = int(rng.uniform(10, 75))
        spent_px += float(cut.sum())
        number += 1


def _draw_power_lines(rng: np.random.Generator, terrain: Terrain, cover: LandCover) -> None:
    """Straight lanes through the forest with a bare pad at every pylon, there before and after."""
    size = terrain.size_px
    count = rng.poisson((size * PIXEL_M / 1000) ** 2 / CORRIDOR_KM2)
    forest = np.isin(cover.before, FOREST)
    for _ in range(count):
        bearing = rng.uniform(0, np.pi)
        middle = rng.uniform(0.15 * size, 0.85 * size, 2)
        reach = 1.5 * size * np.array([np.cos(bearing), np.sin(bearing)])
        line = shapely.LineString([middle - reach, middle + reach])
        lane = _mask(shapely.buffer(line, CORRIDOR_M / 2 / PIXEL_M), size) & forest
        steps = np.arange(0, line.length, PYLON_STEP_M / PIXEL_M)
        pads = shapely.buffer(shapely.line_interpolate_point(line, steps), PYLON_M / 2 / PIXEL_M)
        bare = _mask(shapely.union_all(pads), size) & forest
        for surface in (cover.before, cover.after):
            surface[lane] = Cover.CORRIDOR
            surface[bare] = Cover.BARE_FIELD


def _open_quarries(rng: np.random.Generator, terrain: Terrain, cover: LandCover) -> None:
    """Bare rock of 3-8 ha dug into a slope; between the scenes each grew on one side."""
    count = int((terrain.size_px * PIXEL_M / 1000) ** 2 / QUARRY_KM2 + 0.5)
    slope = slope_deg(terrain.coarse_elevation_m, CELL_M)
    inner = slice(MARGIN_CELLS + 20, -MARGIN_CELLS - 20)
    places = np.argwhere((slope > 15)[inner, inner]) + inner.start
    for _ in range(count if len(places) else 0):
        y, x = terrain.to_pixel(places[rng.integers(len(places))])
        parcel = _parcel(rng, (float(x), float(y)), rng.uniform(3, 8) * 1e4 / PIXEL_M**2)
        pit = shapely.buffer(shapely.buffer(parcel, -8), 8 + 3, quad_segs=3)
        grown = shapely.union(pit, shapely.affinity.translate(pit, *rng.normal(0, 6, 2)))
        for surface, outline in ((cover.before, pit), (cover.after, grown)):
            window, burnt = _burn(outline, terrain.size_px)
            surface[window][burnt & (surface[window] != Cover.WATER)] = Cover.QUARRY


def _lay_gravel(rng: np.random.Generator, terrain: Terrain, cover: LandCover) -> None:
    """Gravel 6-14 m wide on some reaches of the streams; a third of it came with the event."""
    drainage = terrain.drainage
    side = terrain.coarse_plain.shape[0]
    area = drainage.area_m2()
    channel = (area > CHANNEL_M2) & (drainage.receiver >= 0) & ~terrain.coarse_plain.ravel()[drainage.cells]
    places = np.flatnonzero(channel)
    if not places.size:
        return
    # Whole reaches, not single cells: noise along the map is much longer than a cell.
    stretch = smooth_noise(rng, terrain.coarse_plain.shape, 12.0).ravel()[drainage.cells[places]]
    fresh, laid = np.quantile(stretch, [1 - GRAVEL_SHARE / 3, 1 - GRAVEL_SHARE])
    ends = np.stack([drainage.cells[places], drainage.cells[drainage.receiver[places]]])
    points = terrain.to_pixel(np.stack(np.divmod(ends, side)))[::-1].transpose(2, 1, 0)  # x, y of each end
    width = np.clip(3 + 1.2e-6 * area[places], 3, 7) / PIXEL_M
    bars = shapely.buffer(shapely.linestrings(points), width)
    for chosen, surfaces, kind in (
        ((stretch > laid) & (stretch <= fresh), (cover.before, cover.after), Cover.GRAVEL),
        (stretch > fresh, (cover.after,), Cover.FRESH_GRAVEL),
    ):
        if chosen.any():
            burnt = rasterize(bars[chosen], out_shape=cover.before.shape, dtype=np.uint8) > 0
            for surface in surfaces:
                surface[burnt & ~np.isin(surface, [Cover.WATER, Cover.ROAD])] = kind


def _muddy_rivers(rng: np.random.Generator, terrain: Terrain, cover: LandCover) -> None:
    """Brown water after the event along part of the rivers."""
    mud = terrain.upsample(smooth_noise(rng, terrain.coarse_plain.shape, 40.0))
    cover.after[(cover.after == Cover.WATER) & (mud > np.quantile(mud, 1 - MUDDY_SHARE))] = Cover.MUDDY_WATER


def _parcel(rng: np.random.Generator, centre: tuple[float, float], area_px: float) -> shapely.Polygon:
    """A crooked rectangle of the given area, in pixels."""
    ratio = np.sqrt(rng.uniform(1, 2.5))
    half = 0.5 * np.sqrt(area_px) * np.array([ratio, 1 / ratio])
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half * rng.uniform(0.75, 1.15, (4, 2))
    return shapely.affinity.translate(
        shapely.affinity.rotate(shapely.Polygon(corners), rng.uniform(0, 180), origin=(0, 0)), *centre
    )


def _burn(shape: shapely.Geometry, size_px: int) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The window of the map around a shape, and which of its pixels' centres lie inside."""
    x0, y0, x1, y1 = np.clip(shapely.bounds(shape), 0, size_px).tolist()
    top, left = int(y0), int(x0)
    height, width = max(int(np.ceil(y1)) - top, 1), max(int(np.ceil(x1)) - left, 1)
    top, left = min(top, size_px - height), min(left, size_px - width)
    burnt = rasterize(
        [shape], out_shape=(height, width), transform=Affine.translation(left, top), dtype=np.uint8
    )
    return (slice(top, top + height), slice(left, left + width)), burnt > 0


def _mask(shape: shapely.Geometry, size_px: int) -> NDArray[np.bool_]:
    return np.asarray(rasterize([shape], out_shape=(size_px, size_px), dtype=np.uint8) > 0)
