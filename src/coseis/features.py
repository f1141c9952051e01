"""Bands in physical units and the scene of each pixel in, what the network sees out."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from coseis.card import ModelCard, Stretch
from coseis.errors import UsageError
from coseis.types import SCENE_FILL, Scene

MIN_SPREAD = 0.02
"""Least spread that an intensity is divided by (5 of 255 grey levels): a scene of open water stays calm."""
RATIO_FLOOR = 0.02
"""Intensity that is added to both bands of a ratio: deep shadow has no colour."""
RATIO_GAIN = 3.0
"""Makes the logarithms of ratios vary as much as the brightness does."""

FloatArray = npt.NDArray[np.float32]


def make_features(
    bands: FloatArray, scene: npt.NDArray[np.uint16], scenes: Mapping[int, Scene], card: ModelCard
) -> FloatArray:
    """Stretches and normalizes every pixel by the scene that it comes from.

    Each pixel depends on itself and on its scene's statistics alone, never on its window, so that any
    chunking gives the same features.

    Args:
        bands: float32 (band, y, x) in the card's band order, physical units (display 0-255, reflectance
            0-1), NaN where missing.
        scene: uint16 (y, x), index of the pixel's scene, SCENE_FILL where none covers it.
        scenes: Scenes by that index, with statistics if the card normalizes by scene.
        card: Stretches, normalization and fill.

    Returns:
        float32 (y, x, band), see `Normalization`. A pixel that misses any band, or that no scene covers, is
        `card.fill`.

    Raises:
        UsageError: A scene of a kind or without a statistic that the card needs, or unknown altogether.
    """
    if bands.shape != (len(card.bands), *scene.shape):
        raise UsageError(
            f"bands have shape {bands.shape} for scene {scene.shape}; model {card.name} expects "
            f"({len(card.bands)}, y, x): {', '.join(card.bands)}"
        )
    features = np.full((*scene.shape, len(card.bands)), card.fill, dtype=np.float32)
    for index in _present(scene):
        if index not in scenes:
            raise UsageError(f"scene {index} is not among the {len(scenes)} scenes given")
        stretch = stretch_of(scenes[index], card)
        by_scene = card.normalization.kind != "fixed"
        percentiles = intensity_percentiles(scenes[index], card) if by_scene else None
        covered = scene == index
        for rows in _row_runs(covered):
            # NaN is carried by a sum, so one pass finds a pixel that misses any band.
            valid = covered[rows] & ~np.isnan(bands[:, rows].sum(axis=0))
            planes = [stretch_intensity(band, stretch) for band in bands[:, rows]]
            for number, plane in enumerate(_normalized(planes, percentiles, card)):
                np.copyto(features[rows][..., number], plane, where=valid)
    return features


def stack_features(
    image: FloatArray, scene: npt.NDArray[np.uint16], scenes: Mapping[int, Scene], card: ModelCard
) -> FloatArray:
    """The features of all phases that a network sees at once, as channels.

    Args:
        image: float32 (phase, band, y, x), the card's phases in its order.
        scene: uint16 (phase, y, x).
        scenes: As for `make_features`.
        card: As for `make_features`.

    Returns:
        float32 (y, x, channel); `card.fill` where a band of any phase is missing.
    """
    phases = [make_features(*of_phase, scenes, card) for of_phase in zip(image, scene, strict=True)]
    if len(phases) == 1:
        return phases[0]
    features = np.concatenate(phases, axis=-1)
    features[(scene == SCENE_FILL).any(axis=0) | np.isnan(image).any(axis=(0, 1))] = card.fill
    return features


def stretch_intensity(values: npt.ArrayLike, stretch: Stretch) -> FloatArray:
    """Physical values to intensity, float32 of the same shape in [0, 1]; NaN stays NaN."""
    intensity = np.asarray(values, dtype=np.float32) - np.float32(stretch.low)
    intensity *= np.float32(1 / (stretch.high - stretch.low))
    np.clip(intensity, 0, 1, out=intensity)
    if stretch.gamma == 0.75:
        # Two roots are four times as quick as a power, and are rounded alike on every processor.
        root = np.sqrt(intensity)
        np.multiply(root, np.sqrt(root), out=intensity)
    elif stretch.gamma != 1:
        np.power(intensity, np.float32(stretch.gamma), out=intensity)
    return intensity


def centre_and_spread(card: ModelCard, percentiles: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """What is subtracted from the intensity, and what then divides it: float32 (band,) each.

    Args:
        card: Its normalization decides: its own mean and std, or the scene's median and 2-98 % range.
        percentiles: float32 (3, band), the scene's 2, 50 and 98 % intensities; unused by fixed normalization.
    """
    if card.normalization.kind == "fixed" or percentiles is None:
        mean, std = card.normalization.mean, card.normalization.std
        return np.array(mean, dtype=np.float32), np.array(std, dtype=np.float32)
    return percentiles[1], np.maximum(percentiles[2] - percentiles[0], np.float32(MIN_SPREAD))


def normalize_intensity(intensity: FloatArray, percentiles: FloatArray, card: ModelCard) -> FloatArray:
    """What `make_features` does to a scene, for an image that is intensity already.

    Args:
        intensity: float32 (y, x, channel) in [0, 1], NaN where missing.
        percentiles: float32 (3, channel), the scene's 2, 50 and 98 % intensities.
        card: Normalization, fill and phases.

    Returns:
        float32 (y, x, channel), `card.fill` where any channel is missing.
    """
    features = np.empty(intensity.shape, dtype=np.float32)
    total = np.zeros(intensity.shape[:2], dtype=np.float32)
    count = len(card.bands)
    for start in range(0, intensity.shape[-1], count):
        of_phase = slice(start, start + count)
        planes = [intensity[..., channel] for channel in range(start, start + count)]
        for number, plane in enumerate(_normalized(planes, percentiles[:, of_phase], card), start):
            features[..., number] = plane
            total += plane  # carries NaN; a sum over so short an axis takes longer than all the rest
    features[np.isnan(total)] = card.fill
    return features


def _normalized(
    planes: Sequence[FloatArray], percentiles: FloatArray | None, card: ModelCard
) -> Iterator[FloatArray]:
    """The channels float32 (y, x) of one phase from its bands' intensities float32 (y, x)."""
    centre, spread = centre_and_spread(card, percentiles)
    if card.normalization.kind != "colour":
        for number, plane in enumerate(planes):
            yield (plane - centre[number]) * (np.float32(1) / spread[number])
        return
    green = planes[card.bands.index("green")]
    floored = green + np.float32(RATIO_FLOOR)
    for plane in planes:
        if plane is green:
            brightness = sum(planes[1:], planes[0]) * np.float32(1 / len(planes))
            yield (brightness - centre.mean()) * (np.float32(1) / spread.mean())
        else:
            # Just below 0 lie pixels that training brought into another scene's light.
            ratio = (np.maximum(plane, 0) + np.float32(RATIO_FLOOR)) / np.maximum(floored, RATIO_FLOOR)
            yield np.log(ratio) * np.float32(RATIO_GAIN)


def stretch_of(scene: Scene, card: ModelCard) -> Stretch:
    """The card's stretch for a scene's kind.

    Raises:
        UsageError: The card does not accept that kind.
    """
    if scene.kind not in card.inputs:
        raise UsageError(
            f"scene {scene.item_id} is {scene.kind}, but model {card.name} accepts "
            f"{' and '.join(card.inputs)}; choose other assets or another model"
        )
    return card.inputs[scene.kind]


def intensity_percentiles(scene: Scene, card: ModelCard) -> FloatArray:
    """A scene's 2, 50 and 98 % intensities, float32 (3, band).

    A stretch keeps order: the stretched percentile is the stretched values' own.

    Raises:
        UsageError: The scene lacks a statistic, or is of a kind that the card does not accept.
    """
    statistics = scene.statistics or {}
    missing = [band for band in card.bands if band not in statistics]
    if missing:
        raise UsageError(
            f"model {card.name} normalizes by scene, but scene {scene.item_id} has no statistics of "
            f"{', '.join(missing)}; they are measured when a run is planned"
        )
    percentiles = [[getattr(statistics[band], name) for band in card.bands] for name in ("p02", "p50", "p98")]
    return stretch_intensity(percentiles, stretch_of(scene, card))


def _present(scene: npt.NDArray[np.uint16]) -> list[int]:
    """Scene indices that occur, in order. A table of all 65,536 is quicker than np.unique, which sorts."""
    seen = np.zeros(SCENE_FILL + 1, dtype=bool)
    seen[scene] = True
    seen[SCENE_FILL] = False
    return [int(index) for index in np.flatnonzero(seen)]


def _row_runs(covered: npt.NDArray[np.bool_]) -> list[slice]:
    """The rows that hold covered pixels, in strips that stay in the processor's cache."""
    rows = np.flatnonzero(covered.any(axis=1))
    first, last = int(rows[0]), int(rows[-1]) + 1
    strip = max(1, (1 << 16) // covered.shape[1])
    return [slice(start, min(start + strip, last)) for start in range(first, last, strip)]
