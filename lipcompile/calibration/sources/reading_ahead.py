"""Run tasks ahead of the one who takes their results, in order and in bounded number."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Result = TypeVar("Result")

_TRIED = 8  # tasks, before it is decided whether threads are worth their while
_WORTH_SECONDS = 1e-3
_MOST_THREADS = 8  # where nothing else is asked for
_AHEAD = 16  # tasks per thread: enough to fill one batch while another one runs


def cores() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_ahead(tasks: Iterable[Callable[[], Result]], threads: int | None) -> Iterator[Result]:
    """Yields the results of `tasks` in their order, and raises what they raise in turn.

    At most 16 tasks a thread are running or done and not yet taken, so that memory does not
    grow with the number of tasks. A caller that stops early ends the threads.

    Args:
        tasks: What to run; taken from in the caller's thread.
        threads: How many run at once; 0 runs each task when it is asked for. None decides by
            the first tasks: small ones spend their time in Python, of which threads make more.
    """
    rest = iter(tasks)
    if threads is None:
        quickest = float("inf")
        for task in islice(rest, _TRIED):
            start = time.perf_counter()
            result = task()
            quickest = min(quickest, time.perf_counter() - start)
            yield result
        threads = min(cores(), _MOST_THREADS) if quickest >= _WORTH_SECONDS else 0
    if not threads:
        for task in rest:
            yield task()
        return
    pool = ThreadPoolExecutor(threads, "lipcompile-reader")
    waiting: deque[Future[Result]] = deque()
    try:
        while True:
            room = threads * _AHEAD - len(waiting)
            waiting.extend(pool.submit(task) for task in islice(rest, room))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
