"""Two inventories of one event in, how far they agree out: in area, landslide by landslide, and in sizes."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from coseis.evaluation import LandslideCounts, count_pairs
from coseis.statistics.areas import FloatArray
from coseis.statistics.shape import planar
from coseis.types import Value

Geometries = NDArray[np.object_]


class InventoryComparison(Value):
    """How far an inventory agrees with a reference; neither is taken to be the truth.

    Reference: Carrara et al. (1992), ITC Journal 1992-2, 172-183, for the error index; Galli et al. (2008),
    doi:10.1016/j.geomorph.2006.09.023, for its use.
    """

    ours_m2: float
    """Area of ours, overlaps counted once."""
    reference_m2: float
    shared_m2: float
    error_index: float | None
    """Of the area that either maps, the share that only one does: 0 the same, 1 nothing in common."""
    matching_degree: float | None
    """1 less the error index; the intersection over union of all landslides."""
    landslides: LandslideCounts
    """Ours as `predicted`, the reference as `labelled`: how many of each are in the other; areas in whole
    m2."""


def compare_inventories(
    ours: gpd.GeoDataFrame, reference: gpd.GeoDataFrame, *, least_m2: float = 0.0
) -> InventoryComparison:
    """Compares polygons with polygons, where both were mapped: cut them to that area first.

    Args:
        ours: In any CRS.
        reference: In any CRS.
        least_m2: Smaller landslides are not counted, on either side. They still cover others.
    """
    plane = planar(ours.geometry if len(ours) else reference.geometry)
    mine, theirs = (_joined(table.geometry.to_crs(plane.crs).to_numpy()) for table in (ours, reference))
    mine_m2, theirs_m2 = shapely.area(mine), shapely.area(theirs)
    shared = _shared(theirs, mine)
    shared_m2 = float(shared[2].sum())
    either_m2 = float(mine_m2.sum() + theirs_m2.sum()) - shared_m2
    return InventoryComparison(
        ours_m2=float(mine_m2.sum()),
        reference_m2=float(theirs_m2.sum()),
        shared_m2=shared_m2,
        error_index=1 - shared_m2 / either_m2 if either_m2 else None,
        matching_degree=shared_m2 / either_m2 if either_m2 else None,
        landslides=count_pairs(
            _whole_m2(theirs_m2),
            _whole_m2(mine_m2),
            pairs=shared[:2].astype(np.int64),
            both_px=_whole_m2(shared[2]),
            pixel_m2=1.0,
            min_area_m2=least_m2,
        ),
    )


def _whole_m2(area_m2: FloatArray) -> NDArray[np.int64]:
    return np.rint(area_m2).astype(np.int64)


def _shared(theirs: Geometries, mine: Geometries) -> FloatArray:
    """Rows of both and the area that they share, m2, float64 (3, pairs)."""
    if not len(theirs) or not len(mine):
        return np.zeros((3, 0))
    row, column = shapely.STRtree(mine).query(theirs, predicate="intersects")
    area = shapely.area(shapely.intersection(theirs[row], mine[column]))
    both = area > 0
    return np.stack([row[both], column[both], area[both]])


def _joined(outlines: Geometries) -> Geometries:
    """Polygons that overlap made one: each place counts once. Those that only touch stay apart."""
    valid = shapely.make_valid(outlines, method="structure", keep_collapsed=False)
    valid = valid[~shapely.is_empty(valid)]
    if not len(valid):
        return valid
    first, second = shapely.STRtree(valid).query(valid, predicate="intersects")
    once = first < second
    first, second = first[once], second[once]
    overlap = shapely.area(shapely.intersection(valid[first], valid[second])) > 0
    first, second = first[overlap], second[overlap]
    if not first.size:
        return valid
    links = coo_array((np.ones(first.size), (first, second)), shape=(len(valid), len(valid)))
    count, group = connected_components(links, directed=False)
    order = np.argsort(group, kind="stable")
    parts = np.split(valid[order], np.searchsorted(group[order], np.arange(1, count)))
    # A union of all at once would take minutes for nothing: most polygons overlap no other.
    return np.array([part[0] if len(part) == 1 else shapely.union_all(part) for part in parts], dtype=object)
