"""The memory projection: more of anything needs more, and a run that cannot fit is refused first."""

import subprocess
import sys

import pytest

from coseis.errors import UsageError
from coseis.memory import check_memory, worker_bytes
from coseis.model import load_model

SIZES = {"core_px": 512, "chunk_px": 1024, "batch": 1, "precision": "float32", "phases": 2, "threads": 2}


def test_more_of_anything_needs_more():
    card = load_model().card
    least = worker_bytes(card, **SIZES)
    for name, more in {"core_px": 1024, "chunk_px": 2048, "batch": 2, "phases": 3, "threads": 3}.items():
        assert worker_bytes(card, **{**SIZES, name: more}) > least
    assert worker_bytes(card, **{**SIZES, "precision": "bfloat16"}) < least


def test_what_cannot_fit_is_refused_with_the_remedy():
    check_memory(10, 10)
    check_memory(10, 0)  # a worker without a limit
    with pytest.raises(UsageError, match=r"needs 3.0 GiB, but the smallest has 2.0: give a smaller --core"):
        check_memory(3 * 2**30, 2 * 2**30)


MEASURE = r"""
import re, sys
from pathlib import Path
import numpy as np
from coseis.model import load_model
from coseis.predict import ready_network
core, batch, precision = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
network = ready_network(load_model(), precision=precision, core_px=core, batch=batch)
network(np.zeros((batch, core + 192, core + 192, 3), np.float32))
# Not ru_maxrss: a child begins with that of the process that started it.
print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("core", "batch", "precision"), [(512, 1, "float32"), (1024, 1, "bfloat16"), (512, 3, "float32")]
)
def test_a_network_stays_within_its_projection(core, batch, precision):
    words = [sys.executable, "-c", MEASURE, str(core), str(batch), precision]
    peak = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1])
    sizes = {"core_px": core, "chunk_px": core, "batch": batch, "precision": precision}
    assert peak <= worker_bytes(load_model().card, **{**SIZES, **sizes, "phases": 1, "threads": 1})
