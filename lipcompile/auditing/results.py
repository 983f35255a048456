"""What an audit found: a verdict with everything that it rests on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lipcompile import atomic
from lipcompile.attack_paths import PATHS
from lipcompile.auditing.budget import Budget
from lipcompile.auditing.masking import Check
from lipcompile.auditing.masking.behaviour import CurvePoint
from lipcompile.auditing.strike import Strike
from lipcompile.documents import header
from lipcompile.findings import Finding, failures
from lipcompile.measure import LatencyRatio
from lipcompile.statistics import PairedDifference, exact_interval
from lipcompile.text import percent, table

Verdict = Literal["improved", "no measurable change", "worse", "masked"]
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class ModelOutcome:
    """One of the two models.

    Attributes:
        name: File name.
        digest: Of what the model computes.
        clean: bool [N], correct without attack.
        robust: bool [N], correct and broken by no attack of any path.
        examples: float32 [N, C, H, W] in [0, 1]: what broke each image, or the image itself
            where nothing did.
    """

    name: str
    digest: str
    clean: np.ndarray
    robust: np.ndarray
    examples: np.ndarray

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "digest": self.digest,
            "clean_accuracy": float(self.clean.mean()),
            "clean_interval": list(exact_interval(int(self.clean.sum()), len(self.clean))),
            "worst_case_accuracy": float(self.robust.mean()),
            "worst_case_interval": list(
                exact_interval(int(self.robust.sum()), len(self.robust))
            ),
            "robust_images": self.robust.astype(int).tolist(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class AuditResult:
    """What `audit` found. It prints itself, and becomes JSON.

    Attributes:
        original: The model before hardening.
        hardened: The model after.
        images: float32 [N, C, H, W] in [0, 1], before normalisation.
        labels: int64 [N].
        names: Of the images.
        data: Name, digest and number of the images.
        budget: Norm and epsilon.
        attacks: Name of the preset and settings of its attacks.
        run: Seeds, device, threads and batch size.
        strikes: Every attack on every path, in order.
        clean: Paired difference of the clean accuracies.
        worst: Paired difference of the worst-case accuracies.
        checks: Masking checks of the hardened model.
        curve: Accuracy against epsilon.
        notes: What a reader has to know.
        versions: Packages that took part.
        seconds: Wall time.
        latency: Of the hardened model over the original's: what the difference costs.
        agreement: Share of the images that both models give the same class without attack.
        gates: Conditions of the user, where there are any.
    """

    original: ModelOutcome
    hardened: ModelOutcome
    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    data: dict[str, Any]
    budget: Budget
    attacks: dict[str, Any]
    run: dict[str, Any]
    strikes: tuple[Strike, ...]
    clean: PairedDifference
    worst: PairedDifference
    checks: tuple[Check, ...]
    curve: tuple[CurvePoint, ...]
    notes: tuple[str, ...]
    versions: dict[str, str]
    seconds: float
    latency: LatencyRatio | None = None
    agreement: float | None = None
    gates: tuple[Finding, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """A failed masking check forbids any claim about the difference."""
        if any(check.failed for check in self.checks):
            return "masked"
        return direction(self.worst)

    @property
    def failed_gates(self) -> tuple[str, ...]:
        """Gates that do not hold, in words."""
        return failures(self.gates)

    def findings(self) -> tuple[Finding, ...]:
        """The verdict with its numbers, every masking check, and every gate."""
        numbers = {"clean accuracy": self.clean, "worst-case accuracy": self.worst}
        informs = [
            Finding(f"{k}, hardened - original", None, str(v)) for k, v in numbers.items()
        ]
        if self.latency is not None:
            informs.append(Finding("latency, hardened / original", None, str(self.latency)))
        checks = [Finding(c.name, c.passed, c.evidence) for c in self.checks]
        return (Finding("verdict", None, self.verdict), *informs, *checks, *self.gates)

    def save_examples(self, path: str | os.PathLike[str]) -> None:
        """Writes what broke each image of each model, for others to replay: a .npz.

        Its arrays are `images` (float32 [N, C, H, W] in [0, 1]), `original` and `hardened` (in
        the same shape, the clean image where nothing broke it), `original_robust`,
        `hardened_robust` (bool [N]), `labels` (int64 [N]) and `names`.

        Raises:
            OutputError: The file cannot be written there.
            SaveError: Writing failed; an old file is still whole.
        """
        with atomic.replacing(Path(path)) as stream:
            np.savez_compressed(
                stream,
                images=self.images,
                original=self.original.examples,
                hardened=self.hardened.examples,
                original_robust=self.original.robust,
                hardened_robust=self.hardened.robust,
                labels=self.labels,
                names=np.array(self.names),
            )

    def to_json(self) -> dict[str, Any]:
        return {
            **header("audit"),
            "verdict": self.verdict,
            "worst_case_alone": direction(self.worst),
            "original": self.original.to_json(),
            "hardened": self.hardened.to_json(),
            "clean_difference": self.clean.to_json(),
            "worst_case_difference": self.worst.to_json(),
            "latency": asdict(self.latency) if self.latency else None,
            "agreement": self.agreement,
            "failed_gates": list(self.failed_gates),
            "masking_checks": [check.to_json() for check in self.checks],
            "paths": [strike.to_json() for strike in self.strikes],
            "curve": [point.to_json() for point in self.curve],
            "budget": {"norm": self.budget.norm, "eps": self.budget.eps, "unit": "pixels"},
            "attacks": self.attacks,
            "data": self.data,
            "labels": self.labels.tolist(),
            "names": list(self.names),
            "seed": self.run["seed"],
            "run": self.run,
            "notes": list(self.notes),
            "versions": self.versions,
            "seconds": round(self.seconds, 1),
        }

    def __str__(self) -> str:
        n = self.data["images"]
        head = (
            f"{self.hardened.name} against {self.original.name}: {n} images of "
            f"'{self.data['name']}', {self.budget}, attacks {self.attacks['name']}, seed "
            f"{self.run['seed']}"
        )
        paths = table(("path", "attack", "original", "hardened"), list(self._rows()))
        checks = table(("masking", "check", "evidence"), [c.cells() for c in self.checks])
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([head, "", *paths, "", *checks, "", *notes, *self._conclusion()])

    def _rows(self) -> Iterator[tuple[str, ...]]:
        models = (self.original, self.hardened)
        yield ("none", "clean accuracy", *(percent(m.clean.mean()) for m in models))
        lines = dict.fromkeys(_line(strike) for strike in self.strikes)
        for path, attack in sorted(lines, key=lambda line: PATHS.index(line[0])):
            cells = [self._cell(role, path, attack) for role in ("original", "hardened")]
            yield (path, attack, *cells)
        yield ("all", "worst case", *(percent(m.robust.mean()) for m in models))

    def _cell(self, role: str, path: str, attack: str) -> str:
        """ "12 of 300 broken", over all strikes of this attack along this path."""
        attacked = np.zeros(len(self.original.clean), bool)
        broken = attacked.copy()
        for strike in self.strikes:
            if (strike.role, *_line(strike)) == (role, path, attack):
                attacked |= strike.attacked
                broken |= strike.broken
        return f"{broken.sum()} of {attacked.sum()} broken"

    def _conclusion(self) -> Iterator[str]:
        yield f"clean accuracy, hardened - original: {self.clean}"
        yield f"worst case, hardened - original: {self.worst}"
        if self.latency is not None:
            yield f"latency, hardened / original: {self.latency}"
        failed = sum(check.failed for check in self.checks)
        if failed:
            known = direction(self.worst)
            yield (
                f"{failed} masking check{'s' * (failed > 1)} failed: the worst case is only "
                f"an upper bound (what it says by itself: {known})"
            )
        yield f"took {self.seconds:.0f} s"
        yield f"verdict: {self.verdict}"
        yield from (f"gate failed: {gate}" for gate in self.failed_gates)


def _line(strike: Strike) -> tuple[str, str]:
    """Path and attack under which a strike is shown: replays share one line."""
    return strike.path, "as found" if strike.path == "transfer" else strike.attack


def direction(worst: PairedDifference) -> Verdict:
    """What the worst cases alone say, at McNemar's p < 0.05."""
    if worst.p >= SIGNIFICANT:
        return "no measurable change"
    return "improved" if worst.difference > 0 else "worse"
