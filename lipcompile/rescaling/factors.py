"""Chooses the factor of each group of tensors: 1 at the input, the wanted one at the logits.

In between, layers are balanced: with n_l the norm of layer l from group i to group j, and x =
log2 g, the factors minimise the sum over all layers of

    (log2 n_l + x_j - x_i - t)^2                          over x and t

which on a chain gives every layer the same norm. Then they are rounded to powers of two, with
which every product and sum is exact, so that the last layers alone take what is no such power.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from lipcompile.passes.rescale_constants import find_constant
from lipcompile.rescaling.homogeneous import Network
from lipcompile.rescaling.rules import Edit
from lipcompile.weights import constant_array

_MOST = 60  # of the exponents
_STEPS = 20  # of the power iteration
Factors = Mapping[ir.Value, float]


def choose_exponents(network: Network, factor: float) -> dict[ir.Value, int]:
    """k of g = 2^k for each group between the input and the logits, where it is not 0.

    Args:
        network: What is rescaled.
        factor: That of the logits.
    """
    fixed = {network.group(value): 0.0 for value in (network.image, *network.kept)}
    fixed[network.group(network.logits)] = math.log2(factor)
    links = [(edit, math.log2(n)) for edit in network.edits if (n := _norm(edit)) > 0]
    ends = [network.group(v) for edit, _ in links for v in (edit.up, edit.down) if v]
    free = [group for group in dict.fromkeys(ends) if group not in fixed]
    column = {group: index for index, group in enumerate(free)}
    rows = np.zeros((len(links), len(free) + 1))
    goals = np.zeros(len(links))
    for row, goal, (edit, norm) in zip(rows, range(len(links)), links, strict=True):
        sign = -1 if _divides(edit) else 1
        row[-1], goals[goal] = -1, -norm
        for value, weight in ((edit.up, sign), (edit.down, -sign)):
            assert value is not None
            group = network.group(value)
            if group in column:
                row[column[group]] += weight
            else:
                goals[goal] -= weight * fixed[group]
    solution = np.linalg.lstsq(rows, goals, rcond=None)[0] if links else np.zeros(1)
    rounded = (round(max(-_MOST, min(_MOST, float(x)))) for x in solution[:-1])
    return {group: k for group, k in zip(free, rounded, strict=True) if k}


def all_factors(
    network: Network, exponents: Mapping[ir.Value, int], factor: float
) -> dict[tuple[ir.Node, int], float]:
    """What every constant operand is multiplied by."""
    factors = {group: 2.0**k for group, k in exponents.items()}
    factors[network.group(network.logits)] = factor

    def of(value: ir.Value | None) -> float:
        return 1.0 if value is None else factors.get(network.group(value), 1.0)

    return {(edit.node, edit.index): of(edit.up) / of(edit.down) for edit in network.edits}


def _divides(edit: Edit) -> bool:
    return edit.node.op_type == "Div"


def _norm(edit: Edit) -> float:
    """About how much the operator stretches, to balance by; 0 where it is no layer.

    No bound: a power iteration on the weight as a matrix [axis 0, all others].
    """
    if edit.down is None:
        return 0.0
    weight = find_constant(edit.node, edit.index)
    assert not isinstance(weight, str)
    array = np.abs(weight.array()) if edit.node.op_type in ("Mul", "Div") else weight.array()
    if edit.node.op_type == "BatchNormalization":
        variance = constant_array(edit.node.inputs[4])
        array = np.abs(array) / np.sqrt(1.0 if variance is None else variance + 1e-12)
    if array.ndim < 2 or edit.node.op_type in ("Mul", "Div"):
        largest = float(array.max(initial=0.0))
        return 1 / largest if _divides(edit) and largest else largest
    return _spectral(array.reshape(len(array), -1))


def _spectral(matrix: np.ndarray) -> float:
    vector = np.ones(matrix.shape[1], matrix.dtype)
    stretched = 0.0
    for _ in range(_STEPS):
        length = float(np.linalg.norm(vector))
        if not length:
            break
        image = matrix @ (vector / length)
        stretched = float(np.linalg.norm(image))
        vector = matrix.T @ image
    return stretched
