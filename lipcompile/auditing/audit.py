"""audit(): the one place where the steps meet.

read images -> open both models -> attack along every path -> look for masking -> verdict
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lipcompile import model_io
from lipcompile.auditing.budget import Budget, parse_eps
from lipcompile.auditing.campaign import Campaign, Notify, versions
from lipcompile.auditing.gates import judge
from lipcompile.auditing.journal import Journal
from lipcompile.auditing.masking import run_battery
from lipcompile.auditing.preconditions import (
    batch_for,
    check_labels,
    check_pair,
    note_floor,
    open_device,
    torch_threads,
)
from lipcompile.auditing.presets import ROLES, Preset, preset, run_preset
from lipcompile.auditing.results import AuditResult, ModelOutcome
from lipcompile.auditing.victim import Settings, open_victim
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.errors import Interrupted, OptionError
from lipcompile.gates import Gates
from lipcompile.labelled import LabelledImages, open_labelled
from lipcompile.measure import LatencyRatio, latency_ratio
from lipcompile.scores import class_count
from lipcompile.statistics import PairedDifference
from lipcompile.text import count

_PAIRS = 40  # of runs, for the latency ratio
_PROBES = 64  # images on which the torch view has to agree with ONNX Runtime


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
    data_seed: int = 0,
    scores: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    classes: Any = None,
    preprocess: Preprocess | str | Path | Mapping[str, Any] | None = None,
    image_flags: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    threads: int = 0,
    min_robust_accuracy: float | None = None,
    max_accuracy_drop: float | None = None,
    max_latency_ratio: float | None = None,
    min_agreement: float | None = None,
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
        data: Labelled images: a folder of class folders, a CSV, .npz, a pair of arrays, or
            `LabelledImages` as they are.
        eps: Radius in pixel units in [0, 1], before normalisation: 0.031 or "8/255".
        norm: "linf" or "l2".
        samples: At most so many images, drawn by `data_seed`; None takes all.
        attacks: "fast" (APGD-CE and APGD-T, short black-box attacks), "standard" (all of
            AutoAttack's standard set as well), or a `Preset`.
        device: Where torch runs: "cpu", "cuda", "cuda:1".
        seed: Of the attacks.
        data_seed: Of the subset that `samples` draws.
        scores: The model output with the class scores, where it has several.
        labels: Labels that are not in the data itself: CSV or JSON.
        classes: Class names by index: a list, or a file with them.
        preprocess: How images become inputs, as in `ScanOptions`.
        image_flags: Keyword arguments of `preprocess.resolve.resolve`, as in `ScanOptions`.
        batch_size: Images per batch of an attack; None chooses by size.
        threads: Of ONNX Runtime and torch; 0 lets them choose.
        min_robust_accuracy: Gate: least worst-case accuracy of the hardened model, in [0, 1].
        max_accuracy_drop: Gate: how far its clean and its worst-case accuracy may lie below
            the original's, in [0, 1].
        max_latency_ratio: Gate: largest median of hardened over original latency.
        min_agreement: Gate: least share of the images that both models give the same class
            without attack, in [0, 1].
        journal: Folder for intermediate results, from which an interrupted audit goes on.
        notify: Told what was done, line by line.

    Returns:
        The result; gates that do not hold are in `failed_gates`.

    Raises:
        LipCompileError: See `lipcompile.errors`. No number is given for a model that is not
            deterministic, or whose torch view disagrees with ONNX Runtime.
    """
    begin = time.perf_counter()
    gates = Gates(min_agreement, max_accuracy_drop, max_latency_ratio, min_robust_accuracy)
    budget = Budget(parse_eps(eps), norm)
    chosen = attacks if isinstance(attacks, Preset) else preset(attacks)
    if min(seed, data_seed, threads) < 0 or (batch_size is not None and batch_size < 1):
        raise OptionError(
            f"seed = {seed}, data seed = {data_seed}, threads = {threads}, batch size = "
            f"{batch_size}: the batch size is 1 or more, the others are 0 or more"
        )
    where = open_device(device)
    before, after = model_io.load(original), model_io.load(hardened)
    notes = check_pair(before, after)
    images = data
    if not isinstance(images, LabelledImages):
        images = open_labelled(
            data,
            after.inputs,
            num_classes=class_count(after, scores),
            model=after.name,
            samples=samples,
            seed=data_seed,
            labels=labels,
            classes=classes,
            preprocess=preprocess,
            image_flags=image_flags,
        )
    settings = Settings(scores, batch_size or batch_for(images.pixels[0].size, where), threads)
    with torch_threads(threads):
        victims = {
            role: open_victim(
                role, model, images.normalisation, images.pixels[:_PROBES], where, settings
            )
            for role, model in zip(ROLES, (before, after), strict=True)
        }
        campaign = Campaign(
            images,
            budget,
            victims,
            Journal(Path(journal) if journal is not None else None),
            seed,
            settings.batch,
            notify or (lambda _: None),
            notes=notes,
        )
        run = {"seed": seed, "data_seed": data_seed, "device": device, "threads": threads}
        try:
            result = _run(campaign, chosen, run, begin)
        except KeyboardInterrupt as interrupt:
            raise _interrupted(campaign) from interrupt
    return replace(result, gates=judge(gates, result))


def _run(campaign: Campaign, chosen: Preset, run: dict[str, Any], begin: float) -> AuditResult:
    campaign.measure_clean()
    check_labels(campaign)
    run_preset(campaign, chosen)
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
    checks, curve = run_battery(campaign, chosen)
    note_floor(campaign)
    if campaign.journal.reused:
        campaign.notes.append(
            f"{campaign.journal.reused} batches of an earlier run were read from the journal"
        )
    images = campaign.images
    return AuditResult(
        original=original,
        hardened=hardened,
        images=images.pixels,
        labels=images.labels,
        names=images.names,
        data=images.to_record(),
        budget=campaign.budget,
        attacks=chosen.to_json(),
        run={**run, "batch_size": campaign.batch},
        strikes=tuple(campaign.strikes),
        clean=PairedDifference.of(original.clean, hardened.clean),
        worst=PairedDifference.of(original.robust, hardened.robust),
        checks=checks,
        curve=curve,
        notes=tuple(campaign.notes),
        versions=versions(),
        seconds=time.perf_counter() - begin,
        latency=_latency(campaign),
        agreement=_agreement(campaign),
    )


def _agreement(campaign: Campaign) -> float:
    """Share of the images that both files give the same class; NaN agrees with nothing."""
    pixels = campaign.images.pixels
    first, second = (campaign.victims[role].deployed(pixels) for role in ROLES)
    known = ~(np.isnan(first).any(axis=1) | np.isnan(second).any(axis=1))
    return float((known & (first.argmax(axis=1) == second.argmax(axis=1))).mean())


def _latency(campaign: Campaign) -> LatencyRatio:
    """On one image, or on as many as the models take at once."""
    original, hardened = (campaign.victims[role].file for role in ROLES)
    feeds = original.feeds(campaign.images.pixels[:1])
    return latency_ratio(original.session, hardened.session, feeds, _PAIRS)


def _interrupted(campaign: Campaign) -> Interrupted:
    done = f"interrupted after {count(campaign.strikes, 'finished attack')}"
    if campaign.journal.folder is None:
        return Interrupted(f"{done}: without a journal nothing was kept")
    return Interrupted(
        f"{done}; what was found is in '{campaign.journal.folder}': run the same command "
        "again to go on from there"
    )
