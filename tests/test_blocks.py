"""The memory of blocks: each made once whoever asks, bounded, unharmed by failures; bytes reach who asked."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coseis.blocks import BlockCache, ReadBytes, count_bytes, for_each, read_bytes


def block_of(key):
    return np.full(8, key, np.uint8)


@given(st.lists(st.lists(st.integers(0, 12), max_size=6, unique=True), min_size=2, max_size=12))
def test_each_block_is_made_once_for_all_threads(requests):
    cache, made, lock = BlockCache(1000), Counter(), threading.Lock()

    def make(keys):
        with lock:
            made.update(keys)
        return {key: block_of(key) for key in keys}

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda keys: cache.fetch(keys, make), requests))
    for keys, answer in zip(requests, answers, strict=True):
        assert {key: int(block[0]) for key, block in answer.items()} == {key: key for key in keys}
    assert set(made.values()) <= {1}


def test_longest_unused_are_dropped():
    cache, made = BlockCache(3 * 8), []

    def make(keys):
        made.extend(keys)
        return {key: block_of(key) for key in keys}

    for key in (1, 2, 3, 1, 4, 1, 2):
        cache.fetch([key], make)
    assert made == [1, 2, 3, 4, 2]
    cache.clear()
    cache.fetch([1], make)
    assert made[-1] == 1


def test_a_block_larger_than_the_memory_is_still_delivered():
    cache = BlockCache(4)
    for _ in range(2):
        assert cache.fetch([7], lambda keys: {7: block_of(7)})[7][0] == 7


def test_who_waited_for_a_failed_block_makes_it():
    cache, asked = BlockCache(100), threading.Event()

    def fail(keys):
        asked.wait(10)
        raise OSError("gone")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.fetch, [1], fail)
        second = pool.submit(cache.fetch, [1], lambda keys: {1: block_of(1)})
        asked.set()
        with pytest.raises(OSError, match="gone"):
            first.result(10)
        assert second.result(10)[1][0] == 1


@pytest.mark.parametrize("concurrently", [False, True])
def test_bytes_of_any_thread_count_for_the_caller(concurrently):
    before = read_bytes()
    for_each(range(5), lambda job: count_bytes(ReadBytes(job, 10)), concurrently=concurrently)
    assert read_bytes() - before == ReadBytes(10, 50)


@pytest.mark.parametrize("concurrently", [False, True])
def test_an_error_reaches_the_caller(concurrently):
    def fail(job):
        if job == 3:
            raise OSError("job 3")

    with pytest.raises(OSError, match="job 3"):
        for_each(range(5), fail, concurrently=concurrently)
