"""What the chart starts, without Kubernetes: a cluster whose worker is killed, and parts side by side.

Commands, arguments and environment are those of the rendered chart (see `pods`), the network is NumPy's, the
bucket is moto's. What waits for other Jobs asks an API server, which is not here (see test_chart_scripts).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from distributed import Client, Security
from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

from charts import Pod, Variant, pods_of, render
from coseis.errors import UnreachableError
from coseis.objects import get_object, open_store
from coseis.plan import ITEMS, read_done, read_plan
from coseis.simulate import SimulatedEvent, simulate_event
from coseis.store import open_arrays
from fault_log import Outcome, note_fault
from forked import until
from pods import FAKE_NETWORK, USER, Node, Running, make_image, rights

pytestmark = [pytest.mark.slow, pytest.mark.integration]

CHUNK_PX = 112
PARTS = 2
TRIES = 3
"""Of a pod; the chart allows more."""
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(scope="module")
def event(tmp_path_factory, lasting_bucket) -> SimulatedEvent:
    """Scenes and their catalog, in the bucket."""
    made = simulate_event(tmp_path_factory.mktemp("event"), size_km=1.0, seed=0)
    root, s3 = made.catalog.parent, boto3.client("s3")
    items = []
    for path in sorted(root.glob("PSScene/*/*")):
        s3.upload_file(str(path), "maps", f"scenes/{path.relative_to(root)}")
        if path.suffix == ".json":
            item = json.loads(path.read_text())
            for asset in item["assets"].values():
                asset["href"] = f"./PSScene/{path.parent.name}/{Path(asset['href']).name}"
            items.append(item | {"links": []})
    to_parquet(parse_stac_items_to_arrow(items), root / "items.parquet")
    s3.upload_file(str(root / "items.parquet"), "maps", "scenes/items.parquet")
    return made


class Release(NamedTuple):
    """A chart that was installed."""

    node: Node
    pods: dict[str, Pod]
    folder: Path

    def run_to_end(self, running: Running, component: str, number: int = 0) -> str:
        """What a Job's pod says; as a Job does, one that ends with 75 is followed by another."""
        for _ in range(TRIES):
            if running.wait() != UnreachableError.exit_code:
                break
            running = self.start(component, running.container["name"], number)
        assert running.wait() == 0, running.said()
        return running.said()

    def start(self, component: str, container: str, number: int = 0) -> Running:
        return self.node.start(
            self.pods[component], container, name=f"coseis-{component}-{number}", index=number
        )


def settings(event: SimulatedEvent, out: str, aoi: str) -> dict[str, Any]:
    """Of `coseis map`."""
    return {
        "search": {
            "catalog": "s3://maps/scenes/items.parquet",
            "aoi": aoi,
            "event_time": event.event_time.isoformat(),
        },
        "model": {"core": CHUNK_PX, "precision": "float32"},
        "coregistration": {"coregister": "off"},
        # Where workers do not start in time, the pod ends with 75, and there is another one.
        "cluster": {"worker_timeout_s": 60},
        "output": {"out": out, "min_area": 0, "publish_pixels": "no"},
    }


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Not pytest's: those are their user's alone, but pods are somebody else."""
    with tempfile.TemporaryDirectory(prefix="coseis-pods-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture(scope="module")
def image(folder) -> dict[str, str]:
    return make_image(folder / "image")


@pytest.fixture
def install(event, folder, image) -> Iterator[Any]:
    """Renders the chart with some values and makes a machine for it; all that runs there is ended."""
    with ExitStack() as stack:

        def start(name: str, **job: Any) -> Release:
            values = {
                "credentials": {"secret": "bucket"},
                "env": {
                    "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
                    "AWS_DEFAULT_REGION": "us-east-1",
                    "COSEIS_FAKE_PAUSE_S": "0.1",
                    "DASK_DISTRIBUTED__WORKER__PRELOAD": FAKE_NETWORK,
                },
                "workers": {"replicas": 2},
                "job": {
                    "files": {"area.geojson": event.aoi_path.read_text()},
                    "config": settings(event, f"s3://maps/{name}", "area.geojson"),
                }
                | job,
            }
            objects = render(Variant(values, ("laptop",)))
            node = Node(
                folder / name,
                objects,
                image=image,
                secrets={"bucket": {key: os.environ[key] for key in KEYS}},
            )
            stack.enter_context(node)
            return Release(node, {pod.component: pod for pod in pods_of(objects)}, folder / name)

        yield start


@pytest.fixture(scope="module")
def local(event, tmp_path_factory) -> Iterator[Callable[[], Path]]:
    """The same map on this machine alone, begun at once and waited for where it is compared."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "map.yaml").write_text(json.dumps(settings(event, str(folder / "run"), str(event.aoi_path))))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, FAKE_NETWORK, "map", folder / "map.yaml"], stdout=log, stderr=log,
            env=os.environ | {"DASK_DISTRIBUTED__WORKER__PRELOAD": FAKE_NETWORK},
        )  # fmt: skip

        def ended() -> Path:
            until(lambda: process.poll() is not None, "the local run")
            assert process.returncode == 0, (folder / "log").read_text()
            return folder / "run"

        yield ended
        process.terminate()
        process.wait()


def assert_equal(name: str, local: Path, folder: Path) -> None:
    """Decoded arrays and polygons of a run in the bucket and of the local one."""
    store = open_store(f"s3://maps/{name}")
    plan = read_plan(get_object(store, ITEMS), name)
    here, there = (open_arrays(where, plan.geobox) for where in (str(local), f"s3://maps/{name}"))
    for array in here:
        np.testing.assert_array_equal(here[array][:], there[array][:], err_msg=array)
    assert len(read_done(plan, store)) == len(plan.chunks(plan.chunk_px))
    path = folder / "fetched.parquet"
    path.write_bytes(get_object(store, "landslides.parquet"))
    polygons = [gpd.read_parquet(one).to_wkb() for one in (local / "landslides.parquet", path)]
    assert len(polygons[0]) > 10
    pd.testing.assert_frame_equal(*polygons)


def chunks_done(name: str) -> int:
    listed = boto3.client("s3").list_objects_v2(Bucket="maps", Prefix=f"{name}/records/")
    return int(listed["KeyCount"])


@pytest.mark.faults
def test_a_cluster_that_loses_a_worker_maps_as_one_machine_does(install, local):
    release = install("cluster")
    scheduler = release.start("scheduler", "scheduler")
    scheduler.become_ready()
    workers = [release.start("worker", "worker", number) for number in range(2)]
    waiting = release.start("map", "await-workers")
    assert waiting.wait() == 0, waiting.said()
    for worker in workers:
        worker.become_ready()
    job = release.start("map", "map")
    until(lambda: chunks_done("cluster") >= 2 or job.process.poll() is not None, "two chunks")
    assert job.process.poll() is None, job.said()
    done = chunks_done("cluster")
    workers[0].kill()
    # As a Deployment does for a pod that is gone.
    workers[0] = release.start("worker", "worker", 2)
    release.run_to_end(job, "map")
    total = chunks_done("cluster")
    assert done < total, "the worker was killed too late to be missed"
    assert_equal("cluster", local(), release.folder)
    assert all(one.is_live() for one in (scheduler, *workers))
    drained(release, scheduler, workers[1])
    note_fault("pod of a worker", "kill -9, all its processes", Outcome.EQUAL)


def drained(release: Release, scheduler: Running, worker: Running) -> None:
    """The hook makes the worker that it is of take no more tasks, and no other."""
    hooked = release.node.hook(worker)
    assert (hooked.returncode, hooked.stderr) == (0, "")
    tls = Path(scheduler.replaced["/etc/coseis/tls"])
    security = Security(
        tls_ca_file=str(tls / "ca.crt"), tls_client_cert=str(tls / "tls.crt"),
        tls_client_key=str(tls / "tls.key"), require_encryption=True,
    )  # fmt: skip
    with Client(f"tls://localhost:{scheduler.ports['scheduler']}", security=security) as client:
        states = client.run_on_scheduler(
            lambda dask_scheduler: {one.name: one.status.name for one in dask_scheduler.workers.values()}
        )
    name = worker.environment["DASK_WORKER_NAME"]
    assert states.pop(name) == "closing_gracefully"
    assert set(states.values()) == {"running"}


def test_parts_side_by_side_map_as_one_machine_does(install, local):
    release = install("parts", mode="parts", parts=PARTS)
    parts = [release.start("part", "part", number) for number in range(PARTS)]
    for number, part in enumerate(parts):
        assert f"part {number}/{PARTS}: " in release.run_to_end(part, "part", number)
    assert chunks_done("parts") > PARTS
    release.run_to_end(release.start("finish", "finish"), "finish")
    assert_equal("parts", local(), release.folder)


def test_pods_have_the_rights_of_nobody(install):
    """A process of a pod is user 10001 without capabilities, and can write its volumes alone."""
    if not rights():
        pytest.skip("only root may become another user: here pods run as oneself")
    release = install("rights")
    pod = release.pods["map"]
    look = "cat /proc/self/status; touch /etc/x /coseis-x ../x; touch $HOME/x && ls -ln $HOME"
    [container] = pod.spec["containers"]
    container.update(command=["sh", "-c", look], args=[])
    said = release.start("map", "map")
    said.wait()
    found = dict(line.split(":", 1) for line in said.said().splitlines() if ":\t" in line)
    assert found["Uid"].split() == [str(USER)] * 4
    assert {found[name].strip() for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert said.said().count("cannot touch") == 3
    assert f"{USER} {USER}" in said.said()
