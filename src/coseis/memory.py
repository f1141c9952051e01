"""What a worker needs: sizes of a run go in, bytes come out, before anything is submitted."""

from coseis.blocks import BLOCK_CACHE_BYTES
from coseis.card import ModelCard
from coseis.errors import UsageError
from coseis.windows import HALO_PX, window_px

PROCESS_BYTES = 900 * 2**20
"""A worker with TensorFlow and GDAL loaded and nothing to do."""
NETWORK_BYTES = {"float32": 32, "bfloat16": 18}
"""Bytes a window pixel and base filter at the peak of the network; 28.4 and 16.0 were measured at windows of
704 to 1728 px with 16 filters."""


def worker_bytes(
    card: ModelCard, *, core_px: int, chunk_px: int, batch: int, precision: str, phases: int, threads: int
) -> int:
    """Bytes that a worker process needs at most.

    One thread at a time computes windows; each thread may hold the cube, the features and the
    probabilities of a chunk with its halo.

    Args:
        card: Bands, phases, classes, filters and padding.
        core_px: Core of a window.
        chunk_px: Side of a chunk.
        batch: Windows a call.
        precision: float32 or bfloat16.
        phases: Phases of the cube.
        threads: Threads of the worker.
    """
    window = window_px(core_px, card.padding) ** 2
    area = (chunk_px + 2 * HALO_PX[card.padding]) ** 2
    bands, classes = len(card.bands), len(card.classes)
    # float32 image and one scene being laid in, scene and status, a few masks; then features and results.
    # With two phases near infrared too, and its index.
    bands += phases > 1
    cube = phases * (4 * bands + 4) + 4 * bands + 7
    prediction = 4 * card.channels + 5 * classes + phases * (classes + 3)
    network = window * batch * (card.base_filters * NETWORK_BYTES[precision] + 8 * card.channels)
    return PROCESS_BYTES + BLOCK_CACHE_BYTES + network + threads * area * (cube + prediction)


def check_memory(needed_bytes: int, limit_bytes: int) -> None:
    """Refuses a run whose tasks cannot fit.

    Raises:
        UsageError: more is needed than the smallest worker has; says both, and what to change.
    """
    if 0 < limit_bytes < needed_bytes:
        raise UsageError(
            f"a worker needs {needed_bytes / 2**30:.1f} GiB, but the smallest has {limit_bytes / 2**30:.1f}: "
            "give a smaller --core, --chunk or --batch, fewer --threads, or larger workers"
        )
