"""The bytes of a TIFF go in; out come its images, and small TIFFs of some of their blocks for GDAL to decode.

GDAL is never given a file of somebody else's: it opens names that such a file holds, and looks for more files
beside it. So the directory of a file is read here, what it claims is checked against limits, and GDAL gets a
new TIFF in memory: the tags that it needs to decode, and the stored blocks that are wanted.

Reference: TIFF 6.0 (Adobe, 1992); the BigTIFF design; the cloud-optimized GeoTIFF layout of GDAL.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_IMAGES = 64
"""Directories that are looked at: overviews and masks of the first."""
MAX_ENTRIES = 1024
MAX_TAG_BYTES = 2**20
MAX_BLOCKS = 2**20
"""Stored blocks an image: their places alone take 16 MiB."""
MAX_BANDS = 1000
MAX_VALUES = 2**40
"""Width times height times bands."""
MAX_BLOCK_BYTES = 128 * 2**20
"""One stored block, decoded: a DEM of 3601 x 3601 px in one strip takes 50 MiB."""
SLACK_BYTES = 2**16
CHOPPED_BYTES = 2**18
"""Plain strips that are larger are taken apart in such pieces."""

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
SUBFILE, SAMPLES, ROWS_PER_STRIP, PLANAR = 254, 277, 278, 284
STRIP_OFFSETS, STRIP_COUNTS, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 273, 279, 322, 323, 324, 325
DECODING = (
    BITS, COMPRESSION, PHOTOMETRIC, 266, SAMPLES, PLANAR, 292, 293, 317, 320, 338, 339, 347, 530, 50674,
)  # fmt: skip
"""What a decoder needs beside the shape: fill order, fax options, predictor, palette, extra samples, sample
format, JPEG tables, subsampling, LERC parameters. Nothing else of a file reaches GDAL's decoders."""
PLACING = (33550, 33922, 34264, 34735, 34736, 34737, 42113)
"""GeoTIFF's tags, and GDAL's nodata number."""
NODATA = 42113

COMPRESSIONS = {
    1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate", 34887: "LERC",
    34925: "LZMA", 50000: "ZSTD", 50001: "WebP",
}  # fmt: skip
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
"""Bytes of a value by its TIFF type."""
_WHOLE = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}
"""Types of numbers that count something."""
_LONG8 = 16

Read = Callable[[int, int], bytes]
"""Bytes of the file from an offset, so many of them; fewer where it ends."""
Places = NDArray[np.uint64]
_Entries = dict[int, tuple[int, int, bytes]]
"""Of a directory, by tag: type, count, and the value or its place."""


class TiffError(Exception):
    """A file is no TIFF, is damaged, or claims what is refused; the text says what."""


class Entry(NamedTuple):
    """A tag of a directory with its value, as it is stored."""

    tag: int
    kind: int
    length: int
    value: bytes


class Block(NamedTuple):
    """Place of a stored block: which plane (0 where bands lie together), row and column."""

    plane: int
    row: int
    column: int


@dataclass(frozen=True)
class Image:
    """One directory of a file."""

    shape: tuple[int, int]
    """(height, width)."""
    bands: int
    block_shape: tuple[int, int]
    """(height, width) of a stored block: a tile or a strip."""
    tiled: bool
    planes: int
    """The number of bands, where each lies by itself; else 1."""
    block_bytes: int
    """Of one stored block, decoded."""
    entries: tuple[Entry, ...] = field(repr=False)
    """For decoding and placing."""
    offsets: Places = field(repr=False)
    """Of the stored blocks, plane after plane, row after row; 0 where nothing is stored."""
    counts: Places = field(repr=False)
    """Bytes of each."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        height, width = self.block_shape
        return ceil(self.shape[0] / height), ceil(self.shape[1] / width)

    def number(self, block: Block) -> int:
        """Where a block stands in `offsets`."""
        rows, columns = self.grid
        return (block.plane * rows + block.row) * columns + block.column

    def stored(self, block: Block) -> tuple[int, int]:
        """Offset and bytes of a block; (0, 0) where it is not stored.

        Raises:
            TiffError: it claims more bytes than any compression makes of it.
        """
        number = self.number(block)
        offset, count = int(self.offsets[number]), int(self.counts[number])
        if count > 2 * self.block_bytes + SLACK_BYTES:
            raise TiffError(
                f"a block of {self.block_bytes} bytes claims to be stored in {count}; the file is damaged"
            )
        return (offset, count) if offset and count else (0, 0)


class Level(NamedTuple):
    """An image, full or reduced, with its mask."""

    image: Image
    mask: Image | None


@dataclass(frozen=True)
class Tiff:
    """What the directories of a file say."""

    order: str
    """Byte order, as `struct` has it."""
    levels: tuple[Level, ...]
    """The image itself, then its overviews, as the file has them."""


def parse_tiff(read: Read) -> Tiff:
    """Reads the directories of a TIFF.

    Raises:
        TiffError: it is none, it is damaged, or an image is larger than what is opened.
    """
    head = read(0, 16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    version = struct.unpack_from(order + "H", head, 2)[0] if order and len(head) >= 8 else 0
    if version not in (42, 43) or (version == 43 and len(head) < 16):
        raise TiffError(f"it is no TIFF (it starts with {head[:8]!r})")
    big = version == 43
    place = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
    directories: list[_Entries] = []
    seen: set[int] = set()
    while place and place not in seen and len(directories) < MAX_IMAGES:
        seen.add(place)
        entries, place = _read_directory(read, place, order, big)
        directories.append(entries)
    if not directories:
        raise TiffError("it holds no image")
    return Tiff(order, _levels([_Directory(read, order, big, entries) for entries in directories]))


def compose_tiff(
    tiff: Tiff,
    level: Level,
    window: tuple[range, range],
    contents: Sequence[Mapping[Block, bytes]],
    *,
    placed: bool = False,
) -> bytes:
    """A BigTIFF of some blocks of an image, as they are stored, and of its mask.

    A block that is wanted later but not among `contents` lies beyond the end of the file, so that decoding
    it is an error; one whose content is empty is a hole, as it was.

    Args:
        tiff: For the byte order, which the stored blocks share.
        level: The image; the mask's blocks lie as the image's.
        window: Rows and columns of blocks, of the image.
        contents: Stored bytes by block, of the image and, if it has one, of the mask.
        placed: With the tags that say where the image lies; its shape is then the whole image's.
    """
    images = [image for image in level if image is not None]
    if placed:
        window = range(level.image.grid[0]), range(level.image.grid[1])
    directories = [
        _Cut(image, _covered(image, level.image, window), stored, tiff.order, is_mask=image is level.mask)
        for image, stored in zip(images, contents, strict=True)
    ]
    if placed:
        directories[0].place()
    out = bytearray(struct.pack(tiff.order + "2sHHHQ", b"II" if tiff.order == "<" else b"MM", 43, 8, 0, 16))
    start = 16 + sum(cut.size for cut in directories)
    beyond = start + sum(len(blob) for stored in contents for blob in stored.values()) + 1
    blobs: list[bytes] = []
    for number, cut in enumerate(directories):
        is_last = number == len(directories) - 1
        place = len(out)
        out += cut.directory(place, 0 if is_last else place + cut.size, start, beyond)
        blobs += cut.blobs
        start += sum(map(len, cut.blobs))
    return b"".join([bytes(out), *blobs])


def covering(image: Image, rows: tuple[float, float], columns: tuple[float, float]) -> tuple[range, range]:
    """Rows and columns of blocks that a window of pixels touches, cut to the image."""
    height, width = image.block_shape
    most_rows, most_columns = image.grid
    return (
        range(max(0, int(rows[0] // height)), min(most_rows, ceil(rows[1] / height))),
        range(max(0, int(columns[0] // width)), min(most_columns, ceil(columns[1] / width))),
    )


def mask_blocks(level: Level, window: tuple[range, range]) -> tuple[range, range]:
    """The blocks of a level's mask under blocks of its image."""
    assert level.mask is not None
    return _covered(level.mask, level.image, window)


@dataclass(frozen=True)
class _Directory:
    """The entries of a directory, read as they are asked for."""

    read: Read
    order: str
    big: bool
    entries: _Entries

    def entry(self, tag: int, most_bytes: int = MAX_TAG_BYTES) -> Entry | None:
        if tag not in self.entries:
            return None
        kind, count, field_bytes = self.entries[tag]
        size = _SIZES.get(kind, 0) * count
        if not size:
            return None
        if size > most_bytes:
            raise TiffError(f"tag {tag} claims {size} bytes; at most {most_bytes} are read")
        if size <= len(field_bytes):
            return Entry(tag, kind, count, field_bytes[:size])
        place = struct.unpack(self.order + ("Q" if self.big else "I"), field_bytes)[0]
        value = self.read(place, size)
        if len(value) < size:
            raise TiffError(f"it breaks off in tag {tag}")
        return Entry(tag, kind, count, value)

    def numbers(self, tag: int, most: int = MAX_BANDS) -> Places:
        entry = self.entry(tag, max(MAX_TAG_BYTES, 8 * most))
        if entry is None:
            return np.empty(0, np.uint64)
        if entry.kind not in _WHOLE:
            raise TiffError(f"tag {tag} is of type {entry.kind}; expected whole numbers")
        return np.frombuffer(entry.value, self.order + _WHOLE[entry.kind]).astype(np.uint64)

    def number(self, tag: int, default: int = 0) -> int:
        found = self.numbers(tag)
        return int(found[0]) if found.size else default


def _read_directory(read: Read, place: int, order: str, big: bool) -> tuple[_Entries, int]:
    """The raw entries of a directory, and the place of the next."""
    count_format, entry_size, value_at, next_format = ("Q", 20, 12, "Q") if big else ("H", 12, 8, "I")
    count_size, next_size = struct.calcsize(order + count_format), struct.calcsize(order + next_format)
    head = read(place, count_size)
    if len(head) < count_size:
        raise TiffError(f"it breaks off before its directory at byte {place}")
    count = struct.unpack(order + count_format, head)[0]
    if count > MAX_ENTRIES:
        raise TiffError(f"its directory claims {count} tags; at most {MAX_ENTRIES} are read")
    body = read(place + count_size, count * entry_size + next_size)
    if len(body) < count * entry_size + next_size:
        raise TiffError(f"it breaks off in its directory at byte {place}")
    entries = {}
    for number in range(count):
        at = number * entry_size
        tag, kind, values = struct.unpack_from(order + ("HHQ" if big else "HHI"), body, at)
        entries[tag] = (kind, values, body[at + value_at : at + entry_size])
    return entries, struct.unpack_from(order + next_format, body, count * entry_size)[0]


def _levels(directories: Sequence[_Directory]) -> tuple[Level, ...]:
    """The first image, its overviews, and their masks, which are as large as they."""
    main = _read_image(directories[0])
    reduced, masks = [], []
    for directory in directories[1:]:
        subfile = directory.number(SUBFILE)
        if subfile & 4:
            masks.append(_read_image(directory))
        elif subfile & 1 and max(1, directory.number(SAMPLES, 1)) == main.bands:
            reduced.append(_read_image(directory))
    return tuple(
        Level(image, next((mask for mask in masks if mask.shape == image.shape and mask.bands == 1), None))
        for image in (main, *reduced)
    )


def _read_image(directory: _Directory) -> Image:
    """One image, its claims checked."""
    width, height = directory.number(WIDTH), directory.number(HEIGHT)
    bands = directory.number(SAMPLES, 1)
    if not (width and height and bands):
        raise TiffError(f"it claims {width} x {height} px in {bands} bands")
    if bands > MAX_BANDS:
        raise TiffError(f"it claims {bands} bands; at most {MAX_BANDS} are opened")
    if width * height * bands > MAX_VALUES:
        raise TiffError(
            f"it claims {width} x {height} px in {bands} bands; at most {MAX_VALUES} values are opened"
        )
    bits = directory.numbers(BITS)
    per_sample = int(bits.max()) if bits.size else 1
    if not 1 <= per_sample <= 128:
        raise TiffError(f"it claims {per_sample} bits a sample")
    compression = directory.number(COMPRESSION, 1)
    if compression not in COMPRESSIONS:
        names = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise TiffError(f"it is compressed by method {compression}; known are {names}")
    separate = directory.number(PLANAR, 1) == 2
    tiled = TILE_WIDTH in directory.entries
    if tiled:
        block = directory.number(TILE_HEIGHT), directory.number(TILE_WIDTH)
    else:
        block = min(directory.number(ROWS_PER_STRIP, height) or height, height), width
    if not all(block):
        raise TiffError(f"it claims blocks of {block[1]} x {block[0]} px")
    planes = bands if separate else 1
    row_bytes = ceil(block[1] * (bands // planes) * per_sample / 8)
    blocks = planes * ceil(height / block[0]) * ceil(width / block[1])
    if blocks > MAX_BLOCKS:
        raise TiffError(f"it claims {blocks} stored blocks; at most {MAX_BLOCKS} are opened")
    offsets = directory.numbers(TILE_OFFSETS if tiled else STRIP_OFFSETS, MAX_BLOCKS)
    counts = directory.numbers(TILE_COUNTS if tiled else STRIP_COUNTS, MAX_BLOCKS)
    if min(offsets.size, counts.size) < blocks:
        raise TiffError(f"it lists {min(offsets.size, counts.size)} of its {blocks} stored blocks")
    offsets, counts = offsets[:blocks], counts[:blocks]
    if compression == 1 and not tiled and block[0] * row_bytes > CHOPPED_BYTES:
        block, offsets, counts = _chop(block, (height, width), planes, row_bytes, offsets)
    block_bytes = block[0] * row_bytes
    if block_bytes > MAX_BLOCK_BYTES:
        raise TiffError(
            f"it is stored in blocks of {block[1]} x {block[0]} px, {block_bytes} bytes decoded; at most "
            f"{MAX_BLOCK_BYTES} are decoded at once: rewrite it with tiles (gdal_translate -of COG)"
        )
    entries = tuple(found for tag in (*DECODING, *PLACING) if (found := directory.entry(tag)))
    return Image((height, width), bands, block, tiled, planes, block_bytes, entries, offsets, counts)


def _chop(
    block: tuple[int, int], shape: tuple[int, int], planes: int, row_bytes: int, offsets: Places
) -> tuple[tuple[int, int], Places, Places]:
    """Shorter strips of long ones that are not compressed: any row of them can be read alone."""
    height = shape[0]
    if offsets.size // planes > 1:
        # Strips of another height than the new ones' multiple would leave gaps.
        rows = next(rows for rows in range(max(1, CHOPPED_BYTES // row_bytes), 0, -1) if block[0] % rows == 0)
    else:
        rows = max(1, CHOPPED_BYTES // row_bytes)
    tops = np.arange(0, height, rows)
    if planes * tops.size > MAX_BLOCKS:
        return block, offsets, np.full(offsets.size, block[0] * row_bytes, np.uint64)
    lengths = np.minimum(rows, height - tops) * row_bytes
    within = (tops % block[0]) * row_bytes
    of_plane = offsets.reshape(planes, -1)[:, tops // block[0]]
    places = np.where(of_plane > 0, of_plane + within.astype(np.uint64), 0)
    return (
        (rows, block[1]),
        places.astype(np.uint64).ravel(),
        np.tile(lengths.astype(np.uint64), planes),
    )


def _covered(image: Image, of: Image, window: tuple[range, range]) -> tuple[range, range]:
    """The blocks of one image under blocks of another of the same shape."""
    if image is of:
        return window
    (rows, columns), (height, width) = window, of.block_shape
    return covering(
        image,
        (rows.start * height, min(rows.stop * height, of.shape[0])),
        (columns.start * width, min(columns.stop * width, of.shape[1])),
    )


class _Cut:
    """A directory of a new TIFF: some blocks of an image."""

    def __init__(
        self,
        image: Image,
        window: tuple[range, range],
        stored: Mapping[Block, bytes],
        order: str,
        *,
        is_mask: bool,
    ) -> None:
        self._image, self._order, self._stored = image, order, stored
        rows, columns = window
        height, width = image.block_shape
        shape = (
            min(rows.stop * height, image.shape[0]) - rows.start * height,
            min(columns.stop * width, image.shape[1]) - columns.start * width,
        )
        self._blocks = [Block(p, r, c) for p in range(image.planes) for r in rows for c in columns]
        self.blobs = [stored[block] for block in self._blocks if stored.get(block)]
        self._entries = [entry for entry in image.entries if entry.tag in (*DECODING, NODATA)]
        self._entries += [self._number(WIDTH, shape[1]), self._number(HEIGHT, shape[0])]
        if is_mask:
            self._entries.append(self._number(SUBFILE, 4))
        if image.tiled:
            self._entries += [self._number(TILE_HEIGHT, image.block_shape[0])]
            self._entries += [self._number(TILE_WIDTH, image.block_shape[1])]
        else:
            self._entries.append(self._number(ROWS_PER_STRIP, image.block_shape[0]))

    def place(self) -> None:
        """Adds the tags that say where the image lies."""
        self._entries += [e for e in self._image.entries if e.tag in PLACING and e.tag != NODATA]

    @property
    def _head(self) -> int:
        """Bytes before the values that do not fit into their tags; two tags are the places of the blocks."""
        return 8 + 20 * (len(self._entries) + 2) + 8

    @property
    def size(self) -> int:
        """Bytes of the directory with all its values."""
        lengths = [8 * len(self._blocks)] * 2 + [len(entry.value) for entry in self._entries]
        return self._head + sum(_padded(length) for length in lengths if length > 8)

    def directory(self, place: int, following: int, data: int, beyond: int) -> bytes:
        """The bytes of it, as it lies at `place`, with its blocks from `data` on."""
        offsets, counts = [], []
        for block in self._blocks:
            blob = self._stored.get(block)
            if blob is None:
                offsets.append(beyond)
                counts.append(self._image.block_bytes)
            else:
                offsets.append(data if blob else 0)
                counts.append(len(blob))
                data += len(blob)
        tags = (TILE_OFFSETS, TILE_COUNTS) if self._image.tiled else (STRIP_OFFSETS, STRIP_COUNTS)
        entries = sorted(
            [
                *self._entries,
                *(
                    Entry(tag, _LONG8, len(values), struct.pack(f"{self._order}{len(values)}Q", *values))
                    for tag, values in zip(tags, (offsets, counts), strict=True)
                ),
            ]
        )
        head = bytearray(struct.pack(self._order + "Q", len(entries)))
        tail = bytearray()
        for entry in entries:
            head += struct.pack(self._order + "HHQ", entry.tag, entry.kind, entry.length)
            if len(entry.value) <= 8:
                head += entry.value.ljust(8, b"\0")
            else:
                head += struct.pack(self._order + "Q", place + self._head + len(tail))
                tail += entry.value.ljust(_padded(len(entry.value)), b"\0")
        head += struct.pack(self._order + "Q", following)
        return bytes(head + tail)

    def _number(self, tag: int, value: int) -> Entry:
        return Entry(tag, _LONG8, 1, struct.pack(self._order + "Q", value))


def _padded(length: int) -> int:
    return length + -length % 8
