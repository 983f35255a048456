"""The paths along which an audit attacks, in the order in which results show them."""

from __future__ import annotations

PATHS = (
    "white-box",
    "bpda-identity",
    "bpda-smooth",
    "transfer",
    "transfer-start",
    "black-box",
)
