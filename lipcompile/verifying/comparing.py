"""Two graphs side by side, node by node and weight by weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from lipcompile.verifying.numbers import (
    EXTERNAL,
    Side,
    frozen,
    hashed,
    tensors_in,
    without_places,
)


@dataclass(slots=True)
class Compared:
    """What came of a comparison.

    Attributes:
        differences: In words.
        otherwise: Whose bytes differ, while type, shape and numbers are the same.
    """

    differences: list[str] = field(default_factory=list)
    otherwise: list[str] = field(default_factory=list)

    @property
    def note(self) -> str:
        """For the evidence of a check that holds."""
        shown = ", ".join(self.otherwise[:3]) + (", ..." if len(self.otherwise) > 3 else "")
        return f"; stored in another way: {shown}" if self.otherwise else ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the nodes and initializers of `after` differ from those of `before`.

    Attributes:
        before: What is expected.
        after: What is there.
        was: (node before, node after) -> the latter without edits that are allowed.
        may_differ: Names of initializers that may.
        may_be_extra: Whether a name may come in addition.
    """

    before: Side
    after: Side
    was: Callable[[Any, Any], Any] = lambda _, now: now
    may_differ: frozenset[str] = frozenset()
    may_be_extra: Callable[[str], bool] = lambda _: False

    def run(self) -> Compared:
        result = Compared()
        old = _keyed(self.before.graph.node, lambda node: tuple(node.output))
        new = _keyed(self.after.graph.node, lambda node: tuple(node.output))
        self._walk(old, new, result, _node_name, self.was)
        old = _keyed(self.before.graph.initializer, lambda tensor: (tensor.name,))
        new = _keyed(self.after.graph.initializer, lambda tensor: (tensor.name,))
        self._walk(old, new, result, _weight_name, self._weight)
        return result

    def _weight(self, before: Any, after: Any) -> Any:
        return before if before.name in self.may_differ else after

    def _walk(
        self,
        old: dict[Hashable, Any],
        new: dict[Hashable, Any],
        result: Compared,
        name: Callable[[Any], str],
        was: Callable[[Any, Any], Any],
    ) -> None:
        found = result.differences
        found += [f"missing {name(old[key])}" for key in old if key not in new]
        for key, item in new.items():
            if key not in old and not all(map(self.may_be_extra, _names(item))):
                found.append(f"extra {name(item)}")
        for key in [key for key in old if key in new]:
            now = was(old[key], new[key])
            if now is old[key] or self._same(old[key], now):
                continue
            if self._equal(old[key], now):
                result.otherwise.append(name(new[key]))
            else:
                found.append(f"changed {name(new[key])}")
        if [key for key in new if key in old] != [key for key in old if key in new]:
            kind = "nodes" if name is _node_name else "weights"
            found.append(f"the {kind} stand in another order")

    def _same(self, before: Any, after: Any) -> bool:
        """Byte for byte; external tensors wherever they lie."""
        pairs = list(zip(tensors_in(before), tensors_in(after), strict=False))
        outside = [(a, b) for a, b in pairs if EXTERNAL in (a.data_location, b.data_location)]
        if not outside:
            return frozen(before) == frozen(after)
        return frozen(without_places(before)) == frozen(without_places(after)) and all(
            self.before.numbers(a) == self.after.numbers(b) for a, b in outside
        )

    def _equal(self, before: Any, after: Any) -> bool:
        """But for how numbers are stored."""
        return frozen(hashed(self.before, before)) == frozen(hashed(self.after, after))

    def same(self, before: Any, after: Any) -> bool:
        """Whether two messages of the two models hold the same, wherever numbers lie."""
        return self._same(before, after) or self._equal(before, after)


def _keyed(items: Iterable[Any], key: Callable[[Any], Hashable]) -> dict[Hashable, Any]:
    """Items by key and number, so that none hides another."""
    seen: Counter[Hashable] = Counter()
    found: dict[Hashable, Any] = {}
    for item in items:
        found[key(item), seen[key(item)]] = item
        seen[key(item)] += 1
    return found


def _names(item: Any) -> list[str]:
    return [item.name] if item.DESCRIPTOR.name == "TensorProto" else [*item.output]


def _node_name(node: Any) -> str:
    kind = "constant" if node.op_type == "Constant" else f"{node.op_type} node"
    output = next(iter(node.output), "")
    return f"{kind} '{node.name or output}'"


def _weight_name(tensor: Any) -> str:
    return f"weight '{tensor.name}'"
