"""Certificates: what can be proven of a model. Needs the extra `certify`."""

from __future__ import annotations

from lipcompile.certifying import requirements  # noqa: F401  (before scipy is imported)
