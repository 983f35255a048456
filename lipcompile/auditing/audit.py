"""audit(): the one place where the steps meet.

read images -> open both models -> attack along every path -> look for masking -> verdict
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from lipcompile import model_io
from lipcompile.auditing.budget import Budget, parse_eps
from lipcompile.auditing.campaign import Campaign, Notify
from lipcompile.auditing.data import open_labelled
from lipcompile.auditing.journal import Journal
from lipcompile.auditing.masking import run_battery
from lipcompile.auditing.presets import ROLES, Preset, preset, run_preset
from lipcompile.auditing.results import AuditResult, ModelOutcome, direction
from lipcompile.auditing.statistics import PairedDifference
from lipcompile.auditing.victim import class_count, open_victim
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.errors import (
    DataError,
    Interrupted,
    ModelError,
    OptionError,
    ProviderError,
)
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK
from lipcompile.runtime import package_version
from lipcompile.text import count, percent
from lipcompile.version import __version__

_PROBES = 64  # images on which the torch view has to agree with ONNX Runtime
_VALUES_PER_BATCH = 1_500_000  # pixel values; more does not fit the caches of a CPU
_MOST = 64
_LOW_CLEAN = 2.0  # times chance: below it the labels are probably wrong
_PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "onnx", "pyautoattack", "numpy")


def audit(
    hardened: object,
    original: object,
    data: object,
    *,
    eps: float | str,
    norm: Literal["linf", "l2"] = "linf",
    samples: int | None = 500,
    attacks: str | Preset = "fast",
    device: str = "cpu",
    seed: int = 0,
    labels: str | os.PathLike[str] | None = None,
    classes: Any = None,
    preprocess: Preprocess | str | Path | Mapping[str, Any] | None = None,
    image_flags: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    threads: int = 0,
    min_robust_accuracy: float | None = None,
    max_drop: float | None = None,
    journal: str | os.PathLike[str] | None = None,
    notify: Notify | None = None,
) -> AuditResult:
    """Attacks a hardened model and its original on the same images, and compares them.

    Both are attacked along every path (white-box, surrogate gradients, transfer in both
    directions, black-box) with the same effort; an image counts as robust when no candidate
    of any path, replayed in ONNX Runtime on the deployed file, is misclassified.

    Args:
        hardened: A path, `onnx.ModelProto`, `onnx_ir.Model` or graphsurgeon `Graph`.
        original: The same, before hardening.
        data: Labelled images: a folder of class folders, a CSV, .npz, or a pair of arrays.
        eps: Radius in pixel units in [0, 1], before normalisation: 0.031 or "8/255".
        norm: "linf" or "l2".
        samples: At most so many images, drawn by `seed`; None takes all.
        attacks: "fast" (APGD-CE and APGD-T, short black-box attacks), "standard" (all of
            AutoAttack's standard set as well), or a `Preset`.
        device: Where torch runs: "cpu", "cuda", "cuda:1".
        seed: Of everything random.
        labels: Labels that are not in the data itself: CSV or JSON.
        classes: Class names by index: a list, or a file with them.
        preprocess: How images become inputs, as in `ScanOptions`.
        image_flags: Keyword arguments of `preprocess.resolve.resolve`, as in `ScanOptions`.
        batch_size: Images per batch of an attack; None chooses by size.
        threads: Of ONNX Runtime and torch; 0 lets them choose.
        min_robust_accuracy: Gate: least worst-case accuracy of the hardened model, in [0, 1].
        max_drop: Gate: how far its clean and worst-case accuracy may lie below the original's.
        journal: Folder for intermediate results, from which an interrupted audit goes on.
        notify: Told what was done, line by line.

    Returns:
        The result; gates that do not hold are in `failed_gates`.

    Raises:
        LipCompileError: See `lipcompile.errors`. No number is given for a model that is not
            deterministic, or whose torch view disagrees with ONNX Runtime.
    """
    begin = time.perf_counter()
    gates = _Gates(min_robust_accuracy, max_drop)
    budget = Budget(parse_eps(eps), norm)
    chosen = attacks if isinstance(attacks, Preset) else preset(attacks)
    _check_numbers(seed, batch_size, threads)
    where = _device(device)
    before, after = model_io.load(original), model_io.load(hardened)
    notes = _check_pair(before, after)
    images = open_labelled(
        data,
        after.inputs,
        num_classes=class_count(after),
        model=after.name,
        samples=samples,
        seed=seed,
        labels=labels,
        classes=classes,
        preprocess=preprocess,
        image_flags=image_flags,
    )
    with _threads(threads):
        probes = images.pixels[:_PROBES]
        victims = {
            role: open_victim(role, model, images.normalisation, probes, where, threads)
            for role, model in zip(ROLES, (before, after), strict=True)
        }
        campaign = Campaign(
            images,
            budget,
            victims,
            Journal(Path(journal) if journal is not None else None),
            seed,
            batch_size or max(1, min(_MOST, _VALUES_PER_BATCH // images.pixels[0].size)),
            notify or (lambda _: None),
            notes=notes,
        )
        try:
            return _run(campaign, chosen, gates, begin)
        except KeyboardInterrupt as interrupt:
            raise _interrupted(campaign) from interrupt


def _run(campaign: Campaign, chosen: Preset, gates: _Gates, begin: float) -> AuditResult:
    campaign.measure_clean()
    classes = campaign.victims["hardened"].deployed(campaign.images.pixels[:1]).shape[1]
    _check_labels(campaign, classes)
    run_preset(campaign, chosen, classes)
    outcomes = {
        role: ModelOutcome(
            victim.name,
            victim.model.digest,
            campaign.clean[role],
            campaign.robust(role),
            campaign.examples[role],
        )
        for role, victim in campaign.victims.items()
    }
    original, hardened = (outcomes[role] for role in ROLES)
    worst = PairedDifference.of(original.robust, hardened.robust)
    checks, curve = run_battery(campaign, chosen, direction(worst) == "improved")
    if campaign.journal.reused:
        campaign.notes.append(
            f"{campaign.journal.reused} batches of an earlier run were read from the journal"
        )
    result = AuditResult(
        original=original,
        hardened=hardened,
        labels=campaign.images.labels,
        names=campaign.images.names,
        data={
            "name": campaign.images.label,
            "images": len(campaign.images.labels),
            "digest": campaign.images.digest,
            "normalisation": campaign.images.normalisation.to_json(),
        },
        budget=campaign.budget,
        attacks=chosen.to_json(),
        seed=campaign.seed,
        strikes=tuple(campaign.strikes),
        clean=PairedDifference.of(original.clean, hardened.clean),
        worst=worst,
        checks=checks,
        curve=curve,
        notes=tuple(campaign.notes),
        versions=_versions(),
        seconds=time.perf_counter() - begin,
    )
    return replace(result, failed_gates=gates.failures(result))


@dataclass(frozen=True, slots=True)
class _Gates:
    """What a pipeline asks for; shares in [0, 1]."""

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
        """The gates that do not hold, in words."""
        failed = []
        robust = float(result.hardened.robust.mean())
        least, most = self.min_robust_accuracy, self.max_drop
        if least is not None and result.verdict == "masked":
            failed.append(
                "--min-robust-accuracy cannot be decided: masking checks failed, so the worst "
                f"case of {percent(robust)} is only an upper bound"
            )
        elif least is not None and robust < least:
            failed.append(
                f"worst-case accuracy {percent(robust)} is below --min-robust-accuracy "
                f"{percent(least)}"
            )
        drops = {"clean": -result.clean.difference, "worst-case": -result.worst.difference}
        for name, drop in drops.items():
            if most is not None and drop > most:
                failed.append(
                    f"{name} accuracy fell by {percent(drop)}, more than --max-drop "
                    f"{percent(most)}"
                )
        return tuple(failed)


def _check_numbers(seed: int, batch_size: int | None, threads: int) -> None:
    if seed < 0 or threads < 0 or (batch_size is not None and batch_size < 1):
        raise OptionError(
            f"seed = {seed}, threads = {threads}, batch size = {batch_size}: seed and threads "
            "are 0 or more, the batch size 1 or more"
        )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"device '{name}' is unknown: use cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device '{name}' is not supported: use cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ProviderError(
            f"device '{name}' was asked for, and torch {torch.__version__} sees no CUDA "
            "device: install a CUDA build of torch, or pass --device cpu"
        )
    return device


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Gives torch `count` threads inside the block; 0 leaves it alone."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_pair(original: LoadedModel, hardened: LoadedModel) -> list[str]:
    """The two belong together; what cannot be known becomes a note.

    Raises:
        ModelError: They do not.
    """
    shapes = [[(s.dtype, s.shape) for s in m.inputs] for m in (original, hardened)]
    if [len(s) for s in shapes] != [1, 1]:
        count = max(map(len, shapes))
        raise ModelError(
            f"a model with {count} inputs cannot be audited: attacks change one image, so "
            "the model must take one input; wrap the others as constants"
        )
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"'{hardened.name}' takes {hardened.inputs[0]} and '{original.name}' takes "
            f"{original.inputs[0]}: they do not belong together, name the original that was "
            "hardened with --original"
        )
    source = hardened.metadata.get(f"{MARK}.source")
    if source is None:
        return [
            f"'{hardened.name}' has no LipCompile provenance: that it comes from "
            f"'{original.name}' is the caller's word"
        ]
    if source != original.digest:
        raise ModelError(
            f"'{hardened.name}' was hardened from a model with digest {source[:19]}..., and "
            f"'{original.name}' has {original.digest[:19]}...: they do not belong together, "
            "name the original that was hardened with --original"
        )
    return []


def _check_labels(campaign: Campaign, classes: int) -> None:
    """Labels fit the outputs; accuracy near chance is mostly a mistake in the labels."""
    largest = int(campaign.images.labels.max())
    if largest >= classes:
        where = campaign.images.names[int(campaign.images.labels.argmax())]
        name = campaign.victims["hardened"].name
        raise DataError(
            f"label {largest} of '{where}' has no output: '{name}' gives {classes} scores, "
            f"for labels 0 to {classes - 1}; check the labels"
        )
    accuracy = float(campaign.clean["original"].mean())
    if accuracy < _LOW_CLEAN / classes:
        campaign.notes.append(
            f"the original is right on {percent(accuracy)} of the images, where chance is "
            f"{percent(1 / classes)}: check labels and preprocessing"
        )


def _interrupted(campaign: Campaign) -> Interrupted:
    done = f"interrupted after {count(campaign.strikes, 'finished attack')}"
    if campaign.journal.folder is None:
        return Interrupted(f"{done}: without a journal nothing was kept")
    return Interrupted(
        f"{done}; what was found is in '{campaign.journal.folder}': run the same command "
        "again to go on from there"
    )


def _versions() -> dict[str, str]:
    found = {"lipcompile": __version__}
    found |= {name: version for name in _PACKAGES if (version := package_version(name))}
    return found
