"""Priority: nearest or strongest first, every chunk once, and what is neither is refused."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geom import point

from coseis.errors import UsageError
from coseis.priority import order_chunks
from coseis.windows import chunk_grid
from making import grid

GRID = grid(500, 700)
CHUNKS = list(chunk_grid((500, 700), 100))


def place_of(row: float, column: float) -> str:
    x, y = GRID.affine @ (column, row)
    longitude, latitude = point(x, y, GRID.crs).to_crs("EPSG:4326").coords[0]
    return f"{longitude:.7f},{latitude:.7f}"


def test_row_by_row_without_a_wish() -> None:
    assert order_chunks(CHUNKS, GRID, None) == CHUNKS


@pytest.mark.parametrize(("row", "column"), [(250, 350), (0, 0), (499, 10), (-4000, 350)])
def test_the_nearest_to_a_place_come_first(row: float, column: float) -> None:
    ordered = order_chunks(CHUNKS, GRID, place_of(row, column))
    assert sorted(ordered, key=lambda chunk: (chunk.row, chunk.col)) == CHUNKS
    distances = [np.hypot(c.y0 + c.height / 2 - row, c.x0 + c.width / 2 - column) for c in ordered]
    assert distances == pytest.approx(sorted(distances), abs=0.1)


def test_the_strongest_of_a_raster_come_first_and_what_it_lacks_last(tmp_path) -> None:
    """A raster in degrees, as ShakeMap's, that covers the left and is strongest in the lower left."""
    path = tmp_path / "mmi.tif"
    left, bottom, right, top = GRID.extent.to_crs("EPSG:4326").boundingbox
    values = np.full((50, 70), -1.0, np.float32)
    values[:, :40] = np.arange(50)[:, None] + np.arange(40, 0, -1) / 100
    affine = Affine.translation(left, top) @ Affine.scale((right - left) / 70, (bottom - top) / 50)
    profile = {"driver": "GTiff", "height": 50, "width": 70, "count": 1, "dtype": "float32", "nodata": -1}
    with rasterio.open(path, "w", crs="EPSG:4326", transform=affine, **profile) as file:
        file.write(values, 1)
    ordered = order_chunks(CHUNKS, GRID, str(path))
    assert [(c.row, c.col) for c in ordered[:5]] == [(4, 0), (4, 1), (4, 2), (4, 3), (3, 0)]
    assert {c.col for c in ordered[-15:]} == {4, 5, 6}
    assert ordered[-15:] == [chunk for chunk in CHUNKS if chunk in ordered[-15:]]


def test_what_is_neither_place_nor_raster_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="first '200,40' is no place; expected longitude,latitude"):
        order_chunks(CHUNKS, GRID, "200,40")
    with pytest.raises(
        UsageError, match=r"'shake.tif' is neither longitude,latitude in degrees nor a raster"
    ):
        order_chunks(CHUNKS, GRID, "shake.tif")
    path = tmp_path / "no.tif"
    path.write_text("no raster")
    with pytest.raises(UsageError, match="cannot be read as a raster"):
        order_chunks(CHUNKS, GRID, str(path))
    profile = {"driver": "GTiff", "height": 5, "width": 5, "count": 1, "dtype": "uint8", "nodata": 0}
    with rasterio.open(path, "w", crs="EPSG:4326", transform=Affine.scale(0.1, -0.1), **profile) as file:
        file.write(np.zeros((5, 5), np.uint8), 1)
    with pytest.raises(UsageError, match="has no value anywhere on the grid"):
        order_chunks(CHUNKS, GRID, str(path))
