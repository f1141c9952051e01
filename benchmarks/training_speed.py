"""Nothing in, one line of JSON out: our training beside Keras's bare train step on a batch in memory.

    python benchmarks/training_speed.py [--quick] [--filters 16] [--steps 60] [--rounds 3] [--workers 1]

Both train the same network with the same optimizer on windows of the same shape and count, a round of one
after a round of the other, in one process: a machine shared with others changes its speed within minutes.
Keras's is `train_on_batch` on tensors. Ours draws, cuts, turns, lights and normalizes every window by Dask
tasks on a local cluster of other processes (0 workers: in this process), and saves the model after each
round, which is not counted. On a machine whose cores the network fills, the ratio tells what all that costs.
Both keep freed memory, as the process is one and coseis has it do so (see `coseis.allocator`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from coseis.card import ModelCard, Normalization, Stretch
from coseis.cluster import connected
from coseis.config import ClusterConfig
from coseis.model import build_unet
from coseis.training.augment import make_batch
from coseis.training.draws import DrawTable
from coseis.training.patches import Patch, scene_percentiles
from coseis.training.settings import TrainConfig
from coseis.training.steps import make_optimizer
from coseis.training.trainer import Running, train_model
from machine import describe_machine


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps of a small network: does it run?")
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.quick:
        options.filters, options.steps, options.rounds = 4, 2, 1
    card = _card(options.filters)
    patches = [_patch(seed) for seed in range(12)]
    config = TrainConfig(epochs=options.rounds + 1, patches_per_epoch=6 * options.steps, precision="float32")
    keras_round = _keras_round(card, patches, config)
    keras_s: list[float] = []
    running = Running(on_epoch=lambda _: keras_s.append(keras_round()))
    if options.workers:
        with connected(ClusterConfig(workers=options.workers, threads=1)) as client:
            history = _our_rounds(card, patches, config, replace(running, client=client))
    else:
        history = _our_rounds(card, patches, config, running)
    # The first round of each compiles its step.
    keras_s, ours_s = keras_s[1:], [row["seconds"] for row in history[1:]]
    ratios = [one / other for one, other in zip(keras_s, ours_s, strict=True)]
    pixels = config.steps_per_epoch * config.batch * (config.core_px + 2 * config.halo_px) ** 2
    print(
        json.dumps(
            {
                "benchmark": "training_speed",
                "machine": describe_machine(("coseis", "tensorflow", "keras", "dask")),
                "filters": options.filters,
                "window_px": config.core_px + 2 * config.halo_px,
                "batch": config.batch,
                "steps": config.steps_per_epoch,
                "workers": options.workers,
                "keras_s": [round(seconds, 2) for seconds in keras_s],
                "coseis_s": [round(seconds, 2) for seconds in ours_s],
                "keras_mpx_s": round(pixels / median(keras_s) / 1e6, 3),
                "coseis_mpx_s": round(pixels / median(ours_s) / 1e6, 3),
                "ratios": [round(ratio, 3) for ratio in ratios],
                "ratio": round(median(ratios), 3),
                "waiting_share": round(float(np.mean([row["waiting"] for row in history[1:]])), 4),
            }
        )
    )


def _our_rounds(
    card: ModelCard, patches: Sequence[Patch], config: TrainConfig, running: Running
) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        return train_model(patches, start=card, folder=folder, config=config, running=running).history


def _keras_round(card: ModelCard, patches: Sequence[Patch], config: TrainConfig) -> Callable[[], float]:
    """A function that trains as many steps as a round has on one batch in memory, and returns the seconds."""
    import keras
    import tensorflow as tf

    draws = DrawTable(patches).draw_epoch(config, 0)[: config.batch]
    batch = make_batch(patches, draws, card=card, config=config, blur_px=0.0)
    network = build_unet(card)
    network.compile(make_optimizer(config), keras.losses.BinaryCrossentropy(), metrics=["accuracy"])
    membership = tf.cast(batch.membership[..., None], tf.float32)
    arrays = tf.constant(batch.windows), membership, tf.cast(batch.weight, tf.float32)

    def train() -> float:
        started = time.perf_counter()
        for _ in range(config.steps_per_epoch):
            network.train_on_batch(*arrays)
        return time.perf_counter() - started

    return train


def _card(filters: int) -> ModelCard:
    return ModelCard(
        name=f"speed-{filters}",
        bands=("red", "green", "blue"),
        inputs={"display": Stretch(low=0, high=255)},
        normalization=Normalization(kind="colour"),
        resolution_m=(2.5, 6),
        padding="same",
        base_filters=filters,
        halo_px=96,
        weights_sha256="",
    )


def _patch(seed: int) -> Patch:
    """Noise of 256 px with a tenth of landslides: what is learnt does not matter here."""
    random = np.random.default_rng(seed)
    image = random.integers(1, 255, (256, 256, 3), dtype=np.uint8)
    mask = np.kron(random.random((16, 16)) < 0.1, np.ones((16, 16))).astype(np.uint8)
    return Patch(image, mask, f"noise-{seed}", scene_percentiles(image / np.float32(255)))


if __name__ == "__main__":
    main()
