"""Integer counts in, their sums out: values that add up over patches and blocks in any order."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from coseis.types import Value

IntArray = npt.NDArray[np.int64]


class Additive(Value):
    """A value whose fields are integers, nested tuples of integers, or such values again.

    `sum(parts, Counts())` adds them up; as vectors they can be weighted and resampled all at once.
    """

    def __add__(self, other: Self) -> Self:
        return self.filled(self.vector() + other.vector())

    def vector(self) -> IntArray:
        """All counts, int64 (count,), in the order of the fields."""
        return np.concatenate([_flatten(getattr(self, name)) for name in type(self).model_fields])

    def filled(self, vector: IntArray) -> Self:
        """A value of the same layout with other counts, int64 (count,)."""
        values, start = {}, 0
        for name in type(self).model_fields:
            field = getattr(self, name)
            size = _flatten(field).size
            values[name] = _shape_like(field, vector[start : start + size])
            start += size
        return type(self)(**values)


def ratio(part: float, whole: float) -> float | None:
    """A share; None where there is nothing to take it of, so that no score is made up."""
    return float(part / whole) if whole else None


def harmonic_mean(precision: float | None, recall: float | None) -> float | None:
    """F1 of a precision and a recall; None where either is."""
    if precision is None or recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _flatten(field: Any) -> IntArray:
    return field.vector() if isinstance(field, Additive) else np.ravel(np.asarray(field, dtype=np.int64))


def _shape_like(field: Any, vector: IntArray) -> Any:
    if isinstance(field, Additive):
        return field.filled(vector)
    if isinstance(field, tuple):
        return vector.reshape(np.shape(field)).tolist()
    return int(vector[0])
