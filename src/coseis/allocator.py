"""Nothing in, a process that keeps the memory it frees out: the C library's allocator, told to."""

import ctypes
import platform

KEPT_BYTES = 2**30
"""Larger blocks go back to the system when freed; those of a network are some hundred MiB at most."""
HEAP_BYTES = 64 * 2**20
"""Of every arena but the first: glibc takes such a heap back when it is empty, but for so much of padding."""
OPTIONS = (
    (-8, 1),  # M_ARENA_MAX
    (-3, KEPT_BYTES),  # M_MMAP_THRESHOLD
    (-1, KEPT_BYTES),  # M_TRIM_THRESHOLD
    (-2, HEAP_BYTES),  # M_TOP_PAD
)
"""Of glibc's malloc.h. One arena, for what one keeps no thread of another can use."""


def keep_freed_memory() -> bool:
    """Has glibc keep the blocks that a network frees for its next step, which asks for the same sizes.

    By itself it maps every block of 32 MiB and more anew, and each of its pages is a fault: up to half the
    time of a training step on a CPU, and a third of a prediction's. The settings are the process's and last.
    To be called before a network is loaded, as threads choose their arena then, and again once TensorFlow has
    made a dataset of a generator: it then asks for still smaller blocks to be mapped.

    Returns:
        Whether all was set; False where the C library is another one.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    told = [library.mallopt(option, value) for option, value in OPTIONS]
    return all(told)
