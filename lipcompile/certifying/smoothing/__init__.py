"""Randomized smoothing (Cohen, Rosenfeld and Kolter 2019, arXiv 1902.02918): what the majority
under Gaussian noise is, and how far from an image it provably stays so.

For a deployed model f with classes c, let g(x) = argmax_c P(f(x + sigma n) = c), n ~ N(0, I)
over all pixels. If P(f(x + sigma n) = c) >= p > 1/2, then g = c on the whole l2 ball around x
of radius sigma * Phi^-1(p) (their Theorem 1, with 1 - p for the runner-up). It is g that is
certified, never f itself: whoever deploys the certificate has to deploy the vote.

The theorem is about real numbers and true normals. Here noise, sum and model are computed in
float32 (float64 for float64 models) from pseudo-random numbers, as in the reference: that is
not covered by the proof. Everything behind the counts is exact or rounded outwards.
"""

from __future__ import annotations

from lipcompile.certifying import requirements  # noqa: F401  (before scipy is imported)
from lipcompile.certifying.smoothing.options import SmoothingOptions
from lipcompile.certifying.smoothing.outcome import Outcome
from lipcompile.certifying.smoothing.result import SmoothingRun
from lipcompile.certifying.smoothing.run import smooth

__all__ = ["Outcome", "SmoothingOptions", "SmoothingRun", "smooth"]
