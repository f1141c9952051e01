"""Tiles against the definition: each pixel of a tile is the pixel of the grid under its centre."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.windows import Window

from coseis.tiles import (
    EMPTY_CODES,
    EMPTY_IMAGE,
    TILE_PX,
    Tile,
    coarser_tiles,
    cut_block,
    decode_codes,
    decode_image,
    encode_codes,
    encode_image,
    halve_codes,
    halve_image,
    native_zoom,
    tiles_over,
    warp_codes,
    warp_image,
    window_under,
    zoom_steps,
)
from coseis.types import CODE_FILL
from making import area_of, grid

GRID = grid(170, 230)
ZONE_EDGE = GeoBox((150, 190), Affine(3, 0, 740_000, 0, -3, 4_737_000), "EPSG:32654")
"""Three degrees from its central meridian: as far as a UTM grid is turned within its zone."""
SOUTH = GeoBox((90, 130), Affine(3, 0, 300_000, 0, -3, 9_990_000), "EPSG:32748")


def all_tiles(codes, geobox, zoom=None):
    """Every tile of the native zoom, from blocks."""
    zoom = zoom or native_zoom(geobox)
    base, levels = zoom_steps(zoom)[0]
    area = {
        "type": "Polygon",
        "coordinates": [list(geobox.geographic_extent.geom.exterior.coords)],
    }
    tiles = {}
    for block in tiles_over(area, base):
        window = window_under(block, geobox)
        if window is None:
            continue
        rows, cols = window.toslices()
        warped = warp_codes(codes[:, rows, cols], geobox, window, block, levels)
        tiles |= cut_block(warped, block, levels, EMPTY_CODES)
    return tiles


def shown_pixels(geobox, zoom):
    """Which pixels of the grid are in a tile of a zoom, bool (y, x): their row and column are their codes."""
    rows, cols = np.indices(geobox.shape).astype(np.uint8)
    shown = np.zeros((256, 256), bool)
    for tile, (row, col) in all_tiles(np.stack([rows, cols]), geobox, zoom).items():
        if tile.zoom == zoom:
            shown[row, col] = True
    return shown[: geobox.shape.y, : geobox.shape.x]


def under_centres(tile, geobox):
    """Column and row of the grid under each pixel's centre, fractions of pixels, by pyproj alone."""
    left, bottom, right, top = tile.bounds
    steps = (np.arange(TILE_PX) + 0.5) / TILE_PX
    x, y = np.meshgrid(left + steps * (right - left), top - steps * (top - bottom))
    east, north = Transformer.from_crs("EPSG:3857", str(geobox.crs), always_xy=True).transform(x, y)
    return ~geobox.affine @ (east, north)


@pytest.mark.parametrize("geobox", [GRID, ZONE_EDGE, SOUTH], ids=["middle", "zone edge", "south"])
def test_a_tile_is_the_grid_under_its_centres(geobox):
    rng = np.random.default_rng(3)
    codes = np.stack([rng.integers(0, 201, geobox.shape), rng.integers(1, 8, geobox.shape)]).astype(np.uint8)
    zoom = native_zoom(geobox)
    compared = 0
    for tile, pixels in all_tiles(codes, geobox).items():
        if tile.zoom != zoom or window_under(tile, geobox) is None:
            continue
        column, row = under_centres(tile, geobox)
        expected = np.empty((2, TILE_PX, TILE_PX), np.uint8)
        expected[:] = np.array(EMPTY_CODES)[:, None, None]
        inside = (column >= 0) & (column < geobox.shape.x) & (row >= 0) & (row < geobox.shape.y)
        expected[:, inside] = codes[:, row[inside].astype(int), column[inside].astype(int)]
        # Where a centre lies within the warp's tolerance of a border, either side is right.
        clear = np.all([np.abs(at - np.rint(at)) > 0.02 for at in (column, row)], axis=0)
        np.testing.assert_array_equal(pixels[:, clear], expected[:, clear])
        compared += np.count_nonzero(clear & inside)
    assert compared > 0.9 * geobox.shape.x * geobox.shape.y


@pytest.mark.parametrize("geobox", [GRID, ZONE_EDGE, SOUTH], ids=["middle", "zone edge", "south"])
def test_every_pixel_of_the_grid_is_in_some_tile(geobox):
    assert shown_pixels(geobox, native_zoom(geobox)).all()


def test_the_zoom_above_the_native_one_would_lose_pixels():
    assert not shown_pixels(GRID, native_zoom(GRID) - 1).all()


def test_a_tile_does_not_depend_on_the_block_that_it_is_cut_from():
    codes = np.random.default_rng(5).integers(0, 201, (2, *GRID.shape), np.uint8)
    zoom = native_zoom(GRID)
    for tile, pixels in all_tiles(codes, GRID).items():
        if tile.zoom == zoom and (window := window_under(tile, GRID)):
            rows, cols = window.toslices()
            alone = warp_codes(codes[:, rows, cols], GRID, window, tile, 0)
            assert (alone != pixels).mean() < 1e-3  # GDAL's tolerance of 0.01 px at the borders of pixels


def test_a_ramp_stays_a_ramp_and_missing_pixels_give_no_colour():
    ramp = np.broadcast_to(np.arange(GRID.shape.x, dtype=np.uint8), GRID.shape)
    image = np.stack([ramp, ramp, ramp, np.full(GRID.shape, 255, np.uint8)]).copy()
    image[:3, 60:90, 80:120] = 250
    image[3, 60:90, 80:120] = 0
    zoom = native_zoom(GRID)
    for tile in tiles_over(area_of(GRID), zoom):
        if not (window := window_under(tile, GRID)):
            continue
        rows, cols = window.toslices()
        warped = warp_image(image[:, rows, cols], GRID, window, tile, 0)
        column, row = under_centres(tile, GRID)
        inside = (column > 1) & (column < GRID.shape.x - 1) & (row > 1) & (row < GRID.shape.y - 1)
        hole = (np.abs(column - 100) < 22) & (np.abs(row - 75) < 17)
        whole = inside & ~hole
        assert np.abs(warped[0][whole] - (column[whole] - 0.5)).max(initial=0) <= 1
        assert (warped[3][whole] == 255).all()
        partly = inside & hole & (warped[3] > 0)
        assert (warped[0][partly] < 125).all()  # not drawn towards the 250 beneath the hole
        gone = (np.abs(column - 100) < 18) & (np.abs(row - 75) < 13)
        assert (warped[3][gone] == 0).all()


codes_of_four = st.lists(
    st.tuples(st.sampled_from([0, 1, 112, 200, CODE_FILL]), st.sampled_from([0, 1, 2, 8, 9, 129])),
    min_size=4,
    max_size=4,
)


@given(codes_of_four)
def test_half_the_size_keeps_the_highest_probability_and_the_most_frequent_status(four):
    block = np.array(four, np.uint8).T.reshape(2, 2, 2)
    [[[probability]], [[status]]] = halve_codes(block).tolist()
    seen = [code for code, _ in four if code != CODE_FILL]
    assert probability == (max(seen) if seen else CODE_FILL)
    counts = {value: [s for _, s in four].count(value) for _, value in four}
    most = max(counts.values())
    assert status == max(value for value, count in counts.items() if count == most)


def test_half_of_an_image_is_the_mean_of_what_is_there():
    four = np.array([[[10, 20], [90, 0]], [[0, 0], [0, 0]], [[4, 4], [4, 0]], [[255, 255], [0, 0]]], np.uint8)
    assert halve_image(four)[:, 0, 0].tolist() == [15, 0, 4, 128]
    assert not halve_image(np.zeros((4, 2, 2), np.uint8)).any()


def test_codes_survive_their_encoding():
    codes = np.stack([np.arange(256), np.arange(256)[::-1]]).astype(np.uint8)
    tile = np.resize(codes[:, None], (2, TILE_PX, 256)).repeat(2, axis=2)
    np.testing.assert_array_equal(decode_codes(encode_codes(tile)), tile)
    noise = np.random.default_rng(0).integers(0, 256, (2, TILE_PX, TILE_PX), np.uint8)
    np.testing.assert_array_equal(decode_codes(encode_codes(noise)), noise)


def test_empty_tiles_are_not_cut_and_nearly_empty_ones_are():
    for empty in (EMPTY_CODES, EMPTY_IMAGE):
        block = np.empty((len(empty), 4 * TILE_PX, 4 * TILE_PX), np.uint8)
        block[:] = np.array(empty)[:, None, None]
        assert cut_block(block, Tile(5, 9, 11), 2, empty) == {}
        for band in range(len(empty)):
            nearly = block.copy()
            nearly[band, 3 * TILE_PX - 1, TILE_PX] ^= 1
            assert list(cut_block(nearly, Tile(5, 9, 11), 2, empty)) == [Tile(7, 37, 46)]


def test_transparency_survives_the_loss_of_an_image():
    image = np.full((4, TILE_PX, TILE_PX), 90, np.uint8)
    image[3] = 0
    image[3, 100:150, 30:80] = 255
    np.testing.assert_array_equal(decode_image(encode_image(image))[3], image[3])


@given(st.integers(0, 22))
def test_zoom_steps_make_every_zoom_once(native):
    steps = zoom_steps(native)
    zooms = [zoom + level for zoom, levels in steps[:1] for level in range(levels + 1)]
    for zoom, levels in steps[1:]:
        zooms += [zoom + level for level in range(levels)]
        assert zoom + levels in zooms
    assert sorted(zooms) == list(range(min(6, native), native + 1))


def test_tiles_of_a_block_join_to_what_they_were_cut_from():
    block = np.random.default_rng(1).integers(0, 256, (2, 4 * TILE_PX, 4 * TILE_PX), np.uint8)
    block[:, :TILE_PX, TILE_PX : 2 * TILE_PX] = np.array(EMPTY_CODES)[:, None, None]
    place = Tile(5, 9, 11)
    tiles = cut_block(block, place, 2, EMPTY_CODES)
    assert len(tiles) == 15
    assert {tile.parent(2) for tile in tiles} == {place}
    once = coarser_tiles(tiles, halve_codes, EMPTY_CODES)
    [(lowest, pixels)] = coarser_tiles(once, halve_codes, EMPTY_CODES).items()
    assert lowest == place
    np.testing.assert_array_equal(pixels, halve_codes(halve_codes(block)))


def test_tiles_over_an_area_are_those_that_touch_it():
    area = {"type": "Polygon", "coordinates": [[[0.1, -20], [30, -20], [30, 35], [0.1, -20]]]}
    found = set(tiles_over(area, 6))
    shape = shapely.geometry.shape(area)
    to_degrees = Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)
    for x in range(64):
        for y in range(64):
            left, bottom, right, top = Tile(6, x, y).bounds
            box = shapely.box(*to_degrees.transform(left, bottom), *to_degrees.transform(right, top))
            if shape.intersection(box).area > 0.01:
                assert Tile(6, x, y) in found
            elif not shape.buffer(0.2).intersects(box):
                assert Tile(6, x, y) not in found


def test_nothing_of_the_grid_is_under_a_tile_elsewhere():
    assert window_under(Tile(13, 100, 100), GRID) is None
    whole = window_under(Tile(6, *[n >> 7 for n in next(tiles_over(area_of(GRID), 13))[1:]]), GRID)
    assert whole == Window(0, 0, GRID.shape.x, GRID.shape.y)
