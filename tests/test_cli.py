"""The command line: one clear line and the right exit code for every bad input, and nothing half-written."""

import hashlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from distributed import Client, LocalCluster
from odc.geo.geobox import GeoBox
from rasterio.shutil import copy

from coseis import cluster
from coseis.card import ModelCard, Normalization, Stretch
from coseis.cli import main
from coseis.config import ClusterConfig
from coseis.errors import UnreachableError
from coseis.event import Found
from coseis.jobs import run_jobs
from coseis.model import CARD_NAME, WEIGHTS_NAME
from making import BANDS, EVENT_TIME, area_of, grid, texture, write_scene

GRID = grid(208, 304)
"""Two cores of 160 px in a row, and a bit: two rows and two columns of chunks."""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    def refused(self, code: int) -> str:
        """The one line of a refusal."""
        assert self.code == code, self
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("coseis: "), self.err
        assert "Traceback" not in self.err
        return self.err


@pytest.fixture
def coseis(monkeypatch, capsys) -> Callable[..., Outcome]:
    """Runs the command line in this process, as the console script does."""

    def run(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["coseis", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as local,
        Client(local) as connection,
    ):
        yield connection


@pytest.fixture
def workers(monkeypatch, client):
    """A cluster within this process whose network is a plain function: no TensorFlow, no start-up."""

    @contextmanager
    def connected(*_):
        yield client

    monkeypatch.setattr("coseis.pipeline.connected", connected)
    monkeypatch.setattr("coseis.backends.keras_backend", lambda: "tensorflow")
    monkeypatch.setattr("coseis.backends._probe_tensorflow", lambda: ("cpu", "float32"))
    monkeypatch.setattr("coseis.model.Model.network", lambda *_, **__: None)
    monkeypatch.setattr("coseis.predict.compile_network", lambda *_: lambda windows: windows[..., :1] > 0.4)


def save_fake_model(folder: Path, **changes: Any) -> Path:
    """A model whose card is whole and whose weights are never read."""
    weights = b"no network is built from these"
    values: dict[str, Any] = {
        "name": "fake",
        "bands": BANDS,
        "inputs": {"display": Stretch(low=0, high=255)},
        "normalization": Normalization(kind="scene"),
        "resolution_m": (2.5, 6),
        "padding": "same",
        "base_filters": 2,
        "halo_px": 96,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    folder.mkdir(parents=True)
    (folder / CARD_NAME).write_text(ModelCard(**(values | changes)).model_dump_json())
    (folder / WEIGHTS_NAME).write_bytes(weights)
    return folder


def write_catalog(folder: Path, geobox: GeoBox = GRID, *, driver: str = "GTiff") -> Path:
    """An item collection with one scene before and one after the event."""
    folder.mkdir(parents=True, exist_ok=True)
    features = []
    for seed, phase in enumerate(("pre", "post")):
        path = folder / f"{phase}.tif"
        scene = write_scene(path, texture((3, *geobox.shape), seed), geobox.affine, phase=phase)
        if driver == "COG":
            plain = path.rename(folder / "plain.tif")
            copy(plain, path, driver="COG", blocksize=256, compress="deflate")
        features.append(
            {
                "type": "Feature",
                "id": phase,
                "collection": "PSScene",
                "geometry": scene.geometry,
                "properties": {"datetime": scene.start.isoformat()},
                "assets": {
                    "a": {"href": f"./{phase}.tif", "type": "image/tiff", "pl:asset_type": "ortho_visual"}
                },
            }
        )
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


class Job(NamedTuple):
    """A job that succeeds; each test spoils one thing of it."""

    folder: Path
    settings: dict[str, object]

    @property
    def out(self) -> Path:
        return Path(str(self.settings["out"]))

    def words(self, *more: object, **changes: object) -> list[object]:
        settings = self.settings | changes
        given = [
            word
            for name, value in settings.items()
            if value is not None
            for word in (f"--{name.replace('_', '-')}", value)
        ]
        return ["map", *given, *more]

    def drop(self, phase: str) -> None:
        path = Path(str(self.settings["catalog"]))
        items = json.loads(path.read_text())
        items["features"] = [item for item in items["features"] if item["id"] != phase]
        path.write_text(json.dumps(items))


@pytest.fixture
def job(tmp_path) -> Job:
    catalog = write_catalog(tmp_path / "event")
    aoi = tmp_path / "aoi.geojson"
    aoi.write_text(json.dumps(area_of(GRID, inset_px=8)))
    model = save_fake_model(tmp_path / "model")
    return Job(
        tmp_path,
        {
            "catalog": catalog,
            "aoi": aoi,
            "event_time": EVENT_TIME.isoformat(),
            "model": model,
            "out": tmp_path / "run",
            "core": 160,
            "min_area": 0,
        },
    )


def files(folder: Path) -> set[str]:
    """Every file of a folder with its content's digest."""
    return {
        f"{path}:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in folder.rglob("*")
        if path.is_file()
    }


def cut(path: Path, *, keep: float) -> None:
    """Truncates a file to a share of its bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def no_workers(monkeypatch):
    """What can be refused without a worker is: a refusal must not wait for a cluster."""

    def connected(*_):
        raise AssertionError("a cluster was started for a request that is to be refused")

    monkeypatch.setattr("coseis.pipeline.connected", connected)


class Bad(NamedTuple):
    """One thing wrong with a job, and what is said of it."""

    changes: dict[str, object]
    code: int
    said: str


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(
    "bad",
    [
        Bad({"event_time": "2018-09-05T18:08:00"}, 2, "'2018-09-05T18:08:00' has no zone; write e.g."),
        Bad({"event_time": "yesterday"}, 2, "'yesterday' is no ISO 8601 time; write e.g."),
        Bad({"aoi": "nothere.gpkg"}, 2, "AOI 'nothere.gpkg' is neither west,south,east,north"),
        Bad({"aoi": "142,42,141,43"}, 2, "AOI west 142.0 is not less than east 141.0"),
        Bad({"aoi": "-72.3,-17.4,-72.2,-17.3"}, 42, "the AOI lies outside every scene. Searched"),
        Bad({"collection": "PSscenes"}, 42, "no collection PSscenes; it has: PSScene. Did you mean PSScene?"),
        Bad({"catalog": "nothere.json"}, 42, "nothere.json cannot be read .No such file or directory."),
        Bad({"include": "missing-id"}, 42, "no item missing-id to include. Searched"),
        Bad({"core": 100}, 2, "core 100 px is not a positive multiple of 16 px, .* nearest legal core is 96"),
        Bad({"core": -16}, 2, "nearest legal core is 16 px"),
        Bad({"chunk": 200}, 2, "chunk 200 px is not a whole number of cores of 160 px; .* chunk is 160 px"),
        Bad({"resolution": 10}, 2, "pixels of 10 m, but model fake was trained for 2.5 to 6 m; .*--force"),
        Bad({"crs": "EPSG:4326"}, 2, "EPSG:4326 is not projected in metres"),
        Bad({"model": "nothere"}, 2, "no model at nothere: expected a folder or ZIP file"),
        Bad({"out": "ftp://host/run"}, 2, "'ftp://host/run' is none of a path, s3://, gs:// or az://"),
        Bad({"scheduler": "here"}, 2, "--scheduler is 'here'; expected local, local-cuda, tcp://HOST:PORT"),
        Bad(
            {"threshold": "1.2"},
            2,
            "--threshold is '1.2'; expected 'card', 'otsu' or 'isodata' or a probability from 0 to 1",
        ),
        Bad({"catalog": None, "out": None}, 2, "--catalog, --out missing"),
    ],
    ids=lambda bad: " ".join(f"{name}={value}" for name, value in bad.changes.items()),
)
def test_bad_input_is_refused_in_one_line(coseis, job, bad):
    line = coseis(*job.words(**bad.changes)).refused(bad.code)
    assert re.search(bad.said, line), line
    assert not files(job.out)


@pytest.mark.usefixtures("no_workers")
def test_an_aoi_that_is_no_vector_file_is_refused(coseis, job):
    text = job.folder / "notes.geojson"
    text.write_text("nothing of the kind")
    line = coseis(*job.words(aoi=text)).refused(2)
    assert "AOI file cannot be read as vector data" in line
    assert not files(job.out)


@pytest.mark.usefixtures("no_workers")
def test_a_catalog_that_does_not_answer_ends_with_75(coseis, job, monkeypatch):
    monkeypatch.setattr("coseis.addresses.RETRIES", 0)
    address = f"http://127.0.0.1:{closed_port()}/catalog.json"
    line = coseis(*job.words(catalog=address)).refused(75)
    assert f"{address} does not answer (" in line
    assert "Connection refused" in line
    assert "run again" in line
    assert not files(job.out)


@pytest.mark.usefixtures("no_workers")
def test_a_missing_file_is_named_with_its_item_and_asset(coseis, job):
    (job.folder / "event" / "post.tif").unlink()
    line = coseis(*job.words()).refused(42)
    assert re.search(r"item post, asset a, .*post\.tif cannot be read", line)
    assert not files(job.out)


@pytest.mark.usefixtures("no_workers")
def test_a_file_cut_off_before_its_overview_is_refused(coseis, job):
    cut(job.folder / "event" / "post.tif", keep=0.02)
    line = coseis(*job.words()).refused(42)
    assert re.search(r"item post, asset a, .*post\.tif cannot be read", line)
    assert not files(job.out)


@pytest.mark.usefixtures("no_workers")
def test_a_model_of_other_bands_is_refused(coseis, job):
    model = save_fake_model(job.folder / "nir", name="near-infrared", bands=("red", "green", "nir"))
    line = coseis(*job.words(model=model)).refused(2)
    assert "the model reads red, green, nir, and no item has them all" in line
    assert "Choose another --model or --collection" in line
    assert not files(job.out)


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(("phase", "hint"), [("pre", "--allow-missing-pre"), ("post", "--post")])
def test_a_phase_without_a_scene_is_refused(coseis, job, phase, hint):
    job.drop(phase)
    line = coseis(*job.words()).refused(42)
    assert f"no scene {'before' if phase == 'pre' else 'after'} the event. Searched" in line
    assert hint in line
    assert not files(job.out)


@pytest.mark.usefixtures("no_workers")
def test_an_output_that_cannot_be_written_is_refused(coseis, job):
    taken = job.folder / "taken"
    taken.write_text("a file")
    assert "is a file; expected a folder" in coseis(*job.words(out=taken)).refused(2)
    line = coseis(*job.words(out=taken / "run")).refused(42)
    assert re.search(r"output '.*taken/run' cannot be written \(Not a directory\)", line)
    assert taken.read_text() == "a file"


@pytest.mark.usefixtures("workers")
def test_a_job_that_is_done_ends_with_0_and_says_where_things_are(coseis, job):
    done = coseis(*job.words())
    assert (done.code, done.err) == (0, "")
    assert re.match(r"\d+ landslides, \d+\.\d+ km2, on 100\.0 % observed of 0\.\d km2\n", done.out)
    for name in ("report.html", "map.png", "landslides.parquet", "run.json"):
        assert f"{job.out}/{name}" in done.out
        assert (job.out / name).exists()
    kept = files(job.out)
    line = coseis(*job.words()).refused(42)
    assert f"output {job.out} already holds a run; go on with it by --resume" in line
    line = coseis(*job.words("--resume", core=96)).refused(42)
    assert f"output {job.out} holds another run: core_px is 160 there, 96 now" in line
    assert files(job.out) == kept


@pytest.mark.usefixtures("workers")
def test_a_file_cut_off_in_its_pixels_fails_its_chunks_and_no_others(coseis, job):
    wide = grid(304, 608)
    write_catalog(job.folder / "event", wide, driver="COG")
    aoi = job.folder / "wide.geojson"
    aoi.write_text(json.dumps(area_of(wide, inset_px=8)))
    post = job.folder / "event" / "post.tif"
    whole = post.read_bytes()
    cut(post, keep=0.99)  # its last tile: a COG has its overviews before its pixels
    ended = coseis(*job.words(aoi=aoi))
    assert ended.code == 3, ended
    lines = ended.err.splitlines()
    assert re.match(r"chunk \d_\d failed: item post, asset a, .*post\.tif cannot be read: ", lines[0])
    assert re.match(rf"coseis: \d chunks? failed, all listed in {job.out}/run.json; .*--resume", lines[-1])
    report = json.loads((job.out / "run.json").read_text())
    failed = {failure["chunk"] for failure in report["failed"]}
    done = {path.stem for path in (job.out / "records").rglob("*.json")}
    assert failed
    assert done
    assert not failed & done
    assert len(failed | done) == 2 * 4

    tolerated = coseis(*job.words("--resume", aoi=aoi, tolerate_failed=len(failed)))
    assert tolerated.code == 0
    post.write_bytes(whole)
    mended = coseis(*job.words("--resume", aoi=aoi))
    assert (mended.code, mended.err) == (0, "")
    assert json.loads((job.out / "run.json").read_text())["failed"] == []


@pytest.mark.usefixtures("workers")
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(coseis, job, tmp_path, monkeypatch):
    monkeypatch.setattr("coseis.estimate.RATES", tmp_path / "home" / "rates.json")
    before = coseis(*job.words("--dry-run"))
    assert (before.code, before.err) == (0, "")
    assert "time: not known" in before.out
    assert not job.out.exists()
    done = coseis(*job.words())
    assert done.code == 0
    report = json.loads((job.out / "run.json").read_text())
    after = coseis(*job.words("--dry-run", "--price-per-hour", 3600, out=tmp_path / "other"))
    assert f"{report['throughput']['chunks']} chunks of 160 px on 1 workers" in after.out
    assert f"{report['aoi_km2']:.1f} km2" in after.out
    seconds = float(re.search(r"time: (\d+) s to predict", after.out)[1])
    assert seconds == pytest.approx(report["seconds"]["predict"], abs=1)
    assert float(re.search(r"cost: ([0-9.]+)", after.out)[1]) == pytest.approx(seconds, abs=1)
    line = coseis(*job.words("--dry-run")).refused(42)
    assert "already holds a run" in line


@pytest.mark.usefixtures("workers")
def test_parts_end_with_words_and_finish_draws_their_map(coseis, job):
    first = coseis(*job.words("--part", "1/2"))
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith("part 1/2: ")
    assert f"coseis finish {job.out}" in first.out
    early = coseis("finish", job.out)
    assert early.code == 3
    assert "it was never computed" in early.err
    assert coseis("finish", job.out, "--tolerate-failed", 99).code == 0
    assert coseis(*job.words("--part", "0/2")).code == 0
    whole = coseis("finish", job.out, "--min-area", 5)
    assert (whole.code, whole.err) == (0, "")
    assert json.loads((job.out / "run.json").read_text())["config"]["output"]["min_area"] == 5


@pytest.mark.parametrize("part", ["2/2", "-1/2", "1", "a/b", "1/0"])
def test_a_part_is_one_of_so_many(coseis, job, part):
    line = coseis(*job.words("--part", part)).refused(2)
    assert f"--part is {part!r}; expected I/N with I from 0 to N-1" in line


def test_gpus_of_this_machine_need_dask_cuda(coseis, job, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    line = coseis(*job.words(scheduler="local-cuda")).refused(2)
    assert "local-cuda needs dask-cuda" in line
    assert "coseis[gpu]" in line


def test_a_scheduler_that_does_not_answer_ends_with_75(coseis, job, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT_S", 0.2)
    address = f"tcp://127.0.0.1:{closed_port()}"
    line = coseis(*job.words(scheduler=address)).refused(75)
    assert f"scheduler {address} does not answer" in line
    assert "run again" in line
    assert not files(job.out)


def test_a_scheduler_without_workers_ends_with_75():
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as empty,
        Client(empty) as connection,
        pytest.raises(UnreachableError, match=r"no worker joined the scheduler within 0\.2 s"),
        cluster.connected(ClusterConfig(worker_timeout_s=0.2), connection),
    ):
        pass


def test_a_scheduler_that_is_lost_ends_with_75():
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as local,
        Client(local) as connection,
    ):
        ended = run_jobs(connection, abs, [(f"job-{n}", n, (-n,)) for n in range(100)])
        assert next(ended)[1] >= 0
        local.close()
        with pytest.raises(UnreachableError, match=r"the scheduler is lost .*run again with --resume"):
            list(ended)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mpa"], "No such command 'mpa'. Did you mean 'map'?; see coseis --help"),
        (["map", "--min_area", "x"], "No such option '--min_area'. Did you mean '--min-area'?"),
        (["map", "--colection", "x"], "Did you mean one of: '--collection', "),
        (["map", "--catalog"], "Option '--catalog' requires an argument"),
        (["map", "a.yaml", "b.yaml"], "unexpected extra argument (b.yaml); see coseis map --help"),
        (["map", "nothere.yaml"], "config nothere.yaml cannot be read: No such file or directory"),
        (["simulate"], "Missing argument 'OUT'; see coseis simulate --help"),
        (["simulate", "x", "--preset", "flat"], "'flat' is not one of 'iburi', 'steep'"),
        (["simulate", "x", "--size-km", "-1"], "size_km is -1.0; expected 0.5 to 60.0 kilometres"),
        (
            ["vectorize", "x", "--threshold", "2"],
            "--threshold is '2'; expected 'card', 'otsu' or 'isodata' or",
        ),
        (["search"], "--catalog, --aoi, --event-time missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_typo_ends_with_2_and_says_what_was_meant(coseis, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert said in coseis(*words).refused(2)
    assert not list(tmp_path.iterdir())


def test_an_event_file_gives_the_time_and_what_is_mapped_first(coseis, job, workers, monkeypatch):
    path = job.folder / "event.json"
    milliseconds = int(EVENT_TIME.timestamp() * 1000)
    place = {"type": "Point", "coordinates": [141.9294, 42.6861, 35]}
    path.write_text(json.dumps({"type": "Feature", "properties": {"time": milliseconds}, "geometry": place}))
    asked = []
    monkeypatch.setattr(
        "coseis.pipeline.order_chunks", lambda chunks, geobox, first: asked.append(first) or list(chunks)
    )
    assert coseis(*job.words(event_time=None, event=path)).code == 0
    assert json.loads((job.out / "items.json").read_text())["found"]["event"]["epicentre"] == [
        141.9294,
        42.6861,
    ]
    assert coseis(*job.words("--resume", event_time=None, event=path, first="142,43")).code == 0
    assert asked == ["141.9294,42.6861", "142,43"]
    path.write_text("{}")
    line = coseis(*job.words("--resume", event_time=None, event=path)).refused(2)
    assert f"event file {path}: it holds 1 features, not one event; expected a USGS event" in line


def test_a_typo_in_the_file_is_named_there(coseis, job):
    path = job.folder / "event.yaml"
    path.write_text("search:\n  event-time: 2018-09-05T18:08:00Z\n")
    line = coseis("map", path).refused(2)
    assert f"{path}: search.catalog, search.aoi, search.event_time, output.out missing; " in line
    assert "search.event-time is not a setting; did you mean event_time?" in line
    path.write_text("search: {catalog: [\n")
    assert "cannot be read: while parsing" in coseis("map", path).refused(2)


def test_nothing_to_do_shows_the_help(coseis):
    shown = coseis()
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("Usage: coseis")


def test_help_and_refusals_load_nothing_heavy():
    program = (
        "import sys\n"
        "from coseis.cli import main\n"
        "for words in (['--help'], ['map', '--help'], ['map', '--cor'], ['map', 'nothere.yaml'], ['map']):\n"
        "    sys.argv = ['coseis', *words]\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'rasterio', 'dask', 'distributed', 'numpy', 'geopandas', 'zarr'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize(
    "words", [["vectorize", "--threshold", "0.5"], ["evaluate", "labels.gpkg"]], ids=" ".join
)
def test_a_folder_without_a_finished_run_is_refused(coseis, tmp_path, words):
    command, *more = words
    line = coseis(command, tmp_path, *more).refused(42)
    assert f"{tmp_path} holds no finished run (no run.json); run coseis map first" in line
    assert not files(tmp_path)


def test_ctrl_c_ends_with_130(coseis, job, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("coseis.pipeline.settle_plan", interrupted)
    ended = coseis(*job.words())
    assert ended.code == 130
    assert ended.err.strip() == "coseis: interrupted"


def test_search_shows_scenes_hosts_and_what_was_refused(coseis, job):
    catalog = Path(str(job.settings["catalog"]))
    items = json.loads(catalog.read_text())
    # Rich would take the brackets for markup, a terminal the escape for a command.
    hostile = {**items["features"][0], "id": "bad[/red]\x1b[2J\nitem", "assets": {}}
    catalog.write_text(json.dumps({**items, "features": [*items["features"], hostile]}))
    words = ["search", *job.words(model=None, out=None, core=None, min_area=None)[1:]]
    shown = coseis(*words, "--out", job.folder / "found.json")
    assert (shown.code, shown.err) == (0, "")
    assert "100.0 %" in shown.out
    assert "assets lie on: file" in shown.out
    assert "\nrefused bad[/red]?[2J item: " in shown.out
    assert len(Found.model_validate_json((job.folder / "found.json").read_text()).scenes) == 2
    line = coseis(*words, "--out", job.folder).refused(42)
    assert f"{job.folder} cannot be written (Is a directory)" in line


def test_a_message_stays_one_line_whatever_it_quotes(coseis):
    assert coseis("no\nsuch\x1b[31m").refused(2).rstrip("\n").isprintable()
