"""Nothing in, one line of JSON out: seconds, tasks and memory of runs of 1, 4, 16 and 64 times an area.

    python benchmarks/growth.py [--quick] [--rounds 3]

The whole job runs (search, read, predict, write, polygons, tiles, COGs) on a local cluster of one worker,
with a network that is none, so that what is left is what the engine costs. 1 x has 16 chunks of 512 px, just
one block of polygons, and 64 x has 1,024. The block cache of a worker, 256 MiB whatever the region, is cut to
CACHE_BYTES, so that 1 x fills it and only what grows with the area can make 64 x larger. Seconds are medians
of the rounds; a run of one chunk, in which starting is nearly all, is subtracted for the seconds a chunk.
Another row plans some 20,000 chunks, and stops when the first is done.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from distributed import Client, SchedulerPlugin

from coseis.cluster import connected
from coseis.config import ClusterConfig, MapConfig
from coseis.dispatch import predict_chunks
from coseis.objects import open_store
from coseis.pipeline import map_event
from coseis.plan import freeze_plan, plan_anew
from coseis.store import create_cube
from machine import describe_machine
from stand_ins import install_network, make_card, make_region, map_config, region_area

CORE_PX = 512
CACHE_BYTES = 16 * 2**20
SIDES = (4, 8, 16, 32)
"""Chunks a side: 1, 4, 16 and 64 times the area."""
REGION_SIDE, REGION_CORE_PX = 141, 64
"""Chunks a side of the region that is planned only: 19,881, small, so that its scenes are soon made."""


class TaskCounter(SchedulerPlugin):
    """Counts the tasks that a scheduler has run."""

    name = "task-counter"

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Called by the scheduler for every step of a task."""
        if start == "processing" and finish == "memory":
            kind = str(key).partition("-")[0]
            self.counts[kind] = self.counts.get(kind, 0) + 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small areas, once: does it run at all?")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    sides, rounds = ((2, 4), 1) if options.quick else (SIDES, options.rounds)
    with (
        tempfile.TemporaryDirectory() as scratch,
        connected(ClusterConfig(workers=1, threads=2)) as client,
    ):
        folder = Path(scratch)
        client.run(install_network)
        client.run(_cut_cache)
        counter = TaskCounter()
        client.cluster.scheduler.add_plugin(counter)
        _run(folder, "warm-up", sides[0], client)
        # First, while the client has done no other work: memory that is freed is not always given back.
        planned = _first_of_many(folder, 8 if options.quick else REGION_SIDE, client)
        rows: dict[int, list[dict[str, float]]] = {side: [] for side in (1, *sides)}
        for number in range(rounds):
            for side in rows:
                counter.counts.clear()
                rows[side].append(_measure(folder, f"{side}-{number}", side, client, counter))
    one, *areas = [_summary(side, rows[side]) for side in rows]
    for area in areas:
        area["seconds_per_chunk"] = round((area["seconds"] - one["seconds"]) / (area["chunks"] - 1), 4)
    print(
        json.dumps(
            {
                "benchmark": "growth",
                "machine": describe_machine(),
                "rounds": rounds,
                "one_chunk_s": one["seconds"],
                "areas": areas,
                "seconds_per_chunk_last_over_first": round(
                    areas[-1]["seconds_per_chunk"] / areas[0]["seconds_per_chunk"], 3
                ),
                "worker_peak_last_over_first": round(
                    areas[-1]["worker_peak_mib"] / areas[0]["worker_peak_mib"], 3
                ),
                "region": planned,
            }
        )
    )


def _config(folder: Path, name: str, side: int, core_px: int = CORE_PX) -> MapConfig:
    side_px = side * core_px
    area = folder / f"area-{side_px}.geojson"
    area.write_text(json.dumps(region_area(side_px)))
    region = folder / f"region-{side_px}"
    catalog = region / "items.json" if region.exists() else make_region(region, side_px)
    model = make_card(folder / "model")
    return map_config(catalog, area, folder / f"run-{name}", model=str(model), core=core_px)


def _run(folder: Path, name: str, side: int, client: Client) -> dict[str, float]:
    report = map_event(_config(folder, name, side), client=client)
    if report.failed:
        raise RuntimeError(f"{len(report.failed)} chunks failed: {report.failed[0].reason}")
    return dict(report.seconds)


def _measure(folder: Path, name: str, side: int, client: Client, counter: TaskCounter) -> dict[str, float]:
    client.run(_reset_peak)
    _reset_peak()
    _config(folder, name, side)  # makes the scenes, which is not measured
    started = time.perf_counter()
    seconds = _run(folder, name, side, client)
    return {
        "seconds": time.perf_counter() - started,
        **{f"{stage}_s": value for stage, value in seconds.items()},
        "predict_tasks": counter.counts.get("map", 0),
        "other_tasks": sum(counter.counts.values()) - counter.counts.get("map", 0),
        "client_and_scheduler_peak_mib": _peak_mib(),
        "worker_peak_mib": max(client.run(_peak_mib).values()),
    }


def _summary(side: int, rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    chunks = side**2
    medians = {name: round(median(row[name] for row in rounds), 3) for name in rounds[0]}
    return {
        "chunks": chunks,
        **medians,
        "predict_tasks_per_chunk": round(medians["predict_tasks"] / chunks, 3),
        "other_tasks_per_chunk": round(medians["other_tasks"] / chunks, 3),
    }


def _first_of_many(folder: Path, side: int, client: Client) -> dict[str, float]:
    """A whole region's plan: seconds until its first chunk is done, and the client's memory then."""
    config = _config(folder, "region", side, REGION_CORE_PX)
    _reset_peak()
    started = time.perf_counter()
    store = open_store(config.output.out)
    plan = plan_anew(config, lambda: ("cpu", "float32"))
    freeze_plan(plan, config, store)
    create_cube(
        config.output.out, plan.geobox, phases=plan.identity.phases, classes=plan.card.classes,
        core_px=REGION_CORE_PX, chunk_px=REGION_CORE_PX,
    )  # fmt: skip
    chunks = plan.chunks(REGION_CORE_PX)
    results = predict_chunks(plan, chunks, config.output.out, client)
    next(results)
    seconds = time.perf_counter() - started
    results.close()
    return {
        "chunks": len(chunks),
        "first_chunk_s": round(seconds, 2),
        "client_and_scheduler_peak_mib": _peak_mib(),
    }


def _cut_cache() -> None:
    from coseis.blocks import kept_blocks

    kept_blocks._kept.n = CACHE_BYTES


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> float:
    """Most memory of this process since `_reset_peak`."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return round(int(found[1]) / 1024, 1) if found else float("nan")


if __name__ == "__main__":
    main()
