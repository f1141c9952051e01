"""Models that strangers made: nothing in them is run, no other file is read, one clear line."""

import contextlib
import hashlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given

from coseis.errors import CoseisError, UsageError
from coseis.model import CARD_NAME, WEIGHTS_NAME, build_unet, load_model, save_model
from making import a_card
from test_cli import coseis, files, job, no_workers  # noqa: F401
from test_hostile_stac import mutated

RAN = "coseis-test-ran"


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, (f"open({self._place!r}, 'w').close()",)


def sealed(folder: Path, weights: bytes, **changes: Any) -> Path:
    """A model folder whose digest is right, whatever the weights are."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(weights).hexdigest()
    (folder / WEIGHTS_NAME).write_bytes(weights)
    card = json.loads(a_card().model_dump_json()) | {"weights_sha256": digest} | changes
    (folder / CARD_NAME).write_text(json.dumps(card))
    return folder


def refused_network(folder: Path, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        load_model(folder).network()


def test_a_pickle_is_never_unpickled(tmp_path):
    place = tmp_path / RAN
    body = pickle.dumps(Evil(str(place)))
    refused_network(sealed(tmp_path / "a", body), "needs 30567 parameters")
    refused_network(sealed(tmp_path / "b", body + bytes(100_000)), "not readable HDF5")
    assert not place.exists()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_whole_keras_model_is_never_loaded(tmp_path):
    """A Lambda layer holds code; in .keras as in .h5."""
    import keras

    place = tmp_path / RAN
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(90_000 // 5),
        keras.layers.Lambda(lambda x: exec("") or x),
    ]
    network = keras.Sequential(layers)
    for suffix in ("keras", "h5"):
        path = tmp_path / f"whole.{suffix}"
        network.save(path)
        for folder in (path, sealed(tmp_path / suffix, path.read_bytes())):
            with pytest.raises(UsageError):
                load_model(folder).network()
    assert not place.exists()


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return save_model(build_unet(a_card()), a_card(), tmp_path_factory.mktemp("good"), float16=False).path


def changed(good: Path, folder: Path, change: Callable[[h5py.File], None]) -> Path:
    folder.mkdir()
    path = folder / WEIGHTS_NAME
    path.write_bytes((good / WEIGHTS_NAME).read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    return sealed(folder, path.read_bytes())


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((1,), "float32")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (1,))
    del file["logits/bias"]
    file["logits"].create_virtual_dataset("bias", layout)


def soft(file: h5py.File) -> None:
    del file["logits/bias"]
    file["logits/bias"] = h5py.SoftLink("/up1/bias")


def soft_circle(file: h5py.File) -> None:
    del file["logits/bias"]
    file["logits/bias"] = h5py.SoftLink("/logits/bias")


def group_link(file: h5py.File) -> None:
    del file["logits"]
    file["logits"] = h5py.ExternalLink("/etc/passwd", "/")


def never_written(file: h5py.File) -> None:
    """A terabyte by its shape, nothing in the file."""
    del file["up1/kernel"]
    file["up1"].create_dataset("kernel", (2**20, 2**18), "float32")


def unfilled(file: h5py.File) -> None:
    shape = file["up1/kernel"].shape
    del file["up1/kernel"]
    file["up1"].create_dataset("kernel", shape, "float32")


def packed(file: h5py.File) -> None:
    shape = file["up1/kernel"].shape
    del file["up1/kernel"]
    file["up1"].create_dataset("kernel", data=np.zeros(shape, "f4"), compression="gzip", chunks=True)


def text(file: h5py.File) -> None:
    del file["logits/bias"]
    file["logits"].create_dataset("bias", data=["x"])


def references(file: h5py.File) -> None:
    del file["logits/bias"]
    file["logits"].create_dataset("bias", data=[file.ref], dtype=h5py.ref_dtype)


def not_a_number(file: h5py.File) -> None:
    file["logits/bias"][...] = np.nan


CHANGES = [virtual, soft, soft_circle, group_link, never_written, unfilled, packed, text, references]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_weights_are_plain_numbers_of_this_file(good, tmp_path, change):
    refused_network(changed(good, tmp_path / "model", change), "weights|has shape|weights.h5")


def test_weights_that_are_no_numbers_are_refused(good, tmp_path):
    refused_network(
        changed(good, tmp_path / "model", not_a_number), "logits/bias holds a number that is not finite"
    )


@pytest.mark.parametrize("cut", [8, 100, 2000, 50_000])
def test_damaged_weights_are_refused(good, tmp_path, cut):
    body = (good / WEIGHTS_NAME).read_bytes()
    refused_network(sealed(tmp_path / "cut", body[:-cut]), r"weights\.h5")
    noise = bytearray(body)
    noise[cut : cut + 64] = np.random.default_rng(cut).bytes(64)
    # It may have hit numbers alone.
    with contextlib.suppress(UsageError):
        load_model(sealed(tmp_path / "noise", bytes(noise))).network()


ABSURD: list[dict[str, Any]] = [
    {"base_filters": 10**9}, {"base_filters": 0}, {"base_filters": 512},
    {"classes": [f"c{n}" for n in range(10**6)]}, {"classes": []}, {"classes": ["a\nb"]}, {"classes": [""]},
    {"bands": []}, {"bands": ["red"] * 1000}, {"bands": ["\u001b[2J"]}, {"phases": []},
    {"inputs": {"display": {"low": "NaN", "high": 255}}}, {"inputs": {"display": {"low": 5, "high": 5}}},
    {"inputs": {"display": {"low": 0, "high": "Infinity"}}},
    {"inputs": {"display": {"low": 0, "high": 1, "gamma": 0}}},
    {"inputs": {}}, {"halo_px": -96}, {"halo_px": 10**9}, {"lattice_px": 8}, {"levels": 50},
    {"padding": "full"},
    {"fill": "NaN"}, {"resolution_m": [0, 3]}, {"resolution_m": [6, 3]},
    {"resolution_m": ["-Infinity", "Infinity"]},
    {"threshold": 7}, {"threshold": "NaN"}, {"name": "x" * 10_000}, {"name": "a\nb"}, {"name": ""},
    {"more": 1},
    {"normalization": {"kind": "fixed", "mean": [0, 0, 0], "std": [0, 1, 1]}},
    {"normalization": {"kind": "fixed", "mean": ["NaN", 0, 0], "std": [1, 1, 1]}},
    {"normalization": {"kind": "pickle"}}, {"weights_sha256": "0" * 64}, {"weights_sha256": "../../x"},
]  # fmt: skip


@pytest.mark.parametrize("card", ABSURD, ids=lambda card: json.dumps(card)[:50])
@pytest.mark.usefixtures("no_workers")
def test_cards_of_absurd_numbers_are_refused(coseis, job, card):  # noqa: F811
    folder = sealed(job.folder / "absurd", bytes(100_000), **card)
    if card == {"base_filters": 512}:
        # The card alone may be right: the file is too small for it.
        refused_network(folder, r"needs 1985\d{6} parameters")
        return
    line = coseis(*job.words(model=folder)).refused(2)
    assert len(line) < 2000
    assert not files(job.out)


def archive(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members:
            made.writestr(name, content)
    return buffer.getvalue()


def traversal(card: bytes) -> bytes:
    return archive([("../card.json", card), ("../../weights.h5", b"x"), ("/etc/card.json", card)])


def card_bomb(card: bytes) -> bytes:
    return archive([(CARD_NAME, bytes(2**24)), (WEIGHTS_NAME, b"x")])


def weights_bomb(card: bytes) -> bytes:
    body = bytearray(archive([(CARD_NAME, card), (WEIGHTS_NAME, b"x")]))
    place = body.rindex(b"PK\x01\x02")
    body[place + 24 : place + 28] = struct.pack("<I", 2**31)
    return bytes(body)


def encrypted(card: bytes) -> bytes:
    body = bytearray(archive([(CARD_NAME, card)]))
    body[6] |= 1
    body[body.index(b"PK\x01\x02") + 8] |= 1
    return bytes(body)


def unknown_method(card: bytes) -> bytes:
    body = bytearray(archive([(CARD_NAME, card)]))
    body[8] = 99
    body[body.index(b"PK\x01\x02") + 10] = 99
    return bytes(body)


def damaged(card: bytes) -> bytes:
    body = bytearray(archive([(CARD_NAME, card * 50)]))
    body[60:80] = bytes(range(235, 255))
    return bytes(body)


def cut_off(card: bytes) -> bytes:
    return archive([(CARD_NAME, card)])[:-10]


@pytest.mark.parametrize(
    "make",
    [traversal, card_bomb, weights_bomb, encrypted, unknown_method, damaged, cut_off],
    ids=lambda make: make.__name__,
)
@pytest.mark.usefixtures("no_workers")
def test_archives_are_read_by_name_and_never_unpacked(coseis, job, make):  # noqa: F811
    path = job.folder / "model.zip"
    path.write_bytes(make(a_card().model_dump_json().encode()))
    before = files(job.folder)
    coseis(*job.words(model=path)).refused(2)
    assert files(job.folder) == before


def test_a_card_is_not_read_without_end(tmp_path):
    folder = sealed(tmp_path / "model", b"x")
    (folder / CARD_NAME).unlink()
    (folder / CARD_NAME).symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="a model's has at most 1048576"):
        load_model(folder)


@given(mutated([json.loads(a_card().model_dump_json())]))
def test_whatever_a_card_holds_only_our_errors_come_out(tmp_path_factory, card):
    folder = tmp_path_factory.getbasetemp() / "fuzzed-model"
    folder.mkdir(exist_ok=True)
    (folder / WEIGHTS_NAME).write_bytes(b"")
    (folder / CARD_NAME).write_text(json.dumps(card))
    with pytest.raises(CoseisError):
        load_model(folder)
