"""The cube of a run and a threshold go in, its polygons and what was seen of every cell come out.

A pass of its own over blocks of the cube, so that a new threshold needs no new inference.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from distributed import Client
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rich.progress import Progress
from scipy import ndimage

from coseis.cells import count_cells, join_cells
from coseis.change import HALO_PX as CHANGE_HALO_PX
from coseis.change import (
    BeforeAfter,
    change_layers,
    join_tables,
    name_changes,
    near_old_pixels,
    old_pixels,
    without_pre,
)
from coseis.confidence import confidence_attributes
from coseis.config import OutputConfig
from coseis.dem_search import kept_dem
from coseis.flat_ground import FlatCount, FlatGround, find_flat
from coseis.grid import footprint
from coseis.jobs import Failure, run_jobs
from coseis.missing import MissingChunks, hide_missing, slices_of
from coseis.plan import Plan
from coseis.provenance import provenance_attributes
from coseis.statistics.shape import shape_attributes
from coseis.store import open_arrays, shard_px
from coseis.threshold import ThresholdChoice
from coseis.types import CODE_FILL, CODE_SCALE, CONTEXT_INCOMPLETE, SCENE_FILL, Phase, Status, least_code
from coseis.vectorize import INCOMPLETE, BlockPieces, merge_blocks, trace_block
from coseis.vegetation import INDEX_SCALE
from coseis.windows import Chunk, chunk_grid
from coseis.zones import join_zones, true_areas

VECTORIZE_PX = 2048
"""Least side of the blocks that are traced at once: measured quickest; larger blocks leave the cache."""
MOST_VECTORIZE_PX = 4096
"""Greatest side, whatever the chunks: a block takes some 30 bytes a pixel."""
UNSEEN, OUTSIDE = "unseen_px", "outside_px"
"""Layers: pixels beside one of the area that was not seen; beside one outside the area."""


@dataclass(frozen=True)
class Thresholds:
    """Least codes that count as landslide."""

    post: int
    pre: int


class BlockLayers(NamedTuple):
    """What a part of the cube says of each of its pixels."""

    codes: NDArray[np.uint8]
    """uint8 (phase, y, x), probability codes."""
    status: NDArray[np.uint8]
    """uint8 (phase, y, x), with the context bit."""
    scene: NDArray[np.uint16]
    """uint16 (phase, y, x), SCENE_FILL where none was used."""
    layers: dict[str, NDArray[Any]]
    """(y, x) each, bool or whole numbers: their sums over a polygon are its attributes."""
    parts: list[NDArray[np.bool_]]
    """bool (y, x): what was there before and the rest, or all of it."""


@dataclass(frozen=True)
class BlockDrawing:
    """What one block holds."""

    pieces: tuple[BlockPieces, ...]
    """Of what was there before the event, and of the rest; of the rest alone where there is no pre phase."""
    cells: pd.DataFrame
    flat: FlatCount
    """What the mask of flat ground did."""


@dataclass(frozen=True)
class Drawing:
    """What a run's cube holds at a threshold."""

    polygons: gpd.GeoDataFrame
    """The inventory: `vectorize.merge_blocks`, with `change.name_changes`, `touches_unobserved`,
    `touches_aoi_border`, `shape.shape_attributes`, `confidence` and `provenance`."""
    cells: gpd.GeoDataFrame
    """What was seen: `cells.join_cells`."""
    flat: FlatCount
    """What the mask of flat ground did, of all landslide pixels."""


def draw_polygons(
    plan: Plan,
    output: OutputConfig,
    threshold: ThresholdChoice,
    client: Client,
    progress: Progress,
    ground: FlatGround | None,
    missing: Mapping[str, MissingChunks],
) -> Drawing:
    """Draws a run's polygons in blocks on a cluster, and joins them.

    Args:
        plan: Of the run.
        output: Its address, thresholds and least area.
        threshold: After the event.
        client: Where to run.
        progress: Where it is shown.
        ground: The mask of flat ground, if there is one.
        missing: By CRS of the zone, the chunks that are not done.

    Raises:
        InputRefusedError: the cube cannot be read.
        UnreachableError: the output or the scheduler does not answer.
    """
    blocks = [(zone, block) for zone in plan.zones for block in _blocks(zone, output.out)]
    codes = thresholds_of(output, threshold)
    # Workers read the DEM themselves: of a fine one the tiles alone are many, and jobs are too.
    mask = (ground.dem.digest(), ground.min_slope_deg) if ground else None
    begun = time.time_ns()  # in the keys: the same block is traced again with another threshold
    jobs = (
        (
            f"trace-{begun}-{zone.identity.crs}-{block.name}",
            (zone.identity.crs, block),
            (
                zone.geobox,
                plan.identity.phases,
                block,
                codes,
                output.out,
                mask,
                _meeting(missing, zone, block),
            ),
        )
        for zone, block in blocks
    )
    bar = progress.add_task("draw polygons", total=len(blocks))
    drawn: dict[str, list[BlockDrawing]] = {zone.identity.crs: [] for zone in plan.zones}
    for (crs, block), result in run_jobs(client, draw_block, jobs):
        if isinstance(result, Failure):
            raise result.error(f"block {block.name} cannot be traced")
        drawn[crs].append(result)
        progress.advance(bar)
    polygons = name_attributes(_join_polygons(plan, drawn, output), plan)
    cells = [
        join_cells([block.cells for block in drawn[zone.identity.crs]], zone.geobox) for zone in plan.zones
    ]
    flat = sum((block.flat for blocks in drawn.values() for block in blocks), FlatCount())
    return Drawing(polygons, cells[0] if len(cells) == 1 else _in_degrees(cells), flat)


def thresholds_of(output: OutputConfig, threshold: ThresholdChoice) -> Thresholds:
    """Of both phases, from the one after the event and what was asked for."""
    pre = output.pre_threshold
    return Thresholds(threshold.code, threshold.code if pre is None else least_code(pre))


def name_attributes(polygons: gpd.GeoDataFrame, plan: Plan) -> gpd.GeoDataFrame:
    """The inventory of a table that holds the sums of `read_layers` over each polygon."""
    polygons = name_changes(polygons, INDEX_SCALE) if "pre" in plan.identity.phases else without_pre(polygons)
    polygons = polygons.assign(
        touches_unobserved=polygons[UNSEEN] > 0, touches_aoi_border=polygons[OUTSIDE] > 0
    ).drop(columns=[UNSEEN, OUTSIDE])
    polygons = confidence_attributes(shape_attributes(polygons), plan.card)
    return provenance_attributes(polygons, plan.found.of_phase("post"))


def _blocks(plan: Plan, out: str) -> Iterator[Chunk]:
    # Four chunks at least: a task a chunk would be as many as predicting takes.
    side_px = min(2 * shard_px(out, plan.geobox), MOST_VECTORIZE_PX)
    return chunk_grid(plan.identity.shape, max(VECTORIZE_PX, side_px))


def _meeting(missing: Mapping[str, MissingChunks], zone: Plan, block: Chunk) -> MissingChunks | None:
    """What is not done of a block and its margin."""
    of_zone = missing.get(zone.identity.crs)
    return of_zone and of_zone.meeting(*slices_of(block, zone.identity.shape, CHANGE_HALO_PX))


def _join_polygons(
    plan: Plan, drawn: Mapping[str, Sequence[BlockDrawing]], output: OutputConfig
) -> gpd.GeoDataFrame:
    """The polygons of all blocks and zones, with areas on the ground; in degrees where there are zones."""
    zones = []
    for zone in plan.zones:
        parts = [
            merge_blocks(
                pieces,
                zone.geobox,
                item_ids={scene.index: scene.item_id for scene in plan.found.scenes},
                model_digest=plan.identity.model,
                # On the grid, which is off by 0.2 % at most; a part of a polygon may be small.
                min_area_m2=0.99 * output.min_area if len(plan.zones) == 1 else 0.0,
            )
            for pieces in zip(*(block.pieces for block in drawn[zone.identity.crs]), strict=True)
        ]
        zones.append([table.assign(area_m2=true_areas(table)) for table in parts])
    if len(zones) == 1:
        whole = join_tables(zones[0])
    else:
        pixel_m = abs(plan.geobox.affine.a)
        # What was there before and what was not are joined apart, as they were drawn.
        whole = join_tables(
            [
                join_zones(tables, [(table[OUTSIDE] > 0).to_numpy() for table in tables], pixel_m=pixel_m)
                for tables in zip(*zones, strict=True)
            ]
        )
        # The border of a zone is not the area's.
        whole.loc[~near_border(whole, plan), OUTSIDE] = 0
    return whole[whole["area_m2"] >= output.min_area].reset_index(drop=True)


def near_border(polygons: gpd.GeoDataFrame, plan: Plan) -> NDArray[np.bool_]:
    """Which polygons lie within a few pixels of the border of the whole area, bool (polygons,)."""
    border = shapely.boundary(footprint(plan.found.event.aoi, plan.geobox))
    planar = polygons.geometry.to_crs(str(plan.geobox.crs)).to_numpy()
    near: NDArray[np.bool_] = shapely.dwithin(planar, border, 3 * abs(plan.geobox.affine.a))
    return near


def _in_degrees(cells: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(pd.concat([table.to_crs(4326) for table in cells], ignore_index=True), crs=4326)


def draw_block(
    geobox: GeoBox,
    phases: tuple[Phase, ...],
    block: Chunk,
    thresholds: Thresholds,
    out: str,
    mask: tuple[str, float] | None,
    missing: MissingChunks | None,
) -> BlockDrawing:
    """Traces one block of a run's cube, the first class, read with the margin that its pixels depend on.

    The mask is the digest of the run's DEM and the least slope, degrees: what is flatter is left out.
    """
    area = slices_of(block, geobox.shape, CHANGE_HALO_PX)
    top, left = area[0].start, area[1].start
    inner = (
        slice(block.y0 - top, block.y0 - top + block.height),
        slice(block.x0 - left, block.x0 - left + block.width),
    )
    read = read_layers(geobox, phases, area, thresholds, out, missing)
    codes, status, scene = read.codes, read.status, read.scene
    post = phases.index("post")
    origin, flat = (block.y0, block.x0), FlatCount()
    of_post = codes[post][inner]
    if mask:
        landslide = (of_post >= thresholds.post) & (of_post <= CODE_SCALE)
        ground = FlatGround(dem=kept_dem(out, mask[0]), min_slope_deg=mask[1])
        too_flat, flat = find_flat(landslide, geobox, ground, origin=origin)
        of_post = np.where(too_flat, np.uint8(CODE_FILL), of_post)
    cut: Mapping[str, NDArray[Any]] = {name: layer[inner] for name, layer in read.layers.items()}
    pieces = tuple(
        trace_block(
            np.where(part[inner], of_post, np.uint8(CODE_FILL)),
            scene[post][inner],
            cut,
            origin=origin,
            threshold_code=thresholds.post,
        )
        for part in read.parts
    )
    cells = count_cells(status[:, *inner], scene[:, *inner], phases, geobox, origin=origin)
    return BlockDrawing(pieces, cells, flat)


def read_layers(
    geobox: GeoBox,
    phases: tuple[Phase, ...],
    area: tuple[slice, slice],
    thresholds: Thresholds,
    out: str,
    missing: MissingChunks | None,
) -> BlockLayers:
    """Reads a part of a run's cube, the first class; within CHANGE_HALO_PX of its edges layers may differ."""
    arrays = open_arrays(out, geobox)
    post = phases.index("post")
    read: dict[str, NDArray[Any]] = {
        "probability": np.asarray(arrays["probability"][:, 0, *area]),
        "status": np.asarray(arrays["status"][:, *area]),
        "scene": np.asarray(arrays["scene"][:, *area]),
    }
    if "pre" in phases:
        read["vegetation"] = np.asarray(arrays["vegetation"][:, *area])
    hide_missing(read, missing, geobox, *area)
    codes, status, scene = read["probability"], read["status"], read["scene"]
    outside = (status[post] & ~np.uint8(CONTEXT_INCOMPLETE)) == Status.OUTSIDE_AOI
    layers: dict[str, NDArray[Any]] = {
        INCOMPLETE: status[post] & CONTEXT_INCOMPLETE > 0,
        UNSEEN: ndimage.binary_dilation((scene[post] == SCENE_FILL) & ~outside),
        # Beyond the grid too: its edge may be the area's.
        OUTSIDE: ndimage.binary_dilation(outside, border_value=1),
    }
    parts = [np.ones(outside.shape, bool)]
    if "pre" in phases:
        pre = phases.index("pre")
        vegetation = read["vegetation"]
        both = BeforeAfter(
            post=codes[post],
            pre=codes[pre],
            pre_seen=scene[pre] != SCENE_FILL,
            vegetation_post=vegetation[post],
            vegetation_pre=vegetation[pre],
            post_code=thresholds.post,
            pre_code=thresholds.pre,
        )
        near_old = near_old_pixels(both)
        old = old_pixels(both, near_old)
        layers |= change_layers(both, near_old, old)
        parts = [old, ~old]
    return BlockLayers(codes, status, scene, layers, parts)
