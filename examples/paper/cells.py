"""One cell of a table: a model hardened in one way, audited, and kept as a JSON file."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from audits import Measure, chosen_attacks, edits, summary
from common import Case, Options, kept

import lipcompile
from lipcompile import (
    CalibrationTable,
    HardenResult,
    RuntimeOptions,
    ScanOptions,
    Selector,
    make_form,
    model_io,
)
from lipcompile.errors import SelectionError
from lipcompile.labelled import LabelledImages, open_labelled
from lipcompile.scores import class_count
from lipcompile.statistics import PairedDifference, exact_interval
from lipcompile.version import __version__

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `lipcompile audit` does, before torch


@dataclass(frozen=True, slots=True)
class Variation:
    """One way to harden a model.

    Attributes:
        label: Its row or column in a table.
        cr: Relative threshold.
        form: Name of the forged function; None for variant "weight".
        parameters: Of the form.
        zero_rate: For variant "weight".
        rule: Which layers: "auto", "mlp" or "all".
        include: Patterns that narrow the rule.
        calibration: At most so many calibration samples, drawn by `draw`.
        draw: Seed of that subset.
    """

    label: str
    cr: str = "2^-7"
    form: str | None = "smooth"
    parameters: dict[str, float] = field(default_factory=dict)
    zero_rate: float = 1.0
    rule: Literal["auto", "mlp", "all"] = "auto"
    include: tuple[str, ...] = ()
    calibration: int | None = None
    draw: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """What was measured of one variation of one model; `content` is its JSON file.

    Attributes:
        case: Name of the model.
        label: Of the variation.
        content: Everything; only "problem", where the variation cannot be had.
    """

    case: str
    label: str
    content: dict[str, Any]

    @property
    def problem(self) -> str | None:
        return self.content.get("problem")

    @property
    def n(self) -> int:
        return int(self.content["n"])

    @property
    def verdict(self) -> str:
        return str(self.content["verdict"])

    def count(self, measure: Measure, role: str) -> int:
        """How many images stay right."""
        return int(self.content[measure][role])

    def share(self, measure: Measure, role: str) -> float:
        return self.count(measure, role) / self.n

    def interval(self, measure: Measure, role: str) -> tuple[float, float]:
        """95 %, exact."""
        return exact_interval(self.count(measure, role), self.n)

    def difference(self, measure: Measure) -> PairedDifference:
        """Hardened - original, on the same images."""
        said = dict(self.content[measure]["difference"])
        said.pop("difference")
        return PairedDifference(p=said.pop("mcnemar_p"), **said)


@dataclass(slots=True, eq=False)
class Bench:
    """A model with its images, and calibration tables as they are needed."""

    case: Case
    options: Options
    source: model_io.LoadedModel
    images: LabelledImages
    tables: dict[tuple[Any, ...], CalibrationTable] = field(default_factory=dict)

    @classmethod
    def open(cls, case: Case, options: Options) -> Bench:
        """Reads the model and its labelled images."""
        source = model_io.load(case.model)
        images = open_labelled(
            case.data,
            source.inputs,
            num_classes=class_count(source, None),
            model=source.name,
            samples=options.images,
            seed=options.seed,
            labels=case.labels,
            image_flags=case.flags,
        )
        return cls(case, options, source, images)

    def table(self, variation: Variation) -> CalibrationTable:
        """Maxima for a variation; with counts, for variant "weight"."""
        counted = (variation.cr,) if variation.form is None else ()
        key = (variation.calibration, variation.draw, counted)
        if key not in self.tables:
            scan = ScanOptions(
                samples=variation.calibration, seed=variation.draw, image_flags=self.case.flags
            )
            self.tables[key] = lipcompile.calibrate(
                self.case.model,
                self.case.calibration,
                count_cr=counted,
                selector=Selector(rule="all"),  # serves every placement
                scan=scan,
                runtime=self.runtime,
            )
        return self.tables[key]

    @property
    def runtime(self) -> RuntimeOptions:
        return RuntimeOptions(threads=self.options.threads)

    def cell(
        self,
        variation: Variation,
        eps: str | None = None,
        norm: Literal["linf", "l2"] = "linf",
    ) -> Cell:
        """Hardens and audits, unless the results folder has the cell already.

        Args:
            variation: How to harden.
            eps: Radius; None takes that of the case.
            norm: Of the radius.
        """
        radius = eps or self.case.eps
        table = self.table(variation)
        preset = chosen_attacks(self.options.attacks)
        key = self._key(table) | {
            "setting": asdict(replace(variation, label="")),
            "budget": [norm, radius],
            "attacks": preset.to_json(),
        }

        def measure() -> dict[str, Any]:
            print(f"{self.case.name}: {variation.label}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="lipcompile-") as folder:
                hardened = self._harden(variation, table, Path(folder) / "hardened.onnx")
                result = lipcompile.audit(
                    hardened.model,
                    self.case.model,
                    self.images,
                    eps=radius,
                    norm=norm,
                    samples=None,
                    attacks=preset,
                    seed=self.options.seed,
                    threads=self.options.threads,
                    journal=self.options.results / "journal",
                )
            rows = [row for row in hardened.rows if row.selected]
            return {**summary(result), **edits([row.encoding or "" for row in rows])}

        try:
            content = kept(self.options.results / "cells", key, measure)
        except SelectionError as error:
            content = {"problem": str(error)}
        return Cell(self.case.name, variation.label, content)

    def sweep(
        self,
        cr: str,
        forms: tuple[str, ...] = ("hard",),
        variants: tuple[str, ...] = ("forged",),
    ) -> dict[str, Any]:
        """The document of `lipcompile sweep` without attacks, kept like a cell.

        Half of the images measure the settings there, as always in a sweep.
        """
        from lipcompile.sweeping.opening import DataOptions
        from lipcompile.sweeping.sweep import sweep

        options, case = self.options, self.case
        key = self._key(self.table(Variation(""))) | {"settings": [cr, forms, variants]}

        def measure() -> dict[str, Any]:
            print(f"{case.name}: sweep of {cr}", file=sys.stderr, flush=True)
            reading = DataOptions(True, options.images, options.seed, case.labels)
            return sweep(
                case.model,
                case.calibration,
                case.data,
                cr=cr,
                forms=forms,
                variants=variants,
                seed=options.seed,
                reading=reading,
                scan=ScanOptions(image_flags=case.flags),
                runtime=self.runtime,
            ).to_json()

        return kept(options.results / "sweeps", key, measure)

    def _harden(
        self, variation: Variation, table: CalibrationTable, output: Path
    ) -> HardenResult:
        name = variation.form
        form = make_form(name, **variation.parameters) if name is not None else None
        return lipcompile.harden(
            self.case.model,
            table=table,
            cr=variation.cr,
            variant="forged" if form is not None else "weight",
            form=form,
            zero_rate=variation.zero_rate if form is None else None,
            selector=Selector(rule=variation.rule, include=variation.include),
            runtime=self.runtime,
            output=output,
        )

    def _key(self, table: CalibrationTable) -> dict[str, Any]:
        """What decides a result, whatever is measured."""
        return {
            "version": __version__,
            "model": self.source.digest,
            "images": [self.images.digest, self.images.normalisation.to_json()],
            "table": table.to_json(),
            "seed": self.options.seed,
        }
