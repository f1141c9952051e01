"""From a folder of labelled images, the model that is shipped: weights.h5 and card.json in src/coseis/models.

    python tools/train_first_model.py DATA [--out FOLDER] [--epochs 15] [--normalization scene]

DATA holds hrgldd/planetscope_rgb_128.npz and iburi/planetscope (labelled tiles and scene_post.tif). Trains
twice: without one place and one event, for the threshold and the scores in the card; then on everything.
Takes some 20 minutes on two processor cores.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from coseis.card import ModelCard, Normalization, Stretch
from coseis.evaluate import Scores, score
from coseis.features import stretch_intensity
from coseis.patches import Patch, read_hrgldd, read_tiles, scene_percentiles
from coseis.simulate import simulate_arrays
from coseis.train import HISTORY_NAME, TrainConfig, choose_threshold, predict_patch, train_model
from coseis.types import LABEL_IGNORE

BANDS = ("red", "green", "blue")
INPUTS = {
    "display": Stretch(low=0, high=255),
    # Makes forest and scars of surface reflectance as bright as in PlanetScope's visual product.
    "reflectance": Stretch(low=0, high=0.33, gamma=0.75),
}
TILE_GROUPS = (("370", "371", "372", "407", "408"), ("373", "374", "375", "411"), ("623", "660"))
"""Neighbouring Iburi tiles, which share landslides."""
HELD_OUT = ("tiles-623-660", "hrgldd-4")
DRAWN_SHARE = {"tiles": 0.4, "hrgldd": 0.45, "synthetic": 0.15}
"""How the windows of training divide over the sources, whatever their area."""
SYNTHETIC_SEEDS = (11, 12, 13, 14)
SYNTHETIC_SIZE_PX = 768


def main() -> None:
    """Reads the options, trains and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "src" / "coseis" / "models")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--normalization", choices=("scene", "fixed"), default="scene")
    parser.add_argument("--no-synthetic", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    patches = read_patches(options.data, synthetic=not options.no_synthetic)
    config = TrainConfig(epochs=options.epochs, seed=options.seed)
    card = make_card(patches, options.normalization)
    threshold, metrics = measure(patches, card, config)
    card = card.model_copy(update={"threshold": threshold, "metrics": metrics})
    training = train_model(balance(patches), card=card, folder=options.out, config=config, on_epoch=report)
    (options.out / HISTORY_NAME).unlink()
    print(f"{training.model.path}: {training.model.digest}, threshold {threshold}")


def read_patches(data: Path, *, synthetic: bool) -> list[Patch]:
    """All patches, each group named after its source and event."""
    planetscope = data / "iburi" / "planetscope"
    patches = read_tiles(
        planetscope / "labelled", scene=planetscope / "scene_post.tif", groups=TILE_GROUPS
    ) + read_hrgldd(data / "hrgldd" / "planetscope_rgb_128.npz")
    return patches + (simulated_patches() if synthetic else [])


def simulated_patches() -> list[Patch]:
    """Synthetic post-event scenes, in turn low hills and mountains.

    Without clouds: they would lift the 98 % intensities that scenes are normalized by.
    """
    patches = []
    for seed in SYNTHETIC_SEEDS:
        preset: Literal["steep", "iburi"] = "steep" if seed % 2 else "iburi"
        _, post, mask = simulate_arrays(SYNTHETIC_SIZE_PX, seed=seed, preset=preset)
        intensity = stretch_intensity(post[[2, 1, 0]].transpose(1, 2, 0), INPUTS["reflectance"])
        patches.append(Patch(intensity, mask, f"synthetic-{seed}", scene_percentiles(intensity)))
    return patches


def make_card(patches: Sequence[Patch], kind: Literal["scene", "fixed"]) -> ModelCard:
    """The card but for threshold and metrics."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    if kind == "fixed":
        pixels = np.concatenate([patch.intensity.reshape(-1, len(BANDS)) for patch in patches])
        mean = tuple(round(float(value), 4) for value in np.nanmean(pixels, axis=0))
        std = tuple(round(float(value), 4) for value in np.nanstd(pixels, axis=0))
    tiles = sum(patch.group.startswith("tiles") for patch in patches)
    blocks = sorted({patch.group.removeprefix("hrgldd-") for patch in patches if "hrgldd" in patch.group})
    synthetic = sum(patch.group.startswith("synthetic") for patch in patches)
    sets = [
        f"Iburi 2018, PlanetScope, {tiles} labelled tiles",
        f"HR-GLDD, PlanetScope, event blocks {', '.join(blocks)}",
        f"{synthetic} synthetic events of coseis.simulate",
    ]
    return ModelCard(
        name="coseis-rgb-16",
        bands=BANDS,
        inputs=INPUTS,
        normalization=Normalization(kind=kind, mean=mean, std=std),
        resolution_m=(2.5, 6.0),
        padding="same",
        base_filters=16,
        halo_px=96,
        training_sets=tuple(sets if synthetic else sets[:2]),
        weights_sha256="",
    )


def balance(patches: Sequence[Patch]) -> list[Patch]:
    """The same patches with weights that give each source its share of the windows."""
    area = {
        source: sum(patch.mask.size for patch in patches if patch.group.startswith(source))
        for source in DRAWN_SHARE
    }
    return [
        dataclasses.replace(patch, weight=DRAWN_SHARE[source] / area[source])
        for patch in patches
        for source in [patch.group.partition("-")[0]]
    ]


def measure(
    patches: Sequence[Patch], card: ModelCard, config: TrainConfig
) -> tuple[float, dict[str, object]]:
    """Trains without the held-out groups; the threshold and the scores that these give."""
    kept = [patch for patch in patches if patch.group not in HELD_OUT]
    held_out = [patch for patch in patches if patch.group in HELD_OUT]
    with tempfile.TemporaryDirectory() as folder:
        model = train_model(balance(kept), card=card, folder=folder, config=config, on_epoch=report).model
        network = model.network("float32")
    threshold = choose_threshold(network, held_out, card=card, config=config)
    scores = {}
    for group in HELD_OUT:
        total = Scores()
        for patch in (patch for patch in held_out if patch.group == group):
            probability = predict_patch(network, patch, card=card, config=config)[..., 0]
            total += score(probability >= threshold, patch.mask == 1, patch.mask != LABEL_IGNORE)
        scores[group] = {name: round(value or 0.0, 4) for name, value in total.summary().items()}
        print(group, scores[group], flush=True)
    return threshold, {
        "protocol": f"A network trained alike without {' and '.join(HELD_OUT)} is scored on them at the "
        "card's threshold, which was chosen on the same patches (the best mean F1). The shipped weights "
        "were then trained on all groups and are not scored.",
        "held_out": scores,
    }


def report(row: dict[str, float]) -> None:
    """Prints one epoch."""
    print(time.strftime("%H:%M:%S"), {name: round(value, 4) for name, value in row.items()}, flush=True)


if __name__ == "__main__":
    main()
