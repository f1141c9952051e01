"""The light of the air is found from the dark ground of a scene, and taken off wherever the scene is read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window

from coseis.haze import BY_WAVELENGTH, DARK_REFLECTANCE, MOST_PATH_REFLECTANCE, path_reflectance, without_haze
from coseis.reader import inspect_scene, read_scene
from coseis.types import Percentiles
from making import grid, write_scene

RGB = ("red", "green", "blue")
AIR = np.array([0.03, 0.05, 0.08])[:, None, None]
"""Path reflectance of clean air: red, green, blue."""


def percentiles(dark: float) -> Percentiles:
    return Percentiles(p02=dark, p50=dark + 0.05, p98=dark + 0.3)


@given(st.dictionaries(st.sampled_from(BY_WAVELENGTH), st.floats(-0.1, 1), min_size=1), st.randoms())
def test_the_air_is_never_redder_than_blue_nor_brighter_than_the_ground(dark, random):
    order = random.sample(list(dark), len(dark))
    paths = path_reflectance({band: percentiles(dark[band]) for band in order})
    assert list(paths) == [band for band in BY_WAVELENGTH if band in dark]
    values = list(paths.values())
    assert values == sorted(values, reverse=True)
    for band, path in paths.items():
        assert 0 <= path <= min(MOST_PATH_REFLECTANCE, max(0, dark[band] - DARK_REFLECTANCE)) + 1e-6


def test_air_over_dark_ground_is_found():
    paths = path_reflectance(
        {"blue": percentiles(0.09), "green": percentiles(0.06), "red": percentiles(0.04)}
    )
    assert paths == pytest.approx({"blue": 0.08, "green": 0.05, "red": 0.03})


def ground() -> np.ndarray:
    """Reflectance (red-green-blue, y, x): forest, soil, and a tenth in deep shadow."""
    rng = np.random.default_rng(0)
    which = rng.choice(3, (60, 80), p=(0.6, 0.3, 0.1))
    colours = np.array([(0.03, 0.045, 0.025), (0.15, 0.10, 0.06), (DARK_REFLECTANCE,) * 3])
    return colours.T[:, which]


def test_a_scene_through_air_reads_as_the_ground(tmp_path):
    box = grid(60, 80)
    stored = np.round((ground() + AIR) * 1e4).astype(np.uint16)
    scene = write_scene(tmp_path / "x.tif", stored, box.affine).model_copy(update={"level": "toa"})
    measured = inspect_scene(scene, RGB)
    window = Window(0, 0, 80, 60)
    np.testing.assert_allclose(read_scene(measured, RGB, box, window), ground(), atol=1e-4)
    plain = inspect_scene(
        write_scene(tmp_path / "y.tif", np.round(ground() * 1e4).astype(np.uint16), box.affine), RGB
    )
    for band in RGB:
        assert measured.statistics[band].model_dump() == pytest.approx(
            plain.statistics[band].model_dump(), abs=1e-4
        )
    assert measured.cover.greenness == pytest.approx(plain.cover.greenness, abs=0.01)
    # Measured again, nothing is left to take off.
    again = inspect_scene(measured, RGB)
    assert [source.offset for source in again.sources] == pytest.approx(
        [source.offset for source in measured.sources], abs=1e-5
    )


def test_surface_reflectance_is_left_alone(tmp_path):
    stored = np.round((ground() + AIR) * 1e4).astype(np.uint16)
    scene = write_scene(tmp_path / "x.tif", stored, grid(60, 80).affine)
    assert inspect_scene(scene, RGB).sources == scene.sources


def test_bands_that_were_not_measured_stay(tmp_path):
    scene = write_scene(tmp_path / "x.tif", np.full((3, 8, 8), 900, np.uint16), grid(8, 8).affine)
    cleared, statistics = without_haze(scene, {"blue": percentiles(0.06)})
    assert [source.offset for source in cleared.sources] == pytest.approx([0, 0, -0.05])
    assert statistics["blue"].p50 == pytest.approx(0.06)
