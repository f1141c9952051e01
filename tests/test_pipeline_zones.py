"""A region astride a zone border: each place mapped once, polygons whole, scores of both parts."""

import json

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geom import point

from coseis.assess import assess_run
from coseis.config import MapConfig, ModelConfig, OutputConfig, SearchConfig
from coseis.objects import get_object, open_store
from coseis.pipeline import map_event
from coseis.plan import ITEMS, read_plan
from coseis.types import Status
from making import EVENT_TIME, found_of, texture, write_scene
from test_pipeline import client, model  # noqa: F401  (fixtures)

AREA = (143.9935, 42.790, 144.0075, 42.7965)
"""Degrees; the border of zones 54 and 55 is 144."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One smooth image before and after on each side, each in its own zone and reaching over the border."""
    folder = tmp_path_factory.mktemp("scenes")
    scenes = []
    for phase in ("pre", "post"):
        for zone, west in (("54", 143.991), ("55", 143.996)):
            crs = f"EPSG:326{zone}"
            x, y = point(west, 42.799, "EPSG:4326").to_crs(crs).coords[0]
            affine = Affine(3, 0, round(x / 3) * 3, 0, -3, round(y / 3) * 3)
            pixels = texture((3, 360, 400), seed=len(scenes))
            scenes.append(
                write_scene(folder / f"{phase}-{zone}.tif", pixels, affine, crs=crs, phase=phase).model_copy(
                    update={"resolution_m": 3.0}
                )
            )
    return found_of(scenes, json.loads(shapely.to_geojson(shapely.box(*AREA))))


@pytest.fixture(scope="module")
def start(model, found, client, tmp_path_factory):  # noqa: F811
    area = tmp_path_factory.mktemp("area") / "aoi.geojson"
    area.write_text(json.dumps(found.event.aoi))

    def run(out, *, crs=None, chunk=None):
        config = MapConfig(
            search=SearchConfig(catalog="-", aoi=str(area), event_time=EVENT_TIME.isoformat()),
            model=ModelConfig(model=str(model.path), core=112, precision="float32"),
            output=OutputConfig(out=str(out), crs=crs, chunk=chunk, min_area=100),
        )
        return map_event(config, client=client)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coseis.plan.find_scenes", lambda search, card: found)
        yield run


@pytest.fixture(scope="module")
def mapped(start, tmp_path_factory):
    out = tmp_path_factory.mktemp("zones") / "run"
    return out, start(out)


def test_every_place_is_mapped_in_the_zone_of_its_longitude(mapped):
    out, report = mapped
    plan = read_plan(get_object(open_store(str(out)), ITEMS), str(out))
    assert sorted(zone.identity.crs for zone in plan.zones) == ["EPSG:32654", "EPSG:32655"]
    area_m2 = 0.0
    for zone in plan.zones:
        epsg = zone.identity.crs.removeprefix("EPSG:")
        cube = xr.open_zarr(out / "probability.zarr", group=epsg, consolidated=False)
        assert cube.rio.crs.to_epsg() == int(epsg)
        status = cube.status.sel(phase="post").values & 0x7F
        inside = status != Status.OUTSIDE_AOI
        y, x = np.nonzero(inside)
        places = gpd.points_from_xy(cube.x.values[x], cube.y.values[y], crs=int(epsg)).to_crs(4326)
        assert ((places.x < 144) == (epsg == "32654")).all()
        area_m2 += inside.sum() * 9
        with rasterio.open(out / f"status{'' if zone is plan.zones[0] else '_' + epsg}.tif") as file:
            np.testing.assert_array_equal(file.read(1) & 0x7F, status)
    whole = gpd.GeoSeries([shapely.box(*AREA)], crs=4326).to_crs(32654).area.iloc[0]
    assert area_m2 == pytest.approx(whole, rel=0.01)
    assert report.aoi_km2 == pytest.approx(area_m2 / 1e6, rel=1e-3)
    assert report.observed_share == 1


def test_the_inventory_is_one_table_in_degrees(mapped):
    out, report = mapped
    polygons = gpd.read_parquet(out / "landslides.parquet")
    assert polygons.crs.to_epsg() == 4326
    assert polygons.id.is_unique
    assert set(polygons.id.str[:5]) == {"32654", "32655"}
    across = polygons[polygons.intersects(shapely.LineString([(144, 42), (144, 43)]))]
    assert len(across) > 3
    assert not across.geometry.is_empty.any()
    true = polygons.to_crs(6933).area
    line = shapely.LineString([(144, 42), (144, 43)])
    near = shapely.dwithin(polygons.geometry.to_numpy(), line, 1e-4)
    np.testing.assert_allclose(polygons.area_m2[~near], true[~near], rtol=1e-4)
    # What joins two parts lies within a pixel of the border.
    height_m = polygons[near].to_crs(32654).bounds.eval("maxy - miny") + 12
    assert (true[near] - polygons.area_m2[near]).between(-1, 6 * height_m).all()
    assert polygons.area_m2.sum() == pytest.approx(true.sum(), rel=0.02)
    assert polygons.area_m2.min() >= 100
    assert report.landslide_count == (polygons.change != "pre-existing").sum()
    cells = gpd.read_parquet(out / "observed.parquet")
    assert cells.crs.to_epsg() == 4326
    assert cells.area_km2.sum() == pytest.approx(report.aoi_km2, rel=1e-3)


def test_chunks_change_nothing(mapped, start, tmp_path):
    start(tmp_path / "other", chunk=224)
    one, other = (gpd.read_parquet(out / "landslides.parquet") for out in (mapped[0], tmp_path / "other"))
    assert one.to_wkb().equals(other.to_wkb())


def test_a_given_crs_maps_all_on_one_grid(mapped, start, tmp_path):
    report = start(tmp_path / "one", crs="EPSG:32654")
    polygons = gpd.read_parquet(tmp_path / "one" / "landslides.parquet")
    assert polygons.crs.to_epsg() == 32654
    assert report.aoi_km2 == pytest.approx(mapped[1].aoi_km2, rel=0.01)


def test_scores_count_both_zones(mapped, tmp_path):
    out, _ = mapped
    polygons = gpd.read_parquet(out / "landslides.parquet")
    polygons[polygons.change != "pre-existing"].to_file(tmp_path / "labels.gpkg")
    assessed = assess_run(str(out), tmp_path / "labels.gpkg")
    assert len(assessed.parts) == 2
    assert assessed.total.pixels.scores(assessed.threshold).recall > 0.97
