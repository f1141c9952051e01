"""The model card: everything that is needed to rebuild a network and feed it, as one JSON value.

No Keras here: the planner and the CLI read cards without loading TensorFlow.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from coseis.types import InputKind, Phase, Value

Padding = Literal["same", "valid"]
LATTICE_PX = 16
"""Four 2x poolings: a window is exact only if its origin lies on this lattice."""
MAX_BANDS = 64
MAX_CLASSES = 64
MAX_FILTERS = 512
"""In the first level: 2 thousand million parameters."""
MAX_LETTERS = 200


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text!r} holds letters that do not print")
    return text


Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_LETTERS), AfterValidator(_printable)]
"""It is written into files and pages."""


class Stretch(Value):
    """Physical value to display intensity: ((value - low) / (high - low)) ** gamma, clipped to [0, 1]."""

    low: Finite
    high: Finite
    gamma: Annotated[Finite, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _rising(self) -> "Stretch":
        if self.low >= self.high:
            raise ValueError(f"stretch from {self.low:g} to {self.high:g}; expected low < high")
        return self


class Normalization(Value):
    """What the network sees of the intensity, pixel by pixel.

    fixed: (intensity - centre) / spread, band by band, with the card's `mean` and `std`.
    scene: the same with the scene's median and its 2-98 % range (both after the stretch), from the
    statistics in items.json; brightness differences between sensors and dates cancel.
    colour: the brightness by the scene (mean of the bands, of their medians and ranges), in green's place,
    and in the place of each other band the logarithm of its ratio to green. How much of a scene is bright
    soil moves its statistics, and with them all bands of the kind `scene`; ratios stay.
    """

    kind: Literal["fixed", "scene", "colour"]
    mean: tuple[Finite, ...] = ()
    std: tuple[Annotated[Finite, Field(gt=0)], ...] = ()


class ModelCard(Value):
    """One trained network. Digest and bands are checked at load; sizes are derived by `windows`."""

    name: Name
    bands: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_BANDS)]
    """STAC common names in the order of the network's channels."""
    phases: Annotated[tuple[Phase, ...], Field(min_length=1, max_length=2)] = ("post",)
    """What the network sees at once: scenes after the event, or those before and after it as channels, all
    bands of the one phase before those of the next. A network of one phase is run on each phase there is."""
    inputs: dict[InputKind, Stretch]
    """Input kinds that the network accepts, each with the stretch that makes them alike."""
    normalization: Normalization
    fill: Finite = 0.0
    """Value of a missing pixel, after normalization."""
    resolution_m: tuple[Annotated[Finite, Field(gt=0)], Annotated[Finite, Field(gt=0)]]
    """Least and greatest pixel size that the network was trained for, metres."""
    padding: Padding
    base_filters: Annotated[int, Field(ge=1, le=MAX_FILTERS)]
    levels: Literal[5] = 5
    classes: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_CLASSES)] = ("landslide",)
    """Names of the output channels; background is what is left. One class: sigmoid; several: softmax
    over background and the classes."""
    lattice_px: Literal[16] = 16
    halo_px: int
    """Context cut off each side of a window: 96 for same padding, 94 for valid (see `windows`)."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    high_precision: Annotated[float, Field(ge=0, le=1)] | None = None
    """Threshold from which on nine of ten pixels are landslides, see `confidence`; None: not known. Neither
    this nor the next changes a pixel, so they are no part of a run's identity."""
    high_recall: Annotated[float, Field(ge=0, le=1)] | None = None
    """Threshold above which nine of ten landslide pixels lie; None: not known."""
    training_sets: tuple[str, ...] = ()
    metrics: dict[str, Any] = {}
    licence: Annotated[str, Field(max_length=MAX_LETTERS)] = "Apache-2.0"
    weights_sha256: Annotated[str, Field(max_length=64)]
    """Digest of weights.h5 as stored; the model digest of a run's identity."""

    @property
    def channels(self) -> int:
        """Length of the network's input."""
        return len(self.bands) * len(self.phases)

    @property
    def parameters(self) -> int:
        """How many numbers the network of `model.build_unet` has."""
        filters = [self.base_filters << level for level in range(self.levels)]
        outputs = len(self.classes) + (len(self.classes) > 1)
        below = [self.channels, *filters[:-1]]
        down = sum(9 * n * (given + n) + 2 * n for n, given in zip(filters, below, strict=True))
        # Up: a 2x2 convolution from twice the filters, then two of 3x3, the first over the skip too.
        up = sum(8 * n * n + n + 27 * n * n + 2 * n for n in filters[:-1])
        return down + up + self.base_filters * outputs + outputs

    @model_validator(mode="after")
    def _consistent(self) -> "ModelCard":
        expected = {"same": 96, "valid": 94}[self.padding]
        if self.halo_px != expected:
            raise ValueError(
                f"halo_px is {self.halo_px}, but {self.padding} padding with 5 levels needs {expected}"
            )
        if self.normalization.kind == "fixed":
            got = (len(self.normalization.mean), len(self.normalization.std))
            if got != (self.channels, self.channels):
                raise ValueError(f"fixed normalization has {got} means and stds for {self.channels} channels")
        if self.normalization.kind == "colour" and "green" not in self.bands:
            raise ValueError(f"colour normalization needs green beside {', '.join(self.bands)}")
        if self.resolution_m[0] > self.resolution_m[1]:
            raise ValueError(f"resolution_m is {self.resolution_m}; expected the least pixel size first")
        sure = [
            value for value in (self.high_recall, self.threshold, self.high_precision) if value is not None
        ]
        if sure != sorted(sure):
            raise ValueError(
                f"the thresholds high_recall, threshold and high_precision are {sure}; expected rising ones"
            )
        if not self.inputs:
            raise ValueError("the card accepts no input kind; expected display, reflectance or both")
        return self
