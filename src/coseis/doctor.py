"""What this machine offers a run: nothing goes in, (topic, finding) pairs come out, no secret among them."""

import os
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from coseis import __version__

PACKAGES = (
    "dask", "distributed", "dask-cuda", "geopandas", "keras", "odc-geo", "obstore", "rasterio", "stackstac",
    "tensorflow", "xarray", "zarr",
)  # fmt: skip
CREDENTIALS = (
    "PL_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
    "AWS_ENDPOINT_URL", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN",
)  # fmt: skip


def findings() -> Iterator[tuple[str, str]]:
    """Versions, GDAL's version, the shipped model, what computes, and which credentials are set.

    Whatever is broken is a finding like the others, and the rest is still looked at.
    """
    yield "coseis", __version__
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "not installed"
    yield _examine("GDAL", _gdal)
    yield _examine("shipped model", _shipped_model)
    yield _examine("computes on", _device)
    for name in CREDENTIALS:
        yield name, "set" if os.environ.get(name) else "not set"


def _examine(topic: str, look: Callable[[], str]) -> tuple[str, str]:
    try:
        return topic, look()
    # A library that was built for another machine may raise anything on import.
    except Exception as error:
        return topic, f"broken: {type(error).__name__}: {error}"


def _gdal() -> str:
    import rasterio

    return str(rasterio.__gdal_version__)


def _shipped_model() -> str:
    from coseis.model import load_model

    model = load_model()
    return f"{model.card.name}, digest {model.digest[:12]}"


def _device() -> str:
    from coseis.backends import probe_device

    device, precision = probe_device()
    return f"{device}, {precision} by default"
