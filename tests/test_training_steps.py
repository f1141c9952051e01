"""Steps: rates rise and fall, two devices do what one does, what cannot be shared is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coseis.errors import UsageError
from coseis.model import build_unet
from coseis.training.augment import make_batch
from coseis.training.draws import DrawTable
from coseis.training.settings import NO_AUGMENTATION, TrainConfig
from coseis.training.steps import (
    FINAL_RATE,
    make_measure,
    make_optimizer,
    make_strategy,
    make_train_step,
    rate_at,
)
from making import a_card, a_patch

CONFIG = TrainConfig(
    epochs=4, patches_per_epoch=20, batch=4, core_px=32, halo_px=0, loss="cross_entropy",
    augmentation=NO_AUGMENTATION, precision="float32", devices=1,
)  # fmt: skip


def some_arrays(config: TrainConfig = CONFIG) -> tuple[np.ndarray, ...]:
    sources = [a_patch(64, 64)]
    draws = DrawTable(sources).draw_epoch(config, 0)[: config.batch]
    return make_batch(sources, draws, card=a_card(), config=config, blur_px=0).arrays


def train_steps(config: TrainConfig, count: int) -> tuple[list[float], list[float], list[list[float]]]:
    """Losses, the counts of the first step, and all weights after a few steps on one batch."""
    import keras
    import tensorflow as tf

    strategy = make_strategy(config)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        network = build_unet(a_card())
        optimizer = make_optimizer(config)
        optimizer.build(network.trainable_variables)
    step = make_train_step(network, optimizer, config, strategy)
    batches = tf.data.Dataset.from_tensors(some_arrays(config)).repeat(count)
    results = [step(batch) for batch in strategy.experimental_distribute_dataset(batches)]
    return (
        [float(loss) for loss, _ in results],
        np.asarray(results[0][1]).tolist(),
        [np.asarray(variable).ravel().tolist() for variable in [*network.variables, *optimizer.variables]],
    )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_two_devices_do_what_one_does(optimizer: str) -> None:
    # Devices are divided before TensorFlow starts, so in a process of its own.
    code = (
        "import json, sys, tensorflow as tf; from test_training_steps import CONFIG, train_steps;"
        "cpu = tf.config.list_physical_devices('CPU')[0];"
        "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2);"
        "config = lambda count: CONFIG.model_copy(update={'devices': count, 'optimizer': sys.argv[1],"
        " 'learning_rate': 3e-3});"
        "print(json.dumps([train_steps(config(count), 3) for count in (1, 2, 0)]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, optimizer], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    one, two, default = json.loads(run.stdout.splitlines()[-1])
    assert default == one
    np.testing.assert_allclose(two[0], one[0], rtol=1e-5)
    assert two[1] == one[1]
    for weight, other in zip(two[2], one[2], strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)
    assert one[0][-1] < one[0][0]


def test_devices_that_there_are_not_are_refused() -> None:
    with pytest.raises(UsageError, match="99 devices were asked for, but there are 1"):
        make_strategy(CONFIG.model_copy(update={"devices": 99}))


def test_a_batch_that_does_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind] * 3 if kind == "GPU" else [])
    for devices in (0, 3):
        with pytest.raises(UsageError, match="batch of 4 cannot be shared by 3 devices; give a multiple"):
            make_strategy(CONFIG.model_copy(update={"devices": devices}))


def test_without_a_gpu_one_processor_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["a", "b"] if kind == "CPU" else [])
    assert make_strategy(CONFIG.model_copy(update={"devices": 0})).num_replicas_in_sync == 1


def test_the_rate_rises_and_falls_along_a_cosine() -> None:
    config = CONFIG.model_copy(update={"epochs": 10, "patches_per_epoch": 80})
    rates = [rate_at(step, config) for step in range(201)]
    # 200 steps: 10 to warm up, then half a cosine.
    np.testing.assert_allclose(rates[:11], np.linspace(0, 1e-3, 11), atol=1e-9)
    phase = np.pi * np.arange(191) / 190
    expected = 1e-3 * (FINAL_RATE + (1 - FINAL_RATE) * (1 + np.cos(phase)) / 2)
    np.testing.assert_allclose(rates[10:], expected, rtol=1e-4)


def test_measuring_leaves_the_weights_alone() -> None:
    import keras

    keras.utils.set_random_seed(0)
    network = build_unet(a_card())
    before = [np.asarray(variable) for variable in network.variables]
    arrays = some_arrays()
    loss, counts = make_measure(network, CONFIG)(*arrays)
    assert float(loss) > 0
    assert np.asarray(counts).sum() == (arrays[3] > 0).sum() == 4 * 32 * 32
    for variable, values in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), values)
