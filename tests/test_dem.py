"""Tiles and the lattices that they lie on: Copernicus' own layout, borders, metres per pixel."""

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS, Geod
from rasterio.windows import Window

from coseis.dem import Dem, DemTile, Lattice
from coseis.types import BandSource

WGS84 = CRS("EPSG:4326").to_wkt()


def tile(name: str, *corner: float, shape=(3600, 3600), step=(1 / 3600, 1 / 3600), crs=WGS84) -> DemTile:
    """North-west corner of the first pixel's centre, as Copernicus names its tiles."""
    affine = Affine(step[1], 0, corner[0] - step[1] / 2, 0, -step[0], corner[1] + step[0] / 2)
    source = BandSource(band="elevation", asset="data", href=f"/{name}.tif", index=1)
    return DemTile(name=name, source=source, crs=crs, transform=tuple(affine)[:6], shape=shape)


def dem(*tiles: DemTile) -> Dem:
    return Dem(address="a", collections=(), source="a", tiles=tiles)


def test_copernicus_tiles_are_one_lattice_up_to_fifty_degrees():
    """Above, its pixels are 1.5 seconds wide: another lattice, coarser."""
    tiles = [tile(f"{lat}{lon}", lon, lat + 1) for lat in (48, 49) for lon in (9, 10)]
    north = [tile(f"50{lon}", lon, 51, shape=(3600, 2400), step=(1 / 3600, 1.5 / 3600)) for lon in (9, 10)]
    below, above = dem(*north, *tiles).lattices
    assert (len(below.tiles), len(above.tiles)) == (4, 2)
    assert below.places == ((0, 0), (0, 3600), (-3600, 0), (-3600, 3600))
    assert above.places == ((0, 0), (0, 2400))


def test_tiles_that_do_not_continue_each_other_are_apart():
    first = tile("a", 10, 50)
    half_a_pixel = tile("b", 11 + 0.5 / 3600, 50)
    other_size = tile("c", 11, 50, step=(1 / 3600, 1.0001 / 3600))
    other_crs = tile("d", 11, 50, crs=CRS("EPSG:4269").to_wkt())
    assert len(dem(first, half_a_pixel, other_size, other_crs).lattices) == 4
    assert len(dem(first, tile("e", 11 + 1e-9, 50)).lattices) == 1


@pytest.mark.parametrize(("crs", "corner"), [("EPSG:4326", (141.9, 42.8)), ("EPSG:4326", (10, 69.9))])
def test_metres_per_pixel_are_those_of_the_ellipsoid(crs, corner):
    lattice = Lattice(
        CRS(crs).to_wkt(), Affine(*tile("a", *corner).transform), (tile("a", *corner),), ((0, 0),)
    )
    down_m, across_m, up_deg = lattice.pixel_size_m(Window(0, 0, 600, 300))
    geod, step = Geod(ellps="WGS84"), 1 / 3600
    for row in (0, 299):
        latitude = corner[1] - row * step
        east = geod.inv(corner[0], latitude, corner[0] + 100 * step, latitude)[2] / 100
        south = geod.inv(corner[0], latitude - step / 2, corner[0], latitude + step / 2)[2]
        np.testing.assert_allclose(across_m[row], east, rtol=1e-6)
        np.testing.assert_allclose(down_m[row], south, rtol=1e-6)
    np.testing.assert_allclose(up_deg, 0, atol=1e-9)


def test_feet_and_a_turned_grid_become_metres_and_true_north():
    """A state plane in US survey feet, away from its central meridian."""
    state = CRS("EPSG:2285")  # Washington North, central meridian 120.8333 W
    affine = Affine(100, 0, 1_200_000, 0, -100, 300_000)
    placed = tile("a", 0, 0).model_copy(update={"crs": state.to_wkt(), "transform": tuple(affine)[:6]})
    down_m, across_m, up_deg = Lattice(state.to_wkt(), affine, (placed,), ((0, 0),)).pixel_size_m(
        Window(-50, 0, 400, 2)
    )
    np.testing.assert_allclose(down_m, 30.48, rtol=2e-4)
    np.testing.assert_allclose(across_m, 30.48, rtol=2e-4)
    assert (up_deg < -1).all()  # west of the central meridian, the grid's up leans to the west of north
    assert (up_deg > -1.5).all()


def test_metres_are_a_pure_function_of_the_pixel():
    lattice = dem(tile("a", 141.9, 42.8)).lattices[0]
    whole = lattice.pixel_size_m(Window(-300, -20, 900, 60))
    part = lattice.pixel_size_m(Window(100, -7, 313, 9))
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_array_equal(one[13:22, 400:713], other)
