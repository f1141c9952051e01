"""Bands of the cube in physical units in, how green every pixel is out: polygons tell how that changed.

NDVI where every scene has near infrared, else the difference of green and red over their sum, which needs
only what an eye sees. Kept as codes a hundredth apart, so that sums over a polygon are whole numbers.

Reference: Tucker, 1979, Red and photographic infrared linear combinations for monitoring vegetation,
doi:10.1016/0034-4257(79)90013-0 (both indices).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coseis.types import CODE_FILL, Scene

VegetationIndex = Literal["ndvi", "greenness"]
INDEX_BANDS: dict[VegetationIndex, tuple[str, str]] = {"ndvi": ("nir", "red"), "greenness": ("green", "red")}
"""The index is the difference of the first and second band over their sum."""
INDEX_SCALE = 100
"""Codes per unit: code = round(100 (index + 1)), 0-200; CODE_FILL where it is not known."""
STRIP_PX = 1 << 16
"""Pixels computed at once: temporary arrays stay in the processor's cache."""


def choose_index(scenes: Sequence[Scene], bands: Sequence[str]) -> VegetationIndex | None:
    """The index that all scenes allow, beside the bands that are read anyway; None if there is none."""
    if "red" in bands and scenes and all("nir" in scene.bands for scene in scenes):
        return "ndvi"
    return "greenness" if {"red", "green"} <= set(bands) else None


def vegetation_codes(
    image: NDArray[np.float32], bands: Sequence[str], index: VegetationIndex
) -> NDArray[np.uint8]:
    """Codes of an index, uint8 (y, x).

    Args:
        image: float32 (band, y, x), physical units, NaN where missing.
        bands: STAC common names, in the order of the image.
        index: Which.
    """
    more, less = (image[bands.index(band)] for band in INDEX_BANDS[index])
    codes = np.full(more.shape, CODE_FILL, np.uint8)
    rows = max(1, STRIP_PX // more.shape[1])
    for top in range(0, more.shape[0], rows):
        strip = slice(top, top + rows)
        total = more[strip] + less[strip]
        # Missing is NaN, and so is a pixel that is black in both.
        known = total > 0
        value = np.divide(more[strip] - less[strip], total, out=np.zeros_like(total), where=known)
        coded = np.rint((np.clip(value, -1, 1) + 1) * INDEX_SCALE)
        codes[strip] = np.where(known, coded, CODE_FILL).astype(np.uint8)
    return codes
