"""A run that is updated ends as a fresh map of the new catalog would, and computes what changed alone."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fake_network
from coseis.config import OutputConfig
from coseis.errors import InputRefusedError, UnreachableError
from coseis.objects import open_store
from coseis.plan import ITEMS, read_done
from coseis.report import PartReport, failed_chunk, write_part
from coseis.task import fail_chunk, map_chunk
from coseis.throughput import measure_throughput
from making import grid, texture, write_scene
from updating import (
    COLUMNS,
    Event,
    Item,
    Kill,
    assert_same_codes,
    codes_of,
    map_missing,
    plan_of,
    settle,
)

FIRST = {"pre": Item(), "post": Item()}
WEST = {"0_0", "0_1"}
"""Chunks whose halo reaches the scenes in the west; there are four."""
EAST = {"0_1", "0_2", "0_3"}
ALL = WEST | EAST


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coseis.task.probe_device", fake_network.probe_device)
        patch.setattr("coseis.task.ready_network", fake_network.ready_network)
        yield patch


@pytest.fixture(scope="module")
def event(patch, tmp_path_factory):
    return Event(tmp_path_factory.mktemp("event"))


@pytest.fixture(scope="module")
def kill(patch):
    return Kill(patch)


@pytest.fixture(scope="module")
def first(event, tmp_path_factory):
    """A run of the first catalog; nobody writes to it."""
    event.publish(FIRST)
    out = tmp_path_factory.mktemp("first") / "run"
    assert map_missing(event.config(out)) == ALL
    return out


@pytest.fixture
def run(first, tmp_path):
    return Path(shutil.copytree(first, tmp_path / "run"))


def fresh_codes(event, folder):
    map_missing(event.config(folder))
    return codes_of(folder)


@pytest.mark.parametrize(
    ("catalog", "computed", "said"),
    [
        (FIRST, set(), None),
        ({**FIRST, "post-west": Item()}, WEST, ("post-west", "", "")),
        ({**FIRST, "post-west": Item(cloud=50)}, WEST, ("post-west", "", "")),
        ({**FIRST, "post-east": Item()}, EAST, ("post-east", "", "")),
        ({**FIRST, "pre-west": Item()}, WEST, ("pre-west", "", "")),
        ({**FIRST, "post": Item(file=1)}, ALL, ("", "", "post")),
        ({**FIRST, "post": Item(cloud=5)}, set(), ("", "", "post")),
    ],
    ids=["nothing", "better", "worse", "east", "pre", "file", "words"],
)
def test_an_update_is_a_fresh_map_of_what_changed(event, run, tmp_path, catalog, computed, said):
    event.publish(catalog)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("c/*/*/*/*") if path.is_file()}
    assert map_missing(event.config(run, update=True)) == computed
    assert_same_codes(codes_of(run), fresh_codes(event, tmp_path / "fresh"))
    updates = plan_of(run).updates
    if said is None:
        assert updates == ()
    else:
        [update] = updates
        assert (update.number, update.changed_chunks) == (1, len(computed))
        assert (",".join(update.added), ",".join(update.removed), ",".join(update.changed)) == said
    assert map_missing(event.config(run, update=True)) == set()
    assert plan_of(run).updates == updates
    after = {path: path.stat().st_mtime_ns for path in before}
    touched = {"_".join(path.parts[-2:]) for path in before if after[path] != before[path]}
    assert touched == computed


def test_indices_are_never_given_twice(event, run, tmp_path):
    """A scene that vanished keeps its index, and has it again when it is back: its chunks were never lost."""
    event.publish({**FIRST, "post-west": Item(), "post-east": Item()})
    map_missing(event.config(run, update=True))
    indices = {scene.item_id: scene.index for scene in plan_of(run).found.scenes}
    assert sorted(indices.values()) == [0, 1, 2, 3]
    assert (indices["pre"], indices["post"]) == (0, 1)
    event.publish({**FIRST, "post-east": Item(), "pre-west": Item()})
    assert map_missing(event.config(run, update=True)) == WEST
    plan = plan_of(run)
    assert [scene.item_id for scene in plan.retired] == ["post-west"]
    assert {scene.item_id: scene.index for scene in plan.found.scenes} == {
        "pre": 0,
        "post": 1,
        "post-east": indices["post-east"],
        "pre-west": 4,
    }
    assert_same_codes(codes_of(run), fresh_codes(event, tmp_path / "fresh"))
    event.publish({**FIRST, "post-west": Item(), "post-east": Item()})
    settle(event.config(run, update=True))
    assert {scene.item_id: scene.index for scene in plan_of(run).found.scenes} == indices
    assert [update.number for update in plan_of(run).updates] == [1, 2, 3]


def test_a_scene_that_is_told_unlike_now_is_used_no_more(event, run, tmp_path):
    event.publish({**FIRST, "pre-west": Item()})
    map_missing(event.config(run, update=True))
    event.publish({**FIRST, "pre-west": Item(file=1)})
    assert map_missing(event.config(run, update=True)) == WEST
    plan = plan_of(run)
    assert plan.updates[-1].removed == ("pre-west",)
    assert "trees without leaves" in plan.found.refused[0].reason
    assert_same_codes(codes_of(run), fresh_codes(event, tmp_path / "fresh"))


items = st.builds(Item, cloud=st.sampled_from([0.0, 15.0, 40.0]), file=st.integers(0, 1))
catalogs = st.fixed_dictionaries(
    {"pre": items, "post": items}, optional=dict.fromkeys(list(COLUMNS)[2:], items)
)


@settings(max_examples=8)
@given(
    steps=st.lists(st.tuples(catalogs, st.integers(0, 60), st.booleans()), min_size=1, max_size=3),
    last=catalogs,
)
def test_any_updates_and_kills_end_as_a_fresh_map(event, kill, tmp_path_factory, steps, last):
    """Each step updates to a catalog, may be killed on the way and resumed; then comes the last one."""
    folder = tmp_path_factory.mktemp("run")
    out = folder / "run"
    for catalog, changes, resumed in steps:
        event.publish(catalog)
        if kill.after(changes, event.config(out, update=True)) and resumed:
            map_missing(event.config(out, resume=True))
    event.publish(last)
    map_missing(event.config(out, update=True))
    assert_same_codes(codes_of(out), fresh_codes(event, folder / "fresh"))
    shutil.rmtree(folder)


def test_killed_at_any_point_of_an_update(event, kill, first, tmp_path):
    """Before the plan is put the old map goes on, after it the new one, and no old chunk counts."""
    old = codes_of(first)
    event.publish({**FIRST, "post-west": Item()})
    new = fresh_codes(event, tmp_path / "fresh")
    kinds = set()
    for changes in range(100):
        out = Path(shutil.copytree(first, tmp_path / f"killed-{changes}"))
        killed = kill.after(changes, event.config(out, update=True))
        plan = plan_of(out)
        kinds.add(bool(plan.updates))
        expected = new if plan.updates else old
        done = read_done(plan, open_store(str(out)))
        counted = [chunk for chunk in plan.chunks(plan.chunk_px) if chunk.name in done]
        assert_same_codes(codes_of(out), expected, counted)
        if not killed:
            break
        computed = map_missing(event.config(out, resume=True))
        assert computed == ALL - done.keys()
        assert_same_codes(codes_of(out), expected)
        shutil.rmtree(out)
    assert kinds == {False, True}
    assert 12 < changes < 24


def test_pixels_that_came_back_half_written_do_not_count(event, kill, first, tmp_path):
    """The old record would fit the plan again; it went before the first pixel did."""
    old = codes_of(first)
    for changes in range(5, 11):
        out = Path(shutil.copytree(first, tmp_path / f"killed-{changes}"))
        event.publish({**FIRST, "post-west": Item()})
        assert kill.after(changes, event.config(out, update=True))
        event.publish(FIRST)
        assert map_missing(event.config(out, update=True)) < WEST
        assert_same_codes(codes_of(out), old)


def test_of_two_updates_at_once_one_counts(event, run):
    """Both have searched before either puts its plan; the catalog changed between them."""
    barrier = Barrier(2)
    plans = {}

    def update(name):
        def align(plan):
            plans[name] = plan
            barrier.wait(timeout=30)
            return plan, []

        return settle(event.config(run, update=True), align)

    event.publish({**FIRST, "post-west": Item()})
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(update, "west")
        while "west" not in plans and not one.done():
            pass
        event.publish({**FIRST, "post-east": Item()})
        other = pool.submit(update, "east")
        settled = [one.result(), other.result()]
    assert settled[0].updates == settled[1].updates == plan_of(run).updates
    assert len(plans) == 2
    assert len(plan_of(run).updates) == 1
    map_missing(event.config(run, resume=True))
    names = {scene.item_id for scene in plan_of(run).found.scenes} - {"pre", "post"}
    event.publish({**FIRST, names.pop(): Item()})
    assert_same_codes(codes_of(run), fresh_codes(event, run.parent / "fresh"))


def test_who_still_works_for_the_old_plan_is_stopped(event, run):
    old = plan_of(run)
    chunk = old.chunks(old.chunk_px)[0]
    event.publish({**FIRST, "post-west": Item()})
    map_missing(event.config(run, update=True))
    now = codes_of(run)
    with pytest.raises(UnreachableError, match="was updated meanwhile with other scenes; run again"):
        map_chunk(old.for_area(old.area(chunk)), chunk, str(run))
    with pytest.raises(UnreachableError, match="was updated meanwhile"):
        fail_chunk(old, chunk, str(run))
    assert_same_codes(codes_of(run), now)
    assert map_missing(event.config(run, resume=True)) == set()


def test_parts_plan_one_update_together(event, run):
    """The first to come plans it; one that comes, or comes again, before all is done takes its plan."""
    event.publish({**FIRST, "post-west": Item()})
    parts = [event.config(run, update=True, cluster={"part": f"{share}/2"}) for share in range(2)]
    plan = settle(parts[0])
    assert plan.identity.update == 1
    event.publish({**FIRST, "post-east": Item()})
    assert settle(parts[1]).updates == settle(parts[0]).updates == plan.updates
    # A chunk that fails is tried: an update may do without its file.
    store, out = open_store(str(run)), str(run)
    missing = [chunk for chunk in plan.chunks(112) if chunk.name in WEST]
    for chunk in missing[1:]:
        map_chunk(plan.for_area(plan.area(chunk)), chunk, out)
    assert settle(parts[1]).updates == plan.updates
    write_part(store, part_report(plan, [failed_chunk(plan, missing[0], "its file is gone")]))
    assert settle(parts[1]).identity.update == 2


def part_report(plan, failed):
    throughput = measure_throughput(plan, [], 1.0, [])
    return PartReport(
        part="0/2", identity=plan.identity.digest(), throughput=throughput, failed=tuple(failed)
    )


def test_what_would_be_another_map_is_refused_by_name(event, run, tmp_path):
    event.publish(FIRST)
    config = event.config(run, update=True)
    kept = plan_of(run)
    with pytest.raises(InputRefusedError, match="already holds a run; go on with it by --resume, with new"):
        settle(event.config(run))
    other = config.model.model_copy(update={"core": 128})
    with pytest.raises(InputRefusedError, match="another run: core_px is 112 there, 128 now"):
        settle(config.model_copy(update={"model": other}))
    with pytest.raises(InputRefusedError, match="a run of another time"):
        settle(event.config(run, update=True, search={"event_time": "2018-09-05T20:00:00Z"}))
    with pytest.raises(InputRefusedError, match="a run of another aoi"):
        settle(event.config(run, update=True, search={"aoi": "141,42,141.1,42.1"}))
    event.publish({"post": Item()})
    with pytest.raises(InputRefusedError, match="holds a map of pre and post scenes, but the catalog"):
        settle(event.config(run, update=True, search={"allow_missing_pre": True}))
    assert plan_of(run).found == kept.found
    # The windows are where an update looks: they may be others.
    event.publish(FIRST)
    grown = {"post": "2018-09-06/2019-09-01"}
    assert settle(event.config(run, update=True, search=grown)).found == kept.found


def test_other_pixels_are_refused_unless_the_grid_is_kept(event, run):
    event.publish(FIRST)
    native = event.config(run, update=True, resolution=None)
    assert settle(native).updates == ()
    scene = event.scenes["post", 0]
    path = Path(scene.sources[0].href)
    kept = path.read_bytes()
    try:
        write_scene(path, texture((3, 200, 300), seed=3), grid(200, 300, resolution_m=4.0).affine)
        event.publish(FIRST)
        with pytest.raises(InputRefusedError, match="pixels of 3 m, but the scenes found now have 4 m"):
            settle(native)
        assert settle(event.config(run, update=True)).updates[-1].changed_chunks == len(ALL)
    finally:
        path.write_bytes(kept)


def test_resume_and_update_are_two_things(event, tmp_path):
    with pytest.raises(ValueError, match="--resume keeps the scenes of a run, --update searches again"):
        OutputConfig(out="x", resume=True, update=True)
    event.publish(FIRST)
    assert map_missing(event.config(tmp_path / "new", update=True)) == ALL
    assert (tmp_path / "new" / ITEMS).exists()
    assert plan_of(tmp_path / "new").updates == ()


@pytest.mark.slow
@pytest.mark.integration
def test_an_update_in_a_bucket_is_a_fresh_map(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("coseis.task.probe_device", fake_network.probe_device)
    monkeypatch.setattr("coseis.task.ready_network", fake_network.ready_network)
    event, out = Event(tmp_path), f"{bucket}-updated"  # moto keeps what another test has put
    event.publish({"pre": Item(), "post": Item()})
    assert len(map_missing(event.config(out))) == 4
    event.publish({"pre": Item(), "post": Item(), "post-west": Item()})
    assert map_missing(event.config(out, update=True)) == {"0_0", "0_1"}
    map_missing(event.config(tmp_path / "fresh"))
    assert_same_codes(codes_of(out), codes_of(tmp_path / "fresh"))
