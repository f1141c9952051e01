"""Labelled arrays in memory in, sources of training out: HR-GLDD, Landslide4Sense, folders of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio

from coseis.errors import UsageError
from coseis.training.sources import Cells, FloatArray, Square, UintArray, count_cells
from coseis.types import LABEL_IGNORE

IMAGE_DRIVER = "GTiff"
"""Forced: of a file that names other files GDAL would read those."""


@dataclass(frozen=True)
class Patch:
    """A labelled image; what lies beyond its border is its mirror image, with unknown labels.

    Reflection gives the network texture to look at, where a zero border would teach it what it never meets
    inside a region.
    """

    image: FloatArray | UintArray
    """(y, x, channel): intensity float32 in [0, 1], NaN where missing; or uint8, 255 times the intensity,
    missing where all channels are 0 (a quarter of the memory)."""
    mask: UintArray
    """uint8 (y, x): 0 background, 1 and up the classes, LABEL_IGNORE."""
    group: str
    """What may only be on one side of a split: an event, a place."""
    percentiles: FloatArray
    """float32 (3, channel): 2, 50 and 98 % intensities of the scene, or of all there is of it."""
    name: str = ""
    """Of this patch within its group, for reports."""
    weight: float = 1.0
    """How often it is drawn, relative to other sources of the same area."""

    def __post_init__(self) -> None:
        shape = self.image.shape
        if self.mask.shape != shape[:2] or self.percentiles.shape != (3, shape[2]):
            raise ValueError(
                f"patch of {self.group}: image {shape}, mask {self.mask.shape} and percentiles "
                f"{self.percentiles.shape} do not belong together"
            )

    @property
    def intensity(self) -> FloatArray:
        """float32 (y, x, channel) in [0, 1], NaN where missing."""
        return as_intensity(self.image)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def channels(self) -> int:
        """Bands of the image."""
        return int(self.image.shape[2])

    def cells(self) -> Cells:
        """Counts of its labels."""
        return count_cells(self.mask)

    def square(self, y: int, x: int, size_px: int) -> Square:
        """Part of the patch and of its mirror images."""
        height, width = self.shape
        rows, columns = np.arange(y, y + size_px), np.arange(x, x + size_px)
        places = _mirror(rows, height), _mirror(columns, width)
        # Rows first: to copy whole rows is much quicker than to look each pixel up.
        image = self.image.take(places[0], 0).take(places[1], 1)
        classes = self.mask.take(places[0], 0).take(places[1], 1)
        classes[(rows < 0) | (rows >= height)] = LABEL_IGNORE
        classes[:, (columns < 0) | (columns >= width)] = LABEL_IGNORE
        return Square(as_intensity(image), classes, self.percentiles)


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
        chosen = np.flatnonzero(blocks == block)
        percentiles = scene_percentiles(as_intensity(image[chosen]))
        patches += [
            Patch(image[number], _binary(mask[number]), f"{group_prefix}{block}", percentiles, str(number))
            for number in chosen
        ]
    return patches


def read_landslide4sense(path: str | Path) -> list[Patch]:
    """Reads Landslide4Sense patches, 8-bit Sentinel-2 red, green, blue at 10 m, as one group.

    Args:
        path: NPZ with image uint8 (patch, y, x, band) and mask (patch, y, x).

    Raises:
        UsageError: No such file, or without one of the arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            image, mask = arrays["image"], arrays["mask"]
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(
            f"{path} is not a Landslide4Sense file: expected an NPZ with image and mask ({error})"
        ) from error
    percentiles = scene_percentiles(as_intensity(image))
    return [
        Patch(values, _binary(label), "landslide4sense", percentiles, str(number))
        for number, (values, label) in enumerate(zip(image, mask, strict=True))
    ]


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
    percentiles = scene_percentiles(as_intensity(_read_image(scene)))
    patches = []
    for path in paths:
        labels = path.with_name(f"{path.stem}_mask.tif")
        if not labels.is_file():
            raise UsageError(f"{path} has no labels; expected {labels}")
        mask = _binary(_read_image(labels)[..., 0])
        if frame_px:
            inside = np.s_[frame_px:-frame_px, frame_px:-frame_px]
            framed = np.full_like(mask, LABEL_IGNORE)
            framed[inside] = mask[inside]
            mask = framed
        group = group_of.get(path.stem, f"tiles-{path.stem}")
        patches.append(Patch(_read_image(path), mask, group, percentiles, path.stem))
    return patches


def as_intensity(image: FloatArray | UintArray) -> FloatArray:
    """(..., band) as float32 in [0, 1]: 8-bit is divided by 255, and missing (NaN) where all bands are 0."""
    if image.dtype != np.uint8:
        return np.asarray(image, dtype=np.float32)
    intensity = image * np.float32(1 / 255)
    # Band by band: a reduction over so short an axis takes longer than the rest of a patch.
    missing = image[..., 0] == 0
    for band in range(1, image.shape[-1]):
        missing &= image[..., band] == 0
    intensity[missing] = np.nan
    return intensity


def scene_percentiles(intensity: FloatArray) -> FloatArray:
    """The 2, 50 and 98 % intensities of (..., band), NaN left out; float32 (3, band)."""
    pixels = intensity.reshape(-1, intensity.shape[-1])
    return np.nanpercentile(pixels, (2, 50, 98), axis=0).astype(np.float32)


def _mirror(positions: npt.NDArray[np.int_], size: int) -> npt.NDArray[np.int_]:
    """Positions folded into [0, size) as by repeated reflection about the first and the last pixel."""
    if size == 1:
        return np.zeros_like(positions)
    folded = np.abs(positions) % (2 * size - 2)
    mirrored: npt.NDArray[np.int_] = np.minimum(folded, 2 * size - 2 - folded)
    return mirrored


def _binary(labels: npt.NDArray[np.generic]) -> UintArray:
    return (np.asarray(labels) > 0).astype(np.uint8)


def _read_image(path: str | Path) -> UintArray:
    """uint8 (y, x, band); 0 where an internal mask says nodata."""
    try:
        with rasterio.open(path, driver=IMAGE_DRIVER) as source:
            image = source.read()
            if image.dtype != np.uint8:
                raise UsageError(f"{path} is {image.dtype}; expected 8-bit")
            return np.where(source.dataset_mask() > 0, image, np.uint8(0)).transpose(1, 2, 0)
    except rasterio.errors.RasterioIOError as error:
        raise UsageError(f"{path} is not a readable raster: {error}") from error
