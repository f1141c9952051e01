"""True, false and missed: as codes, as polygons that cover the same pixels, as files and a picture."""

from io import BytesIO
from itertools import product

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from odc.geo.geobox import GeoBox
from PIL import Image
from rasterio.features import rasterize

from coseis.errors import InputRefusedError
from coseis.evaluation import (
    Outcome,
    Panel,
    draw_outcomes,
    merge_outcomes,
    outcome_of,
    trace_outcome,
    write_outcomes,
)
from coseis.evaluation.figure import COLOURS, OPACITY
from coseis.evaluation.outcomes import LAYERS

GRID = GeoBox((20, 30), Affine(3, 0, 583_200, 0, -3, 4_737_000), "EPSG:32654")


def random_outcome(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    predicted, landslide = random.random((2, *GRID.shape)) < 0.4
    return outcome_of(predicted, landslide, random.random(GRID.shape) < 0.9)


def test_every_pair_has_its_outcome():
    predicted, landslide = np.array([[0, 0, 1, 1, 1]], bool), np.array([[0, 1, 0, 1, 1]], bool)
    counted = np.array([[1, 1, 1, 1, 0]], bool)
    assert [Outcome(code).name for code in outcome_of(predicted, landslide, counted)[0]] == [
        "BACKGROUND", "MISSED", "FALSE", "TRUE", "NOT_COUNTED",
    ]  # fmt: skip


@given(seed=st.integers(0, 999), y=st.integers(1, 19), x=st.integers(1, 29))
def test_polygons_of_blocks_cover_the_pixels(seed, y, x):
    outcome = random_outcome(seed)
    places = product((slice(0, y), slice(y, 20)), (slice(0, x), slice(x, 30)))
    pieces = [trace_outcome(outcome[place], origin=(place[0].start, place[1].start)) for place in places]
    for name, layer in merge_outcomes(pieces, GRID).items():
        covered = np.zeros(GRID.shape, np.uint8)
        if len(layer):
            rasterize(layer.geometry, out=covered, transform=GRID.affine)
        np.testing.assert_array_equal(covered == 1, outcome == LAYERS[name])
        assert layer.area_m2.sum() == pytest.approx(9 * covered.sum())


def test_geopackage_has_all_layers_even_empty_ones(tmp_path):
    outcome = random_outcome(0)
    outcome[outcome == Outcome.MISSED] = Outcome.BACKGROUND
    layers = merge_outcomes([trace_outcome(outcome)], GRID)
    path = tmp_path / "outcomes.gpkg"
    write_outcomes([layers], path)
    write_outcomes([layers, layers], path)
    assert {name for name, _ in pyogrio.list_layers(path)} == {"true", "false", "missed"}
    for name, layer in layers.items():
        read = gpd.read_file(path, layer=name)
        assert read.crs == "EPSG:32654"
        assert len(read) == 2 * len(layer)
    with pytest.raises(InputRefusedError, match="cannot be written"):
        write_outcomes([layers], tmp_path / "none" / "outcomes.gpkg")


def test_picture_shows_each_outcome_in_its_colour():
    outcome = np.repeat(np.repeat(np.arange(5, dtype=np.uint8).reshape(1, 5), 40, axis=0), 8, axis=1)
    rgb = np.full((40, 40, 3), 90, np.uint8)
    png = draw_outcomes([Panel("a", rgb, outcome)], title="All outcomes")
    picture = np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(float)
    assert picture.shape[1] == 1800
    for colour in COLOURS.values():
        blended = (1 - OPACITY) * 90 + OPACITY * 255 * np.array(to_rgb(colour))
        assert (np.abs(picture - blended) < 2).all(axis=-1).sum() > 10_000
    # Many panels stand beside each other, each with its plain picture.
    many = draw_outcomes([Panel(str(n), rgb, outcome) for n in range(7)], title="Seven")
    assert Image.open(BytesIO(many)).size[0] == 1800


def test_a_panel_of_two_sizes_is_refused():
    with pytest.raises(ValueError, match=r"panel a: rgb has shape \(4, 4, 3\), the outcome \(4, 5\)"):
        Panel("a", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8))
