import json
import math
from datetime import UTC, datetime
from pathlib import Path

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geom import box
from rasterio.features import rasterize
from scipy import stats

from coseis.errors import InputRefusedError, UsageError
from coseis.simulate import simulate_arrays, simulate_event
from coseis.simulate.ground import make_ground
from coseis.simulate.landcover import Cover
from coseis.simulate.landslides import SIZE_LAW, draw_areas_m2, make_landslides, susceptibility
from coseis.simulate.scenes import Look, expose
from coseis.simulate.terrain import make_terrain, slope_deg
from coseis.types import PHASES

SIZE_KM = 1.8


@pytest.fixture(scope="module")
def event(tmp_path_factory):
    return simulate_event(tmp_path_factory.mktemp("event"), size_km=SIZE_KM, seed=5, cloud_share=0.1)


@pytest.fixture(scope="module")
def items(event):
    return sorted(
        pystac.Catalog.from_file(str(event.catalog)).get_items(recursive=True), key=lambda item: item.id
    )


@pytest.fixture(scope="module")
def terrain():
    return make_terrain(1000, seed=1)


def read(path, band=None):
    with rasterio.open(path) as source:
        return source.read(band) if band else source.read()


def sr_of(item):
    return next(a for a in item.assets.values() if a.extra_fields["pl:asset_type"] == "ortho_analytic_4b_sr")


def udm2_of(item):
    return next(a for a in item.assets.values() if a.extra_fields["pl:asset_type"] == "ortho_udm2")


# Sizes, shapes and places of landslides


def test_drawn_areas_follow_the_inverse_gamma_law():
    areas_m2 = draw_areas_m2(np.random.default_rng(0), 20_000)
    low, high = SIZE_LAW.cdf([100.0, 500_000.0])
    ks = stats.kstest(areas_m2, lambda a: (SIZE_LAW.cdf(a) - low) / (high - low))
    assert ks.pvalue > 0.01
    # An oracle written out: Malamud et al. (2004), equation 3.
    rho, a, s = 1.40, 1500.0, -132.0
    x = np.array([200.0, 1000.0, 50_000.0])
    density = (a / (x - s)) ** (rho + 1) * np.exp(-a / (x - s)) / (a * math.gamma(rho))
    assert SIZE_LAW.pdf(x) == pytest.approx(density, rel=1e-6)


def test_bodies_have_the_areas_that_were_drawn(terrain):
    slides = make_landslides(terrain, seed=8, density_per_km2=60)
    assert slides.area_m2.size > 400
    low, high = SIZE_LAW.cdf([100.0, 0.02 * 9e6])
    ks = stats.kstest(slides.area_m2, lambda a: np.clip((SIZE_LAW.cdf(a) - low) / (high - low), 0, 1))
    assert ks.statistic < 0.06  # bodies at the map's edge are cut


def test_bodies_are_valid_simple_and_longer_than_wide(terrain):
    slides = make_landslides(terrain, seed=8)
    assert shapely.is_valid(slides.bodies).all()
    assert set(shapely.get_type_id(slides.bodies)) == {shapely.GeometryType.POLYGON}
    solidity = shapely.area(slides.bodies) / shapely.area(shapely.convex_hull(slides.bodies))
    assert 0.7 < np.median(solidity) < 0.98
    frames = shapely.get_coordinates(shapely.minimum_rotated_rectangle(slides.bodies)).reshape(-1, 5, 2)
    sides = np.hypot(*np.diff(frames[:, :3], axis=1).transpose(2, 0, 1))
    assert 1.3 < np.median(sides.max(axis=1) / sides.min(axis=1)) < 2.3


def test_landslides_run_downhill_on_slopes(terrain):
    slides = make_landslides(terrain, seed=8)
    elevation = terrain.elevation_m
    slope = slope_deg(elevation, 3.0)
    mask = rasterize(slides.bodies, out_shape=elevation.shape) > 0
    assert 15 < np.median(slope[mask]) < 30
    centres = [
        shapely.get_coordinates(shapely.centroid(shapes)) for shapes in (slides.bodies, slides.runouts)
    ]
    heights = [elevation[tuple(np.clip(xy[:, ::-1].astype(int), 0, 999).T)] for xy in centres]
    assert (heights[0] > heights[1]).mean() > 0.9


def test_landslides_avoid_the_plain_and_cluster(terrain):
    likelihood = susceptibility(np.random.default_rng(0), terrain)
    assert likelihood[terrain.coarse_plain].max(initial=0) == 0
    slides = make_landslides(terrain, seed=2, density_per_km2=40)
    centres = shapely.get_coordinates(shapely.centroid(slides.bodies))
    counts = np.histogram2d(*centres.T, bins=5, range=[[0, 1000]] * 2)[0]
    assert counts.var() > 1.3 * counts.mean()  # an even scatter has variance == mean


# Light


def test_slopes_that_face_the_sun_are_brighter():
    x = np.arange(200, dtype=np.float32)
    ridge = np.tile(60 - 0.9 * np.abs(x - 100), (200, 1))  # runs north to south
    cover = np.full(ridge.shape, Cover.BROADLEAF, np.uint8)
    tone = np.ones(ridge.shape, np.float16)
    view = expose(ridge, cover, tone, Look(sun_azimuth_deg=90, sun_elevation_deg=40))
    east, west = view.reflectance[:, 20:180, 120:180], view.reflectance[:, 20:180, 20:80]
    assert (east.mean(axis=(1, 2)) > 1.3 * west.mean(axis=(1, 2))).all()
    assert (view.cloud.sum(), view.shadow.sum(), view.haze.sum()) == (0, 0, 0)


def test_clouds_are_bright_and_throw_their_shadow_away_from_the_sun():
    flat = np.zeros((800, 400), np.float32)
    cover, tone = np.full(flat.shape, Cover.BROADLEAF, np.uint8), np.ones(flat.shape, np.float16)
    look = Look(sun_azimuth_deg=180, sun_elevation_deg=45, cloud_share=0.1, seed=1)
    view = expose(flat, cover, tone, look)
    assert 0.03 < view.cloud.mean() < 0.25
    assert view.reflectance[2][view.cloud].mean() > 0.3
    assert (
        view.reflectance[3][view.shadow].mean() < 0.6 * view.reflectance[3][~view.shadow & ~view.cloud].mean()
    )
    north = view.cloud[300:]  # 900 m up, sun in the south at 45 degrees
    assert north.sum() > 1000
    assert (view.shadow | view.cloud)[:500][north].mean() > 0.8


# Arrays


@given(st.integers(64, 110), st.integers(0, 1000), st.sampled_from(["iburi", "steep"]))
@settings(max_examples=4, deadline=None)
def test_arrays_of_any_size_are_complete_and_deterministic(size_px, seed, preset):
    pre, post, mask = simulate_arrays(size_px, seed=seed, preset=preset)
    again = simulate_arrays(size_px, seed=seed, preset=preset)
    assert pre.shape == post.shape == (4, size_px, size_px)
    assert pre.dtype == post.dtype == np.float32
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 1}
    for first, second in zip((pre, post, mask), again, strict=True):
        assert np.isfinite(first).all()
        assert np.array_equal(first, second)
    assert pre.min() > 0
    assert post.max() <= 1.6


def test_landslides_redden_and_lose_their_leaves():
    pre, post, mask = simulate_arrays(700, seed=6)
    slid = mask > 0
    assert 0.01 < slid.mean() < 0.10
    ndvi = [(a[3] - a[2]) / (a[3] + a[2]) for a in (pre, post)]
    assert np.median(ndvi[0][slid]) > 0.6
    assert np.median(ndvi[1][slid]) < 0.5
    assert abs(np.median(ndvi[1][~slid]) - np.median(ndvi[0][~slid])) < 0.1
    assert np.median((post[2] / post[1])[slid]) > 1.1


def test_another_seed_is_another_event():
    assert not np.array_equal(simulate_arrays(128, seed=1)[0], simulate_arrays(128, seed=2)[0])


def test_prevalence_of_a_whole_map():
    share = [make_ground(800, seed=seed).mask.mean() for seed in range(3)]
    assert 0.02 < np.mean(share) < 0.06


# Files


def test_truth_polygons_burn_to_exactly_the_mask(event):
    landslides = gpd.read_file(event.landslides)
    with rasterio.open(event.mask) as source:
        mask, transform, crs = source.read(1), source.transform, source.crs
    assert landslides.crs == crs == rasterio.CRS.from_epsg(32654)
    assert np.array_equal(rasterize(landslides.geometry, out_shape=mask.shape, transform=transform), mask)
    assert landslides["id"].tolist() == list(range(1, len(landslides) + 1))
    assert set(landslides["kind"]) == {"new"}
    assert landslides["area_m2"].to_numpy() == pytest.approx(landslides.area.to_numpy())
    assert len(landslides) == event.landslide_count
    assert mask.mean() == pytest.approx(event.landslide_share)
    classes = read(event.classes, 1)
    assert np.array_equal(np.isin(classes, [Cover.SCAR_BROWN, Cover.SCAR_PALE, Cover.RUNOUT]), mask == 1)
    assert (classes > 0).all()


def test_truth_lies_on_one_grid_that_is_the_scenes_union(event, items):
    grids = []
    for path in (event.mask, event.classes, event.dem):
        with rasterio.open(path) as source:
            grids.append((source.crs.to_epsg(), source.transform, source.shape))
            left, top, shape = source.bounds.left, source.bounds.top, source.shape
    assert grids[0] == grids[1] == grids[2]
    for phase_items in (items[:2], items[2:]):
        seen = np.zeros(shape, bool)
        for item in phase_items:
            with rasterio.open(sr_of(item).get_absolute_href()) as source:
                row, column = round((top - source.bounds.top) / 3), round((source.bounds.left - left) / 3)
                window = seen[row : row + source.height, column : column + source.width]
                window |= source.read(1) > 0
        assert seen.mean() > 0.9999


def test_aoi_lies_within_the_scenes_union(event):
    with rasterio.open(event.mask) as source:
        bounds = source.bounds
    aoi = box(*event.aoi, "EPSG:4326").to_crs("EPSG:32654", resolution=0.001)
    assert shapely.box(*bounds).contains(aoi.geom)
    assert aoi.area > 0.8 * (SIZE_KM * 1000) ** 2
    feature = json.loads(event.aoi_path.read_text())["features"][0]
    assert shapely.geometry.shape(feature["geometry"]).bounds == pytest.approx(event.aoi)
    summary = json.loads((event.catalog.parent / "event.json").read_text())
    assert summary["event_time"] == "2018-09-05T18:08:00Z"
    assert summary["aoi"] == pytest.approx(event.aoi)
    assert summary["seed"] == 5


def test_each_phase_has_overlapping_strips_with_collars(event, items):
    phases = [
        [item for item in items if (item.datetime < event.event_time) == before] for before in (True, False)
    ]
    for scenes in phases:
        assert len(scenes) >= 2
        first, second = (shapely.geometry.shape(item.geometry) for item in scenes[:2])
        assert first.intersection(second).area > 0.05 * min(first.area, second.area)
        for item in scenes:
            bands = read(sr_of(item).get_absolute_href())
            missing = bands[0] == 0
            assert 0.02 < missing.mean() < 0.5
            assert ((bands == 0) == missing).all()  # all bands share one footprint
    looks = {(item.properties["view:sun_azimuth"], item.properties["view:sun_elevation"]) for item in items}
    assert len(looks) == len(items)


def test_reflectance_and_masks_of_overlapping_scenes_tell_of_the_same_ground(event, items):
    by_position = {}
    for item in items[:2]:
        with rasterio.open(sr_of(item).get_absolute_href()) as source:
            by_position[item.id] = source.read(4).astype(float), source.bounds
    (a, bounds_a), (b, bounds_b) = by_position.values()
    row, column = (bounds_a.top - bounds_b.top) / 3, (bounds_b.left - bounds_a.left) / 3
    a, b = a[:, round(column) :], b
    height = min(a.shape[0], b.shape[0])
    width = min(a.shape[1], b.shape[1])
    assert abs(row) < 1
    a, b = a[:height, :width], b[:height, :width]
    both = (a > 0) & (b > 0)
    assert both.sum() > 1000
    assert np.corrcoef(a[both], b[both])[0, 1] > 0.7


def test_udm2_classes_are_exclusive_and_mark_the_clouds(items):
    clouds = []
    for item in items:
        sr, udm2 = (read(asset.get_absolute_href()) for asset in (sr_of(item), udm2_of(item)))
        assert udm2.shape == (8, *sr.shape[1:])
        assert udm2.dtype == np.uint8
        inside = sr[0] > 0
        assert np.array_equal(udm2[:6].sum(axis=0), inside.astype(int))
        assert udm2[6].max() <= 100
        assert np.array_equal(udm2[7] & 1, (~inside).astype(np.uint8))
        cloud = udm2[5] == 1
        assert item.properties["eo:cloud_cover"] == pytest.approx(100 * cloud[inside].mean(), abs=0.06)
        clouds.append(cloud.any())
        if cloud.any():
            assert np.median(sr[2][cloud]) > 4 * np.median(sr[2][udm2[0] == 1])
            assert udm2[2].any()
    assert clouds == [False, False, False, True]


def test_cogs_are_cloud_optimized_with_overviews(event, items):
    paths = [asset.get_absolute_href() for item in items for asset in item.assets.values()]
    for path in [*paths, event.mask, event.classes, event.dem]:
        with rasterio.open(path) as source:
            assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert source.block_shapes[0] == (512, 512)
            assert source.res == (3.0, 3.0)
            assert source.overviews(1) or max(source.shape) <= 512
    with rasterio.open(sr_of(items[0]).get_absolute_href()) as source:
        assert source.dtypes == ("uint16",) * 4
        assert source.nodata == 0
        assert source.descriptions == ("blue", "green", "red", "nir")


def test_items_have_the_form_of_planets_own(items, real_data):
    example = "planet_stac/open-stac/education/mato-grosso/20200908_134313_1012/20200908_134313_1012.json"
    real = json.loads((real_data / example).read_text())
    real_assets = {a.get("pl:asset_type"): a for a in real["assets"].values()}
    for item in items:
        stored = json.loads(Path(item.get_self_href()).read_text())
        # pl:* and proj:epsg are compared as stored: pystac renames some of them when it reads.
        assert set(real["properties"]) - {"view:azimuth"} <= set(stored["properties"])
        assert stored["properties"]["pl:item_type"] == "PSScene"
        assert stored["stac_extensions"] == real["stac_extensions"]
        assert stored["properties"]["proj:epsg"] == 32654
        assert {a["pl:asset_type"] for a in stored["assets"].values()} == {
            "ortho_analytic_4b_sr",
            "ortho_udm2",
        }
        for key, asset in stored["assets"].items():
            theirs = real_assets[asset["pl:asset_type"]]
            assert set(theirs) <= set(asset)
            assert asset["eo:bands"] == theirs["eo:bands"]
            assert asset["roles"] == theirs["roles"]
            assert len(asset["raster:bands"]) == len(theirs["raster:bands"])
            assert asset["raster:bands"][0].get("scale") == theirs["raster:bands"][0].get("scale")
            assert key == f"{item.id}_3B_{'udm2' if 'udm2' in key else 'AnalyticMS_SR'}_file_format_tif"
            assert asset["href"].startswith("./")
            with rasterio.open(item.assets[key].get_absolute_href()) as source:
                assert asset["proj:shape"] == list(source.shape)
                assert asset["proj:transform"] == [*source.transform[:6], 0, 0, 1]


def test_catalog_is_self_contained(event, items):
    catalog = pystac.Catalog.from_file(str(event.catalog))
    (collection,) = catalog.get_children()
    assert collection.id == "PSScene"
    assert all(item.collection_id == "PSScene" for item in items)
    for path in event.catalog.parent.rglob("*.json"):
        assert str(event.catalog.parent) not in path.read_text()
    times = [item.datetime for item in items]
    assert min(times) < datetime(2018, 9, 5, 18, 8, tzinfo=UTC) < max(times)
    assert len({item.id for item in items}) == len(items)


def test_equal_arguments_give_equal_files(event, tmp_path):
    again = simulate_event(tmp_path / "again", size_km=SIZE_KM, seed=5, cloud_share=0.1)
    assert again.aoi == event.aoi
    root = event.catalog.parent
    for path in sorted(root.rglob("*.tif")):
        assert np.array_equal(read(path), read(tmp_path / "again" / path.relative_to(root))), path.name
    pairs = [gpd.read_file(e.landslides) for e in (event, again)]
    assert pairs[0].geometry.to_wkb().equals(pairs[1].geometry.to_wkb())
    for path in root.rglob("*.json"):
        assert path.read_text() == (tmp_path / "again" / path.relative_to(root)).read_text()


@pytest.mark.parametrize("size_km", [0.5, 1.0])
def test_small_maps_have_whole_catalogs(size_km, tmp_path):
    event = simulate_event(tmp_path, size_km=size_km, seed=1)
    catalog = pystac.Catalog.from_file(str(event.catalog))
    assert len(list(catalog.get_items(recursive=True))) >= 2 * len(PHASES)
    assert read(event.mask, 1).shape == (round(size_km * 1000 / 3),) * 2


@pytest.mark.slow
def test_large_maps_have_many_scenes_that_cover_them(tmp_path):
    event = simulate_event(tmp_path, size_km=13, seed=1)
    items = list(pystac.Catalog.from_file(str(event.catalog)).get_items(recursive=True))
    assert len(items) == len({item.id for item in items}) >= 8
    assert 0.02 < event.landslide_share < 0.06
    for before in (True, False):
        outlines = [
            shapely.geometry.shape(item.geometry)
            for item in items
            if (item.datetime < event.event_time) == before
        ]
        assert shapely.union_all(outlines).contains(shapely.box(*event.aoi))


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size_km": 0.1}, r"size_km is 0.1; expected 0.5 to 60"),
        ({"size_km": float("nan")}, r"size_km is nan"),
        ({"seed": -1, "size_km": 1}, r"seed is -1"),
        ({"density_per_km2": 0, "size_km": 1}, r"density_per_km2 is 0"),
        ({"cloud_share": 1.0}, r"cloud_share is 1.0"),
        ({"preset": "alps", "size_km": 1}, r"preset is 'alps'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        simulate_event(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputRefusedError, match="holds files already"):
        simulate_event(tmp_path, size_km=1)
    with pytest.raises(InputRefusedError, match="cannot be written"):
        simulate_event(tmp_path / "notes.txt", size_km=1)


def test_too_small_an_array_is_refused():
    with pytest.raises(UsageError, match="size_px is 32; expected at least 64"):
        simulate_arrays(32, seed=0)
