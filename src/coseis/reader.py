"""Reads scenes onto the output grid: a scene and a window go in, float32 bands with NaN for missing come out.

A scene that already lies on the grid is read plainly. Any other is warped in whole blocks of the grid's
own lattice, each alone, because GDAL's warp of a window is not the window of GDAL's warp: a block is a
pure function of scene and place, so the pixels do not depend on how a region was cut into chunks.
"""

import hashlib
import warnings
from collections.abc import Sequence
from itertools import product
from math import ceil, floor
from typing import NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import Resampling, reproject, transform_bounds
from rasterio.windows import Window
from rasterio.windows import transform as window_transform

from coseis.addresses import harden_process, is_remote
from coseis.blocks import for_each, kept_blocks
from coseis.errors import InputRefusedError
from coseis.geotiff import (
    FloatBands,
    GeoTiff,
    fill_physical,
    is_inner,
    overlap,
    read_decimated,
    read_header,
    read_reduced,
)
from coseis.grid import crs_of, footprint_bounds
from coseis.haze import path_reflectance, without_haze
from coseis.remote import Stamp
from coseis.season import measure_cover
from coseis.types import BandSource, Percentiles, Scene
from coseis.windows import HALO_PX

# GDAL registers its drivers when it is first used, in a client, a worker or a notebook: before that.
harden_process()
# rasterio hides this warning of its own arrays by swapping the process's filters, which threads undo.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module="rasterio")

BLOCK_PX = 512
"""Side of what is reprojected at once; part of a run's identity."""
SHARED_PX = 2 * max(HALO_PX.values())
"""Overlap of the windows of neighbouring chunks: each has a halo."""
WARP_TOLERANCE_PX = 0.01
"""Error allowed to GDAL's approximate transformer within a block."""
UDM2_CLEAR_BAND = 1
"""Band of Planet's usable data mask that is 1 where the pixel is clear."""
OVERVIEW_PX = 512
"""Longest side of the decimated image from which a scene's statistics are taken."""

_Files = dict[str, tuple[BandSource, ...]]
FloatArrays = dict[str, NDArray[np.floating]]


class WarpedBlock(NamedTuple):
    """A block of the grid's lattice, as `kept_blocks` keeps it."""

    sources: tuple[BandSource, ...]
    version: Stamp
    crs_wkt: str
    affine: Affine
    """Of the grid."""
    row: int
    col: int


def read_scene(
    scene: Scene,
    bands: Sequence[str],
    geobox: GeoBox,
    window: Window,
    *,
    shared_px: int = SHARED_PX,
    out: FloatBands | None = None,
) -> FloatBands:
    """One scene's bands over a window of the output grid.

    Args:
        scene: The scene; every band must be among its sources.
        bands: STAC common names.
        geobox: The output grid. Its origin anchors the block lattice, so it must be the whole region's.
        window: Pixels of `geobox` to read; may reach beyond it on any side (halos do).
        shared_px: Overlap with neighbouring windows; blocks that lie farther inside are not kept for them.
        out: Holds NaN; filled and returned, so that nothing is copied. Default: a new array.

    Returns:
        float32 (band, y, x) in physical units: 0-255 for display, 0-1 for reflectance. NaN where the scene
        has no data: outside its files, under its nodata number or its mask.

    Raises:
        InputRefusedError: a file is missing, is no GeoTIFF, or breaks off; item, asset and address are named.
    """
    if out is None:
        out = np.full((len(bands), window.height, window.width), np.nan, np.float32)
    rows = {band: row for row, band in enumerate(bands)}
    files = _by_file(scene, bands)
    placed = moved_grid(geobox, scene.shift_m)
    for sources in files.values():
        tiff = read_header(scene, sources[0])
        # Of a single file the bands come as they were asked for; a copy of them would cost as much as they.
        part = out if len(files) == 1 else np.full((len(sources), *out.shape[1:]), np.nan, np.float32)
        if offset := grid_offset(tiff, placed):
            _read_plain(tiff, sources, window, offset, part, shared_px)
        else:
            _read_blocks(tiff, sources, placed, window, part, shared_px)
        if part is not out:
            out[[rows[source.band] for source in sources]] = part
    if len(files) > 1:
        np.copyto(out, np.nan, where=np.isnan(out).any(axis=0))
    west, south, east, north = footprint_bounds(scene, geobox)
    x = geobox.affine.c + (np.arange(window.width) + window.col_off + 0.5) * geobox.affine.a
    y = geobox.affine.f + (np.arange(window.height) + window.row_off + 0.5) * geobox.affine.e
    out[:, (y <= south) | (y >= north)] = np.nan
    out[:, :, (x <= west) | (x >= east)] = np.nan
    return out


def bytes_per_px(scene: Scene, bands: Sequence[str]) -> int:
    """Bytes that a pixel of some bands takes in the scene's files, decoded: the least that a map needs of it.

    Raises:
        InputRefusedError: a file cannot be opened.
    """
    sources = [scene.source(band) for band in bands]
    dtypes = [read_header(scene, source).dtypes[source.index - 1] for source in sources]
    return sum(np.dtype(dtype).itemsize for dtype in dtypes)


def inspect_scene(scene: Scene, bands: Sequence[str]) -> Scene:
    """The scene with what only its files tell: pixel size, each band's percentiles, leaves, snow, a digest.

    Reads the headers and a decimated image of at most 512 px a side (the overviews of a COG), once, when a
    run is planned; the percentiles go into items.json, so that no normalization depends on a window. Where a
    usable data mask lies on the scene's own grid, only its clear pixels count: a few clouds would stretch
    the range until forest and scars look alike. From a scene at the top of the atmosphere the light of the
    air is taken off first (`haze.without_haze`).

    Raises:
        InputRefusedError: a file cannot be opened, has no CRS, lacks a band, or holds no valid pixel.
    """
    # A server may have the file anew since its blocks were kept.
    kept_blocks.clear()
    statistics: dict[str, Percentiles] = {}
    overviews: FloatArrays = {}
    resolution_m = scene.resolution_m
    content = hashlib.sha256()
    for sources in _by_file(scene, bands).values():
        tiff = read_header(scene, sources[0])
        crs = _check_header(scene, sources, tiff)
        if crs.is_projected:
            resolution_m = abs(tiff.transform.a) * crs.linear_units_factor[1]
        height, width = tiff.shape
        step = max(1, ceil(max(tiff.shape) / OVERVIEW_PX))
        shape = (ceil(height / step), ceil(width / step))
        values = read_decimated(tiff, sources, Window(0, 0, width, height), shape)
        clear = _clear_pixels(scene, tiff, shape)
        content.update(f"{crs.to_wkt()} {tuple(tiff.transform)} {tiff.shape} {tiff.dtypes}".encode())
        content.update(values.tobytes() + clear.tobytes())
        values[:, ~clear] = np.nan
        for source, band in zip(sources, values, strict=True):
            measured = percentiles_of(band)
            if measured is None:
                raise InputRefusedError(
                    f"{tiff.label} holds no valid pixel; exclude it with --exclude {scene.item_id}"
                )
            statistics[source.band], overviews[source.band] = measured, band
    if scene.level == "toa":
        for name, path in path_reflectance(statistics).items():
            overviews[name] = overviews[name] - path
        scene, statistics = without_haze(scene, statistics)
    cover = measure_cover(overviews, scene.kind)
    measured_now = {"statistics": statistics, "cover": cover, "content": content.hexdigest()}
    return scene.model_copy(update={"resolution_m": resolution_m, **measured_now})


def percentiles_of(values: NDArray[np.floating]) -> Percentiles | None:
    """Percentiles of the finite values, to six decimals; None where there is no finite value."""
    valid = values[np.isfinite(values)]
    if not valid.size:
        return None
    p02, p50, p98 = np.percentile(valid, [2, 50, 98]).round(6).tolist()
    return Percentiles(p02=p02, p50=p50, p98=p98)


def _by_file(scene: Scene, bands: Sequence[str]) -> _Files:
    """The sources of `bands` grouped by file, so that a multi-band file is opened and decoded once."""
    files: _Files = {}
    for band in bands:
        source = scene.source(band)
        files[source.href] = (*files.get(source.href, ()), source)
    return files


def _clear_pixels(scene: Scene, image: GeoTiff, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels of a decimated image the scene's mask calls clear; all, where that cannot be told."""
    everywhere = np.ones(shape, bool)
    if scene.udm2 is None:
        return everywhere
    mask = read_header(scene, scene.udm2)
    if (mask.crs, mask.transform, mask.shape) != (image.crs, image.transform, image.shape):
        return everywhere
    whole = Window(0, 0, mask.shape[1], mask.shape[0])
    flags = read_reduced(mask, [UDM2_CLEAR_BAND], whole, shape, resampling=Resampling.nearest)
    clear: NDArray[np.bool_] = flags[0] > 0
    return clear if clear.any() else everywhere


def _check_header(scene: Scene, sources: tuple[BandSource, ...], tiff: GeoTiff) -> CRS:
    if tiff.crs is None:
        raise InputRefusedError(f"{tiff.label} has no coordinate reference system")
    if not (tiff.crs.is_projected or tiff.crs.is_geographic):
        raise InputRefusedError(f"{tiff.label} has a local CRS, so its place is not known")
    for source in sources:
        if source.index > len(tiff.dtypes):
            raise InputRefusedError(
                f"{tiff.label} has {len(tiff.dtypes)} bands, but its item puts {source.band} in "
                f"band {source.index}"
            )
        if tiff.dtypes[source.index - 1] not in ("uint8", "uint16", "int16", "float32"):
            raise InputRefusedError(
                f"{tiff.label} is {tiff.dtypes[source.index - 1]}; expected uint8, uint16, int16 or float32"
            )
    return tiff.crs


def moved_grid(geobox: GeoBox, shift_m: tuple[float, float]) -> GeoBox:
    """The grid on which a scene shows, without being moved, what it shows on `geobox` when it is moved."""
    if shift_m == (0, 0):
        return geobox
    down, right = shift_m
    return GeoBox(geobox.shape, Affine.translation(-right, down) @ geobox.affine, geobox.crs)


def grid_offset(tiff: GeoTiff, geobox: GeoBox) -> tuple[int, int] | None:
    """(row, column) of the grid's origin in the file, if the file's pixels are the grid's pixels."""
    if tiff.crs != CRS.from_wkt(crs_of(geobox).wkt):
        return None
    to_file = ~tiff.transform @ geobox.affine
    linear = (to_file.a, to_file.b, to_file.d, to_file.e)
    col, row = round(to_file.c), round(to_file.f)
    # A millionth of a pixel a pixel drifts by less than 0.1 px over the largest scene.
    same_size = np.allclose(linear, (1, 0, 0, 1), rtol=0, atol=1e-6)
    if not same_size or max(abs(to_file.c - col), abs(to_file.f - row)) > 1e-3:
        return None
    return row, col


def _read_plain(
    tiff: GeoTiff,
    sources: tuple[BandSource, ...],
    window: Window,
    offset: tuple[int, int],
    out: FloatBands,
    shared_px: int,
) -> None:
    """Fills what of the window lies on the file."""
    wanted = Window(window.col_off + offset[1], window.row_off + offset[0], window.width, window.height)
    inside = window_within(wanted, tiff.shape)
    if inside is None:
        return
    y0, x0 = inside.row_off - wanted.row_off, inside.col_off - wanted.col_off
    part = out[:, y0 : y0 + inside.height, x0 : x0 + inside.width]
    fill_physical(tiff, sources, inside, part, shared_px=shared_px, concurrently=is_remote(tiff.href))


def _read_blocks(
    tiff: GeoTiff,
    sources: tuple[BandSource, ...],
    geobox: GeoBox,
    window: Window,
    out: FloatBands,
    shared_px: int,
) -> None:
    """Puts the window together from whole warped blocks of the lattice."""
    y0, x0 = window.row_off, window.col_off
    wkt = crs_of(geobox).wkt

    def fill_block(place: tuple[int, int]) -> None:
        key = WarpedBlock(sources, tiff.version, wkt, geobox.affine, *place)
        if is_inner(y0, window.height, key.row, BLOCK_PX, shared_px) and is_inner(
            x0, window.width, key.col, BLOCK_PX, shared_px
        ):
            block = _warp_block(tiff, key)
        else:
            block = kept_blocks.fetch([key], lambda _: {key: _warp_block(tiff, key)})[key]
        into_y, from_y = overlap(y0, window.height, key.row * BLOCK_PX, BLOCK_PX)
        into_x, from_x = overlap(x0, window.width, key.col * BLOCK_PX, BLOCK_PX)
        out[:, into_y, into_x] = block[:, from_y, from_x]

    rows = range(floor(y0 / BLOCK_PX), ceil((y0 + window.height) / BLOCK_PX))
    cols = range(floor(x0 / BLOCK_PX), ceil((x0 + window.width) / BLOCK_PX))
    for_each(product(rows, cols), fill_block, concurrently=is_remote(tiff.href))


def _warp_block(tiff: GeoTiff, key: WarpedBlock) -> FloatBands:
    """One block of the lattice: bilinear values where the nearest source pixel is valid, else NaN."""
    affine = key.affine @ Affine.translation(key.col * BLOCK_PX, key.row * BLOCK_PX)
    crs = CRS.from_wkt(key.crs_wkt)
    bands = len(key.sources)
    scale_x, scale_y = block_scale(tiff, affine, crs)
    around = source_window(tiff, affine, crs, pad_px=ceil(2 / min(scale_x, scale_y)) + 2)
    window = window_within(around, tiff.shape)
    if window is None:
        return np.full((bands, BLOCK_PX, BLOCK_PX), np.nan, np.float32)
    # Far coarser than the file: its overviews are read, so that a block costs the same at any scale.
    shape = (
        max(1, floor(window.height * min(1, 2 * scale_y))),
        max(1, floor(window.width * min(1, 2 * scale_x))),
    )
    scale_x, scale_y = scale_x * window.width / shape[1], scale_y * window.height / shape[0]
    # The last layer is the weight of what is valid.
    values = np.ones((bands + 1, *shape), np.float32)
    if shape == (window.height, window.width):
        fill_physical(tiff, key.sources, window, values[:-1], shared_px=BLOCK_PX)
    else:
        values[:-1] = read_decimated(tiff, key.sources, window, shape)
    missing = np.isnan(values[0])
    np.copyto(values, 0, where=missing)
    if missing.all():
        return np.full((bands, BLOCK_PX, BLOCK_PX), np.nan, np.float32)
    place = {
        "src_transform": window_transform(window, tiff.transform)
        @ Affine.scale(window.width / shape[1], window.height / shape[0]),
        "src_crs": tiff.crs,
        "dst_transform": affine,
        "dst_crs": crs,
        "tolerance": WARP_TOLERANCE_PX,
        "num_threads": 1,
    }
    kernel = {"XSCALE": f"{min(1.0, scale_x):.4f}", "YSCALE": f"{min(1.0, scale_y):.4f}"}
    # GDAL takes three times as long where it looks for missing values itself, and gives the same but for the
    # last bit: the weighted mean of what is valid.
    block: FloatBands = np.zeros((bands, BLOCK_PX, BLOCK_PX), np.float32)
    if window == around and not missing.any():
        reproject(values[:-1], block, resampling=Resampling.bilinear, **kernel, **place)
        return block
    warped = np.zeros((bands + 1, BLOCK_PX, BLOCK_PX), np.float32)
    reproject(values, warped, resampling=Resampling.bilinear, **kernel, **place)
    nearest = np.zeros((BLOCK_PX, BLOCK_PX), np.uint8)
    reproject((~missing).astype(np.uint8), nearest, resampling=Resampling.nearest, **place)
    block.fill(np.nan)
    np.divide(warped[:-1], warped[-1], out=block, where=(nearest > 0) & (warped[-1] > 0))
    return block


def block_scale(tiff: GeoTiff, affine: Affine, crs: CRS) -> tuple[float, float]:
    """Output pixels per source pixel along x and y, at most 1: widens the kernel when pixels get coarser."""
    x, y = tiff.transform @ (tiff.shape[1] / 2, tiff.shape[0] / 2)
    step_x, step_y = abs(tiff.transform.a), abs(tiff.transform.e)
    west, south, east, north = transform_bounds(
        tiff.crs, crs, x - step_x / 2, y - step_y / 2, x + step_x / 2, y + step_y / 2
    )
    return min(1.0, (east - west) / abs(affine.a)), min(1.0, (north - south) / abs(affine.e))


def source_window(tiff: GeoTiff, affine: Affine, crs: CRS, *, pad_px: int) -> Window:
    """Source pixels that a block can see; they may lie off the file."""
    left, top = affine @ (0, 0)
    right, bottom = affine @ (BLOCK_PX, BLOCK_PX)
    bounds = transform_bounds(crs, tiff.crs, left, bottom, right, top, densify_pts=21)
    inverse = ~tiff.transform
    corners = [inverse @ (x, y) for x in bounds[::2] for y in bounds[1::2]]
    x0, y0 = (floor(min(axis)) - pad_px for axis in zip(*corners, strict=True))
    x1, y1 = (ceil(max(axis)) + pad_px for axis in zip(*corners, strict=True))
    return Window(x0, y0, x1 - x0, y1 - y0)


def window_within(window: Window, shape: tuple[int, int]) -> Window | None:
    """The part of a window that lies on a file, None if none does."""
    x0, y0 = max(window.col_off, 0), max(window.row_off, 0)
    x1 = min(window.col_off + window.width, shape[1])
    y1 = min(window.row_off + window.height, shape[0])
    return Window(x0, y0, x1 - x0, y1 - y0) if x0 < x1 and y0 < y1 else None
