"""Whole map jobs on files that a broken network brings: the undisturbed map, or what is missing is listed."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

import fake_network
from coseis.blocks import kept_blocks
from coseis.geotiff import forget_headers
from fault_log import Outcome, note_fault
from fault_proxy import Fault, faulty, seeded
from making import EVENT_TIME, area_of, grid
from nginx import nginx
from test_cli import client, coseis, save_fake_model, workers, write_catalog  # noqa: F401  (fixtures)
from test_pipeline import assert_equal, contents

pytestmark = [
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.integration,
    # Moto closes its sockets late.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

GRID = grid(960, 480)
"""Four rows of stored blocks in each of two scenes."""
GETTING = [
    Fault.STATUS_429,
    Fault.STATUS_502,
    Fault.STATUS_503,
    Fault.RESET,
    Fault.TRUNCATED,
    Fault.TOO_LONG,
    Fault.TOO_SHORT,
]


class Job(NamedTuple):
    """A map job without a catalog."""

    folder: Path
    """Of the event, as it is served."""
    words: list[object]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    folder = tmp_path_factory.mktemp("event")
    write_catalog(folder, GRID, driver="COG")
    aside = tmp_path_factory.mktemp("aside")
    aoi = aside / "aoi.geojson"
    aoi.write_text(json.dumps(area_of(GRID, inset_px=8)))
    model = save_fake_model(aside / "model")
    options = {"aoi": aoi, "event-time": EVENT_TIME.isoformat(), "model": model, "core": 240, "min-area": 900}
    return Job(folder, ["map", *(word for name, value in options.items() for word in (f"--{name}", value))])


@pytest.fixture(autouse=True)
def quick(monkeypatch, workers):  # noqa: F811
    """A NumPy network, no long pauses between tries, and nothing remembered of the run before."""
    monkeypatch.setattr("coseis.task.probe_device", fake_network.probe_device)
    monkeypatch.setattr("coseis.pipeline.probe_device", fake_network.probe_device)
    monkeypatch.setattr("coseis.task.ready_network", fake_network.ready_network)
    monkeypatch.setattr("coseis.remote.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("coseis.remote.RETRY_AFTER_S", 0.01)
    kept_blocks.clear()
    forget_headers()


@pytest.fixture(scope="module")
def served(job):
    with nginx(job.folder) as address:
        yield address


@pytest.fixture
def mapped(coseis, job, tmp_path):  # noqa: F811
    """Runs the job on a catalog and gives its exit code and contents."""

    def run(catalog, *options, out=tmp_path / "run"):
        return coseis(*job.words, "--catalog", catalog, "--out", out, *options), out

    return run


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture
def expected(kept, mapped, served, tmp_path_factory):
    """The undisturbed run's map, made once."""
    if not kept:
        result, out = mapped(f"{served}/items.json", out=tmp_path_factory.mktemp("undisturbed") / "run")
        assert result.code == 0, result.err
        kept["map"] = contents(out)
        kept_blocks.clear()
        forget_headers()
    return kept["map"]


def only_files(plan):
    """The catalog's own answers stay whole: they are tested elsewhere."""
    return lambda request: plan(request) if request.path.endswith(".tif") else None


def note_all(injected, outcome, *, part="COG server", least=1):
    counts = Counter(fault for _, fault in injected)
    assert counts.total() >= least, counts
    for fault, times in counts.items():
        note_fault(part, fault.value, outcome, times=times)


@pytest.mark.parametrize("fault", GETTING, ids=lambda fault: fault.name.lower())
def test_what_passes_changes_nothing(fault, mapped, served, expected):
    with faulty(served, only_files(seeded(1, 0.6, [fault]))) as proxy:
        result, out = mapped(f"{proxy.address}/items.json")
    assert result.code == 0, result.err
    assert_equal(contents(out), expected)
    note_all(proxy.injected, Outcome.EQUAL, least=5)


@pytest.mark.parametrize("seed", range(2))
def test_all_of_it_at_once_changes_nothing(seed, mapped, served, expected):
    with faulty(served, only_files(seeded(seed, 0.8, GETTING, most=4))) as proxy:
        result, out = mapped(f"{proxy.address}/items.json")
    assert result.code == 0, result.err
    assert_equal(contents(out), expected)
    note_all(proxy.injected, Outcome.EQUAL, least=15)


def test_a_server_that_stalls_for_half_a_minute_is_asked_again(mapped, served, expected):
    stalled = []

    def plan(request):
        is_pixels = request.path.endswith("post.tif") and not request.byte_range.startswith("bytes=0-")
        if is_pixels and not stalled:
            stalled.append(request)
            return Fault.STALL
        return None

    with faulty(served, plan, stall_s=30) as proxy:
        result, out = mapped(f"{proxy.address}/items.json")
    assert result.code == 0, result.err
    assert_equal(contents(out), expected)
    assert [fault for _, fault in proxy.injected] == [Fault.STALL]
    note_all(proxy.injected, Outcome.EQUAL)


def failed_chunks(out):
    return {
        failure["chunk"]: failure["reason"]
        for failure in json.loads((out / "run.json").read_text())["failed"]
    }


def assert_rest_equal(out, expected, core=240):
    """What is not listed as failed is the undisturbed map's."""
    arrays = contents(out)[0]
    for chunk in failed_chunks(out):
        row, column = map(int, chunk.split("_"))
        place = (..., slice(row * core, (row + 1) * core), slice(column * core, (column + 1) * core))
        for name in arrays:
            arrays[name][place] = expected[0][name][place]
    for name, array in arrays.items():
        assert (array == expected[0][name]).all(), name


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.STATUS_404, "cannot be read: HTTP 404 Not Found"),
        (Fault.STATUS_503, "cannot be fetched: HTTP 503, 6 times; run again"),
        (Fault.RESET, "cannot be fetched: .*, 6 times; run again"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_does_not_pass_is_listed_and_the_rest_is_equal(fault, said, job, mapped, served, expected):
    """The rows of blocks in the lower part of the scene after the event never come."""
    beyond = 0.7 * (job.folder / "post.tif").stat().st_size

    def plan(request):
        is_far = request.path.endswith("post.tif") and int(request.byte_range[6:].split("-")[0]) > beyond
        return fault if is_far else None

    with faulty(served, plan) as proxy:
        result, out = mapped(f"{proxy.address}/items.json", "--tolerate-failed", 0)
    assert result.code == 3, result.err
    reasons = failed_chunks(out)
    assert 0 < len(reasons) < 8
    for reason in reasons.values():
        assert re.match(f"item post, asset a, http://127.0.0.1:[0-9]+/post.tif {said}", reason), reason
    assert_rest_equal(out, expected)
    note_all(proxy.injected, Outcome.LISTED)


def test_a_file_that_is_cut_off_on_the_server_is_listed(job, mapped, expected, tmp_path):
    folder = Path(shutil.copytree(job.folder, tmp_path / "event"))
    content = (folder / "post.tif").read_bytes()
    (folder / "post.tif").write_bytes(content[: int(len(content) * 0.85)])
    with nginx(folder) as address:
        result, out = mapped(f"{address}/items.json")
    assert result.code == 3, result.err
    assert 0 < len(failed_chunks(out)) < 8
    assert all("post.tif cannot be read: it breaks off" in reason for reason in failed_chunks(out).values())
    assert_rest_equal(out, expected)
    note_fault("COG server", "file cut off on disk", Outcome.LISTED)


def test_a_file_that_is_not_there_is_refused_before_any_work(job, mapped, tmp_path):
    folder = Path(shutil.copytree(job.folder, tmp_path / "event"))
    (folder / "post.tif").unlink()
    with nginx(folder) as address:
        result, out = mapped(f"{address}/items.json")
    assert result.code == 42
    assert "post.tif cannot be read: HTTP 404" in result.err
    assert not (out / "run.json").exists()
    note_fault("COG server", "file missing", Outcome.REFUSED)
