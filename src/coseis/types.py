"""The values that flow between the steps: status codes, probability codes and scenes."""

from bisect import bisect_left
from enum import IntEnum
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

Phase = Literal["pre", "post"]
PHASES: tuple[Phase, Phase] = ("pre", "post")

InputKind = Literal["display", "reflectance"]
"""display: 8-bit red-green-blue as shown to people, 0-255; reflectance: 0-1 after scale and offset."""

CODE_SCALE = 200
"""Probability codes per unit: code = round(200 p), so that every threshold of two decimals is exact."""
CODE_FILL = 255
"""Probability code of a pixel that was not predicted."""
SCENE_FILL = 65535
"""Scene index of a pixel that no scene covers."""

LABEL_IGNORE = 255
"""Label of a pixel whose truth is not known: it counts neither in training nor in scores."""

CONTEXT_INCOMPLETE = 0x80
"""Status bit: a missing pixel lies within the network's reach, so the prediction saw filled values."""


def least_code(threshold: float) -> int:
    """The least probability code whose probability is at or above a threshold in [0, 1].

    Codes are divided, not the threshold multiplied: 112 / 200 is the very number that 0.56 is read as,
    but 0.07 * 200 is 14.000000000000002, and its ceiling would be one code too high.
    """
    return bisect_left(range(CODE_SCALE + 1), threshold, key=lambda code: code / CODE_SCALE)


class Status(IntEnum):
    """Why a pixel is or is not observed (low seven bits of `status`; the top bit is CONTEXT_INCOMPLETE)."""

    NOT_COMPUTED = 0
    OBSERVED = 1
    CLOUD = 2
    SHADOW = 3
    HAZE = 4
    SNOW = 5
    NODATA = 6
    NOT_ACQUIRED = 7
    OUTSIDE_AOI = 8
    FAILED = 9


class Value(BaseModel):
    """A frozen value that refuses unknown fields: what is written to JSON reads back equal."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


class Scene(Value):
    """One STAC item resolved to the files that a worker reads: plain data, nothing open, nothing signed."""

    index: int
    """Place in items.json, the value in the `scene` array; only ever appended."""
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
    shift_m: tuple[float, float] = (0.0, 0.0)
    """(southwards, eastwards), metres of the output grid: how far the scene is moved before it is read."""

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
