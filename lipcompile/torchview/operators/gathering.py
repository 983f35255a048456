"""Elements picked and placed by index. A negative index counts from the end."""

from __future__ import annotations

import math

import torch

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator

# ONNX's names of what `scatter_reduce` does.
_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _positive(indices: torch.Tensor, size: int) -> torch.Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


@operator("Gather")
def gather(node: NodeView) -> Operation:
    axis = node.attribute("axis", 0)
    known = node.known_input(1)
    if known is not None and known.dim() == 0:
        place = int(known)
        return lambda x, _: x.select(axis, place)

    def run(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        places = _positive(indices, x.shape[axis])
        picked = x.index_select(axis, places.reshape(-1))
        if indices.dim() == 1:
            return picked
        before = axis % x.dim()
        return picked.reshape(x.shape[:before] + indices.shape + x.shape[before + 1 :])

    return run


@operator("GatherElements")
def gather_elements(node: NodeView) -> Operation:
    axis = node.attribute("axis", 0)
    return lambda x, indices: torch.gather(x, axis, _positive(indices, x.shape[axis]))


def _flat_rows(shape: torch.Size, indices: torch.Tensor) -> torch.Tensor:
    """Rows of a tensor whose axes `shape` are flattened, for tuples of indices."""
    rows = indices.new_zeros(indices.shape[:-1], dtype=torch.int64)
    for axis, size in enumerate(shape):
        rows = rows * size + _positive(indices[..., axis], size)
    return rows


@operator("GatherND")
def gather_nd(node: NodeView) -> Operation:
    batch_axes = node.attribute("batch_dims", 0)

    def run(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        depth = indices.shape[-1]
        batch, picked = x.shape[:batch_axes], x.shape[batch_axes : batch_axes + depth]
        rest = x.shape[batch_axes + depth :]
        table = x.reshape(math.prod(batch), math.prod(picked), math.prod(rest))
        rows = _flat_rows(picked, indices).reshape(len(table), -1, 1)
        taken = torch.gather(table, 1, rows.expand(-1, -1, table.shape[2]))
        return taken.reshape(indices.shape[:-1] + rest)

    return run


def _scatter(
    x: torch.Tensor, axis: int, places: torch.Tensor, updates: torch.Tensor, reduction: str
) -> torch.Tensor:
    if reduction == "none":
        return torch.scatter(x, axis, places, updates)
    return torch.scatter_reduce(x, axis, places, updates, _REDUCTIONS[reduction])


def _reduction(node: NodeView) -> str:
    name: str = node.attribute("reduction", "none")
    if name != "none" and name not in _REDUCTIONS:
        raise node.refuse(f"has reduction '{name}', which ONNX does not define")
    return name


@operator("Scatter", "ScatterElements")
def scatter_elements(node: NodeView) -> Operation:
    axis, reduction = node.attribute("axis", 0), _reduction(node)
    return lambda x, indices, updates: _scatter(
        x, axis, _positive(indices, x.shape[axis]), updates, reduction
    )


@operator("ScatterND")
def scatter_nd(node: NodeView) -> Operation:
    reduction = _reduction(node)

    def run(x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        picked, rest = x.shape[: indices.shape[-1]], x.shape[indices.shape[-1] :]
        table = x.reshape(math.prod(picked), math.prod(rest))
        rows = _flat_rows(picked, indices).reshape(-1, 1).expand(-1, table.shape[1])
        placed = _scatter(table, 0, rows, updates.reshape(rows.shape), reduction)
        return placed.reshape(x.shape)

    return run


@operator("OneHot")
def one_hot(node: NodeView) -> Operation:
    """An index outside [-depth, depth) gives a row without the "on" value."""
    axis = node.attribute("axis", -1)
    read_depth = node.numbers(1)

    def run(*arguments: torch.Tensor) -> torch.Tensor:
        indices, values = arguments[0], arguments[2]
        depth, place = int(read_depth(arguments)[0]), axis % (indices.dim() + 1)
        classes = torch.arange(depth, device=indices.device)
        classes = classes.reshape(-1, *[1] * (indices.dim() - place))
        wanted = torch.where(indices < 0, indices + depth, indices).unsqueeze(place)
        return torch.where(wanted == classes, values[1], values[0])

    return run


@operator("NonZero")
def non_zero(node: NodeView) -> Operation:
    return lambda x: torch.nonzero(x).t()


@operator("Compress")
def compress(node: NodeView) -> Operation:
    axis = node.attribute("axis")

    def run(x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        places = torch.nonzero(condition).reshape(-1)
        return (x.reshape(-1) if axis is None else x).index_select(axis or 0, places)

    return run


@operator("Trilu")
def triangle(node: NodeView) -> Operation:
    cut = torch.triu if node.attribute("upper", 1) else torch.tril
    read = node.numbers(1, [0])
    return lambda *arguments: cut(arguments[0], int(read(arguments)[0]))
