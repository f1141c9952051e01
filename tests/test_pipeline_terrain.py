"""A DEM in a whole run: attributes in what is published, the mask counted, both anew without inference."""

import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
from affine import Affine

from coseis.change import join_tables
from coseis.dem_search import DEM, find_dem, kept_dem, read_dem
from coseis.draw import Thresholds, draw_block
from coseis.errors import InputRefusedError
from coseis.landform import TERRAIN_COLUMNS, terrain_attributes
from coseis.objects import open_store
from coseis.plan import ITEMS, read_plan
from coseis.store import open_arrays
from coseis.vectorize import merge_blocks
from coseis.windows import chunk_grid
from making import ORIGIN, area_of
from making_dem import hills, write_dem
from test_cli import GRID, client, coseis, files, job, no_workers, workers  # noqa: F401
from test_dem_search import catalog, item


@pytest.fixture
def dem(tmp_path):
    """A catalog of two tiles that meet in the middle of the grid."""
    z, (x, y) = hills(60, 70, pixel_m=20), ORIGIN
    write_dem(tmp_path / "w.tif", z[:, :30], affine=Affine(20, 0, x - 100, 0, -20, y + 100))
    write_dem(tmp_path / "e.tif", z[:, 30:], affine=Affine(20, 0, x + 500, 0, -20, y + 100))
    area = area_of(GRID)
    return catalog(tmp_path, item("w", "w.tif", area=area), item("e", "e.tif", area=area))


def inventory(out):
    return gpd.read_parquet(out / "landslides.parquet")


@pytest.mark.usefixtures("workers")
def test_a_run_with_a_dem(coseis, job, dem):  # noqa: F811
    plain, rough = job.folder / "plain", job.folder / "rough"
    for out, options in (
        (plain, []),
        (job.out, ["--dem", dem, "--dem-collection", "cop-dem-glo-30"]),
        (rough, ["--dem", dem, "--min-slope", "12"]),
    ):
        result = coseis(*job.words(*options, out=out))
        assert result.code == 0, result.err
    without, with_dem, masked = inventory(plain), inventory(job.out), inventory(rough)
    pd.testing.assert_frame_equal(with_dem[without.columns].to_wkb(), without.to_wkb())
    assert set(with_dem.columns) - set(without.columns) == {*TERRAIN_COLUMNS, "dem_share", "dem_source"}
    assert not (plain / DEM).exists()
    assert "terrain" not in json.loads((plain / "run.json").read_text())["seconds"]

    found = find_dem(dem, area_of(GRID))
    expected = terrain_attributes(without, found)
    pd.testing.assert_frame_equal(
        expected[[*TERRAIN_COLUMNS]], with_dem[[*TERRAIN_COLUMNS]], check_exact=True
    )
    assert set(with_dem.dem_source) == {"cop-dem-glo-30"}
    assert (with_dem.dem_share == 1).all()
    attributes = pyogrio.read_dataframe(job.out / "landslides.pmtiles", ZOOM_LEVEL="14", read_geometry=False)
    slopes = attributes.drop_duplicates("id").set_index("id").slope_mean_deg
    np.testing.assert_allclose(slopes, with_dem.set_index("id").slope_mean_deg[slopes.index], rtol=1e-6)
    assert "ESA, Airbus" in json.loads((job.out / "item.json").read_text())["properties"]["attribution"]

    report = json.loads((rough / "run.json").read_text())["terrain"]
    pixels = [table.pixel_count.sum() for table in (without, masked)]
    assert report["flat"] == {
        "landslide_px": pixels[0], "flat_px": pixels[0] - pixels[1], "unknown_px": 0,
    }  # fmt: skip
    assert 0.1 < report["flat"]["flat_px"] / pixels[0] < 0.9
    assert report["flat_m2"] == 9 * (pixels[0] - pixels[1])
    assert report["min_slope_deg"] == 12
    assert json.loads((job.out / "run.json").read_text())["terrain"]["flat"] is None
    check_that_blocks_change_nothing(rough, masked, read_dem(open_store(str(rough)), dem, ()))


def check_that_blocks_change_nothing(out, masked, dem):
    plan = read_plan((out / ITEMS).read_bytes(), str(out))
    report = json.loads((out / "run.json").read_text())
    code = report["threshold"]["code"]
    assert open_arrays(str(out), plan.geobox)["probability"].shape[0] == len(plan.identity.phases)
    for side_px in (64, 97):
        blocks = chunk_grid(plan.identity.shape, side_px)
        traced = [
            draw_block(
                plan.geobox,
                plan.identity.phases,
                block,
                Thresholds(code, code),
                str(out),
                (dem.digest(), 12),
                None,
            )
            for block in blocks
        ]
        pieces = zip(*(block.pieces for block in traced), strict=True)
        again = join_tables([merge_blocks(part, plan.geobox) for part in pieces])
        assert list(again.id) == list(masked.id)
        assert (again.geometry.to_numpy() == masked.geometry.to_numpy()).all()
        assert sum(block.flat.flat_px for block in traced) == report["terrain"]["flat"]["flat_px"]
    with pytest.raises(InputRefusedError, match="was changed while the run used it"):
        kept_dem(str(out), "of another")


@pytest.mark.usefixtures("workers")
def test_new_polygons_have_new_attributes_without_a_search(coseis, job, dem, tmp_path):  # noqa: F811
    assert coseis(*job.words()).code == 0
    assert coseis("vectorize", job.out, "--threshold", "0.5", "--dem", dem).code == 0
    first = inventory(job.out)
    assert first.slope_mean_deg.notna().all()
    (tmp_path / "items.json").unlink()  # the DEM's catalog is gone; the run keeps what it found
    result = coseis("vectorize", job.out, "--threshold", "0.5", "--min-slope", "12", "--min-area", "500")
    assert result.code == 0, result.err
    second = inventory(job.out)
    assert 0 < len(second) < len(first)
    assert second.slope_mean_deg.notna().all()
    assert json.loads((job.out / "run.json").read_text())["config"]["terrain"]["min_slope"] == 12


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--min-slope", "5"], 2, "--min-slope and --dem-collection need a DEM; give --dem too"),
        (["--dem", "nothere.tif"], 42, "nothere.tif cannot be read"),
        (["--dem", "nothere.vrt"], 2, "expected a GeoTIFF"),
        (["--dem", "x.tif", "--min-slope", "95"], 2, "--min-slope is '95'; expected less than 90"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_dem_is_refused_before_any_work(coseis, job, options, code, said):  # noqa: F811
    line = coseis(*job.words(*options)).refused(code)
    assert said in line
    assert not files(job.out)
