"""Outputs: folders and buckets that can be written, and clear words where they cannot."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from obstore.store import MemoryStore

from coseis.errors import InputRefusedError, UnreachableError, UsageError
from coseis.objects import (
    create_object,
    get_object,
    list_objects,
    object_version,
    open_store,
    put_object,
    replace_object,
)
from serving import Page, serve


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_what_was_put_is_got_and_listed():
    store = MemoryStore()
    put_object(store, "a/1", b"one")
    put_object(store, "b/2", b"two", media_type="text/plain")
    assert get_object(store, "a/1") == b"one"
    assert get_object(store, "a/3") is None
    assert list(list_objects(store, "a/")) == ["a/1"]


def test_of_several_that_create_an_object_one_does(tmp_path):
    store = open_store(str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: create_object(store, "plan", f"{n}".encode()), range(8)))
    assert sum(made) == 1
    assert get_object(store, "plan") == f"{made.index(True)}".encode()


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_of_several_that_replace_an_object_one_does(kind, tmp_path):
    store = open_store(str(tmp_path)) if kind == "folder" else MemoryStore()
    put_object(store, "plan", b"old")
    version = object_version(store, "plan")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: replace_object(store, "plan", b"old", f"{n}".encode()), range(8)))
    assert sum(made) == 1
    assert get_object(store, "plan") == f"{made.index(True)}".encode()
    assert object_version(store, "plan") not in (version, None)
    assert object_version(store, "none") is None


def test_local_store_is_made_and_written(tmp_path):
    store = open_store(str(tmp_path / "a" / "b"), prove_writable=True)
    store.put("x", b"1")
    assert (tmp_path / "a" / "b" / "x").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        ("ftp://host/x", UsageError, "none of a path, s3://, gs:// or az://"),
        ("{file}", UsageError, "is a file; expected a folder"),
        ("{file}/below", InputRefusedError, "cannot be written"),
    ],
)
def test_bad_output(tmp_path, uri, error, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match=message):
        open_store(uri.format(file=tmp_path / "file"))


@pytest.fixture
def s3_key(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.usefixtures("s3_key")
def test_missing_or_closed_bucket_is_refused(monkeypatch, status):
    with serve({"/bucket/run/.coseis-write-test": Page("no", status)}) as root:
        monkeypatch.setenv("AWS_ENDPOINT_URL", root)
        with pytest.raises(
            InputRefusedError, match=r"output s3://bucket/run cannot be written .*bucket exist"
        ):
            open_store("s3://bucket/run", prove_writable=True)


@pytest.mark.usefixtures("s3_key")
def test_silent_store_is_unreachable(monkeypatch, free_port):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    with pytest.raises(UnreachableError, match="output s3://bucket/run does not answer"):
        open_store("s3://bucket/run", prove_writable=True)
