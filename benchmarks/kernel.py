"""Nothing in, one line of JSON out: the U-Net alone on every backend, beside the same one in plain PyTorch.

    python benchmarks/kernel.py [--quick] [--filters 16 64] [--windows 572 576 1216]
        [--precision float32 bfloat16] [--batch 1] [--repeats 5] [--compile]

One process a backend, since Keras chooses its backend once a process. All of them hold the same weights; a
repeat times one engine after the other, the others idle, so that what else the machine does meets all alike:
read the ratios. The padding follows from the window: 572 is exact for `valid`, 576 and 1216 for `same`.

The rival `pytorch` is the network of torch_unet.py in PyTorch at its best documented settings: channels_last,
inference mode, cuDNN's autotuning, and for bfloat16 the weights converted once (autocast would convert them
in each call). --compile adds `pytorch_compiled`: torch.compile with max-autotune, which needs a C++ compiler.

Of `same` windows coseis computes the way up for the core alone, PyTorch for the whole window; both deliver
the same core. Counted are the multiplications and additions of convolutions, two a multiply-add; not bias,
ReLU and pooling.
`tflop_s` and `delivered_mpx_s` (pixels of cores, not of windows) are of calls on the device; `host_s` is a
call from and to the process's memory. `within_one_code` is the share of pixels whose uint8 code is within one
of the first engine's in float32. `matmul_share` is tflop_s over that of a square bfloat16 matrix product in
the same process: of 8192 a side on a GPU, of 1024 on the CPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from coseis.backends import BACKENDS, probe_device
from coseis.card import ModelCard
from coseis.model import CORE_MARGIN_PX
from coseis.types import CODE_SCALE
from coseis.windows import HALO_PX
from kernel_engines import (
    COMPILED_RIVAL,
    Case,
    choose_backend,
    describe_engine,
    prepare_network,
    save_random_model,
    time_network,
)
from machine import describe_machine

PACKAGES = ("coseis", "numpy", "keras", *BACKENDS)
RIVAL = "pytorch"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--windows", type=int, nargs="+", default=[572, 576, 1216], help="px a side")
    parser.add_argument(
        "--precision", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"]
    )
    parser.add_argument("--batch", type=int, default=1, help="windows a call")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also the rival through torch.compile")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it runs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.filters, options.windows, options.repeats = [2], [252], 1
    cases = [
        Case(filters, window, precision, options.batch)
        for filters, window, precision in product(options.filters, options.windows, options.precision)
    ]
    names = installed_engines(compiled=options.compile)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        backends = {name: name if name in BACKENDS else "torch" for name in names}
        processes = {backend: stack.enter_context(_process(backend)) for backend in {*backends.values()}}
        for loading in [process.submit(probe_device) for process in processes.values()]:
            loading.result()
        engines = {name: processes[backend] for name, backend in backends.items()}
        found = {name: engine.submit(describe_engine).result() for name, engine in engines.items()}
        rows = [row for case in cases for row in _measure(case, engines, folder, repeats=options.repeats)]
    for row in rows:
        share = row["tflop_s"] / found[row["engine"]]["matmul_bf16_tflop_s"]
        row["matmul_share"] = round(share, 3)
    machine = describe_machine(PACKAGES)
    print(json.dumps({"benchmark": "kernel", "machine": machine, "engines": found, "rows": rows}))


def installed_engines(*, compiled: bool = False) -> list[str]:
    """Keras's backends that are installed, then the rivals if torch is."""
    rivals = [RIVAL, *([COMPILED_RIVAL] if compiled else [])] if find_spec("torch") else []
    return [*(name for name in BACKENDS if find_spec(name)), *rivals]


def window_flop(card: ModelCard, window_px: int, *, core_only: bool = False) -> int:
    """Multiplications and additions of the convolutions for one square window; see `build_unet`."""
    core_only = core_only and card.padding == "same"
    shrink_px = 2 if card.padding == "valid" else 0
    filters = [card.base_filters << level for level in range(card.levels)]
    side_px, flop = window_px, 0
    for level, (before, after) in enumerate(zip([card.channels, *filters], filters, strict=False)):
        side_px //= 2 if level else 1
        for channels in (before, after):
            side_px -= shrink_px
            flop += 2 * 9 * channels * after * side_px**2
    if core_only:
        side_px -= 2 * ((HALO_PX["same"] >> (card.levels - 1)) - CORE_MARGIN_PX)
        shrink_px = 2
    for after in reversed(filters[:-1]):
        side_px *= 2
        # One tap of a 2x2 transposed convolution with stride 2 reaches a pixel; the skip doubles channels.
        flop += 2 * (2 * after) * after * side_px**2
        for channels in (2 * after, after):
            side_px -= shrink_px
            flop += 2 * 9 * channels * after * side_px**2
    several = len(card.classes) > 1
    return flop + 2 * filters[0] * (len(card.classes) + several) * side_px**2


@contextmanager
def _process(backend: str) -> Iterator[ProcessPoolExecutor]:
    """A process of its own, that goes on living, for one backend."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=choose_backend, initargs=(backend,)) as pool:
        yield pool


def _measure(
    case: Case, engines: Mapping[str, ProcessPoolExecutor], folder: Path, *, repeats: int
) -> Iterator[dict[str, Any]]:
    first, judge = next(iter(engines.items()))
    model = folder / f"{case.filters}-{case.padding}"
    if not model.exists():
        judge.submit(save_random_model, case, model).result()
    in_float32 = replace(case, precision="float32")
    _, expected = judge.submit(prepare_network, first, in_float32, model).result()
    calls, agreement = {}, {}
    for name, engine in engines.items():  # one after the other: compiling takes all cores
        calls[name], probability = engine.submit(prepare_network, name, case, model).result()
        apart = np.abs(np.rint(CODE_SCALE * probability) - np.rint(CODE_SCALE * expected))
        agreement[name] = float(np.mean(apart <= 1))
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for _ in range(repeats):
        for name, engine in engines.items():
            seconds[name].append(engine.submit(time_network, name, calls[name]).result())
    for name, pairs in seconds.items():
        on_device_s = median(pair[0] for pair in pairs)
        flop = case.batch * window_flop(case.card(), case.window_px, core_only=name in BACKENDS)
        rivals = seconds.get(RIVAL, [])
        ratios = [rival[0] / own[0] for rival, own in zip(rivals, pairs, strict=False)]
        yield {
            **asdict(case),
            "padding": case.padding,
            "engine": name,
            "on_device_s": round(on_device_s, 5),
            "host_s": round(median(pair[1] for pair in pairs), 5),
            "delivered_mpx_s": round(case.delivered_px / on_device_s / 1e6, 3),
            "tflop_s": round(flop / on_device_s / 1e12, 4),
            "ratio_to_pytorch": round(median(ratios), 3) if ratios else None,
            "within_one_code": agreement[name],
        }


if __name__ == "__main__":
    main()
