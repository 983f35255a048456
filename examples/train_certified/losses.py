"""Certified radius maximisation (CRM, arXiv 2310.00116).

With margins M_j = z_y - z_j and pairwise Lipschitz constants L_yj, the certified radius is

    R = min_{j != y} M_j / L_yj    >=    R_soft = -1/t log sum_{j != y} exp(-t M_j / L_yj).

R_soft is differentiable, and below R by at most log(K - 1) / t. The loss is

    cross-entropy - lambda * mean( [y is the prediction, R < r_0] * R_soft ).

It enlarges the radii that are smaller than r_0, and leaves larger ones alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class CRM:
    """The loss's options, with the paper's letters.

    Attributes:
        r_0: Radius up to which radii are enlarged, l2 in pixels [0, 1].
        t: Sharpness of the soft minimum, per unit of radius.
        weight: lambda, what a unit of radius is worth in cross-entropy.
    """

    r_0: float
    t: float
    weight: float

    def __call__(
        self, logits: Tensor, labels: Tensor, pairwise: Tensor, share: float = 1.0
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: [N, K].
            labels: int64 [N].
            pairwise: [K, K], Lipschitz constants of z_a - z_b.
            share: Of lambda; grows from 0 to 1 while training warms up.
        """
        of_class = radii(logits, labels, pairwise)
        radius = of_class.amin(1).detach()
        wanted = (radius > 0) & (radius < self.r_0)
        soft = -torch.logsumexp(-self.t * of_class, 1) / self.t
        return F.cross_entropy(logits, labels) - share * self.weight * (soft * wanted).mean()


def radii(logits: Tensor, labels: Tensor, pairwise: Tensor) -> Tensor:
    """[N, K] M_j / L_yj; infinite at j = y; negative where j beats the label."""
    margins = logits.gather(1, labels[:, None]) - logits
    own = F.one_hot(labels, logits.shape[1]).bool()
    constants = pairwise[labels].masked_fill(own, 1.0)
    return (margins / constants).masked_fill(own, torch.inf)
