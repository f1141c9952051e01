"""Training from settings: sources as they were asked for, sides well apart, a card that says it all."""

import csv
import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from scipy.spatial import KDTree

from coseis.errors import InputRefusedError, UsageError
from coseis.evaluation.scores import Scores, score
from coseis.learn.cards import begin_model, complete_model
from coseis.learn.config import LearnConfig, PatchesConfig, StartConfig, ValidationConfig, load_learn_config
from coseis.learn.learning import FROZEN_NAME, Frozen, learn_model
from coseis.learn.limits import LimitedLabels
from coseis.learn.parts import describe_groups, divide_sources
from coseis.learn.regions import find_region, open_patches, open_region
from coseis.model import Model, load_model
from coseis.simulate.simulator import SimulatedEvent, simulate_event
from coseis.training.measure import predict_source
from coseis.training.patches import Patch
from coseis.training.settings import TrainConfig
from coseis.types import LABEL_IGNORE
from making import UTM, a_card, area_of, grid

PERCENTILES = np.array([[0.1] * 3, [0.3] * 3, [0.6] * 3], np.float32)


def a_patch(group: str, *, size: int = 64, landslide: bool = True, level: int = 90) -> Patch:
    mask = np.zeros((size, size), np.uint8)
    if landslide:
        mask[10:20, 10:20] = 1
    return Patch(np.full((size, size, 3), level, np.uint8), mask, group, PERCENTILES)


@dataclasses.dataclass(frozen=True)
class DrawnLabels:
    """Labels of a grid from an array: the fake beside the protocol."""

    grid: GeoBox
    classes: np.ndarray

    def mask(self, geobox: GeoBox) -> np.ndarray:
        x, y = (round(value) for value in ~self.grid.affine @ (geobox.affine.c, geobox.affine.f))
        height, width = geobox.shape
        whole = np.pad(self.classes, 64, constant_values=LABEL_IGNORE)
        return whole[y + 64 : y + 64 + height, x + 64 : x + 64 + width].copy()


@given(seed=st.integers(0, 1000), reach=st.floats(0.5, 12), place=st.tuples(*[st.integers(0, 20)] * 2))
def test_labels_are_known_near_landslides_only_whatever_part_is_asked_for(seed, reach, place):
    random, whole = np.random.default_rng(seed), grid(40, 40)
    classes = np.where(random.random((40, 40)) < 0.004, np.uint8(1), np.uint8(0))
    classes[random.random((40, 40)) < 0.1] = LABEL_IGNORE
    labels = LimitedLabels(DrawnLabels(whole, classes), reach_px=reach)
    points = np.argwhere(classes == 1)
    every = np.argwhere(np.ones((40, 40), bool))
    distance = KDTree(points).query(every)[0] if len(points) else np.full(1600, np.inf)
    expected = np.where(distance.reshape(40, 40) <= reach, classes, np.uint8(LABEL_IGNORE))
    np.testing.assert_array_equal(labels.mask(whole), expected)
    y, x = place
    np.testing.assert_array_equal(
        labels.mask(whole[y : y + 20, x : x + 20]), expected[y : y + 20, x : x + 20]
    )


def test_labels_are_known_within_the_searched_area_only():
    whole = grid(40, 40)
    labels = LimitedLabels(DrawnLabels(whole, np.zeros((40, 40), np.uint8)), area_of(whole[10:30, 5:25]))
    known = labels.mask(whole) != LABEL_IGNORE
    expected = np.zeros((40, 40), bool)
    expected[10:30, 5:25] = True
    np.testing.assert_array_equal(known, expected)


def test_groups_are_kept_whole_and_named_in_the_protocol():
    patches = [a_patch("a"), a_patch("b"), a_patch("a"), a_patch("c")]
    parts = divide_sources(patches, ValidationConfig(validation_groups=("a",)), card=a_card(), seed=0)
    assert [source.group for source in parts.train] == ["b", "c"]
    assert [source.group for source in parts.validation] == ["a", "a"]
    assert parts.protocol == "groups a"
    assert describe_groups(parts.validation) == ["a: patch x 2, 8192 px labelled, 200 of them landslide"]


@pytest.mark.parametrize(
    ("patches", "wanted", "said"),
    [
        ([a_patch("a")], {"validation_groups": ("b", "c")}, "no group b, c to validate on; there are a"),
        ([a_patch("a")], {"validation_groups": ("a",)}, "nothing to train on"),
        ([a_patch("a")], {"split": "south"}, "--split south found no region to split"),
        ([a_patch("a", landslide=False)], {}, r"no landslide lies in what is to be trained on \(4096 px"),
        (
            [a_patch("a"), a_patch("b", landslide=False)],
            {"validation_groups": ("b",)},
            "validation group b has 0 landslide px of 4096 labelled",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_split_that_teaches_nothing_is_refused(patches, wanted, said):
    with pytest.raises(UsageError, match=said):
        divide_sources(patches, ValidationConfig(**wanted), card=a_card(), seed=0)


def test_a_new_network_is_described_by_its_settings_and_what_it_sees(tmp_path):
    wanted = StartConfig(normalization="fixed", base_filters=4, padding="valid")
    card = begin_model(wanted, ("new", "old"), tmp_path / "mine")
    assert (card.name, card.halo_px, card.classes, card.bands) == (
        "mine",
        94,
        ("new", "old"),
        ("red", "green", "blue"),
    )
    patches = [a_patch("a", level=51), a_patch("a", level=153)]
    whole = complete_model(card, patches, trained_on=patches, config=TrainConfig(core_px=32))
    assert whole.training_sets == ("a: patch x 2, 8192 px labelled, 200 of them landslide",)
    assert whole.resolution_m == load_model().card.resolution_m
    assert whole.normalization.kind == "fixed"
    assert whole.normalization.mean == pytest.approx([0.4] * 3, abs=0.1)
    assert whole.normalization.std == pytest.approx([0.2] * 3, abs=0.05)


def test_a_fine_tune_keeps_the_card_of_its_start_but_not_its_scores(tmp_path):
    start = begin_model(StartConfig(start="shipped"), ("landslide",), tmp_path / "tuned")
    shipped = load_model().card
    assert isinstance(start, Model)
    assert start.card.metrics == {}
    done = complete_model(start, [a_patch("a")], trained_on=[a_patch("a")], config=TrainConfig())
    assert done.card.training_sets[: len(shipped.training_sets)] == shipped.training_sets
    assert done.card.training_sets[-1].startswith("a: patch x 1")
    assert done.card.resolution_m == shipped.resolution_m
    with pytest.raises(UsageError, match=r"labels have the classes a, b, but model .* knows landslide"):
        begin_model(StartConfig(start="shipped"), ("a", "b"), tmp_path)
    with pytest.raises(UsageError, match="is the model to start from; choose another folder"):
        begin_model(StartConfig(start="shipped"), ("landslide",), load_model().path)


def write_tile(folder: Path, name: str, level: int) -> None:
    folder.mkdir(exist_ok=True)
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": 32, "width": 32, "dtype": "uint8", "crs": UTM,
        "transform": grid(32, 32).affine,
    }  # fmt: skip
    with rasterio.open(folder / f"{name}.tif", "w", count=3, **profile) as file:
        file.write(np.full((3, 32, 32), level, np.uint8))
    with rasterio.open(folder / f"{name}_mask.tif", "w", count=1, **profile) as file:
        file.write(np.eye(32, dtype=np.uint8)[None])


def test_folders_and_archives_of_patches(tmp_path):
    write_tile(tmp_path / "tiles", "1", 51)
    write_tile(tmp_path / "tiles", "2", 153)
    image, mask = np.full((2, 32, 32, 3), 51, np.uint8), np.ones((2, 32, 32), np.uint8)
    np.savez(tmp_path / "l4s.npz", image=image, mask=mask)
    np.savez(tmp_path / "hrgldd.npz", image=image, mask=mask, event_block=np.array([0, 2]))
    places = [tmp_path / name for name in ("tiles", "l4s.npz", "hrgldd.npz")]
    config = PatchesConfig(patches=",".join(map(str, places)), weight=2, frame_px=0, exclude_blocks="2")
    opened = open_patches(config)
    groups = ["tiles-1", "tiles-2", "landslide4sense", "landslide4sense", "hrgldd-0"]
    assert [patch.group for patch in opened] == groups
    assert {patch.weight for patch in opened} == {2}
    # Without their scene, tiles are normalized by all of them together.
    assert opened[0].percentiles[:, 0] == pytest.approx([0.2, 0.4, 0.6])
    with_scene = open_patches(PatchesConfig(patches=(str(places[0]),), scene=str(tmp_path / "tiles/1.tif")))
    assert with_scene[1].percentiles[:, 0] == pytest.approx([0.2] * 3)
    with pytest.raises(UsageError, match=r"neither a folder of images N.tif with N_mask.tif nor an NPZ"):
        open_patches(PatchesConfig(patches=(str(tmp_path / "nothere"),)))
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UsageError, match=r"text\.npz cannot be read as NPZ"):
        open_patches(PatchesConfig(patches=(str(tmp_path / "text.npz"),)))
    mask_path = str(tmp_path / "tiles" / "1_mask.tif")
    with pytest.raises(UsageError, match="do not belong together"):
        open_patches(PatchesConfig(patches=(str(places[0]),), scene=mask_path))


def test_the_stored_settings_are_a_configuration_file_again(tmp_path):
    options = {
        "catalog": "c.json", "aoi": "1,2,3,4", "event_time": "t", "labels": "l.gpkg", "out": "out",
        "classes": "new,old", "class_field": "kind", "phases": "pre,post", "class_weight": "0.4,0.1",
        "validation_groups": "a,b", "patches": "p,q", "frame_px": "0",
    }  # fmt: skip
    config = load_learn_config(None, options)
    assert config.regions[0].classes == ("new", "old")
    assert config.model.phases == ("pre", "post")
    assert config.training.class_weight == (0.4, 0.1)
    assert config.patches[0].patches == ("p", "q")
    path = tmp_path / "again.yaml"
    path.write_text(config.model_dump_json())
    assert load_learn_config(path, {}) == config
    assert LearnConfig.model_validate_json(path.read_text()) == config


TINY: dict[str, object] = {
    "base_filters": 4, "batch": 4, "core_px": 64, "halo_px": 16, "precision": "float32", "average": 0.8,
    "class_weight": "1,1",
}  # fmt: skip
"""Settings of a network that learns within a minute."""


@pytest.fixture(scope="module")
def event(tmp_path_factory) -> SimulatedEvent:
    return simulate_event(tmp_path_factory.mktemp("event"), size_km=1.2, seed=5, density_per_km2=60)


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as local,
        Client(local) as connection,
    ):
        yield connection


def settings_of(event: SimulatedEvent, out: Path, **more: object) -> dict[str, str]:
    place = {"catalog": event.catalog, "aoi": event.aoi_path, "event_time": event.event_time.isoformat()}
    given = place | {"labels": event.landslides, "out": out} | TINY | more
    return {name: str(value) for name, value in given.items() if value is not None}


def f1_on(model: Model, event: SimulatedEvent) -> float:
    """Over the whole event, with its exact truth, at the card's threshold."""
    config = load_learn_config(None, settings_of(event, Path("unused")))
    source = open_region(config.regions[0], find_region(config.regions[0], model.card), model.card)
    total = Scores()
    for _, _, probability, classes in predict_source(model.network(), source, card=model.card):
        known = classes != LABEL_IGNORE
        total += score(probability >= model.card.threshold, (classes > 0) & known, known)
    return total.f1 or 0.0


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(event, client, tmp_path):
    small = {"epochs": 2, "patches_per_epoch": 8, "split": "south", "validation_share": 0.4}
    whole = learn_model(
        load_learn_config(None, settings_of(event, tmp_path / "whole", **small)), client=client
    )
    out = tmp_path / "killed"
    settings = settings_of(event, out, **small)
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    command = [sys.executable, "-m", "coseis.cli", "train", *words]
    # Importing JAX asks TensorFlow for more words, in processes started later too.
    quiet = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    # A session of its own, so that the kill takes the local cluster too.
    with subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.PIPE, text=True, env=quiet
    ) as killed:
        assert killed.stderr is not None
        line = next(line for line in killed.stderr if line.startswith("epoch 1 of 2"))
        os.killpg(killed.pid, signal.SIGKILL)
    ended = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False, env=quiet)
    assert ended.returncode == 0, ended.stderr
    assert "validation loss" in line
    assert ended.stderr.startswith("epoch 2 of 2"), ended.stderr
    assert re.search(r"epoch \d of 2 is kept: validation loss .* chosen there\n.* waiting .*\n", ended.stdout)
    with (out / "history.csv").open() as file:
        losses = [(float(row["loss"]), float(row["val_loss"])) for row in csv.DictReader(file)]
    with (tmp_path / "whole" / "history.csv").open() as file:
        expected = [(float(row["loss"]), float(row["val_loss"])) for row in csv.DictReader(file)]
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    resumed = load_model(out)
    assert resumed.card.threshold == whole.model.card.threshold
    assert resumed.card.metrics["validation"]["f1"] == pytest.approx(whole.scores.f1, abs=1e-3)
    assert "40 % of each region (the south), 96 px off" in resumed.card.metrics["protocol"]
    assert resumed.card.training_sets[0].startswith("event-2018-09-05/train: region x 1")
    other = load_learn_config(None, settings | {"resume": "true", "solid_px": "1"})
    with pytest.raises(InputRefusedError, match="holds a training with other settings of regions"):
        learn_model(other, client=client)


@pytest.mark.slow
def test_ten_new_polygons_make_a_better_map_of_their_event(event, client, tmp_path):
    earlier = simulate_event(tmp_path / "earlier", size_km=1.2, seed=3, density_per_km2=60)
    lesson = {"epochs": 3, "patches_per_epoch": 48, "learning_rate": 0.005}
    taught = settings_of(earlier, tmp_path / "start", **lesson)
    start = learn_model(load_learn_config(None, taught), client=client)
    polygons = gpd.read_file(event.landslides)
    ten = polygons.iloc[np.argsort(-polygons.area.to_numpy())[:40:4]]
    ten.to_file(tmp_path / "ten.gpkg")
    tuning = {"labels": tmp_path / "ten.gpkg", "label_reach_m": 45, "start": tmp_path / "start"}
    lesson |= {"learning_rate": 0.003, "base_filters": None}
    tuned = learn_model(
        load_learn_config(None, settings_of(event, tmp_path / "tuned", **lesson, **tuning)), client=client
    )
    before, after = f1_on(start.model, event), f1_on(tuned.model, event)
    assert after > before + 0.1, (before, after)
    assert tuned.scores is None
    assert tuned.model.card.threshold == start.model.card.threshold
    assert tuned.model.card.training_sets[0] == start.model.card.training_sets[0]
    assert len(tuned.model.card.training_sets) == 2
    frozen = Frozen.model_validate_json((tmp_path / "tuned" / FROZEN_NAME).read_text())
    assert frozen.config.regions[0].label_reach_m == 45
    assert {scene.phase for scene in frozen.found[0].scenes} == {"post"}
