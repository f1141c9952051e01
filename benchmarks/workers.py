"""Nothing in, one line of JSON out: how well the engine keeps 1 to 64 GPUs busy that only sleep.

    python benchmarks/workers.py [--quick] [--workers 1 4 16 64] [--seconds 20]

A stand-in for a GPU sleeps for as long as an H100 takes for a chunk of 2,048 px with a network of 64 filters,
here at 75 Mpx/s, as no GPU was at hand to measure one; reading and writing are left out. Scheduler, tasks and
results are the real ones, the workers are threads of this process. Efficiency is the time that the chunks
take on so many GPUs over the time that passed. The last rows are the whole job (real reading and writing) on
1 and 2 real worker processes whose network sleeps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from distributed import Client, LocalCluster

from coseis import dispatch
from coseis.cluster import connected
from coseis.config import ClusterConfig
from coseis.pipeline import map_event
from coseis.store import DoneRecord
from coseis.task import TaskReport
from coseis.types import CODE_SCALE
from coseis.windows import Chunk, chunk_grid
from machine import describe_machine
from stand_ins import install_network, make_card, make_region, map_config, region_area

H100_MPX_PER_S = 75.0
"""Of 64 filters: a scene of 75 Mpx in about a second. Not measured."""
CHUNK_PX = 2048
REAL_CORE_PX, REAL_SIDE = 512, 6
REAL_MPX_PER_S = 1.5
"""Slow enough that two cores can read and write for two workers."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few workers and chunks: does it run at all?")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=20.0, help="work of each worker")
    options = parser.parse_args(arguments)
    counts, seconds, side = (
        ([1, 2], 1.0, 2) if options.quick else (options.workers, options.seconds, REAL_SIDE)
    )
    rows = [_asleep(count, seconds) for count in counts]
    with tempfile.TemporaryDirectory() as scratch:
        real = [_real(Path(scratch), count, side) for count in (1, 2)]
    speedup = real[0]["predict_s"] / real[1]["predict_s"]
    print(
        json.dumps(
            {
                "benchmark": "workers",
                "machine": describe_machine(),
                "gpu_mpx_per_s": H100_MPX_PER_S,
                "chunk_px": CHUNK_PX,
                "sleeping": rows,
                "processes": real,
                "efficiency_of_2_processes": round(speedup / 2, 3),
            }
        )
    )


def sleep_run(out: str, identity: str, chunks: Sequence[Chunk], *, chunk_s: float) -> list[TaskReport]:
    """Stands in for `map_run`: as long as the GPU takes, and reports of the true size."""
    reports = []
    for chunk in chunks:
        started = time.perf_counter()
        time.sleep(chunk_s)
        record = DoneRecord(
            chunk=chunk.name, identity=identity, digest=64 * "0", histogram=(1,) * (CODE_SCALE + 1),
            observed_px=chunk.height * chunk.width, aoi_px=chunk.height * chunk.width, status_px=(),
        )  # fmt: skip
        predict_s = time.perf_counter() - started
        reports.append(
            TaskReport(
                record=record,
                read_s=0,
                predict_s=predict_s,
                write_s=0,
                bytes_read=0,
                bytes_fetched=0,
                bytes_needed=0,
            )
        )
    return reports


def _asleep(workers: int, seconds: float) -> dict[str, Any]:
    chunk_s = CHUNK_PX**2 / H100_MPX_PER_S / 1e6
    chunks = _chunks(round(workers * seconds / chunk_s))
    plan: Any = SimpleNamespace(identity=SimpleNamespace(digest=lambda: f"{time.time_ns():x}"))
    kept, dispatch.map_run = dispatch.map_run, partial(sleep_run, chunk_s=chunk_s)  # type: ignore[assignment]
    try:
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=False,
                memory_limit=0,
                dashboard_address="127.0.0.1:0",
            ) as cluster,
            Client(cluster) as client,
        ):
            started = time.perf_counter()
            done = sum(1 for _ in dispatch.predict_chunks(plan, chunks, "memory", client))
            wall_s = time.perf_counter() - started
            transitions = cluster.scheduler.transition_counter
    finally:
        dispatch.map_run = kept
    return {
        "workers": workers,
        "chunks": done,
        "seconds": round(wall_s, 2),
        "efficiency": round(done * chunk_s / workers / wall_s, 3),
        "scheduler_transitions_per_s": round(transitions / wall_s, 1),
    }


def _chunks(count: int) -> list[Chunk]:
    side = max(1, round(count**0.5))
    return list(chunk_grid((side * CHUNK_PX, side * CHUNK_PX), CHUNK_PX))


def _real(folder: Path, workers: int, side: int) -> dict[str, float]:
    side_px = side * REAL_CORE_PX
    region, area = folder / "region", folder / "area.geojson"
    catalog = region / "items.json" if region.exists() else make_region(region, side_px, phases=("post",))
    area.write_text(json.dumps(region_area(side_px)))
    config = map_config(
        catalog, area, folder / f"run-{workers}", model=str(make_card(folder / "model")), core=REAL_CORE_PX
    )
    with connected(ClusterConfig(workers=workers, threads=2)) as client:
        client.wait_for_workers(workers)
        client.run(install_network, REAL_MPX_PER_S)
        report = map_event(config, client=client)
    return {"workers": workers, "chunks": report.throughput.chunks, "predict_s": report.seconds["predict"]}


if __name__ == "__main__":
    main()
