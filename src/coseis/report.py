"""The end of a run: polygons, threshold and done-records in, every published file and the report out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from obstore.store import ObjectStore
from pydantic import AwareDatetime, ValidationError
from rasterio.windows import Window

from coseis import __version__
from coseis.addresses import public_form
from coseis.alignment import SHIFTS
from coseis.change import CHANGES
from coseis.config import MapConfig
from coseis.dem_search import DEM
from coseis.edits import EDITS, EditsReport
from coseis.errors import InputRefusedError
from coseis.exposure import ExposureReport
from coseis.flat_ground import FlatCount
from coseis.grades import Product, grade_product, withdraw_report
from coseis.grid import pixels_inside
from coseis.identity import Identity
from coseis.missing import MissingChunks, hide_missing
from coseis.objects import get_object, list_objects, put_object
from coseis.page import FACTS, PAGE, MapFacts, MapLayers, tally_polygons, write_page
from coseis.plan import CONFIG, ITEMS, Plan, Update
from coseis.progress import Clock
from coseis.publish import (
    DENSITY,
    FIGURE,
    STATISTICS,
    probability_layout,
    status_layout,
    upload,
    write_cells,
    write_cog,
    write_inventory,
    write_tiles,
)
from coseis.result_stac import ResultSummary, raster_summaries, write_stac, zone_suffix
from coseis.run_picture import credits_of, draw_run
from coseis.scene_shift import Coregistration
from coseis.situation import SITUATION, biggest_landslides, draw_situation
from coseis.statistics.density import measure_density
from coseis.statistics.figure import draw_sizes
from coseis.statistics.inventory import run_inventory
from coseis.statistics.summary import summarize_inventory
from coseis.store import CUBE, DoneRecord, open_arrays
from coseis.threshold import ThresholdChoice
from coseis.throughput import Throughput
from coseis.types import Phase, Status, Value
from coseis.windows import Chunk, window_px

RUN = "run.json"
SITUATION_FIGURE_IN = (6.6, 3.2)
"""Width and height of the sizes on the page, where they are 3.9 inches wide."""
PARTS = "parts"
"""Folder of the reports of parts."""
FILES = (
    "probability.tif",
    "status.tif",
    "landslides.parquet",
    "landslides.pmtiles",
    "observed.parquet",
    "map.png",
    STATISTICS,
    FIGURE,
    DENSITY,
)
"""What is published beside the cube, the plan and the report."""


class FailedChunk(Value):
    """A chunk that could not be mapped, and why."""

    chunk: str
    crs: str
    """Of its zone."""
    reason: str
    aoi_px: int
    """Pixels of the AOI in it, which count as not observed."""
    tried: bool = True
    """Else its pixels are not computed, not failed: its part is missing, or it was killed."""


class PartReport(Value):
    """parts/I-of-N.json: what one share of a run's chunks took, and what failed in it."""

    part: str
    """I/N."""
    identity: str
    """Digest of the run's identity."""
    throughput: Throughput
    failed: tuple[FailedChunk, ...]


class ChangeTotal(Value):
    """Polygons of one kind of change."""

    count: int
    area_m2: float


class TerrainReport(Value):
    """What a DEM gave, and what the mask of flat ground took away."""

    source: str
    """Collections of the DEM, or its file."""
    attribution: str | None
    polygons_without_dem: int
    min_slope_deg: float | None
    """Of the mask; None: there was none."""
    flat: FlatCount | None
    """What the mask did to the pixels at or above the threshold; None: there was none."""
    flat_m2: float | None
    """Area that it took away."""


class RunReport(Value):
    """run.json: what was run, how long it took, what it found, and what is missing."""

    identity: Identity
    identity_digest: str
    config: MapConfig
    forced_resolution: bool
    threshold: ThresholdChoice
    landslide_count: int
    """Landslides of the event: all polygons but those that were there before."""
    landslide_area_m2: float
    """Of the same."""
    changes: dict[str, ChangeTotal]
    """Of every kind of `change.CHANGES`."""
    aoi_km2: float
    """Area of the AOI on the grid."""
    observed_share: float
    """Share of the AOI's pixels that a scene of the post phase was used for."""
    status_shares: dict[Phase, dict[str, float]]
    """Shares of the AOI's pixels by what was seen of them, or why nothing was."""
    scenes_without_mask: tuple[str, ...]
    """Items that came without a usable data mask: clouds in them count as observed."""
    failed: tuple[FailedChunk, ...]
    seconds: dict[str, float]
    """Wall seconds a stage; of a resumed run, of its last part."""
    throughput: Throughput
    terrain: TerrainReport | None = None
    """None: no DEM was given."""
    exposure: ExposureReport | None = None
    """What the landslides of the event cut and touch; None: no layer was given."""
    truth: dict[str, Any] | None = None
    """Of a simulated event: every part of the map against the truth, see `demo.score_truth`."""
    coregistration: Coregistration | None = None
    """How the scenes before the event lie on those after it; None: not measured."""
    edits: EditsReport | None = None
    """What of the inventory is by mappers; None: nothing."""
    issued: AwareDatetime
    """When this map was drawn."""
    updates: tuple[Update, ...] = ()
    """What each new search of the catalog changed, the last one last; none: the scenes are the first ones."""
    products: tuple[Product, ...] = ()
    """All that was issued of this run, this map last; each supersedes the one before."""


@dataclass(frozen=True)
class Outcome:
    """What the passes over the cube gave."""

    polygons: gpd.GeoDataFrame
    """The inventory, as `draw.Drawing` describes it."""
    cells: gpd.GeoDataFrame
    """What was seen, as `cells.join_cells` describes it."""
    threshold: ThresholdChoice
    records: Sequence[DoneRecord]
    """Of every chunk that is done, also of earlier parts of a resumed run."""
    failures: Sequence[FailedChunk]
    throughput: Throughput
    missing: Mapping[str, MissingChunks]
    """By CRS of the zone, the chunks of `failures`."""
    layers: MapLayers
    """The raster layers of the map page, which are written already."""
    terrain: TerrainReport | None = None
    exposure: ExposureReport | None = None
    edits: EditsReport | None = None
    """What mappers said of the polygons; None: nothing."""


def read_report(store: ObjectStore, out: str) -> RunReport:
    """The report of a finished run.

    Args:
        store: Where the run lies.
        out: Its address, for messages.

    Raises:
        InputRefusedError: there is no finished run, or one of another version.
    """
    kept = get_object(store, RUN)
    if kept is None:
        raise InputRefusedError(
            f"{out} holds no finished run (no {RUN}); run coseis map first, or --resume it"
        )
    try:
        return RunReport.model_validate_json(kept)
    except ValidationError as error:
        raise InputRefusedError(
            f"{out}/{RUN} is damaged or not of this version; run coseis map anew"
        ) from error


def read_config(store: ObjectStore, out: str) -> MapConfig:
    """What a run was asked for. Arguments as for `read_report`.

    Raises:
        InputRefusedError: no run was begun there, or by another version.
    """
    kept = get_object(store, CONFIG)
    if kept is None:
        raise InputRefusedError(f"{out} holds no run (no {CONFIG}); run coseis map first")
    try:
        return MapConfig.model_validate_json(kept)
    except ValidationError as error:
        raise InputRefusedError(f"{out}/{CONFIG} is damaged or not of this version") from error


def write_part(store: ObjectStore, report: PartReport) -> None:
    """Keeps the report of a part; the same part, done again, replaces it."""
    name = report.part.replace("/", "-of-")
    put_object(store, f"{PARTS}/{name}.json", report.model_dump_json(indent=1).encode())


def read_parts(store: ObjectStore, identity: str) -> list[PartReport]:
    """The reports of all parts of a run that have ended so far."""
    reports = []
    for key in list_objects(store, f"{PARTS}/"):
        try:
            report = PartReport.model_validate_json(get_object(store, key) or b"")
        except ValidationError:
            continue
        if report.identity == identity:
            reports.append(report)
    return reports


def failed_chunk(plan: Plan, chunk: Chunk, reason: str | None) -> FailedChunk:
    """A chunk without a result, and how much of the AOI is missing with it; no reason: it was not tried."""
    window = Window(chunk.x0, chunk.y0, chunk.width, chunk.height)
    aoi_px = int(pixels_inside(plan.found.event.aoi, plan.geobox, window).sum())
    return FailedChunk(
        chunk=chunk.name,
        crs=plan.identity.crs,
        reason=public_form(reason or "it was never computed"),
        aoi_px=aoi_px,
        tried=reason is not None,
    )


def missing_chunks(zone: Plan, failed: Sequence[FailedChunk]) -> MissingChunks:
    """Of one zone of a run, for those who read its cube."""
    chunks = {chunk.name: chunk for chunk in zone.chunks(zone.chunk_px)}
    of_zone = [
        (chunks[lost.chunk], Status.FAILED if lost.tried else Status.NOT_COMPUTED)
        for lost in failed
        if lost.crs == zone.identity.crs
    ]
    return MissingChunks(zone.found.event.aoi, tuple(of_zone))


def publish_run(
    plan: Plan,
    config: MapConfig,
    store: ObjectStore,
    clock: Clock,
    outcome: Outcome,
) -> RunReport:
    """Writes the inventory, tiles, COGs, pictures and STAC item, report.html, and run.json last of all.

    Raises:
        InputRefusedError: the output cannot be written.
    """
    # A report beside files of another threshold would be wrong: there is none while they change.
    earlier = withdraw_report(store, RUN)
    with clock("publish"):
        report = _report(plan, config, outcome, earlier)
        polygons, of_event = outcome.polygons, event_polygons(outcome.polygons)
        dem_credit = (outcome.terrain.attribution or "",) if outcome.terrain else ()
        names = tuple(filter(None, (*credits_of(plan), *dem_credit)))
        write_inventory(polygons, store, "landslides.parquet")
        write_cells(outcome.cells, store, "observed.parquet")
        figure = _write_statistics(config, outcome, store)
        write_tiles(polygons, store, "landslides.pmtiles", attribution="; ".join(names))
        for zone in plan.zones:
            missing = outcome.missing.get(zone.identity.crs)
            _write_rasters(zone, store, config.output.out, zone_suffix(plan, zone), missing)
        numbered = biggest_landslides(of_event).geometry
        picture, panel = draw_run(
            plan,
            of_event,
            outcome.threshold.value,
            numbered=numbered,
            show_scenes=config.output.publish_pixels != "no",
        )
        upload(picture, store, "map.png")
        write_page(_facts(plan, report, outcome), store)
        summary = _summary(plan, report, outcome)
        assets = (*summary.assets, *([DEM] if outcome.terrain else []), *([EDITS] if outcome.edits else []))
        write_stac(summary.model_copy(update={"attribution": names, "assets": assets}), store)
        upload(draw_situation(report, plan, of_event, picture=panel, figure=figure), store, SITUATION)
    report = report.model_copy(update={"seconds": clock.seconds})
    upload(report.model_dump_json(indent=1).encode(), store, RUN)
    return report


def event_polygons(polygons: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Those of an inventory that are landslides of the event, as far as is known."""
    return polygons[polygons["change"] != "pre-existing"]


def _write_statistics(config: MapConfig, outcome: Outcome, store: ObjectStore) -> bytes:
    """Statistics, their figure and the density; without the test of the fit, which fits 200 times.

    Returns the figure as report.html has it, a PNG.
    """
    inventory = run_inventory(event_polygons(outcome.polygons), outcome.cells, config.output.out)
    statistics = summarize_inventory(inventory, completeness_m2=config.output.min_area)
    upload(statistics.model_dump_json(indent=1).encode(), store, STATISTICS)
    series = {"this map": (inventory.sample(config.output.min_area), statistics.sizes.fit)}
    upload(draw_sizes(series, title="Areas of the landslides of the event"), store, FIGURE)
    write_cells(measure_density(inventory.polygons, outcome.cells), store, DENSITY)
    return draw_sizes(series, size_in=SITUATION_FIGURE_IN)


def _files(plan: Plan) -> tuple[str, ...]:
    rasters = [
        name.replace(".tif", f"{zone_suffix(plan, zone)}.tif")
        for zone in plan.zones[1:]
        for name in FILES[:2]
    ]
    return (*FILES, *rasters)


def _write_rasters(
    plan: Plan, store: ObjectStore, out: str, suffix: str, missing: MissingChunks | None
) -> None:
    """probability.tif and status.tif, the post phase first: it is what GIS programs show unasked."""
    arrays = open_arrays(out, plan.geobox)
    phases = sorted(enumerate(plan.identity.phases), key=lambda pair: pair[1] != "post")
    order = [number for number, _ in phases]

    def read(name: str, rows: slice, cols: slice) -> NDArray[np.uint8]:
        values = np.asarray(arrays[name][..., rows, cols])[order]
        hide_missing({name: values}, missing, plan.geobox, rows, cols)
        return values.reshape(-1, *values.shape[-2:])

    names = tuple(f"{name} {phase}" for _, phase in phases for name in plan.card.classes)
    layout = probability_layout(names)
    write_cog(
        partial(read, "probability"), store, f"probability{suffix}.tif", geobox=plan.geobox, layout=layout
    )
    layout = status_layout(tuple(phase for _, phase in phases))
    write_cog(partial(read, "status"), store, f"status{suffix}.tif", geobox=plan.geobox, layout=layout)


def _facts(plan: Plan, report: RunReport, outcome: Outcome) -> MapFacts:
    """What the map page says of the run."""
    counts, areas_m2 = tally_polygons(outcome.polygons)
    phases = {phase: plan.found.of_phase(phase) for phase in plan.identity.phases}
    return MapFacts(
        event_time=plan.found.event.time,
        grade=report.products[-1].title,
        bounds=shapely.geometry.shape(plan.found.event.aoi).bounds,
        aoi=plan.found.event.aoi,
        aoi_km2=report.aoi_km2,
        observed_share=report.observed_share,
        failed_chunks=len(report.failed),
        threshold=report.threshold.value,
        threshold_rule=report.threshold.rule,
        model_name=plan.card.name,
        software_version=__version__,
        attribution=credits_of(plan),
        scene_dates={
            phase: (min(scene.start for scene in scenes), max(scene.end for scene in scenes))
            for phase, scenes in phases.items()
        },
        layers=outcome.layers,
        counts=counts,
        areas_m2=areas_m2,
    )


def _summary(plan: Plan, report: RunReport, outcome: Outcome) -> ResultSummary:
    identity, scenes = plan.identity, plan.found.scenes
    layers = outcome.layers
    present = {"pre.pmtiles": layers.pre, "post.pmtiles": layers.post, "codes.pmtiles": layers.codes}
    tiles = tuple(name for name, is_there in present.items() if is_there)
    return ResultSummary(
        run_id=f"coseis-{identity.digest()[:12]}",
        event_time=plan.found.event.time,
        start=min(scene.start for scene in scenes),
        end=max(scene.end for scene in scenes),
        footprint=plan.found.event.aoi,
        rasters=raster_summaries(plan),
        card=plan.card,
        model_digest=identity.model,
        window_px=window_px(identity.core_px, plan.card.padding),
        threshold=outcome.threshold.value,
        software_version=__version__,
        grade=report.products[-1].grade,
        complete=report.products[-1].complete,
        landslide_count=report.landslide_count,
        landslide_area_m2=report.landslide_area_m2,
        attribution=credits_of(plan),
        assets=(
            CUBE,
            *_files(plan),
            *tiles,
            *((SHIFTS,) if plan.coregistration else ()),
            PAGE,
            FACTS,
            SITUATION,
            ITEMS,
            RUN,
        ),
    )


def _report(plan: Plan, config: MapConfig, outcome: Outcome, earlier: Sequence[Product]) -> RunReport:
    """The report but for its seconds."""
    pixel_km2 = abs(plan.identity.transform[0] * plan.identity.transform[4]) / 1e6
    aoi_px = sum(record.aoi_px for record in outcome.records) + sum(f.aoi_px for f in outcome.failures)
    observed_px = sum(record.observed_px for record in outcome.records)
    of_event = event_polygons(outcome.polygons)
    complete, now = not outcome.failures, datetime.now(UTC)
    product = grade_product(earlier, complete=complete, updates=len(plan.updates), time=now)
    return RunReport(
        identity=plan.identity,
        identity_digest=plan.identity.digest(),
        config=config.public,
        forced_resolution=plan.forced_resolution,
        threshold=outcome.threshold,
        landslide_count=len(of_event),
        landslide_area_m2=float(of_event.area_m2.sum()),
        changes={
            change: ChangeTotal(count=len(rows), area_m2=float(rows.area_m2.sum()))
            for change in CHANGES
            for rows in [outcome.polygons[outcome.polygons["change"] == change]]
        },
        aoi_km2=round(aoi_px * pixel_km2, 3),
        observed_share=round(observed_px / aoi_px, 6) if aoi_px else 0.0,
        status_shares=_status_shares(plan.identity.phases, outcome, aoi_px),
        scenes_without_mask=tuple(scene.item_id for scene in plan.found.scenes if scene.udm2 is None),
        failed=tuple(sorted(outcome.failures, key=lambda failure: (failure.crs, failure.chunk))),
        seconds={},
        throughput=outcome.throughput,
        terrain=outcome.terrain,
        exposure=outcome.exposure,
        coregistration=plan.coregistration,
        edits=outcome.edits,
        issued=product.issued,
        updates=plan.updates,
        products=(*earlier, product),
    )


def _status_shares(phases: Sequence[Phase], outcome: Outcome, aoi_px: int) -> dict[Phase, dict[str, float]]:
    """By phase and status, what is not zero; a chunk without a result counts in all phases."""
    counts = np.zeros((len(phases), len(Status)), np.int64)
    for record in outcome.records:
        counts += np.array(record.status_px)
    for failure in outcome.failures:
        counts[:, Status.FAILED if failure.tried else Status.NOT_COMPUTED] += failure.aoi_px
    inside = [status for status in Status if status != Status.OUTSIDE_AOI]
    return {
        phase: {s.name.lower(): round(int(row[s]) / aoi_px, 6) for s in inside if row[s]} if aoi_px else {}
        for phase, row in zip(phases, counts, strict=True)
    }
