"""Is the synthetic event as hard as a real one? Simple rules must fail on it as on a real one."""

from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from rasterio.features import rasterize
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from coseis.simulate import simulate_arrays, simulate_event
from coseis.simulate.landslides import make_landslides
from coseis.simulate.scenes import Look, Sky, direct_light
from coseis.simulate.terrain import make_terrain
from coseis.training.patches import Patch, scene_percentiles
from ladder_splits import TrainingPart, load_splits
from rungs import THRESHOLDS, BoostedTrees, f1_by_threshold

pytestmark = pytest.mark.slow
SIZE_KM = 4.5
SIGMAS_PX = (1, 2, 4, 8)
PREVALENCE = 0.05
SPLITS = Path(__file__).parents[1] / "benchmarks" / "splits.yaml"
DISPLAY_WHITE, DISPLAY_GAMMA = 0.33, 0.75
"""Reflectance that 8-bit scenes show as white, and their curve, as in the shipped model's card."""


@pytest.fixture(scope="module")
def event(tmp_path_factory):
    return simulate_event(tmp_path_factory.mktemp("event"), size_km=SIZE_KM, seed=0)


@pytest.fixture(scope="module")
def seen(event):
    """Reflectance before and after (4, y, x), the truth, and where both are clear by the masks delivered."""
    with rasterio.open(event.mask) as source:
        mask, bounds = source.read(1) > 0, source.bounds
    phases = [mosaic(event, before, mask.shape, bounds) for before in (True, False)]
    clear = np.isfinite(phases[0][0]) & np.isfinite(phases[1][0])
    return *phases, mask, clear


def mosaic(event, before, shape, bounds):
    """float32 (4, y, x), the first clear scene at every pixel, NaN where none is."""
    whole = np.full((4, *shape), np.nan, np.float32)
    items = pystac.Catalog.from_file(str(event.catalog)).get_items(recursive=True)
    for item in sorted(items, key=lambda item: item.id):
        if (item.datetime < event.event_time) == before:
            paths = {a.extra_fields["pl:asset_type"]: a.get_absolute_href() for a in item.assets.values()}
            with rasterio.open(paths["ortho_udm2"]) as source:
                clear = source.read(Sky.CLEAR) > 0
            with rasterio.open(paths["ortho_analytic_4b_sr"]) as source:
                row, column = (
                    round((bounds.top - source.bounds.top) / 3),
                    round((source.bounds.left - bounds.left) / 3),
                )
                part = whole[:, row : row + source.height, column : column + source.width]
                part[:, clear & np.isnan(part[0])] = source.read()[:, clear & np.isnan(part[0])] * 1e-4
    return whole


def best_f1(values, truth):
    """The highest F1 of any threshold at 5 % landslides."""
    thresholds = np.unique(np.quantile(values, np.linspace(0.5, 0.9995, 400)))
    return f1_by_threshold(values, truth, thresholds, prevalence=PREVALENCE).max()


def ndvi(bands):
    return (bands[3] - bands[2]) / (bands[3] + bands[2])


def shown(bands):
    """Red, green, blue (y, x, 3) as 8-bit scenes show them, 0-1."""
    return (np.clip(bands[[2, 1, 0]] / DISPLAY_WHITE, 0, 1) ** DISPLAY_GAMMA).transpose(1, 2, 0)


def test_the_best_red_green_threshold_is_mediocre(seen):
    _, post, mask, clear = seen
    assert 0.50 < best_f1((post[2] / post[1])[clear], mask[clear]) < 0.70


def test_the_best_ndvi_difference_is_better_but_not_good(seen):
    pre, post, mask, clear = seen
    assert 0.65 < best_f1((ndvi(pre) - ndvi(post))[clear], mask[clear]) < 0.80


def test_boosted_trees_are_good_but_not_perfect(seen):
    """The ladder's own, on red, green and blue after the event, grown and chosen on two other events."""
    _, post, mask, clear = seen
    learnt = tuple(patch_of(*simulate_arrays(1000, seed=seed)[1:], name=f"event-{seed}") for seed in (1, 2))
    part = TrainingPart(learnt, (), Path(), load_splits(SPLITS), PREVALENCE)
    fitted = BoostedTrees(training_px=100_000, iterations=100).fit(part, seed=0)
    probability = fitted.predict(patch_of(np.where(clear, post, np.nan), mask, name="seen-0"))[clear]
    assert 0.75 < f1_by_threshold(probability, mask[clear], THRESHOLDS, prevalence=PREVALENCE).max() < 0.85


def patch_of(bands, mask, *, name):
    rgb = shown(bands)
    image = np.where(np.isfinite(rgb), np.round(1 + 254 * rgb), 0).astype(np.uint8)
    return Patch(image, mask.astype(np.uint8), name, scene_percentiles(rgb))


def test_a_share_of_slid_ground_lies_in_the_shade(event):
    """Less than half of the direct sunlight of flat ground; by the sun that the scenes tell of."""
    items = pystac.Catalog.from_file(str(event.catalog)).get_items(recursive=True)
    scene = next(item for item in items if item.datetime > event.event_time)
    look = Look(scene.properties["view:sun_azimuth"], scene.properties["view:sun_elevation"])
    with rasterio.open(event.dem) as dem, rasterio.open(event.mask) as mask:
        light = direct_light(dem.read(1), look)[mask.read(1) > 0]
    assert (light < 0.5).mean() > 0.15


def test_many_places_have_no_landslide():
    """Cells of 768 m, as the real labelled tiles; a map of 10 km is needed for enough of them."""
    size_px = 13 * 256
    terrain = make_terrain(size_px, seed=0)
    slides = make_landslides(terrain, seed=0)
    mask = rasterize(slides.bodies, out_shape=(size_px, size_px), dtype=np.uint8)
    assert 0.02 < mask.mean() < 0.06
    assert (mask.reshape(13, 256, 13, 256).max(axis=(1, 3)) == 0).mean() >= 0.4


# Beside the real scene


@pytest.fixture(scope="module")
def real(real_data):
    """Red, green, blue (y, x, 3) in 0-1, NaN outside."""
    with rasterio.open(Path(real_data) / "iburi" / "planetscope" / "scene_post.tif") as source:
        rgb = source.read([1, 2, 3]).transpose(1, 2, 0).astype(np.float32) / 255
        inside = ndimage.binary_erosion(source.dataset_mask() > 0, iterations=20)
    rgb[~inside] = np.nan
    return rgb


@pytest.fixture(scope="module")
def synthetic(seen):
    _, post, _, clear = seen
    rgb = shown(post)
    rgb[~ndimage.binary_erosion(clear, iterations=3)] = np.nan
    return rgb


def test_a_small_classifier_hardly_tells_pixels_from_real_ones(real, synthetic):
    """From a pixel's colours and the variation around it; learnt on the north, tried on the south."""
    random = np.random.default_rng(0)
    north, south = [], []
    for rgb in (real, synthetic):
        # A real pixel has one of 256 levels, which alone would give it away.
        rgb = rgb + random.uniform(-0.5, 0.5, rgb.shape).astype(np.float32) / 255
        features = np.dstack([in_spreads(rgb), *(variation(rgb, sigma_px) for sigma_px in SIGMAS_PX)])
        half = len(rgb) // 2
        for part, rows in ((north, features[:half]), (south, features[half:])):
            pixels = rows[np.isfinite(rows).all(axis=-1)]
            part.append(pixels[random.choice(len(pixels), 30_000, replace=False)])
    is_real = np.repeat([True, False], 30_000)
    classifier = HistGradientBoostingClassifier(random_state=0).fit(np.concatenate(north), is_real)
    assert roc_auc_score(is_real, classifier.predict_proba(np.concatenate(south))[:, 1]) < 0.8


def in_spreads(rgb):
    """Intensity from the scene's median, in units of its 2-98 % range: what networks see of a scene."""
    low, median, high = np.nanpercentile(rgb, [2, 50, 98], axis=(0, 1))
    return (rgb - median) / (high - low)


def joint_histogram(rgb, bands):
    values = in_spreads(rgb)[..., bands].reshape(-1, 2)
    values = values[np.isfinite(values).all(axis=1)]
    counts = np.histogram2d(*values.T, bins=24, range=[[-0.6, 1.0]] * 2)[0]
    return counts / counts.sum()


@pytest.mark.parametrize("bands", [[0, 1], [1, 2], [0, 2]])
def test_colours_occur_together_as_in_the_real_scene(real, synthetic, bands):
    common = np.minimum(joint_histogram(real, bands), joint_histogram(synthetic, bands)).sum()
    assert common > 0.7


@pytest.mark.parametrize("sigma_px", SIGMAS_PX)
def test_local_variation_is_near_the_real_scenes(real, synthetic, sigma_px):
    ours, theirs = (np.nanquantile(variation(rgb, sigma_px), [0.25, 0.5, 0.75]) for rgb in (synthetic, real))
    assert ours == pytest.approx(theirs, rel=0.2)


def variation(rgb, sigma_px):
    """Standard deviation of green around each pixel relative to its mean, NaN where anything is missing."""
    green = rgb[..., 1]
    mean = ndimage.gaussian_filter(green, sigma_px)
    square = ndimage.gaussian_filter(green**2, sigma_px)
    return np.sqrt(np.maximum(square - mean**2, 0)) / (mean + 0.01)
