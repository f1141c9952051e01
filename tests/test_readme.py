"""The README's own lines, run as they stand."""

import re
from pathlib import Path

import geopandas as gpd
import pytest
import yaml

from coseis.config import MapConfig, load_config
from coseis.simulate import simulate_event

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", README, re.DOTALL).group(1)


def test_yaml_example_is_a_config(tmp_path):
    path = tmp_path / "event.yaml"
    path.write_text(block("yaml"))
    config = load_config(path, {"scheduler": "tls://scheduler:8786", "out": "s3://maps/iburi"})
    assert isinstance(config, MapConfig)
    assert config.output.threshold == yaml.safe_load(block("yaml"))["output"]["threshold"]


@pytest.mark.slow
def test_python_example_maps_a_synthetic_event(tmp_path, monkeypatch):
    event = simulate_event(tmp_path / "event", size_km=2.0)
    lines = block("python")
    assert len(lines.splitlines()) <= 14
    for shown, here in {
        "https://example.org/stac": str(event.catalog),
        "area.geojson": str(event.aoi_path),
        "client = Client()": 'client = Client(processes=False, dashboard_address=":0")',
    }.items():
        assert shown in lines
        lines = lines.replace(shown, here)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(lines, "README.md", "exec"), names)
    names["client"].close()
    landslides = gpd.read_parquet("landslides.parquet")
    assert len(landslides) > 5
    assert landslides.crs.to_epsg() == 32654
    assert (landslides.area_m2 >= 100).all()
