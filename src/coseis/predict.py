"""Sliding-window inference on exact windows: features and a model go in, probabilities or codes come out.

`predict_features` is the pure part that both ways share: `map_event` calls it in a task on what it read
with halos, `predict_proba` lays it under dask.array.overlap for any lazy image.
"""

import json
import threading
from collections.abc import Callable, Mapping
from itertools import product
from math import ceil

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from coseis.backends import compile_network, probe_device
from coseis.card import ModelCard
from coseis.errors import UsageError
from coseis.features import stack_features
from coseis.model import Model, Precision
from coseis.reader import inspect_scene
from coseis.types import CODE_SCALE, SCENE_FILL, Phase, Scene, Status
from coseis.windows import HALO_PX, MAX_CORE_PX, window_px

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(window, y, x, band) float32 to (window, y, x, channel) float32: what predict needs of a network."""

_device = threading.Semaphore(1)
"""One window batch at a time: other threads of the worker read, decode and compress meanwhile."""

_compiled: dict[tuple[str, Precision, int, int], Network] = {}
_compiling = threading.Lock()


def ready_network(model: Model, *, precision: Precision, core_px: int, batch: int) -> Network:
    """The model's network for one window size and batch, compiled and warmed once per process.

    Args:
        model: From `load_model`.
        precision: What the convolutions compute in.
        core_px: Core size; the window follows from the card's padding.
        batch: Windows a call. Shapes are fixed, because another batch may round otherwise on a GPU.
    """
    side = window_px(core_px, model.card.padding)
    key = (model.digest, precision, side, batch)
    with _compiling:
        if key not in _compiled:
            shape = (batch, side, side, model.card.channels)
            _compiled[key] = compile_network(model.network(precision, core_only=True), shape)
        return _compiled[key]


def predict_features(
    features: NDArray[np.float32],
    network: Network,
    card: ModelCard,
    *,
    core_px: int,
    batch: int = 1,
    wanted: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Probabilities of an area from its features, window by window.

    Every window starts on the lattice, sees `halo_px` of context each side and delivers one core; the
    result is that of the network on the whole area at once.

    Args:
        features: float32 (y, x, band): the area, a whole number of cores a side, plus the card's halo on
            each side.
        network: From `ready_network`, or any function of that form.
        card: Gives padding, halo and classes.
        core_px: Core size, a multiple of 16.
        batch: Windows a call; the last call is filled up with zeros.
        wanted: bool (y, x) without the halo; a core that holds no True pixel is not computed, and 0.

    Returns:
        float32 (class, y, x) in [0, 1], the halo cut off.

    Raises:
        UsageError: the core is not legal, or the area is not a whole number of cores.
    """
    halo, side = HALO_PX[card.padding], window_px(core_px, card.padding)
    height, width = features.shape[0] - 2 * halo, features.shape[1] - 2 * halo
    if height <= 0 or width <= 0 or height % core_px or width % core_px:
        raise UsageError(f"area {height} x {width} px is not a whole number of cores of {core_px} px")
    out = np.zeros((len(card.classes), height, width), np.float32)
    places = [
        (y, x)
        for y, x in product(range(0, height, core_px), range(0, width, core_px))
        if wanted is None or wanted[y : y + core_px, x : x + core_px].any()
    ]
    for start in range(0, len(places), batch):
        taken = places[start : start + batch]
        windows = np.zeros((batch, side, side, features.shape[2]), np.float32)
        for window, (y, x) in zip(windows, taken, strict=False):
            window[:] = features[y : y + side, x : x + side]
        with _device:
            channels = network(windows)
        cut = (channels.shape[1] - core_px) // 2
        background = channels.shape[3] - len(card.classes)
        for channel, (y, x) in zip(channels, taken, strict=False):
            core = channel[cut : cut + core_px, cut : cut + core_px, background:]
            out[:, y : y + core_px, x : x + core_px] = np.moveaxis(core, 2, 0)
    return out


def to_codes(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Probability in [0, 1] to uint8 codes, round(200 p); halves go to the even code."""
    codes: NDArray[np.uint8] = np.rint(probability * np.float32(CODE_SCALE)).astype(np.uint8)
    return codes


def predict_proba(
    cube: xr.Dataset,
    model: Model,
    *,
    phase: Phase = "post",
    precision: Precision | None = None,
    core_px: int = MAX_CORE_PX // 2,
    batch: int = 1,
) -> xr.DataArray:
    """Landslide probability of a lazy cube, lazily: for notebooks and any Dask client.

    Args:
        cube: From `load_cube`; `cube.as_cube` makes one of any lazy (band, y, x) image.
        model: From `load_model`.
        phase: Which phase to predict; a model that sees several at once predicts the last of them.
        precision: Default: what suits the machine that calls; name it where the workers are others.
        core_px: Core size, a multiple of 16; chunks become whole numbers of cores.
        batch: Windows a call of the network.

    Returns:
        Lazy float32 (class, y, x) in [0, 1] with the cube's coordinates; NaN where nothing was observed or
        outside the area of interest, as in a run's own cube.

    Raises:
        UsageError: bands, phase or core do not fit.
    """
    card = model.card
    missing = [band for band in card.bands if band not in cube.band.values]
    phases = [phase] if len(card.phases) == 1 else list(card.phases)
    if missing or not set(phases) <= set(cube.phase.values):
        raise UsageError(
            f"model {card.name} needs bands {', '.join(card.bands)} of {' and '.join(phases)}; the cube has "
            f"bands {', '.join(map(str, cube.band.values))} of {', '.join(map(str, cube.phase.values))}"
        )
    window_px(core_px, card.padding)
    scenes = _measured_scenes(cube.attrs["scenes"], card)
    image = cube.image.sel(phase=phases, band=list(card.bands)).data
    scene = cube.scene.sel(phase=phases).data
    halo = HALO_PX[card.padding]
    step = core_px * max(ceil(halo / core_px), round(image.chunksize[-1] / core_px))
    height, width = scene.shape[1:]
    # A block holds all phases and bands of its pixels; blockwise drops the axes that the output lacks.
    image, scene = image.rechunk((-1, -1, step, step)), scene.rechunk((-1, step, step))
    features = da.blockwise(
        _features_block,
        "yxc",
        image,
        "pbyx",
        scene,
        "pyx",
        scenes=scenes,
        card=card,
        concatenate=True,
        new_axes={"c": card.channels},
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )
    # Whole steps: dask would join a rest smaller than the halo to its neighbour, off the lattice.
    filled_up = ((0, -height % step), (0, -width % step), (0, 0))
    features = da.pad(features, filled_up, constant_values=card.fill).rechunk((step, step, -1))
    depth = {0: halo, 1: halo, 2: 0}
    padded = da.overlap.overlap(features, depth=depth, boundary=card.fill, allow_rechunk=False)
    kept = tuple(tuple(side - 2 * halo for side in axis) for axis in padded.chunks[:2])
    probability = padded.map_blocks(
        _predict_block,
        model=model,
        precision=precision or probe_device()[1],
        core_px=core_px,
        batch=batch,
        drop_axis=2,
        new_axis=0,
        chunks=((len(card.classes),), *kept),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )[:, :height, :width]
    of_phases = cube.sel(phase=phases)
    observed = of_phases.scene != SCENE_FILL
    if "status" in cube:
        observed &= of_phases.status != Status.OUTSIDE_AOI
    seen = observed.all("phase")
    coordinates = {"class": list(card.classes), **seen.coords}
    result = xr.DataArray(probability, dims=("class", "y", "x"), coords=coordinates, name="probability")
    return result.where(seen)


def _features_block(
    image: NDArray[np.float32], scene: NDArray[np.uint16], *, scenes: Mapping[int, Scene], card: ModelCard
) -> NDArray[np.float32]:
    return stack_features(image, scene, scenes, card)


def _predict_block(
    features: NDArray[np.float32], *, model: Model, precision: Precision, core_px: int, batch: int
) -> NDArray[np.float32]:
    network = ready_network(model, precision=precision, core_px=core_px, batch=batch)
    return predict_features(features, network, model.card, core_px=core_px, batch=batch)


def _measured_scenes(scenes: str, card: ModelCard) -> dict[int, Scene]:
    """The cube's scenes by index; statistics that the card needs and a scene lacks are measured now."""
    values = [Scene.model_validate(scene) for scene in json.loads(scenes)]
    if card.normalization.kind != "fixed":
        values = [scene if scene.statistics else inspect_scene(scene, card.bands) for scene in values]
    return {scene.index: scene for scene in values}
