"""What this machine offers a run and what it reaches: (topic, finding) pairs come out, no secret in them."""

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from coseis import __version__
from coseis.config import ClusterConfig
from coseis.errors import CoseisError, InputRefusedError, UnreachableError

PACKAGES = (
    "dask", "distributed", "dask-cuda", "geopandas", "keras", "odc-geo", "obstore", "rasterio", "stackstac",
    "tensorflow", "xarray", "zarr",
)  # fmt: skip
CREDENTIALS = (
    "PL_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
    "AWS_ENDPOINT_URL", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN",
)  # fmt: skip

CHECK_LIMIT_S = 60
"""Longest that doctor waits for one catalog, scheduler or output."""


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


def certificates(config: ClusterConfig) -> Iterator[tuple[str, str]]:
    """Where the certificates for a tls:// scheduler lie and until when they are valid; the key's path."""
    from coseis.security import configured_paths, holds_contents

    for name, path in configured_paths(config).items():
        topic = name.replace("_", "-")
        if not path:
            yield topic, "not set"
        elif holds_contents(path):
            yield topic, "broken: set to a certificate or key itself; expected the path of its file"
        elif name == "tls_key":
            yield topic, path if os.access(path, os.R_OK) else f"broken: {path} cannot be read"
        else:
            yield _examine(topic, partial(_validity, path))


def reachability(
    *, catalog: str | None = None, config: ClusterConfig | None = None, out: str | None = None
) -> Iterator[tuple[str, str | CoseisError]]:
    """Whether a run's catalog, scheduler and output answer, each within CHECK_LIMIT_S; the error if not.

    Args:
        catalog: As for `coseis search`; its first document is read.
        config: Its scheduler is connected to; a local one is started by each run, and not here.
        out: One empty object is written there and deleted. A folder that is not there is not made.
    """
    if catalog is not None:
        yield "catalog", _within(CHECK_LIMIT_S, "the catalog", lambda: _catalog(catalog))
    if config is not None and not config.scheduler.startswith("local"):
        yield "scheduler", _within(CHECK_LIMIT_S, "the scheduler", lambda: _scheduler(config))
    if out is not None:
        yield "output", _within(CHECK_LIMIT_S, "the output", lambda: _output(out))


def _validity(path: str) -> str:
    from coseis.security import valid_until

    return f"{path}, valid until {valid_until(path):%Y-%m-%d}"


def _within(limit_s: float, what: str, look: Callable[[], str]) -> str | CoseisError:
    """What a look gives, or why nothing; a look that does not end is left to itself."""
    seen: list[str | CoseisError] = []

    def run() -> None:
        try:
            seen.append(look())
        except CoseisError as error:
            seen.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    return seen[0] if seen else UnreachableError(f"{what} does not answer within {limit_s} s; run again")


def _catalog(catalog: str) -> str:
    from coseis.catalogs import probe_catalog

    return f"{probe_catalog(catalog)} answers"


def _scheduler(config: ClusterConfig) -> str:
    from coseis.cluster import connected
    from coseis.jobs import thread_count

    with connected(config) as client:
        return f"{config.scheduler}: {len(client.nthreads())} workers, {thread_count(client)} threads"


def _output(out: str) -> str:
    from coseis.addresses import local_path, public_form, scheme_of
    from coseis.objects import open_store

    if scheme_of(out) in ("", "file") and not (path := local_path(out)).exists():
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not os.access(above, os.W_OK | os.X_OK):
            raise InputRefusedError(f"output {out} cannot be made: {above} cannot be written to")
        return f"{out} can be made"
    open_store(out, prove_writable=True)
    return f"{public_form(out)} can be written to"


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
