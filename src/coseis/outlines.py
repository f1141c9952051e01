"""Outlines that somebody drew and the cube of a run go in, their rows of the inventory come out.

It is measured as a traced one is: by the pixels whose centres it holds, and the same layers summed.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from coseis.change import HALO_PX
from coseis.draw import (
    OUTSIDE,
    BlockLayers,
    Thresholds,
    name_attributes,
    near_border,
    read_layers,
)
from coseis.missing import MissingChunks, slices_of
from coseis.plan import Plan
from coseis.types import CODE_SCALE, CONTEXT_INCOMPLETE, SCENE_FILL, Status
from coseis.vectorize import INCOMPLETE
from coseis.windows import Chunk
from coseis.zones import true_areas


@dataclass
class _Sums:
    """What the pixels of one outline add up to."""

    pixels: int = 0
    predicted: int = 0
    code_sum: int = 0
    code_max: int = 0
    layers: Counter[str] = field(default_factory=Counter)
    scenes: set[int] = field(default_factory=set)

    def add(self, read: BlockLayers, mask: NDArray[np.bool_], post: int) -> None:
        codes, scenes = read.codes[post][mask], np.unique(read.scene[post][mask])
        codes = codes[codes <= CODE_SCALE]
        self.pixels += int(mask.sum())
        self.predicted += codes.size
        self.code_sum += int(codes.sum(dtype=np.int64))
        self.code_max = max(self.code_max, int(codes.max(initial=0)))
        self.layers.update({name: int(layer[mask].sum()) for name, layer in read.layers.items()})
        self.scenes |= {int(scene) for scene in scenes if scene != SCENE_FILL}


def measure_outlines(
    plan: Plan,
    outlines: gpd.GeoDataFrame,
    *,
    out: str,
    thresholds: Thresholds,
    missing: Mapping[str, MissingChunks],
) -> gpd.GeoDataFrame:
    """The attributes of outlines, whatever the network says there.

    Args:
        plan: Of the run.
        outlines: `id`, and valid polygons in any CRS.
        out: Address of the run.
        thresholds: Those that tell what was there before the event.
        missing: By CRS of the zone, the chunks that are not done.

    Returns:
        The same rows as `draw.Drawing.polygons` describes them, geometries untouched. Probabilities are of
        the pixels that were predicted, NaN where none was.

    Raises:
        InputRefusedError: the cube cannot be read.
    """
    sums = [_Sums() for _ in range(len(outlines))]
    most = np.zeros(len(outlines), np.int64)
    area_m2, perimeter_m = np.full(len(outlines), np.nan), np.full(len(outlines), np.nan)
    for zone in plan.zones:
        shapes = outlines.geometry.to_crs(zone.identity.crs)
        on_ground = true_areas(shapes.to_frame("geometry").assign(area_m2=shapes.area))
        for number, shape in enumerate(shapes):
            before = sums[number].pixels
            _add_pixels(sums[number], shape, zone, out, thresholds, missing.get(zone.identity.crs))
            # Measured in the zone that most of it lies in; of one without a pixel, in any.
            if (pixels := sums[number].pixels - before) > most[number] or np.isnan(area_m2[number]):
                most[number] = pixels
                area_m2[number], perimeter_m[number] = on_ground[number], shape.length
    table = _tabulate(plan, outlines, sums).assign(area_m2=area_m2, perimeter_m=perimeter_m)
    if len(plan.zones) > 1:
        table.loc[~near_border(table, plan), OUTSIDE] = 0
    table = name_attributes(table, plan)
    # Of no pixel nothing is known, and no share of it can be reckoned.
    table.loc[table["pixel_count"] == 0, ["change", "pre_observed"]] = ["unknown", 0.0]
    return table


def _add_pixels(
    sums: _Sums,
    shape: BaseGeometry,
    zone: Plan,
    out: str,
    thresholds: Thresholds,
    missing: MissingChunks | None,
) -> None:
    """Adds the pixels of an outline that belong to a zone's area."""
    geobox, phases = zone.geobox, zone.identity.phases
    left, top = ~geobox.affine @ (shape.bounds[0], shape.bounds[3])
    right, bottom = ~geobox.affine @ (shape.bounds[2], shape.bounds[1])
    rows = np.clip([np.floor(top), np.ceil(bottom)], 0, geobox.shape.y).astype(int)
    cols = np.clip([np.floor(left), np.ceil(right)], 0, geobox.shape.x).astype(int)
    if rows[0] == rows[1] or cols[0] == cols[1]:
        return
    block = Chunk(0, 0, rows[0], cols[0], rows[1] - rows[0], cols[1] - cols[0])
    area = slices_of(block, geobox.shape, HALO_PX)
    near = missing.meeting(*area) if missing else None
    read = read_layers(geobox, phases, area, thresholds, out, near)
    part = geobox[area]
    post = phases.index("post")
    inside = (read.status[post] & ~np.uint8(CONTEXT_INCOMPLETE)) != Status.OUTSIDE_AOI
    mask = np.zeros(inside.shape, bool)
    for all_touched in (False, True):  # a sliver may hold no centre
        if not mask.any():
            burnt = rasterize(
                [shape], part.shape, transform=part.affine, dtype=np.uint8, all_touched=all_touched
            )
            mask = (burnt > 0) & inside
    sums.add(read, mask, post)


def _tabulate(plan: Plan, outlines: gpd.GeoDataFrame, sums: list[_Sums]) -> gpd.GeoDataFrame:
    """The columns of `vectorize.merge_blocks`, areas and perimeters apart."""
    order = {scene.index: number for number, scene in enumerate(plan.found.scenes)}
    names = {scene.index: scene.item_id for scene in plan.found.scenes}
    layers = sorted({name for one in sums for name in one.layers} - {INCOMPLETE})
    columns = {
        "id": outlines["id"].to_numpy(),
        "area_m2": 0.0,
        "perimeter_m": 0.0,
        "pixel_count": [one.pixels for one in sums],
        "probability_mean": [_ratio(one.code_sum, one.predicted * CODE_SCALE) for one in sums],
        "probability_max": [one.code_max / CODE_SCALE if one.predicted else np.nan for one in sums],
        "context_incomplete_share": [_ratio(one.layers[INCOMPLETE], one.pixels) for one in sums],
        **{name: [one.layers[name] for one in sums] for name in layers},
        "scenes": [
            ",".join(names[index] for index in sorted(one.scenes, key=lambda index: order[index]))
            for one in sums
        ],
        "model_digest": plan.identity.model,
    }
    table = pd.DataFrame(columns, index=range(len(outlines)))
    return gpd.GeoDataFrame(table, geometry=outlines.geometry.to_numpy(), crs=outlines.crs)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else np.nan
