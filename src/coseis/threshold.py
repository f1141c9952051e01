"""Counts of probability codes in, the least code that counts as landslide out.

A pixel is landslide when its code is at or above the threshold's code. The automatic rules are
scikit-image's, fed with the counts of the whole region, so they never need the array itself. Their own
rule is "above", which is turned into "at or above" here.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_isodata, threshold_otsu

from coseis.errors import UsageError
from coseis.types import CODE_SCALE, Value, least_code

ThresholdRule = Literal["card", "otsu", "isodata"] | float
"""The model card's threshold, an automatic one, or a probability in [0, 1]."""

MINIMUM_SHARE = 0.001
"""Least share of predicted pixels in either class. The false alarms that we allow a network on clear ground
(400 px/km2, 0.4 % of 3 m pixels) are more than that: a class so small says nothing about landslides."""
MAXIMUM_VALLEY = 0.5
"""Greatest count between the two modes, relative to the lesser mode. Otsu's rule cuts any histogram in two,
also the falling tail where nothing slid; a true second mode has a valley before it. (Otsu's own measure,
the share of variance between the classes, cannot tell: a flat histogram has 0.75, rare landslides less.)"""
MODE_WIDTH_CODES = 11
"""Width of the moving sum that smooths the counts before modes are sought: 0.05 in probability, odd."""


class Split(Value):
    """Where an automatic rule cuts the histogram, and how far that cut can be trusted."""

    code: int
    """Least code that counts as landslide, 1-200."""
    value: float
    """The same as a probability."""
    share_above: float
    """Share of the predicted pixels at or above the code."""
    separation: float
    """Share of the variance that lies between the two classes (Otsu's eta), 0-1."""
    valley: float
    """Least smoothed count between the two modes over the lesser mode's: 0 well apart, 1 no second mode."""
    bimodal: bool
    """Two modes with a valley between them, neither class too small."""


class ThresholdChoice(Value):
    """The threshold of a run, and what the automatic rules would have chosen."""

    rule: Literal["card", "otsu", "isodata", "fixed"]
    code: int
    """Least code that counts as landslide, 0-200."""
    value: float
    """The threshold as a probability: as given, or code / 200 of an automatic rule."""
    otsu: Split | None
    """None where fewer than two different codes were predicted."""
    isodata: Split | None
    """None as for otsu, or where one class is lost in the rounding of the sums."""


def choose_threshold(
    rule: ThresholdRule, histogram: NDArray[np.int64], card_threshold: float
) -> ThresholdChoice:
    """Choose the threshold of a run.

    Args:
        rule: "card", "otsu", "isodata" or a probability in [0, 1].
        histogram: int64 (201,), pixels of each code over the whole region.
        card_threshold: The model card's threshold, a probability in [0, 1].

    Raises:
        UsageError: The rule is unknown or outside [0, 1], or an automatic rule was asked of a histogram
            that is empty, holds one code, or is not bimodal.
    """
    otsu = _split_or_none(otsu_code, histogram)
    isodata = _split_or_none(isodata_code, histogram)
    if rule == "otsu" or rule == "isodata":
        chosen = _trusted_split(rule, histogram)
        code, value = chosen.code, chosen.value
    else:
        given = card_threshold if rule == "card" else rule
        if isinstance(given, str) or not 0 <= given <= 1:
            raise UsageError(f"threshold is {given!r}; expected card, otsu, isodata or a number from 0 to 1")
        code, value = least_code(given), given
    name = rule if isinstance(rule, str) else "fixed"
    return ThresholdChoice(rule=name, code=code, value=value, otsu=otsu, isodata=isodata)


def count_codes(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixels of each code: int64 (201,); codes above 200 (not predicted) are left out.

    Args:
        codes: uint8, any shape, round(200 p), 255 = not predicted.
    """
    return np.bincount(codes.reshape(-1), minlength=256)[: CODE_SCALE + 1].astype(np.int64)


def otsu_code(histogram: NDArray[np.int64]) -> int:
    """The least landslide code by Otsu's rule: the split with the greatest variance between the classes.

    Args:
        histogram: int64 (201,), pixels of each code.

    Raises:
        UsageError: Fewer than two different codes were counted.

    Reference:
        Otsu (1979), doi:10.1109/TSMC.1979.4310076, as in scikit-image; its > is turned into >=.
    """
    _require_two_codes("otsu", histogram)
    bins = np.arange(histogram.size)
    return int(threshold_otsu(hist=(histogram, bins))) + 1


def isodata_code(histogram: NDArray[np.int64]) -> int:
    """The least landslide code by the isodata rule: half way between the means of the two classes.

    Args:
        histogram: int64 (201,), pixels of each code.

    Raises:
        UsageError: Fewer than two different codes were counted, or the upper class is so small that
            scikit-image's float32 sums lose it.

    Reference:
        Ridler and Calvard (1978), doi:10.1109/TSMC.1978.4310039, as in scikit-image; > is turned into >=.
    """
    _require_two_codes("isodata", histogram)
    bins = np.arange(histogram.size)
    # The sums are float32: beyond 2**24 pixels a handful of them above a code can vanish, which divides by
    # zero for that code (never chosen then) or for all of them (IndexError: none is left to choose).
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            return int(threshold_isodata(hist=(histogram, bins))) + 1
    except IndexError:
        raise UsageError(
            f"isodata finds no threshold in a histogram of {histogram.sum()} pixels with one dominant code; "
            "use the card's threshold or a number from 0 to 1"
        ) from None


_FindCode = Callable[[NDArray[np.int64]], int]


def _require_two_codes(rule: str, histogram: NDArray[np.int64]) -> None:
    codes = np.flatnonzero(histogram)
    if codes.size < 2:
        found = f"the code {codes[0]} only" if codes.size else "no predicted pixel"
        raise UsageError(
            f"{rule} needs at least two different probabilities, but the map holds {found}; "
            "use the card's threshold or a number from 0 to 1"
        )


def _split_or_none(find: _FindCode, histogram: NDArray[np.int64]) -> Split | None:
    try:
        return _split(histogram, find(histogram))
    except UsageError:
        return None


def _split(histogram: NDArray[np.int64], code: int) -> Split:
    share_above = float(histogram[code:].sum() / histogram.sum())
    valley = _valley(histogram, code)
    return Split(
        code=code,
        value=code / CODE_SCALE,
        share_above=share_above,
        separation=_separation(histogram, code),
        valley=valley,
        bimodal=min(share_above, 1 - share_above) >= MINIMUM_SHARE and valley <= MAXIMUM_VALLEY,
    )


def _separation(histogram: NDArray[np.int64], code: int) -> float:
    """Variance between the classes below and from `code` on, as a share of the whole variance."""
    values = np.arange(histogram.size)
    weights = histogram / histogram.sum()
    mean = float(weights @ values)
    above = float(weights[code:].sum())
    offset = float(weights[code:] @ (values[code:] - mean))
    return min(1.0, offset**2 / (above * (1 - above)) / float(weights @ (values - mean) ** 2))


def _valley(histogram: NDArray[np.int64], code: int) -> float:
    """Least smoothed count between the modes on either side of `code`, relative to the lesser mode."""
    smooth = np.convolve(histogram, np.ones(MODE_WIDTH_CODES, dtype=np.int64), mode="same")
    lower = int(np.argmax(smooth[:code]))
    upper = code + int(np.argmax(smooth[code:]))
    return float(smooth[lower : upper + 1].min() / min(smooth[lower], smooth[upper]))


def _trusted_split(rule: Literal["otsu", "isodata"], histogram: NDArray[np.int64]) -> Split:
    """The split of the chosen rule; refused if the probabilities are not in two groups."""
    split = _split(histogram, (otsu_code if rule == "otsu" else isodata_code)(histogram))
    if not split.bimodal:
        raise UsageError(
            f"{rule} is refused, the probabilities are not in two groups: cut at {split.value:.3f}, "
            f"{split.share_above:.4%} of the pixels lie above (both sides need {MINIMUM_SHARE:.1%}) and the "
            f"valley is {split.valley:.2f} of the lesser mode (at most {MAXIMUM_VALLEY}). Perhaps nothing "
            "slid here; use the card's threshold or a number from 0 to 1"
        )
    return split
