"""A GeoTIFF and a window of it go in, float32 bands with NaN for missing come out.

A file is decoded in the blocks that it is stored in, each once a process for all windows that touch it: the
chunks of a run share their halos. GDAL decodes them, and is given nothing but them (see `tiff`).
"""

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import rasterio
import zict
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # GDAL's own errors are no RasterioError
from rasterio.crs import CRS
from rasterio.enums import Interleaving, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.session import DummySession, Session
from rasterio.windows import Window

from coseis.addresses import AddressPolicy, gdal_environment, is_remote, public_form
from coseis.blocks import ReadBytes, count_bytes, for_each, kept_blocks
from coseis.errors import InputRefusedError
from coseis.file_bytes import (
    START_BYTES,
    ByteRange,
    OpenedFile,
    local_stamp,
    open_file,
    read_at,
    read_ranges,
)
from coseis.remote import ChangedError, Stamp
from coseis.tiff import (
    MAX_BLOCK_BYTES,
    Block,
    Image,
    Level,
    Tiff,
    TiffError,
    compose_tiff,
    covering,
    mask_blocks,
    parse_tiff,
)
from coseis.types import BandSource, Scene

LEAST_BLOCK_PX = 256
"""Smaller stored blocks, and strips, are decoded and kept several at a time."""
KEPT_HEADER_BYTES = 64 * 2**20
"""Starts of files and places of their blocks, kept a process: a COG of 10,000 px a side takes 50 KiB."""
REDUCED_BYTES = 64 * 2**20
"""Of a reduced image so much is decoded at a time."""
MAX_REDUCED_BYTES = 4 * 2**30
"""An image without overviews is decoded whole for its statistics, up to this."""

FloatBands = NDArray[np.float32]
Stored = NDArray[Any]

AWS_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
)

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

    file: OpenedFile
    tiff: Tiff = field(repr=False)
    """Where its blocks lie."""
    crs: CRS | None
    transform: Affine
    shape: tuple[int, int]
    """(height, width)."""
    block_shape: tuple[int, int]
    """(height, width) of what is decoded at once: stored blocks, or several of them."""
    nodata: float | None
    masked: bool
    """Whether the file holds a mask."""
    dtypes: tuple[str, ...]
    band_interleaved: bool
    """Each band lies by itself; else decoding one decodes all."""

    @property
    def href(self) -> str:
        """Its address."""
        return self.file.href

    @property
    def label(self) -> str:
        """Item, asset and address."""
        return self.file.label

    @property
    def version(self) -> Stamp:
        """One that is made anew has another."""
        return self.file.stamp

    @property
    def tiff_block_shape(self) -> tuple[int, int]:
        """(height, width) of one stored block: a tile or a strip."""
        return self.tiff.levels[0].image.block_shape


class StoredBlock(NamedTuple):
    """Bands of what is decoded at once, as `kept_blocks` keeps them."""

    href: str
    version: Stamp
    indexes: tuple[int, ...]
    row: int
    column: int


def read_header(scene: Scene, source: BandSource) -> GeoTiff:
    """The header of a source's file, read once while the file stays as it is.

    Raises:
        InputRefusedError: the file is missing, is no GeoTIFF, or larger than what is opened; item, asset and
            address are named.
        UnreachableError: a remote file does not come.
    """
    label = f"item {scene.item_id}, asset {source.asset}, {public_form(source.href)}"
    return header_of(source.href, label, scene.reach)


def header_of(href: str, label: str, reach: AddressPolicy | None) -> GeoTiff:
    """The same of any checked address; `label` is its name in messages, `reach` what it may redirect to."""
    key = (href, label, reach, None if is_remote(href) else local_stamp(href))
    with _headers_lock:
        if (kept := _headers.get(key)) is not None:
            return kept
    header = _read_header(href, label, reach)
    with _headers_lock:
        _headers[key] = header
    return header


def forget_headers() -> None:
    """What is read next is read anew: a server may have another file by now."""
    with _headers_lock:
        _headers.clear()


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
    stored = read_reduced(tiff, indexes, window, shape, resampling=Resampling.average)
    out = np.empty((len(indexes), *shape), np.float32)
    _to_physical(stored, tiff, sources, out)
    return out


def read_reduced(
    tiff: GeoTiff,
    indexes: Sequence[int],
    window: Window,
    shape: tuple[int, int],
    *,
    resampling: Resampling,
) -> Stored:
    """Bands of a window in a coarser shape, (band, y, x) in the file's type; a mask, if any, comes last.

    Args:
        tiff: The file.
        indexes: Numbers of the bands, from 1.
        window: Pixels of the file, all within it.
        shape: (height, width) of the result.
        resampling: Of the bands; masks are taken nearest.

    Raises:
        InputRefusedError: the file cannot be read, or has no overview and is too large to do without.
        UnreachableError: a remote file does not come.
    """
    level = _coarsest(tiff, window, shape)
    scale_y, scale_x = (of / full for of, full in zip(level.image.shape, tiff.shape, strict=True))
    top, height = window.row_off * scale_y, window.height * scale_y
    x0, x1 = window.col_off * scale_x, (window.col_off + window.width) * scale_x
    per_row = (x1 - x0) * height / shape[0] * len(tiff.dtypes) * np.dtype(tiff.dtypes[0]).itemsize
    if per_row * shape[0] > MAX_REDUCED_BYTES:
        raise InputRefusedError(
            f"{tiff.label} has no overviews, and to reduce it {per_row * shape[0] / 2**30:.1f} GiB would be "
            f"decoded; at most {MAX_REDUCED_BYTES / 2**30:g}: add overviews (gdaladdo), or make it a COG"
        )
    rows = max(1, int(REDUCED_BYTES // per_row))
    parts = []
    for row in range(0, shape[0], rows):
        count = min(rows, shape[0] - row)
        y0, y1 = (top + height * edge / shape[0] for edge in (row, row + count))
        blocks = covering(level.image, (y0, y1), (x0, x1))
        with _cut(tiff, level, indexes, blocks) as file:
            origin = [side.start * px for side, px in zip(blocks, level.image.block_shape, strict=True)]
            # The last may end a rounding error beyond the file.
            inside = Window(
                x0 - origin[1],
                y0 - origin[0],
                min(x1 - x0, file.width - (x0 - origin[1])),
                min(y1 - y0, file.height - (y0 - origin[0])),
            )
            out_shape = (count, shape[1])
            stored = file.read(
                list(indexes), window=inside, out_shape=(len(indexes), *out_shape), resampling=resampling
            )
            if tiff.masked:
                stored = _with_mask(stored, file.dataset_mask(window=inside, out_shape=out_shape))
        count_bytes(ReadBytes(decoded=stored.size * stored.itemsize))
        parts.append(stored)
    return np.concatenate(parts, axis=1)


def overlap(start: int, length: int, block_start: int, block_length: int) -> tuple[slice, slice]:
    """Where a block falls in a window along one axis: (slice of the window, slice of the block)."""
    low, high = max(start, block_start), min(start + length, block_start + block_length)
    return slice(low - start, high - start), slice(low - block_start, high - block_start)


def is_inner(start: int, length: int, number: int, block_length: int, shared_px: int) -> bool:
    """Whether a block of a row or column lies so far inside a window that no neighbouring window needs it."""
    low, high = number * block_length, (number + 1) * block_length
    return start + shared_px <= low and high <= start + length - shared_px


def _read_header(href: str, label: str, reach: AddressPolicy | None) -> GeoTiff:
    opened = open_file(href, label, reach)
    ahead: list[tuple[int, bytes]] = []

    def read(offset: int, count: int) -> bytes:
        for begin, content in ahead:
            if begin <= offset and offset + count <= begin + len(content):
                return content[offset - begin : offset - begin + count]
        content = read_at(opened, offset, max(count, START_BYTES))
        ahead.append((offset, content))
        return content[:count]

    with _errors_of(label):
        tiff = parse_tiff(read)
        image = tiff.levels[0].image
        nothing: list[dict[Block, bytes]] = [{} for part in tiff.levels[0] if part]
        content = compose_tiff(tiff, tiff.levels[0], (range(0), range(0)), nothing, placed=True)
    with _decoded(content, label) as file:
        several = _several(image, file.height)
        return GeoTiff(
            file=opened, tiff=tiff, crs=file.crs, transform=file.transform, shape=file.shape,
            block_shape=several, nodata=file.nodata,
            masked=MaskFlags.per_dataset in file.mask_flag_enums[0], dtypes=file.dtypes,
            band_interleaved=file.interleaving == Interleaving.band,
        )  # fmt: skip


def _several(image: Image, height: int) -> tuple[int, int]:
    """What is decoded at once: stored blocks, together LEAST_BLOCK_PX a side or all the file has."""
    down = ceil(min(LEAST_BLOCK_PX, height) / image.block_shape[0])
    across = ceil(min(LEAST_BLOCK_PX, image.shape[1]) / image.block_shape[1])
    most = max(1, MAX_BLOCK_BYTES // (image.block_bytes * image.planes))
    across = min(across, most)
    down = min(down, max(1, most // across))
    return image.block_shape[0] * down, image.block_shape[1] * across


def _coarsest(tiff: GeoTiff, window: Window, shape: tuple[int, int]) -> Level:
    """The level with the fewest pixels that still has one for each that is wanted."""
    most = min(window.height / shape[0], window.width / shape[1]) * (1 + 1e-6)
    first = tiff.tiff.levels[0]
    usable = [
        level
        for level in tiff.tiff.levels[1:]
        if (first.mask is None or level.mask is not None)
        and max(tiff.shape[0] / level.image.shape[0], tiff.shape[1] / level.image.shape[1]) <= most
    ]
    return min([first, *usable], key=lambda level: level.image.shape[0] * level.image.shape[1])


@contextmanager
def _cut(
    tiff: GeoTiff, level: Level, indexes: Sequence[int], blocks: tuple[range, range]
) -> Iterator[DatasetReader]:
    """Some stored blocks of a level, fetched, as a file of their own, open.

    Raises:
        InputRefusedError, UnreachableError: as `file_bytes.read_ranges`, or what is done with it fails.
    """
    image, mask = level
    # Where the mask is a band, it is one of all.
    bands = range(image.bands) if tiff.masked and mask is None else [index - 1 for index in indexes]
    planes = bands if image.planes > 1 else [0]
    wanted = [(image, [Block(p, r, c) for p in planes for r in blocks[0] for c in blocks[1]])]
    if mask is not None:
        rows, columns = mask_blocks(level, blocks)
        wanted.append((mask, [Block(0, r, c) for r in rows for c in columns]))
    with _errors_of(tiff.label):
        places = [{block: ByteRange(*of.stored(block)) for block in some} for of, some in wanted]
    ranges = sorted({place for some in places for place in some.values() if place.length})
    try:
        fetched = dict(zip(ranges, read_ranges(tiff.file, ranges), strict=True))
    except ChangedError:
        forget_headers()
        raise
    contents = [{block: fetched.get(place, b"") for block, place in some.items()} for some in places]
    with _decoded(compose_tiff(tiff.tiff, level, blocks, contents), tiff.label) as file:
        yield file


@contextmanager
def _decoded(content: bytes, label: str) -> Iterator[DatasetReader]:
    """A TIFF of ours, opened by GDAL: in memory, by one driver, without network or files beside it."""
    with (
        _errors_of(label),
        rasterio.Env(DummySession(), **gdal_environment()),
        MemoryFile(content) as memory,
        memory.open(driver="GTiff") as file,
    ):
        yield file


@contextmanager
def _errors_of(label: str) -> Iterator[None]:
    """Raises what goes wrong with a file as InputRefusedError, which names it."""
    try:
        yield
    except TiffError as error:
        raise InputRefusedError(f"{label} cannot be read: {error}") from error
    except (RasterioError, CPLE_BaseError) as error:
        raise InputRefusedError(f"{label} cannot be read: {_first_line(error)}") from error


def _decode_runs(tiff: GeoTiff, keys: Sequence[StoredBlock]) -> Iterator[tuple[list[StoredBlock], Stored]]:
    """Neighbouring blocks of one row, (band, y, x) in the file's type; a mask, if any, comes last."""
    height, width = tiff.block_shape
    if not keys:
        return
    y0, indexes = keys[0].row * height, keys[0].indexes
    y1 = min(y0 + height, tiff.shape[0])
    decoded_bands = len(indexes) if tiff.band_interleaved else len(tiff.dtypes)
    level = tiff.tiff.levels[0]
    for run in _runs(keys):
        x0, x1 = run[0].column * width, min((run[-1].column + 1) * width, tiff.shape[1])
        with _cut(tiff, level, indexes, covering(level.image, (y0, y1), (x0, x1))) as file:
            stored = file.read(indexes)
            count_bytes(ReadBytes(decoded=decoded_bands * file.height * file.width * stored.itemsize))
            if tiff.masked:
                stored = _with_mask(stored, file.dataset_mask())
        yield run, stored


def _runs(keys: Sequence[StoredBlock]) -> Iterator[list[StoredBlock]]:
    """Neighbours together; the columns ascend."""
    for _, group in groupby(enumerate(keys), key=lambda pair: pair[1].column - pair[0]):
        yield [key for _, key in group]


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
    return _IN_MEMORY.sub("", public_form((str(error) or type(error).__name__).splitlines()[0]))


_IN_MEMORY = re.compile(r"'?/vsimem/[^\s,:']*'?[,:]? ?")
"""The name of our own file, which tells nobody anything."""
_headers: zict.LRU[Any, GeoTiff] = zict.LRU(
    KEPT_HEADER_BYTES,
    {},
    weight=lambda _, header: float(
        len(header.file.start)
        + sum(16 * image.offsets.size for level in header.tiff.levels for image in level if image)
    ),
)
_headers_lock = threading.Lock()
