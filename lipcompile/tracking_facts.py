"""Parameters, metrics and tags: what results in JSON say, as a tracking server takes it."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lipcompile.documents import Document, Kind, certified_models
from lipcompile.findings import PASSED

_LONGEST = 500  # of a parameter in servers before MLflow 2.11
_PATHS = {  # document -> where a number stands, and the metric that it becomes
    "harden": {
        "agreement.top1": "agreement",
        "agreement.max_difference": "max_difference",
        "latency.median": "latency_ratio",
    },
    "verify": {
        "agreement.top1": "agreement",
        "agreement.max_difference": "max_difference",
        "latency.median": "latency_ratio",
        "latency.low": "latency_ratio.low",
        "latency.high": "latency_ratio.high",
    },
    "audit": {
        "latency.median": "latency_ratio",
        "latency.low": "latency_ratio.low",
        "latency.high": "latency_ratio.high",
        "seconds": "seconds",
    },
    "sweep": {"seconds": "seconds"},
    "certify": {"seconds": "seconds"},
}
_PARAMETERS = {
    "harden": ("target", "zero_rate", "compact", "calibration.data.samples"),
    "verify": ("data",),
    "audit": (
        *("budget.norm", "budget.eps", "budget.unit", "attacks.name", "seed"),
        *("data.name", "data.images", "data.digest", "run.device"),
        "versions",
    ),
    "sweep": (
        *("chosen", "attack.norm", "attack.eps", "attack.unit", "attack.images"),
        *("attack.preset", "attack.seed"),
        *("data.name", "data.images", "data.digest", "data.choosing", "data.reporting"),
        *("data.seed", "budget.max_accuracy_drop", "budget.max_latency_ratio"),
        *("budget.min_agreement", "budget.min_robust_accuracy"),
    ),
    "certify": (
        *("method", "norm", "eps", "unit", "smoothing.procedure", "smoothing.sigma"),
        *("smoothing.n0", "smoothing.n", "smoothing.alpha", "smoothing.seed"),
        *("data.name", "data.images", "data.digest", "versions"),
    ),
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is logged of the documents.

    Attributes:
        params: Settings, as text.
        metrics: Measured numbers; none is NaN or infinite.
        tags: Verdict, outcome and digests.
    """

    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def set_param(self, key: str, value: object) -> None:
        if value is not None and value != {} and value != []:
            plain = isinstance(value, str | int | float)
            self.params[key] = _cut(str(value) if plain else json.dumps(value))

    def set_metric(self, key: str, value: object) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return
        with contextlib.suppress(OverflowError):  # an integer of 400 digits is no number here
            if math.isfinite(value):
                self.metrics[key] = float(value)

    def set_tag(self, key: str, value: object) -> None:
        if value is not None:
            self.tags[f"lipcompile.{key}"] = _cut(str(value))


def collect(documents: Sequence[Document]) -> Facts:
    """What the documents say, under names that do not depend on which ones there are.

    A setting of the model is named alone (`form`, `c_r`), everything else after its document
    (`audit.clean_accuracy.hardened`).
    """
    facts = Facts()
    by_kind = {document.kind: document.content for document in documents}
    _settings(facts, by_kind)
    for document in documents:
        kind, content = document.kind, document.content
        for path in _PARAMETERS[kind]:
            facts.set_param(f"{kind}.{path}", _at(content, path))
        for path, name in _PATHS[kind].items():
            facts.set_metric(f"{kind}.{name}", _at(content, path))
    sweep = by_kind.get("sweep", {})
    _audit(facts, by_kind.get("audit") or _at(sweep, "confirmed.audit") or {})
    _sweep(facts, sweep)
    _certify(facts, by_kind.get("certify", {}))
    _tags(facts, documents)
    return facts


def _settings(facts: Facts, by_kind: Mapping[Kind, dict[str, Any]]) -> None:
    """Variant, form and thresholds: of what was hardened, else of what a sweep chose."""
    chosen = _chosen(by_kind.get("sweep", {}))
    source = by_kind.get("harden") or chosen or by_kind.get("verify") or {}
    for key in ("variant", "c_r", "c_r_by_layer", "ensemble"):
        facts.set_param(key, _at(source, key))
    for key, path in {"lipschitz": "lipschitz.bound", "abstain": "abstain.eps"}.items():
        facts.set_param(key, _at(source, path))
    form = _at(source, "form")
    for key, value in form.items() if isinstance(form, dict) else ():
        facts.set_param("form" if key == "name" else f"form.{key}", value)


def _chosen(sweep: Mapping[str, Any]) -> dict[str, Any]:
    settings = _at(sweep, "settings")
    found = [
        setting
        for setting in (settings if isinstance(settings, list) else [])
        if isinstance(setting, dict) and setting.get("name") == _at(sweep, "chosen")
    ]
    return found[0] if found else {}


def _audit(facts: Facts, audit: Mapping[str, Any]) -> None:
    for model in ("original", "hardened"):
        for what in ("clean", "worst_case"):
            name = f"audit.{what}_accuracy.{model}"
            share = {
                "value": _at(audit, f"{model}.{what}_accuracy"),
                "interval": _at(audit, f"{model}.{what}_interval"),
            }
            _share(facts, name, share)
    for what in ("clean_difference", "worst_case_difference"):
        _difference(facts, f"audit.{what}", _at(audit, what))
    checks = _at(audit, "masking_checks")
    if isinstance(checks, list):
        failed = [c for c in checks if isinstance(c, dict) and c.get("passed") is False]
        facts.set_metric("audit.masking_checks_failed", len(failed))


def _sweep(facts: Facts, sweep: Mapping[str, Any]) -> None:
    """The chosen setting, on the part of the data that chose it and on the other one."""
    chosen, confirmed = _chosen(sweep), _at(sweep, "confirmed")
    for where, measured in (("chosen", chosen), ("confirmed", confirmed)):
        for what in ("accuracy", "agreement"):
            _share(facts, f"sweep.{where}.{what}", _at(measured, what))
        _difference(
            facts, f"sweep.{where}.clean_difference", _at(measured, "clean_difference")
        )
        facts.set_metric(f"sweep.{where}.latency_ratio", _at(measured, "latency.median"))
    for key in ("suppressed", "singular_mean", "singular_worst"):
        facts.set_metric(f"sweep.chosen.{key}", _at(chosen, key))
    for model in ("original", "hardened"):
        value = _at(chosen, f"worst_case.{model}")
        facts.set_metric(f"sweep.chosen.worst_case.{model}", value)
    _share(facts, "sweep.confirmed.original_accuracy", _at(confirmed, "original_accuracy"))


def _certify(facts: Facts, certify: dict[str, Any]) -> None:
    for role, one in certified_models(certify).items():
        _share(facts, f"certify.accuracy.{role}", _at(one, "accuracy"))
        _share(facts, f"certify.certified_accuracy.{role}", _at(one, "certified"))
        facts.set_metric(f"certify.median_radius_l2.{role}", _at(one, "median_radius_l2"))
        bounds = _at(one, "bounds.by_method")
        for method, bound in bounds.items() if isinstance(bounds, dict) else ():
            facts.set_metric(f"certify.lipschitz_bound.{role}.{method}", bound)
        facts.set_metric(f"certify.largest_pair_bound.{role}", _at(one, "bounds.largest_pair"))
    _difference(facts, "certify.certified_difference", _at(certify, "difference"))


def _share(facts: Facts, name: str, share: object) -> None:
    facts.set_metric(name, _at(share, "value"))
    interval = _at(share, "interval")
    if isinstance(interval, list) and len(interval) == 2:
        facts.set_metric(f"{name}.low", interval[0])
        facts.set_metric(f"{name}.high", interval[1])


def _difference(facts: Facts, name: str, difference: object) -> None:
    facts.set_metric(name, _at(difference, "difference"))
    for key in ("low", "high", "n", "gained", "lost", "mcnemar_p"):
        facts.set_metric(f"{name}.{key}", _at(difference, key))


def _tags(facts: Facts, documents: Sequence[Document]) -> None:
    failed: list[str] = []
    for document in documents:
        facts.set_tag(f"{document.kind}.version", document.content.get("version"))
        failed += _failed(document.content)
        facts.set_tag("original", document.original)
        facts.set_tag("hardened", document.hardened)
    by_kind = {document.kind: document.content for document in documents}
    facts.set_tag("verdict", _verdict(by_kind))
    facts.set_tag("outcome", f"failed: {'; '.join(failed)}" if failed else PASSED)


def _verdict(by_kind: Mapping[Kind, dict[str, Any]]) -> object:
    """The word that a report of the same documents says."""
    for kind in ("audit", "sweep"):
        if kind in by_kind:
            return by_kind[kind].get("verdict")
    verify = by_kind.get("verify")
    if "certify" in by_kind and (verify is None or verify.get("holds")):
        return "certified"
    return "not attacked" if verify is None else verify.get("verdict")


def _failed(content: Mapping[str, Any]) -> list[str]:
    """Why the document says that a pipeline must stop."""
    outcome, gates = content.get("outcome"), content.get("failed_gates")
    if isinstance(outcome, str):
        return [] if outcome == PASSED else [outcome.removeprefix("failed: ")]
    return [str(gate) for gate in gates] if isinstance(gates, list) else []


def _at(value: object, path: str) -> Any:
    """What stands at "a.b" of nested objects, or None."""
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
