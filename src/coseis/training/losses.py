"""Labels and probabilities of a batch in, the scalar that training minimizes and the batch's counts out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coseis.training.settings import TrainConfig

if TYPE_CHECKING:
    import tensorflow as tf

GENERALIZED_Q = 0.7
"""Between 0, cross-entropy, and 1, mean absolute error."""


def segmentation_loss(
    classes: tf.Tensor, membership: tf.Tensor, weight: tf.Tensor, probability: tf.Tensor, config: TrainConfig
) -> tf.Tensor:
    """The loss that the settings name, a float32 scalar.

    Cross-entropy and focal loss are sums over the pixels that count, divided by all pixels of the batch's
    cores: so the mean over replicas of equal shares is that of the whole batch.

    Args:
        classes: uint8 (example, y, x), 0 background.
        membership: (example, y, x) in [0, 1], how much a pixel belongs to its class.
        weight: (example, y, x), 0 where nothing counts.
        probability: float32 (example, y, x, channel), as `build_unet` puts it out.
        config: Name and weights.

    Reference:
        Dice: Milletari, Navab and Ahmadi 2016, doi:10.1109/3DV.2016.79, here as Keras has it. Focal: Lin et
        al. 2017, doi:10.1109/ICCV.2017.324. Generalized cross-entropy, for labels that are partly wrong:
        Zhang and Sabuncu 2018, arXiv:1805.07836.
    """
    import tensorflow as tf

    target = _targets(classes, tf.cast(membership, tf.float32), probability.shape[-1])
    weight = tf.cast(weight, tf.float32)
    landslide = tf.where(classes > 0, tf.cast(membership, tf.float32), 0.0)
    if config.loss == "dice":
        return _dice(target, probability, weight)
    of_pixel = _pixel_loss(target, probability, config)
    emphasis = weight * (1 + (config.landslide_weight - 1) * landslide)
    side = float(config.core_px)
    pixels = tf.cast(tf.shape(weight)[0], tf.float32) * side * side
    loss = tf.reduce_sum(of_pixel * emphasis) / pixels
    if config.loss == "cross_entropy_dice":
        loss += 0.5 * _dice(target, probability, weight)
    return loss


def count_batch(
    classes: tf.Tensor, membership: tf.Tensor, weight: tf.Tensor, probability: tf.Tensor
) -> tf.Tensor:
    """float32 (4,): tp, fp, fn, tn of any class at probability 0.5, over the pixels that count."""
    import tensorflow as tf

    counted = weight > 0
    truth = (classes > 0) & (membership >= 0.5)
    landslide = probability[..., 0] if probability.shape[-1] == 1 else 1 - probability[..., 0]
    predicted = landslide >= 0.5
    cells = (truth & predicted, ~truth & predicted, truth & ~predicted, ~truth & ~predicted)
    return tf.stack([tf.reduce_sum(tf.cast(cell & counted, tf.float32)) for cell in cells])


def _targets(classes: tf.Tensor, membership: tf.Tensor, channels: int) -> tf.Tensor:
    """float32 (example, y, x, channel): the membership in the class's channel, the rest in background."""
    import tensorflow as tf

    landslide = tf.where(classes > 0, membership, 0.0)[..., None]
    if channels == 1:
        return landslide
    of_class = tf.one_hot(tf.cast(classes, tf.int32), channels)
    background = tf.one_hot(tf.zeros_like(classes, tf.int32), channels)
    return of_class * landslide + background * (1 - landslide)


def _pixel_loss(target: tf.Tensor, probability: tf.Tensor, config: TrainConfig) -> tf.Tensor:
    """float32 (example, y, x)."""
    import keras
    import tensorflow as tf

    binary = probability.shape[-1] == 1
    if binary and config.loss in ("focal", "generalized"):
        # Keras's binary focal loss treats a faded label otherwise than its categorical one.
        target, probability = (tf.concat([1 - part, part], axis=-1) for part in (target, probability))
    if config.loss == "focal":
        # Its alpha would weigh all classes alike; `landslide_weight` is the balance of classes here.
        return keras.losses.categorical_focal_crossentropy(target, probability, alpha=1.0)
    if config.loss == "generalized":
        of_label = tf.clip_by_value(tf.reduce_sum(target * probability, axis=-1), 1e-6, 1)
        return (1 - of_label**GENERALIZED_Q) / GENERALIZED_Q
    entropy = keras.losses.binary_crossentropy if binary else keras.losses.categorical_crossentropy
    return entropy(target, probability)


def _dice(target: tf.Tensor, probability: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Of the landslide classes, over the batch; what does not count is 0 on both sides."""
    import keras
    import tensorflow as tf

    counted = tf.cast(weight > 0, tf.float32)[..., None]
    first = 0 if probability.shape[-1] == 1 else 1
    return keras.losses.dice(target[..., first:] * counted, probability[..., first:] * counted)
