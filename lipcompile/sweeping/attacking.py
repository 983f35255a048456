"""Attacks on settings: the audit, on the images of one part."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lipcompile import model_io
from lipcompile.errors import Interrupted, OptionError
from lipcompile.labelled import LabelledImages
from lipcompile.sweeping.opening import DataOptions
from lipcompile.sweeping.settings import Setting
from lipcompile.sweeping.trial import Bench

if TYPE_CHECKING:
    from lipcompile.auditing.results import AuditResult

Notify = Callable[[str], None]
DEFAULT_IMAGES = 100


@dataclass(frozen=True, slots=True)
class Attacks:
    """How settings are attacked.

    Attributes:
        eps: Radius in pixel units in [0, 1], before normalisation.
        norm: "linf" or "l2".
        preset: "fast" or "standard".
        images: At most so many of the choosing part for each setting; the chosen one is
            attacked on the whole reporting part.
        device: Where torch runs.
        seed: Of the attacks.
        threads: Of ONNX Runtime and torch.
        scores: The output with the class scores; None finds it.
        journal: Folder for intermediate results; attacks on the original are shared by all
            settings through it. None keeps nothing after the sweep.
    """

    eps: float
    norm: Literal["linf", "l2"]
    preset: str
    images: int
    device: str
    seed: int
    threads: int
    scores: str | None
    journal: str | os.PathLike[str] | None

    def run(
        self, bench: Bench, setting: Setting, images: LabelledImages, notify: Notify
    ) -> AuditResult:
        """Audits a setting against the original.

        Raises:
            LipCompileError: As `lipcompile.audit`.
        """
        from lipcompile.auditing.audit import audit

        task, compiled = bench.build(setting)
        with tempfile.TemporaryDirectory(prefix="lipcompile-") as folder:
            # A file, so that external weights are found beside it.
            path = Path(folder) / f"{Path(bench.source.name).stem}.hardened.onnx"
            model_io.save(task.loaded, compiled.proto, path)
            return audit(
                path,
                bench.source.path or bench.source.proto,
                images,
                eps=self.eps,
                norm=self.norm,
                samples=None,
                attacks=self.preset,
                device=self.device,
                seed=self.seed,
                scores=self.scores,
                threads=self.threads,
                journal=self.journal,
                notify=notify,
            )

    @contextlib.contextmanager
    def sharing(self) -> Iterator[Attacks]:
        """The same with a journal, one that goes again where none was named: without, every
        setting would pay for the attacks on the original."""
        if self.journal is not None:
            yield self
            return
        with tempfile.TemporaryDirectory(prefix="lipcompile-") as folder:
            try:
                yield replace(self, journal=folder)
            except Interrupted as error:
                raise Interrupted(
                    "interrupted while attacking: without a journal nothing was kept"
                ) from error

    def to_json(self) -> dict[str, Any]:
        return {
            "norm": self.norm,
            "eps": self.eps,
            "unit": "pixels",
            "preset": self.preset,
            "images": self.images,
            "seed": self.seed,
        }


def checked_attacks(
    eps: float | str | None,
    norm: Literal["linf", "l2"],
    preset: str,
    images: int,
    device: str,
    seed: int,
    threads: int,
    reading: DataOptions,
    journal: str | os.PathLike[str] | None,
) -> Attacks | None:
    """What was asked for, checked before any long work; None where `eps` is.

    Raises:
        OptionError: It is not legal.
        MissingExtraError: Attacks need packages that are not installed.
        ProviderError: The device is not there.
    """
    if eps is None:
        return None
    if not reading.labelled:
        raise OptionError(
            "--eps attacks labelled images, and the data is said to be unlabelled: leave one "
            "of them out"
        )
    if images < 1 or seed < 0:
        raise OptionError(
            f"attack samples = {images}, attack seed = {seed}: give 1 or more, and 0 or more"
        )
    from lipcompile.auditing.budget import Budget, parse_eps
    from lipcompile.auditing.preconditions import open_device
    from lipcompile.auditing.presets import preset as named

    radius = Budget(parse_eps(eps), norm).eps
    named(preset)
    open_device(device)
    return Attacks(
        radius, norm, preset, images, device, seed, threads, reading.scores, journal
    )


def summary(result: AuditResult) -> dict[str, Any]:
    """What the table of settings says of an audit."""
    return {
        "original": float(result.original.robust.mean()),
        "hardened": float(result.hardened.robust.mean()),
        "difference": result.worst.to_json(),
        "verdict": result.verdict,
    }
