"""What strangers wrote stays text in every output, and no secret is in anything that a run writes or says."""

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import LocalStore
from pmtiles.reader import MmapSource, Reader

from coseis.addresses import is_secret, public_form
from coseis.config import load_config
from coseis.doctor import CREDENTIALS
from coseis.errors import CoseisError, UsageError
from coseis.learn.config import LearnConfig
from coseis.learn.learning import Frozen
from coseis.objects import open_store
from coseis.plan import read_plan
from coseis.report import read_config, read_parts, read_report
from test_cli import client, coseis, files, job, no_workers, workers  # noqa: F401
from test_hostile_stac import mutated

CANARY = "canary4711"
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)> $\\frac{ \"'`; rm -rf / \x1b[2J \u202e \ud800"
)


class _Ranges(SimpleHTTPRequestHandler):
    """Files by ranges; documents only to those who have the token."""

    asked: list[str]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.asked.append(self.path)
        if parts.path.endswith(".json") and parse_qs(parts.query).get("token") != [CANARY]:
            self.send_error(403, f"no token {CANARY}")
            return
        path = Path(self.translate_path(parts.path))
        if not path.is_file():
            self.send_error(404)
            return
        body = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        part = body[int(match[1]) : int(match[2]) + 1] if match else body
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {match[1]}-{int(match[1]) + len(part) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (_Ranges,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def holders(folder: Path) -> list[str]:
    """Files that hold the canary."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in paths if CANARY.encode() in path.read_bytes()]


@pytest.mark.usefixtures("workers")
def test_a_token_opens_the_catalog_and_is_written_nowhere(coseis, job, monkeypatch):  # noqa: F811
    for name in (*CREDENTIALS, "AUTHORIZATION"):
        if name not in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "GOOGLE_APPLICATION_CREDENTIALS"):
            monkeypatch.setenv(name, CANARY)
    items = job.folder / "event" / "items.json"
    document = json.loads(items.read_text())
    for feature in document["features"]:
        (items.parent / f"{feature['id']}.json").write_text(json.dumps(feature))
    links = [{"rel": "item", "href": f"{feature['id']}.json"} for feature in document["features"]]
    signed = json.loads(json.dumps(document["features"][1]))
    signed["id"], signed["assets"]["a"]["href"] = "signed", f"./post.tif?X-Amz-Signature={CANARY}"
    (items.parent / "signed.json").write_text(json.dumps(signed))
    links += [{"rel": "item", "href": "signed.json"}, {"rel": "item", "href": f"gone.txt?sig={CANARY}"}]
    (items.parent / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": links}))
    with served(items.parent) as (root, asked):
        catalog = f"{root}/catalog.json?token={CANARY}"
        said = []
        words = ["search", *job.words(out=None, core=None, min_area=None, catalog=catalog)[1:]]
        said.append(coseis(*words, "--out", job.folder / "found.json"))
        said.append(coseis(*job.words("--dry-run", catalog=catalog)))
        said.append(coseis(*job.words(catalog=catalog)))
        assert [outcome.code for outcome in said] == [0, 0, 0], said
        said.append(coseis(*job.words("--resume", catalog=catalog)))
        said.append(coseis("vectorize", job.out, "--threshold", "0.5"))
        assert [outcome.code for outcome in said[3:]] == [0, 0], said
        # Without the token, with a wrong path, and with a name before the host.
        for bad in (f"{root}/catalog.json", f"{root}/none.json?token={CANARY}x&sig={CANARY}",
                    f"http://{CANARY}:{CANARY}@{root[7:]}/catalog.json?sig={CANARY}"):  # fmt: skip
            said.append(coseis(*job.words(catalog=bad, out=job.folder / "bad")))
            said[-1].refused(42)
        monkeypatch.setattr("coseis.backends.probe_device", lambda: ("cpu", "float32"))
        said.append(coseis("doctor"))
        (items.parent / "post.tif").unlink()
        said.append(coseis(*job.words(catalog=catalog, out=job.folder / "bad")))
    for outcome in said:
        assert CANARY not in outcome.out + outcome.err
    assert holders(job.out) == []
    assert holders(job.folder / "bad") == []
    assert CANARY not in (job.folder / "found.json").read_text()
    assert not any(CANARY in path for path in asked if ".tif" in path)
    assert json.loads((job.out / "config.json").read_text())["search"]["catalog"] == f"{root}/catalog.json"


@pytest.mark.parametrize(
    "change",
    [
        {"scheduler": f"tcp://{CANARY}:{CANARY}@127.0.0.1:8786"},
        {"scheduler": f"tcp://127.0.0.1:8786?token={CANARY}"},
        {"out": f"s3://key:{CANARY}@bucket/run"},
        {"out": f"s3://bucket/run?X-Amz-Signature={CANARY}"},
        {"out": f"az://container/run?sig={CANARY}"},
        {"dem": f"https://user:{CANARY}@example.org/dem.tif"},
        {"dem": f"https://example.org/dem.tif?sig={CANARY}"},
        {"catalog": f"https://user:{CANARY}@127.0.0.1:9/catalog.json"},
        {"catalog": f"s3://key:{CANARY}@bucket/items.json"},
    ],
    ids=lambda change: str(change).replace(CANARY, "x")[:50],
)
@pytest.mark.usefixtures("no_workers")
def test_secrets_in_addresses_are_refused_without_showing_them(coseis, job, change):  # noqa: F811
    ended = coseis(*job.words(**change))
    assert ended.code in (2, 42), ended
    assert ended.err.count("\n") == 1
    assert CANARY not in ended.out + ended.err
    assert not files(job.out)


SECRETS = ["X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "X-Goog-Signature", "sig",
           "Signature",
           "Policy", "Key-Pair-Id", "token", "access_token", "api_key", "apikey", "api-key", "key", "auth",
           "jwt",
           "password", "client_secret", "GoogleAccessId", "AWSAccessKeyId", "subscription-key",
           "code"]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_parameters_that_carry_secrets_are_known(name):
    assert is_secret(name)
    assert is_secret(name.lower())


@pytest.mark.parametrize("name", ["keywords", "v", "f", "limit", "bbox", "width", "monkey", "design", "page"])
def test_other_parameters_are_not_taken_for_secrets(name):
    assert not is_secret(name)


@given(
    st.text(alphabet="abc'\"<>%&=/+;:@!$()*,~", max_size=12), st.sampled_from(["http", "S3", "wss", "tcp"])
)
def test_no_part_of_a_query_is_shown(tail, scheme):
    shown = public_form(f"cannot read {scheme}://host/x?sig={CANARY}{tail}{CANARY} (why)")
    assert CANARY not in shown
    assert public_form(f"Max retries exceeded with url: /x?token={CANARY}{tail}{CANARY}").count(CANARY) == 0


@pytest.mark.usefixtures("workers")
def test_what_a_catalog_says_is_text_in_every_output(coseis, job):  # noqa: F811
    items = job.folder / "event" / "items.json"
    document = json.loads(items.read_text())
    for feature in document["features"]:
        feature["properties"] |= {
            "providers": [{"name": HOSTILE}] * 3000,
            "license": HOSTILE,
            "title": HOSTILE,
        }
        feature["assets"] = {HOSTILE: feature["assets"]["a"] | {"title": HOSTILE}}
    items.write_text(json.dumps(document))
    ended = coseis(*job.words())
    assert (ended.code, ended.err) == (0, "")
    assert (job.out / "map.png").read_bytes().startswith(b"\x89PNG")
    with (job.out / "landslides.pmtiles").open("rb") as file:
        attribution = Reader(MmapSource(file)).metadata()["attribution"]
    assert "&lt;script&gt;" in attribution
    assert "<" not in attribution
    for name in ("map.json", "item.json", "items.json", "run.json"):
        text = (job.out / name).read_text(encoding="utf-8")
        assert "\x1b" not in text
        assert "\\ud800" not in text
        assert len(text) < 200_000
    page = (job.out / "index.html").read_text(encoding="utf-8")
    assert "onerror" not in page


DEEP = "a: " + "[" * 3000 + "]" * 3000
LAUGHS = "a: &a [x]\n" + "".join(
    f"{n}: &{n} [{', '.join(['*' + p] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [DEEP, LAUGHS, "search: &a {catalog: *a}", "a: !!python/object/apply:os.system [touch x]", "\0", "\ud800",
     "search: {catalog: x, aoi: \"\\0\", event_time: 2018-09-05T18:08:00Z}\noutput: {out: \"a\\0b\"}",
     "- a\n- b",
     "search: {[a]: b}", "{" * 2000, "search: {include: [[[a]]]}", "output: {chunk: " + "9" * 5000 + "}",
     "%YAML 9.9\n---\na: b", "search: !include /etc/passwd", "x" * 2**20 * 2],
    ids=lambda text: ascii(text)[:40],
)  # fmt: skip
@pytest.mark.usefixtures("no_workers")
def test_configurations_bring_neither_code_nor_floods(coseis, tmp_path, monkeypatch, text):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "event.yaml"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    line = coseis("map", path).refused(2)
    assert len(line) < 4000
    assert [entry.name for entry in tmp_path.iterdir()] == ["event.yaml"]


CONFIG = {"search": {"catalog": "c.json", "aoi": "1,2,3,4", "event_time": "2018-09-05T18:08:00Z"},
          "output": {"out": "run", "threshold": "card"}, "cluster": {"part": "0/2"}}  # fmt: skip


@given(mutated([CONFIG]))
def test_whatever_a_configuration_holds_only_our_errors_come_out(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_text(json.dumps(config))
    with contextlib.suppress(UsageError):
        load_config(path, {})


@given(st.binary(max_size=40) | mutated([CONFIG]).map(lambda value: json.dumps(value).encode()))
def test_whatever_a_run_s_files_hold_only_our_errors_come_out(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "fuzzed-run"
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    for name in ("run.json", "config.json", "parts/0-of-1.json"):
        (folder / name).write_bytes(content)
    store = open_store(str(folder))
    assert isinstance(store, LocalStore)
    for read in (
        lambda: read_plan(content, "run"),
        lambda: read_report(store, "run"),
        lambda: read_config(store, "run"),
        lambda: read_parts(store, "x"),
    ):
        with contextlib.suppress(CoseisError):
            read()


def test_a_training_keeps_no_token() -> None:
    region = {
        "catalog": f"https://example.org/items.json?token={CANARY}", "aoi": "1,2,3,4", "labels": "a.gpkg",
        "event_time": "2018-09-05T18:08:00Z",
    }  # fmt: skip
    config = LearnConfig.model_validate({"regions": [region], "output": {"out": "model"}})
    kept = Frozen(config=config, found=()).model_dump_json()
    assert CANARY not in kept
    assert Frozen.model_validate_json(kept).config == config.public
    assert config.public.regions[0].catalog == "https://example.org/items.json"
