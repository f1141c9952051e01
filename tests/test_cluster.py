"""Clusters of a run: their end is not the run's."""

import dask
import dask.array
import pytest
from distributed import LocalCluster, default_client

from coseis.cluster import _closing, connected
from coseis.config import ClusterConfig


class SlowToDie(LocalCluster):
    """As one whose worker outlives the time that Dask waits for its end."""

    def close(self, timeout: float | None = None) -> None:
        super().close(timeout)
        raise TimeoutError


@pytest.fixture
def cluster():
    return SlowToDie(n_workers=0, processes=False, dashboard_address=":0")


def test_a_worker_that_dies_slowly_fails_no_run(cluster):
    with _closing(cluster):
        assert cluster.status.name == "running"
    assert cluster.status.name == "closed"


def test_what_failed_is_still_said(cluster):
    with pytest.raises(RuntimeError, match="of the run"), _closing(cluster):
        raise RuntimeError("of the run")
    assert cluster.status.name == "closed"


def test_no_worker_of_a_local_cluster_is_profiled(monkeypatch):
    """In Python 3.11 the profiler's look at all threads may end in a deadlock."""
    monkeypatch.delenv("DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED")
    with dask.config.set({"distributed.worker.profile.enabled": True}), connected(ClusterConfig()) as client:
        looks = client.run(lambda dask_worker: list(dask_worker.periodic_callbacks))
    assert all("heartbeat" in names and "profile" not in names for names in looks.values())


def test_the_client_of_a_run_is_not_the_callers_default():
    with connected(ClusterConfig(workers=1)):
        with pytest.raises(ValueError, match="No client"):
            default_client()
        assert dask.array.ones(3).sum().compute() == 3
