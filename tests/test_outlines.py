"""Outlines of mappers in a region astride a zone border: the inventory is in degrees, the cube in metres."""

import shutil
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely

from coseis.editing import merge_edits, start_edits
from test_editing import filled, inventory, large, measured_again, rows_of
from test_pipeline import client, model  # noqa: F401  (fixtures)
from test_pipeline_zones import found, mapped, start  # noqa: F401

BORDER = shapely.LineString([(144, 42), (144, 43)])


def test_outlines_off_the_border_measure_as_drawn(mapped):  # noqa: F811
    polygons, again = measured_again(mapped[0])
    off = ~shapely.dwithin(polygons.geometry.to_numpy(), BORDER, 5e-5)
    assert 0 < (~off).sum() < off.sum()
    same = ["pixel_count", "probability_mean", "probability_max", "change", "scenes", "touches_aoi_border"]
    pd.testing.assert_frame_equal(again.loc[off, same], polygons.loc[off, same], check_dtype=False)
    sizes = ["area_m2", "perimeter_m"]
    pd.testing.assert_frame_equal(again.loc[off, sizes], polygons.loc[off, sizes], rtol=1e-5)
    # On it the hairline between two parts is the landslide's too, and has pixels.
    assert (again.pixel_count[~off] >= polygons.pixel_count[~off]).all()
    assert ((9 * again.pixel_count - again.area_m2)[~off].abs() < 3 * again.perimeter_m[~off]).all()
    np.testing.assert_allclose(again.area_m2[~off], polygons.to_crs(6933).area[~off], rtol=1e-3)


def test_edits_in_degrees_are_merged(mapped, client, tmp_path, monkeypatch):  # noqa: F811
    @contextmanager
    def connected(*_):
        yield client

    monkeypatch.setattr("coseis.pipeline.connected", connected)
    out = tmp_path / "run"
    shutil.copytree(mapped[0], out)
    rows = rows_of(start_edits(str(out), tmp_path / "edits.gpkg"))
    one, two, three = large(rows)[:3]
    rows.loc[[one, two, three], "verdict"] = ["accept", "reject", "redrawn"]
    across = shapely.box(143.9995, 42.7925, 144.0005, 42.7930)
    rows.loc[three, "geometry"] = across
    report, new = merge_edits(str(out), [filled(tmp_path / "judged.gpkg", rows)], editor="M")
    assert new == 3
    polygons = inventory(out).set_index("id")
    assert polygons.crs.to_epsg() == 4326
    assert rows["id"][two] not in polygons.index
    row = polygons.loc[rows["id"][three]]
    assert row.geometry.equals(across)
    assert row.area_m2 == pytest.approx(polygons.loc[[row.name]].to_crs(6933).area.iloc[0], rel=1e-3)
    assert row.pixel_count == pytest.approx(row.area_m2 / 9, rel=0.02)
    assert not row.touches_aoi_border
    assert report.edits.counts == {"accept": 1, "reject": 1, "redrawn": 1, "added": 0}
    assert pyogrio.read_info(tmp_path / "edits.gpkg", layer="landslides")["crs"] == "EPSG:4326"
