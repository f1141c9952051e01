"""Shared by all tests: the real-data folder, the slow lane, and quick property tests."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Before anything of coseis is imported: what runs here measure must not become a user's estimates.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="coseis-test-home-")
# And before Dask: see `cluster.UNPROFILED`, for clusters that tests start themselves.
os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "false"

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


@pytest.fixture
def bucket() -> Iterator[str]:
    """An address in a bucket of an S3 server of our own on loopback."""
    with _s3_server():
        yield "s3://maps/event"


@pytest.fixture(scope="module")
def lasting_bucket() -> Iterator[str]:
    """As `bucket`, for all tests of a file."""
    with _s3_server():
        yield "s3://maps"


@contextmanager
def _s3_server() -> Iterator[None]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="maps")
        yield
    server.stop()


@pytest.fixture(autouse=True, scope="module")
def _no_client_remains() -> Iterator[None]:
    """A test's own Dask client whose scheduler was killed may stay the default, and nothing computes then."""
    yield
    import dask

    dask.config.config.pop("scheduler", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("CI"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow lane: run with CI=1"))
