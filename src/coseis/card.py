"""The model card: everything that is needed to rebuild a network and feed it, as one JSON value.

No Keras here: the planner and the CLI read cards without loading TensorFlow.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from coseis.types import InputKind, Phase, Value

Padding = Literal["same", "valid"]
LATTICE_PX = 16
"""Four 2x poolings: a window is exact only if its origin lies on this lattice."""


class Stretch(Value):
    """Physical value to display intensity: ((value - low) / (high - low)) ** gamma, clipped to [0, 1]."""

    low: float
    high: float
    gamma: float = 1.0


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
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class ModelCard(Value):
    """One trained network. Digest and bands are checked at load; sizes are derived by `windows`."""

    name: str
    bands: tuple[str, ...]
    """STAC common names in the order of the network's channels."""
    phases: tuple[Phase, ...] = ("post",)
    """What the network sees at once: scenes after the event, or those before and after it as channels, all
    bands of the one phase before those of the next. A network of one phase is run on each phase there is."""
    inputs: dict[InputKind, Stretch]
    """Input kinds that the network accepts, each with the stretch that makes them alike."""
    normalization: Normalization
    fill: float = 0.0
    """Value of a missing pixel, after normalization."""
    resolution_m: tuple[float, float]
    """Least and greatest pixel size that the network was trained for, metres."""
    padding: Padding
    base_filters: Annotated[int, Field(ge=1)]
    levels: Literal[5] = 5
    classes: tuple[str, ...] = ("landslide",)
    """Names of the output channels; background is what is left. One class: sigmoid; several: softmax
    over background and the classes."""
    lattice_px: Literal[16] = 16
    halo_px: int
    """Context cut off each side of a window: 96 for same padding, 94 for valid (see `windows`)."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    training_sets: tuple[str, ...] = ()
    metrics: dict[str, Any] = {}
    licence: str = "Apache-2.0"
    weights_sha256: str
    """Digest of weights.h5 as stored; the model digest of a run's identity."""

    @property
    def channels(self) -> int:
        """Length of the network's input."""
        return len(self.bands) * len(self.phases)

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
        if not self.inputs:
            raise ValueError("the card accepts no input kind; expected display, reflectance or both")
        return self
