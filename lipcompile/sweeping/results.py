"""What a sweep found: every setting, the choice, and what the reporting part says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from lipcompile.calibration.table import CalibrationTable
from lipcompile.documents import header
from lipcompile.findings import Finding
from lipcompile.gates import Gates
from lipcompile.measure import LatencyRatio
from lipcompile.sweeping.attacking import Attacks
from lipcompile.sweeping.choosing import Candidate, judge, to_json
from lipcompile.sweeping.strength import LayerStrength, singular_of, suppressed_of
from lipcompile.sweeping.trial import Answers, Share
from lipcompile.text import count, percent, power_of_two, table

if TYPE_CHECKING:
    from lipcompile.auditing.results import AuditResult

Verdict = Literal[
    "improved",
    "no measurable change",
    "worse",
    "masked",
    "not attacked",
    "nothing chosen",
]


@dataclass(frozen=True, slots=True, eq=False)
class Confirmation:
    """The chosen setting on the reporting part.

    Attributes:
        answers: Beside the original's.
        original: Accuracy of the original there; None without labels.
        latency: Hardened over original.
        gates: The limits, which should hold there too.
        audit: The whole audit, where attacks were run.
    """

    answers: Answers
    original: Share | None
    latency: LatencyRatio
    gates: Gates
    audit: AuditResult | None

    def judged(self, gates: Gates) -> tuple[Finding, ...]:
        """Whether `gates` hold there; behind a failed masking check no worst case does."""
        found = judge(gates, self.answers, self.latency)
        if self.audit is None:
            return found
        from lipcompile.auditing.gates import judge_worst_case

        return found + judge_worst_case(gates, self.audit)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Whether the limits hold there."""
        return self.judged(self.gates)

    @property
    def refuted(self) -> bool:
        """The attacks on this part say that the original is the better one, or nothing."""
        return self.audit is not None and self.audit.verdict in ("worse", "masked")

    @property
    def holds(self) -> bool:
        return all(finding.holds is not False for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.answers.to_json(),
            "original_accuracy": self.original.to_json() if self.original else None,
            "latency": asdict(self.latency),
            "within_budget": self.holds,
            "audit": self.audit.to_json() if self.audit is not None else None,
        }


@dataclass(frozen=True, slots=True, eq=False)
class SweepResult:
    """What `sweep` found. It prints itself, and becomes JSON.

    Attributes:
        model: Name of the original.
        digest: Of what it computes.
        table: Maxima and counts; None where only ensembles were tried.
        data: What was read, and how it was divided.
        limits: What an admitted setting keeps to.
        asked: Those of the limits that the user named, which are gates.
        attacks: How settings were attacked, if they were.
        original: Accuracy of the original on the choosing and the reporting part; None without
            labels.
        baseline: Every layer without any hardening; none where only ensembles were tried.
        candidates: Every setting, in the order in which they were tried.
        worst_cases: By name of the setting, what its audit found on the choosing part.
        chosen: The setting to ship; None where there is none.
        why: The reason, in a sentence or two.
        confirmed: The chosen setting on the reporting part.
        command: What makes the chosen model.
        notes: What a reader has to know.
        seconds: Wall time.
        failed_gates: Reasons for a pipeline to stop.
    """

    model: str
    digest: str
    table: CalibrationTable | None
    data: dict[str, Any]
    limits: Gates
    asked: Gates
    attacks: Attacks | None
    original: tuple[Share, Share] | None
    baseline: tuple[LayerStrength, ...]
    candidates: tuple[Candidate, ...]
    worst_cases: Mapping[str, dict[str, Any]]
    chosen: Candidate | None
    why: str
    confirmed: Confirmation | None
    command: str | None
    notes: tuple[str, ...]
    seconds: float
    failed_gates: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What the reporting part says about robustness."""
        if self.chosen is None:
            return "nothing chosen"
        if self.confirmed is None or self.confirmed.audit is None:
            return "not attacked"
        return self.confirmed.audit.verdict

    def findings(self) -> tuple[Finding, ...]:
        """The choice, and the limits on the reporting part."""
        name = self.chosen.name if self.chosen is not None else "none"
        choice = Finding("a setting was chosen", None, f"{name}: {self.why}")
        if self.confirmed is None:
            return (choice,)
        gates = self.confirmed.judged(self.asked)
        names = {gate.name for gate in gates}
        others = [x for x in self.confirmed.findings if x.name not in names]
        return (choice, *gates, *(_no_gate(x) for x in others))

    def to_json(self) -> dict[str, Any]:
        parts = ("choosing", "reporting")
        known = zip(parts, self.original or (None, None), strict=True)
        fields = self.table.to_json() if self.table is not None else None
        left_out = ("sites", "counts")
        attack = self.attacks.to_json() if self.attacks is not None else None
        if attack is not None:
            attack["images"] = min(attack["images"], self.data["choosing"])
        limits = asdict(self.limits)
        return {
            **header("sweep"),
            "verdict": self.verdict,
            "chosen": self.chosen.name if self.chosen is not None else None,
            "why": self.why,
            "command": self.command,
            "failed_gates": list(self.failed_gates),
            "model": {"name": self.model, "digest": self.digest},
            "calibration": fields and {k: v for k, v in fields.items() if k not in left_out},
            "data": self.data,
            "budget": limits,
            "attack": attack,
            "original": {
                part: {
                    "accuracy": share.value if share else None,
                    "interval": [share.low, share.high] if share else None,
                }
                for part, share in known
            },
            "baseline": self._baseline(),
            "settings": [to_json(x, self.worst_cases.get(x.name)) for x in self.candidates],
            "confirmed": self.confirmed.to_json() if self.confirmed is not None else None,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 1),
        }

    def _baseline(self) -> dict[str, Any]:
        mean, worst = singular_of(self.baseline) or (None, None)
        return {
            "layers": [layer.to_json() for layer in self.baseline],
            "suppressed": suppressed_of(self.baseline),
            "singular_mean": mean,
            "singular_worst": worst,
        }

    def __str__(self) -> str:
        lines = [self._head(), ""]
        rows = [self._original(), *map(self._cells, self.candidates)]
        lines += table(_HEADER, rows)
        lines += ["", *self._layers(), *(f"note: {note}" for note in self.notes)]
        return "\n".join([*lines, *self._conclusion()])

    def _head(self) -> str:
        data = self.data
        what = "images" if data["labelled"] else "samples without labels"
        attack = self.attacks
        attacked = "no attack"
        if attack is not None:
            attacked = f"{attack.preset} attacks at {attack.norm} eps = {attack.eps:.4g}"
        original = ""
        if self.original is not None:
            shares = " and ".join(percent(share.value) for share in self.original)
            original = f"; clean accuracy of the original there: {shares}"
        return (
            f"{self.model}: {count(self.candidates, 'setting')} compared on "
            f"{data['choosing']} {what} of '{data['name']}', the chosen one measured again on "
            f"{data['reporting']} others, {attacked}{original}"
        )

    def _original(self) -> tuple[str, ...]:
        """The original's row: what is 0 anyway, and what masking that leaves."""
        mean, most = singular_of(self.baseline) or (None, None)
        zero = suppressed_of(self.baseline)
        return ("original", "", "", _share(zero), _ratio(mean), _ratio(most), "", "", "")

    def _cells(self, candidate: Candidate) -> tuple[str, ...]:
        trial, answers = candidate.trial, candidate.answers
        if answers is None:
            return (candidate.name, *[""] * (len(_HEADER) - 2), candidate.obstacle or "")
        clean = answers.clean
        worst = self.worst_cases.get(candidate.name)
        mean, most = trial.singular or (None, None)
        return (
            candidate.name,
            f"{100 * clean.difference:+.2f}" if clean is not None else "",
            percent(answers.agreement.value),
            _share(trial.suppressed),
            _ratio(mean),
            _ratio(most),
            _ratio(trial.latency.median if trial.latency else None),
            f"{100 * worst['difference']['difference']:+.2f}" if worst else "",
            candidate.obstacle or "admitted",
        )

    def _layers(self) -> Iterator[str]:
        """What the chosen setting does to each layer."""
        if self.chosen is None or not self.chosen.trial.layers:
            return
        rows = [
            (
                row.layer,
                power_of_two(row.c_r).partition(" = ")[0],
                _share(row.suppressed),
                _ratio(row.singular_mean),
                _ratio(row.singular_worst),
            )
            for row in self.chosen.trial.layers
        ]
        yield f"{self.chosen.name}, by layer:"
        yield from table(("layer", "c_r", "suppressed", "sigma, mean", "worst"), rows)
        yield ""

    def _conclusion(self) -> Iterator[str]:
        yield f"chosen: {self.chosen.name if self.chosen is not None else 'none'}; {self.why}"
        if self.confirmed is not None:
            yield from self._confirmed(self.confirmed)
        yield f"took {self.seconds:.0f} s"
        yield f"verdict: {self.verdict}"
        if self.confirmed is not None and self.confirmed.refuted:
            yield f"keep the original: on the reporting part the verdict is {self.verdict}"
        elif self.command is not None:
            yield f"to make it: {self.command}"
        elif self.chosen is not None:
            yield "to make it: pass --save-model (and --save-cr, where layers differ in c_r)"

    def _confirmed(self, confirmed: Confirmation) -> Iterator[str]:
        where = f"on the {self.data['reporting']} samples that took no part in the choice"
        if confirmed.answers.clean is not None:
            yield f"{where}, clean accuracy: {confirmed.answers.clean}"
        agreement = confirmed.answers.agreement
        yield (
            f"{where}, agreement with the original: {percent(agreement.value)} (95 % interval "
            f"{percent(agreement.low)} to {percent(agreement.high)})"
        )
        yield f"latency, hardened / original: {confirmed.latency}"
        if confirmed.audit is not None:
            yield f"{where}, worst case: {confirmed.audit.worst}"
        if not confirmed.holds:
            failed = [x.evidence for x in confirmed.findings if x.holds is False]
            yield f"{where}, a limit does not hold: {'; '.join(failed)}"


_HEADER = (
    "setting",
    "accuracy, points",
    "agreement",
    "suppressed",
    "sigma, mean",
    "worst",
    "latency",
    "worst case, points",
    "limits",
)


def _no_gate(finding: Finding) -> Finding:
    """A limit that the user did not name: it chooses, and stops no pipeline."""
    if finding.holds is not False:
        return finding
    return Finding(finding.name, None, f"by default, and no gate: {finding.evidence}")


def _share(value: float | None) -> str:
    return percent(value) if value is not None else ""


def _ratio(value: float | None) -> str:
    return f"{value:.3f}" if value is not None else ""
