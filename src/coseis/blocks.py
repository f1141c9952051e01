"""Keys go in, blocks come out, each made once a process; and threads for remote reads, with what they took.

Windows of neighbouring chunks share blocks through `kept_blocks`: blocks as stored in files, and warped ones.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import zict
from numpy.typing import NDArray

BLOCK_CACHE_BYTES = 256 * 2**20
"""Decoded and warped blocks kept a process."""
REMOTE_READS = 16
"""Threads a process that fetch remote blocks, whatever its cores."""

Block = NDArray[Any]
Job = TypeVar("Job")
Key = TypeVar("Key", bound=Hashable)

_counted = threading.local()
_remote_reads = ThreadPoolExecutor(REMOTE_READS, thread_name_prefix="coseis-read")


@dataclass(frozen=True)
class ReadBytes:
    """What reading took."""

    fetched: int = 0
    """Compressed bytes of the blocks that were read from files; headers are not counted."""
    decoded: int = 0
    """Bytes of pixels that they held, with the bands that the file made us decode besides."""

    def __add__(self, other: "ReadBytes") -> "ReadBytes":
        return ReadBytes(self.fetched + other.fetched, self.decoded + other.decoded)

    def __sub__(self, other: "ReadBytes") -> "ReadBytes":
        return ReadBytes(self.fetched - other.fetched, self.decoded - other.decoded)


class BlockCache:
    """Arrays by key, each made once though several threads ask for it; the longest unused are dropped."""

    def __init__(self, most_bytes: int) -> None:
        self._kept: zict.LRU[Hashable, Block] = zict.LRU(
            most_bytes, {}, weight=lambda key, block: float(block.nbytes)
        )
        self._being_made: set[Hashable] = set()
        self._changed = threading.Condition()

    def fetch(
        self, keys: Sequence[Key], make: Callable[[Sequence[Key]], Mapping[Key, Block]]
    ) -> dict[Key, Block]:
        """The blocks of some keys.

        Args:
            keys: What is wanted.
            make: Makes those that nobody has made or is making; must not ask this cache for any of `keys`.

        Raises:
            Exception: whatever `make` raises; who waited for its blocks then makes them.
        """
        found: dict[Key, Block] = {}
        while missing := [key for key in keys if key not in found]:
            with self._changed:
                found |= {key: self._kept[key] for key in missing if key in self._kept}
                missing = [key for key in missing if key not in found]
                mine = [key for key in missing if key not in self._being_made]
                if missing and not mine:
                    self._changed.wait()
                self._being_made.update(mine)
            if mine:
                found |= self._make(mine, make)
        return found

    def clear(self) -> None:
        """Forget all blocks."""
        with self._changed:
            self._kept.clear()

    def _make(
        self, keys: Sequence[Key], make: Callable[[Sequence[Key]], Mapping[Key, Block]]
    ) -> Mapping[Key, Block]:
        made: Mapping[Key, Block] = {}
        try:
            made = make(keys)
        finally:
            with self._changed:
                for key, block in made.items():
                    self._kept[key] = block
                self._being_made.difference_update(keys)
                self._changed.notify_all()
        return made


def for_each(jobs: Iterable[Job], do: Callable[[Job], None], *, concurrently: bool) -> None:
    """Does jobs one by one, or in the threads for remote reads; what they read counts for the caller.

    Such a thread waits for a server most of its time, so there are more of them than cores. A job must not
    call this with `concurrently`: all threads could wait for jobs that none is left to do.
    """
    if not concurrently:
        for job in jobs:
            do(job)
        return

    def measure(job: Job) -> ReadBytes:
        before = read_bytes()
        do(job)
        return read_bytes() - before

    for taken in _remote_reads.map(measure, jobs):
        count_bytes(taken)


def read_bytes() -> ReadBytes:
    """What reads asked for by this thread have taken so far."""
    return getattr(_counted, "bytes", ReadBytes())


def count_bytes(taken: ReadBytes) -> None:
    """Adds to what reads of this thread have taken."""
    _counted.bytes = read_bytes() + taken


kept_blocks = BlockCache(BLOCK_CACHE_BYTES)
"""Of this process: stored blocks and warped ones."""
