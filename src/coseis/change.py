"""Probability codes before and after the event in, what is new and what was there before out.

The same network runs on both phases. They are compared pixel by pixel before polygons are drawn, because
a new landslide that joins an old one is one polygon with it, and an overlap of polygons could not take them
apart. Everything here looks at no more than HALO_PX around a pixel, so blocks with that margin give the same
answer however a region was cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from coseis.types import CODE_FILL, CODE_SCALE

BoolArray = NDArray[np.bool_]

CHANGES = ("new", "reactivated", "pre-existing", "unknown")
GROWTH_PX = 16
"""How far a landslide of the pre phase reaches from pixels above its threshold over those above half of it.
Bounded, so that blocks need a bounded margin; 48 m at 3 m."""
TOLERANCE_PX = 2
"""Misfit of pre and post that makes nothing new."""
LEAST_WIDTH_PX = 5
"""What is narrower, between an old landslide and its outline after the event, belongs to the old one."""
HALO_PX = 32
"""Margin that a block needs: growth, tolerance, two openings, one neighbourhood and the pixel beyond."""
EXCLUDED_OVERLAP = 0.3
"""Share of a polygon that was landslide before, from which on it is no landslide of the event."""
LEAST_OBSERVED = 0.5
"""Share of a polygon that the pre phase must have seen, or it is unknown whether it is new."""
BARED = -0.15
"""Change of the vegetation index of an old landslide from which on it has moved again: half the difference of
grass and scar (NDVI .74 and .27, greenness .12 and -.21 of the synthetic ground)."""

_EDGES = ndimage.generate_binary_structure(2, 1)
_CORNERS = ndimage.generate_binary_structure(2, 2)
_WIDTH = np.ones((LEAST_WIDTH_PX, LEAST_WIDTH_PX), bool)


@dataclass(frozen=True)
class BeforeAfter:
    """Two phases of one place, with a margin of HALO_PX where the map has it."""

    post: NDArray[np.uint8]
    """uint8 (y, x), probability codes after the event, 255 = not predicted."""
    pre: NDArray[np.uint8]
    """uint8 (y, x), before it; all 255 where the network sees both phases at once, and change itself."""
    pre_seen: BoolArray
    """bool (y, x), whether a scene before the event was used."""
    vegetation_post: NDArray[np.uint8]
    """uint8 (y, x), vegetation codes, 255 = not known."""
    vegetation_pre: NDArray[np.uint8]
    post_code: int
    """Least code that counts as landslide after the event."""
    pre_code: int
    """The same before it."""


def old_pixels(phases: BeforeAfter, near_old: BoolArray) -> BoolArray:
    """Which landslide pixels belong to a landslide that was there before, bool (y, x).

    What is too narrow to be a landslide of its own goes to the side that it lies on.

    Args:
        phases: The codes of both.
        near_old: bool (y, x), see `near_old_pixels`.
    """
    landslide = _above(phases.post, phases.post_code)
    old = ndimage.binary_opening(landslide & near_old, _WIDTH)
    rest = landslide & ~old
    sliver = rest & ~ndimage.binary_opening(rest, _WIDTH)
    beside: BoolArray = ndimage.binary_dilation(old, _CORNERS, iterations=LEAST_WIDTH_PX // 2 + 1)
    together: BoolArray = old | (sliver & beside)
    return together


def near_old_pixels(phases: BeforeAfter) -> BoolArray:
    """Pixels within TOLERANCE_PX of a landslide of the pre phase, bool (y, x).

    By hysteresis: above its threshold, or above half of it and joined to such pixels.
    """
    sure = _above(phases.pre, phases.pre_code)
    likely = _above(phases.pre, -(-phases.pre_code // 2))
    grown = ndimage.binary_dilation(sure, _EDGES, iterations=GROWTH_PX, mask=likely)
    near: BoolArray = ndimage.binary_dilation(grown | sure, _CORNERS, iterations=TOLERANCE_PX)
    return near


def change_layers(
    phases: BeforeAfter, near_old: BoolArray, old: BoolArray
) -> dict[str, NDArray[np.int16] | BoolArray]:
    """Layers of whole numbers whose sums over a polygon tell what it is: see `name_changes`.

    Args:
        phases: The codes of both.
        near_old: bool (y, x), see `near_old_pixels`.
        old: bool (y, x), see `old_pixels`.
    """
    known = (phases.vegetation_post != CODE_FILL) & (phases.vegetation_pre != CODE_FILL)
    greener = phases.vegetation_post.astype(np.int16) - phases.vegetation_pre.astype(np.int16)
    return {
        "pre_px": phases.pre_seen,
        "overlap_px": phases.pre_seen & near_old,
        "beside_old_px": ndimage.binary_dilation(old, _EDGES) & ~old,
        "vegetation_px": known,
        "greener_sum": np.where(known, greener, np.int16(0)),
    }


def name_changes(polygons: gpd.GeoDataFrame, index_scale: int) -> gpd.GeoDataFrame:
    """The polygons with what they are in place of the sums that tell it.

    Args:
        polygons: As `vectorize.merge_blocks` gives them, with the sums of `change_layers` and `pixel_count`.
        index_scale: Vegetation codes per unit of the index.

    Returns:
        New columns: `change`, one of CHANGES; `pre_overlap`, share of what the pre phase saw of the polygon
        that lies at a landslide of that time, 0-1, NaN where it saw nothing; `pre_observed`, share that it
        saw, 0-1; `vegetation_change`, mean change of the vegetation index, NaN where it is not known.
    """
    pre, count = polygons["pre_px"], polygons["pixel_count"]
    observed = pre / count
    overlap = polygons["overlap_px"] / pre.where(pre > 0)
    known = polygons["vegetation_px"]
    greener = polygons["greener_sum"] / known.where(known > 0) / index_scale
    before = overlap >= EXCLUDED_OVERLAP
    change = np.select(
        [observed < LEAST_OBSERVED, before & (greener <= BARED), before, polygons["beside_old_px"] > 0],
        ["unknown", "reactivated", "pre-existing", "reactivated"],
        "new",
    )
    named = polygons.drop(columns=["pre_px", "overlap_px", "beside_old_px", "vegetation_px", "greener_sum"])
    return named.assign(
        change=change,
        pre_overlap=overlap.round(4),
        pre_observed=observed.round(4),
        vegetation_change=greener.round(4),
    )


def without_pre(polygons: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The columns of `name_changes` where no scene before the event was used: all is unknown."""
    return polygons.assign(change="unknown", pre_overlap=np.nan, pre_observed=0.0, vegetation_change=np.nan)


def join_tables(tables: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    """Tables of `merge_blocks` over one grid as one, in the order of the polygons' first pixels."""
    joined = pd.concat(tables, ignore_index=True)
    first = shapely.get_point(shapely.get_exterior_ring(joined.geometry.to_numpy()), 0)
    order = np.lexsort((shapely.get_x(first), -shapely.get_y(first)))
    ordered: gpd.GeoDataFrame = joined.iloc[order].reset_index(drop=True)
    return ordered


def _above(codes: NDArray[np.uint8], least: int) -> BoolArray:
    above: BoolArray = (codes >= least) & (codes <= CODE_SCALE)
    return above
