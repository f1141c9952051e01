"""Whatever is killed, stopped, starved or filled: the map is whole and equal, or says what is missing.

Moments are drawn from a seed and waited for by the run's own progress, its done-records. Processes are real
(see `forked`), the network is NumPy's but for the last tests.
"""

import os
import random
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import obstore
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from coseis.config import OutputConfig
from coseis.draw import draw_polygons
from coseis.objects import open_store
from coseis.plan import ITEMS, read_done, read_plan
from coseis.progress import progress_bars
from coseis.simulate import simulate_event
from coseis.stopping import REASON
from coseis.store import open_arrays
from coseis.threshold import choose_threshold
from coseis.types import CODE_SCALE, Status
from fault_log import Outcome, note_fault
from forked import Cluster, Fork, Forks, until

pytestmark = [pytest.mark.slow, pytest.mark.faults]
SEEDS = range(20)
CHUNKS, CHUNK_PX = 25, 112
PAUSE_S = 0.05
"""Each prediction of a worker: 25 chunks of two phases on four threads take a second."""
AMPLE_KIB = 40_000
"""A disk that holds every run of this file."""
HERE = Path(__file__).parent
DEADLY = "2_3"
NEIGHBOURS = ("--no-nanny", "--preload", HERE / "deadly_chunk.py")
"""For a chunk that does harm, and workers with others beside it."""


@pytest.fixture(scope="module")
def event(tmp_path_factory):
    return simulate_event(tmp_path_factory.mktemp("event"), size_km=1.5, seed=0)


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    with Forks(tmp_path_factory.mktemp("forks")) as started:
        yield started


@pytest.fixture(scope="module")
def cluster(forks, tmp_path_factory):
    """For runs that leave it as it was."""
    return Cluster(forks, tmp_path_factory.mktemp("cluster"), COSEIS_FAKE_PAUSE_S=PAUSE_S)


@pytest.fixture
def new_cluster(forks, tmp_path):
    """Starts clusters that are closed at the end of the test."""
    started: list[Cluster] = []

    def start(**options: object) -> Cluster:
        started.append(Cluster(forks, tmp_path, **({"COSEIS_FAKE_PAUSE_S": PAUSE_S} | options)))
        return started[-1]

    yield start
    for one in started:
        one.close()


class Scene(NamedTuple):
    """What the tests of this file share."""

    forks: Forks
    words: list[object]

    def map(self, out: Path, at: Cluster | None, *more: object, **environment: object) -> Fork:
        where = ["--scheduler", at.address] if at else []
        return self.forks.start("map", *self.words, "--out", out, *where, *more, **environment)

    def predict(self, out: Path, at: Cluster, *more: object) -> Fork:
        return self.map(out, at, "--part", "0/1", *more)


@pytest.fixture(scope="module")
def scene(forks, event):
    return Scene(
        forks,
        [
            "--catalog", event.catalog, "--aoi", event.aoi_path, "--event-time", event.event_time.isoformat(),
            "--core", CHUNK_PX, "--chunk", CHUNK_PX, "--precision", "float32", "--coregister", "off",
            "--min-area", 0,
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def tracer():
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as local,
        Client(local) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def reference(scene, cluster, tmp_path_factory, tracer):
    """The undisturbed run."""
    out = tmp_path_factory.mktemp("reference") / "run"
    run = scene.map(out, cluster)
    assert run.wait() == 0, run.said()
    return out, arrays_of(out), drawn_of(out, tracer)


@pytest.fixture
def equal(reference, tracer):
    """Whether a run that was predicted is the undisturbed one: decoded arrays, and polygons drawn of them."""

    def check(out: Path) -> None:
        assert_equal_arrays(reference[1], arrays_of(out))
        pd.testing.assert_frame_equal(reference[2], drawn_of(out, tracer))

    return check


@pytest.fixture
def published(reference):
    """Whether a run that was published is."""

    def check(out: Path) -> None:
        assert_equal_arrays(reference[1], arrays_of(out))
        ours, theirs = (gpd.read_parquet(run / "landslides.parquet").to_wkb() for run in (reference[0], out))
        pd.testing.assert_frame_equal(ours, theirs)

    return check


def plan_of(out):
    return read_plan(bytes(obstore.get(open_store(str(out)), ITEMS).bytes()), str(out))


def arrays_of(out):
    arrays = open_arrays(str(out), plan_of(out).geobox)
    return {name: np.asarray(array[:]) for name, array in arrays.items()}


def drawn_of(out, client):
    """The polygons of all chunks that are done."""
    plan, settings = plan_of(out), OutputConfig(out=str(out), min_area=0)
    done = read_done(plan, open_store(str(out)))
    assert len(done) == CHUNKS
    threshold = choose_threshold("card", np.zeros(CODE_SCALE + 1, np.int64), plan.card.threshold)
    with progress_bars(None) as progress:
        return draw_polygons(plan, settings, threshold, client, progress, None, {}).polygons.to_wkb()


def assert_equal_arrays(one, other):
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def records(out):
    return len(list(Path(out, "records").glob("*/*.json")))


def reach(out, fork, count):
    """Waits until so many chunks are done; 0 is while the run is planned."""
    until(lambda: (records(out) >= count and out.exists()) or fork.ended.is_set(), f"{count} chunks of {out}")
    assert not fork.ended.is_set(), fork.said()


def moment(what, seed):
    """A number of chunks that are done, drawn; tasks in hand hold several more."""
    return random.Random(f"{what} {seed}").randint(0, CHUNKS // 2)


def ends_with(fork, code, said):
    """With this exit code, and nothing but one line that says so much."""
    assert fork.wait() == code, fork.said()
    lines = fork.said().splitlines()
    assert len(lines) == 1, fork.said()
    assert re.search(rf"^coseis: .*{said}", lines[0])


def goes_on(scene, out, cluster):
    again = scene.predict(out, cluster, "--resume")
    assert again.wait() == 0, again.said()


# Killed at any moment


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_is_killed(scene, cluster, equal, tmp_path, seed):
    run = scene.predict(tmp_path, cluster)
    reach(tmp_path, run, moment("worker", seed))
    random.Random(seed).choice(cluster.workers).kill()
    until(lambda: cluster.tend() and run.ended.is_set(), "the run")
    assert run.wait() == 0, run.said()
    equal(tmp_path)
    note_fault("worker", "kill -9", Outcome.EQUAL)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_client_is_killed(scene, cluster, equal, tmp_path, seed):
    run = scene.predict(tmp_path, cluster)
    reach(tmp_path, run, moment("client", seed))
    run.kill()
    assert run.wait() == -signal.SIGKILL
    goes_on(scene, tmp_path, cluster)
    equal(tmp_path)
    note_fault("client", "kill -9", Outcome.EQUAL)


@pytest.fixture(scope="module")
def clusters(forks, tmp_path_factory):
    """The cluster that is there now, replaced by each test that kills it."""
    folder = tmp_path_factory.mktemp("clusters")
    now = [Cluster(forks, folder, COSEIS_FAKE_PAUSE_S=PAUSE_S)]

    def replace():
        now[0].close()
        now[0] = Cluster(forks, folder, COSEIS_FAKE_PAUSE_S=PAUSE_S)

    yield now, replace
    now[0].close()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_scheduler_is_killed(scene, clusters, equal, tmp_path, seed):
    now, replace = clusters
    run = scene.predict(tmp_path, now[0])
    # Until a chunk is done the client may not have a connection to lose.
    reach(tmp_path, run, max(1, moment("scheduler", seed)))
    now[0].scheduler.kill()
    ends_with(run, 75, "scheduler is lost .*run again with --resume")
    replace()
    goes_on(scene, tmp_path, now[0])
    equal(tmp_path)
    note_fault("scheduler", "kill -9", Outcome.EQUAL)


# Stopped, asked to end, gone


@pytest.mark.parametrize("seed", range(4))
def test_sigterm_to_the_client(scene, cluster, equal, tmp_path, seed):
    run = scene.predict(tmp_path, cluster)
    reach(tmp_path, run, moment("sigterm", seed))
    run.kill(signal.SIGTERM)
    ends_with(run, 75, re.escape(REASON))
    assert records(tmp_path) < CHUNKS
    goes_on(scene, tmp_path, cluster)
    equal(tmp_path)
    note_fault("client", "SIGTERM", Outcome.EQUAL)


def hanging(new_cluster, scene, tmp_path, grace_s):
    """A run with a chunk in hand that never ends, and its output."""
    begun, out = tmp_path / "begun", tmp_path / "run"
    slow = new_cluster(options=NEIGHBOURS, COSEIS_DEADLY=f"{DEADLY} hang {begun}")
    run = scene.predict(out, slow, "--grace-s", grace_s)
    until(lambda: begun.exists() or run.ended.is_set(), "the chunk")
    return run, out


def test_sigterm_abandons_what_does_not_end_in_time(scene, new_cluster, cluster, equal, tmp_path):
    run, out = hanging(new_cluster, scene, tmp_path, 0.5)
    run.kill(signal.SIGTERM)
    ends_with(run, 75, re.escape(REASON))
    goes_on(scene, out, cluster)
    equal(out)
    note_fault("client", "SIGTERM, chunks that do not end in time", Outcome.EQUAL)


def test_a_second_sigterm_ends_at_once(scene, new_cluster, cluster, equal, tmp_path):
    run, out = hanging(new_cluster, scene, tmp_path, 600)
    run.kill(signal.SIGTERM)
    until(lambda: not catches(run.pid, signal.SIGTERM), "the first signal")
    run.kill(signal.SIGTERM)
    assert run.wait() == -signal.SIGTERM
    goes_on(scene, out, cluster)
    equal(out)
    note_fault("client", "SIGTERM, twice", Outcome.EQUAL)


def catches(pid, number):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (number - 1) & 1


@pytest.mark.parametrize("seed", range(4))
def test_sigterm_to_a_worker(scene, cluster, equal, tmp_path, seed):
    run = scene.predict(tmp_path, cluster)
    reach(tmp_path, run, moment("sigterm worker", seed))
    random.Random(seed).choice(cluster.workers).kill(signal.SIGTERM)
    until(lambda: cluster.tend() and run.ended.is_set(), "the run")
    assert run.wait() == 0, run.said()
    equal(tmp_path)
    note_fault("worker", "SIGTERM", Outcome.EQUAL)


def test_a_worker_hangs(scene, new_cluster, equal, tmp_path):
    cluster = new_cluster(DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="1s")
    run = scene.predict(tmp_path, cluster)
    reach(tmp_path, run, moment("hang", 0))
    cluster.workers[0].kill(signal.SIGSTOP)
    assert run.wait() == 0, run.said()
    equal(tmp_path)
    note_fault("worker", "kill -STOP", Outcome.EQUAL)


@pytest.mark.parametrize("seed", range(2))
def test_the_scheduler_hangs(scene, new_cluster, cluster, equal, tmp_path, seed):
    hung = new_cluster()
    run = scene.predict(tmp_path, hung, "--scheduler-timeout-s", 1)
    reach(tmp_path, run, 1 + moment("hang", seed))
    hung.scheduler.kill(signal.SIGSTOP)
    ends_with(run, 75, "scheduler did not answer for 1 s; run again with --resume")
    goes_on(scene, tmp_path, cluster)
    equal(tmp_path)
    note_fault("scheduler", "kill -STOP", Outcome.EQUAL)


def test_all_workers_leave(scene, new_cluster, equal, tmp_path):
    left = new_cluster()
    run = scene.predict(tmp_path, left, "--worker-timeout-s", 1)
    reach(tmp_path, run, moment("leave", 0))
    for worker in left.workers:
        worker.kill()
    ends_with(run, 75, "(all workers left|no worker joined).* within 1 s")
    never = scene.predict(tmp_path, left, "--resume", "--worker-timeout-s", 1)
    ends_with(never, 75, "no worker joined the scheduler within 1 s")
    back = scene.predict(tmp_path, left, "--resume")
    until(lambda: left.tend() and back.ended.is_set(), "the run")
    assert back.wait() == 0, back.said()
    equal(tmp_path)
    note_fault("worker", "all leave", Outcome.EQUAL)
    note_fault("worker", "none comes", Outcome.EQUAL)


def test_a_local_cluster_dies_with_its_client(scene, equal, cluster, tmp_path):
    """No nanny and no worker is left, whatever the client could not do any more."""
    preload = {"DASK_DISTRIBUTED__WORKER__PRELOAD": HERE / "fake_network.py", "COSEIS_FAKE_PAUSE_S": 0.5}
    run = scene.map(tmp_path, None, "--part", "0/1", **preload)
    reach(tmp_path, run, 1)
    assert len(session(run.pid)) > 1
    run.kill()
    run.wait()
    until(lambda: not session(run.pid), "the end of the workers")
    note_fault("client", "kill -9 with a local cluster", Outcome.EQUAL)
    again = scene.map(tmp_path, None, "--part", "0/1", "--resume", **preload)
    reach(tmp_path, again, records(tmp_path) + 1)
    again.kill(signal.SIGTERM)
    ends_with(again, 75, re.escape(REASON))
    until(lambda: not session(again.pid), "the end of the workers")
    goes_on(scene, tmp_path, cluster)
    equal(tmp_path)
    note_fault("client", "SIGTERM with a local cluster", Outcome.EQUAL)


def session(leader):
    """Living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(number) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


# A chunk that does harm


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("segfault", "its worker died 3 times, with nothing else on it"),
        ("starve", "too little memory for it"),
    ],
)
def test_a_chunk_always_does_harm(scene, new_cluster, cluster, equal, reference, tmp_path, harm, said):
    deadly = new_cluster(
        options=NEIGHBOURS, COSEIS_DEADLY=f"{DEADLY} {harm}", DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=1
    )
    run = scene.predict(tmp_path, deadly)
    until(lambda: deadly.tend() and run.ended.is_set(), "the run")
    assert run.wait() == 3, run.said()
    assert re.findall(r"^chunk (\S+) failed: (.*)$", run.said(), re.MULTILINE)[0][0] == DEADLY
    assert len(re.findall(r"^chunk ", run.said(), re.MULTILINE)) == 1
    assert said in run.said()
    assert deadly.lost <= 8
    ours = arrays_of(tmp_path)
    row, col = (CHUNK_PX * int(number) for number in DEADLY.split("_"))
    place = (..., slice(row, row + CHUNK_PX), slice(col, col + CHUNK_PX))
    assert set(np.unique(ours["status"][place])) <= {Status.FAILED, Status.OUTSIDE_AOI}
    for name, array in ours.items():
        array[place] = reference[1][name][place]
    assert_equal_arrays(ours, reference[1])
    note_fault("chunk", f"{harm}, always", Outcome.LISTED)
    goes_on(scene, tmp_path, cluster)
    equal(tmp_path)


@pytest.mark.parametrize("harm", ["segfault", "starve", "unreachable"])
def test_a_chunk_does_harm_once(scene, new_cluster, equal, tmp_path, harm):
    once = tmp_path / "done"
    out = tmp_path / "run"
    deadly = new_cluster(options=NEIGHBOURS, COSEIS_DEADLY=f"{DEADLY} {harm} {once}")
    run = scene.predict(out, deadly)
    until(lambda: deadly.tend() and run.ended.is_set(), "the run")
    assert run.wait() == 0, run.said()
    assert once.exists()
    equal(out)
    note_fault("chunk", f"{harm}, once", Outcome.EQUAL)


def test_a_worker_is_killed_at_its_memory_limit(scene, new_cluster, equal, tmp_path):
    """By its nanny, which starts another."""
    once, out = tmp_path / "done", tmp_path / "run"
    options = ("--nanny", "--memory-limit", "2GiB", "--preload", HERE / "deadly_chunk.py")
    deadly = new_cluster(workers=1, options=options, COSEIS_DEADLY=f"{DEADLY} hog {once}")
    run = scene.predict(out, deadly)
    assert run.wait() == 0, run.said()
    assert once.exists()
    equal(out)
    note_fault("worker", "killed at its memory limit", Outcome.EQUAL)


# Parts, finish, two at once


@pytest.mark.parametrize("seed", range(2))
def test_parts_are_killed_and_finish_is(scene, cluster, published, tmp_path, seed):
    """Two parts, one of them twice at once and killed once, then the drawing of the map."""
    chance = random.Random(seed)
    run = scene.map(tmp_path, cluster, "--part", "0/2")
    reach(tmp_path, run, chance.randint(0, 8))
    run.kill()
    run.wait()
    note_fault("part", "kill -9", Outcome.EQUAL)
    together = [scene.map(tmp_path, cluster, "--part", part) for part in ("0/2", "0/2", "1/2")]
    for part in together:
        assert part.wait() == 0, part.said()
    note_fault("part", "the same share twice at once", Outcome.EQUAL)
    place = {"DASK_DISTRIBUTED__WORKER__PRELOAD": HERE / "fake_network.py"}
    drawing = scene.forks.start("finish", tmp_path, **place)
    name = chance.choice(["landslides.parquet", "codes.pmtiles", "probability.tif", "map.png"])
    until(lambda: (tmp_path / name).exists() or drawing.ended.is_set(), name)
    drawing.kill()
    drawing.wait()
    whole = scene.forks.start("finish", tmp_path, **place)
    assert whole.wait() == 0, whole.said()
    published(tmp_path)
    note_fault("finish", "kill -9", Outcome.EQUAL)


def test_two_runs_of_one_identity_at_once(scene, cluster, published, tmp_path):
    runs = [scene.map(tmp_path, cluster, "--resume") for _ in range(2)]
    for run in runs:
        assert run.wait() == 0, run.said()
    published(tmp_path)
    note_fault("client", "two runs on one output at once", Outcome.EQUAL)


# Disk full


@pytest.fixture(scope="module")
def mount_disk(tmp_path_factory):
    """Makes file systems of so many KiB that can be made larger."""
    mounted = []

    def mount(kib: int, folder: Path | None = None) -> Path:
        options = f"{'remount,' if folder else ''}size={kib}k"
        at = folder or tmp_path_factory.mktemp("disk")
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(at)], capture_output=True, text=True
        )
        if made.returncode:
            reason = f"a small disk cannot be mounted ({made.stderr.strip()})"
            pytest.fail(reason) if os.environ.get("CI") and os.geteuid() == 0 else pytest.skip(reason)
        if not folder:
            mounted.append(at)
        return at

    yield mount
    for at in mounted:
        subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.fixture(scope="module")
def predicted_kib(scene, cluster, mount_disk):
    """What a run that was predicted holds on such a disk."""
    disk = mount_disk(AMPLE_KIB)
    run = scene.predict(disk / "run", cluster)
    assert run.wait() == 0, run.said()
    return shutil.disk_usage(disk).used // 1024


@pytest.mark.parametrize("share", [0.3, 0.85, 0.97])
def test_the_disk_is_full_while_predicting(scene, cluster, equal, mount_disk, predicted_kib, tmp_path, share):
    disk = mount_disk(int(share * predicted_kib))
    out = disk / "run"
    run = scene.predict(out, cluster)
    assert run.wait() in (3, 42), run.said()
    assert "No space left on device" in run.said()
    assert "Traceback" not in run.said()
    if run.wait() == 42:
        assert len(run.said().splitlines()) == 1
    mount_disk(AMPLE_KIB, disk)
    goes_on(scene, out, cluster)
    equal(Path(shutil.copytree(out, tmp_path / "copy")))
    note_fault("disk", "full while predicting", Outcome.EQUAL)


def test_the_disk_is_full_while_publishing(scene, cluster, published, mount_disk, predicted_kib):
    disk = mount_disk(int(1.3 * predicted_kib))
    out = disk / "run"
    run = scene.map(out, cluster)
    ends_with(run, 42, "No space left on device")
    mount_disk(AMPLE_KIB, disk)
    again = scene.map(out, cluster, "--resume")
    assert again.wait() == 0, again.said()
    published(out)
    note_fault("disk", "full while publishing", Outcome.EQUAL)


# With the shipped model


def test_the_shipped_model_survives_each_kill(event, scene, tmp_path):
    """A worker, a scheduler and a client, each killed once in a run of five chunks."""
    folder = tmp_path / "forks"
    folder.mkdir()
    with Forks(folder, real=True) as forks:
        real = Scene(forks, [*scene.words, "--part", "0/5"])
        cluster = Cluster(forks, tmp_path, workers=1)
        undisturbed = real.map(tmp_path / "undisturbed", cluster)
        assert undisturbed.wait() == 0, undisturbed.said()
        out = tmp_path / "run"
        run = real.map(out, cluster)
        reach(out, run, 1)
        run.kill()
        run.wait()
        run = real.map(out, cluster, "--resume")
        until(lambda: records(out) >= 2 or run.ended.is_set(), "two chunks")
        for worker in cluster.workers:
            worker.kill()
        until(lambda: cluster.tend() and (records(out) >= 3 or run.ended.is_set()), "three chunks")
        cluster.scheduler.kill()
        run.wait()
        cluster.close()
        cluster = Cluster(forks, tmp_path, workers=1)
        last = real.map(out, cluster, "--resume")
        assert last.wait() == 0, last.said()
        assert records(out) == CHUNKS // 5
        assert_equal_arrays(arrays_of(tmp_path / "undisturbed"), arrays_of(out))
    for part in ("client", "worker", "scheduler"):
        note_fault(part, "kill -9, the shipped model", Outcome.EQUAL)
