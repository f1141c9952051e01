"""Pixels of the grid go in, tiles of a web map come out: warped to Web Mercator, halved, encoded.

A block is a square of tiles that is warped at once; it is itself a tile, of a lower zoom, so blocks lie on
one lattice and no pixel depends on which others were asked for. Lower zooms are made of higher ones.
"""

from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from math import ceil, cos, floor, log2, pi, radians
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from PIL import Image
from rasterio.enums import Resampling
from rasterio.transform import from_bounds
from rasterio.warp import reproject, transform_bounds
from rasterio.windows import Window

from coseis.grid import DENSIFY_DEG, crs_of
from coseis.types import CODE_FILL, Status

TILE_PX = 512
"""Side of a tile: what MapLibre counts its zoom levels in."""
LEAST_ZOOM = 6
"""Lowest zoom, as of the vector tiles."""
BLOCK_LEVELS = 2
"""A block is 4 x 4 tiles: its pixels, 2048 a side, take 17 MB as colours."""
WEB_MERCATOR = "EPSG:3857"
WORLD_M = 2 * pi * 6378137.0
"""Side of the Web Mercator square, its metres."""
MOST_LATITUDE = 85.0
WARP_TOLERANCE_PX = 0.01
"""GDAL's approximation of the coordinates may be off by this much."""
IMAGE_QUALITY = 80
"""Of WebP, 0-100; a tile of forest takes about 40 kB."""
EMPTY_CODES = (CODE_FILL, int(Status.OUTSIDE_AOI))
"""Probability code and status of a place where there is no map."""
EMPTY_IMAGE = (0, 0, 0, 0)

Pixels = NDArray[np.uint8]
"""uint8 (band, y, x). Images: red, green, blue, alpha. Codes: probability code, status with its bit."""
Halve = Callable[[Pixels], Pixels]
Empty = tuple[int, ...]


class Tile(NamedTuple):
    """A tile of the Web Mercator square; y grows southwards."""

    zoom: int
    x: int
    y: int

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top, in Web Mercator's metres."""
        side = WORLD_M / 2**self.zoom
        left, top = self.x * side - WORLD_M / 2, WORLD_M / 2 - self.y * side
        return left, top - side, left + side, top

    def parent(self, levels: int) -> "Tile":
        """The tile that holds it, so many zoom levels lower."""
        return Tile(self.zoom - levels, self.x >> levels, self.y >> levels)


def native_zoom(geobox: GeoBox) -> int:
    """The first zoom at which every pixel of the grid is the nearest one of some pixel of a tile.

    A square that is turned by a degrees holds a point of any lattice whose spacing is its side divided by
    (cos a + sin a); a UTM grid is turned by 3 degrees at most within its zone, and scaled by less than 0.1 %.
    """
    _, south, _, north = geobox.geographic_extent.boundingbox
    latitude = 0.0 if south < 0 < north else min(abs(south), abs(north))
    side_m = min(abs(geobox.resolution.x), abs(geobox.resolution.y)) / 1.1
    least = log2(WORLD_M * cos(radians(latitude)) / TILE_PX / side_m)
    return max(0, min(ceil(least), 22))


def zoom_steps(native: int) -> list[tuple[int, int]]:
    """(zoom of the blocks, levels above it that they are cut into), first those that are warped."""
    least = min(LEAST_ZOOM, native)
    steps = [(max(least, native - BLOCK_LEVELS), min(BLOCK_LEVELS, native - least))]
    while steps[-1][0] > least:
        zoom = max(least, steps[-1][0] - BLOCK_LEVELS)
        steps.append((zoom, steps[-1][0] - zoom))
    return steps


def tiles_over(area: dict[str, Any], zoom: int) -> Iterator[Tile]:
    """The tiles of a zoom that touch a GeoJSON geometry in degrees, row by row."""
    degrees = Geometry(area, "EPSG:4326")
    shape = degrees.to_crs(WEB_MERCATOR, resolution=DENSIFY_DEG).geom.buffer(100)  # its edges bend elsewhere
    shapely.prepare([shape])
    side = WORLD_M / 2**zoom
    left, bottom, right, top = ((WORLD_M / 2 + value) / side for value in shape.bounds)
    last = 2**zoom - 1
    for y in range(max(0, 2**zoom - 1 - floor(top)), min(last, 2**zoom - 1 - floor(bottom)) + 1):
        for x in range(max(0, floor(left)), min(last, floor(right)) + 1):
            if shape.intersects(shapely.box(*Tile(zoom, x, y).bounds)):
                yield Tile(zoom, x, y)


def window_under(tile: Tile, geobox: GeoBox) -> Window | None:
    """The part of the grid that a tile shows, with what interpolation needs around it, if there is any."""
    crs = crs_of(geobox).to_wkt()
    left, bottom, right, top = transform_bounds(WEB_MERCATOR, crs, *tile.bounds, densify_pts=21)
    corners = [~geobox.affine @ corner for corner in ((left, top), (right, bottom))]
    (x0, x1), (y0, y1) = (sorted(sides) for sides in zip(*corners, strict=True))
    x0, y0 = max(0, floor(x0) - 2), max(0, floor(y0) - 2)
    x1, y1 = min(geobox.shape.x, ceil(x1) + 2), min(geobox.shape.y, ceil(y1) + 2)
    return Window(x0, y0, x1 - x0, y1 - y0) if x0 < x1 and y0 < y1 else None


def warp_codes(codes: Pixels, geobox: GeoBox, window: Window, tile: Tile, levels: int) -> Pixels:
    """Codes of a window of the grid as the pixels of a block: of each the nearest, never a mixture.

    Args:
        codes: uint8 (2, y, x), probability code and status.
        geobox: The whole grid.
        window: Where the codes lie on it.
        tile: The block.
        levels: It has 2**levels tiles a side.

    Returns:
        uint8 (2, side, side), EMPTY_CODES beyond the window.
    """
    side_px = TILE_PX << levels
    block = np.empty((2, side_px, side_px), np.uint8)
    block[:] = np.array(EMPTY_CODES, np.uint8)[:, None, None]
    _warp(codes, block, geobox, window, tile, resampling=Resampling.nearest, init_dest_nodata=False)
    return block


def warp_image(image: Pixels, geobox: GeoBox, window: Window, tile: Tile, levels: int) -> Pixels:
    """As `warp_codes` for colours: bilinear, and what is transparent gives no colour to its neighbours.

    Args:
        image: uint8 (4, y, x), red, green, blue and alpha, which is 0 or 255.
        geobox: The whole grid.
        window: Where the image lies on it.
        tile: The block.
        levels: It has 2**levels tiles a side.

    Returns:
        uint8 (4, side, side), 0 where there is no image.
    """
    side_px = TILE_PX << levels
    block = np.zeros((4, side_px, side_px), np.uint8)
    _warp(image, block, geobox, window, tile, resampling=Resampling.bilinear, src_alpha=4, dst_alpha=4)
    return block


def halve_codes(codes: Pixels) -> Pixels:
    """Codes at half the size: the highest probability of four, so that no landslide is lost in the distance.

    Of the status the most frequent; of equally frequent ones the higher, which is never `observed`.
    """
    four = _quarters(codes)
    probability = (four[:, 0] + np.uint8(1)).max(axis=0) - np.uint8(1)  # 255, nothing, wraps to the least
    status = four[:, 1].astype(np.int32)
    frequency = (status[:, None] == status[None]).sum(axis=0)
    kept = (frequency * 256 + status).max(axis=0) % 256
    return np.stack([probability, kept.astype(np.uint8)])


def halve_image(image: Pixels) -> Pixels:
    """Colours at half the size: the mean of those of four that are there."""
    four = _quarters(image).astype(np.uint32)
    alpha = four[:, 3:]
    total = alpha.sum(axis=0)
    colours = ((four[:, :3] * alpha).sum(axis=0) + total // 2) // np.maximum(total, 1)
    return np.concatenate([colours, (total + 2) // 4]).astype(np.uint8)


def cut_block(block: Pixels, tile: Tile, levels: int, empty: Empty) -> dict[Tile, Pixels]:
    """The tiles of a block that hold anything but `empty`, a value a band."""
    cut = {}
    for row in range(2**levels):
        for col in range(2**levels):
            rows, cols = (slice(at * TILE_PX, (at + 1) * TILE_PX) for at in (row, col))
            pixels = block[:, rows, cols]
            if any((band != value).any() for band, value in zip(pixels, empty, strict=True)):
                cut[Tile(tile.zoom + levels, (tile.x << levels) + col, (tile.y << levels) + row)] = pixels
    return cut


def coarser_tiles(tiles: Mapping[Tile, Pixels], halve: Halve, empty: Empty) -> dict[Tile, Pixels]:
    """The tiles one zoom lower, each made of up to four; `empty` where there is none."""
    half_px = TILE_PX // 2
    coarser: dict[Tile, Pixels] = {}
    for tile, pixels in tiles.items():
        parent = tile.parent(1)
        if parent not in coarser:
            coarser[parent] = np.empty((len(empty), TILE_PX, TILE_PX), np.uint8)
            coarser[parent][:] = np.array(empty, np.uint8)[:, None, None]
        top, left = tile.y % 2 * half_px, tile.x % 2 * half_px
        coarser[parent][:, top : top + half_px, left : left + half_px] = halve(pixels)
    return coarser


def encode_codes(codes: Pixels) -> bytes:
    """A tile of codes as a WebP without loss, the probability red, the status green."""
    picture = np.zeros((*codes.shape[1:], 3), np.uint8)
    picture[..., :2] = np.moveaxis(codes, 0, -1)
    return _webp(picture, lossless=True, quality=0, method=0)


def decode_codes(tile: bytes) -> Pixels:
    """What `encode_codes` was given, bit by bit."""
    return np.moveaxis(np.asarray(Image.open(BytesIO(tile)).convert("RGB")), -1, 0)[:2]


def encode_image(image: Pixels) -> bytes:
    """A tile of colours as a WebP with some loss."""
    bands = image if (image[3] < 255).any() else image[:3]
    return _webp(np.moveaxis(bands, 0, -1), quality=IMAGE_QUALITY, method=2)


def decode_image(tile: bytes) -> Pixels:
    """Red, green, blue and alpha of a tile."""
    return np.moveaxis(np.asarray(Image.open(BytesIO(tile)).convert("RGBA")), -1, 0)


def _webp(picture: Pixels, **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "WEBP", **options)
    return file.getvalue()


def _quarters(pixels: Pixels) -> Pixels:
    """uint8 (4, band, y / 2, x / 2): the four pixels that become one."""
    return np.stack([pixels[:, row::2, col::2] for row in (0, 1) for col in (0, 1)])


def _warp(source: Pixels, block: Pixels, geobox: GeoBox, window: Window, tile: Tile, **options: Any) -> None:
    height, width = block.shape[1:]
    reproject(
        source,
        block,
        src_transform=geobox.affine @ geobox.affine.translation(window.col_off, window.row_off),
        src_crs=crs_of(geobox).to_wkt(),
        dst_transform=from_bounds(*tile.bounds, width, height),
        dst_crs=WEB_MERCATOR,
        tolerance=WARP_TOLERANCE_PX,
        # Bilinear means four neighbours: GDAL would widen its reach where it finds the scale to differ.
        XSCALE=1,
        YSCALE=1,
        **options,
    )
