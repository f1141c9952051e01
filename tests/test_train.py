"""Training: the loss counts what it should, windows follow the seed, and a few steps teach something."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coseis.card import Stretch
from coseis.errors import UsageError
from coseis.features import stretch_intensity
from coseis.model import build_unet, load_model
from coseis.patches import Patch, scene_percentiles
from coseis.train import (
    TrainConfig,
    choose_threshold,
    normalize_window,
    predict_patch,
    segmentation_loss,
    train_model,
    training_batches,
    validate,
)
from coseis.types import LABEL_IGNORE
from making import a_card

TINY = TrainConfig(epochs=4, batches_per_epoch=12, batch=4, core_px=32, halo_px=16, learning_rate=5e-3)


def a_patch(seed: int, group: str = "train", size: int = 64) -> Patch:
    """Dark, green forest with brown scars: discs of 4-9 px radius."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), np.uint8)
    for _ in range(6):
        centre_y, centre_x = random.integers(0, size, 2)
        mask |= (np.hypot(y - centre_y, x - centre_x) < random.integers(4, 10)).astype(np.uint8)
    image = np.where(mask[..., None], [129, 101, 68], [48, 52, 32]) * random.lognormal(
        0, 0.15, (size, size, 1)
    )
    intensity = stretch_intensity(image, Stretch(low=0, high=255))
    return Patch(intensity, mask, group, scene_percentiles(intensity))


def test_a_few_steps_beat_the_untrained_network_widely(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    validation = [a_patch(seed, "validation") for seed in (100, 101)]
    training = train_model(
        [a_patch(seed) for seed in range(8)],
        card=a_card(base_filters=4),
        folder=tmp_path,
        config=TINY,
        validation=validation,
        on_epoch=rows.append,
    )
    untrained = validate(build_unet(a_card(base_filters=4)), validation, card=a_card(), config=TINY)
    trained = validate(training.model.network(), validation, card=a_card(), config=TINY)
    assert trained["val_f1"] > 0.85 > 0.5 > untrained["val_f1"]
    assert trained["val_loss"] < untrained["val_loss"] / 2
    # What is kept is the best epoch, rounded to float16.
    assert load_model(tmp_path) == training.model
    assert training.kept_epoch == int(np.argmin([row["val_loss"] for row in rows]))
    assert trained["val_loss"] == pytest.approx(rows[training.kept_epoch]["val_loss"], rel=0.02)
    with (tmp_path / "history.csv").open() as file:
        assert [float(row["val_loss"]) for row in csv.DictReader(file)] == [row["val_loss"] for row in rows]


@pytest.mark.slow
def test_same_seed_same_weights(tmp_path: Path) -> None:
    config = TINY.model_copy(update={"epochs": 1, "batches_per_epoch": 2})
    patches = [a_patch(0), a_patch(1)]
    first, again = (
        train_model(patches, card=a_card(), folder=tmp_path / name, config=config) for name in ("a", "b")
    )
    assert first.model.digest == again.model.digest
    assert first.kept_epoch == 0


@pytest.mark.parametrize(("padding", "window", "output"), [("same", 64, 64), ("valid", 220, 36)])
def test_batches_fit_the_network_and_follow_the_seed(padding: Any, window: int, output: int) -> None:
    card = a_card(padding=padding)
    patches = [a_patch(0), a_patch(1, size=40)]
    batches, again, other = (
        list(training_batches(patches, card=card, config=TINY, epoch=epoch)) for epoch in (0, 0, 1)
    )
    windows, labels = batches[0]
    assert windows.shape == (4, window, window, 3)
    assert windows.dtype == np.float32
    assert labels.shape == (4, output, output)
    assert (labels != LABEL_IGNORE).any(axis=(1, 2)).all()
    assert np.isfinite(windows).all()
    np.testing.assert_array_equal(windows, again[0][0])
    assert (windows != other[0][0]).any()


def test_valid_padding_predicts_the_true_area() -> None:
    card = a_card(padding="valid", classes=("source", "deposit"))
    probability = predict_patch(build_unet(card), a_patch(1, size=50), card=card, config=TINY)
    assert probability.shape == (50, 50, 3)
    np.testing.assert_allclose(probability.sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.slow
def test_valid_padding_and_several_classes_train(tmp_path: Path) -> None:
    card = a_card(padding="valid", classes=("source", "deposit"))
    config = TINY.model_copy(update={"epochs": 4, "batches_per_epoch": 12, "learning_rate": 3e-3})
    history = train_model([a_patch(0)], card=card, folder=tmp_path, config=config).history
    assert history[-1]["loss"] < 0.97 * history[0]["loss"]


def test_weight_decides_what_is_drawn() -> None:
    bright = a_patch(0)
    never = Patch(bright.intensity, np.full_like(bright.mask, 1), "never", bright.percentiles, weight=0)
    for _, labels in training_batches([bright, never], card=a_card(), config=TINY, epoch=0):
        assert not (labels[labels != LABEL_IGNORE] == 1).all()


def test_loss_is_weighted_cross_entropy_plus_dice() -> None:
    config = TrainConfig(landslide_weight=3, dice_weight=0.5)
    labels = np.array([[[1, 0, LABEL_IGNORE, 0]]], np.uint8)
    probability = np.array([[[[0.8], [0.1], [0.99], [0.4]]]], np.float32)
    cross_entropy = -(3 * np.log(0.8) + np.log(0.9) + np.log(0.6)) / 5
    dice = 1 - (2 * 0.8 + 100) / (1.3 + 1 + 100)
    loss = float(segmentation_loss(labels, probability, config))
    assert loss == pytest.approx(cross_entropy + 0.5 * dice, rel=1e-5)
    two = np.concatenate([1 - probability, probability], axis=-1)
    assert float(segmentation_loss(labels, two, config)) == pytest.approx(loss, rel=1e-5)


def test_ignored_pixels_change_no_loss() -> None:
    random = np.random.default_rng(0)
    labels = random.choice(np.array([0, 1, LABEL_IGNORE], np.uint8), (2, 8, 8))
    probability = random.random((2, 8, 8, 1), dtype=np.float32)
    changed = np.where((labels == LABEL_IGNORE)[..., None], 1 - probability, probability)
    config = TrainConfig()
    assert float(segmentation_loss(labels, changed, config)) == float(
        segmentation_loss(labels, probability, config)
    )


def test_missing_pixels_become_the_fill() -> None:
    patch = a_patch(0)
    patch.intensity[3, 4, 1] = np.nan
    features = normalize_window(patch.intensity, patch.percentiles, a_card(fill=-2))
    assert (features[3, 4] == -2).all()
    assert (features == -2).sum() == 3


def test_threshold_has_the_best_mean_f1_of_the_groups() -> None:
    # Both groups score 0.9 on half of their landslides and 0.5 on the others; in `b` so does some background.
    config = TrainConfig(core_px=64, halo_px=0)
    probability = np.full((64, 64), 0.1, np.float32)
    probability[:16], probability[16:48] = 0.9, 0.5
    plain, noisy = np.zeros((2, 64, 64), np.uint8)
    plain[:48], noisy[:32] = 1, 1
    plain[60], noisy[60] = LABEL_IGNORE, LABEL_IGNORE
    black = np.zeros((64, 64, 3), np.float32)

    def network(windows: Any, training: bool) -> Any:
        return probability[None, ..., None]

    def threshold(**masks: Any) -> float:
        patches = [Patch(black, mask, name, np.zeros((3, 3), np.float32)) for name, mask in masks.items()]
        return choose_threshold(network, patches, card=a_card(), config=config)  # type: ignore[arg-type]

    assert 0.1 < threshold(a=plain) <= 0.5
    assert 0.1 < threshold(a=plain, b=noisy) <= 0.5
    noisy[16:32] = 0
    assert 0.5 < threshold(b=noisy) <= 0.9


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    def refused(match: str, *patches: Patch, **options: Any) -> None:
        with pytest.raises(UsageError, match=match):
            train_model(
                patches, card=a_card(**options.pop("card", {})), folder=tmp_path, config=TINY, **options
            )

    refused("no patch")
    refused("groups train are in training and in validation", a_patch(0), validation=[a_patch(1)])
    refused("has 3 bands; model tiny expects red, nir", a_patch(0), card={"bands": ("red", "nir")})
    with pytest.raises(UsageError, match="only one of them"):
        choose_threshold(
            build_unet(a_card()),
            [Patch(a_patch(0).intensity, np.zeros((64, 64), np.uint8), "a", a_patch(0).percentiles)],
            card=a_card(),
            config=TINY,
        )
