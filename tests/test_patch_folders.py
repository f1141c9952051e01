"""Folders of patches: what a network that sees red says of them, by either kind of labels; the files."""

import json

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner

from coseis.card import Normalization
from coseis.cli import cli
from coseis.errors import UsageError
from coseis.evaluation.results import EvaluationReport, report_assessed, write_report
from coseis.model import Model
from coseis.patch_folders import assess_folder, is_patch_folder
from making import a_card

SIDE_PX = 40


@pytest.fixture
def model(tmp_path, monkeypatch):
    """Its probability is the intensity of red."""
    fixed = Normalization(kind="fixed", mean=(0, 0, 0), std=(1, 1, 1))
    monkeypatch.setattr(
        "coseis.patch_folders.ready_network", lambda *_, **__: lambda windows: windows[..., :1]
    )
    return Model(card=a_card(normalization=fixed, threshold=0.6), path=tmp_path)


def write(path, bands, left=583_200, *, resolution_m=3, crs="EPSG:32654"):
    with rasterio.open(
        path, "w", driver="GTiff", count=len(bands), height=SIDE_PX, width=SIDE_PX, dtype=bands.dtype,
        crs=crs, transform=Affine(resolution_m, 0, left, 0, -resolution_m, 4_737_000),
    ) as file:  # fmt: skip
        file.write(bands)


@pytest.fixture
def folder(tmp_path):
    """Two patches beside each other: one seen right, one with a false and a missed landslide."""
    folder = tmp_path / "patches"
    folder.mkdir()
    for number, name in enumerate(("1", "2")):
        image = np.full((3, SIDE_PX, SIDE_PX), 51, np.uint8)
        mask = np.zeros((1, SIDE_PX, SIDE_PX), np.uint8)
        image[0, 10:20, 10:20] = 204
        mask[0, 10:20, 10:20] = 1
        image[:, -6:] = 0
        if name == "2":
            image[0, 30:34, 5:15] = 204
            mask[0, 5:9, 25:35] = 1
        write(folder / f"{name}.tif", image, 583_200 + 3 * SIDE_PX * number)
        write(folder / f"{name}_mask.tif", mask, 583_200 + 3 * SIDE_PX * number)
    return folder


def test_patches_are_predicted_and_counted(folder, model):
    assessed = assess_folder(folder, model=model, frame_px=3)
    assert list(assessed.parts) == ["1", "2"]
    assert assessed.threshold == 0.6
    assert assessed.pixel_m2 == 9
    one, two = (assessed.parts[name].pixels.scores(0.6) for name in ("1", "2"))
    # Neither the frame nor the missing rows at the bottom.
    assert one.pixels == 34 * 31
    assert (one.tp, one.fp, one.fn) == (100, 0, 0)
    assert (two.tp, two.fp, two.fn) == (100, 40, 40)
    assert assessed.total.landslides.summary()["iou50_f1"] == 1
    assert assess_folder(folder, model=model, threshold=0.9).total.pixels.scores(0.9).tp == 0


def test_one_file_of_labels_serves_all_patches(folder, model, tmp_path):
    boxes = [
        shapely.box(583_200 + 3 * x, 4_737_000 - 3 * (y + h), 583_200 + 3 * (x + w), 4_737_000 - 3 * y)
        for y, x, h, w in ((10, 10, 10, 10), (10, 50, 10, 10), (5, 65, 4, 10))
    ]
    gpd.GeoDataFrame(geometry=boxes, crs="EPSG:32654").to_file(tmp_path / "labels.gpkg")
    from_file = assess_folder(folder, tmp_path / "labels.gpkg", model=model)
    assert from_file.parts == assess_folder(folder, model=model).parts


def test_report_and_files_hold_everything(folder, model, tmp_path):
    assessed = assess_folder(folder, model=model)
    report = report_assessed(assessed)
    paths = write_report(report, assessed, tmp_path / "out")
    assert [path.name for path in paths] == [
        "evaluation.json", "sweep.csv", "outcomes.png", "outcomes.gpkg",
    ]  # fmt: skip
    assert EvaluationReport.model_validate_json(paths[0].read_text()) == report
    assert report.patches["1"]["f1"] == 1
    assert report.metrics["tp"] == 200
    assert report.calibration["as_predicted"]["calibration_error"] > 0
    assert gpd.read_file(paths[3], layer="missed").area_m2.tolist() == [360]
    assert len(pyogrio.list_layers(paths[3])) == 3


def test_command_line(folder, model, tmp_path, monkeypatch):
    monkeypatch.setattr("coseis.model.load_model", lambda path: model)
    words = ["evaluate", str(folder), "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(cli, words)
    assert shown.exit_code == 0, shown.output
    assert "0.8333" in shown.output
    assert (tmp_path / "out" / "outcomes.png").stat().st_size > 10_000
    metrics = json.loads(CliRunner().invoke(cli, [*words[:2], "--json"]).stdout)["metrics"]
    assert metrics["f1"] == pytest.approx(400 / 480)


def test_a_folder_of_patches_is_no_run(folder, tmp_path):
    assert is_patch_folder(folder)
    assert not is_patch_folder(tmp_path)
    (folder / "items.json").touch()
    assert not is_patch_folder(folder)
    assert not is_patch_folder("s3://maps/iburi")


def test_what_cannot_be_compared_is_refused(folder, model, tmp_path):
    def refused(match, *labels):
        with pytest.raises(UsageError, match=match):
            assess_folder(folder, *labels, model=model)

    image = np.full((3, SIDE_PX, SIDE_PX), 9, np.uint8)
    write(folder / "3.tif", image)
    refused(r"3\.tif has no labels; expected .*3_mask\.tif, or LABELS")
    write(folder / "3.tif", image, 583_201)
    refused("lie on several grids, which no one file of labels fits", folder / "1_mask.tif")
    write(folder / "3.tif", image, resolution_m=10)
    refused(r"3\.tif has pixels of 100 m2, .*1\.tif of 9 m2")
    write(folder / "3.tif", image, crs="EPSG:4326", resolution_m=1e-5)
    refused("no projected CRS")
    write(folder / "3.tif", image[:2])
    refused(r"3\.tif has 2 bands of uint8; model tiny expects 8-bit red, green, blue")
    (folder / "3.tif").write_text("no image")
    refused(r"3\.tif is not a readable raster")
    with pytest.raises(UsageError, match=r"holds no image; expected N\.tif"):
        assess_folder(tmp_path, model=model)
