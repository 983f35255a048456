"""c_r per layer, by a greedy search within the budget (arXiv 2406.19622 allows it).

From a setting that is admitted, every layer at the same c_r, one layer at a time moves to the
next larger c_r: first the one whose mean singular ratio falls most by it. The step stays if
the setting is still admitted on the choosing part; otherwise that layer moves no further. So
at most layers * steps models are built, and none that stays is worse than the one before it
by the measure without attacks. Greedy: the best combination may be another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lipcompile.sweeping.settings import Setting
from lipcompile.sweeping.strength import Strengths
from lipcompile.sweeping.trial import Bench


def search(
    bench: Bench,
    start: Setting,
    c_rs: Sequence[float],
    is_admitted: Callable[[np.ndarray], bool],
    notify: Callable[[str], None],
) -> Setting | None:
    """A setting with c_r of its own for some layers; None where no step is admitted.

    Args:
        bench: What builds settings.
        start: An admitted setting of variant "forged", with one c_r.
        c_rs: The c_r to choose from, rising.
        is_admitted: Whether a model that gives these classes, int64 [N], keeps to the limits.
        notify: Told each step.
    """
    assert bench.strengths is not None and start.c_r is not None
    ratios = {layer: start.c_r for layer, c_r in bench.strengths.rows if c_r == start.c_r}
    stuck: set[str] = set()
    while steps := _steps(bench.strengths, ratios, c_rs, stuck):
        _, layer, c_r = max(steps, key=lambda step: step[0])
        tried = {**ratios, layer: c_r}
        classes = bench.answers(_setting(start, tried))
        if classes is not None and is_admitted(classes):
            ratios = tried
        else:
            stuck.add(layer)
        kept = "stuck" if layer in stuck else "kept"
        notify(f"per layer: {layer} to {c_r:g}: {kept}; {len(steps) - 1} other steps in sight")
    found = _setting(start, ratios)
    return found if found.by_layer else None


def _steps(
    strengths: Strengths,
    ratios: Mapping[str, float],
    c_rs: Sequence[float],
    stuck: set[str],
) -> list[tuple[float, str, float]]:
    """Every step of one layer to the next c_r: by how much its singular ratio falls."""
    steps = []
    for layer, c_r in ratios.items():
        larger = [x for x in c_rs if x > c_r]
        if not larger or layer in stuck:
            continue
        now, then = (strengths.rows[layer, x].singular_mean for x in (c_r, larger[0]))
        gain = now - then if now is not None and then is not None else 0.0
        steps.append((gain, layer, larger[0]))
    return steps


def _setting(start: Setting, ratios: Mapping[str, float]) -> Setting:
    return replace(start, by_layer={x: c for x, c in ratios.items() if c != start.c_r})
