"""Finished runs against labels: perfect against itself, the same from any blocks, all files written."""

import geopandas as gpd
import numpy as np
import pytest

from coseis.assess import assess_run
from coseis.errors import InputRefusedError, UsageError
from coseis.evaluation.results import report_assessed, write_report
from test_pipeline import client, contents, found, model, reference, run  # noqa: F401  (fixtures)


@pytest.fixture(scope="module")
def shifted(reference, tmp_path_factory):  # noqa: F811
    """The run's own polygons, moved by some pixels and without every third."""
    polygons = gpd.read_parquet(reference[0] / "landslides.parquet")
    polygons.geometry = polygons.translate(6, -9)
    path = tmp_path_factory.mktemp("labels") / "labels.gpkg"
    polygons[polygons.index % 3 > 0].to_file(path)
    return path


@pytest.mark.parametrize("with_old", [True, False])
def test_a_run_against_its_own_polygons_is_perfect(reference, tmp_path, with_old):  # noqa: F811
    out, report = reference
    polygons = gpd.read_parquet(out / "landslides.parquet")
    if not with_old:
        polygons = polygons[polygons.change != "pre-existing"]
    polygons.to_file(tmp_path / "labels.gpkg")
    assessed = assess_run(str(out), tmp_path / "labels.gpkg", with_old=with_old)
    metrics = report_assessed(assessed).metrics
    assert assessed.threshold == report.threshold.value
    for name in ("precision", "recall", "f1", "f1_beyond_2px", "boundary_iou", "area_ratio"):
        assert metrics[name] == 1, name
    assert metrics["tp"] == polygons.pixel_count.sum()
    if with_old:  # else a body is one polygon in the map of pixels and several in the inventory
        assert metrics["landslides"]["iou50_f1"] == 1
        assert metrics["landslides"]["labelled"] == (polygons.area_m2 >= 400).sum()


def test_counts_do_not_depend_on_blocks(reference, shifted, monkeypatch):  # noqa: F811
    whole = assess_run(str(reference[0]), shifted)
    monkeypatch.setattr("coseis.assess.BLOCK_PX", 150)
    blocks = assess_run(str(reference[0]), shifted)
    assert blocks.total == whole.total
    for name, layer in whole.outcomes[0].items():
        assert layer.equals(blocks.outcomes[0][name])
    assert 0 < whole.total.pixels.scores(whole.threshold).f1 < 1


def test_only_what_was_observed_is_counted(reference, shifted):  # noqa: F811
    arrays, _ = contents(reference[0])
    assessed = assess_run(str(reference[0]), shifted, threshold=0.3, with_old=True)
    scores = assessed.total.pixels.scores(0.3)
    observed = arrays["status"][1] & 0x7F == 1
    assert scores.pixels == observed.sum()
    assert scores.tp + scores.fp == ((arrays["probability"][1, 0] >= 60) & observed).sum()


def test_report_files_of_a_run(reference, shifted, tmp_path):  # noqa: F811
    assessed = assess_run(str(reference[0]), shifted)
    report = report_assessed(assessed)
    paths = write_report(report, assessed, tmp_path)
    assert all(path.stat().st_size for path in paths)
    areas = {name: gpd.read_file(paths[3], layer=name).area_m2.sum() for name in ("true", "false", "missed")}
    for name, count in (("true", "tp"), ("false", "fp"), ("missed", "fn")):
        assert areas[name] == pytest.approx(9 * report.metrics[count])
    [panel] = assessed.panels.values()
    assert np.unique(panel.outcome).size == 5


def test_no_run_and_no_labels_are_refused(reference, tmp_path):  # noqa: F811
    with pytest.raises(UsageError, match="is a run, which holds no labels; give LABELS"):
        assess_run(str(reference[0]), None)
    with pytest.raises(InputRefusedError, match="holds no run: there is no such folder"):
        assess_run(str(tmp_path / "none"), tmp_path / "labels.gpkg")
    assert not (tmp_path / "none").exists()
