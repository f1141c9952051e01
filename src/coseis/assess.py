"""A finished run and its labels in, everything that is counted of the map out."""

import dataclasses
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from obstore.store import ObjectStore
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize
from rasterio.windows import Window

from coseis.cube import read_window
from coseis.errors import InputRefusedError, UsageError
from coseis.evaluation import (
    REACH_PX,
    Assessment,
    Outcome,
    Panel,
    count_boundary,
    count_pixels,
    counted_pixels,
    match_polygons,
    merge_outcomes,
    outcome_of,
    trace_mask,
    trace_outcome,
)
from coseis.evaluation.results import Assessed
from coseis.labels import Labels, open_labels
from coseis.missing import hide_missing
from coseis.objects import get_object, open_store
from coseis.picture import stretch_rgb
from coseis.plan import ITEMS, Plan, read_plan
from coseis.report import FailedChunk, missing_chunks, read_report
from coseis.run_picture import PICTURE_PX
from coseis.store import open_arrays
from coseis.types import CODE_SCALE, LABEL_IGNORE, least_code
from coseis.vectorize import BlockPieces, merge_blocks
from coseis.windows import Chunk, chunk_grid

BLOCK_PX = 2048
"""Side of the blocks that are compared at once; the counts do not depend on it."""


@dataclass(frozen=True)
class _BlockResult:
    """Counts of one block, and the pieces of landslides that may go on in the next."""

    counts: Assessment
    predicted: BlockPieces
    labelled: BlockPieces
    true_false_missed: dict[str, BlockPieces]


class _ZoneResult(NamedTuple):
    """Counts, picture and outcomes of one UTM zone."""

    counts: Assessment
    panel: Panel
    outcomes: dict[str, gpd.GeoDataFrame]


def assess_run(
    out: str, labels: str | Path | None, *, threshold: float | None = None, with_old: bool = False
) -> Assessed:
    """Compares a finished run's map with labels, where the post phase was observed.

    Counted are pixels at or above the threshold, also those of polygons below the run's least area, but not
    those of polygons that were there before the event.

    Args:
        out: Address of the run.
        labels: Polygons or a raster, see `labels.open_labels`; None is refused.
        threshold: Least probability that counts as landslide; default: the run's.
        with_old: Count what was there before too: for labels that hold old landslides.

    Raises:
        InputRefusedError: There is no finished run at `out`.
        UsageError: The labels cannot be used.
    """
    store = open_store(out, must_exist=True)
    report = read_report(store, out)
    if labels is None:
        raise UsageError(f"{out} is a run, which holds no labels; give LABELS, polygons or a raster")
    plan = read_plan(get_object(store, ITEMS) or b"", out)
    if report.identity_digest != plan.identity.digest():
        raise InputRefusedError(
            f"{out} is being updated: its cube and its report are of different scenes; run coseis finish, or "
            "coseis map with --resume, first"
        )
    old = None if with_old else _old_polygons(store)
    threshold = report.threshold.value if threshold is None else threshold
    zones = {
        zone.identity.crs: _assess_zone(zone, out, labels, old, threshold, report.failed)
        for zone in plan.zones
    }
    names = {crs: report.identity_digest[:12] + ("" if len(zones) == 1 else f" {crs}") for crs in zones}
    return Assessed(
        source=out,
        threshold=threshold,
        pixel_m2=abs(plan.geobox.affine.a * plan.geobox.affine.e),
        parts={names[crs]: zone.counts for crs, zone in zones.items()},
        panels={names[crs]: zone.panel for crs, zone in zones.items()},
        outcomes=[zone.outcomes for zone in zones.values()],
    )


def _assess_zone(
    plan: Plan,
    out: str,
    labels: str | Path,
    old: gpd.GeoSeries | None,
    threshold: float,
    failed: Sequence[FailedChunk],
) -> _ZoneResult:
    """One UTM zone of a run; a landslide across the border of two counts in both."""
    post, array = plan.identity.phases.index("post"), open_arrays(out, plan.geobox)["probability"]
    missing = missing_chunks(plan, failed)

    def read_codes(rows: slice, cols: slice) -> NDArray[np.uint8]:
        codes = np.asarray(array[post, 0, rows, cols])
        hide_missing({"probability": codes}, missing, plan.geobox, rows, cols)
        return codes

    truth = open_labels(labels, plan.geobox)
    old = None if old is None else old.to_crs(str(plan.geobox.crs))
    step = max(1, -(-max(plan.identity.shape) // PICTURE_PX))
    picture = np.full(plan.geobox.zoom_out(step).shape, Outcome.NOT_COUNTED, dtype=np.uint8)
    blocks = []
    for block in chunk_grid(plan.identity.shape, BLOCK_PX):
        result, outcome = _assess_block(plan, read_codes, truth, old, block, threshold)
        blocks.append(result)
        _show_block(picture, outcome, block, step)
    predicted, labelled = (
        merge_blocks([getattr(block, name) for block in blocks], plan.geobox)
        for name in ("predicted", "labelled")
    )
    outcomes = merge_outcomes([block.true_false_missed for block in blocks], plan.geobox)
    landslides = match_polygons(predicted, labelled, outcomes["true"], geobox=plan.geobox)
    counts = sum((block.counts for block in blocks), Assessment(landslides=landslides))
    return _ZoneResult(counts, _draw_run(plan, picture, step), outcomes)


def _old_polygons(store: ObjectStore) -> gpd.GeoSeries:
    """What was there before the event, in the grid's CRS."""
    table = gpd.read_parquet(io.BytesIO(get_object(store, "landslides.parquet") or b""))
    return table.geometry[table["change"] == "pre-existing"]


def pixels_of(polygons: gpd.GeoSeries, geobox: GeoBox) -> NDArray[np.bool_]:
    """Pixels of polygons that run along pixel edges, bool (y, x): exactly theirs."""
    box = geobox.boundingbox
    near = polygons.iloc[polygons.sindex.query(shapely.box(*box))]
    if near.empty:
        return np.zeros(geobox.shape, bool)
    burnt: NDArray[np.uint8] = rasterize(near, geobox.shape, transform=geobox.affine, dtype=np.uint8)
    return burnt > 0


def _assess_block(
    plan: Plan,
    read_codes: Callable[[slice, slice], NDArray[np.uint8]],
    labels: Labels,
    old: gpd.GeoSeries | None,
    block: Chunk,
    threshold: float,
) -> tuple[_BlockResult, NDArray[np.uint8]]:
    """One block and its outcomes, uint8 (y, x); read with the margin that tells how near a border is."""
    (y0, y1), (x0, x1) = (
        (max(0, start - REACH_PX), min(size, start + length + REACH_PX))
        for start, length, size in zip(
            (block.y0, block.x0), (block.height, block.width), plan.identity.shape, strict=True
        )
    )
    codes = read_codes(slice(y0, y1), slice(x0, x1))
    if old is not None:
        codes[pixels_of(old, plan.geobox[y0:y1, x0:x1]) & (codes <= CODE_SCALE)] = 0
    truth = labels.mask(plan.geobox[y0:y1, x0:x1])
    inner = (
        slice(block.y0 - y0, block.y0 - y0 + block.height),
        slice(block.x0 - x0, block.x0 - x0 + block.width),
    )
    counted = np.zeros(codes.shape, dtype=bool)
    counted[inner] = counted_pixels(codes[inner], truth[inner])
    counts = Assessment(
        pixels=count_pixels(codes, truth, counted=counted),
        boundary=count_boundary(codes, truth, threshold=threshold, counted=counted),
    )
    codes, truth, counted = codes[inner], truth[inner], counted[inner]
    predicted = (codes >= least_code(threshold)) & (codes <= CODE_SCALE)
    landslide = (truth != 0) & (truth != LABEL_IGNORE)
    outcome = outcome_of(predicted, landslide, counted)
    origin = (block.y0, block.x0)
    result = _BlockResult(
        counts=counts,
        predicted=trace_mask(predicted & counted, origin=origin),
        labelled=trace_mask(landslide & counted, origin=origin),
        true_false_missed=trace_outcome(outcome, origin=origin),
    )
    return result, outcome


def _show_block(picture: NDArray[np.uint8], outcome: NDArray[np.uint8], block: Chunk, step: int) -> None:
    """Writes every step-th pixel of a block into the picture, uint8 (y, x), in place."""
    rows, columns = (
        np.arange(-((step // 2 - start) // step), -((step // 2 - start - length) // step))
        for start, length in ((block.y0, block.height), (block.x0, block.width))
    )
    shown = outcome[np.ix_(rows * step + step // 2 - block.y0, columns * step + step // 2 - block.x0)]
    picture[np.ix_(rows, columns)] = shown


def _draw_run(plan: Plan, outcome: NDArray[np.uint8], step: int) -> Panel:
    """The post scene beside the outcomes, uint8 (y, x), on a grid that fits a picture."""
    geobox = plan.geobox.zoom_out(step)
    colours = ("red", "green", "blue")
    bands = colours if set(colours) <= set(plan.card.bands) else plan.card.bands[:1]
    recipe = dataclasses.replace(plan.recipe(), geobox=geobox, bands=bands, phases=("post",))
    whole = Window(0, 0, geobox.shape.x, geobox.shape.y)
    try:
        cube = read_window(recipe, whole)
    except InputRefusedError:
        # The scenes may be gone since the map was made; the scores need none of them.
        cube = read_window(dataclasses.replace(recipe, scenes=()), whole)
    [image] = cube.image
    return Panel(
        title=f"{plan.found.event.time:%Y-%m-%d %H:%M} UTC, {plan.card.name}",
        rgb=stretch_rgb(image if len(bands) == 3 else image.repeat(3, axis=0)),
        outcome=outcome,
    )
