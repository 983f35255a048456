"""LipCompile hardens an exported ONNX model against small input perturbations, after training.

    import lipcompile
    result = lipcompile.harden("model.onnx", "calibration_images/", cr="2^-7")
    print(result)

Names are loaded when they are first used: `import lipcompile` alone imports neither ONNX
Runtime nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lipcompile.version import __version__

if TYPE_CHECKING:
    from lipcompile.abstaining.options import AbstainOptions as AbstainOptions
    from lipcompile.auditing.audit import audit as audit
    from lipcompile.auditing.results import AuditResult as AuditResult
    from lipcompile.calibration.calibrate import calibrate as calibrate
    from lipcompile.calibration.merge import merge_tables as merge_tables
    from lipcompile.calibration.options import ScanOptions as ScanOptions
    from lipcompile.calibration.preprocess.transform import Preprocess as Preprocess
    from lipcompile.calibration.table import CalibrationTable as CalibrationTable
    from lipcompile.calibration.table import load_table as load_table
    from lipcompile.certifying.certify import certify as certify
    from lipcompile.certifying.results import CertifyResult as CertifyResult
    from lipcompile.certifying.smoothing.options import SmoothingOptions as SmoothingOptions
    from lipcompile.compiler import harden as harden
    from lipcompile.ensembles.options import EnsembleOptions as EnsembleOptions
    from lipcompile.errors import LipCompileError as LipCompileError
    from lipcompile.forged import ForgedFunction as ForgedFunction
    from lipcompile.forged import make_form as make_form
    from lipcompile.inspection import Inspection as Inspection
    from lipcompile.inspection import inspect as inspect
    from lipcompile.rescaling.options import LipschitzOptions as LipschitzOptions
    from lipcompile.results import HardenResult as HardenResult
    from lipcompile.runtime import RuntimeOptions as RuntimeOptions
    from lipcompile.sites import Selector as Selector
    from lipcompile.stripping import StripResult as StripResult
    from lipcompile.stripping import strip as strip
    from lipcompile.sweeping.opening import DataOptions as DataOptions
    from lipcompile.sweeping.results import SweepResult as SweepResult
    from lipcompile.sweeping.sweep import sweep as sweep
    from lipcompile.verifying.results import VerifyResult as VerifyResult
    from lipcompile.verifying.verify import verify as verify

_HOMES = {
    "AbstainOptions": "lipcompile.abstaining.options",
    "AuditResult": "lipcompile.auditing.results",
    "CalibrationTable": "lipcompile.calibration.table",
    "CertifyResult": "lipcompile.certifying.results",
    "DataOptions": "lipcompile.sweeping.opening",
    "EnsembleOptions": "lipcompile.ensembles.options",
    "ForgedFunction": "lipcompile.forged",
    "HardenResult": "lipcompile.results",
    "Inspection": "lipcompile.inspection",
    "LipCompileError": "lipcompile.errors",
    "LipschitzOptions": "lipcompile.rescaling.options",
    "Preprocess": "lipcompile.calibration.preprocess.transform",
    "RuntimeOptions": "lipcompile.runtime",
    "ScanOptions": "lipcompile.calibration.options",
    "Selector": "lipcompile.sites",
    "SmoothingOptions": "lipcompile.certifying.smoothing.options",
    "StripResult": "lipcompile.stripping",
    "SweepResult": "lipcompile.sweeping.results",
    "VerifyResult": "lipcompile.verifying.results",
    "audit": "lipcompile.auditing.audit",
    "calibrate": "lipcompile.calibration.calibrate",
    "certify": "lipcompile.certifying.certify",
    "harden": "lipcompile.compiler",
    "inspect": "lipcompile.inspection",
    "load_table": "lipcompile.calibration.table",
    "make_form": "lipcompile.forged",
    "merge_tables": "lipcompile.calibration.merge",
    "strip": "lipcompile.stripping",
    "sweep": "lipcompile.sweeping.sweep",
    "verify": "lipcompile.verifying.verify",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lipcompile' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
