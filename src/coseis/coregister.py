"""Two images of one place go in, how far the first lies off the second comes out, with how sure that is.

Shadows, seasons and landslides change what a pixel shows from date to date; which way it gets brighter
changes least. So what is correlated is the direction of the gradient as a complex number, faded out where the
ground is flat and zero where a pixel is missing: that agrees with nothing, and needs no filling.

Reference: A. J. Fitch, A. Kadyrov, W. J. Christmas, J. Kittler (2002), Orientation correlation, BMVC,
doi:10.5244/C.16.11. Ours fades out weak gradients instead of cutting them off, and asks windows within the
image whether they agree, because one peak alone is no proof.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import exp, nan
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter, minimum_filter
from skimage.registration import phase_cross_correlation

from coseis.errors import UsageError

REACH_PX = 16
"""Farthest shift that is looked for, along either axis."""
WINDOW_PX = 192
"""Side of the windows whose estimates are compared."""
WINDOWS = 5
"""Windows along each axis of a block; neighbours overlap."""
LEAST_WINDOWS = 5
"""Windows that must have something to say, for a block to be measured."""
LEAST_VALID = 0.4
"""Share of a window, weighted towards its middle, that must be valid in both images."""
LEAST_COHERENCE = 0.15
"""Normalized correlation from which a window's peak is one: unrelated ground reaches 0.09 +- 0.01, and
0.13 in a hundredth of the windows, more where pixels are missing."""
SMOOTH_PX = 1.0
"""Standard deviation of the smoothing under the gradient, against noise; 0.7 to 1.5 px do as well."""
LEAST_CONTRAST = 1e-5
"""Deviation of a band over its greatest value, and steepness in deviations a pixel, below which float32 only
rounds."""
STEPS_PER_PX = 20
"""Finest step of a window's estimate."""
AGREEING_PX = 1.0
"""Windows within this of their median make the block's estimate, blocks within it the scene's."""
GOOD_CONFIDENCE = 0.9
"""Least confidence of a good block."""
CONFIDENCE = (5.79, 6.22)
"""Logistic regression of whether a block's shift is right on its worst window, px: at 0.58 px nine of ten
are. Of injected shifts, by `benchmarks/coregistration.py --calibrate`; how many windows speak, and how high
their peaks are, tells no more."""

State = Literal["good", "weak", "unmeasured"]
"""good: believed; weak: a number, not to be acted on; unmeasured: too little to see."""
Complex = NDArray[np.complex64]


@dataclass(frozen=True)
class BlockShift:
    """How far one image of a block lies off the other, in pixels."""

    dy_px: float
    """Downwards; NaN where unmeasured, as all but `support` and `confidence`."""
    dx_px: float
    """To the right."""
    worst_px: float
    """How far the window that differs most says otherwise."""
    support: float
    """Share of the block's windows that had something to say, 0-1."""
    confidence: float
    """Probability that the shift is right: within half a pixel of the block's mean, and nine tenths of its
    pixels within one."""
    state: State


UNMEASURED = BlockShift(nan, nan, nan, 0.0, 0.0, "unmeasured")


def measure_shift(
    pre: NDArray[np.float32], post: NDArray[np.float32], valid: NDArray[np.bool_]
) -> BlockShift:
    """How far what `pre` shows lies off what `post` shows: positive is down and to the right.

    The whole block tells the shift to a pixel; windows of it, moved so, tell the rest. A window has something
    to say where its peak is higher than unrelated ground gives: what is under a cloud or a new landslide says
    nothing. Where those that speak contradict each other, no one shift is right.

    Args:
        pre: float32 (band, y, x), any unit; bands are weighed alike. Not read where not valid.
        post: Likewise, of the same shape.
        valid: bool (y, x), where both images hold something.

    Raises:
        UsageError: the shapes differ, or the images are smaller than a window and the reach beside it.
    """
    if pre.shape != post.shape or pre.shape[1:] != valid.shape:
        raise UsageError(f"images are {pre.shape} and {post.shape}, valid {valid.shape}; expected the same")
    if min(valid.shape) < WINDOW_PX + REACH_PX:
        raise UsageError(f"images are {valid.shape}; expected at least {WINDOW_PX + REACH_PX} px a side")
    first, second = _directions(pre, valid), _directions(post, valid)
    if not (first.any() and second.any()):
        return UNMEASURED
    coarse = _whole_shift(first, second)
    # Moved so, windows of both show the same ground, and none is cut by the shift.
    parts = [_overlap(shift, side) for shift, side in zip(coarse, valid.shape, strict=True)]
    first, second = first[parts[0][0], parts[1][0]], second[parts[0][1], parts[1][1]]
    said = np.array(list(_window_shifts(first, second)), np.float64).reshape(-1, 2)
    if len(said) < LEAST_WINDOWS:
        return UNMEASURED
    rest = consensus(said)
    worst_px = float(np.hypot(*(said - rest).T).max())
    confidence = 1 / (1 + exp(min(CONFIDENCE[1] * worst_px - CONFIDENCE[0], 50)))
    state: State = "good" if confidence >= GOOD_CONFIDENCE else "weak"
    dy_px, dx_px = (round(float(whole + part), 3) for whole, part in zip(coarse, rest, strict=True))
    return BlockShift(dy_px, dx_px, round(worst_px, 3), len(said) / WINDOWS**2, round(confidence, 4), state)


def _directions(image: NDArray[np.float32], valid: NDArray[np.bool_]) -> Complex:
    """complex64 (y, x): direction of the gradient; length near 1 on edges, near 0 on flat ground, 0 where a
    missing pixel is near.
    """
    grey = np.zeros(valid.shape, np.float32)
    for band in image:
        values = band[valid]
        # Of equal values numpy's deviation is not zero, and what it rounds would become the texture.
        if values.size and (deviation := values.std()) > LEAST_CONTRAST * np.abs(values).max():
            grey[valid] += (values - values.mean()) / deviation
    reach_px = int(4 * SMOOTH_PX + 0.5)  # scipy's kernel
    inner = minimum_filter(valid, 2 * reach_px + 1)
    slope = np.empty(valid.shape, np.complex64)
    slope.real = gaussian_filter(grey, SMOOTH_PX, order=(0, 1))
    slope.imag = gaussian_filter(grey, SMOOTH_PX, order=(1, 0))
    steepness = np.abs(slope)
    inner &= steepness > LEAST_CONTRAST
    if not inner.any():
        return np.zeros_like(slope)
    directions: Complex = slope / (steepness + np.median(steepness[inner]))
    directions[~inner] = 0
    return directions


def _whole_shift(first: Complex, second: Complex) -> tuple[int, int]:
    """The shift of the first to a pixel, within reach."""
    taper = _taper(first.shape)
    spectrum = fft.fft2(first * taper) * np.conj(fft.fft2(second * taper))
    near = np.arange(-REACH_PX, REACH_PX + 1)
    correlation = fft.ifft2(spectrum).real[np.ix_(near, near)]
    row, col = np.unravel_index(int(correlation.argmax()), correlation.shape)
    return int(near[row]), int(near[col])


def _overlap(shift: int, side: int) -> tuple[slice, slice]:
    """What two images of an axis have in common, in the first and in the second, if the first is shifted."""
    return slice(max(shift, 0), side + min(shift, 0)), slice(max(-shift, 0), side - max(shift, 0))


def _window_shifts(first: Complex, second: Complex) -> Iterator[tuple[float, float]]:
    """What is left of the shift in each window that has something to say."""
    taper = _taper((WINDOW_PX, WINDOW_PX))
    rows, cols = (np.linspace(0, side - WINDOW_PX, WINDOWS).astype(int) for side in first.shape)
    for row, col in product(rows, cols):
        window = (slice(row, row + WINDOW_PX), slice(col, col + WINDOW_PX))
        one, other = first[window], second[window]
        seen = float(((one != 0) & (other != 0)).astype(np.float32).ravel() @ taper.ravel() / taper.sum())
        if seen < LEAST_VALID:
            continue
        # Plain correlation: whitened once more ("phase"), directions say less (0.05 px for 0.03 px).
        (dy, dx), error, _ = phase_cross_correlation(
            fft.fft2(one * taper),
            fft.fft2(other * taper),
            space="fourier",
            upsample_factor=STEPS_PER_PX,
            normalization=None,
        )
        coherence = max(0.0, 1 - float(error) ** 2) ** 0.5
        # Fewer pixels are alike by chance more easily.
        if coherence >= LEAST_COHERENCE / seen**0.5:
            yield float(dy), float(dx)


def _taper(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Hann window: what two windows do not share lies at their edges."""
    rows, cols = (np.hanning(side + 2)[1:-1].astype(np.float32) for side in shape)
    return np.outer(rows, cols)


def consensus(shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2,): the mean of the shifts (number, 2) near their median, or the median where none is near."""
    median: NDArray[np.float64] = np.median(shifts, axis=0)
    near = shifts[np.hypot(*(shifts - median).T) <= AGREEING_PX]
    mean: NDArray[np.float64] = near.mean(axis=0) if len(near) else median
    return mean
