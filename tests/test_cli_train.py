"""`coseis train`: one clear line and the right exit code for every bad input, before a cluster is started."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import pytest
import shapely

from coseis.cli import main
from coseis.training.checkpoint import CHECKPOINT_NAME
from making import EVENT_TIME, ORIGIN, UTM, area_of
from test_cli import GRID, save_fake_model, write_catalog

Refuse = Callable[..., str]


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path) -> Refuse:
    """Trains with options, and returns the one line of the refusal; no worker is to be had."""

    def connected(*_):
        raise AssertionError("a cluster was started for a request that is to be refused")

    monkeypatch.setattr("coseis.learn.learning.connected", connected)
    monkeypatch.chdir(tmp_path)

    def train(code: int, *words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["coseis", "train", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert (end.value.code, out) == (code, ""), err
        assert err.startswith("coseis: "), err
        assert err.count("\n") == 1, err
        return err

    return train


def write_labels(path: Path, *, shift_m: float = 0) -> Path:
    """Two squares with their class: one in the north-west of the grid, one in the south-east."""
    left, top = ORIGIN[0] + shift_m, ORIGIN[1]
    squares = [shapely.box(left + x, top - y - 60, left + x + 60, top - y) for x, y in ((90, 90), (720, 470))]
    gpd.GeoDataFrame({"kind": ["new", "old"]}, geometry=squares, crs=UTM).to_file(path)
    return path


@pytest.fixture
def event(tmp_path) -> dict[str, object]:
    """Options of a region that can be trained on; each test spoils one of them."""
    aoi = tmp_path / "aoi.geojson"
    aoi.write_text(json.dumps(area_of(GRID, inset_px=8)))
    write_labels(tmp_path / "elsewhere.gpkg", shift_m=90_000)
    write_labels(tmp_path / "unplaced.shp").with_suffix(".prj").unlink()
    return {
        "catalog": write_catalog(tmp_path / "event"),
        "aoi": aoi,
        "event_time": EVENT_TIME.isoformat(),
        "labels": write_labels(tmp_path / "labels.gpkg"),
        "out": "model",
    }


def words(settings: dict[str, object]) -> list[object]:
    given = {name: value for name, value in settings.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]


class Bad(NamedTuple):
    """What is wrong, and what is said of it."""

    changes: dict[str, object]
    said: str
    code: int = 2


@pytest.mark.parametrize(
    "bad",
    [
        Bad({"labels": None}, "--labels missing"),
        Bad({"labels": "nothere.gpkg"}, "labels nothere.gpkg do not exist"),
        Bad({"labels": "elsewhere.gpkg"}, "labels elsewhere.gpkg .*lie"),
        Bad({"labels": "unplaced.shp"}, "labels unplaced.shp have no CRS"),
        Bad({"class_field": "kind", "classes": "new"}, "hold the unknown kind old; expected one of new"),
        Bad({"classes": "new,old"}, "cannot be told apart: give class_field"),
        Bad({"labelled_area": "1,2,3"}, "labelled area: AOI '1,2,3' is neither"),
        Bad({"labelled_area": "141,42,141.1,42.1"}, "no landslide lies in what is to be trained on .0 px"),
        Bad(
            {"split": "east", "validation_share": 0.05}, "leaves the validation part of event-2018-09-05 0 l"
        ),
        Bad({"split": "south", "validation_share": 1}, "--validation-share is '1'; expected less than 1"),
        Bad({"validation_groups": "iburi"}, "no group iburi to validate on; there are event-2018-09-05"),
        Bad({"core_px": 100}, "--core-px is '100'; expected a multiple of 16"),
        Bad({"class_weight": "0.1,0.5"}, "class_weight goes from 0.1 to 0.5; expected a fall"),
        Bad({"blur_px": "3"}, "blur_px is '3'; expected two numbers"),
        Bad({"phases": "during"}, "--phases is 'during'; expected 'pre' or 'post'"),
        Bad({"bands": "red,nir"}, "the model reads red, nir, and no item has them all"),
        Bad({"start": "nothere"}, "no model at nothere"),
        Bad({"start": "shipped", "bands": "red"}, "bands cannot be chosen: model shipped has its own"),
        Bad({"start": "fake", "out": "fake"}, "--out fake is the model to start from"),
        Bad({"aoi": "-72.3,-17.4,-72.2,-17.3"}, "the AOI lies outside every scene", 42),
        Bad({"out": "aoi.geojson"}, "--out aoi.geojson is a file; expected a folder", 42),
        Bad({"epochz": 3}, "No such option '--epochz'. Did you mean '--epochs'?"),
        Bad({"scene": "mosaic.tif"}, "--patches missing"),
    ],
    ids=lambda bad: " ".join(f"{name}={value}" for name, value in bad.changes.items()),
)
def test_bad_input_is_refused_in_one_line(refused: Refuse, event, tmp_path, bad):
    save_fake_model(tmp_path / "fake")
    line = refused(bad.code, *words(event | bad.changes))
    assert re.search(bad.said, line), line
    assert not (tmp_path / "model").exists()


def test_nothing_to_train_on_says_what_to_give(refused: Refuse):
    line = refused(2, "--out", "model")
    assert "give --catalog, --event-time, --aoi and --labels of a region, --patches, or" in line


def test_a_folder_that_holds_a_training_is_not_written_over(refused: Refuse, event, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / CHECKPOINT_NAME).write_bytes(b"")
    assert "model already holds a training; go on with it by --resume" in refused(42, *words(event))
    (tmp_path / "model" / "training.json").write_text("{}")
    line = refused(42, *words(event), "--resume")
    assert "training.json is not what a training was begun with" in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("regions: {catalog: a}", r"regions is .*; expected a list, its settings beneath each -"),
        ("regions: [{catalog: a, aoi: b}]", r"regions\[0\]\.event_time, regions\[0\]\.labels missing"),
        ("regions: [{labelz: a}]", r"regions\[0\]\.labelz is not a setting; did you mean labels\?"),
        ("regions: [{epochs: 3}]", r"epochs belongs under training"),
        (
            "training: {augmentation: {scael: 1}}",
            r"augmentation\.scael is not a setting; did you mean aug.*scale",
        ),
        (
            "training: {augmentation: {scale: 2}}",
            r"training\.augmentation\.scale is '2'; expected less than or",
        ),
        ("search: {catalog: a}", r"search is not a stage; expected regions, patches, model, training"),
        ("patches: [{patches: a, weight: 0}]", r"patches\[0\]\.weight is '0'; expected greater than 0"),
    ],
)
def test_a_mistake_in_the_file_is_named_there(refused: Refuse, tmp_path, text, said):
    path = tmp_path / "training.yaml"
    more = "" if text.startswith("patches") else "patches: [{patches: tiles}]\n"
    path.write_text(f"{more}output: {{out: model}}\n{text}\n")
    line = refused(2, path)
    assert re.search(said, line), line
    assert str(path) in line


def test_an_option_of_one_region_does_not_change_two(refused: Refuse, event, tmp_path):
    region = {name: str(value) for name, value in event.items() if name != "out"}
    path = tmp_path / "training.yaml"
    path.write_text(json.dumps({"regions": [region, region], "output": {"out": "model"}}))
    assert "lists 2 entries that --solid-px could change" in refused(2, path, "--solid-px", 1)
    path.write_text(json.dumps({"regions": [region, region | {"classes": "slide"}], "output": {"out": "m"}}))
    assert "classes landslide and slide; expected the same in all" in refused(2, path)
    path.write_text(json.dumps({"regions": [region], "output": {"out": "model"}}))
    assert "labels nothere.gpkg do not exist" in refused(2, path, "--labels", "nothere.gpkg")
