"""Slope and attributes against surfaces with known answers, gdaldem, and each other."""

import shutil
import subprocess
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from coseis.dem import Dem
from coseis.errors import UsageError
from coseis.landform import TERRAIN_COLUMNS, read_surface, slope_aspect, terrain_attributes
from coseis.reach import REACH_COLUMNS
from making import ORIGIN, UTM
from making_dem import dem_of, height_at, hills, write_dem

ONE = np.ones((1, 1))


def polygons(count: int, extent_m: float, *, seed: int = 0, radius_m: float = 60) -> gpd.GeoDataFrame:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(radius_m * 3, extent_m - radius_m * 3, (2, count))
    shapes = shapely.buffer(
        shapely.points(ORIGIN[0] + x, ORIGIN[1] - y), rng.uniform(5, radius_m, count), quad_segs=2
    )
    return gpd.GeoDataFrame({"id": [f"p{n}" for n in range(count)]}, geometry=shapes, crs=UTM)


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(1, 90), st.floats(1, 90))
def test_a_plane_has_its_slope_and_aspect_everywhere(east, north, down_m, across_m):
    row, col = np.mgrid[:6, :7]
    z = 100 + east * col * across_m - north * row * down_m
    slope, aspect = slope_aspect(z, down_m * ONE, across_m * ONE)
    np.testing.assert_allclose(slope, np.degrees(np.arctan(np.hypot(east, north))), atol=1e-6)
    if np.hypot(east, north) > 1e-3:
        down_slope = np.degrees(np.arctan2(-east, -north)) % 360
        difference = (aspect - down_slope + 180) % 360 - 180
        np.testing.assert_allclose(difference, 0, atol=1e-6)


def test_a_cone_falls_away_from_its_top_on_all_sides():
    row, col = np.mgrid[-50:51, -50:51] * 10.0
    slope, aspect = slope_aspect(1000 - 0.5 * np.hypot(row, col), 10 * ONE, 10 * ONE)
    away = np.degrees(np.arctan2(col, -row))[1:-1, 1:-1] % 360
    far = np.hypot(row, col)[1:-1, 1:-1] > 100
    np.testing.assert_allclose(slope[far], np.degrees(np.arctan(0.5)), atol=0.1)
    assert np.abs((aspect - away + 180) % 360 - 180)[far].max() < 0.3


def test_level_ground_has_no_aspect_and_a_void_takes_its_neighbours():
    z = np.zeros((6, 6))
    z[1, 1] = np.nan
    slope, aspect = slope_aspect(z, ONE, ONE)
    assert np.isnan(aspect).all()
    expected = np.zeros((4, 4))
    expected[:2, :2] = np.nan
    np.testing.assert_array_equal(slope, expected)
    z[1, 1] = 0
    z[2, 2] = np.nan  # Horn's sums leave the middle out; gdaldem does not
    assert np.isnan(slope_aspect(z, ONE, ONE)[0][1, 1])


@pytest.mark.skipif(shutil.which("gdaldem") is None, reason="gdaldem (Debian: gdal-bin) is not installed")
def test_slope_and_aspect_are_those_of_gdaldem(tmp_path):
    z = hills(70, 90)
    z[20:23, 30:34] = -9999
    path = write_dem(tmp_path / "dem.tif", z, nodata=-9999)
    expected = {}
    for what in ("slope", "aspect"):
        out = tmp_path / f"{what}.tif"
        subprocess.run(["gdaldem", what, path, out, "-q"], check=True)
        with rasterio.open(out) as file:
            expected[what] = np.where(file.read(1) == -9999, np.nan, file.read(1))
    ringed = np.full((72, 92), np.nan)
    ringed[1:-1, 1:-1] = np.where(z == -9999, np.nan, z)
    slope, aspect = slope_aspect(ringed, 30 * ONE, 30 * ONE)
    np.testing.assert_allclose(slope, expected["slope"], atol=1e-4)
    assert np.nanmax(np.abs((aspect - expected["aspect"] + 180) % 360 - 180)) < 0.01  # it has float32
    np.testing.assert_array_equal(np.isnan(aspect), np.isnan(expected["aspect"]))
    # What is read from the file has the zone's scale in it, 0.9996 to 0.9997 here, and true north.
    surface = read_surface(dem_of(path).lattices[0], Window(0, 0, 90, 70))
    np.testing.assert_allclose(surface.slope, expected["slope"], atol=0.02)


def test_true_north_and_true_metres_whatever_the_crs(tmp_path):
    """A slope that falls due south by half, on a Web Mercator grid: its metre is 0.73 of one."""
    x, y = 15_800_000.0, 5_270_000.0  # 141.9 E, 42.7 N
    ground_m = 30 * np.cos(np.radians(42.74))
    z = np.repeat(1000 - 0.5 * ground_m * np.arange(40)[:, None], 40, axis=1).astype(np.float32)
    path = write_dem(tmp_path / "dem.tif", z, affine=Affine(30, 0, x, 0, -30, y), crs="EPSG:3857")
    surface = read_surface(dem_of(path).lattices[0], Window(1, 1, 38, 38))
    np.testing.assert_allclose(surface.slope, np.degrees(np.arctan(0.5)), atol=0.1)
    np.testing.assert_allclose(surface.north, -1, atol=1e-4)


def test_degrees_and_metres_give_the_same(tmp_path):
    """One surface, sampled on a 10 m grid of the UTM zone and on one in degrees of about that size."""
    utm = write_dem(tmp_path / "utm.tif", hills(400, 400, pixel_m=10), pixel_m=10)
    with rasterio.open(utm) as file:
        west, south, east, north = transform_bounds(UTM, "EPSG:4326", *file.bounds)
    affine = Affine(10 / 82_000, 0, west, 0, -10 / 111_100, north)
    rows, cols = int((north - south) / -affine.e), int((east - west) / affine.a)
    longitude, latitude = np.meshgrid(
        west + (np.arange(cols) + 0.5) * affine.a, north + (np.arange(rows) + 0.5) * affine.e
    )
    x, y = Transformer.from_crs("EPSG:4326", UTM, always_xy=True).transform(longitude, latitude)
    heights = height_at(x - ORIGIN[0], y - ORIGIN[1])
    degrees = write_dem(tmp_path / "degrees.tif", heights, affine=affine, crs="EPSG:4326")
    shapes = polygons(60, 4000, radius_m=80)
    one, other = (terrain_attributes(shapes, dem_of(path)) for path in (utm, degrees))
    assert (one.dem_share == 1).all()
    assert (other.dem_share == 1).all()
    # The smallest shapes are half a pixel wide: what differs is where pixels lie.
    large = shapes.area > 2000
    np.testing.assert_allclose(other.elevation_mean_m[large], one.elevation_mean_m[large], atol=0.15)
    np.testing.assert_allclose(other.slope_mean_deg[large], one.slope_mean_deg[large], atol=0.3)
    apart = (other.aspect_deg - one.aspect_deg + 180) % 360 - 180
    # The zone's up is 0.7 degrees off north here: aspects of the grids themselves would differ by that.
    assert np.abs(apart[large].median()) < 0.2


def test_attributes_are_sums_over_covered_pixels(tmp_path):
    """By hand: a polygon over the half of one pixel and the whole of another."""
    z = np.array([[10, 20, 30, 40]] * 4, np.float32)
    path = write_dem(tmp_path / "dem.tif", z)
    x, y = ORIGIN
    shape = shapely.box(x + 45, y - 60, x + 90, y - 30)  # half of column 1, column 2, of row 1
    [row] = terrain_attributes(gpd.GeoDataFrame(geometry=[shape], crs=UTM), dem_of(path)).itertuples()
    assert row.elevation_mean_m == pytest.approx((0.5 * 20 + 30) / 1.5)
    assert (row.elevation_min_m, row.elevation_max_m, row.relief_m) == (20, 30, 10)
    steep = np.degrees(np.arctan(10 / 30))
    assert row.slope_mean_deg == pytest.approx(steep, abs=0.02)
    assert row.slope_p90_deg == pytest.approx(steep, abs=0.02)
    assert row.aspect_deg == pytest.approx(270, abs=1)  # it rises to the east
    assert row.dem_share == 1
    assert row.dem_source == "dem.tif"


def test_a_valley_across_north_has_no_mean_of_180(tmp_path):
    """Directions of 350 and 10 degrees have their mean at 0."""
    col = np.arange(40)
    # Falls to the north everywhere, and a little towards the middle from both sides.
    z = (np.arange(40)[:, None] * 10 + np.abs(col - 19.5) * 10 * np.tan(np.radians(10))).astype(np.float32)
    x, y = ORIGIN
    shape = shapely.box(x + 300, y - 900, x + 900, y - 300)
    out = terrain_attributes(
        gpd.GeoDataFrame(geometry=[shape], crs=UTM), dem_of(write_dem(tmp_path / "dem.tif", z))
    )
    assert abs((out.aspect_deg[0] + 180) % 360 - 180) < 1


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """One surface with a void: in one file, and cut into six with one pixel of overlap."""
    folder = tmp_path_factory.mktemp("tiles")
    z = hills(200, 200)
    z[90:95, 40:60] = np.nan
    whole = dem_of(write_dem(folder / "whole.tif", z, nodata=np.nan))
    tiles = []
    for number, (row, col) in enumerate([(0, 0), (0, 65), (0, 130), (100, 0), (100, 65), (100, 130)]):
        affine = Affine(30, 0, ORIGIN[0] + 30 * col, 0, -30, ORIGIN[1] - 30 * row)
        part = z[row : row + 101, col : col + 71]
        tiles += dem_of(write_dem(folder / f"tile{number}.tif", part, affine=affine)).tiles
    return whole, whole.model_copy(update={"tiles": tuple(tiles)})


def values(table: gpd.GeoDataFrame) -> pd.DataFrame:
    return pd.DataFrame(table[[*TERRAIN_COLUMNS, "dem_share"]])


@pytest.mark.parametrize("group_px", [7, 64, 10_000])
def test_neither_groups_nor_tiles_change_a_bit(tiled, group_px):
    whole, parts = tiled
    assert len(parts.lattices) == 1
    shapes = polygons(150, 6000, radius_m=150)
    expected = values(terrain_attributes(shapes, whole))
    pd.testing.assert_frame_equal(
        expected, values(terrain_attributes(shapes, parts, group_px=group_px)), check_exact=True
    )
    shuffled = shapes.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(
        expected.loc[shuffled.index],
        values(terrain_attributes(shuffled, parts, group_px=group_px)),
        check_exact=True,
    )
    alone = pd.concat([values(terrain_attributes(shapes.iloc[[n]], parts)) for n in range(0, 150, 10)])
    pd.testing.assert_frame_equal(expected.iloc[::10], alone, check_exact=True)


def test_a_polygon_larger_than_memory_is_read_in_parts(tiled, monkeypatch):
    whole, _ = tiled
    shapes = polygons(20, 6000, radius_m=900, seed=4)
    expected = terrain_attributes(shapes, whole)
    monkeypatch.setattr("coseis.landform.MOST_WINDOW_PX", 200)
    again = terrain_attributes(shapes, whole)
    pd.testing.assert_frame_equal(values(expected), values(again), rtol=1e-9)


def test_what_the_dem_does_not_have_is_missing_and_said(tiled):
    whole, _ = tiled
    x, y = ORIGIN
    void = shapely.box(x + 1260, y - 2820, x + 1740, y - 2730)
    half = shapely.box(x + 5400, y - 630, x + 6600, y - 600)  # the DEM ends at 6000 m
    off = shapely.box(x - 900, y - 90, x - 600, y)
    out = terrain_attributes(gpd.GeoDataFrame({"id": [1, 2, 3]}, geometry=[void, half, off], crs=UTM), whole)
    np.testing.assert_array_equal(out.dem_share, [0, 0.5, 0])
    numbers = out[list(TERRAIN_COLUMNS)]
    assert numbers.iloc[[0, 2]].isna().all(axis=None)
    # Of half an outline nobody knows where the crown and the toe lie.
    assert list(numbers.columns[numbers.iloc[1].isna()]) == list(REACH_COLUMNS)
    assert list(out.id) == [1, 2, 3]


def test_of_two_resolutions_the_one_that_has_more_counts(tmp_path):
    """A fine DEM over the western half, a coarse one 1000 m higher over all."""
    z = hills(100, 100)
    coarse = dem_of(write_dem(tmp_path / "coarse.tif", z + 1000))
    fine = dem_of(
        write_dem(tmp_path / "fine.tif", np.kron(z, np.ones((3, 3), np.float32))[:, :150], pixel_m=10)
    )
    both = coarse.model_copy(update={"tiles": (*coarse.tiles, *fine.tiles)})
    assert [round(lattice.pixel_m) for lattice in both.lattices] == [10, 30]
    x, y = ORIGIN
    shapes = [shapely.box(x + left, y - 990, x + left + 60, y - 900) for left in (600, 1455, 2400)]
    out = terrain_attributes(gpd.GeoDataFrame(geometry=shapes, crs=UTM), both)
    assert list(out.elevation_mean_m > 900) == [False, True, True]
    assert (out.dem_share == 1).all()


def test_the_real_surface_model_of_iburi(real_data):
    """The slope that others made of it lies on ours, pixel on pixel."""
    folder = real_data / "iburi" / "sentinel2"
    [lattice] = dem_of(folder / "dsm_30m.tif").lattices
    with rasterio.open(folder / "slope_30m.tif") as file:
        theirs = file.read(1)[2:-2, 2:-2]
    height, width = theirs.shape
    match = {}
    for shift in [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)]:
        ours = read_surface(lattice, Window(2 + shift[1], 2 + shift[0], width, height)).slope
        known = ~np.isnan(ours)
        match[shift] = np.corrcoef(ours[known], theirs[known])[0, 1]
    assert match.pop((0, 0)) > 0.95
    assert max(match.values()) < 0.8
    assert lattice.pixel_m == pytest.approx(29.94, abs=0.01)


def test_no_polygons_and_no_crs(tiled):
    out = terrain_attributes(polygons(0, 6000), tiled[0])
    assert len(out) == 0
    assert set(TERRAIN_COLUMNS) < set(out.columns)
    with pytest.raises(UsageError, match="no CRS"):
        terrain_attributes(gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)]), tiled[0])


def test_a_dem_is_plain_data(tiled):
    dem = tiled[1]
    assert Dem.model_validate_json(dem.model_dump_json()) == dem
    assert Path(dem.tiles[0].source.href).is_absolute()
