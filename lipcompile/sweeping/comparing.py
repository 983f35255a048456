"""The settings side by side: measured, attacked, and the best of them confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lipcompile.findings import failures
from lipcompile.gates import Gates
from lipcompile.statistics import near_chance
from lipcompile.sweeping.attacking import Attacks, Notify, summary
from lipcompile.sweeping.choosing import Candidate, judge, most_robust, strongest
from lipcompile.sweeping.examples import Labelled, Parts
from lipcompile.sweeping.per_layer import search
from lipcompile.sweeping.results import Confirmation, SweepResult
from lipcompile.sweeping.settings import Setting
from lipcompile.sweeping.strength import singular_of
from lipcompile.sweeping.trial import Answers, Bench, Share
from lipcompile.text import percent

if TYPE_CHECKING:
    from lipcompile.auditing.results import AuditResult


@dataclass(slots=True)
class Comparison:
    """What is known of the settings so far.

    Attributes:
        bench: What they are built and measured on.
        parts: Which samples choose, and which report.
        gates: What an admitted setting keeps to.
        attacks: How settings are attacked, if they are.
        notify: Told what was done.
        candidates: In the order in which they were tried.
        worst_cases: By name, what the audit of a setting found on the choosing part.
        notes: What a reader of the result has to know.
    """

    bench: Bench
    parts: Parts
    gates: Gates
    attacks: Attacks | None
    notify: Notify
    candidates: list[Candidate] = field(default_factory=list)
    worst_cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def measure(self, setting: Setting) -> None:
        """Builds, measures and, within the limits, attacks a setting.

        Raises:
            LipCompileError: An attack cannot be run, or was interrupted.
        """
        trial = self.bench.try_out(setting)
        answers = None
        if trial.classes is not None:
            answers = self._answers(trial.classes, self.parts.choosing)
        candidate = Candidate.of(trial, answers, self.gates)
        if self.attacks is not None and candidate.obstacle is None:
            result = self._attack(candidate, self.parts.some(self.attacks.images))
            candidate = replace(
                candidate,
                worst=result.worst,
                robust=float(result.hardened.robust.mean()),
                masked=result.verdict == "masked",
            )
            self.worst_cases[candidate.name] = summary(result)
        self.candidates.append(candidate)
        self.notify(_line(candidate))

    def search_layers(self, c_rs: Sequence[float]) -> None:
        """Adds a setting with c_r per layer, where the search finds one."""
        forged = [x for x in self.candidates if x.trial.setting.variant == "forged"]
        start = strongest(forged, self._baseline)
        if start is None:
            self._note("per layer: no forged setting to start from is admitted")
            return
        setting = search(
            self.bench, start.trial.setting, sorted(set(c_rs)), self._keeps, self.notify
        )
        if setting is None:
            self._note("per layer: no layer goes further within the limits and --cr")
        else:
            self.measure(setting)

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.notify(text)

    def _keeps(self, classes: np.ndarray) -> bool:
        answers = self._answers(classes, self.parts.choosing)
        return not failures(judge(replace(self.gates, max_latency_ratio=None), answers, None))

    def best(self) -> Candidate | None:
        """By the rules of `choosing`."""
        if self.attacks is not None:
            return most_robust(self.candidates)
        return strongest(self.candidates, self._baseline)

    @property
    def _baseline(self) -> float:
        """Mean singular ratio without any hardening; 1 where nothing was measured."""
        strengths = self.bench.strengths
        ratios = singular_of(strengths.baseline) if strengths is not None else None
        return ratios[0] if ratios is not None else 1.0

    def is_better(self, best: Candidate) -> bool:
        """Than the original; without attacks nothing can be said against it."""
        return self.attacks is None or best.is_better

    def confirm(self, chosen: Candidate) -> Confirmation:
        """Measures the chosen setting on the reporting part."""
        classes, rows = chosen.trial.classes, self.parts.reporting
        assert classes is not None
        audit = self._attack(chosen, rows) if self.attacks is not None else None
        return Confirmation(
            self._answers(classes, rows),
            self._accuracy(rows),
            self.bench.latency(chosen.trial.setting),
            self.gates,
            audit,
        )

    def result(
        self,
        chosen: Candidate | None,
        why: str,
        confirmed: Confirmation | None,
        command: str | None,
        seconds: float,
        failed: tuple[str, ...],
        asked: Gates,
        seed: int,
    ) -> SweepResult:
        """Everything, for the user; `asked` are the limits that they named."""
        parts, strengths = self.parts, self.bench.strengths
        sizes = {"choosing": len(parts.choosing), "reporting": len(parts.reporting)}
        shares = [self._accuracy(rows) for rows in (parts.choosing, parts.reporting)]
        known = [share for share in shares if share is not None]
        return SweepResult(
            self.bench.source.name,
            self.bench.source.digest,
            self.bench.table,
            {**self.bench.examples.to_json(), **sizes, "seed": seed},
            self.gates,
            asked,
            self.attacks,
            (known[0], known[1]) if len(known) == 2 else None,
            strengths.baseline if strengths is not None else (),
            tuple(self.candidates),
            self.worst_cases,
            chosen,
            why,
            confirmed,
            command,
            self._notes(),
            seconds,
            failed,
        )

    def _answers(self, classes: np.ndarray, rows: np.ndarray) -> Answers:
        return Answers.of(
            self.bench.original.classes, classes, self.bench.examples.labels, rows
        )

    def _accuracy(self, rows: np.ndarray) -> Share | None:
        labels = self.bench.examples.labels
        if labels is None:
            return None
        return Share.of(self.bench.original.classes[rows] == labels[rows])

    def _attack(self, candidate: Candidate, rows: np.ndarray) -> AuditResult:
        assert self.attacks is not None and isinstance(self.bench.examples, Labelled)
        self.notify(f"attacking {candidate.name} on {len(rows)} images")
        images = self.bench.examples.images.subset(rows)
        return self.attacks.run(self.bench, candidate.trial.setting, images, self.notify)

    def _notes(self) -> tuple[str, ...]:
        labels = self.bench.examples.labels
        if labels is None:
            return tuple(self.notes)
        right = self.bench.original.classes == labels
        note = near_chance(right, self.bench.original.count)
        return (*([note] if note is not None else []), *self.notes)


def _line(candidate: Candidate) -> str:
    """One setting, as progress."""
    if candidate.answers is None:
        return f"{candidate.name}: {candidate.obstacle}"
    said = f"agreement {percent(candidate.answers.agreement.value)}"
    if candidate.answers.clean is not None:
        said = f"clean accuracy {100 * candidate.answers.clean.difference:+.2f} points, {said}"
    if candidate.worst is not None:
        said += f", worst case {100 * candidate.worst.difference:+.2f} points"
    verdict = "admitted" if candidate.obstacle is None else "not admitted"
    return f"{candidate.name}: {said}: {verdict}"
