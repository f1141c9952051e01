"""Shared by all tests: the real-data folder, the slow lane, and quick property tests."""

import os
import tempfile
from pathlib import Path

# Before anything of coseis is imported: what runs here measure must not become a user's estimates.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="coseis-test-home-")

import pytest
from hypothesis import settings

settings.register_profile("coseis", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("coseis")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real imagery and labels; tests that need it are skipped where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("COSEIS_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("real imagery is not here: set COSEIS_TEST_DATA to its folder")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("CI"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow lane: run with CI=1"))
