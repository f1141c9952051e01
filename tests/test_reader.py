"""The reader against rasterio and NumPy: plain reads, block warps, masks, and errors that name the file."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from coseis.blocks import kept_blocks, read_bytes
from coseis.errors import InputRefusedError
from coseis.reader import BLOCK_PX, bytes_per_px, inspect_scene, read_scene
from making import BANDS, ORIGIN, UTM, grid, texture, write_scene

GRID = grid(700, 900)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A scene on the grid, 40 px inside it on the left and top, reaching beyond on the right."""
    pixels = texture((3, 600, 1000))
    pixels[:, :50, :70] = 0
    path = tmp_path_factory.mktemp("aligned") / "a.tif"
    affine = GRID.affine @ Affine.translation(40, 40)
    return write_scene(path, pixels, affine), pixels


@pytest.fixture(scope="module")
def degrees(tmp_path_factory):
    """A scene in degrees, so that every pixel must be warped."""
    pixels = texture((3, 400, 500), seed=1)
    pixels[:, 100:140, 200:260] = 0
    west, south, east, north = rasterio.warp.transform_bounds(UTM, "EPSG:4326", *GRID.boundingbox)
    affine = Affine((east - west) / 500, 0, west, 0, -(north - south) / 400, north)
    path = tmp_path_factory.mktemp("degrees") / "d.tif"
    return write_scene(path, pixels, affine, crs="EPSG:4326")


def whole(scene, bands=BANDS):
    return read_scene(scene, bands, GRID, Window(0, 0, 900, 700))


def test_on_grid_scene_is_the_file(aligned):
    scene, pixels = aligned
    expected = np.full((3, 700, 900), np.nan, np.float32)
    stored = pixels.astype(np.float32)
    stored[:, (pixels == 0).all(axis=0)] = np.nan
    expected[:, 40:640, 40:] = stored[:, :, :860]
    np.testing.assert_array_equal(whole(scene), expected)


def test_bands_come_in_the_order_asked(aligned):
    scene, _ = aligned
    np.testing.assert_array_equal(whole(scene, BANDS[::-1]), whole(scene)[::-1])


def test_a_scene_is_read_to_where_it_is_wanted(degrees):
    image = np.full((2, 3, 700, 900), np.nan, np.float32)
    assert np.shares_memory(read_scene(degrees, BANDS, GRID, Window(0, 0, 900, 700), out=image[1]), image)
    np.testing.assert_array_equal(image[1], whole(degrees))
    assert np.isnan(image[0]).all()


def test_boto_is_asked_once_for_the_same_credentials(degrees, monkeypatch):
    """rasterio alone makes sessions of boto3 for each warp."""
    made = []
    make = boto3.Session
    monkeypatch.setattr("boto3.Session", lambda **keywords: made.append(keywords) or make(**keywords))
    for key in ("one", "another"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        kept_blocks.clear()
        assert np.isfinite(whole(degrees)).any()
    assert len(made) == 2


@pytest.fixture(scope="module")
def surroundings(aligned, degrees):
    around = Window(-600, -600, 2200, 2000)
    return [(scene, read_scene(scene, BANDS, GRID, around)) for scene in (aligned[0], degrees)]


windows = st.tuples(st.integers(-600, 800), st.integers(-600, 600), st.integers(1, 700), st.integers(1, 700))


@given(windows)
@settings(max_examples=25)
def test_any_window_is_cut_from_the_whole(surroundings, window):
    """What a chunk reads must not depend on where the chunk lies: here for plain and for warped scenes."""
    x0, y0, width, height = window
    for scene, values in surroundings:
        expected = values[:, y0 + 600 : y0 + 600 + height, x0 + 600 : x0 + 600 + width]
        np.testing.assert_array_equal(read_scene(scene, BANDS, GRID, Window(x0, y0, width, height)), expected)


def test_threads_share_what_they_read(surroundings):
    """Neighbouring windows read by several threads at once: the same pixels, no block decoded twice."""
    corners = [(x0, y0) for y0 in range(0, 700, 100) for x0 in range(0, 900, 150)]
    for scene, values in surroundings:

        def read(corner, scene=scene, values=values):
            before = read_bytes()
            x0, y0 = corner
            part = read_scene(scene, BANDS, GRID, Window(x0 - 96, y0 - 96, 342, 292))
            np.testing.assert_array_equal(part, values[:, y0 + 504 : y0 + 796, x0 + 504 : x0 + 846])
            return read_bytes() - before

        kept_blocks.clear()
        with ThreadPoolExecutor(4) as pool:
            decoded = sum(taken.decoded for taken in pool.map(read, corners))
        with rasterio.open(scene.sources[0].href) as file:
            assert 0.5 * 3 * file.width * file.height < decoded <= 3 * file.width * file.height


def test_bytes_of_a_pixel(aligned, tmp_path):
    assert bytes_per_px(aligned[0], BANDS[:2]) == 2
    scene = write_scene(tmp_path / "sr.tif", texture((3, 64, 64)).astype(np.uint16), GRID.affine)
    assert bytes_per_px(scene, BANDS) == 6


def test_missing_pixels_near_a_block_are_left_out_of_its_mean(tmp_path):
    """Oracle: GDAL's own bilinear warp with nodata, which is three times slower."""
    pixels = texture((3, 700, 900)).astype(np.float32)
    pixels[:, np.random.default_rng(2).random((700, 900)) < 0.02] = 0
    scene = write_scene(tmp_path / "holes.tif", pixels, GRID.affine, crs=UTM)
    sources = tuple(source.model_copy(update={"scale": 1.0}) for source in scene.sources)
    shifted = GRID.translate_pix(0.4, -0.3)
    window = Window(0, 0, BLOCK_PX, BLOCK_PX)
    ours = read_scene(scene.model_copy(update={"sources": sources}), BANDS, shifted, window)
    oracle = np.full((3, BLOCK_PX, BLOCK_PX), np.nan, np.float32)
    place = {"src_transform": GRID.affine, "src_crs": UTM, "dst_transform": shifted.affine, "dst_crs": UTM}
    rasterio.warp.reproject(
        pixels,
        oracle,
        resampling=rasterio.enums.Resampling.bilinear,
        src_nodata=0,
        dst_nodata=np.nan,
        **place,
    )
    valid = np.isfinite(ours)
    assert 0.95 < valid.mean() < 0.99
    np.testing.assert_allclose(ours[valid], oracle[valid], rtol=1e-5)


def test_warped_block_is_close_to_gdals_own(degrees):
    """Oracle: GDAL's WarpedVRT over exactly one block; ours differs only by its transformer's tolerance."""
    with (
        rasterio.open(degrees.sources[0].href) as file,
        WarpedVRT(
            file,
            crs=UTM,
            transform=GRID.affine,
            width=BLOCK_PX,
            height=BLOCK_PX,
            resampling=rasterio.enums.Resampling.bilinear,
        ) as vrt,
    ):
        oracle = vrt.read().astype(float)
    ours = read_scene(degrees, BANDS, GRID, Window(0, 0, BLOCK_PX, BLOCK_PX))
    both = np.isfinite(ours) & (oracle > 0)
    assert both.mean() > 0.9
    # GDAL rounds to uint8; texture steps of 100 a pixel times 0.01 px tolerance is one more.
    assert np.abs(ours - oracle)[both].max() <= 2.0


def test_missing_source_pixels_stay_missing(degrees):
    values = whole(degrees)
    hole = np.isnan(values[0]).mean()
    assert pytest.approx(hole, rel=0.15) == 40 * 60 / (400 * 500)
    assert np.isnan(values).all(axis=0).sum() == np.isnan(values).any(axis=0).sum()


def test_one_dark_band_is_not_nodata(tmp_path):
    pixels = texture((3, 64, 64))
    pixels[2, 10, 10] = 0
    values = whole(write_scene(tmp_path / "dark.tif", pixels, GRID.affine))
    assert values[2, 10, 10] == 0


def test_internal_mask_is_respected(tmp_path):
    pixels = texture((3, 64, 64))
    scene = write_scene(tmp_path / "masked.tif", pixels, GRID.affine, nodata=None)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "masked.tif", "r+") as file:
        mask = np.full((64, 64), 255, np.uint8)
        mask[20:30] = 0
        file.write_mask(mask)
    values = whole(scene)
    assert np.isnan(values[:, 20:30, :64]).all()
    assert np.isfinite(values[:, :20, :64]).all()


def test_reflectance_is_scaled(tmp_path):
    pixels = texture((3, 64, 64)).astype(np.uint16) * 20
    values = whole(write_scene(tmp_path / "sr.tif", pixels, GRID.affine))
    np.testing.assert_allclose(values[:, :64, :64], pixels * 1e-4, rtol=1e-6)


def test_statistics_are_of_valid_pixels(aligned):
    scene, pixels = aligned
    measured = inspect_scene(scene, BANDS)
    valid = pixels[0][(pixels > 0).any(axis=0)]
    assert measured.statistics["red"].p50 == pytest.approx(np.median(valid), abs=2)
    assert measured.resolution_m == 3.0


def test_statistics_leave_out_what_the_mask_calls_unclear(tmp_path):
    pixels = texture((3, 256, 256))
    pixels[:, :60] = 255
    scene = write_scene(tmp_path / "cloudy.tif", pixels, GRID.affine)
    clear = np.ones((1, 256, 256), np.uint8)
    clear[:, :60] = 0
    write_scene(tmp_path / "udm2.tif", clear, GRID.affine, nodata=None)
    mask = scene.sources[0].model_copy(update={"href": str(tmp_path / "udm2.tif"), "asset": "udm2"})
    masked = inspect_scene(scene.model_copy(update={"udm2": mask}), BANDS)
    assert inspect_scene(scene, BANDS).statistics["red"].p98 == 255
    assert masked.statistics["red"].p98 == pytest.approx(np.percentile(pixels[0, 60:], 98), abs=1)


def test_missing_file_names_item_asset_and_address(aligned, tmp_path):
    scene, _ = aligned
    gone = str(tmp_path / "gone.tif")
    sources = tuple(source.model_copy(update={"href": gone}) for source in scene.sources)
    with pytest.raises(InputRefusedError, match=r"item post-a, asset visual, .*gone\.tif cannot be read"):
        whole(scene.model_copy(update={"sources": sources}))


def test_truncated_file_is_an_error_not_a_hole(aligned, tmp_path):
    scene, _ = aligned
    path = tmp_path / "cut.tif"
    content = Path(scene.sources[0].href).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    sources = tuple(source.model_copy(update={"href": str(path)}) for source in scene.sources)
    with pytest.raises(InputRefusedError, match=r"cut\.tif cannot be read"):
        whole(scene.model_copy(update={"sources": sources}))


def test_a_vrt_in_disguise_is_refused(aligned, tmp_path):
    scene, _ = aligned
    path = tmp_path / "sly.tif"
    path.write_text(f"""<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1">
        <SimpleSource><SourceFilename>{scene.sources[0].href}</SourceFilename><SourceBand>1</SourceBand>
        </SimpleSource></VRTRasterBand></VRTDataset>""")
    sources = tuple(source.model_copy(update={"href": str(path)}) for source in scene.sources)
    with pytest.raises(InputRefusedError, match="cannot be read"):
        whole(scene.model_copy(update={"sources": sources}))


def test_band_beyond_the_file_is_refused(aligned):
    scene, _ = aligned
    sources = tuple(source.model_copy(update={"index": 7}) for source in scene.sources)
    with pytest.raises(InputRefusedError, match="has 3 bands, but its item puts red in band 7"):
        inspect_scene(scene.model_copy(update={"sources": sources}), BANDS)


def test_coarse_grid_reads_overviews_and_keeps_the_mean(aligned):
    scene, pixels = aligned
    coarse = grid(70, 90, resolution_m=30.0)
    values = read_scene(scene, BANDS, coarse, Window(10, 10, 50, 40))
    box = pixels[0, 60:460, 60:560].astype(float)
    assert np.nanmean(values[0]) == pytest.approx(box.mean(), abs=2)
    assert (coarse.affine.c, coarse.affine.f) == ORIGIN


@pytest.mark.parametrize(("down", "right"), [(2, -3), (-5, 4)])
def test_a_scene_moved_by_whole_pixels_shows_its_pixels_there(surroundings, down, right):
    """Plain and warped, also what lay beyond the window; 3 m a pixel."""
    inner = (slice(None), slice(600, 1300), slice(600, 1500))
    for number, (scene, around) in enumerate(surroundings):
        moved = whole(scene.model_copy(update={"shift_m": (3.0 * down, 3.0 * right)}))
        expected = np.roll(around, (down, right), axis=(1, 2))[inner]
        if number == 0:
            np.testing.assert_array_equal(moved, expected)
            continue
        # GDAL's approximation of a warp is another in a block that starts elsewhere.
        assert (np.isnan(moved) != np.isnan(expected)).mean() < 1e-5
        assert np.nanmax(np.abs(moved - expected)) < 2


@pytest.fixture(scope="module")
def moved_surroundings(surroundings):
    around = Window(-600, -600, 2200, 2000)
    moved = [scene.model_copy(update={"shift_m": (7.3, -4.1)}) for scene, _ in surroundings]
    return [(scene, read_scene(scene, BANDS, GRID, around)) for scene in moved]


@given(windows)
@settings(max_examples=10)
def test_any_window_of_a_moved_scene_is_cut_from_the_whole(moved_surroundings, window):
    x0, y0, width, height = window
    for scene, values in moved_surroundings:
        expected = values[:, y0 + 600 : y0 + 600 + height, x0 + 600 : x0 + 600 + width]
        np.testing.assert_array_equal(read_scene(scene, BANDS, GRID, Window(x0, y0, width, height)), expected)


def test_a_file_made_anew_under_its_address_is_another(tmp_path):
    """Equal percentiles and an equal mask: the place of the pixels, or of one of them, tells."""
    pixels = texture((3, 300, 400), seed=4)
    affine = grid(300, 400).affine

    def content(values, at):
        scene = write_scene(tmp_path / "scene.tif", values, at)
        return inspect_scene(scene, BANDS)

    first, again = content(pixels, affine), content(pixels, affine)
    assert first.content == again.content
    moved = content(pixels, affine @ Affine.translation(1, 0))
    turned = content(pixels[:, ::-1], affine)
    assert moved.statistics == turned.statistics == first.statistics
    assert len({first.content, moved.content, turned.content}) == 3
