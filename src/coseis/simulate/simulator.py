"""From a seed and a size, a synthetic earthquake: Planet-like scenes before and after, exact truth."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pystac
import shapely
import shapely.affinity
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.geom import multipoint
from pydantic import AwareDatetime
from rasterio.features import rasterize

from coseis.errors import InputRefusedError, UsageError
from coseis.simulate.ground import Ground, check_arguments, make_ground, to_crs
from coseis.simulate.landslides import DENSITY_PER_KM2
from coseis.simulate.planetscope import write_cog, write_scene
from coseis.simulate.scenes import Exposure, Look, expose
from coseis.simulate.terrain import PIXEL_M, FloatArray, Preset
from coseis.types import PHASES, Phase, Value

EVENT_TIME = datetime(2018, 9, 5, 18, 8, tzinfo=UTC)
LEAST_SIZE_KM, GREATEST_SIZE_KM = 0.5, 60.0
PASSES: dict[Phase, tuple[datetime, ...]] = {
    "pre": (datetime(2018, 8, 3, 1, 2, 11, tzinfo=UTC), datetime(2018, 8, 21, 0, 57, 40, tzinfo=UTC)),
    "post": (datetime(2018, 9, 11, 0, 58, 25, tzinfo=UTC), datetime(2018, 9, 13, 1, 4, 52, tzinfo=UTC)),
}
"""Neighbouring strips come from passes in turn."""
SLANT_DEG: dict[Phase, float] = {"pre": 11.0, "post": 12.5}
"""Strips follow the orbit, which crosses the grid's north at this angle; seams of the phases differ."""
STRIP_M, FRAME_M = 7500.0, 12_000.0
"""Greatest width of a strip and length of a scene; also what bounds the memory."""
OVERLAP = 0.12
LEAST_SCENE_PX = 64.0
"""A corner of the map smaller than this many pixels gets no scene of its own: the overlap covers it."""
COLLECTION = "PSScene"


class SimulatedEvent(Value):
    """Where the files of a synthetic event are, and what is in it."""

    catalog: Path
    aoi: tuple[float, float, float, float]
    """west, south, east, north in degrees, within the scenes' union."""
    aoi_path: Path
    event_time: AwareDatetime
    landslides: Path
    """GeoPackage, one polygon per landslide; the other truth files lie on the grid of the scenes' union."""
    mask: Path
    classes: Path
    dem: Path
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
) -> SimulatedEvent:
    """Write a synthetic event: a static STAC catalog of PlanetScope-like scenes, and the truth under truth/.

    Args:
        out: local folder, new or empty.
        size_km: side of the square map, 0.5-60 km.
        seed: equal arguments give equal decoded arrays and equal polygons.
        preset: iburi: low hills; steep: mountains.
        density_per_km2: mean number of landslides per square kilometre.
        cloud_share: share under cloud of the second strip after the event, 0-0.9.

    Raises:
        UsageError: if an argument is out of range.
        InputRefusedError: if `out` holds files already or cannot be written.
    """
    if not LEAST_SIZE_KM <= size_km <= GREATEST_SIZE_KM:
        raise UsageError(f"size_km is {size_km}; expected {LEAST_SIZE_KM} to {GREATEST_SIZE_KM} kilometres")
    if not 0 <= cloud_share <= 0.9:
        raise UsageError(f"cloud_share is {cloud_share}; expected 0 to 0.9")
    size_px = round(size_km * 1000 / PIXEL_M)
    check_arguments(size_px, seed=seed, preset=preset, density_per_km2=density_per_km2)
    folder = _new_folder(Path(out))
    ground = make_ground(size_px, seed=seed, preset=preset, density_per_km2=density_per_km2)
    aoi = _inner_bbox(ground.grid)
    event = SimulatedEvent(
        catalog=folder / "catalog.json",
        aoi=aoi,
        aoi_path=folder / "aoi.geojson",
        event_time=EVENT_TIME,
        landslides=folder / "truth" / "landslides.gpkg",
        mask=folder / "truth" / "mask.tif",
        classes=folder / "truth" / "classes.tif",
        dem=folder / "truth" / "dem.tif",
        landslide_count=len(ground.landslides),
        landslide_share=float(ground.mask.mean()),
    )
    _write_truth(event, ground)
    items = _write_scenes(folder, ground, seed, cloud_share)
    parameters = {"size_km": size_km, "seed": seed, "preset": preset, "density_per_km2": density_per_km2}
    _write_summary(folder, event, parameters | {"cloud_share": cloud_share})
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
    looks = {phase: _draw_look(seed, phase, 0, cloud_share * (phase == "post")) for phase in PHASES}
    pre, post = (
        _expose(ground, phase, (slice(None), slice(None)), looks[phase]).reflectance for phase in PHASES
    )
    return pre, post, ground.mask


def _draw_look(seed: int, phase: Phase, strip: int, cloud_share: float) -> Look:
    """Sun, haze and calibration of one strip."""
    rng = np.random.default_rng([seed, 6, PHASES.index(phase), strip])
    azimuth, elevation = {"pre": (132.0, 48.0), "post": (148.0, 38.0)}[phase]
    gain = 1 + np.clip(0.025 * rng.standard_normal() + 0.01 * rng.standard_normal(4), -0.05, 0.05)
    blue, green, red, nir = (round(float(g), 4) for g in gain)
    return Look(
        sun_azimuth_deg=round(azimuth + rng.uniform(-8, 8), 1),
        sun_elevation_deg=round(elevation + rng.uniform(-3, 3), 1),
        gain=(blue, green, red, nir),
        haze=round(rng.uniform(0.02, 0.25), 3),
        cloud_share=cloud_share,
        seed=int(rng.integers(2**31)),
    )


def _expose(ground: Ground, phase: Phase, window: tuple[slice, slice], look: Look) -> Exposure:
    return expose(ground.elevation_m[window], ground.cover[phase][window], ground.tone[phase][window], look)


def _write_scenes(folder: Path, ground: Ground, seed: int, cloud_share: float) -> list[pystac.Item]:
    """Photograph the ground in slanted strips, each cut into scenes, two scenes in memory at a time."""
    size = ground.mask.shape[0]
    frames = [_Frame(phase, *f) for phase in PHASES for f in _footprints(size, SLANT_DEG[phase])]

    def take(frame: _Frame) -> tuple[Look, Exposure]:
        cloudy = cloud_share if frame.phase == "post" and frame.strip == 1 else 0.0
        look = _draw_look(seed, frame.phase, frame.strip, cloudy)
        look = replace(look, seed=look.seed + frame.number)
        return look, _expose(ground, frame.phase, frame.window, look)

    items = []
    # The next scene is computed while this one is compressed. Only this thread calls rasterio: it silences
    # its own warnings by changing the process's filters, which two threads undo for each other.
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(take, frames[0])
        for frame, following in zip(frames, [*frames[1:], None], strict=True):
            look, exposure = ahead.result()
            if following is not None:
                ahead = pool.submit(take, following)
            items.append(_write_frame(folder, ground, frame, look, exposure))
    return items


class _Frame(NamedTuple):
    """One scene to be taken."""

    phase: Phase
    strip: int
    number: int
    """Along the strip."""
    footprint: shapely.Polygon
    """In pixels of the map."""

    @property
    def window(self) -> tuple[slice, slice]:
        left, top, right, bottom = self.footprint.bounds
        return slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))


def _write_frame(folder: Path, ground: Ground, frame: _Frame, look: Look, exposure: Exposure) -> pystac.Item:
    grid = ground.grid[frame.window]
    outline = to_crs(frame.footprint, ground.grid)
    inside = rasterize([outline], out_shape=grid.shape, transform=grid.transform, dtype=np.uint8) > 0
    when = PASSES[frame.phase][frame.strip % 2]
    when += timedelta(seconds=3 * frame.number, minutes=2 * (frame.strip // 2))
    satellite = 0x1000 + 37 * frame.strip + 5 * PHASES.index(frame.phase)
    item_id = f"{when:%Y%m%d_%H%M%S}_{satellite:04x}"
    return write_scene(
        folder / COLLECTION / item_id,
        item_id,
        exposure,
        grid=grid,
        footprint=outline,
        inside=inside,
        taken=(when, look),
    )


def _footprints(size_px: int, slant_deg: float) -> Iterator[tuple[int, int, shapely.Polygon]]:
    """Strip, frame and outline in pixels of the scenes that together cover the map, at least two strips."""
    box = shapely.box(0, 0, size_px, size_px)
    centre = (size_px / 2, size_px / 2)
    reach = shapely.affinity.rotate(box, slant_deg, origin=centre).bounds
    extent = reach[2] - reach[0]
    strips = max(2, int(np.ceil(extent * PIXEL_M / STRIP_M)))
    frames = max(1, int(np.ceil(extent * PIXEL_M / FRAME_M)))
    half_x, half_y = (0.5 * (1 + OVERLAP) * extent / n for n in (strips, frames))
    for strip in range(strips):
        for frame in range(frames):
            x, y = reach[0] + (strip + 0.5) * extent / strips, reach[1] + (frame + 0.5) * extent / frames
            upright = shapely.box(x - half_x, y - half_y, x + half_x, y + half_y)
            seen = shapely.intersection(shapely.affinity.rotate(upright, -slant_deg, origin=centre), box)
            if isinstance(seen, shapely.Polygon) and seen.area >= LEAST_SCENE_PX:
                yield strip, frame, seen


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
        (folder / "truth").mkdir()
    except OSError as error:
        raise InputRefusedError(
            f"{folder} cannot be written ({error.strerror}): name a folder that can"
        ) from error
    return folder


def _write_truth(event: SimulatedEvent, ground: Ground) -> None:
    ground.landslides.to_file(event.landslides, layer="landslides", driver="GPKG", engine="pyogrio")
    write_cog(event.mask, ground.mask, ground.grid, nodata=None)
    write_cog(event.classes, ground.cover["post"], ground.grid, nodata=0)
    write_cog(event.dem, ground.elevation_m, ground.grid, nodata=None)


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
