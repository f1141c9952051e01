"""A plan goes in; how its scenes before the event lie on those after it is measured, repaired and kept.

Done once, when a run is planned, on blocks of the region's lattice by tasks on the workers. What comes out
is frozen with the plan: a resumed run measures nothing.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot
from pathlib import Path
from typing import Literal

import geopandas as gpd
import numpy as np
import shapely
from distributed import Client
from obstore.store import ObjectStore
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from coseis.coregister import UNMEASURED, BlockShift, measure_shift
from coseis.cube import Recipe, read_window
from coseis.grid import crs_of, footprint, window_bounds
from coseis.jobs import Failure, run_jobs
from coseis.objects import put_object
from coseis.plan import Plan
from coseis.reader import BLOCK_PX
from coseis.scene_shift import REVIEW_PX, Coregistration, SceneShift, ShiftFit, ce90, fit_shift
from coseis.types import PHASES, SCENE_FILL
from coseis.windows import chunk_grid

SHIFTS = "coregistration.parquet"
MOST_BLOCKS = 100
"""Blocks a scene that are measured, 0.12 s each of a core. A scene of PlanetScope has about as many, and
their mean is known ten times better than one of them."""
LEAST_REPAIR_PX = 0.25
"""A scene that lies closer is left alone: to move it costs its sharpness."""


@dataclass(frozen=True)
class MeasuredBlock:
    """A block of the lattice and how its scenes lie."""

    row: int
    col: int
    pre: int
    """Index of the scene before the event that most of it shows."""
    post: int | None
    """Likewise after it; None where nothing was seen of both."""
    shift: BlockShift


def align_scenes(
    plan: Plan,
    mode: Literal["off", "check", "repair"],
    client: Client,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Plan, list[MeasuredBlock]]:
    """The plan with what was measured, its scenes moved where that is asked for and possible.

    Args:
        plan: Not frozen yet.
        mode: As configured.
        client: Where to measure.
        advance: Told how many blocks are done, of how many.

    Returns:
        The plan as it came where nothing is to be measured, and the blocks as they lay before any repair.

    Raises:
        UnreachableError: the scheduler is lost.
    """
    if mode == "off" or plan.identity.phases != PHASES:
        return plan, []
    flat = plan.on_one_grid()
    sample = sample_blocks(flat)
    blocks = _measure(flat, sample, client, advance)
    fits = _fit_scenes(blocks)
    moves = {index: _move_m(fit, plan.geobox) for index, fit in fits.items() if mode == "repair"}
    moves = {index: shift_m for index, shift_m in moves.items() if any(shift_m)}
    moved = plan.with_shifts(moves) if moves else plan
    again: list[MeasuredBlock] = []
    if moves:
        moved_sample = {(block.row, block.col): block.pre for block in blocks if block.pre in moves}
        again = _measure(moved.on_one_grid(), moved_sample, client, advance)
    refits = _fit_scenes(again)
    scenes = tuple(
        SceneShift(
            item_id=_item_id(plan, index),
            before=fit,
            shift_m=moves.get(index, (0.0, 0.0)),
            after=refits.get(index) if index in moves else None,
            flag=_flag(fit, refits.get(index) if index in moves else None),
        )
        for index, fit in sorted(fits.items())
    )
    summary = _summarize(mode, scenes, blocks, again)
    return moved.model_copy(update={"coregistration": summary}), blocks


def sample_blocks(plan: Plan) -> dict[tuple[int, int], int]:
    """(row, column) of the blocks to measure, each with the scene before the event that it should show.

    Of the blocks of a scene whose middle lies in it and in one after the event; all of them, or an even
    random choice, always the same.
    """
    geobox, found = plan.geobox, plan.found
    blocks = [(chunk.row, chunk.col) for chunk in chunk_grid(plan.identity.shape, BLOCK_PX)]
    boxes = shapely.box(*np.array([window_bounds(geobox, _window(*place)) for place in blocks]).T)
    # Of what lies on the grid: a small event has no whole block.
    middles = shapely.centroid(shapely.intersection(boxes, shapely.box(*geobox.boundingbox)))
    wanted = shapely.intersects(footprint(found.event.aoi, geobox), boxes)
    after = np.zeros(len(blocks), bool)
    for scene in found.of_phase("post"):
        after |= shapely.contains(footprint(scene.geometry, geobox), middles)
    wanted &= after
    random = np.random.default_rng(0)
    sample: dict[tuple[int, int], int] = {}
    for scene in found.of_phase("pre"):
        # Best first: what an earlier scene covers shows that one.
        shown = np.flatnonzero(wanted & shapely.contains(footprint(scene.geometry, geobox), middles))
        wanted[shown] = False
        chosen = np.sort(random.permutation(shown)[:MOST_BLOCKS])
        sample |= {blocks[number]: scene.index for number in chosen}
    return sample


def measure_block(recipe: Recipe, row: int, col: int, pre: int) -> MeasuredBlock:
    """Reads one block as the map will, and measures what one scene before and one after the event show.

    A pure function of the recipe and the block. Where several scenes meet, the pair that covers most counts
    and the rest is missing: two scenes have two shifts.

    Raises:
        InputRefusedError: a file cannot be read.
    """
    cube = read_window(recipe, _window(row, col))
    before, after = (recipe.phases.index(phase) for phase in PHASES)
    seen = (cube.scene[before] != SCENE_FILL) & (cube.scene[after] != SCENE_FILL)
    if not seen.any():
        return MeasuredBlock(row, col, pre, None, UNMEASURED)
    pairs, counts = np.unique(
        np.stack([cube.scene[before][seen], cube.scene[after][seen]]), axis=1, return_counts=True
    )
    pre, post = (int(index) for index in pairs[:, counts.argmax()])
    valid = (cube.scene[before] == pre) & (cube.scene[after] == post)
    return MeasuredBlock(row, col, pre, post, measure_shift(cube.image[before], cube.image[after], valid))


def write_shifts(plan: Plan, blocks: Sequence[MeasuredBlock], store: ObjectStore) -> None:
    """Writes the shift field as GeoParquet: a row a block, in the order of the lattice.

    Raises:
        InputRefusedError: the store refuses the file.
    """
    rows = sorted(blocks, key=lambda block: (block.row, block.col))
    table = {
        "row": np.array([block.row for block in rows], np.int32),
        "col": np.array([block.col for block in rows], np.int32),
        "dy_px": np.array([block.shift.dy_px for block in rows], np.float64),
        "dx_px": np.array([block.shift.dx_px for block in rows], np.float64),
        "worst_px": np.array([block.shift.worst_px for block in rows], np.float64),
        "confidence": np.array([block.shift.confidence for block in rows], np.float64),
        "state": [block.shift.state for block in rows],
        "pre": [_item_id(plan, block.pre) for block in rows],
        "post": [None if block.post is None else _item_id(plan, block.post) for block in rows],
    }
    geobox = plan.on_one_grid().geobox
    outlines = [shapely.box(*window_bounds(geobox, _window(block.row, block.col))) for block in rows]
    field = gpd.GeoDataFrame(table, geometry=outlines, crs=str(crs_of(geobox)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SHIFTS
        field.to_parquet(path, index=False, compression="zstd", schema_version="1.1.0")
        put_object(store, SHIFTS, path, media_type="application/vnd.apache.parquet")


def _measure(
    plan: Plan,
    sample: Mapping[tuple[int, int], int],
    client: Client,
    advance: Callable[[int, int], None],
) -> list[MeasuredBlock]:
    """The blocks of a sample; one that cannot be read is unmeasured here, and fails its chunk later."""
    begun = time.time_ns()  # in the keys: the same block is measured again when its scene is moved
    recipe = plan.recipe()

    def arguments(place: tuple[int, int], pre: int) -> tuple[Recipe, int, int, int]:
        # A block's own scenes alone travel to its worker.
        near = plan.for_area(_window(*place)).found.scenes
        return replace(recipe, scenes=near), *place, pre

    jobs = (
        (f"shift-{begun}-{place[0]}_{place[1]}", (place, pre), arguments(place, pre))
        for place, pre in sample.items()
    )
    blocks: list[MeasuredBlock] = []
    for (place, pre), result in run_jobs(client, measure_block, jobs):
        blocks.append(MeasuredBlock(*place, pre, None, UNMEASURED) if isinstance(result, Failure) else result)
        advance(len(blocks), len(sample))
    return sorted(blocks, key=lambda block: (block.row, block.col))


def _fit_scenes(blocks: Sequence[MeasuredBlock]) -> dict[int, ShiftFit]:
    """Of each scene before the event, by index."""
    return {
        index: fit_shift([block.shift for block in blocks if block.pre == index])
        for index in {block.pre for block in blocks}
    }


def _move_m(fit: ShiftFit, geobox: GeoBox) -> tuple[float, float]:
    """(southwards, eastwards), metres, against a scene's shift; zeros where it stays."""
    if fit.dy_px is None or fit.dx_px is None or fit.review or hypot(fit.dy_px, fit.dx_px) < LEAST_REPAIR_PX:
        return 0.0, 0.0
    return round(fit.dy_px * geobox.affine.e, 4), round(-fit.dx_px * geobox.affine.a, 4)


def _flag(before: ShiftFit, after: ShiftFit | None) -> str | None:
    """What is wrong with a scene as the map reads it."""
    fit = after or before
    if fit.review:
        return fit.review
    if fit.dy_px is not None and fit.dx_px is not None and hypot(fit.dy_px, fit.dx_px) > REVIEW_PX:
        off = f"it lies {hypot(fit.dy_px, fit.dx_px):.1f} px off"
        return f"{off} still, though it was moved" if after else f"{off}; --coregister repair moves it"
    return None


def _summarize(
    mode: Literal["check", "repair"],
    scenes: tuple[SceneShift, ...],
    blocks: Sequence[MeasuredBlock],
    again: Sequence[MeasuredBlock],
) -> Coregistration:
    states = [block.shift.state for block in blocks]
    share = {state: round(states.count(state) / max(1, len(states)), 4) for state in set(states)}
    before = _good(blocks)
    anew = {(block.row, block.col) for block in again}
    after = _good([*again, *(block for block in blocks if (block.row, block.col) not in anew)])
    median = np.median(before, axis=0).round(3).tolist() if len(before) else (None, None)
    return Coregistration(
        mode=mode,
        blocks=len(blocks),
        good_share=share.get("good", 0.0),
        weak_share=share.get("weak", 0.0),
        unmeasured_share=share.get("unmeasured", 0.0),
        median_dy_px=median[0],
        median_dx_px=median[1],
        ce90_px=round(ce90(before), 3) if len(before) else None,
        ce90_after_px=round(ce90(after), 3) if again and len(after) else None,
        flagged=tuple(scene.item_id for scene in scenes if scene.flag),
        scenes=scenes,
    )


def _good(blocks: Sequence[MeasuredBlock]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(number, 2): (dy, dx) of the good blocks, px."""
    shifts = [(block.shift.dy_px, block.shift.dx_px) for block in blocks if block.shift.state == "good"]
    return np.array(shifts, np.float64).reshape(-1, 2)


def _window(row: int, col: int) -> Window:
    """A whole block, which may reach beyond the grid."""
    return Window(col * BLOCK_PX, row * BLOCK_PX, BLOCK_PX, BLOCK_PX)


def _item_id(plan: Plan, index: int) -> str:
    return next(scene.item_id for scene in plan.found.scenes if scene.index == index)
