"""Usable data masks: classes, the choice of the clearest scene, and independence of windows."""

import dataclasses
from itertools import pairwise

import dask
import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.windows import Window

from coseis.cube import Recipe, load_cube, read_window
from coseis.errors import InputRefusedError
from coseis.types import MASKABLE, SCENE_FILL, Status, seen_pixels
from coseis.usable import CLOUD_MARGIN_M, UDM2_BANDS, check_mask, classify, read_usable
from making import BANDS, ORIGIN, area_of, found_of, grid, texture, write_scene, write_udm2

GRID = grid(600, 800)
CLOUD = (slice(100, 300), slice(100, 300))
"""With the margin, in which a cloud is thin."""
SHADOW = (slice(250, 400), slice(250, 400))
HAZE = (slice(450, 550), slice(0, 800))
CLOUDS_BELOW = (slice(200, 350), slice(200, 350))
WHOLE = Window(0, 0, 800, 600)


def core(place):
    """What a mask must call cloud for `place` to be cloud with its margin."""
    margin_px = round(CLOUD_MARGIN_M / 3)
    return tuple(slice(part.start + margin_px, part.stop - margin_px) for part in place)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Two scenes of the whole grid: the better with cloud, shadow and haze, the other with cloud."""
    folder = tmp_path_factory.mktemp("scenes")
    masks = [
        write_udm2(
            folder / "0.tif",
            {"cloud": core(CLOUD), "shadow": SHADOW, "light_haze": HAZE},
            GRID.shape,
            GRID.affine,
        ),
        write_udm2(folder / "1.tif", {"cloud": core(CLOUDS_BELOW)}, GRID.shape, GRID.affine),
    ]
    scenes = [
        write_scene(folder / f"image-{n}.tif", texture((3, 600, 800), seed=n), GRID.affine).model_copy(
            update={"udm2": mask}
        )
        for n, mask in enumerate(masks)
    ]
    return found_of(scenes, area_of(GRID, inset_px=20))


@pytest.fixture
def recipe(found):
    return Recipe(GRID, BANDS, ("post",), found.scenes, found.event.aoi)


def at(*places):
    mask = np.zeros(GRID.shape, bool)
    for place in places:
        mask[place] = True
    return mask


def inside():
    return at((slice(20, 580), slice(20, 780)))


def test_the_best_clear_scene_is_used_and_masked_pixels_are_holes(recipe):
    cube = read_window(recipe, WHOLE)
    first_clear = ~at(CLOUD, SHADOW, HAZE)
    second_clear = ~at(CLOUDS_BELOW)
    expected = np.where(first_clear, 0, np.where(second_clear, 1, SCENE_FILL))
    np.testing.assert_array_equal(cube.scene[0][inside()], expected[inside()])
    hole = cube.scene[0] == SCENE_FILL
    np.testing.assert_array_equal(np.isnan(cube.image[0]).any(axis=0), hole)
    assert set(np.unique(cube.status[0][hole & inside()])) == {Status.CLOUD, Status.SHADOW}
    assert (cube.status[0][first_clear & inside()] == Status.OBSERVED).all()


def test_a_class_that_is_not_masked_is_used_where_nothing_is_clear(recipe):
    all_used = dataclasses.replace(recipe, masked=())
    cube = read_window(all_used, WHOLE)
    assert (cube.scene[0] != SCENE_FILL).all()
    both = at(CLOUDS_BELOW) & at(CLOUD, SHADOW)
    assert (cube.scene[0][both] == 0).all()
    assert set(np.unique(cube.status[0][both])) == {Status.CLOUD, Status.SHADOW}
    assert (cube.status[0][~both & inside()] == Status.OBSERVED).all()
    alone = dataclasses.replace(recipe, scenes=recipe.scenes[:1])
    hazy = read_window(alone, WHOLE)
    assert (hazy.status[0][at(HAZE) & inside()] == Status.LIGHT_HAZE).all()
    assert seen_pixels(hazy.status, hazy.scene)[0][at(HAZE) & inside()].all()
    assert not seen_pixels(hazy.status, hazy.scene)[0][at(CLOUD)].any()


@pytest.mark.parametrize("masked", [(), ("cloud",), tuple(MASKABLE)])
def test_any_window_is_cut_from_the_whole_also_of_warped_masks(recipe, tmp_path, masked):
    """The second scene lies in another zone, at another angle, with coarser pixels."""
    corner = Transformer.from_crs(GRID.crs.to_wkt(), "EPSG:32655", always_xy=True).transform(*ORIGIN)
    flags = write_udm2(
        tmp_path / "mask.tif",
        {"snow": (slice(100, 200), slice(50, 300))},
        (500, 600),
        Affine.translation(*corner) @ Affine.rotation(2) @ Affine.scale(5.0, -5.0),
        crs="EPSG:32655",
    )
    first, second = recipe.scenes
    scenes = (first, second.model_copy(update={"udm2": flags}))
    recipe = dataclasses.replace(recipe, scenes=scenes, masked=masked)
    whole = read_window(recipe, Window(-50, -50, 900, 700))
    assert Status.SNOW in np.unique(read_usable(scenes[1], GRID, WHOLE))
    rng = np.random.default_rng(0)
    for _ in range(12):
        y0, x0 = rng.integers(-50, 500), rng.integers(-50, 600)
        height, width = rng.integers(1, 150, 2)
        part = read_window(recipe, Window(x0, y0, width, height))
        cut = (..., slice(y0 + 50, y0 + 50 + height), slice(x0 + 50, x0 + 50 + width))
        np.testing.assert_array_equal(part.image, whole.image[cut])
        np.testing.assert_array_equal(part.status, whole.status[cut])
        np.testing.assert_array_equal(part.scene, whole.scene[cut])


@pytest.mark.parametrize("masked", [(), ("cloud",), tuple(MASKABLE)])
def test_the_lazy_cube_equals_the_read_window(found, recipe, masked):
    cube = load_cube(found, GRID, chunk_px=256, masked=masked)
    expected = read_window(dataclasses.replace(recipe, masked=masked), WHOLE)
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(cube.image, expected.image)
        np.testing.assert_array_equal(cube.status, expected.status)
        np.testing.assert_array_equal(cube.scene, expected.scene)


def test_more_masked_classes_see_less(recipe):
    """Each class that is masked too takes pixels away and never gives any."""
    chain = [tuple(list(MASKABLE)[:count]) for count in range(len(MASKABLE) + 1)]
    seen = [
        read_window(dataclasses.replace(recipe, masked=masked), WHOLE).scene != SCENE_FILL for masked in chain
    ]
    for more, less in pairwise(seen):
        assert not (less & ~more).any()
    assert seen[0].sum() > seen[-1].sum()


def flags_of(**set_to: float) -> np.ndarray:
    names = [name for name in UDM2_BANDS if name != "confidence"]
    return np.array([set_to.get(name, 0.0) for name in names], np.float32).reshape(-1, 1, 1)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"clear": 1}, Status.OBSERVED),
        ({"snow": 1}, Status.SNOW),
        ({"light_haze": 1, "shadow": 1}, Status.SHADOW),
        ({"heavy_haze": 1, "cloud": 1, "unusable": 2}, Status.CLOUD),
        ({"clear": 1, "unusable": 2}, Status.OBSERVED),
        ({"clear": 1, "unusable": 4}, Status.UNUSABLE),
        ({"cloud": 1, "unusable": 1}, Status.UNUSABLE),
        ({}, Status.UNUSABLE),
    ],
)
def test_what_hides_the_ground_most_counts(flags, expected):
    assert classify(flags_of(**flags)).item() == expected


def test_a_mask_of_too_few_bands_is_refused(tmp_path):
    scene = write_scene(tmp_path / "image.tif", texture((3, 60, 80)), GRID.affine)
    udm2 = scene.sources[0].model_copy(update={"band": "udm2", "asset": "mask"})
    with pytest.raises(InputRefusedError, match=r"asset mask, .* has 3 bands; a usable data mask has 8"):
        check_mask(scene.model_copy(update={"udm2": udm2}))


def test_a_cloud_has_a_rim_and_a_speckle_has_none(tmp_path):
    scene = write_scene(tmp_path / "image.tif", texture((3, 100, 120)), GRID.affine)
    cloud = np.zeros((100, 120), bool)
    for side, y0, x0 in ((5, 60, 60), (4, 20, 20)):
        cloud[y0 : y0 + side, x0 : x0 + side] = True
    flags = np.zeros((8, 100, 120), np.uint8)
    flags[0], flags[5] = ~cloud, cloud
    udm2 = write_udm2(tmp_path / "mask.tif", {}, (100, 120), GRID.affine)
    with rasterio.open(udm2.href, "r+") as file:
        file.write(flags)
    seen = read_usable(scene.model_copy(update={"udm2": udm2}), GRID, Window(0, 0, 120, 100))
    expected = np.zeros((100, 120), bool)
    expected[60 - 8 : 65 + 8, 60 - 8 : 65 + 8] = True
    expected[20:24, 20:24] = True
    np.testing.assert_array_equal(seen == Status.CLOUD, expected)
