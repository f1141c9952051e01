"""The demo, small: the whole job on a synthetic event, and scores that could come out otherwise."""

import json

import geopandas as gpd
import numpy as np
import pytest

from coseis.demo import run_demo, score_truth
from coseis.simulate import simulate_event
from test_situation import pages_of, print_page, words
from test_viewer import browser  # noqa: F401  (fixture)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "demo"
    return out, run_demo(out, size_km=2.5)


def test_every_part_is_scored_in_run_json(demo):
    out, report = demo
    truth = json.loads((out / "run" / "run.json").read_text())["truth"]
    assert truth == report.truth
    assert truth["f1"] > 0.6
    assert truth["recall"] > 0.85
    assert truth["coregistration"]["error_ce90_px"] < 0.5
    assert truth["coregistration"]["left_ce90_px"] < 0.6
    assert truth["old"]["excluded"] > 0.8
    assert truth["old"]["new_excluded"] < 0.1
    assert truth["observed"]["agree"] > 0.95
    sizes = truth["sizes"]
    assert 0 < sizes["error_index"] < 0.8
    # Neighbours run into each other on the map, and felled forest is taken for a landslide.
    assert 0.3 < sizes["map"]["count"] / sizes["truth"]["count"] < 1.2
    assert 0.8 < sizes["map"]["area_m2"] / sizes["truth"]["area_m2"] < 2
    assert {"broadleaf", "road"} <= truth["false_alarms"].keys()
    assert all(0 <= alarm["share"] <= 1 for alarm in truth["false_alarms"].values())
    polygons = gpd.read_parquet(out / "run" / "landslides.parquet")
    assert polygons.slope_mean_deg.between(0, 60).all()
    assert (out / "run" / "index.html").exists()


def test_the_page_for_the_situation_room_prints_on_one_sheet(demo, browser):  # noqa: F811
    out, report = demo
    pdf = print_page(browser, out / "run" / "report.html")
    assert pages_of(pdf) == [(595, 842)]
    said = words((out / "run" / "report.html").read_text())
    assert f"landslides {report.landslide_count} area of landslides " in said
    assert report.products[-1].title == "delineation"


def test_scores_fall_where_the_map_is_wrong(demo, tmp_path):
    """What was told to be old is called new, and half of the new ones are gone."""
    out, report = demo
    event = simulate_event(tmp_path / "event", size_km=2.5, misfit_px=1.0)
    inventory = out / "run" / "landslides.parquet"
    whole = inventory.read_bytes()
    table = gpd.read_parquet(inventory)
    table["change"] = np.where(table.index % 2 == 0, "pre-existing", "new")
    table.to_parquet(inventory)
    try:
        worse = score_truth(str(out / "run"), event)
    finally:
        inventory.write_bytes(whole)
    assert worse["f1"] < report.truth["f1"]
    assert worse["old"]["new_excluded"] > 0.2
    assert worse["old"]["excluded"] < report.truth["old"]["excluded"]
    assert worse["observed"] == report.truth["observed"]
    assert worse["sizes"]["error_index"] > report.truth["sizes"]["error_index"]
    assert worse["sizes"]["map"]["count"] < report.truth["sizes"]["map"]["count"]
    assert worse["sizes"]["truth"] == report.truth["sizes"]["truth"]
    assert score_truth(str(out / "run"), event) == report.truth
