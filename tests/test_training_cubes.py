"""Cube sources: every square normalizes to what prediction sees; labels count where a scene was observed."""

from __future__ import annotations

import pickle

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

import coseis.training.cubes as module
from coseis.card import Normalization, Stretch
from coseis.cube import CubeWindow, Recipe, read_window
from coseis.errors import UsageError
from coseis.event import Found
from coseis.features import make_features, normalize_intensity
from coseis.labels import GridLabels, open_labels
from coseis.reader import inspect_scene
from coseis.training.cubes import CubeSource, open_cube_source
from coseis.training.sources import CELL_PX, count_cells
from coseis.types import LABEL_IGNORE, SCENE_FILL, Status
from making import BANDS, a_card, area_of, found_of, grid, texture, write_scene

# odc-geo 0.5 still multiplies with *, which affine 3 announces to deprecate.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

GRID = grid(300, 400)
WHOLE = Window(0, 0, 400, 300)
INPUTS = {"display": Stretch(low=0, high=255), "reflectance": Stretch(low=0, high=0.33, gamma=0.75)}
POST = a_card(inputs=INPUTS)
BOTH = a_card(inputs=INPUTS, phases=("pre", "post"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Two post scenes of other kinds side by side, the first with a hole; a pre scene over most of them."""
    folder = tmp_path_factory.mktemp("scenes")
    holed = texture((3, 300, 220), seed=1)
    holed[:, 100:140, 60:110] = 0
    right = GRID.affine @ Affine.translation(180, 0)
    reflectance = texture((3, 300, 220), seed=2).astype(np.uint16) * 9
    scenes = [
        write_scene(folder / "before.tif", texture((3, 300, 350), seed=3), GRID.affine, phase="pre"),
        write_scene(folder / "best.tif", holed, GRID.affine),
        write_scene(folder / "second.tif", reflectance, right),
    ]
    return found_of([inspect_scene(scene, BANDS) for scene in scenes], area_of(GRID, inset_px=10))


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> GridLabels:
    random = np.random.default_rng(0)
    places = [GRID.affine @ (x, y) for y, x in random.uniform((0, 0), (300, 400), (60, 2))]
    frame = gpd.GeoDataFrame(geometry=[shapely.Point(place).buffer(30) for place in places], crs=GRID.crs)
    path = tmp_path_factory.mktemp("labels") / "labels.gpkg"
    frame.to_file(path)
    return open_labels(path, GRID)


@pytest.fixture(scope="module")
def source(found: Found, labels: GridLabels) -> CubeSource:
    return open_cube_source(found, GRID, labels, POST, group="test")


@pytest.fixture(scope="module")
def whole(found: Found) -> CubeWindow:
    """Both phases over the grid and 100 px around it."""
    return read_window(
        Recipe(GRID, BANDS, ("pre", "post"), found.scenes, found.event.aoi), Window(-100, -100, 600, 500)
    )


def features_of(whole: CubeWindow, found: Found, phase: int) -> NDArray[np.float32]:
    """What prediction sees of a phase: float32 (y, x, band), 0 where not observed."""
    scene = np.where(whole.status[phase] == Status.OBSERVED, whole.scene[phase], np.uint16(SCENE_FILL))
    return make_features(whole.image[phase], scene, {scene.index: scene for scene in found.scenes}, POST)


@given(y=st.integers(-60, 300), x=st.integers(-60, 400), size=st.integers(1, 90))
def test_squares_normalize_to_what_prediction_sees(
    source: CubeSource, whole: CubeWindow, found: Found, labels: GridLabels, y: int, x: int, size: int
) -> None:
    square = source.square(y, x, size)
    place = np.s_[y + 100 : y + 100 + size, x + 100 : x + 100 + size]
    normalized = normalize_intensity(square.intensity, square.percentiles, POST)
    np.testing.assert_allclose(normalized, features_of(whole, found, 1)[place], rtol=1e-5, atol=1e-5)
    seen = whole.status[1][place] == Status.OBSERVED
    np.testing.assert_array_equal(~np.isnan(square.intensity).any(axis=-1), seen)
    truth = labels.mask(GeoBox((500, 600), GRID.affine @ Affine.translation(-100, -100), GRID.crs))[place]
    np.testing.assert_array_equal(square.classes, np.where(seen, truth, LABEL_IGNORE))
    assert square.intensity.dtype == square.percentiles.dtype == np.float32
    assert square.percentiles.shape == (3, 3)


def test_the_scene_that_covers_most_is_left_as_it_is(source: CubeSource, found: Found) -> None:
    """220 px of the first, display scene, then 60 px of the second, reflectance one."""
    square = source.square(20, 20, 250)
    image = read_window(source.recipe, Window(20, 20, 250, 250)).image[0]
    first = np.moveaxis(image[:, :, :200], 0, -1) / np.float32(255)
    np.testing.assert_allclose(square.intensity[:, :200], first, rtol=1e-6)
    statistics = found.scenes[1].statistics or {}
    expected = [[getattr(statistics[band], name) / 255 for band in BANDS] for name in ("p02", "p50", "p98")]
    np.testing.assert_allclose(square.percentiles, expected, rtol=1e-6)
    assert source.square(20, 150, 240).percentiles[1, 0] != square.percentiles[1, 0]


def test_fixed_normalization_leaves_every_scene_as_it_is(found: Found, labels: GridLabels) -> None:
    fixed = Normalization(kind="fixed", mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
    card = POST.model_copy(update={"normalization": fixed})
    source = open_cube_source(found, GRID, labels, card, group="test")
    square, cube = source.square(20, 100, 200), read_window(source.recipe, Window(100, 20, 200, 200))
    features = make_features(
        cube.image[0], cube.scene[0], {scene.index: scene for scene in found.scenes}, card
    )
    normalized = normalize_intensity(square.intensity, square.percentiles, card)
    np.testing.assert_allclose(normalized, features, rtol=1e-5, atol=1e-5)


def test_two_phases_are_channels_and_missing_together(
    found: Found, labels: GridLabels, whole: CubeWindow
) -> None:
    source = open_cube_source(found, GRID, labels, BOTH, group="test")
    assert source.channels == 6
    square = source.square(50, 250, 140)
    seen = (whole.status[:, 150:290, 350:490] == Status.OBSERVED).all(axis=0)
    assert 0 < seen.mean() < 1
    np.testing.assert_array_equal(~np.isnan(square.intensity).any(axis=-1), seen)
    assert (square.classes[~seen] == LABEL_IGNORE).all()
    features = np.concatenate([features_of(whole, found, phase) for phase in (0, 1)], axis=-1)
    normalized = normalize_intensity(square.intensity, square.percentiles, BOTH)
    np.testing.assert_allclose(normalized[seen], features[150:290, 350:490][seen], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count_px", [64, 2048])
def test_cells_count_known_and_landslide_pixels(
    source: CubeSource, labels: GridLabels, monkeypatch: pytest.MonkeyPatch, count_px: int
) -> None:
    asked = []

    class Recording:
        def mask(self, geobox: GeoBox) -> NDArray[np.uint8]:
            asked.append(geobox.shape)
            return labels.mask(geobox)

    monkeypatch.setattr(module, "COUNT_PX", count_px)
    cells = CubeSource(source.recipe, Recording(), source.card, "test").cells()
    classes = labels.mask(GRID)
    inside = np.zeros(GRID.shape, bool)
    inside[10:-10, 10:-10] = True
    expected = count_cells(np.where(inside, classes, np.uint8(LABEL_IGNORE)))
    np.testing.assert_array_equal(cells.known, expected.known)
    np.testing.assert_array_equal(cells.landslide, expected.landslide)
    assert cells.known.dtype == np.int64
    assert max(max(shape) for shape in asked) <= count_px


def test_cells_count_nothing_where_a_phase_has_no_scene(found: Found, labels: GridLabels) -> None:
    cells = open_cube_source(found, GRID, labels, BOTH, group="test").cells()
    post = open_cube_source(found, GRID, labels, POST, group="test").cells()
    covered = 350 // CELL_PX
    np.testing.assert_array_equal(cells.known[:, :covered], post.known[:, :covered])
    assert not cells.known[:, covered + 1 :].any()
    assert post.known[:, covered + 1 :].any()


def test_sources_travel_and_give_the_same(source: CubeSource) -> None:
    again = pickle.loads(pickle.dumps(source))
    for mine, yours in (
        (source.square(30, 100, 100), again.square(30, 100, 100)),
        (source.cells(), again.cells()),
    ):
        for name in vars(mine):
            np.testing.assert_array_equal(getattr(mine, name), getattr(yours, name))
    assert (again.group, again.weight, again.shape, again.channels) == ("test", 1.0, (300, 400), 3)


def test_scenes_that_cannot_be_used_are_refused(found: Found, labels: GridLabels) -> None:
    def refused(found: Found, match: str, card: object = POST) -> None:
        with pytest.raises(UsageError, match=match):
            open_cube_source(found, GRID, labels, card, group="test")

    def changed(**changes: object) -> Found:
        scenes = (*found.scenes[:2], found.scenes[2].model_copy(update=changes))
        return found.model_copy(update={"scenes": scenes})

    posts = found.model_copy(update={"scenes": found.scenes[1:]})
    refused(posts, "no pre scene touches the grid of test, but model tiny sees pre and post", BOTH)
    refused(found, "post-second is reflectance, but model tiny accepts display", a_card())
    refused(changed(statistics=None), "post-second has no statistics of red, green, blue")
    refused(changed(sources=()), "post-second has no red, green, blue, which model tiny sees")
    far = area_of(GeoBox((10, 10), GRID.affine @ Affine.translation(5000, 0), GRID.crs))
    refused(found.model_copy(update={"event": found.event.model_copy(update={"aoi": far})}), "nowhere cover")
