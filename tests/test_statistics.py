"""Statistics of whole inventories: hand-made shapes, sums that must add up, and the command."""

import json

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from scipy.optimize import minimize, rosen, rosen_der
from shapely.affinity import rotate

from coseis.cells import count_cells, join_cells
from coseis.describe import describe_inventory
from coseis.errors import InputRefusedError, UsageError
from coseis.evaluation import count_landslides, trace_mask
from coseis.statistics.areas import take_areas
from coseis.statistics.density import cells_of_area, measure_density, summarize_density
from coseis.statistics.descent import descend
from coseis.statistics.figure import draw_sizes
from coseis.statistics.inventory import Inventory, read_inventory, within
from coseis.statistics.magnitude import measure_magnitude
from coseis.statistics.matching import compare_inventories
from coseis.statistics.shape import SIZES_M2, ellipticity, name_sizes, shape_attributes
from coseis.statistics.size_law import MALAMUD
from coseis.statistics.summary import Statistics, describe_sizes, summarize_inventory
from coseis.statistics.volume import GUZZETTI, LARSEN_SOIL, VolumeRelation, estimate_volume
from coseis.types import Status
from coseis.vectorize import merge_blocks
from test_cli import coseis  # noqa: F401  (a fixture)
from test_evaluation_landslides import EVERYTHING, masks

UTM = "EPSG:32654"
PLACE = (583_200.0, 4_737_000.0)


def table(outlines, crs=UTM) -> gpd.GeoDataFrame:
    shapes = np.array(outlines, dtype=object)
    return gpd.GeoDataFrame({"area_m2": shapely.area(shapes)}, geometry=shapes, crs=crs)


def squares(count: int, seed: int = 0, *, law=MALAMUD, least_m2: float = 200.0) -> gpd.GeoDataFrame:
    """Squares of the law's areas, 2 km apart, so that none overlap."""
    side = np.sqrt(law.draw(np.random.default_rng(seed), count, least_m2=least_m2))
    row, column = np.divmod(np.arange(count), 40)
    x, y = PLACE[0] + 2000 * column, PLACE[1] + 2000 * row
    return table(shapely.box(x, y, x + side, y + side))


def ellipse(length: float, width: float, angle: float = 0) -> shapely.Polygon:
    turn = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    ring = np.stack([length / 2 * np.cos(turn), width / 2 * np.sin(turn)], axis=1) + PLACE
    return rotate(shapely.Polygon(ring), angle)


@given(st.floats(-1.9, 1.9), st.floats(-1.9, 1.9), st.floats(-1.5, 0.5))
def test_descents_end_where_scipys_do(x: float, y: float, most: float) -> None:
    bounds = np.array([[-2, most], [-2, 2]])
    place, value = descend(lambda at: (float(rosen(at)), rosen_der(at)), np.array([x, y]), bounds)
    oracle = minimize(rosen, [min(x, most), y], jac=rosen_der, bounds=bounds, options={"ftol": 1e-14})
    assert (place >= bounds[:, 0]).all()
    assert (place <= bounds[:, 1]).all()
    assert value <= oracle.fun + 1e-6


def test_rectangles_of_outlines_in_any_direction() -> None:
    outlines = [
        rotate(shapely.box(*PLACE, PLACE[0] + 120, PLACE[1] + 40), angle) for angle in (0, 30, 90, 161)
    ]
    found = shape_attributes(table(outlines))
    assert found.length_m.tolist() == pytest.approx([120] * 4, rel=1e-5)
    assert found.width_m.tolist() == pytest.approx([40] * 4, rel=1e-5)
    assert found.size_class.tolist() == ["3000-10000 m2"] * 4
    assert found.volume_m3.tolist() == pytest.approx([0.074 * 4800**1.45] * 4)
    assert found.volume_soil_m3.tolist() == pytest.approx([10**-0.44 * 4800**1.145] * 4)


@given(st.floats(1.05, 8), st.floats(0, 180))
def test_an_ellipse_is_its_own(ratio: float, angle: float) -> None:
    found = shape_attributes(table([ellipse(100 * ratio, 100, angle)]))
    assert found.amalgamation.iloc[0] == pytest.approx(0, abs=0.02)
    assert found.length_m.iloc[0] == pytest.approx(100 * ratio, rel=0.01)


def test_landslides_that_run_into_each_other_are_told() -> None:
    """Three tongues that share a foot, as on neighbouring hollows."""
    x, y = PLACE
    tongues = [shapely.box(x + 150 * n, y, x + 150 * n + 30, y + 300) for n in range(3)]
    comb = shapely.union_all([*tongues, shapely.box(x, y, x + 330, y + 30)])
    one, several = shape_attributes(table([tongues[0], comb])).amalgamation
    assert one < 0.25
    assert several > 0.4
    assert shape_attributes(table([])).columns.tolist()[-1] == "volume_soil_m3"


def test_ellipticity_of_a_square_by_hand() -> None:
    """Its hull is 1.13 times as long around as a circle: by that an ellipse of 8.53 by 3.73."""
    found = ellipticity(np.array([shapely.box(0, 0, 10, 10)]), np.array([[1.0, 0.0]]))[0]
    within_m2 = 2 * 3.734 * (5 * np.sqrt(1 - (5 / 8.526) ** 2) + 8.526 * np.arcsin(5 / 8.526))
    assert found == pytest.approx(within_m2 / 100, rel=2e-3)


def test_every_area_has_one_class() -> None:
    names = name_sizes(np.array([1.0, 399.9, 400.0, 999.0, 1000.0, 9999.0, 10_000.0, 1e9]))
    assert names.tolist() == [
        "under 400 m2", "under 400 m2", "400-1000 m2", "400-1000 m2", "1000-3000 m2", "3000-10000 m2",
        "10000-100000 m2", "over 100000 m2",
    ]  # fmt: skip
    assert len(set(name_sizes(np.array(SIZES_M2)))) == len(SIZES_M2)


def run_cells(observed: float = 0.5) -> gpd.GeoDataFrame:
    """Cells of a map of 2.4 x 1.8 km, of which a share of the rows was seen."""
    grid = GeoBox((180, 240), Affine(10, 0, PLACE[0], 0, -10, PLACE[1]), UTM)
    status = np.full((1, 180, 240), Status.OBSERVED, np.uint8)
    scene = np.zeros((1, 180, 240), np.uint16)
    scene[:, round(180 * observed) :] = 65535
    return join_cells([count_cells(status, scene, ("post",), grid, origin=(0, 0))], grid)


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_cells_add_up_to_the_inventory(seed: int) -> None:
    random = np.random.default_rng(seed)
    side = random.integers(1, 60, 30) * 10
    x = PLACE[0] + random.integers(0, 180, 30) * 10
    y = PLACE[1] - 1800 + random.integers(0, 120, 30) * 10
    polygons = table(shapely.box(x, y, x + side, y + side))
    cells = measure_density(polygons, run_cells())
    assert cells.landslides.sum() == 30
    assert cells.landslide_m2.sum() == pytest.approx(polygons.area_m2.sum())
    assert cells.observed_km2.sum() == pytest.approx(0.5 * 2.4 * 1.8)
    unseen = cells.observed_km2 == 0
    assert cells.per_km2.isna().equals(unseen)
    summary = summarize_density(cells)
    assert summary.per_km2 == pytest.approx(30 / (1.2 * 1.8))
    assert summary.area_share == pytest.approx(polygons.area_m2.sum() / (1.2 * 1.8e6))
    in_degrees = measure_density(polygons.to_crs(4326), run_cells().to_crs(4326))
    assert in_degrees.landslides.tolist() == cells.landslides.tolist()
    assert in_degrees.landslide_m2.sum() == pytest.approx(cells.landslide_m2.sum(), rel=1e-3)


def test_density_where_nothing_was_seen_is_not_known() -> None:
    summary = summarize_density(measure_density(table([]), run_cells(observed=0)))
    assert summary.per_km2 is None
    assert summary.densest_per_km2 is None
    assert summary.area_km2 == pytest.approx(2.4 * 1.8)
    with pytest.raises(UsageError, match="cells lack observed"):
        measure_density(table([]), run_cells().drop(columns="observed"))


def test_cells_of_an_area_hold_all_of_it() -> None:
    area = gpd.GeoSeries([shapely.box(PLACE[0] + 300, PLACE[1], PLACE[0] + 2500, PLACE[1] + 900)], crs=UTM)
    cells = cells_of_area(area)
    assert cells.area_km2.sum() == pytest.approx(2.2 * 0.9)
    assert set(cells.observed) == {1}
    assert cells.area_km2.max() <= 1


def test_two_inventories_by_hand() -> None:
    x, y = PLACE
    ours = table([shapely.box(x, y, x + 100, y + 100), shapely.box(x + 500, y, x + 600, y + 100)])
    theirs = table(
        [
            shapely.box(x, y, x + 100, y + 60),
            shapely.box(x + 50, y, x + 100, y + 60),  # on the one before: counts once
            shapely.box(x + 800, y, x + 900, y + 100),
        ]
    )
    found = compare_inventories(ours, theirs)
    assert (found.ours_m2, found.reference_m2, found.shared_m2) == pytest.approx((20_000, 16_000, 6000))
    assert found.error_index == pytest.approx(24 / 30)
    assert found.matching_degree == pytest.approx(6 / 30)
    counts = found.landslides
    assert (counts.predicted, sum(counts.labelled)) == (2, 2)
    assert (counts.predicted_matched, counts.labelled_matched) == (1, 1)
    assert (counts.predicted_covered, sum(counts.labelled_covered)) == (1, 1)
    same = compare_inventories(ours, ours)
    assert (same.error_index, same.landslides.summary()["iou50_f1"]) == (0, 1)
    none = compare_inventories(ours, theirs.iloc[2:])
    assert none.error_index == 1
    assert compare_inventories(table([]), table([])).error_index is None


@settings(max_examples=15)
@given(seed=st.integers(0, 999))
def test_polygons_are_counted_as_their_pixels_are(seed: int) -> None:
    """The same counts as an evaluation of masks gives, and an error index that is the masks'."""
    grid = GeoBox((30, 41), Affine(10, 0, PLACE[0], 0, -10, PLACE[1]), UTM)
    predicted, truth = masks(seed)
    ours, theirs = (merge_blocks([trace_mask(mask)], grid) for mask in (predicted, truth))
    found = compare_inventories(ours, theirs, least_m2=400)
    expected = count_landslides(predicted, truth, pixel_m2=100, counted=EVERYTHING)
    assert found.landslides.summary() == expected.summary()
    union = (predicted | truth).sum()
    assert found.error_index == pytest.approx(1 - (predicted & truth).sum() / union)


def test_magnitudes_of_malamuds_own_law_agree() -> None:
    sample = take_areas(MALAMUD.draw(np.random.default_rng(0), 20_000, least_m2=0.0), completeness_m2=0)
    found = measure_magnitude(sample)
    assert found.by_number == pytest.approx(np.log10(20_000))
    assert found.by_tail.low < np.log10(20_000) < found.by_tail.high
    assert found.by_area == pytest.approx(np.log10(20_000), abs=0.05)
    larger = measure_magnitude(take_areas(sample.whole_m2 * 12, completeness_m2=0))
    assert larger.by_area == pytest.approx(found.by_area + np.log10(12))
    assert larger.by_tail.value > larger.by_number + 0.5
    assert measure_magnitude(take_areas([])).by_tail is None


def test_volumes_by_hand() -> None:
    """Without any error the sum is plain; with scatter its median grows by what logarithms hide."""
    areas = np.full(5000, 1000.0)
    exact = VolumeRelation(
        name="exact", reference="-", log10_alpha=-1, log10_alpha_sd=0, gamma=1.5, gamma_sd=0, scatter_dex=0
    )
    plain = 5000 * 0.1 * 1000**1.5
    found = estimate_volume(areas, exact)
    assert (found.plain_m3, found.total_m3.low, found.total_m3.high) == pytest.approx((plain,) * 3)
    scattered = estimate_volume(areas, exact.model_copy(update={"scatter_dex": 0.4}))
    smearing = np.exp((0.4 * np.log(10)) ** 2 / 2)
    assert scattered.total_m3.value == pytest.approx(plain * smearing, rel=0.01)
    off = estimate_volume(areas[:1], exact.model_copy(update={"log10_alpha_sd": 0.1}), draws=4000)
    reach = 1.96 * 0.1
    assert np.log10(off.total_m3.high / off.total_m3.low) == pytest.approx(2 * reach, rel=0.06)
    assert estimate_volume(np.zeros(0), GUZZETTI).plain_m3 == 0
    assert LARSEN_SOIL.volume_m3(np.array([5000.0])) < GUZZETTI.volume_m3(np.array([5000.0]))
    with pytest.raises(UsageError, match="5 draws"):
        estimate_volume(areas, exact, draws=5)


def test_sizes_are_those_of_the_table() -> None:
    sizes = describe_sizes(
        squares(300).pipe(lambda rows: take_areas(rows.area_m2, completeness_m2=400)), count=300
    )
    areas = squares(300).area_m2
    assert sizes.count == 300
    assert sizes.complete_count == (areas >= 400).sum() == sum(sizes.by_size.values())
    assert sizes.total_m2 == pytest.approx(areas[areas >= 400].sum())
    assert sizes.largest_m2 == areas.max()
    assert sizes.fit.count == sizes.complete_count
    assert sizes.goodness is None
    few = describe_sizes(take_areas(areas[:20]))
    assert (few.fit, few.lognormal, few.power_tail) == (None, None, None)
    nothing = describe_sizes(take_areas([]), simulated=5)
    assert (nothing.count, nothing.largest_m2, nothing.magnitudes.by_number) == (0, None, None)


def test_other_ways_to_draw_an_event_stand_beside_it() -> None:
    polygons = squares(200)
    inventory = Inventory("-", polygons, np.arange(200) % 20 == 0, cells=None)
    split = take_areas(np.repeat(polygons.area_m2 / 2, 2), completeness_m2=200)
    found = summarize_inventory(inventory, completeness_m2=200, variants={"split": split})
    assert found.variants.keys() == {
        "split", "cut landslides as whole", "cut landslides as at least so large",
    }  # fmt: skip
    assert found.variants["split"].complete_count == split.count
    tails = [row.fit.tail_exponent.value for row in (found.sizes, *found.variants.values())]
    assert len(set(tails)) == 4
    assert found.sizes.cut_count == 10
    assert Statistics.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.parquet", "a.geojson", "a.fgb"])
def test_any_file_of_polygons_is_an_inventory(tmp_path, name) -> None:
    polygons = squares(60)
    x, y = PLACE
    bow_tie = shapely.Polygon([(x - 500, y), (x - 400, y + 100), (x - 400, y), (x - 500, y + 100)])
    rows = gpd.GeoDataFrame(
        {"Area": 1.0}, index=range(62), geometry=[*polygons.geometry, bow_tie, None], crs=UTM
    )
    if name == "a.geojson":
        rows = rows.to_crs(4326)
    path = tmp_path / name
    options = {"SPATIAL_INDEX": "NO"} if name == "a.fgb" else {}
    rows.to_parquet(path) if name == "a.parquet" else rows.to_file(path, **options)
    found = read_inventory(path)
    assert found.left_out == 1
    assert len(found.polygons) == 61
    # The middle of the zone is 0.08 % small, its edge 0.2 % large; grid squares lose some of their area.
    assert found.polygons.area_m2[:60].to_numpy() == pytest.approx(polygons.area_m2.to_numpy(), rel=5e-3)
    assert found.polygons.area_m2.iloc[60] == pytest.approx(5000, rel=5e-3)
    assert not found.is_cut.any()
    assert found.cells is None


def test_the_mapped_area_tells_density_and_what_is_cut(tmp_path) -> None:
    x, y = PLACE
    polygons = table([shapely.box(x, y, x + 50, y + 50), shapely.box(x + 990, y + 100, x + 1000, y + 150)])
    polygons.to_file(tmp_path / "a.gpkg")
    table([shapely.box(x - 1000, y - 1000, x + 1000, y + 1000)]).to_file(tmp_path / "area.gpkg")
    found = describe_inventory(
        str(tmp_path / "a.gpkg"), area=str(tmp_path / "area.gpkg"), out=tmp_path / "out"
    )
    assert found.sizes.cut_count == 1
    assert found.density.per_km2 == pytest.approx(0.5, rel=1e-6)
    written = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert written == json.loads(found.model_dump_json())
    assert (tmp_path / "out" / "statistics.png").read_bytes().startswith(b"\x89PNG")
    assert gpd.read_parquet(tmp_path / "out" / "density.parquet").landslides.sum() == 2


def test_a_reference_is_cut_to_what_was_mapped() -> None:
    x, y = PLACE
    ours = Inventory(
        "-", table([shapely.box(x + 10, y - 60, x + 60, y - 10)]), np.zeros(1, bool), run_cells(1)
    )
    edge_x = run_cells(1).total_bounds[2]
    theirs = table(
        [shapely.box(edge_x - 50, y - 60, edge_x + 150, y - 10), shapely.box(x, y + 5000, x + 9, y + 5009)]
    )
    theirs["area_m2"] *= 1.001
    cut = within(Inventory("-", theirs, np.zeros(2, bool), None), ours)
    assert cut.polygons.area_m2.tolist() == pytest.approx([2500 * 1.001])
    assert cut.is_cut.tolist() == [True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("no polygons"), "cannot be read"),
        (lambda path: table([shapely.Point(1, 1)]).to_file(path), "holds Point; expected polygons"),
        (lambda path: table([shapely.box(0, 0, 1, 1)], crs=None).to_file(path), "has no CRS"),
        (lambda path: table([]).to_file(path), "no polygon of any area"),
    ],
)
@pytest.mark.filterwarnings("ignore:'crs' was not provided", "ignore:No.*CRS", "ignore:.*crs.*")
def test_files_that_are_no_inventory_are_refused(tmp_path, make, message) -> None:
    path = tmp_path / "a.gpkg"
    make(path)
    with pytest.raises(UsageError, match=message):
        read_inventory(path)


def test_the_command(tmp_path, coseis) -> None:  # noqa: F811
    polygons = squares(150)
    polygons.to_file(tmp_path / "a.gpkg")
    polygons.iloc[::2].to_file(tmp_path / "b.gpkg")
    done = coseis(
        "statistics", tmp_path / "a.gpkg", "--reference", tmp_path / "b.gpkg",
        "--completeness", 300, "--simulations", 9, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done
    count = (polygons.area_m2 >= 300).sum()
    assert f"150 landslides; {count} of 300 m2 or more" in done.out
    assert "9 simulations" in done.out
    assert "error index 0." in done.out
    assert "wrote" in done.out
    line = coseis("statistics", tmp_path / "c.gpkg").refused(2)
    assert "does not exist" in line
    assert "holds no run" in coseis("statistics", tmp_path / "none").refused(42)
    assert "--sensitivity is for a run" in coseis("statistics", tmp_path / "a.gpkg", "--sensitivity").refused(
        2
    )
    (tmp_path / "taken").write_text("a file")
    words = ("statistics", tmp_path / "a.gpkg", "--simulations", 0, "--out", tmp_path / "taken")
    assert "cannot be written" in coseis(*words).refused(42)
    with pytest.raises(InputRefusedError, match="holds no run"):
        describe_inventory(str(tmp_path / "none"))


def test_the_figure_shows_what_there_is() -> None:
    assert draw_sizes({"nothing": (take_areas([]), None)}, title="-").startswith(b"\x89PNG")
    one = take_areas([500.0], completeness_m2=0)
    assert draw_sizes({"one": (one, None)}, title="-").startswith(b"\x89PNG")


@pytest.mark.slow
def test_real_inventories(real_data, tmp_path) -> None:
    """Read as they come: invalid rings, empty rows, several parts; and laws that tell tails apart."""
    tails = {}
    for archive, year, count in (("China", 2011, 1552), ("PNG", 2018, 1557), ("China", 2009, 10_335)):
        path = f"/vsizip/{real_data}/inventories/{archive}.zip/{archive}/{year}.shp"
        gpd.read_file(path).to_file(tmp_path / "a.gpkg")
        inventory = read_inventory(tmp_path / "a.gpkg")
        assert len(inventory.polygons) + inventory.left_out == count
        found = summarize_inventory(inventory, completeness_m2=1000)
        tails[archive, year] = found.sizes.fit.tail_exponent
        assert found.sizes.total_m2 > 1e6
    assert tails["PNG", 2018].high < tails["China", 2011].low
    iburi = summarize_inventory(read_inventory(real_data / "iburi" / "planetscope" / "labels.gpkg"))
    assert iburi.sizes.median_m2 > 4000
    assert iburi.sizes.magnitudes.by_tail.low > iburi.sizes.magnitudes.by_number
