"""A case in, seconds of one engine out: what runs in the process of a Keras backend, or of plain PyTorch.

An engine is one of Keras's backends, `pytorch`, or `pytorch_compiled`; it holds one network at a time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coseis.backends import BACKENDS, DeviceNetwork, compile_network, probe_device
from coseis.card import ModelCard, Normalization, Padding, Stretch
from coseis.model import Precision, build_unet, load_model, save_model
from coseis.windows import HALO_PX, core_px

COMPILED_RIVAL = "pytorch_compiled"
LEAST_S = 0.25
"""What is timed lasts at least this long: on a GPU many calls, waited for once."""
MATMUL_SIDE = {"cpu": 1024, "gpu": 8192}
"""Rows and columns of the matrices that the rate of bfloat16 products is measured on."""

_held: dict[str, tuple[DeviceNetwork, NDArray[np.float32]]] = {}
"""By engine of this process: its network and the windows that it is timed on."""


@dataclass(frozen=True)
class Case:
    """One network on windows of one size."""

    filters: int
    window_px: int
    precision: Precision
    batch: int

    @property
    def padding(self) -> Padding:
        """`same` windows are multiples of 16 px, `valid` ones are 12 more."""
        return "valid" if self.window_px % 16 else "same"

    @property
    def delivered_px(self) -> int:
        """Pixels of cores a call."""
        return self.batch * core_px(self.window_px, self.padding) ** 2

    def card(self) -> ModelCard:
        """Of a network of this case."""
        return ModelCard(
            name=f"kernel-{self.filters}",
            bands=("red", "green", "blue"),
            inputs={"display": Stretch(low=0, high=255)},
            normalization=Normalization(kind="fixed", mean=(0.0,) * 3, std=(1.0,) * 3),
            resolution_m=(2.5, 6),
            padding=self.padding,
            base_filters=self.filters,
            halo_px=HALO_PX[self.padding],
            weights_sha256="",
        )

    def windows(self) -> NDArray[np.float32]:
        """Noise, float32 (window, y, x, band)."""
        shape = (self.batch, self.window_px, self.window_px, 3)
        return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def choose_backend(backend: str) -> None:
    """Before Keras is imported. Several processes share a GPU's memory, so none may take it all."""
    os.environ |= {
        "KERAS_BACKEND": backend,
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def describe_engine() -> dict[str, Any]:
    """What this process computes on, and its bfloat16 matrix products in TFLOP/s."""
    device, _ = probe_device()
    side = MATMUL_SIDE["cpu" if device.startswith("cpu") else "gpu"]
    return {"device": device, "matmul_bf16_tflop_s": round(_matmul_flop_s(side) / 1e12, 4)}


def save_random_model(case: Case, folder: Path) -> None:
    """Writes a model of a case with random weights, so that all engines hold the same."""
    import keras

    keras.utils.set_random_seed(7)
    save_model(build_unet(case.card()), case.card(), folder, float16=False)


def prepare_network(engine: str, case: Case, folder: Path) -> tuple[int, NDArray[np.float32]]:
    """Compiles and warms.

    Returns:
        How many calls in a row last long enough to be timed; and the core's probabilities, (window, y, x, 1).
    """
    windows = case.windows()
    if engine in BACKENDS:
        network = compile_network(load_model(folder).network(case.precision, core_only=True), windows.shape)
    else:
        network = _plain_torch(folder, case, compiled=engine == COMPILED_RIVAL)
    _held[engine] = network, windows
    for _ in range(2):  # cuDNN and torch.compile choose in the first calls
        time_network(engine, 1)
    on_device_s, _ = time_network(engine, 1)
    probability, side = network(windows), core_px(case.window_px, case.padding)
    cut = (probability.shape[1] - side) // 2
    return ceil(LEAST_S / on_device_s), np.array(probability[:, cut : cut + side, cut : cut + side])


def time_network(engine: str, calls: int) -> tuple[float, float]:
    """Seconds of a call on the device, the mean of `calls` in a row, and of one from and to memory."""
    network, windows = _held[engine]
    tensor = network.put(windows)
    started = time.perf_counter()
    for _ in range(calls):
        result = network.run(tensor)
    network.get(result[:, :1, :1])  # of one pixel: waits for all, and copies nothing that counts
    on_device_s = (time.perf_counter() - started) / calls
    started = time.perf_counter()
    network(windows)
    return on_device_s, time.perf_counter() - started


def _plain_torch(folder: Path, case: Case, *, compiled: bool) -> DeviceNetwork:
    import torch

    from torch_unet import load_torch_unet

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if case.precision == "bfloat16" else torch.float32
    network: Callable[[Any], Any] = load_torch_unet(folder).to(device, dtype)
    if compiled:
        network = torch.compile(network, mode="max-autotune")

    def run(windows: Any) -> Any:
        # Keras's torch engine lives in this process, too, and keeps PyTorch's defaults.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
            return network(windows.to(dtype)).permute(0, 2, 3, 1)

    return DeviceNetwork(
        # The permuted view of (window, y, x, band) is channels_last.
        put=lambda windows: torch.from_numpy(windows).to(device).permute(0, 3, 1, 2),
        run=run,
        get=lambda tensor: tensor.cpu().numpy(),
    )


def _matmul_flop_s(side: int) -> float:
    """Best of five rounds of bfloat16 products of square matrices, through Keras's own matmul."""
    import keras

    def product_of(count: int, matrix: Any) -> float:
        started = time.perf_counter()
        result = matrix
        for _ in range(count):
            result = keras.ops.matmul(matrix, result)
        keras.ops.convert_to_numpy(result[:1, :1])
        return time.perf_counter() - started

    # Scaled, so that a product of products neither vanishes nor overflows.
    values = np.random.default_rng(0).normal(scale=side**-0.5, size=(side, side))
    matrix = keras.ops.convert_to_tensor(values.astype(np.float32), dtype="bfloat16")
    count = ceil(LEAST_S / 5 / min(product_of(1, matrix) for _ in range(2)))
    return 2 * side**3 * count / min(product_of(count, matrix) for _ in range(5))
