"""Statistics of a run: published with its map, and drawn anew at other thresholds."""

import io
import json
from contextlib import contextmanager

import geopandas as gpd
import numpy as np
import pytest
from obstore.store import MemoryStore

import coseis.describe as module
from coseis.describe import describe_inventory, vary_threshold
from coseis.errors import UsageError
from coseis.publish import write_inventory
from coseis.report import event_polygons
from coseis.statistics.summary import Statistics
from test_pipeline import client, found, model, reference, run  # noqa: F401  (fixtures)

pytestmark = pytest.mark.slow


@pytest.fixture
def same_cluster(monkeypatch, client):  # noqa: F811
    @contextmanager
    def connected(*_):
        yield client

    monkeypatch.setattr(module, "connected", connected)


def test_statistics_stand_beside_the_map(reference):  # noqa: F811
    out, report = reference
    found = Statistics.model_validate_json((out / "statistics.json").read_bytes())  # noqa: F811
    polygons = gpd.read_parquet(out / "landslides.parquet")
    assert found.sizes.count == report.landslide_count
    assert found.sizes.total_m2 == pytest.approx(report.landslide_area_m2)
    assert found.density.observed_km2 == pytest.approx(report.observed_share * report.aoi_km2, rel=1e-3)
    events = event_polygons(polygons)
    cut = events.touches_aoi_border | events.touches_unobserved
    assert 0 < found.sizes.cut_count == cut.sum()
    assert (polygons.length_m >= polygons.width_m).all()
    assert polygons.amalgamation.between(0, 1).all()
    # A polygon of pixels fills its rectangle at most; its perimeter goes around it at least.
    assert (polygons.length_m * polygons.width_m >= 0.99 * polygons.area_m2).all()
    cells = gpd.read_parquet(out / "density.parquet")
    assert cells.landslides.sum() == len(events)
    assert cells.landslide_m2.sum() == pytest.approx(events.area_m2.sum(), rel=1e-6)
    assert (out / "statistics.png").read_bytes().startswith(b"\x89PNG")
    assets = json.loads((out / "item.json").read_text())["assets"]
    assert {"statistics.json", "statistics.png", "density.parquet"} <= assets.keys()
    assert describe_inventory(str(out), completeness_m2=0).sizes == found.sizes


@pytest.mark.usefixtures("same_cluster")
def test_a_run_drawn_at_its_own_threshold_is_itself(reference, monkeypatch):  # noqa: F811
    out, _ = reference
    monkeypatch.setattr(module, "THRESHOLD_STEP", 0.0)
    [sample] = vary_threshold(str(out)).values()
    own = describe_inventory(str(out))
    assert sample.count == own.sizes.complete_count
    assert sample.all_m2.sum() == pytest.approx(own.sizes.total_m2)


@pytest.mark.usefixtures("same_cluster")
def test_other_thresholds_are_shown_beside_the_run(reference, tmp_path):  # noqa: F811
    out, report = reference
    found = describe_inventory(str(out), sensitivity=True, completeness_m2=90, out=tmp_path)  # noqa: F811
    low, high = (f"threshold {report.threshold.value + step:.2g}" for step in (-0.1, 0.1))
    assert {low, high} <= found.variants.keys()
    assert found.variants[low].count != found.variants[high].count
    assert (tmp_path / "density.parquet").exists()
    with pytest.raises(UsageError, match="--area is for a file"):
        describe_inventory(str(out), area="area.gpkg")


def test_split_and_unsplit_stand_beside_each_other(reference, tmp_path, monkeypatch):  # noqa: F811
    out, _ = reference
    # A random network's outlines are no landslides': any is looked at.
    monkeypatch.setattr("coseis.statistics.split.SEVERAL", 0.0)
    found = describe_inventory(str(out), split=True, completeness_m2=90, out=tmp_path)  # noqa: F811
    whole = event_polygons(gpd.read_parquet(out / "landslides.parquet"))
    parts = gpd.read_parquet(tmp_path / "landslides_split.parquet")
    assert found.sizes.count == len(whole)
    assert parts.crs == whole.crs
    assert set(parts.whole_id) == set(whole.id)
    assert parts.area_m2.sum() == pytest.approx(whole.area_m2.sum())
    assert found.split.parts - found.split.cut == len(parts) - len(whole)
    assert found.split.sizes.count == len(parts)
    with pytest.raises(UsageError, match="has no probabilities; --split is for a run"):
        describe_inventory(str(out / "landslides.parquet"), split=True)


def test_a_run_without_landslides_has_statistics_too(reference):  # noqa: F811
    """Types of the columns hold for no rows."""
    out, _ = reference
    polygons = gpd.read_parquet(out / "landslides.parquet")
    store = MemoryStore()
    write_inventory(polygons.iloc[:0], store, "none.parquet")
    empty = gpd.read_parquet(io.BytesIO(bytes(store.get("none.parquet").bytes())))
    assert dict(empty.dtypes.drop("geometry")) == dict(polygons.dtypes.drop("geometry"))
    assert np.isfinite(polygons.volume_m3).all()
