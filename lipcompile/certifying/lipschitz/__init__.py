"""Upper bounds of Lipschitz constants, read from the graph of a deployed model."""

from __future__ import annotations
