"""How a model is trained, as checked values: what is drawn, how it is changed, what the loss is."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from coseis.types import Value

LossName = Literal["cross_entropy", "cross_entropy_dice", "dice", "focal", "generalized"]


class Augmentation(Value):
    """How far a training window may be changed; `NO_AUGMENTATION` leaves it as it is."""

    rotate: bool = True
    """By any angle."""
    mirror: bool = True
    scale: float = Field(0.2, ge=0, le=1)
    """Standard deviation of the logarithm of the scale factor, cut off at twice that."""
    gain: float = Field(0.15, ge=0)
    """Standard deviation of the logarithm of a gain for all bands (haze, sun, sensor)."""
    band_gain: float = Field(0.08, ge=0)
    """The same, a band on its own (colour)."""
    gamma: float = Field(0.15, ge=0)
    """Standard deviation of the logarithm of an exponent on the intensity (another tone curve)."""
    offset: float = Field(0.03, ge=0)
    """Standard deviation of an intensity added to all bands (haze)."""
    statistics: float = Field(0.4, ge=0)
    """Standard deviation of a scene's centre in units of its spread, and of the logarithm of its spread: a
    scene with more or fewer scars, clouds or fields has other percentiles."""
    noise: float = Field(0.01, ge=0)
    """Greatest standard deviation of noise in each pixel, intensity; most windows have little."""
    missing: float = Field(0.1, ge=0, le=1)
    """Share of windows that lose a strip along one side, like those at the border of a scene."""


NO_AUGMENTATION = Augmentation(
    rotate=False, mirror=False, scale=0, gain=0, band_gain=0, gamma=0, offset=0, statistics=0, noise=0,
    missing=0,
)  # fmt: skip


class TrainConfig(Value):
    """How a model is trained; the defaults suit some hundred patches on two processor cores."""

    epochs: int = Field(15, ge=1, description="Passes; validation and a checkpoint after each.")
    patches_per_epoch: int = Field(360, ge=1, description="Patches drawn an epoch.")
    batch: int = Field(6, ge=1, description="Patches a step of the optimizer.")
    core_px: int = Field(
        128, ge=16, multiple_of=16, description="Side of the part of a patch that the loss is taken on, px."
    )
    halo_px: int = Field(
        16,
        ge=0,
        multiple_of=16,
        description="Context around the core with `same` padding, px; `valid` always takes its 94.",
    )
    """The halo of prediction, 96, costs six times a core of 128, 16 costs 1.6 times; what the network does
    near its zero border is then learnt too, and cut off when it predicts."""
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd has momentum 0.99, as the paper.")
    learning_rate: float = Field(1e-3, gt=0, description="After the warm-up; falls along a cosine.")
    weight_decay: float = Field(1e-4, ge=0, description="Of adamw.")
    average: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Momentum of the moving average of the weights, which is validated and kept; 0: none.",
    )
    loss: LossName = Field("cross_entropy_dice", description="What is minimized.")
    landslide_weight: float = Field(
        1.5, gt=0, description="Weight of landslide pixels in the cross-entropy, background being 1."
    )
    border_weight: float = Field(
        0,
        ge=0,
        description="Greatest extra weight of background between neighbouring landslides; U-Net's: 10.",
    )
    class_weight: tuple[float, float] = Field(
        (0.5, 0.0),
        description="Share of patches drawn around landslides at the start and at the end; the others are "
        "drawn evenly.",
    )
    blur_px: tuple[float, float] = Field(
        (0.0, 0.0), description="How far labels fade out beyond their border at the start and at the end, px."
    )
    augmentation: Augmentation = Augmentation()
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="What convolutions compute in; auto: bfloat16 where the hardware has it."
    )
    devices: int = Field(
        0, ge=0, description="Devices that share each batch; 0: all GPUs, or the CPU where there is none."
    )
    seed: int = Field(0, ge=0, description="Same seed, same patches, same start.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, (start, end) in (("class_weight", self.class_weight), ("blur_px", self.blur_px)):
            if not 0 <= end <= start:
                raise ValueError(
                    f"{name} goes from {start:g} to {end:g}; expected a fall that ends at 0 or above"
                )
        if self.class_weight[0] > 1:
            raise ValueError(f"class_weight starts at {self.class_weight[0]:g}; a share is at most 1")
        return self

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch; the last one is filled up, so that all have one shape."""
        return -(-self.patches_per_epoch // self.batch)

    def class_weight_of(self, epoch: int) -> float:
        """Share of an epoch's patches drawn around landslides."""
        return _between(self.class_weight, epoch, self.epochs)

    def blur_of(self, epoch: int) -> float:
        """How far labels fade out in an epoch, px."""
        return _between(self.blur_px, epoch, self.epochs)


def _between(ends: tuple[float, float], epoch: int, epochs: int) -> float:
    """From the first to the last value, evenly over the epochs."""
    start, end = ends
    return start + (end - start) * epoch / max(1, epochs - 1)
