"""The plan of an epoch in, its batches in that order out: made by Dask tasks, a bounded number ahead."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import islice
from typing import Any

from distributed import Client, Future, KilledWorker
from distributed.comm.core import CommClosedError

from coseis.card import ModelCard
from coseis.errors import UnreachableError
from coseis.training.augment import Batch, make_batch
from coseis.training.draws import Draw
from coseis.training.settings import TrainConfig
from coseis.training.sources import Source

BATCHES_PER_TASK = 4
"""A task and its messages cost about 8 ms of processor time, as much as a third of a batch."""
AHEAD_PER_THREAD = 2
"""Tasks in flight per worker thread: what bounds the memory, whatever the region's size."""
AHEAD_AT_LEAST = 3
MOST_ATTEMPTS = 3
"""How often a batch is asked for that was lost together with the workers that held the sources."""

Task = tuple[Sequence[Draw], float]
"""Draws of some batches, and their blur_px."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What every batch of a training is made with."""

    sources: Sequence[Source]
    card: ModelCard
    config: TrainConfig


class Feed:
    """Makes the batches of a training, here or on a cluster.

    A batch is a pure function of its draws, so one that is lost with its worker is made again, equal, in its
    place: none is missing and none comes twice. The sources are sent to the workers once.
    """

    def __init__(self, recipe: Recipe, client: Client | None = None) -> None:
        self._recipe = recipe
        self._client = client
        self._held: Future[Any] | None = None

    def batches(self, draws: Sequence[Draw], *, blur_px: float) -> Iterator[Batch]:
        """The batches of some draws, in order; raises as `stream` does."""
        return self.stream([(draws, blur_px)])

    def stream(self, epochs: Iterable[tuple[Sequence[Draw], float]]) -> Iterator[Batch]:
        """The batches of several epochs, in order and without a pause: the next is begun before one ends.

        Args:
            epochs: Draws and `make_batch`'s blur_px of each, asked for when they are needed.

        Raises:
            UnreachableError: The scheduler is lost, or a batch is lost again and again.
            CoseisError: A source cannot be read; as the source says.
        """
        size = self._recipe.config.batch
        if self._client is None:
            for draws, blur_px in epochs:
                yield from _make(self._recipe, draws, blur_px)
            return
        tasks = (
            (part, blur_px) for draws, blur_px in epochs for part in _parts(draws, BATCHES_PER_TASK * size)
        )
        yield from self._from_cluster(self._client, tasks)

    def _from_cluster(self, client: Client, tasks: Iterator[Task]) -> Iterator[Batch]:
        running: deque[tuple[Task, Future[Any]]] = deque()
        try:
            while True:
                for task in islice(tasks, max(0, self._ahead(client) - len(running))):
                    running.append((task, self._submit(client, task)))
                if not running:
                    return
                yield from self._result(client, *running.popleft())
        except (CommClosedError, TimeoutError, ConnectionError) as error:
            raise UnreachableError(
                f"the scheduler is lost, or all workers are ({error}); train on with --resume"
            ) from error
        finally:
            for _, future in running:
                future.release()

    def _submit(self, client: Client, task: Task) -> Future[Any]:
        # Cancelled when the last worker that held the sources is gone: they are sent anew.
        if self._held is None or self._held.status != "finished":
            self._held = client.scatter(self._recipe, broadcast=True, hash=False)
        return client.submit(_make, self._held, *task, pure=False)

    def _result(self, client: Client, task: Task, first: Future[Any]) -> list[Batch]:
        future: Future[Any] | None = first
        for _ in range(MOST_ATTEMPTS):
            try:
                batches: list[Batch] = (future or self._submit(client, task)).result()
                return batches
            except (KilledWorker, CancelledError, CommClosedError) as error:
                if client.status != "running":
                    raise UnreachableError(
                        f"the scheduler is lost ({error}); train on with --resume"
                    ) from error
                reason, future = error, None
            log.info("batches were lost (%s) and are made again", reason)
        raise UnreachableError(
            f"a batch of patches was lost {MOST_ATTEMPTS} times ({reason}): too little worker memory, "
            "or a fault in a library; train on with --resume"
        ) from reason

    def _ahead(self, client: Client) -> int:
        if client.status == "closed":  # Dask would raise an AttributeError
            raise CommClosedError("the client is closed")
        # Counted anew each time: workers join and leave while a training goes on.
        threads: int = sum(client.nthreads().values())
        return max(AHEAD_AT_LEAST, AHEAD_PER_THREAD * threads)


def _parts(draws: Sequence[Draw], size: int) -> list[list[Draw]]:
    return [list(draws[start : start + size]) for start in range(0, len(draws), size)]


def _make(recipe: Recipe, draws: Sequence[Draw], blur_px: float) -> list[Batch]:
    return [
        make_batch(recipe.sources, part, card=recipe.card, config=recipe.config, blur_px=blur_px)
        for part in _parts(draws, recipe.config.batch)
    ]
