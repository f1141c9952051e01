"""From covered ground and a sun, what a PlanetScope camera records: surface reflectance, clouds, shadows."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from coseis.simulate.landcover import Cover, CoverArray
from coseis.simulate.terrain import PIXEL_M, FloatArray, interpolate, smooth_noise

BoolArray = NDArray[np.bool_]
BANDS = ("blue", "green", "red", "nir")

REFLECTANCE: dict[Cover, tuple[float, float, float, float]] = {
    Cover.BROADLEAF: (0.025, 0.045, 0.030, 0.38),
    Cover.CONIFER: (0.015, 0.028, 0.020, 0.23),
    Cover.GRASS: (0.035, 0.070, 0.055, 0.40),
    Cover.RICE: (0.055, 0.090, 0.100, 0.32),
    Cover.BARE_FIELD: (0.070, 0.100, 0.135, 0.22),
    Cover.WATER: (0.030, 0.040, 0.035, 0.015),
    Cover.GRAVEL: (0.120, 0.140, 0.150, 0.19),
    Cover.ROAD: (0.120, 0.150, 0.180, 0.23),
    Cover.OLD_SCAR: (0.029, 0.054, 0.064, 0.238),
    Cover.SCAR_BROWN: (0.055, 0.095, 0.145, 0.25),
    Cover.SCAR_PALE: (0.130, 0.190, 0.245, 0.33),
    Cover.RUNOUT: (0.046, 0.076, 0.103, 0.27),
}
"""Surface reflectance in September, blue to NIR, of a flat surface in full sun. Runout is scar, wood and
forest mixed; an old scar is darkened by the grass that returns."""
DIFFUSE = (0.25, 0.21, 0.18, 0.15)
"""Share of light that comes from the whole sky, most in blue."""
HAZE = (0.060, 0.045, 0.032, 0.012)
"""Reflectance that full haze adds."""
POINT_SPREAD_PX = 0.75
NOISE_SD = 0.003
SHADE_STEP_PX = 6
CLOUD_HEIGHT_M = 900.0


@dataclass(frozen=True)
class Look:
    """How one scene was taken; two scenes of the same ground differ only in this."""

    sun_azimuth_deg: float
    """Clockwise from north, where the sun stands."""
    sun_elevation_deg: float
    gain: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """Calibration error a band."""
    haze: float = 0.0
    """Share of full haze, 0-1."""
    cloud_share: float = 0.0
    """Share of the window under cloud, 0-1."""
    seed: int = 0
    """For clouds, haze and noise."""


@dataclass(frozen=True)
class Exposure:
    """What the camera and Planet's mask algorithm make of one window of ground."""

    reflectance: FloatArray
    """float32 (band, y, x), surface reflectance 0-1.6, blue green red nir, never missing."""
    cloud: BoolArray
    """bool (y, x); so are shadow and haze."""
    shadow: BoolArray
    haze: BoolArray


def expose(elevation_m: FloatArray, cover: CoverArray, tone: NDArray[np.float16], look: Look) -> Exposure:
    """Light a window of ground and photograph it: each effect a small function, applied in nature's order.

    Args:
        elevation_m: float32 (y, x), metres.
        cover: uint8 (y, x), codes of `Cover`.
        tone: float16 (y, x), factor on the cover's reflectance.
        look: sun, atmosphere, calibration and the seed of what is random.
    """
    rng = np.random.default_rng([look.seed, 4])
    direct = _direct_light(elevation_m, look)
    clouds, cloud_shadow = _clouds(rng, cover.shape, look)
    direct *= 1 - 0.9 * cloud_shadow
    haze_amount = look.haze * np.exp(0.25 * _broad_noise(rng, cover.shape, 400.0))
    table = np.zeros((len(Cover) + 1, 4), np.float32)
    for kind, values in REFLECTANCE.items():
        table[kind] = values
    cloud_tone = 0.62 + 0.12 * _broad_noise(rng, cover.shape, 60.0) if look.cloud_share else np.float32(0)

    reflectance = np.empty((len(BANDS), *cover.shape), np.float32)
    for band, diffuse in enumerate(DIFFUSE):
        ground = table[:, band][cover]
        ground *= tone
        ground *= (1 - diffuse) * direct + diffuse * (1 - 0.25 * cloud_shadow)
        ground += HAZE[band] * haze_amount
        ground += clouds * (cloud_tone - ground)
        ndimage.gaussian_filter(ground, POINT_SPREAD_PX, output=reflectance[band], truncate=3)
        reflectance[band] *= look.gain[band]
        reflectance[band] += NOISE_SD * rng.standard_normal(cover.shape, dtype=np.float32)
    np.clip(reflectance, 0.0001, 1.6, out=reflectance)
    cloud = clouds > 0.35
    shadow = (cloud_shadow > 0.35) & ~cloud
    return Exposure(reflectance, cloud, shadow, (clouds > 0.06) & ~cloud & ~shadow)


def _direct_light(elevation_m: FloatArray, look: Look) -> FloatArray:
    """Direct sunlight relative to flat ground: cosine of incidence, 0 in cast shadow."""
    azimuth, elevation = np.radians([look.sun_azimuth_deg, look.sun_elevation_deg], dtype=np.float32)
    gy, gx = np.gradient(elevation_m, np.float32(PIXEL_M))
    light = np.tan(elevation) - gx * np.sin(azimuth) + gy * np.cos(azimuth)  # y runs south
    light /= np.tan(elevation) * np.sqrt(1 + gx**2 + gy**2)
    np.clip(light, 0, 2.5, out=light)
    light *= 1 - _cast_shadow(elevation_m, look)
    return cast(FloatArray, light)


def _cast_shadow(elevation_m: FloatArray, look: Look) -> FloatArray:
    """Share of each pixel in the shadow of other ground, 0-1: marching towards the sun on a coarser grid."""
    low = elevation_m[::SHADE_STEP_PX, ::SHADE_STEP_PX]
    azimuth = np.radians(look.sun_azimuth_deg)
    rise_m = SHADE_STEP_PX * PIXEL_M * np.tan(np.radians(look.sun_elevation_deg))
    highest = float(low.max() - low.min())
    shadow = np.zeros(low.shape, np.float32)
    for step in range(1, int(min(40, highest / rise_m)) + 1):
        dy, dx = (round(step * f) for f in (-np.cos(azimuth), np.sin(azimuth)))
        towards_sun = shift(low, -dy, -dx, float(low.min()))
        np.maximum(shadow, np.clip((towards_sun - step * rise_m - low) / 4.0, 0, 1), out=shadow)
    return _enlarge(shadow, elevation_m.shape, SHADE_STEP_PX)


def _clouds(rng: np.random.Generator, shape: tuple[int, int], look: Look) -> tuple[FloatArray, FloatArray]:
    """Opacity of cumulus clouds and of their shadows on the ground, float32 (y, x), 0-1."""
    if look.cloud_share <= 0:
        nothing = np.zeros((1, 1), np.float32)
        return np.broadcast_to(nothing, shape), np.broadcast_to(nothing, shape)
    step = 8
    azimuth = np.radians(look.sun_azimuth_deg)
    reach = CLOUD_HEIGHT_M / np.tan(np.radians(look.sun_elevation_deg)) / (PIXEL_M * step)
    dy, dx = round(reach * np.cos(azimuth)), round(-reach * np.sin(azimuth))
    margin = max(abs(dy), abs(dx))  # clouds beside the window throw shadows into it
    small = (-(-shape[0] // step) + 1 + 2 * margin, -(-shape[1] // step) + 1 + 2 * margin)
    puffs = smooth_noise(rng, small, 9.0) + 0.35 * smooth_noise(rng, small, 2.5)
    inner = (slice(margin, small[0] - margin), slice(margin, small[1] - margin))
    base = float(np.quantile(puffs[inner], 1 - look.cloud_share))
    opacity = np.clip((puffs - base) / 0.3 + 0.35, 0, 1).astype(np.float32)
    cast_on = shift(opacity, dy, dx, 0.0)
    return _enlarge(opacity[inner], shape, step), _enlarge(cast_on[inner], shape, step)


def shift(field: FloatArray, dy: int, dx: int, fill: float) -> FloatArray:
    """The field moved down by dy and right by dx, float32 (y, x), `fill` where nothing came from."""
    moved = np.full_like(field, fill)
    ny, nx = field.shape
    if abs(dy) < ny and abs(dx) < nx:
        source = field[max(0, -dy) : ny - max(0, dy), max(0, -dx) : nx - max(0, dx)]
        moved[max(0, dy) : ny - max(0, -dy), max(0, dx) : nx - max(0, -dx)] = source
    return moved


def _broad_noise(rng: np.random.Generator, shape: tuple[int, int], length_m: float) -> FloatArray:
    """Gaussian noise of unit variance that varies over the given length, float32 (y, x)."""
    step = max(1, round(length_m / PIXEL_M / 6))
    small = (-(-shape[0] // step) + 1, -(-shape[1] // step) + 1)
    return _enlarge(smooth_noise(rng, small, 6.0), shape, step)


def _enlarge(small: FloatArray, shape: tuple[int, ...], step: int) -> FloatArray:
    """A field sampled every `step` pixels on all pixels of `shape`, bilinear."""
    y, x = (np.arange(n, dtype=np.float32) / step for n in shape)
    return interpolate(small, y, x)
