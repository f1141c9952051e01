"""A finished run or a file of polygons in, its statistics, their figure and the density of landslides out."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from obstore.store import ObjectStore
from rich.console import Console

from coseis.addresses import scheme_of
from coseis.cluster import connected
from coseis.config import ClusterConfig
from coseis.dem_search import DEM, read_dem
from coseis.draw import draw_polygons
from coseis.errors import InputRefusedError, UsageError
from coseis.flat_ground import FlatGround
from coseis.grid import epsg_of
from coseis.objects import get_object, open_store
from coseis.plan import ITEMS, read_plan
from coseis.progress import progress_bars
from coseis.publish import DENSITY, FIGURE, STATISTICS
from coseis.report import RunReport, event_polygons, missing_chunks, read_report
from coseis.statistics.areas import AreaSample
from coseis.statistics.density import measure_density
from coseis.statistics.figure import draw_sizes
from coseis.statistics.inventory import SUFFIXES, Inventory, read_inventory, run_inventory, within
from coseis.statistics.split import ReadCodes, split_polygons
from coseis.statistics.summary import Statistics, summarize_inventory
from coseis.store import open_arrays
from coseis.types import least_code

SPLIT = "landslides_split.parquet"
THRESHOLD_STEP = 0.1
"""How far the threshold is moved, both ways, to see what depends on it."""
CHUNKS_KEPT = 32


def describe_inventory(
    source: str,
    *,
    reference: str | None = None,
    area: str | None = None,
    completeness_m2: float | None = None,
    sensitivity: bool = False,
    split: bool = False,
    simulated: int = 0,
    out: str | Path | None = None,
    console: Console | None = None,
) -> Statistics:
    """Statistics of a finished run or of any file of polygons.

    Args:
        source: Address of a run, or a file, see `inventory.read_inventory`.
        reference: Another inventory of the same event, a run or a file; it is taken where ours was mapped.
        area: Polygons of what a file has mapped; a run knows it.
        completeness_m2: Least area from which on nothing is missing; default: a run's least area of a
            polygon, the area that 1 % of a file's landslides are smaller than.
        sensitivity: Draw a run's polygons anew at thresholds THRESHOLD_STEP lower and higher.
        split: Cut a run's outlines that are likely to be several landslides', and show both.
        simulated: Inventories for the test of the fit; 0: no test.
        out: Folder that gets statistics.json, statistics.png and, where what was seen is known,
            density.parquet; of the split inventory landslides_split.parquet.
        console: Where progress is shown; default: nowhere.

    Raises:
        UsageError: A file cannot be used, or something was asked of a file that only a run has.
        InputRefusedError: There is no finished run, or the folder cannot be written.
    """
    inventory, least_m2 = _open(source, area)
    if completeness_m2 is None:
        completeness_m2 = least_m2
    variants: Mapping[str, AreaSample] = {}
    if sensitivity:
        if _is_file(source):
            raise UsageError(f"{source} is a file, which has no threshold; --sensitivity is for a run")
        variants = vary_threshold(source, completeness_m2=completeness_m2, console=console)
    parts = None
    if split:
        if _is_file(source):
            raise UsageError(f"{source} is a file, which has no probabilities; --split is for a run")
        parts = split_run(source, inventory)
    other = None
    if reference is not None:
        other = within(_open(reference, None)[0], inventory)
    statistics = summarize_inventory(
        inventory,
        completeness_m2=completeness_m2,
        variants=variants,
        reference=other,
        split=parts,
        simulated=simulated,
    )
    if out is not None:
        _write(inventory, other, parts, statistics, Path(out))
    return statistics


def split_run(out: str, inventory: Inventory) -> Inventory:
    """A run's landslides with amalgamated outlines cut, see `split.split_polygons`.

    Args:
        out: Address of the run.
        inventory: Of it, as `run_inventory` gives it.

    Raises:
        InputRefusedError: the run's cube cannot be read.
    """
    plan = read_plan(get_object(open_store(out, must_exist=True), ITEMS) or b"", out)
    post, polygons = plan.identity.phases.index("post"), inventory.polygons
    # An id begins with the EPSG code of its grid.
    zone_of = polygons["id"].str.partition("-")[0]
    tables = []
    for zone in plan.zones:
        read = _kept_codes(open_arrays(out, zone.geobox)["probability"], post)
        own = polygons[zone_of == str(epsg_of(zone.geobox))]
        tables.append(split_polygons(own, zone.geobox, read))
    whole = gpd.GeoDataFrame(pd.concat(tables, ignore_index=True), crs=polygons.crs)
    cut = whole["touches_unobserved"].to_numpy(bool) | whole["touches_aoi_border"].to_numpy(bool)
    return Inventory(source=inventory.source, polygons=whole, is_cut=cut, cells=inventory.cells)


def _kept_codes(array: Any, phase: int) -> ReadCodes:
    """Reads a cube's codes by whole chunks and keeps some: a chunk holds many outlines."""
    height, width = array.chunks[-2:]

    @lru_cache(CHUNKS_KEPT)
    def chunk(row: int, col: int) -> NDArray[np.uint8]:
        rows, cols = slice(row * height, (row + 1) * height), slice(col * width, (col + 1) * width)
        return np.asarray(array[phase, 0, rows, cols])

    def read(rows: slice, cols: slice) -> NDArray[np.uint8]:
        top, left = rows.start // height, cols.start // width
        parts = [
            [chunk(row, col) for col in range(left, (cols.stop - 1) // width + 1)]
            for row in range(top, (rows.stop - 1) // height + 1)
        ]
        down, right = top * height, left * width
        return np.block(parts)[rows.start - down : rows.stop - down, cols.start - right : cols.stop - right]

    return read


def vary_threshold(
    out: str, *, completeness_m2: float | None = None, console: Console | None = None
) -> dict[str, AreaSample]:
    """Areas of a run's landslides at a lower and a higher threshold, drawn as the run's own were.

    Args:
        out: Address of the run.
        completeness_m2: As for `describe_inventory`.
        console: As for `describe_inventory`.

    Raises:
        InputRefusedError: There is no finished run at `out`, or its cube cannot be read.
    """
    store = open_store(out, must_exist=True)
    report = read_report(store, out)
    plan = read_plan(get_object(store, ITEMS) or b"", out)
    missing = {zone.identity.crs: missing_chunks(zone, report.failed) for zone in plan.zones}
    config = report.config.output.model_copy(update={"out": out})
    least_m2 = config.min_area if completeness_m2 is None else completeness_m2
    samples = {}
    with progress_bars(console) as progress, connected(ClusterConfig(), None) as client:
        for step in (-THRESHOLD_STEP, THRESHOLD_STEP):
            value = round(report.threshold.value + step, 2)
            if not 0 < value <= 1:
                continue
            choice = report.threshold.model_copy(
                update={"rule": "fixed", "code": least_code(value), "value": value}
            )
            ground = _ground(report, store)
            drawing = draw_polygons(plan, config, choice, client, progress, ground, missing)
            drawn = run_inventory(event_polygons(drawing.polygons), drawing.cells, out)
            samples[f"threshold {value:g}"] = drawn.sample(least_m2)
    return samples


def _ground(report: RunReport, store: ObjectStore) -> FlatGround | None:
    """The mask of flat ground that the run was drawn with."""
    terrain = report.config.terrain
    if terrain.dem is None or terrain.min_slope is None:
        return None
    dem = read_dem(store, terrain.dem, terrain.dem_collection)
    if dem is None:
        raise InputRefusedError(f"{DEM} of the run is missing or damaged; draw it anew with coseis vectorize")
    return FlatGround(dem=dem, min_slope_deg=terrain.min_slope)


def _is_file(source: str) -> bool:
    return scheme_of(source) in ("", "file") and Path(source).suffix.lower() in SUFFIXES


def _open(source: str, area: str | None) -> tuple[Inventory, float | None]:
    """An inventory, and the least area of its polygons where that is known."""
    if _is_file(source):
        return read_inventory(source, area=area), None
    if area is not None:
        raise UsageError(f"{source} is a run, which knows what it has mapped; --area is for a file")
    store = open_store(source, must_exist=True)
    report = read_report(store, source)
    polygons, cells = (
        gpd.read_parquet(io.BytesIO(get_object(store, name) or b""))
        for name in ("landslides.parquet", "observed.parquet")
    )
    return run_inventory(event_polygons(polygons), cells, source), report.config.output.min_area


def _write(
    inventory: Inventory,
    reference: Inventory | None,
    split: Inventory | None,
    statistics: Statistics,
    folder: Path,
) -> None:
    least_m2 = statistics.sizes.completeness_m2
    series = {"this inventory": (inventory.sample(least_m2), statistics.sizes.fit)}
    if reference is not None and statistics.reference is not None:
        series["reference"] = (reference.sample(least_m2), statistics.reference.fit)
    if split is not None and statistics.split is not None:
        series["split"] = (split.sample(least_m2), statistics.split.sizes.fit)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STATISTICS).write_text(statistics.model_dump_json(indent=1), encoding="utf-8")
        (folder / FIGURE).write_bytes(draw_sizes(series, title=f"Landslide areas, {inventory.source}"))
        if inventory.cells is not None:
            measure_density(inventory.polygons, inventory.cells).to_parquet(folder / DENSITY, index=False)
        if split is not None:
            split.polygons.to_parquet(folder / SPLIT, index=False)
    except OSError as error:
        raise InputRefusedError(f"{folder} cannot be written ({error.strerror})") from error
