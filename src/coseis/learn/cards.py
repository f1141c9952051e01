"""The wanted network and what it is trained on in, the card or the model that a training starts from out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coseis.card import ModelCard, Normalization
from coseis.errors import UsageError
from coseis.learn.config import SHIPPED, StartConfig
from coseis.learn.parts import describe_groups
from coseis.model import Model, load_model
from coseis.training.augment import cut_square
from coseis.training.cubes import CubeSource
from coseis.training.draws import DrawTable
from coseis.training.settings import NO_AUGMENTATION, TrainConfig
from coseis.training.sources import Source
from coseis.windows import HALO_PX

MEASURED_PATCHES = 64
"""Patches that give mean and deviation for fixed normalization: a million pixels at the default core."""


def begin_model(wanted: StartConfig, classes: tuple[str, ...], folder: Path) -> ModelCard | Model:
    """The model to go on from, or the card of a new network, as far as the settings say it.

    Scores of the start's own weights are left behind, and the thresholds that follow from them.

    Args:
        wanted: The start, or bands, phases, size and normalization of a new network.
        classes: Of the labels.
        folder: Where the trained model goes; its name is the model's unless one is given.

    Raises:
        UsageError: No such model, it knows other classes, or it is the one that would be overwritten.
    """
    base = load_model(None if wanted.start in (None, SHIPPED) else wanted.start)
    name = wanted.name or folder.resolve().name
    if wanted.start is not None:
        if base.path.resolve() == folder.resolve():
            raise UsageError(f"--out {folder} is the model to start from; choose another folder")
        if len(classes) != len(base.card.classes):
            raise UsageError(
                f"labels have the classes {', '.join(classes)}, but model {base.card.name} knows "
                f"{', '.join(base.card.classes)}; train a new network without --start"
            )
        unknown: dict[str, Any] = {"metrics": {}, "high_precision": None, "high_recall": None}
        return base.model_copy(update={"card": base.card.model_copy(update={"name": name, **unknown})})
    bands, phases = wanted.bands or ("red", "green", "blue"), wanted.phases or ("post",)
    channels = len(bands) * len(phases)
    padding = wanted.padding or "same"
    return ModelCard(
        name=name,
        bands=bands,
        phases=phases,
        # Sensors are stretched alike in all models, so that their intensities can be compared.
        inputs=base.card.inputs,
        normalization=Normalization(kind="scene")
        if wanted.normalization != "fixed"
        else Normalization(kind="fixed", mean=(0,) * channels, std=(1,) * channels),
        resolution_m=base.card.resolution_m,
        padding=padding,
        base_filters=wanted.base_filters or 16,
        classes=classes,
        halo_px=HALO_PX[padding],
        weights_sha256="",
    )


def complete_model(
    start: ModelCard | Model, sources: Sequence[Source], *, trained_on: Sequence[Source], config: TrainConfig
) -> ModelCard | Model:
    """The start with what its card can say only once the sources are known.

    Args:
        start: From `begin_model`.
        sources: All of them, before the split: their pixel sizes are what the model is for.
        trained_on: The training part, which is named and, for a new network, measured.
        config: Of the training.
    """
    if isinstance(start, Model):
        card = _complete_card(start.card, sources, trained_on, reach=1.0, has_range=True)
        return start.model_copy(update={"card": card})
    # Training scales its patches by a factor of this standard deviation.
    reach = float(np.exp(config.augmentation.scale))
    has_range = not all(isinstance(source, CubeSource) for source in sources)
    card = _complete_card(start, sources, trained_on, reach=reach, has_range=has_range)
    if card.normalization.kind == "fixed":
        card = card.model_copy(update={"normalization": _measure_normalization(trained_on, config)})
    return card


def _complete_card(
    card: ModelCard,
    sources: Sequence[Source],
    trained_on: Sequence[Source],
    *,
    reach: float,
    has_range: bool,
) -> ModelCard:
    """Names what is trained on; pixel sizes: the card's own, if it has a range, and the regions'."""
    sizes_m = [abs(source.recipe.geobox.affine.a) for source in sources if isinstance(source, CubeSource)]
    ends_m = [*(card.resolution_m if has_range else ()), *(size * reach for size in sizes_m)]
    ends_m += [size / reach for size in sizes_m]
    return card.model_copy(
        update={
            "resolution_m": (round(min(ends_m), 2), round(max(ends_m), 2)),
            "training_sets": (*card.training_sets, *describe_groups(trained_on)),
        }
    )


def _measure_normalization(sources: Sequence[Source], config: TrainConfig) -> Normalization:
    """Mean and deviation of each channel's intensity, over patches drawn evenly from what is labelled."""
    evenly = config.model_copy(
        update={
            "augmentation": NO_AUGMENTATION,
            "class_weight": (0.0, 0.0),
            "patches_per_epoch": MEASURED_PATCHES,
        }
    )
    draws = DrawTable(sources).draw_epoch(evenly, epoch=0)
    squares = [cut_square(sources[draw.source], draw, size_px=config.core_px) for draw in draws]
    pixels = np.concatenate([square.intensity.reshape(-1, square.intensity.shape[-1]) for square in squares])
    observed = pixels[~np.isnan(pixels).any(axis=1)].astype(np.float64)
    if not len(observed):
        raise UsageError("no pixel of what is to be trained on was observed, so it has no mean intensity")
    mean, std = observed.mean(axis=0), np.maximum(observed.std(axis=0), 1e-3)
    return Normalization(kind="fixed", mean=tuple(mean.round(4)), std=tuple(std.round(4)))
