"""From a seed, a size and a preset, a landscape that water carved: elevation, rivers and flow paths."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from coseis.errors import UsageError
from coseis.simulate.drainage import Drainage, drain

Preset = Literal["iburi", "steep"]
FloatArray = NDArray[np.float32]

PIXEL_M = 3.0
"""Pixel of the scenes and of the truth, metres: PlanetScope's ortho grid."""
CELL_PX = 5
"""Pixels per cell of the coarse grid on which water flows: 15 m keeps ridges sharp."""
MARGIN_CELLS = 40
"""Cells carved beyond each edge of the map (600 m), so that no edge acts as a ridge or a gutter."""
CELL_M = PIXEL_M * CELL_PX
ITERATIONS = 14
STEP_M = 60.0
"""Uplift of one iteration: large, because only the steady state is wanted, not the way to it."""


class _Relief(NamedTuple):
    """What tells one preset from the other."""

    median_slope_deg: float
    """Of the hills, rivers and their plains left out, on a model of 30 m; finer ones are steeper."""
    greatest_slope_deg: float
    """Slopes that are steeper fail within one step of the carving."""
    source_area_m2: float
    """Drainage area where channels begin; it sets the distance between valleys."""


RELIEF: dict[Preset, _Relief] = {
    "iburi": _Relief(median_slope_deg=22, greatest_slope_deg=33, source_area_m2=1500),
    "steep": _Relief(median_slope_deg=33, greatest_slope_deg=45, source_area_m2=4000),
}


@dataclass(frozen=True)
class River:
    """A meandering river as an analytic curve, so that its distance is exact at any resolution.

    In axes turned by `angle_rad` (u downstream, v across) it runs at v = offset + sum of sines of u.
    """

    angle_rad: float
    offset_m: float
    waves: tuple[tuple[float, float, float], ...]
    """Amplitude in metres, wavelength in metres and phase in radians of each sine."""

    def downstream_m(self, y_m: FloatArray, x_m: FloatArray) -> FloatArray:
        """Distance along the river's axis, metres."""
        cosine, sine = np.float32(np.cos(self.angle_rad)), np.float32(np.sin(self.angle_rad))
        return cast(FloatArray, cosine * x_m + sine * y_m)

    def across_m(self, y_m: FloatArray, x_m: FloatArray) -> FloatArray:
        """Distance across the river's axis, metres."""
        cosine, sine = np.float32(np.cos(self.angle_rad)), np.float32(np.sin(self.angle_rad))
        return cast(FloatArray, cosine * y_m - sine * x_m)

    def distance_m(self, y_m: FloatArray, x_m: FloatArray) -> FloatArray:
        """Signed distance from the river's middle, metres, true to first order near the river."""
        u = self.downstream_m(y_m, x_m)
        course = np.full_like(u, self.offset_m)
        gradient = np.zeros_like(u)
        for amplitude, length, phase in self.waves:
            k = np.float32(2 * np.pi / length)
            course += np.float32(amplitude) * np.sin(k * u + np.float32(phase))
            gradient += np.float32(amplitude) * k * np.cos(k * u + np.float32(phase))
        return cast(FloatArray, (self.across_m(y_m, x_m) - course) / np.sqrt(1 + gradient**2))


@dataclass(frozen=True)
class Terrain:
    """The carved landscape of a square map of `size_px` pixels."""

    size_px: int
    preset: Preset
    elevation_m: FloatArray
    """float32 (y, x), metres above the sea, never missing."""
    rivers: tuple[River, ...]
    drainage: Drainage
    coarse_elevation_m: FloatArray
    """float32 (cell, cell), metres, on the coarse grid with its margin."""
    coarse_plain: NDArray[np.bool_]
    """bool (cell, cell): rivers and their flood plains."""

    def upsample(self, coarse: NDArray[np.generic]) -> FloatArray:
        """A coarse field (cell, cell) on the map's pixels, bilinear, float32 (y, x)."""
        centres = (np.arange(self.size_px, dtype=np.float32) + 0.5) / CELL_PX - 0.5 + MARGIN_CELLS
        return interpolate(coarse.astype(np.float32), centres, centres)

    def to_cell(self, y_px: NDArray[np.floating], x_px: NDArray[np.floating]) -> NDArray[np.float64]:
        """Pixel positions (0 = outer edge) as fractional coarse indices, float64 (2, n)."""
        return np.stack([y_px, x_px]).astype(np.float64) / CELL_PX - 0.5 + MARGIN_CELLS

    def to_pixel(self, cell: NDArray[np.generic]) -> NDArray[np.float64]:
        """Fractional coarse indices as pixel positions (0 = outer edge): the inverse of `to_cell`."""
        return (np.asarray(cell, np.float64) + 0.5 - MARGIN_CELLS) * CELL_PX


def make_terrain(size_px: int, *, seed: int, preset: Preset = "iburi") -> Terrain:
    """Carve a landscape: noise is uplifted, and rivers and hillslopes wear it down until they keep pace.

    Fluvial and not fractal, because slides sit on hillslopes between ridge and valley: plain fractal noise
    has neither, and a network trained on it learns shapes that do not exist.

    Args:
        size_px: side of the square map, pixels of 3 m.
        seed: equal seeds give equal arrays.
        preset: iburi: low hills, median slope 22 degrees; steep: mountains, 33 degrees.

    Raises:
        UsageError: if the preset is unknown.
    """
    if preset not in RELIEF:
        raise UsageError(f"preset is {preset!r}; expected one of {', '.join(RELIEF)}")
    rng = np.random.default_rng([seed, 1])
    relief = RELIEF[preset]
    n = -(-size_px // CELL_PX) + 2 * MARGIN_CELLS
    y_m, x_m = _cell_centres_m(n)
    rivers = _make_rivers(rng, size_px * PIXEL_M)
    plain, base_m = _flood_plain(rng, rivers, y_m, x_m)

    # Rock differs from place to place; without it every hillslope is a plane along the grid's axes.
    strength = 0.16 * smooth_noise(rng, (n, n), 13.0) + 0.12 * smooth_noise(rng, (n, n), 2.5)
    steepest = np.tan(np.radians(relief.greatest_slope_deg))
    greatest = steepest * np.exp(strength)
    cliff = -1.25 * steepest * CELL_M * np.hypot(*np.mgrid[-1:2, -1:2])
    rough = sum(
        gain * smooth_noise(rng, (n, n), sigma) for gain, sigma in ((12.0, 20.0), (6.0, 6.5), (3.0, 2.5))
    )
    height = 20 + np.asarray(rough, np.float64)
    height[plain] = 0
    for _ in range(ITERATIONS):
        height[~plain] += STEP_M
        drain(height, plain, cell_m=CELL_M).erode(height, STEP_M, relief.source_area_m2, greatest)
        for _ in range(4):  # a divide between unequal valleys collapses to the slope that holds
            height = ndimage.grey_erosion(height, structure=cliff)
        height = ndimage.gaussian_filter(height, 0.42)  # soil creep rounds the ridges
        height[plain] = 0

    height = ndimage.gaussian_filter(height, 0.6)
    height *= np.tan(np.radians(relief.median_slope_deg)) / np.median(_steepness(height)[~plain])
    coarse = (base_m + height).astype(np.float32)
    terrain = Terrain(
        size_px, preset, np.empty(0, np.float32), rivers, drain(height, plain, cell_m=CELL_M), coarse, plain
    )
    step = 1 / CELL_PX
    shift = 0.5 * step - 0.5 + MARGIN_CELLS  # cubic: with bilinear elevation every cell would be a facet
    shape = (size_px, size_px)
    elevation = ndimage.affine_transform(coarse, [step, step], shift, output_shape=shape, output=np.float32)
    rough_cells = ndimage.gaussian_filter((~plain).astype(np.float32), 1.0)
    detail = 1.3 * smooth_noise(rng, elevation.shape, 7.0) + 0.3 * smooth_noise(rng, elevation.shape, 2.5)
    elevation += detail * terrain.upsample(rough_cells)
    return replace(terrain, elevation_m=elevation)


def interpolate(field: FloatArray, y: NDArray[np.floating], x: NDArray[np.floating]) -> FloatArray:
    """Bilinear values of a field at fractional rows and columns, float32 (len(y), len(x)), edges clamped.

    Separable, because scipy's spline code takes three times as long for the same numbers on a regular grid.

    Args:
        field: float32 (y, x).
        y: float32 (m,), row positions in pixels, 0 at the centre of the first.
        x: float32 (n,), column positions.
    """
    for positions in (y, x):  # the first pass leaves the field transposed, the second turns it back
        low = np.clip(np.floor(positions).astype(np.int64), 0, max(field.shape[0] - 2, 0))
        share = np.clip(positions - low, 0, 1).astype(np.float32)[:, None]
        high = np.minimum(low + 1, field.shape[0] - 1)
        field = np.ascontiguousarray((field[low] * (1 - share) + field[high] * share).T)
    return field


def slope_deg(elevation_m: FloatArray, spacing_m: float) -> FloatArray:
    """Slope, degrees, float32 (y, x), from elevation in metres on a grid of the given spacing."""
    gy, gx = np.gradient(elevation_m, np.float32(spacing_m))
    return cast(FloatArray, np.degrees(np.arctan(np.hypot(gy, gx))))


def _steepness(height_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Metres per metre, float64 (cell, cell), as a surface model of twice the cell tells it."""
    smooth = ndimage.uniform_filter(height_m, 2)
    return np.asarray(
        np.hypot(*(ndimage.correlate1d(smooth, [-1, 0, 0, 0, 1], axis) for axis in (0, 1))) / (4 * CELL_M)
    )


def _cell_centres_m(n: int) -> tuple[FloatArray, FloatArray]:
    """Metres from the map's upper left corner, y downwards, float32 (n, 1) and (1, n)."""
    centres = ((np.arange(n) + 0.5 - MARGIN_CELLS) * CELL_M).astype(np.float32)
    return centres[:, None], centres[None, :]


def _make_rivers(rng: np.random.Generator, size_m: float) -> tuple[River, ...]:
    """Roughly one river per 6 km across its course, all along one direction."""
    angle = float(rng.uniform(0, 2 * np.pi))
    sine, cosine = np.sin(angle), np.cos(angle)
    corners = size_m * np.array([0.0, cosine, -sine, cosine - sine])
    beside_m = 0.8 * MARGIN_CELLS * CELL_M  # a small map may lie beside its river, or it would be all plain
    first, extent = float(corners.min()) - beside_m, float(np.ptp(corners)) + 2 * beside_m
    count = max(1, round(extent / 6000))
    rivers = []
    for k in range(count):
        lengths = rng.uniform((3500, 1100, 420), (6000, 1900, 620))
        amplitudes = lengths * rng.uniform((0.04, 0.05, 0.04), (0.08, 0.09, 0.07))
        waves = np.stack([amplitudes, lengths, rng.uniform(0, 2 * np.pi, 3)], axis=1).tolist()
        offset = first + (k + float(rng.uniform(0.2, 0.8))) * extent / count
        rivers.append(River(angle, offset, tuple((a, length, phase) for a, length, phase in waves)))
    return tuple(rivers)


def _flood_plain(
    rng: np.random.Generator, rivers: tuple[River, ...], y_m: FloatArray, x_m: FloatArray
) -> tuple[NDArray[np.bool_], FloatArray]:
    """Where the plain is, bool (cell, cell), and its elevation, metres, which falls along the rivers."""
    distance = np.min([np.abs(river.distance_m(y_m, x_m)) for river in rivers], axis=0)
    half_width = 130 + 70 * smooth_noise(rng, distance.shape, 32.0)
    plain = distance < np.maximum(half_width, 1.5 * CELL_M)
    if not plain.any():  # a small map that its river passes by: the cell nearest to it drains all
        plain = distance == distance.min()
    downstream = rivers[0].downstream_m(y_m, x_m)
    return plain, (40 + 0.004 * (downstream.max() - downstream)).astype(np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma_px: float) -> FloatArray:
    """Gaussian noise of mean 0 and variance 1 with the given correlation length, float32 (y, x).

    Made on a larger array and cut, so that a small map is like a window of a large one.
    """
    reach = int(4 * sigma_px + 0.5)  # where scipy cuts its kernel
    impulse = np.zeros(2 * reach + 1)
    impulse[reach] = 1
    spread = float((ndimage.gaussian_filter1d(impulse, sigma_px) ** 2).sum())
    noise = rng.standard_normal(tuple(n + 2 * reach for n in shape), dtype=np.float32)
    ndimage.gaussian_filter(noise, sigma_px, output=noise)
    inner = noise[tuple(slice(reach, reach + n) for n in shape)]
    return cast(FloatArray, inner / np.float32(spread))
