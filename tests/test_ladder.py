"""The ladder: its command runs whole on made data, runs nothing twice, and counts what it says it counts."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from coseis.errors import UsageError
from coseis.evaluation import assess_patch
from coseis.training.patches import Patch
from coseis.types import LABEL_IGNORE
from ladder import RUNGS, main
from ladder_report import BEGIN, END, collect_runs, compare, measure, write_report
from ladder_results import PatchCounts, read_result
from ladder_splits import Splits, TrainingPart, load_splits, read_groups
from rungs import BoostedTrees, Fitted, RatioRule, f1_by_threshold, pixel_features

KEPT = Path(__file__).parents[1] / "benchmarks" / "results" / "ladder"
FROZEN = Path(__file__).parents[1] / "benchmarks" / "splits.yaml"
TREES = BoostedTrees(sigmas_px=(1, 2), training_px=3000, iterations=6, step=3, leaves=7)
TWICE = {"repeats": 2, "prevalence": 0.4}
PLAN = {
    "tiles": {"groups": [["1", "2"], ["3", "4"]], "strata": {"dense": ["1", "3"], "small": ["2", "4"]}},
    "hrgldd": {"blocks": [0, 3]},
    "splits": [
        {"name": "west", "test": ["tiles-1-2"], "train": ["tiles-3-4", "hrgldd-0"], **TWICE},
        {"name": "east", "test": ["tiles-3-4"], "train": ["tiles-1-2", "hrgldd-0"], **TWICE},
        {
            "name": "block",
            "test": ["hrgldd-3"],
            "train": ["hrgldd-0", "tiles-1-2"],
            "also": ["synthetic"],
            "prevalence": 0.3,
        },
    ],
    "together": {"tiles": ["west", "east"]},
}


@dataclass(frozen=True)
class Chance:
    """A rung whose answer is its seed's; it notes what it was fitted on."""

    name: str = "chance"
    takes_also: bool = True
    repeats: int = 2
    settings: dict = field(default_factory=dict)
    fitted: list = field(default_factory=list)

    def fit(self, part: TrainingPart, seed: int) -> Fitted:
        self.fitted.append((part.groups, part.also, seed))
        return Fitted(lambda patch: np.random.default_rng(seed).random(patch.shape, np.float32), 0.4)


def made_image(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Forest with red scars, uint8 (y, x, 3), and where they are."""
    random = np.random.default_rng(seed)
    scars = ndimage.gaussian_filter(random.normal(size=(size, size)), 4) > 0.03
    colours = np.where(scars[..., None], (150, 110, 90), (50, 70, 45))
    return np.clip(colours + random.normal(0, 12, colours.shape), 1, 255).astype(np.uint8), scars


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder like the real one, and its splits.yaml."""
    folder = tmp_path_factory.mktemp("made")
    tiles = folder / "iburi" / "planetscope" / "labelled"
    tiles.mkdir(parents=True)
    (folder / "hrgldd").mkdir()
    for number in range(1, 5):
        image, scars = made_image(64, number)
        write_tile(tiles / f"{number}.tif", image, number)
        write_tile(tiles / f"{number}_mask.tif", scars[..., None].astype(np.uint8), number)
    write_tile(tiles.parent / "scene_post.tif", made_image(96, 9)[0], 9)
    images, masks = zip(*(made_image(40, seed) for seed in range(10, 14)), strict=True)
    images[0][:5] = 0
    np.savez(
        folder / "hrgldd" / "planetscope_rgb_128.npz",
        image=np.stack(images),
        mask=np.stack(masks).astype(np.uint8),
        event_block=np.array([0, 0, 3, 3]),
    )
    (folder / "splits.yaml").write_text(yaml.safe_dump(PLAN))
    return folder


def write_tile(path: Path, pixels: np.ndarray, place: int) -> None:
    height, width, bands = pixels.shape
    affine = Affine(3, 0, 567009 + 300 * place, 0, -3, 4751046)
    profile = {"driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:32654", transform=affine, **profile) as file:
        file.write(pixels.transpose(2, 0, 1))


def climb(made: Path, out: Path, *more: str, rungs: Sequence = ()) -> int:
    options = {"--splits": made / "splits.yaml", "--results": out, "--report": out / "ladder.md"}
    places = [str(text) for option in options.items() for text in option]
    return main([str(made), *places, "--resamples", "20", *more], rungs=rungs or (RatioRule(), TREES))


def splits_of(made: Path) -> Splits:
    return load_splits(made / "splits.yaml")


def part_of(made: Path, *groups: str) -> TrainingPart:
    return TrainingPart(tuple(read_groups(made, splits_of(made), groups)), (), made, splits_of(made), 0.4)


def test_whole_command(made, tmp_path, capsys):
    chance = Chance()
    rungs = (RatioRule(), TREES, chance)
    assert climb(made, tmp_path, rungs=rungs) == 0
    text = (tmp_path / "ladder.md").read_text()
    for name in ("### tiles", "### block", "chance - trees", "chance - rule", "trees - rule", "dense: F1"):
        assert name in text
    rows = list(csv.DictReader((tmp_path / "ladder.csv").read_text().splitlines()))
    assert {row["stratum"] for row in rows if row["split"] == "tiles"} == {"all", "dense", "small"}
    # On made scars every learner is good, and better than chance.
    f1 = {row["rung"]: float(row["f1"]) for row in rows if (row["split"], row["stratum"]) == ("tiles", "all")}
    assert min(f1["rule"], f1["trees"]) > 0.9 > 0.7 > f1["chance"]

    fitted = len(chance.fitted)
    assert fitted == 5
    assert (["hrgldd-0", "tiles-1-2"], ("synthetic",), 0) in chance.fitted
    assert climb(made, tmp_path, rungs=rungs) == 0
    assert len(chance.fitted) == fitted
    assert (tmp_path / "ladder.md").read_text() == text

    capsys.readouterr()
    changed = (RatioRule(), TREES, dataclasses.replace(chance, settings={"version": 2}))
    assert climb(made, tmp_path, "--list", "--split", "west", rungs=changed) == 0
    listed = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert listed == [["done", "rule"], ["done", "trees"], ["changed", "chance"], ["changed", "chance"]]
    assert climb(made, tmp_path, "--split", "west", "--seeds", "1", rungs=changed) == 0
    assert len(chance.fitted) == fitted + 1


def test_other_files_make_another_result(made, tmp_path):
    assert climb(made, tmp_path, "--only", "rule", "--split", "block") == 0
    before = read_result(tmp_path / "rule.block.0.json")
    tile = made / "iburi" / "planetscope" / "labelled" / "1_mask.tif"
    kept = tile.read_bytes()
    try:
        write_tile(tile, np.ones((64, 64, 1), np.uint8), 1)
        assert climb(made, tmp_path, "--only", "rule", "--split", "block") == 0
    finally:
        tile.write_bytes(kept)
    assert read_result(tmp_path / "rule.block.0.json").key != before.key


def test_recount_and_pictures(made, tmp_path, capsys):
    cell = ("--only", "trees", "--split", "west")
    assert climb(made, tmp_path, *cell) == 0
    path = tmp_path / "trees.west.0.json"
    before = path.read_bytes()
    path.write_bytes(before.replace(b'"both": ', b'"both": 1'))
    assert climb(made, tmp_path, *cell, "--recount") == 0
    assert path.read_bytes() == before
    assert climb(made, tmp_path, *cell, "--worst", str(tmp_path / "worst.png")) == 0
    assert climb(made, tmp_path, "--map", str(tmp_path / "map.png")) == 0
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("worst.png", "map.png"))
    assert climb(made, tmp_path, "--only", "rule", "--worst", str(tmp_path / "none.png")) == 2
    assert "name one rung" in capsys.readouterr().err


def test_counts_are_kept_whole(made, tmp_path):
    assert climb(made, tmp_path, "--only", "rule") == 0
    result = read_result(tmp_path / "rule.west.0.json")
    patches = read_groups(made, splits_of(made), ["tiles-1-2"])
    with np.load(tmp_path / "rule.west.0.npz") as maps:
        for patch, counts, stored in zip(patches, result.counts, result.patches, strict=True):
            codes = maps[f"{patch.group}/{patch.name}"]
            whole = assess_patch(codes, patch.mask, threshold=result.threshold, pixel_m2=9)
            assert counts.pixels == whole.pixels
            assert counts.exact == whole.pixels.scores(result.threshold)
            assert (stored.boundary, stored.landslides) == (whole.boundary, whole.landslides)


def test_splits_together_add_up(made, tmp_path):
    assert climb(made, tmp_path, rungs=(Chance(),)) == 0
    results = [
        read_result(tmp_path / f"chance.{split}.{seed}.json") for split in ("west", "east") for seed in (0, 1)
    ]
    runs = collect_runs(results, splits_of(made))
    joined = [run for run in runs if run.split == "tiles"]
    assert [run.seed for run in joined] == [0, 1]
    first = sum(results[0].counts + results[2].counts, start=PatchCounts())
    assert measure(joined[0].counts) == measure([first])
    same = compare(joined, joined, "f1")
    assert (same.value, same.low, same.high) == (0, 0, 0)


@given(seed=st.integers(0, 999), size=st.integers(2, 60))
def test_f1_by_threshold_is_plain_counting(seed, size):
    random = np.random.default_rng(seed)
    values, truth = random.integers(0, 11, size) / 10, random.random(size) < 0.4
    thresholds = np.arange(1, 11) / 10
    truth[:2] = True, False
    f1 = f1_by_threshold(values, truth, thresholds)
    for threshold, found in zip(thresholds, f1, strict=True):
        predicted = values >= threshold
        expected = 2 * (predicted & truth).sum() / max(predicted.sum() + truth.sum(), 1)
        assert found == pytest.approx(expected)


def test_rule_is_the_ratio_above_its_threshold(made):
    fitted = RatioRule().fit(part_of(made, "tiles-1-2"), 0)
    (patch, *_) = part_of(made, "tiles-3-4").patches
    image = patch.image.astype(np.float64)
    ratio = image[..., 0] / (image[..., 1] + 1)
    away = np.abs(ratio / fitted.notes["ratio"] - 1) > 1e-4
    expected = ratio > fitted.notes["ratio"]
    np.testing.assert_array_equal((fitted.predict(patch) >= fitted.threshold)[away], expected[away])


def test_missing_pixels_are_not_scored_and_not_learnt_from(made):
    patch = part_of(made, "hrgldd-0").patches[0]
    assert (patch.mask[:5] == LABEL_IGNORE).all()
    assert (patch.mask[5:] != LABEL_IGNORE).all()
    features = pixel_features(patch, (1, 4))
    assert np.isnan(features[:5, :, :3]).all()
    assert np.isfinite(features[5:]).all()
    # Means around a pixel are those of its neighbours with values, not darker towards missing ones.
    flat = dataclasses.replace(patch, image=np.where(patch.image > 0, np.uint8(99), np.uint8(0)))
    np.testing.assert_allclose(np.ptp(pixel_features(flat, (1, 4))[5:], axis=(0, 1)), 0, atol=0.02)


def test_features_against_scipy(made):
    patch = part_of(made, "tiles-1-2").patches[0]
    features = pixel_features(patch, (2,))
    spread = patch.percentiles[2] - patch.percentiles[0]
    mean = ndimage.gaussian_filter(patch.intensity[..., 1].astype(np.float64), 2)
    expected = (mean - patch.percentiles[1, 1]) / spread[1]
    np.testing.assert_allclose(features[..., 6], expected, atol=1e-4)


def test_trees_need_groups_to_leave_out(made):
    with pytest.raises(UsageError, match="tiles-1-2 is only one"):
        TREES.fit(part_of(made, "tiles-1-2"), 0)


def test_wrong_answers_are_refused(made, tmp_path):
    class Loud(Chance):
        def fit(self, part: TrainingPart, seed: int) -> Fitted:
            return Fitted(lambda patch: np.full(patch.shape, np.float32(1.5)), 0.5)

    with pytest.raises(ValueError, match=r"from 1.5 to 1.5; expected \(64, 64\), in \[0, 1\]"):
        climb(made, tmp_path, rungs=(Loud(),))


def test_frozen_splits_are_by_place():
    splits = load_splits(FROZEN)
    assert [split.name for split in splits.splits][:3] == list(splits.together["iburi"])
    tested = [group for split in splits.splits for group in split.test if split.name != "transfer"]
    assert len(tested) == len(set(tested)) == len(splits.tiles.groups) + len(splits.hrgldd.blocks)
    names = sorted(name for group in splits.tiles.groups for name in group)
    assert names == sorted(name for stratum in splits.tiles.strata.values() for name in stratum)
    (transfer,) = (split for split in splits.splits if split.name == "transfer")
    assert not any(group.startswith("tiles-") for group in (*transfer.train, *transfer.also))


def test_refusals(made, tmp_path, capsys):
    assert climb(made, tmp_path, "--only", "oracle") == 2
    assert "no rung is named oracle; expected one of rule, trees" in capsys.readouterr().err
    (tmp_path / "rule.west.0.json").write_text("{}")
    assert climb(made, tmp_path, "--list") == 42
    assert "remove it to run it again" in capsys.readouterr().err
    same = {"name": "a", "test": ["tiles-1-2"], "train": ["tiles-1-2"], "prevalence": 0.4}
    both = {**PLAN, "splits": [same], "together": {}}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(both))
    with pytest.raises(UsageError, match="split a trains and tests on tiles-1-2"):
        load_splits(tmp_path / "both.yaml")
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump({**PLAN, "together": {"all": ["north"]}}))
    with pytest.raises(UsageError, match="together: all of north"):
        load_splits(tmp_path / "odd.yaml")
    with pytest.raises(UsageError, match="holds no patches of hrgldd-7; it holds hrgldd-0, hrgldd-3"):
        read_groups(made, splits_of(made), ["hrgldd-0", "hrgldd-7"])


def test_text_around_the_tables_stays(made, tmp_path):
    report = tmp_path / "ladder.md"
    report.write_text(f"What it means.\n\n{BEGIN}\nstale\n{END}\nMore.\n")
    assert climb(made, tmp_path, "--only", "rule", "--split", "west") == 0
    text = report.read_text()
    assert text.startswith("What it means.")
    assert text.endswith(f"{END}\nMore.\n")
    assert "stale" not in text
    report.write_text("no place for tables")
    results = [read_result(tmp_path / "rule.west.0.json")]
    with pytest.raises(UsageError, match="lacks the markers"):
        write_report(results, splits_of(made), markdown=report, table=tmp_path / "ladder.csv")


def test_strata_name_the_ground(made):
    splits = splits_of(made)
    tile, block = (part_of(made, group).patches[0] for group in ("tiles-1-2", "hrgldd-3"))
    assert (splits.stratum_of(tile), splits.stratum_of(block)) == ("dense", "hrgldd-3")
    assert splits.stratum_of(Patch(tile.image, tile.mask, tile.group, tile.percentiles, "77")) == "tiles-1-2"


def test_kept_results_are_of_todays_settings():
    """Else the command would run them all again, hours of training, and the tables would lose their rows."""
    kept = [read_result(path) for path in sorted(KEPT.glob("*.json"))]
    settings = {rung.name: json.loads(json.dumps(rung.settings)) for rung in RUNGS}
    assert {result.rung for result in kept} == settings.keys()
    assert [(result.rung, result.split) for result in kept if result.settings != settings[result.rung]] == []
