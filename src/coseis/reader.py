"""Reads scenes onto the output grid: a scene and a window go in, float32 bands with NaN for missing come out.

A scene that already lies on the grid is read plainly. Any other is warped in whole blocks of the grid's
own lattice, each alone, because GDAL's warp of a window is not the window of GDAL's warp: a block is a
pure function of scene and place, so the pixels do not depend on how a region was cut into chunks.
"""

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from math import ceil, floor

import numpy as np
import rasterio
import zict
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # GDAL's own errors are no RasterioError
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError, WindowError
from rasterio.io import DatasetReader
from rasterio.warp import Resampling, reproject, transform_bounds
from rasterio.windows import Window

from coseis.addresses import gdal_environment, harden_process, public_form, to_gdal
from coseis.errors import InputRefusedError
from coseis.grid import crs_of, footprint_bounds
from coseis.types import BandSource, Percentiles, Scene

# GDAL registers its drivers when it is first used, in a client, a worker or a notebook: before that.
harden_process()
# rasterio hides this warning of its own arrays by swapping the process's filters, which threads undo.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module="rasterio")

BLOCK_PX = 512
"""Side of what is reprojected at once; part of a run's identity."""
WARP_TOLERANCE_PX = 0.01
"""Error allowed to GDAL's approximate transformer within a block."""
BLOCK_CACHE_BYTES = 256 * 2**20
"""Warped blocks kept a process: neighbouring windows share their halos through it."""
UDM2_CLEAR_BAND = 1
"""Band of Planet's usable data mask that is 1 where the pixel is clear."""
OVERVIEW_PX = 512
"""Longest side of the decimated image from which a scene's statistics are taken."""

FloatBands = NDArray[np.float32]
_read = threading.local()
_Files = dict[str, tuple[BandSource, ...]]

_blocks: zict.LRU[object, FloatBands] = zict.LRU(
    BLOCK_CACHE_BYTES, {}, weight=lambda key, block: float(block.nbytes)
)


def read_scene(scene: Scene, bands: Sequence[str], geobox: GeoBox, window: Window) -> FloatBands:
    """One scene's bands over a window of the output grid.

    Args:
        scene: The scene; every band must be among its sources.
        bands: STAC common names.
        geobox: The output grid. Its origin anchors the block lattice, so it must be the whole region's.
        window: Pixels of `geobox` to read; may reach beyond it on any side (halos do).

    Returns:
        float32 (band, y, x) in physical units: 0-255 for display, 0-1 for reflectance. NaN where the scene
        has no data: outside its files, under its nodata number or its mask.

    Raises:
        InputRefusedError: a file is missing, is no GeoTIFF, or breaks off; item, asset and address are named.
    """
    out = np.full((len(bands), window.height, window.width), np.nan, np.float32)
    rows = {band: row for row, band in enumerate(bands)}
    for sources in _by_file(scene, bands).values():
        with _opened(scene, sources[0]) as file:
            if offset := _grid_offset(file, geobox):
                part = _read_plain(file, sources, window, offset)
            else:
                part = _read_blocks(file, sources, geobox, window)
        for source, values in zip(sources, part, strict=True):
            out[rows[source.band]] = values
    out[:, np.isnan(out).any(axis=0)] = np.nan
    west, south, east, north = footprint_bounds(scene, geobox)
    x = geobox.affine.c + (np.arange(window.width) + window.col_off + 0.5) * geobox.affine.a
    y = geobox.affine.f + (np.arange(window.height) + window.row_off + 0.5) * geobox.affine.e
    out[:, (y <= south) | (y >= north)] = np.nan
    out[:, :, (x <= west) | (x >= east)] = np.nan
    return out


def decoded_bytes() -> int:
    """Bytes of pixels decoded from files by this thread so far."""
    return getattr(_read, "bytes", 0)


def inspect_scene(scene: Scene, bands: Sequence[str]) -> Scene:
    """The scene with what only its files tell: pixel size and the percentiles of each band.

    Reads the headers and a decimated image of at most 512 px a side (the overviews of a COG), once, when a
    run is planned; the percentiles go into items.json, so that no normalization depends on a window. Where a
    usable data mask lies on the scene's own grid, only its clear pixels count: a few clouds would stretch
    the range until forest and scars look alike.

    Raises:
        InputRefusedError: a file cannot be opened, has no CRS, lacks a band, or holds no valid pixel.
    """
    # A notebook may have made the file anew since its blocks were kept.
    _blocks.clear()
    statistics: dict[str, Percentiles] = {}
    resolution_m = scene.resolution_m
    for sources in _by_file(scene, bands).values():
        with _opened(scene, sources[0]) as file:
            _check_header(scene, sources, file)
            if file.crs.is_projected:
                resolution_m = abs(file.transform.a) * file.crs.linear_units_factor[1]
            step = max(1, ceil(max(file.shape) / OVERVIEW_PX))
            shape = (ceil(file.height / step), ceil(file.width / step))
            values = _physical(file, sources, Window(0, 0, file.width, file.height), shape)
            clear = _clear_pixels(scene, file, shape)
            values[:, ~clear] = np.nan
        for source, band in zip(sources, values, strict=True):
            measured = percentiles_of(band)
            if measured is None:
                raise InputRefusedError(
                    f"{_label(scene, source)} holds no valid pixel; exclude it with --exclude {scene.item_id}"
                )
            statistics[source.band] = measured
    return scene.model_copy(update={"statistics": statistics, "resolution_m": resolution_m})


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


def _label(scene: Scene, source: BandSource) -> str:
    return f"item {scene.item_id}, asset {source.asset}, {public_form(source.href)}"


@contextmanager
def _opened(scene: Scene, source: BandSource) -> Iterator[DatasetReader]:
    """An open GeoTIFF; the driver is forced, because GDAL would else follow a VRT to any local file."""
    try:
        with (
            rasterio.Env(**gdal_environment()),
            rasterio.open(to_gdal(source.href), driver="GTiff") as file,
        ):
            yield file
    except (RasterioError, CPLE_BaseError) as error:
        raise InputRefusedError(f"{_label(scene, source)} cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """GDAL's own words, at the root of rasterio's chain ("Read failed. See previous exception")."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return public_form((str(error) or type(error).__name__).splitlines()[0])


def _clear_pixels(scene: Scene, image: DatasetReader, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels of a decimated image the scene's mask calls clear; all, where that cannot be told."""
    everywhere = np.ones(shape, bool)
    if scene.udm2 is None:
        return everywhere
    with _opened(scene, scene.udm2) as mask:
        same_grid = mask.crs == image.crs and mask.transform == image.transform and mask.shape == image.shape
        if not same_grid:
            return everywhere
        clear: NDArray[np.bool_] = mask.read(UDM2_CLEAR_BAND, out_shape=shape) > 0
    return clear if clear.any() else everywhere


def _check_header(scene: Scene, sources: tuple[BandSource, ...], file: DatasetReader) -> None:
    if file.crs is None:
        raise InputRefusedError(f"{_label(scene, sources[0])} has no coordinate reference system")
    if not (file.crs.is_projected or file.crs.is_geographic):
        raise InputRefusedError(f"{_label(scene, sources[0])} has a local CRS, so its place is not known")
    for source in sources:
        if source.index > file.count:
            raise InputRefusedError(
                f"{_label(scene, source)} has {file.count} bands, but its item puts {source.band} in "
                f"band {source.index}"
            )
        if file.dtypes[source.index - 1] not in ("uint8", "uint16", "int16", "float32"):
            raise InputRefusedError(
                f"{_label(scene, source)} is {file.dtypes[source.index - 1]}; "
                "expected uint8, uint16, int16 or float32"
            )


def _grid_offset(file: DatasetReader, geobox: GeoBox) -> tuple[int, int] | None:
    """(row, column) of the grid's origin in the file, if the file's pixels are the grid's pixels."""
    if file.crs != CRS.from_wkt(crs_of(geobox).wkt):
        return None
    to_file = ~file.transform @ geobox.affine
    linear = (to_file.a, to_file.b, to_file.d, to_file.e)
    col, row = round(to_file.c), round(to_file.f)
    # A millionth of a pixel a pixel drifts by less than 0.1 px over the largest scene.
    same_size = np.allclose(linear, (1, 0, 0, 1), rtol=0, atol=1e-6)
    if not same_size or max(abs(to_file.c - col), abs(to_file.f - row)) > 1e-3:
        return None
    return row, col


def _read_plain(
    file: DatasetReader, sources: tuple[BandSource, ...], window: Window, offset: tuple[int, int]
) -> FloatBands:
    wanted = Window(window.col_off + offset[1], window.row_off + offset[0], window.width, window.height)
    out = np.full((len(sources), window.height, window.width), np.nan, np.float32)
    try:
        inside = wanted.intersection(Window(0, 0, file.width, file.height))
    except WindowError:  # no overlap
        return out
    y0, x0 = inside.row_off - wanted.row_off, inside.col_off - wanted.col_off
    out[:, y0 : y0 + inside.height, x0 : x0 + inside.width] = _physical(file, sources, inside)
    return out


def _physical(
    file: DatasetReader,
    sources: tuple[BandSource, ...],
    window: Window,
    shape: tuple[int, int] | None = None,
) -> FloatBands:
    """Stored numbers to physical values, NaN where the file's mask or nodata number says missing.

    Nodata counts where it stands in every band: a dark pixel may well be 0 in one band only.
    """
    shape = shape or (window.height, window.width)
    indexes = [source.index for source in sources]
    coarser = shape != (window.height, window.width)
    resampling = Resampling.average if coarser else Resampling.nearest
    stored = file.read(indexes, window=window, out_shape=(len(indexes), *shape), resampling=resampling)
    _read.bytes = decoded_bytes() + stored.nbytes
    values: FloatBands = stored.astype(np.float32)
    missing = np.zeros(shape, bool)
    nodata = [file.nodata if source.nodata is None else source.nodata for source in sources]
    if any(number is not None for number in nodata):
        same = [band == number for band, number in zip(stored, nodata, strict=True)]
        missing |= np.all(same, axis=0)
    if MaskFlags.per_dataset in file.mask_flag_enums[0]:
        missing |= file.dataset_mask(window=window, out_shape=shape) == 0
    for band, source in zip(values, sources, strict=True):
        band *= np.float32(source.scale)
        band += np.float32(source.offset)
    values[:, missing] = np.nan
    return values


def _read_blocks(
    file: DatasetReader, sources: tuple[BandSource, ...], geobox: GeoBox, window: Window
) -> FloatBands:
    """The window put together from whole warped blocks of the lattice."""
    y0, x0 = window.row_off, window.col_off
    out = np.empty((len(sources), window.height, window.width), np.float32)
    rows = range(floor(y0 / BLOCK_PX), ceil((y0 + window.height) / BLOCK_PX))
    cols = range(floor(x0 / BLOCK_PX), ceil((x0 + window.width) / BLOCK_PX))
    for row, col in product(rows, cols):
        key = (sources, crs_of(geobox).wkt, geobox.affine, row, col)
        block = _blocks.get(key)
        if block is None:
            _blocks[key] = block = _warp_block(file, sources, geobox, row, col)
        top, left = row * BLOCK_PX, col * BLOCK_PX
        into_y, from_y = _overlap(y0, window.height, top)
        into_x, from_x = _overlap(x0, window.width, left)
        out[:, into_y, into_x] = block[:, from_y, from_x]
    return out


def _overlap(start: int, length: int, block_start: int) -> tuple[slice, slice]:
    """Where a block falls in a window along one axis: (slice of the window, slice of the block)."""
    low, high = max(start, block_start), min(start + length, block_start + BLOCK_PX)
    return slice(low - start, high - start), slice(low - block_start, high - block_start)


def _warp_block(
    file: DatasetReader, sources: tuple[BandSource, ...], geobox: GeoBox, row: int, col: int
) -> FloatBands:
    """One block of the lattice: bilinear values where the nearest source pixel is valid, else NaN."""
    block_shape = (BLOCK_PX, BLOCK_PX)
    affine = geobox.affine @ Affine.translation(col * BLOCK_PX, row * BLOCK_PX)
    crs = CRS.from_wkt(crs_of(geobox).wkt)
    block = np.full((len(sources), *block_shape), np.nan, np.float32)
    scale_x, scale_y = _scale(file, affine, crs)
    window = _source_window(file, affine, crs, pad_px=ceil(2 / min(scale_x, scale_y)) + 2)
    if window is None:
        return block
    # Far coarser than the file: its overviews are read, so that a block costs the same at any scale.
    shape = (
        max(1, floor(window.height * min(1, 2 * scale_y))),
        max(1, floor(window.width * min(1, 2 * scale_x))),
    )
    scale_x, scale_y = scale_x * window.width / shape[1], scale_y * window.height / shape[0]
    values = _physical(file, sources, window, shape)
    valid = np.isfinite(values[0])
    if not valid.any():
        return block
    place = {
        "src_transform": file.window_transform(window)
        @ Affine.scale(window.width / shape[1], window.height / shape[0]),
        "src_crs": file.crs,
        "dst_transform": affine,
        "dst_crs": crs,
        "tolerance": WARP_TOLERANCE_PX,
        "num_threads": 1,
    }
    reproject(
        values,
        block,
        resampling=Resampling.bilinear,
        src_nodata=np.nan,
        dst_nodata=np.nan,
        XSCALE=f"{min(1.0, scale_x):.4f}",
        YSCALE=f"{min(1.0, scale_y):.4f}",
        **place,
    )
    nearest = np.zeros(block_shape, np.uint8)
    reproject(valid.astype(np.uint8), nearest, resampling=Resampling.nearest, **place)
    block[:, nearest == 0] = np.nan
    return block


def _scale(file: DatasetReader, affine: Affine, crs: CRS) -> tuple[float, float]:
    """Output pixels per source pixel along x and y, at most 1: widens the kernel when pixels get coarser."""
    x, y = file.transform @ (file.width / 2, file.height / 2)
    step_x, step_y = abs(file.transform.a), abs(file.transform.e)
    west, south, east, north = transform_bounds(
        file.crs, crs, x - step_x / 2, y - step_y / 2, x + step_x / 2, y + step_y / 2
    )
    return min(1.0, (east - west) / abs(affine.a)), min(1.0, (north - south) / abs(affine.e))


def _source_window(file: DatasetReader, affine: Affine, crs: CRS, *, pad_px: int) -> Window | None:
    """Source pixels that a block can see, or None if it lies off the file."""
    left, top = affine @ (0, 0)
    right, bottom = affine @ (BLOCK_PX, BLOCK_PX)
    bounds = transform_bounds(crs, file.crs, left, bottom, right, top, densify_pts=21)
    inverse = ~file.transform
    corners = [inverse @ (x, y) for x in bounds[::2] for y in bounds[1::2]]
    x0, y0 = (floor(min(axis)) - pad_px for axis in zip(*corners, strict=True))
    x1, y1 = (ceil(max(axis)) + pad_px for axis in zip(*corners, strict=True))
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, file.width), min(y1, file.height)
    return Window(x0, y0, x1 - x0, y1 - y0) if x0 < x1 and y0 < y1 else None
