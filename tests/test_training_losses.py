"""Losses: each is its formula in NumPy, unknown pixels change none, replicas of a batch add up to it."""

from typing import Any, get_args

import numpy as np
import pytest

from coseis.training.losses import GENERALIZED_Q, count_batch, segmentation_loss
from coseis.training.settings import LossName, TrainConfig

LOSSES = get_args(LossName)
SIDE = 16


def a_config(loss: str) -> TrainConfig:
    return TrainConfig(loss=loss, core_px=SIDE, landslide_weight=3)


def some_batch(channels: int, *, soft: bool = True, count: int = 4, seed: int = 0) -> tuple[Any, ...]:
    """classes, membership, weight and probability as `segmentation_loss` takes them."""
    random = np.random.default_rng(seed)
    shape = (count, SIDE, SIDE)
    classes = random.integers(0, max(channels, 2), shape).astype(np.uint8)
    faded = random.random(shape) if soft else np.ones(shape)
    membership = np.where(classes > 0, faded, 0).astype(np.float16)
    weight = random.choice([0, 1, 1, 2.5], shape).astype(np.float16)
    logits = random.normal(0, 2, (*shape, channels))
    if channels == 1:
        probability = 1 / (1 + np.exp(-logits))
    else:
        probability = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return classes, membership, weight, probability.astype(np.float32)


def by_hand(classes: Any, membership: Any, weight: Any, probability: Any, config: TrainConfig) -> float:
    """The loss as its papers have it, over background and classes, in NumPy."""
    given, share, counted = probability.astype(float), membership.astype(float), weight.astype(float)
    if given.shape[-1] == 1:
        given = np.concatenate([1 - given, given], axis=-1)
    target = np.eye(given.shape[-1])[classes] * share[..., None]
    target[..., 0] = 1 - share
    entropy = -(target * np.log(given)).sum(axis=-1)
    focal = -(target * (1 - given) ** 2 * np.log(given)).sum(axis=-1)
    generalized = (1 - (target * given).sum(axis=-1) ** GENERALIZED_Q) / GENERALIZED_Q
    known = counted[..., None] > 0
    overlap, total = ((part * known)[..., 1:].sum() for part in (target * given, target + given))
    dice = 1 - 2 * overlap / total
    of_pixel = {"focal": focal, "generalized": generalized}.get(config.loss, entropy)
    mean = (of_pixel * counted * (1 + (config.landslide_weight - 1) * share)).sum() / classes.size
    return {"dice": dice, "cross_entropy_dice": mean + 0.5 * dice}.get(config.loss, mean)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_is_its_formula(loss: str, soft: bool, channels: int) -> None:
    batch, config = some_batch(channels, soft=soft), a_config(loss)
    assert float(segmentation_loss(*batch, config)) == pytest.approx(by_hand(*batch, config), rel=1e-5)


def test_cross_entropy_of_three_pixels() -> None:
    config = TrainConfig(loss="cross_entropy", core_px=16, landslide_weight=3)
    classes, membership, weight = np.zeros((3, 1, 16, 16))
    classes[0, 0, 0] = membership[0, 0, 0] = 1
    weight[0, 0, :3] = 1, 1, 2
    probability = np.full((1, 16, 16, 1), 0.99, np.float32)
    probability[0, 0, :3, 0] = 0.8, 0.1, 0.4
    expected = -(3 * np.log(0.8) + np.log(0.9) + 2 * np.log(0.6)) / 256
    loss = segmentation_loss(classes.astype(np.uint8), membership, weight, probability, config)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_unknown_pixels_change_no_loss(loss: str, channels: int) -> None:
    classes, membership, weight, probability = some_batch(channels)
    unknown = weight == 0
    changed = np.where(unknown[..., None], probability[::-1, ::-1], probability)
    # As an example is made: class 0 where the label is not known, but a blur may reach there.
    batch = (np.where(unknown, 0, classes).astype(np.uint8), membership, weight)
    other = (np.where(unknown, channels - 1, classes).astype(np.uint8), membership, weight)
    first, second = (
        float(segmentation_loss(*batch, probability, a_config(loss))),
        float(segmentation_loss(*other, changed, a_config(loss))),
    )
    assert first == pytest.approx(second, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_one_channel_is_two_channels(loss: str) -> None:
    *labels, probability = some_batch(1)
    both = np.concatenate([1 - probability, probability], axis=-1)
    one, two = (float(segmentation_loss(*labels, given, a_config(loss))) for given in (probability, both))
    assert one == pytest.approx(two, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "generalized"])
def test_mean_of_two_halves_is_the_whole_batch(loss: str, channels: int) -> None:
    batch = some_batch(channels)
    halves = [[part[half] for part in batch] for half in (slice(2), slice(2, None))]
    whole, *parts = (float(segmentation_loss(*part, a_config(loss))) for part in (batch, *halves))
    assert np.mean(parts) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_finite_where_the_network_is_certain(loss: str, channels: int) -> None:
    import tensorflow as tf

    *labels, _ = some_batch(channels)
    certain = tf.one_hot(np.zeros((4, SIDE, SIDE), int), channels)
    for probability in (certain, 1 - certain if channels == 1 else tf.reverse(certain, [-1])):
        with tf.GradientTape() as tape:
            tape.watch(probability)
            value = segmentation_loss(*labels, probability, a_config(loss))
        assert np.isfinite(value)
        assert np.isfinite(tape.gradient(value, probability)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_counts_are_those_of_any_class(channels: int) -> None:
    classes, membership, weight, probability = some_batch(channels)
    truth, known = (classes > 0) & (membership >= 0.5), weight > 0
    share = probability[..., 0] if channels == 1 else probability[..., 1:].sum(axis=-1)
    predicted = share >= 0.5
    pairs = ((truth, predicted), (~truth, predicted), (truth, ~predicted), (~truth, ~predicted))
    expected = [(one & other & known).sum() for one, other in pairs]
    np.testing.assert_array_equal(count_batch(classes, membership, weight, probability), expected)
    assert sum(expected) == known.sum()
