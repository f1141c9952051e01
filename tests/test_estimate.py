"""Estimates: the last rate of a kind is kept beside those of other kinds, and a torn file is no fault."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coseis import estimate
from coseis.estimate import find_rate, keep_rate


def an_identity(**changes: str) -> Any:
    return SimpleNamespace(**({"device": "cpu", "precision": "float32", "model": "0f"} | changes))


@pytest.fixture
def rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home" / "rates.json"
    monkeypatch.setattr(estimate, "RATES", path)
    return path


def test_the_last_rate_of_a_kind_is_kept(rates: Path) -> None:
    assert find_rate(an_identity()) is None
    keep_rate(an_identity(), 6.0, 4)
    keep_rate(an_identity(device="Tesla T4"), 30.0, 1)
    keep_rate(an_identity(), 3.0, 1)
    assert find_rate(an_identity()).mpx_per_s == 3.0  # type: ignore[union-attr]
    assert find_rate(an_identity(device="Tesla T4")).mpx_per_s == 30.0  # type: ignore[union-attr]
    assert find_rate(an_identity(model="ff")) is None
    assert len(estimate._kept_rates()) == 2


def test_what_cannot_be_read_or_written_is_no_fault(rates: Path) -> None:
    rates.parent.write_text("a file where the folder should be")
    keep_rate(an_identity(), 6.0, 4)
    assert find_rate(an_identity()) is None
    rates.parent.unlink()
    rates.parent.mkdir()
    rates.write_text('[{"torn')
    assert find_rate(an_identity()) is None
