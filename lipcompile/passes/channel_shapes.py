"""Where channels go in operators that rearrange, reduce or join tensors.

Cases:
    1. Transpose, Squeeze and Unsqueeze move the channel axis.
    2. Pad, Slice, Resize, Upsample and reductions along other axes keep it.
    3. Flatten, and a Reshape that keeps the batch and puts everything else on one axis, make
       one feature of each channel and position.
    4. Concat along the channel axis strings channels together.
    5. Shape reads no channel where only the lengths of other axes are taken from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from lipcompile.attributes import integer
from lipcompile.passes.channel_passage import (
    UNKNOWN_SHAPE,
    Layout,
    Passage,
    Scope,
    fixed_reason,
    names,
)
from lipcompile.weights import stored_weight

REDUCTIONS = names(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSum ReduceSumSquare"
)
_PASSES_LENGTHS = frozenset({"Cast", "Identity", "Squeeze", "Unsqueeze"})


def _ints(node: ir.Node, name: str, index: int, scope: Scope) -> list[int] | None:
    """An attribute of integers, or the input that later opsets have in its place."""
    attribute = node.attributes.get(name)
    if attribute is not None and attribute.type == ir.AttributeType.INTS:
        return list(attribute.as_ints())
    return scope.numbers(node, index)


def _kept(layout: Layout) -> Passage:
    return Passage("per-channel", layout, (0,))


def transpose(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 1."""
    layout = scope.layout(node)
    if layout is None or layout.rank is None:
        return None
    rank = layout.rank
    order = _ints(node, "perm", 1, scope) or list(range(rank))[::-1]
    return _kept(replace(layout, axis=order.index(layout.axis + rank) - rank))


def squeeze(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 1; also a reduction that drops the axes it sums over."""
    layout, axes = scope.layout(node), _ints(node, "axes", 1, scope)
    if layout is None or layout.rank is None or not axes:
        return None
    return _without(layout, layout.rank, axes)


def _without(layout: Layout, rank: int, axes: Sequence[int]) -> Passage | None:
    gone = {axis % rank for axis in axes}
    place = layout.axis + rank
    if place in gone:
        return None
    behind = sum(axis > place for axis in gone)
    return _kept(replace(layout, axis=layout.axis + behind, rank=rank - len(gone)))


def unsqueeze(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 1."""
    layout, axes = scope.layout(node), _ints(node, "axes", 1, scope)
    if layout is None or layout.rank is None or not axes:
        return None
    rank = layout.rank + len(axes)
    new = {axis % rank for axis in axes}
    old = [axis for axis in range(rank) if axis not in new]
    return _kept(replace(layout, axis=old[layout.axis + layout.rank] - rank, rank=rank))


def reduction(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 2."""
    layout, axes = scope.layout(node), _ints(node, "axes", 1, scope)
    if layout is None or layout.rank is None or not axes:
        return None
    passage = _without(layout, layout.rank, axes)
    return _kept(layout) if passage and integer(node, "keepdims", 1) else passage


def pad(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 2."""
    layout, pads = scope.layout(node), _ints(node, "pads", 1, scope)
    if layout is None or layout.rank is None or pads is None:
        return None
    axes = scope.numbers(node, 3)
    if axes is None and len(node.inputs) > 3 and node.inputs[3] is not None:
        return None
    places = [axis % layout.rank for axis in axes or range(layout.rank)]
    amounts = zip(places * 2, pads, strict=False)
    channel = layout.axis + layout.rank
    return None if any(n for axis, n in amounts if axis == channel) else _kept(layout)


def cut_out(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 2, for Slice."""
    layout, axes = scope.layout(node), _ints(node, "axes", 3, scope)
    if layout is None or layout.rank is None or not axes:
        return None
    places = {axis % layout.rank for axis in axes}
    return None if layout.axis + layout.rank in places else _kept(layout)


def resize(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 2; only by scales, since sizes would name the number of channels."""
    layout = scope.layout(node)
    if layout is None or layout.rank is None or "axes" in node.attributes:
        return None
    mode = node.attributes.get("coordinate_transformation_mode")
    crops = mode is not None and mode.value == "tf_crop_and_resize"
    value = node.inputs[-1]
    if crops or len(node.inputs) not in (2, 3) or value is None or value.is_graph_input():
        return None
    scales = ir.convenience.get_const_tensor(value)
    if scales is None or scales.shape != ir.Shape([layout.rank]):
        return None
    return _kept(layout) if scales.numpy()[layout.axis] == 1 else None


def flatten(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 3."""
    layout = scope.layout(node)
    if layout is None or layout.rank is None:
        return None
    first = integer(node, "axis", 1)
    first += layout.rank if first < 0 else 0
    if first > layout.axis + layout.rank:
        return None
    return _fold(node, scope, layout, layout.rank, first, -1, 2)


def _fold(
    node: ir.Node, scope: Scope, layout: Layout, rank: int, first: int, axis: int, to: int
) -> Passage:
    """Axes from `first` on become the one at `axis` of a tensor of rank `to`."""
    value = node.inputs[0]
    assert value is not None
    place = layout.axis + rank
    dims = scope.shapes.of(value) or (None,) * rank
    outside, inside = _product(dims[first:place]), _product(dims[place + 1 :])
    if outside is None or inside is None:
        return Passage("opaque", obstacle=f"'{value.name}' {UNKNOWN_SHAPE}")
    parts = (outside, layout.length, inside)
    made = Layout(node.outputs[0], axis, math.prod(parts), to)
    return Passage("fold", made, (0,), parts=parts)


def _product(dims: Sequence[int | None]) -> int | None:
    known = [length for length in dims if length is not None]
    return math.prod(known) if len(known) == len(dims) else None


def reshape(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 3."""
    layout, value = scope.layout(node), node.inputs[0]
    if layout is None or layout.rank is None or layout.axis == -layout.rank or value is None:
        return None
    wanted = scope.numbers(node, 1)
    if integer(node, "allowzero", 0) and 0 in (wanted or [0]):
        return None
    if wanted is None:
        return _computed(node, scope, layout, layout.rank)
    return _target(node, scope, layout, layout.rank, wanted)


def _target(
    node: ir.Node, scope: Scope, layout: Layout, rank: int, wanted: list[int]
) -> Passage | None:
    """A Reshape to [batch, features] with any number of further axes of length 1."""
    value = node.inputs[0]
    assert value is not None
    dims = scope.shapes.of(value) or (None,) * rank
    stated = [dims[i] if n == 0 and i < rank else n for i, n in enumerate(wanted)]
    long = [i for i, n in enumerate(stated) if i > 0 and n != 1]
    if len(wanted) < 2 or len(long) > 1:
        return None
    place = long[0] if long else 1
    passage = _fold(node, scope, layout, rank, 1, place - len(wanted), len(wanted))
    features = passage.layout.length if passage.layout is not None else None
    batch_kept = wanted[0] == 0 or (dims[0] is not None and wanted[0] == dims[0])
    if features is None:
        return passage
    if not (stated[place] == features or (wanted[place] == -1 and batch_kept)):
        return None  # rows are not the batch
    if wanted[place] <= 0:
        return passage
    reason = fixed_reason(stored_weight(node, 1))
    obstacle = f"the shape in '{scope.name(node)}' {reason}" if reason else ""
    return replace(passage, target=place, obstacle=obstacle)


def _computed(node: ir.Node, scope: Scope, layout: Layout, rank: int) -> Passage | None:
    """A Reshape to [Shape(x)[0], -1], as PyTorch writes x.view(x.size(0), -1)."""
    target = node.inputs[1].producer() if node.inputs[1] is not None else None
    if target is None or target.op_type != "Concat" or len(target.inputs) != 2:
        return None
    if scope.numbers(target, 1) != [-1]:
        return None
    source = target.inputs[0]
    while source is not None and (step := source.producer()) is not None:
        taken = _lengths_taken(step, rank, scope)
        if taken is not None:
            batch = taken == {0} and _is_shape_of(step.inputs[0], node.inputs[0])
            return _fold(node, scope, layout, rank, 1, -1, 2) if batch else None
        if step.op_type not in _PASSES_LENGTHS:
            return None
        source = step.inputs[0]
    return None


def _is_shape_of(lengths: ir.Value | None, value: ir.Value | None) -> bool:
    node = lengths.producer() if lengths is not None else None
    if node is None or node.op_type != "Shape" or node.attributes:
        return False
    return node.inputs[0] is value


def _lengths_taken(node: ir.Node, rank: int, scope: Scope) -> set[int] | None:
    """Which axes' lengths a Gather or Slice takes from a shape."""
    if node.op_type == "Gather":
        places = scope.numbers(node, 1)
        return None if places is None else {place % rank for place in places}
    if node.op_type == "Slice":
        starts = _ints(node, "starts", 1, scope)
        ends = _ints(node, "ends", 2, scope)
        if starts is None or ends is None or len(node.inputs) > 4:
            return None
        return set(range(rank)[starts[0] : ends[0]])
    return None


def shape(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 5."""
    layout = scope.layout(node)
    if layout is None or layout.rank is None:
        return None
    taken: set[int] = set(range(layout.rank))
    if node.attributes.keys() & {"start", "end"}:
        end = integer(node, "end", layout.rank)
        taken = set(range(layout.rank)[integer(node, "start", 0) : end])
    else:
        readers = [user for user, _ in node.outputs[0].uses()]
        lengths = [_lengths_taken(user, layout.rank, scope) for user in readers]
        if not node.outputs[0].is_graph_output() and None not in lengths:
            taken = set().union(*(found for found in lengths if found is not None))
    if layout.axis + layout.rank in taken:
        return Passage("opaque", obstacle=f"has its shape read by '{scope.name(node)}'")
    return Passage("blind", None, (0,))


def concat(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 4."""
    known = [scope.layout(node, index) for index in range(len(node.inputs))]
    layout = next((found for found in known if found is not None), None)
    if layout is None or layout.rank is None:
        return None
    axis = integer(node, "axis", 0) % layout.rank - layout.rank
    if axis != layout.axis:
        return None
    lengths, data = [], []
    for index, (value, found) in enumerate(zip(node.inputs, known, strict=True)):
        dims = scope.shapes.of(value) if value is not None and found is None else None
        if found is not None and (found.axis, found.rank) == (axis, layout.rank):
            length: int | None = found.length
            data.append(index)
        elif dims is not None and len(dims) == layout.rank:
            length = dims[axis]
        else:
            length = None
        if length is None:
            return None
        lengths.append(length)
    made = Layout(node.outputs[0], axis, sum(lengths), layout.rank)
    return Passage("concat", made, tuple(data), parts=tuple(lengths))
