import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod
from shapely.geometry import box, mapping

from coseis.addresses import AddressPolicy
from coseis.errors import InputRefusedError, UnreachableError, UsageError
from coseis.event import Event, Found, read_event
from coseis.search import SearchFilters, search_items
from serving import Page, serve

EVENT = read_event("2018-09-05T18:08:00Z", "142.0170,42.7466,142.0920,42.7814")
TIME = EVENT.time
PLANET = AddressPolicy(allow_hosts=("storage.googleapis.com",))


def item(item_id: str, *when: timedelta, area=None, href: str = "x.tif", **properties) -> dict:
    """A visual item `when` before or after the event, whose footprint is the AOI unless told."""
    times = [(TIME + offset).isoformat() for offset in when]
    fields = ("datetime",) if len(times) == 1 else ("start_datetime", "end_datetime")
    dates = dict(zip(fields, times, strict=True))
    return {
        "type": "Feature",
        "id": item_id,
        "collection": "PSScene",
        "geometry": mapping(area or shapely.geometry.shape(EVENT.aoi)),
        "properties": {"datetime": None, **dates, **properties},
        "assets": {"a": {"href": href, "type": "image/tiff", "pl:asset_type": "ortho_visual"}},
    }


PRE, POST = item("pre", timedelta(days=-1)), item("post", timedelta(days=1))


def search(folder: Path, *items: dict, event: Event = EVENT, **options) -> Found:
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return search_items(str(path), event, **options)


def names(found: Found) -> list[str]:
    return [scene.item_id for scene in found.scenes]


_offsets = st.timedeltas(timedelta(days=-500), timedelta(days=500))
_clouds = st.none() | st.floats(0, 100)


@given(st.lists(st.tuples(_offsets, st.timedeltas(timedelta(0), timedelta(days=40)), _clouds), max_size=8))
def test_scenes_obey_the_rules_of_dates_and_order(tmp_path_factory, drawn):
    items = [
        item(f"s{n}", start, start + length, **{"eo:cloud_cover": cloud})
        for n, (start, length, cloud) in enumerate(drawn)
    ]
    found = search(tmp_path_factory.getbasetemp(), PRE, POST, *items)
    assert [scene.index for scene in found.scenes] == list(range(len(found.scenes)))
    assert found.scenes == (*found.of_phase("pre"), *found.of_phase("post"))
    for scene in found.scenes:
        window = EVENT.pre if scene.phase == "pre" else EVENT.post
        assert scene.end <= TIME if scene.phase == "pre" else scene.start >= TIME
        assert scene.start <= window[1]
        assert scene.end >= window[0]
    straddling = {
        f"s{n}" for n, (start, length, _) in enumerate(drawn) if start < timedelta(0) < start + length
    }
    assert straddling == {refused.item_id for refused in found.refused if "straddles" in refused.reason}
    for better, worse in pairwise(found.of_phase("post")):
        steps = [101 if s.cloud_cover is None else s.cloud_cover // 10 for s in (better, worse)]
        assert steps[0] < steps[1] or (steps[0] == steps[1] and better.start <= worse.start)
    assert Found.model_validate_json(found.model_dump_json()) == found


def test_order_is_cloud_step_then_time_then_id(tmp_path):
    def post(item_id, days, cloud):
        return item(item_id, timedelta(days=days), **{"eo:cloud_cover": cloud})

    items = [post("f", 1, None), post("e", 1, 25), post("d", 3, 9), post("c", 2, 0), post("b", 1, 9.9)]
    items.append(post("a", 3, 3))
    assert names(search(tmp_path, *items, allow_missing_pre=True)) == ["b", "c", "a", "d", "e", "f"]


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5))
def test_coverage_is_the_geodesic_share(tmp_path_factory, drawn):
    west, south, east, north = shapely.geometry.shape(EVENT.aoi).bounds
    width, height = east - west, north - south
    areas = [
        box(
            west + x * width, south + y * height, west + (x + 0.1 + w) * width, south + (y + 0.1 + h) * height
        )
        for x, y, w, h in drawn
        if x < 0.99 and y < 0.99
    ] or [box(west, south, east, north)]
    items = [item(f"s{n}", timedelta(days=1), area=area) for n, area in enumerate(areas)]
    found = search(tmp_path_factory.getbasetemp(), *items, allow_missing_pre=True)
    geod, aoi = Geod(ellps="WGS84"), shapely.geometry.shape(EVENT.aoi)
    covered = shapely.union_all(areas).intersection(aoi)
    oracle = abs(geod.geometry_area_perimeter(shapely.orient_polygons(covered))[0])
    oracle /= abs(geod.geometry_area_perimeter(shapely.orient_polygons(aoi))[0])
    assert found.coverage["post"] == pytest.approx(oracle, abs=1e-4)
    assert found.coverage["pre"] == 0


def test_filters_and_what_is_said_of_them(tmp_path):
    quality = {"pl:quality_category": "test"}
    items = [
        PRE,
        POST,
        item("cloudy", timedelta(days=2), **{"eo:cloud_cover": 60}),
        item("test", timedelta(days=2), **quality),
        item("far", timedelta(days=2), area=box(0, 0, 1, 1)),
        item("touching", timedelta(days=2), area=box(142.0920, 42.7, 142.2, 42.8)),
        item("late", timedelta(days=300)),
        item("unwanted", timedelta(days=2)),
    ]
    filters = SearchFilters(max_cloud=50, exclude=("unwanted",))
    found = search(tmp_path, *items, filters=filters)
    assert names(found) == ["pre", "post"]
    for part in (
        "8 items seen",
        "1 cloudier than 50 %",
        "1 of another quality than standard",
        "2 outside the AOI",
    ):
        assert part in found.searched
    for part in ("1 outside the windows", "1 excluded", "2 used"):
        assert part in found.searched
    any_quality = filters.model_copy(update={"quality": (), "include": ("cloudy",)})
    assert names(search(tmp_path, *items, filters=any_quality)) == ["pre", "cloudy", "post", "test"]


def test_straddling_item_is_refused_by_name_unless_included(tmp_path):
    mosaic = item("mosaic", timedelta(days=-3), timedelta(days=3))
    found = search(tmp_path, PRE, POST, mosaic)
    (refused,) = found.refused
    assert refused.item_id == "mosaic"
    assert (
        "2018-09-02T18:08Z to 2018-09-08T18:08Z straddles the event; to use it as post: --include mosaic"
        in (refused.reason)
    )
    found = search(tmp_path, PRE, POST, mosaic, filters=SearchFilters(include=("mosaic",)))
    assert {scene.item_id for scene in found.of_phase("post")} == {"post", "mosaic"}
    assert found.refused == ()


def test_snow_before_the_event_is_refused_by_name_unless_included(tmp_path):
    items = [PRE, item("snowy-post", timedelta(days=1), **{"eo:snow_cover": 90})]
    fields = ("eo:snow_cover", "pl:snow_ice_percent", "snow_ice_percent")
    items += [item(f"s{n}", timedelta(days=-2), **{field: 11}) for n, field in enumerate(fields)]
    items.append(item("little", timedelta(days=-3), **{"eo:snow_cover": 10}))
    found = search(tmp_path, *items)
    assert set(names(found)) == {"pre", "little", "snowy-post"}
    assert [(r.item_id, r.reason) for r in found.refused] == [
        (f"s{n}", f"11 % of it is snow, more than --max-snow 10; to use it: --include s{n}") for n in range(3)
    ]
    assert "3 snowier than 10 %" in found.searched
    found = search(tmp_path, *items, filters=SearchFilters(include=("s1",)))
    assert "s1" in names(found)
    with pytest.raises(InputRefusedError, match=r"no scene before the event.* s0: 11 % of it is snow"):
        search(tmp_path, *items[1:5])
    assert len(search(tmp_path, *items, filters=SearchFilters(max_snow=11)).scenes) == 6


def test_the_season_decides_before_the_event_and_the_day_after_it(tmp_path):
    sun = {"view:sun_azimuth": 150.0, "view:sun_elevation": 45.0}
    items = [
        item("winter", timedelta(days=-170), **{"eo:cloud_cover": 0}),
        item("last-year", timedelta(days=-350), **{"eo:cloud_cover": 5}, **sun),
        item("sooner", timedelta(days=2), **{"eo:cloud_cover": 5}, **sun),
        item("later", timedelta(days=9), **{"eo:cloud_cover": 0}),
    ]
    found = search(tmp_path, *items)
    assert names(found) == ["last-year", "winter", "sooner", "later"]
    assert [scene.sun_elevation_deg for scene in found.scenes] == [45, None, 45, None]
    assert found.scenes[0].sun_azimuth_deg == 150


def test_top_of_atmosphere_is_named(tmp_path):
    hazy = item("hazy", timedelta(days=1))
    hazy["assets"]["a"] |= {
        "pl:asset_type": "ortho_analytic_4b", "raster:bands": [{"data_type": "uint16", "scale": 2e-5}] * 4,
    }  # fmt: skip
    found = search(tmp_path, PRE, hazy)
    assert [scene.level for scene in found.scenes] == ["surface", "toa"]
    assert [row["kinds"] for row in found.summary()] == ["1 display", "1 toa reflectance"]


def test_unknown_included_item(tmp_path):
    with pytest.raises(InputRefusedError, match=r"no item typo to include. Searched all collections"):
        search(tmp_path, PRE, POST, filters=SearchFilters(include=("typo",)))
    with pytest.raises(UsageError, match="post cannot be included and excluded"):
        SearchFilters(include=("post",), exclude=("post",))


def test_included_item_that_cannot_be_used_is_listed(tmp_path):
    far = item("far", timedelta(days=1), area=box(0, 0, 1, 1))
    found = search(tmp_path, PRE, POST, far, filters=SearchFilters(include=("far",)))
    assert [(r.item_id, r.reason) for r in found.refused] == [("far", "it is outside the AOI")]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            [PRE],
            r"no scene after the event\. Searched all collections of .*items\.json, AOI 142\.0170,42\.7466",
        ),
        ([POST], r"no scene before the event.*pre 2017-09-05 to 2018-09-05.*--allow-missing-pre"),
        ([], "no scene after the event.* 0 items seen"),
        ([item("far", timedelta(days=1), area=box(0, 0, 1, 1))], "the AOI lies outside every scene"),
        ([PRE, item("late", timedelta(days=300))], "1 outside the windows"),
        ([PRE, {**POST, "assets": {}}], "post: it has no assets"),
        ([PRE, {**POST, "properties": {}}], "post: it has no readable datetime"),
        ([PRE, {**POST, "properties": {"datetime": "last week"}}], "post: it has no readable datetime"),
        ([PRE, {**POST, "geometry": None}], "post: it has neither a readable geometry nor a bbox"),
        ([PRE, {**POST, "geometry": {"type": "Polygon"}}], "post: it has neither"),
        ([PRE, {**POST, "properties": None}], "post: it has no readable datetime"),
    ],
)
def test_nothing_found_says_what_was_searched(tmp_path, items, message):
    with pytest.raises(InputRefusedError, match=message):
        search(tmp_path, *items)


def test_bbox_stands_in_for_a_footprint_and_utc_for_a_zone(tmp_path):
    bare = {**POST, "geometry": None, "bbox": [142, 42, 0, 143, 43, 900]}
    bare["properties"] = {"datetime": "2018-09-06T00:00:00"}
    (scene,) = search(tmp_path, bare, allow_missing_pre=True).scenes
    assert scene.start == scene.end == datetime(2018, 9, 6, tzinfo=UTC)
    assert shapely.geometry.shape(scene.geometry).bounds == (142, 42, 143, 43)


def test_all_hosts_to_allow_are_said_at_once(tmp_path):
    items = [
        PRE,
        *(item(n, timedelta(days=1), href=f"https://{n}.example/x.tif?sig") for n in ("one", "two")),
    ]
    items.append(item("key", timedelta(days=1), href="https://one.example/x.tif?sig=s3cret"))
    with pytest.raises(InputRefusedError) as refused:
        search(tmp_path, *items)
    for part in ("--allow-host one.example", "--allow-host two.example", "--exclude ID"):
        assert part in str(refused.value)
    allowed = AddressPolicy(allow_hosts=("one.example", "two.example"))
    found = search(tmp_path, *items, policy=allowed)
    assert found.hosts == ("file", "one.example", "two.example")
    assert [r.item_id for r in found.refused] == ["key"]
    assert "s3cret" not in found.model_dump_json()


def test_local_catalog_reaches_no_file_outside_its_folder(tmp_path):
    for href in ("/etc/passwd", "../../secret.tif", "file:///etc/passwd"):
        with pytest.raises(
            InputRefusedError, match=r"item post: .* outside the catalog's folder.*--allow-root"
        ):
            search(tmp_path, PRE, {**POST, "assets": {"a": {**POST["assets"]["a"], "href": href}}})


def test_remote_catalog_reaches_no_file_and_no_other_port():
    with serve({}) as root:
        for href, message in (
            ("/etc/passwd.tif", None),
            ("file:///etc/passwd", "local file, which a remote catalog may not name"),
            ("http://127.0.0.1:9/x.tif", "--allow-host 127.0.0.1:9"),
            ("http://169.254.169.254/x.tif", "--allow-host 169.254.169.254"),
        ):
            post = {**POST, "assets": {"a": {**POST["assets"]["a"], "href": href}}}
            with serve({"/items.json": Page({"type": "FeatureCollection", "features": [post]})}) as root:
                if message:
                    with pytest.raises(InputRefusedError, match=message):
                        search_items(f"{root}/items.json", EVENT, allow_missing_pre=True)
                else:
                    found = search_items(f"{root}/items.json", EVENT, allow_missing_pre=True)
                    assert found.scenes[0].sources[0].href == f"{root}/etc/passwd.tif"
                    assert found.hosts == (root.removeprefix("http://"),)


def test_unreachable_catalog(monkeypatch):
    monkeypatch.setattr("coseis.addresses.RETRY_DELAY_S", 0.0)
    with pytest.raises(UnreachableError, match=r"does not answer .*refused"):
        search_items("http://127.0.0.1:1/", EVENT)


def test_iburi_planetscope(real_data):
    catalog = str(real_data / "iburi" / "catalog.json")
    with pytest.raises(InputRefusedError, match=r"no scene before the event.* --allow-missing-pre"):
        search_items(catalog, EVENT, collections=["PSScene"])
    found = search_items(catalog, EVENT, collections=["PSScene"], allow_missing_pre=True)
    (scene,) = found.scenes
    assert (scene.item_id, scene.phase, scene.kind) == ("iburi_post_3B_Visual", "post", "display")
    assert Path(scene.source("red").href).is_file()
    assert scene.resolution_m == 3
    assert scene.licence == "other"
    assert found.coverage == {"pre": 0, "post": pytest.approx(1)}
    assert found.hosts == ("file",)


def test_iburi_sentinel2(real_data):
    found = search_items(str(real_data / "iburi"), EVENT, collections=["sentinel-2"])
    assert [(scene.item_id, scene.phase) for scene in found.scenes] == [
        ("iburi_pre_s2", "pre"),
        ("iburi_post_s2", "post"),
    ]
    assert found.coverage["post"] == pytest.approx(0.097, abs=0.001)


def test_iburi_asked_wrongly(real_data):
    catalog = str(real_data / "iburi" / "catalog.json")
    with pytest.raises(InputRefusedError, match=r"no collection PScene; .* Did you mean PSScene\?"):
        search_items(catalog, EVENT, collections=["PScene"])
    with pytest.raises(InputRefusedError, match="the AOI lies outside every scene"):
        search_items(catalog, read_event("2018-09-05T18:08:00Z", "1,1,2,2"))
    with pytest.raises(UsageError, match="the model reads nir, and no item has them all"):
        search_items(catalog, EVENT, bands=["nir"])


def test_planet_catalog_with_a_dangling_link(real_data):
    catalog = str(real_data / "planet_stac" / "open-stac" / "education" / "catalog.json")
    event = read_event("2022-12-15T00:00:00Z", "36,-7,37,-6")
    found = search_items(catalog, event, policy=PLANET)
    assert names(found) == ["20221213_071146_ssc4_u0001", "20230101_065440_27_2442"]
    assert found.hosts == ("storage.googleapis.com",)
    assert [refused.item_id for refused in found.refused] == ["bloom/collection.json"]
    with pytest.raises(InputRefusedError, match=r"--allow-host storage\.googleapis\.com"):
        search_items(catalog, event)


def test_data_api_answer_says_that_it_must_be_ordered(real_data):
    answer = real_data / "planet_stac" / "data-api" / "data_item_20220125_075509_67_1061.json"
    footprint = shapely.geometry.shape(json.loads(answer.read_text())["geometry"])
    event = Event(time=datetime(2022, 1, 20, tzinfo=UTC), aoi=mapping(footprint))
    with pytest.raises(InputRefusedError, match=r"names, not files .a Planet Data API answer.; order"):
        search_items(str(answer), event, allow_missing_pre=True)
