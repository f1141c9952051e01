"""Labelled patches in, a trained model folder and the history of its training out."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from coseis.card import ModelCard
from coseis.errors import UsageError
from coseis.features import centre_and_spread
from coseis.model import Model, Precision, build_unet, load_model, save_model
from coseis.patches import (
    Augmentation,
    Patch,
    augment_window,
    core_origins,
    cut_window,
    random_origin,
)
from coseis.types import CODE_SCALE, LABEL_IGNORE, Value
from coseis.windows import HALO_PX, VALID_SHRINK_PX

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

FloatArray = npt.NDArray[np.float32]
HISTORY_NAME = "history.csv"


class TrainConfig(Value):
    """How a model is trained; the defaults suit some hundred patches on two processor cores."""

    epochs: int = Field(default=40, ge=1)
    batches_per_epoch: int = Field(default=60, ge=1)
    batch: int = Field(default=6, ge=1)
    """Windows a step."""
    core_px: int = Field(default=128, ge=16, multiple_of=16)
    """Side of the part of a window that the loss is taken on."""
    halo_px: int = Field(default=16, ge=0, multiple_of=16)
    """Context around it with `same` padding, of which the network's border effects take some. The halo of
    prediction, 96, would cost six times the core alone, 16 costs 1.6 times. `valid` always takes its 94."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """At the start; falls to a hundredth of it along a cosine."""
    weight_decay: float = Field(default=1e-4, ge=0)
    landslide_weight: float = Field(default=1.5, gt=0)
    """Weight of a landslide pixel in the cross-entropy, background being 1."""
    dice_weight: float = Field(default=0.5, ge=0)
    """Weight of the Dice loss beside the cross-entropy; it answers to rare landslides."""
    augmentation: Augmentation = Augmentation()
    precision: Precision = "float32"
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """What training leaves behind."""

    model: Model
    history: list[dict[str, float]]
    """A row an epoch: epoch, loss, and and with validation patches val_loss, _precision, _recall, _f1."""
    kept_epoch: int
    """The epoch whose weights the model has."""


def train_model(
    patches: Sequence[Patch],
    *,
    card: ModelCard,
    folder: str | Path,
    config: TrainConfig,
    validation: Sequence[Patch] = (),
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Training:
    """Trains a network of the card's shape on patches and saves it with its history.

    The epoch with the lowest validation loss is kept, and saved as soon as it is reached; without
    validation patches it is the last one. The same seed draws the same windows.

    Args:
        patches: To train on; drawn by area times `Patch.weight`.
        card: Shape, bands, normalization and metadata of the model; its digest is filled in.
        folder: Where weights.h5, card.json and history.csv go.
        config: Schedule, loss and augmentation.
        validation: Patches of other groups, never augmented.
        on_epoch: Called with each row of the history.

    Raises:
        UsageError: No patch, a patch of other bands, or a group on both sides of the split.
    """
    _check_patches(patches, validation, card)
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(config.seed)
    network = build_unet(card, precision=config.precision)
    schedule = keras.optimizers.schedules.CosineDecay(
        config.learning_rate, config.epochs * config.batches_per_epoch, alpha=0.01
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, clipnorm=1.0)
    train_step = _make_train_step(network, optimizer, config)
    history: list[dict[str, float]] = []
    kept_epoch = 0
    for epoch in range(config.epochs):
        losses = [
            train_step(*(tf.constant(array) for array in batch))
            for batch in training_batches(patches, card=card, config=config, epoch=epoch)
        ]
        row = {"epoch": float(epoch), "loss": float(np.mean([float(loss) for loss in losses]))}
        if validation:
            row |= validate(network, validation, card=card, config=config)
        history.append(row)
        if not validation or row["val_loss"] <= min(past["val_loss"] for past in history):
            save_model(network, card, folder)
            kept_epoch = epoch
        _write_history(Path(folder) / HISTORY_NAME, history)
        if on_epoch:
            on_epoch(row)
    return Training(load_model(folder), history, kept_epoch)


def training_batches(
    patches: Sequence[Patch], *, card: ModelCard, config: TrainConfig, epoch: int
) -> Iterator[tuple[FloatArray, npt.NDArray[np.uint8]]]:
    """The batches of one epoch, drawn from (seed, epoch) alone.

    Yields:
        windows float32 (window, y, x, band), normalized; labels uint8 (window, y, x) of the network's
        output size, LABEL_IGNORE where no loss is taken.
    """
    random = np.random.default_rng((config.seed, epoch))
    share = np.array([patch.weight * patch.mask.size for patch in patches])
    for _ in range(config.batches_per_epoch):
        chosen = random.choice(len(patches), size=config.batch, p=share / share.sum())
        windows = []
        for patch in (patches[index] for index in chosen):
            origin = random_origin(patch, config.core_px, random)
            intensity, mask = _cut(patch, origin, card, config)
            intensity, mask, percentiles = augment_window(
                intensity, mask, patch.percentiles, augmentation=config.augmentation, random=random
            )
            windows.append((normalize_window(intensity, percentiles, card), _output_part(mask, card)))
        yield np.stack([window for window, _ in windows]), np.stack([mask for _, mask in windows])


def normalize_window(intensity: FloatArray, percentiles: FloatArray, card: ModelCard) -> FloatArray:
    """What `make_features` does to a scene, for a patch: float32 (y, x, band), `card.fill` where missing."""
    centre, spread = centre_and_spread(card, percentiles)
    features = (intensity - centre) / spread
    missing = np.isnan(features).any(axis=-1, keepdims=True)
    return np.where(missing, np.float32(card.fill), features).astype(np.float32)


def predict_patch(network: keras.Model, patch: Patch, *, card: ModelCard, config: TrainConfig) -> FloatArray:
    """Probabilities of a whole patch, float32 (y, x, channel), from windows like those of training."""
    height, width = patch.mask.shape
    core_px, origins = config.core_px, core_origins(patch, config.core_px)
    whole = np.zeros(
        (height + core_px, width + core_px, len(card.classes) + (len(card.classes) > 1)), np.float32
    )
    for start in range(0, len(origins), config.batch):
        some = origins[start : start + config.batch]
        windows = [normalize_window(_cut(patch, yx, card, config)[0], patch.percentiles, card) for yx in some]
        output = np.asarray(network(np.stack(windows), training=False))
        edge = (output.shape[1] - core_px) // 2
        cores = output[:, edge : edge + core_px, edge : edge + core_px]
        for (y, x), core in zip(some, cores, strict=True):
            whole[y : y + core_px, x : x + core_px] = core
    return whole[:height, :width]


def validate(
    network: keras.Model, patches: Sequence[Patch], *, card: ModelCard, config: TrainConfig
) -> dict[str, float]:
    """Loss, and precision, recall and F1 of any class at the card's threshold, over whole patches."""
    loss_sum, pixels, hits, alarms, truths = 0.0, 0, 0, 0, 0
    for patch in patches:
        probability = predict_patch(network, patch, card=card, config=config)
        counted = patch.mask != LABEL_IGNORE
        loss_sum += float(segmentation_loss(patch.mask[None], probability[None], config)) * int(counted.sum())
        pixels += int(counted.sum())
        predicted, truth = _landslide(probability) >= card.threshold, patch.mask > 0
        hits += int((predicted & truth & counted).sum())
        alarms += int((predicted & counted).sum())
        truths += int((truth & counted).sum())
    precision, recall = hits / max(alarms, 1), hits / max(truths, 1)
    f1 = 2 * hits / max(alarms + truths, 1)
    return {
        "val_loss": loss_sum / max(pixels, 1),
        "val_precision": precision,
        "val_recall": recall,
        "val_f1": f1,
    }


def choose_threshold(
    network: keras.Model, patches: Sequence[Patch], *, card: ModelCard, config: TrainConfig
) -> float:
    """The threshold of two decimals with the highest F1 on labelled patches, the mean over their groups.

    Args:
        network: Trained without these patches.
        patches: Of the development part. Every group counts alike, however large it is.
        card: Of the network.
        config: As in training.

    Raises:
        UsageError: A group holds no landslide or no background.
    """
    counts: dict[str, npt.NDArray[np.int64]] = {}
    for patch in patches:
        probability = _landslide(predict_patch(network, patch, card=card, config=config))
        codes = np.rint(probability * CODE_SCALE).astype(np.int64)
        of_group = counts.setdefault(patch.group, np.zeros((2, CODE_SCALE + 1), dtype=np.int64))
        for truth, chosen in enumerate((patch.mask == 0, (patch.mask > 0) & (patch.mask != LABEL_IGNORE))):
            of_group[truth] += np.bincount(codes[chosen], minlength=CODE_SCALE + 1)
    f1 = np.mean([_f1_of_codes(of_group, name) for name, of_group in counts.items()], axis=0)
    # Every other code is a threshold of two decimals; 0 would call everything a landslide.
    step = CODE_SCALE // 100
    return float(np.argmax(f1[step::step]) + 1) / 100


def segmentation_loss(labels: Any, probability: Any, config: TrainConfig) -> tf.Tensor:
    """Weighted cross-entropy plus Dice loss of the landslide classes together, a float32 scalar.

    Args:
        labels: uint8 (window, y, x), LABEL_IGNORE where nothing is counted.
        probability: float32 (window, y, x, channel), as `build_unet` puts it out.
        config: The weights of the parts.
    """
    import tensorflow as tf

    labels = tf.convert_to_tensor(labels)
    probability = tf.clip_by_value(tf.convert_to_tensor(probability), 1e-6, 1 - 1e-6)
    counted = tf.cast(labels != LABEL_IGNORE, tf.float32)
    truth = tf.cast((labels > 0) & (labels != LABEL_IGNORE), tf.float32)
    if probability.shape[-1] == 1:
        landslide = probability[..., 0]
        of_label = tf.where(truth > 0, landslide, 1 - landslide)
    else:
        landslide = 1 - probability[..., 0]
        channel = tf.where(labels == LABEL_IGNORE, tf.zeros_like(labels), labels)
        of_label = tf.gather(probability, tf.cast(channel, tf.int32), batch_dims=3)
    weight = counted * (1 + (config.landslide_weight - 1) * truth)
    cross_entropy = tf.reduce_sum(-tf.math.log(of_label) * weight) / tf.maximum(tf.reduce_sum(weight), 1)
    both = tf.reduce_sum(landslide * truth)
    either = tf.reduce_sum(landslide * counted) + tf.reduce_sum(truth)
    # The 100 px keep a batch without landslides from asking for nothing but zeros at any price.
    dice = 1 - (2 * both + 100) / (either + 100)
    return cross_entropy + config.dice_weight * dice


def _make_train_step(
    network: keras.Model, optimizer: keras.optimizers.Optimizer, config: TrainConfig
) -> Callable[..., tf.Tensor]:
    import tensorflow as tf

    optimizer.build(network.trainable_variables)

    def train_step(windows: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = segmentation_loss(labels, network(windows, training=True), config)
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        return loss

    compiled: Callable[..., tf.Tensor] = tf.function(train_step, reduce_retracing=True)
    return compiled


def _f1_of_codes(counts: npt.NDArray[np.int64], group: str) -> npt.NDArray[np.float64]:
    """F1 with each code as threshold, from counts (background or landslide, code)."""
    background, landslide = counts.sum(axis=1)
    if not (background and landslide):
        raise UsageError(f"a threshold needs landslides and background; {group} holds only one of them")
    alarms, hits = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    f1: npt.NDArray[np.float64] = 2 * hits / (hits + alarms + landslide)
    return f1


def _landslide(probability: FloatArray) -> FloatArray:
    """Probability of any class, (y, x), from the channels of the network."""
    return probability[..., 0] if probability.shape[-1] == 1 else 1 - probability[..., 0]


def _cut(
    patch: Patch, origin: tuple[int, int], card: ModelCard, config: TrainConfig
) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
    halo_px = HALO_PX["valid"] if card.padding == "valid" else config.halo_px
    return cut_window(patch, *origin, core_px=config.core_px, halo_px=halo_px)


def _output_part(mask: npt.NDArray[np.uint8], card: ModelCard) -> npt.NDArray[np.uint8]:
    if card.padding == "same":
        return mask
    return mask[VALID_SHRINK_PX:-VALID_SHRINK_PX, VALID_SHRINK_PX:-VALID_SHRINK_PX]


def _check_patches(patches: Sequence[Patch], validation: Sequence[Patch], card: ModelCard) -> None:
    if not patches:
        raise UsageError("there is no patch to train on")
    for patch in (*patches, *validation):
        if patch.intensity.shape[-1] != len(card.bands):
            raise UsageError(
                f"a patch of {patch.group} has {patch.intensity.shape[-1]} bands; model {card.name} "
                f"expects {', '.join(card.bands)}"
            )
    shared = {patch.group for patch in patches} & {patch.group for patch in validation}
    if shared:
        raise UsageError(
            f"groups {', '.join(sorted(shared))} are in training and in validation; split by group"
        )


def _write_history(path: Path, history: Sequence[dict[str, float]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
