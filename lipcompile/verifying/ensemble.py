"""An ensemble against its definition: every view in NumPy, run through the model inside."""

from __future__ import annotations

from lipcompile.ensembles.reference import Reference
from lipcompile.errors import ModelError, RunFailure
from lipcompile.runtime import RuntimeOptions, Session
from lipcompile.verifying.pair import Pair
from lipcompile.verifying.results import VerifyCheck
from lipcompile.verifying.samples import Samples

NAME = "ensemble"
_SAMPLES = 8


def check_ensemble(
    pair: Pair, session: Session, samples: Samples, options: RuntimeOptions
) -> VerifyCheck:
    """The scores are the mean over the views of what the model inside gives."""
    if pair.ensemble is None:
        return VerifyCheck(NAME, False, pair.fault or "it cannot be taken off")
    feeds = [probe.feeds for probe in samples.probes[:_SAMPLES]]
    try:
        reference = Reference.open(pair.inner.proto, pair.ensemble, options, pair.inner)
        apart = max(reference.difference(session, feed) for feed in feeds)
    except (ModelError, RunFailure) as error:
        return VerifyCheck(NAME, False, f"the model inside does not run on a view: {error}")
    text = (
        f"{pair.ensemble}: off by {apart:.1e} of the largest score on {len(feeds)} of "
        f"{samples.label}"
    )
    return VerifyCheck(NAME, apart <= reference.tolerance, text)
