"""A run goes in for mappers to judge; their verdicts come back into its inventory, and out as labels."""

import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import geopandas as gpd
import pandas as pd
import shapely
from obstore.store import ObjectStore
from rich.console import Console

from coseis.config import OutputConfig
from coseis.edit_files import write_edit_file
from coseis.edits import KEPT, RECORD_COLUMNS, REJECT, Edits, join_records, keep_edits, read_edits, standing
from coseis.errors import InputRefusedError, UsageError
from coseis.grid import footprint
from coseis.objects import get_object, open_store
from coseis.pipeline import vectorize_run
from coseis.plan import ITEMS, Plan, read_plan
from coseis.report import RunReport, read_report
from coseis.statements import Judged, read_edit_file
from coseis.statistics.shape import planar

REACH_M = 60.0
"""Around a landslide that a mapper kept the ground was looked at: background to `coseis train`."""


def start_edits(out: str, path: Path) -> Path:
    """Writes the inventory of a finished run to a GeoPackage that mappers fill in.

    Args:
        out: Address of the run.
        path: A file that does not exist yet.

    Raises:
        UsageError: the file exists, or has another suffix.
        InputRefusedError: there is no finished run, or the file cannot be written.
    """
    store = open_store(out, must_exist=True)
    read_report(store, out)
    write_edit_file(path, _inventory(store, out), read_edits(store))
    return path


def merge_edits(
    out: str, paths: Sequence[Path], *, editor: str | None = None, console: Console | None = None
) -> tuple[RunReport, int]:
    """Merges what mappers filled in into a run, and publishes its inventory anew: no inference.

    All files are checked before anything is kept. What was merged before is not merged again.

    Args:
        out: Address of the run.
        paths: Files that `start_edits` wrote.
        editor: Who speaks where a row does not name anybody.
        console: Where progress is shown; default: nowhere.

    Returns:
        The run's report, and how many statements were new.

    Raises:
        UsageError: a file cannot be used; its wrong rows are named.
        InputRefusedError: there is no finished run, or its output cannot be written.
    """
    store = open_store(out, must_exist=True)
    report = read_report(store, out)
    inventory = _inventory(store, out)
    plan = read_plan(get_object(store, ITEMS) or b"", out)
    now = datetime.now(UTC)
    fresh = gpd.GeoDataFrame()

    def read_new(known: Edits | None) -> gpd.GeoDataFrame:
        nonlocal fresh
        fresh = _read_all(paths, _judged(plan, inventory, known), editor, now)
        return fresh

    edits = keep_edits(store, read_new)
    if edits is None or (report.edits and report.edits.digest == edits.digest):
        return report, 0
    # Also where an earlier merge was killed after its statements were kept.
    return vectorize_run(OutputConfig(out=out), console=console), len(fresh)


def write_labels(out: str, path: Path) -> tuple[Path, Path]:
    """Writes what mappers settled as labels for `coseis train`, and the area in which these are known.

    Landslides are those that a mapper accepted, redrew or added, and that were not there before the event.
    Background is what was rejected, and the ground within REACH_M of a landslide, but other polygons.

    Args:
        out: Address of the run.
        path: GeoPackage for the labels; the area is written beside it, its name ending in -area.

    Returns:
        Both files; those that were there are replaced.

    Raises:
        UsageError: another suffix.
        InputRefusedError: there is no finished run, no mapper kept a landslide, or a file cannot be written.
    """
    if path.suffix.lower() != ".gpkg":
        raise UsageError(f"{path} is no name of a GeoPackage; expected one that ends in .gpkg")
    store = open_store(out, must_exist=True)
    report, edits = read_report(store, out), read_edits(store)
    if edits is None or report.edits is None or report.edits.digest != edits.digest:
        raise InputRefusedError(f"{out} holds no merged edits; run coseis edit {out} --merge FILE first")
    polygons = _inventory(store, out)
    is_label = polygons["verdict"].isin(KEPT) & (polygons["change"] != "pre-existing")
    labels = polygons.loc[is_label, ["id", "verdict", "edited_by", "edited_at", polygons.geometry.name]]
    if labels.empty:
        raise InputRefusedError(f"no mapper kept a landslide of {out}: there is nothing to train on")
    last = standing(edits.records)
    plane = planar(labels.geometry).crs
    kept, others, rejected = (
        shapely.union_all(shapes.to_crs(plane).to_numpy())
        for shapes in (
            labels.geometry,
            polygons.geometry[~is_label],
            last.geometry[last["verdict"] == REJECT],
        )
    )
    looked_at = shapely.union_all([shapely.difference(kept.buffer(REACH_M), others), kept, rejected])
    parts = [part for part in shapely.get_parts(looked_at) if part.geom_type == "Polygon"]
    area = path.with_name(f"{path.stem}-area.gpkg")
    try:
        labels.to_file(path, driver="GPKG", layer="labels")
        gpd.GeoDataFrame(geometry=parts, crs=plane).to_file(area, driver="GPKG", layer="area")
    except (OSError, RuntimeError) as error:
        raise InputRefusedError(f"{path} cannot be written ({error})") from error
    return path, area


def _inventory(store: ObjectStore, out: str) -> gpd.GeoDataFrame:
    content = get_object(store, "landslides.parquet")
    if content is None:
        raise InputRefusedError(f"{out} holds no inventory; run coseis map first")
    return gpd.read_parquet(io.BytesIO(content))


def _judged(plan: Plan, inventory: gpd.GeoDataFrame, known: Edits | None) -> Judged:
    area = gpd.GeoSeries([footprint(plan.found.event.aoi, plan.geobox)], crs=str(plan.geobox.crs))
    whole = area.to_crs(inventory.crs).iloc[0]
    pixel_m2 = abs(plan.geobox.affine.a * plan.geobox.affine.e)
    # Where the inventory is in degrees, areas in it are too.
    return Judged(inventory, known, whole, pixel_m2 * whole.area / area.iloc[0].area)


def _read_all(paths: Sequence[Path], judged: Judged, editor: str | None, now: datetime) -> gpd.GeoDataFrame:
    """What is new in several files, each read as if those before it had been merged."""
    crs = judged.inventory.crs
    fresh = gpd.GeoDataFrame(pd.DataFrame(columns=list(RECORD_COLUMNS)), geometry="geometry", crs=crs)
    for path in paths:
        fresh = join_records(fresh, read_edit_file(path, judged, editor=editor, now=now))
        known = fresh if judged.known is None else join_records(judged.known.records, fresh)
        judged = replace(judged, known=Edits(known, ""))
    return fresh
