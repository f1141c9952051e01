"""The main job on real scenes through the command line: other chunks, workers and a kill change nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import xarray as xr

from test_pipeline import assert_equal, contents

pytestmark = pytest.mark.slow

EVENTS = {
    "planetscope": (
        "--collection", "PSScene", "--aoi", "142.0170,42.7466,142.0920,42.7814", "--allow-missing-pre",
    ),
    "sentinel2": (
        "--collection", "sentinel-2", "--aoi", "141.8904,42.6824,142.0280,42.7695", "--force-resolution",
        "--include", "iburi_pre_s2",  # its snow would else have it refused
    ),
}  # fmt: skip
CORE = ("--core", "256")
"""Small cores, so that a run has enough chunks to be killed in the middle."""


def command(data: Path, event: str, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "coseis.cli", "map", "--catalog", str(data / "iburi" / "catalog.json"),
        "--event-time", "2018-09-05T18:08:00Z", "--out", str(out), *EVENTS[event], *CORE, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module", params=EVENTS)
def event(request, real_data, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "reference"
    subprocess.run(command(real_data, request.param, out), check=True)
    return request.param, out


def test_map_holds_the_landslides(event):
    """Plausible by eye (see README) and by number: slides on both scenes, where pixels were observed."""
    name, out = event
    arrays, polygons = contents(out)
    codes, status = arrays["probability"], arrays["status"]
    assert 200 < len(polygons) < 5000
    assert polygons.is_valid.all()
    share = (codes[-1] >= 100).sum() / (codes[-1] <= 200).sum()
    assert 0.02 < share < 0.30
    if name == "sentinel2":
        nodata = (status[0] & 0x7F == 6).mean()
        assert nodata == pytest.approx(0.40, abs=0.03)


def test_xarray_decodes_the_cube(event):
    """Codes come back as probabilities in [0, 1], NaN where nothing was predicted."""
    _, out = event
    cube = xr.open_zarr(out / "probability.zarr", group="32654", consolidated=False)
    values = cube.probability.sel(phase="post").values
    assert np.nanmin(values) >= 0
    assert np.nanmax(values) <= 1
    assert gpd.read_parquet(out / "landslides.parquet").probability_max.max() <= np.nanmax(values)


@pytest.mark.parametrize("event", ["sentinel2"], indirect=True)
def test_chunks_and_workers_change_nothing(event, real_data, tmp_path):
    name, reference = event
    more = ("--chunk", "512", "--workers", "4", "--threads", "1")
    subprocess.run(command(real_data, name, tmp_path / "other", *more), check=True)
    assert_equal(contents(reference), contents(tmp_path / "other"))


@pytest.mark.parametrize("event", ["planetscope"], indirect=True)
def test_kill_and_resume_change_nothing(event, real_data, tmp_path):
    """kill -9 of the client and its worker once some chunks are done; --resume does the others."""
    name, reference = event
    out = tmp_path / "killed"
    start = command(real_data, name, out)
    process = subprocess.Popen(start, start_new_session=True)
    records = out / "records" / "32654"
    while len(list(records.glob("*.json"))) < 3:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(records.glob("*.json")))
    assert done < len(list((reference / "records" / "32654").glob("*.json")))
    assert not (out / "run.json").exists()
    refused = subprocess.run(start, capture_output=True, text=True)
    assert refused.returncode == 42
    assert "--resume" in refused.stderr
    subprocess.run([*start, "--resume"], check=True)
    assert_equal(contents(reference), contents(out))
