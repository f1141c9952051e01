"""A network and a shape in, the network compiled for what computes here out; Keras's backend decides how.

Keras chooses its backend once a process, by KERAS_BACKEND in the environment. Only the framework that it
chose is loaded: a machine that has only JAX, or only torch, runs a map too.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from coseis.allocator import keep_freed_memory
from coseis.errors import UsageError
from coseis.model import Precision

if TYPE_CHECKING:
    import keras

Backend = Literal["tensorflow", "jax", "torch"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

_importing = threading.Lock()


@dataclass(frozen=True)
class DeviceNetwork:
    """A network compiled for one shape. Called, it takes and returns arrays of this process's memory."""

    put: Callable[[NDArray[np.float32]], Any]
    """(window, y, x, band) float32 to the framework's own tensor, on its device."""
    run: Callable[[Any], Any]
    """That tensor to (window, y, x, channel) on the device; on a GPU it returns before all is computed."""
    get: Callable[[Any], NDArray[np.float32]]
    """Waits, and brings the result back; the array may be read-only."""

    def __call__(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(window, y, x, band) float32 to (window, y, x, channel) float32."""
        return self.get(self.run(self.put(windows)))


def keras_backend() -> Backend:
    """What Keras computes with in this process; loads Keras and that framework.

    Raises:
        UsageError: KERAS_BACKEND names what coseis does not run on, or what is not installed.
    """
    with _importing:  # two threads that swap stderr at once would lose it
        return _load_keras()


def probe_device() -> tuple[str, Precision]:
    """What computes in this process and its default precision, as recorded in a run's identity.

    Returns:
        `cpu` or the first GPU's name, followed by the backend in brackets where that is not TensorFlow, as
        another one rounds otherwise: `cpu (jax)`. And bfloat16 where the hardware has matrix units for it
        and the backend uses them, else float32.
        Run it on a worker: the client's machine says nothing of theirs.

    Raises:
        UsageError: As `keras_backend`.
    """
    backend = keras_backend()
    device, precision = {"tensorflow": _probe_tensorflow, "jax": _probe_jax, "torch": _probe_torch}[backend]()
    return device if backend == "tensorflow" else f"{device} ({backend})", precision


def compile_network(network: "keras.Model", shape: tuple[int, int, int, int]) -> DeviceNetwork:
    """Compiles a network for windows of one shape and runs it once, so that no later call is slower.

    Args:
        network: From `build_unet`, with its weights.
        shape: (window, y, x, band) of every call.
    """
    makers = {"tensorflow": _tensorflow_network, "jax": _jax_network, "torch": _torch_network}
    compiled = makers[keras_backend()](network, shape)
    compiled(np.zeros(shape, np.float32))
    return compiled


@lru_cache(maxsize=1)
def _load_keras() -> Backend:
    wanted = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if wanted not in BACKENDS:
        raise UsageError(f"KERAS_BACKEND is {wanted!r}; coseis runs on {', '.join(BACKENDS)}")
    if find_spec(wanted) is None:
        raise UsageError(
            f"Keras is to run on {wanted}, which is not installed; install it, or set KERAS_BACKEND to one "
            f"that is: {', '.join(name for name in BACKENDS if find_spec(name))}"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    keep_freed_memory()
    with _silenced():
        import keras
    # Without the variable Keras asks its own settings file, which may name another one.
    backend: str = keras.backend.backend()
    for known in BACKENDS:
        if backend == known:
            return known
    raise UsageError(f"Keras is set to run on {backend}; set KERAS_BACKEND to one of {', '.join(BACKENDS)}")


@contextmanager
def _silenced() -> Iterator[None]:
    """Drops what is written to stderr, by C++ libraries too, whatever they were told."""
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def _probe_tensorflow() -> tuple[str, Precision]:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "cpu", "bfloat16" if _has_matrix_units() else "float32"
    details = tf.config.experimental.get_device_details(gpus[0])
    return str(details.get("device_name", "gpu")), _gpu_precision(details.get("compute_capability", (0,))[0])


def _probe_jax() -> tuple[str, Precision]:
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        # XLA computes a bfloat16 convolution on the CPU in float32, and converts.
        return "cpu", "float32"
    if device.platform == "tpu":
        return str(device.device_kind), "bfloat16"
    # NVIDIA's is like 9.0, AMD's like gfx90a.
    major = str(getattr(device, "compute_capability", "")).partition(".")[0]
    return str(device.device_kind), _gpu_precision(int(major) if major.isdigit() else 0)


def _probe_torch() -> tuple[str, Precision]:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0)), _gpu_precision(torch.cuda.get_device_capability(0)[0])
    if torch.backends.mps.is_available():  # Keras takes it, too
        return "mps", "float32"
    return "cpu", "bfloat16" if _has_matrix_units() else "float32"


def _gpu_precision(compute_capability: int) -> Precision:
    """NVIDIA's matrix units take bfloat16 from Ampere on, whose compute capability is 8."""
    return "bfloat16" if compute_capability >= 8 else "float32"


def _has_matrix_units() -> bool:
    return "amx_bf16" in _processor_flags()


@lru_cache(maxsize=1)
def _processor_flags() -> str:
    """The flags line of /proc/cpuinfo; empty where there is none (not Linux)."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return ""


def _tensorflow_network(network: "keras.Model", shape: tuple[int, int, int, int]) -> DeviceNetwork:
    import tensorflow as tf

    signature = [tf.TensorSpec(shape, tf.float32)]
    # There is no Python in a network for AutoGraph to translate: looking for some takes half the time.
    function = tf.function(
        lambda windows: network(windows, training=False), input_signature=signature, autograph=False
    )
    return DeviceNetwork(put=tf.constant, run=function, get=lambda tensor: tensor.numpy())


def _jax_network(network: "keras.Model", shape: tuple[int, int, int, int]) -> DeviceNetwork:
    import jax

    # The weights are an argument: as constants they would be copied into the program of every window size.
    weights = [variable.value for variable in network.variables]

    def apply(weights: Any, windows: Any) -> Any:
        return network.stateless_call(weights, [], windows, training=False)[0]

    compiled = jax.jit(apply).lower(weights, jax.ShapeDtypeStruct(shape, np.float32)).compile()
    return DeviceNetwork(put=jax.device_put, run=lambda windows: compiled(weights, windows), get=np.asarray)


def _torch_network(network: "keras.Model", shape: tuple[int, int, int, int]) -> DeviceNetwork:
    """Nothing is compiled: torch.compile needs a C++ compiler or Triton where the network runs."""
    import torch

    network.eval()
    device = network.variables[0].value.device

    def run(windows: Any) -> Any:
        with torch.inference_mode():
            return network(windows, training=False)

    return DeviceNetwork(
        put=lambda windows: torch.from_numpy(windows).to(device),
        run=run,
        get=lambda tensor: tensor.cpu().numpy(),
    )
