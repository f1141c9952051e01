"""A draw in, the example that the network sees out: cut, turned, scaled, lit anew and normalized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from skimage.measure import label as label_objects

from coseis.card import ModelCard
from coseis.features import normalize_intensity
from coseis.training.draws import Draw
from coseis.training.settings import Augmentation, TrainConfig
from coseis.training.sources import FloatArray, Source, Square, UintArray
from coseis.types import LABEL_IGNORE
from coseis.windows import HALO_PX, VALID_SHRINK_PX

PlaceArray = npt.NDArray[np.float64]

BORDER_SIGMA_PX = 5.0
"""Width of U-Net's border weights."""


@dataclass(frozen=True)
class Batch:
    """Examples of equal shape."""

    windows: FloatArray
    """float32 (example, y, x, channel), normalized."""
    classes: UintArray
    """uint8 (example, y, x) of the network's output size; 0 where the label is not known."""
    membership: npt.NDArray[np.float16]
    """float16 (example, y, x): how much a pixel belongs to its class, the rest is background; in [0, 1]."""
    weight: npt.NDArray[np.float16]
    """float16 (example, y, x): 0 where the label is not known, else 1 and more near borders."""

    @property
    def arrays(self) -> tuple[npt.NDArray[np.generic], ...]:
        """All of them, in the order of the fields."""
        return self.windows, self.classes, self.membership, self.weight


def make_batch(
    sources: Sequence[Source], draws: Sequence[Draw], *, card: ModelCard, config: TrainConfig, blur_px: float
) -> Batch:
    """The examples of some draws, the same wherever and however often they are made.

    Args:
        sources: What `Draw.source` counts.
        draws: One example each.
        card: Normalization and padding of the network.
        config: Sizes, augmentation and weights.
        blur_px: How far labels fade out beyond their border, in this epoch.
    """
    examples = [
        make_example(sources[draw.source], draw, card=card, config=config, blur_px=blur_px) for draw in draws
    ]
    windows, classes, membership, weight = (np.stack(arrays) for arrays in zip(*examples, strict=True))
    return Batch(windows, classes, membership.astype(np.float16), weight.astype(np.float16))


def make_example(
    source: Source, draw: Draw, *, card: ModelCard, config: TrainConfig, blur_px: float
) -> tuple[FloatArray, UintArray, FloatArray, FloatArray]:
    """One example: windows, classes, membership and weight as in `Batch`, without the first axis."""
    random = np.random.default_rng(draw.seed)
    square = cut_square(source, draw, size_px=config.core_px + 2 * halo_of(card, config))
    intensity, percentiles = _change_light(square.intensity, square.percentiles, config.augmentation, random)
    classes = square.classes
    if config.augmentation.noise:
        # From none upwards, and mostly little: a network that never saw clean pixels takes them for scars.
        strength = np.float32(config.augmentation.noise * random.random() ** 2)
        for plane in np.moveaxis(intensity, -1, 0):
            first = random.integers(plane.size)
            plane += strength * _noise_pool(plane.size)[first : first + plane.size].reshape(plane.shape)
    if random.random() < config.augmentation.missing:
        strip = _strip(len(classes), random)
        intensity[strip] = np.nan
        classes = classes.copy()
        classes[strip] = LABEL_IGNORE
    percentiles = _change_statistics(percentiles, config.augmentation.statistics, random)
    window = normalize_intensity(intensity, percentiles, card)
    membership, weight = make_targets(classes, blur_px=blur_px, border_weight=config.border_weight)
    classes = np.where(classes == LABEL_IGNORE, np.uint8(0), classes)
    if blur_px:
        classes = _nearest_class(classes)
    # Labels count in the core alone: in the halo the network sees its own zero border.
    halo = halo_of(card, config)
    weight[:halo] = weight[-halo or len(weight) :] = 0
    weight[:, :halo] = weight[:, -halo or len(weight) :] = 0
    if card.padding == "valid":
        inner = np.s_[VALID_SHRINK_PX:-VALID_SHRINK_PX, VALID_SHRINK_PX:-VALID_SHRINK_PX]
        classes, membership, weight = classes[inner], membership[inner], weight[inner]
    return window, classes, membership, weight


def halo_of(card: ModelCard, config: TrainConfig) -> int:
    """Context around the core of a training window, px."""
    return HALO_PX["valid"] if card.padding == "valid" else config.halo_px


def cut_square(source: Source, draw: Draw, *, size_px: int) -> Square:
    """A turned, scaled and mirrored square around the centre of a draw, of `size_px` each side.

    Bilinear for the intensity (missing if any of the four pixels is), nearest for the classes.
    """
    cos, sin = np.cos(draw.angle_rad) / draw.scale, np.sin(draw.angle_rad) / draw.scale
    plain = draw.angle_rad == 0 and draw.scale == 1
    centre_y, centre_x = (round(draw.y), round(draw.x)) if plain else (draw.y, draw.x)
    reach = (size_px / 2) * (abs(cos) + abs(sin))
    # Two pixels more: one for the bilinear neighbours, one for the fraction of the centre.
    top, left = int(np.floor(centre_y - reach)) - 1, int(np.floor(centre_x - reach)) - 1
    square = source.square(top, left, int(np.ceil(2 * reach)) + 4)
    flip = -1 if draw.mirrored else 1
    # From row and column of the output, both from its middle, to row and column of the square.
    right = np.arange(size_px) - (size_px - 1) / 2
    down = right[:, None]
    rows = (cos * down + sin * flip * right) + (centre_y - top - 0.5)
    columns = (cos * flip * right - sin * down) + (centre_x - left - 0.5)
    return Square(
        _bilinear(square.intensity, rows, columns),
        square.classes[np.rint(rows).astype(np.intp), np.rint(columns).astype(np.intp)],
        square.percentiles,
    )


def _bilinear(image: FloatArray, rows: PlaceArray, columns: PlaceArray) -> FloatArray:
    """float32 (y, x, channel) between the pixels of an image (row, column, channel) that surround all places.

    A band's plane is contiguous in the result: what follows works band by band. One table of places serves
    all bands, which makes it three times as quick as scikit-image's warp of each.
    """
    _, width, channels = image.shape
    upper, left = np.floor(rows), np.floor(columns)
    down, right = (rows - upper).astype(np.float32), (columns - left).astype(np.float32)
    corner = (upper.astype(np.intp) * width + left.astype(np.intp)) * channels
    # A place on a pixel has no neighbour: a missing one beside it does not matter.
    below, beside = (down > 0) * (width * channels), (right > 0) * channels
    flat = np.ascontiguousarray(image).reshape(-1)
    planes = np.empty((channels, *rows.shape), np.float32)
    for channel, plane in enumerate(planes):
        first, second = (flat[places + channel] for places in (corner, corner + beside))
        third, fourth = (flat[places + channel] for places in (corner + below, corner + below + beside))
        first += (second - first) * right
        third += (fourth - third) * right
        np.add(first, (third - first) * down, out=plane)
    return planes.transpose(1, 2, 0)


def make_targets(
    classes: UintArray, *, blur_px: float, border_weight: float
) -> tuple[FloatArray, FloatArray]:
    """Labels that fade out, and how much each pixel counts.

    Args:
        classes: uint8 (y, x), LABEL_IGNORE where unknown.
        blur_px: Beyond the border of a landslide its label falls from 1 to 0 over so many px.
        border_weight: Greatest extra weight of background between two landslides that nearly touch.

    Returns:
        membership float32 (y, x) in [0, 1]; weight float32 (y, x), 0 where unknown.

    Reference:
        Ronneberger, Fischer and Brox 2015, doi:10.1007/978-3-319-24574-4_28, equation 2 without the class
        balance, which `landslide_weight` is. The blur is ENVI's blur distance as its documents describe it.
    """
    landslide = (classes > 0) & (classes != LABEL_IGNORE)
    membership = landslide.astype(np.float32)
    weight = (classes != LABEL_IGNORE).astype(np.float32)
    if not landslide.any():
        return membership, weight
    if blur_px:
        distance = distance_transform_edt(~landslide)
        membership = np.clip(1 - distance / (blur_px + 1), 0, 1).astype(np.float32)
    if border_weight:
        weight *= 1 + border_weight * _between_objects(landslide)
    return membership, weight


def _between_objects(landslide: npt.NDArray[np.bool_]) -> FloatArray:
    """exp(-(d1 + d2)^2 / 2 sigma^2) of the distances to the two nearest landslides; 0 within them."""
    objects = label_objects(landslide, connectivity=1)
    count = int(objects.max())
    near = np.zeros(landslide.shape, np.float32)
    if count < 2:
        return near
    nearest = np.full((2, *landslide.shape), np.inf)
    for number in range(1, count + 1):
        # Beyond six sigma nothing is left of the weight, so an object matters within its surroundings only.
        rows, columns = (np.flatnonzero((objects == number).any(axis=axis)) for axis in (1, 0))
        reach = int(6 * BORDER_SIGMA_PX)
        around = (
            slice(max(0, rows[0] - reach), rows[-1] + reach + 1),
            slice(max(0, columns[0] - reach), columns[-1] + reach + 1),
        )
        distance = distance_transform_edt(objects[around] != number)
        first, second = nearest[0][around], nearest[1][around]
        np.minimum(second, np.maximum(first, distance), out=second)
        np.minimum(first, distance, out=first)
    outside = ~landslide
    near[outside] = np.exp(-(nearest.sum(axis=0)[outside] ** 2) / (2 * BORDER_SIGMA_PX**2))
    return near


def _nearest_class(classes: UintArray) -> UintArray:
    """The class of the nearest landslide in every pixel: what a faded label is a label of."""
    if not classes.any():
        return classes
    _, (rows, columns) = distance_transform_edt(classes == 0, return_indices=True)
    nearest: UintArray = classes[rows, columns]
    return nearest


@lru_cache(maxsize=4)
def _noise_pool(size: int) -> FloatArray:
    """float32 (2 * size,), normal: every window takes a part, as to draw anew costs a fifth of its time."""
    return np.random.default_rng(0).standard_normal(2 * size, np.float32)


def _strip(side: int, random: np.random.Generator) -> tuple[slice, ...]:
    """Up to half of a square along one of its sides."""
    width, turned, far = int(random.integers(1, side // 2)), random.integers(2), random.integers(2)
    part = slice(side - width, side) if far else slice(0, width)
    return (slice(None), part) if turned else (part, slice(None))


def _change_light(
    intensity: FloatArray, percentiles: FloatArray, augmentation: Augmentation, random: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Another gain, tone curve and haze; a scene's percentiles go the same way, as if measured so."""
    bands = intensity.shape[-1]
    gain = np.exp(random.normal(0, augmentation.gain) + random.normal(0, augmentation.band_gain, bands))
    gain = gain.astype(np.float32)
    exponent = np.float32(np.exp(random.normal(0, augmentation.gamma)))
    offset = np.float32(random.normal(0, augmentation.offset))

    def relit(values: FloatArray) -> FloatArray:
        # Pixels brought into another scene's frame may lie just below 0, which has no power.
        lit = np.maximum(values, 0)
        np.power(lit, exponent, out=lit)
        lit *= gain
        lit += offset
        return np.clip(lit, 0, 1, out=lit)

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
