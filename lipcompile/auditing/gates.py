"""What a pipeline may ask of an audit."""

from __future__ import annotations

from dataclasses import dataclass

from lipcompile.auditing.results import AuditResult
from lipcompile.errors import OptionError
from lipcompile.text import percent


@dataclass(frozen=True, slots=True)
class Gates:
    """Conditions on the hardened model; None asks for nothing.

    Attributes:
        min_robust_accuracy: Least worst-case accuracy, in [0, 1].
        max_drop: How far clean and worst-case accuracy may lie below the original's, in
            [0, 1].
    """

    min_robust_accuracy: float | None
    max_drop: float | None

    def __post_init__(self) -> None:
        gates = {"min-robust-accuracy": self.min_robust_accuracy, "max-drop": self.max_drop}
        for name, value in gates.items():
            if value is not None and not 0 <= value <= 1:
                raise OptionError(
                    f"--{name} {value:g} is out of range: give a share from 0 to 1, for "
                    "example 0.3 for 30 %"
                )

    def failures(self, result: AuditResult) -> tuple[str, ...]:
        """The gates that do not hold, in words.

        Behind a failed masking check the worst case is an upper bound, which no gate may
        rest on.
        """
        robust = float(result.hardened.robust.mean())
        drops = {"clean": -result.clean.difference, "worst-case": -result.worst.difference}
        least, most = self.min_robust_accuracy, self.max_drop
        failed = []
        if least is not None and robust < least:
            failed.append(
                f"worst-case accuracy {percent(robust)} is below --min-robust-accuracy "
                f"{percent(least)}"
            )
        if most is not None:
            failed += [
                f"{name} accuracy fell by {percent(drop)}, more than --max-drop "
                f"{percent(most)}"
                for name, drop in drops.items()
                if drop > most
            ]
        if (least, most) != (None, None) and result.verdict == "masked" and not failed:
            failed.append(
                "the gates cannot be decided: masking checks failed, so the worst case of "
                f"{percent(robust)} is only an upper bound"
            )
        return tuple(failed)
