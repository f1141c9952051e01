"""Labelled sources in, a trained model folder with the history of its training out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from distributed import Client

from coseis.allocator import keep_freed_memory
from coseis.backends import keras_backend, probe_device
from coseis.card import ModelCard
from coseis.errors import CoseisError, InputRefusedError, UsageError
from coseis.model import Model, build_unet, copy_weights, load_model, save_model
from coseis.training.augment import halo_of
from coseis.training.checkpoint import CHECKPOINT_NAME, Progress, read_checkpoint, write_checkpoint
from coseis.training.curves import BATCHES_NAME, HISTORY_NAME, draw_curves, write_rows
from coseis.training.draws import Draw, DrawTable, validation_draws
from coseis.training.feed import Feed, Recipe
from coseis.training.settings import NO_AUGMENTATION, TrainConfig
from coseis.training.sources import Source
from coseis.training.steps import make_measure, make_optimizer, make_strategy, make_train_step
from coseis.windows import VALID_SHRINK_PX

CHECKPOINT_EVERY_S = 60.0
PREFETCH = 4
"""Batches that wait in TensorFlow's own queue: a slow batch is made up for by those before it."""


@dataclass(frozen=True)
class Running:
    """How a training runs; none of it changes a weight, but for the rounding of another device."""

    client: Client | None = None
    """Makes the patches; None makes them in this process."""
    resume: bool = False
    """Go on from the folder's checkpoint; starts if there is none."""
    on_step: Callable[[dict[str, float]], None] | None = None
    """Called with each row of batches.csv."""
    on_epoch: Callable[[dict[str, float]], None] | None = None
    """Called with each row of history.csv."""


@dataclass(frozen=True)
class Training:
    """What training leaves behind."""

    model: Model
    history: list[dict[str, float]]
    """A row an epoch: loss and scores, the same with val_, seconds, and the share of them spent waiting."""
    kept_epoch: int
    """The epoch whose weights the model has."""


def train_model(
    sources: Sequence[Source],
    validation: Sequence[Source] = (),
    *,
    start: ModelCard | Model,
    folder: str | Path,
    config: TrainConfig | None = None,
    running: Running | None = None,
) -> Training:
    """Trains a network on labelled sources and saves the best epoch.

    The epoch with the lowest validation loss is kept, and saved as soon as it is reached; without
    validation sources it is the last one. The same seed draws the same patches in the same order, on any
    cluster; a training that was killed goes on with the next one.

    Args:
        sources: To train on; drawn by their labelled area times `Source.weight`.
        validation: Of other groups or parts, never augmented.
        start: A card starts from random weights; a model goes on from its own (fine-tune). Where its card
            was given another number of classes, the last layer starts anew.
        folder: Where weights.h5, card.json, history.csv, batches.csv, curves.png and the checkpoint go.
        config: Schedule, loss and augmentation.
        running: Cluster, resume and progress.

    Returns:
        The model of the kept epoch, and a row of loss and scores an epoch.

    Raises:
        UsageError: No source, one of other bands, a group on both sides of the split, or another backend of
            Keras than TensorFlow.
        InputRefusedError: The folder holds another training, or one and resume was not asked for.
        UnreachableError: The cluster is lost.
    """
    config, running = config or TrainConfig(), running or Running()
    card = start.card if isinstance(start, Model) else start
    check_sources(sources, validation, card)
    if (backend := keras_backend()) != "tensorflow":
        raise UsageError(f"training needs Keras on TensorFlow, but KERAS_BACKEND is {backend}; unset it")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / CHECKPOINT_NAME).exists() and not running.resume:
        raise InputRefusedError(
            f"{folder} already holds a training; go on with it by --resume, or choose another"
        )
    loop = _Loop(sources, validation, start=start, folder=folder, config=config, running=running)
    return loop.run()


def check_sources(sources: Sequence[Source], validation: Sequence[Source], card: ModelCard) -> None:
    """Refuses what cannot be trained on, before any work.

    Raises:
        UsageError: As `train_model` says.
    """
    if not sources:
        raise UsageError("there is nothing to train on: no labelled source was given")
    for source in (*sources, *validation):
        if source.channels != card.channels:
            raise UsageError(
                f"a source of {source.group} has {source.channels} bands; model {card.name} "
                f"expects {card.channels}: {', '.join(card.bands)}"
            )
    shared = {source.group for source in sources} & {source.group for source in validation}
    if shared:
        raise UsageError(
            f"groups {', '.join(sorted(shared))} are in training and in validation; split by place"
        )


class _Loop:
    """One training: network, optimizer and progress."""

    def __init__(
        self,
        sources: Sequence[Source],
        validation: Sequence[Source],
        *,
        start: ModelCard | Model,
        folder: Path,
        config: TrainConfig,
        running: Running,
    ) -> None:
        import keras

        self.card = start.card if isinstance(start, Model) else start
        self.config, self.running, self.folder = config, running, folder
        self.table = DrawTable(sources)
        plain = config.model_copy(update={"augmentation": NO_AUGMENTATION, "border_weight": 0.0})
        self.feed = Feed(Recipe(sources, self.card, config), running.client)
        self.validation = Feed(Recipe(validation, self.card, plain), running.client)
        self.validation_draws = validation_draws(validation, plain)
        self.strategy = make_strategy(config)
        keras.utils.set_random_seed(config.seed)
        precision = probe_device()[1] if config.precision == "auto" else config.precision
        with self.strategy.scope():
            self.network = build_unet(self.card, precision=precision)
            if isinstance(start, Model):
                # The card at hand may name other classes than the one that the weights lie beside.
                copy_weights(load_model(start.path), self.network)
            self.optimizer = make_optimizer(config)
            self.optimizer.build(self.network.trainable_variables)
        self.variables = [*self.network.variables, *self.optimizer.variables]
        self.step = make_train_step(self.network, self.optimizer, config, self.strategy)
        self.measure = make_measure(self.network, config)
        identity = _identity(start, config, sources, validation)
        kept = read_checkpoint(folder, identity, self.variables) if running.resume else None
        self.progress = kept or Progress(identity=identity)
        self.refusal: CoseisError | None = None

    def run(self) -> Training:
        batches = self._batches()
        for epoch in range(self.progress.epoch, self.config.epochs):
            row = self._train_epoch(epoch, batches)
            self._finish_epoch(epoch, row)
        history = list(self.progress.history)
        draw_curves(history, self.folder, kept_epoch=self.progress.kept_epoch)
        return Training(load_model(self.folder), history, self.progress.kept_epoch)

    def _train_epoch(self, epoch: int, batches: Iterator[Any]) -> dict[str, float]:
        """Trains the batches of an epoch that are still to do; its row of the history."""
        config, began = self.config, time.perf_counter()
        rows, waited, saved = list(self.progress.batches), 0.0, began
        for number in range(len(rows), config.steps_per_epoch):
            asked = time.perf_counter()
            batch = self._next_of(batches)
            waited += time.perf_counter() - asked
            loss, counts = self.step(batch)
            row = {"epoch": float(epoch), "step": float(number)} | _scores(float(loss), np.asarray(counts))
            rows.append(row)
            if self.running.on_step:
                self.running.on_step(row)
            if time.perf_counter() - saved > CHECKPOINT_EVERY_S:
                self._save(epoch, number + 1, rows)
                saved = time.perf_counter()
        seconds = time.perf_counter() - began
        counts = np.array([[row[name] for name in ("tp", "fp", "fn", "tn")] for row in rows]).sum(axis=0)
        scores = _scores(float(np.mean([row["loss"] for row in rows])), counts)
        write_rows(self.folder / BATCHES_NAME, rows)
        return {"epoch": float(epoch)} | scores | {"seconds": seconds, "waiting": waited / seconds}

    def _finish_epoch(self, epoch: int, row: dict[str, float]) -> None:
        """Validates the averaged weights, keeps them if they are the best, and goes on with the others."""
        trained = [np.asarray(variable) for variable in self.network.trainable_variables]
        if self.config.average:
            self.optimizer.finalize_variable_values(self.network.trainable_variables)
        if self.validation_draws:
            row |= self._validate()
        losses = [past["val_loss"] for past in self.progress.history if "val_loss" in past]
        kept_epoch = self.progress.kept_epoch
        if not self.validation_draws or row["val_loss"] < min(losses, default=np.inf):
            save_model(self.network, self.card, self.folder)
            kept_epoch = epoch
        for variable, values in zip(self.network.trainable_variables, trained, strict=True):
            variable.assign(values)
        history = (*self.progress.history, row)
        write_rows(self.folder / HISTORY_NAME, history)
        self.progress = self.progress.model_copy(update={"history": history, "kept_epoch": kept_epoch})
        self._save(epoch + 1, 0, [])
        if self.running.on_epoch:
            self.running.on_epoch(row)

    def _validate(self) -> dict[str, float]:
        """Loss and scores over all validation patches, each prefixed with val_."""
        losses, total, size = [], np.zeros(4), self.config.batch
        draws = self.validation_draws
        for number, batch in enumerate(self.validation.batches(draws, blur_px=0.0)):
            loss, counts = self.measure(*batch.arrays)
            losses.append(float(loss) * len(draws[number * size : (number + 1) * size]))
            total += np.asarray(counts)
        scores = _scores(sum(losses) / len(draws), total)
        return {f"val_{name}": value for name, value in scores.items()}

    def _plan(self) -> Iterator[tuple[Sequence[Draw], float]]:
        """Draws and blur of all epochs that are still to do, the first without what was done of it."""
        config, done = self.config, self.progress.step * self.config.batch
        for epoch in range(self.progress.epoch, config.epochs):
            yield self.table.draw_epoch(config, epoch)[done:], config.blur_of(epoch)
            done = 0

    def _batches(self) -> Iterator[Any]:
        """The feed as a tf.data dataset: batches are made and copied while the last one is trained on."""
        import tensorflow as tf

        config, card, plan = self.config, self.card, self._plan()
        side = config.core_px + 2 * halo_of(card, config)
        inner = side - 2 * VALID_SHRINK_PX if card.padding == "valid" else side
        plane = (config.batch, inner, inner)
        signature = (
            tf.TensorSpec((config.batch, side, side, card.channels), tf.float32),
            tf.TensorSpec(plane, tf.uint8),
            tf.TensorSpec(plane, tf.float16),
            tf.TensorSpec(plane, tf.float16),
        )

        def arrays() -> Iterator[tuple[npt.NDArray[np.generic], ...]]:
            try:
                yield from (batch.arrays for batch in self.feed.stream(plan))
            except CoseisError as error:
                self.refusal = error
                raise

        dataset = tf.data.Dataset.from_generator(arrays, output_signature=signature)
        options = tf.data.Options()
        # There is nothing to tune, and the end would wait for up to 10 s until the tuner wakes.
        options.autotune.enabled = False
        dataset = dataset.prefetch(PREFETCH).with_options(options)
        batches: Iterator[Any] = iter(self.strategy.experimental_distribute_dataset(dataset))
        keep_freed_memory()
        return batches

    def _next_of(self, batches: Iterator[Any]) -> Any:
        """The next batch; errors of the feed go round TensorFlow, which makes its own of them all."""
        import tensorflow as tf

        try:
            return next(batches)
        except tf.errors.OpError:
            if self.refusal is None:
                raise
            raise self.refusal from None

    def _save(self, epoch: int, step: int, rows: list[dict[str, float]]) -> None:
        self.progress = self.progress.model_copy(
            update={"epoch": epoch, "step": step, "batches": tuple(rows)}
        )
        write_checkpoint(self.folder, self.progress, self.variables)


def _scores(loss: float, counts: npt.NDArray[np.floating[Any]]) -> dict[str, float]:
    """Loss, counts and the scores that they give; 0 where a score is undefined."""
    tp, fp, fn, tn = (float(count) for count in counts)
    return {
        "loss": loss,
        "accuracy": (tp + tn) / max(tp + fp + fn + tn, 1),
        "precision": tp / max(tp + fp, 1),
        "recall": tp / max(tp + fn, 1),
        "f1": 2 * tp / max(2 * tp + fp + fn, 1),
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": tn,
    }


def _identity(
    start: ModelCard | Model, config: TrainConfig, sources: Sequence[Source], validation: Sequence[Source]
) -> str:
    """Digest of all that decides the weights: the labels by their counts, as images may be terabytes."""
    digest = hashlib.sha256(start.digest.encode() if isinstance(start, Model) else b"")
    card = start.card if isinstance(start, Model) else start
    parts = (card.model_dump(mode="json"), config.model_dump(mode="json"))
    digest.update(json.dumps(parts, sort_keys=True).encode())
    for source in (*sources, *validation):
        cells = source.cells()
        digest.update(repr((source.group, float(source.weight), tuple(source.shape))).encode())
        digest.update(cells.known.tobytes() + cells.landslide.tobytes())
    return digest.hexdigest()
