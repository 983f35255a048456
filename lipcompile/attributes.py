"""Attributes of operators, read so that a damaged model has defaults and no surprises."""

from __future__ import annotations

from typing import TypeGuard

import onnx_ir as ir


def integer(node: ir.Node, name: str, default: int) -> int:
    """An INT attribute, or `default` where it is missing or of another type."""
    attribute = node.attributes.get(name)
    return attribute.as_int() if _is(attribute, ir.AttributeType.INT) else default


def number(node: ir.Node, name: str, default: float) -> float:
    """A FLOAT attribute, or `default` where it is missing or of another type."""
    attribute = node.attributes.get(name)
    return attribute.as_float() if _is(attribute, ir.AttributeType.FLOAT) else default


def integers(node: ir.Node, name: str) -> list[int]:
    """An INTS attribute; empty where it is missing or of another type."""
    attribute = node.attributes.get(name)
    return list(attribute.as_ints()) if _is(attribute, ir.AttributeType.INTS) else []


def text(node: ir.Node, name: str, default: str) -> str:
    """A STRING attribute, or `default` where it is missing or of another type."""
    attribute = node.attributes.get(name)
    return attribute.as_string() if _is(attribute, ir.AttributeType.STRING) else default


def _is(attribute: ir.Attr | None, kind: ir.AttributeType) -> TypeGuard[ir.Attr]:
    return attribute is not None and attribute.type == kind and not attribute.is_ref()
