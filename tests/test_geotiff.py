"""Windows of a GeoTIFF against rasterio, however it is stored; every block decoded once; remote as local."""

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from snailmail import Fixed, HTTPRangeServer

from coseis.blocks import kept_blocks, read_bytes
from coseis.geotiff import fill_physical, read_header
from coseis.reader import read_scene
from making import BANDS, UTM, grid, texture, write_scene

GRID_AFFINE = grid(1, 1).affine

SHAPE = (300, 410)
LAYOUTS = {
    "tiles": {"tiled": True, "blockxsize": 128, "blockysize": 64},
    "large tiles": {"tiled": True, "blockxsize": 272, "blockysize": 256},
    "strips": {"blockysize": 7},
    "one strip": {"blockysize": 300},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The same pixels stored in many ways, with a hole by nodata and one by a mask."""
    folder, made = tmp_path_factory.mktemp("layouts"), {}
    pixels = texture((3, *SHAPE))
    pixels[:, 90:110, 200:290] = 0
    for name, layout in LAYOUTS.items():
        for interleave in ("pixel", "band"):
            path = folder / f"{name}-{interleave}.tif"
            scene = write_scene(path, pixels, GRID_AFFINE)
            profile = {
                "driver": "GTiff", "count": 3, "dtype": "uint8", "height": SHAPE[0], "width": SHAPE[1],
                "crs": UTM, "transform": GRID_AFFINE, "compress": "deflate", "interleave": interleave,
            }  # fmt: skip
            with (
                rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
                rasterio.open(path, "w", **profile, **layout) as file,
            ):
                file.write(pixels)
                mask = np.full(SHAPE, 255, np.uint8)
                mask[10:30, 5:80] = 0
                file.write_mask(mask)
            made[name, interleave] = scene
    expected = pixels.astype(np.float32)
    expected[:, (pixels == 0).all(axis=0)] = np.nan
    expected[:, 10:30, 5:80] = np.nan
    return made, expected


def fill(scene, window, **options):
    tiff = read_header(scene, scene.sources[0])
    out = np.empty((3, window.height, window.width), np.float32)
    fill_physical(tiff, scene.sources, window, out, **({"shared_px": 30} | options))
    return out


@given(
    st.tuples(st.integers(0, 290), st.integers(0, 400), st.integers(1, 300), st.integers(1, 410)),
    st.sampled_from([0, 30, 512]),
)
@settings(max_examples=30)
def test_any_window_of_any_layout_is_the_file(scenes, place, shared_px):
    made, expected = scenes
    y0, x0, height, width = place
    height, width = min(height, SHAPE[0] - y0), min(width, SHAPE[1] - x0)
    for scene in made.values():
        values = fill(scene, Window(x0, y0, width, height), shared_px=shared_px)
        np.testing.assert_array_equal(values, expected[:, y0 : y0 + height, x0 : x0 + width])


def test_nan_in_one_band_is_missing_in_all(tmp_path):
    pixels = np.random.default_rng(0).random((3, 40, 50), np.float32)
    pixels[1, 5, 6] = np.nan
    values = fill(write_scene(tmp_path / "f.tif", pixels, GRID_AFFINE, nodata=None), Window(0, 0, 50, 40))
    assert np.isnan(values[:, 5, 6]).all()
    assert np.isnan(values).sum() == 3


@pytest.fixture
def scene(tmp_path):
    """1024 x 1280 px in 4 x 5 blocks."""
    return write_scene(tmp_path / "scene.tif", texture((3, 1024, 1280)), GRID_AFFINE)


def read_in_chunks(scene, *, halo_px):
    """What windows of 512 px with halos take from the scene's files."""
    geobox, before = grid(1024, 1280), read_bytes()
    for y0 in (0, 512):
        for x0 in (0, 512, 1024):
            window = Window(x0 - halo_px, y0 - halo_px, 512 + 2 * halo_px, 512 + 2 * halo_px)
            read_scene(scene, BANDS, geobox, window, shared_px=2 * halo_px)
    return read_bytes() - before


@pytest.mark.parametrize("halo_px", [0, 96])
def test_every_block_is_decoded_once_for_all_windows(scene, halo_px):
    kept_blocks.clear()
    taken = read_in_chunks(scene, halo_px=halo_px)
    assert taken.decoded == 3 * 1024 * 1280
    size = os.path.getsize(scene.sources[0].href)
    assert 0.95 * size < taken.fetched < size


def test_a_file_made_anew_is_read_anew(scene):
    window = Window(0, 0, 300, 200)
    first = fill(scene, window)
    write_scene(Path(scene.sources[0].href), texture((3, 1024, 1280), seed=5), GRID_AFFINE)
    assert (fill(scene, window) != first).mean() > 0.5


@pytest.mark.parametrize("shift_m", [0.0, 1.2])
def test_remote_equals_local_with_few_requests(scene, shift_m):
    """Plain and warped: blocks in a row are one request, rows and blocks are asked for at once."""
    path = Path(scene.sources[0].href)
    geobox = grid(1024, 1280).translate_pix(shift_m / 3, shift_m / 3)
    window = Window(0, 0, 1024, 1024)
    expected = read_scene(scene, BANDS, geobox, window)
    with HTTPRangeServer(path.parent, latency=Fixed(150)) as server:
        sources = tuple(source.model_copy(update={"href": server.url(path.name)}) for source in scene.sources)
        remote = scene.model_copy(update={"sources": sources})
        before = read_bytes()
        np.testing.assert_array_equal(read_scene(remote, BANDS, geobox, window), expected)
        taken, stats = read_bytes() - before, server.stats()
        read_scene(remote, BANDS, geobox, Window(-90, -90, 200, 200))
        assert server.stats()["n_requests"] == stats["n_requests"]
    assert stats["max_in_flight"] >= 4
    if not shift_m:
        # The start of the file, then a request a row.
        assert stats["n_requests"] == 1 + 4
        assert taken.decoded == 3 * 1024 * 1024
