"""What landslides cut and touch, against hand-made places and against shapely pair by pair."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, Point, box

from coseis.errors import UsageError
from coseis.exposure import (
    EXPOSURE_COLUMNS,
    RIVER_REACH_M,
    exposure_attributes,
    read_surroundings,
    report_exposure,
)
from coseis.publish import EXPOSURE_TYPES
from making import UTM

X, Y = 583000.0, 4737000.0


def placed(*shapes, crs=UTM, **columns):
    moved = [shapely.transform(shape, lambda points: np.add(points, (X, Y))) for shape in shapes]
    return gpd.GeoDataFrame(columns, geometry=moved, crs=UTM).to_crs(crs)


def measured(shape, **layers):
    return exposure_attributes(placed(shape, id=["a"]), layers).iloc[0]


SQUARE = box(0, 0, 100, 100)


def test_roads_are_counted_and_measured_within():
    roads = placed(
        LineString([(-50, 50), (150, 50)]),
        LineString([(20, 20), (20, 90)]),
        LineString([(0, 500), (100, 500)]),
        highway=["primary", "residential", "primary"],
    )
    found = measured(SQUARE, roads=roads)
    assert (found.roads_cut, found.roads_cut_m) == (2, pytest.approx(170))


def test_footpaths_and_proposals_are_no_roads():
    lines = [LineString([(-50, y), (150, y)]) for y in (10, 20, 30)]
    assert measured(SQUARE, roads=placed(*lines, highway=["path", "proposed", None])).roads_cut == 0
    assert measured(SQUARE, roads=placed(*lines, fclass=["track", "footway", "steps"])).roads_cut == 1
    assert measured(SQUARE, roads=placed(*lines)).roads_cut == 3


def test_a_river_that_enters_and_leaves_may_be_dammed():
    through = LineString([(-50, 50), (50, 60), (150, 50)])
    found = measured(SQUARE, rivers=placed(through, waterway=["river"]))
    assert found.crosses_river
    assert found.river_distance_m == 0
    assert found.river_contact_m == pytest.approx(through.intersection(SQUARE).length)


@pytest.mark.parametrize(
    ("river", "distance_m", "contact_m"),
    [
        (LineString([(50, 50), (150, 50)]), 0, 50),  # it begins within
        (LineString([(100, -50), (100, 150)]), 0, 100),  # it runs along the foot
        (LineString([(130, -50), (130, 150)]), 30, 0),
        (LineString([(100 + RIVER_REACH_M + 1, 0), (100 + RIVER_REACH_M + 1, 9)]), np.nan, 0),
    ],
)
def test_other_rivers_are_not_crossed(river, distance_m, contact_m):
    found = measured(SQUARE, rivers=placed(river))
    assert not found.crosses_river
    assert found.river_distance_m == pytest.approx(distance_m, nan_ok=True)
    assert found.river_contact_m == pytest.approx(contact_m)


def test_water_as_an_area_is_crossed_too():
    found = measured(SQUARE, rivers=placed(box(-50, 40, 150, 50)))
    assert found.crosses_river
    assert found.river_contact_m == pytest.approx(110)  # half of 220 m around it
    assert not measured(SQUARE, rivers=placed(box(-50, -50, 150, 10))).crosses_river


def test_buildings_are_touched_at_the_wall():
    buildings = placed(
        box(100, 10, 110, 20), box(200, 0, 210, 10), Point(50, 50), building=["yes", "yes", "hut"]
    )
    assert measured(SQUARE, buildings=buildings).buildings_touched == 2
    assert measured(SQUARE, buildings=buildings.assign(building=["yes", "yes", "no"])).buildings_touched == 1


def test_a_layer_without_anything_near_and_no_landslide():
    far = {name: placed(LineString([(9e4, 0), (9e4, 9)])) for name in ("roads", "rivers")}
    found = measured(SQUARE, **far, buildings=placed(Point(9e4, 0)))
    assert (found.roads_cut, found.roads_cut_m, found.buildings_touched, found.crosses_river) == (
        0,
        0,
        0,
        False,
    )
    empty = exposure_attributes(placed(id=[]), far)
    assert list(empty.columns) == ["id", "geometry", *EXPOSURE_COLUMNS["roads"], *EXPOSURE_COLUMNS["rivers"]]
    assert empty.dtypes["roads_cut"] == "int64"


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32653", "EPSG:3857"])
def test_any_crs_of_landslides_and_layers_gives_the_same(crs):
    """Random places, against shapely pair by pair; the landslides in degrees, the layers in `crs`."""
    rng = np.random.default_rng(3)
    slides = [Point(*rng.uniform(0, 4000, 2)).buffer(rng.uniform(20, 200)) for _ in range(40)]
    lines = [LineString(rng.uniform(0, 4000, (4, 2))) for _ in range(60)]
    huts = [Point(*rng.uniform(0, 4000, 2)).buffer(8) for _ in range(300)]
    layers = {
        "roads": placed(*lines, crs=crs),
        "rivers": placed(*lines, crs=crs),
        "buildings": placed(*huts, crs=crs),
    }
    found = exposure_attributes(placed(*slides, crs="EPSG:4326"), layers)
    for row, slide in zip(found.itertuples(), slides, strict=True):
        met = [line.intersection(slide).length for line in lines if line.intersects(slide)]
        assert row.roads_cut == len(met)
        assert row.roads_cut_m == pytest.approx(sum(met), abs=0.5)
        assert row.river_distance_m == pytest.approx(min(slide.distance(line) for line in lines), abs=1.5)
        assert row.buildings_touched == sum(hut.intersects(slide) for hut in huts)


def test_landslides_of_two_zones_are_each_measured_in_their_own():
    slides = gpd.GeoDataFrame(geometry=[Point(x, 42.7).buffer(0.001) for x in (143.99, 144.01)], crs=4326)
    road = gpd.GeoDataFrame(geometry=[LineString([(143.9, 42.7), (144.1, 42.7)])], crs=4326)
    found = exposure_attributes(slides, {"roads": road})
    # 0.002 degrees of longitude at 42.7 N are 163.9 m.
    assert found.roads_cut_m.to_numpy() == pytest.approx(163.9, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("trees", placed(SQUARE), "trees is none of roads, rivers, buildings"),
        ("roads", placed(SQUARE), "roads holds Polygon; expected LineString"),
        (
            "roads",
            gpd.GeoDataFrame(geometry=[LineString([(0, 0), (1, 1)])]),
            "no coordinate reference system",
        ),
    ],
)
def test_layers_that_are_none_are_refused(name, layer, message):
    with pytest.raises(UsageError, match=message):
        measured(SQUARE, **{name: layer})


def test_every_column_has_a_type_in_what_is_published():
    columns = [column for layer in EXPOSURE_COLUMNS.values() for column in layer]
    assert columns == list(EXPOSURE_TYPES)
    layers = {
        "roads": placed(LineString([(0, 0), (9, 9)])),
        "rivers": placed(LineString([(0, 0), (9, 9)])),
        "buildings": placed(Point(5, 5)),
    }
    found = exposure_attributes(placed(SQUARE), layers)
    assert {name: str(found.dtypes[name]) for name in columns} == EXPOSURE_TYPES


LINES = [LineString([(-50, y), (150, y)]) for y in (10, 20, 30)]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".shp", ".parquet"])
@pytest.mark.parametrize(
    ("column", "values", "cut"),
    [
        ("highway", ["track", "path", None], 1),
        ("fclass", ["path", "primary", "service"], 2),
        ("name", ["A", "B", "C"], 3),
    ],
)
def test_layers_of_files_are_what_their_tags_say(tmp_path, suffix, column, values, cut):
    roads = placed(*LINES, crs="EPSG:4326", **{column: values})
    path = tmp_path / f"roads{suffix}"
    roads.to_parquet(path) if suffix == ".parquet" else roads.to_file(path)
    layers = read_surroundings({"roads": str(path), "rivers": None})
    assert list(layers) == ["roads"]
    assert measured(SQUARE, **layers).roads_cut == cut


def test_a_file_that_is_no_such_layer_is_refused_by_name(tmp_path):
    (tmp_path / "text.gpkg").write_text("roads")
    placed(SQUARE).to_file(tmp_path / "areas.gpkg")
    gpd.GeoDataFrame(geometry=LINES).to_parquet(tmp_path / "nowhere.parquet")
    for file, reason in (
        ("nothere.gpkg", "it is no plain file"),
        ("text.gpkg", "it is no .gpkg file"),
        ("areas.gpkg", "the layer of roads holds Polygon; expected LineString"),
        ("nowhere.parquet", "the layer of roads has no coordinate reference system"),
    ):
        path = str(tmp_path / file)
        with pytest.raises(UsageError, match="give another file, or none to go without") as refused:
            read_surroundings({"roads": path})
        assert f"--roads {path} cannot be used: {reason}" in str(refused.value)


def test_sums_over_landslides():
    slides = placed(SQUARE, shapely.box(500, 0, 600, 100), id=["a", "b"])
    through, along = LineString([(-50, 50), (150, 50)]), LineString([(510, 0), (510, 90)])
    layers = {
        "roads": placed(through, along),
        "rivers": placed(through, along),
        "buildings": placed(Point(5, 5)),
    }
    files = {name: f"/some/where/{name}.gpkg" for name in layers}
    report = report_exposure(exposure_attributes(slides, layers), files)
    assert report.layers == {name: f"{name}.gpkg" for name in layers}
    assert (report.roads_cut_m, report.landslides_on_roads) == (190, 2)
    assert (report.landslides_across_rivers, report.buildings_touched) == (1, 1)
    only = report_exposure(exposure_attributes(slides, {"roads": layers["roads"]}), {"roads": "r.gpkg"})
    assert (only.roads_cut_m, only.landslides_across_rivers, only.buildings_touched) == (190, None, None)
