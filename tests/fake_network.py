"""Imported or preloaded into a process, the network is NumPy: no TensorFlow, a chunk in milliseconds.

    dask worker ADDRESS --preload tests/fake_network.py
    DASK_DISTRIBUTED__WORKER__PRELOAD=tests/fake_network.py python tests/fake_network.py map ...

The stand-in is a pure function of its pixels with a small reach, so equal identity still means equal bytes.
What it does to a run it cannot do to the pixels: COSEIS_FAKE_PAUSE_S makes each prediction wait, so that a
kill at a random moment hits work.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import coseis.pipeline
import coseis.task
from coseis.model import Model
from coseis.predict import Network
from coseis.windows import HALO_PX


def probe_device() -> tuple[str, str]:
    return "cpu", "float32"


def ready_network(model: Model, **sizes: Any) -> Network:
    halo = HALO_PX[model.card.padding]
    inner = slice(halo, -halo)

    def network(windows: np.ndarray) -> np.ndarray:
        """How red a pixel is beside its neighbours; float32 (window, y, x, class) of the cores."""
        time.sleep(float(os.environ.get("COSEIS_FAKE_PAUSE_S", "0")))
        red = windows[..., 0] + 0.5 * np.roll(windows[..., 0], 3, axis=2)
        values = 1 / (1 + np.exp(-2 * red[:, inner, inner, None]))
        channels = [values] * max(1, len(model.card.classes))
        return np.concatenate(channels, axis=-1).astype(np.float32)

    return network


def install() -> None:
    """Puts the stand-in where the task and the planner look for the network."""
    coseis.task.probe_device = probe_device
    coseis.pipeline.probe_device = probe_device
    coseis.task.ready_network = ready_network


def dask_setup(worker: object) -> None:
    install()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    install()
    from coseis.cli import main

    main()
