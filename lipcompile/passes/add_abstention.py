"""The pass that adds an abstain head to a classifier.

    best  = max_j z_j                            y = argmax z
    bot   = k-th largest of z_j + reach[y, j]    reach[y, y] is the lowest number there is
    certified = best > bot

Cases:
    1. kind "bool": `certified` becomes an output, bool [N].
    2. kind "logit": bot becomes one more column of the scores. Where it is not below `best` it
       is raised above it, so that a tie is no answer whichever way an argmax breaks ties. The
       scores take a name of LipCompile, and the wider ones take theirs; what read the scores
       inside of the graph reads the same K as before.

Where a score is NaN or infinite, best is NaN, and no comparison with NaN holds: ONNX Runtime's
ReduceMax ignores NaN, and the mean of z - z does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from lipcompile.forged import Emitter
from lipcompile.ops import default_opset
from lipcompile.records import ABSTAIN

if TYPE_CHECKING:
    from lipcompile.abstaining.head import Abstention

PREFIX = ABSTAIN
SCORES = f"{PREFIX}/scores"  # those of the K classes, for kind "logit"


@dataclass(frozen=True, slots=True)
class AddAbstention:
    """Rewrites a graph in place: the head behind it.

    Attributes:
        plan: Made for this model.
    """

    plan: Abstention

    def __call__(self, model: ir.Model) -> None:
        """Applies the pass."""
        graph, head = model.graph, self.plan.head
        values = {value.name: value for node in graph for value in node.outputs}
        emit = Emitter("head", PREFIX)
        flag, best_other = _HeadEmitter(emit, self.plan, default_opset(model))(
            values[self.plan.place.logits]
        )
        if head.kind == "bool":
            flag.name = head.output
            graph.outputs.append(flag)
        else:
            scores = values[head.scores]
            wide = _raised(emit, scores, flag, best_other, self.plan.place.dtype)
            graph.outputs[:] = [wide if value is scores else value for value in graph.outputs]
            scores.name, wide.name = SCORES, scores.name
        graph.extend(emit.nodes)


def _raised(
    emit: Emitter, scores: ir.Value, certified: ir.Value, bot: ir.Value, dtype: str
) -> ir.Value:
    """The scores with bot, above the best where that is not certified: |bot| * 2 eps + tiny is
    one unit in the last place of bot or more."""
    limits = np.finfo(dtype)
    size = emit("Mul", emit("Abs", bot), emit.constant(2 * float(limits.eps), dtype))
    step = emit("Add", size, emit.constant(float(limits.tiny), dtype))
    lost = emit.cast(emit("Not", certified), dtype)
    raised = emit("Add", bot, emit("Mul", lost, step))
    return emit("Concat", scores, raised, attributes={"axis": 1})


@dataclass(frozen=True, slots=True)
class _HeadEmitter:
    """Builds the comparison."""

    emit: Emitter
    plan: Abstention
    opset: int

    def __call__(self, logits: ir.Value) -> tuple[ir.Value, ir.Value]:
        """`certified`, [N] for "bool" and [N, 1] for "logit", and bot, [N, 1]."""
        emit, head = self.emit, self.plan.head
        best = self._reduce("ReduceMax", logits)
        known = self._reduce("ReduceMean", emit("Sub", logits, logits))
        answer = emit("ArgMax", logits, attributes={"axis": 1, "keepdims": 0})
        table = self._constant(self.plan.reach)
        rows = emit("Gather", table, answer, attributes={"axis": 0})
        bot = self._largest(emit("Add", logits, rows))
        flag = emit("Greater", emit("Add", best, known), bot)
        if head.kind == "bool":
            flag = emit("Reshape", flag, self._constant(np.array([-1])))
        return flag, bot

    def _largest(self, reached: ir.Value) -> ir.Value:
        """[N, 1]: the k-th largest of each row."""
        top = self.plan.head.top
        if top == 1:
            return self._reduce("ReduceMax", reached)
        inputs, attributes = [reached], {"axis": 1}
        if self.opset < 10:
            attributes["k"] = top
        else:
            inputs.append(self._constant(np.array([top])))
        name = f"{PREFIX}/head/TopK"
        outputs = [ir.Value(name=f"{name}:{index}") for index in range(2)]
        self.emit.nodes.append(ir.node("TopK", inputs, attributes, outputs=outputs, name=name))
        last = self._constant(np.array([top - 1]))
        return self.emit("Gather", outputs[0], last, attributes={"axis": 1})

    def _reduce(self, op_type: str, value: ir.Value) -> ir.Value:
        """Over the classes; the axis is an input from opset 18 on."""
        attributes: dict[str, Any] = {"keepdims": 1}
        if self.opset >= 18:
            axes = self._constant(np.array([1]))
            return self.emit(op_type, value, axes, attributes=attributes)
        return self.emit(op_type, value, attributes=attributes | {"axes": [1]})

    def _constant(self, array: np.ndarray) -> ir.Value:
        """A Constant node; initializers would need IR version 4."""
        tensor = ir.AttrTensor("value", ir.tensor(array))
        return self.emit("Constant", attributes={"value": tensor})
