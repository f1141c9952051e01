"""Scores: the same from any cut of the map, equal to scikit-learn's definitions; labels from any file."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from coseis.errors import UsageError
from coseis.evaluate import Scores, open_labels, read_labels, score, score_blocks
from coseis.types import LABEL_IGNORE

# odc-geo 0.5 still multiplies with *, which affine 3 announces to deprecate.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

GRID = GeoBox((60, 80), rasterio.Affine(3, 0, 567009, 0, -3, 4751046), "EPSG:32654")


def masks(seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    random = np.random.default_rng(seed)
    predicted, truth, observed = random.random((3, *GRID.shape)) < random.random((3, 1, 1))
    return predicted, truth, observed


def test_scores_of_a_hand_made_map() -> None:
    predicted = np.array([[1, 1, 0], [0, 1, 0]], dtype=bool)
    truth = np.array([[1, 0, 0], [1, 1, 1]], dtype=bool)
    scores = score(predicted, truth, observed=np.array([[1, 1, 1], [1, 1, 0]], dtype=bool))
    assert scores == Scores(tp=2, fp=1, fn=1, tn=1)
    assert scores.precision == scores.recall == scores.f1 == pytest.approx(2 / 3)
    assert scores.iou == 0.5
    assert scores.prevalence == 0.6
    assert Scores.model_validate_json(scores.model_dump_json()) == scores


@given(seed=st.integers(0, 999))
def test_every_pixel_is_counted_once(seed: int) -> None:
    predicted, truth, observed = masks(seed)
    scores = score(predicted, truth, observed)
    assert scores.pixels == observed.sum()
    assert scores.tp + scores.fn == (truth & observed).sum()
    assert scores.tp + scores.fp == (predicted & observed).sum()


@given(seed=st.integers(0, 99), y=st.integers(1, 59), x=st.integers(1, 79))
def test_blocks_add_up_to_the_whole(seed: int, y: int, x: int) -> None:
    predicted, truth, observed = masks(seed)

    class Truth:
        def mask(self, geobox: GeoBox) -> NDArray[np.uint8]:
            return truth[place(geobox)].astype(np.uint8)

    def read_prediction(geobox: GeoBox) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        return predicted[place(geobox)], observed[place(geobox)]

    blocks = [GRID[rows, columns] for rows in (np.s_[:y], np.s_[y:]) for columns in (np.s_[:x], np.s_[x:])]
    assert score_blocks(blocks, read_prediction, Truth()) == score(predicted, truth, observed)


def place(geobox: GeoBox) -> tuple[slice, slice]:
    x, y = round(geobox.affine.c - GRID.affine.c) // 3, round(GRID.affine.f - geobox.affine.f) // 3
    return slice(y, y + geobox.shape[0]), slice(x, x + geobox.shape[1])


def test_a_score_without_denominator_is_none() -> None:
    nothing = np.zeros((2, 2), dtype=bool)
    assert score(nothing, nothing).summary() == {
        "tp": 0, "fp": 0, "fn": 0, "tn": 4,
        "precision": None, "recall": None, "f1": None, "iou": None, "prevalence": 0.0,
    }  # fmt: skip
    assert Scores().prevalence is None
    assert score(~nothing, nothing).f1 == 0


def test_masks_of_other_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="truth"):
        score(np.zeros((2, 2), bool), np.zeros((2, 3), bool))


def outlines() -> gpd.GeoDataFrame:
    """A body with a hole, and one that the grid's border cuts."""
    left, top = GRID.affine.c, GRID.affine.f
    ring = (
        shapely.Point(left + 100, top - 90)
        .buffer(60)
        .difference(shapely.Point(left + 100, top - 90).buffer(20))
    )
    return gpd.GeoDataFrame(
        geometry=[ring, shapely.box(left + 200, top - 30, left + 900, top + 50)], crs=GRID.crs
    )


def centres_inside(frame: gpd.GeoDataFrame) -> NDArray[np.uint8]:
    columns, rows = np.meshgrid(np.arange(80) + 0.5, np.arange(60) + 0.5)
    x, y = GRID.affine.c + 3 * columns, GRID.affine.f - 3 * rows
    return shapely.contains_xy(frame.to_crs(GRID.crs).union_all(), x, y).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.shp", "a.parquet", "a.fgb"])
@pytest.mark.parametrize("crs", ["EPSG:32654", "EPSG:4326"])
def test_polygons_of_any_format_and_crs(tmp_path: Path, name: str, crs: str) -> None:
    frame = outlines().to_crs(crs)
    path = tmp_path / name
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    labels = read_labels(path, GRID)
    assert labels.dtype == np.uint8
    # GeoJSON keeps 7 decimals of a degree: 1 cm may move a border over a pixel's centre.
    assert (labels != centres_inside(outlines())).sum() <= 3


@pytest.fixture(scope="module", params=["a.gpkg", "a.tif"])
def label_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Polygons in the grid's CRS, or a raster in degrees that covers a part of the grid and has nodata."""
    path = tmp_path_factory.mktemp("labels") / str(request.param)
    if path.suffix == ".gpkg":
        outlines().to_file(path)
    else:
        grid = GeoBox((50, 50), rasterio.Affine(0.00004, 0, 141.8215, 0, -0.00003, 42.909), "EPSG:4326")
        mask = np.random.default_rng(0).integers(0, 3, grid.shape, dtype=np.uint8)
        write_raster(path, mask, grid, nodata=2)
    return path


@given(y=st.integers(1, 59), x=st.integers(1, 79))
def test_labels_do_not_depend_on_blocks(label_file: Path, y: int, x: int) -> None:
    labels = open_labels(label_file, GRID)
    whole = labels.mask(GRID)
    for rows in (np.s_[:y], np.s_[y:]):
        for columns in (np.s_[:x], np.s_[x:]):
            np.testing.assert_array_equal(labels.mask(GRID[rows, columns]), whole[rows, columns])
    assert len(np.unique(whole)) == (2 if label_file.suffix == ".gpkg" else 3)


def write_raster(path: Path, mask: NDArray[np.uint8], grid: GeoBox, nodata: int | None = None) -> None:
    height, width = mask.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=height, width=width, dtype=mask.dtype, nodata=nodata,
        crs=str(grid.crs) if grid.crs else None, transform=grid.affine,
    ) as target:  # fmt: skip
        target.write(mask, 1)


def test_raster_on_the_grid_is_read_as_it_is(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 2, GRID.shape, dtype=np.uint8)
    write_raster(tmp_path / "a.tif", mask * 255, GRID)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif", GRID), mask)


def test_truth_outside_of_a_raster_is_not_known(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", np.ones((10, 10), np.uint8), GRID)
    labels = read_labels(tmp_path / "a.tif", GRID)
    assert (labels == 1).sum() == 100
    assert (labels == LABEL_IGNORE).sum() == 60 * 80 - 100
    everything = np.ones(GRID.shape, dtype=bool)
    scores = score_blocks([GRID], lambda _: (everything, everything), open_labels(tmp_path / "a.tif", GRID))
    assert scores == Scores(tp=100)


def test_labels_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    def refused(path: Path, match: str) -> None:
        with pytest.raises(UsageError, match=match):
            read_labels(path, GRID)

    refused(tmp_path / "none.gpkg", "do not exist")
    (tmp_path / "a.csv").write_text("x")
    refused(tmp_path / "a.csv", "unknown suffix .csv")
    for name in ("a.gpkg", "a.tif", "a.parquet"):
        (tmp_path / name).write_text("not what it says")
        refused(tmp_path / name, "cannot be read")
    far = outlines().translate(50_000)
    gpd.GeoDataFrame(geometry=far).to_file(tmp_path / "far.gpkg")
    refused(tmp_path / "far.gpkg", "lie elsewhere")
    write_raster(tmp_path / "far.tif", np.ones((5, 5), np.uint8), GRID.pad(500)[:5, :5])
    refused(tmp_path / "far.tif", "lie elsewhere")
    gpd.GeoDataFrame(geometry=[shapely.Point(567100, 4751000)], crs=GRID.crs).to_file(
        tmp_path / "points.gpkg"
    )
    refused(tmp_path / "points.gpkg", "hold Point; expected polygons")
    with pytest.warns(UserWarning, match="crs"):
        gpd.GeoDataFrame(geometry=list(outlines().geometry)).to_file(tmp_path / "nowhere.gpkg")
    refused(tmp_path / "nowhere.gpkg", "no CRS")
    outlines().to_file(tmp_path / "two.gpkg", layer="a")
    outlines().to_file(tmp_path / "two.gpkg", layer="b")
    refused(tmp_path / "two.gpkg", "2 layers with geometry")


def test_real_polygons_equal_the_real_masks(real_data: Path) -> None:
    folder = real_data / "iburi" / "planetscope"
    with rasterio.open(folder / "labelled" / "371_mask.tif") as source:
        mask = source.read(1)
        grid = GeoBox(mask.shape, source.transform, "EPSG:32654")
    # The polygons are the masks' outlines drawn again, simpler; a shift by half a pixel would show.
    agreement = [(read_labels(folder / "labels.gpkg", grid) == mask).mean()]
    for shift_m in (-1.5, 1.5):
        shifted = GeoBox(grid.shape, rasterio.Affine.translation(shift_m, 0) @ grid.affine, grid.crs)
        agreement.append((read_labels(folder / "labels.gpkg", shifted) == mask).mean())
    assert agreement[0] > 0.97
    assert agreement[0] == max(agreement)
