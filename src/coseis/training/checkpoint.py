"""The state of a training in, a file that survives a kill out, and back again."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coseis.errors import InputRefusedError
from coseis.types import Value

if TYPE_CHECKING:
    import keras

CHECKPOINT_NAME = "checkpoint.npz"
_PROGRESS = "progress"


class Progress(Value):
    """How far a training has come; its arrays lie beside it in the checkpoint."""

    identity: str
    """Digest of what must be equal for a training to be the same: card, settings, sources, start."""
    epoch: int = 0
    """The one that is under way."""
    step: int = 0
    """Batches of it that are done."""
    history: tuple[dict[str, float], ...] = ()
    """A row a finished epoch."""
    batches: tuple[dict[str, float], ...] = ()
    """A row a batch of the epoch that is under way."""
    kept_epoch: int = 0
    """Of the lowest validation loss so far."""


def write_checkpoint(folder: Path, progress: Progress, variables: Sequence[keras.Variable]) -> None:
    """Replaces the checkpoint in one move: a kill leaves the old one or the new one."""
    arrays: dict[str, Any] = {
        f"{number:05d}": np.asarray(variable) for number, variable in enumerate(variables)
    }
    buffer = io.BytesIO()
    arrays[_PROGRESS] = np.frombuffer(progress.model_dump_json().encode(), np.uint8)
    np.savez(buffer, **arrays)
    unfinished = folder / f"{CHECKPOINT_NAME}.new"
    with unfinished.open("wb") as file:
        file.write(buffer.getvalue())
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / CHECKPOINT_NAME)


def read_checkpoint(folder: Path, identity: str, variables: Sequence[keras.Variable]) -> Progress | None:
    """Sets the variables as they were; None where no checkpoint is.

    Raises:
        InputRefusedError: It is damaged, or of another training.
    """
    path = folder / CHECKPOINT_NAME
    if not path.exists():
        return None
    arrays: dict[str, Any] = {}
    try:
        # NumPy leaves a file open that it opened itself and found damaged.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        progress = Progress.model_validate_json(arrays.pop(_PROGRESS).tobytes())
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputRefusedError(f"{path} is no checkpoint ({error}); remove it to start anew") from error
    if progress.identity != identity:
        raise InputRefusedError(
            f"{path} is of another training (other settings, model or labels); "
            "repeat them as they were, or choose another folder"
        )
    for variable, name in zip(variables, sorted(arrays), strict=True):
        variable.assign(arrays[name])
    return progress
