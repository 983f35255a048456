"""Where the form of a site is computed, and how: decided here, edited by passes.

f_c acts on each element alone, so it may be computed before operators that only rearrange
elements (Reshape, Flatten, Transpose, Squeeze, Unsqueeze, Identity), and, since every form
grows with its argument, before MaxPool. A site's *anchor* is the earliest such tensor of which
every reader leads to forged layers with the same threshold:

    Relu -> r -> Flatten -> x -> Gemm        site x, anchor r
    Relu -> r -+-> Conv                      sites r and m, one anchor r, if c is the same
               +-> MaxPool -> m -> Conv

Going back over MaxPool means more elements to compute, so that it is done only where it
reaches an activation whose own encoding takes the form in: no operator is left then at all.

Sites that share a tensor on their way back must agree whether to pass it: a form above it and
another one below would be f_c(f_c(x)). So nothing that decides on an anchor depends on the
site that asks; only on the tensor, and on all that lies below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from lipcompile.forged import Encoding, EncodingContext, ForgedFunction, Target
from lipcompile.linear_layers import LinearLayer
from lipcompile.ops import commutes, standard_op
from lipcompile.passes.shift_bias import BiasShift, find_shift
from lipcompile.sites import Site
from lipcompile.weights import stored_weight

_READS_SHAPE = frozenset({"Shape", "Size"})
_IN_QUANTISED = frozenset({"QuantizeLinear", "Cast", "Identity"})

Edge = tuple[ir.Node, int]


@dataclass(frozen=True, slots=True)
class Threshold:
    """What was decided for one site: its number, and where the number comes from.

    Attributes:
        site: The tensor and its layers.
        absmax: Calibrated max |x|, in the unit of x.
        c_r: Relative threshold.
        c: c_r * absmax, rounded to the type that f_c is computed in.
    """

    site: Site
    absmax: float
    c_r: float
    c: float


@dataclass(frozen=True, slots=True)
class SitePlan:
    """What will be done at one site.

    Attributes:
        threshold: The site and its c.
        anchor: The tensor that f_c is applied to.
        readers: The inputs of nodes that will read f_c of the anchor.
        encoding: The operators that compute f_c.
        shift: The bias that takes c, for way "bias".
        target: What the encoding was chosen for.
    """

    threshold: Threshold
    anchor: ir.Value
    readers: tuple[Edge, ...]
    encoding: Encoding
    shift: BiasShift | None
    target: Target

    @property
    def site(self) -> Site:
        return self.threshold.site

    @property
    def c(self) -> float:
        return self.threshold.c


def plan_sites(
    thresholds: Sequence[Threshold], form: ForgedFunction, opset: int, target: Target
) -> tuple[SitePlan, ...]:
    """Chooses anchor and encoding of `form` at every site; edits nothing.

    Args:
        thresholds: All sites of one graph that will be forged together.
        form: The forged function.
        opset: Version of the default operator set.
        target: Where the model will run.
    """
    planner = _Planner(form, opset, target, _Readers(_forged_edges(thresholds)))
    return tuple(planner.plan(threshold) for threshold in thresholds)


def _forged_edges(thresholds: Sequence[Threshold]) -> dict[Edge, _Reader]:
    return {
        _edge(layer): _Reader(t.c, layer.channels)
        for t in thresholds
        for layer in t.site.layers
    }


def _edge(layer: LinearLayer) -> Edge:
    return layer.node, layer.data_index


@dataclass(frozen=True, slots=True)
class _Reader:
    """A layer that will be forged: its threshold, and its channels where it has such."""

    c: float
    channels: int | None


@dataclass(frozen=True, slots=True)
class _Below:
    """What reads a tensor, directly and through operators that commute with a form.

    Attributes:
        forged_alone: Whether only layers that will be forged do, with one threshold.
        c: That threshold; None where nothing but the shape is read.
        pooled: Whether a MaxPool lies in between.
        blocked: Whether a convolution is among the layers.
    """

    forged_alone: bool
    c: float | None = None
    pooled: bool = False
    blocked: bool = False

    def takes(self, c: float) -> bool:
        """Whether a form with threshold c may be computed above."""
        return self.forged_alone and self.c in (None, c)


_OTHERS = _Below(forged_alone=False)


def _joined(parts: Sequence[_Below]) -> _Below:
    thresholds = {part.c for part in parts if part.c is not None}
    if len(thresholds) > 1 or not all(part.forged_alone for part in parts):
        return _OTHERS
    pooled, blocked = any(p.pooled for p in parts), any(p.blocked for p in parts)
    return _Below(True, next(iter(thresholds), None), pooled, blocked)


class _Readers:
    """Looks at every tensor once, whichever site asks for it."""

    def __init__(self, forged: Mapping[Edge, _Reader]) -> None:
        self._forged = forged
        self._known: dict[ir.Value, _Below] = {}

    def below(self, value: ir.Value) -> _Below:
        # Without recursion, since ways may be long: a value is decided when those below are.
        queue = [] if value in self._known else [value]
        while queue:
            current = queue[-1]
            missing = [v for v in self._behind(current) if v not in self._known]
            if missing and current not in self._known:
                self._known[current] = _OTHERS  # in a damaged graph the way may be a circle
                queue += missing
                continue
            self._known[queue.pop()] = self._decide(current)
        return self._known[value]

    def _behind(self, value: ir.Value) -> list[ir.Value]:
        """The results of the operators that read `value` and commute."""
        return [
            node.outputs[0]
            for node, index in value.uses()
            if index == 0 and (node, index) not in self._forged and commutes(node)
        ]

    def _decide(self, value: ir.Value) -> _Below:
        if value.is_graph_output() or not value.uses():
            return _OTHERS
        parts = []
        for node, index in value.uses():
            reader = self._forged.get((node, index))
            if standard_op(node) in _READS_SHAPE:
                continue
            if reader is not None:
                parts.append(_Below(True, reader.c, blocked=bool(reader.channels)))
            elif index == 0 and commutes(node):
                behind = self._known[node.outputs[0]]
                pooled = behind.pooled or standard_op(node) == "MaxPool"
                parts.append(replace(behind, pooled=pooled))
            else:
                return _OTHERS
        return _joined(parts)

    def channels(self, anchor: ir.Value, c: float) -> int | None:
        """Length of axis 1 where the anchor is a convolution's input or (activated) output."""
        readers = (self._forged.get((node, index)) for node, index in anchor.uses())
        known = [r.channels for r in readers if r is not None and r.c == c and r.channels]
        return known[0] if known else _output_channels(anchor)


@dataclass(frozen=True, slots=True)
class _Written:
    """How a form would be computed at a tensor, and whether that is dearer than below."""

    encoding: Encoding
    shift: BiasShift | None
    dear: bool


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor that a form could be computed at, for whom, and how."""

    anchor: ir.Value
    readers: tuple[Edge, ...]
    how: _Written


# What a place depends on beside the tensor, of the site that asks for it.
_Asked = tuple[float, str, bool]  # c, dtype, nonnegative


@dataclass(frozen=True, slots=True)
class _Planner:
    form: ForgedFunction
    opset: int
    target: Target
    readers: _Readers
    above: dict[tuple[ir.Value, _Asked], _Place | None] = field(default_factory=dict)
    written: dict[tuple[ir.Value, _Asked], _Written] = field(default_factory=dict)

    def plan(self, threshold: Threshold) -> SitePlan:
        """The earliest anchor that needs no operator of its own, else the earliest one that
        only a rearrangement divides from the site, and no change of layout."""
        site = threshold.site
        asked = threshold.c, site.dtype, site.nonnegative
        place = self._above(site.value, asked)
        if place is None:
            edges = tuple(map(_edge, site.layers))
            place = _Place(site.value, edges, self._at(site.value, asked))
        how = place.how
        return SitePlan(
            threshold, place.anchor, place.readers, how.encoding, how.shift, self.target
        )

    def _above(self, value: ir.Value, asked: _Asked) -> _Place | None:
        """The place to take among the ever earlier tensors that only forged layers depend on,
        if there is any; found once for all sites on one way."""
        way: list[tuple[ir.Value, ir.Node, ir.Value]] = []
        while (value, asked) not in self.above and (step := self._upwards(value, asked[0])):
            way.append((value, *step))
            value = step[1]
        best = self.above.setdefault((value, asked), None)
        for below, node, source in reversed(way):
            best = best or self._fitting(source, node, asked)
            self.above[below, asked] = best
        return best

    def _upwards(self, value: ir.Value, c: float) -> tuple[ir.Node, ir.Value] | None:
        """The operator that gives `value` and the tensor above it, where f_c may pass."""
        node = value.producer()
        if node is None or not commutes(node):
            return None
        (source,) = node.inputs[:1]
        if source is None or source.producer() is None or quantisers(source):
            return None
        return (node, source) if self.readers.below(source).takes(c) else None

    def _fitting(self, value: ir.Value, node: ir.Node, asked: _Asked) -> _Place | None:
        """The place at `value`, above `node`, unless it needs an operator, dearer there."""
        how = self._at(value, asked)
        if how.encoding.way == "insert" and how.dear:
            return None
        return _Place(value, ((node, 0),), how)

    def _costs(self, anchor: ir.Value, c: float) -> bool:
        """Whether f_c is dearer there than below: on more elements, or in another layout."""
        below = self.readers.below(anchor)
        return below.pooled or (below.blocked and not self.readers.channels(anchor, c))

    def _at(self, anchor: ir.Value, asked: _Asked) -> _Written:
        if (anchor, asked) not in self.written:
            self.written[anchor, asked] = self._write(anchor, *asked)
        return self.written[anchor, asked]

    def _write(self, anchor: ir.Value, c: float, dtype: str, nonnegative: bool) -> _Written:
        quantised = bool(quantisers(anchor))
        alone = self.readers.below(anchor).takes(c) and not quantised
        activation = anchor.producer() if alone else None
        shift = find_shift(activation) if activation is not None and self.form.shifts else None
        if shift is not None and not shift.takes(c, dtype):
            shift = None
        is_relu = activation is not None and standard_op(activation) == "Relu"
        context = EncodingContext(
            dtype=dtype,
            opset=self.opset,
            nonnegative=nonnegative,
            # Between DequantizeLinear and QuantizeLinear there is no blocked layout to keep.
            channels=None if quantised else self.readers.channels(anchor, c),
            replaceable_relu=is_relu,
            shiftable=shift is not None,
            target=self.target,
            c=c,
        )
        return _Written(self.form.encoding(context), shift, self._costs(anchor, c))


def _output_channels(anchor: ir.Value) -> int | None:
    node = anchor.producer()
    while node is not None and standard_op(node) in ("Relu", "Clip", "BatchNormalization"):
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    if node is None or standard_op(node) != "Conv":
        return None
    weight = stored_weight(node, 1)
    return None if isinstance(weight, str) else weight.shape[0]


def quantisers(value: ir.Value) -> list[ir.Node]:
    """QuantizeLinear to DequantizeLinear (PyTorch puts a Cast between them), or []."""
    chain: list[ir.Node] = []
    source: ir.Value | None = value
    while source is not None and (node := source.producer()) is not None:
        is_last = node.op_type == "DequantizeLinear"
        if is_last == bool(chain) or (not is_last and node.op_type not in _IN_QUANTISED):
            return []
        chain.insert(0, node)
        if node.op_type == "QuantizeLinear":
            return chain
        source = node.inputs[0]
    return []
