"""Blocks are read once for all who want them, and few are held."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from lipcompile.calibration.sources.block_cache import BlockCache


class Block:
    def __init__(self, key: int) -> None:
        self.key = key


def test_few_blocks_are_held():
    alive: weakref.WeakSet[Block] = weakref.WeakSet()
    reads = []

    def read(key: int) -> Block:
        reads.append(key)
        block = Block(key)
        alive.add(block)
        return block

    cache = BlockCache(read, 3)
    for key in range(50):
        assert cache(key).key == cache(key).key == key
        assert len(alive) <= 3
    assert reads == list(range(50)), "each once"
    cache(48), cache(0), cache(49), cache(48)
    assert reads[50:] == [0], "what was used last stays"


def test_threads_wait_for_one_reading():
    reads, barrier, go = [], threading.Barrier(5), threading.Event()

    def read(key: int) -> int:
        reads.append(key)
        go.wait(10)
        return key

    cache = BlockCache(read, 2)

    def ask(_: int) -> int:
        barrier.wait(10)
        return cache(7)

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, i) for i in range(4)]
        barrier.wait(10)
        go.set()
        assert [future.result(10) for future in asked] == [7] * 4
    assert reads == [7]


def test_a_failed_reading_is_tried_again():
    answers = iter([ValueError("first"), 5])

    def read(_: str) -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    cache = BlockCache(read, 1)
    with pytest.raises(ValueError, match="first"):
        cache("x")
    assert cache("x") == 5
