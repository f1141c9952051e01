"""Nothing in, how long this process's network and GPU were busy out. For `client.run` on workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from distributed import Worker

_busy_s = 0.0


def watch_network() -> None:
    """Adds up the seconds of the network's calls, from the next network that this process compiles on."""
    import coseis.predict

    compile_network = coseis.predict.compile_network

    def compile_watched(*arguments: Any) -> Any:
        return _watched(compile_network(*arguments))

    coseis.predict.compile_network = compile_watched  # type: ignore[assignment]


def take_busy_s() -> float:
    """Those seconds since this was last asked."""
    global _busy_s
    taken, _busy_s = _busy_s, 0.0
    return taken


def gpu_shares(dask_worker: Worker, since: float) -> list[float]:
    """Utilisation of a worker's GPU, in [0, 1], of each of Dask's samples since then; empty without NVML."""
    samples = dask_worker.monitor.quantities
    taken_percents = zip(samples["time"], samples.get("gpu_utilization", ()), strict=False)
    return [percent / 100 for taken, percent in taken_percents if taken >= since]


def _watched(network: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]) -> Any:
    def call(windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        global _busy_s
        started = time.perf_counter()
        try:
            return network(windows)
        finally:
            # Calls wait for the device's semaphore one by one: no two threads are here at once.
            _busy_s += time.perf_counter() - started

    return call
