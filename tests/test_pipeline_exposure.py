"""Roads, rivers and buildings in a whole run: columns in what is published, and not a pixel changed."""

import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely

from coseis.exposure import EXPOSURE_COLUMNS, exposure_attributes
from coseis.publish import EXPOSURE_TYPES
from test_cli import GRID, client, coseis, files, job, no_workers, workers  # noqa: F401


@pytest.fixture
def layers(tmp_path):
    """Random lines and points over the grid, as files in degrees."""
    rng = np.random.default_rng(7)
    west, south, east, north = GRID.boundingbox
    places = rng.uniform((west, south), (east, north), (60, 2))
    lines = shapely.linestrings(places.reshape(20, 3, 2))
    tables = {
        "roads": gpd.GeoDataFrame({"highway": ["primary"] * 20}, geometry=lines, crs=str(GRID.crs)),
        "rivers": gpd.GeoDataFrame({"waterway": ["stream"] * 20}, geometry=lines, crs=str(GRID.crs)),
        "buildings": gpd.GeoDataFrame(
            {"building": ["yes"] * 60}, geometry=gpd.points_from_xy(*places.T), crs=str(GRID.crs)
        ),
    }
    for name, table in tables.items():
        table.to_crs(4326).to_file(tmp_path / f"{name}.gpkg")
    return tables


def given(folder, names):
    return [word for name in names for word in (f"--{name}", str(folder / f"{name}.gpkg"))]


def inventory(out):
    return gpd.read_parquet(out / "landslides.parquet")


@pytest.mark.usefixtures("workers")
def test_a_run_with_layers(coseis, job, layers, tmp_path):  # noqa: F811
    plain = job.folder / "plain"
    assert coseis(*job.words(out=plain)).code == 0
    result = coseis(*job.words(*given(tmp_path, layers)))
    assert result.code == 0, result.err
    without, found = inventory(plain), inventory(job.out)
    pd.testing.assert_frame_equal(found[without.columns].to_wkb(), without.to_wkb())
    assert set(found.columns) - set(without.columns) == set(EXPOSURE_TYPES)
    expected = exposure_attributes(without, layers)
    for name, kind in EXPOSURE_TYPES.items():
        assert str(found.dtypes[name]) == kind
        np.testing.assert_allclose(found[name].astype(float), expected[name].astype(float), atol=0.2)
    assert found.roads_cut.sum() > 0
    runs = [json.loads((out / "run.json").read_text()) for out in (plain, job.out)]
    assert runs[0]["identity_digest"] == runs[1]["identity_digest"]
    assert runs[0]["exposure"] is None
    of_event = found[found.change != "pre-existing"]
    assert runs[1]["exposure"] == {
        "layers": {name: f"{name}.gpkg" for name in layers},
        "roads_cut_m": pytest.approx(of_event.roads_cut_m.sum(), abs=0.1),
        "landslides_on_roads": (of_event.roads_cut > 0).sum(),
        "landslides_across_rivers": of_event.crosses_river.sum(),
        "buildings_touched": of_event.buildings_touched.sum(),
    }
    tiles = pyogrio.read_dataframe(job.out / "landslides.pmtiles", ZOOM_LEVEL="14", read_geometry=False)
    assert set(EXPOSURE_TYPES) <= set(tiles.columns)

    # Drawn anew: what is not given stays, what is given is new, and none drops a layer.
    assert coseis("vectorize", job.out, "--threshold", "0.5", "--roads", "none").code == 0
    again = inventory(job.out)
    assert set(again.columns) & set(EXPOSURE_TYPES) == set(EXPOSURE_TYPES) - set(EXPOSURE_COLUMNS["roads"])
    (tmp_path / "rivers.gpkg").unlink()
    line = coseis("vectorize", job.out, "--threshold", "0.4").refused(2)
    assert "rivers.gpkg cannot be used: it is no plain file" in line
    result = coseis("finish", job.out, *given(tmp_path, ["roads"]), "--rivers", "none", "--buildings", "none")
    assert result.code == 0, result.err
    finished = inventory(job.out)
    assert set(finished.columns) & set(EXPOSURE_TYPES) == set(EXPOSURE_COLUMNS["roads"])


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize("more", [[], ["--part", "0/2"], ["--dry-run"]], ids=" ".join)
def test_a_wrong_layer_is_refused_before_any_work(coseis, job, layers, tmp_path, more):  # noqa: F811
    line = coseis(*job.words("--roads", tmp_path / "buildings.gpkg", *more)).refused(2)
    assert "the layer of roads holds Point; expected LineString" in line
    assert not files(job.out)
