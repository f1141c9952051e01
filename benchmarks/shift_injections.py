"""A seed and a kind of misfit go in, two photographs of made-up ground and the true shift come out.

The ground is rough relief under fields and forest. Between the dates the sun moves, fields change their
colour and crowns a part of their texture, so no two photographs are alike even where nothing was shifted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, map_coordinates

FloatArray = npt.NDArray[np.float32]
MARGIN_PX = 24
"""Ground beyond the block, from which shifted pixels come."""
PIXEL_M = 3.0
MOST_PX = 5.0
"""Largest constant shift."""


@dataclass(frozen=True)
class Pair:
    """Two photographs of a block and the truth."""

    pre: FloatArray
    """(band, y, x), reflectance."""
    post: FloatArray
    valid: npt.NDArray[np.bool_]
    """(y, x)."""
    shift_px: FloatArray
    """(2, y, x): how far what `pre` shows of a pixel's place lies down and to the right; NaN: nowhere."""


def make_pair(kind: str, seed: int, side_px: int = 512) -> Pair:
    """One pair of a kind of KINDS. Equal arguments give equal arrays."""
    rng = np.random.default_rng([sorted(KINDS).index(kind), seed])
    return KINDS[kind](rng, side_px)


def is_right(pair: Pair, shift_px: tuple[float, float]) -> bool:
    """Whether a shift may be called good: half a pixel from the mean, nine tenths within a pixel of it."""
    off = np.hypot(*(pair.shift_px - np.array(shift_px, np.float32)[:, None, None]))
    mean = np.hypot(*(pair.shift_px.mean(axis=(1, 2)) - np.array(shift_px)))
    return bool(mean <= 0.5 and np.quantile(off, 0.9) <= 1.0)


def photograph(rng: np.random.Generator, side_px: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Elevation (y, x), metres, and two photographs (band, y, x) of the ground, not shifted."""
    shape = (side_px, side_px)
    elevation_m = _rough(rng, shape, 2.2) * rng.uniform(20, 90)
    fields = np.digitize(_rough(rng, shape, 1.6), [-1.2, -0.5, 0.2, 0.9]).astype(np.intp)
    crowns = gaussian_filter(rng.standard_normal(shape).astype(np.float32), 1.0)
    crowns /= crowns.std()
    colours = rng.uniform(0.03, 0.14, (5, 3)).astype(np.float32)
    azimuth, height = rng.uniform(110, 170), rng.uniform(30, 60)
    photographs = []
    for _ in range(2):
        light = _light(elevation_m, azimuth + rng.uniform(-15, 15), height + rng.uniform(-8, 8))
        own = gaussian_filter(rng.standard_normal(shape).astype(np.float32), 1.0)
        texture = 1 + 0.15 * (0.8 * crowns + 0.6 * own / own.std())
        seen = colours * rng.uniform(0.7, 1.4, (5, 1)).astype(np.float32)
        image = np.moveaxis(seen[fields], -1, 0) * (light * texture)
        image = gaussian_filter(image, (0, 0.7, 0.7))
        image += rng.normal(0, 0.003, image.shape).astype(np.float32)
        photographs.append(image.astype(np.float32))
    return elevation_m, photographs[0], photographs[1]


def _constant(rng: np.random.Generator, side_px: int) -> Pair:
    return _take(rng, side_px, lambda relief: _everywhere(_any_shift(rng), relief.shape))


def _known(rng: np.random.Generator, side_px: int) -> Pair:
    return _take(rng, side_px, lambda relief: _everywhere(np.array([2.5, -1.5]), relief.shape))


def _ramp(rng: np.random.Generator, side_px: int) -> Pair:
    """From end to end by 0.5 to 6 px."""

    def field(relief: FloatArray) -> FloatArray:
        along = _axis(rng, relief.shape) * rng.uniform(0.5, 6) / 2
        return _everywhere(_any_shift(rng), relief.shape) + along * _direction(rng)

    return _take(rng, side_px, field)


def _relief(rng: np.random.Generator, side_px: int) -> Pair:
    """Up to +-1 to +-3 px across the track, as high ground does in scenes taken from aside."""

    def field(relief: FloatArray) -> FloatArray:
        high = 2 * (relief - relief.min()) / np.ptp(relief) - 1
        return _everywhere(_any_shift(rng), relief.shape) + high * rng.uniform(1, 3) * _direction(rng)

    return _take(rng, side_px, field)


def _strip(rng: np.random.Generator, side_px: int) -> Pair:
    """A jump of 1 to 4 px at a seam somewhere in the block."""

    def field(relief: FloatArray) -> FloatArray:
        beyond = (_axis(rng, relief.shape) > rng.uniform(-0.7, 0.7)).astype(np.float32)
        return _everywhere(_any_shift(rng), relief.shape) + beyond * rng.uniform(1, 4) * _direction(rng)

    return _take(rng, side_px, field)


def _cloud(rng: np.random.Generator, side_px: int) -> Pair:
    """Unmasked clouds over 20 to 60 % of one photograph."""
    pair = _constant(rng, side_px)
    puffs = _rough(rng, pair.valid.shape, 1.8)
    opacity = np.clip((puffs - np.quantile(puffs, 1 - rng.uniform(0.2, 0.6))) / 0.2, 0, 1)
    bright = 0.5 + 0.08 * _rough(rng, pair.valid.shape, 1.8)
    name = str(rng.choice(["pre", "post"]))
    return replace(pair, **{name: getattr(pair, name) * (1 - opacity) + bright * opacity})


def _change(rng: np.random.Generator, side_px: int) -> Pair:
    """30 % of the ground is another after the event, in patches."""
    pair = _constant(rng, side_px)
    spots = _rough(rng, pair.valid.shape, 1.4)
    changed = spots > np.quantile(spots, 0.7)
    bare = photograph(rng, side_px)[2] * rng.uniform(1, 3)
    return replace(pair, post=np.where(changed, bare, pair.post).astype(np.float32))


def _faint(rng: np.random.Generator, side_px: int) -> Pair:
    """More and more of the texture is another date's: snow, leaf-off, noise."""
    pair, share = _constant(rng, side_px), rng.uniform(0.5, 0.97)
    other = photograph(rng, side_px)[1]
    return replace(pair, pre=((1 - share) * pair.pre + share * other).astype(np.float32))


def _unrelated(rng: np.random.Generator, side_px: int) -> Pair:
    """Another place: no shift is right."""
    pair = _constant(rng, side_px)
    nowhere = np.full_like(pair.shift_px, np.nan)
    return replace(pair, pre=photograph(rng, side_px)[1], shift_px=nowhere)


def _holes(rng: np.random.Generator, side_px: int) -> Pair:
    """40 to 80 % of the pixels are missing, and zero."""
    pair = _constant(rng, side_px)
    spots = _rough(rng, pair.valid.shape, 2.0)
    valid = spots > np.quantile(spots, rng.uniform(0.4, 0.8))
    return replace(pair, pre=pair.pre * valid, post=pair.post * valid, valid=valid)


KINDS: dict[str, Callable[[np.random.Generator, int], Pair]] = {
    "known": _known,
    "constant": _constant,
    "ramp": _ramp,
    "relief": _relief,
    "strip": _strip,
    "cloud": _cloud,
    "change": _change,
    "holes": _holes,
    "faint": _faint,
    "unrelated": _unrelated,
}


def _take(rng: np.random.Generator, side_px: int, field: Callable[[FloatArray], FloatArray]) -> Pair:
    """Photographs of a block, the first one shifted by a field that may follow the relief."""
    elevation_m, before, after = photograph(rng, side_px + 2 * MARGIN_PX)
    inner = (slice(MARGIN_PX, -MARGIN_PX),) * 2
    shift_px = field(elevation_m[inner])
    places = np.mgrid[:side_px, :side_px] + MARGIN_PX - shift_px
    pre = np.stack([map_coordinates(band, places, order=3, output=np.float32) for band in before])
    return Pair(pre, after[:, *inner], np.ones((side_px, side_px), bool), shift_px)


def _any_shift(rng: np.random.Generator) -> FloatArray:
    return np.asarray(_direction(rng)[:, 0, 0] * MOST_PX * np.sqrt(rng.random()), np.float32)


def _direction(rng: np.random.Generator) -> FloatArray:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.sin(angle), np.cos(angle)], np.float32)[:, None, None]


def _everywhere(shift: npt.ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    return np.broadcast_to(np.asarray(shift, np.float32)[:, None, None], (2, *shape)).copy()


def _axis(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """-1 to 1 across the block in some direction."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in shape)
    sine, cosine = _direction(rng)[:, 0, 0]
    return np.asarray((sine * y[:, None] + cosine * x) / (abs(sine) + abs(cosine)), np.float32)


def _rough(rng: np.random.Generator, shape: tuple[int, ...], steepness: float) -> FloatArray:
    """Noise of unit variance whose amplitude falls with that power of the frequency."""
    y, x = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    frequency = np.hypot(y, x)
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * frequency**-steepness, shape)
    return np.asarray(noise / noise.std(), np.float32)


def _light(elevation_m: FloatArray, azimuth_deg: float, height_deg: float) -> FloatArray:
    """Light on the slopes relative to flat ground, a fifth of it from the whole sky."""
    azimuth, height = np.radians([azimuth_deg, height_deg])
    gy, gx = np.gradient(elevation_m, PIXEL_M)
    direct = (np.tan(height) - gx * np.sin(azimuth) + gy * np.cos(azimuth)) / (
        np.tan(height) * np.sqrt(1 + gx**2 + gy**2)
    )
    return np.asarray(0.2 + 0.8 * np.clip(direct, 0, 2.5), np.float32)
