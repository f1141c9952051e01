"""Patches: every label is used once, context is mirrored, image and label are augmented together."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from coseis.errors import UsageError
from coseis.patches import (
    Augmentation,
    Patch,
    augment_window,
    core_origins,
    cut_window,
    display_intensity,
    random_origin,
    read_hrgldd,
    read_tiles,
)
from coseis.types import LABEL_IGNORE

STILL = Augmentation(gain=0, band_gain=0, gamma=0, offset=0, statistics=0, noise=0, missing=0)


def a_patch(height: int = 40, width: int = 56, seed: int = 0) -> Patch:
    random = np.random.default_rng(seed)
    intensity = random.random((height, width, 3), dtype=np.float32)
    mask = (intensity[..., 0] > 0.7).astype(np.uint8)
    return Patch(intensity, mask, "a", np.percentile(intensity, (2, 50, 98), axis=(0, 1)).astype(np.float32))


@given(height=st.integers(5, 70), width=st.integers(5, 70), core=st.sampled_from([16, 32]))
def test_cores_hold_every_label_once(height: int, width: int, core: int) -> None:
    patch = a_patch(height, width)
    counts = np.zeros(2, dtype=int)
    for y, x in core_origins(patch, core):
        _, mask = cut_window(patch, y, x, core_px=core, halo_px=16)
        counts += np.bincount(mask[mask != LABEL_IGNORE], minlength=2)
    np.testing.assert_array_equal(counts, np.bincount(patch.mask.ravel(), minlength=2))


@given(y=st.integers(0, 8), x=st.integers(0, 24), halo=st.sampled_from([0, 16, 32, 94]))
def test_window_is_the_reflected_image(y: int, x: int, halo: int) -> None:
    patch = a_patch()
    window, mask = cut_window(patch, y, x, core_px=32, halo_px=halo)
    padded = np.pad(patch.intensity, ((halo, halo), (halo, halo), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(window, padded[y : y + 32 + 2 * halo, x : x + 32 + 2 * halo])
    core = np.s_[halo : halo + 32, halo : halo + 32]
    np.testing.assert_array_equal(mask[core], patch.mask[y : y + 32, x : x + 32])
    assert (np.delete(mask, np.r_[halo : halo + 32], axis=0) == LABEL_IGNORE).all()


@given(seed=st.integers(0, 999))
def test_random_core_lies_inside(seed: int) -> None:
    y, x = random_origin(a_patch(), 32, np.random.default_rng(seed))
    assert 0 <= y <= 8
    assert 0 <= x <= 24


@given(seed=st.integers(0, 999))
def test_augmentation_turns_image_and_label_together(seed: int) -> None:
    patch = a_patch(32, 32)
    window, mask, percentiles = augment_window(
        patch.intensity, patch.mask, patch.percentiles, augmentation=STILL, random=np.random.default_rng(seed)
    )
    np.testing.assert_array_equal(mask, window[..., 0] > 0.7)
    np.testing.assert_array_equal(np.sort(window, axis=None), np.sort(patch.intensity, axis=None))
    np.testing.assert_allclose(
        (percentiles[1], percentiles[2] - percentiles[0]),
        (patch.percentiles[1], patch.percentiles[2] - patch.percentiles[0]),
        rtol=1e-5,
    )


@given(seed=st.integers(0, 999))
def test_augmentation_is_seeded_and_never_touches_its_input(seed: int) -> None:
    patch = a_patch(32, 32)
    before = patch.intensity.copy(), patch.mask.copy(), patch.percentiles.copy()
    first, again = (
        augment_window(
            patch.intensity,
            patch.mask,
            patch.percentiles,
            augmentation=Augmentation(missing=0.5),
            random=np.random.default_rng(seed),
        )
        for _ in range(2)
    )
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    for now, then in zip((patch.intensity, patch.mask, patch.percentiles), before, strict=True):
        np.testing.assert_array_equal(now, then)
    window, mask, _ = first
    assert (mask[np.isnan(window[..., 0])] == LABEL_IGNORE).all()


def test_black_is_missing() -> None:
    intensity = display_intensity(np.array([[[0, 0, 0], [0, 0, 51]]], dtype=np.uint8))
    np.testing.assert_allclose(intensity, [[[np.nan] * 3, [0, 0, 0.2]]])


def test_parts_of_a_patch_must_fit() -> None:
    with pytest.raises(ValueError, match="patch of a: intensity"):
        Patch(np.zeros((4, 4, 3), np.float32), np.zeros((4, 5), np.uint8), "a", np.zeros((3, 3), np.float32))


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
    folder = tmp_path / "labelled"
    folder.mkdir()
    for name in ("1", "2", "9"):
        write_raster(folder / f"{name}.tif", random.integers(1, 255, (3, 20, 20), dtype=np.uint8))
        write_raster(folder / f"{name}_mask.tif", np.ones((20, 20), np.uint8))
    write_raster(tmp_path / "scene.tif", random.integers(1, 255, (3, 50, 50), dtype=np.uint8))
    patches = read_tiles(folder, scene=tmp_path / "scene.tif", groups=[("1", "2")], frame_px=3)
    assert [patch.group for patch in patches] == ["tiles-1-2", "tiles-1-2", "tiles-9"]
    assert all((patch.mask == 1).sum() == 14 * 14 for patch in patches)
    assert all((patch.mask == LABEL_IGNORE).sum() == 400 - 14 * 14 for patch in patches)
    (folder / "2_mask.tif").unlink()
    with pytest.raises(UsageError, match=r"2\.tif has no labels"):
        read_tiles(folder, scene=tmp_path / "scene.tif")
    with pytest.raises(UsageError, match="holds no tile"):
        read_tiles(tmp_path / "empty", scene=tmp_path / "scene.tif")


def test_reads_hrgldd_without_damaged_blocks(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "image": random.integers(0, 255, (4, 8, 8, 3), dtype=np.uint8),
        "mask": random.integers(0, 2, (4, 8, 8), dtype=np.uint8),
        "event_block": np.array([0, 1, 4, 4]),
    }
    np.savez(tmp_path / "patches.npz", **arrays)
    patches = read_hrgldd(tmp_path / "patches.npz")
    assert [patch.group for patch in patches] == ["hrgldd-0", "hrgldd-4", "hrgldd-4"]
    np.testing.assert_array_equal(patches[1].percentiles, patches[2].percentiles)
    np.savez(tmp_path / "other.npz", image=arrays["image"])
    with pytest.raises(UsageError, match="expected an NPZ with image, mask and event_block"):
        read_hrgldd(tmp_path / "other.npz")


def test_reads_the_real_sets(real_data: Path) -> None:
    planetscope = real_data / "iburi" / "planetscope"
    tiles = read_tiles(planetscope / "labelled", scene=planetscope / "scene_post.tif", frame_px=0)
    assert len(tiles) == 11
    assert sum(int((patch.mask == 1).sum()) for patch in tiles) == 246_894
    patches = read_hrgldd(real_data / "hrgldd" / "planetscope_rgb_128.npz")
    assert len(patches) == 156
    assert {patch.group for patch in patches} == {"hrgldd-0", "hrgldd-3", "hrgldd-4", "hrgldd-6"}
