"""From covered ground, a sun and a sky, the light that reaches a camera, and what hides the ground."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from coseis.simulate.landcover import Cover, CoverArray
from coseis.simulate.terrain import PIXEL_M, FloatArray, interpolate, smooth_noise

BoolArray = NDArray[np.bool_]
SkyArray = NDArray[np.uint8]
Season = Literal["summer", "leaf-off", "snow"]
Bands = tuple[float, float, float, float]
BANDS = ("blue", "green", "red", "nir")
_GRASS: Bands = (0.036, 0.068, 0.057, 0.40)

REFLECTANCE: dict[Cover, Bands] = {
    Cover.BROADLEAF: (0.018, 0.042, 0.037, 0.38),
    Cover.CONIFER: (0.011, 0.024, 0.020, 0.23),
    Cover.GRASS: _GRASS,
    Cover.RICE: (0.055, 0.090, 0.100, 0.32),
    Cover.BARE_FIELD: (0.060, 0.100, 0.135, 0.22),
    Cover.WATER: (0.030, 0.030, 0.020, 0.010),
    Cover.GRAVEL: (0.095, 0.140, 0.155, 0.19),
    Cover.ROAD: (0.100, 0.150, 0.180, 0.23),
    Cover.OLD_SCAR: (0.038, 0.066, 0.101, 0.175),
    Cover.SCAR_BROWN: (0.055, 0.095, 0.145, 0.25),
    Cover.SCAR_PALE: (0.145, 0.230, 0.290, 0.36),
    Cover.RUNOUT: (0.043, 0.074, 0.103, 0.27),
    Cover.CLEAR_CUT: (0.052, 0.084, 0.116, 0.25),
    Cover.WINDTHROW: (0.036, 0.060, 0.076, 0.28),
    Cover.QUARRY: (0.115, 0.185, 0.230, 0.29),
    Cover.CORRIDOR: (0.045, 0.080, 0.085, 0.33),
    Cover.FRESH_GRAVEL: (0.092, 0.142, 0.165, 0.21),
    Cover.LOG_RAFT: (0.050, 0.070, 0.090, 0.20),
    Cover.MUDDY_WATER: (0.053, 0.090, 0.100, 0.030),
}
"""Surface reflectance in September, blue to NIR, of a flat surface in full sun. Runout is scar, wood and
forest mixed; an old scar is a brown one darkened by 0.7, on which grass grows as `Surface.grass` says. Forest
and what is bare are less green and blue than in books, as in the 8-bit colours of the real Iburi scene."""
LEAFLESS: dict[Cover, Bands] = {
    Cover.BROADLEAF: (0.045, 0.060, 0.080, 0.20),
    Cover.GRASS: (0.055, 0.085, 0.110, 0.22),
    Cover.RICE: (0.070, 0.100, 0.135, 0.22),
    Cover.CORRIDOR: (0.060, 0.090, 0.115, 0.23),
}
"""In early spring, where other than in September."""
SNOW: Bands = (0.80, 0.80, 0.80, 0.70)
UNDER_TREES: dict[Cover, float] = {Cover.BROADLEAF: 0.45, Cover.CONIFER: 0.08, Cover.WATER: 0.0}
"""Share of snow that is seen from above on a snowy day; of all other ground, all."""
DIFFUSE: Bands = (0.25, 0.21, 0.18, 0.15)
"""Share of light that comes from the whole sky, most in blue."""
SHADE_STEP_PX = 6
CLOUD_HEIGHT_M = 900.0
CLOUD_LEAST, THIN_LEAST, SHADOW_LEAST = 0.35, 0.06, 0.35
"""Opacities above which ground counts as under cloud, thin cloud or cloud shadow."""


class Sky(IntEnum):
    """What lies between the camera and a pixel of ground, by the numbers of UDM2's bands; 0: not seen."""

    CLEAR = 1
    SNOW = 2
    SHADOW = 3
    THIN = 4
    CLOUD = 6


@dataclass(frozen=True)
class Look:
    """Light and weather of one scene; two scenes of the same ground differ in this and in their misfit."""

    sun_azimuth_deg: float
    """Clockwise from north, where the sun stands."""
    sun_elevation_deg: float
    gain: Bands = (1.0, 1.0, 1.0, 1.0)
    """Calibration error a band."""
    haze: Bands = (0.0, 0.0, 0.0, 0.0)
    """Reflectance that haze adds a band."""
    cloud_share: float = 0.0
    """Share of the window under cloud, 0-1."""
    shadow_light: float = 0.42
    """Light that is left in a cloud's shadow."""
    season: Season = "summer"
    seed: int = 0
    """For clouds, haze, noise and errors of the mask."""


@dataclass(frozen=True)
class Surface:
    """A window of ground, all (y, x)."""

    elevation_m: FloatArray
    """float32, metres."""
    cover: CoverArray
    """uint8, codes of `Cover`."""
    tone: NDArray[np.float16]
    """float16, factor on the cover's reflectance."""
    grass: NDArray[np.uint8] | None = None
    """uint8, percent of the cover that grass has grown over; None: nowhere."""


@dataclass(frozen=True)
class View:
    """A lit window of ground under its sky; bands are made one at a time, because a scene is large."""

    surface: Surface
    look: Look
    direct: FloatArray
    """float32 (y, x): direct sunlight relative to flat ground, 0 in the shadow of other ground."""
    clouds: FloatArray
    """float32 (y, x): opacity 0-1; so is what clouds do to the light below them, cloud_shadow."""
    cloud_shadow: FloatArray
    haze: FloatArray
    """float32 (y, x): factor on the look's haze."""
    cloud_tone: FloatArray

    def band(self, number: int) -> FloatArray:
        """What reaches the camera in one of BANDS, float32 (y, x), reflectance."""
        surface, look = self.surface, self.look
        table = _table(look.season)[:, number]
        light = table[surface.cover]
        if surface.grass is not None:
            grown = surface.grass * np.float32(0.01)
            light += grown * (table[Cover.GRASS] - light)
        light *= surface.tone
        light *= (1 - DIFFUSE[number]) * self.direct + DIFFUSE[number]
        light *= 1 - (1 - look.shadow_light) * self.cloud_shadow
        light += look.haze[number] * self.haze
        light += self.clouds * (self.cloud_tone - light)
        return light

    def sky(self) -> SkyArray:
        """What hides each pixel of ground, uint8 (y, x), codes of `Sky`."""
        sky = np.full(self.surface.cover.shape, Sky.CLEAR, np.uint8)
        if self.look.season == "snow":
            seen = np.ones(len(Cover) + 1)
            for cover, share in UNDER_TREES.items():
                seen[cover] = share
            sky[(seen > 0.3)[self.surface.cover]] = Sky.SNOW
        sky[self.clouds > THIN_LEAST] = Sky.THIN
        sky[self.cloud_shadow > SHADOW_LEAST] = Sky.SHADOW
        sky[self.clouds > CLOUD_LEAST] = Sky.CLOUD
        return sky


def illuminate(surface: Surface, look: Look) -> View:
    """Light a window of ground: slopes, shadows that hills and clouds cast, haze and clouds.

    Args:
        surface: elevation and cover, on pixels of 3 m.
        look: sun, atmosphere and the seed of what is random.
    """
    rng = np.random.default_rng([look.seed, 4])
    shape = surface.cover.shape
    clouds, cloud_shadow = _clouds(rng, shape, look)
    return View(
        surface=surface,
        look=look,
        direct=direct_light(surface.elevation_m, look),
        clouds=clouds,
        cloud_shadow=cloud_shadow,
        haze=np.exp(np.float32(0.25) * _broad_noise(rng, shape, 400.0)),
        cloud_tone=0.68 + 0.12 * _broad_noise(rng, shape, 60.0)
        if look.cloud_share
        else np.zeros((1, 1), np.float32),
    )


def direct_light(elevation_m: FloatArray, look: Look) -> FloatArray:
    """Direct sunlight relative to flat ground, float32 (y, x): cosine of incidence, 0 in cast shadow."""
    azimuth, elevation = np.radians([look.sun_azimuth_deg, look.sun_elevation_deg], dtype=np.float32)
    gy, gx = np.gradient(elevation_m, np.float32(PIXEL_M))
    light = np.tan(elevation) - gx * np.sin(azimuth) + gy * np.cos(azimuth)  # y runs south
    light /= np.tan(elevation) * np.sqrt(1 + gx**2 + gy**2)
    np.clip(light, 0, 2.5, out=light)
    light *= 1 - _cast_shadow(elevation_m, look)
    return cast(FloatArray, light)


def _table(season: Season) -> FloatArray:
    """Reflectance by code of `Cover` and band, float32 (code, 4)."""
    table = np.zeros((len(Cover) + 1, 4), np.float32)
    for cover, values in REFLECTANCE.items():
        table[cover] = values if season == "summer" else LEAFLESS.get(cover, values)
        if season == "snow":
            table[cover] += UNDER_TREES.get(cover, 1.0) * (np.array(SNOW, np.float32) - table[cover])
    return table


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
