"""Whole map jobs on files that a broken network brings: the undisturbed map, or what is missing is listed."""

import json
import re
import shutil
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import boto3
import geopandas as gpd
import numpy as np
import pytest
import requests
from moto.server import ThreadedMotoServer

import fake_network
from coseis.blocks import kept_blocks
from coseis.geotiff import forget_headers
from coseis.objects import get_object, open_store
from coseis.plan import ITEMS, read_plan
from coseis.store import open_arrays
from fault_log import Outcome, note_fault
from fault_proxy import Fault, faulty, seeded
from making import EVENT_TIME, area_of, grid
from nginx import nginx
from serving import serve
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
    monkeypatch.setattr("coseis.jobs.WAITS_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr("coseis.remote.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("coseis.objects.RETRY_DELAY_S", 0.01)
    monkeypatch.setattr("coseis.remote.RETRY_AFTER_S", 0.01)
    kept_blocks.clear()
    forget_headers()


@pytest.fixture(scope="module")
def served(job):
    with nginx(job.folder) as address:
        yield address


class Buckets(NamedTuple):
    """An S3 server with the scenes in one bucket, and another for maps."""

    endpoint: str
    catalog: Path
    """On this machine; names the files in the bucket."""


@pytest.fixture(scope="module")
def buckets(job, tmp_path_factory):
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=endpoint, **keys)
    for name in ("scenes", "maps"):
        s3.create_bucket(Bucket=name)
    items = json.loads((job.folder / "items.json").read_text())
    for item in items["features"]:
        s3.upload_file(str(job.folder / f"{item['id']}.tif"), "scenes", f"{item['id']}.tif")
        item["assets"]["a"]["href"] = f"s3://scenes/{item['id']}.tif"
    catalog = tmp_path_factory.mktemp("catalog") / "items.json"
    catalog.write_text(json.dumps(items))
    yield Buckets(endpoint, catalog)
    server.stop()


@contextmanager
def s3_at(endpoint):
    """The environment that names an S3 server."""
    settings = {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield


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
    (folder / "post.tif").write_bytes(content[: int(len(content) * 0.8)])
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


@pytest.mark.parametrize(
    "faults",
    [[fault] for fault in GETTING] + [GETTING],
    ids=lambda faults: "-".join(f.name for f in faults)[:12],
)
def test_scenes_in_a_bucket_that_fails_now_and_then(faults, buckets, mapped, expected):
    def plan(request):
        return seeded(3, 0.6, faults)(request) if request.path.startswith("/scenes/") else None

    with faulty(buckets.endpoint, plan) as proxy, s3_at(proxy.address):
        result, out = mapped(buckets.catalog, "--allow-host", "s3://scenes")
    assert result.code == 0, result.err
    assert_equal(contents(out), expected)
    note_all(proxy.injected, Outcome.EQUAL, part="S3, scenes", least=5)


def test_a_scene_that_is_not_in_the_bucket_is_refused(buckets, mapped):
    def plan(request):
        return Fault.STATUS_404 if request.path == "/scenes/post.tif" else None

    with faulty(buckets.endpoint, plan) as proxy, s3_at(proxy.address):
        result, _ = mapped(buckets.catalog, "--allow-host", "s3://scenes")
    assert result.code == 42
    assert "post.tif cannot be read: there is no such object" in result.err
    note_all(proxy.injected, Outcome.REFUSED, part="S3, scenes")


def contents_of(uri, tmp_path):
    """The same of a run in a bucket."""
    store = open_store(uri)
    plan = read_plan(get_object(store, ITEMS), uri)
    path = tmp_path / "fetched.parquet"
    path.write_bytes(get_object(store, "landslides.parquet"))
    arrays = {name: np.asarray(array[:]) for name, array in open_arrays(uri, plan.geobox).items()}
    return arrays, gpd.read_parquet(path)


@pytest.mark.parametrize(
    "faults",
    [
        [Fault.STATUS_503],
        [Fault.STATUS_502],
        [Fault.RESET],
        [Fault.STATUS_429, Fault.STATUS_503, Fault.RESET],
    ],
    ids=lambda faults: "-".join(f.name for f in faults)[:12],
)
def test_a_map_put_into_a_bucket_that_fails_now_and_then(faults, buckets, served, mapped, expected, tmp_path):
    out = f"s3://maps/{tmp_path.name}"

    def plan(request):
        return seeded(5, 0.25, faults)(request) if request.path.startswith("/maps") else None

    with faulty(buckets.endpoint, plan) as proxy, s3_at(proxy.address):
        result, _ = mapped(f"{served}/items.json", out=out)
    assert result.code == 0, result.err
    with s3_at(buckets.endpoint):
        assert_equal(contents_of(out, tmp_path), expected)
    note_all(proxy.injected, Outcome.EQUAL, part="S3, output", least=5)


@pytest.mark.parametrize("fault", [Fault.TRUNCATED, Fault.TOO_LONG], ids=lambda fault: fault.name.lower())
def test_a_map_read_from_a_bucket_that_cuts_answers_off(fault, buckets, served, mapped, expected, tmp_path):
    """Half an answer never becomes half a map: the run ends equal, or as one to begin again, and then is."""
    out = f"s3://maps/{tmp_path.name}"

    def plan(request):
        is_get = request.method == "GET" and request.path.startswith("/maps/")
        return seeded(7, 0.2, [fault], most=1)(request) if is_get else None

    with faulty(buckets.endpoint, plan) as proxy, s3_at(proxy.address):
        code, tries = 75, 0
        while code != 0:
            tries += 1
            assert tries <= 8
            result, _ = mapped(f"{served}/items.json", "--resume", out=out)
            code = result.code
            assert code in (0, 3, 75), result.err
    with s3_at(buckets.endpoint):
        assert_equal(contents_of(out, tmp_path), expected)
    note_all(proxy.injected, Outcome.EQUAL, part="S3, output")


def test_a_bucket_that_refuses_all_writes_ends_the_run_in_time(buckets, served, mapped, tmp_path):
    def plan(request):
        return Fault.STATUS_503 if request.method == "PUT" and "/probability.zarr/" in request.path else None

    with faulty(buckets.endpoint, plan) as proxy, s3_at(proxy.address):
        result, _ = mapped(f"{served}/items.json", out=f"s3://maps/{tmp_path.name}")
    assert result.code in (3, 75), result.err
    note_all(proxy.injected, Outcome.REFUSED if result.code == 75 else Outcome.LISTED, part="S3, output")


@pytest.mark.parametrize("place", ["loopback", "link-local", "another host"])
def test_a_server_that_redirects_only_when_pixels_are_read(place, job, mapped, expected):
    """An honest answer when the run is planned gains nothing: every hop is checked when it is made."""
    with serve({}) as inner, faulty(inner, lambda request: None) as forbidden, nginx(job.folder) as upstream:
        targets = {
            "loopback": f"{forbidden.address}/secret",
            "link-local": "http://169.254.169.254/latest/meta-data/",
            "another host": f"{forbidden.address.replace('127.0.0.1', 'localhost')}/secret",
        }
        beyond = 0.5 * (job.folder / "post.tif").stat().st_size

        def away(path, byte_range):
            is_far = path == "/post.tif" and byte_range and int(byte_range[6:].split("-")[0]) > beyond
            return targets[place] if is_far else None

        with redirecting(upstream, away) as (address, redirected):
            result, out = mapped(f"{address}/items.json")
        assert not forbidden.requests
    assert result.code == 3, result.err
    assert all("which is not the catalog's own host" in reason for reason in failed_chunks(out).values())
    assert_rest_equal(out, expected)
    note_fault("COG server", f"redirect to {place} at read time", Outcome.LISTED, times=len(redirected))


@contextmanager
def redirecting(upstream, away):
    """Forwards, but where `away` names another address sends clients there."""
    redirected = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            byte_range = self.headers.get("Range", "")
            if target := away(self.path, byte_range):
                redirected.append(target)
                self.send_response(302)
                self.send_header("Location", target)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            answer = requests.get(upstream + self.path, headers={"Range": byte_range}, timeout=10)
            self.send_response(answer.status_code)
            for name in ("Content-Range", "ETag", "Last-Modified", "Content-Type"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    server.daemon_threads = True
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", redirected
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
