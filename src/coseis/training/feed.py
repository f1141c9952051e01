"""The plan of an epoch in, its batches in that order out: made by Dask tasks, a bounded number ahead."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future, KilledWorker
from distributed.comm.core import CommClosedError

from coseis.card import ModelCard
from coseis.errors import UnreachableError
from coseis.training.augment import Batch, make_batch
from coseis.training.draws import Draw
from coseis.training.settings import TrainConfig
from coseis.training.sources import Source

AHEAD_PER_THREAD = 2
"""Batches in flight per worker thread: what bounds the memory, whatever the region's size."""
AHEAD_AT_LEAST = 4
MOST_ATTEMPTS = 3
"""How often a batch is asked for that was lost together with the workers that held the sources."""

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
        """The batches of some draws, in order.

        Raises:
            UnreachableError: The scheduler is lost, or a batch is lost again and again.
            CoseisError: A source cannot be read; as the source says.
        """
        size = self._recipe.config.batch
        parts = [list(draws[start : start + size]) for start in range(0, len(draws), size)]
        if self._client is None:
            for part in parts:
                yield _make(self._recipe, part, blur_px)
            return
        yield from self._from_cluster(self._client, parts, blur_px)

    def _from_cluster(self, client: Client, parts: list[list[Draw]], blur_px: float) -> Iterator[Batch]:
        waiting = deque(parts)
        running: deque[tuple[list[Draw], Future[Any]]] = deque()
        try:
            while waiting or running:
                while waiting and len(running) < self._ahead(client):
                    part = waiting.popleft()
                    running.append((part, self._submit(client, part, blur_px)))
                part, future = running.popleft()
                yield self._result(client, part, future, blur_px)
        except (CommClosedError, TimeoutError, ConnectionError) as error:
            raise UnreachableError(
                f"the scheduler is lost, or all workers are ({error}); train on with --resume"
            ) from error
        finally:
            for _, future in running:
                future.release()

    def _submit(self, client: Client, part: list[Draw], blur_px: float) -> Future[Any]:
        # Cancelled when the last worker that held the sources is gone: they are sent anew.
        if self._held is None or self._held.status != "finished":
            self._held = client.scatter(self._recipe, broadcast=True, hash=False)
        return client.submit(_make, self._held, part, blur_px, pure=False)

    def _result(self, client: Client, part: list[Draw], first: Future[Any], blur_px: float) -> Batch:
        future: Future[Any] | None = first
        for _ in range(MOST_ATTEMPTS):
            try:
                batch: Batch = (future or self._submit(client, part, blur_px)).result()
                return batch
            except (KilledWorker, CancelledError, CommClosedError) as error:
                if client.status != "running":
                    raise UnreachableError(
                        f"the scheduler is lost ({error}); train on with --resume"
                    ) from error
                reason, future = error, None
            log.info("a batch was lost (%s) and is made again", reason)
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


def _make(recipe: Recipe, draws: list[Draw], blur_px: float) -> Batch:
    return make_batch(recipe.sources, draws, card=recipe.card, config=recipe.config, blur_px=blur_px)
