"""Augmentation: any draw agrees with the scene as a function of the place, labels go where pixels go."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label as label_objects

from coseis.card import ModelCard, Normalization
from coseis.features import normalize_intensity
from coseis.training.augment import cut_square, make_batch, make_example, make_targets
from coseis.training.draws import Draw
from coseis.training.patches import Patch
from coseis.training.settings import NO_AUGMENTATION, Augmentation, TrainConfig
from coseis.training.sources import Square
from coseis.types import LABEL_IGNORE
from making import a_card, a_patch, scattered_labels

STILL = TrainConfig(core_px=32, halo_px=16, augmentation=NO_AUGMENTATION)
UNCHANGED = a_card(normalization=Normalization(kind="fixed", mean=(0, 0, 0), std=(1, 1, 1)))
"""Shows the network the intensity itself."""


def a_draw(y: float, x: float, *, turn_deg: float = 0, scale: float = 1, mirrored: bool = False) -> Draw:
    return Draw(0, y, x, float(np.deg2rad(turn_deg)), scale, mirrored=mirrored, seed=0)


def waves(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A scene as a function of the place in px: two ramps and a wave of 40 px, float (..., 3) in [0, 1]."""
    wave = 0.5 + 0.25 * np.sin(2 * np.pi * x / 40) + 0.25 * np.sin(2 * np.pi * y / 40)
    return np.stack([y / 200, 0.9 - x / 250, wave], axis=-1)


def a_wavy_patch() -> Patch:
    y, x = np.mgrid[:160, :160] + 0.5
    image = waves(y, x).astype(np.float32)
    return Patch(image, (image[..., 2] > 0.5).astype(np.uint8), "event", np.zeros((3, 3), np.float32))


@given(y=st.integers(0, 40), x=st.integers(0, 56), size=st.sampled_from([32, 64, 100]))
def test_a_draw_without_change_is_the_plain_crop(y: int, x: int, size: int) -> None:
    patch = a_patch()
    patch.image[7, 9] = np.nan
    plain = patch.square(y - size // 2, x - size // 2, size)
    drawn = cut_square(patch, a_draw(y, x), size_px=size)
    np.testing.assert_array_equal(drawn.intensity, plain.intensity)
    np.testing.assert_array_equal(drawn.classes, plain.classes)


@given(turns=st.integers(0, 3), mirrored=st.booleans(), y=st.integers(0, 40), x=st.integers(0, 56))
def test_quarter_turns_and_mirrors_are_those_of_numpy(turns: int, mirrored: bool, y: int, x: int) -> None:
    patch = a_patch()
    plain = cut_square(patch, a_draw(y, x), size_px=48)
    drawn = cut_square(patch, a_draw(y, x, turn_deg=90 * turns, mirrored=mirrored), size_px=48)
    for given_, expected in ((drawn.intensity, plain.intensity), (drawn.classes, plain.classes)):
        turned = np.rot90(expected, turns)
        np.testing.assert_allclose(given_, turned[:, ::-1] if mirrored else turned, atol=1e-6)


PLACES = st.floats(60, 100)
CHANGES = {
    "turn_deg": st.floats(0, 360),
    "scale": st.floats(0.67, 1.5),
    "mirrored": st.booleans(),
}


@settings(max_examples=20)
@given(y=PLACES, x=PLACES, **CHANGES)
def test_any_change_agrees_with_the_scene_as_a_function(y, x, turn_deg, scale, mirrored) -> None:
    draw = a_draw(y, x, turn_deg=turn_deg, scale=scale, mirrored=mirrored)
    drawn = cut_square(a_wavy_patch(), draw, size_px=48)
    if draw.angle_rad == 0 and scale == 1:
        y, x = round(y), round(x)
    down, right = np.mgrid[:48, :48] - 23.5
    right = -right if mirrored else right
    cos, sin = np.cos(draw.angle_rad), np.sin(draw.angle_rad)
    expected = waves(y + (sin * right + cos * down) / scale, x + (cos * right - sin * down) / scale)
    # Bilinear is exact on the ramps; on the wave it misses by an eighth of its curvature at most.
    np.testing.assert_allclose(drawn.intensity[..., :2], expected[..., :2], atol=1e-5)
    np.testing.assert_allclose(drawn.intensity[..., 2], expected[..., 2], atol=0.002)
    # Nearest is up to 0.71 px beside, where the wave rises by 0.056 a px at most.
    clear = np.abs(expected[..., 2] - 0.5) > 0.045
    np.testing.assert_array_equal(drawn.classes[clear], (expected[..., 2] > 0.5)[clear])


def test_scale_two_doubles() -> None:
    mask = np.zeros((80, 80), np.uint8)
    mask[35:45, 30:50] = 2
    patch = Patch(mask[..., None].repeat(3, -1) / np.float32(4), mask, "event", np.zeros((3, 3), np.float32))
    drawn = cut_square(patch, a_draw(40, 40, scale=2), size_px=64)
    expected = np.zeros((64, 64), np.uint8)
    expected[22:42, 12:52] = 2
    np.testing.assert_array_equal(drawn.classes, expected)
    np.testing.assert_allclose(drawn.intensity[24:40, 14:50], 0.5)


@settings(max_examples=20)
@given(y=PLACES, x=PLACES, **CHANGES)
def test_missing_pixels_and_unknown_labels_are_carried_along(y, x, turn_deg, scale, mirrored) -> None:
    patch = a_wavy_patch()
    patch.image[78:84, 70:90] = np.nan
    patch.mask[78:84, 70:90] = LABEL_IGNORE
    draw = a_draw(y, x, turn_deg=turn_deg, scale=scale, mirrored=mirrored)
    drawn = cut_square(patch, draw, size_px=48)
    missing, unknown = np.isnan(drawn.intensity[..., 0]), drawn.classes == LABEL_IGNORE
    # The nearest pixel is one of the four that bilinear looks at.
    assert missing[unknown].all()
    assert unknown.sum() <= missing.sum() <= unknown.sum() + 2.5 * scale * (26 + 4) * 2


@dataclass(frozen=True)
class Beyond:
    """Scenes brought to one light may reach a little beyond [0, 1]."""

    group = "event"
    weight = 1.0
    shape = (64, 64)
    channels = 3

    def square(self, y: int, x: int, size_px: int) -> Square:
        intensity = np.linspace(-0.1, 1.1, size_px * size_px * 3, dtype=np.float32)
        percentiles = np.array([[0.1] * 3, [0.5] * 3, [0.9] * 3], np.float32)
        return Square(
            intensity.reshape(size_px, size_px, 3), np.zeros((size_px, size_px), np.uint8), percentiles
        )


def test_intensity_beyond_its_range_is_not_missing() -> None:
    config = STILL.model_copy(update={"augmentation": Augmentation(missing=0)})
    for seed in range(5):
        window, *_ = make_example(
            Beyond(), a_draw(32, 32)._replace(seed=seed), card=a_card(fill=-99), config=config, blur_px=0
        )
        assert window.min() > -50


@pytest.mark.parametrize(
    ("padding", "halo", "window_side", "output_side"),
    [("same", 16, 64, 64), ("same", 0, 32, 32), ("valid", 16, 220, 36)],
)
def test_example_without_change_is_the_normalized_reflection(padding, halo, window_side, output_side) -> None:
    card = UNCHANGED.model_copy(update={"padding": padding})
    patch = a_patch(70, 90)
    config = STILL.model_copy(update={"halo_px": halo})
    window, classes, membership, weight = make_example(
        patch, a_draw(30, 50), card=card, config=config, blur_px=0
    )
    assert window.shape == (window_side, window_side, 3)
    assert classes.shape == membership.shape == weight.shape == (output_side, output_side)
    square = patch.square(30 - window_side // 2, 50 - window_side // 2, window_side)
    expected = normalize_intensity(square.intensity, square.percentiles, card)
    np.testing.assert_array_equal(window, expected)
    # The core alone counts; a `valid` network puts out 2 px more around it.
    around = (output_side - 32) // 2
    counted = np.zeros((output_side, output_side), np.float32)
    counted[around : around + 32, around : around + 32] = 1
    np.testing.assert_array_equal(weight, counted)
    core = counted > 0
    np.testing.assert_array_equal(classes[core].reshape(32, 32), patch.mask[14:46, 34:66])
    np.testing.assert_array_equal(membership[core], classes[core])


def test_unknown_labels_and_the_border_of_a_small_patch_do_not_count() -> None:
    patch = a_patch(20, 24)
    patch.mask[3:5] = LABEL_IGNORE
    _, classes, _, weight = make_example(patch, a_draw(10, 12), card=a_card(), config=STILL, blur_px=0)
    assert weight.sum() == 18 * 24
    assert classes.max() == 1
    assert not weight[32 - 10 + 3 : 32 - 10 + 5].any()


def test_missing_pixels_become_the_fill() -> None:
    patch = a_patch(64, 64)
    patch.image[30, 20, 1] = np.nan
    window, *_ = make_example(patch, a_draw(32, 32), card=a_card(fill=-2), config=STILL, blur_px=0)
    np.testing.assert_array_equal(np.argwhere((window == -2).all(axis=-1)), [[30, 20]])


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_a_lost_strip_has_neither_pixels_nor_labels(seed: int) -> None:
    config = STILL.model_copy(update={"augmentation": NO_AUGMENTATION.model_copy(update={"missing": 1})})
    patch = a_patch(64, 64)
    window, _, _, weight = make_example(
        patch, a_draw(32, 32)._replace(seed=seed), card=a_card(fill=-99), config=config, blur_px=0
    )
    lost = (window == -99).all(axis=-1)
    assert lost.all(axis=0).any() or lost.all(axis=1).any()
    assert 64 <= lost.sum() < 64 * 32
    np.testing.assert_array_equal(weight[16:48, 16:48] == 0, lost[16:48, 16:48])


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_gain_and_haze_are_undone_by_normalization_by_scene(seed: int) -> None:
    # Percentiles are changed as if they were measured on the changed scene; intensities too low to clip.
    image = 0.3 + 0.1 * a_patch(64, 64).image
    percentiles = np.percentile(image, (2, 50, 98), axis=(0, 1)).astype(np.float32)
    patch = Patch(image, np.zeros((64, 64), np.uint8), "event", percentiles)
    lit = NO_AUGMENTATION.model_copy(update={"gain": 0.1, "band_gain": 0.1, "offset": 0.02})
    draw = a_draw(32, 32)._replace(seed=seed)
    plain, changed = (
        make_example(
            patch, draw, card=card, config=STILL.model_copy(update={"augmentation": change}), blur_px=0
        )[0]
        for card, change in ((a_card(), NO_AUGMENTATION), (a_card(), lit))
    )
    np.testing.assert_allclose(changed, plain, atol=2e-5)


@pytest.mark.parametrize(
    "strength", ["gain", "band_gain", "gamma", "offset", "statistics", "noise", "missing"]
)
def test_every_strength_changes_what_the_network_sees(strength: str) -> None:
    card: ModelCard = a_card() if strength == "statistics" else UNCHANGED
    patch, draw = a_patch(64, 64), a_draw(32, 32)
    config = STILL.model_copy(
        update={"augmentation": NO_AUGMENTATION.model_copy(update={strength: 0.5 + 0.5})}
    )
    plain, changed = (
        make_example(patch, draw, card=card, config=chosen, blur_px=0)[0] for chosen in (STILL, config)
    )
    assert (plain != changed).any()


@settings(max_examples=20)
@given(seed=st.integers(0, 999), turn_deg=st.floats(0, 360))
def test_examples_follow_their_draw_and_never_touch_the_source(seed: int, turn_deg: float) -> None:
    patch = a_patch(64, 64)
    before = patch.image.copy(), patch.mask.copy(), patch.percentiles.copy()
    # As it is when Dask has sent it to a worker.
    for array in (patch.image, patch.mask, patch.percentiles):
        array.flags.writeable = False
    config = TrainConfig(
        core_px=32, augmentation=Augmentation(missing=0.5), border_weight=10, blur_px=(3.0, 1.0)
    )
    draws = [a_draw(30, 30, turn_deg=turn_deg)._replace(seed=seed), a_draw(32, 32)]
    first, again = (make_batch([patch], draws, card=a_card(), config=config, blur_px=2.5) for _ in range(2))
    for one, other in zip(first.arrays, again.arrays, strict=True):
        np.testing.assert_array_equal(one, other)
    for now, then in zip((patch.image, patch.mask, patch.percentiles), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert [array.dtype for array in first.arrays] == [np.float32, np.uint8, np.float16, np.float16]
    assert np.isfinite(first.windows).all()
    alone = make_example(patch, draws[1], card=a_card(), config=config, blur_px=2.5)
    for array, expected in zip(first.arrays, alone, strict=True):
        np.testing.assert_array_equal(array[1], expected.astype(array.dtype))


def test_labels_fade_out_over_the_blur_distance() -> None:
    classes = np.zeros((1, 30), np.uint8)
    classes[0, :10] = 1
    membership, weight = make_targets(classes, blur_px=4, border_weight=0)
    expected = np.concatenate([np.ones(10), [0.8, 0.6, 0.4, 0.2], np.zeros(16)])
    np.testing.assert_allclose(membership[0], expected, atol=1e-6)
    assert (weight == 1).all()
    sharp, _ = make_targets(classes, blur_px=0, border_weight=0)
    np.testing.assert_array_equal(sharp, classes)


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_border_weight_is_the_formula_of_unet(seed: int) -> None:
    random = np.random.default_rng(seed)
    classes = np.zeros((40, 44), np.uint8)
    for _ in range(4):
        y, x, height, width = random.integers(0, (34, 38, 12, 12))
        classes[y : y + height, x : x + width] = random.integers(1, 3)
    classes[20:24] = LABEL_IGNORE
    membership, weight = make_targets(classes, blur_px=0, border_weight=10)
    landslide = (classes == 1) | (classes == 2)
    objects, count = label_objects(landslide)
    expected = np.ones(classes.shape)
    if count > 1:
        y, x = np.mgrid[:40, :44]
        distances = np.sort(
            [
                np.min(
                    [np.hypot(y - row, x - column) for row, column in np.argwhere(objects == number)], axis=0
                )
                for number in range(1, count + 1)
            ],
            axis=0,
        )
        expected += np.where(landslide, 0, 10 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * 5**2)))
    expected[classes == LABEL_IGNORE] = 0
    np.testing.assert_allclose(weight, expected, atol=1e-5)
    np.testing.assert_array_equal(membership, landslide)


def test_a_faded_label_is_of_the_nearest_class() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :20], mask[:, 40:] = 1, 2
    mask[:8] = LABEL_IGNORE
    patch = Patch(np.zeros((64, 64, 3), np.float32), mask, "event", np.zeros((3, 3), np.float32))
    config = TrainConfig(core_px=64, halo_px=0, augmentation=NO_AUGMENTATION)
    _, classes, membership, weight = make_example(
        patch, a_draw(32, 32), card=a_card(), config=config, blur_px=6
    )
    np.testing.assert_array_equal(classes[8:, :29], 1)
    np.testing.assert_array_equal(classes[8:, 31:], 2)
    np.testing.assert_allclose(
        membership[8:, 19:27], np.broadcast_to(1 - np.arange(8) / 7, (56, 8)), atol=1e-6
    )
    assert not weight[:8].any()


def test_a_batch_of_labels_without_landslides_has_none() -> None:
    mask = scattered_labels((64, 64), 0)
    patch = Patch(
        np.zeros((64, 64, 3), np.float32), np.where(mask == 255, mask, 0), "e", np.zeros((3, 3), "f4")
    )
    batch = make_batch([patch], [a_draw(32, 32)] * 3, card=a_card(), config=STILL, blur_px=5)
    assert not batch.classes.any()
    assert not batch.membership.any()
    assert batch.windows.shape == (3, 64, 64, 3)


def test_noise_ranges_from_none_upwards() -> None:
    """A network that only saw noisy pixels took clean ones for scars: 1.4 times their area at Iburi."""
    grey = Patch(
        np.full((64, 64, 3), 0.5, np.float32), np.zeros((64, 64), np.uint8), "a", np.ones((3, 3), np.float32)
    )
    card = a_card(normalization=Normalization(kind="fixed", mean=(0, 0, 0), std=(1, 1, 1)))
    config = TrainConfig(
        core_px=32, halo_px=0, augmentation=NO_AUGMENTATION.model_copy(update={"noise": 0.1})
    )
    spread = [
        make_example(grey, Draw(0, 32, 32, 0.0, 1.0, False, seed), card=card, config=config, blur_px=0)[
            0
        ].std()
        for seed in range(200)
    ]
    assert min(spread) < 0.001
    assert np.median(spread) == pytest.approx(0.1 / 4, rel=0.3)
    assert 0.08 < max(spread) < 0.105
