"""The values that flow between the steps: status codes, probability codes and scenes."""

from bisect import bisect_left
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

if TYPE_CHECKING:  # the command line starts at once
    import numpy as np
    from numpy.typing import NDArray

Phase = Literal["pre", "post"]
PHASES: tuple[Phase, Phase] = ("pre", "post")

InputKind = Literal["display", "reflectance"]
"""display: 8-bit red-green-blue as shown to people, 0-255; reflectance: 0-1 after scale and offset."""

Level = Literal["surface", "toa"]
"""Where reflectance is meant: at the ground, or at the top of the atmosphere with the air's own light."""

CODE_SCALE = 200
"""Probability codes per unit: code = round(200 p), so that every threshold of two decimals is exact."""
CODE_FILL = 255
"""Probability code of a pixel that was not predicted."""
SCENE_FILL = 65535
"""Scene index of a pixel that no scene covers."""

LABEL_IGNORE = 255
"""Label of a pixel whose truth is not known: it counts neither in training nor in scores."""

MIN_INTENSITY = 6.0
"""Modified Mercalli. Below it disrupted slides and falls, by far the most of all, are exceptions.

Reference: Keefer 1984, doi:10.1130/0016-7606(1984)95<406:LCBE>2.0.CO;2, has VI as the predominant least
intensity of disrupted slides and falls, VII of coherent slides, and single slides down to IV.
"""

CONTEXT_INCOMPLETE = 0x80
"""Status bit: a missing pixel lies within the network's reach, so the prediction saw filled values."""


def least_code(threshold: float) -> int:
    """The least probability code whose probability is at or above a threshold in [0, 1].

    Codes are divided, not the threshold multiplied: 112 / 200 is the very number that 0.56 is read as,
    but 0.07 * 200 is 14.000000000000002, and its ceiling would be one code too high.
    """
    return bisect_left(range(CODE_SCALE + 1), threshold, key=lambda code: code / CODE_SCALE)


class Status(IntEnum):
    """What was seen of a pixel, or why it was not (low seven bits; the top bit is CONTEXT_INCOMPLETE).

    A pixel in shadow or haze may have been used all the same: where it was, it has a scene and a probability.
    """

    NOT_COMPUTED = 0
    OBSERVED = 1
    CLOUD = 2
    SHADOW = 3
    """Of a cloud."""
    HAZE = 4
    """Heavy haze."""
    SNOW = 5
    NODATA = 6
    NOT_ACQUIRED = 7
    OUTSIDE_AOI = 8
    FAILED = 9
    LIGHT_HAZE = 10
    UNUSABLE = 11
    """The sensor gave no good value."""


MASKABLE = {
    "cloud": Status.CLOUD,
    "shadow": Status.SHADOW,
    "heavy_haze": Status.HAZE,
    "light_haze": Status.LIGHT_HAZE,
    "snow": Status.SNOW,
    "unusable": Status.UNUSABLE,
}
"""Classes of a usable data mask that may count as not observed, by the names that users give them."""

MASKED = ("cloud", "shadow", "heavy_haze", "snow", "unusable")
"""What counts as not observed unless a user says otherwise; light haze the network stands."""


def seen_pixels(status: "NDArray[np.uint8]", scene: "NDArray[np.uint16]") -> "NDArray[np.bool_]":
    """Pixels of the area that some scene was used for, bool in the shape of both.

    Args:
        status: uint8, Status codes, with or without the context bit.
        scene: uint16, scene indices, SCENE_FILL where none was used.
    """
    outside = (status & (0xFF ^ CONTEXT_INCOMPLETE)) == Status.OUTSIDE_AOI
    seen: NDArray[np.bool_] = (scene != SCENE_FILL) & ~outside
    return seen


class Value(BaseModel):
    """A frozen value that refuses unknown fields: what is written to JSON reads back equal."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AddressPolicy(Value):
    """Which places the addresses of a catalog may reach."""

    catalog: str = ""
    """Absolute address of the catalog that the user named: its host, or its folder, is allowed."""
    allow_hosts: tuple[str, ...] = ()
    """More hosts, by exact name (`host`, `host:port`) or bucket (`s3://name`); they may be private."""
    allow_roots: tuple[str, ...] = ()
    """More folders that a local catalog may reach."""

    def bound_to(self, catalog: str) -> "AddressPolicy":
        """The same policy for one catalog."""
        return self.model_copy(update={"catalog": catalog})


class BandSource(Value):
    """Where one band of a scene is stored."""

    band: str
    """STAC common name: blue, green, red, nir, ..."""
    asset: str
    """Key of the asset in its item, for messages."""
    href: str
    """Absolute, unsigned address of the file; already checked against the allowed hosts and folders."""
    index: int
    """Band number in the file, from 1."""
    scale: float = 1.0
    """Stored number to physical value: value = stored * scale + offset."""
    offset: float = 0.0
    nodata: float | None = None
    """Stored number that means missing; None: ask the file."""


class Percentiles(Value):
    """Percentiles of one band over one scene's valid pixels, in physical units (after scale and offset)."""

    p02: float
    p50: float
    p98: float


class Cover(Value):
    """What a scene's overview shows of leaves and snow, over its clear pixels."""

    index: Literal["ndvi", "grvi"]
    """(nir - red) / (nir + red), or where nir is not read (green - red) / (green + red)."""
    greenness: float
    """Median of that index, -1 to 1."""
    white_percent: float
    """Share of pixels that are bright and colourless, 0-100: snow, or cloud."""


class Scene(Value):
    """One STAC item resolved to the files that a worker reads: plain data, nothing open, nothing signed."""

    index: int
    """The value in the `scene` array: in one output always the same item. It says nothing of the order."""
    item_id: str
    collection: str | None
    phase: Phase
    kind: InputKind
    sources: tuple[BandSource, ...]
    start: AwareDatetime
    end: AwareDatetime
    """Acquisition time; start == end unless the item gives only an interval."""
    cloud_cover: float | None
    """Percent, 0-100; None where the item does not say."""
    resolution_m: float | None
    """Ground sample distance from the item's metadata, in metres."""
    geometry: dict[str, Any]
    """Footprint, GeoJSON in longitude and latitude."""
    udm2: BandSource | None = None
    """Planet's usable data mask (8 bands), if the item has one; `index` is not used."""
    statistics: dict[str, Percentiles] | None = None
    """Per band, from the scene's overview, measured once when the run is planned."""
    attribution: str | None = None
    licence: str | None = None
    level: Level = "surface"
    sun_azimuth_deg: float | None = None
    """Clockwise from north; None where the item does not say."""
    sun_elevation_deg: float | None = None
    """Above the horizon; None where the item does not say."""
    off_nadir_deg: float | None = None
    """Angle between the sensor's view and straight down; None where the item does not say. It tells of a
    landslide how it was seen, and changes no pixel, so it is no part of a run's identity."""
    cover: Cover | None = None
    """Measured with `statistics`; None where it cannot be."""
    shift_m: tuple[float, float] = (0.0, 0.0)
    """(southwards, eastwards), metres of the output grid: how far the scene is moved before it is read."""
    content: str | None = None
    """SHA-256 of the headers and overviews of its files, measured with `statistics`. Another one tells of
    another file under the same address."""
    reach: AddressPolicy | None = None
    """What redirects of its files may lead to, by whoever reads them; None: their own hosts alone. Who may be
    asked changes no pixel, so it is no part of a run's identity."""

    def source(self, band: str) -> BandSource:
        """The source of a band by its common name. Raises KeyError if the scene lacks it."""
        for source in self.sources:
            if source.band == band:
                return source
        raise KeyError(band)

    @property
    def bands(self) -> tuple[str, ...]:
        """Common names of the bands, in stored order."""
        return tuple(source.band for source in self.sources)
