"""Vegetation codes: the formula, what is missing, and which index a run takes."""

import numpy as np
import pytest
from affine import Affine

from coseis.types import CODE_FILL
from coseis.vegetation import choose_index, vegetation_codes
from making import grid, texture, write_scene

BANDS = ("red", "green", "blue", "nir")


@pytest.mark.parametrize(("index", "more"), [("ndvi", "nir"), ("greenness", "green")])
def test_codes_are_hundredths_of_the_index(index, more):
    rng = np.random.default_rng(0)
    image = rng.uniform(0.001, 0.6, (4, 300, 400)).astype(np.float32)
    image[:, 5:9, 7:11] = np.nan
    image[:, 20, 20] = 0
    codes = vegetation_codes(image, BANDS, index)
    high, low = image[BANDS.index(more)].astype(float), image[0].astype(float)
    with np.errstate(invalid="ignore"):
        expected = (high - low) / (high + low)
    known = np.isfinite(expected)
    np.testing.assert_array_equal(codes == CODE_FILL, ~known)
    np.testing.assert_allclose(codes[known] / 100 - 1, expected[known], atol=0.00501)


def test_near_infrared_counts_only_where_every_scene_has_it(tmp_path):
    affine = grid(8, 8).affine @ Affine.identity()
    visible = write_scene(tmp_path / "a.tif", texture((3, 8, 8)), affine)
    infrared = visible.model_copy(
        update={"sources": (*visible.sources, visible.sources[0].model_copy(update={"band": "nir"}))}
    )
    rgb = ("red", "green", "blue")
    assert choose_index([infrared, infrared], rgb) == "ndvi"
    assert choose_index([infrared, visible], rgb) == "greenness"
    assert choose_index([visible], ("blue",)) is None
    assert choose_index([infrared], ("nir",)) is None
