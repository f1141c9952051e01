"""The quick form of the engine's benchmarks: it runs, and its row says what it should. No timings here."""

import json
from pathlib import Path

import pytest

import coregistration
import growth
import pipeline
import report
import throughput_per_gpu
import training_speed
import vectors
import workers

pytestmark = pytest.mark.slow


def test_growth_counts_tasks_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    growth.main(["--quick"])
    row = json.loads(capsys.readouterr().out)
    assert [area["chunks"] for area in row["areas"]] == [4, 16]
    for area in row["areas"]:
        assert area["predict_tasks_per_chunk"] <= 1.2
        assert area["worker_peak_mib"] > 0
    assert row["region"]["chunks"] == 64


def test_workers_do_all_chunks(capsys: pytest.CaptureFixture[str]) -> None:
    workers.main(["--quick"])
    row = json.loads(capsys.readouterr().out)
    assert [one["workers"] for one in row["sleeping"]] == [1, 2]
    assert all(0 < one["efficiency"] <= 1 for one in row["sleeping"])
    assert [one["chunks"] for one in row["processes"]] == [4, 4]


def test_vectors_makes_as_many_polygons_as_there_are_spots(capsys: pytest.CaptureFixture[str]) -> None:
    vectors.main(["--quick"])
    [row] = json.loads(capsys.readouterr().out)["rows"]
    # Some of the largest have grown together.
    assert 0.8 * row["spots"] < row["polygons"] < row["spots"]


def test_a_scene_mapped_window_by_window_is_the_scene_in_one_call(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.main(["--quick", "--only", "coseis", "parts"])
    row = json.loads(capsys.readouterr().out)
    # Half a code of 1/200.
    assert row["contenders"]["coseis"]["most_off"] <= 0.0026
    assert row["seconds_over_parts"] > 0


def test_throughput_tries_all_combinations(capsys: pytest.CaptureFixture[str]) -> None:
    throughput_per_gpu.main(["--quick", "--precision", "float32"])
    row = json.loads(capsys.readouterr().out)
    assert {one["threads"] for one in row["rows"]} == {1, 2}
    for one in row["rows"]:
        assert 0 < one["network_share"] <= 1
        assert one["km2_per_s"] == pytest.approx(9 * one["mpx_per_s"], abs=0.01)
        assert (one["gpu_share"] is None) == (row["gpus"] == 0)


def test_training_speed_counts_rounds_and_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    training_speed.main(["--quick"])
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(row["ratios"]) == len(row["keras_s"]) == 1
    assert row["coseis_mpx_s"] > 0
    assert 0 <= row["waiting_share"] < 1


def test_a_report_has_a_table_and_a_plot_of_what_was_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors.main(["--quick"])
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "images").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "vectors.json").write_text(capsys.readouterr().out)
    readme = tmp_path / "benchmarks" / "README.md"
    readme.write_text("\n".join(("before", *report.MARKERS, "after")))
    monkeypatch.setattr(report, "HERE", tmp_path / "benchmarks")
    report.main()
    text = readme.read_text()
    assert "### kernel\n\nNot measured." in text
    assert "| polygons | trace, s |" in text
    assert text.startswith("before")
    assert text.endswith("after")
    assert (tmp_path / "docs" / "images" / "benchmark-vectors.png").stat().st_size > 5000


def test_coregistration_trusts_no_unrelated_ground(capsys: pytest.CaptureFixture[str]) -> None:
    coregistration.main(["--quick"])
    row = json.loads(capsys.readouterr().out)
    assert row["kinds"].keys() == coregistration.KINDS.keys()
    assert row["kinds"]["known"]["ce90_px"] < 0.2
    assert row["kinds"]["unrelated"]["good_share"] == 0
