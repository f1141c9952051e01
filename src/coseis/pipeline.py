"""The main job: a configuration goes in, the landslide map of an event comes out under one address.

Predict is one pass over the chunks; threshold, polygons and files are passes of their own over what it
wrote, so a new threshold needs no new inference.
"""

import time
from collections.abc import Sequence, Set
from contextlib import ExitStack
from functools import cache
from typing import NamedTuple

import geopandas as gpd
from distributed import Client
from obstore.store import MemoryStore, ObjectStore
from rich.console import Console
from rich.progress import Progress

from coseis.addresses import local_path, scheme_of
from coseis.alignment import MeasuredBlock, align_scenes
from coseis.backends import probe_device
from coseis.cluster import connected
from coseis.config import ClusterConfig, ExposureConfig, MapConfig, OutputConfig, TerrainConfig
from coseis.dem_search import keep_dem
from coseis.dispatch import predict_chunks
from coseis.errors import UnreachableError, UsageError
from coseis.estimate import Estimate, estimate_run, keep_rate
from coseis.exposure import read_surroundings
from coseis.finish import Work, check_terrain, dem_of, finish_map
from coseis.jobs import Failure, run_jobs, worker_details, worker_threads
from coseis.memory import check_memory, worker_bytes
from coseis.model import Precision
from coseis.objects import get_object, open_store
from coseis.plan import (
    ITEMS,
    Plan,
    event_of,
    read_done,
    read_plan,
)
from coseis.priority import order_chunks
from coseis.progress import Clock, one_step, progress_bars
from coseis.report import (
    FailedChunk,
    PartReport,
    RunReport,
    failed_chunk,
    read_config,
    read_parts,
    read_report,
    write_part,
)
from coseis.security import check_scheduler
from coseis.store import create_cube
from coseis.task import TaskReport, fail_chunk
from coseis.throughput import join_throughputs, measure_throughput
from coseis.types import Value
from coseis.update import foresee_plan, settle_plan
from coseis.windows import Chunk


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
    layers = _layers_of(config)
    with progress_bars(console) as progress, ExitStack() as stack:
        plan, connection, predicted = _predict_run(config, client, clock, progress, stack)
        reasons = {(failure.crs, failure.chunk): failure.reason for failure in predicted.failed}
        throughput = predicted.throughput
        work = Work(connection, clock, progress, layers)
        return finish_map(plan, config, work, throughput=throughput, reasons=reasons)


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
    _layers_of(config)
    there = scheme_of(out) not in ("", "file") or local_path(out).is_dir()
    store = open_store(out) if there else MemoryStore()
    if client is None:
        check_scheduler(config.cluster)
    with ExitStack() as stack:

        @cache
        def connection() -> Client:
            return stack.enter_context(connected(config.cluster, client))

        dem_of(config, event_of(config.search).aoi, store)
        plan = foresee_plan(config, store, lambda: _probe(connection()))
        return estimate_run(
            plan,
            chunk_px=plan.chunk_px,
            worker_bytes=_check_workers(plan, config, connection()),
            workers=len(worker_threads(connection())),
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
    # Nobody wants to learn of a wrong file when all parts are done.
    _layers_of(config)
    with progress_bars(console) as progress, ExitStack() as stack:
        _, _, predicted = _predict_run(config, client, clock, progress, stack)
    write_part(open_store(config.output.out), predicted)
    return predicted


def finish_run(
    config: OutputConfig,
    *,
    exposure: ExposureConfig | None = None,
    client: Client | None = None,
    console: Console | None = None,
) -> RunReport:
    """Draws and publishes the map of the chunks that are done: those of parts, or of a run that was killed.

    Args:
        config: `out` is the run; `threshold`, `min_area` and `tolerate_failed`, where set, are the new ones.
        exposure: What is set in it is new.
        client: As for `map_event`.
        console: As for `map_event`.

    Raises:
        UsageError: a layer cannot be used.
        InputRefusedError: no run was begun at `out`.
    """
    store = open_store(config.out, must_exist=True)
    run = _changed(read_config(store, config.out), config, exposure=exposure)
    layers = _layers_of(run)
    plan = read_plan(get_object(store, ITEMS) or b"", config.out)
    parts = read_parts(store, plan.identity.digest())
    clock = Clock({"predict": sum(part.throughput.wall_s for part in parts)})
    with progress_bars(console) as progress, connected(ClusterConfig(), client) as connection:
        reasons = {(failure.crs, failure.chunk): failure.reason for part in parts for failure in part.failed}
        throughput = join_throughputs([part.throughput for part in parts])
        work = Work(connection, clock, progress, layers)
        return finish_map(plan, run, work, throughput=throughput, reasons=reasons)


def vectorize_run(
    config: OutputConfig,
    *,
    terrain: TerrainConfig | None = None,
    exposure: ExposureConfig | None = None,
    client: Client | None = None,
    console: Console | None = None,
) -> RunReport:
    """Draws the polygons of a finished run anew, with another threshold or least area: no inference.

    Args:
        config: `out` is the run; `threshold` and `min_area`, where set, are the new ones.
        terrain: What is set in it is new: a DEM for a run without one, or another mask.
        exposure: What is set in it is new.
        client: As for `map_event`.
        console: As for `map_event`.

    Raises:
        UsageError: a mask of flat ground without a DEM, or a layer that cannot be used.
        InputRefusedError: there is no run at `out`, or the DEM cannot be used.
        UnreachableError: the DEM's server does not answer.
    """
    store = open_store(config.out, must_exist=True)
    earlier = read_report(store, config.out)
    run = _changed(earlier.config, config, terrain=terrain, exposure=exposure)
    check_terrain(run.terrain)
    layers = _layers_of(run)
    plan = read_plan(get_object(store, ITEMS) or b"", config.out)
    clock = Clock(earlier.seconds)
    # The cluster that predicted may be gone; drawing is small work.
    with progress_bars(console) as progress, connected(ClusterConfig(), client) as connection:
        reasons = {(lost.crs, lost.chunk): lost.reason for lost in earlier.failed if lost.tried}
        throughput = earlier.throughput
        # Neither scenes nor codes change with the threshold: the tiles that show them stay, unless the run
        # was updated since.
        updated = earlier.identity_digest != plan.identity.digest()
        work = Work(connection, clock, progress, layers)
        return finish_map(plan, run, work, throughput=throughput, reasons=reasons, redraw=updated)


def _changed(run: MapConfig, asked: OutputConfig, **stages: Value | None) -> MapConfig:
    """What was not asked for stays as it was, in the output and in further stages; the run may have moved."""
    names = asked.model_fields_set & {"threshold", "pre_threshold", "min_area", "tolerate_failed"}
    changes = {name: getattr(asked, name) for name in names} | {"out": asked.out}
    update: dict[str, Value] = {"output": run.output.model_copy(update=changes)}
    for stage, given in stages.items():
        if given is not None:
            new = {name: getattr(given, name) for name in given.model_fields_set}
            update[stage] = getattr(run, stage).model_copy(update=new)
    return run.model_copy(update=update)


def _layers_of(config: MapConfig) -> dict[str, gpd.GeoDataFrame]:
    """What lies around, read before any work: a wrong file must not wait for it."""
    return read_surroundings(config.exposure.model_dump())


def _predict_run(
    config: MapConfig, client: Client | None, clock: Clock, progress: Progress, stack: ExitStack
) -> tuple[Plan, Client, PartReport]:
    """Plans a run, or takes its plan, and predicts this process's share of what is not done yet."""
    if client is None:
        check_scheduler(config.cluster)
    store = open_store(config.output.out, prove_writable=True)

    @cache
    def connection() -> Client:
        # First needed when the plan asks a worker: a wrong request must not wait for a cluster.
        return stack.enter_context(connected(config.cluster, client))

    with clock("plan"), one_step(progress, "search and measure scenes"):
        dem = dem_of(config, event_of(config.search).aoi, store)
        plan = settle_plan(
            config,
            store,
            lambda: _probe(connection()),
            check=lambda plan: _check_workers(plan, config, connection()),
            align=lambda plan: _align(plan, config, connection(), progress),
        )
        if dem:
            keep_dem(store, dem)
        shares = [_share(zone, store, config) for zone in plan.zones]
    with clock("predict"):
        total = sum(share.chunks for share in shares)
        missing = sum(len(share.missing) for share in shares)
        bar = progress.add_task("predict", total=total, completed=total - missing)
        tasks: list[TaskReport] = []
        failed: list[FailedChunk] = []
        reached: list[float] = []
        for share in shares:
            for chunk, result in predict_chunks(share.plan, share.missing, config.output.out, connection()):
                if isinstance(result, Failure):
                    fail_chunk(share.plan, chunk, config.output.out)
                    failed.append(failed_chunk(share.plan, chunk, result.reason))
                else:
                    tasks.append(result)
                reached.append(clock.elapsed())
                progress.advance(bar)
    throughput = measure_throughput(plan, tasks, clock.seconds["predict"], reached)
    if throughput.delivered_mpx_per_s:
        keep_rate(plan.identity, throughput.delivered_mpx_per_s, len(worker_threads(connection())))
    identity = plan.identity.digest()
    part = config.cluster.part or "0/1"
    return (
        plan,
        connection(),
        PartReport(part=part, identity=identity, throughput=throughput, failed=tuple(failed)),
    )


class _Share(NamedTuple):
    """What this process does of one zone."""

    plan: Plan
    chunks: int
    missing: Sequence[Chunk]


def _share(plan: Plan, store: ObjectStore, config: MapConfig) -> _Share:
    """The chunks of one zone that are this process's, and of them those that are not done, in order."""
    done = _lay_out(plan, store, config)
    number, count = config.cluster.share
    chunks = plan.chunks(plan.chunk_px)
    share = chunks[number * len(chunks) // count : (number + 1) * len(chunks) // count]
    ordered = order_chunks(share, plan.geobox, config.cluster.first or _epicentre(plan))
    return _Share(plan, len(share), [chunk for chunk in ordered if chunk.name not in done])


def _epicentre(plan: Plan) -> str | None:
    """What is mapped first if nothing was asked for: near the epicentre, where the event file says it."""
    place = plan.found.event.epicentre
    return f"{place[0]},{place[1]}" if place else None


def _align(
    plan: Plan, config: MapConfig, client: Client, progress: Progress
) -> tuple[Plan, list[MeasuredBlock]]:
    """The plan with its scenes measured, and moved where that is asked for; and the shift field."""
    bar = progress.add_task("compare scenes before and after", total=None)

    def advance(done: int, total: int) -> None:
        progress.update(bar, completed=done, total=total)

    return align_scenes(plan, config.coregistration.coregister, client, advance)


def _check_workers(plan: Plan, config: MapConfig, client: Client) -> int:
    """Refuses, before anything is submitted, what the smallest worker cannot hold; bytes of the neediest."""
    identity, most = plan.identity, 0
    for worker in worker_details(client).values():
        needed = worker_bytes(
            plan.card,
            core_px=identity.core_px,
            chunk_px=plan.chunk_px,
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


def _lay_out(plan: Plan, store: ObjectStore, config: MapConfig) -> Set[str]:
    """The names of the chunks that are done; where there are none, makes the empty cube."""
    if done := read_done(plan, store):
        return done.keys()
    create_cube(
        config.output.out,
        plan.geobox,
        phases=plan.identity.phases,
        classes=plan.card.classes,
        core_px=plan.identity.core_px,
        chunk_px=plan.chunk_px,
    )
    return set()
