"""A file of landslide polygons in, the landslides that statistics are made of out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

from coseis.errors import UsageError
from coseis.statistics.areas import AreaSample, BoolArray, CutRule, take_areas
from coseis.statistics.density import cells_of_area
from coseis.statistics.shape import planar
from coseis.vectors import SUFFIXES as SUFFIXES
from coseis.vectors import read_features

EQUAL_AREA = "EPSG:6933"
"""Of the whole globe: areas in it are those on the ellipsoid."""
REACH_M = 1.0
"""A landslide so near the border of the mapped area touches it."""


@dataclass(frozen=True)
class Inventory:
    """Landslides of one event, and what was mapped of it."""

    source: str
    """Where they come from."""
    polygons: gpd.GeoDataFrame
    """A row a landslide: `area_m2` on the ground, a polygon of some area; any CRS with a place."""
    is_cut: BoolArray
    """bool (landslides,): those that touch the border of what was seen."""
    cells: gpd.GeoDataFrame | None
    """What was seen of every km2, as `density.measure_density` takes it; None: not known."""
    left_out: int = 0
    """Rows of the file without an area."""

    def sample(self, completeness_m2: float | None = None, *, rule: CutRule = "weighted") -> AreaSample:
        """The areas that a law can be fitted to; arguments and errors as `areas.take_areas`."""
        area_m2 = self.polygons["area_m2"].to_numpy()
        return take_areas(area_m2, is_cut=self.is_cut, completeness_m2=completeness_m2, rule=rule)


def read_inventory(path: str | Path, *, area: str | Path | None = None) -> Inventory:
    """Reads polygons of any origin.

    Areas are measured on the ellipsoid, whatever the file says: its columns may be of another map.

    Args:
        path: GeoPackage, Shapefile (also zipped), GeoJSON, FlatGeobuf or GeoParquet, in any CRS.
        area: Polygons of what was mapped, in any of those formats. Without it nothing is cut, and there is no
            density.

    Raises:
        UsageError: Absent, of another type, without CRS, or without polygons.
    """
    read = _read(Path(path))
    given = len(read)
    shapes = read.force_2d().make_valid(method="structure", keep_collapsed=False)
    area_m2 = shapes.to_crs(EQUAL_AREA).area.to_numpy()
    solid = np.isfinite(area_m2) & (area_m2 > 0)
    if not solid.any():
        raise UsageError(
            f"inventory {path} holds {given} rows and no polygon of any area; expected landslides"
        )
    polygons = gpd.GeoDataFrame({"area_m2": area_m2[solid]}, geometry=shapes[solid].to_numpy(), crs=read.crs)
    mapped = None if area is None else _read(Path(area))
    return Inventory(
        source=str(path),
        polygons=polygons,
        is_cut=np.zeros(len(polygons), bool) if mapped is None else _touching(polygons, mapped),
        cells=None if mapped is None else cells_of_area(mapped),
        left_out=given - len(polygons),
    )


def run_inventory(polygons: gpd.GeoDataFrame, cells: gpd.GeoDataFrame, source: str) -> Inventory:
    """The inventory of a run.

    Args:
        polygons: Its landslides of the event, as `draw.Drawing` describes them.
        cells: What it saw, as `cells.join_cells` describes it.
        source: Address of the run.
    """
    cut = polygons["touches_unobserved"].to_numpy(bool) | polygons["touches_aoi_border"].to_numpy(bool)
    return Inventory(source=source, polygons=polygons.reset_index(drop=True), is_cut=cut, cells=cells)


def within(inventory: Inventory, other: Inventory) -> Inventory:
    """The part of an inventory that lies in what another has mapped, cut at its border.

    Where that is not known, all of it. Cells are whole: a cell that was seen in part counts as mapped.
    """
    if other.cells is None or not len(other.cells):
        return inventory
    plane = planar(other.polygons.geometry) if len(other.polygons) else planar(inventory.polygons.geometry)
    mapped = shapely.union_all(other.cells[other.cells["observed"] > 0].to_crs(plane.crs).geometry.to_numpy())
    shapes = inventory.polygons.geometry.to_crs(plane.crs).to_numpy()
    near = shapely.intersects(shapes, mapped)
    shapes = shapes[near]
    outside = ~shapely.within(shapes, mapped)
    whole_m2 = shapely.area(shapes)
    shapes = np.where(outside, shapely.intersection(shapes, mapped), shapes)
    share = shapely.area(shapes) / whole_m2
    kept = share > 0
    area_m2 = inventory.polygons["area_m2"].to_numpy()[near] * share
    return replace(
        inventory,
        polygons=gpd.GeoDataFrame({"area_m2": area_m2[kept]}, geometry=shapes[kept], crs=plane.crs),
        is_cut=(inventory.is_cut[near] | outside)[kept],
        cells=None,
    )


def _touching(polygons: gpd.GeoDataFrame, mapped: gpd.GeoSeries) -> BoolArray:
    """Which polygons reach the border of the mapped area or beyond it."""
    plane = planar(polygons.geometry)
    border = shapely.boundary(shapely.union_all(mapped.to_crs(plane.crs).to_numpy()))
    touching: BoolArray = shapely.dwithin(plane.to_numpy(), border, REACH_M)
    return touching


def _read(path: Path) -> gpd.GeoSeries:
    if not path.exists():
        raise UsageError(f"inventory {path} does not exist; expected a run, or a file of polygons")
    try:
        shapes = read_features(path).shapes
    except (OSError, ValueError) as error:
        raise UsageError(f"inventory {path} cannot be read: {error}") from error
    if shapes.crs is None:
        raise UsageError(f"inventory {path} has no CRS, so its areas are unknown; store it with one")
    odd = sorted(set(shapes.geom_type.dropna()) - {"Polygon", "MultiPolygon"})
    if odd:
        raise UsageError(f"inventory {path} holds {', '.join(odd)}; expected polygons")
    return shapes
