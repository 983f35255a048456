"""The pass that makes a classifier the mean of its scores over views of its image.

Cases:
    1. way "batch": the views are concatenated along the batch, the model runs on them once,
       and the scores are split and averaged.
    2. way "branches": every node between the image and the scores is copied once per view.
       Whatever does not depend on the image, all weights above all, is shared.

The scores of the image itself keep their tensor, under a name of LipCompile; the mean takes
their name, so that the model's outputs, and operators behind them, stay as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lipcompile.ensembles.plan import Ensemble
from lipcompile.errors import ModelError
from lipcompile.forged import Emitter
from lipcompile.graph_walks import inner_nodes, nodes_behind
from lipcompile.ops import default_opset
from lipcompile.passes.emit_views import ViewEmitter
from lipcompile.records import ENSEMBLE

# Not the prefix of forged functions, "lipcompile/": a layer may be named "ensemble".
PREFIX = ENSEMBLE
SCORES = f"{PREFIX}/scores"  # those of the image itself, or of all views in one batch
JOINED = f"{PREFIX}/joined"  # all views in one batch


@dataclass(frozen=True, slots=True)
class WrapEnsemble:
    """Rewrites a graph in place: the ensemble around it.

    Attributes:
        ensemble: Made for this model.
    """

    ensemble: Ensemble

    def __call__(self, model: ir.Model) -> None:
        """Applies the pass.

        Raises:
            ModelError: Nothing computes the scores, or a subgraph reads the image (case 2).
        """
        graph, plan = model.graph, self.ensemble
        opset = default_opset(model)
        image = next(value for value in graph.inputs if value.name == plan.image.spec.name)
        scores, producer = _computed(graph, plan.at)
        if producer not in nodes_behind(graph, image):
            raise ModelError(
                f"the scores '{plan.scores.name}' do not depend on the input '{image.name}', "
                "so that its views change nothing: name another with --image-input or --scores"
            )
        readers = tuple(image.uses())
        copied = _between(graph, image, producer) if plan.way == "branches" else ()
        emit = Emitter("views", PREFIX)
        views = ViewEmitter(emit, image, plan.image, opset)(plan.views)
        for index, view in enumerate(views[1:], start=1):
            view.name = view_name(index)
        mean = _MeanEmitter(Emitter("mean", PREFIX), plan, opset)
        if plan.way == "batch":
            joined = emit("Concat", *views, attributes={"axis": 0})
            joined.name = JOINED
            for node, index in readers:
                node.replace_input_with(index, joined)
            result = mean.of_batch(scores)
        else:
            branches = [_Branch(index, image, view) for index, view in enumerate(views)]
            copies = [branch.copy(copied) for branch in branches[1:]]
            mean.emit.nodes += [node for nodes in copies for node in nodes]
            result = mean.of([scores, *(branch.result(scores) for branch in branches[1:])])
        graph.insert_before(graph[0], emit.nodes)
        self._replace(graph, scores, result, mean.emit.nodes)
        graph.insert_after(producer, mean.emit.nodes)

    def _replace(
        self, graph: ir.Graph, scores: ir.Value, mean: ir.Value, own: Sequence[ir.Node]
    ) -> None:
        """The mean takes the place of the scores, and their name."""
        for node, index in tuple(scores.uses()):
            if node not in own:
                node.replace_input_with(index, mean)
        mean.type, mean.shape = scores.type, scores.shape
        scores.name, mean.name = SCORES, scores.name
        graph.outputs[:] = [mean if value is scores else value for value in graph.outputs]


def _computed(graph: ir.Graph, name: str) -> tuple[ir.Value, ir.Node]:
    for node in graph:
        for value in node.outputs:
            if value.name == name:
                return value, node
    raise ModelError(f"nothing computes '{name}', so there are no scores to average")


def _between(graph: ir.Graph, image: ir.Value, end: ir.Node) -> tuple[ir.Node, ...]:
    """The nodes that `end` needs and that depend on the image, in graph order."""
    behind = nodes_behind(graph, image)
    needed, queue = {end}, [end]
    while queue:
        values = (value for value in queue.pop().inputs if value is not None)
        fresh = {node for v in values if (node := v.producer()) is not None} - needed
        needed |= fresh
        queue += fresh
    between = tuple(node for node in graph if node in behind and node in needed)
    for node in between:
        if any(True for _ in inner_nodes(node)):
            raise ModelError(
                f"node '{node.name}' ({node.op_type}) stands between image and scores and has "
                "a subgraph, which is not copied for each view: export the model without "
                "control flow"
            )
    return between


def view_name(index: int) -> str:
    """The tensor that holds a view; the first view is the graph's input."""
    return f"{PREFIX}/view/{index}"


def branch_prefix(index: int) -> str:
    """What stands before names in the copy of a view; the first view is no copy."""
    return f"{PREFIX}/{index}"


class _Branch:
    """The copies of one view."""

    def __init__(self, index: int, image: ir.Value, view: ir.Value) -> None:
        self._prefix = branch_prefix(index)
        self._values: dict[ir.Value, ir.Value] = {image: view}

    def copy(self, nodes: Sequence[ir.Node]) -> list[ir.Node]:
        for value in (value for node in nodes for value in node.outputs):
            name = f"{self._prefix}/{value.name}" if value.name else value.name
            self._values[value] = ir.Value(name=name, type=value.type)
        return [self._copied(node) for node in nodes]

    def result(self, value: ir.Value) -> ir.Value:
        return self._values[value]

    def _copied(self, node: ir.Node) -> ir.Node:
        return ir.Node(
            node.domain,
            node.op_type,
            [value and self._values.get(value, value) for value in node.inputs],
            list(node.attributes.values()),
            overload=node.overload,
            outputs=[self._values[value] for value in node.outputs],
            name=f"{self._prefix}/{node.name}" if node.name else None,
        )


@dataclass(frozen=True, slots=True)
class _MeanEmitter:
    """Builds the mean over views."""

    emit: Emitter
    plan: Ensemble
    opset: int

    def of_batch(self, scores: ir.Value) -> ir.Value:
        """Of the parts of one batch."""
        count = len(self.plan.views)
        if self.plan.takes_logarithm:
            scores = self._probabilities(scores)
        parts = [ir.Value(name=f"{PREFIX}/mean/{index}") for index in range(count)]
        attributes = {"axis": 0} | ({"num_outputs": count} if self.opset >= 18 else {})
        name = f"{PREFIX}/mean/Split"
        split = ir.node("Split", [scores], attributes, outputs=parts, name=name)
        self.emit.nodes.append(split)
        return self._mean(parts)

    def of(self, scores: Sequence[ir.Value]) -> ir.Value:
        """Of one value per view."""
        if self.plan.takes_logarithm:
            scores = [self._probabilities(value) for value in scores]
        return self._mean(scores)

    def _probabilities(self, scores: ir.Value) -> ir.Value:
        return self.emit("Softmax", scores, attributes={"axis": 1})

    def _mean(self, parts: Sequence[ir.Value]) -> ir.Value:
        dtype = self.plan.dtype
        if dtype == "float64":  # ONNX Runtime has no Mean for it
            total = self.emit("Sum", *parts)
            result = self.emit("Mul", total, self.emit.constant(1 / len(parts), dtype))
        elif dtype == "bfloat16":
            wide = [self.emit.cast(part, "float32") for part in parts]
            result = self.emit.cast(self.emit("Mean", *wide), dtype)
        else:
            result = self.emit("Mean", *parts)
        if not self.plan.takes_logarithm:
            return result
        least = self.plan.least_probability
        if self.opset < 8:  # Max does not broadcast
            return self.emit("Log", self.emit("Clip", result, attributes={"min": least}))
        return self.emit("Log", self.emit("Max", result, self.emit.constant(least, dtype)))
