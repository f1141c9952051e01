"""Window sizes against the hand arithmetic of the network, and the chunk grid as a partition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coseis.errors import UsageError
from coseis.windows import check_chunk, choose_core, chunk_grid, core_px, window_px

cores = st.integers(1, 256).map(lambda k: 16 * k)
paddings = st.sampled_from(["same", "valid"])


@given(cores, paddings)
def test_window_and_core_are_inverse(core, padding):
    assert core_px(window_px(core, padding), padding) == core


@given(cores)
def test_valid_output_is_core_and_four(core):
    """Each level takes 4 px in the contracting path and 4 in the expanding one, by hand."""
    size = window_px(core, "valid")
    for _ in range(4):
        size -= 4
        assert size % 2 == 0
        size //= 2
    size -= 4
    for _ in range(4):
        size = size * 2 - 4
    assert size == core + 4


def test_textbook_window_is_legal_for_valid_with_stride_384():
    assert core_px(572, "valid") == 384


@pytest.mark.parametrize(
    ("window", "padding", "nearest"), [(464, "valid", 460), (572, "same", 576), (100, "same", 208)]
)
def test_illegal_window_names_the_nearest(window, padding, nearest):
    with pytest.raises(UsageError, match=f"nearest legal window is {nearest} px"):
        core_px(window, padding)


@pytest.mark.parametrize(("core", "nearest"), [(1000, 992), (1001, 1008), (3, 16), (-5, 16)])
def test_illegal_core_names_the_nearest(core, nearest):
    with pytest.raises(UsageError, match=f"nearest legal core is {nearest} px"):
        window_px(core, "same")


def test_illegal_chunk_names_the_nearest():
    assert check_chunk(2048, 1024) == 2048
    with pytest.raises(UsageError, match="nearest legal chunk is 2048 px"):
        check_chunk(2000, 1024)


@given(st.tuples(st.integers(1, 400), st.integers(1, 400)), st.integers(16, 130))
def test_chunks_cover_each_pixel_once(shape, chunk):
    seen = np.zeros(shape, int)
    for place in chunk_grid(shape, chunk):
        assert (place.y0, place.x0) == (place.row * chunk, place.col * chunk)
        seen[place.slices] += 1
        assert seen[place.slices].shape == (place.height, place.width)
    assert (seen == 1).all()


def test_core_follows_the_array():
    """The Iburi scene, 1280 x 2048: two rows of three windows beat four of 1024."""
    assert choose_core((1280, 2048), "same") == 688
    assert choose_core((100_000, 100_000), "same") >= 976
