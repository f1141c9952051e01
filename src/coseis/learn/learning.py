"""A configuration goes in, a trained model with its card, threshold and history comes out in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from distributed import Client
from pydantic import AfterValidator, ValidationError
from rich.console import Console

from coseis.backends import probe_device
from coseis.card import ModelCard
from coseis.cluster import connected
from coseis.confidence import sure_thresholds
from coseis.errors import InputRefusedError, UsageError
from coseis.evaluation.scores import Scores, score
from coseis.event import Found
from coseis.learn.cards import begin_model, complete_model
from coseis.learn.config import LearnConfig
from coseis.learn.parts import Parts, divide_sources
from coseis.learn.regions import find_region, open_patches, open_region
from coseis.model import Model, save_model
from coseis.predict import to_codes
from coseis.progress import one_step, progress_bars
from coseis.security import check_scheduler
from coseis.training.checkpoint import CHECKPOINT_NAME
from coseis.training.measure import best_threshold, count_codes, predict_source
from coseis.training.sources import Source
from coseis.training.trainer import Running, Training, train_model
from coseis.types import LABEL_IGNORE, Value, least_code

FROZEN_NAME = "training.json"


class Frozen(Value):
    """What a training was begun with: a resumed one does not search again, for catalogs grow."""

    config: Annotated[LearnConfig, AfterValidator(lambda config: config.public)]
    found: tuple[Found, ...]
    """The measured scenes of each region."""


@dataclass(frozen=True)
class Learned:
    """What a training gave."""

    model: Model
    epoch: dict[str, float]
    """Row of history.csv of the epoch that was kept."""
    epochs: int
    scores: Scores | None
    """Of the validation part at the card's threshold, which was chosen on it; None without one."""
    waiting: float
    """Share of the seconds in which the network waited for patches."""


def learn_model(
    config: LearnConfig,
    *,
    client: Client | None = None,
    console: Console | None = None,
    tell: Callable[[str], None] | None = None,
) -> Learned:
    """Trains a new model on labelled regions and patches, or goes on from one (fine-tune).

    Args:
        config: The resolved configuration.
        client: A connected Dask client to use in place of the configured cluster; it is left open.
        console: Where progress is shown; default: nowhere.
        tell: Called with a line an epoch; default: they are printed above the progress bar.

    Returns:
        The model, the history row of its epoch, and its scores on the validation part, if there is one.

    Raises:
        UsageError: the configuration, the labels, the area or the model is at fault.
        InputRefusedError: the catalog, an asset or the folder is.
        UnreachableError: the catalog or the scheduler does not answer, or is lost.
    """
    folder = Path(config.output.out)
    if client is None:
        check_scheduler(config.cluster)
    _check_folder(folder, resume=config.output.resume)
    start = begin_model(config.model, _classes(config), folder)
    card = start.card if isinstance(start, Model) else start
    with progress_bars(console) as progress:
        with one_step(progress, "search scenes, read labels"):
            frozen = _freeze(config, card, folder)
            sources = _open_sources(frozen, card)
            parts = divide_sources(sources, config.validation, card=card, seed=config.training.seed)
            start = complete_model(start, sources, trained_on=parts.train, config=config.training)
            _write_frozen(frozen, folder)
        epochs, steps = config.training.epochs, config.training.steps_per_epoch
        bar = progress.add_task("train", total=epochs * steps)

        def show_step(row: dict[str, float]) -> None:
            done = int(row["epoch"]) * steps + int(row["step"]) + 1
            progress.update(bar, completed=done, description=f"train, loss {row['loss']:.3f}")

        def show_epoch(row: dict[str, float]) -> None:
            (tell or progress.console.print)(_describe_epoch(row, epochs))

        # The cluster comes last: a wrong request must not wait for it.
        with connected(config.cluster, client) as connection:
            # Before Keras: it imports TensorFlow without the lines that this writes to stderr.
            probe_device()
            training = train_model(
                parts.train,
                parts.validation,
                start=start,
                folder=folder,
                config=config.training,
                running=Running(connection, config.output.resume, show_step, show_epoch),
            )
        with one_step(progress, "choose the threshold"):
            return _conclude(training, parts, folder)


def _check_folder(folder: Path, *, resume: bool) -> None:
    """Refuses what `train_model` would, but before a catalog is searched or a cluster started."""
    if folder.exists() and not folder.is_dir():
        raise InputRefusedError(f"--out {folder} is a file; expected a folder, new or empty")
    if (folder / CHECKPOINT_NAME).exists() and not resume:
        raise InputRefusedError(
            f"{folder} already holds a training; go on with it by --resume, or choose another --out"
        )


def _classes(config: LearnConfig) -> tuple[str, ...]:
    """What the labels distinguish; patches know landslides only."""
    several = list(dict.fromkeys(region.classes for region in config.regions)) or [("landslide",)]
    if len(several) > 1:
        raise UsageError(
            f"regions have the classes {' and '.join(', '.join(classes) for classes in several)}; expected "
            "the same in all, for each is a channel of the network"
        )
    return several[0]


def _freeze(config: LearnConfig, card: ModelCard, folder: Path) -> Frozen:
    """The scenes of all regions: found now, or as they were when the training began."""
    path = folder / FROZEN_NAME
    if not (config.output.resume and path.exists()):
        return Frozen(config=config, found=tuple(find_region(region, card) for region in config.regions))
    try:
        kept = Frozen.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputRefusedError(f"{path} is not what a training was begun with: {error}") from error
    for stage in ("regions", "patches", "model", "training", "validation"):
        if getattr(kept.config, stage) != getattr(config.public, stage):
            raise InputRefusedError(
                f"{folder} holds a training with other settings of {stage}; repeat those in {path}, or "
                "choose another --out"
            )
    return kept


def _write_frozen(frozen: Frozen, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FROZEN_NAME).write_text(frozen.model_dump_json(indent=1), encoding="utf-8")
    except OSError as error:
        raise InputRefusedError(f"--out {folder} cannot be written ({error.strerror})") from error


def _open_sources(frozen: Frozen, card: ModelCard) -> list[Source]:
    regions = zip(frozen.config.regions, frozen.found, strict=True)
    sources: list[Source] = [open_region(region, found, card) for region, found in regions]
    for patches in frozen.config.patches:
        sources += open_patches(patches)
    return sources


def _conclude(training: Training, parts: Parts, folder: Path) -> Learned:
    """Chooses the threshold on the validation part, and writes it and its scores into the card."""
    model, history = training.model, training.history
    scores = None
    if parts.validation:
        network = model.network()
        counts = count_codes(network, parts.validation, card=model.card)
        threshold = best_threshold(counts)
        high_precision, high_recall = sure_thresholds(counts, threshold)
        scores = _score(model, parts, threshold)
        metrics = {
            "protocol": f"Pixels of {parts.protocol}, at the card's threshold. Epoch and threshold were "
            "chosen on these same pixels.",
            "validation": {name: value and round(value, 4) for name, value in scores.summary().items()},
        }
        card = model.card.model_copy(
            update={
                "threshold": threshold,
                "high_precision": high_precision,
                "high_recall": high_recall,
                "metrics": metrics,
            }
        )
        model = save_model(network, card, folder)
    seconds = np.array([row["seconds"] for row in history])
    waiting = float((seconds * [row["waiting"] for row in history]).sum() / seconds.sum())
    return Learned(model, history[training.kept_epoch], len(history), scores, waiting)


def _score(model: Model, parts: Parts, threshold: float) -> Scores:
    total = Scores()
    for source in parts.validation:
        for _, _, probability, classes in predict_source(model.network(), source, card=model.card):
            known = classes != LABEL_IGNORE
            total += score(to_codes(probability) >= least_code(threshold), (classes > 0) & known, known)
    return total


def _describe_epoch(row: dict[str, float], epochs: int) -> str:
    line = f"epoch {int(row['epoch']) + 1} of {epochs}: loss {row['loss']:.4f}, F1 {row['f1']:.4f}"
    if "val_loss" in row:
        line += f"; validation loss {row['val_loss']:.4f}, F1 {row['val_f1']:.4f}"
    return f"{line}; {row['seconds']:.0f} s, {100 * row['waiting']:.1f} % waiting for patches"
