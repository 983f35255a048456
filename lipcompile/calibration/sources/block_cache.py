"""A few blocks in memory for several readers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar, final

Key = TypeVar("Key", bound=Hashable)
Block = TypeVar("Block")


@final
class BlockCache(Generic[Key, Block]):
    """Holds the blocks that were used last; threads that want one block wait for one reading.

    Args:
        read: Reads a block; what it raises is raised to all who wait, and not kept.
        capacity: How many blocks are held.
    """

    def __init__(self, read: Callable[[Key], Block], capacity: int) -> None:
        self._read = read
        self._capacity = capacity
        self._held: OrderedDict[Key, Future[Block]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: Key) -> Block:
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            block = self._held.setdefault(key, found or Future())
            while len(self._held) > self._capacity:
                self._held.popitem(last=False)
        if found is None:
            self._fill(key, block)
        return block.result()

    def _fill(self, key: Key, block: Future[Block]) -> None:
        try:
            block.set_result(self._read(key))
        except BaseException as error:
            with self._lock:
                if self._held.get(key) is block:
                    del self._held[key]
            block.set_exception(error)
