"""The quick form of the engine's benchmarks: it runs, and its row says what it should. No timings here."""

import json

import pytest

import growth
import pipeline
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
