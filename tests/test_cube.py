"""The cube: best scene first, status, laziness, and the lazy form equal to what a task reads."""

import dataclasses

import dask
import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.geom import Geometry
from rasterio.windows import Window

from coseis.cube import Recipe, SceneReader, load_cube, read_window
from coseis.errors import InputRefusedError, UsageError
from coseis.grid import SceneIndex, output_geobox, pixels_inside, scenes_touching
from coseis.types import SCENE_FILL, Status
from making import BANDS, area_of, found_of, grid, texture, write_scene

GRID = grid(600, 800)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Two overlapping post scenes, the first with a hole, and a pre scene on the left half."""
    folder = tmp_path_factory.mktemp("scenes")
    holed = texture((3, 600, 500), seed=1)
    holed[:, 200:260, 100:180] = 0
    right = GRID.affine @ Affine.translation(300, 0)
    scenes = [
        write_scene(folder / "before.tif", texture((3, 600, 400), seed=3), GRID.affine, phase="pre"),
        write_scene(folder / "best.tif", holed, GRID.affine),
        write_scene(folder / "second.tif", texture((3, 600, 480), seed=2), right),
    ]
    return found_of(scenes, area_of(GRID, inset_px=20))


@pytest.fixture
def recipe(found):
    return Recipe(GRID, BANDS, ("pre", "post"), found.scenes, found.event.aoi)


def test_best_scene_wins_and_the_next_fills(recipe):
    cube = read_window(recipe, Window(0, 0, 800, 600))
    post = cube.scene[1]
    assert (post[:200, :500] == 1).all()
    assert (post[200:260, 100:180] == SCENE_FILL).all()
    assert (post[:, 500:780] == 2).all()
    assert (post[:, 780:] == SCENE_FILL).all()
    assert (cube.scene[0][:, :400] == 0).all()
    np.testing.assert_array_equal(np.isnan(cube.image[1, 0]), post == SCENE_FILL)


def test_status_says_why(recipe):
    status = read_window(recipe, Window(0, 0, 800, 600)).status
    assert status[1, 230, 140] == Status.NODATA
    assert status[1, 300, 779] == Status.OBSERVED
    assert status[0, 300, 600] == Status.NOT_ACQUIRED
    assert status[1, 5, 300] == Status.OUTSIDE_AOI
    assert set(np.unique(status)) == {
        Status.OBSERVED, Status.NODATA, Status.NOT_ACQUIRED, Status.OUTSIDE_AOI,
    }  # fmt: skip


def test_any_window_is_cut_from_the_whole(recipe):
    whole = read_window(recipe, Window(-50, -50, 900, 700))
    rng = np.random.default_rng(0)
    for _ in range(12):
        y0, x0 = rng.integers(-50, 500), rng.integers(-50, 600)
        height, width = rng.integers(1, 150, 2)
        part = read_window(recipe, Window(x0, y0, width, height))
        cut = (..., slice(y0 + 50, y0 + 50 + height), slice(x0 + 50, x0 + 50 + width))
        np.testing.assert_array_equal(part.image, whole.image[cut])
        np.testing.assert_array_equal(part.status, whole.status[cut])
        np.testing.assert_array_equal(part.scene, whole.scene[cut])


def test_a_footprint_smaller_than_its_file_depends_on_no_window(recipe):
    """Catalogs round footprints: which pixels count must not depend on which window asks."""
    small = area_of(GRID, inset_px=100)
    scenes = tuple(scene.model_copy(update={"geometry": small}) for scene in recipe.scenes)
    rough = dataclasses.replace(recipe, scenes=scenes)
    whole = read_window(rough, Window(0, 0, 800, 600))
    assert (whole.scene[1][:60] == SCENE_FILL).all()
    assert (whole.scene[1][80:200, 100:400] == 1).all()
    for y0, x0 in np.ndindex(10, 10):
        window = Window(x0 * 80, y0 * 60, 80, 60)
        near = dataclasses.replace(rough, scenes=scenes_touching(scenes, GRID, window))
        part = read_window(near, window)
        cut = (..., slice(y0 * 60, y0 * 60 + 60), slice(x0 * 80, x0 * 80 + 80))
        np.testing.assert_array_equal(part.image, whole.image[cut])
        np.testing.assert_array_equal(part.scene, whole.scene[cut])


def test_an_index_finds_the_scenes_that_a_scan_finds(recipe):
    areas = [area_of(grid(60, 80), inset_px=-inset) for inset in range(0, 400, 40)]
    scenes = [
        recipe.scenes[0].model_copy(update={"geometry": area, "index": n}) for n, area in enumerate(areas)
    ]
    index = SceneIndex(scenes, GRID)
    for y0, x0 in np.ndindex(20, 20):
        window = Window(x0 * 40 - 100, y0 * 40 - 100, 30, 50)
        assert index.touching(window) == scenes_touching(scenes, GRID, window)
    assert SceneIndex((), GRID).touching(Window(0, 0, 5, 5)) == ()


def test_lazy_cube_equals_the_read_window(found, recipe):
    cube = load_cube(found, GRID, chunk_px=256)
    expected = read_window(recipe, Window(0, 0, 800, 600))
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(cube.image, expected.image)
        np.testing.assert_array_equal(cube.status, expected.status)
        np.testing.assert_array_equal(cube.scene, expected.scene)
    assert cube.image.dims == ("phase", "band", "y", "x")
    assert cube.rio.crs.to_epsg() == 32654
    assert cube.odc.geobox == GRID


class Untouchable(SceneReader):
    def read(self, window):
        raise AssertionError("a pixel was read before it was asked for")


def test_nothing_is_read_until_computed(found):
    cube = load_cube(found, GRID, reader=Untouchable)
    with pytest.raises(AssertionError, match="before it was asked for"):
        cube.image.compute(scheduler="synchronous")


def test_a_file_is_opened_once_for_all_bands(found, monkeypatch):
    import coseis.cube as module

    calls = []
    real = module.read_scene
    monkeypatch.setattr(module, "read_scene", lambda *a: calls.append(a[0].item_id) or real(*a))
    load_cube(found, GRID, chunk_px=1024).image.compute(scheduler="synchronous")
    assert sorted(calls) == ["post-best", "post-second", "pre-before"]


def test_a_failed_read_is_never_nodata(found, recipe, tmp_path):
    scene = found.scenes[1]
    sources = tuple(s.model_copy(update={"href": str(tmp_path / "gone.tif")}) for s in scene.sources)
    broken = found.model_copy(update={"scenes": (scene.model_copy(update={"sources": sources, "index": 0}),)})
    with pytest.raises(InputRefusedError, match=r"item post-best, asset visual, .*gone\.tif"):
        load_cube(broken, GRID).image.compute(scheduler="synchronous")


def test_errors_as_nodata_is_refused():
    with pytest.raises(UsageError, match="must never look like a hole"):
        SceneReader(
            url="{}", spec=None, resampling=None, dtype=None, fill_value=None, scale_offset=None,
            errors_as_nodata=(OSError("x"),),
        )  # fmt: skip


def test_grid_snaps_to_whole_pixels_in_the_utm_zone():
    geobox = output_geobox(area_of(GRID, inset_px=0.4), resolution_m=3.0)
    assert geobox.crs.epsg == 32654
    assert geobox.affine.c % 3 == 0
    assert geobox.affine.f % 3 == 0
    assert geobox == GRID


def test_grid_in_degrees_is_refused():
    with pytest.raises(UsageError, match="not projected in metres"):
        output_geobox(area_of(GRID), resolution_m=3.0, crs="EPSG:4326")


@pytest.mark.parametrize("crs", ["foo", "EPSG:99999"])
def test_unknown_crs_is_refused(crs):
    with pytest.raises(UsageError, match=f"output CRS '{crs}' is not known"):
        output_geobox(area_of(GRID), resolution_m=3.0, crs=crs)


def test_absurd_pixel_size_is_refused():
    with pytest.raises(UsageError, match=r"would have 2.*e\+0\d pixels a side"):
        output_geobox(area_of(GRID), resolution_m=1e-5)


def test_inside_is_by_pixel_centre_whatever_the_window():
    triangle = Geometry(shapely.Polygon([(583300, 4736900), (585000, 4736000), (583900, 4735300)]), GRID.crs)
    geometry = triangle.to_crs("EPSG:4326").json
    whole = pixels_inside(geometry, GRID, Window(0, 0, 800, 600))
    x = GRID.coordinates["x"].values[None, :]
    y = GRID.coordinates["y"].values[:, None]
    oracle = shapely.contains_xy(triangle.geom, *np.broadcast_arrays(x, y))
    # The way through degrees bends an edge by well under a pixel.
    assert (whole != oracle).sum() <= 20
    for x0, y0 in ((0, 0), (100, 40), (333, 77)):
        part = pixels_inside(geometry, GRID, Window(x0, y0, 200, 150))
        np.testing.assert_array_equal(part, whole[y0 : y0 + 150, x0 : x0 + 200])
