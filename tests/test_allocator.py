"""Freed memory is kept and used again: few pages are faulted in, whatever TensorFlow has asked for."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def faults():
    "Of ten blocks of 40 MiB, after a first."
    counts = []
    for _ in range(11):
        block = libc.malloc(40 << 20)
        libc.memset(block, 1, 40 << 20)
        libc.free(block)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return counts[-1] - counts[0]
"""
TRAINING = """
import tempfile
import numpy as np
from coseis.card import ModelCard, Normalization, Stretch
from coseis.training.patches import Patch, scene_percentiles
from coseis.training.settings import TrainConfig
from coseis.training.trainer import Running, train_model

card = ModelCard(
    name="small", bands=("red",), inputs={"display": Stretch(low=0, high=255)},
    normalization=Normalization(kind="scene"), resolution_m=(2.5, 6), padding="same", base_filters=4,
    halo_px=96, weights_sha256="",
)
image = np.random.default_rng(0).integers(1, 255, (64, 64, 1), dtype=np.uint8)
patch = Patch(image, np.ones((64, 64), np.uint8), "a", scene_percentiles(image / np.float32(255)))
config = TrainConfig(epochs=1, patches_per_epoch=2, batch=1, core_px=32, halo_px=16)
during = []
with tempfile.TemporaryDirectory() as folder:
    train_model(
        [patch], start=card, folder=folder, config=config,
        running=Running(on_step=lambda _: during.append(faults())),
    )
print(max(during))
"""

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="this C library is not glibc: nothing is set"
)


def faults_after(code: str) -> int:
    run = subprocess.run([sys.executable, "-c", FAULTS + code], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.fixture(scope="module")
def faults_by_itself():
    return faults_after("print(faults())")


def test_freed_blocks_are_used_again(faults_by_itself):
    told = faults_after(
        "from coseis.allocator import keep_freed_memory\nassert keep_freed_memory()\nprint(faults())"
    )
    assert faults_by_itself > 100
    assert told <= faults_by_itself / 50


def test_a_training_uses_them_again_whatever_tensorflow_sets(faults_by_itself):
    assert faults_after(TRAINING) <= faults_by_itself / 50
