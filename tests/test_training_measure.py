"""Measuring: core by core is the whole at once, turned scenes give turned maps, the threshold is the best."""

from typing import Any

import numpy as np
import pytest

from coseis.errors import UsageError
from coseis.features import normalize_intensity
from coseis.model import build_unet
from coseis.training import measure
from coseis.training.measure import choose_threshold, predict_patch, predict_source
from coseis.training.patches import Patch
from coseis.training.sources import Part
from coseis.types import LABEL_IGNORE
from coseis.windows import HALO_PX, VALID_SHRINK_PX
from making import a_card, a_labelled_patch, a_patch


def a_network(**changes: Any) -> Any:
    import keras

    keras.utils.set_random_seed(3)
    return build_unet(a_card(**changes))


def reflected_whole(network: Any, patch: Patch, card: Any) -> np.ndarray:
    """Probability float32 (y, x) of any class from one window over the whole reflected patch."""
    halo = HALO_PX[card.padding]
    fill = [(halo, halo + -size % 16) for size in patch.shape]
    padded = np.pad(patch.image, (*fill, (0, 0)), mode="reflect")
    window = normalize_intensity(padded, patch.percentiles, card)
    output = np.asarray(network(window[None], training=False))[0]
    cut = halo - (VALID_SHRINK_PX if card.padding == "valid" else 0)
    core = output[cut : cut + patch.shape[0], cut : cut + patch.shape[1]]
    return core[..., 0] if core.shape[-1] == 1 else core[..., 1:].sum(axis=-1)


@pytest.mark.parametrize(("padding", "classes"), [("same", ("source", "deposit")), ("valid", ("landslide",))])
def test_core_by_core_is_the_whole_reflected_patch(padding, classes, monkeypatch) -> None:
    monkeypatch.setattr(measure, "WINDOW_CORE_PX", 64)
    card = a_card(padding=padding, classes=classes)
    network = a_network(padding=padding, classes=classes)
    patch = a_patch(90, 130)
    probability = predict_patch(network, patch, card=card)
    assert probability.shape == (90, 130)
    np.testing.assert_allclose(probability, reflected_whole(network, patch, card), atol=1e-5)
    assert np.ptp(probability) > 0.01


@pytest.mark.parametrize(("padding", "mirrored"), [("same", True), ("valid", False)])
def test_the_mean_of_all_orientations_turns_with_the_scene(padding, mirrored) -> None:
    card, network, patch = a_card(padding=padding), a_network(padding=padding), a_patch(48, 48)

    def turned(image: np.ndarray) -> np.ndarray:
        return np.rot90(image)[:, ::-1] if mirrored else np.rot90(image)

    other = Patch(turned(patch.image).copy(), turned(patch.mask).copy(), "event", patch.percentiles)
    plain, moved = (predict_patch(network, each, card=card, flips=8) for each in (patch, other))
    np.testing.assert_allclose(moved, turned(plain), atol=1e-5)
    once = [predict_patch(network, each, card=card) for each in (patch, other)]
    assert np.abs(once[1] - turned(once[0])).max() > 1e-3


def test_only_cores_with_labels_are_predicted(monkeypatch) -> None:
    monkeypatch.setattr(measure, "WINDOW_CORE_PX", 64)
    kept = np.zeros((4, 4), bool)
    kept[0, 3] = True
    part = Part(a_patch(128, 128), kept, "validation")
    ((y, x, probability, classes),) = predict_source(a_network(), part, card=a_card())
    assert (y, x, probability.shape) == (0, 64, (64, 64))
    assert (classes[:32, 32:] != LABEL_IGNORE).all()
    assert (classes != LABEL_IGNORE).sum() == 32 * 32


def a_stub(probability: np.ndarray) -> Any:
    """A network with the same answer for every window."""

    def network(windows: np.ndarray, training: bool) -> np.ndarray:
        assert not training
        return np.pad(probability, 96)[None, ..., None]

    return network


def test_threshold_has_the_best_mean_f1_of_the_groups() -> None:
    # Both groups score 0.9 on half of their landslides and 0.5 on the others; in `b` so does some background.
    probability = np.full((64, 64), 0.1, np.float32)
    probability[:16], probability[16:48] = 0.9, 0.5
    plain, noisy = np.zeros((2, 64, 64), np.uint8)
    plain[:48], noisy[:32] = 1, 2
    plain[60], noisy[60] = LABEL_IGNORE, LABEL_IGNORE

    def threshold(**masks: np.ndarray) -> float:
        sources = [a_labelled_patch(mask, name) for name, mask in masks.items()]
        return choose_threshold(a_stub(probability), sources, card=a_card())

    assert 0.1 < threshold(a=plain) <= 0.5
    assert 0.1 < threshold(a=plain, b=noisy) <= 0.5
    noisy[16:32] = 0
    assert 0.5 < threshold(b=noisy) <= 0.9


def test_every_group_counts_alike() -> None:
    # One patch of `few` wants a high threshold, nine of `many` a low one, less urgently.
    probability = np.full((64, 64), 0.1, np.float32)
    probability[:4], probability[4:32] = 0.9, 0.5
    strict, loose = np.zeros((2, 64, 64), np.uint8)
    strict[:4], loose[:5] = 1, 1
    loose[30:32] = 1
    sources = [a_labelled_patch(strict, "few"), *[a_labelled_patch(loose, "many")] * 9]
    assert choose_threshold(a_stub(probability), sources, card=a_card()) > 0.5


@pytest.mark.parametrize("value", [0, 1])
def test_a_group_of_one_kind_is_refused(value: int) -> None:
    source = a_labelled_patch(np.full((64, 64), value, np.uint8))
    with pytest.raises(UsageError, match="needs landslides and background; event holds only one of them"):
        choose_threshold(a_stub(np.zeros((64, 64), np.float32)), [source], card=a_card())


@pytest.mark.parametrize("flips", [0, 9])
def test_there_are_eight_orientations(flips: int) -> None:
    with pytest.raises(UsageError, match=f"mean of {flips} orientations was asked for; expected 1 to 8"):
        predict_patch(build_unet(a_card()), a_patch(), card=a_card(), flips=flips)
