"""The public names: all there, none imported before it is used."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from odc.geo.xr import xr_coords

import coseis
from making import grid

HEAVY = ("tensorflow", "keras", "rasterio", "dask", "geopandas", "xarray")


def test_every_public_name_is_there():
    for name in coseis.__all__:
        assert callable(getattr(coseis, name)), name
    assert set(coseis.__all__) < set(dir(coseis))
    with pytest.raises(AttributeError, match="no attribute 'serach_items'; public names: Event, read_event"):
        _ = coseis.serach_items


def test_import_loads_nothing_heavy():
    code = f"import sys, coseis; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_write_zarr_reads_back(tmp_path):
    geobox = grid(40, 60)
    values = np.random.default_rng(0).integers(0, 201, (1, 40, 60)) / 200
    values[0, 5:9] = np.nan
    coordinates = {"class": ["landslide"], **xr_coords(geobox)}
    probability = xr.DataArray(values.astype(np.float32), coords=coordinates, dims=("class", "y", "x"))
    coseis.write_zarr(probability, str(tmp_path))
    cube = xr.open_zarr(tmp_path / "probability.zarr", group="32654", consolidated=False)
    np.testing.assert_allclose(cube.probability.values, values, atol=1e-7)
    assert cube.probability.odc.geobox == geobox
    raw = xr.open_zarr(tmp_path / "probability.zarr", group="32654", consolidated=False, mask_and_scale=False)
    assert raw.probability.dtype == np.uint8
    assert (raw.probability.values[0, 5:9] == 255).all()
