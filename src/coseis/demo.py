"""A synthetic event is made, mapped and judged: every part of the map against the exact truth.

What a real event cannot tell is known here: how far scenes lie off, which landslides are old, what each false
alarm is, and what was under cloud. The scores go into the run's own run.json.
"""

import io
import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.warp import Resampling, reproject
from rich.console import Console

from coseis.alignment import SHIFTS
from coseis.assess import assess_run, pixels_of
from coseis.config import load_config
from coseis.describe import describe_inventory
from coseis.objects import get_object, open_store
from coseis.pipeline import map_event
from coseis.plan import ITEMS, Plan, read_plan
from coseis.publish import upload
from coseis.report import RUN, RunReport, event_polygons
from coseis.simulate import SimulatedEvent, simulate_event
from coseis.simulate.landcover import Cover
from coseis.simulate.scenes import Sky
from coseis.statistics.areas import Interval
from coseis.statistics.summary import SizeStatistics
from coseis.store import open_arrays
from coseis.types import CONTEXT_INCOMPLETE, Status, seen_pixels

MISFIT_PX = 1.0
"""Of the demo's scenes: those of PlanetScope lie off by as much."""
COMPLETENESS_M2 = 400.0
"""From which on sizes of map and truth are compared: smaller landslides are some pixels, and no label has
them."""
SEEN_SKIES = (Sky.CLEAR, Sky.THIN)
"""What a map can be made through."""
LANDSLIDE_COVERS = (Cover.SCAR_BROWN, Cover.SCAR_PALE, Cover.RUNOUT, Cover.LOG_RAFT)
"""Ground of new landslides: what is predicted there is no false alarm even a pixel beside their outline."""

BoolArray = NDArray[np.bool_]


def run_demo(out: Path, *, size_km: float, console: Console | None = None) -> RunReport:
    """Simulates an event under out/event, maps it to out/run and scores the map; see `score_truth`.

    Raises:
        InputRefusedError: the folder is not empty, or cannot be written.
    """
    event = simulate_event(out / "event", size_km=size_km, misfit_px=MISFIT_PX)
    settings = load_config(
        None,
        {
            "catalog": str(event.catalog),
            "aoi": str(event.aoi_path),
            "event_time": event.event_time.isoformat(),
            "dem": str(event.dem),
            "coregister": "repair",
            "out": str(out / "run"),
        },
    )
    report = map_event(settings, console=console)
    scored = report.model_copy(update={"truth": score_truth(str(out / "run"), event)})
    upload(scored.model_dump_json(indent=1).encode(), open_store(str(out / "run")), RUN)
    return scored


def score_truth(out: str, event: SimulatedEvent) -> dict[str, Any]:
    """Scores of a finished run of a simulated event in one UTM zone.

    Returns:
        f1, precision, recall: pixels of the event's landslides where something was seen.
        coregistration: `blocks` that were trusted, the CE90 of their shifts against the true ones, px, and
            the CE90 of the true shifts left in the scenes as they were mapped.
        old: share of the landslide pixels on scars from before the event that was told to be old
            (`excluded`), and share of the found pixels of new landslides that was (`new_excluded`).
        false_alarms: by kind of ground, the share of its seen pixels that is mapped as a landslide of the
            event, and their number.
        observed: share of the area that was seen by the map and in truth, and share on which both agree.
        sizes: of the map and of the truth's landslides where the map saw the ground: count, area, tail
            exponent and rollover with their intervals; and the error index of both.
    """
    store = open_store(out)
    plan = read_plan(get_object(store, ITEMS) or b"", out)
    assessed = assess_run(out, event.landslides)
    scores = assessed.total.pixels.scores(assessed.threshold)
    polygons = gpd.read_parquet(io.BytesIO(get_object(store, "landslides.parquet") or b""))
    arrays = open_arrays(out, plan.geobox)
    post = plan.identity.phases.index("post")
    status = np.asarray(arrays["status"][post])
    scene = np.asarray(arrays["scene"][post])
    inside = (status & ~np.uint8(CONTEXT_INCOMPLETE)) != Status.OUTSIDE_AOI
    seen = seen_pixels(status, scene)
    old = pixels_of(polygons[polygons["change"] == "pre-existing"].geometry, plan.geobox)
    mapped = pixels_of(event_polygons(polygons).geometry, plan.geobox)
    return {
        "f1": _rounded(scores.f1),
        "precision": _rounded(scores.precision),
        "recall": _rounded(scores.recall),
        "coregistration": _score_shifts(plan, event, get_object(store, SHIFTS)),
        "old": _score_old(event, plan.geobox, old, mapped),
        "false_alarms": _score_confusers(event, plan.geobox, mapped & seen, seen),
        "observed": _score_observed(event, plan.geobox, seen, inside),
        "sizes": _score_sizes(out, event),
    }


def _score_sizes(out: str, event: SimulatedEvent) -> dict[str, Any]:
    """Size statistics of map and truth, each from the same completeness area on."""
    statistics = describe_inventory(out, reference=str(event.landslides), completeness_m2=COMPLETENESS_M2)
    if statistics.reference is None or statistics.comparison is None:
        raise ValueError("statistics with a reference lack it")
    return {
        "completeness_m2": COMPLETENESS_M2,
        "error_index": _rounded(statistics.comparison.error_index),
        "map": _sizes(statistics.sizes),
        "truth": _sizes(statistics.reference),
    }


def _sizes(sizes: SizeStatistics) -> dict[str, Any]:
    def ends(interval: Interval) -> list[float | None]:
        return [_rounded(number) for number in (interval.value, interval.low, interval.high)]

    return {
        "count": sizes.complete_count,
        "area_m2": round(sizes.total_m2, 1),
        "largest_m2": None if sizes.largest_m2 is None else round(sizes.largest_m2, 1),
        "tail_exponent": ends(sizes.fit.tail_exponent) if sizes.fit else None,
        "rollover_m2": ends(sizes.fit.rollover_m2) if sizes.fit and sizes.fit.rollover_is_seen else None,
    }


def _score_shifts(plan: Plan, event: SimulatedEvent, field: bytes | None) -> dict[str, float | None] | None:
    """Measured shifts of pre against post, of trusted blocks, and what the moved scenes still lie off."""
    if field is None:
        return None
    blocks = gpd.read_parquet(io.BytesIO(field))
    blocks = blocks[blocks["state"] == "good"]
    truth = json.loads(event.shifts.read_text())["scenes"]
    elevation_m = _on_grid(event.dem, plan.geobox, np.float32)
    side = blocks.geometry.iloc[0].bounds if len(blocks) else (0, 0, 0, 0)
    side_px = round((side[2] - side[0]) / abs(plan.geobox.affine.a))
    moved = {
        scene.item_id: np.array(scene.shift_m) / abs(plan.geobox.affine.a) for scene in plan.found.scenes
    }
    errors, left = [], []
    for block in blocks.itertuples():
        rows = slice(block.row * side_px, (block.row + 1) * side_px)
        cols = slice(block.col * side_px, (block.col + 1) * side_px)
        height_m = elevation_m[rows, cols]
        true = _place(truth[block.pre], height_m) - _place(truth[block.post], height_m)
        errors.append(np.hypot(*(np.array([block.dy_px, block.dx_px]) - true)))
        left.append(np.hypot(*(true + moved[block.pre])))
    return {
        "blocks": float(len(errors)),
        "error_ce90_px": _rounded(np.percentile(errors, 90)) if errors else None,
        "left_ce90_px": _rounded(np.percentile(left, 90)) if left else None,
    }


def _place(row: dict[str, Any], height_m: NDArray[np.float32]) -> NDArray[np.float64]:
    """Where a scene shows the ground of a block, (down, right) px off its true place, on average."""
    height = np.clip((height_m - row["reference_m"]) / row["scale_m"], -1, 1).mean()
    bands = np.mean([row["bands_px"][band] for band in ("red", "green", "blue")], axis=0)
    place: NDArray[np.float64] = np.array(row["scene_px"]) + np.array(row["relief_px"]) * height + bands
    return place


def _score_old(
    event: SimulatedEvent, geobox: GeoBox, old: BoolArray, mapped: BoolArray
) -> dict[str, float | None]:
    new = _on_grid(event.mask, geobox, np.uint8) > 0
    scars = gpd.read_file(event.truth.old_scars)
    before = pixels_of(scars[scars["kind"] == "old"].geometry, geobox) & ~new
    found = old | mapped
    return {
        "excluded": _share(old & before, found & before),
        "new_excluded": _share(old & new, found & new),
    }


def _score_confusers(
    event: SimulatedEvent, geobox: GeoBox, mapped: BoolArray, seen: BoolArray
) -> dict[str, dict[str, float]]:
    truth = _on_grid(event.mask, geobox, np.uint8) > 0
    cover = _on_grid(event.classes, geobox, np.uint8)
    alarms = {}
    for kind in Cover:
        ground = (cover == kind) & seen & ~truth
        if kind not in LANDSLIDE_COVERS and ground.any():
            false = mapped & ground
            share = _share(false, ground) or 0.0
            alarms[kind.name.lower()] = {"share": share, "px": float(false.sum())}
    return alarms


def _score_observed(
    event: SimulatedEvent, geobox: GeoBox, seen: BoolArray, inside: BoolArray
) -> dict[str, float | None]:
    true = np.isin(_on_grid(event.truth.observed, geobox, np.uint8, band=2), SEEN_SKIES)
    return {
        "mapped": _share(seen & inside, inside),
        "true": _share(true & inside, inside),
        "agree": _share((seen == true) & inside, inside),
    }


def _on_grid(path: Path, geobox: GeoBox, dtype: type[np.generic], *, band: int = 1) -> NDArray[Any]:
    """A raster of the truth on the grid of the run, by its nearest pixels; 0 beyond it."""
    values = np.zeros(geobox.shape, dtype)
    with rasterio.open(path) as source:
        reproject(
            rasterio.band(source, band),
            values,
            dst_transform=geobox.affine,
            dst_crs=str(geobox.crs),
            resampling=Resampling.nearest,
        )
    return values


def _share(part: BoolArray, whole: BoolArray) -> float | None:
    return _rounded(part.sum() / whole.sum()) if whole.any() else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
