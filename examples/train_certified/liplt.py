"""LipLT of a chain, differentiable: an estimate for training, never a certificate.

The network is y_0 = W_0 x, y_i = W_i relu(y_{i-1}) (biases do not matter). With slopes in
[0, 1], relu = id/2 + |.|/2, which arXiv 2310.00116 unrolls to a bound of
the Lipschitz constant m_i of y_i:

    m_i = 2^-i ||W_i ... W_0|| + sum_{j=0}^{i-1} 2^-(j+1) ||W_i ... W_{i-j}|| m_{i-1-j}

For the difference of the logits a and b, the last W_K is the row (e_a - e_b)^T W_K, whose
products have an exact norm. The other norms come from power iteration: that is fast, has a
gradient, and gives LOWER bounds of norms. What it makes of LipLT steers training; radii are
certified afterwards, by `lipcompile certify`, from the file alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from network import Layer
from torch import Tensor

from lipcompile.torchview import TorchView

FIRST_STEPS, STEPS = 30, 1  # power iterations of a fresh vector, and of a warm one
_TINY = 1e-12  # a product of layers may be 0


def apply(layer: Layer, weight: Tensor, x: Tensor) -> Tensor:
    """W x, without the bias; x is [N, *inputs]."""
    if layer.stride:
        return F.conv2d(x, weight, None, layer.stride, layer.pad)
    return F.linear(x.flatten(1), weight)


def apply_transposed(layer: Layer, weight: Tensor, y: Tensor) -> Tensor:
    """W^T y; y is [N, *outputs]."""
    if not layer.stride:
        return (y @ weight).reshape(-1, *layer.inputs)
    shape, options = (len(y), *layer.inputs), (layer.stride, layer.pad)
    transposed: Tensor = torch.nn.grad.conv2d_input(shape, weight, y, *options)
    return transposed


class LipLT:
    """Estimates pairwise Lipschitz constants of a network while it is trained.

    Args:
        view: Holds the weights.
        layers: Its linear layers; between two of them is a ReLU.
        seed: Of the vectors that power iteration starts from.
    """

    def __init__(self, view: TorchView, layers: Sequence[Layer], seed: int = 0) -> None:
        self.chain = [(layer, view.weight(layer.weight)) for layer in layers]
        self._generator = torch.Generator().manual_seed(seed)
        self._vectors: dict[tuple[int, int], Tensor] = {}

    def pairwise(self, steps: int = STEPS) -> Tensor:
        """[K, K]: of z_a - z_b; differentiable in the weights, 0 on the diagonal.

        Args:
            steps: Power iterations of each norm, on from the last call's vectors.
        """
        last = len(self.chain) - 1
        m = self.pre_activations(steps)
        rows, total = self.chain[last][1], torch.zeros(())
        for j in range(last):
            total = total + 2.0 ** -(j + 1) * _distances(rows) * m[last - 1 - j]
            layer, weight = self.chain[last - 1 - j]
            rows = apply_transposed(layer, weight, rows.reshape(-1, *layer.outputs))
        return total + 2.0**-last * _distances(rows)

    def pre_activations(self, steps: int = STEPS) -> list[Tensor]:
        """m_i of every layer but the last."""
        m: list[Tensor] = []
        for i in range(len(self.chain) - 1):
            bound = 2.0**-i * self.norm(0, i, steps)
            for j in range(i):
                bound = bound + 2.0 ** -(j + 1) * self.norm(i - j, i, steps) * m[i - 1 - j]
            m.append(bound)
        return m

    def norm(self, first: int, last: int, steps: int = STEPS) -> Tensor:
        """||W_last ... W_first|| from below.

        ||A v|| at a fixed v: where v is the leading right singular vector, its gradient is
        that of the norm (u v^T), so nothing is differentiated through the iteration.
        """
        part = self.chain[first : last + 1]
        with torch.no_grad():
            v = self._vectors.get((first, last))
            if v is None:
                shape, dtype = (1, *part[0][0].inputs), part[0][1].dtype
                v = torch.randn(shape, generator=self._generator, dtype=dtype)
                steps += FIRST_STEPS
            for _ in range(steps):
                for layer, weight in part:
                    v = apply(layer, weight, v)
                for layer, weight in reversed(part):
                    v = apply_transposed(layer, weight, v)
                v = v / v.norm().clamp_min(_TINY)
            self._vectors[first, last] = v
        for layer, weight in part:
            v = apply(layer, weight, v)
        return v.norm()


def _distances(rows: Tensor) -> Tensor:
    """[K, K] ||r_a - r_b|| of K rows; exactly 0 on the diagonal."""
    flat = rows.flatten(1)
    differences: Tensor = torch.linalg.vector_norm(flat[:, None] - flat[None], dim=2)
    return differences  # torch gives the norm of 0 the gradient 0
