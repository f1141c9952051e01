"""Outlines that are likely to hold several landslides and their probabilities in, one outline each out.

Landslides that run into each other are mapped as one, which loses the small ones and gives a volume too
large (Marc and Hovius, 2015, doi:10.5194/nhess-15-723-2015). The probability says where: it sinks in the
neck between two. The split inventory stands beside the unsplit one, for no map says which is true.
"""

from __future__ import annotations

from collections.abc import Callable

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize, shapes
from scipy import ndimage
from shapely.geometry.base import BaseGeometry
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from coseis.statistics.shape import SEVERAL, shape_attributes
from coseis.types import CODE_SCALE

SMOOTH_M = 9.0
"""Standard deviation of the smoothing: three pixels of 3 m. Within a landslide the probability is all but 1,
and single pixels have no peaks that mean anything; smoothed over its outline too, a neck sinks."""
LEAST_SADDLE = 0.1
"""How far the smoothed probability sinks between two landslides, from the lower of their peaks."""
LEAST_PART_M2 = 400.0
"""Smaller parts are no landslides of their own: no label of ours has such, see `shape.SIZES_M2`."""
MOST_PX = 2**24
"""Of the rectangle around an outline that is split; larger ones stay whole."""

ReadCodes = Callable[[slice, slice], NDArray[np.uint8]]
"""(rows, columns) of the grid -> codes of the post phase, uint8 (y, x)."""


def split_polygons(polygons: gpd.GeoDataFrame, geobox: GeoBox, read: ReadCodes) -> gpd.GeoDataFrame:
    """An inventory in which outlines that are likely to be several are cut along the lowest probability.

    Args:
        polygons: As `draw.Drawing` describes them, with outlines along the pixels of the grid.
        geobox: The grid, in metres, north up.
        read: The probability that the outlines were drawn in.

    Returns:
        Those that stay whole, and the parts of the others in their places: `id`, of parts with their number;
        `whole_id`; `area_m2`, which add up to the whole's; the marks of the border, which parts share with
        their whole; `shape.shape_attributes`; and the outline, in the CRS given.
    """
    outlines = polygons.to_crs(str(geobox.crs)).geometry
    several = polygons["amalgamation"].to_numpy() >= SEVERAL
    parts = [
        _parts(outline, pixels, geobox, read) if cut else [outline]
        for outline, pixels, cut in zip(outlines, polygons["pixel_count"], several, strict=True)
    ]
    counts = np.array([len(pieces) for pieces in parts], dtype=np.intp)
    rows = np.repeat(np.arange(len(polygons)), counts)
    geometry = np.array([piece for pieces in parts for piece in pieces], dtype=object)
    area = shapely.area(geometry)
    whole = polygons[["id", "area_m2", "touches_unobserved", "touches_aoi_border"]].iloc[rows]
    number = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    table = whole.reset_index(drop=True).assign(
        whole_id=whole["id"].to_numpy(),
        id=[
            f"{name}-{part}" if several_parts else name
            for name, part, several_parts in zip(whole["id"], number, counts[rows] > 1, strict=True)
        ],
        # One of the whole's own area, which is on the ground: on the grid it is off by 0.2 % at most.
        area_m2=whole["area_m2"].to_numpy() * area / np.bincount(rows, area, minlength=len(polygons))[rows],
    )
    table["id"] = table["id"].astype(polygons["id"].dtype)
    split = gpd.GeoDataFrame(table, geometry=geometry, crs=str(geobox.crs))
    measured: gpd.GeoDataFrame = shape_attributes(split).to_crs(polygons.crs)
    return measured


def split_pixels(codes: NDArray[np.uint8], inside: NDArray[np.bool_], *, pixel_m: float) -> NDArray[np.int32]:
    """The pixels of one outline by landslide: a watershed on the smoothed probability.

    Args:
        codes: uint8 (y, x), probability codes; those outside count as 0.
        inside: bool (y, x), the pixels of the outline.
        pixel_m: Side of a pixel.

    Returns:
        int32 (y, x): 0 outside, 1 and more by landslide, from the top; each is one piece of at least
        LEAST_PART_M2, unless the whole is smaller.
    """
    probability = np.where(inside, codes, 0) / CODE_SCALE
    smooth = ndimage.gaussian_filter(probability, SMOOTH_M / pixel_m, mode="constant")
    # In whole numbers: peaks of floats would differ by rounding alone.
    height = np.where(inside, np.rint(smooth * 1000).astype(np.int32) + 1, 0)
    peaks = h_maxima(height, round(LEAST_SADDLE * 1000)).astype(bool) & inside
    markers, count = ndimage.label(peaks, structure=np.ones((3, 3)))
    least_px = LEAST_PART_M2 / pixel_m**2
    while True:
        labels: NDArray[np.int32] = watershed(-height, markers, mask=inside).astype(np.int32)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        used = np.flatnonzero(np.bincount(markers.ravel(), minlength=count + 1)[1:]) + 1
        small = used[sizes[used - 1] < least_px]
        if used.size < 2 or not small.size:
            break
        # Without their peaks they fall to the neighbours that they flow to: the smaller half of them first,
        # for two that are too small may be one that is not.
        ordered = small[np.argsort(sizes[small - 1], kind="stable")]
        markers[np.isin(markers, ordered[: max(1, small.size // 2)])] = 0
    if used.size < 2:
        return inside.astype(np.int32)
    order = np.zeros(count + 1, np.int32)
    order[used] = np.arange(1, used.size + 1)
    return order[labels]


def _parts(outline: BaseGeometry, pixels: int, geobox: GeoBox, read: ReadCodes) -> list[BaseGeometry]:
    """The outlines of the landslides in one; the outline itself where it stays whole."""
    west, south, east, north = outline.bounds
    affine = ~geobox.affine
    (left, top), (right, bottom) = affine @ (west, north), affine @ (east, south)
    rows, cols = slice(max(0, round(top)), round(bottom)), slice(max(0, round(left)), round(right))
    shape = (rows.stop - rows.start, cols.stop - cols.start)
    if min(shape) < 1 or shape[0] * shape[1] > MOST_PX:
        return [outline]
    place = geobox[rows, cols]
    inside = rasterize([outline], place.shape, transform=place.affine, dtype=np.uint8) > 0
    if int(inside.sum()) != pixels:
        # It was joined across the border of two zones: this grid holds only a part of it.
        return [outline]
    labels = split_pixels(read(rows, cols), inside, pixel_m=abs(geobox.affine.a))
    traced = shapes(labels, mask=inside, connectivity=4, transform=place.affine)
    by_label: dict[int, list[BaseGeometry]] = {}
    for geometry, label in traced:
        by_label.setdefault(int(label), []).append(shapely.geometry.shape(geometry))
    return [shapely.union_all(pieces) for _, pieces in sorted(by_label.items())]
