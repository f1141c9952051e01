"""The main job: a configuration goes in, the landslide map of an event comes out under one address.

Predict is one pass over the chunks; threshold, polygons and files are passes of their own over what it
wrote, so a new threshold needs no new inference.
"""

import time
from collections.abc import Mapping, Set
from contextlib import ExitStack
from functools import cache
from typing import Any

import numpy as np
from distributed import Client
from numpy.typing import NDArray
from obstore.store import MemoryStore, ObjectStore
from odc.geo.geobox import GeoBox
from rich.console import Console
from rich.progress import Progress

from coseis.addresses import local_path, scheme_of
from coseis.backends import probe_device
from coseis.cluster import Failure, connected, run_jobs
from coseis.config import ClusterConfig, MapConfig, OutputConfig
from coseis.dispatch import predict_chunks
from coseis.errors import InputRefusedError, UnreachableError, UsageError
from coseis.estimate import Estimate, estimate_run, keep_rate
from coseis.memory import check_memory, worker_bytes
from coseis.model import Precision
from coseis.objects import get_object, open_store
from coseis.page import read_layers
from coseis.plan import ITEMS, Plan, chunk_size, freeze_plan, make_plan, read_plan
from coseis.priority import order_chunks
from coseis.progress import Clock, one_step, progress_bars
from coseis.render import render_layers
from coseis.report import (
    FailedChunk,
    Outcome,
    PartReport,
    RunReport,
    Throughput,
    failed_chunk,
    join_throughputs,
    measure_throughput,
    publish_run,
    read_config,
    read_parts,
    read_report,
    write_part,
)
from coseis.store import create_cube, open_arrays, read_records, shard_px
from coseis.task import TaskReport, fail_chunk
from coseis.threshold import ThresholdChoice, choose_threshold
from coseis.types import CODE_SCALE
from coseis.vectorize import BlockPieces, merge_blocks, trace_block
from coseis.windows import Chunk, chunk_grid

VECTORIZE_PX = 2048
"""Least side of the blocks that are traced at once: measured quickest; larger blocks leave the cache."""


def map_event(
    config: MapConfig, *, client: Client | None = None, console: Console | None = None
) -> RunReport:
    """Maps the landslides of an event, from the catalog to polygons and tiles.

    Args:
        config: The resolved configuration.
        client: A connected Dask client to use in place of the configured cluster; it is left open.
        console: Where progress is shown; default: nowhere.

    Returns:
        The report that is also written to run.json.

    Raises:
        UsageError: the configuration, the area or the model is at fault.
        InputRefusedError: the catalog, an asset or the output is.
        UnreachableError: the catalog, the output or the scheduler does not answer, or is lost.
    """
    if config.cluster.part:
        raise UsageError("a part of a run is predicted by map_part; finish_run draws the map of all parts")
    clock = Clock()
    with progress_bars(console) as progress, ExitStack() as stack:
        plan, connection, predicted = _predict_run(config, client, clock, progress, stack)
        reasons = {failure.chunk: failure.reason for failure in predicted.failed}
        throughput = predicted.throughput
        return _finish(plan, config, connection, clock, progress, throughput=throughput, reasons=reasons)


def estimate_event(
    config: MapConfig, *, client: Client | None = None, price_per_hour: float | None = None
) -> Estimate:
    """What `map_event` would do: plans the run on the configured cluster, and writes nothing.

    Args:
        config: As for `map_event`.
        client: As for `map_event`.
        price_per_hour: Of a worker, in any currency.

    Raises:
        UsageError, InputRefusedError, UnreachableError: as `map_event`, also for want of memory.
    """
    out = config.output.out
    there = scheme_of(out) not in ("", "file") or local_path(out).is_dir()
    store = open_store(out) if there else MemoryStore()
    with ExitStack() as stack:

        @cache
        def connection() -> Client:
            return stack.enter_context(connected(config.cluster, client))

        plan = make_plan(config, store, lambda: _probe(connection()))
        return estimate_run(
            plan,
            chunk_px=chunk_size(config, plan.identity.core_px),
            worker_bytes=_check_workers(plan, config, connection()),
            workers=len(connection().nthreads()),
            price_per_hour=price_per_hour,
        )


def map_part(
    config: MapConfig, *, client: Client | None = None, console: Console | None = None
) -> PartReport:
    """Predicts one share of an event's chunks, `config.cluster.part`, and draws nothing.

    The first part to come plans the run, the others take its plan; in any order, also at once, and again.

    Args:
        config: The same for all parts but for the part, and for where it runs.
        client: As for `map_event`.
        console: As for `map_event`.

    Returns:
        The report that is also written to parts/.

    Raises:
        UsageError, InputRefusedError, UnreachableError: as `map_event`.
    """
    clock = Clock()
    with progress_bars(console) as progress, ExitStack() as stack:
        _, _, predicted = _predict_run(config, client, clock, progress, stack)
    write_part(open_store(config.output.out), predicted)
    return predicted


def finish_run(
    config: OutputConfig, *, client: Client | None = None, console: Console | None = None
) -> RunReport:
    """Draws and publishes the map of the chunks that are done: those of parts, or of a run that was killed.

    Args:
        config: `out` is the run; `threshold`, `min_area` and `tolerate_failed`, where set, are the new ones.
        client: As for `map_event`.
        console: As for `map_event`.

    Raises:
        InputRefusedError: no run was begun at `out`.
    """
    store = open_store(config.out, must_exist=True)
    run = _changed(read_config(store, config.out), config)
    plan = read_plan(get_object(store, ITEMS) or b"", config.out)
    parts = read_parts(store, plan.identity.digest())
    clock = Clock({"predict": sum(part.throughput.wall_s for part in parts)})
    with progress_bars(console) as progress, connected(ClusterConfig(), client) as connection:
        reasons = {failure.chunk: failure.reason for part in parts for failure in part.failed}
        throughput = join_throughputs([part.throughput for part in parts])
        return _finish(plan, run, connection, clock, progress, throughput=throughput, reasons=reasons)


def vectorize_run(
    config: OutputConfig, *, client: Client | None = None, console: Console | None = None
) -> RunReport:
    """Draws the polygons of a finished run anew, with another threshold or least area: no inference.

    Args:
        config: `out` is the run; `threshold` and `min_area`, where set, are the new ones.
        client: As for `map_event`.
        console: As for `map_event`.

    Raises:
        InputRefusedError: there is no run at `out`.
    """
    store = open_store(config.out, must_exist=True)
    earlier = read_report(store, config.out)
    run = _changed(earlier.config, config)
    plan = read_plan(get_object(store, ITEMS) or b"", config.out)
    clock = Clock(earlier.seconds)
    # The cluster that predicted may be gone; drawing is small work.
    with progress_bars(console) as progress, connected(ClusterConfig(), client) as connection:
        reasons = {failure.chunk: failure.reason for failure in earlier.failed}
        throughput = earlier.throughput
        # Neither scenes nor codes change with the threshold: the tiles that show them stay.
        return _finish(
            plan, run, connection, clock, progress, throughput=throughput, reasons=reasons, redraw=False
        )


def _changed(run: MapConfig, asked: OutputConfig) -> MapConfig:
    """What was not asked for stays as it was; the run may have been moved."""
    names = asked.model_fields_set & {"threshold", "min_area", "tolerate_failed"}
    changes = {name: getattr(asked, name) for name in names} | {"out": asked.out}
    return run.model_copy(update={"output": run.output.model_copy(update=changes)})


def _predict_run(
    config: MapConfig, client: Client | None, clock: Clock, progress: Progress, stack: ExitStack
) -> tuple[Plan, Client, PartReport]:
    """Plans a run, or takes its plan, and predicts this process's share of what is not done yet."""
    store = open_store(config.output.out, prove_writable=True)

    @cache
    def connection() -> Client:
        # First needed when the plan asks a worker: a wrong request must not wait for a cluster.
        return stack.enter_context(connected(config.cluster, client))

    with clock("plan"), one_step(progress, "search and measure scenes"):
        plan = make_plan(config, store, lambda: _probe(connection()))
        _check_workers(plan, config, connection())
        if not freeze_plan(plan, config, store):
            plan = make_plan(config, store, lambda: _probe(connection()))
        chunk_px, done = _lay_out(plan, store, config)
        number, count = config.cluster.share
        chunks = plan.chunks(chunk_px)
        share = chunks[number * len(chunks) // count : (number + 1) * len(chunks) // count]
        share = order_chunks(share, plan.geobox, config.cluster.first)
    with clock("predict"):
        missing = [chunk for chunk in share if chunk.name not in done]
        bar = progress.add_task("predict", total=len(share), completed=len(share) - len(missing))
        tasks: list[TaskReport] = []
        failed: list[FailedChunk] = []
        reached: list[float] = []
        for chunk, result in predict_chunks(plan, missing, config.output.out, connection()):
            if isinstance(result, Failure):
                fail_chunk(plan, chunk, config.output.out)
                failed.append(failed_chunk(plan, chunk, result.reason))
            else:
                tasks.append(result)
            reached.append(clock.elapsed())
            progress.advance(bar)
    throughput = measure_throughput(plan, tasks, clock.seconds["predict"], reached)
    if throughput.delivered_mpx_per_s:
        keep_rate(plan.identity, throughput.delivered_mpx_per_s, len(connection().nthreads()))
    identity = plan.identity.digest()
    part = config.cluster.part or "0/1"
    return (
        plan,
        connection(),
        PartReport(part=part, identity=identity, throughput=throughput, failed=tuple(failed)),
    )


def _check_workers(plan: Plan, config: MapConfig, client: Client) -> int:
    """Refuses, before anything is submitted, what the smallest worker cannot hold; bytes of the neediest."""
    identity, most = plan.identity, 0
    for worker in client.scheduler_info(n_workers=-1)["workers"].values():
        needed = worker_bytes(
            plan.card,
            core_px=identity.core_px,
            chunk_px=chunk_size(config, identity.core_px),
            batch=identity.batch,
            precision=identity.precision,
            phases=len(identity.phases),
            threads=worker["nthreads"],
        )
        check_memory(needed, worker["memory_limit"] or 0)
        most = max(most, needed)
    return most


def _probe(client: Client) -> tuple[str, Precision]:
    """Device kind and default precision of a worker."""
    [(_, result)] = run_jobs(client, probe_device, [(f"probe-{time.time_ns()}", None, ())])
    if isinstance(result, Failure):
        raise UnreachableError(f"no worker could say what it computes on: {result.reason}")
    device: str
    precision: Precision
    device, precision = result
    return device, precision


def _lay_out(plan: Plan, store: ObjectStore, config: MapConfig) -> tuple[int, Set[str]]:
    """Makes the empty cube unless chunks were already done; returns its chunk size, px, and their names.

    A resumed run keeps the chunk size that it was begun with: the shards are there.
    """
    identity = plan.identity
    if done := read_records(store, plan.geobox, identity.digest()):
        return shard_px(config.output.out, plan.geobox), done.keys()
    chunk_px = chunk_size(config, identity.core_px)
    create_cube(
        config.output.out,
        plan.geobox,
        phases=identity.phases,
        classes=plan.card.classes,
        core_px=identity.core_px,
        chunk_px=chunk_px,
    )
    return chunk_px, set()


def _finish(
    plan: Plan,
    config: MapConfig,
    client: Client,
    clock: Clock,
    progress: Progress,
    *,
    throughput: Throughput,
    reasons: Mapping[str, str],
    redraw: bool = True,
) -> RunReport:
    """Threshold, polygons, files and report of the chunks that are done; the others are listed as failed."""
    store = open_store(config.output.out)
    done = read_records(store, plan.geobox, plan.identity.digest())
    records = list(done.values())
    failed = [
        failed_chunk(plan, chunk, reasons.get(chunk.name, "it was never computed"))
        for chunk in plan.chunks(shard_px(config.output.out, plan.geobox))
        if chunk.name not in done
    ]
    histogram = np.zeros(CODE_SCALE + 1, np.int64)
    for record in records:
        histogram += np.array(record.histogram)
    threshold = choose_threshold(config.output.threshold, histogram, plan.card.threshold)
    with clock("vectorize"):
        pieces = _trace(plan, config.output, threshold, client, progress)
        polygons = merge_blocks(
            pieces,
            plan.geobox,
            item_ids={scene.index: scene.item_id for scene in plan.found.scenes},
            model_digest=plan.identity.model,
            min_area_m2=config.output.min_area,
        )
    layers = None if redraw else read_layers(store)
    if layers is None:
        with clock("tiles"):
            output = config.output
            layers = render_layers(plan, output.out, client, progress, publish_pixels=output.publish_pixels)
    with one_step(progress, "publish"):
        outcome = Outcome(polygons, threshold, records, failed, throughput, layers)
        return publish_run(plan, config, store, clock, outcome)


def _trace(
    plan: Plan, output: OutputConfig, threshold: ThresholdChoice, client: Client, progress: Progress
) -> list[BlockPieces]:
    # Four chunks at least: a task a chunk would be as many as predicting takes.
    side_px = max(VECTORIZE_PX, 2 * shard_px(output.out, plan.geobox))
    blocks = list(chunk_grid(plan.identity.shape, side_px))
    post = plan.identity.phases.index("post")
    begun = time.time_ns()  # in the keys: the same block is traced again with another threshold
    jobs = (
        (
            f"trace-{begun}-{block.name}",
            block,
            (plan.geobox, post, block, threshold.code, output.out),
        )
        for block in blocks
    )
    bar = progress.add_task("draw polygons", total=len(blocks))
    pieces = []
    for block, result in run_jobs(client, trace_run_block, jobs):
        if isinstance(result, Failure):
            raise InputRefusedError(f"the probability cube cannot be read at {block.name}: {result.reason}")
        pieces.append(result)
        progress.advance(bar)
    return pieces


def trace_run_block(geobox: GeoBox, phase: int, block: Chunk, threshold_code: int, out: str) -> BlockPieces:
    """Traces one block of a run's cube: one phase, the first class."""
    arrays = open_arrays(out, geobox)
    rows, cols = block.slices
    codes: NDArray[Any] = np.asarray(arrays["probability"][phase, 0, rows, cols])
    status: NDArray[Any] = np.asarray(arrays["status"][phase, rows, cols])
    scene: NDArray[Any] = np.asarray(arrays["scene"][phase, rows, cols])
    return trace_block(codes, status, scene, origin=(block.y0, block.x0), threshold_code=threshold_code)
