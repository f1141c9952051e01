"""An area in degrees in, its parts by UTM zone out; polygons of neighbouring zones in, joined ones out.

Every place is mapped in one zone only, the one that its longitude lies in, on that zone's own grid: the grid
that its scenes are delivered on. A landslide across the border is two polygons then, each cut at the pixels
whose centres lie beyond, and is made one here.
"""

import json
from collections.abc import Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely.geometry.base import BaseGeometry

from coseis.errors import UsageError

ZONE_DEG = 6
GAP_PX = 1.75
"""Two polygons within this distance of each other, at the border of their zones, are one: each may fall short
of it by most of a pixel's diagonal, on a grid that lies askew to the other's."""


def split_area(aoi: dict[str, Any]) -> tuple[tuple[str, dict[str, Any]], ...]:
    """The parts of an area by UTM zone, the largest first.

    Args:
        aoi: GeoJSON geometry, longitude and latitude.

    Returns:
        (CRS, GeoJSON geometry) each. The hemisphere is that of the area's centre for all, or a region on the
        equator would be cut once more; zones are the plain ones of six degrees, also off Norway.

    Raises:
        UsageError: the area lies beyond 84 degrees, where there are no zones.
    """
    area = shapely.from_geojson(json.dumps(aoi))
    west, south, east, north = area.bounds
    latitude = area.centroid.y
    parts = []
    for zone in range(int(west // ZONE_DEG), int(-(-east // ZONE_DEG))):
        strip = shapely.box(zone * ZONE_DEG, south - 1, (zone + 1) * ZONE_DEG, north + 1)
        part = _polygons(shapely.intersection(area, strip))
        if not part.is_empty:
            try:
                crs = CRS.utm((zone + 0.5) * ZONE_DEG, latitude)
            except ValueError as error:
                raise UsageError(
                    f"the area lies at {latitude:.1f} degrees, where there is no UTM zone; give --crs"
                ) from error
            parts.append((str(crs), json.loads(shapely.to_geojson(part)), part.area))
    parts.sort(key=lambda part: -part[2])
    return tuple((crs, part) for crs, part, _ in parts)


def join_zones(
    tables: Sequence[gpd.GeoDataFrame], at_border: Sequence[NDArray[np.bool_]], *, pixel_m: float
) -> gpd.GeoDataFrame:
    """The polygons of several zones as one table in degrees, those that meet at a border made one.

    Args:
        tables: Of `vectorize.merge_blocks`, each in its zone's CRS; the same columns in all.
        at_border: bool (polygons,) each: those that touch the edge of their zone's area, the only ones that
            may go on beyond.
        pixel_m: Side of a pixel, metres.

    Returns:
        Columns as given; sums and counts are added, means and shares weighted by pixels, names joined. The id
        is that of the part with the most pixels. Ordered by table, then as they were.
    """
    pixels = gpd.GeoDataFrame(
        pd.concat([table.to_crs(4326) for table in tables], ignore_index=True), crs="EPSG:4326"
    )
    zone = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    candidates = np.flatnonzero(np.concatenate(list(at_border)))
    pairs: list[tuple[int, int]] = []
    if candidates.size:
        # One plane for all candidates of a pair: the zone of the first. Distances there are true to 0.1 %.
        for number in range(len(tables)):
            own = candidates[zone[candidates] == number]
            others = candidates[zone[candidates] > number]
            crs = tables[number].crs
            mine = pixels.geometry.iloc[own].to_crs(crs).to_numpy()
            theirs = pixels.geometry.iloc[others].to_crs(crs).to_numpy()
            tree = shapely.STRtree(theirs)
            near = tree.query(mine, predicate="dwithin", distance=GAP_PX * pixel_m)
            pairs += [(int(own[i]), int(others[j])) for i, j in near.T]
    if not pairs:
        return pixels
    first, second = np.array(pairs).T
    links = coo_array((np.ones(len(first)), (first, second)), shape=(len(pixels), len(pixels)))
    _, group = connected_components(links, directed=False)
    rows = pd.DataFrame(pixels)
    dropped = []
    for members in (np.flatnonzero(group == number) for number in np.unique(group[first])):
        # A joined polygon stands where its first part stood.
        joined = _join(pixels.iloc[members], tables[zone[members[0]]].crs, pixel_m)
        rows.loc[members[0], list(joined)] = pd.Series(joined)
        dropped += members[1:].tolist()
    whole = rows.drop(index=dropped).reset_index(drop=True).astype(dict(pixels.dtypes.drop("geometry")))
    return gpd.GeoDataFrame(whole.drop(columns="geometry"), geometry=list(whole["geometry"]), crs="EPSG:4326")


def true_areas(polygons: gpd.GeoDataFrame) -> NDArray[np.float64]:
    """Areas on the ellipsoid of polygons whose `area_m2` is of their grid, m2, float64 (polygons,).

    A square of a UTM grid holds 0.08 % more ground than it says at the middle of a zone, and up to 0.2 % less
    at its edge. The scale hardly changes within a landslide, so that of its centroid is taken.
    """
    crs = pyproj.CRS(polygons.crs)
    if polygons.empty:
        return np.zeros(0)
    centre = shapely.centroid(polygons.geometry.to_numpy())
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    longitude, latitude = to_degrees.transform(shapely.get_x(centre), shapely.get_y(centre))
    scale = pyproj.Proj(crs).get_factors(longitude, latitude).areal_scale
    areas: NDArray[np.float64] = polygons["area_m2"].to_numpy() / scale
    return areas


def _join(parts: gpd.GeoDataFrame, crs: Any, pixel_m: float) -> dict[str, Any]:
    """One row of several: what a union of their pixels would have given."""
    weight = parts["pixel_count"].to_numpy(float)
    main = parts.iloc[int(weight.argmax())]
    row: dict[str, Any] = {}
    for name in parts.columns.drop("geometry"):
        values = parts[name]
        if name == "probability_max":
            row[name] = values.max()
        elif name.endswith(("_mean", "_share")):
            row[name] = float(np.average(values, weights=weight))
        elif name == "scenes":
            named = [scene for scenes in values for scene in scenes.split(",") if scene]
            row[name] = ",".join(dict.fromkeys(named))
        elif pd.api.types.is_numeric_dtype(values):
            row[name] = values.sum()
        else:
            row[name] = main[name]
    bodies = list(parts.geometry.to_crs(crs))
    reach = GAP_PX * pixel_m
    strip = _border(parts, crs).buffer(pixel_m, cap_style="flat")
    # Only what lies within a pixel of the border, and near both, is the hairline between them.
    bridges = [
        shapely.intersection_all([one.buffer(reach), other.buffer(reach), strip])
        for number, one in enumerate(bodies)
        for other in bodies[number + 1 :]
        if shapely.dwithin(one, other, reach)
    ]
    whole = _polygons(shapely.union_all([*bodies, *bridges]))
    row["geometry"] = gpd.GeoSeries([whole], crs=crs).to_crs(4326).iloc[0]
    row["perimeter_m"] = float(whole.length)
    return row


def _border(parts: gpd.GeoDataFrame, crs: Any) -> BaseGeometry:
    """The meridian between the zones of polygons that meet, in their plane."""
    west, south, east, north = parts.total_bounds
    longitude = round((west + east) / 2 / ZONE_DEG) * ZONE_DEG
    line = shapely.LineString([(longitude, south), (longitude, north)])
    border: BaseGeometry = (
        gpd.GeoSeries([line.segmentize((north - south) / 16)], crs=4326).to_crs(crs).iloc[0]
    )
    return border


def _polygons(geometry: BaseGeometry) -> BaseGeometry:
    """The polygons of a geometry; an intersection or a union may hold lines and points too."""
    flat = [part for part in shapely.get_parts(geometry) if part.geom_type in ("Polygon", "MultiPolygon")]
    whole: BaseGeometry = shapely.union_all(flat) if len(flat) != 1 else flat[0]
    return whole
