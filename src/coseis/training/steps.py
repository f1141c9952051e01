"""A network and the settings in, the compiled step that trains it on one or several devices out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from coseis.errors import UsageError
from coseis.training.losses import count_batch, segmentation_loss
from coseis.training.settings import TrainConfig

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

WARM_UP = 0.05
"""Share of the steps in which the learning rate rises from 0."""
FINAL_RATE = 0.01
"""The last learning rate over the greatest."""
SGD_MOMENTUM = 0.99
GRADIENT_NORM = 1.0
"""What the gradient of each variable is clipped to."""

TrainStep = Callable[[Any], tuple[Any, Any]]


def make_strategy(config: TrainConfig) -> tf.distribute.Strategy:
    """One device: none. Several: a copy of the network on each, every batch divided between them.

    Keras's own distribution does nothing on TensorFlow, silently, so this is TensorFlow's.

    Raises:
        UsageError: There are fewer devices, or they cannot share a batch evenly.
    """
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    count = config.devices or max(1, len(gpus))
    if count > len(devices):
        raise UsageError(f"{count} devices were asked for, but there are {len(devices)}")
    if config.batch % count:
        raise UsageError(f"a batch of {config.batch} cannot be shared by {count} devices; give a multiple")
    if count == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([device.name for device in devices[:count]])


def make_optimizer(config: TrainConfig) -> keras.optimizers.Optimizer:
    """AdamW, or SGD with momentum as the paper; `make_train_step` sets the rate of each step."""
    import keras

    rate = config.learning_rate
    average = {"use_ema": config.average > 0, "ema_momentum": config.average or 0.99}
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=SGD_MOMENTUM, **average)
    return keras.optimizers.AdamW(rate, weight_decay=config.weight_decay, **average)


def rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate of a step, from 0 on: a straight warm-up, then half a cosine.

    Reference: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
    """
    steps = config.epochs * config.steps_per_epoch
    warm_up = round(WARM_UP * steps)
    if step < warm_up:
        return config.learning_rate * step / warm_up
    phase = math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return config.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(phase)) / 2)


def make_train_step(
    network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    config: TrainConfig,
    strategy: tf.distribute.Strategy,
) -> TrainStep:
    """A function of a batch that moves the weights and returns (loss, counts as of `count_batch`)."""
    import tensorflow as tf

    replicas = strategy.num_replicas_in_sync

    def replica_step(
        windows: tf.Tensor, classes: tf.Tensor, membership: tf.Tensor, weight: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            probability = network(windows, training=True)
            # Gradients are summed over the replicas, so that each gives its part of the mean.
            loss = segmentation_loss(classes, membership, weight, probability, config) / replicas
        variables = network.trainable_variables
        gradients = tape.gradient(loss, variables)
        if replicas > 1:
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        # Keras would clip the part of each replica; it sums what it is given, so each gives its part again.
        clipped = [tf.clip_by_norm(gradient, GRADIENT_NORM) / replicas for gradient in gradients]
        optimizer.apply_gradients(zip(clipped, variables, strict=True))
        return loss, count_batch(classes, membership, weight, probability)

    def train_step(batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        loss, counts = strategy.run(replica_step, args=batch)
        total = tf.distribute.ReduceOp.SUM
        return strategy.reduce(total, loss, axis=None), strategy.reduce(total, counts, axis=None)

    compiled = tf.function(train_step, reduce_retracing=True, autograph=False)

    def step(batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        # A schedule of Keras's is asked by every variable: 46 conditionals in the graph of a U-Net.
        optimizer.learning_rate = rate_at(int(np.asarray(optimizer.iterations)), config)
        loss, counts = compiled(batch)
        return loss, counts

    return step


def make_measure(network: keras.Model, config: TrainConfig) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """A function of a batch's arrays that returns (loss, counts) and leaves the weights alone."""
    import tensorflow as tf

    def measure(
        windows: tf.Tensor, classes: tf.Tensor, membership: tf.Tensor, weight: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        probability = network(windows, training=False)
        loss = segmentation_loss(classes, membership, weight, probability, config)
        return loss, count_batch(classes, membership, weight, probability)

    compiled: Callable[..., tuple[tf.Tensor, tf.Tensor]] = tf.function(
        measure, reduce_retracing=True, autograph=False
    )
    return compiled


@lru_cache(maxsize=4)
def compiled_network(network: Callable[..., Any]) -> Callable[[Any], Any]:
    """A network as a compiled function of windows (window, y, x, channel) of any size, made once.

    Called plainly it runs layer by layer through Python, on one core for most of the time.
    """
    import keras
    import tensorflow as tf

    if not isinstance(network, keras.Model):
        return lambda windows: network(windows, training=False)
    shape = tf.TensorSpec((None, None, None, network.input_shape[-1]), tf.float32)
    compiled: Callable[[Any], Any] = tf.function(
        lambda windows: network(windows, training=False), input_signature=[shape], autograph=False
    )
    return compiled
