"""A sequential test of "is the probability above p0?" that may be looked at after every draw.

After n draws with k successes, with the uniform mixture over (p0, 1] against p0:

    E_n = 1 / (1 - p0) * integral_p0^1 (q / p0)^k ((1 - q) / (1 - p0))^(n - k) dq
        = B(k + 1, n - k + 1) (1 - I_p0(k + 1, n - k + 1)) / (p0^k (1 - p0)^(n - k + 1))

B is the beta function, I the regularised incomplete one. For q > p0 the factor of one draw has
the expectation p q / p0 + (1 - p)(1 - q) / (1 - p0), which grows with the true p and is 1 at
p = p0. So E_n is a supermartingale for every p <= p0, E_0 = 1, and by Ville's inequality

    P(E_n >= 1 / alpha for any n) <= alpha    for every p <= p0,

whenever one looks, and whatever makes one stop. "p < p0" is the same test of the failures
against 1 - p0.

Sources: Robbins, "Statistical methods related to the law of the iterated logarithm", Ann.
Math. Statist. 41 (1970), for the mixture; Ville (1939) for the inequality.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy import special

_ROUNDING = 1e-9  # added to the threshold: more than the logarithms are off


def log_evidence_above(
    successes: np.ndarray | int, draws: np.ndarray | int, p0: float
) -> np.ndarray:
    """log E_n, elementwise: how much k successes speak for p > p0.

    Args:
        successes: k, 0 to n.
        draws: n.
        p0: In (0, 1).
    """
    k = np.asarray(successes, np.float64)
    m = np.asarray(draws, np.float64) - k
    with np.errstate(divide="ignore"):  # no evidence at all: log 0
        tail = np.log(special.betaincc(k + 1, m + 1, p0))
    against: np.ndarray = k * math.log(p0) + (m + 1) * math.log1p(-p0)
    result: np.ndarray = special.betaln(k + 1, m + 1) + tail - against
    return result


def log_evidence_below(
    successes: np.ndarray | int, draws: np.ndarray | int, p0: float
) -> np.ndarray:
    """The same for p < p0."""
    failures = np.asarray(draws) - np.asarray(successes)
    return log_evidence_above(failures, draws, 1 - p0)


def decide(
    successes: int, draws: int, p0: float, alpha: float
) -> Literal["yes", "no", "undecided"]:
    """Whether the probability is at least p0.

    Over all looks together, "yes" is said with probability at most alpha where p <= p0, and
    "no" where p >= p0.

    Args:
        successes: 0 to `draws`.
        draws: So far.
        p0: In (0, 1).
        alpha: In (0, 1).
    """
    threshold = -math.log(alpha) + _ROUNDING
    if log_evidence_above(successes, draws, p0) >= threshold:
        return "yes"
    if log_evidence_below(successes, draws, p0) >= threshold:
        return "no"
    return "undecided"
