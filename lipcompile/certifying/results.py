"""What `certify` found."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lipcompile import atomic
from lipcompile.certifying.lipschitz.bounds import LipschitzBounds
from lipcompile.certifying.options import Method
from lipcompile.certifying.smoothing.options import SmoothingOptions
from lipcompile.certifying.smoothing.outcome import Outcome
from lipcompile.documents import header
from lipcompile.findings import Finding, failures
from lipcompile.statistics import PairedDifference, exact_interval
from lipcompile.text import number, percent, table

_STEPS = 7  # radii of the table that is printed
_MOST_PRINTED = 12  # classes of which pairwise bounds are written out


@dataclass(frozen=True, slots=True, eq=False)
class ModelCertificates:
    """One model.

    Attributes:
        name: File name.
        digest: Of what it computes.
        source: Digest of the model that it was hardened from, if LipCompile made it.
        labels: int64 [N], the classes it gives; -1 where smoothing abstains.
        right: bool [N]: that class is the true one.
        radii_l2: float64 [N], in pixel units: no perturbation of l2 norm below it changes the
            class; 0 where nothing is certified. (Of smoothing: with probability 1 - alpha for
            each image.)
        bounds: For method "lipschitz".
        outcomes: For method "smoothing".
        notes: What a reader has to know.
    """

    name: str
    digest: str
    source: str | None
    labels: np.ndarray
    right: np.ndarray
    radii_l2: np.ndarray
    bounds: LipschitzBounds | None = None
    outcomes: tuple[Outcome, ...] = ()
    notes: tuple[str, ...] = ()

    def certified(self, eps: float) -> np.ndarray:
        """bool [N]: the class is true, and no perturbation of l2 norm below eps changes it."""
        held: np.ndarray = self.right & (self.radii_l2 >= eps) & (self.radii_l2 > 0)
        return held

    def curve(self) -> list[tuple[float, float]]:
        """Certified accuracy where it falls: (radius, share certified up to it), ascending."""
        radii = np.sort(self.radii_l2[self.right & (self.radii_l2 > 0)])
        steps, first = np.unique(radii, return_index=True)
        shares = (len(radii) - first) / len(self.right)
        return list(zip(steps.tolist(), shares.tolist(), strict=True))

    def to_json(self, eps: float | None) -> dict[str, Any]:
        content: dict[str, Any] = {
            "name": self.name,
            "digest": self.digest,
            "source": self.source,
            "accuracy": _share(self.right),
            "certified": None if eps is None else _share(self.certified(eps)),
            "median_radius_l2": float(np.median(np.where(self.right, self.radii_l2, 0.0))),
            "labels": self.labels.tolist(),
            "right": self.right.astype(int).tolist(),
            "radii_l2": self.radii_l2.tolist(),  # rounded to nearest they could be too large
            "notes": list(self.notes),
        }
        if self.bounds is not None:
            content["bounds"] = _bounds_json(self.bounds)
        if self.outcomes:
            content["outcomes"] = [outcome.to_json() for outcome in self.outcomes]
        return content


def _share(held: np.ndarray) -> dict[str, Any]:
    low, high = exact_interval(int(held.sum()), len(held))
    return {"value": float(held.mean()), "interval": [low, high], "n": len(held)}


def _bounds_json(bounds: LipschitzBounds) -> dict[str, Any]:
    content: dict[str, Any] = {
        "whole": bounds.whole,
        "by_method": bounds.by_method,
        "largest_pair": float(bounds.pairwise.max()),
        "layers": [{"name": name, "norm": norm} for name, norm in bounds.layers],
    }
    if len(bounds.per_logit) <= _MOST_PRINTED:
        content["pairwise"] = bounds.pairwise.tolist()
        content["per_logit"] = bounds.per_logit.tolist()
    return content


@dataclass(frozen=True, slots=True, eq=False)
class CertifyResult:
    """What `certify` found. It prints itself, and becomes JSON.

    Attributes:
        model: The model.
        original: Another one to compare it with, if there is one.
        method: "lipschitz" (holds for sure, in real numbers) or "smoothing" (holds with
            probability 1 - alpha for each image, of the smoothed model).
        eps: The l2 radius that was asked about, in pixel units.
        smoothing: Settings of smoothing.
        labels: int64 [N], true classes.
        names: Of the images.
        data: Name, digest and number of the images.
        run: Seeds and providers.
        notes: What a reader has to know.
        versions: Packages that took part.
        seconds: Wall time.
        gates: Conditions of the user, where there are any.
    """

    model: ModelCertificates
    original: ModelCertificates | None
    method: Method
    eps: float | None
    smoothing: SmoothingOptions | None
    labels: np.ndarray
    names: tuple[str, ...]
    data: dict[str, Any]
    run: dict[str, Any]
    notes: tuple[str, ...]
    versions: dict[str, str]
    seconds: float
    gates: tuple[Finding, ...] = ()

    @property
    def models(self) -> dict[str, ModelCertificates]:
        """By what they are called: the original, if there is one, comes first."""
        if self.original is None:
            return {"model": self.model}
        return {"original": self.original, "model": self.model}

    @property
    def failed_gates(self) -> tuple[str, ...]:
        """Gates that do not hold, in words."""
        return failures(self.gates)

    @property
    def difference(self) -> PairedDifference | None:
        """Certified accuracy at eps, model - original, on the same images."""
        if self.original is None or self.eps is None:
            return None
        return PairedDifference.of(
            self.original.certified(self.eps), self.model.certified(self.eps)
        )

    def findings(self) -> tuple[Finding, ...]:
        """What was certified of each model, and every gate."""
        found = []
        for role, one in self.models.items():
            found.append(Finding(f"{role}: accuracy", None, _words(one.right)))
            if self.eps is not None:
                name = f"{role}: certified at l2 {self.eps:g}"
                found.append(Finding(name, None, _words(one.certified(self.eps))))
        return (*found, *self.gates)

    def to_json(self) -> dict[str, Any]:
        return {
            **header("certify"),
            "method": self.method,
            "norm": "l2",
            "eps": self.eps,
            "unit": "pixels",
            "model": self.model.to_json(self.eps),
            "original": self.original.to_json(self.eps) if self.original else None,
            "difference": d.to_json() if (d := self.difference) else None,
            "smoothing": self.smoothing.to_json() if self.smoothing else None,
            "data": self.data,
            "labels": self.labels.tolist(),
            "names": list(self.names),
            "run": self.run,
            "failed_gates": list(self.failed_gates),
            "notes": list(self.notes),
            "versions": self.versions,
            "seconds": round(self.seconds, 1),
        }

    def save_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes a row per image and model: name, label, model, class, right, radius_l2.

        Raises:
            OutputError: The file cannot be written there.
            SaveError: Writing failed; an old file is still whole.
        """
        stream = io.StringIO()
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["image", "label", "model", "class", "right", "radius_l2"])
        for role, one in self.models.items():
            columns = zip(
                self.names, self.labels, one.labels, one.right, one.radii_l2, strict=True
            )
            for name, label, found, right, radius in columns:
                given = "" if found < 0 else int(found)
                rows.writerow([name, int(label), role, given, int(right), float(radius)])
        atomic.write_bytes(Path(path), stream.getvalue().encode())

    def __str__(self) -> str:
        how = "Lipschitz bounds" if self.method == "lipschitz" else "randomized smoothing"
        against = f" and {self.original.name}" if self.original else ""
        head = (
            f"{self.model.name}{against}: {len(self.labels)} images of '{self.data['name']}', "
            f"l2 certificates by {how}"
        )
        names = list(self.models)
        lines = [head, "", *table(("", *names), list(self._rows()))]
        if self.difference is not None:
            lines.append(f"certified at {self.eps:g}, model - original: {self.difference}")
        lines += ["", *self._about(), *(f"note: {note}" for note in self.notes)]
        lines.append(f"took {self.seconds:.0f} s")
        return "\n".join([*lines, *(f"gate failed: {gate}" for gate in self.failed_gates)])

    def _rows(self) -> Iterator[tuple[str, ...]]:
        models = list(self.models.values())
        yield ("accuracy", *(_words(m.right) for m in models))
        for eps in self._radii():
            mark = " *" if eps == self.eps else ""
            yield (
                f"certified at {eps:.4g}{mark}",
                *(_words(m.certified(eps)) for m in models),
            )
        if self._bounded:
            radii = [np.where(m.right, m.radii_l2, 0.0) for m in models]
            yield ("median radius", *(number(float(np.median(r))) for r in radii))
        for method in dict.fromkeys(k for m in models if m.bounds for k in m.bounds.by_method):
            bounds = [m.bounds.by_method.get(method) for m in models if m.bounds]
            cells = ["-" if b is None else number(b) for b in bounds]
            yield (f"Lipschitz bound, {method}", *cells)
        if self.method == "lipschitz":
            pairs = [number(float(m.bounds.pairwise.max())) for m in models if m.bounds]
            yield ("largest bound of a pair", *pairs)

    @property
    def _bounded(self) -> bool:
        """Whether radii are known, and not only asked about."""
        return self.smoothing is None or self.smoothing.procedure == "certify"

    def _radii(self) -> list[float]:
        """Radii of the printed table: eps, and some up to the largest."""
        asked = [] if self.eps is None else [self.eps]
        if not self._bounded:
            return asked
        largest = max(float(m.radii_l2.max(initial=0.0)) for m in self.models.values())
        steps = [largest * i / _STEPS for i in range(1, _STEPS)] if largest else []
        return sorted({*asked, *(float(f"{step:.2g}") for step in steps)})

    def _about(self) -> Iterator[str]:
        if self.method == "lipschitz":
            yield (
                "Radii are in pixels in [0, 1]. They hold for the network in real numbers; "
                "rounding at inference is not covered."
            )
            return
        assert self.smoothing is not None
        options = self.smoothing
        what = "Radii are in pixels in [0, 1], for"
        if options.procedure == "predict":
            what = "Classes are those of"
        yield (
            f"{what} the model smoothed by noise of sigma = {options.sigma:g}, each with "
            f"probability {1 - options.alpha:g}; not for the model as it is."
        )
        for role, one in self.models.items():
            draws = sum(outcome.draws + outcome.selection for outcome in one.outcomes)
            kinds = [outcome.answer for outcome in one.outcomes]
            told = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds))
            yield f"{role}: {draws:,} noisy images; {told}"


def _words(held: np.ndarray) -> str:
    low, high = exact_interval(int(held.sum()), len(held))
    return f"{percent(held.mean())} ({100 * low:.1f} to {100 * high:.1f})"
