"""Sources: a square is the mirrored region, a part knows the labels of its own cells only, counts add up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coseis.training.patches import Patch
from coseis.training.sources import CELL_PX, Part, count_cells
from coseis.types import LABEL_IGNORE
from making import a_patch, scattered_labels


@given(
    height=st.integers(5, 70),
    width=st.integers(5, 70),
    y=st.integers(-40, 60),
    x=st.integers(-40, 60),
    size=st.integers(1, 50),
)
def test_square_of_a_patch_is_its_reflection(height: int, width: int, y: int, x: int, size: int) -> None:
    patch = a_patch(height, width)
    square = patch.square(y, x, size)
    margin = 150
    window = np.s_[y + margin : y + margin + size, x + margin : x + margin + size]
    whole = np.pad(patch.image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    known = np.pad(patch.mask, margin, constant_values=LABEL_IGNORE)
    np.testing.assert_array_equal(square.intensity, whole[window])
    np.testing.assert_array_equal(square.classes, known[window])
    np.testing.assert_array_equal(square.percentiles, patch.percentiles)


def test_a_patch_one_pixel_wide_repeats_it() -> None:
    patch = a_patch(1, 3)
    np.testing.assert_array_equal(patch.square(-2, 0, 5).intensity[:, :3], np.repeat(patch.image, 5, axis=0))


@given(height=st.integers(1, 100), width=st.integers(1, 100), seed=st.integers(0, 99))
def test_counts_are_those_of_each_cell(height: int, width: int, seed: int) -> None:
    classes = scattered_labels((height, width), seed)
    cells = count_cells(classes)
    assert cells.known.shape == cells.landslide.shape == (-(-height // CELL_PX), -(-width // CELL_PX))
    for (row, column), known in np.ndenumerate(cells.known):
        cell = classes[row * CELL_PX : (row + 1) * CELL_PX, column * CELL_PX : (column + 1) * CELL_PX]
        assert known == (cell != LABEL_IGNORE).sum()
        assert cells.landslide[row, column] == np.isin(cell, (1, 2)).sum()


@given(seed=st.integers(0, 99), y=st.integers(-40, 90), x=st.integers(-40, 90))
def test_parts_of_a_source_share_its_labels_out(seed: int, y: int, x: int) -> None:
    mask = scattered_labels((80, 100), seed)
    image = np.zeros((80, 100, 3), np.float32)
    patch = Patch(image, mask, "event", np.zeros((3, 3), np.float32), weight=2.5)
    kept = np.random.default_rng(seed).random((3, 4)) < 0.5
    parts = Part(patch, kept, "train"), Part(patch, ~kept, "validation")
    whole = patch.square(y, x, 60).classes
    first, second = (part.square(y, x, 60).classes for part in parts)
    assert ((first == LABEL_IGNORE) | (second == LABEL_IGNORE)).all()
    np.testing.assert_array_equal(np.minimum(first, second), whole)
    for name in ("known", "landslide"):
        counts = [getattr(part.cells(), name) for part in parts]
        np.testing.assert_array_equal(sum(counts), getattr(patch.cells(), name))
        assert not counts[0][~kept].any()
    assert parts[0].group == "event/train"
    assert (parts[0].shape, parts[0].channels, parts[0].weight) == ((80, 100), 3, 2.5)
