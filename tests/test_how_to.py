"""The how-tos, followed word for word: their blocks run in order in an empty folder."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import pytest

from coseis.simulate import simulate_event
from markdown_blocks import NEEDS_ACCOUNT, ROOT, blocks

HOW_TO = ROOT / "docs" / "how-to"
ACCOUNT_BLOCKS = {"planet.md": 3}
"""Blocks that nobody can run without an account, a page: they place and download an order."""
ORDER_ID = "98d124c3-0857-49f5-aa1b-2250c6f907ed"
PLANET = "PSScene"


def follow(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the blocks of a page in a folder, and gives what the shell's ones print."""
    monkeypatch.chdir(folder)
    # The command that was installed beside this Python, on these sources.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT / "src"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    said, names = "", {"__name__": "__main__"}
    for block in blocks(HOW_TO / page):
        if block.mark == NEEDS_ACCOUNT:
            continue
        where = f"{page}, line {block.line}"
        if block.language == "python":
            exec(compile(block.code, where, "exec"), names)
        else:
            assert block.language == "sh", where
            command = ["sh", "-eu", "-c", block.code]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{where}: {done.stderr[-2000:]}"
            said += done.stdout
    return said


def deliver(event: Path, out: Path) -> None:
    """Lays scenes of a catalog out as Planet delivers an order with STAC metadata: one flat folder.

    Reference: Planet, "Orders API: Delivery", docs.planet.com/develop/apis/orders/delivery.
    """
    folder = out / ORDER_ID / PLANET
    folder.mkdir(parents=True)
    links, files = [], []
    for path in sorted(event.glob(f"{PLANET}/*/*.json")):
        item = json.loads(path.read_text())
        parent = {"rel": "parent", "href": f"./{PLANET}_collection.json", "type": "application/json"}
        item |= {"collection": PLANET, "links": [parent, {**parent, "rel": "collection"}]}
        (folder / path.name).write_text(json.dumps(item))
        (folder / f"{item['id']}_metadata.json").write_text(json.dumps({"id": item["id"]}))
        for image in path.parent.glob("*.tif"):
            shutil.copy(image, folder)
        links.append({"rel": "item", "href": f"./{path.name}", "type": "application/json"})
    collection = json.loads((event / PLANET / "collection.json").read_text())
    root = {"rel": "root", "href": f"./{PLANET}_collection.json", "type": "application/json"}
    (folder / f"{PLANET}_collection.json").write_text(
        json.dumps(collection | {"id": PLANET, "links": [root, *links]})
    )
    files = [{"path": f"{PLANET}/{path.name}", "size": path.stat().st_size} for path in folder.iterdir()]
    (out / ORDER_ID / "manifest.json").write_text(json.dumps({"name": "", "files": files}))


def explained_columns(page: str) -> set[str]:
    """Names in the first cells of the tables of a page."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("|")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("page", sorted(HOW_TO.glob("*.md")), ids=lambda page: page.stem)
def test_blocks_are_run_or_marked(page):
    marks = [block.mark for block in blocks(page)]
    assert {block.language for block in blocks(page)} <= {"sh", "python"}
    assert set(marks) <= {"", NEEDS_ACCOUNT}
    assert marks.count(NEEDS_ACCOUNT) == ACCOUNT_BLOCKS.get(page.name, 0)
    assert "" in marks


@pytest.mark.slow
def test_from_planet_orders_to_a_map(tmp_path, monkeypatch):
    event = simulate_event(tmp_path / "event", size_km=1.0)
    desk = tmp_path / "desk"
    desk.mkdir()
    shutil.copy(event.aoi_path, desk / "area.geojson")
    deliver(tmp_path / "event", desk / "planet")
    shutil.rmtree(tmp_path / "event")
    said = follow("planet.md", desk, monkeypatch)
    assert f"planet/{ORDER_ID}/{PLANET}/{PLANET}_collection.json" in said
    assert "assets lie on: file" in said
    found = json.loads((desk / "items.json").read_text())
    assert [scene["phase"] for scene in found["scenes"]] == ["pre", "pre", "post", "post"]
    assert all(scene["udm2"] for scene in found["scenes"])
    report = json.loads((desk / "iburi" / "run.json").read_text())
    assert report["failed"] == []
    landslides = gpd.read_parquet(desk / "iburi" / "landslides.parquet")
    assert report["landslide_count"] == (landslides["change"] != "pre-existing").sum() > 3
    explained = {name: explained_columns(name) for name in ("formats.md", "glossary.md")}
    assert set(landslides.columns) - {"geometry"} <= explained["formats.md"]
    for table in ("observed", "density", "coregistration"):
        columns = gpd.read_parquet(desk / "iburi" / f"{table}.parquet").columns
        assert set(columns) - {"geometry"} <= explained["glossary.md"], table


@pytest.mark.slow
def test_ten_polygons_and_the_outputs_of_their_first_map(tmp_path, monkeypatch, capsys):
    said = follow("ten-polygons.md", tmp_path, monkeypatch)
    assert len(gpd.read_file("ten.gpkg")) == 10
    for run in ("first", "second"):
        assert json.loads(Path(run, "run.json").read_text())["failed"] == []
    card = json.loads(Path("tuned", "card.json").read_text())
    of_second = json.loads(Path("second", "run.json").read_text())["identity"]["model"]
    assert card["weights_sha256"] == of_second
    before, after = map(float, re.findall(r"\bf1 +[│|] (\S+)", said))
    assert before < after
    follow("outputs.md", tmp_path, monkeypatch)
    assert Path("first", "landslides.gpkg").exists()
    shown = capsys.readouterr().out
    assert "observed" in shown
