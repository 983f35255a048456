"""Certificates: what can be proven of a model. The extra `certify` is for all but bounds."""

from __future__ import annotations
