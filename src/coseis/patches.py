"""Labelled images of any size in, windows for training out: cut, padded, augmented and normalized."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio

from coseis.errors import UsageError
from coseis.types import LABEL_IGNORE

FloatArray = npt.NDArray[np.float32]
UintArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Patch:
    """A labelled image, stretched to intensity so that sensors are alike from here on."""

    intensity: FloatArray
    """float32 (y, x, band) in [0, 1], NaN where missing."""
    mask: UintArray
    """uint8 (y, x): 0 background, 1 and up the classes, LABEL_IGNORE."""
    group: str
    """What may only be on one side of a split: an event, a place."""
    percentiles: FloatArray
    """float32 (3, band): the scene's 2, 50 and 98 % intensities, over more than this patch where possible."""
    weight: float = 1.0
    """How often it is drawn, relative to other patches of the same area."""

    def __post_init__(self) -> None:
        shape = self.intensity.shape
        if self.mask.shape != shape[:2] or self.percentiles.shape != (3, shape[2]):
            raise ValueError(
                f"patch of {self.group}: intensity {shape}, mask {self.mask.shape} and percentiles "
                f"{self.percentiles.shape} do not belong together"
            )


@dataclass(frozen=True)
class Augmentation:
    """How far a training window may be changed; zeros leave it as it is."""

    gain: float = 0.15
    """Standard deviation of the logarithm of a gain for all bands (haze, sun, sensor)."""
    band_gain: float = 0.08
    """The same, a band on its own (colour)."""
    gamma: float = 0.15
    """Standard deviation of the logarithm of an exponent on the intensity (another tone curve)."""
    offset: float = 0.03
    """Standard deviation of an intensity added to all bands (haze)."""
    statistics: float = 0.15
    """Standard deviation of a scene's centre in units of its spread, and of the logarithm of its spread: a
    scene with more or fewer scars, clouds or fields has other percentiles."""
    noise: float = 0.01
    """Standard deviation of noise in each pixel, intensity."""
    missing: float = 0.1
    """Share of windows that lose a strip along one side, like those at the border of a scene."""


def read_hrgldd(
    path: str | Path, *, exclude: Sequence[int] = (1, 7, 8), group_prefix: str = "hrgldd-"
) -> list[Patch]:
    """Reads HR-GLDD patches, 8-bit PlanetScope red, green, blue at 3 m.

    Args:
        path: NPZ with image uint8 (patch, y, x, band), mask uint8 (patch, y, x) and event_block int (patch,).
        exclude: Blocks left out; by default those with saturated blue or with labels on nodata.
        group_prefix: Before the block number in `Patch.group`.

    Returns:
        Patches with the percentiles of their block, black pixels (0, 0, 0) taken as missing.

    Raises:
        UsageError: No such file, or without one of the arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            image, mask, blocks = arrays["image"], arrays["mask"], arrays["event_block"]
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(
            f"{path} is not an HR-GLDD file: expected an NPZ with image, mask and event_block ({error})"
        ) from error
    patches = []
    for block in (block for block in np.unique(blocks) if block not in exclude):
        chosen = blocks == block
        intensity = display_intensity(image[chosen])
        percentiles = scene_percentiles(intensity)
        patches += [
            Patch(values, (label > 0).astype(np.uint8), f"{group_prefix}{block}", percentiles)
            for values, label in zip(intensity, mask[chosen], strict=True)
        ]
    return patches


def read_tiles(
    folder: str | Path, *, scene: str | Path, groups: Sequence[Sequence[str]] = (), frame_px: int = 3
) -> list[Patch]:
    """Reads 8-bit red-green-blue tiles N.tif with labels N_mask.tif (0 and above), from one mosaic.

    Args:
        folder: Holds the tiles.
        scene: A larger image of the same mosaic, for percentiles that are a scene's and not a tile's.
        groups: Names N that must stay on one side of a split; others are a group each.
        frame_px: Labels of so wide a frame are ignored: annotators thin out towards a tile's border.

    Raises:
        UsageError: No tile in the folder, or a tile without its labels.
    """
    paths = sorted(path for path in Path(folder).glob("*.tif") if not path.stem.endswith("_mask"))
    if not paths:
        raise UsageError(f"{folder} holds no tile; expected N.tif with N_mask.tif")
    group_of = {name: "tiles-" + "-".join(group) for group in groups for name in group}
    percentiles = scene_percentiles(display_intensity(_read_image(scene)))
    patches = []
    for path in paths:
        labels = path.with_name(f"{path.stem}_mask.tif")
        if not labels.is_file():
            raise UsageError(f"{path} has no labels; expected {labels}")
        mask = (_read_image(labels)[..., 0] > 0).astype(np.uint8)
        if frame_px:
            inside = np.s_[frame_px:-frame_px, frame_px:-frame_px]
            framed = np.full_like(mask, LABEL_IGNORE)
            framed[inside] = mask[inside]
            mask = framed
        intensity = display_intensity(_read_image(path))
        patches.append(Patch(intensity, mask, group_of.get(path.stem, f"tiles-{path.stem}"), percentiles))
    return patches


def display_intensity(image: UintArray) -> FloatArray:
    """8-bit (..., band) to intensity float32 of the same shape, NaN where all bands are 0."""
    intensity = image.astype(np.float32) / np.float32(255)
    intensity[~image.any(axis=-1)] = np.nan
    return intensity


def scene_percentiles(intensity: FloatArray) -> FloatArray:
    """The 2, 50 and 98 % intensities of (..., band), NaN left out; float32 (3, band)."""
    pixels = intensity.reshape(-1, intensity.shape[-1])
    return np.nanpercentile(pixels, (2, 50, 98), axis=0).astype(np.float32)


def cut_window(patch: Patch, y: int, x: int, *, core_px: int, halo_px: int) -> tuple[FloatArray, UintArray]:
    """Core of a patch at (y, x) with its halo; what lies outside of the patch is its mirror image.

    Reflection gives the network texture to look at where a zero border would teach it what it never meets
    inside a region.

    Returns:
        intensity float32 (core + 2 halo, core + 2 halo, band) and mask uint8 of the same height and width,
        LABEL_IGNORE outside of the patch and outside of the core.
    """
    height, width = patch.mask.shape
    rows = _mirror(np.arange(y - halo_px, y + core_px + halo_px), height)
    columns = _mirror(np.arange(x - halo_px, x + core_px + halo_px), width)
    mask = np.full((len(rows), len(columns)), LABEL_IGNORE, dtype=np.uint8)
    core = patch.mask[y : y + core_px, x : x + core_px]
    mask[halo_px : halo_px + core.shape[0], halo_px : halo_px + core.shape[1]] = core
    return patch.intensity[np.ix_(rows, columns)], mask


def core_origins(patch: Patch, core_px: int) -> list[tuple[int, int]]:
    """Origins of the cores that cover a patch once, (y, x); the last ones reach beyond its border."""
    height, width = patch.mask.shape
    return [(y, x) for y in range(0, height, core_px) for x in range(0, width, core_px)]


def random_origin(patch: Patch, core_px: int, random: np.random.Generator) -> tuple[int, int]:
    """Origin of a core inside the patch, or (0, 0) along an axis where the patch is smaller than a core."""
    y, x = (int(random.integers(0, max(1, size - core_px + 1))) for size in patch.mask.shape)
    return y, x


def augment_window(
    intensity: FloatArray,
    mask: UintArray,
    percentiles: FloatArray,
    *,
    augmentation: Augmentation,
    random: np.random.Generator,
) -> tuple[FloatArray, UintArray, FloatArray]:
    """One of eight orientations, another light and other scene statistics; the same types and shapes out."""
    turns, mirrored = int(random.integers(4)), bool(random.integers(2))
    intensity, mask = np.rot90(intensity, turns), np.rot90(mask, turns).copy()
    if mirrored:
        intensity, mask = intensity[:, ::-1], mask[:, ::-1].copy()
    lit, percentiles = _change_light(intensity, percentiles, augmentation, random)
    if augmentation.noise:
        lit += random.normal(0, augmentation.noise, lit.shape).astype(np.float32)
    if random.random() < augmentation.missing:
        strip_px = int(random.integers(1, len(mask) // 2))
        lit[:strip_px], mask[:strip_px] = np.nan, LABEL_IGNORE
    return lit, mask, _change_statistics(percentiles, augmentation.statistics, random)


def _change_light(
    intensity: FloatArray, percentiles: FloatArray, augmentation: Augmentation, random: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Another gain, tone curve and haze; a scene's percentiles go the same way, as if measured so."""
    bands = intensity.shape[-1]
    gain = np.exp(random.normal(0, augmentation.gain) + random.normal(0, augmentation.band_gain, bands))
    exponent = np.float32(np.exp(random.normal(0, augmentation.gamma)))
    offset = np.float32(random.normal(0, augmentation.offset))

    def relit(values: FloatArray) -> FloatArray:
        return np.asarray(np.clip(values**exponent * gain + offset, 0, 1), dtype=np.float32)

    return relit(intensity), relit(percentiles)


def _change_statistics(percentiles: FloatArray, strength: float, random: np.random.Generator) -> FloatArray:
    """Percentiles (3, band) of the same place within a scene of other contents; mostly alike in all bands."""
    bands = percentiles.shape[1]
    spread = percentiles[2] - percentiles[0]
    centre = percentiles[1] + spread * (
        random.normal(0, strength / 2) + random.normal(0, strength / 4, bands)
    )
    spread = spread * np.exp(random.normal(0, strength) + random.normal(0, strength / 3, bands))
    return np.stack([centre - spread / 2, centre, centre + spread / 2]).astype(np.float32)


def _mirror(positions: npt.NDArray[np.int_], size: int) -> npt.NDArray[np.int_]:
    """Positions folded into [0, size) as by repeated reflection about the first and the last pixel."""
    if size == 1:
        return np.zeros_like(positions)
    folded = np.abs(positions) % (2 * size - 2)
    mirrored: npt.NDArray[np.int_] = np.minimum(folded, 2 * size - 2 - folded)
    return mirrored


def _read_image(path: str | Path) -> UintArray:
    """uint8 (y, x, band); 0 where an internal mask says nodata."""
    try:
        with rasterio.open(path) as source:
            image = source.read()
            if image.dtype != np.uint8:
                raise UsageError(f"{path} is {image.dtype}; expected 8-bit")
            return np.where(source.dataset_mask() > 0, image, np.uint8(0)).transpose(1, 2, 0)
    except rasterio.errors.RasterioIOError as error:
        raise UsageError(f"{path} is not a readable raster: {error}") from error
