"""Measurements on labelled data and on the clock, shared by the demo, docs and benchmarks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lipcompile.runtime import Session


@dataclass(frozen=True, slots=True)
class LatencyRatio:
    """Latency of B over latency of A, from paired, interleaved runs in one process.

    Attributes:
        median: Median of the ratios of all pairs; no unit.
        low: Their 10 % quantile.
        high: Their 90 % quantile.
        pairs: How many pairs were run.
    """

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        spread = f"10-90 %: {self.low:.3f} to {self.high:.3f}"
        return f"{self.median:.3f} ({spread}, n = {self.pairs} pairs)"


def latency_ratio(
    first: Session, second: Session, feeds: Mapping[str, np.ndarray], pairs: int = 200
) -> LatencyRatio:
    """Times `second` against `first` on the same feeds; 10 pairs warm up uncounted.

    The two take turns and swap places in every pair, so that a drift of the machine's speed
    cancels out.
    """
    ratios = []
    for index in range(-10, pairs):
        order = (first, second) if index % 2 else (second, first)
        seconds = {id(session): _seconds(session, feeds) for session in order}
        if index >= 0:
            ratios.append(seconds[id(second)] / seconds[id(first)])
    low, median, high = np.quantile(ratios, [0.1, 0.5, 0.9])
    return LatencyRatio(float(median), float(low), float(high), pairs)


def _seconds(session: Session, feeds: Mapping[str, np.ndarray]) -> float:
    start = time.perf_counter()
    session.run(session.outputs, feeds)
    return time.perf_counter() - start


def predictions(
    session: Session, input_name: str, batches: Sequence[np.ndarray]
) -> np.ndarray:
    """Arg max over the last axis of the first output, for each row of each batch."""
    name = session.outputs[0]
    scores = [session.run([name], {input_name: batch})[name] for batch in batches]
    return np.concatenate([s.reshape(len(s), -1).argmax(axis=1) for s in scores])
