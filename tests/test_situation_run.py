"""The life of a run's products: each is graded, supersedes the last, and says what it says in every file."""

import json
import re
from html import unescape

import geopandas as gpd
import pytest

import coseis.report as module
from coseis.config import OutputConfig
from coseis.grades import ISSUED
from coseis.objects import open_store
from coseis.pipeline import finish_run, map_event, map_part, vectorize_run
from coseis.plan import read_done
from coseis.situation import biggest_landslides
from coseis.task import fail_chunk
from test_update_job import FIRST, SECOND, client, event, killed  # noqa: F401  (fixtures)
from updating import Item, KilledError, plan_of

pytestmark = pytest.mark.slow


def page_of(out):
    text = re.sub(r"<style>.*?</style>", "", (out / "report.html").read_text(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())


def assert_issued(out, titles):
    """All files of a run tell of the same product, the last of these."""
    report = json.loads((out / "run.json").read_text())
    products = report["products"]
    assert [one["number"] for one in products] == list(range(1, len(titles) + 1))
    assert [one["supersedes"] for one in products] == [None, *range(1, len(titles))]
    assert [one["issued"] for one in products] == sorted({one["issued"] for one in products})
    grades = [title.removesuffix(", incomplete") for title in titles]
    assert [one["grade"] for one in products] == grades
    assert products[-1]["complete"] == (not report["failed"])
    assert report["issued"] == products[-1]["issued"]
    item = json.loads((out / "item.json").read_text())
    assert item["properties"]["coseis:grade"] == grades[-1]
    assert item["properties"]["coseis:complete"] == (not report["failed"])
    assert item["assets"]["report.html"]["type"] == "text/html"
    # The time of an issue is in no file that equal runs have equal.
    assert report["issued"][:19] not in json.dumps(item)
    assert json.loads((out / "map.json").read_text())["grade"] == titles[-1]
    said = page_of(out)
    assert f"{titles[-1]} Product {len(titles)}, issued " in said
    if len(titles) > 1:
        assert f"Supersedes product {len(titles) - 1}, {titles[-2]}, " in said
    else:
        assert "Supersedes" not in said
    assert f"landslides {report['landslide_count']} area of landslides " in said


def test_grades_over_the_life_of_a_run(event, client, tmp_path, monkeypatch):  # noqa: F811
    out = tmp_path / "run"
    event.publish(FIRST)
    parts = [event.config(out, cluster={"part": f"{share}/2"}) for share in range(2)]
    map_part(parts[0], client=client)
    finish_run(OutputConfig(out=str(out)), client=client)
    titles = ["first estimate"]
    assert_issued(out, titles)
    assert "Not computed yet: " in page_of(out)

    map_part(parts[1], client=client)
    finish_run(OutputConfig(out=str(out)), client=client)
    titles.append("delineation")
    assert_issued(out, titles)
    assert "Not computed yet: " not in page_of(out)

    plan = plan_of(out)
    chunk = plan.chunks(plan.chunk_px)[1]
    fail_chunk(plan, chunk, str(out))
    assert chunk.name not in read_done(plan, open_store(str(out)))
    finish_run(OutputConfig(out=str(out)), client=client)
    titles.append("first estimate")
    assert_issued(out, titles)

    map_event(event.config(out, resume=True), client=client)
    titles.append("delineation")
    assert_issued(out, titles)
    vectorize_run(OutputConfig(out=str(out), threshold=0.7), client=client)
    titles.append("delineation")
    assert_issued(out, titles)
    assert "threshold 0.7, as asked" in page_of(out)

    event.publish(SECOND)
    map_event(event.config(out, update=True), client=client)
    titles.append("update 1")
    assert_issued(out, titles)

    event.publish({**SECOND, "post-east": Item()})
    monkeypatch.setattr("coseis.pipeline.predict_chunks", killed)
    with pytest.raises(KilledError):
        map_event(event.config(out, update=True), client=client)
    monkeypatch.undo()
    finish_run(OutputConfig(out=str(out)), client=client)
    titles.append("update 2, incomplete")
    assert_issued(out, titles)


def test_what_is_killed_while_it_publishes_was_not_issued(event, client, tmp_path, monkeypatch):  # noqa: F811
    """The history outlives run.json, which is away while files change."""
    out = tmp_path / "run"
    event.publish(FIRST)
    map_event(event.config(out), client=client)
    monkeypatch.setattr(module, "draw_situation", lambda *_, **__: next(killed()))
    with pytest.raises(KilledError):
        finish_run(OutputConfig(out=str(out)), client=client)
    assert not (out / "run.json").exists()
    assert len(json.loads((out / ISSUED).read_text())["products"]) == 1
    monkeypatch.undo()
    map_event(event.config(out, resume=True), client=client)
    assert_issued(out, ["delineation", "delineation"])


def test_the_page_has_the_run_s_biggest_landslides(event, client, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    event.publish(FIRST)
    map_event(event.config(out), client=client)
    polygons = gpd.read_parquet(out / "landslides.parquet")
    biggest = biggest_landslides(polygons[polygons.change != "pre-existing"])
    page = (out / "report.html").read_text()
    places = [f"{point.y:.4f}, {point.x:.4f}" for point in biggest.geometry]
    assert len(places) > 3
    assert re.findall(r"<td>(-?\d+\.\d{4}, -?\d+\.\d{4})</td>", page) == places
