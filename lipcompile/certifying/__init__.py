"""Certificates: what can be proven of a model."""

from __future__ import annotations
