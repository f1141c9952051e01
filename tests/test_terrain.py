import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from coseis.errors import UsageError
from coseis.simulate.landcover import Cover, make_land_cover
from coseis.simulate.terrain import (
    CELL_M,
    CELL_PX,
    MARGIN_CELLS,
    interpolate,
    make_terrain,
    slope_deg,
    smooth_noise,
)


@pytest.fixture(scope="module")
def terrain():
    return make_terrain(700, seed=4)


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_interpolate_equals_scipy(seed, ny, nx):
    rng = np.random.default_rng(seed)
    field = rng.random((ny, nx)).astype(np.float32)
    y, x = rng.uniform(-1, ny + 1, 5), rng.uniform(-1, nx + 1, 6)
    expected = ndimage.map_coordinates(field, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")
    assert interpolate(field, y, x) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("preset", "median_deg", "relief_m"), [("iburi", 22, (50, 320)), ("steep", 33, (80, 600))]
)
def test_slopes_and_relief_are_those_of_the_preset(preset, median_deg, relief_m):
    terrain = make_terrain(1000, seed=3, preset=preset)
    hills = terrain.upsample(terrain.coarse_plain.astype(np.float32)) < 0.05
    surface_model = terrain.elevation_m.reshape(100, 10, 100, 10).mean(axis=(1, 3))
    slope = slope_deg(surface_model, 30.0)[hills[5::10, 5::10]]
    assert np.median(slope) == pytest.approx(median_deg, abs=1.5)
    kilometre = [terrain.elevation_m[y : y + 333, x : x + 333] for y in (0, 333, 666) for x in (0, 333, 666)]
    assert relief_m[0] < np.median([np.ptp(part) for part in kilometre]) < relief_m[1]


def test_valleys_are_150_to_400_m_apart(terrain):
    """Along straight lines, the distance between streams that drain more than 2 ha."""
    area = np.zeros(terrain.coarse_plain.size)
    area[terrain.drainage.cells] = terrain.drainage.area_m2()
    stream = (area.reshape(terrain.coarse_plain.shape) > 20_000) & ~terrain.coarse_plain
    density_per_m = stream.mean() / CELL_M  # stream length on area
    assert 150 < 1 / density_per_m < 400


@given(st.integers(64, 150), st.integers(0, 100))
@settings(max_examples=4, deadline=None)
def test_any_size_gives_equal_arrays_for_equal_seeds(size_px, seed):
    first, second = (make_terrain(size_px, seed=seed) for _ in range(2))
    assert first.elevation_m.shape == (size_px, size_px)
    assert first.elevation_m.dtype == np.float32
    assert np.isfinite(first.elevation_m).all()
    assert np.array_equal(first.elevation_m, second.elevation_m)


def test_pixels_and_cells_are_inverse(terrain):
    cells = terrain.to_cell(np.array([0.0, 8.0]), np.array([4.0, 700.0]))
    assert terrain.to_pixel(cells) == pytest.approx(np.array([[0.0, 8.0], [4.0, 700.0]]))
    assert cells[1, 0] == pytest.approx(4 / CELL_PX - 0.5 + MARGIN_CELLS)


@given(st.floats(0.5, 12), st.integers(1, 40), st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_smooth_noise_has_variance_1_at_any_size(sigma_px, n, seed):
    rng = np.random.default_rng(seed)
    noise = np.array([smooth_noise(rng, (n, 2), sigma_px)[0, 0] for _ in range(150)])
    assert abs(noise.mean()) < 0.4
    assert 0.7 < noise.std() < 1.35


def test_the_river_runs_at_distance_zero_on_the_lowest_ground(terrain):
    centres = ((np.arange(700) + 0.5) * 3).astype(np.float32)
    distance = np.abs(terrain.rivers[0].distance_m(centres[:, None], centres[None, :]))
    near = distance < 20
    if near.any():
        assert np.median(terrain.elevation_m[near]) < np.percentile(terrain.elevation_m, 25)


def test_cover_is_mostly_forest_with_fields_on_the_plain_and_water_in_the_river(terrain):
    land = make_land_cover(terrain, seed=4)
    again = make_land_cover(terrain, seed=4)
    assert np.array_equal(land.before, again.before)
    assert np.array_equal(land.tone, again.tone)
    forest = np.isin(land.before, [Cover.BROADLEAF, Cover.CONIFER])
    assert forest.mean() > 0.6
    assert set(np.unique(land.before)) <= {int(cover) for cover in Cover}
    fields = np.isin(land.before, [Cover.RICE, Cover.BARE_FIELD])
    assert fields.any()
    assert np.percentile(slope_deg(terrain.elevation_m, 3.0)[fields], 90) < 8
    changed = land.before != land.after
    assert set(np.unique(land.after[changed])) == {Cover.BARE_FIELD}
    roads_km = (land.before == Cover.ROAD).sum() * 9 / 4 / 1000
    assert 0.5 < roads_km / 4.41 < 2.0  # per square kilometre


def test_unknown_preset_is_refused_by_name():
    with pytest.raises(UsageError, match=r"preset is 'alps'; expected one of iburi, steep"):
        make_terrain(100, seed=0, preset="alps")
