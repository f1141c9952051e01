"""Draws: the plan follows seed and epoch, its bias to landslides fades, validation sees each label once."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coseis.errors import UsageError
from coseis.training.draws import Draw, DrawTable, validation_draws
from coseis.training.settings import NO_AUGMENTATION, Augmentation, TrainConfig
from coseis.training.sources import CELL_PX, Part, Source
from coseis.types import LABEL_IGNORE
from making import a_labelled_patch, scattered_labels

MANY = TrainConfig(epochs=5, patches_per_epoch=4000, batch=4, core_px=32, class_weight=(0.8, 0.2))


def slid_corner(size: int = 1280, slid: int = 64) -> Source:
    """Landslides in the first cells only, so that a drawn cell tells how it was drawn."""
    mask = np.zeros((size, size), np.uint8)
    mask[:slid, :slid] = 1
    return a_labelled_patch(mask)


def is_slid(draw: Draw, slid: int = 64) -> bool:
    """The core may hold a place in the slid corner."""
    return max(draw.y, draw.x) < slid + MANY.core_px / 2


def test_a_plan_follows_seed_and_epoch() -> None:
    sources = [a_labelled_patch(scattered_labels((100, 130), 1)), slid_corner(200)]
    plan = DrawTable(sources).draw_epoch(MANY, 1)
    assert plan == DrawTable(sources).draw_epoch(MANY, 1)
    assert plan != DrawTable(sources).draw_epoch(MANY, 2)
    assert plan != DrawTable(sources).draw_epoch(MANY.model_copy(update={"seed": 7}), 1)
    assert len({draw.seed for draw in plan}) == len(plan) == 4000


@pytest.mark.parametrize(("patches", "batch", "drawn"), [(10, 4, 12), (12, 4, 12), (1, 6, 6)])
def test_the_last_batch_is_filled_up(patches: int, batch: int, drawn: int) -> None:
    config = TrainConfig(patches_per_epoch=patches, batch=batch)
    assert len(DrawTable([slid_corner(200)]).draw_epoch(config, 0)) == drawn


def test_bias_to_landslides_falls_from_first_to_last_epoch() -> None:
    table = DrawTable([slid_corner()])
    shares = [np.mean([is_slid(draw) for draw in table.draw_epoch(MANY, epoch)]) for epoch in range(5)]
    # Drawn by landslides, or by chance among all places.
    expected = [bias + (1 - bias) * 80**2 / 1280**2 for bias in (0.8, 0.65, 0.5, 0.35, 0.2)]
    np.testing.assert_allclose(shares, expected, atol=4 * np.sqrt(0.25 / 4000))


def test_biased_draws_follow_the_landslide_pixels() -> None:
    mask = np.zeros((64, 320), np.uint8)
    mask[:32, :32], mask[:8, 64:96] = 1, 2
    config = MANY.model_copy(update={"class_weight": (1.0, 1.0)})
    drawn = DrawTable([a_labelled_patch(mask)]).draw_epoch(config, 3)
    first = [draw.x < 48 for draw in drawn]
    assert all(draw.y < 48 and (draw.x < 48 or 48 <= draw.x < 112) for draw in drawn)
    assert np.mean(first) == pytest.approx(4 / 5, abs=0.03)


def test_a_landslide_lies_anywhere_in_the_core_that_was_drawn_for_it() -> None:
    """In the middle of every patch it would teach the network that the middle slides."""
    mask = np.zeros((640, 640), np.uint8)
    mask[320:352, 320:352] = 1
    config = MANY.model_copy(update={"class_weight": (1.0, 1.0), "core_px": 128})
    drawn = DrawTable([a_labelled_patch(mask)]).draw_epoch(config, 0)
    offsets = np.array([(draw.y - 336, draw.x - 336) for draw in drawn])
    assert np.abs(offsets).max() <= 128 / 2 + CELL_PX / 2
    np.testing.assert_allclose(offsets.mean(axis=0), 0, atol=3)
    # Uniform over the core, and over the cell within it.
    np.testing.assert_allclose(offsets.std(axis=0), np.sqrt((128**2 + CELL_PX**2) / 12), rtol=0.05)


def test_at_the_end_all_known_areas_are_drawn_alike_by_weight() -> None:
    config = MANY.model_copy(update={"class_weight": (1.0, 0.0)})
    half = np.zeros((128, 128), np.uint8)
    half[:, 64:] = LABEL_IGNORE
    sources = [
        a_labelled_patch(np.zeros((128, 128), np.uint8)),
        a_labelled_patch(half),
        a_labelled_patch(np.ones((128, 128), np.uint8), weight=2.5),
        a_labelled_patch(np.ones((512, 512), np.uint8), weight=0),
        a_labelled_patch(np.full((128, 128), LABEL_IGNORE, np.uint8)),
    ]
    drawn = DrawTable(sources).draw_epoch(config, 4)
    counts = np.bincount([draw.source for draw in drawn], minlength=5) / len(drawn)
    np.testing.assert_allclose(counts, np.array([1, 0.5, 2.5, 0, 0]) / 4, atol=0.035)
    assert counts[3] == counts[4] == 0
    # Within a source: as many in each of its quarters.
    quarters = [(draw.y < 64, draw.x < 64) for draw in drawn if draw.source == 2]
    shares = [np.mean([quarter == place for quarter in quarters]) for place in set(quarters)]
    np.testing.assert_allclose(shares, 0.25, atol=0.035)


@given(weights=st.lists(st.sampled_from([0.0, 0.3, 7.0]), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_weight_zero_is_never_drawn(weights: list[float], seed: int) -> None:
    sources = [a_labelled_patch(np.ones((40, 40), np.uint8), weight=weight) for weight in weights]
    config = TrainConfig(patches_per_epoch=60, class_weight=(0.5, 0.0), seed=seed)
    if not any(weights):
        with pytest.raises(UsageError, match="no pixel of the training regions has a known label"):
            DrawTable(sources)
        return
    drawn = {draw.source for draw in DrawTable(sources).draw_epoch(config, 0)}
    assert all(weights[source] for source in drawn)


def test_without_any_landslide_cells_are_drawn_evenly() -> None:
    source = a_labelled_patch(np.zeros((64, 64), np.uint8))
    assert len(DrawTable([source]).draw_epoch(TrainConfig(class_weight=(1.0, 1.0)), 0)) == 360


@given(
    height=st.integers(3, 200),
    width=st.integers(3, 200),
    core=st.sampled_from([16, 32, 48, 128]),
    seed=st.integers(0, 99),
)
def test_cores_lie_in_the_source(height: int, width: int, core: int, seed: int) -> None:
    source = a_labelled_patch(scattered_labels((height, width), seed) % 2)
    config = TrainConfig(core_px=core, patches_per_epoch=20, seed=seed)
    for draw in DrawTable([source]).draw_epoch(config, 0):
        for centre, size in ((draw.y, height), (draw.x, width)):
            if size > core:
                assert core / 2 <= centre <= size - core / 2
            else:
                assert centre == size / 2


def test_changes_keep_to_the_settings() -> None:
    table = DrawTable([slid_corner(200)])
    config = MANY.model_copy(update={"augmentation": NO_AUGMENTATION})
    still = table.draw_epoch(config, 0)
    assert {(draw.angle_rad, draw.scale, draw.mirrored) for draw in still} == {(0.0, 1.0, False)}
    changed = table.draw_epoch(MANY.model_copy(update={"augmentation": Augmentation(scale=0.2)}), 0)
    # The places are those of the same plan without changes.
    assert [(draw.y, draw.x, draw.seed) for draw in changed] == [
        (draw.y, draw.x, draw.seed) for draw in still
    ]
    angles, logs = (np.array([part(draw) for draw in changed]) for part in (lambda d: d.angle_rad, log_scale))
    assert np.histogram(angles, 8, (0, 2 * np.pi))[0].min() > 400
    assert np.abs(logs).max() == pytest.approx(0.4)
    assert logs.std() == pytest.approx(0.19, abs=0.01)
    assert np.mean([draw.mirrored for draw in changed]) == pytest.approx(0.5, abs=0.03)


def log_scale(draw: Draw) -> float:
    return float(np.log(draw.scale))


def core_of(source: Source, draw: Draw, core_px: int) -> np.ndarray:
    """Labels uint8 (y, x) under the core of an unchanged draw."""
    return source.square(round(draw.y) - core_px // 2, round(draw.x) - core_px // 2, core_px).classes


@given(
    shapes=st.lists(st.tuples(st.integers(3, 150), st.integers(3, 150)), min_size=1, max_size=3),
    core=st.sampled_from([16, 32, 48, 80, 128]),
    seed=st.integers(0, 99),
)
def test_validation_sees_every_known_label_once(
    shapes: Sequence[tuple[int, int]], core: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    sources = []
    for shape in shapes:
        whole = a_labelled_patch(scattered_labels(shape, seed))
        kept = random.random([-(-side // CELL_PX) for side in shape]) < 0.5
        sources.append(Part(whole, kept, "validation"))
    config = TrainConfig(core_px=core)
    counts = np.zeros((len(sources), 256), np.int64)
    for draw in validation_draws(sources, config):
        assert (draw.angle_rad, draw.scale, draw.mirrored) == (0, 1, False)
        counts[draw.source] += np.bincount(core_of(sources[draw.source], draw, core).ravel(), minlength=256)
    for source, found in zip(sources, counts, strict=True):
        classes = source.square(0, 0, max(source.shape)).classes
        expected = np.bincount(classes.ravel(), minlength=256)
        np.testing.assert_array_equal(found[:LABEL_IGNORE], expected[:LABEL_IGNORE])


def test_validation_leaves_out_cores_without_labels() -> None:
    mask = np.full((128, 128), LABEL_IGNORE, np.uint8)
    mask[100, 30] = 1
    (draw,) = validation_draws([a_labelled_patch(mask)], TrainConfig(core_px=64))
    assert (draw.source, draw.y, draw.x) == (0, 96, 32)
