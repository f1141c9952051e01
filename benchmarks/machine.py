"""Nothing in, what figures were measured on out: processor, cores, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("coseis", "numpy", "dask", "rasterio", "zarr", "tensorflow", "keras")


def describe_machine(packages: Sequence[str] = PACKAGES) -> dict[str, object]:
    """Processor, cores, the versions of the packages that are installed, and the commit of this code."""
    return {
        "commit": describe_commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": list_versions(packages),
    }


def describe_commit() -> str | None:
    """Short hash, with a + where files differ from it; None outside of a repository."""
    words = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def list_versions(packages: Sequence[str]) -> dict[str, str]:
    """Of Python and of those packages that are installed."""
    found = {name: found for name in packages if (found := _version(name))}
    return {"python": platform.python_version()} | found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """As Linux names it, else the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
