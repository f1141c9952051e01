"""A network and a labelled source in, its probabilities over the whole source and a threshold out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coseis.card import ModelCard
from coseis.errors import UsageError
from coseis.features import normalize_intensity
from coseis.training.sources import FloatArray, Source, UintArray
from coseis.training.steps import compiled_network
from coseis.types import CODE_SCALE, LABEL_IGNORE
from coseis.windows import HALO_PX, VALID_SHRINK_PX

if TYPE_CHECKING:
    import keras

WINDOW_CORE_PX = 512
"""Largest core that a source is predicted in."""
ORIENTATIONS = 8
"""Four turns, each also mirrored."""


def predict_source(
    network: keras.Model, source: Source, *, card: ModelCard, flips: int = 1
) -> Iterator[tuple[int, int, FloatArray, UintArray]]:
    """Probabilities of a whole source, core by core, with the full halo of the card.

    Args:
        network: Of the card.
        source: Read where it has known labels.
        card: Normalization and halo.
        flips: 1, or up to 8 orientations, of which the mean is taken (test-time augmentation).

    Yields:
        y, x of a core; probability float32 (y, x) of any class; its labels uint8 (y, x).

    Raises:
        UsageError: There are no so many orientations.
    """
    if not 1 <= flips <= ORIENTATIONS:
        raise UsageError(f"the mean of {flips} orientations was asked for; expected 1 to {ORIENTATIONS}")
    halo = HALO_PX[card.padding]
    height, width = source.shape
    for y in range(0, height, WINDOW_CORE_PX):
        for x in range(0, width, WINDOW_CORE_PX):
            rows, columns = min(WINDOW_CORE_PX, height - y), min(WINDOW_CORE_PX, width - x)
            core_px = -(-max(rows, columns) // card.lattice_px) * card.lattice_px
            square = source.square(y - halo, x - halo, core_px + 2 * halo)
            window = normalize_intensity(square.intensity, square.percentiles, card)
            inner = np.s_[halo : halo + rows, halo : halo + columns]
            classes = square.classes[inner]
            if (classes != LABEL_IGNORE).any():
                probability = _mean_of_flips(network, window, card, flips)
                yield y, x, probability[:rows, :columns], classes


def predict_patch(network: keras.Model, source: Source, *, card: ModelCard, flips: int = 1) -> FloatArray:
    """Probabilities of a source that fits into memory, float32 (y, x); 0 where it has no known label."""
    whole = np.zeros(source.shape, np.float32)
    for y, x, probability, _ in predict_source(network, source, card=card, flips=flips):
        whole[y : y + probability.shape[0], x : x + probability.shape[1]] = probability
    return whole


def choose_threshold(
    network: keras.Model,
    sources: Sequence[Source],
    *,
    card: ModelCard,
    flips: int = 1,
    prevalence: float | None = None,
) -> float:
    """The best threshold of a network on labelled sources: `best_threshold` of `count_codes`."""
    return best_threshold(count_codes(network, sources, card=card, flips=flips), prevalence=prevalence)


def count_codes(
    network: keras.Model, sources: Sequence[Source], *, card: ModelCard, flips: int = 1
) -> dict[str, npt.NDArray[np.int64]]:
    """Pixels of labelled sources by group, int64 (background or landslide, probability code).

    Args:
        network: Trained without these sources.
        sources: Of the development part.
        card: Of the network.
        flips: As in `predict_source`.
    """
    counts: dict[str, npt.NDArray[np.int64]] = {}
    for source in sources:
        of_group = counts.setdefault(source.group, np.zeros((2, CODE_SCALE + 1), dtype=np.int64))
        for _, _, probability, classes in predict_source(network, source, card=card, flips=flips):
            codes = np.rint(probability * CODE_SCALE).astype(np.int64)
            for truth, chosen in enumerate((classes == 0, (classes > 0) & (classes != LABEL_IGNORE))):
                of_group[truth] += np.bincount(codes[chosen], minlength=CODE_SCALE + 1)
    return counts


def best_threshold(counts: Mapping[str, npt.NDArray[np.int64]], *, prevalence: float | None = None) -> float:
    """The threshold of two decimals with the highest F1, the mean over groups.

    Args:
        counts: Of `count_codes`. Every group counts alike, however large it is.
        prevalence: Share of landslides that each group is restated at; default: its own.

    Raises:
        UsageError: A group holds no landslide or no background.
    """
    f1 = np.mean([_f1_of_codes(of_group, name, prevalence) for name, of_group in counts.items()], axis=0)
    # Every other code is a threshold of two decimals; 0 would call everything a landslide.
    step = CODE_SCALE // 100
    return float(np.argmax(f1[step::step]) + 1) / 100


def _mean_of_flips(network: keras.Model, window: FloatArray, card: ModelCard, flips: int) -> FloatArray:
    """Probability float32 (y, x) of any class over the core of a square window."""
    total = np.zeros(())
    for number in range(flips):
        turned = np.rot90(window, number % 4)
        turned = turned[:, ::-1] if number >= ORIENTATIONS // 2 else turned
        output = np.asarray(compiled_network(network)(np.ascontiguousarray(turned)[None]))[0]
        probability = output[..., 0] if output.shape[-1] == 1 else 1 - output[..., 0]
        cut = HALO_PX[card.padding] - (VALID_SHRINK_PX if card.padding == "valid" else 0)
        probability = probability[cut:-cut, cut:-cut]
        probability = probability[:, ::-1] if number >= ORIENTATIONS // 2 else probability
        total = total + np.rot90(probability, -(number % 4))
    return np.asarray(total / flips, dtype=np.float32)


def _f1_of_codes(
    counts: npt.NDArray[np.int64], group: str, prevalence: float | None
) -> npt.NDArray[np.float64]:
    """F1 with each code as threshold, from counts (background or landslide, code)."""
    background, landslide = counts.sum(axis=1)
    if not (background and landslide):
        raise UsageError(f"a threshold needs landslides and background; {group} holds only one of them")
    alarms, hits = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    share = prevalence or landslide / (landslide + background)
    recall, false = share * hits / landslide, (1 - share) * alarms / background
    f1: npt.NDArray[np.float64] = 2 * recall / (recall + false + share)
    return f1
