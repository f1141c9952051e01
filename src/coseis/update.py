"""A configuration and an output go in; the plan to go on with comes out: begun, taken up again, or updated.

An update searches the catalog again. What it finds is planned as a new run would be, in the same order of
preference; only then each scene gets the index that it had before, and new ones those that follow. So what is
known of a chunk says whether it was made from the same scenes: `Plan.chunk_identity`.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import count

from obstore.store import ObjectStore

from coseis.alignment import MeasuredBlock, write_shifts
from coseis.config import MapConfig
from coseis.errors import InputRefusedError
from coseis.identity import digest_scenes
from coseis.objects import get_object, replace_object
from coseis.plan import (
    ITEMS,
    Plan,
    Probe,
    Update,
    check_same,
    freeze_plan,
    kept_plan,
    plan_anew,
    read_done,
)
from coseis.report import read_parts
from coseis.types import SCENE_FILL, Scene

Align = Callable[[Plan], tuple[Plan, list[MeasuredBlock]]]
"""Measures how the scenes of a plan lie, and moves them: `alignment.align_scenes`."""
Key = tuple[str | None, str]
"""Collection and id of an item."""


def settle_plan(
    config: MapConfig, store: ObjectStore, probe: Probe, *, check: Callable[[Plan], object], align: Align
) -> Plan:
    """The plan of a run, frozen in its output: found there, renewed by an update, or made and put there.

    Of several processes that begin or update one run at once, one puts its plan there, the others take it.

    Args:
        config: The resolved configuration.
        store: The output.
        probe: Asks a worker for its device kind and default precision.
        check: Refuses what no worker can hold; called before anything is written.
        align: Called for scenes that were searched for now.

    Raises:
        InputRefusedError: the output holds a run and neither --resume nor --update was given, or it holds
            another run.
        UsageError, InputRefusedError, UnreachableError: as `plan.plan_anew`.
    """
    text = get_object(store, ITEMS)
    if text is None:
        plan = plan_anew(config, probe)
        check(plan)
        plan, blocks = align(plan)
        if freeze_plan(plan, config, store):
            if blocks:
                write_shifts(plan, blocks, store)
            return plan
        text = get_object(store, ITEMS) or b""
    kept = kept_plan(config, text, probe)
    check(kept)
    if config.output.update and not (config.cluster.part and _is_under_way(kept, store)):
        fresh = _search_again(config, kept, probe)
        if fresh is not None:
            aligned, blocks = align(fresh)
            plan = renew_plan(kept, aligned, datetime.now(UTC))
            # The plan first: from now on chunks of other scenes count no more, and the old plan is gone.
            if replace_object(store, ITEMS, text, plan.model_dump_json(indent=1).encode()):
                if blocks:
                    write_shifts(aligned, blocks, store)
                kept = plan
    if not freeze_plan(kept, config, store):
        kept = kept_plan(config, get_object(store, ITEMS) or b"", probe)
    return kept


def foresee_plan(config: MapConfig, store: ObjectStore, probe: Probe) -> Plan:
    """The plan that `settle_plan` would settle on, but for how its scenes lie. Writes nothing.

    Arguments and errors as for `settle_plan`.
    """
    text = get_object(store, ITEMS)
    if text is None:
        return plan_anew(config, probe)
    kept = kept_plan(config, text, probe)
    fresh = _search_again(config, kept, probe) if config.output.update else None
    return kept if fresh is None else renew_plan(kept, fresh, datetime.now(UTC))


def renew_plan(kept: Plan, fresh: Plan, issued: datetime) -> Plan:
    """The plan of a new search with the indices of an earlier one: what becomes of it is the same.

    Args:
        kept: As it lies in the output.
        fresh: Of the same place, model and grid, its scenes indexed by their order.
        issued: When.

    Raises:
        InputRefusedError: the `scene` array has no number left for a new scene.
    """
    known = (*kept.retired, *kept.found.scenes)
    indices = {_key(scene): scene.index for scene in known}
    new = count(max(indices.values(), default=-1) + 1)
    scenes = tuple(
        scene.model_copy(update={"index": indices[_key(scene)] if _key(scene) in indices else next(new)})
        for scene in fresh.found.scenes
    )
    if any(scene.index >= SCENE_FILL for scene in scenes):
        raise InputRefusedError(
            f"the run has had {len(known)} scenes, and its scene array can tell {SCENE_FILL} apart; "
            "choose another --out"
        )
    used = {_key(scene) for scene in scenes}
    number = len(kept.updates) + 1
    plan = fresh.changed(
        identity=fresh.identity.model_copy(update={"scenes": digest_scenes(scenes), "update": number}),
        found=fresh.found.model_copy(update={"scenes": scenes}),
        chunk_px=kept.chunk_px,
        retired=tuple(scene for scene in known if _key(scene) not in used),
    )
    before, now = ({_key(scene): scene for scene in one.found.scenes} for one in (kept, plan))
    update = Update(
        number=number,
        issued=issued,
        added=tuple(scene.item_id for key, scene in now.items() if key not in before),
        removed=tuple(scene.item_id for key, scene in before.items() if key not in now),
        changed=tuple(s.item_id for key, s in now.items() if key in before and s != before[key]),
        changed_chunks=_count_changed(kept, plan),
    )
    return plan.changed(updates=(*kept.updates, update))


def _search_again(config: MapConfig, kept: Plan, probe: Probe) -> Plan | None:
    """The plan of a new search, or None where it finds the same scenes in the same order.

    Raises:
        InputRefusedError: its cube would have another shape, or another grid.
    """
    fresh = plan_anew(config, probe)
    out, identity = config.output.out, kept.identity
    if fresh.identity.phases != identity.phases:
        raise InputRefusedError(
            f"output {out} holds a map of {' and '.join(identity.phases)} scenes, but the catalog now has "
            f"{' and '.join(fresh.identity.phases)}: all of it would be another; choose another --out"
        )
    if fresh.identity.transform != identity.transform and config.output.resolution is None:
        raise InputRefusedError(
            f"output {out} has pixels of {abs(identity.transform[0]):g} m, but the scenes found now have "
            f"{abs(fresh.identity.transform[0]):g} m; keep the grid with --resolution "
            f"{abs(identity.transform[0]):g}, or choose another --out"
        )
    # All chunks are computed anew if scenes with near infrared came or went: an index for all of them.
    same = {name: getattr(identity, name) for name in ("scenes", "update", "vegetation")}
    check_same(identity, fresh.identity.model_copy(update=same), out)
    return None if _unplaced(kept.found.scenes) == _unplaced(fresh.found.scenes) else fresh


def _is_under_way(plan: Plan, store: ObjectStore) -> bool:
    """Whether a chunk of a plan has been neither done nor tried: its parts are still at it.

    So the first part to come plans an update of a whole map, and all others take its plan, as does a part
    that was killed.
    """
    reports = read_parts(store, plan.identity.digest())
    tried = {(failure.crs, failure.chunk) for part in reports for failure in part.failed}
    for zone in plan.zones:
        done = read_done(zone, store)
        for chunk in zone.chunks(zone.chunk_px):
            if chunk.name not in done and (zone.identity.crs, chunk.name) not in tried:
                return True
    return False


def _count_changed(kept: Plan, plan: Plan) -> int:
    return sum(
        before.chunk_identity(chunk) != now.chunk_identity(chunk)
        for before, now in zip(kept.zones, plan.zones, strict=True)
        for chunk in now.chunks(now.chunk_px)
    )


def _unplaced(scenes: Sequence[Scene]) -> list[Scene]:
    """Scenes as a search finds them: without what planning gave them."""
    return [scene.model_copy(update={"index": 0, "shift_m": (0.0, 0.0)}) for scene in scenes]


def _key(scene: Scene) -> Key:
    return scene.collection, scene.item_id
