import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import geopandas
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from coseis.errors import UsageError
from coseis.event import POST_DAYS, PRE_DAYS, Event, Found, read_event
from coseis.types import BandSource, Scene
from coseis.usgs import UsgsEvent

TIME = "2018-09-05T18:08:00Z"
BOX = "142.0170,42.7466,142.0920,42.7814"


@given(
    west=st.floats(-180, 179),
    south=st.floats(-90, 89),
    size=st.floats(1e-3, 1),
    time=st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1)),
    zone_hours=st.integers(-12, 14),
)
def test_event_reads_back_equal(west, south, size, time, zone_hours):
    zone = f"{zone_hours:+03d}:00"
    event = read_event(time.isoformat() + zone, f"{west},{south},{west + size},{south + size}")
    assert Event.model_validate_json(event.model_dump_json()) == event
    assert event.time == time.replace(tzinfo=UTC) - timedelta(hours=zone_hours)
    assert shapely.geometry.shape(event.aoi).equals(box(west, south, west + size, south + size))


@given(st.text(max_size=30))
def test_any_text_is_an_event_or_a_usage_error(text):
    for fields in ({"time": text, "aoi": BOX}, {"time": TIME, "aoi": BOX, "pre": text}):
        with contextlib.suppress(UsageError):
            read_event(**fields)


def test_default_windows():
    event = read_event(TIME, BOX)
    assert event.pre == (event.time - timedelta(days=PRE_DAYS), event.time)
    assert event.post == (event.time, event.time + timedelta(days=POST_DAYS))


def test_dates_alone_are_whole_days_in_utc():
    event = read_event(TIME, BOX, pre="2018-06-01/2018-08-03", post="2018-09-06T00:00+09:00/2018-09-11")
    assert event.pre == (datetime(2018, 6, 1, tzinfo=UTC), datetime(2018, 8, 4, tzinfo=UTC))
    assert event.post == (datetime(2018, 9, 5, 15, tzinfo=UTC), datetime(2018, 9, 12, tzinfo=UTC))


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("2018-09-05T18:08:00", r"no zone; write e\.g\. 2018-09-05T18:08:00Z"),
        ("2018-09-05", "no zone"),
        ("yesterday", "no ISO 8601 time"),
        ("0001-01-01T00:00+14:00", "out of range"),
        ("0001-01-01T00:00Z", "no room for the search windows"),
    ],
)
def test_bad_time(time, message):
    with pytest.raises(UsageError, match=message):
        read_event(time, BOX)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ({"pre": "2018-06-01"}, "pre window '2018-06-01' is no interval"),
        ({"pre": "2018-06-01T00:00/2018-07-01"}, "start of the pre window .* has no zone"),
        ({"pre": "2018-07-01/2018-06-01"}, "expected start < end"),
        ({"pre": "2019-06-01/2019-07-01"}, "not before the event"),
        ({"post": "2018-06-01/2018-07-01"}, "not after the event"),
        ({"post": "2018-10-01/9999-12-31"}, "out of range"),
    ],
)
def test_bad_window(window, message):
    with pytest.raises(UsageError, match=message):
        read_event(TIME, BOX, **window)


@pytest.mark.parametrize(
    ("aoi", "message"),
    [
        ("1,2,3", "neither west,south,east,north in degrees nor an existing file"),
        ("no/such/file.gpkg", "nor an existing file"),
        ("170,-1,-170,1", "antimeridian is mapped in two runs"),
        ("1,1,1,2", "west 1.0 is not less than east 1.0"),
        ("1,2,2,1", "south 2.0 is not less than north 1.0"),
        ("190,1,191,2", "longitude -180 to 180"),
        ("0,80,1,100", "latitude -90 to 90"),
        ("567009,4737069,583206,4751046", "expected degrees"),
        ("-100,0,100,1", "spans 200 degrees"),
        ("nan,0,1,1", "not finite"),
    ],
)
def test_bad_box(aoi, message):
    with pytest.raises(UsageError, match=message):
        read_event(TIME, aoi)


def _write(path: Path, geometries: list, crs: object = "EPSG:4326", layer: str = "aoi") -> Path:
    geopandas.GeoDataFrame(geometry=geometries, crs=crs).to_file(path, layer=layer)
    return path


def test_file_of_any_crs_is_brought_to_degrees_and_joined(tmp_path):
    tiles = [box(567009, 4737069, 567777, 4737837), box(567777, 4737069, 568545, 4737837)]
    event = read_event(TIME, _write(tmp_path / "aoi.gpkg", tiles, "EPSG:32654"))
    area = shapely.geometry.shape(event.aoi)
    oracle = geopandas.GeoSeries([shapely.union_all(tiles)], crs="EPSG:32654").to_crs(4326)[0]
    assert area.geom_type == "Polygon"
    # Edges bend on the way to degrees: the area follows the bend, the oracle's corners agree.
    assert area.symmetric_difference(oracle).area < 1e-4 * oracle.area
    assert all(area.distance(Point(corner)) < 1e-9 for corner in oracle.exterior.coords)


def test_bow_tie_is_made_valid(tmp_path):
    tie = Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    area = shapely.geometry.shape(read_event(TIME, _write(tmp_path / "aoi.geojson", [tie])).aoi)
    assert area.is_valid
    assert area.equals(
        MultiPolygon([Polygon([(0, 0), (0.5, 0.5), (0, 1)]), Polygon([(1, 0), (0.5, 0.5), (1, 1)])])
    )


@pytest.mark.parametrize(
    ("geometries", "crs", "message"),
    [
        ([Point(1, 1)], "EPSG:4326", "holds Point; expected polygons"),
        ([box(0, 0, 1, 1), LineString([(0, 0), (1, 1)])], "EPSG:4326", "holds LineString, Polygon"),
        ([None], "EPSG:4326", "AOI file is empty"),
        ([box(0, 0, 1, 1)], None, "states no CRS"),
        ([box(1e9, 1e9, 2e9, 2e9)], "EPSG:32654", "outside the range of its CRS"),
        ([Polygon([(0, 0), (1, 1), (2, 2)])], "EPSG:4326", "AOI is empty|no area"),
    ],
)
@pytest.mark.filterwarnings("ignore:'crs' was not provided:UserWarning")
def test_bad_file(tmp_path, geometries, crs, message):
    with pytest.raises(UsageError, match=message):
        read_event(TIME, _write(tmp_path / "aoi.gpkg", geometries, crs))


def test_unreadable_file(tmp_path):
    (tmp_path / "aoi.gpkg").write_bytes(b"SQLite format 3\0 and then nothing")
    (tmp_path / "aoi.geojson").write_text('{"type": "FeatureCollection", "features": [')
    for name in ("aoi.gpkg", "aoi.geojson"):
        with pytest.raises(UsageError, match=r"cannot be read as vector data|0 layers"):
            read_event(TIME, tmp_path / name)


def test_two_layers_are_refused_by_name(tmp_path):
    _write(tmp_path / "aoi.gpkg", [box(0, 0, 1, 1)], layer="north")
    _write(tmp_path / "aoi.gpkg", [box(2, 2, 3, 3)], layer="south")
    with pytest.raises(UsageError, match=r"2 layers with geometry .*north.*south"):
        read_event(TIME, tmp_path / "aoi.gpkg")


def test_real_labels_are_an_area(real_data):
    event = read_event(TIME, real_data / "iburi" / "planetscope" / "labels.gpkg")
    west, south, east, north = shapely.geometry.shape(event.aoi).bounds
    assert 141.7 < west < east < 142.2
    assert 42.6 < south < north < 43.0


def test_event_from_python_is_checked_too():
    with pytest.raises(ValidationError, match="timezone"):
        Event(time=datetime(2018, 9, 5), aoi=json.loads(shapely.to_geojson(box(0, 0, 1, 1))))
    with pytest.raises(ValidationError, match="AOI is a Point"):
        Event(time=datetime(2018, 9, 5, tzinfo=UTC), aoi={"type": "Point", "coordinates": [1, 1]})


def test_found_reads_back_equal_and_sums_up():
    event = read_event(TIME, BOX)
    source = BandSource(band="red", asset="a", href="/a.tif", index=1)
    scene = Scene(
        index=0,
        item_id="s",
        collection=None,
        phase="post",
        kind="display",
        sources=(source,),
        start=event.time,
        end=event.time + timedelta(days=3),
        cloud_cover=None,
        resolution_m=3,
        geometry=event.aoi,
    )
    found = Found(event=event, scenes=(scene,), coverage={"pre": 0.0, "post": 0.5}, searched="x")
    assert Found.model_validate_json(found.model_dump_json()) == found
    assert found.of_phase("pre") == ()
    assert found.of_phase("post") == (scene,)
    pre, post = found.summary()
    assert pre == {"phase": "pre", "scenes": "0", "dates": "", "kinds": "", "AOI covered": "0.0 %"}
    assert post["dates"] == "2018-09-05 to 2018-09-08"
    assert post["AOI covered"] == "50.0 %"


def test_a_usgs_file_gives_what_the_user_does_not():
    area = shapely.geometry.mapping(box(141, 42, 142, 43))
    usgs = UsgsEvent(time=datetime(2018, 9, 5, 18, 8, tzinfo=UTC), epicentre=(141.9, 42.7), area=area)
    event = read_event(None, None, usgs=usgs)
    assert (event.time, event.epicentre) == (usgs.time, (141.9, 42.7))
    assert shapely.geometry.shape(event.aoi).equals(box(141, 42, 142, 43))
    assert Event.model_validate_json(event.model_dump_json()) == event
    event = read_event("2018-09-06T00:00:00Z", BOX, usgs=usgs)
    assert event.time == datetime(2018, 9, 6, tzinfo=UTC)
    assert event.aoi == read_event(TIME, BOX).aoi


@pytest.mark.parametrize(
    ("usgs", "message"),
    [
        (UsgsEvent(area={}), "contours only, which say no time; give --event-time"),
        (
            UsgsEvent(time=datetime(2018, 9, 5, tzinfo=UTC), shakemap="https://a.gov/grid.xml"),
            r"give --aoi, or as --event the grid.xml of its ShakeMap, such as https://a\.gov/grid\.xml$",
        ),
        (UsgsEvent(time=datetime(2018, 9, 5, tzinfo=UTC)), "the grid.xml of its ShakeMap$"),
        (
            UsgsEvent(
                time=datetime(2018, 9, 5, tzinfo=UTC), area=shapely.geometry.mapping(box(170, 0, 190, 1))
            ),
            "AOI reaches 170,0,190,1; expected degrees",
        ),
    ],
)
def test_what_a_usgs_file_does_not_say_is_asked_for(usgs, message):
    with pytest.raises(UsageError, match=message):
        read_event(None, None, usgs=usgs)
