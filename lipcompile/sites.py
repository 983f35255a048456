"""Sites: the tensors that feed selected linear layers, and why other layers are left alone.

Rules, each a subset of the next:
    mlp    FC1 / FC2 pairs around a pointwise activation, except stem and head
    auto   every linear layer except stem, head and attention projections (default)
    all    every linear layer whose input is an intermediate tensor
`include`, `exclude` and `op_types` narrow a rule further.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import onnx_ir as ir

from lipcompile.errors import OptionError, SelectionError
from lipcompile.linear_layers import (
    Constants,
    LinearLayer,
    Refusal,
    find_constants,
    find_linear_layers,
    site_value,
)
from lipcompile.ops import KEEPS_SIGN, LINEAR_OPS, NONNEGATIVE
from lipcompile.roles import (
    attention_layers,
    data_inputs,
    head_layers,
    mlp_layers,
    stem_layers,
)

Rule = Literal["auto", "mlp", "all"]


@dataclass(frozen=True, slots=True)
class Selector:
    """Which layers the user wants.

    Attributes:
        rule: "auto", "mlp" or "all".
        include: Regular expressions (searched in the layer's name); when given, only layers
            that one of them matches.
        exclude: Regular expressions; layers that one of them matches are left out.
        op_types: When given, only these operators.
    """

    rule: Rule = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    op_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise OptionError(f"rule '{self.rule}' is unknown: use auto, mlp or all")
        for pattern in (*self.include, *self.exclude):
            try:
                re.compile(pattern)
            except re.error as error:
                raise OptionError(
                    f"pattern '{pattern}' is not a regular expression ({error}): "
                    "escape special characters with a backslash"
                ) from error
        for op_type in self.op_types:
            if op_type not in LINEAR_OPS:
                known = ", ".join(sorted(LINEAR_OPS))
                raise OptionError(f"operator '{op_type}' is no linear layer: use {known}")


@dataclass(frozen=True, slots=True)
class Site:
    """A tensor that feeds selected linear layers; calibrated once, forged once.

    Attributes:
        value: The tensor. In a QDQ model it is the one before QuantizeLinear.
        layers: The selected layers that read it, in graph order.
        dtype: NumPy name of its element type.
        nonnegative: Whether it can be shown to hold no negative value.
    """

    value: ir.Value
    layers: tuple[LinearLayer, ...]
    dtype: str
    nonnegative: bool

    @property
    def tensor(self) -> str:
        assert self.value.name is not None
        return self.value.name


@dataclass(frozen=True, slots=True)
class Selection:
    """What will be forged and what will not."""

    sites: tuple[Site, ...]
    refusals: tuple[Refusal, ...]
    rule: Rule = field(default="auto")

    @property
    def layers(self) -> tuple[LinearLayer, ...]:
        return tuple(layer for site in self.sites for layer in site.layers)


def find_sites(model: ir.Model, selector: Selector | None = None) -> Selection:
    """Decides for every linear layer, and groups the selected ones by the tensor they read.

    Raises:
        SelectionError: A pattern or operator type matches no linear layer.
    """
    selector = selector or Selector()
    constants = find_constants(model.graph)
    layers, refusals = find_linear_layers(model, constants)
    _check_patterns(selector, [(layer.name, layer.node.op_type) for layer in layers], refusals)
    verdicts = _decisions(model.graph, layers, constants, selector)
    chosen = [layer for layer in layers if verdicts[layer.node] is None]
    refusals += [verdict for verdict in verdicts.values() if verdict is not None]
    refusals.sort(key=lambda refusal: refusal.position)
    return Selection(_group(chosen, constants), tuple(refusals), selector.rule)


def require_sites(selection: Selection, model_name: str) -> None:
    """Refuses to go on with nothing to forge.

    Raises:
        SelectionError: The model has no linear layer, or every one was refused.
    """
    if selection.sites:
        return
    if not selection.refusals:
        raise SelectionError(
            f"'{model_name}' has no linear layer (Conv, ConvTranspose, Gemm or MatMul with a "
            "constant weight), so there is nothing to harden"
        )
    reasons: dict[str, int] = {}
    for refusal in selection.refusals:
        reasons[refusal.code] = reasons.get(refusal.code, 0) + 1
    listed = ", ".join(f"{count} {code}" for code, count in sorted(reasons.items()))
    raise SelectionError(
        f"'{model_name}': none of {len(selection.refusals)} linear layers is selected "
        f"({listed}): see 'lipcompile inspect', or pass --rule all"
    )


def _decisions(
    graph: ir.Graph, layers: Sequence[LinearLayer], constants: Constants, selector: Selector
) -> dict[ir.Node, Refusal | None]:
    by_node = {layer.node: layer for layer in layers}
    tests: list[tuple[str, str, Callable[[LinearLayer], bool]]] = []
    if selector.rule in ("auto", "mlp"):
        stems = stem_layers(graph, by_node, constants)
        heads = head_layers(graph, by_node, constants)
        tests.append(("stem", "reads the model's input", lambda x: x.node in stems))
        tests.append(("head", "gives the model's output", lambda x: x.node in heads))
    if selector.rule == "auto":
        attention = attention_layers(graph, by_node, constants)
        reason = "is an attention projection"
        tests.append(("attention", reason, lambda x: x.node in attention))
    if selector.rule == "mlp":
        pairs = mlp_layers(by_node, constants)
        reason = "is not FC1 or FC2 of an MLP (rule mlp)"
        tests.append(("not-mlp", reason, lambda x: x.node not in pairs))
    tests += _refinements(selector)
    return {
        layer.node: next(
            (
                Refusal(layer.name, layer.node.op_type, code, reason, layer.position)
                for code, reason, test in tests
                if test(layer)
            ),
            None,
        )
        for layer in layers
    }


def _refinements(
    selector: Selector,
) -> list[tuple[str, str, Callable[[LinearLayer], bool]]]:
    def matches(patterns: Sequence[str], layer: LinearLayer) -> bool:
        return any(re.search(pattern, layer.name) for pattern in patterns)

    tests: list[tuple[str, str, Callable[[LinearLayer], bool]]] = []
    if selector.op_types:
        wanted = selector.op_types
        reason = f"is not one of --op-types {','.join(wanted)}"
        tests.append(("op-type", reason, lambda x: x.node.op_type not in wanted))
    if selector.include:
        reason = "matches no --include pattern"
        tests.append(("not-included", reason, lambda x: not matches(selector.include, x)))
    if selector.exclude:
        reason = "matches an --exclude pattern"
        tests.append(("excluded", reason, lambda x: matches(selector.exclude, x)))
    return tests


def _check_patterns(
    selector: Selector, layers: Sequence[tuple[str, str]], refusals: Sequence[Refusal]
) -> None:
    known = [*layers, *((r.layer, r.op_type) for r in refusals)]
    names = [name for name, _ in known]
    for flag, patterns in (("include", selector.include), ("exclude", selector.exclude)):
        for pattern in patterns:
            if not any(re.search(pattern, name) for name in names):
                raise SelectionError(
                    f"--{flag} '{pattern}' matches none of {len(names)} linear layers: "
                    f"{_nearest(pattern, names)}"
                )
    for op_type in selector.op_types:
        if op_type not in {op for _, op in known}:
            present = ", ".join(sorted({op for _, op in known})) or "no linear layer"
            raise SelectionError(
                f"--op-types {op_type} matches nothing: the model has {present}"
            )


def _nearest(pattern: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
    return (
        "the nearest are " + ", ".join(f"'{name}'" for name in near) if near else "it has none"
    )


def _group(layers: Sequence[LinearLayer], constants: Constants) -> tuple[Site, ...]:
    groups: dict[ir.Value, list[LinearLayer]] = {}
    for layer in layers:
        groups.setdefault(site_value(layer.data), []).append(layer)
    return tuple(
        Site(value, tuple(group), group[0].dtype, is_nonnegative(value, constants))
        for value, group in groups.items()
    )


def is_nonnegative(value: ir.Value, constants: Constants) -> bool:
    """Whether every path back from `value` ends at an operator that is never negative."""
    queue, seen = [value], {value}
    while queue:
        node = queue.pop().producer()
        if node is None:
            return False
        if node.op_type in NONNEGATIVE or _clips_at_zero(node):
            continue
        if node.op_type not in KEEPS_SIGN:
            return False
        data = data_inputs(node, constants)
        constant_operand = node.op_type in ("Add", "Mul", "Concat") and len(data) != len(
            node.inputs
        )
        if constant_operand or not data:
            return False
        fresh = [v for v in data if v not in seen]
        seen.update(fresh)
        queue += fresh
    return True


def _clips_at_zero(node: ir.Node) -> bool:
    """Clip with a constant lower bound of 0 or more, as ReLU6 is exported."""
    if node.op_type != "Clip":
        return False
    if "min" in node.attributes:  # before opset 11
        return node.attributes["min"].as_float() >= 0
    bound = node.inputs[1] if len(node.inputs) > 1 else None
    constant = ir.convenience.get_const_tensor(bound) if bound is not None else None
    return constant is not None and constant.size == 1 and bool(constant.numpy() >= 0)
