"""A model card and a weights file in, a ready U-Net out; the card is read without loading TensorFlow."""

from __future__ import annotations

import hashlib
import io
import lzma
import threading
import zipfile
import zlib
from collections.abc import Collection, Iterator
from importlib import resources
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from pydantic import ValidationError

from coseis.card import ModelCard, Padding
from coseis.errors import UsageError
from coseis.types import Value
from coseis.windows import HALO_PX

if TYPE_CHECKING:
    import h5py
    import keras

Precision = Literal["float32", "bfloat16"]
"""What the convolutions compute in; weights and results are float32 in both."""

CARD_NAME = "card.json"
WEIGHTS_NAME = "weights.h5"
CORE_MARGIN_PX = 2
"""Around the core that a network of `core_only` delivers."""
MAX_FILE_BYTES = 1 << 30
"""Largest weights file that is read: eight times the float32 weights of 64 base filters."""
MAX_CARD_BYTES = 1 << 20
BYTES_PER_PARAMETER = 2
"""Least, as float16."""

_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_networks: dict[tuple[object, ...], keras.Model] = {}
_networks_lock = threading.Lock()


class Model(Value):
    """A trained model on disk, checked by digest, small enough to travel to workers."""

    card: ModelCard
    path: Path
    """Folder (or ZIP file) that holds card.json and weights.h5."""

    @property
    def digest(self) -> str:
        """SHA-256 of the weights file: the model's part in a run's identity."""
        return self.card.weights_sha256

    def files(self) -> dict[str, bytes]:
        """Content of card.json and weights.h5 by name, the weights checked: what a run keeps a copy of.

        Raises:
            UsageError: The files are gone or were changed since `load_model`.
        """
        weights = _checked_weights(self.path, self.card)
        return {CARD_NAME: _read_file(self.path, CARD_NAME), WEIGHTS_NAME: weights}

    def network(self, precision: Precision = "float32", *, core_only: bool = False) -> keras.Model:
        """The network with its weights, built once a process and precision, however many threads ask.

        Args:
            precision: What the convolutions compute in.
            core_only: See `build_unet`.

        Raises:
            UsageError: The weights are gone, were changed since `load_model`, or do not fit the card.
        """
        # The digest alone does not say it: `same` and `valid` networks take the same weights.
        card = self.card
        shape = (card.bands, card.phases, card.classes, card.base_filters, card.padding)
        key = (self.digest, *shape, precision, core_only)
        with _networks_lock:
            if key not in _networks:
                weights = _checked_weights(self.path, card)
                _check_parameters(weights, card, self.path)
                network = build_unet(card, precision=precision, random_weights=False, core_only=core_only)
                _set_weights(network, weights, self.path)
                _networks[key] = network
            return _networks[key]


def load_model(path: str | Path | None = None) -> Model:
    """Reads a model's card and checks its weights by digest, before any byte of them is parsed.

    Args:
        path: Folder with card.json and weights.h5, or a ZIP file with both at its top. None: the model
            that is shipped with coseis.

    Returns:
        The model's card, and where its weights lie; they are read when the network is first built.

    Raises:
        UsageError: Nothing there, a card that does not validate, or weights of another digest.
    """
    folder = _shipped_model_path() if path is None else Path(path)
    try:
        card = ModelCard.model_validate_json(_read_file(folder, CARD_NAME))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "card"
        raise UsageError(f"model card {folder / CARD_NAME} is not valid: {place}: {first['msg']}") from error
    _checked_weights(folder, card)
    return Model(card=card, path=folder)


def save_model(network: keras.Model, card: ModelCard, folder: str | Path, *, float16: bool = True) -> Model:
    """Writes weights.h5 and card.json; the digest in the card is that of the file just written.

    Args:
        network: From `build_unet` with the same card.
        card: Its `weights_sha256` is ignored.
        folder: Made if absent; a model in it is replaced.
        float16: Store the weights in half the bytes. A weight beyond float16's range is refused.

    Raises:
        UsageError: A weight is not finite, or too large for float16.
    """
    import h5py
    import numpy as np

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, variable in _named_variables(network):
            values = np.asarray(variable, dtype=np.float32)
            stored = values.astype(np.float16) if float16 and np.abs(values).max() < 65504 else values
            if not np.isfinite(values).all() or (float16 and stored.dtype != np.float16):
                raise UsageError(
                    f"{name} holds values that {'float16' if float16 else 'a model'} cannot keep "
                    f"(largest {np.abs(values).max():g}); train at a lower rate or pass float16=False"
                )
            file.create_dataset(name, data=stored)
    weights = buffer.getvalue()
    card = card.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_NAME).write_bytes(weights)
    (folder / CARD_NAME).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Model(card=card, path=folder)


def copy_weights(start: Model, network: keras.Model) -> None:
    """Sets a network to the weights of a model, to train on from them; another number of classes starts anew.

    Raises:
        UsageError: The network has other channels, filters or levels.
    """
    given = dict(_named_variables(start.network()))
    for name, variable in _named_variables(network):
        if given[name].shape == variable.shape:
            variable.assign(given[name])
        elif not name.startswith("logits/"):
            raise UsageError(
                f"model {start.card.name} cannot be trained on: its {name} has shape "
                f"{tuple(given[name].shape)}, the network {tuple(variable.shape)}; keep bands and filters"
            )


def check_bands(card: ModelCard, available: Collection[str]) -> None:
    """Refuses scenes that lack a band of the model.

    Args:
        card: The model's card.
        available: Common names of the bands that there are, in any order.

    Raises:
        UsageError: Names the missing bands and what there is.
    """
    missing = [band for band in card.bands if band not in available]
    if missing:
        raise UsageError(
            f"model {card.name} needs bands {', '.join(card.bands)}; {', '.join(missing)} missing from "
            f"{', '.join(available) or 'no bands'}. Choose other assets or another model"
        )


def build_unet(
    card: ModelCard,
    *,
    precision: Precision = "float32",
    random_weights: bool = True,
    core_only: bool = False,
) -> keras.Model:
    """The ENVINet5 U-Net: five levels, 23 convolutions, no layer that looks at the whole window.

    Two 3x3 convolutions with ReLU a level, 2x2 max pooling down, 2x2 transposed convolution up, the
    skip concatenated (and cropped, with valid padding), a 1x1 convolution at the end. A transposed
    convolution with stride 2 does not overlap, so it adds nothing to the network's reach.

    Args:
        card: Bands, base filters, padding and classes are taken from it.
        precision: bfloat16 computes the convolutions in bfloat16; variables and output stay float32.
        random_weights: False: zeros, where weights are set next. JAX compiles the draw of every shape: 30 s.
        core_only: With `same` padding the halo is needed on the way down alone. True: it is cropped off the
            way up, two thirds of the work, and of the output all but CORE_MARGIN_PX; the core's numbers are
            the same. For windows with their halo. `valid` padding never computes it.

    Returns:
        Input float32 (window, y, x, band), any y and x that the card's lattice allows; output float32
        (window, y, x, channel) in [0, 1]: for one class its probability (sigmoid), for several
        background first, then the classes (softmax). With valid padding y and x are 184 px less, and 188 px
        where only the core is computed.

    Reference:
        Ronneberger, Fischer and Brox 2015, doi:10.1007/978-3-319-24574-4_28; padding `same` and fewer
        filters are ours to choose in the card, and there is no dropout.
    """
    import keras
    from keras import layers

    # A policy per layer, not keras.mixed_precision.set_global_policy: the process may hold both precisions.
    policy = keras.DTypePolicy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    # Given channels last, Keras 3.15 on torch copies every tensor twice a layer, but not a permuted view.
    channels_first = keras.backend.backend() == "torch"
    data_format, channel_axis = ("channels_first", 1) if channels_first else ("channels_last", -1)
    layout = {"data_format": data_format, "dtype": policy}
    core_only = core_only and card.padding == "same"
    he_normal, glorot = ("he_normal", "glorot_uniform") if random_weights else ("zeros", "zeros")
    drawn = {**layout, "kernel_initializer": glorot}

    def double_convolution(
        tensor: keras.KerasTensor, filters: int, name: str, padding: Padding = card.padding
    ) -> keras.KerasTensor:
        for step in (1, 2):
            tensor = layers.Conv2D(
                filters,
                3,
                padding=padding,
                activation="relu",
                kernel_initializer=he_normal,
                name=f"{name}_conv{step}",
                **layout,
            )(tensor)
        return tensor

    windows = keras.Input((None, None, card.channels), name="windows")
    tensor, skips = windows, []
    if channels_first:
        tensor = layers.Permute((3, 1, 2), name="channels_first")(tensor)
    for level in range(1, card.levels):
        tensor = double_convolution(tensor, card.base_filters << (level - 1), f"down{level}")
        skips.append(tensor)
        tensor = layers.MaxPooling2D(2, name=f"down{level}_pool", **layout)(tensor)
    tensor = double_convolution(tensor, card.base_filters << (card.levels - 1), f"down{card.levels}")
    if core_only:
        crop_px = _halo_px(card.levels) - CORE_MARGIN_PX
        tensor = layers.Cropping2D(crop_px, name=f"down{card.levels}_crop", **layout)(tensor)
    for level in range(card.levels - 1, 0, -1):
        filters = card.base_filters << (level - 1)
        tensor = layers.Conv2DTranspose(filters, 2, strides=2, name=f"up{level}", **drawn)(tensor)
        skip = skips[level - 1]
        if crop_px := _skip_crop_px(level, card, core_only=core_only):
            skip = layers.Cropping2D(crop_px, name=f"up{level}_crop", **layout)(skip)
        tensor = layers.Concatenate(channel_axis, dtype=policy, name=f"up{level}_skip")([skip, tensor])
        tensor = double_convolution(tensor, filters, f"up{level}", "valid" if core_only else card.padding)
    several = len(card.classes) > 1
    logits = layers.Conv2D(len(card.classes) + several, 1, name="logits", **drawn)(tensor)
    if channels_first:
        logits = layers.Permute((2, 3, 1), dtype=policy, name="channels_last")(logits)
    # In float32: a bfloat16 probability has 8 bits, coarser than the uint8 codes near 1.
    output = layers.Activation("softmax" if several else "sigmoid", dtype="float32", name="probability")(
        logits
    )
    return keras.Model(windows, output, name="envinet5")


def _halo_px(level: int) -> int:
    """Of a `same` window at the resolution of a level: 96, 48, 24, 12, 6."""
    return HALO_PX["same"] >> (level - 1)


def _skip_crop_px(level: int, card: ModelCard, *, core_only: bool) -> int:
    """Pixels to take off each side of a skip, so that it has the size of what comes up from below."""
    if core_only:
        # Twice the margin below is left: two valid convolutions turn it into that margin again.
        return _halo_px(level) - 2 * CORE_MARGIN_PX
    crop_px = 0
    if card.padding == "valid":
        for deeper in range(card.levels, level, -1):
            # Two 3x3 convolutions take 2 px a side at their own level, on the way down and on the way up.
            crop_px = 2 * (crop_px + (2 if deeper == card.levels else 4))
    return crop_px


def _shipped_model_path() -> Path:
    shipped = resources.files("coseis") / "models"
    if not isinstance(shipped, Path):
        raise UsageError(
            "the shipped model cannot be read from a zipped package; install coseis unpacked, "
            "or pass a model folder"
        )
    return shipped


def _read_file(path: Path, name: str) -> bytes:
    """One file of a model folder or ZIP, and no other: nothing is unpacked, so no name leads anywhere."""
    try:
        if path.is_dir():
            with (path / name).open("rb") as file:
                return _read_bounded(file, path / name, name)
        with zipfile.ZipFile(path) as archive:
            _check_size(path / name, archive.getinfo(name).file_size, name)
            with archive.open(name) as file:
                return _read_bounded(file, path / name, name)
    # Of a ZIP file: damaged or cut off, encrypted, or packed in a way that is not known.
    except (OSError, KeyError, ValueError, EOFError, RuntimeError, NotImplementedError, *_DAMAGED) as error:
        raise UsageError(
            f"no model at {path}: expected a folder or ZIP file with {CARD_NAME} and {WEIGHTS_NAME}, "
            f"but {name} could not be read ({type(error).__name__}: {error})"
        ) from error


def _read_bounded(file: IO[bytes], path: Path, name: str) -> bytes:
    """One byte more than is allowed tells a file that is too large, whatever size it states."""
    content = file.read((MAX_CARD_BYTES if name == CARD_NAME else MAX_FILE_BYTES) + 1)
    _check_size(path, len(content), name)
    return content


def _check_size(path: Path, size_bytes: int, name: str) -> None:
    most = MAX_CARD_BYTES if name == CARD_NAME else MAX_FILE_BYTES
    if size_bytes > most:
        raise UsageError(f"{path} has {size_bytes} bytes or more; a model's has at most {most}")


def _checked_weights(path: Path, card: ModelCard) -> bytes:
    weights = _read_file(path, WEIGHTS_NAME)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != card.weights_sha256:
        raise UsageError(
            f"{path / WEIGHTS_NAME} has SHA-256 {digest}, but the card of {card.name} says "
            f"{card.weights_sha256}: the file was changed or belongs to another card; fetch both again"
        )
    return weights


def _check_parameters(weights: bytes, card: ModelCard, path: Path) -> None:
    """Refuses, before it is built, a network that the file is too small for: it would fill the memory."""
    if len(weights) < BYTES_PER_PARAMETER * card.parameters:
        raise UsageError(
            f"{path / WEIGHTS_NAME} has {len(weights)} bytes, but the network of {card.name} needs "
            f"{card.parameters} parameters of {BYTES_PER_PARAMETER} bytes or more: it belongs to another card"
        )


def _set_weights(network: keras.Model, weights: bytes, path: Path) -> None:
    """Copies every dataset into the variable of its name; both sides must hold the same names and shapes."""
    import h5py
    import numpy as np

    variables = dict(_named_variables(network))
    try:
        with h5py.File(io.BytesIO(weights), "r") as file:
            names = {f"{layer}/{name}" for layer in file for name in _plain_group(file, layer)}
            if names != variables.keys():
                odd = ", ".join(sorted(names ^ variables.keys())[:4])
                raise UsageError(
                    f"{path / WEIGHTS_NAME} does not hold the network of its card: {odd} on one side only"
                )
            for name, variable in variables.items():
                dataset = _plain_dataset(file, name)
                if dataset.shape != tuple(variable.shape):
                    raise UsageError(
                        f"{path / WEIGHTS_NAME}: {name} has shape {dataset.shape}, but the card's "
                        f"network needs {tuple(variable.shape)}"
                    )
                values = np.asarray(dataset, dtype=np.float32)
                if not np.isfinite(values).all():
                    raise UsageError(f"{path / WEIGHTS_NAME}: {name} holds a number that is not finite")
                variable.assign(values)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path / WEIGHTS_NAME} is not readable HDF5: {error}") from error


def _named_variables(network: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    """(layer/kernel or layer/bias, variable) in layer order: the names of the datasets in weights.h5."""
    for layer in network.layers:
        for variable in layer.weights:
            yield f"{layer.name}/{variable.name}", variable


def _plain_group(file: h5py.File, name: str) -> h5py.Group:
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Group):
        raise UsageError(
            f"weights: {name} is not a plain group; links are refused, as they reach other files"
        )
    return file[name]


def _plain_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset stored in this file: links and external storage could read any file of the machine."""
    import h5py

    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise UsageError(f"weights: {name} is not a plain dataset; links and external storage are refused")
    if dataset.dtype.kind != "f":
        raise UsageError(f"weights: {name} is {dataset.dtype}; expected float16 or float32")
    # Not chunked, so not packed either: what is read has been counted already.
    if dataset.chunks is not None or dataset.id.get_storage_size() != dataset.nbytes:
        raise UsageError(f"weights: {name} is packed or not there; expected plain numbers")
    return dataset
