"""The feed: whatever the cluster and whoever dies, all batches come once, equal and in order."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from distributed import Client, KilledWorker, LocalCluster

from coseis.errors import InputRefusedError, UnreachableError
from coseis.training.augment import Batch, make_batch
from coseis.training.draws import Draw, DrawTable
from coseis.training.feed import (
    AHEAD_AT_LEAST,
    AHEAD_PER_THREAD,
    BATCHES_PER_TASK,
    MOST_ATTEMPTS,
    Feed,
    Recipe,
)
from coseis.training.patches import Patch
from coseis.training.settings import TrainConfig
from coseis.training.sources import Square
from making import a_card, a_patch

CONFIG = TrainConfig(core_px=32, halo_px=16, batch=2, patches_per_epoch=24)


class Refusing(Patch):
    """A source whose file cannot be read."""

    def square(self, y: int, x: int, size_px: int) -> Square:
        raise InputRefusedError("scene 7 cannot be read; expected a GeoTIFF")


def a_recipe(config: TrainConfig = CONFIG) -> Recipe:
    return Recipe([a_patch(70, 90, seed, f"event-{seed}") for seed in range(3)], a_card(), config)


def a_refusing_recipe() -> Recipe:
    patch = a_patch()
    return Recipe([Refusing(patch.image, patch.mask, patch.group, patch.percentiles)], a_card(), CONFIG)


def plan(recipe: Recipe) -> list[Draw]:
    return DrawTable(recipe.sources).draw_epoch(recipe.config, 0)


def expected_batches(recipe: Recipe, draws: list[Draw]) -> list[Batch]:
    size = recipe.config.batch
    return [
        make_batch(recipe.sources, draws[at : at + size], card=recipe.card, config=recipe.config, blur_px=1.5)
        for at in range(0, len(draws), size)
    ]


def assert_equal(batches: list[Batch], expected: list[Batch]) -> None:
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        for array, wanted in zip(batch.arrays, other.arrays, strict=True):
            np.testing.assert_array_equal(array, wanted)


@contextmanager
def cluster_of(workers: int, *, processes: bool = True) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=processes,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def kill_workers(client: Client, count: int) -> None:
    pids: list[int] = []
    while len(pids) < count:
        # One that was killed before may still be listed, and answers with an error.
        answers = client.run(os.getpid, on_error="return").values()
        pids = [answer for answer in answers if isinstance(answer, int)]
    for pid in pids[:count]:
        os.kill(pid, signal.SIGKILL)


class FakeFuture:
    """Computes when it is asked; fails first, as often as it is told."""

    def __init__(self, client: "FakeClient", call: Callable[[], Any]) -> None:
        self.client, self.call, self.status = client, call, "finished"

    def result(self) -> Any:
        self.client.in_flight -= 1
        if self.client.failures:
            raise self.client.failures.pop()
        return self.call()

    def release(self) -> None:
        self.client.in_flight -= 1


class FakeClient:
    """Counts what is in flight; as many workers of one thread as it is told."""

    def __init__(self, workers: int = 1, failures: tuple[Exception, ...] = ()) -> None:
        self.workers, self.failures, self.status = workers, list(failures), "running"
        self.in_flight = self.most = self.scattered = 0

    def nthreads(self) -> dict[str, int]:
        return {str(number): 1 for number in range(self.workers)}

    def scatter(self, recipe: Recipe, *, broadcast: bool, hash: bool) -> Any:
        self.scattered += 1
        return FakeFuture(self, lambda: recipe)

    def submit(
        self, function: Callable[..., Any], held: FakeFuture, *arguments: Any, pure: bool
    ) -> FakeFuture:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        return FakeFuture(self, lambda: function(held.call(), *arguments))


def test_batches_made_here_are_those_of_the_draws() -> None:
    recipe = a_recipe()
    draws = plan(recipe)[:23]
    batches = list(Feed(recipe).batches(draws, blur_px=1.5))
    assert_equal(batches, expected_batches(recipe, draws))
    assert batches[-1].windows.shape == (1, 64, 64, 3)


def test_nothing_drawn_nothing_made() -> None:
    assert list(Feed(a_recipe()).batches([], blur_px=0)) == []
    assert list(Feed(a_recipe(), FakeClient()).batches([], blur_px=0)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [3, 40, 400])
def test_a_bounded_number_is_in_flight_however_many_there_are(count: int) -> None:
    config = TrainConfig(core_px=16, halo_px=0, batch=1, patches_per_epoch=count * BATCHES_PER_TASK)
    recipe = a_recipe(config)
    client = FakeClient(workers=1)
    batches = Feed(recipe, client).batches(plan(recipe), blur_px=0)  # type: ignore[arg-type]
    for _ in islice(batches, config.patches_per_epoch // 2):
        assert client.in_flight < AHEAD_AT_LEAST
    batches.close()
    assert client.in_flight == 0
    assert client.most <= AHEAD_AT_LEAST
    client.workers = 5  # four more have joined
    for _ in Feed(recipe, client).batches(plan(recipe), blur_px=0):  # type: ignore[arg-type]
        pass
    assert client.most == min(count, AHEAD_PER_THREAD * 5)
    assert client.scattered == 2


@pytest.mark.parametrize("client", [None, FakeClient()], ids=["here", "cluster"])
def test_epochs_follow_each_other_without_a_pause(client: Any) -> None:
    recipe = a_recipe()
    first, second = plan(recipe)[:5], plan(recipe)[5:]
    asked = []

    def epochs() -> Iterator[tuple[list[Draw], float]]:
        for draws in (first, second):
            asked.append(len(draws))
            yield draws, 1.5

    batches = Feed(recipe, client).stream(epochs())
    made = [next(batches)]
    # A cluster is busy with the second epoch while the first is trained on.
    assert asked == ([5] if client is None else [5, 19])
    made += batches
    assert_equal(made, expected_batches(recipe, first) + expected_batches(recipe, second))


def test_a_batch_that_kills_its_workers_is_given_up() -> None:
    recipe = a_recipe()
    lost = KilledWorker("make", SimpleNamespace(address="tcp://worker"), 3)
    client = FakeClient(failures=(lost,) * (MOST_ATTEMPTS - 1))
    draws = plan(recipe)
    batches = list(Feed(recipe, client).batches(draws, blur_px=1.5))  # type: ignore[arg-type]
    assert_equal(batches, expected_batches(recipe, draws))
    client = FakeClient(failures=(lost,) * MOST_ATTEMPTS)
    with pytest.raises(UnreachableError, match=r"lost 3 times .* too little worker memory"):
        list(Feed(recipe, client).batches(draws, blur_px=1.5))  # type: ignore[arg-type]
    assert client.in_flight == 0


def test_a_cluster_makes_the_same_in_order_and_passes_refusals_on() -> None:
    recipe = a_recipe()
    draws = plan(recipe)
    with cluster_of(1, processes=False) as client:
        batches = list(Feed(recipe, client).batches(draws, blur_px=1.5))
        with pytest.raises(InputRefusedError, match="scene 7 cannot be read"):
            next(Feed(a_refusing_recipe(), client).batches([draws[0]._replace(source=0)], blur_px=0))
    assert_equal(batches, expected_batches(recipe, draws))


def test_a_lost_scheduler_is_said() -> None:
    recipe = a_recipe()
    with cluster_of(1, processes=False) as client:
        batches = Feed(recipe, client).batches(plan(recipe), blur_px=0)
        next(batches)
        client.cluster.close()
        with pytest.raises(UnreachableError, match=r"scheduler is lost.* --resume"):
            list(batches)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "kills"),
    [
        pytest.param(2, {}, id="none"),
        pytest.param(2, {2: 1, 10: 1, 20: 1}, id="one of two, three times"),
        pytest.param(2, {2: 2, 15: 2}, id="both, with the sources, twice"),
        pytest.param(1, {2: 1, 15: 1}, id="the only one, twice"),
    ],
)
def test_killed_workers_lose_no_batch_and_repeat_none(workers: int, kills: dict[int, int]) -> None:
    recipe = a_recipe(TrainConfig(core_px=64, batch=4, patches_per_epoch=120))
    draws = plan(recipe)
    batches = []
    with cluster_of(workers) as client:
        for batch in Feed(recipe, client).batches(draws, blur_px=1.5):
            kill_workers(client, kills.get(len(batches), 0))
            batches.append(batch)
    assert_equal(batches, expected_batches(recipe, draws))


@pytest.mark.slow
def test_a_refusal_on_another_process_keeps_its_kind() -> None:
    recipe = a_refusing_recipe()
    with cluster_of(1) as client, pytest.raises(InputRefusedError, match="scene 7 cannot be read"):
        list(Feed(recipe, client).batches(plan(recipe), blur_px=0))
