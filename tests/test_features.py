"""Features: one rule for every pixel, whatever the chunk, and the same for every sensor."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from coseis.card import ModelCard, Normalization, Stretch
from coseis.errors import UsageError
from coseis.features import make_features, normalize_intensity, stack_features, stretch_intensity
from coseis.types import SCENE_FILL, InputKind, Percentiles, Scene

BANDS = ("red", "green", "blue")
DISPLAY = Stretch(low=0, high=255)
REFLECTANCE = Stretch(low=0, high=0.33, gamma=0.75)


def a_card(kind: str = "scene", fill: float = 0.0, **inputs: Stretch) -> ModelCard:
    fixed = {"mean": (0.2, 0.3, 0.1), "std": (0.1, 0.2, 0.05)} if kind == "fixed" else {}
    return ModelCard(
        name="test",
        bands=BANDS,
        inputs=inputs or {"display": DISPLAY, "reflectance": REFLECTANCE},
        normalization=Normalization(kind=kind, **fixed),
        fill=fill,
        resolution_m=(2.5, 6),
        padding="same",
        base_filters=4,
        halo_px=96,
        weights_sha256="",
    )


def a_scene(index: int, kind: InputKind = "display", gain: float = 1.0, measured: bool = True) -> Scene:
    percentiles = {"p02": 20 * gain, "p50": 45 * gain, "p98": 120 * gain}
    day = datetime(2018, 9, 11, tzinfo=UTC)
    return Scene(
        index=index,
        item_id=f"item-{index}",
        collection=None,
        phase="post",
        kind=kind,
        sources=(),
        start=day,
        end=day,
        cloud_cover=None,
        resolution_m=3,
        geometry={},
        statistics={band: Percentiles(**percentiles) for band in BANDS} if measured else None,
    )


def mosaic(seed: int, height: int = 40, width: int = 50) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Random bands with missing values under two scenes and a gap."""
    random = np.random.default_rng(seed)
    bands = random.uniform(0, 255, (3, height, width)).astype(np.float32)
    bands[:, random.random((height, width)) < 0.1] = np.nan
    scene = random.choice(np.array([3, 8, SCENE_FILL], dtype=np.uint16), (height, width))
    bands[:, scene == 8] /= 800
    return bands, scene


SCENES = {3: a_scene(3), 8: a_scene(8, "reflectance", 1 / 800)}


@given(
    seed=st.integers(0, 99),
    y=st.integers(1, 39),
    x=st.integers(1, 49),
    kind=st.sampled_from(["scene", "fixed", "colour"]),
)
def test_chunked_equals_whole(seed: int, y: int, x: int, kind: str) -> None:
    bands, scene = mosaic(seed)
    card = a_card(kind, fill=-1)
    whole = make_features(bands, scene, SCENES, card)
    chunked = [
        [make_features(bands[:, rows, columns], scene[rows, columns], SCENES, card) for columns in split(x)]
        for rows in split(y)
    ]
    np.testing.assert_array_equal(np.block([[[part] for part in row] for row in chunked]), whole)


def split(at: int) -> tuple[slice, slice]:
    return slice(None, at), slice(at, None)


def test_equals_the_formula_written_out() -> None:
    bands, scene = mosaic(1)
    features = make_features(bands, scene, SCENES, a_card(fill=7))
    for y, x in np.ndindex(*scene.shape):
        if scene[y, x] == SCENE_FILL or np.isnan(bands[0, y, x]):
            expected = [7.0] * 3
        else:
            stretch, unit = (DISPLAY, 1) if scene[y, x] == 3 else (REFLECTANCE, 1 / 800)
            low, centre, high, *values = (
                min(max(v / stretch.high, 0), 1) ** stretch.gamma
                for v in (20 * unit, 45 * unit, 120 * unit, *bands[:, y, x])
            )
            expected = [(value - centre) / (high - low) for value in values]
        np.testing.assert_allclose(features[y, x], expected, rtol=1e-4, atol=1e-5)


def test_colour_is_brightness_by_the_scene_and_ratios_to_green() -> None:
    bands, scene = mosaic(2)
    features = make_features(bands, scene, SCENES, a_card("colour", fill=7))
    chosen = (scene == 3) & ~np.isnan(bands[0])
    red, green, blue = bands[:, chosen] / 255
    np.testing.assert_allclose(features[chosen][:, 0], 3 * np.log((red + 0.02) / (green + 0.02)), atol=1e-4)
    np.testing.assert_allclose(features[chosen][:, 2], 3 * np.log((blue + 0.02) / (green + 0.02)), atol=1e-4)
    brightness = ((red + green + blue) / 3 - 45 / 255) / (100 / 255)
    np.testing.assert_allclose(features[chosen][:, 1], brightness, atol=1e-4)
    assert (features[scene == SCENE_FILL] == 7).all()


@pytest.mark.parametrize("kind", ["scene", "fixed", "colour"])
def test_an_image_of_one_scene_is_normalized_alike(kind: str) -> None:
    bands, _ = mosaic(3)
    card = a_card(kind, fill=-1)
    features = make_features(bands, np.full(bands.shape[1:], 3, np.uint16), SCENES, card)
    intensity = stretch_intensity(bands, DISPLAY).transpose(1, 2, 0)
    percentiles = np.array([[20] * 3, [45] * 3, [120] * 3], np.float32) / 255
    np.testing.assert_allclose(normalize_intensity(intensity, percentiles, card), features, atol=1e-5)


def test_a_missing_phase_makes_all_channels_missing() -> None:
    image, scene = np.full((2, 3, 4, 4), 50, np.float32), np.full((2, 4, 4), 3, np.uint16)
    image[0, 1, 0, 0], scene[1, 3, 3] = np.nan, SCENE_FILL
    features = stack_features(image, scene, SCENES, a_card(fill=-5))
    missing = (features == -5).all(axis=-1)
    assert features.shape == (4, 4, 6)
    assert missing[0, 0]
    assert missing[3, 3]
    assert missing.sum() == 2


@given(gain=st.floats(0.5, 2.0))
def test_a_gain_of_the_sensor_cancels(gain: float) -> None:
    # gamma 1: a power does not commute with a shift, so the cancelling is exact for gains only.
    bands = np.random.default_rng(0).uniform(5, 120, (3, 16, 16)).astype(np.float32)
    scene = np.zeros((16, 16), np.uint16)
    plain = make_features(bands, scene, {0: a_scene(0)}, a_card())
    brighter = make_features(bands * np.float32(gain), scene, {0: a_scene(0, gain=gain)}, a_card())
    np.testing.assert_allclose(brighter, plain, atol=1e-4)


def test_a_pixel_that_misses_one_band_is_missing() -> None:
    bands = np.full((3, 2, 2), 50, np.float32)
    bands[1, 0, 1] = np.nan
    features = make_features(bands, np.zeros((2, 2), np.uint16), {0: a_scene(0)}, a_card(fill=-3))
    assert (features[0, 1] == -3).all()
    assert (features[1] != -3).all()


def test_nothing_covered_is_all_fill() -> None:
    scene = np.full((4, 4), SCENE_FILL, np.uint16)
    features = make_features(np.full((3, 4, 4), np.nan, np.float32), scene, {}, a_card(fill=2))
    assert features.dtype == np.float32
    assert (features == 2).all()


def test_a_flat_scene_is_not_blown_up() -> None:
    flat = a_scene(0).model_copy(
        update={"statistics": {b: Percentiles(p02=50, p50=50, p98=50) for b in BANDS}}
    )
    bands = np.full((3, 1, 1), 51, np.float32)
    features = make_features(bands, np.zeros((1, 1), np.uint16), {0: flat}, a_card())
    assert (np.abs(features) < 0.25).all()


@pytest.mark.parametrize("gamma", [1.0, 0.75, 0.5])
def test_stretch_is_clipped_and_keeps_nan(gamma: float) -> None:
    stretched = stretch_intensity([-1, 0, 0.165, 0.33, 9, np.nan], Stretch(low=0, high=0.33, gamma=gamma))
    np.testing.assert_allclose(stretched, [0, 0, 0.5**gamma, 1, 1, np.nan], rtol=1e-6)


def test_refuses_what_the_card_does_not_cover() -> None:
    bands, scene = np.ones((3, 2, 2), np.float32), np.zeros((2, 2), np.uint16)
    with pytest.raises(UsageError, match="item-0 is reflectance, but model test accepts display"):
        make_features(bands, scene, {0: a_scene(0, "reflectance")}, a_card(display=DISPLAY))
    with pytest.raises(UsageError, match="scene item-0 has no statistics of red, green, blue"):
        make_features(bands, scene, {0: a_scene(0, measured=False)}, a_card())
    with pytest.raises(UsageError, match="scene 0 is not among the 1 scenes"):
        make_features(bands, scene, {5: a_scene(5)}, a_card())
    with pytest.raises(UsageError, match="expects \\(3, y, x\\): red, green, blue"):
        make_features(bands[:2], scene, {0: a_scene(0)}, a_card())
