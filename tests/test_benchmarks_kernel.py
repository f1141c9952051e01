"""The kernel benchmark runs, its engines agree, and it counts what Keras's own shapes say."""

import json
from importlib.util import find_spec

import keras
import numpy as np
import pytest

import kernel
from coseis.model import build_unet, save_model
from kernel_engines import Case
from making import a_card

needs_torch = pytest.mark.skipif(
    find_spec("torch") is None,
    reason="torch is not installed; with its 3 GB of CUDA libraries it is no requirement of the tests",
)


def test_quick_run_measures_every_engine_and_all_agree(capsys):
    kernel.main(["--quick"])
    [line] = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    engines = kernel.installed_engines()
    assert engines[:2] == ["tensorflow", "jax"]
    assert list(result["engines"]) == engines
    assert {"keras", "tensorflow", "jax"} <= result["machine"]["versions"].keys()
    assert [(row["precision"], row["engine"]) for row in result["rows"]] == [
        (precision, engine) for precision in ("float32", "bfloat16") for engine in engines
    ]
    for row in result["rows"]:
        assert row["padding"] == "valid"
        assert row["within_one_code"] >= (0.999 if row["precision"] == "float32" else 0.95)
        for measured in ("on_device_s", "host_s", "delivered_mpx_s", "tflop_s", "matmul_share"):
            assert row[measured] >= 0
        assert (row["ratio_to_pytorch"] is None) == ("pytorch" not in engines)
    for described in result["engines"].values():
        assert described["matmul_bf16_tflop_s"] > 0


@pytest.mark.parametrize("core_only", [False, True])
@pytest.mark.parametrize(("filters", "window", "padding"), [(2, 252, "valid"), (3, 256, "same")])
def test_flop_follow_from_the_shapes_of_the_layers(filters, window, padding, core_only):
    case = Case(filters, window, "float32", 1)
    assert case.padding == padding
    network = build_unet(case.card(), core_only=core_only)
    layers = [layer for layer in network.layers if layer.weights]
    shapes = keras.Model(network.input, [layer.output for layer in layers]).compute_output_shape(
        (1, window, window, 3)
    )
    flop = 0
    for layer, shape in zip(layers, shapes, strict=True):
        # Of a transposed convolution, whose stride is its size, one tap reaches a pixel.
        taps = 4 if isinstance(layer, keras.layers.Conv2DTranspose) else 1
        flop += 2 * np.prod(layer.kernel.shape) // taps * np.prod(shape[1:3])
    assert kernel.window_flop(case.card(), window, core_only=core_only) == flop


@needs_torch
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_plain_pytorch_is_the_same_network(padding, tmp_path):
    import torch

    from torch_unet import load_torch_unet

    card = a_card(padding=padding, classes=("source", "deposit"))
    network = build_unet(card)
    save_model(network, card, tmp_path, float16=False)
    windows = np.random.default_rng(0).normal(size=(2, 220, 236, 3)).astype(np.float32)
    windows = windows[:, :204, :220] if padding == "valid" else windows[:, :208, :224]
    with torch.inference_mode():
        plain = load_torch_unet(tmp_path)(torch.from_numpy(windows).permute(0, 3, 1, 2))
    np.testing.assert_allclose(plain.permute(0, 2, 3, 1).numpy(), np.asarray(network(windows)), atol=1e-5)
