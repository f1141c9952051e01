"""The map page's files and facts: the same page for every run, counts as a plain comparison gives them."""

import json
import re
import subprocess
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from obstore.store import LocalStore, MemoryStore

from coseis.objects import get_object
from coseis.page import (
    FILTERS,
    MEDIA_TYPES,
    MapFacts,
    MapLayers,
    page_files,
    read_layers,
    tally_polygons,
    write_page,
)

ROOT = Path(__file__).parents[1]
HOSTILE = "<img src=x onerror=alert(1)></script>"


def some_facts(**changes):
    layers = MapLayers(
        pre=True,
        post=True,
        codes=True,
        min_zoom=6,
        max_zoom=15,
        statuses=(1, 129),
        withheld="",
        unread_blocks=0,
    )
    values = {
        "event_time": "2018-09-05T18:08:00Z", "grade": "delineation", "bounds": (141.9, 42.6, 142.0, 42.7),
        "aoi": {"type": "Polygon", "coordinates": []}, "aoi_km2": 33.7, "observed_share": 0.9,
        "failed_chunks": 0, "threshold": 0.39, "threshold_rule": "card", "model_name": HOSTILE,
        "software_version": "1", "attribution": (HOSTILE,), "scene_dates": {}, "layers": layers,
        "counts": {}, "areas_m2": {},
    }  # fmt: skip
    return MapFacts(**(values | changes))


def some_polygons(count, **columns):
    rng = np.random.default_rng(4)
    # Codes of 1/200, the slider's own places among them, where a comparison may go either way by rounding.
    values = {name: rng.integers(0, 201, count) / 200 for name in FILTERS}
    boxes = [shapely.box(x, 0, x + 1, 1) for x in range(count)]
    values["area_m2"] = rng.uniform(100, 9000, count)
    return gpd.GeoDataFrame(values | columns, geometry=boxes, crs="EPSG:32654")


def test_tallies_are_what_comparing_gives():
    polygons = some_polygons(300)
    counts, areas = tally_polygons(polygons)
    for name in FILTERS:
        for step in range(101):
            kept = polygons[polygons[name] >= step / 100]
            assert counts[name][""][step] == len(kept)
            assert areas[name][""][step] == pytest.approx(kept.area_m2.sum(), abs=0.06)


def test_kinds_of_change_are_tallied_apart_and_sum_up():
    kinds = np.array(["new", "reactivated", "pre-existing", "unknown"])[np.arange(120) % 4]
    polygons = some_polygons(120, change=kinds)
    counts, areas = tally_polygons(polygons)
    whole = tally_polygons(polygons.drop(columns="change"))
    for name in FILTERS:
        assert set(counts[name]) == set(kinds)
        assert np.sum(list(counts[name].values()), axis=0).tolist() == list(whole[0][name][""])
        np.testing.assert_allclose(np.sum(list(areas[name].values()), axis=0), whole[1][name][""], atol=0.5)


def test_a_run_without_landslides_has_a_page():
    counts, areas = tally_polygons(some_polygons(0))
    assert set(counts["probability_mean"][""]) == {0}
    assert set(areas["probability_mean"][""]) == {0.0}


def test_the_page_is_the_same_whatever_the_data(tmp_path):
    write_page(some_facts(), LocalStore(tmp_path))
    for name, content in page_files():
        assert (tmp_path / name).read_bytes() == content
    assert HOSTILE not in (tmp_path / "index.html").read_text()
    assert json.loads((tmp_path / "map.json").read_text())["model_name"] == HOSTILE


def test_layers_are_read_back_and_another_version_is_not():
    store = MemoryStore()
    assert read_layers(store) is None
    write_page(some_facts(), store)
    assert read_layers(store) == some_facts().layers
    text = get_object(store, "map.json").replace(b'"max_zoom":15', b'"max_zoom":"far"')
    store.put("map.json", text)
    assert read_layers(store) is None


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_index_html_holds_no_script_and_asks_only_its_own_origin():
    page = _Page()
    page.feed(dict(page_files())["index.html"].decode())
    [policy] = [a["content"] for tag, a in page.found if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["connect-src"] == rules["style-src"] == "'self'"
    assert "unsafe" not in policy
    names = {name for name, _ in page_files()}
    for tag, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for address in filter(None, (attributes.get("src"), attributes.get("href"))):
            assert address in names or address.startswith(("#", "data:"))
        assert tag != "script" or attributes["src"]


def test_scripts_of_ours_never_make_markup():
    for name, content in page_files():
        if name.endswith(".mjs") and "vendor" not in name:
            assert not re.search(
                rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|setHTML", content
            )


def test_what_is_vendored_is_what_the_lock_names_without_an_address_of_a_registry():
    lock = json.loads((ROOT / "web/package-lock.json").read_text())
    assert not [path for path, package in lock["packages"].items() if "resolved" in package]
    vendored = dict(page_files())
    version = lock["packages"]["node_modules/maplibre-gl"]["version"]
    for name in ("maplibre-gl.mjs", "maplibre-gl-worker.mjs"):
        assert f"maplibre-gl-js/blob/v{version}/LICENSE.txt".encode() in vendored[f"web/vendor/{name}"][:300]
    licences = vendored["web/vendor/LICENCES.txt"].decode()
    for path, package in lock["packages"].items():
        name = path.removeprefix("node_modules/")
        assert not path or name.startswith("@types/") or f"{name} {package['version']} (" in licences


def test_every_file_of_the_page_has_a_media_type_and_is_in_the_wheel(tmp_path):
    command = ["python", "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    command[0] = __import__("sys").executable
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {"coseis/web/report/report.html", "coseis/web/report/report.css"} <= packed
    for name, _ in page_files():
        assert Path(name).suffix in MEDIA_TYPES
        assert f"coseis/web/{name.removeprefix('web/')}" in packed
