"""Blocks of probability codes in, one table of polygons out, whole across every block border.

Two pure stages: `trace_block` sees one block and may run anywhere, `merge_blocks` joins what they found.
All sums are integers on the pixel lattice and every name comes from a pixel's place, so the table does
not depend on how the region was cut into blocks or on the order of the pieces. Blocks of about 2048 px are
the fastest: their temporary arrays stay in the processor's cache.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import geopandas as gpd
import numpy as np
import odc.geo.xr  # noqa: F401  (gives xarray the .odc accessor)
import pandas as pd
import shapely
import xarray as xr
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy import ndimage

from coseis.errors import UsageError
from coseis.rings import (
    NO_OWNER,
    Rings,
    Vertices,
    close_rings,
    find_vertices,
    join_vertices,
    link_rings,
    select_owners,
)
from coseis.types import CODE_FILL, CODE_SCALE, CONTEXT_INCOMPLETE, SCENE_FILL, least_code

INCOMPLETE = "incomplete"
"""Layer of the pixels whose context was incomplete."""


@dataclass(frozen=True)
class BlockPieces:
    """What one block holds of the components in it (4-connected landslide pixels), in row-major order.

    Rows and columns count from the origin of the whole array.
    """

    first_row: NDArray[np.int64]
    first_col: NDArray[np.int64]
    """int64 (components,): first pixel in row-major order."""
    pixel_count: NDArray[np.int64]
    code_sum: NDArray[np.int64]
    code_max: NDArray[np.uint8]
    sums: dict[str, NDArray[np.int64]]
    """int64 (components,): of each layer of whole numbers, its sum over the pixels."""
    scenes: NDArray[np.int64]
    """int64 (pairs, 2): component and scene index, each pair once."""
    rings: Rings
    """Boundaries of the components that do not touch the block's border."""
    border: Vertices
    """Vertices of the components that do: their rings are linked when all blocks are known."""


def polygonize(
    probability: xr.DataArray,
    threshold: float,
    *,
    status: xr.DataArray | None = None,
    scene: xr.DataArray | None = None,
    item_ids: Mapping[int, str] | Sequence[str] | None = None,
    model_digest: str | None = None,
    min_area_m2: float = 0.0,
) -> gpd.GeoDataFrame:
    """Turn a probability map into landslide polygons; the table is described at `merge_blocks`.

    A Dask array is read chunk by chunk, by whatever scheduler or client is active.

    Args:
        probability: (y, x) with a projected CRS in metres: float in [0, 1], NaN = not predicted, or uint8
            codes, round(200 p), 255 = not predicted. Floats are rounded to codes first, as the map is stored.
        threshold: Least probability that counts as landslide, 0-1.
        status: uint8 (y, x), status codes with the context bit, on the same grid; None: all complete.
        scene: uint16 (y, x), scene indices on the same grid, 65535 = none; None: no scenes are named.
        item_ids: STAC item id of each scene index; None: the index itself is written.
        model_digest: Digest of the model that predicted, written to every row.
        min_area_m2: Polygons with a smaller area are left out.

    Returns:
        A row a polygon in the CRS of the array: `id`, `area_m2`, `perimeter_m`, `pixel_count`,
        `probability_mean` and `probability_max` (0-1), `context_incomplete_share` (0-1), `scenes`,
        `model_digest` and `geometry`.

    Raises:
        UsageError: The array is not (y, x), has no projected CRS, values that are no probabilities, or layers
            of another shape; or the threshold is not in [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold is {threshold}; expected a probability from 0 to 1")
    geobox = _geobox_of(probability)
    for layer in (status, scene):
        if layer is not None and dict(layer.sizes) != dict(probability.sizes):
            raise UsageError(
                f"layer {layer.name!r} has sizes {dict(layer.sizes)}, but the probability has "
                f"{dict(probability.sizes)}; give status and scene on the same grid"
            )
    chunks = probability.chunks or tuple((size,) for size in probability.shape)
    tops, lefts = (np.append(0, np.cumsum(sizes)).tolist() for sizes in chunks)
    blocks = [_delayed_blocks(layer, probability.dims, chunks) for layer in (probability, status, scene)]
    trace = delayed(_trace_probability)
    pieces = [
        trace(
            *(block[i, j] for block in blocks),
            origin=(tops[i], lefts[j]),
            threshold_code=least_code(threshold),
        )
        for i, j in np.ndindex(len(chunks[0]), len(chunks[1]))
    ]
    return merge_blocks(
        compute(*pieces), geobox, item_ids=item_ids, model_digest=model_digest, min_area_m2=min_area_m2
    )


def trace_block(
    codes: NDArray[np.uint8],
    scene: NDArray[np.uint16] | None,
    layers: Mapping[str, NDArray[Any]],
    *,
    origin: tuple[int, int],
    threshold_code: int,
) -> BlockPieces:
    """Label one block and trace what lies wholly inside it.

    Args:
        codes: uint8 (height, width), round(200 p), 255 = not predicted.
        scene: uint16 (height, width), scene index, 65535 = none; None: no scenes.
        layers: bool or integer (height, width) each, to be summed over the pixels of every component; the
            same names in every block.
        origin: Row and column of the block's first pixel in the whole array.
        threshold_code: Least code that counts as landslide, 0-200.
    """
    height, width = codes.shape
    inside = np.zeros((height + 2, width + 2), dtype=bool)
    np.logical_and(codes >= threshold_code, codes <= CODE_SCALE, out=inside[1:-1, 1:-1])
    labels = np.empty(inside.shape, dtype=np.int32)
    count = int(ndimage.label(inside, output=labels))
    vertices = find_vertices(labels)
    vertices = Vertices(vertices.row + origin[0], vertices.col + origin[1], vertices.owner)
    at_border = np.zeros(count + 1, dtype=bool)
    for line in (labels[1], labels[-2], labels[:, 1], labels[:, -2]):
        at_border[line] = True
    at_border = at_border[1:]

    landslide = inside[1:-1, 1:-1]
    component = labels[inside] - 1
    code = codes[landslide]
    code_max = np.zeros(count, dtype=np.uint8)
    np.maximum.at(code_max, component, code)
    first = np.full(count, inside.size)
    np.minimum.at(first, component, np.flatnonzero(inside))
    first_row, first_col = np.divmod(first, width + 2)
    return BlockPieces(
        first_row=first_row - 1 + origin[0],
        first_col=first_col - 1 + origin[1],
        pixel_count=np.bincount(component, minlength=count),
        code_sum=_sum_by(component, code, count),
        code_max=code_max,
        sums={name: _sum_by(component, layer[landslide], count) for name, layer in layers.items()},
        scenes=np.zeros((0, 2), np.int64) if scene is None else _scene_pairs(component, scene[landslide]),
        rings=link_rings(select_owners(vertices, ~at_border)),
        border=select_owners(vertices, at_border),
    )


def _sum_by(component: NDArray[np.int32], values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Sums of values by component; weights are float64, which holds every sum below 2**53 exactly."""
    return np.bincount(component, weights=values, minlength=count).astype(np.int64)


def merge_blocks(
    pieces: Iterable[BlockPieces],
    geobox: GeoBox,
    *,
    item_ids: Mapping[int, str] | Sequence[str] | None = None,
    model_digest: str | None = None,
    min_area_m2: float = 0.0,
) -> gpd.GeoDataFrame:
    """Join the pieces of all blocks to whole polygons, ordered by their first pixel.

    Pixels that share an edge belong together, pixels that share only a corner do not. Shells run
    counter-clockwise from the upper left vertex of the first pixel, holes clockwise from their first vertex
    in row-major order and in that order; vertices lie only where the boundary turns.

    Args:
        pieces: One from each block, in any order.
        geobox: Grid of the whole array; its CRS is projected, in metres, its axes are not rotated.
        item_ids: STAC item id of each scene index; None: the index itself is written.
        model_digest: Digest of the model that predicted, written to every row.
        min_area_m2: Polygons with a smaller area are left out.

    Returns:
        A row a polygon: `id`, EPSG code and place of the first pixel's upper left corner, the same for
        every chunking and every AOI on the same lattice; `area_m2` and `perimeter_m` on the grid (pixels
        and pixel edges, no correction for the projection's scale); `pixel_count`; `probability_mean`
        and `probability_max`; a column a layer of the blocks, its sum; `scenes`, item ids in the order of
        `item_ids` with commas between; `model_digest`; `geometry`. Of the layer INCOMPLETE the share of
        the pixels is given, 0-1, as `context_incomplete_share`.

    Raises:
        UsageError: The grid has no EPSG code, is not in metres, or is rotated; a scene has no item id.
    """
    epsg = _epsg_in_metres(geobox)
    blocks = list(pieces) or [_empty_pieces()]
    offsets = np.cumsum([0, *(block.pixel_count.size for block in blocks)])
    vertices, united = join_vertices(_gather_borders(blocks, offsets), int(offsets[-1]))
    sums = _sum_components(blocks, united, geobox)
    sums = sums[sums["area_m2"] >= min_area_m2]
    rank = np.full(offsets[-1], NO_OWNER, dtype=np.int32)
    rank[sums.index] = np.arange(len(sums), dtype=np.int32)
    # The row of each component of each block, NO_OWNER where it is left out.
    ranks = np.split(rank[united], offsets[1:-1])
    stitched = link_rings(vertices)
    rings = [replace(stitched, component=rank[stitched.component])]
    scenes = []
    for block, block_rank in zip(blocks, ranks, strict=True):
        rings.append(replace(block.rings, component=block_rank[block.rings.component]))
        scenes.append(np.stack([block_rank[block.scenes[:, 0]], block.scenes[:, 1]], axis=1))
    geometry, perimeter_m = _build_polygons(rings, geobox)
    return gpd.GeoDataFrame(
        {
            "id": _name_places(sums, geobox, epsg),
            "area_m2": sums["area_m2"].to_numpy(),
            "perimeter_m": perimeter_m,
            "pixel_count": sums["pixel_count"].to_numpy(),
            "probability_mean": (sums["code_sum"] / (sums["pixel_count"] * CODE_SCALE)).to_numpy(),
            "probability_max": (sums["code_max"] / CODE_SCALE).to_numpy(),
            "context_incomplete_share": (sums[INCOMPLETE] / sums["pixel_count"]).to_numpy(),
            **{name: sums[name].to_numpy() for name in blocks[0].sums if name != INCOMPLETE},
            "scenes": _join_scene_names(np.concatenate(scenes), len(sums), item_ids),
            "model_digest": [model_digest] * len(sums),
        },
        geometry=geometry,
        crs=f"EPSG:{epsg}",
    )


def _geobox_of(probability: xr.DataArray) -> GeoBox:
    if probability.ndim != 2:
        raise UsageError(
            f"the probability has dimensions {probability.dims}, expected two, y and x; "
            "select a phase and a class first, such as probability.sel(phase='post')"
        )
    if probability.dtype != np.uint8 and not np.issubdtype(probability.dtype, np.floating):
        raise UsageError(
            f"the probability has dtype {probability.dtype}; expected float in [0, 1] or uint8 codes"
        )
    geobox = probability.odc.geobox
    if not isinstance(geobox, GeoBox) or probability.dims != probability.odc.spatial_dims:
        raise UsageError(
            f"the probability with dimensions {probability.dims} and coordinates {list(probability.coords)} "
            "lies on no regular grid; give it evenly spaced y and x coordinates, in this order, and a CRS "
            "(probability.rio.write_crs)"
        )
    _epsg_in_metres(geobox)
    return geobox


def _epsg_in_metres(geobox: GeoBox) -> int:
    """The grid's EPSG code, if areas and lengths on it can be counted in square metres and metres."""
    crs = geobox.crs
    name = crs.proj.name if crs else "missing"
    if crs is None or crs.epsg is None or not crs.projected or crs.units != ("metre", "metre"):
        raise UsageError(
            f"the grid's CRS is {name}; expected a projected one in metres with an EPSG code, such as the "
            "UTM zone; set it with rio.write_crs or reproject with rio.reproject"
        )
    if not geobox.axis_aligned:
        raise UsageError(f"the grid is rotated ({geobox.affine!r}); reproject it to a north-up grid first")
    return int(crs.epsg)


def _delayed_blocks(
    layer: xr.DataArray | None, dims: tuple[Hashable, ...], chunks: tuple[tuple[int, ...], ...]
) -> NDArray[np.object_]:
    """The layer's blocks as delayed arrays, object (rows, cols) of blocks; None in each for no layer."""
    if layer is None:
        return np.full([len(sizes) for sizes in chunks], None)
    layer = layer.chunk(dict(zip(dims, chunks, strict=True))).transpose(*dims)
    blocks: NDArray[np.object_] = layer.data.to_delayed()
    return blocks


def _trace_probability(
    probability: NDArray[np.uint8] | NDArray[np.floating],
    status: NDArray[np.uint8] | None,
    scene: NDArray[np.uint16] | None,
    *,
    origin: tuple[int, int],
    threshold_code: int,
) -> BlockPieces:
    """`trace_block` for codes and for floats, which become codes first."""
    if probability.dtype == np.uint8:
        codes = probability.astype(np.uint8, copy=False)
    else:
        missing = np.isnan(probability)
        filled = np.where(missing, 0, probability)
        low, high = filled.min(), filled.max()
        if low < 0 or high > 1:
            raise UsageError(
                f"the probability runs from {low} to {high} in the block at row {origin[0]}, column "
                f"{origin[1]}; expected 0 to 1 and NaN where it is missing"
            )
        codes = np.where(missing, CODE_FILL, np.rint(filled * CODE_SCALE)).astype(np.uint8)
    layers = {} if status is None else {INCOMPLETE: status & CONTEXT_INCOMPLETE > 0}
    return trace_block(codes, scene, layers, origin=origin, threshold_code=threshold_code)


def _scene_pairs(component: NDArray[np.int32], scene: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Each pair of component and scene once, int64 (pairs, 2), but SCENE_FILL; both come per pixel."""
    covered = scene != SCENE_FILL
    keys = component[covered].astype(np.int64) << 16 | scene[covered]
    # Neighbours are mostly alike: dropping repeats first spares a sort of all pixels.
    keys = np.unique(keys[np.append(True, keys[1:] != keys[:-1])[: keys.size]])
    return np.stack([keys >> 16, keys & 0xFFFF], axis=1)


def _empty_pieces() -> BlockPieces:
    return trace_block(np.full((1, 1), CODE_FILL, np.uint8), None, {}, origin=(0, 0), threshold_code=0)


def _gather_borders(blocks: Sequence[BlockPieces], offsets: NDArray[np.int64]) -> Vertices:
    """The border vertices of all blocks, their components numbered through from each block's offset on."""
    owner = [
        np.where(block.border.owner >= 0, block.border.owner + offset, NO_OWNER)
        for block, offset in zip(blocks, offsets[:-1], strict=True)
    ]
    row = np.concatenate([block.border.row for block in blocks])
    col = np.concatenate([block.border.col for block in blocks])
    return Vertices(row, col, np.concatenate(owner, axis=1, dtype=np.int32))


def _sum_components(blocks: Sequence[BlockPieces], united: NDArray[np.int32], geobox: GeoBox) -> pd.DataFrame:
    """Sums over each united component (the index), ordered by its first pixel."""
    sums = {
        "first": np.concatenate([block.first_row * geobox.width + block.first_col for block in blocks]),
        "pixel_count": np.concatenate([block.pixel_count for block in blocks]),
        "code_sum": np.concatenate([block.code_sum for block in blocks]),
        "code_max": np.concatenate([block.code_max for block in blocks]),
        # Without such a layer all contexts are complete.
        INCOMPLETE: np.zeros(len(united), np.int64),
    } | {name: np.concatenate([block.sums[name] for block in blocks]) for name in blocks[0].sums}
    how = dict.fromkeys(sums, "sum") | {"first": "min", "code_max": "max"}
    table = pd.DataFrame(sums).groupby(united).agg(how).sort_values("first")
    affine = geobox.affine
    table["area_m2"] = table["pixel_count"] * abs(affine.a * affine.e)
    return table


def _build_polygons(
    rings: Sequence[Rings], geobox: GeoBox
) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
    """Polygons in the grid's CRS, object (polygons,), and their perimeters in metres, float64 (polygons,)."""
    (row, col), ring_start, polygon_start = close_rings(rings)
    affine = geobox.affine
    # Steps along rows and columns, counted from vertex to vertex; none leads from one ring to the next.
    down, right = np.abs(np.diff(row, prepend=0)), np.abs(np.diff(col, prepend=0))
    down[ring_start[:-1]] = right[ring_start[:-1]] = 0
    ends = ring_start[polygon_start]
    down, right = (np.diff(np.append(0, np.cumsum(steps))[ends]) for steps in (down, right))
    places = np.stack([affine.a * col + affine.c, affine.e * row + affine.f], axis=1)
    polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, places, (ring_start, polygon_start))
    if affine.determinant > 0:  # south-up: what ran counter-clockwise with rows drawn downwards is mirrored
        polygons = shapely.reverse(polygons)
    return polygons, down * abs(affine.e) + right * abs(affine.a)


def _name_places(sums: pd.DataFrame, geobox: GeoBox, epsg: int) -> list[str]:
    """Ids such as 32654-E583206-N4737069: the first pixel's place, with decimals where pixels need them."""
    affine = geobox.affine
    row, col = np.divmod(sums["first"].to_numpy(), geobox.width)
    decimals = max(0, math.ceil(-math.log10(min(abs(affine.a), abs(affine.e)))))
    unit = 10**decimals
    # Rounding down keeps neighbours apart (they lie a unit or more from each other). The offset keeps places
    # in whole or half units away from the step, where the last bit of a sum would change the name.
    easting = np.floor((affine.a * col + affine.c) * unit + 0.3183) / unit
    northing = np.floor((affine.e * row + affine.f) * unit + 0.3183) / unit
    return [f"{epsg}-E{e:.{decimals}f}-N{n:.{decimals}f}" for e, n in zip(easting, northing, strict=True)]


def _join_scene_names(
    pairs: NDArray[np.int64], polygon_count: int, item_ids: Mapping[int, str] | Sequence[str] | None
) -> list[str]:
    """Names of each polygon's scenes, with commas between; pairs of row and scene index, NO_OWNER: no row."""
    pairs = np.unique(pairs, axis=0)
    if isinstance(item_ids, Mapping):
        rank = {index: number for number, index in enumerate(item_ids)}
        ranks = [rank.get(index, len(rank)) for index in pairs[:, 1].tolist()]
        pairs = pairs[np.lexsort((np.array(ranks, np.int64), pairs[:, 0]))]
    indices = np.unique(pairs[:, 1]).tolist()
    try:
        names = {index: str(index) if item_ids is None else item_ids[index] for index in indices}
    except (KeyError, IndexError):
        known = len(item_ids or ())
        raise UsageError(
            f"the map names scenes {indices}, but only {known} item ids are given; give one each"
        ) from None
    scene_names = [names[index] for index in pairs[:, 1].tolist()]
    starts = np.searchsorted(pairs[:, 0], np.arange(polygon_count + 1)).tolist()
    return [",".join(scene_names[begin:end]) for begin, end in pairwise(starts)]
