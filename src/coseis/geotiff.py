"""A GeoTIFF and a window of it go in, float32 bands with NaN for missing come out.

A file is decoded in the blocks that it is stored in, each once a process for all windows that touch it: the
chunks of a run share their halos.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # GDAL's own errors are no RasterioError
from rasterio.crs import CRS
from rasterio.enums import Interleaving, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.session import Session
from rasterio.windows import Window

from coseis.addresses import gdal_environment, is_remote, local_path, public_form, to_gdal
from coseis.blocks import ReadBytes, count_bytes, for_each, kept_blocks
from coseis.errors import InputRefusedError
from coseis.types import BandSource, Scene

LEAST_BLOCK_PX = 256
"""Smaller stored blocks, and strips, are decoded and kept several at a time."""
KEPT_HEADERS = 1024

AWS_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
)

FloatBands = NDArray[np.float32]
Stored = NDArray[Any]


_make_session = Session.from_environ


@lru_cache(1)
def _session_of(keys: tuple[str | None, ...]) -> Session:
    return _make_session()


# With keys in the environment and boto3 installed, rasterio makes a session of it several times a warp, 20 ms
# each: more than warping a block takes. The same keys make the same session.
Session.from_environ = staticmethod(lambda: _session_of(tuple(map(os.environ.get, AWS_KEYS))))


@dataclass(frozen=True)
class GeoTiff:
    """What the header of a file says, and its name in messages."""

    href: str
    label: str
    """Item, asset and address."""
    version: tuple[int, ...]
    """Of a local file: time and size, so that one made anew is read anew."""
    crs: CRS | None
    transform: Affine
    shape: tuple[int, int]
    """(height, width)."""
    block_shape: tuple[int, int]
    """(height, width) of what is decoded at once: stored blocks, or several of them."""
    tiff_block_shape: tuple[int, int]
    """(height, width) of one stored block: a tile or a strip."""
    nodata: float | None
    masked: bool
    """Whether the file holds a mask."""
    dtypes: tuple[str, ...]
    band_interleaved: bool
    """Each band lies by itself; else decoding one decodes all."""


class StoredBlock(NamedTuple):
    """Bands of what is decoded at once, as `kept_blocks` keeps them."""

    href: str
    version: tuple[int, ...]
    indexes: tuple[int, ...]
    row: int
    column: int


def read_header(scene: Scene, source: BandSource) -> GeoTiff:
    """The header of a source's file, read once while the file stays as it is.

    Raises:
        InputRefusedError: the file is missing or is no GeoTIFF; item, asset and address are named.
    """
    return header_of(source.href, f"item {scene.item_id}, asset {source.asset}, {public_form(source.href)}")


def header_of(href: str, label: str) -> GeoTiff:
    """The same of any checked address; `label` is its name in messages."""
    return _read_header(href, label, _version(href))


@contextmanager
def opened(href: str, label: str) -> Iterator[DatasetReader]:
    """An open GeoTIFF; the driver is forced, because GDAL would else follow a VRT to any local file.

    Opening again costs no request: GDAL keeps the first bytes of a remote file.

    Raises:
        InputRefusedError: it cannot be opened, or what is done with it fails; `label` is named.
    """
    try:
        with rasterio.Env(**gdal_environment()), rasterio.open(to_gdal(href), driver="GTiff") as file:
            yield file
    except (RasterioError, CPLE_BaseError) as error:
        raise InputRefusedError(f"{label} cannot be read: {_first_line(error)}") from error


def fill_physical(
    tiff: GeoTiff,
    sources: Sequence[BandSource],
    window: Window,
    out: FloatBands,
    *,
    shared_px: int,
    concurrently: bool = False,
) -> None:
    """Writes bands of a window in physical values, row after row of blocks.

    Args:
        tiff: The file of all `sources`.
        sources: The bands, in the order of `out`.
        window: Pixels of the file, all within it.
        out: float32 (band, y, x) to fill: NaN in every band where the file's mask, its nodata number in every
            band, or NaN in any band says missing.
        shared_px: Overlap with neighbouring windows; blocks that lie farther inside are not kept for them.
        concurrently: Read rows of blocks in the threads for remote reads (see `blocks.for_each`).

    Raises:
        InputRefusedError: the file cannot be read.
    """
    height, width = tiff.block_shape
    indexes = tuple(source.index for source in sources)
    columns = range(window.col_off // width, ceil((window.col_off + window.width) / width))
    inner_columns = {c for c in columns if is_inner(window.col_off, window.width, c, width, shared_px)}

    def fill_row(row: int) -> None:
        into_y, from_y = overlap(window.row_off, window.height, row * height, height)
        keys = [StoredBlock(tiff.href, tiff.version, indexes, row, column) for column in columns]
        is_inner_row = is_inner(window.row_off, window.height, row, height, shared_px)
        shared = [key for key in keys if not (is_inner_row and key.column in inner_columns)]
        filled: set[StoredBlock] = set()

        def fill(column: int, stored: Stored) -> None:
            into_x, from_x = overlap(window.col_off, window.width, column * width, stored.shape[2])
            _to_physical(stored[:, from_y, from_x], tiff, sources, out[:, into_y, into_x])

        def decode(missing: Sequence[StoredBlock]) -> dict[StoredBlock, Stored]:
            """Fills from the missing blocks and, in the same reads, all inner ones; returns the missing."""
            made: dict[StoredBlock, Stored] = {}
            wanted = [key for key in keys if key in missing or not (key in shared or key in filled)]
            for run, stored in _decode_runs(tiff, wanted):
                fill(run[0].column, stored)
                filled.update(run)
                for number, key in enumerate(run):
                    if key in missing:
                        # A copy: a view would keep the whole run in memory.
                        made[key] = stored[:, :, number * width : (number + 1) * width].copy()
            return made

        kept = kept_blocks.fetch(shared, decode)
        decode([])  # inner blocks, where no shared one was missing
        for key in shared:
            if key not in filled:
                fill(key.column, kept[key])

    rows = range(window.row_off // height, ceil((window.row_off + window.height) / height))
    for_each(rows, fill_row, concurrently=concurrently)


def read_decimated(
    tiff: GeoTiff, sources: Sequence[BandSource], window: Window, shape: tuple[int, int]
) -> FloatBands:
    """Bands of a window averaged to a coarser shape, from the file's overviews; missing as above."""
    indexes = [source.index for source in sources]
    out = np.empty((len(indexes), *shape), np.float32)
    with opened(tiff.href, tiff.label) as file:
        stored = file.read(indexes, window=window, out_shape=out.shape, resampling=Resampling.average)
        if tiff.masked:
            stored = _with_mask(stored, file.dataset_mask(window=window, out_shape=shape))
    count_bytes(ReadBytes(decoded=out.size * stored.itemsize))
    _to_physical(stored, tiff, sources, out)
    return out


def overlap(start: int, length: int, block_start: int, block_length: int) -> tuple[slice, slice]:
    """Where a block falls in a window along one axis: (slice of the window, slice of the block)."""
    low, high = max(start, block_start), min(start + length, block_start + block_length)
    return slice(low - start, high - start), slice(low - block_start, high - block_start)


def is_inner(start: int, length: int, number: int, block_length: int, shared_px: int) -> bool:
    """Whether a block of a row or column lies so far inside a window that no neighbouring window needs it."""
    low, high = number * block_length, (number + 1) * block_length
    return start + shared_px <= low and high <= start + length - shared_px


def _version(href: str) -> tuple[int, ...]:
    if is_remote(href):
        return ()
    try:
        stat = local_path(href).stat()
    except OSError:  # said when it is opened
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


@lru_cache(KEPT_HEADERS)
def _read_header(href: str, label: str, version: tuple[int, ...]) -> GeoTiff:
    with opened(href, label) as file:
        stored = file.block_shapes[0]
        block = (_several(stored[0], file.height), _several(stored[1], file.width))
        return GeoTiff(
            href=href, label=label, version=version, crs=file.crs, transform=file.transform, shape=file.shape,
            block_shape=block, tiff_block_shape=stored, nodata=file.nodata,
            masked=MaskFlags.per_dataset in file.mask_flag_enums[0], dtypes=file.dtypes,
            band_interleaved=file.interleaving == Interleaving.band,
        )  # fmt: skip


def _several(stored_px: int, file_px: int) -> int:
    """Side of what is decoded at once: whole stored blocks, at least LEAST_BLOCK_PX or all the file has."""
    return stored_px * ceil(min(LEAST_BLOCK_PX, file_px) / stored_px)


def _decode_runs(tiff: GeoTiff, keys: Sequence[StoredBlock]) -> Iterator[tuple[list[StoredBlock], Stored]]:
    """Neighbouring blocks of one row, (band, y, x) in the file's type; a mask, if there is one, comes last.

    Each run is read by one call, so that GDAL merges the ranges of a remote file to one request.
    """
    height, width = tiff.block_shape
    if not keys:
        return
    y0, indexes = keys[0].row * height, keys[0].indexes
    decoded_bands = len(indexes) if tiff.band_interleaved else len(tiff.dtypes)
    with opened(tiff.href, tiff.label) as file:
        for run in _runs(keys):
            x0, x1 = run[0].column * width, min((run[-1].column + 1) * width, tiff.shape[1])
            window = Window(x0, y0, x1 - x0, min(height, tiff.shape[0] - y0))
            stored = file.read(indexes, window=window)
            decoded = decoded_bands * window.height * window.width * stored.itemsize
            count_bytes(ReadBytes(_compressed_bytes(tiff, file, indexes, window), decoded))
            if tiff.masked:
                stored = _with_mask(stored, file.dataset_mask(window=window))
            yield run, stored


def _runs(keys: Sequence[StoredBlock]) -> Iterator[list[StoredBlock]]:
    """Neighbours together; the columns ascend."""
    for _, group in groupby(enumerate(keys), key=lambda pair: pair[1].column - pair[0]):
        yield [key for _, key in group]


def _compressed_bytes(tiff: GeoTiff, file: DatasetReader, indexes: Sequence[int], window: Window) -> int:
    """Bytes of a block-aligned window in the file; a block that is not stored has none."""
    height, width = tiff.tiff_block_shape
    rows = range(window.row_off // height, ceil((window.row_off + window.height) / height))
    columns = range(window.col_off // width, ceil((window.col_off + window.width) / width))
    sizes = (
        file.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=band)
        for band in (indexes if tiff.band_interleaved else indexes[:1])
        for row in rows
        for column in columns
    )
    return sum(int(size or 0) for size in sizes)


def _with_mask(stored: Stored, mask: NDArray[np.uint8]) -> Stored:
    return np.concatenate([stored, mask[None].astype(stored.dtype)])


def _to_physical(stored: Stored, tiff: GeoTiff, sources: Sequence[BandSource], out: FloatBands) -> None:
    """Stored numbers to physical values in `out`, NaN in every band where they mean missing.

    Nodata counts where it stands in every band: a dark pixel may well be 0 in one band only.
    """
    nodata = [tiff.nodata if source.nodata is None else source.nodata for source in sources]
    missing = stored[0] == nodata[0]
    for band, number in zip(stored[1:], nodata[1:], strict=False):
        if not missing.any():
            break
        missing &= band == number
    if tiff.masked:
        missing |= stored[-1] == 0
    for values, band, source in zip(out, stored, sources, strict=False):
        if stored.dtype.kind == "f":
            missing |= np.isnan(band)
        np.multiply(band, np.float32(source.scale), out=values, dtype=np.float32)
        if source.offset:
            values += np.float32(source.offset)
    if missing.any():
        np.copyto(out, np.nan, where=missing)


def _first_line(error: Exception) -> str:
    """GDAL's own words, at the root of rasterio's chain ("Read failed. See previous exception")."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return public_form((str(error) or type(error).__name__).splitlines()[0])
