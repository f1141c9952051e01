import subprocess
import sys
from io import BytesIO

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image

from coseis.picture import (
    MAX_HEIGHT_PX,
    MISSING_GREY,
    OUTLINE,
    STATUS_COLOURS,
    WIDTH_PX,
    draw_map,
    stretch_rgb,
)
from coseis.types import CONTEXT_INCOMPLETE, Status

HEIGHT, WIDTH = 300, 400
GEOBOX = GeoBox((HEIGHT, WIDTH), Affine(10, 0, 580_000, 0, -10, 4_735_000), "EPSG:32654")
FOREST = np.full((HEIGHT, WIDTH, 3), (30, 60, 25), np.uint8)


def make_polygons(*boxes: tuple[float, float, float, float]) -> gpd.GeoDataFrame:
    """Boxes given as first row, first column, height, width in pixels of GEOBOX."""
    shapes = [
        shapely.box(580_000 + 10 * x, 4_735_000 - 10 * (y + h), 580_000 + 10 * (x + w), 4_735_000 - 10 * y)
        for y, x, h, w in boxes
    ]
    return gpd.GeoDataFrame({"area_m2": [s.area for s in shapes]}, geometry=shapes, crs="EPSG:32654")


def decode(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))


def panel(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The one panel of a picture: what lies inside the margins of `Frame`."""
    return picture[84 : picture.shape[0] - 104, 96 : picture.shape[1] - 28]


def near(picture: NDArray[np.uint8], colour: str, tolerance: int = 40) -> NDArray[np.bool_]:
    target = np.array(to_rgb(colour)) * 255
    return (np.abs(picture - target) < tolerance).all(axis=-1)


# stretch_rgb


@given(
    hnp.arrays(np.float32, (3, 5, 6), elements=st.floats(0, 1, width=32)),
    st.floats(0.1, 1000),
    st.floats(-10, 10),
)
def test_stretch_keeps_order_and_forgets_units(
    reflectance: NDArray[np.float32], scale: float, offset: float
) -> None:
    picture = stretch_rgb(reflectance)
    for band in range(3):
        order = np.argsort(reflectance[band], axis=None)
        assert (np.diff(picture[..., band].ravel()[order].astype(int)) >= 0).all()
    # Bands flatter than float32 can tell apart have no order to keep under another unit.
    if np.ptp(reflectance, axis=(1, 2)).min() > 1e-2:
        other = stretch_rgb(reflectance.astype(np.float64) * scale + offset)
        assert np.abs(other.astype(int) - picture).max() <= 1


def test_stretch_equals_percentiles_by_hand() -> None:
    band = np.arange(101.0).reshape(1, 101)
    picture = stretch_rgb(np.stack([band, band + 7, band * 3]), gamma=0.5)
    for channel, share in enumerate((1 / 3, 1 / 3, 1)):
        expected = np.rint(255 * np.sqrt(np.clip((band[0] - 2) / 96 * share, 0, 1)))
        np.testing.assert_array_equal(picture[0, :, channel], expected)


def test_stretch_paints_missing_pixels_grey() -> None:
    reflectance = np.random.default_rng(0).uniform(size=(3, 8, 9))
    reflectance[1, 2, 3] = np.nan
    assert stretch_rgb(reflectance)[2, 3].tolist() == [MISSING_GREY] * 3
    assert (stretch_rgb(np.full((3, 4, 4), np.nan)) == MISSING_GREY).all()


def test_stretch_refuses_other_than_three_bands() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 8, 8\); expected \(3, y, x\)"):
        stretch_rgb(np.zeros((4, 8, 8)))


# draw_map


def test_outlines_lie_where_the_polygons_are() -> None:
    polygons = make_polygons((60, 80, 90, 120), (200, 40, 50, 50))
    picture = decode(draw_map(FOREST, polygons, geobox=GEOBOX, title="Map"))
    yellow = near(panel(picture), OUTLINE, 90)
    per_px = yellow.shape[1] / WIDTH
    rows, cols = np.nonzero(yellow)
    centres = shapely.points(580_000 + 10 * (cols + 0.5) / per_px, 4_735_000 - 10 * (rows + 0.5) / per_px)
    distance_px = shapely.distance(polygons.boundary.union_all(), centres) / 10 * per_px
    assert picture.shape[1] == WIDTH_PX
    assert distance_px.max() < 3
    assert len(rows) > 0.9 * polygons.length.sum() / 10 * per_px


def test_holes_are_outlined_too() -> None:
    whole = make_polygons((50, 50, 200, 200))
    ring = whole.set_geometry(whole.difference(make_polygons((100, 100, 100, 100)).union_all()))
    count = [
        near(panel(decode(draw_map(FOREST, p, geobox=GEOBOX, title="")))[:, :1000], OUTLINE, 90).sum()
        for p in (whole, ring)
    ]
    assert count[1] == pytest.approx(1.5 * count[0], rel=0.05)


def test_polygons_in_another_crs_fall_on_the_same_place() -> None:
    polygons = make_polygons((60, 80, 90, 120))
    pictures = [
        decode(draw_map(FOREST, p, geobox=GEOBOX, title="Map")).astype(int)
        for p in (polygons, polygons.to_crs(4326))
    ]
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.01


def test_what_is_not_observed_is_striped_and_the_rest_is_not() -> None:
    status = np.full((HEIGHT, WIDTH), Status.OBSERVED | CONTEXT_INCOMPLETE, np.uint8)
    status[100:200, 100:200] = Status.CLOUD
    without = decode(draw_map(FOREST, make_polygons(), geobox=GEOBOX, title="Map"))
    picture = decode(draw_map(FOREST, make_polygons(), geobox=GEOBOX, title="Map", status=status))
    differs = (panel(without) != panel(picture)).any(axis=-1)
    per_px = differs.shape[1] / WIDTH
    inside = differs[int(102 * per_px) : int(198 * per_px), int(102 * per_px) : int(198 * per_px)]
    assert inside.all()
    assert differs.sum() == pytest.approx((100 * per_px) ** 2, rel=0.02)
    colours = np.unique(panel(picture)[int(150 * per_px), int(110 * per_px) : int(190 * per_px)], axis=0)
    assert len(colours) > 1


def test_every_status_has_a_colour() -> None:
    assert set(STATUS_COLOURS) == set(Status) - {Status.OBSERVED}


def test_before_and_after_stand_side_by_side() -> None:
    snow = np.full_like(FOREST, 240)
    polygons = make_polygons((60, 80, 90, 120))
    picture = decode(draw_map(FOREST, polygons, geobox=GEOBOX, title="Map", pre_rgb=snow))
    middle = picture.shape[0] // 2
    assert picture.shape[1] == WIDTH_PX
    assert picture[middle, 400].tolist() == [240] * 3
    assert picture[middle, -200].tolist() == [30, 60, 25]
    halves = near(picture, OUTLINE, 90)[84:-104]
    assert not halves[:, :780].any()
    assert halves[:, 850:].any()


def test_no_landslide_still_gives_the_scene() -> None:
    picture = panel(decode(draw_map(FOREST, make_polygons(), geobox=GEOBOX, title="Map")))
    assert (picture == (30, 60, 25)).all(axis=-1).mean() > 0.97
    assert not near(picture, OUTLINE, 90).any()


def test_a_tall_grid_stays_within_the_height() -> None:
    tall = GeoBox((3000, 300), GEOBOX.affine, "EPSG:32654")
    picture = decode(draw_map(np.zeros((3000, 300, 3), np.uint8), make_polygons(), geobox=tall, title="Map"))
    assert picture.shape[0] == MAX_HEIGHT_PX
    assert picture.shape[1] < WIDTH_PX


def test_equal_input_gives_equal_bytes() -> None:
    polygons = make_polygons((60, 80, 90, 120))
    pictures = [draw_map(FOREST, polygons, geobox=GEOBOX, title="Map") for _ in range(2)]
    assert pictures[0] == pictures[1]


def test_pyplot_and_its_global_state_stay_out() -> None:
    code = "import sys, coseis.picture; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [("rgb", (300, 400), r"\(300, 400, 3\)"), ("status", (300, 401), r"\(300, 400\)")],
)
def test_arrays_off_the_grid_are_refused(name: str, shape: tuple[int, ...], expected: str) -> None:
    wrong = np.zeros(shape, np.uint8)
    rgb, status = (wrong, None) if name == "rgb" else (FOREST, wrong)
    with pytest.raises(ValueError, match=rf"{name} has shape .*; expected {expected}, the grid's"):
        draw_map(rgb, make_polygons(), geobox=GEOBOX, title="Map", status=status)


def test_a_grid_without_crs_is_refused() -> None:
    with pytest.raises(ValueError, match="the grid has no CRS"):
        draw_map(FOREST, make_polygons(), geobox=GeoBox((HEIGHT, WIDTH), GEOBOX.affine, None), title="Map")
