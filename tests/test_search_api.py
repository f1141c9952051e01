"""Search against a real STAC API: pgstac on PostGIS behind stac-fastapi."""

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from coseis import catalogs
from coseis.addresses import AddressPolicy
from coseis.errors import InputRefusedError
from coseis.event import read_event
from coseis.search import SearchFilters, search_items

pytestmark = [pytest.mark.slow, pytest.mark.integration]

POSTGRES = Path("/usr/lib/postgresql/15/bin")
POSTGIS = Path("/usr/share/postgresql/15/extension/postgis.control")
START_TIMEOUT_S = 60
COLLECTION = "mato-grosso"
# The real scenes of Mato Grosso were taken on 3-12 September 2020.
EVENT = read_event("2020-09-07T00:00:00Z", "-57.2,-13.4,-56.4,-12.4")
POLICY = AddressPolicy(allow_hosts=("storage.googleapis.com",))


@pytest.fixture(scope="module")
def mato_grosso(real_data) -> list[dict]:
    folder = real_data / "planet_stac" / "open-stac" / "education" / COLLECTION
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/*.json"))]


@pytest.fixture(scope="module")
def api(mato_grosso) -> Iterator[str]:
    """Address of a STAC API that holds the real scenes, and one item with start and end only."""
    if not (POSTGRES / "postgres").exists() or not POSTGIS.exists():
        message = "needs the Debian packages postgresql-15 and postgresql-15-postgis-3"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    mosaic = json.loads(json.dumps(mato_grosso[0])) | {"id": "mosaic"}
    mosaic["properties"] |= {
        "datetime": None,
        "start_datetime": "2020-09-06T00:00:00Z",
        "end_datetime": "2020-09-08T00:00:00Z",
    }
    collection = {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": COLLECTION,
        "description": "PlanetScope scenes",
        "license": "CC-BY-SA-4.0",
        "providers": [{"name": "Planet Labs PBC", "roles": ["licensor", "producer"]}],
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
        "links": [],
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgstac-")))
        database = stack.enter_context(_postgres(folder))
        _load(database, folder, [collection], [*mato_grosso, mosaic])
        yield stack.enter_context(_stac_api(database, folder))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _postgres(folder: Path) -> Iterator[dict[str, str]]:
    """A server of its own in `folder`; it refuses to run as root, so root hands it to the package's user."""
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    port, cluster = _free_port(), folder / "cluster"
    if os.getuid() == 0:
        folder.chmod(0o755)
        cluster.mkdir()
        shutil.chown(cluster, user)
    # initdb looks for its current directory, which the other user may not be able to enter.
    other = {"user": user, "cwd": folder} if os.getuid() == 0 else {"cwd": folder}
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    initdb = [POSTGRES / "initdb", "-D", cluster, "-U", "postgres", "--auth=trust", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, env=environment, **other)
    command = [POSTGRES / "postgres", "-D", cluster, "-p", str(port), "-h", "127.0.0.1", "-k", cluster, "-F"]
    with (folder / "postgres.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, **other)
    try:
        _await_port(port, server, folder / "postgres.log")
        yield {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": "postgres",
            "PGPASSWORD": "trusted",
            "PGDATABASE": "postgres",
        }
    finally:
        server.terminate()
        server.wait(START_TIMEOUT_S)


def _load(database: dict[str, str], folder: Path, collections: list[dict], items: list[dict]) -> None:
    pypgstac = [sys.executable, "-m", "pypgstac.pypgstac"]
    environment = os.environ | database
    _run([*pypgstac, "migrate"], environment, folder)
    for kind, documents in (("collections", collections), ("items", items)):
        path = folder / f"{kind}.ndjson"
        path.write_text("\n".join(json.dumps(document) for document in documents))
        _run([*pypgstac, "load", kind, str(path)], environment, folder)


def _run(command: list[str], environment: dict[str, str], folder: Path) -> None:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"{command[1:]} ended with {done.returncode}: {done.stderr[-2000:]}")


@contextmanager
def _stac_api(database: dict[str, str], folder: Path) -> Iterator[str]:
    port = _free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (folder / "api.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | database, cwd=folder)
    try:
        _await_port(port, server, folder / "api.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(START_TIMEOUT_S)


def _await_port(port: int, server: subprocess.Popen, log: Path) -> None:
    """Returns when the server accepts a connection."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.returncode is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(0.1)
    pytest.fail(f"server did not start: {log.read_text()[-2000:]}")


def test_the_api_and_a_file_of_the_same_items_give_the_same_scenes(api, mato_grosso, tmp_path):
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": mato_grosso}))
    from_api = search_items(api, EVENT, collections=[COLLECTION], bands=["nir", "red"], policy=POLICY)
    from_file = search_items(str(path), EVENT, bands=["nir", "red"], policy=POLICY)
    assert len(from_api.scenes) == len(mato_grosso)
    assert len(from_api.of_phase("pre")) == 6
    assert [
        scene.model_copy(update={"attribution": None, "licence": None}) for scene in from_api.scenes
    ] == list(from_file.scenes)
    assert from_api.coverage == pytest.approx(from_file.coverage)
    assert {scene.attribution for scene in from_api.scenes} == {"Planet Labs PBC"}
    assert {scene.licence for scene in from_api.scenes} == {"CC-BY-SA-4.0"}
    assert from_api.hosts == ("storage.googleapis.com",)


def test_straddling_item_of_an_api(api):
    (refused,) = search_items(api, EVENT, policy=POLICY).refused
    assert refused.item_id == "mosaic"
    assert "straddles the event" in refused.reason
    found = search_items(api, EVENT, policy=POLICY, filters=SearchFilters(include=("mosaic",)))
    assert "mosaic" in {scene.item_id for scene in found.of_phase("post")}


def test_pages_are_followed(api, monkeypatch):
    monkeypatch.setattr(catalogs, "PAGE_ITEMS", 2)
    found = search_items(api, EVENT, policy=POLICY)
    assert len(found.scenes) == 15


def test_windows_and_area_are_asked_of_the_server(api):
    event = read_event("2020-09-07T00:00:00Z", "-56.7,-13.11,-56.6,-13.0", pre="2020-09-03/2020-09-03")
    found = search_items(api, event, policy=POLICY)
    assert [scene.item_id for scene in found.of_phase("pre")] == ["20200903_141342_18_105d"]
    with pytest.raises(InputRefusedError, match=r"no scene after the event.*: 0 items seen"):
        search_items(api, read_event("2020-09-07T00:00:00Z", "10,10,11,11"), policy=POLICY)


def test_address_of_a_collection_searches_its_api(api):
    found = search_items(f"{api}/collections/{COLLECTION}", EVENT, policy=POLICY)
    assert len(found.scenes) == 15
    assert found.searched.startswith("all collections of")


def test_unknown_collection_of_an_api(api):
    with pytest.raises(InputRefusedError, match=r"no collection matogrosso; .*Did you mean mato-grosso\?"):
        search_items(api, EVENT, collections=["matogrosso"], policy=POLICY)


def test_asset_hosts_are_asked_for(api):
    with pytest.raises(InputRefusedError, match=r"--allow-host storage\.googleapis\.com"):
        search_items(api, EVENT)
