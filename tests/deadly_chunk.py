"""Preloaded into a Dask worker, one chunk does harm when it is computed; the network is `fake_network`'s.

    COSEIS_DEADLY="2_3 segfault [FILE]" dask worker ADDRESS --preload tests/deadly_chunk.py

With FILE it does so once: the file is made, and where it is, the chunk is as any other.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coseis.task
import fake_network
from coseis.errors import UnreachableError

HOG_BYTES = 2**26


def segfault() -> None:
    ctypes.string_at(0)


def starve() -> None:
    raise MemoryError


def hog() -> None:
    """Takes memory until the nanny kills the worker."""
    held = []
    while True:
        held.append(os.urandom(HOG_BYTES))


def hang() -> None:
    threading.Event().wait()


def unreachable() -> None:
    raise UnreachableError("COG server does not answer")


HARMS: dict[str, Callable[[], None]] = {
    harm.__name__: harm for harm in (segfault, starve, hog, hang, unreachable)
}


def dask_setup(worker: object) -> None:
    fake_network.install()
    chunk_name, harm, *once = os.environ["COSEIS_DEADLY"].split()
    real = coseis.task.map_chunk

    def map_chunk(plan: Any, chunk: Any, out: str) -> Any:
        if chunk.name == chunk_name and not (once and Path(once[0]).exists()):
            for name in once:
                Path(name).touch()
            HARMS[harm]()
        return real(plan, chunk, out)

    coseis.task.map_chunk = map_chunk
