"""Results come in order, in bounded number, and errors in their turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from lipcompile.calibration.sources import reading_ahead
from lipcompile.calibration.sources.reading_ahead import cores, read_ahead


def slow_first(i: int) -> int:
    time.sleep(0.02 if i % 7 == 0 else 0)
    return i


@pytest.mark.parametrize("threads", [None, 0, 1, 3])
def test_results_come_in_order(threads: int) -> None:
    tasks = [partial(slow_first, i) for i in range(100)]
    assert list(read_ahead(tasks, threads)) == list(range(100))


@pytest.mark.parametrize("threads", [None, 0, 2])
def test_an_error_comes_in_its_turn(threads: int) -> None:
    def task(i: int) -> int:
        if i == 5:
            raise ValueError("the sixth")
        return i

    results = read_ahead((partial(task, i) for i in range(50)), threads)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="the sixth"):
        next(results)


def test_few_tasks_are_ahead_of_the_caller() -> None:
    taken = 0

    def tasks() -> Iterator[Callable[[], int]]:
        nonlocal taken
        for i in range(10_000):
            taken += 1
            yield partial(slow_first, i)

    results = read_ahead(tasks(), 2)
    for _ in range(3):
        next(results)
    assert taken <= 3 + 2 * 16
    results.close()  # type: ignore[attr-defined]


def test_a_caller_that_stops_ends_the_threads() -> None:
    results = read_ahead((partial(slow_first, i) for i in range(10_000)), 3)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("lipcompile-reader")]


def test_tasks_overlap() -> None:
    """Two tasks that wait for each other end only if both run at once."""
    barrier = threading.Barrier(2, timeout=20)
    assert len(list(read_ahead([barrier.wait, barrier.wait], 2))) == 2


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 1), (0.004, 2)])
def test_threads_are_for_tasks_that_take_a_while(
    seconds: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_ahead, "cores", lambda: 2)
    used = set()

    def task() -> None:
        time.sleep(seconds)
        used.add(threading.get_ident())

    assert len(list(read_ahead([task] * 60, None))) == 60
    assert len(used - {threading.get_ident()}) == (0 if expected == 1 else expected)


def test_cores() -> None:
    assert cores() >= 1
