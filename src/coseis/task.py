"""One task: a plan and a chunk go in, the chunk's codes are written, and a few numbers come out.

Reading, predicting and writing are joined here so that nothing large ever travels between workers.
"""

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import zict
from numpy.typing import NDArray
from obstore.store import ObjectStore
from rasterio.windows import Window
from scipy.ndimage import maximum_filter1d

from coseis.backends import probe_device
from coseis.blocks import kept_blocks, read_bytes
from coseis.cube import CubeWindow, read_window
from coseis.errors import CoseisError, InputRefusedError, UnreachableError
from coseis.features import stack_features
from coseis.grid import pixels_inside
from coseis.jobs import Failure, failure_of
from coseis.model import Model, load_model
from coseis.objects import get_object, object_version, open_store
from coseis.plan import ITEMS, MODEL, Plan, read_plan
from coseis.predict import predict_features, ready_network, to_codes
from coseis.reader import bytes_per_px
from coseis.store import ChunkCodes, DoneRecord, delete_record, put_record, write_chunk
from coseis.threshold import count_codes
from coseis.types import CODE_FILL, CONTEXT_INCOMPLETE, SCENE_FILL, Phase, Status, Value, seen_pixels
from coseis.vegetation import vegetation_codes
from coseis.windows import HALO_PX, Chunk

PLANS_KEPT = 16
"""Plans a process keeps, of a region one a zone: those of a large one hold thousands of scenes."""

_plans: zict.LRU[tuple[str, str], Plan] = zict.LRU(PLANS_KEPT, {})
_plans_lock = threading.Lock()
_current: dict[str, tuple[str | None, frozenset[str]]] = {}
"""By output, version of its items.json and digests of the identities in it, whole and of its zones."""
_models: dict[str, Model] = {}
_models_lock = threading.Lock()
_folders: list[tempfile.TemporaryDirectory[str]] = []
"""Where the models lie; removed when the process ends."""


class TaskReport(Value):
    """What a task tells the run: its done-record and where its time went."""

    record: DoneRecord
    read_s: float
    predict_s: float
    write_s: float
    bytes_read: int
    """Pixel bytes decoded, halos included."""
    bytes_fetched: int
    """Compressed bytes that they were decoded from, headers not counted."""
    bytes_needed: int
    """Bytes of the delivered pixels as they are stored: the least that could have been decoded."""


def map_run(out: str, identity: str, chunks: Sequence[Chunk]) -> list[TaskReport | Failure]:
    """Predicts and writes chunks of the run at `out`, in turn; of each its report, or why it failed.

    Raises:
        InputRefusedError: the run there is gone, or is another one.
    """
    plan = run_plan(out, identity)
    results: list[TaskReport | Failure] = []
    for chunk in chunks:
        try:
            results.append(map_chunk(plan.for_area(plan.area(chunk)), chunk, out))
        except (CoseisError, MemoryError) as error:
            results.append(failure_of(error))
    return results


def map_one(out: str, identity: str, chunk: Chunk) -> TaskReport:
    """As `map_run`, one chunk; raises as `map_chunk`."""
    plan = run_plan(out, identity)
    return map_chunk(plan.for_area(plan.area(chunk)), chunk, out)


def map_chunk(plan: Plan, chunk: Chunk, out: str) -> TaskReport:
    """Predicts one chunk and writes it, its done-record last. Doing it again ends in the same objects.

    Raises:
        InputRefusedError: a file cannot be read, the output cannot be written, or this worker computes on
            another kind of device than the plan says.
        UnreachableError: the run was updated meanwhile, or a file's server or the output does not answer.
    """
    start, before = time.perf_counter(), read_bytes()
    store = open_store(out)
    area = plan.area(chunk)
    cube = read_window(plan.recipe(), area)
    read_done, read = time.perf_counter(), read_bytes() - before
    codes = predict_chunk(plan, chunk, cube, run_model(store, plan.identity.model))
    predicted = time.perf_counter()
    check_plan(out, plan)
    if plan.updates:
        # Else, if we die half-way, and the scenes of the pixels before come back, their record would count.
        delete_record(store, plan.geobox, chunk.name)
    write_chunk(out, plan.geobox, chunk, codes)
    record = _record(plan, chunk, codes)
    put_record(store, plan.geobox, record)
    return TaskReport(
        record=record,
        read_s=read_done - start,
        predict_s=predicted - read_done,
        write_s=time.perf_counter() - predicted,
        bytes_read=read.decoded,
        bytes_fetched=read.fetched,
        bytes_needed=_needed_bytes(plan, codes),
    )


def predict_chunk(plan: Plan, chunk: Chunk, cube: CubeWindow, model: Model) -> ChunkCodes:
    """The codes of a chunk from the cube over `plan.area(chunk)`: pure, no reading and no writing."""
    identity, card = plan.identity, plan.card
    halo = HALO_PX[card.padding]
    inner = (slice(halo, -halo), slice(halo, -halo))
    delivered = (slice(0, chunk.height), slice(0, chunk.width))
    scenes = {scene.index: scene for scene in plan.found.scenes}
    shape = (len(identity.phases), len(card.classes), chunk.height, chunk.width)
    probability = np.full(shape, CODE_FILL, np.uint8)
    status = cube.status[:, *inner][:, *delivered].copy()
    scene = cube.scene[:, *inner][:, *delivered].copy()
    for number, sees in _network_inputs(identity.phases, card.phases):
        seen_by_all: NDArray[np.bool_] = np.all(seen_pixels(cube.status[sees], cube.scene[sees]), axis=0)
        observed = seen_by_all[inner]
        incomplete = _near_missing((cube.scene[sees] == SCENE_FILL).any(axis=0), halo)[inner][delivered]
        seen = observed[delivered]
        if seen.any():
            _check_device(identity.device)
            network = ready_network(
                model, precision=identity.precision, core_px=identity.core_px, batch=identity.batch
            )
            features = stack_features(cube.image[sees][:, : len(card.bands)], cube.scene[sees], scenes, card)
            # Cores beyond the chunk exist only where it is cut by the grid's edge; they hold nothing wanted.
            wanted = np.zeros(observed.shape, bool)
            wanted[delivered] = seen
            values = predict_features(
                features, network, card, core_px=identity.core_px, batch=identity.batch, wanted=wanted
            )
            np.copyto(probability[number], to_codes(values[:, *delivered]), where=seen)
        for other, index in zip(cube.status[sees], cube.scene[sees], strict=True):
            # Not observed is also what a network of several phases lacks in another phase, for its reason.
            lacking = (scene[number] != SCENE_FILL) & (index[inner][delivered] == SCENE_FILL)
            status[number][lacking] = other[inner][delivered][lacking]
        status[number][seen & incomplete] |= CONTEXT_INCOMPLETE
        scene[number][~seen] = SCENE_FILL
    return ChunkCodes(probability, status, scene, _vegetation(plan, cube, scene, (*inner, *delivered)))


def _network_inputs(
    phases: tuple[Phase, ...], card_phases: tuple[Phase, ...]
) -> Iterator[tuple[int, slice | list[int]]]:
    """Number of each phase of the run, and the index of those that the network sees to predict it.

    A network of one phase predicts each phase by itself; one of several only the last of them. A slice, where
    one phase is seen, copies no pixel.
    """
    for number, phase in enumerate(phases):
        if len(card_phases) == 1:
            yield number, slice(number, number + 1)
        elif phase == card_phases[-1]:
            yield number, [phases.index(seen) for seen in card_phases]


def _vegetation(
    plan: Plan, cube: CubeWindow, scene: NDArray[np.uint16], place: tuple[slice, ...]
) -> NDArray[np.uint8]:
    """How green each phase is, uint8 (phase, y, x), where a scene was used."""
    codes = np.full(scene.shape, CODE_FILL, np.uint8)
    if plan.identity.vegetation is not None:
        rows, cols, in_rows, in_cols = place
        for number, image in enumerate(cube.image[:, :, rows, cols]):
            index = vegetation_codes(image[:, in_rows, in_cols], plan.read_bands, plan.identity.vegetation)
            np.copyto(codes[number], index, where=scene[number] != SCENE_FILL)
    return codes


def fail_chunk(plan: Plan, chunk: Chunk, out: str) -> None:
    """Writes a chunk that could not be computed as Status.FAILED, without a done-record.

    It may have one: of a task that did it and was lost before it could say so.

    Raises:
        UnreachableError: the run was updated meanwhile.
    """
    check_plan(out, plan)
    delete_record(open_store(out), plan.geobox, chunk.name)
    phases = len(plan.identity.phases)
    shape = (phases, chunk.height, chunk.width)
    window = Window(chunk.x0, chunk.y0, chunk.width, chunk.height)
    inside = pixels_inside(plan.found.event.aoi, plan.geobox, window)
    codes = ChunkCodes(
        np.full((phases, len(plan.card.classes), *shape[1:]), CODE_FILL, np.uint8),
        np.broadcast_to(np.where(inside, Status.FAILED, Status.OUTSIDE_AOI).astype(np.uint8), shape),
        np.full(shape, SCENE_FILL, np.uint16),
        np.full(shape, CODE_FILL, np.uint8),
    )
    write_chunk(out, plan.geobox, chunk, codes)


def run_plan(out: str, identity: str) -> Plan:
    """The plan of a run, or of one of its zones, read from its output once per process.

    Raises:
        InputRefusedError: it is not there, or of another identity.
    """
    with _plans_lock:
        if (plan := _plans.get((out, identity))) is None:
            whole = read_plan(get_object(open_store(out), ITEMS) or b"", out)
            # What a run is said to have read must not depend on what was measured before it was planned.
            kept_blocks.clear()
            for zone in whole.zones:
                _plans[out, zone.identity.digest()] = zone
            if (plan := _plans.get((out, identity))) is None:
                raise InputRefusedError(f"{out} holds another run by now; start again in another folder")
        return plan


def check_plan(out: str, plan: Plan) -> None:
    """Refuses to write for a plan that is not the output's any more: another process has updated it.

    To be called before anything is written. A request a chunk; the plan is read again only when its object is
    another.

    Raises:
        UnreachableError: so it is; a run that is resumed takes the new plan.
    """
    store = open_store(out)
    version = object_version(store, ITEMS)
    known, identities = _current.get(out, (None, frozenset()))
    if version is None or version != known:
        whole = read_plan(get_object(store, ITEMS) or b"", out)
        identities = frozenset(one.identity.digest() for one in (whole, *whole.zones))
        _current[out] = version, identities
    if plan.identity.digest() not in identities:
        raise UnreachableError(
            f"{out} was updated meanwhile with other scenes; run again with --resume to go on with those"
        )


def run_model(store: ObjectStore, digest: str) -> Model:
    """The model of a run, fetched from its output once per process.

    Raises:
        InputRefusedError: it is not there.
    """
    with _models_lock:
        if digest not in _models:
            _folders.append(tempfile.TemporaryDirectory(prefix="coseis-model-"))
            folder = Path(_folders[-1].name)
            for name in ("card.json", "weights.h5"):
                content = get_object(store, f"{MODEL}/{name}")
                if content is None:
                    raise InputRefusedError(f"the run's own {MODEL}/{name} is gone; start the run anew")
                (folder / name).write_bytes(content)
            model = load_model(folder)
            if model.digest != digest:
                raise InputRefusedError(
                    f"the run's own {MODEL} is another than it was planned with; start the run anew"
                )
            _models[digest] = model
        return _models[digest]


def _near_missing(missing: NDArray[np.bool_], reach_px: int) -> NDArray[np.bool_]:
    """Pixels with a missing one within a square of `reach_px` each side; the array's edge counts as there."""
    if not missing.any():
        return missing
    side = 2 * reach_px + 1
    along_y: NDArray[np.uint8] = maximum_filter1d(missing.view(np.uint8), side, axis=0, mode="nearest")
    near: NDArray[np.uint8] = maximum_filter1d(along_y, side, axis=1, mode="nearest")
    return near.astype(bool)


def _check_device(expected: str) -> None:
    device, _ = probe_device()
    if device != expected:
        raise InputRefusedError(
            f"this worker computes on {device}, but the run was planned on {expected}; "
            "its results would differ"
        )


def _needed_bytes(plan: Plan, codes: ChunkCodes) -> int:
    """Stored bytes of the pixels that a chunk has taken of its scenes."""
    counts = np.bincount(codes.scene.ravel(), minlength=SCENE_FILL + 1)
    return sum(
        int(counts[scene.index]) * bytes_per_px(scene, plan.read_bands)
        for scene in plan.found.scenes
        if counts[scene.index]
    )


def _record(plan: Plan, chunk: Chunk, codes: ChunkCodes) -> DoneRecord:
    post = plan.identity.phases.index("post")
    status = codes.status & ~np.uint8(CONTEXT_INCOMPLETE)
    counts = [np.bincount(of_phase.ravel(), minlength=len(Status)) for of_phase in status]
    return DoneRecord(
        chunk=chunk.name,
        identity=plan.chunk_identity(chunk),
        digest=codes.digest(),
        histogram=tuple(count_codes(codes.probability[post, 0]).tolist()),
        observed_px=int((codes.scene[post] != SCENE_FILL).sum()),
        aoi_px=int((status[post] != Status.OUTSIDE_AOI).sum()),
        status_px=tuple(tuple(of_phase.tolist()) for of_phase in counts),
    )
