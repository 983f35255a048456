"""Signs that attacks were fooled rather than resisted (Athalye et al. 2018, Carlini et al.
2019, and the checks of arXiv 2406.19622).
"""

from __future__ import annotations

from lipcompile.auditing.masking.battery import run_battery
from lipcompile.auditing.masking.check import Check

__all__ = ["Check", "run_battery"]
