"""The pass that drops dead channels: those for which every reader's weight column is zero.

Cases, for a node on the way of channels that are dropped:
    1. It makes them (a linear layer): rows of its weight and entries of its bias go.
    2. It keeps them apart: entries of its per-channel constants go; the groups of a depthwise
       convolution become fewer.
    3. It folds them into features: a Reshape that names the number of features names fewer.
    4. It reads them (a linear layer): the columns, all zero, go.
Every value in between gets its new shape. At least one channel of each layer stays, and what
cannot be dropped is reported with the reason. Inputs and outputs of the model stay as they
are. A channel that is infinite or NaN times a zero column was NaN before, and is gone after.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from lipcompile.passes.channel_liveness import Liveness, analyse
from lipcompile.passes.channel_passage import Passage
from lipcompile.text import count
from lipcompile.weights import Weight, stored_weight


@dataclass(frozen=True, slots=True)
class DroppedChannels:
    """What one linear layer lost.

    Attributes:
        layer: Name of the layer.
        channels: Its output channels that are gone, ascending, by their old indices.
        count: How many output channels it had before.
    """

    layer: str
    channels: tuple[int, ...]
    count: int


@dataclass(frozen=True, slots=True)
class KeptChannels:
    """Channels that no reader uses and that stay.

    Attributes:
        layer: Name of the layer that makes them; of the operator, or the graph's input, where
            no layer does.
        channels: How many there are.
        reason: Why they could not be dropped, in one clause.
    """

    layer: str
    channels: int
    reason: str


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What `DropDeadChannels` did, in graph order.

    Attributes:
        dropped: The layers that lost channels.
        kept: The dead channels that stay.
        parameters: By how much the number of stored numbers fell, copies of constants that
            other operators share counted against it.
    """

    dropped: tuple[DroppedChannels, ...]
    kept: tuple[KeptChannels, ...]
    parameters: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        channels = sum(len(layer.channels) for layer in self.dropped)
        lines = [
            f"dropped {channels} dead channels of {count(self.dropped, 'layer')}: "
            f"{self.parameters} parameters fewer"
        ]
        for row in self.kept:
            lines.append(f"kept {row.channels} dead channels of '{row.layer}': {row.reason}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class DropDeadChannels:
    """Drops the dead channels of a graph in place; the same graph gives the same result.

    Attributes:
        block: Of n channels that a convolution or a pool reads, a multiple of gcd(n, block)
            stays. 16 is the block of ONNX Runtime with AVX-512, and a multiple of the others.
    """

    block: int = 16

    def __call__(self, model: ir.Model) -> CompactionReport:
        """Applies the pass."""
        liveness = analyse(model, self.block)
        parameters = sum(_cut(node, liveness) for node in liveness.passages)
        for value, stay in liveness.stay.items():
            _resize(value, liveness.scope.layouts[value].axis, stay)
        return CompactionReport(
            tuple(
                DroppedChannels(name, tuple(np.flatnonzero(~stay).tolist()), stay.size)
                for name, stay in liveness.rows
            ),
            tuple(KeptChannels(*row) for row in liveness.held),
            parameters,
        )


def _cut(node: ir.Node, liveness: Liveness) -> int:
    """Cases 1 to 4 at one node; returns how many numbers fewer are stored."""
    passage, stay = liveness.passages[node], liveness.stay
    output = stay.get(node.outputs[0]) if node.outputs else None
    data = node.inputs[passage.data[0]] if passage.data else None
    masks = {"output": output, "data": stay.get(data) if data is not None else None}
    edits: dict[int, dict[int, np.ndarray]] = {}
    for cut in passage.cuts:
        if (mask := masks[cut.side]) is not None:
            edits.setdefault(cut.index, {})[cut.axis] = mask
    if output is not None:
        _restate(node, passage, int(output.sum()))
    return sum(_cut_constant(node, index, edit) for index, edit in edits.items())


def _restate(node: ir.Node, passage: Passage, channels: int) -> None:
    """What says the number of channels outright says the new one."""
    if passage.depthwise:  # Case 2
        node.attributes.add(ir.AttrInt64("group", channels))
    if passage.target is not None:  # Case 3
        weight = stored_weight(node, 1)
        assert isinstance(weight, Weight), "the analysis takes no other for one to be cut"
        lengths = weight.array()
        lengths[passage.target] = channels
        weight.store(lengths, f"{node.outputs[0].name}/1")


def _cut_constant(node: ir.Node, index: int, stay: dict[int, np.ndarray]) -> int:
    """Keeps the entries `stay`, by axis; returns how many numbers fewer are stored."""
    weight = stored_weight(node, index)
    assert isinstance(weight, Weight), "the analysis takes no other for one to be cut"
    before = array = weight.array()
    for axis, mask in stay.items():
        array = np.compress(mask, array, axis=axis)
    weight.store(array, f"{node.outputs[0].name}/{index}")
    if weight.shared:  # a copy, beside the numbers that others still read
        return -array.size
    stored = Weight(node, index, weight.root, (), False).array()
    weight.root.shape = ir.Shape(stored.shape)
    for link in weight.chain:
        link.outputs[0].shape = None  # as inference would find it
    return before.size - array.size


def _resize(value: ir.Value, axis: int, stay: np.ndarray) -> None:
    """Writes the new number of channels into the shape of a value that states one."""
    if value.shape is not None:
        lengths = list(value.shape)
        lengths[axis] = int(stay.sum())
        value.shape = ir.Shape(lengths)
