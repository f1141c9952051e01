"""Drop, runout and reach angle against planes, cones and a valley with known answers."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from coseis.landform import terrain_attributes
from coseis.reach import REACH_COLUMNS, _interpolate, measure_reach
from making import ORIGIN, UTM
from making_dem import dem_of, hills, write_dem

PIXEL_M = 10.0


class Surface:
    """A DEM without end, given by a function of columns and rows of pixel centres."""

    def __init__(self, height, across_m=1.0, down_m=1.0):
        self.height, self.size_m = height, (across_m, down_m)

    def elevation(self, window):
        row, col = np.mgrid[: window.height, : window.width] + 0.5
        return self.height(col + window.col_off, row + window.row_off).astype(np.float32)

    def scale_m(self, col, row):
        return tuple(np.full(np.shape(col), size) for size in self.size_m)


def reach(shape, height, **size):
    return [float(values[0]) for values in measure_reach(np.array([shape], object), Surface(height, **size))]


def between_ends(length, width):
    """Of a strip down a plane, from the middle of one end to that of the other.

    A twentieth of the outline, and then of the drop, reaches around the corners: both sides of each end.
    """
    corner = max(0.0, 0.05 * 2 * (length + width) - width) / 2
    corner += 0.05 * (length - 2 * corner)
    return length - 2 * corner**2 / (width + 2 * corner)


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 360), st.floats(0.02, 1.5), st.floats(20, 400), st.floats(5, 100), st.floats(-3000, 3000))
def test_a_strip_down_a_plane_has_its_ends_and_its_slope(bearing, steep, length, width, offset):
    """A rectangle whose ends lie along contours: the plane's fall over its length, less its blunt corners."""
    angle = np.radians(bearing)
    strip = shapely.affinity.rotate(shapely.box(0, -width / 2, length, width / 2), bearing, origin=(0, 0))
    strip = shapely.affinity.translate(strip, offset, -offset)

    def plane(x, y):
        return 9000 - steep * ((x - offset) * np.cos(angle) + (y + offset) * np.sin(angle))

    drop, runout, ratio = reach(strip, plane)
    expected = between_ends(length, width)
    assert drop == pytest.approx(steep * expected, abs=steep * 1.5 + 0.01)
    if drop >= 1.01:
        assert runout == pytest.approx(expected, abs=1.5)
        assert ratio == pytest.approx(steep, rel=0.02)


def test_a_sector_of_a_cone_falls_from_its_tip_to_its_arc():
    """Half a metre down a metre out; the places of an arc lie inside its chord's ends, so within 2 %."""
    tip, radius, half = (500.0, 500.0), 400.0, np.radians(15)
    turn = np.linspace(-half, half, 60)
    arc = np.column_stack([tip[0] + radius * np.cos(turn), tip[1] + radius * np.sin(turn)])
    sector = shapely.Polygon([tip, *arc])
    drop, runout, ratio = reach(sector, lambda x, y: 800 - 0.5 * np.hypot(x - tip[0], y - tip[1]))
    # Its tip is 50 m long: a twentieth of the outline (1009 m) and of the drop down both sides.
    assert drop == pytest.approx(200 - 11, abs=1.5)
    assert runout == pytest.approx(378, rel=0.02)
    assert ratio == pytest.approx(0.5, rel=0.03)


def test_a_peak_within_is_no_crown():
    """What surrounds a landslide decides: its scar begins at its outline."""
    ring = shapely.Point(500, 500).buffer(100)
    drop, runout, _ = reach(ring, lambda x, y: 900 - np.hypot(x - 500, y - 500))
    assert drop < 1
    assert np.isnan(runout)


@pytest.mark.parametrize("fall_m", [0.0, 0.9])
def test_flat_ground_has_no_reach_angle(fall_m):
    drop, runout, ratio = reach(shapely.box(0, 0, 100, 100), lambda x, y: 50 - fall_m * y / 100)
    assert drop == pytest.approx(fall_m, abs=0.02)
    assert np.isnan([runout, ratio]).all()


def test_one_wrong_pixel_does_not_decide():
    def plane(x, y):
        return 1000 - 0.4 * y

    def spiked(x, y):
        return np.where((np.floor(x) == 100) & (np.floor(y) == 300), 1400, plane(x, y))

    strip = shapely.box(0, 0, 100.5, 600)
    true, found = reach(strip, plane), reach(strip, spiked)
    # Interpolation makes one pixel some six places of two thousand, 350 m too high.
    assert found[0] == pytest.approx(true[0], rel=0.1)
    assert found[2] == pytest.approx(true[2], rel=0.15)


def test_pixels_that_are_not_square_are_measured_in_metres():
    strip = shapely.box(0, 0, 10, 100)  # 70 m by 3 km
    drop, runout, ratio = reach(strip, lambda x, y: 1000 - 15 * y, across_m=7.0, down_m=30.0)
    expected = 30 * between_ends(100, 10)
    assert (drop, runout) == (pytest.approx(expected / 2, rel=0.01), pytest.approx(expected, rel=0.01))
    assert ratio == pytest.approx(0.5)


@pytest.mark.parametrize(("share", "known"), [(0.02, True), (0.2, False)])
def test_without_elevations_nothing_is_said(share, known):
    """The lowest of a strip is a void."""

    def holed(x, y):
        return np.where(y > 1000 * (1 - share), np.nan, 1000 - 0.5 * y)

    found = reach(shapely.box(0, 0, 50, 1000), holed)
    assert (~np.isnan(found)).all() == known
    assert np.isnan(found).all() == (not known)


def test_parts_of_one_landslide_count_together():
    parts = shapely.MultiPolygon([shapely.box(0, 0, 40, 100), shapely.box(0, 200, 40, 300)])
    drop, runout, _ = reach(parts, lambda x, y: 500 - 0.5 * y)
    assert drop == pytest.approx(150, rel=0.03)
    assert runout == pytest.approx(300, rel=0.03)


def test_interpolation_is_that_of_the_plane_and_reads_bounded_windows():
    rng = np.random.default_rng(5)
    x, y = rng.uniform(-1200, 1200, (2, 4000))
    sizes = []

    def read(window: Window):
        sizes.append((window.width, window.height))
        return Surface(lambda col, row: 3 + 0.25 * col - 0.5 * row).elevation(window)

    np.testing.assert_allclose(_interpolate(x, y, read), 3 + 0.25 * x - 0.5 * y, atol=1e-3)
    assert np.max(sizes) <= 1025


@pytest.fixture(scope="module")
def landscape(tmp_path_factory):
    """One surface in a file of the zone's metres, its heights those of `hills`."""
    folder = tmp_path_factory.mktemp("reach")
    return dem_of(write_dem(folder / "dem.tif", hills(300, 300, pixel_m=PIXEL_M), pixel_m=PIXEL_M))


def slides(count, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(300, 2700, (2, count))
    shapes = [
        shapely.affinity.rotate(shapely.box(-length / 2, -20, length / 2, 20), turn)
        for length, turn in zip(rng.uniform(60, 500, count), rng.uniform(0, 180, count), strict=True)
    ]
    moved = [
        shapely.affinity.translate(shape, ORIGIN[0] + east, ORIGIN[1] - south)
        for shape, east, south in zip(shapes, x, y, strict=True)
    ]
    return gpd.GeoDataFrame(geometry=moved, crs=UTM)


def test_a_landslide_drops_no_farther_than_its_ground(landscape):
    found = terrain_attributes(slides(80), landscape)
    measured = found.dropna(subset=list(REACH_COLUMNS))
    assert len(measured) > 70
    assert (measured.drop_m <= measured.relief_m + 1).all()
    longest = measured.minimum_bounding_circle().area ** 0.5 * 2 / np.sqrt(np.pi)
    assert (measured.runout_m <= longest + 1).all()
    np.testing.assert_allclose(measured.h_over_l, measured.drop_m / measured.runout_m)


@pytest.mark.parametrize("group_px", [7, 10_000])
def test_neither_neighbours_nor_groups_change_a_bit(landscape, group_px):
    shapes = slides(60)
    columns = list(REACH_COLUMNS)
    expected = pd.DataFrame(terrain_attributes(shapes, landscape)[columns])
    found = terrain_attributes(shapes.iloc[::-1], landscape, group_px=group_px).iloc[::-1]
    pd.testing.assert_frame_equal(pd.DataFrame(found[columns]), expected, check_exact=True)


def test_metres_are_those_of_the_ground_whatever_the_crs(tmp_path):
    """A strip of 1 km down a slope of one half, its DEM in Web Mercator: a metre there is 0.73 of one."""
    x, y = 15_800_000.0, 5_270_000.0  # 141.9 E, 42.7 N
    ground_m = 30 * np.cos(np.radians(42.74))
    z = np.repeat(1000 - 0.5 * ground_m * np.arange(60)[:, None], 60, axis=1).astype(np.float32)
    path = write_dem(tmp_path / "dem.tif", z, affine=Affine(30, 0, x, 0, -30, y), crs="EPSG:3857")
    tall = 1000 / np.cos(np.radians(42.74))
    strip = shapely.box(x + 600, y - 300 - tall, x + 700, y - 300)
    found = terrain_attributes(gpd.GeoDataFrame(geometry=[strip], crs="EPSG:3857"), dem_of(path)).iloc[0]
    assert found.runout_m == pytest.approx(between_ends(1000, 73), rel=0.01)
    assert found.h_over_l == pytest.approx(0.5, rel=0.01)
