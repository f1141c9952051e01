"""Another backend gives the same map: each runs in a process of its own, since Keras chooses only once."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import dask
import dask.array
import keras
import numpy as np
import pytest
import xarray as xr

from coseis import backends
from coseis.backends import keras_backend, probe_device
from coseis.cube import as_cube
from coseis.errors import UsageError
from coseis.model import load_model
from coseis.predict import predict_proba
from making import BANDS, texture

PREDICT = """
import json, sys
import numpy as np
from coseis.backends import probe_device
from test_backends import predicted
device, precision = probe_device()
np.save(sys.argv[1], predicted())
print(json.dumps({"device": device, "precision": precision, "tensorflow": "tensorflow" in sys.modules}))
"""

torch_installed = pytest.mark.skipif(
    find_spec("torch") is None,
    reason="torch is not installed; with its 3 GB of CUDA libraries it is no requirement of the tests",
)


def predicted() -> np.ndarray:
    """float32 (class, y, x) of the shipped model: an odd size, several windows, a hole."""
    pixels = texture((3, 530, 610), seed=11).astype(np.float32)
    pixels[:, 200:230, 300:360] = np.nan
    image = xr.DataArray(
        dask.array.from_array(pixels, chunks=(3, 384, 384)),
        dims=("band", "y", "x"),
        coords={"band": list(BANDS)},
    )
    with dask.config.set(scheduler="synchronous"):
        cube = as_cube(image, kind="display")
        return predict_proba(cube, load_model(), precision="float32", core_px=384).values


@pytest.fixture(scope="module")
def expected():
    """TensorFlow's."""
    assert keras.backend.backend() == "tensorflow"
    return predicted()


@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=[torch_installed, pytest.mark.slow])])
def test_every_backend_gives_tensorflows_codes(backend, expected, tmp_path):
    environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.path.dirname(__file__)
    words = [sys.executable, "-c", PREDICT, str(tmp_path / "result.npy")]
    run = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert told["device"] == f"cpu ({backend})"
    assert told["precision"] in ("float32", "bfloat16")
    assert not told["tensorflow"]
    result = np.load(tmp_path / "result.npy")
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    seen = np.isfinite(expected)
    codes, others = np.rint(200 * expected[seen]), np.rint(200 * result[seen])
    assert codes.std() > 1
    assert np.mean(np.abs(codes - others) <= 1) >= 0.999


def jax_with(platform, kind, capability=None):
    device = SimpleNamespace(platform=platform, device_kind=kind, compute_capability=capability)
    return SimpleNamespace(devices=lambda: [device])


def torch_with(name=None, capability=(0, 0), *, mps=False):
    cuda = SimpleNamespace(
        is_available=lambda: name is not None,
        get_device_name=lambda _: name,
        get_device_capability=lambda _: capability,
    )
    return SimpleNamespace(cuda=cuda, backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)))


def tensorflow_with(name, capability):
    details = {"device_name": name, "compute_capability": capability}
    return SimpleNamespace(
        config=SimpleNamespace(
            list_physical_devices=lambda kind: [kind] if name else [],
            experimental=SimpleNamespace(get_device_details=lambda _: details),
        )
    )


@pytest.mark.parametrize(
    ("backend", "framework", "found"),
    [
        ("tensorflow", tensorflow_with(None, None), ("cpu", "float32")),
        ("tensorflow", tensorflow_with("NVIDIA H100", (9, 0)), ("NVIDIA H100", "bfloat16")),
        ("tensorflow", tensorflow_with("Tesla T4", (7, 5)), ("Tesla T4", "float32")),
        ("jax", jax_with("cpu", "cpu"), ("cpu (jax)", "float32")),
        ("jax", jax_with("gpu", "NVIDIA H100", "9.0"), ("NVIDIA H100 (jax)", "bfloat16")),
        ("jax", jax_with("gpu", "Tesla T4", "7.5"), ("Tesla T4 (jax)", "float32")),
        ("jax", jax_with("gpu", "AMD Instinct", "gfx90a"), ("AMD Instinct (jax)", "float32")),
        ("jax", jax_with("tpu", "TPU v5e"), ("TPU v5e (jax)", "bfloat16")),
        ("torch", torch_with(), ("cpu (torch)", "float32")),
        ("torch", torch_with("NVIDIA H100", (9, 0)), ("NVIDIA H100 (torch)", "bfloat16")),
        ("torch", torch_with("Tesla T4", (7, 5)), ("Tesla T4 (torch)", "float32")),
        ("torch", torch_with(mps=True), ("mps (torch)", "float32")),
    ],
)
def test_device_and_precision_of_each_backend(monkeypatch, backend, framework, found):
    """No such machine is here: each framework is replaced by what it would say there."""
    monkeypatch.setattr(backends, "keras_backend", lambda: backend)
    monkeypatch.setattr(backends, "_processor_flags", lambda: "flags : avx2")
    monkeypatch.setitem(sys.modules, backend, framework)
    assert probe_device() == found


@pytest.mark.parametrize(
    ("backend", "framework", "precision"),
    [
        ("tensorflow", tensorflow_with(None, None), "bfloat16"),
        ("torch", torch_with(), "bfloat16"),
        ("jax", jax_with("cpu", "cpu"), "float32"),
    ],
)
def test_matrix_units_of_the_processor_count_where_they_are_used(monkeypatch, backend, framework, precision):
    monkeypatch.setattr(backends, "keras_backend", lambda: backend)
    monkeypatch.setattr(backends, "_processor_flags", lambda: "flags : amx_bf16")
    monkeypatch.setitem(sys.modules, backend, framework)
    assert probe_device()[1] == precision


@pytest.fixture
def _asked_anew():
    backends._load_keras.cache_clear()
    yield
    backends._load_keras.cache_clear()


@pytest.mark.usefixtures("_asked_anew")
def test_a_backend_that_cannot_be_used_is_refused(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "mxnet")
    with pytest.raises(UsageError, match="KERAS_BACKEND is 'mxnet'; coseis runs on tensorflow, jax, torch"):
        keras_backend()
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "jax" else name)
    with pytest.raises(UsageError, match=r"on jax, which is not installed.*one that is: tensorflow, torch"):
        keras_backend()


@pytest.mark.usefixtures("_asked_anew")
def test_a_backend_of_keras_own_settings_is_checked_too(monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert keras_backend() == "tensorflow"
    backends._load_keras.cache_clear()
    monkeypatch.setattr("keras.backend.backend", lambda: "openvino")
    with pytest.raises(UsageError, match="Keras is set to run on openvino; set KERAS_BACKEND to one of"):
        keras_backend()
