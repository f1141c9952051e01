"""Areas cut at the borders of UTM zones, and polygons joined across them."""

import json

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely

from coseis.errors import UsageError
from coseis.grid import output_geobox
from coseis.types import CODE_FILL
from coseis.vectorize import merge_blocks, trace_block
from coseis.zones import join_zones, split_area, true_areas

BORDER = 144.0
"""Longitude between zones 54 and 55."""


def geojson(geometry):
    return json.loads(shapely.to_geojson(geometry))


@pytest.mark.parametrize(
    ("box", "zones"),
    [
        ((142.0, 42.7, 142.1, 42.8), ["EPSG:32654"]),
        ((143.9, 42.7, 144.3, 42.8), ["EPSG:32655", "EPSG:32654"]),
        ((143.9, -42.7, 144.3, -42.6), ["EPSG:32755", "EPSG:32754"]),
        ((138.0, 42.7, 144.0, 42.8), ["EPSG:32654"]),
        ((137.0, -0.2, 151.0, 0.3), ["EPSG:32654", "EPSG:32655", "EPSG:32653", "EPSG:32656"]),
    ],
)
def test_every_place_is_in_one_zone(box, zones):
    area = shapely.box(*box)
    parts = split_area(geojson(area))
    assert sorted(crs for crs, _ in parts) == sorted(zones)
    shapes = [shapely.from_geojson(json.dumps(part)) for _, part in parts]
    assert sum(shape.area for shape in shapes) == pytest.approx(area.area, rel=1e-12)
    assert shapely.union_all(shapes).equals_exact(area.normalize(), 1e-9) or shapely.union_all(shapes).equals(
        area
    )


def mapped(bodies, resolution_m=3.0):
    """Bodies given in degrees as a run maps them: pixels by centre, each zone its own part."""
    area = shapely.box(143.985, 42.995, 144.015, 43.010)
    tables, borders = [], []
    for crs, part in split_area(geojson(area)):
        geobox = output_geobox(part, resolution_m=resolution_m, crs=crs)
        x, y = np.meshgrid(geobox.coordinates["x"].values, geobox.coordinates["y"].values)
        lon, lat = pyproj.Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y)
        mask = np.zeros(geobox.shape, bool)
        for body in bodies:
            mask |= shapely.contains_xy(body, lon, lat)
        inside = shapely.contains_xy(shapely.from_geojson(json.dumps(part)), lon, lat)
        codes = np.where(inside, np.where(mask, 160, 20), CODE_FILL).astype(np.uint8)
        outside = ~inside
        near = outside | np.roll(outside, 1, 0) | np.roll(outside, -1, 0) | np.roll(outside, 1, 1)
        near |= np.roll(outside, -1, 1)
        layers = {"edge_px": near, "half_px": (y % 6 < 3)}
        pieces = trace_block(codes, None, layers, origin=(0, 0), threshold_code=112)
        table = merge_blocks([pieces], geobox)
        table["area_m2"] = true_areas(table)
        tables.append(table)
        borders.append(table["edge_px"].to_numpy() > 0)
    return tables, join_zones(tables, borders, pixel_m=resolution_m)


def ellipse(lon, lat, half_lon, half_lat):
    circle = shapely.Point(0, 0).buffer(1, 64)
    return shapely.affinity.translate(shapely.affinity.scale(circle, half_lon, half_lat), lon, lat)


def ground_area(body):
    return abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(body)[0])


def test_a_landslide_across_the_border_is_one_polygon():
    body = ellipse(BORDER, 43.002, 0.0011, 0.0004)
    tables, joined = mapped([body])
    assert [len(table) for table in tables] == [1, 1]
    (row,) = joined.itertuples()
    assert row.geometry.geom_type == "Polygon"
    assert row.area_m2 == pytest.approx(ground_area(body), rel=0.01)
    assert ground_area(row.geometry) == pytest.approx(ground_area(body), rel=0.03)
    assert row.pixel_count == sum(table.pixel_count.sum() for table in tables)
    assert row.half_px == sum(table.half_px.sum() for table in tables)
    assert row.id in {table.id.iloc[0] for table in tables}
    assert shapely.symmetric_difference(row.geometry, body).area < 0.06 * body.area


def test_what_does_not_meet_stays_apart():
    bodies = [
        ellipse(BORDER - 0.0011, 43.002, 0.001, 0.0004),
        ellipse(BORDER + 0.0011, 43.002, 0.001, 0.0004),
        ellipse(BORDER + 0.0011, 43.005, 0.00108, 0.0004),
    ]
    tables, joined = mapped(bodies)
    assert len(joined) == 3
    assert sorted(joined.id) == sorted(name for table in tables for name in table.id)
    assert joined.crs.to_epsg() == 4326


def test_a_body_in_three_parts_is_one():
    """A horseshoe: two arms of one zone joined only through the other."""
    arms = [ellipse(BORDER - 0.001, 43.002 + north, 0.0012, 0.0002) for north in (0, 0.001)]
    bow = shapely.box(BORDER, 43.0018, BORDER + 0.0004, 43.0032)
    tables, joined = mapped([*arms, bow])
    assert sum(len(table) for table in tables) == 3
    assert len(joined) == 1


def test_nothing_at_the_border_is_nothing_joined():
    tables, joined = mapped([ellipse(143.99, 43.002, 0.001, 0.0004)])
    assert len(joined) == 1
    assert isinstance(joined, gpd.GeoDataFrame)
    empty = [table.iloc[:0] for table in tables]
    assert len(join_zones(empty, [np.zeros(0, bool)] * 2, pixel_m=3.0)) == 0


def test_areas_are_those_of_the_ellipsoid():
    body = shapely.affinity.scale(shapely.box(-100, -100, 100, 100), 1, 1)
    for easting in (500_000, 300_000, 730_000):
        square = shapely.affinity.translate(body, easting, 4_760_000)
        table = gpd.GeoDataFrame({"area_m2": [square.area]}, geometry=[square], crs="EPSG:32654")
        degrees = gpd.GeoSeries([square.segmentize(10)], crs="EPSG:32654").to_crs(4326).iloc[0]
        assert true_areas(table)[0] == pytest.approx(ground_area(degrees), rel=1e-5)
        assert abs(true_areas(table)[0] / square.area - 1) > 1e-4


def test_beyond_the_zones_a_crs_is_asked_for():
    with pytest.raises(UsageError, match=r"lies at 85\.0 degrees, where there is no UTM zone; give --crs"):
        split_area(geojson(shapely.box(10, 84.9, 11, 85.1)))
