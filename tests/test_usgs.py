"""Files of the USGS: the real formats, made here; what is in them is found, what is hostile is refused."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import Point, mapping, shape

from coseis import usgs
from coseis.config import SearchConfig
from coseis.errors import InputRefusedError, UsageError
from coseis.plan import find_scenes
from coseis.usgs import acceleration_of, parse_usgs, read_usgs
from making import a_card

TIME = datetime(2018, 9, 5, 18, 7, 59, tzinfo=UTC)
EPICENTRE = (141.9294, 42.6861)
GRID_URL = "https://earthquake.usgs.gov/product/shakemap/us2000h8ty/us/1/download/grid.xml"


def event_feature(**properties) -> dict:
    """Iburi 2018 as the detail feed gives it, cut to what matters."""
    products = {"shakemap": [{"contents": {"download/grid.xml": {"url": GRID_URL}}}]}
    return {
        "type": "Feature",
        "id": "us2000h8ty",
        "properties": {
            "mag": 6.6,
            "time": int(TIME.timestamp() * 1000) + 150,
            "type": "earthquake",
            "products": products,
            **properties,
        },
        "geometry": {"type": "Point", "coordinates": [*EPICENTRE, 35]},
    }


def grid_xml(
    intensity: np.ndarray,
    *,
    west: float = 141.0,
    north: float = 43.5,
    step: float = 0.05,
    stamp: str = "2018-09-05T18:07:59UTC",
    head: str = "",
) -> bytes:
    """A ShakeMap grid as version 3.5 and 4 write it: points row by row from the north-west."""
    rows, columns = intensity.shape
    names = (("LON", "dd"), ("LAT", "dd"), ("PGA", "pctg"), ("PGV", "cms"), ("MMI", "intensity"))
    fields = "\n".join(
        f'<grid_field index="{n}" name="{name}" units="{unit}" />' for n, (name, unit) in enumerate(names, 1)
    )
    points = "\n".join(
        f"{west + x * step:.4f} {north - y * step:.4f} {acceleration_of(value):.4g} 1.0 {value:g}"
        for (y, x), value in np.ndenumerate(intensity)
    )
    text = f"""<?xml version="1.0" encoding="US-ASCII" standalone="yes"?>{head}
<shakemap_grid xmlns="http://earthquake.usgs.gov/eqcenter/shakemap" event_id="us2000h8ty" shakemap_version="9"
 code_version="3.5.1615" map_status="RELEASED" shakemap_event_type="ACTUAL">
<event event_id="us2000h8ty" magnitude="6.6" depth="35" lat="{EPICENTRE[1]}" lon="{EPICENTRE[0]}"
 event_timestamp="{stamp}" event_network="us" event_description="HOKKAIDO, JAPAN REGION" />
<grid_specification lon_min="{west}" lat_min="{north - (rows - 1) * step}"
 lon_max="{west + (columns - 1) * step}" lat_max="{north}" nominal_lon_spacing="{step}"
 nominal_lat_spacing="{step}" nlon="{columns}" nlat="{rows}" />
<event_specific_uncertainty name="pga" value="0.000000" numsta="" />
{fields}
<grid_data>
{points}
</grid_data>
</shakemap_grid>"""
    return text.encode("ascii")


def contours(levels: dict[float, list], units: str = "mmi") -> bytes:
    """ShakeMap contours: a MultiLineString a level."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "MultiLineString", "coordinates": [list(line) for line in lines]},
            "properties": {"value": value, "units": units, "color": "#ffff00", "weight": 4},
        }
        for value, lines in levels.items()
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


def circle(radius: float, *, centre=EPICENTRE) -> list:
    return list(Point(centre).buffer(radius).exterior.coords)


def bowl(rows: int = 30, columns: int = 40) -> np.ndarray:
    """Intensity that falls from 8 in the middle."""
    y, x = np.mgrid[:rows, :columns]
    return 8 - 0.3 * np.hypot(y - rows / 2, x - columns / 2)


def test_an_event_says_when_and_where():
    event = parse_usgs(json.dumps(event_feature()).encode())
    assert event.time == TIME.replace(microsecond=150_000)
    assert event.epicentre == pytest.approx(EPICENTRE)
    assert (event.area, event.shakemap) == (None, GRID_URL)
    listed = {"type": "FeatureCollection", "features": [event_feature(products={})]}
    assert parse_usgs(json.dumps(listed).encode()).shakemap is None


def test_a_grid_says_when_where_and_how_hard():
    event = parse_usgs(grid_xml(bowl()))
    assert (event.time, event.epicentre) == (TIME, pytest.approx(EPICENTRE))
    # A disc of (8 - 6) / 0.3 cells of 0.05 degrees.
    area = shape(event.area)
    assert area.is_valid
    assert area.area == pytest.approx(math.pi * (2 / 0.3 * 0.05) ** 2, rel=0.06)
    assert area.centroid.coords[0] == pytest.approx((142.0, 42.75), abs=0.01)


@given(st.integers(0, 2**32 - 1), st.floats(4, 8))
def test_each_point_of_a_grid_is_inside_if_it_shook_enough_or_is_surrounded(seed, least):
    intensity = np.random.default_rng(seed).uniform(3, 9, (9, 11)).round(2)
    intensity[4, 5] = 9
    area = shape(parse_usgs(grid_xml(intensity), min_intensity=least).area)
    assert area.is_valid
    assert not any(part.interiors for part in shapely.get_parts(area))
    for (y, x), value in np.ndenumerate(intensity):
        inside = area.contains(Point(141.0 + x * 0.05, 43.5 - y * 0.05))
        assert inside or value < least
        if y in (0, 8) or x in (0, 10):  # nothing surrounds the points of the border
            assert inside == (value >= least)


@given(st.floats(1, 9.5), st.floats(0.1, 0.5))
def test_a_harder_shaking_has_a_smaller_area(least, more):
    intensity = bowl()
    intensity[0, 0] = 10  # so that every level is reached
    wider, narrower = (
        shape(parse_usgs(grid_xml(intensity), min_intensity=level).area) for level in (least, least + more)
    )
    assert wider.buffer(1e-9).contains(narrower)


def test_the_time_of_a_grid_in_its_forms():
    for stamp in ("2018-09-05T18:07:59GMT", "2018-09-05T18:07:59Z", "2018-09-06T03:07:59+09:00"):
        assert parse_usgs(grid_xml(bowl(), stamp=stamp)).time == TIME
    for stamp in ("2018-09-06T03:07:59JST", "2018-09-05T18:07:59", "yesterday"):
        with pytest.raises(ValueError, match="no ShakeMap grid"):
            parse_usgs(grid_xml(bowl(), stamp=stamp))


def test_contours_of_intensity_bound_the_area():
    rings = {5.5: [circle(0.6)], 6.0: [circle(0.4), circle(0.1), circle(0.05, centre=(143, 43))], 6.5: []}
    event = parse_usgs(contours(rings))
    assert (event.time, event.epicentre) == (None, None)
    area = shape(event.area)
    expected = shapely.union(Point(EPICENTRE).buffer(0.4), Point(143, 43).buffer(0.05))
    assert area.symmetric_difference(expected).area < 1e-9  # the hole is filled
    # Between two contours the wider one counts.
    assert shape(parse_usgs(contours(rings), min_intensity=5.9).area).area > 1


def test_contours_of_acceleration_bound_the_area():
    # 11.6 % of g is intensity 6, so that of the 1-2-5 series of ShakeMap 10 is the contour below.
    assert acceleration_of(6) == pytest.approx(11.55, abs=0.05)
    assert acceleration_of(4.2199) == pytest.approx(acceleration_of(4.2201), rel=0.01)
    rings = {5.0: [circle(0.9)], 10.0: [circle(0.4)], 20.0: [circle(0.2)]}
    for units in ("pctg", "%g"):
        area = shape(parse_usgs(contours(rings, units)).area)
        assert area.area == pytest.approx(Point(EPICENTRE).buffer(0.4).area)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither JSON nor XML; expected a USGS event"),
        (b"[" * 100_000, "neither JSON nor XML"),
        (b"[1, 2]", "holds 0 features, not one event"),
        (b"{}", "not one event"),
        (json.dumps({"features": [event_feature()] * 2}).encode(), "holds 2 features"),
        (json.dumps(event_feature(time="now")).encode(), "time 'now' or place"),
        (json.dumps(event_feature(time=1e300)).encode(), r"time 1e\+300 or place"),
        (json.dumps(event_feature() | {"geometry": None}).encode(), "place None cannot be read"),
        (
            json.dumps(event_feature() | {"geometry": {"coordinates": [0, 91, 0]}}).encode(),
            r"place \[0, 91, 0\] cannot be read",
        ),
        (b"<shakemap_grid>", "damaged XML"),
        (b"<html></html>", "no ShakeMap grid: 'event' missing or wrong"),
        (grid_xml(bowl()).replace(b'nlon="40"', b'nlon="41"'), "not 30 x 41 rows of 5 numbers"),
        (grid_xml(bowl()).replace(b'nlon="40"', b'nlon="-40"'), "expected 2 x 2 to"),
        (grid_xml(bowl()).replace(b'nlon="40"', b'nlon="99999999"'), "expected 2 x 2 to"),
        (grid_xml(bowl()).replace(b"<grid_data>", b"<grid_data>1 2 x 4 5"), "not 30 x 40 rows"),
        (grid_xml(bowl()).replace(b'"MMI"', b'"MMX"'), "'MMI' missing"),
        (grid_xml(bowl(), step=-0.05), "eastward and southward"),
        (grid_xml(bowl() - 4), "nowhere at intensity 6, at most at 4; give a lower --min-intensity"),
        (contours({7: [circle(0.1)]}), "least contour is 7 MMI, but intensity 6 is 6 MMI"),
        (contours({5: [circle(0.1)]}), "greatest contour is 5 MMI, below intensity 6"),
        (contours({6: [circle(0.1)[:-9]]}), "cut off by the edge of the map; take the ShakeMap's grid.xml"),
        (contours({6: [circle(0.1)]}, "cms"), "contours are in cms; expected mmi, or pctg"),
        (contours({"6": [circle(0.1)]}), "has the value '6'; expected a number"),
        (contours({6: [circle(0.1)]}).replace(b"MultiLineString", b"Multi"), "no readable geometry"),
        (contours({6: []}).replace(b"MultiLineString", b"Point"), "no readable geometry|cut off"),
    ],
)
def test_what_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        parse_usgs(content)


def test_entities_are_refused_before_they_grow():
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "boom"}">' for n in range(9))
    external = '<!ENTITY e0 SYSTEM "file:///etc/passwd">'
    for declared in (bomb, external):
        content = grid_xml(bowl(), head=f"<!DOCTYPE grid [{declared}]>").replace(b"HOKKAIDO", b"&e0;")
        with pytest.raises(ValueError, match="declares a document type, which no ShakeMap has"):
            parse_usgs(content)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_refused(content):
    with pytest.raises(ValueError, match="it "):
        parse_usgs(content)


def test_a_file_is_named_and_its_size_bounded(tmp_path: Path, monkeypatch):
    path = tmp_path / "grid.xml"
    with pytest.raises(UsageError, match=r"event file .*grid\.xml cannot be read \(No such file"):
        read_usgs(path)
    path.write_bytes(grid_xml(bowl()))
    assert read_usgs(path) == parse_usgs(path.read_bytes())
    monkeypatch.setattr(usgs, "MAX_FILE_BYTES", 100)
    with pytest.raises(UsageError, match=r"event file .*grid\.xml: it is larger than"):
        read_usgs(path)


def test_points_are_mapped_as_geojson():
    area = parse_usgs(grid_xml(bowl())).area
    assert area["type"] == "Polygon"
    assert json.loads(json.dumps(mapping(shape(area)))) == area


def test_the_event_file_of_a_search_says_time_area_and_epicentre(tmp_path):
    path, catalog = tmp_path / "grid.xml", tmp_path / "items.json"
    path.write_bytes(grid_xml(bowl()))
    area = shapely.box(141.5, 42.5, 142.5, 43.0)
    features = [
        {
            "type": "Feature",
            "id": phase,
            "geometry": mapping(area),
            "properties": {"datetime": moment},
            "assets": {"a": {"href": "x.tif", "type": "image/tiff", "pl:asset_type": "ortho_visual"}},
        }
        for phase, moment in (("pre", "2018-09-05T01:00:00Z"), ("post", "2018-09-06T01:00:00Z"))
    ]
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    found = find_scenes(SearchConfig(catalog=str(catalog), event=str(path)), a_card())
    assert [(scene.item_id, scene.phase) for scene in found.scenes] == [("pre", "pre"), ("post", "post")]
    assert (found.event.time, found.event.epicentre) == (TIME, EPICENTRE)
    assert shape(found.event.aoi).equals(shape(parse_usgs(path.read_bytes()).area))
    later = SearchConfig(catalog=str(catalog), event=str(path), event_time="2018-09-05T00:00:00Z")
    with pytest.raises(InputRefusedError, match="no scene before the event"):
        find_scenes(later, a_card())
    path.write_text(json.dumps(event_feature()))
    with pytest.raises(UsageError, match=f"not how far it shook; give --aoi, .*such as {GRID_URL}"):
        find_scenes(SearchConfig(catalog=str(catalog), event=str(path)), a_card())
