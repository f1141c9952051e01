"""Labels: any window is cut from the whole; formats, classes, growth and order as written out by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pydantic
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.ndimage import binary_dilation

from coseis.errors import UsageError
from coseis.labels import GridLabels, LabelConfig, open_labels
from coseis.types import LABEL_IGNORE

# odc-geo 0.5 still multiplies with *, which affine 3 announces to deprecate.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

GRID = GeoBox((60, 80), Affine(3, 0, 567009, 0, -3, 4751046), "EPSG:32654")
LARGE = GeoBox((700, 900), GRID.affine, GRID.crs)
"""More than one block along each axis."""
KINDS = LabelConfig(class_field="kind", classes=("slide", "road"), ignore_classes=("scar",))
X = LABEL_IGNORE
"""Short for the masks that are written out below."""


def box_px(top: float, left: float, bottom: float, right: float) -> shapely.Polygon:
    """A rectangle between lines of the grid, px."""
    (west, north), (east, south) = GRID.affine @ (left, top), GRID.affine @ (right, bottom)
    return shapely.box(west, south, east, north)


def write(path: Path, shapes: list[Any], kinds: list[Any] | None = None, crs: Any = GRID.crs) -> Path:
    columns = {} if kinds is None else {"kind": kinds}
    frame = gpd.GeoDataFrame(columns, geometry=shapes, crs=crs)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    return path


def window_of(grid: GeoBox, y: int, x: int, height: int, width: int) -> GeoBox:
    return GeoBox((height, width), grid.affine @ Affine.translation(x, y), grid.crs)


def centres_inside(shapes: list[Any], grid: GeoBox = GRID) -> NDArray[np.bool_]:
    columns, rows = np.meshgrid(np.arange(grid.shape.x) + 0.5, np.arange(grid.shape.y) + 0.5)
    x, y = grid.affine.c + 3 * columns, grid.affine.f - 3 * rows
    inside: NDArray[np.bool_] = shapely.contains_xy(shapely.union_all(shapes), x, y)
    return inside


def blobs(seed: int, count: int, grid: GeoBox) -> list[Any]:
    """Crooked polygons, some across the grid's border, some with a vertex on a pixel's centre or corner."""
    random = np.random.default_rng(seed)
    shapes = []
    for number in range(count):
        centre = random.uniform(-10, (grid.shape.x + 10, grid.shape.y + 10))
        angles = np.sort(random.uniform(0, 2 * np.pi, 9))
        ring = centre + random.uniform(2, 40, (9, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        if number % 2:
            ring = np.round(2 * ring) / 2
        shapes.append(shapely.Polygon([grid.affine @ (x, y) for x, y in ring]).buffer(0))
    return [shape for shape in shapes if not shape.is_empty]


@pytest.fixture(
    scope="module",
    params=[
        {},
        {"rule": "all_touched"},
        {"solid_px": 3},
        {"solid_px": 2.5, "rule": "all_touched"},
    ],
    ids=str,
)
def crowd(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[GridLabels, NDArray[np.uint8]]:
    """Labels of three kinds and ignored areas over several blocks, and their mask over more than the grid."""
    folder = tmp_path_factory.mktemp("crowd")
    shapes = blobs(0, 90, LARGE)
    kinds = [("slide", "road", "scar")[number % 3] for number in range(len(shapes))]
    path = write(folder / "labels.gpkg", shapes, kinds)
    ignore = write(folder / "ignore.gpkg", blobs(1, 6, LARGE))
    labels = open_labels(path, LARGE, KINDS.model_copy(update=request.param), ignore=ignore)
    return labels, labels.mask(window_of(LARGE, -30, -30, 760, 960))


@given(y=st.integers(-30, 690), x=st.integers(-30, 890), size=st.integers(1, 60), more=st.integers(0, 600))
def test_any_window_is_cut_from_the_whole(
    crowd: tuple[GridLabels, NDArray[np.uint8]], y: int, x: int, size: int, more: int
) -> None:
    labels, whole = crowd
    height, width = min(size + more, 730 - y), min(size, 930 - x)
    part = labels.mask(window_of(LARGE, y, x, height, width))
    np.testing.assert_array_equal(part, whole[y + 30 : y + 30 + height, x + 30 : x + 30 + width])


def test_labels_travel_and_say_the_same(crowd: tuple[GridLabels, NDArray[np.uint8]]) -> None:
    labels, whole = crowd
    again = pickle.loads(pickle.dumps(labels))
    np.testing.assert_array_equal(again.mask(LARGE), whole[30:-30, 30:-30])
    assert set(np.unique(whole)) == {0, 1, 2, LABEL_IGNORE}
    assert (np.delete(np.delete(whole, np.s_[30:-30], 0), np.s_[30:-30], 1) == LABEL_IGNORE).all()


@given(seed=st.integers(0, 99), solid_px=st.sampled_from([0, 1, 2.5, 4]))
def test_growth_is_a_disk_around_every_labelled_centre(
    tmp_path_factory: pytest.TempPathFactory, seed: int, solid_px: float
) -> None:
    # Every second one: a vertex on a pixel's centre is inside by one rule and outside by another.
    shapes = [*blobs(seed, 5, GRID)[::2], box_px(2, 2, 6, 9)]
    path = write(tmp_path_factory.mktemp("grown") / "a.gpkg", shapes)
    grown = open_labels(path, GRID, LabelConfig(solid_px=solid_px)).mask(GRID)
    y, x = np.mgrid[-4:5, -4:5]
    # Polygons beyond the border grow into the grid too.
    around = centres_inside(shapes, window_of(GRID, -4, -4, 68, 88))
    expected = binary_dilation(around, np.hypot(y, x) <= solid_px)[4:-4, 4:-4]
    np.testing.assert_array_equal(grown, expected)


def test_centre_rule_equals_shapely(tmp_path: Path) -> None:
    shapes = [shape for shape in blobs(3, 40, LARGE)[::2] if shape.is_valid]
    mask = open_labels(write(tmp_path / "a.gpkg", shapes), LARGE).mask(LARGE)
    np.testing.assert_array_equal(mask, centres_inside(shapes, LARGE))


def test_all_touched_labels_every_pixel_that_a_polygon_meets(tmp_path: Path) -> None:
    shape = box_px(10.6, 20.7, 12.2, 23.3)
    labels = open_labels(write(tmp_path / "a.gpkg", [shape]), GRID, LabelConfig(rule="all_touched"))
    expected = np.zeros(GRID.shape, np.uint8)
    expected[10:13, 20:24] = 1
    np.testing.assert_array_equal(labels.mask(GRID), expected)


def test_order_of_overlapping_classes_written_out(tmp_path: Path) -> None:
    """A slide on a road on a scar, in any order of the file; an ignored area over all of them."""
    layers = [(box_px(0, 0, 1, 3), "slide"), (box_px(0, 2, 1, 5), "road"), (box_px(0, 4, 1, 7), "scar")]
    layers += [(box_px(2, 0, 3, 4), "slide"), (box_px(2, 0, 3, 6), "scar")]
    ignore = write(tmp_path / "ignore.gpkg", [box_px(2, 3, 4, 5)])
    expected = np.array(
        [
            [1, 1, 1, 2, 2, X, X, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
            [1, 1, 1, X, X, X, 0, 0],
            [0, 0, 0, X, X, 0, 0, 0],
        ]
    )
    for number, order in enumerate((layers, layers[::-1])):
        path = write(tmp_path / f"{number}.gpkg", [shape for shape, _ in order], [kind for _, kind in order])
        labels = open_labels(path, GRID, KINDS, ignore=ignore)
        np.testing.assert_array_equal(labels.mask(GRID)[:4, :8], expected)
        assert labels.findings[0].by_class == {"slide": 2, "road": 1, "scar": 2}
        assert labels.findings[1].by_class == {"ignored": 1}


def test_growth_takes_background_only_and_the_first_class_wins(tmp_path: Path) -> None:
    shapes = [box_px(0, 0, 1, 1), box_px(0, 3, 1, 4), box_px(0, 7, 1, 8), box_px(0, 8, 1, 9)]
    path = write(tmp_path / "a.gpkg", shapes, ["road", "slide", "scar", "slide"])
    config = KINDS.model_copy(update={"solid_px": 2})
    mask = open_labels(path, GRID, config).mask(GRID)
    np.testing.assert_array_equal(mask[0, :12], [2, 1, 1, 1, 1, 1, 1, X, 1, 1, 1, 0])
    np.testing.assert_array_equal(mask[1, :12], [2, 2, 1, 1, 1, 0, X, 1, 1, 1, 0, 0])


def outlines() -> gpd.GeoDataFrame:
    """A body with a hole, and one that the grid's border cuts."""
    left, top = GRID.affine.c, GRID.affine.f
    centre = shapely.Point(left + 100, top - 90)
    ring = centre.buffer(60).difference(centre.buffer(20))
    return gpd.GeoDataFrame(
        geometry=[ring, shapely.box(left + 200, top - 30, left + 900, top + 50)], crs=GRID.crs
    )


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.shp", "a.shp.zip", "a.parquet", "a.fgb"])
@pytest.mark.parametrize("crs", ["EPSG:32654", "EPSG:4326"])
def test_polygons_of_any_format_and_crs(tmp_path: Path, name: str, crs: str) -> None:
    shapes = outlines().to_crs(crs)
    labels = open_labels(write(tmp_path / name, list(shapes.geometry), crs=crs), GRID).mask(GRID)
    assert labels.dtype == np.uint8
    # GeoJSON keeps 7 decimals of a degree: 1 cm may move a border over a pixel's centre.
    assert (labels != centres_inside(list(outlines().geometry))).sum() <= 3


def test_odd_polygons_are_repaired_or_left_out_and_counted(tmp_path: Path) -> None:
    (left, top), (right, bottom) = GRID.affine @ (10, 10), GRID.affine @ (20, 20)
    bow_tie = shapely.Polygon([(left, top), (right, bottom), (right, top), (left, bottom)])
    line = shapely.Polygon([(left, top), (right, bottom), (left, top)])
    shapes = [bow_tie, line, None, shapely.Polygon(), box_px(0, 0, 5, 5), box_px(900, 0, 905, 5)]
    labels = open_labels(write(tmp_path / "a.parquet", shapes), GRID)
    (found,) = labels.findings
    assert found.model_dump(exclude={"path"}) == {
        "polygons": 2, "repaired": 1, "empty": 3, "outside": 1, "by_class": {"landslide": 2},
    }  # fmt: skip
    whole = [shapely.make_valid(bow_tie, method="structure"), box_px(0, 0, 5, 5)]
    mask = labels.mask(GRID)
    assert (mask != centres_inside(whole)).sum() <= 20
    assert mask[12, 18] == mask[15, 18] == 1
    assert mask[11, 15] == 0


def test_classes_may_be_numbers(tmp_path: Path) -> None:
    config = LabelConfig(class_field="kind", classes=("1", "7"))
    shapes = [box_px(0, 0, 1, 1), box_px(0, 1, 1, 3)]
    for name, kinds in (("a.gpkg", [7, 1]), ("b.gpkg", [7.0, 1.0])):
        mask = open_labels(write(tmp_path / name, shapes, kinds), GRID, config).mask(GRID)
        np.testing.assert_array_equal(mask[0, :4], [2, 1, 1, 0])


def write_raster(path: Path, mask: NDArray[np.uint8], grid: GeoBox, nodata: int | None = None) -> Path:
    height, width = mask.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=height, width=width, dtype=mask.dtype, nodata=nodata,
        crs=str(grid.crs) if grid.crs else None, transform=grid.affine,
    ) as target:  # fmt: skip
        target.write(mask, 1)
    return path


@given(y=st.integers(1, 59), x=st.integers(1, 79))
def test_a_raster_in_degrees_does_not_depend_on_blocks(
    tmp_path_factory: pytest.TempPathFactory, y: int, x: int
) -> None:
    grid = GeoBox((50, 50), Affine(0.00004, 0, 141.8215, 0, -0.00003, 42.909), "EPSG:4326")
    mask = np.random.default_rng(0).integers(0, 3, grid.shape, dtype=np.uint8)
    labels = open_labels(write_raster(tmp_path_factory.mktemp("a") / "a.tif", mask, grid, nodata=2), GRID)
    whole = labels.mask(GRID)
    for rows in (np.s_[:y], np.s_[y:]):
        for columns in (np.s_[:x], np.s_[x:]):
            np.testing.assert_array_equal(labels.mask(GRID[rows, columns]), whole[rows, columns])
    assert set(np.unique(whole)) == {0, 1, LABEL_IGNORE}
    assert labels.findings == ()


def test_raster_on_the_grid_is_read_as_it_is(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 2, GRID.shape, dtype=np.uint8)
    path = write_raster(tmp_path / "a.tif", mask * 255, GRID)
    np.testing.assert_array_equal(open_labels(path, GRID).mask(GRID), mask)
    ignore = write(tmp_path / "ignore.geojson", [box_px(0, 0, 60, 40)])
    mask[:, :40] = LABEL_IGNORE
    np.testing.assert_array_equal(open_labels(path, GRID, ignore=ignore).mask(GRID), mask)


def test_truth_outside_of_a_raster_is_not_known(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.ones((10, 10), np.uint8), GRID)
    labels = open_labels(path, GRID).mask(GRID)
    assert (labels == 1).sum() == 100
    assert (labels == LABEL_IGNORE).sum() == 60 * 80 - 100


def test_labels_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    def refused(path: Path, match: str, config: LabelConfig | None = None, **options: Any) -> None:
        with pytest.raises(UsageError, match=match):
            open_labels(path, GRID, config, **options)

    good = write(tmp_path / "good.gpkg", [box_px(0, 0, 5, 5)], ["slide"])
    refused(tmp_path / "none.gpkg", "do not exist")
    refused(good, "none.gpkg do not exist", ignore=tmp_path / "none.gpkg")
    (tmp_path / "a.csv").write_text("x")
    refused(tmp_path / "a.csv", "unknown suffix .csv")
    for name in ("a.gpkg", "a.tif", "a.parquet", "a.zip"):
        (tmp_path / name).write_text("not what it says")
        refused(tmp_path / name, "cannot be read")
    refused(write(tmp_path / "far.gpkg", [box_px(900, 900, 905, 905)]), "lie elsewhere")
    refused(good, "far.gpkg lie elsewhere", ignore=tmp_path / "far.gpkg")
    far = write_raster(tmp_path / "far.tif", np.ones((5, 5), np.uint8), GRID.pad(500)[:5, :5])
    refused(far, "lie elsewhere")
    refused(good, "unknown suffix .tif", ignore=far)
    refused(
        write(tmp_path / "points.gpkg", [shapely.Point(567100, 4751000)]), "hold Point; expected polygons"
    )
    outlines().to_file(tmp_path / "two.gpkg", layer="a")
    outlines().to_file(tmp_path / "two.gpkg", layer="b")
    refused(tmp_path / "two.gpkg", "2 layers with geometry")
    refused(write(tmp_path / "none.parquet", [None]), "hold no geometry")
    raster = write_raster(tmp_path / "raster.tif", np.ones((5, 5), np.uint8), GRID)
    for config in (LabelConfig(solid_px=1), LabelConfig(rule="all_touched"), KINDS):
        refused(raster, "are a raster, which is used as it is", config)


def test_places_that_cannot_be_told_are_refused(tmp_path: Path) -> None:
    degrees = list(outlines().to_crs("EPSG:4326").geometry)
    for shapes, crs, match in (
        (list(outlines().geometry), None, "have no CRS, so their place is unknown"),
        (degrees, None, r"have no CRS and look like degrees \(EPSG:4326\)"),
        (degrees, GRID.crs, "look like degrees, but state the projected CRS EPSG:32654"),
        (list(outlines().geometry), "EPSG:4326", "coordinates that their CRS does not have"),
    ):
        path = write(tmp_path / "a.parquet", shapes, crs=crs)
        with pytest.raises(UsageError, match=match):
            open_labels(path, GRID)


def test_unknown_classes_are_refused_with_those_that_are_known(tmp_path: Path) -> None:
    shapes = [box_px(0, 0, 1, 1), box_px(0, 1, 1, 2)]
    path = write(tmp_path / "a.gpkg", shapes, ["slide", "lake"])
    with pytest.raises(UsageError, match="unknown kind lake; expected one of slide, road, scar"):
        open_labels(path, GRID, KINDS)
    path = write(tmp_path / "b.gpkg", shapes, ["slide", None])
    with pytest.raises(UsageError, match=r"unknown kind \(missing\)"):
        open_labels(path, GRID, KINDS)
    with pytest.raises(UsageError, match="have no attribute type; they have kind"):
        open_labels(path, GRID, LabelConfig(class_field="type"))


def test_configurations_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="name a class twice: a, b, a"):
        LabelConfig(class_field="kind", classes=("a", "b"), ignore_classes=("a",))
    with pytest.raises(pydantic.ValidationError, match=r"2 classes \(a, b\) cannot be told apart"):
        LabelConfig(classes=("a",), ignore_classes=("b",))


def test_pixels_of_another_grid_are_not_asked_for(tmp_path: Path) -> None:
    labels = open_labels(write(tmp_path / "a.gpkg", [box_px(0, 0, 1, 1)]), GRID)
    for affine in (Affine.translation(0.5, 0), Affine.scale(2)):
        with pytest.raises(ValueError, match="is not a window of the labels'"):
            labels.mask(GeoBox((5, 5), GRID.affine @ affine, GRID.crs))


def test_real_polygons_equal_the_real_masks(real_data: Path) -> None:
    folder = real_data / "iburi" / "planetscope"
    with rasterio.open(folder / "labelled" / "371_mask.tif") as source:
        mask = source.read(1)
        grid = GeoBox(mask.shape, source.transform, "EPSG:32654")
    # The polygons are the masks' outlines drawn again, simpler; a shift by half a pixel would show.
    agreement = []
    for shift_m in (0, -1.5, 1.5):
        shifted = GeoBox(grid.shape, Affine.translation(shift_m, 0) @ grid.affine, grid.crs)
        agreement.append((open_labels(folder / "labels.gpkg", shifted).mask(shifted) == mask).mean())
    assert agreement[0] > 0.97
    assert agreement[0] == max(agreement)
