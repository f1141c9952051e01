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
from rasterio.vrt import WarpedVRT
from scipy import ndimage, stats

from coseis.errors import InputRefusedError, UsageError
from coseis.simulate import frames, simulate_arrays, simulate_event
from coseis.simulate.annotator import annotate
from coseis.simulate.ground import make_ground
from coseis.simulate.landcover import FOREST, NEW_LANDSLIDE, Cover
from coseis.simulate.landslides import SIZE_LAW, draw_areas_m2, make_landslides, susceptibility
from coseis.simulate.scenes import Look, Sky, Surface
from coseis.simulate.sensor import expose
from coseis.simulate.terrain import make_terrain, slope_deg
from coseis.types import PHASES

SIZE_KM = 1.8
CHANGED = {
    Cover.BARE_FIELD,
    Cover.CLEAR_CUT,
    Cover.WINDTHROW,
    Cover.QUARRY,
    Cover.FRESH_GRAVEL,
    Cover.MUDDY_WATER,
}
"""Covers that come between the scenes where no landslide does."""


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


def test_outlines_are_the_same_to_the_bit_in_metres_of_a_zone(terrain):
    """Rounded coordinates of a zone once made two edges cross, and the parts could not be cut."""
    slides = make_landslides(terrain, seed=8, density_per_km2=60)
    corner = np.array([581_283.0, 4_728_258.0])
    for shapes in (slides.bodies, slides.runouts):
        moved = shapely.transform(shapes, lambda xy: corner + xy * [3.0, -3.0])
        back = shapely.transform(moved, lambda xy: (xy - corner) / [3.0, -3.0])
        assert shapely.equals_exact(back, shapes, tolerance=0).all()
        assert shapely.is_valid(moved).all()


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
    assert (heights[0] > heights[1]).mean() > 0.85


def test_landslides_run_as_far_as_those_of_2018(terrain):
    """Length over drop, both as the outlines have them, beside the law that the paths are chosen by."""
    slides = make_landslides(terrain, seed=8, density_per_km2=40)
    bodies = slides.bodies[slides.area_m2 >= 400]
    numbers = rasterize(zip(bodies, range(1, len(bodies) + 1), strict=True), out_shape=(1000, 1000))
    seen = np.unique(numbers[numbers > 0])
    low, high = (
        ndimage.labeled_comprehension(terrain.elevation_m, numbers, seen, of, float, 0)
        for of in (np.min, np.max)
    )
    frames = shapely.get_coordinates(shapely.minimum_rotated_rectangle(bodies[seen - 1])).reshape(-1, 5, 2)
    length_m = 3 * np.hypot(*np.diff(frames[:, :3], axis=1).transpose(2, 0, 1)).max(axis=1)
    excess = np.log(length_m / (18.454 * np.maximum(high - low, 1) ** 0.612))
    # Outlines drop farther than the line along their middle, and the box around a bend is short.
    assert -0.45 < np.median(excess) < 0.1
    assert excess.std() < 0.5


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
    view = expose(Surface(ridge, cover, tone), Look(sun_azimuth_deg=90, sun_elevation_deg=40))
    east, west = view.reflectance[:, 20:180, 120:180], view.reflectance[:, 20:180, 20:80]
    assert (east.mean(axis=(1, 2)) > 1.3 * west.mean(axis=(1, 2))).all()
    assert (view.sky == Sky.CLEAR).all()
    assert (view.called == Sky.CLEAR).all()


def test_clouds_are_bright_and_throw_their_shadow_away_from_the_sun():
    flat = np.zeros((800, 400), np.float32)
    cover, tone = np.full(flat.shape, Cover.BROADLEAF, np.uint8), np.ones(flat.shape, np.float16)
    look = Look(sun_azimuth_deg=180, sun_elevation_deg=45, cloud_share=0.1, seed=1)
    view = expose(Surface(flat, cover, tone), look)
    cloud, shadow = view.sky == Sky.CLOUD, view.sky == Sky.SHADOW
    assert 0.03 < cloud.mean() < 0.25
    assert view.reflectance[2][cloud].mean() > 0.3
    assert view.reflectance[3][shadow].mean() < 0.6 * view.reflectance[3][~shadow & ~cloud].mean()
    north = cloud[300:]  # 900 m up, sun in the south at 45 degrees
    assert north.sum() > 1000
    assert (shadow | cloud)[:500][north].mean() > 0.8


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
    assert set(landslides["kind"]) <= {"new", "reactivated"}
    assert landslides["area_m2"].to_numpy() == pytest.approx(landslides.area.to_numpy())
    assert len(landslides) == event.landslide_count
    assert mask.mean() == pytest.approx(event.landslide_share)
    classes = read(event.classes, 1)
    assert np.array_equal(np.isin(classes, NEW_LANDSLIDE), mask == 1)
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
    # Each scene errs by a pixel or two: single trees do not agree, stands do.
    a, b = (ndimage.gaussian_filter(band, 3)[ndimage.binary_erosion(both, iterations=9)] for band in (a, b))
    assert np.corrcoef(a, b)[0, 1] > 0.9


def test_udm2_is_exclusive_and_marks_clouds_but_not_all_of_the_thin(event, items):
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
        true = read(event.skies / f"{item.id}.tif", 1)
        assert np.array_equal(true > 0, inside)
        clouds.append((true == Sky.CLOUD).any())
        if clouds[-1]:
            assert cloud[true == Sky.CLOUD].all()
            assert np.median(sr[2][cloud]) > 4 * np.median(sr[2][udm2[0] == 1])
            assert udm2[2].any()
            missed = (udm2[0] == 1)[true == Sky.THIN].mean()
            assert missed == pytest.approx(0.1, abs=0.03)
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
def test_large_maps_have_many_scenes_that_cover_them(tmp_path, monkeypatch):
    """Large beside their scenes, which are a third of their true size here."""
    monkeypatch.setattr(frames, "STRIP_M", frames.STRIP_M / 3)
    monkeypatch.setattr(frames, "FRAME_M", frames.FRAME_M / 3)
    event = simulate_event(tmp_path, size_km=13 / 3, seed=1)
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


# Confusers, old scars and the other files of the truth


def test_an_old_scar_is_there_before_the_event_and_some_move_again():
    ground = make_ground(700, seed=2, density_per_km2=60)
    old = rasterize(ground.old_scars.geometry, out_shape=(700, 700), transform=ground.grid.transform) > 0
    scarred = ground.cover["pre"] == Cover.OLD_SCAR
    assert scarred[old].mean() > 0.9  # the rest is road and water
    assert not scarred[~old].any()
    assert (ground.cover["post"][scarred & (ground.mask == 0)] == Cover.OLD_SCAR).all()
    assert 0.1 <= len(ground.old_scars) / len(ground.landslides) <= 0.2
    for table, first in ((ground.old_scars, "old"), (ground.landslides, "new")):
        assert set(table["kind"]) == {first, "reactivated"}
    moved = ground.old_scars[ground.old_scars["kind"] == "reactivated"]
    assert 0.1 < len(moved) / len(ground.old_scars) < 0.7
    assert moved.intersects(ground.landslides.union_all()).all()


def test_source_and_deposit_make_up_each_landslide():
    ground = make_ground(500, seed=3, density_per_km2=40)
    whole = ground.parts.dissolve("id").geometry
    assert whole.area.to_numpy() == pytest.approx(
        ground.landslides.set_index("id").area[whole.index].to_numpy()
    )
    by_part = ground.parts.assign(area=ground.parts.area).groupby("part")["area"].sum()
    assert 0.15 < by_part["deposit"] / by_part.sum() < 0.6
    sources = ground.parts[ground.parts["part"] == "source"].geometry.union_all()
    classes = ground.cover["post"]
    upper = rasterize([sources], out_shape=classes.shape, transform=ground.grid.transform) > 0
    assert (
        np.isin(classes[upper], [Cover.SCAR_BROWN, Cover.SCAR_PALE]).mean() > 0.85
    )  # the rest: other deposits


def test_a_share_of_bodies_merges(terrain):
    bodies = make_landslides(terrain, seed=2).bodies
    first, second = shapely.STRtree(bodies).query(bodies, predicate="intersects")
    merged = np.unique(first[first != second]).size / len(bodies)
    assert 0.2 < merged < 0.4


def test_confusers_are_drawn_and_half_of_the_clear_cuts_are_new():
    new, old, forest, blown = 0, 0, 0, 0
    for seed in range(6):
        ground = make_ground(1000, seed=seed)
        before, after = ground.cover["pre"], ground.cover["post"]
        new += ((after == Cover.CLEAR_CUT) & (before != Cover.CLEAR_CUT)).sum()
        old += (before == Cover.CLEAR_CUT).sum()
        forest += np.isin(before, FOREST).sum()
        blown += (after == Cover.WINDTHROW).sum() - (before == Cover.WINDTHROW).sum()
        untouched = (ground.mask == 0) & (before != after)
        assert set(np.unique(after[untouched])) <= CHANGED
    assert 0.003 < (new + old) / forest < 0.012
    assert 0.2 < new / (new + old) < 0.8
    assert 0.001 < blown / forest < 0.003


def test_the_annotator_is_near_the_truth_but_not_on_it():
    ground = make_ground(1000, seed=4)
    true = ground.landslides.geometry.to_numpy()
    drawn = annotate(true, seed=4)
    assert shapely.is_valid(drawn).all()
    assert shapely.area(drawn).min() >= 400
    assert len(drawn) < len(true)
    exact, loose = shapely.union_all(true), shapely.union_all(drawn)
    overlap = shapely.intersection(exact, loose).area / shapely.union(exact, loose).area
    assert 0.5 < overlap < 0.9
    assert all(shapely.equals(a, b) for a, b in zip(drawn, annotate(true, seed=4), strict=True))


@pytest.mark.parametrize("phase", PHASES)
def test_scenes_lie_where_the_recorded_shifts_say(phase, event, items):
    """Rendered ground of known place: the seen red band correlates best at the shift in the truth."""
    shifts = json.loads(event.shifts.read_text())["scenes"]
    assert set(shifts) == {item.id for item in items}
    with rasterio.open(event.mask) as source:
        left, top = source.bounds.left, source.bounds.top
    road = np.isin(read(event.truth.classes_pre, 1), [Cover.ROAD, Cover.GRAVEL, Cover.WATER])
    road &= np.isin(read(event.classes, 1), [Cover.ROAD, Cover.GRAVEL, Cover.WATER, Cover.MUDDY_WATER])
    pattern = ndimage.gaussian_filter(road.astype(np.float32), 0.7)
    item = next(i for i in items if shifts[i.id]["phase"] == phase)
    with rasterio.open(sr_of(item).get_absolute_href()) as source:
        green = source.read(2).astype(np.float32)
        row, column = round((top - source.bounds.top) / 3), round((source.bounds.left - left) / 3)
    inside = ndimage.binary_erosion(green > 0, iterations=12)
    green = np.log(np.maximum(green, 1)) - ndimage.gaussian_filter(np.log(np.maximum(green, 1)), 6)
    scene = shifts[item.id]
    elevation = read(event.dem, 1)
    rise = np.clip((elevation - scene["reference_m"]) / scene["scale_m"], -1, 1)
    down, right = (
        s + r * float(rise[road].mean()) for s, r in zip(scene["scene_px"], scene["relief_px"], strict=True)
    )
    window = (slice(row, row + green.shape[0]), slice(column, column + green.shape[1]))

    def agreement(dy, dx):
        moved = ndimage.shift(pattern, (dy, dx), order=1)[window]
        return np.corrcoef(moved[inside], green[inside])[0, 1]

    true = agreement(down, right)
    assert all(
        true > agreement(down + dy, right + dx) for dy, dx in ((2.5, 0), (-2.5, 0), (0, 2.5), (0, -2.5))
    )


def test_what_was_seen_is_clear_but_for_clouds_and_their_shadows(event, items):
    with rasterio.open(event.truth.observed) as source:
        pre, post = source.read()
        assert source.descriptions == PHASES
    assert (pre == Sky.CLEAR).mean() > 0.999
    assert 0.01 < np.isin(post, [Sky.CLOUD, Sky.SHADOW, Sky.THIN]).mean() < 0.4
    assert (post > 0).mean() > 0.999


def test_snow_lies_before_the_event_on_request(tmp_path):
    event = simulate_event(tmp_path, size_km=0.8, seed=1, pre_season="snow")
    for item in pystac.Catalog.from_file(str(event.catalog)).get_items(recursive=True):
        snow = read(udm2_of(item).get_absolute_href(), Sky.SNOW)
        assert (snow.mean() > 0.2) == (item.datetime < event.event_time)


def test_scenes_of_two_zones_and_their_truth_agree(tmp_path):
    event = simulate_event(tmp_path, size_km=1.5, seed=3, zones=2, misfit_px=0)
    items = list(pystac.Catalog.from_file(str(event.catalog)).get_items(recursive=True))
    assert {item.properties["proj:code"] for item in items} == {"EPSG:32654", "EPSG:32655"}
    for item in items:
        west = shapely.geometry.shape(item.geometry).centroid.x < 144
        assert item.properties["proj:code"] == ("EPSG:32654" if west else "EPSG:32655")
    tables = [gpd.read_file(truth.landslides) for truth in (event.truth, event.truth_east)]
    assert [table.crs.to_epsg() for table in tables] == [32654, 32655]
    assert tables[0].to_crs(32655).area.to_numpy() == pytest.approx(tables[1].area.to_numpy(), rel=1e-6)
    # In both zones the scene after the event is redder in its own zone's truth.
    for item in items:
        if item.datetime > event.event_time:
            east = item.properties["proj:code"] == "EPSG:32655"
            truth = event.truth_east if east else event.truth
            with rasterio.open(sr_of(item).get_absolute_href()) as source, rasterio.open(truth.mask) as mask:
                with WarpedVRT(
                    mask, crs=source.crs, transform=source.transform, width=source.width, height=source.height
                ) as same:
                    slid = same.read(1) > 0
                bands = source.read().astype(float)
            seen = bands[0] > 0
            ratio = np.divide(bands[2], bands[1], where=seen, out=np.zeros_like(bands[2]))
            core = ndimage.binary_erosion(slid) & seen
            assert core.sum() > 100
            assert (
                np.median(ratio[core])
                > 1.1
                > np.median(ratio[seen & ~ndimage.binary_dilation(slid, iterations=2)])
            )


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
        ({"misfit_px": 6, "size_km": 1}, r"misfit_px is 6; expected 0 to 5"),
        ({"pre_season": "winter", "size_km": 1}, r"pre_season is 'winter'; expected one of summer"),
        ({"zones": 3, "size_km": 1}, r"zones is 3; expected 1 or 2"),
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
