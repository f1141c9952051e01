"""Patches: what the readers make of files, which percentiles they share, and what they refuse."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from coseis.errors import UsageError
from coseis.training.patches import (
    Patch,
    as_intensity,
    read_hrgldd,
    read_landslide4sense,
    read_tiles,
    scene_percentiles,
)
from coseis.types import LABEL_IGNORE
from making import a_patch


def test_black_is_missing_in_8_bit_alone() -> None:
    image = np.array([[[0, 0, 0], [0, 0, 51]]], dtype=np.uint8)
    np.testing.assert_allclose(as_intensity(image), [[[np.nan] * 3, [0, 0, 0.2]]])
    np.testing.assert_array_equal(as_intensity(image.astype(np.float32) / 255)[0, 0], 0)


def test_a_patch_of_8_bit_is_one_of_intensities() -> None:
    image = np.random.default_rng(0).integers(0, 3, (30, 20, 3), dtype=np.uint8)
    mask, percentiles = np.zeros((30, 20), np.uint8), np.zeros((3, 3), np.float32)
    stored, plain = (Patch(each, mask, "event", percentiles) for each in (image, as_intensity(image)))
    np.testing.assert_array_equal(stored.square(-5, 3, 25).intensity, plain.square(-5, 3, 25).intensity)
    np.testing.assert_array_equal(stored.intensity, plain.intensity)
    assert np.isnan(stored.intensity).any()


def test_percentiles_leave_missing_pixels_out() -> None:
    intensity = np.linspace(0, 1, 101, dtype=np.float32)[None, :, None].repeat(2, -1)
    with_gap = np.concatenate([intensity, np.full((1, 101, 2), np.nan, np.float32)])
    np.testing.assert_allclose(scene_percentiles(with_gap), [[0.02] * 2, [0.5] * 2, [0.98] * 2], atol=1e-6)


def test_parts_of_a_patch_must_fit() -> None:
    patch = a_patch(4, 4)
    with pytest.raises(ValueError, match=r"patch of a: image .* do not belong together"):
        Patch(patch.image, np.zeros((4, 5), np.uint8), "a", patch.percentiles)
    with pytest.raises(ValueError, match=r"percentiles \(3, 2\) do not belong"):
        Patch(patch.image, patch.mask, "a", patch.percentiles[:, :2])


def write_raster(path: Path, image: np.ndarray) -> None:
    bands = image[None] if image.ndim == 2 else image
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(bands),
        height=bands.shape[1],
        width=bands.shape[2],
        dtype=bands.dtype,
        crs="EPSG:32654",
        transform=rasterio.Affine(3, 0, 567009, 0, -3, 4751046),
    ) as target:
        target.write(bands)


def test_reads_tiles_with_their_groups_and_frame(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    folder, scene = tmp_path / "labelled", tmp_path / "scene.tif"
    folder.mkdir()
    for name in ("1", "2", "9"):
        write_raster(folder / f"{name}.tif", random.integers(1, 255, (3, 20, 20), dtype=np.uint8))
        write_raster(folder / f"{name}_mask.tif", np.full((20, 20), 255, np.uint8))
    write_raster(scene, random.integers(1, 255, (3, 50, 50), dtype=np.uint8))
    patches = read_tiles(folder, scene=scene, groups=[("1", "2")], frame_px=3)
    assert [(patch.group, patch.name) for patch in patches] == [
        ("tiles-1-2", "1"), ("tiles-1-2", "2"), ("tiles-9", "9"),
    ]  # fmt: skip
    assert all((patch.mask == 1).sum() == 14 * 14 for patch in patches)
    assert all((patch.mask == LABEL_IGNORE).sum() == 400 - 14 * 14 for patch in patches)
    with rasterio.open(scene) as source:
        expected = scene_percentiles(as_intensity(source.read().transpose(1, 2, 0)))
    np.testing.assert_array_equal(patches[0].percentiles, expected)


def test_refuses_tiles_that_lack_something(tmp_path: Path) -> None:
    scene = tmp_path / "scene.tif"
    write_raster(scene, np.ones((3, 8, 8), np.uint8))
    with pytest.raises(UsageError, match="holds no tile; expected"):
        read_tiles(tmp_path / "empty", scene=scene)
    with pytest.raises(UsageError, match=r"scene\.tif has no labels; expected .*scene_mask\.tif"):
        read_tiles(tmp_path, scene=scene)
    with pytest.raises(UsageError, match=r"none\.tif is not a readable raster"):
        read_tiles(tmp_path, scene=tmp_path / "none.tif")
    write_raster(scene, np.ones((3, 8, 8), np.uint16))
    with pytest.raises(UsageError, match="is uint16; expected 8-bit"):
        read_tiles(tmp_path, scene=scene)


def test_reads_hrgldd_without_damaged_blocks(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "image": random.integers(0, 255, (4, 8, 8, 3), dtype=np.uint8),
        "mask": random.integers(0, 2, (4, 8, 8), dtype=np.uint8),
        "event_block": np.array([0, 1, 4, 4]),
    }
    np.savez(tmp_path / "patches.npz", **arrays)
    patches = read_hrgldd(tmp_path / "patches.npz")
    assert [(patch.group, patch.name) for patch in patches] == [
        ("hrgldd-0", "0"), ("hrgldd-4", "2"), ("hrgldd-4", "3"),
    ]  # fmt: skip
    np.testing.assert_array_equal(
        patches[1].percentiles, scene_percentiles(as_intensity(arrays["image"][2:]))
    )
    np.testing.assert_array_equal(patches[1].percentiles, patches[2].percentiles)
    np.testing.assert_array_equal(patches[2].mask, arrays["mask"][3])
    np.savez(tmp_path / "other.npz", image=arrays["image"])
    with pytest.raises(UsageError, match="expected an NPZ with image, mask and event_block"):
        read_hrgldd(tmp_path / "other.npz")


def test_reads_landslide4sense_as_one_group(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "train.npz", image=image, mask=np.full((2, 8, 8), 1, np.int64))
    patches = read_landslide4sense(tmp_path / "train.npz")
    assert [(patch.group, patch.name) for patch in patches] == [
        ("landslide4sense", "0"), ("landslide4sense", "1"),
    ]  # fmt: skip
    assert patches[0].mask.dtype == np.uint8
    with pytest.raises(UsageError, match="expected an NPZ with image and mask"):
        read_landslide4sense(tmp_path / "none.npz")


def test_reads_the_real_sets(real_data: Path) -> None:
    planetscope = real_data / "iburi" / "planetscope"
    tiles = read_tiles(planetscope / "labelled", scene=planetscope / "scene_post.tif", frame_px=0)
    assert len(tiles) == 11
    assert sum(int((patch.mask == 1).sum()) for patch in tiles) == 246_894
    patches = read_hrgldd(real_data / "hrgldd" / "planetscope_rgb_128.npz")
    assert len(patches) == 156
    assert {patch.group for patch in patches} == {"hrgldd-0", "hrgldd-3", "hrgldd-4", "hrgldd-6"}
