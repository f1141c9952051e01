"""Landslides and layers of roads, rivers and buildings go in; what each landslide cuts and touches comes out.

Layers follow OpenStreetMap's schema where they have its columns (`highway`, `waterway`, `building`, or the
`fclass` of Geofabrik's Shapefiles); a layer without them is taken whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from coseis.errors import UsageError
from coseis.types import Value
from coseis.vectors import read_features

ROADS = frozenset(
    ("motorway", "trunk", "primary", "secondary", "tertiary", "unclassified", "residential", "living_street",
     "service", "track", "road", "motorway_link", "trunk_link", "primary_link", "secondary_link",
     "tertiary_link")
)  # fmt: skip
"""Values of OSM's highway, and of Geofabrik's fclass, that vehicles use: paths and proposals are none."""
RIVERS = frozenset(("river", "stream", "canal", "tidal_channel", "riverbank", "water"))
"""Values of OSM's waterway that can be dammed; `water` is that of a river's area."""
RIVER_REACH_M = 5000.0
"""Farther rivers are not looked for: the distance is NaN."""
ZONE_DEG = 6

EXPOSURE_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "roads": ("roads_cut", "roads_cut_m"),
    "rivers": ("river_distance_m", "river_contact_m", "crosses_river"),
    "buildings": ("buildings_touched",),
}
"""What each layer adds."""

Lines = NDArray[np.object_]


class ExposureReport(Value):
    """What landslides did to what is mapped around them; None of what no layer was given for."""

    layers: dict[str, str]
    """Name of each layer's file."""
    roads_cut_m: float | None = None
    landslides_on_roads: int | None = None
    landslides_across_rivers: int | None = None
    """A river enters and leaves each of them: it may be dammed."""
    buildings_touched: int | None = None
    """One that two landslides touch counts twice."""


def read_surroundings(files: Mapping[str, str | None]) -> dict[str, gpd.GeoDataFrame]:
    """The layers of files, as `exposure_attributes` takes them; whatever is no such layer is left out.

    Args:
        files: By name, of `EXPOSURE_COLUMNS`, a local file that `vectors.read_features` reads; None: none.

    Raises:
        UsageError: a file cannot be read, or holds another layer; it is named.
    """
    return {name: _read_layer(name, file) for name, file in files.items() if file is not None}


def _read_layer(name: str, file: str) -> gpd.GeoDataFrame:
    tag, values = _TAGS[name]
    try:
        found, column = read_features(Path(file), tag), tag
        if tag not in found.fields and values and "fclass" in found.fields:
            found, column = read_features(Path(file), "fclass"), "fclass"
        columns = {column: found.values} if found.values else {}
        layer = gpd.GeoDataFrame(columns, geometry=found.shapes)
        # Only what is wanted stays in memory while the map is made.
        return gpd.GeoDataFrame(geometry=_wanted(name, layer))
    except (ValueError, UsageError) as error:
        raise UsageError(
            f"--{name} {file} cannot be used: {error}; give another file, or none to go without"
        ) from error


def report_exposure(polygons: gpd.GeoDataFrame, files: Mapping[str, str | None]) -> ExposureReport:
    """Sums over landslides with the columns of `exposure_attributes`.

    Args:
        polygons: The landslides that count.
        files: as for `read_surroundings`.
    """
    given = {name: Path(file).name for name, file in files.items() if file is not None}
    return ExposureReport(
        layers=given,
        roads_cut_m=round(float(polygons["roads_cut_m"].sum()), 1) if "roads" in given else None,
        landslides_on_roads=int((polygons["roads_cut"] > 0).sum()) if "roads" in given else None,
        landslides_across_rivers=int(polygons["crosses_river"].sum()) if "rivers" in given else None,
        buildings_touched=int(polygons["buildings_touched"].sum()) if "buildings" in given else None,
    )


def exposure_attributes(
    polygons: gpd.GeoDataFrame, layers: Mapping[str, gpd.GeoDataFrame]
) -> gpd.GeoDataFrame:
    """The landslides with what they did to what is mapped around them; their columns are kept.

    Lengths and distances are on the plane of the UTM zone that a landslide lies in, true to 0.1 %.

    Args:
        polygons: Landslides in any CRS.
        layers: By name, of `EXPOSURE_COLUMNS`: roads (lines), rivers (lines, or polygons of their water),
            buildings (polygons or points), each in any CRS.

    Returns:
        Beside the columns given, as far as their layer is: `roads_cut`, how many roads it meets, and
        `roads_cut_m`, their length within it; `river_distance_m` to the nearest river, 0 where it meets one,
        NaN beyond RIVER_REACH_M, `river_contact_m`, length of rivers within it, and `crosses_river`, whether
        one enters and leaves it: it may be dammed; `buildings_touched`.

    Raises:
        UsageError: a layer of another name, without CRS, or of other geometries.
    """
    wanted = {name: _wanted(name, layer) for name, layer in layers.items()}
    columns = {
        column: np.full(len(polygons), np.nan if column == "river_distance_m" else 0.0)
        for name in layers
        for column in EXPOSURE_COLUMNS[name]
    }
    for rows, crs in _by_zone(polygons):
        shapes = polygons.geometry.iloc[rows].to_crs(crs)
        for name, layer in wanted.items():
            near = _near(layer, shapes, RIVER_REACH_M if name == "rivers" else 0.0)
            for column, values in _MEASURES[name](shapes.to_numpy(), near).items():
                columns[column][rows] = values
    return polygons.assign(
        **{name: values.astype(_TYPES.get(name, np.float64)) for name, values in columns.items()}
    )


def _wanted(name: str, layer: gpd.GeoDataFrame) -> gpd.GeoSeries:
    """The geometries of a layer that are what its name says."""
    if name not in EXPOSURE_COLUMNS:
        raise UsageError(f"layer {name} is none of {', '.join(EXPOSURE_COLUMNS)}")
    if layer.crs is None:
        raise UsageError(
            f"the layer of {name} has no coordinate reference system; set it with ogr2ogr -a_srs"
        )
    tag, values = _TAGS[name]
    shapes = layer.geometry
    if tag in layer:
        kept = layer[tag].isin(values) if values else layer[tag].notna() & (layer[tag] != "no")
        shapes = shapes[kept]
    elif "fclass" in layer and values:
        shapes = shapes[layer["fclass"].isin(values)]
    shapes = shapes[~(shapes.isna() | shapes.is_empty)]
    odd = sorted(set(shapes.geom_type) - set(_FORMS[name]))
    if odd:
        raise UsageError(f"the layer of {name} holds {', '.join(odd)}; expected {', '.join(_FORMS[name])}")
    return shapes.reset_index(drop=True)


def _by_zone(polygons: gpd.GeoDataFrame) -> Iterator[tuple[NDArray[np.intp], str]]:
    """Row numbers of the landslides of each UTM zone, and its CRS."""
    if polygons.empty:
        return
    places = polygons.geometry.representative_point().to_crs(4326)
    zones = np.clip(np.floor((places.x + 180) / ZONE_DEG), 0, 59).astype(int) + 1
    codes = np.where(places.y >= 0, 32600, 32700) + zones
    for code in np.unique(codes):
        yield np.flatnonzero(codes == code), f"EPSG:{code}"


def _near(layer: gpd.GeoSeries, shapes: gpd.GeoSeries, reach_m: float) -> Lines:
    """What of a layer lies around some landslides, on their plane."""
    west, south, east, north = shapes.total_bounds
    around = shapely.box(west - reach_m, south - reach_m, east + reach_m, north + reach_m)
    box = gpd.GeoSeries([around.segmentize(max(around.length / 64, 1.0))], crs=shapes.crs)
    found = layer.iloc[layer.sindex.query(box.to_crs(layer.crs).iloc[0])]
    moved = shapely.force_2d(found.to_crs(shapes.crs).to_numpy())
    return np.asarray(shapely.make_valid(moved), dtype=object)


def _roads(shapes: Lines, roads: Lines) -> dict[str, NDArray[np.float64]]:
    row, lengths = _lengths_within(shapes, roads)
    return {
        "roads_cut": np.bincount(row, minlength=len(shapes)).astype(float),
        "roads_cut_m": np.bincount(row, lengths, minlength=len(shapes)),
    }


def _rivers(shapes: Lines, rivers: Lines) -> dict[str, NDArray[np.float64]]:
    row, lengths = _lengths_within(shapes, rivers)
    distance = np.full(len(shapes), np.nan)
    tree = shapely.STRtree(rivers)
    pairs, metres = tree.query_nearest(shapes, max_distance=RIVER_REACH_M, return_distance=True)
    # Several may be nearest, equally far.
    distance[pairs[0]] = metres
    crosses = np.zeros(len(shapes), bool)
    shape, river = tree.query(shapes, predicate="intersects")
    # A river along its foot takes nothing out of it, whatever rounding leaves of the line.
    within = shapely.relate_pattern(shapes[shape], rivers[river], "T********")
    shape, river = shape[within], river[within]
    crosses[shape[_parts_beyond(shapes[shape], rivers[river]) >= 2]] = True
    return {
        "river_distance_m": distance.round(1),
        "river_contact_m": np.bincount(row, lengths, minlength=len(shapes)),
        "crosses_river": crosses.astype(float),
    }


def _buildings(shapes: Lines, buildings: Lines) -> dict[str, NDArray[np.float64]]:
    row, _ = shapely.STRtree(buildings).query(shapes, predicate="intersects")
    return {"buildings_touched": np.bincount(row, minlength=len(shapes)).astype(float)}


def _lengths_within(shapes: Lines, lines: Lines) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """A pair that meets each: row of the landslide, and length of the line within it, m."""
    row, number = shapely.STRtree(lines).query(shapes, predicate="intersects")
    met = shapely.intersection(shapes[row], lines[number])
    lengths = shapely.length(met)
    areas = shapely.get_dimensions(lines[number]) == 2
    # Water as an area: half of what surrounds the common part is about its length.
    return row, np.where(areas, lengths / 2, lengths)


def _parts_beyond(shapes: Lines, rivers: Lines) -> NDArray[np.intp]:
    """Into how many parts each river is cut by a landslide that takes a piece out of it."""
    left = shapely.difference(rivers, shapes)
    counts: NDArray[np.intp] = shapely.get_num_geometries(shapely.line_merge(left)).astype(np.intp)
    areas = shapely.get_dimensions(rivers) == 2
    counts[areas] = shapely.get_num_geometries(left[areas])
    counts[shapely.is_empty(left)] = 0
    return counts


_TYPES = {"roads_cut": np.int64, "buildings_touched": np.int64, "crosses_river": np.bool_}
_TAGS: Mapping[str, tuple[str, frozenset[str]]] = {
    "roads": ("highway", ROADS),
    "rivers": ("waterway", RIVERS),
    "buildings": ("building", frozenset()),
}
_FORMS: Mapping[str, Sequence[str]] = {
    "roads": ("LineString", "MultiLineString"),
    "rivers": ("LineString", "MultiLineString", "Polygon", "MultiPolygon"),
    "buildings": ("Point", "MultiPoint", "Polygon", "MultiPolygon"),
}
_MEASURES = {"roads": _roads, "rivers": _rivers, "buildings": _buildings}
