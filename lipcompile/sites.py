"""Sites: the tensors that feed selected linear layers, and why other layers are left alone.

Rules, each a subset of the next:
    mlp    FC1 / FC2 pairs around a pointwise activation, as far as auto takes them
    auto   every linear layer except stem, head and attention projections (default)
    all    every linear layer whose input is an intermediate tensor
`include`, `exclude` and `op_types` narrow a rule further.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
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
)
from lipcompile.ops import LINEAR_OPS
from lipcompile.roles import (
    attention_layers,
    head_layers,
    mlp_layers,
    stem_layers,
)
from lipcompile.signs import nonnegative_values

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
        for name in ("include", "exclude", "op_types"):
            if isinstance(text := getattr(self, name), str):
                raise OptionError(
                    f"{name} = '{text}' is one text, and many are expected: write ('{text}',)"
                )
        for pattern in (*self.include, *self.exclude):
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
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
        value: The tensor. In a QDQ model it is what DequantizeLinear gives.
        layers: The selected layers that read it, in graph order.
        dtype: NumPy name of its element type.
        nonnegative: Whether it can be shown to hold no negative value.
    """

    value: ir.Value
    layers: tuple[LinearLayer, ...]
    dtype: str
    nonnegative: bool

    @property
    def channels(self) -> int | None:
        """Length of axis 1, where a convolution that reads the site tells it."""
        return next((layer.channels for layer in self.layers if layer.channels), None)

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
    advice = (
        "it is hardened as far as the rule goes"
        if "already-hardened" in reasons
        else "see 'lipcompile inspect', or pass --rule all"
    )
    raise SelectionError(
        f"'{model_name}': none of {len(selection.refusals)} linear layers is selected "
        f"({listed}): {advice}"
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
                    f"{nearest_names(pattern, names)}"
                )
    for op_type in selector.op_types:
        if op_type not in {op for _, op in known}:
            present = ", ".join(sorted({op for _, op in known})) or "no linear layer"
            raise SelectionError(
                f"--op-types {op_type} matches nothing: the model has {present}"
            )


def nearest_names(pattern: str, names: Sequence[str]) -> str:
    """A clause that helps someone whose pattern matched nothing."""
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
    return (
        "the nearest are " + ", ".join(f"'{name}'" for name in near) if near else "it has none"
    )


def _group(layers: Sequence[LinearLayer], constants: Constants) -> tuple[Site, ...]:
    groups: dict[ir.Value, list[LinearLayer]] = {}
    equals = _EqualValues()
    for layer in layers:
        groups.setdefault(equals.first(layer.data), []).append(layer)
    nonnegative = nonnegative_values(groups, constants)
    return tuple(
        Site(value, tuple(group), group[0].dtype, value in nonnegative)
        for value, group in groups.items()
    )


def site_value(data: ir.Value) -> ir.Value:
    """`data`, or of several equal DequantizeLinear of one tensor the first one's output."""
    return _EqualValues().first(data)


class _EqualValues:
    """Finds equal DequantizeLinear, looking only once at what reads a quantised tensor."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, Mapping[object, list[ir.Node]]] = {}

    def first(self, data: ir.Value) -> ir.Value:
        dequantize = data.producer()
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            return data
        quantised = dequantize.inputs[0]
        assert quantised is not None
        if quantised not in self._known:
            self._known[quantised] = _sorted_out(quantised)
        alike = self._known[quantised][_kind(dequantize)]
        options = _options(dequantize)
        return next(node for node in alike if _options(node) == options).outputs[0]


def _sorted_out(quantised: ir.Value) -> Mapping[object, list[ir.Node]]:
    """The first of each equal readers, by kind."""
    kinds: dict[object, list[ir.Node]] = {}
    for node, _ in quantised.uses():
        found = kinds.setdefault(_kind(node), [])
        if all(_options(node) != _options(other) for other in found):
            found.append(node)
    return kinds


def _kind(node: ir.Node) -> object:
    return node.op_identifier(), node.inputs, id(node.graph)


def _options(node: ir.Node) -> dict[str, object]:
    return {name: attribute.value for name, attribute in node.attributes.items()}
