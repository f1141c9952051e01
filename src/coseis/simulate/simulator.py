"""From a seed and a size, a synthetic earthquake: Planet-like scenes before and after, exact truth."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.geom import multipoint
from pydantic import AwareDatetime
from rasterio.features import rasterize

from coseis.errors import InputRefusedError, UsageError
from coseis.simulate.frames import Frame, plan_frames
from coseis.simulate.ground import EAST_EPSG, Ground, check_arguments, make_ground
from coseis.simulate.landslides import DENSITY_PER_KM2
from coseis.simulate.planetscope import write_cog, write_scene
from coseis.simulate.scenes import Look, Season
from coseis.simulate.sensor import Exposure, Misfit, draw_misfit, expose, place
from coseis.simulate.terrain import PIXEL_M, FloatArray, Preset
from coseis.simulate.truth import (
    Truth,
    misfit_row,
    see,
    write_legend,
    write_shifts,
    write_truth,
    write_truth_east,
)
from coseis.types import PHASES, Phase, Value

EVENT_TIME = datetime(2018, 9, 5, 18, 8, tzinfo=UTC)
LEAST_SIZE_KM, GREATEST_SIZE_KM = 0.5, 60.0
GREATEST_MISFIT_PX = 5.0
MISFIT_PX = 1.5
"""Standard deviation of a scene's place along each axis."""
HAZE: tuple[float, float, float, float] = (0.060, 0.045, 0.032, 0.012)
"""Reflectance that haze adds before a correction; HAZE_LEFT is the share of it that corrections leave."""
HAZE_LEFT = (0.03, 0.2)
GAIN_SD, GREATEST_GAIN = 0.03, 0.05
PRE_SEASONS: tuple[Season, ...] = ("summer", "leaf-off", "snow")
SUN_ELEVATION_DEG: dict[tuple[Phase, Season], tuple[float, float]] = {
    ("pre", "summer"): (44.0, 55.0),
    ("pre", "leaf-off"): (40.0, 50.0),
    ("pre", "snow"): (30.0, 38.0),
    ("post", "summer"): (30.0, 37.0),
}
SUN_AZIMUTH_DEG, AZIMUTH_SPREAD_DEG = 140.0, 15.0
"""The phases differ by up to twice the spread."""
COLLECTION = "PSScene"


class SimulatedEvent(Value):
    """Where the files of a synthetic event are, and what is in it."""

    catalog: Path
    aoi: tuple[float, float, float, float]
    """west, south, east, north in degrees, within the scenes' union."""
    aoi_path: Path
    event_time: AwareDatetime
    landslides: Path
    """GeoPackage, one polygon per landslide; see `Truth` for this and the following."""
    mask: Path
    classes: Path
    dem: Path
    truth: Truth
    """All files of the truth on the grid of the scenes' union."""
    truth_east: Truth | None
    """The same in the UTM zone to the east, for an event in two zones."""
    shifts: Path
    """JSON: the true misfit of each scene, by its id."""
    skies: Path
    """Folder: a raster a scene on its grid, uint8, codes of `Sky`, 0 outside: the mask without its errors."""
    landslide_count: int
    landslide_share: float
    """Share of the map's area, 0-1."""


def simulate_event(
    out: str | Path,
    *,
    size_km: float = 6.0,
    seed: int = 0,
    preset: Preset = "iburi",
    density_per_km2: float = DENSITY_PER_KM2,
    cloud_share: float = 0.04,
    misfit_px: float = MISFIT_PX,
    pre_season: Season = "summer",
    zones: int = 1,
) -> SimulatedEvent:
    """Write a synthetic event: a static STAC catalog of PlanetScope-like scenes, and the truth under truth/.

    Args:
        out: local folder, new or empty.
        size_km: side of the square map, 0.5-60 km.
        seed: equal arguments give equal decoded arrays and equal polygons.
        preset: iburi: low hills; steep: mountains.
        density_per_km2: mean number of landslides per square kilometre.
        cloud_share: share under cloud of the second strip after the event, 0-0.9.
        misfit_px: standard deviation of a scene's place, pixels of 3 m, 0-5; two thirds of it follow relief.
        pre_season: of the scenes before the event: summer, leaf-off or snow.
        zones: 2 puts the event on the border of two UTM zones; scenes are delivered in that of their centre.

    Returns:
        Where catalog, area and truth lie, and how much of the map slid.

    Raises:
        UsageError: if an argument is out of range.
        InputRefusedError: if `out` holds files already or cannot be written.
    """
    if not LEAST_SIZE_KM <= size_km <= GREATEST_SIZE_KM:
        raise UsageError(f"size_km is {size_km}; expected {LEAST_SIZE_KM} to {GREATEST_SIZE_KM} kilometres")
    if not 0 <= cloud_share <= 0.9:
        raise UsageError(f"cloud_share is {cloud_share}; expected 0 to 0.9")
    if not 0 <= misfit_px <= GREATEST_MISFIT_PX:
        raise UsageError(f"misfit_px is {misfit_px}; expected 0 to {GREATEST_MISFIT_PX:g} pixels")
    if pre_season not in PRE_SEASONS:
        raise UsageError(f"pre_season is {pre_season!r}; expected one of {', '.join(PRE_SEASONS)}")
    size_px = round(size_km * 1000 / PIXEL_M)
    choice: dict[str, Any] = {
        "seed": seed,
        "preset": preset,
        "density_per_km2": density_per_km2,
        "zones": zones,
    }
    check_arguments(size_px, **choice)
    folder = _new_folder(Path(out))
    ground = make_ground(size_px, **choice)
    files = Truth.under(folder / "truth")
    event = SimulatedEvent(
        catalog=folder / "catalog.json",
        aoi=_inner_bbox(ground.grid),
        aoi_path=folder / "aoi.geojson",
        event_time=EVENT_TIME,
        **{name: getattr(files, name) for name in ("landslides", "mask", "classes", "dem")},
        truth=files,
        truth_east=Truth.under(folder / "truth" / str(EAST_EPSG)) if zones == 2 else None,
        shifts=folder / "truth" / "shifts.json",
        skies=folder / "truth" / "skies",
        landslide_count=len(ground.landslides),
        landslide_share=float(ground.mask.mean()),
    )
    frames = plan_frames(size_px, pre_season)
    items, observed = _write_scenes(
        event, ground, frames, seed=seed, cloud_share=cloud_share, misfit_px=misfit_px
    )
    write_truth(files, ground, observed, seed=seed)
    if event.truth_east is not None:
        event.truth_east.mask.parent.mkdir()
        write_truth_east(event.truth_east, files, ground, observed)
    write_legend(folder / "truth" / "legend.json")
    seen = {"cloud_share": cloud_share, "misfit_px": misfit_px, "pre_season": pre_season}
    _write_summary(folder, event, {"size_km": size_km} | choice | seen)
    _write_catalog(folder, items)  # last: a folder with a catalog is complete
    return event


def simulate_arrays(
    size_px: int,
    *,
    seed: int,
    preset: Preset = "iburi",
    density_per_km2: float = DENSITY_PER_KM2,
    cloud_share: float = 0.0,
) -> tuple[FloatArray, FloatArray, NDArray[np.uint8]]:
    """The same event as arrays, for training: one scene a phase, no strips and no files.

    Args:
        size_px: side of the square, pixels of 3 m; at least 64.
        seed: equal arguments give equal arrays.
        preset: iburi: low hills; steep: mountains.
        density_per_km2: mean number of landslides per square kilometre.
        cloud_share: share under cloud after the event.

    Returns:
        Reflectance before and after, float32 (4, y, x), blue green red nir, 0-1.6, never missing; and the
        landslides, uint8 (y, x), 1 where one is.
    """
    ground = make_ground(size_px, seed=seed, preset=preset, density_per_km2=density_per_km2)
    seen = []
    for phase in PHASES:
        look = _draw_look(seed, phase, 0, "summer", cloud_share * (phase == "post"))
        misfit = _draw_misfit(seed, phase, 0, ground, 0.0)
        seen.append(expose(ground.surface(phase, (slice(None), slice(None))), look, misfit).reflectance)
    return seen[0], seen[1], ground.mask


def _draw_look(seed: int, phase: Phase, strip: int, season: Season, cloud_share: float) -> Look:
    """Sun, haze and calibration of one strip."""
    rng = np.random.default_rng([seed, 6, PHASES.index(phase), strip])
    gain = GAIN_SD * (0.9 * rng.standard_normal() + 0.4 * rng.standard_normal(4))
    haze = rng.uniform(*HAZE_LEFT) * np.array(HAZE) * np.exp(0.2 * rng.standard_normal(4))
    return Look(
        sun_azimuth_deg=round(SUN_AZIMUTH_DEG + rng.uniform(-1, 1) * AZIMUTH_SPREAD_DEG, 1),
        sun_elevation_deg=round(rng.uniform(*SUN_ELEVATION_DEG[phase, season]), 1),
        gain=_four(1 + np.clip(gain, -GREATEST_GAIN, GREATEST_GAIN)),
        haze=_four(haze),
        cloud_share=cloud_share,
        shadow_light=round(rng.uniform(0.35, 0.5), 3),
        season=season,
        seed=int(rng.integers(2**31)),
    )


def _four(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    blue, green, red, nir = (round(float(v), 4) for v in values)
    return blue, green, red, nir


def _draw_misfit(seed: int, phase: Phase, scene: int, ground: Ground, sigma_px: float) -> Misfit:
    rng = np.random.default_rng([seed, 10, PHASES.index(phase), scene])
    return draw_misfit(rng, sigma_px, ground.elevation_m)


def _write_scenes(
    event: SimulatedEvent,
    ground: Ground,
    frames: Sequence[Frame],
    *,
    seed: int,
    cloud_share: float,
    misfit_px: float,
) -> tuple[list[pystac.Item], NDArray[np.uint8]]:
    """Photograph the ground, two scenes in memory at a time: items, and what was seen (`Truth.observed`)."""
    size_px = ground.mask.shape[0]

    def take(frame: Frame) -> tuple[Look, Misfit, Exposure]:
        cloudy = cloud_share if frame.phase == "post" and frame.strip == 1 else 0.0
        look = _draw_look(seed, frame.phase, frame.strip, frame.season, cloudy)
        look = replace(look, seed=look.seed + frame.number)
        misfit = _draw_misfit(seed, frame.phase, 100 * frame.strip + frame.number, ground, misfit_px)
        window = frame.padded(size_px)
        placement = place(ground.grid[window], frame.grid(ground.grid)[0])
        return look, misfit, expose(ground.surface(frame.phase, window), look, misfit, placement)

    items, shifts = [], {}
    observed = np.zeros((len(PHASES), size_px, size_px), np.uint8)
    # The next scene is computed while this one is compressed. Only this thread calls rasterio: it silences
    # its own warnings by changing the process's filters, which two threads undo for each other.
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(take, frames[0])
        for frame, following in zip(frames, [*frames[1:], None], strict=True):
            look, misfit, exposure = ahead.result()
            if following is not None:
                ahead = pool.submit(take, following)
            items.append(_write_frame(event, ground, frame, look, exposure))
            shifts[frame.item_id] = misfit_row(frame, items[-1].properties["proj:epsg"], misfit)
            see(observed, frame, exposure, size_px)
    write_shifts(event.shifts, shifts)
    return items, observed


def _write_frame(
    event: SimulatedEvent, ground: Ground, frame: Frame, look: Look, exposure: Exposure
) -> pystac.Item:
    grid, outline = frame.grid(ground.grid)
    inside = rasterize([outline], out_shape=grid.shape, transform=grid.transform, dtype=np.uint8) > 0
    write_cog(event.skies / f"{frame.item_id}.tif", exposure.sky * inside, grid, nodata=0)
    return write_scene(
        event.catalog.parent / COLLECTION / frame.item_id,
        frame.item_id,
        exposure,
        grid=grid,
        footprint=outline,
        inside=inside,
        taken=(frame.taken, look),
    )


def _inner_bbox(grid: GeoBox) -> tuple[float, float, float, float]:
    """west, south, east, north of a box in degrees that lies within the grid, 60 m or more from its edges."""
    bounds = grid.boundingbox
    inset = min(60.0, 0.05 * bounds.span_x)
    x0, x1, y0, y1 = bounds.left + inset, bounds.right - inset, bounds.bottom + inset, bounds.top - inset
    corners = multipoint([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], grid.crs).to_crs("EPSG:4326")
    (sw_x, sw_y), (se_x, se_y), (ne_x, ne_y), (nw_x, nw_y) = (p.coords[0] for p in corners.geoms)
    west, south, east, north = max(sw_x, nw_x), max(sw_y, se_y), min(se_x, ne_x), min(nw_y, ne_y)
    return round(west, 6), round(south, 6), round(east, 6), round(north, 6)


def _new_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputRefusedError(
                f"{folder} holds files already; expected a new or empty folder: name another one"
            )
        (folder / "truth" / "skies").mkdir(parents=True)
    except OSError as error:
        raise InputRefusedError(
            f"{folder} cannot be written ({error.strerror}): name a folder that can"
        ) from error
    return folder


def _write_summary(folder: Path, event: SimulatedEvent, parameters: dict[str, Any]) -> None:
    west, south, east, north = event.aoi
    outline = shapely.geometry.mapping(shapely.box(west, south, east, north))
    feature = {"type": "Feature", "properties": {"name": "aoi"}, "geometry": outline}
    event.aoi_path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}, indent=1))
    summary = {
        "event_time": event.event_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "aoi": event.aoi,
        **parameters,
        "landslide_count": event.landslide_count,
        "landslide_share": event.landslide_share,
    }
    (folder / "event.json").write_text(json.dumps(summary, indent=1))


def _write_catalog(folder: Path, items: list[pystac.Item]) -> None:
    boxes = np.array([item.bbox for item in items])
    times = [item.datetime for item in items if item.datetime is not None]
    extent = pystac.Extent(
        pystac.SpatialExtent([[*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]]),
        pystac.TemporalExtent([[min(times), max(times)]]),
    )
    collection = pystac.Collection(COLLECTION, "Synthetic PlanetScope scenes", extent, license="CC0-1.0")
    catalog = pystac.Catalog("synthetic-event", "A synthetic earthquake: scenes before and after it")
    catalog.add_child(collection)
    collection.add_items(items)
    catalog.normalize_and_save(str(folder), pystac.CatalogType.SELF_CONTAINED)
