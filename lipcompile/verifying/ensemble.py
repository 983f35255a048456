"""An ensemble against its definition: every view in NumPy, run through the model inside."""

from __future__ import annotations

from lipcompile.ensembles.reference import Inner, Reference
from lipcompile.errors import ModelError, OptionError, RunFailure
from lipcompile.runtime import RuntimeOptions
from lipcompile.verifying.pair import Pair
from lipcompile.verifying.results import VerifyCheck
from lipcompile.verifying.samples import Samples

NAME = "ensemble"
_SAMPLES = 8
_FEWEST = 2  # pixels of a side


def check_ensemble(pair: Pair, samples: Samples, options: RuntimeOptions) -> VerifyCheck:
    """The scores are the mean over the views of what the model inside gives."""
    if pair.ensemble is None:
        return VerifyCheck(NAME, False, pair.fault or "it cannot be taken off")
    feeds = [probe.feeds for probe in samples.probes[:_SAMPLES]]
    try:
        inner = Inner.open(pair.inner, pair.inner.proto, pair.ensemble, options)
        reference = Reference.open(pair.inner, inner, pair.hardened.proto, options)
        found = reference.compare(feeds)
    except (ModelError, RunFailure) as error:
        return VerifyCheck(NAME, False, f"it does not run: {error}")
    broken = [apart for apart in found if not apart.holds]
    worst = {apart.what: apart for apart in sorted(found, key=lambda a: a.difference)}
    views = max(apart.difference for what, apart in worst.items() if what != "scores")
    text = f"views off by {views:.1e} of the largest pixel, {worst['scores']} score"
    text = str(broken[0]) if broken else text
    text = f"{pair.ensemble}: {text}, on {len(feeds)} of {samples.label}"
    return VerifyCheck(NAME, not broken, text)


def too_small(pair: Pair, samples: Samples) -> str | None:
    """Why no view of these samples can be made; None if it can."""
    if pair.ensemble is None:
        return None
    image = pair.ensemble.image
    shape = image.unfolded(samples.probes[0].feeds[image.spec.name]).shape
    height, width = (shape[axis] for axis in image.axes)
    if min(height, width) < _FEWEST:
        return f"views of {height} by {width} pixels show nothing"
    try:
        for view in pair.ensemble.views:
            view.check(height, width)
    except OptionError as error:
        return str(error)
    return None
