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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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
    planner = _Planner(form, opset, target, _forged_edges(thresholds))
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
class _Planner:
    form: ForgedFunction
    opset: int
    target: Target
    forged: Mapping[Edge, _Reader]

    def plan(self, threshold: Threshold) -> SitePlan:
        """The earliest anchor that needs no operator of its own, else the earliest one that
        only a rearrangement divides from the site, and no change of layout."""
        site = threshold.site
        plan = self._at(threshold, site.value, tuple(map(_edge, site.layers)))
        for value, node in self._upwards(threshold):
            above = self._at(threshold, value, ((node, 0),))
            if above.encoding.way != "insert" or not self._costs(value, threshold.c):
                plan = above
        return plan

    def _costs(self, anchor: ir.Value, c: float) -> bool:
        """Whether f_c is dearer there than below: on more elements, or in another layout."""
        below = self._below(anchor, c) or []
        if any(standard_op(node) == "MaxPool" for node, _ in below):
            return True
        blocked = any(edge in self.forged and self.forged[edge].channels for edge in below)
        return blocked and not self._channels(anchor, c)

    def _upwards(self, threshold: Threshold) -> Iterator[tuple[ir.Value, ir.Node]]:
        """Ever earlier tensors that only forged layers depend on, with the node below each."""
        value = threshold.site.value
        while (node := value.producer()) is not None and commutes(node):
            (source,) = node.inputs[:1]
            if source is None or source.producer() is None or quantisers(source):
                return
            if not self._only_forged(source, threshold.c):
                return
            yield source, node
            value = source

    def _only_forged(self, value: ir.Value, c: float) -> bool:
        """Whether every reader is a forged layer with threshold c, or leads to such alone."""
        return self._below(value, c) is not None

    def _below(self, value: ir.Value, c: float) -> list[Edge] | None:
        """Every input between `value` and the layers forged with c; None if any others read
        it."""
        found: list[Edge] = []
        queue = [value]
        while queue:
            current = queue.pop()
            if current.is_graph_output() or not current.uses():
                return None
            for node, index in current.uses():
                reader = self.forged.get((node, index))
                if standard_op(node) in _READS_SHAPE:
                    continue
                found.append((node, index))
                if reader is not None and reader.c == c:
                    continue
                if index != 0 or not commutes(node):
                    return None
                queue.append(node.outputs[0])
        return found

    def _channels(self, anchor: ir.Value, c: float) -> int | None:
        """Length of axis 1 where the anchor is a convolution's input or (activated) output."""
        readers = (self.forged.get((node, index)) for node, index in anchor.uses())
        known = [r.channels for r in readers if r is not None and r.c == c and r.channels]
        return known[0] if known else _output_channels(anchor)

    def _at(
        self, threshold: Threshold, anchor: ir.Value, readers: tuple[Edge, ...]
    ) -> SitePlan:
        site = threshold.site
        quantised = bool(quantisers(anchor))
        alone = self._only_forged(anchor, threshold.c) and not quantised
        activation = anchor.producer() if alone else None
        shift = find_shift(activation) if activation is not None and self.form.shifts else None
        if shift is not None and not shift.takes(threshold.c, site.dtype):
            shift = None
        is_relu = activation is not None and standard_op(activation) == "Relu"
        context = EncodingContext(
            dtype=site.dtype,
            opset=self.opset,
            nonnegative=site.nonnegative,
            # Between DequantizeLinear and QuantizeLinear there is no blocked layout to keep.
            channels=None if quantised else self._channels(anchor, threshold.c),
            replaceable_relu=is_relu,
            shiftable=shift is not None,
            target=self.target,
            c=threshold.c,
        )
        encoding = self.form.encoding(context)
        return SitePlan(threshold, anchor, readers, encoding, shift, self.target)


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
