"""Checkpoints: what was written comes back, whole or not at all; a damaged or foreign one is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coseis.errors import InputRefusedError
from coseis.training import checkpoint
from coseis.training.checkpoint import CHECKPOINT_NAME, Progress, read_checkpoint, write_checkpoint


class FakeVariable:
    """As much of a Keras variable as a checkpoint needs."""

    def __init__(self, values: Any) -> None:
        self.values = np.array(values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype)

    def assign(self, values: np.ndarray) -> None:
        assert (values.dtype, values.shape) == (self.values.dtype, self.values.shape)
        self.values = values


def some_variables(seed: int) -> list[Any]:
    # More than ten, so that their names must sort as numbers do; the optimizer's counter is a whole number.
    random = np.random.default_rng(seed)
    arrays = [random.random((3, number + 1), dtype=np.float32) for number in range(12)]
    return [FakeVariable(seed), *map(FakeVariable, arrays)]


PROGRESS = Progress(
    identity="a", epoch=2, step=7, history=({"epoch": 0.0, "loss": 0.1 + 0.2},), batches=({"loss": 1e-9},),
    kept_epoch=1,
)  # fmt: skip


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    written, read = some_variables(1), some_variables(2)
    write_checkpoint(tmp_path, PROGRESS, some_variables(3))
    write_checkpoint(tmp_path, PROGRESS, written)
    assert read_checkpoint(tmp_path, "a", read) == PROGRESS
    for one, other in zip(written, read, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_NAME]


def test_nothing_there_nothing_read(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path, "a", some_variables(1)) is None


def test_a_kill_while_writing_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(file: int) -> None:
        raise InterruptedError

    write_checkpoint(tmp_path, PROGRESS, some_variables(1))
    monkeypatch.setattr(checkpoint.os, "fsync", killed)
    with pytest.raises(InterruptedError):
        write_checkpoint(tmp_path, PROGRESS.model_copy(update={"step": 8}), some_variables(2))
    variables = some_variables(3)
    assert read_checkpoint(tmp_path, "a", variables) == PROGRESS
    assert variables[0].values == 1


def test_a_damaged_one_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, PROGRESS, some_variables(1))
    whole = (tmp_path / CHECKPOINT_NAME).read_bytes()
    for damaged in (b"", b"no archive", whole[: len(whole) // 2], whole[: len(whole) - 1]):
        (tmp_path / CHECKPOINT_NAME).write_bytes(damaged)
        with pytest.raises(InputRefusedError, match=r"is no checkpoint .* remove it to start anew"):
            read_checkpoint(tmp_path, "a", some_variables(1))


def test_another_training_is_refused_and_sets_nothing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, PROGRESS, some_variables(1))
    variables = some_variables(2)
    with pytest.raises(InputRefusedError, match=r"of another training .* choose another folder"):
        read_checkpoint(tmp_path, "b", variables)
    assert variables[0].values == 2
