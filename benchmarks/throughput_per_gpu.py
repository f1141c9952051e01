"""Nothing in, one line of JSON out: what a machine delivers with a network on each of its GPUs, end to end.

    python benchmarks/throughput_per_gpu.py [--quick] [--filters 64] [--shape 8034 9292] [--threads 1 2 3]
        [--cores 1024 2048] [--batches 1 2] [--precision bfloat16 float32] [--rounds 1]

On the bare machine: one worker a GPU (dask-cuda), or one on the processor where there is none; KERAS_BACKEND
chooses what computes. A scene a GPU, 8-bit on the output's grid, goes from COG to Zarr as in a run, with a
network of random weights; a small area first, so that no compiling is counted. Threads, cores, batches and
precisions are tried in all their combinations, best first in the row.

`mpx_per_s` and `km2_per_s` are delivered pixels over the seconds of the stage `predict`, a GPU.
`network_share` is the time that a worker's network was at work, copies to and from the GPU included, over
those seconds. `gpu_share` is the GPU's utilisation as NVML reports it, sampled by Dask twice a second: the
share of time in which any kernel ran. It is null without NVML.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

from distributed import Client
from distributed.diagnostics import nvml

from coseis.backends import probe_device
from coseis.cluster import connected
from coseis.config import ClusterConfig
from coseis.model import Precision
from coseis.pipeline import map_event
from kernel_engines import Case, save_random_model
from machine import describe_machine
from network_watch import gpu_shares, take_busy_s, watch_network
from stand_ins import RESOLUTION_M, make_region, map_config, region_area

SHAPE, QUICK_SHAPE = (8034, 9292), (500, 600)
SMALL_PX = 300
SAME_WINDOW_PX = 1216
PACKAGES = ("coseis", "numpy", "dask", "dask-cuda", "zarr", "keras", "tensorflow", "jax", "torch")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small scene, once: does it run at all?")
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--shape", type=int, nargs=2, default=SHAPE, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 3], help="a worker")
    parser.add_argument("--cores", type=int, nargs="+", default=[1024, 2048], help="px")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2], help="windows a call")
    parser.add_argument("--precision", nargs="+", choices=["float32", "bfloat16"], default=["bfloat16"])
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.quick:
        options.filters, options.shape = 2, QUICK_SHAPE
        options.threads, options.cores, options.batches = [1, 2], [256], [1]
    gpus = int(nvml.device_get_count())
    height, width = options.shape
    cases = list(product(options.cores, options.batches, options.precision))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_region(folder / "region", (height * max(1, gpus), width), phases=("post",))
        for name, shape in (("small", SMALL_PX), ("whole", (height * max(1, gpus), width))):
            (folder / f"{name}.geojson").write_text(json.dumps(region_area(shape)))
        for threads in options.threads:
            cluster = ClusterConfig(
                scheduler="local-cuda" if gpus else "local", workers=max(1, gpus), threads=threads
            )
            with connected(cluster) as client:
                client.wait_for_workers(cluster.workers)
                device = next(iter(client.run(probe_device).values()))[0]
                client.run(watch_network)
                if not (folder / "model").exists():
                    case = Case(options.filters, SAME_WINDOW_PX, "float32", batch=1)
                    client.submit(save_random_model, case, folder / "model").result()
                for core_px, batch, precision in cases:
                    row = _measure(client, folder, core_px, batch, precision, options.rounds)
                    rows.append({"threads": threads, **row})
    rows.sort(key=lambda row: -row["mpx_per_s"])
    machine = describe_machine(PACKAGES)
    about = {"gpus": gpus, "device": device, "filters": options.filters, "shape": [height, width]}
    print(json.dumps({"benchmark": "throughput_per_gpu", "machine": machine, **about, "rows": rows}))


def _measure(
    client: Client, folder: Path, core_px: int, batch: int, precision: Precision, rounds: int
) -> dict[str, Any]:
    def run(area: str) -> Any:
        out = folder / f"run-{time.time_ns()}"
        report = map_event(
            map_config(
                folder / "region" / "items.json", folder / f"{area}.geojson", out,
                model=str(folder / "model"), core=core_px, batch=batch, precision=precision,
            ),
            client=client,
        )  # fmt: skip
        if report.failed:
            raise RuntimeError(report.failed[0].reason)
        return report

    run("small")
    workers = len(client.scheduler_info()["workers"])
    rows = list(_rounds(client, run, workers, rounds))
    shares = [row["gpu_share"] for row in rows if row["gpu_share"] is not None]
    return {
        "core_px": core_px,
        "batch": batch,
        "precision": precision,
        "predict_s": round(median(row["predict_s"] for row in rows), 3),
        "mpx_per_s": round(median(row["mpx_per_s"] for row in rows), 3),
        "km2_per_s": round(median(row["mpx_per_s"] for row in rows) * RESOLUTION_M**2, 3),
        "network_share": round(median(row["network_share"] for row in rows), 3),
        "gpu_share": round(median(shares), 3) if shares else None,
    }


def _rounds(client: Client, run: Any, workers: int, rounds: int) -> Iterator[dict[str, Any]]:
    for _ in range(rounds):
        client.run(take_busy_s)
        since = time.time()
        report = run("whole")
        seconds = report.seconds["predict"]
        samples = [share for shares in client.run(gpu_shares, since=since).values() for share in shares]
        yield {
            "predict_s": seconds,
            "mpx_per_s": report.throughput.observed_px / seconds / workers / 1e6,
            "network_share": mean(client.run(take_busy_s).values()) / seconds,
            "gpu_share": mean(samples) if samples else None,
        }


if __name__ == "__main__":
    main()
