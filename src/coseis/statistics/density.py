"""Polygons and what was seen of every square kilometre in, how dense landslides are there out.

The denominator is the ground that was seen: a cell half under cloud has its landslides from the other half.
"""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from coseis.errors import UsageError
from coseis.statistics.shape import planar
from coseis.types import Value

CELL_M = 1000
LEAST_SEEN = 0.05
"""Share of a full cell that must be seen, or its density is that of a sliver and not named as the
greatest."""


class DensitySummary(Value):
    """How many landslides there are on the ground that was seen."""

    area_km2: float
    """Of the mapped area."""
    observed_km2: float
    """Seen after the event."""
    per_km2: float | None
    """Landslides on a square kilometre that was seen; None where nothing was."""
    area_share: float | None
    """Share of the seen ground that landslides cover, 0-1."""
    densest_per_km2: float | None
    """In the densest cell of which LEAST_SEEN was seen."""
    densest_share: float | None
    """Greatest share of such a cell."""


def measure_density(polygons: gpd.GeoDataFrame, cells: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Counts landslides and their area a cell.

    Args:
        polygons: With `area_m2`, in any CRS.
        cells: With `area_km2`, the mapped part of each cell, and `observed`, the share of it that was seen,
            as `cells.join_cells` gives them.

    Returns:
        The cells with `landslides`, those that have a point of theirs in the cell, each in one cell;
        `landslide_m2`, the area within the cell; `observed_km2`; `per_km2` and `area_share`, of what was
        seen, NaN where that is nothing.

    Raises:
        UsageError: The cells lack a column.
    """
    missing = [name for name in ("area_km2", "observed") if name not in cells]
    if missing:
        raise UsageError(f"the cells lack {', '.join(missing)}; expected observed.parquet of a run")
    squares = cells.geometry.to_numpy()
    outlines = polygons.geometry.to_crs(cells.crs).to_numpy() if len(polygons) else np.zeros(0, object)
    count = np.zeros(len(cells), np.int64)
    area_m2 = np.zeros(len(cells))
    if len(outlines) and len(squares):
        count = _count_points(outlines, squares)
        polygon, cell = shapely.STRtree(squares).query(outlines, predicate="intersects")
        # Shares of the landslide, not areas: those of a grid, or in degrees, are not of the ground.
        whole = shapely.area(outlines)
        inside = shapely.intersection(outlines[polygon], squares[cell])
        share = shapely.area(inside) / whole[polygon]
        np.add.at(area_m2, cell, share * polygons["area_m2"].to_numpy()[polygon])
    observed_km2 = (cells["area_km2"] * cells["observed"]).to_numpy()
    seen = np.where(observed_km2 > 0, observed_km2, np.nan)
    return cells.assign(
        observed_km2=observed_km2,
        landslides=count,
        landslide_m2=area_m2,
        per_km2=count / seen,
        area_share=area_m2 / 1e6 / seen,
    )


def summarize_density(cells: gpd.GeoDataFrame) -> DensitySummary:
    """Sums and greatest of what `measure_density` gave."""
    observed_km2 = float(cells["observed_km2"].sum())
    large = cells[cells["observed_km2"] >= LEAST_SEEN * CELL_M**2 / 1e6]
    return DensitySummary(
        area_km2=float(cells["area_km2"].sum()),
        observed_km2=observed_km2,
        per_km2=float(cells["landslides"].sum()) / observed_km2 if observed_km2 else None,
        area_share=float(cells["landslide_m2"].sum()) / 1e6 / observed_km2 if observed_km2 else None,
        densest_per_km2=float(large["per_km2"].max()) if len(large) else None,
        densest_share=float(large["area_share"].max()) if len(large) else None,
    )


def cells_of_area(area: gpd.GeoSeries) -> gpd.GeoDataFrame:
    """Cells of a mapped area of which all was seen: for an inventory of someone else's.

    Args:
        area: Polygons in any CRS with a place.
    """
    plane = planar(area)
    ground = shapely.union_all(plane.to_numpy())
    west, south, east, north = (np.array(ground.bounds) / CELL_M).round(9)
    x, y = np.meshgrid(np.arange(np.floor(west), np.ceil(east)), np.arange(np.floor(south), np.ceil(north)))
    squares = shapely.box(x.ravel(), y.ravel(), x.ravel() + 1, y.ravel() + 1)
    squares = shapely.transform(squares, lambda places: places * CELL_M)
    inside = shapely.area(shapely.intersection(squares, ground)) / 1e6
    held = inside > 0
    return gpd.GeoDataFrame(
        {"area_km2": inside[held], "observed": np.ones(int(held.sum()))},
        geometry=squares[held],
        crs=plane.crs,
    )


def _count_points(outlines: NDArray[np.object_], squares: NDArray[np.object_]) -> NDArray[np.int64]:
    """Landslides by the cell that a point within them lies in; on an edge, the first one."""
    point, cell = shapely.STRtree(squares).query(shapely.point_on_surface(outlines), predicate="intersects")
    first = np.full(len(outlines), len(squares))
    np.minimum.at(first, point, cell)
    return np.bincount(first[first < len(squares)], minlength=len(squares))
