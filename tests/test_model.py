"""Models: the network that the card says, weights by digest only, nothing parsed before it is checked."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from coseis.errors import UsageError
from coseis.model import Model, build_unet, check_bands, load_model, save_model
from making import a_card


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return save_model(build_unet(a_card()), a_card(), tmp_path_factory.mktemp("model"), float16=False)


@pytest.fixture
def copied(saved: Model, tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    shutil.copytree(saved.path, folder)
    return folder


def rewrite(folder: Path, change: Any) -> None:
    """Lets `change` edit the open HDF5 file, then brings the card's digest up to date."""
    with h5py.File(folder / "weights.h5", "r+") as file:
        change(file)
    card = json.loads((folder / "card.json").read_text())
    card["weights_sha256"] = hashlib.sha256((folder / "weights.h5").read_bytes()).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize(("filters", "millions"), [(16, 1.94), (64, 31.03)])
def test_envinet5_has_23_convolutions(filters: int, millions: float) -> None:
    network = build_unet(a_card(base_filters=filters))
    convolutions = [layer for layer in network.layers if type(layer).__name__.startswith("Conv2D")]
    kernels = [layer.kernel_size for layer in convolutions]
    assert len(kernels) == 23
    assert (kernels.count((3, 3)), kernels.count((2, 2)), kernels.count((1, 1))) == (18, 4, 1)
    assert network.count_params() / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(
    ("padding", "size", "output"), [("same", 64, 64), ("valid", 204, 20), ("valid", 572, 388)]
)
def test_output_size(padding: str, size: int, output: int) -> None:
    network = build_unet(a_card(padding=padding, base_filters=1))
    assert network.compute_output_shape((1, size, size, 3))[1:3] == (output, output)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("classes", [("landslide",), ("source", "deposit")])
def test_output_is_float32_probability(precision: Any, classes: tuple[str, ...]) -> None:
    network = build_unet(a_card(classes=classes), precision=precision)
    windows = np.random.default_rng(0).normal(0, 3, (2, 32, 48, 3)).astype(np.float32)
    output = np.asarray(network(windows))
    assert output.dtype == np.float32
    assert output.shape == (2, 32, 48, 1 if len(classes) == 1 else 3)
    assert (output >= 0).all()
    assert (output <= 1).all()
    if len(classes) > 1:
        np.testing.assert_allclose(output.sum(axis=-1), 1, rtol=1e-5)


def test_precision_belongs_to_the_layers_not_to_the_process() -> None:
    import keras

    half = build_unet(a_card(), precision="bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    assert half.get_layer("down1_conv1").compute_dtype == "bfloat16"
    assert {variable.dtype for variable in half.weights} == {"float32"}


@pytest.mark.parametrize("float16", [False, True])
def test_saved_equals_loaded(tmp_path: Path, float16: bool) -> None:
    card = a_card(classes=("a", "b"), padding="valid")
    network = build_unet(card)
    model = save_model(network, card, tmp_path / "model", float16=float16)
    assert load_model(tmp_path / "model") == model
    for written, read in zip(network.weights, model.network().weights, strict=True):
        expected = np.asarray(written).astype(np.float16 if float16 else np.float32)
        np.testing.assert_array_equal(np.asarray(read), expected.astype(np.float32))


def test_one_file_holds_a_model_too(saved: Model, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for name, content in saved.files().items():
            archive.writestr(name, content)
    assert load_model(tmp_path / "model.zip").card == saved.card
    assert load_model(tmp_path / "model.zip").files() == saved.files()


def test_threads_share_one_network(saved: Model) -> None:
    with ThreadPoolExecutor(8) as pool:
        networks = set(pool.map(lambda _: id(saved.network("float32")), range(16)))
    assert len(networks) == 1
    assert saved.network("bfloat16") is not saved.network("float32")


def test_networks_of_equal_weights_are_told_apart_by_padding(saved: Model) -> None:
    valid = saved.card.model_copy(update={"padding": "valid", "halo_px": 94})
    network = Model(card=valid, path=saved.path).network()
    assert network is not saved.network()
    assert network.compute_output_shape((1, 204, 204, 3))[1] == 20


def test_model_travels_as_json(saved: Model) -> None:
    assert Model.model_validate_json(saved.model_dump_json()) == saved


def test_shipped_model_is_small_and_whole() -> None:
    model = load_model()
    assert model.card.bands == ("red", "green", "blue")
    assert set(model.card.inputs) == {"display", "reflectance"}
    assert len(model.files()["weights.h5"]) <= 5e6
    assert np.isfinite(np.asarray(model.network()(np.zeros((1, 32, 32, 3), np.float32)))).all()


def test_cards_are_read_without_tensorflow() -> None:
    code = "import sys; from coseis.model import load_model; load_model(); print('tensorflow' in sys.modules, 'keras' in sys.modules)"  # noqa: E501
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_another_digest_is_refused_before_parsing(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = bytearray((copied / "weights.h5").read_bytes())
    weights[-1] ^= 1
    (copied / "weights.h5").write_bytes(weights)
    monkeypatch.setattr(h5py, "File", lambda *_: pytest.fail("parsed before it was checked"))
    said = json.loads((copied / "card.json").read_text())["weights_sha256"]
    with pytest.raises(UsageError, match=f"{hashlib.sha256(weights).hexdigest()}.*{said}"):
        load_model(copied)


def test_weights_changed_after_loading_are_refused(copied: Path) -> None:
    rewrite(copied, lambda file: file["logits/bias"].write_direct(np.array([3], np.float32)))
    model = load_model(copied)
    (copied / "weights.h5").write_bytes(b"other")
    with pytest.raises(UsageError, match="the file was changed"):
        model.network()


def test_weights_of_another_network_are_refused(copied: Path, tmp_path: Path) -> None:
    wide = save_model(build_unet(a_card(base_filters=3)), a_card(base_filters=3), tmp_path / "wide")
    card = wide.card.model_copy(update={"base_filters": 2})
    (wide.path / "card.json").write_text(card.model_dump_json())
    with pytest.raises(
        UsageError, match=r"down1_conv1/kernel has shape \(3, 3, 3, 3\).*needs \(3, 3, 3, 2\)"
    ):
        load_model(wide.path).network()
    rewrite(copied, lambda file: file.move("up1", "up9"))
    with pytest.raises(UsageError, match="up1/bias, up1/kernel, up9/bias, up9/kernel on one side only"):
        load_model(copied).network()


def external(file: h5py.File) -> None:
    del file["logits/bias"]
    file["logits"].create_dataset("bias", (1,), "float32", external=[("/etc/passwd", 0, 4)])


def linked(file: h5py.File) -> None:
    del file["logits/bias"]
    file["logits/bias"] = h5py.ExternalLink("other.h5", "/x")


def pickled(file: h5py.File) -> None:
    del file["logits/bias"]
    file["logits"].create_dataset("bias", data=b"cos\nsystem")


def folder_linked(file: h5py.File) -> None:
    file["extra"] = h5py.ExternalLink("other.h5", "/")


@pytest.mark.parametrize("change", [external, linked, pickled, folder_linked])
def test_weights_that_reach_for_more_than_numbers_are_refused(copied: Path, change: Any) -> None:
    rewrite(copied, change)
    with pytest.raises(UsageError, match=r"weights: .* is (not a plain|object|\|S)"):
        load_model(copied).network()


def test_not_a_model(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a folder or ZIP file with card\.json and weights\.h5"):
        load_model(tmp_path / "nothing")
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(UsageError, match="BadZipFile"):
        load_model(tmp_path / "text.txt")
    (copied / "card.json").write_text('{"name": "x"}')
    with pytest.raises(UsageError, match="is not valid: bands: Field required"):
        load_model(copied)


def test_a_file_that_is_not_hdf5_is_refused(copied: Path) -> None:
    card = json.loads((copied / "card.json").read_text())
    content = b"pickle" * 20_000
    (copied / "weights.h5").write_bytes(content)
    card["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (copied / "card.json").write_text(json.dumps(card))
    with pytest.raises(UsageError, match="not readable HDF5"):
        load_model(copied).network()


def test_weights_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    network = build_unet(a_card())
    network.get_layer("logits").bias.assign([1e6])
    with pytest.raises(UsageError, match="logits/bias holds values that float16 cannot keep"):
        save_model(network, a_card(), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    save_model(network, a_card(), tmp_path / "model", float16=False)


def test_missing_bands_are_named() -> None:
    check_bands(a_card(), ["blue", "green", "red", "nir"])
    with pytest.raises(UsageError, match="needs bands red, green, blue; red, blue missing from green, nir"):
        check_bands(a_card(), ["green", "nir"])


def test_weights_file_is_plain_hdf5(saved: Model) -> None:
    with h5py.File(io.BytesIO(saved.files()["weights.h5"])) as file:
        assert file["logits/kernel"].shape == (1, 1, 2, 1)
        assert set(file["logits"]) == {"kernel", "bias"}
