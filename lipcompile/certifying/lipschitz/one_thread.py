"""Products of many small matrices, each on one thread.

OpenBLAS divides even a product of 64 x 64 among threads that wait for each other actively: on
two busy cores that took 15 times as long (docs/measurements.md).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
R = TypeVar("R")


def on_one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Gives BLAS one thread while `function` runs."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _libraries().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return run


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
