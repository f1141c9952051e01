"""From a lit view and where its pixels fell, what is delivered: blurred, shifted, noisy; a mask that errs."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy import ndimage

from coseis.simulate.landcover import Cover
from coseis.simulate.scenes import BANDS, BoolArray, Look, Sky, SkyArray, Surface, illuminate
from coseis.simulate.terrain import FloatArray, interpolate, smooth_noise

Shift = tuple[float, float]
"""Pixels down and right."""
POINT_SPREAD_PX = 0.7
NOISE_SD = 0.0016
BAND_MISFIT_PX = (0.2, 0.5)
RELIEF_SHARE = 1 / 1.5
"""Shift at the highest and lowest ground for each pixel of scene error: 1 px where scenes err by 1.5 px."""
MISSED_THIN, CALLED_CLOUD = 0.10, 0.05
"""Shares of thin cloud that the mask takes for clear ground, and of pale scars that it takes for cloud."""
KNOT_PX = 8
"""Positions are worked out at every so many pixels and are linear between them: 1e-5 px off at most."""


@dataclass(frozen=True)
class Misfit:
    """How far ground is from where a scene shows it: it appears at its true place plus this."""

    scene_px: Shift = (0.0, 0.0)
    relief_px: Shift = (0.0, 0.0)
    """More at `scale_m` above `reference_m`, less below, in proportion."""
    reference_m: float = 0.0
    scale_m: float = 1.0
    bands_px: tuple[Shift, Shift, Shift, Shift] = ((0.0, 0.0),) * 4
    """More in each of BANDS; green has none."""

    def shift_px(self, elevation_m: FloatArray) -> FloatArray:
        """Shift of green at each elevation, float32 (2, y, x), pixels down and right."""
        rise = (elevation_m - np.float32(self.reference_m)) / np.float32(self.scale_m)
        np.clip(rise, -1, 1, out=rise)
        scene, relief = (np.array(s, np.float32)[:, None, None] for s in (self.scene_px, self.relief_px))
        return np.asarray(scene + relief * rise, np.float32)


NO_MISFIT = Misfit()


@dataclass(frozen=True)
class Exposure:
    """What is delivered for one window of ground, and what is true of it."""

    reflectance: FloatArray
    """float32 (band, y, x), surface reflectance 0-1.6, blue green red nir, never missing."""
    called: SkyArray
    """uint8 (y, x), codes of `Sky`: what the mask says, with its errors."""
    sky: SkyArray
    """uint8 (y, x), codes of `Sky`: the truth."""
    sky_over_ground: SkyArray
    """The truth again, uint8 on the window's own pixels: no misfit."""


def draw_misfit(rng: np.random.Generator, sigma_px: float, elevation_m: FloatArray) -> Misfit:
    """Errors of one scene.

    Args:
        rng: what is random.
        sigma_px: standard deviation of a scene's place along each axis; 0: only bands misfit.
        elevation_m: float32 (y, x), of the whole map.
    """
    low, high = np.percentile(elevation_m[::8, ::8], [1, 99])
    scene = np.round(sigma_px * rng.standard_normal(2), 3)
    bearing = rng.uniform(0, 2 * np.pi)
    relief = np.round(sigma_px * RELIEF_SHARE * np.array([np.sin(bearing), np.cos(bearing)]), 3)
    turns = rng.uniform(0, 2 * np.pi, 4)
    sizes = rng.uniform(*BAND_MISFIT_PX, 4) * [1, 0, 1, 1]
    blue, green, red, nir = (
        (round(float(s * np.sin(t)), 3), round(float(s * np.cos(t)), 3))
        for s, t in zip(sizes, turns, strict=True)
    )
    return Misfit(
        scene_px=(float(scene[0]), float(scene[1])),
        relief_px=(float(relief[0]), float(relief[1])),
        reference_m=round(float(low + high) / 2, 1),
        scale_m=round(max(float(high - low) / 2, 1.0), 1),
        bands_px=(blue, green, red, nir),
    )


class Placement(NamedTuple):
    """Where the pixels of a delivered scene lie in a window of ground."""

    knots: FloatArray
    """float32 (2, m, n): row and column in the window of the centre of every KNOT_PX-th pixel, both ways."""
    shape: tuple[int, int]
    """Of the scene, pixels."""

    def pixels(self) -> FloatArray:
        """Row and column of each pixel, float32 (2, y, x)."""
        y, x = (np.arange(n, dtype=np.float32) / KNOT_PX for n in self.shape)
        return np.stack([interpolate(knots, y, x) for knots in self.knots])


def place(window: GeoBox, scene: GeoBox) -> Placement:
    """Where the pixels of a scene lie in a window whose CRS may be another one."""
    y, x = np.meshgrid(*(np.arange(0.0, n + KNOT_PX, KNOT_PX) for n in scene.shape), indexing="ij")
    east, north = _apply(scene.transform, x + 0.5, y + 0.5)
    if window.crs != scene.crs:
        crossing = Transformer.from_crs(str(scene.crs), str(window.crs), always_xy=True)
        east, north = crossing.transform(east, north)
    columns, rows = _apply(~window.transform, east, north)
    knots = np.stack([rows, columns]).astype(np.float32) - np.float32(0.5)
    return Placement(knots, (scene.height, scene.width))


def expose(
    surface: Surface, look: Look, misfit: Misfit = NO_MISFIT, placement: Placement | None = None
) -> Exposure:
    """Light a window of ground and photograph it: each effect a small function, applied in nature's order.

    Args:
        surface: elevation and cover.
        look: sun, atmosphere, calibration and the seed of what is random.
        misfit: where the scene errs.
        placement: where the delivered pixels lie in the window; None: they are the window's own.
    """
    view = illuminate(surface, look)
    rng = np.random.default_rng([look.seed, 7])
    shape = surface.cover.shape
    if placement is None:
        own = GeoBox(shape, Affine.identity(), None)
        placement = place(own, own)
    height = ndimage.map_coordinates(surface.elevation_m, placement.knots, order=1, mode="nearest")
    rows, columns = positions = Placement(placement.knots - misfit.shift_px(height), placement.shape).pixels()
    reflectance = np.empty((len(BANDS), *placement.shape), np.float32)
    for number, (down, right) in enumerate(misfit.bands_px):
        light = ndimage.gaussian_filter(view.band(number), POINT_SPREAD_PX, truncate=3)
        moved = np.stack([rows - np.float32(down), columns - np.float32(right)])
        ndimage.map_coordinates(light, moved, output=reflectance[number], order=1, mode="nearest")
        reflectance[number] *= look.gain[number]
        reflectance[number] += np.float32(NOISE_SD) * rng.standard_normal(placement.shape, dtype=np.float32)
    np.clip(reflectance, 0.0001, 1.6, out=reflectance)
    over_ground = view.sky()
    pale = surface.cover == Cover.SCAR_PALE
    y, x = (np.clip(np.rint(p), 0, n - 1).astype(np.int32) for p, n in zip(positions, shape, strict=True))
    sky = over_ground[y, x]
    return Exposure(reflectance, _mistake(rng, sky, pale[y, x]), sky, over_ground)


def _apply(
    transform: Affine, x: NDArray[np.floating], y: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """An affine transform of arrays, which affine itself has no types for."""
    a, b, c, d, e, f = transform[:6]
    return a * x + b * y + c, d * x + e * y + f


def _mistake(rng: np.random.Generator, sky: SkyArray, pale: BoolArray) -> SkyArray:
    """The sky as an algorithm calls it: patches of thin cloud are missed, some pale scars taken for cloud."""
    called = sky.copy()
    thin = sky == Sky.THIN
    if thin.any():
        doubt = smooth_noise(rng, sky.shape, 6.0)
        called[thin & (doubt > np.quantile(doubt[thin], 1 - MISSED_THIN))] = Sky.CLEAR
    if not pale.any():
        return called
    scars, count = ndimage.label(pale & (sky == Sky.CLEAR))
    mistaken = np.append(False, rng.random(count) < CALLED_CLOUD)
    called[mistaken[scars]] = Sky.CLOUD
    return called
