"""What decides the bytes of a run goes in, digests come out: equal digests, equal bytes."""

from coseis.card import ModelCard
from coseis.model import Precision
from coseis.store import digest_of
from coseis.types import Phase, Scene, Value
from coseis.vegetation import VegetationIndex

BESIDE_PIXELS = {
    "reach",
    "start",
    "end",
    "cloud_cover",
    "resolution_m",
    "attribution",
    "licence",
    "sun_azimuth_deg",
    "sun_elevation_deg",
    "off_nadir_deg",
    "cover",
}
"""What of a scene decides whether and in which order it is used, and no pixel of it."""


class ZoneGrid(Value):
    """The grid of one UTM zone."""

    crs: str
    transform: tuple[float, ...]
    shape: tuple[int, int]


class Identity(Value):
    """What must be equal for two runs to give the same bytes."""

    scenes: str
    """Digest of the scenes: files, order, statistics."""
    update: int = 0
    """Number of the update that found them: scenes may come back, what was done of them not."""
    aoi: str
    """Digest of the area."""
    crs: str
    transform: tuple[float, ...]
    shape: tuple[int, int]
    beyond: tuple[ZoneGrid, ...]
    """Of a region across zone borders, the grids of its other UTM zones."""
    phases: tuple[Phase, ...]
    masked: tuple[str, ...]
    """Classes of usable data masks that are not used."""
    vegetation: VegetationIndex | None
    """What tells how green pixels are, before and after; None of a run of one phase."""
    block_px: int
    core_px: int
    batch: int
    precision: Precision
    device: str
    """`cpu` or the GPU's name: another kind rounds otherwise, so its workers are refused."""
    platform: str
    """Operating system, for the same reason."""
    model: str
    """Digest of the weights."""
    card: str
    """Digest of the card: normalization, fill and stretch act on every pixel."""
    code: str
    """Version of coseis."""

    def digest(self) -> str:
        """SHA-256 over all of it."""
        return digest_of(self.model_dump(mode="json"))


def digest_card(card: ModelCard) -> str:
    """What stands for a card in the identity of a run: all of it that acts on pixels."""
    return digest_of(card.model_dump(mode="json", exclude={"high_precision", "high_recall"}))


def digest_scenes(scenes: tuple[Scene, ...]) -> str:
    """What stands for scenes, in their order, in the identity of a run."""
    return digest_of([scene.model_dump(mode="json", exclude={"reach", "off_nadir_deg"}) for scene in scenes])


def digest_pixels(scene: Scene) -> str:
    """Of what decides the pixels that a scene gives, and of its index, which they are kept with."""
    return digest_of(scene.model_dump(mode="json", exclude=BESIDE_PIXELS))
