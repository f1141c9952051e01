"""Training: it learns, the same again from the same seed, also when it was killed, and keeps the best."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

from coseis.card import Stretch
from coseis.errors import InputRefusedError, UsageError
from coseis.features import stretch_intensity
from coseis.model import Model, build_unet, load_model
from coseis.simulate import simulate_arrays
from coseis.training import trainer
from coseis.training.measure import predict_patch
from coseis.training.patches import Patch, scene_percentiles
from coseis.training.settings import NO_AUGMENTATION, TrainConfig
from coseis.training.sources import Square
from coseis.training.trainer import Running, Training, train_model
from making import a_card, a_labelled_patch, a_patch

BRIEF = TrainConfig(
    epochs=3, patches_per_epoch=16, batch=4, core_px=32, halo_px=16, learning_rate=1e-2, average=0.9,
    border_weight=2, blur_px=(2.0, 0.0), precision="float32",
)  # fmt: skip
CARD = a_card()
STEPS = BRIEF.epochs * BRIEF.steps_per_epoch


class KilledError(Exception):
    """Ends a training where a kill would."""


class Refusing(Patch):
    """A source whose file cannot be read."""

    def square(self, y: int, x: int, size_px: int) -> Square:
        raise InputRefusedError("scene 7 cannot be read; expected a GeoTIFF")


def noise() -> tuple[list[Patch], list[Patch]]:
    """Sources to train on and to validate on: bright pixels are landslides."""
    return [a_patch(64, 80, seed, "train") for seed in range(2)], [a_patch(40, 40, 9, "validation")]


def train(folder: Path, config: TrainConfig = BRIEF, **running: Any) -> Training:
    sources, validation = noise()
    return train_model(
        sources, validation, start=a_card(), folder=folder, config=config, running=Running(**running)
    )


def read_rows(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def without_seconds(rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "waiting")} for row in rows
    ]


def weights_of(model: Model) -> list[np.ndarray]:
    return [np.asarray(variable) for variable in model.network().variables]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Training, list[dict[str, float]]]:
    """One training that nothing disturbed, with the rows that it reported; nobody writes to it."""
    rows: list[dict[str, float]] = []
    folder = tmp_path_factory.mktemp("reference")
    return folder, train(folder, on_step=rows.append), rows


def a_synthetic_event(seed: int) -> Patch:
    """After a synthetic earthquake: reflectance stretched for display, and the exact truth."""
    _, post, mask = simulate_arrays(192, seed=seed, density_per_km2=80)
    red_green_blue = np.moveaxis(post[2::-1], 0, -1)
    intensity = stretch_intensity(red_green_blue, Stretch(low=0, high=0.3, gamma=0.5))
    return Patch(intensity, mask, f"event-{seed}", scene_percentiles(intensity))


def f1_on(network: Any, patch: Patch) -> float:
    predicted, truth = predict_patch(network, patch, card=a_card()) >= 0.5, patch.mask == 1
    return 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())


def test_a_few_steps_on_a_synthetic_event_beat_the_untrained_network_widely(tmp_path: Path) -> None:
    card = a_card(base_filters=8)
    config = TrainConfig(
        epochs=3, patches_per_epoch=128, batch=4, core_px=32, average=0.8, learning_rate=1e-2,
        class_weight=(0.9, 0.5), augmentation=NO_AUGMENTATION, precision="float32",
    )  # fmt: skip
    left_out = a_synthetic_event(11)
    training = train_model(
        [a_synthetic_event(seed) for seed in range(4)], [left_out], start=card, folder=tmp_path, config=config
    )
    untrained, trained = (
        f1_on(network, left_out) for network in (build_unet(card), training.model.network())
    )
    assert trained > 0.6
    assert untrained < 0.2
    assert training.history[1]["val_loss"] < training.history[0]["val_loss"]


@pytest.mark.slow
def test_what_is_left_behind_agrees_with_itself(reference: Any) -> None:
    folder, training, reported = reference
    assert {path.name for path in folder.iterdir()} == {
        "weights.h5", "card.json", "history.csv", "batches.csv", "curves.png", "checkpoint.npz",
    }  # fmt: skip
    assert load_model(folder) == training.model
    history, batches = read_rows(folder / "history.csv"), read_rows(folder / "batches.csv")
    assert history == training.history
    assert batches == reported
    assert [(row["epoch"], row["step"]) for row in batches] == [
        (epoch, step) for epoch in range(BRIEF.epochs) for step in range(BRIEF.steps_per_epoch)
    ]
    for row in history:
        of_epoch = [batch for batch in batches if batch["epoch"] == row["epoch"]]
        assert row["loss"] == pytest.approx(np.mean([batch["loss"] for batch in of_epoch]))
        for name in ("tp", "fp", "fn", "tn"):
            assert row[name] == sum(batch[name] for batch in of_epoch)
        for prefix in ("", "val_"):
            tp, fp, fn, tn = (row[prefix + name] for name in ("tp", "fp", "fn", "tn"))
            assert row[f"{prefix}f1"] == pytest.approx(2 * tp / max(2 * tp + fp + fn, 1))
            assert row[f"{prefix}accuracy"] == pytest.approx((tp + tn) / (tp + fp + fn + tn))
        # Every known label of validation once, every epoch.
        assert sum(row[f"val_{name}"] for name in ("tp", "fp", "fn", "tn")) == 40 * 40
        assert 0 <= row["waiting"] < 1
        assert row["seconds"] > 0
    assert training.kept_epoch == int(np.argmin([row["val_loss"] for row in history]))


@pytest.mark.slow
def test_same_seed_same_weights_also_on_a_cluster(reference: Any, tmp_path: Path) -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        again = train(tmp_path / "same", client=client)
    assert without_seconds(again.history) == without_seconds(reference[1].history)
    assert again.model.digest == reference[1].model.digest
    other = train(tmp_path / "other", BRIEF.model_copy(update={"seed": 1, "epochs": 1}))
    assert other.history[0]["loss"] != again.history[0]["loss"]


def stop_at_step(number: int) -> Callable[[dict[str, float]], None]:
    def on_step(row: dict[str, float]) -> None:
        if row["epoch"] * BRIEF.steps_per_epoch + row["step"] == number:
            raise KilledError

    return on_step


def assert_same_training(folder: Path, resumed: Training, reference: Any) -> None:
    expected_folder, expected, _ = reference
    assert [row["epoch"] for row in resumed.history] == [row["epoch"] for row in expected.history]
    for row, other in zip(without_seconds(resumed.history), without_seconds(expected.history), strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    batches, others = (read_rows(path / "batches.csv") for path in (folder, expected_folder))
    assert len(batches) == len(others) == STEPS
    for row, other in zip(batches, others, strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    assert resumed.kept_epoch == expected.kept_epoch
    for weight, other in zip(weights_of(resumed.model), weights_of(expected.model), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every_s", "step"),
    [
        pytest.param(0.0, 6, id="checkpoint a step before"),
        pytest.param(1e9, 6, id="checkpoint at the last end of an epoch"),
        pytest.param(0.0, 7, id="last step of an epoch"),
        pytest.param(1e9, 1, id="no checkpoint yet"),
    ],
)
def test_a_killed_training_goes_on_as_if_nothing_was(
    reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float, step: int
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY_S", every_s)
    with pytest.raises(KilledError):
        train(tmp_path, on_step=stop_at_step(step))
    done: list[dict[str, float]] = []
    resumed = train(tmp_path, resume=True, on_step=done.append)
    assert len(done) == (STEPS - step if every_s == 0 else STEPS - step // 4 * 4)
    assert_same_training(tmp_path, resumed, reference)
    if step == 1:
        assert train(tmp_path, resume=True).model == resumed.model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["write_rows", "write_checkpoint"])
def test_a_kill_between_the_last_step_and_the_end_of_an_epoch(
    reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patch:

        def killed(*_: Any, **__: Any) -> None:
            raise KilledError

        def on_step(row: dict[str, float]) -> None:
            if (row["epoch"], row["step"]) == (1, 3):
                patch.setattr(trainer, name, killed)

        with pytest.raises(KilledError):
            train(tmp_path, on_step=on_step)
    assert_same_training(tmp_path, train(tmp_path, resume=True), reference)


@pytest.mark.slow
def test_a_training_survives_kill_9(reference: Any, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from coseis.training import trainer;"
        "from test_training_trainer import train; trainer.CHECKPOINT_EVERY_S = 0.0;"
        "train(Path(sys.argv[1]), on_step=lambda row: print('step', flush=True))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        for _ in range(6):
            assert process.stdout.readline() == "step\n"
        process.send_signal(signal.SIGKILL)
    done: list[dict[str, float]] = []
    resumed = train(tmp_path, resume=True, on_step=done.append)
    assert 0 < len(done) < STEPS
    assert_same_training(tmp_path, resumed, reference)


@pytest.mark.slow
def test_another_training_in_the_folder_is_refused(tmp_path: Path) -> None:
    config = BRIEF.model_copy(update={"epochs": 1, "patches_per_epoch": 4})
    train(tmp_path, config)
    with pytest.raises(InputRefusedError, match=r"already holds a training; go on with it by --resume"):
        train(tmp_path, config)
    with pytest.raises(InputRefusedError, match="of another training"):
        train(tmp_path, config.model_copy(update={"learning_rate": 0.1}), resume=True)
    sources, validation = noise()
    with pytest.raises(InputRefusedError, match="of another training"):
        train_model(
            sources[:1], validation, start=a_card(), folder=tmp_path, config=config,
            running=Running(resume=True),
        )  # fmt: skip


@pytest.mark.slow
def test_the_epoch_of_lowest_validation_loss_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(trainer._Loop, "_validate", lambda self: {"val_loss": next(losses)})
    digests: list[str] = []
    training = train(tmp_path, on_epoch=lambda row: digests.append(load_model(tmp_path).digest))
    assert training.kept_epoch == 1
    assert digests[0] != digests[1] == digests[2] == training.model.digest


@pytest.mark.slow
def test_without_validation_the_last_epoch_is_kept(tmp_path: Path) -> None:
    config = BRIEF.model_copy(update={"epochs": 2, "patches_per_epoch": 4, "average": 0.0})
    training = train_model(noise()[0], start=a_card(), folder=tmp_path, config=config)
    assert training.kept_epoch == 1
    assert "val_loss" not in training.history[0]


@pytest.mark.slow
def test_fine_tuning_begins_where_the_model_stands(reference: Any, tmp_path: Path) -> None:
    _, trained, _ = reference
    sources, validation = noise()
    config = BRIEF.model_copy(update={"epochs": 1, "patches_per_epoch": 4, "learning_rate": 1e-9})
    tuned = train_model(sources, validation, start=trained.model, folder=tmp_path, config=config)
    expected = trained.history[trained.kept_epoch]["val_loss"]
    # The model was saved in float16.
    assert tuned.history[0]["val_loss"] == pytest.approx(expected, rel=5e-3)
    for weight, other in zip(weights_of(tuned.model), weights_of(trained.model), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-3)
    again = train_model(
        sources, validation, start=trained.model, folder=tmp_path, config=config, running=Running(resume=True)
    )
    assert again.model == tuned.model


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_more_classes_start_from_the_model_but_for_the_last_layer(
    reference: Any, tmp_path: Path, optimizer: str
) -> None:
    _, trained, _ = reference
    start = trained.model.model_copy(
        update={"card": trained.model.card.model_copy(update={"classes": ("slide", "old")})}
    )
    assert start.digest == trained.model.digest
    config = BRIEF.model_copy(
        update={"epochs": 1, "patches_per_epoch": 4, "learning_rate": 1e-9, "optimizer": optimizer}
    )
    random = np.random.default_rng(0)
    source = a_labelled_patch(random.integers(0, 3, (64, 64), dtype=np.uint8))
    tuned = train_model([source], start=start, folder=tmp_path, config=config).model
    assert tuned.card.classes == ("slide", "old")
    old, new = (
        {variable.path: np.asarray(variable) for variable in model.network().variables}
        for model in (trained.model, tuned)
    )
    changed = [name for name in new if new[name].shape != old[name].shape]
    assert changed
    assert all("logits" in name for name in changed)
    for name in new.keys() - set(changed):
        np.testing.assert_allclose(new[name], old[name], atol=1e-3)


@pytest.mark.slow
def test_a_source_that_cannot_be_read_ends_with_its_own_error(tmp_path: Path) -> None:
    patch = a_patch()
    source = Refusing(patch.image, patch.mask, patch.group, patch.percentiles)
    with pytest.raises(InputRefusedError, match="scene 7 cannot be read"):
        train_model([source], start=a_card(), folder=tmp_path, config=BRIEF)


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    def refused(match: str, *sources: Patch, card: Any = CARD, validation: Sequence[Patch] = ()) -> None:
        with pytest.raises(UsageError, match=match):
            train_model(sources, validation, start=card, folder=tmp_path / "never", config=BRIEF)

    refused("no labelled source was given")
    refused("groups event are in training and in validation", a_patch(), validation=[a_patch()])
    refused("has 3 bands; model tiny expects 2: red, nir", a_patch(), card=a_card(bands=("red", "nir")))
    refused("has 3 bands; model tiny expects 6", a_patch(), card=a_card(phases=("pre", "post")))
    unknown = a_labelled_patch(np.full((40, 40), 255, np.uint8))
    refused("no pixel of the training regions has a known label", unknown)


def test_another_backend_of_keras_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "keras_backend", lambda: "jax")
    with pytest.raises(UsageError, match="training needs Keras on TensorFlow, but KERAS_BACKEND is jax"):
        train(tmp_path)
    assert not list(tmp_path.iterdir())
