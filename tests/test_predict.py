"""Exact windows: tiled equals whole on floats, whatever the core, the batch or the Dask chunks."""

import json
from types import SimpleNamespace

import dask
import dask.array
import keras
import numpy as np
import pytest
import xarray as xr
from rasterio.windows import Window

from coseis.backends import probe_device
from coseis.card import ModelCard, Normalization, Stretch
from coseis.cube import Recipe, as_cube, load_cube, read_window
from coseis.errors import UsageError
from coseis.features import make_features
from coseis.model import build_unet, save_model
from coseis.predict import predict_features, predict_proba, ready_network, to_codes
from coseis.reader import inspect_scene
from coseis.task import predict_chunk
from coseis.types import CODE_FILL, CONTEXT_INCOMPLETE, Scene, Status
from coseis.windows import HALO_PX, chunk_grid, window_px
from making import BANDS, a_card, area_of, found_of, grid, texture, write_scene


def tiny_card(padding="same", classes=("landslide",)):
    return ModelCard(
        name=f"tiny-{padding}", bands=BANDS, inputs={"display": Stretch(low=0, high=255)},
        normalization=Normalization(kind="fixed", mean=(0.4,) * 3, std=(0.2,) * 3), resolution_m=(2, 11),
        padding=padding, base_filters=2, classes=classes, halo_px=HALO_PX[padding], weights_sha256="",
    )  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A random network of each padding, with weights large enough that context matters."""
    made = {}
    for padding in ("same", "valid"):
        keras.utils.set_random_seed(7)
        card = tiny_card(padding)
        network = build_unet(card)
        folder = tmp_path_factory.mktemp(padding)
        made[padding] = save_model(network, card, folder)
    return made


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(3)
    return rng.normal(size=(960, 960, 3)).astype(np.float32)


def around(features, halo, size):
    """The area of `size` at 192, 192 with its halo."""
    start = 192 - halo
    return features[start : start + size + 2 * halo, start : start + size + 2 * halo]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("core", [64, 192, 288])
def test_tiled_equals_whole(models, features, padding, core):
    """The whole is one window of 576 px; cores of 64, 192 and 288 px must give its very numbers."""
    model, halo = models[padding], HALO_PX[padding]
    area = around(features, halo, 576)
    whole_network = ready_network(model, precision="float32", core_px=576, batch=1)
    whole = predict_features(area, whole_network, model.card, core_px=576)
    network = ready_network(model, precision="float32", core_px=core, batch=2)
    tiled = predict_features(area, network, model.card, core_px=core, batch=2)
    assert whole.std() > 1e-3
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=2e-6)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_the_core_alone_has_the_numbers_of_the_whole_window(models, features, padding):
    windows = features[None, : window_px(192, padding), : window_px(192, padding)]
    model = models[padding]
    whole, core = (np.asarray(model.network(core_only=core_only)(windows)) for core_only in (False, True))
    assert core.shape == (1, 196, 196, 1)
    cut = (whole.shape[1] - 196) // 2
    np.testing.assert_allclose(core, whole[:, cut : cut + 196, cut : cut + 196], rtol=0, atol=2e-6)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_off_the_lattice_is_not_exact(models, features, padding):
    """The lattice is no superstition: the same core, its window 8 px off, gives other numbers."""
    model, halo = models[padding], HALO_PX[padding]
    network = ready_network(model, precision="float32", core_px=64, batch=1)
    on = predict_features(around(features, halo, 64), network, model.card, core_px=64)
    start = 192 - halo - 8
    shifted = features[start : start + 64 + 2 * halo, start : start + 64 + 2 * halo]
    off = predict_features(shifted, network, model.card, core_px=64)
    assert np.abs(on[0, :56, :56] - off[0, 8:, 8:]).max() > 1e-4


def test_area_must_be_whole_cores(models, features):
    model = models["same"]
    with pytest.raises(UsageError, match="not a whole number of cores of 64 px"):
        predict_features(features[:292, :292], lambda w: w, model.card, core_px=64)
    with pytest.raises(UsageError, match="nearest legal core is 96 px"):
        ready_network(model, precision="float32", core_px=100, batch=1)


def test_unwanted_cores_are_not_computed(models):
    card = models["same"].card
    calls = []

    def network(windows):
        calls.append(len(windows))
        return np.ones((*windows.shape[:3], 1), np.float32)

    wanted = np.zeros((128, 192), bool)
    wanted[70, 100] = True
    area = np.zeros((128 + 192, 192 + 192, 3), np.float32)
    out = predict_features(area, network, card, core_px=64, wanted=wanted)
    assert len(calls) == 1
    assert out[0, 64:, 64:128].all()
    assert not out[0, :64].any()


def test_several_classes_drop_the_background():
    card = tiny_card(classes=("landslide", "water"))

    def network(windows):
        shape = (*windows.shape[:3], 3)
        return np.broadcast_to(np.array([0.7, 0.2, 0.1], np.float32), shape)

    out = predict_features(np.zeros((256, 256, 3), np.float32), network, card, core_px=64)
    np.testing.assert_array_equal(out[:, 0, 0], np.array([0.2, 0.1], np.float32))


def test_codes_are_exact_for_two_decimals():
    thresholds = np.arange(101, dtype=np.float32) / 100
    np.testing.assert_array_equal(to_codes(thresholds), np.arange(0, 201, 2))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A scene smaller than its grid, so that both ways see the same surroundings: nothing."""
    pixels = texture((3, 400, 520), seed=5)
    pixels[:, 150:180, 90:140] = 0
    geobox = grid(500, 620)
    affine = geobox.affine @ geobox.affine.translation(50, 40)
    scene = write_scene(tmp_path_factory.mktemp("scene") / "s.tif", pixels, affine)
    return found_of([scene], area_of(geobox)), geobox


@pytest.mark.parametrize("chunk_px", [128, 200, 1024])
def test_lazy_probability_equals_the_tasks(models, found, chunk_px):
    """predict_proba over dask.array.overlap, for any chunks, equals reading with halos and predicting."""
    event, geobox = found
    model = models["same"]
    halo, core = HALO_PX["same"], 128
    recipe = Recipe(geobox, BANDS, ("post",), event.scenes, event.event.aoi)
    area = Window(-halo, -halo, 640 + 2 * halo, 512 + 2 * halo)
    cube = read_window(recipe, area)
    features = make_features(cube.image[0], cube.scene[0], {0: event.scenes[0]}, model.card)
    network = ready_network(model, precision="float32", core_px=core, batch=1)
    expected = predict_features(features, network, model.card, core_px=core)[:, :500, :620]
    lazy = predict_proba(
        load_cube(event, geobox, chunk_px=chunk_px), model, precision="float32", core_px=core
    )
    with dask.config.set(scheduler="synchronous"):
        result = lazy.compute()
    seen = (cube.status[0] == Status.OBSERVED)[halo : halo + 500, halo : halo + 620]
    assert result.dims == ("class", "y", "x")
    np.testing.assert_array_equal(np.isfinite(result.values[0]), seen)
    np.testing.assert_array_equal(result.values[0][seen], expected[0][seen])


@pytest.mark.parametrize("size", [50, 97, 300, 306])
def test_odd_sizes_stay_on_the_lattice(models, size):
    """A last chunk smaller than the halo must not be joined to its neighbour off the lattice."""
    rng = np.random.default_rng(size)
    model, core = models["same"], 64
    image = xr.DataArray(
        dask.array.from_array(rng.uniform(1, 255, (3, size, size)).astype(np.float32), chunks=(3, 128, 128)),
        dims=("band", "y", "x"),
        coords={"band": list(BANDS)},
    )
    cube = as_cube(image, kind="display")
    side = -(-size // core) * core
    seen = np.pad(np.zeros((size, size), np.uint16), ((0, side - size),) * 2, constant_values=65535)
    around = ((0, 0), (96, 96 + side - size), (96, 96 + side - size))
    padded = np.pad(image.values, around, constant_values=np.nan)
    scene = Scene.model_validate(json.loads(cube.attrs["scenes"])[0])
    features = make_features(padded, np.pad(seen, 96, constant_values=65535), {0: scene}, model.card)
    network = ready_network(model, precision="float32", core_px=core, batch=1)
    expected = predict_features(features, network, model.card, core_px=core)[:, :size, :size]
    with dask.config.set(scheduler="synchronous"):
        result = predict_proba(cube, model, precision="float32", core_px=core)
        np.testing.assert_array_equal(result.values, expected)


def test_any_lazy_image_is_predicted(models, found):
    """A plain (band, y, x) array gives what its scene gives; the card's normalization is fixed here."""
    event, geobox = found
    cube = load_cube(event, geobox, chunk_px=256)
    image = cube.image.sel(phase="post", drop=True)
    with dask.config.set(scheduler="synchronous"):
        plain = predict_proba(
            as_cube(image, kind="display"), models["same"], precision="float32", core_px=128
        )
        expected = predict_proba(cube, models["same"], precision="float32", core_px=128)
        np.testing.assert_array_equal(plain.values, expected.values)
    assert plain.odc.geobox == geobox
    with pytest.raises(UsageError, match=r"axes y, x; expected band \(named\), y, x"):
        as_cube(image[0, :, :].drop_vars("band"), kind="display")


def test_a_network_of_two_phases_sees_both(tmp_path):
    """Task and lazy cube agree, and what either phase lacks is not predicted, for that phase's reason."""
    geobox = grid(200, 230)
    before, after = texture((3, 200, 180), seed=1), texture((3, 200, 230), seed=2)
    after[:, 20:40, 30:60] = 0
    scenes = [
        write_scene(tmp_path / f"{phase}.tif", pixels, geobox.affine, phase=phase)
        for phase, pixels in (("pre", before), ("post", after))
    ]
    event = found_of(scenes, area_of(geobox))
    event = event.model_copy(update={"scenes": tuple(inspect_scene(scene, BANDS) for scene in event.scenes)})
    card = a_card(phases=("pre", "post"), normalization=Normalization(kind="colour"))
    model = save_model(build_unet(card), card, tmp_path / "model")
    identity = SimpleNamespace(
        phases=("pre", "post"),
        precision="float32",
        core_px=64,
        batch=1,
        device=probe_device()[0],
        vegetation=None,
    )
    plan = SimpleNamespace(identity=identity, card=model.card, found=event)
    chunk = next(iter(chunk_grid((200, 230), 256)))
    area = Window(-96, -96, 256 + 192, 256 + 192)
    cube = read_window(Recipe(geobox, BANDS, ("pre", "post"), event.scenes, event.event.aoi), area)
    codes = predict_chunk(plan, chunk, cube, model)
    predicted = codes.probability[:, 0] != CODE_FILL
    status = codes.status & ~np.uint8(CONTEXT_INCOMPLETE)
    assert not predicted[0].any()
    np.testing.assert_array_equal(predicted[1], status[1] == Status.OBSERVED)
    assert (status[1][:, 181:] == Status.NOT_ACQUIRED).all()
    assert (status[1][21:39, 31:59] == Status.NODATA).all()
    with dask.config.set(scheduler="synchronous"):
        lazy = predict_proba(load_cube(event, geobox, chunk_px=128), model, precision="float32", core_px=64)
        np.testing.assert_array_equal(
            to_codes(lazy.values[0][predicted[1]]), codes.probability[1, 0][predicted[1]]
        )
    with pytest.raises(UsageError, match="of pre and post; the cube"):
        predict_proba(load_cube(event, geobox).sel(phase=["post"]), model)


def test_cube_without_the_models_bands_is_refused(models, found):
    event, geobox = found
    cube = load_cube(event, geobox).sel(band=["red", "green"])
    with pytest.raises(
        UsageError, match="needs bands red, green, blue of post; the cube has bands red, green"
    ):
        predict_proba(cube, models["same"])
    with pytest.raises(UsageError, match="of pre; the cube"):
        predict_proba(load_cube(event, geobox), models["same"], phase="pre")


def test_window_sizes_follow_the_padding(models):
    assert window_px(384, "valid") == 572
    shapes = {
        p: m.network("float32")(np.zeros((1, window_px(64, p), window_px(64, p), 3))).shape
        for p, m in models.items()
    }
    assert shapes["same"][1] == 256
    assert shapes["valid"][1] == 68
