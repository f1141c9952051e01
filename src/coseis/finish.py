"""The chunks of a run that are done go in; threshold, polygons, what they meet, files and report come out."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
from distributed import Client
from obstore.store import ObjectStore
from rich.progress import Progress

from coseis.config import MapConfig, TerrainConfig
from coseis.dem import Dem
from coseis.dem_search import find_dem, keep_dem, read_dem
from coseis.draw import draw_polygons, thresholds_of
from coseis.edits import EditsReport, lay_edits, read_edits
from coseis.errors import UsageError
from coseis.exposure import exposure_attributes, report_exposure
from coseis.flat_ground import FlatCount, FlatGround
from coseis.landform import terrain_attributes
from coseis.missing import MissingChunks
from coseis.objects import open_store
from coseis.outlines import measure_outlines
from coseis.page import read_layers
from coseis.plan import (
    Plan,
    policy_of,
    read_done,
)
from coseis.progress import Clock, one_step
from coseis.render import render_layers
from coseis.report import (
    FailedChunk,
    Outcome,
    RunReport,
    TerrainReport,
    event_polygons,
    failed_chunk,
    missing_chunks,
    publish_run,
)
from coseis.store import DoneRecord
from coseis.task import check_plan
from coseis.threshold import ThresholdChoice, choose_threshold
from coseis.throughput import Throughput
from coseis.types import CODE_SCALE


def check_terrain(terrain: TerrainConfig) -> None:
    """Raises UsageError for what needs a DEM where none is given."""
    if terrain.dem is None and (terrain.min_slope is not None or terrain.dem_collection):
        raise UsageError("--min-slope and --dem-collection need a DEM; give --dem too")


def dem_of(config: MapConfig, aoi: dict[str, Any], store: ObjectStore) -> Dem | None:
    """The DEM that the run keeps or, if there is none or another was asked for, finds; None without --dem."""
    terrain = config.terrain
    check_terrain(terrain)
    if terrain.dem is None:
        return None
    collections = terrain.dem_collection
    kept = read_dem(store, terrain.dem, collections)
    return kept or find_dem(terrain.dem, aoi, collections=collections, policy=policy_of(config.search))


class Work(NamedTuple):
    """What a run is finished with."""

    client: Client
    clock: Clock
    progress: Progress
    layers: Mapping[str, gpd.GeoDataFrame]
    """What lies around, see `exposure`."""


def finish_map(
    plan: Plan,
    config: MapConfig,
    work: Work,
    *,
    throughput: Throughput,
    reasons: Mapping[tuple[str, str], str],
    redraw: bool = True,
) -> RunReport:
    """Threshold, polygons, files and report of the chunks that are done; the others are listed as failed."""
    client, clock, progress, around = work
    store = open_store(config.output.out)
    check_plan(config.output.out, plan)
    records: list[DoneRecord] = []
    failed: list[FailedChunk] = []
    for zone in plan.zones:
        done = read_done(zone, store)
        records += done.values()
        crs = zone.identity.crs
        failed += [
            failed_chunk(zone, chunk, reasons.get((crs, chunk.name)))
            for chunk in zone.chunks(zone.chunk_px)
            if chunk.name not in done
        ]
    missing = {zone.identity.crs: missing_chunks(zone, failed) for zone in plan.zones}
    histogram = np.zeros(CODE_SCALE + 1, np.int64)
    for record in records:
        histogram += np.array(record.histogram)
    threshold = choose_threshold(config.output.threshold, histogram, plan.card.threshold)
    if dem := dem_of(config, plan.found.event.aoi, store):
        keep_dem(store, dem)
    min_slope = config.terrain.min_slope
    ground = FlatGround(dem=dem, min_slope_deg=min_slope) if dem and min_slope else None
    with clock("vectorize"):
        drawing = draw_polygons(plan, config.output, threshold, client, progress, ground, missing)
    polygons, edited = _lay_edits(plan, config, store, drawing.polygons, threshold, missing)
    terrain = None
    if dem:
        with clock("terrain"), one_step(progress, "terrain"):
            polygons = terrain_attributes(polygons, dem)
        pixel_m2 = abs(plan.geobox.affine.a * plan.geobox.affine.e)
        terrain = _report_terrain(dem, polygons, ground, drawing.flat, pixel_m2)
    exposure = None
    if around:
        with clock("exposure"), one_step(progress, "roads, rivers, buildings"):
            polygons = exposure_attributes(polygons, around)
        exposure = report_exposure(event_polygons(polygons), config.exposure.model_dump())
    layers = None if redraw else read_layers(store)
    if layers is None:
        with clock("tiles"):
            out, allowed = config.output.out, config.output.publish_pixels
            layers = render_layers(plan, out, client, progress, publish_pixels=allowed, missing=missing)
    check_plan(config.output.out, plan)
    with one_step(progress, "publish"):
        outcome = Outcome(
            polygons,
            drawing.cells,
            threshold,
            records,
            failed,
            throughput,
            missing,
            layers,
            terrain,
            exposure,
            edited,
        )
        return publish_run(plan, config, store, clock, outcome)


def _lay_edits(
    plan: Plan,
    config: MapConfig,
    store: ObjectStore,
    polygons: gpd.GeoDataFrame,
    threshold: ThresholdChoice,
    missing: Mapping[str, MissingChunks],
) -> tuple[gpd.GeoDataFrame, EditsReport | None]:
    """The polygons as mappers want them, whatever the threshold and the scenes are by now."""
    edits = read_edits(store)
    if edits is None:
        return polygons, None
    measure = partial(
        measure_outlines,
        plan,
        out=config.output.out,
        thresholds=thresholds_of(config.output, threshold),
        missing=missing,
    )
    pixel_m2 = abs(plan.geobox.affine.a * plan.geobox.affine.e)
    return lay_edits(polygons, edits, measure, pixel_m2=pixel_m2)


def _report_terrain(
    dem: Dem, polygons: gpd.GeoDataFrame, ground: FlatGround | None, flat: FlatCount, pixel_m2: float
) -> TerrainReport:
    return TerrainReport(
        source=dem.source,
        attribution=dem.attribution,
        polygons_without_dem=int((polygons.dem_share == 0).sum()),
        min_slope_deg=ground.min_slope_deg if ground else None,
        flat=flat if ground else None,
        flat_m2=flat.flat_px * pixel_m2 if ground else None,
    )
