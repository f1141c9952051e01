"""The notebooks: kept without outputs, and run cell by cell as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import matplotlib.pyplot as plt
import pytest
import xarray as xr

from coseis.model import load_model
from markdown_blocks import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def execute(name: str, folder: Path) -> str:
    """What the cells of a notebook print, run in an empty folder."""
    command = [sys.executable, ROOT / "tests" / "run_cells.py", ROOT / "notebooks" / name]
    # One picture window less, and TensorFlow's greetings.
    quiet = {"MPLBACKEND": "agg", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=folder, env=os.environ | quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}, cell["id"]
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), cell["id"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_uses_the_public_interface_alone(path):
    code = "".join("".join(cell["source"]) + "\n" for cell in json.loads(path.read_text())["cells"])
    assert "from coseis import" in code
    assert not re.findall(r"^\s*(?:from coseis\.|import coseis\.)", code, flags=re.MULTILINE)


@pytest.mark.slow
def test_maps_an_event(tmp_path):
    said = execute("map-an-event.ipynb", tmp_path)
    assert float(re.search(r"F1 (\d\.\d+)", said).group(1)) > 0.5
    landslides = gpd.read_parquet(tmp_path / "landslides.parquet")
    assert len(landslides) > 3
    assert (landslides.area_m2 >= 100).all()
    cube = xr.open_zarr(tmp_path / "mine" / "probability.zarr", group="32654", consolidated=False)
    assert 0.9 < float(cube.probability.max()) <= 1
    assert plt.imread(tmp_path / "map.png").std() > 0.05


@pytest.mark.slow
def test_trains_on_ten_polygons(tmp_path):
    said = execute("train-on-your-polygons.ipynb", tmp_path)
    assert re.search(r"^10 of \d+ landslides", said, flags=re.MULTILINE)
    before, after = map(float, re.search(r"^f1 +(\S+) +(\S+)$", said, flags=re.MULTILINE).groups())
    assert before < after
    tuned = load_model(tmp_path / "tuned")
    assert tuned.digest != load_model().digest
    assert tuned.card.bands == load_model().card.bands
    assert plt.imread(tmp_path / "before-after.png").std() > 0.05
