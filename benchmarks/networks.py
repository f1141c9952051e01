"""A split's training part in, a trained network out: a plain U-Net, the paper's settings, and ours."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coseis.card import ModelCard, Normalization, Stretch
from coseis.features import stretch_intensity
from coseis.model import Model, load_model
from coseis.simulate import simulate_arrays
from coseis.training.measure import choose_threshold, predict_patch
from coseis.training.patches import Patch, scene_percentiles
from coseis.training.settings import NO_AUGMENTATION, TrainConfig
from coseis.training.trainer import Running, train_model
from ladder_splits import SYNTHETIC, TrainingPart, read_groups
from rungs import Fitted

BANDS = ("red", "green", "blue")
INPUTS = {
    "display": Stretch(low=0, high=255),
    # Makes forest and scars of surface reflectance as bright as in PlanetScope's visual product.
    "reflectance": Stretch(low=0, high=0.33, gamma=0.75),
}
SYNTHETIC_SEEDS = (11, 12, 13, 14)
SYNTHETIC_SIZE_PX = 768
SHARES = {"tiles": 0.4, "hrgldd": 0.4, "landslide4sense": 0.05, "synthetic": 0.15}
"""How the patches of a training divide over the sets that it has, whatever their area."""
NETWORKS = Path(__file__).parent / "results" / "networks"
"""Trained networks that several splits share; not kept in the repository."""
LONGEST_PREFIX = 12

TURNS = NO_AUGMENTATION.model_copy(update={"mirror": True, "rotate": True})
PAPER = TrainConfig(
    epochs=30,
    patches_per_epoch=17,
    batch=1,
    core_px=256,
    optimizer="sgd",
    learning_rate=1e-3,
    average=0.0,
    loss="cross_entropy",
    landslide_weight=1.7,
    border_weight=10.0,
    class_weight=(0.8022, 0.0),
    blur_px=(3.8566, 0.0),
    augmentation=NO_AUGMENTATION.model_copy(update={"rotate": True, "scale": 0.2}),
)
"""The paper's optimizer, epochs, batch, class, loss and blur weights. Its patches are 572 px, 500 an epoch:
here a window is as large as the labelled tiles of 256 px allow, and an epoch as long as the time does."""
PLAIN = TrainConfig(
    epochs=10,
    patches_per_epoch=360,
    average=0.0,
    loss="cross_entropy",
    landslide_weight=1.0,
    class_weight=(0.0, 0.0),
    augmentation=TURNS,
)
GENERAL = TrainConfig(epochs=15, patches_per_epoch=360, class_weight=(0.5, 0.25))
FINE_TUNE = TrainConfig(
    epochs=10, patches_per_epoch=360, class_weight=(0.0, 0.0), landslide_weight=1.0, augmentation=TURNS
)
"""On patches from the scene that is mapped: light and scale are known, so only the direction is changed."""


@dataclass(frozen=True)
class NetworkRung:
    """A U-Net. Its threshold has the best F1 on its training groups, predicted without augmentation.

    After a fine-tune it is 0.5: patches of the scene to be mapped have its share of landslides, the loss
    weighs none of them, and of the few that it has just learnt a network is too sure to choose by them.
    """

    name: str
    config: TrainConfig
    fine_tune: TrainConfig | None = None
    """Where all training patches are of one scene and there are others too: the network first learns from
    the others with `config`, then from these."""
    takes_also: bool = False
    repeats: int = 1
    flips: int = 1
    base_filters: int = 16
    padding: Any = "same"
    normalization: Normalization = field(default_factory=lambda: Normalization(kind="colour"))

    @property
    def settings(self) -> dict[str, Any]:
        """See `Rung`."""
        return {
            "version": 1,
            "config": self.config.model_dump(mode="json"),
            "fine_tune": self.fine_tune.model_dump(mode="json") if self.fine_tune else None,
            "flips": self.flips,
            "card": _dump_card(self.card(())),
            "shares": SHARES,
            "threshold": "0.5 after a fine-tune",
        }

    def fit(self, part: TrainingPart, seed: int) -> Fitted:
        """Trains, in one or two stages, and chooses the threshold on the training patches."""
        others = self._others(part)
        home = list(part.patches)
        if self.fine_tune and others and len({patch.percentiles.tobytes() for patch in home}) == 1:
            first = self._trained(others, self.card(others), self.config, seed)
            model = self._trained(home, first, self.fine_tune, seed)
            threshold = 0.5
        else:
            model = self._trained([*home, *others], self.card([*home, *others]), self.config, seed)
            threshold = choose_threshold(
                model.network(), home, card=model.card, flips=self.flips, prevalence=part.prevalence
            )
        network, card = model.network(), model.card
        return Fitted(
            lambda patch: predict_patch(
                network, dataclasses.replace(patch, mask=patch.mask * 0), card=card, flips=self.flips
            ),
            threshold,
            {"weights_sha256": model.digest, "training_s": round(_training_seconds(model), 1)},
        )

    def card(self, patches: Sequence[Patch]) -> ModelCard:
        """Of the network, but for its threshold."""
        return ModelCard(
            name=f"coseis-rgb-{self.base_filters}",
            bands=BANDS,
            inputs=INPUTS,
            normalization=self.normalization,
            resolution_m=(2.5, 6.0),
            padding=self.padding,
            base_filters=self.base_filters,
            halo_px={"same": 96, "valid": 94}[self.padding],
            training_sets=tuple(sorted({patch.group for patch in patches})),
            weights_sha256="",
        )

    def _others(self, part: TrainingPart) -> list[Patch]:
        if not self.takes_also:
            return []
        stored = [group for group in part.also if group != SYNTHETIC]
        patches = read_groups(part.folder, part.splits, stored) if stored else []
        return patches + (simulated_patches() if SYNTHETIC in part.also else [])

    def _trained(
        self, patches: Sequence[Patch], start: ModelCard | Model, config: TrainConfig, seed: int
    ) -> Model:
        """A network trained once; the same question again is answered from the disk."""
        config = config.model_copy(update={"seed": seed})
        question = {
            "config": config.model_dump(mode="json"),
            "card": _dump_card(start.card if isinstance(start, Model) else start),
            "start": start.digest if isinstance(start, Model) else None,
            "patches": _digest(patches),
            "shares": SHARES,
            "version": self.settings["version"],
        }
        key = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:LONGEST_PREFIX]
        folder = NETWORKS / key
        if not (folder / "card.json").exists():
            with tempfile.TemporaryDirectory() as scratch:
                train_model(
                    balance(patches), start=start, folder=scratch, config=config,
                    running=Running(on_epoch=lambda row: print(f"    {_epoch(row)}", flush=True)),
                )  # fmt: skip
                folder.mkdir(parents=True, exist_ok=True)
                for name in ("weights.h5", "history.csv", "card.json"):
                    (folder / name).write_bytes(Path(scratch, name).read_bytes())
        return load_model(folder)


PLAIN_UNET = NetworkRung("unet", PLAIN, normalization=Normalization(kind="scene"))
PAPER_SETTINGS = NetworkRung(
    "paper",
    PAPER,
    padding="valid",
    normalization=Normalization(kind="fixed", mean=(0.2, 0.22, 0.15), std=(0.15, 0.12, 0.1)),
)
OURS = NetworkRung("ours", GENERAL, FINE_TUNE, takes_also=True, repeats=5, flips=8)
NETWORK_RUNGS = (PLAIN_UNET, PAPER_SETTINGS, OURS)


def simulated_patches() -> list[Patch]:
    """Synthetic post-event scenes, in turn low hills and mountains, without clouds."""
    patches = []
    for seed in SYNTHETIC_SEEDS:
        _, post, mask = simulate_arrays(SYNTHETIC_SIZE_PX, seed=seed, preset="steep" if seed % 2 else "iburi")
        intensity = stretch_intensity(post[[2, 1, 0]].transpose(1, 2, 0), INPUTS["reflectance"])
        patches.append(Patch(intensity, mask, f"{SYNTHETIC}-{seed}", scene_percentiles(intensity)))
    return patches


def balance(patches: Sequence[Patch], shares: Mapping[str, float] = SHARES) -> list[Patch]:
    """The same patches with weights that give each set its share of the draws."""
    area = dict.fromkeys(shares, 0)
    for patch in patches:
        area[set_of(patch)] += patch.mask.size
    return [
        dataclasses.replace(patch, weight=shares[set_of(patch)] / area[set_of(patch)]) for patch in patches
    ]


def set_of(patch: Patch) -> str:
    """The set that a patch belongs to: what stands before the first hyphen of its group."""
    return patch.group.partition("-")[0]


def _dump_card(card: ModelCard) -> dict[str, Any]:
    """What of a card decides a training: thresholds that came to cards later would make all results old."""
    return card.model_dump(mode="json", exclude={"high_precision", "high_recall"})


def _training_seconds(model: Model) -> float:
    """Of the last stage of a network's training, whenever that was."""
    with (model.path / "history.csv").open(newline="", encoding="utf-8") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def _digest(patches: Sequence[Patch]) -> str:
    digest = hashlib.sha256()
    for patch in patches:
        digest.update(repr((patch.group, patch.name, patch.percentiles.tolist())).encode())
        digest.update(np.ascontiguousarray(patch.image).tobytes() + patch.mask.tobytes())
    return digest.hexdigest()


def _epoch(row: Mapping[str, float]) -> str:
    return f"epoch {row['epoch']:.0f}: loss {row['loss']:.4f}, f1 {row['f1']:.4f}, {row['seconds']:.0f} s"
