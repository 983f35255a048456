"""Results of a model that does not exist, in the layout that the commands write."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from lipcompile.documents import Document, Kind
from lipcompile.statistics import exact_interval
from tests.report.parts import (
    DATA,
    HARDENED,
    JSON,
    NAMES,
    ORIGINAL,
    baseline,
    calibration,
    certified,
    check,
    difference,
    estimate,
    outcome,
    setting,
    strike,
)


def harden(names: tuple[str, ...] = NAMES) -> JSON:
    chosen = [
        {
            "layer": name,
            "op_type": "Conv",
            "selected": True,
            "tensor": f"{name}/input",
            "dtype": "float32",
            "weight": "init",
            "absmax": 0.8 + 0.37 * (i % 5),
            "c_r": 2**-7,
            "c": (0.8 + 0.37 * (i % 5)) * 2**-7,
            "encoding": "BatchNormalization, Sigmoid, Mul",
            "code": None,
            "reason": None,
        }
        for i, name in enumerate(names)
    ]
    empty = dict.fromkeys(("tensor", "dtype", "weight", "absmax", "c_r", "c", "encoding"))
    head = {"layer": "head", "op_type": "Gemm", "selected": False, **empty}
    head |= {"code": "head", "reason": "gives the model's output"}
    return {
        "schema": "lipcompile.harden/1",
        "version": "0.1.0",
        "model": "net.onnx",
        "source": ORIGINAL,
        "digest": HARDENED,
        "output": "out/net.hardened.onnx",
        "files": ["out/net.hardened.onnx"],
        "variant": "forged",
        "form": {"name": "smooth", "a": 10.0, "b": 1.0},
        "c_r": 2**-7,
        "c_r_by_layer": {},
        "target": "portable",
        "zero_rate": None,
        "compact": False,
        "layers": [*chosen, head],
        "compaction": None,
        "agreement": {"samples": 256, "top1": 0.99, "max_difference": 0.01},
        "inlined": [],
        "dry_run": False,
        "ensemble": None,
        "calibration": calibration(),
    }


def audit(
    verdict: str = "no measurable change", *, failed: bool = False, n: int = 200
) -> JSON:
    gained = 20 if verdict == "improved" else 4
    lost = 20 if verdict == "worse" else 4
    clean, left = round(0.84 * n), round(0.42 * n)
    attacks = (("white-box", "pgd"), ("bpda-smooth", "apgd-ce"), ("black-box", "square"))
    paths = [
        strike(role, path, attack, clean, found_by=found_by)
        for path, attack in attacks
        for role in ("original", "hardened")
        for found_by in ("", path)
    ]
    curve = [
        {"model": role, "eps": eps, "accuracy": accuracy, "images": 100}
        for role in ("original", "hardened")
        for eps, accuracy in ((8 / 255, 0.55), (16 / 255, 0.2), (32 / 255, 0.02), (0.25, 0.0))
    ]
    alone = "worse" if verdict == "masked" else verdict
    return {
        "schema": "lipcompile.audit/1",
        "version": "0.1.0",
        "verdict": verdict,
        "worst_case_alone": alone,
        "original": outcome("net.onnx", ORIGINAL, clean, left, n),
        "hardened": outcome("net.hardened.onnx", HARDENED, clean, left + gained - lost, n),
        "clean_difference": difference(2, 2, n),
        "worst_case_difference": difference(gained, lost, n),
        "latency": {"median": 1.08, "low": 0.97, "high": 1.21, "pairs": 40},
        "failed_gates": [],
        "masking_checks": [
            check("black-box attacks are not stronger than white-box ones", True),
            check("bpda-smooth is not stronger than white-box", not failed),
            check("a placebo with random thresholds is no better", None),
        ],
        "paths": paths,
        "curve": curve,
        "budget": {"norm": "linf", "eps": 8 / 255, "unit": "pixels"},
        "attacks": {"name": "fast", "attacks": [{"attack": "pgd", "steps": 20, "step": 0.1}]},
        "data": {
            "name": "test",
            "images": n,
            "available": 10000,
            "digest": DATA,
            "normalisation": {"scale": 1.0, "mean": [0.0], "std": [1.0]},
        },
        "labels": [0] * n,
        "names": ["x"] * n,
        "seed": 0,
        "run": {"seed": 0, "device": "cpu"},
        "notes": ["apgd-t was left out: its loss needs 4 classes, there are 2"],
        "versions": {"lipcompile": "0.1.0", "torch": "2.13.0"},
        "seconds": 57.1,
    }


def verify(*, holds: bool = True) -> JSON:
    return {
        "schema": "lipcompile.verify/1",
        "version": "0.1.0",
        "verdict": f"the file {'is' if holds else 'is NOT'} what its provenance says",
        "holds": holds,
        "original": "net.onnx",
        "hardened": "net.hardened.onnx",
        "source": ORIGINAL,
        "digest": HARDENED,
        "variant": "forged",
        "data": "32 random samples (seed 0)",
        "checks": [
            {"name": "signature", "holds": True, "evidence": "unchanged", "decides": True},
            {"name": "forged tensors", "holds": holds, "evidence": "7", "decides": True},
            {"name": "latency", "holds": None, "evidence": "1.2", "decides": False},
        ],
        "agreement": {"samples": 32, "top1": 0.9375, "max_difference": 0.01},
        "latency": {"median": 1.12, "low": 1.01, "high": 1.3, "pairs": 50},
        "fusions": None,
        "failed_gates": [],
    }


def certify(*, original: bool = True, eps: float | None = 0.25, n: int = 40) -> JSON:
    """By Lipschitz bounds; without `original`, of the hardened model alone."""
    return {
        "schema": "lipcompile.certify/1",
        "version": "0.1.0",
        "method": "lipschitz",
        "norm": "l2",
        "eps": eps,
        "unit": "pixels",
        "model": certified("net.hardened.onnx", HARDENED, 0.9, eps, n) | {"source": ORIGINAL},
        "original": certified("net.onnx", ORIGINAL, 1.0, eps, n) if original else None,
        "difference": difference(1, 3, n) if original and eps is not None else None,
        "smoothing": None,
        "data": {
            "name": "test",
            "images": n,
            "available": 10000,
            "digest": DATA,
            "normalisation": {"scale": 1.0, "mean": [0.0], "std": [1.0]},
        },
        "labels": [0] * n,
        "names": ["x"] * n,
        "run": {"data_seed": 0, "providers": ["cpu"]},
        "failed_gates": [],
        "notes": ["LipLT was left out behind the last activations: it is too large"],
        "versions": {"lipcompile": "0.1.0", "numpy": "2.0.0"},
        "seconds": 3.2,
    }


def smoothed(procedure: str = "certify", *, original: bool = True) -> JSON:
    """Likewise by randomized smoothing."""
    found = certify(original=original, eps=None if procedure == "predict" else 0.25)
    settings = {"sigma": 0.25, "procedure": procedure, "n0": 100, "n": 1000, "alpha": 0.001}
    settings |= {"radius": 0.25 if procedure == "test" else None, "seed": 0}
    for one in filter(None, (found["model"], found["original"])):
        del one["bounds"]
        votes = {"label": 0, "draws": 1000, "selection": 100}
        answers = ["certified", "certified", "abstained", "certified"] * 10
        one["outcomes"] = [{"answer": answer, **votes} for answer in answers]
        if procedure == "predict":
            one["radii_l2"] = [0.0] * len(answers)
    return found | {"method": "smoothing", "smoothing": settings}


def original_alone() -> JSON:
    """The original, by Lipschitz bounds."""
    found = certify(original=False)
    return found | {"model": certified("net.onnx", ORIGINAL, 1.0, 0.25, 40)}


def per_layer(names: tuple[str, ...] = NAMES) -> JSON:
    """A sweep that chose thresholds of their own for some layers."""
    found = sweep(attacked=False, names=names)
    chosen = setting("smooth", -7, names) | {"name": "smooth per layer"}
    chosen["c_r_by_layer"] = {f"^{names[0]}$": 2**-5}
    chosen["layers"][0]["c_r"] = 2**-5
    return found | {"settings": [*found["settings"], chosen], "chosen": "smooth per layer"}


def sweep(*, attacked: bool = True, names: tuple[str, ...] = NAMES) -> JSON:
    forms = ("smooth", "hard", None)
    settings = [setting(form, k, names) for form in forms for k in range(-9, -4)]
    problem = setting("soft", -5, names) | {"problem": "layer 'fc1' would lose every input"}
    nothing = ("accuracy", "clean_difference", "agreement", "latency", "worst_case")
    problem |= dict.fromkeys((*nothing, "suppressed", "singular_mean", "singular_worst"))
    problem |= {"layers": [], "admitted": False, "reason": "not built"}
    settings.append(problem)
    for one in settings if not attacked else ():
        one["worst_case"] = None
    confirmed = {
        "accuracy": estimate(215, 250),
        "original_accuracy": estimate(216, 250),
        "clean_difference": difference(2, 3, 250),
        "agreement": estimate(247, 250),
        "latency": {"median": 1.06, "low": 0.96, "high": 1.2, "pairs": 40},
        "within_budget": True,
        "audit": audit() if attacked else None,
    }
    attack = {"norm": "linf", "eps": 8 / 255, "unit": "pixels", "preset": "fast"}
    return {
        "schema": "lipcompile.sweep/1",
        "version": "0.1.0",
        "failed_gates": [],
        "model": {"name": "net.onnx", "digest": ORIGINAL},
        "calibration": calibration(),
        "data": {
            "name": "test",
            "images": 500,
            "available": 10000,
            "digest": DATA,
            "labelled": True,
            "choosing": 250,
            "reporting": 250,
            "seed": 0,
            "normalisation": None,
        },
        "budget": {
            "max_accuracy_drop": 0.01,
            "max_latency_ratio": None,
            "min_agreement": None,
        },
        "attack": attack | {"images": 100, "seed": 0} if attacked else None,
        "original": {
            "choosing": {"accuracy": 218 / 250, "interval": list(exact_interval(218, 250))},
            "reporting": {"accuracy": 216 / 250, "interval": list(exact_interval(216, 250))},
        },
        "baseline": baseline(names),
        "settings": settings,
        "chosen": "smooth 2^-7",
        "why": "of 16 settings, 5 kept within the limits; smooth 2^-7 is the best of them",
        "verdict": "no measurable change" if attacked else "not attacked",
        "confirmed": confirmed,
        "command": "lipcompile harden net.onnx --table net.table.json --form smooth --cr 2^-7",
        "notes": [],
        "seconds": 312.4,
    }


def short_sweep() -> JSON:
    """With one setting that was built, and one that was not."""
    found = sweep(names=NAMES[:2])
    return found | {"settings": [found["settings"][2], found["settings"][-1]]}


def nothing_chosen() -> JSON:
    """A sweep without a setting within the budget."""
    found = sweep()
    for one in found["settings"]:
        one |= {"admitted": False, "reason": "accuracy fell by more than 1.00 %"}
    return found | {
        "chosen": None,
        "why": "of 16 settings, none kept within the limits",
        "verdict": "nothing chosen",
        "confirmed": None,
        "command": None,
    }


def document(kind: Kind, content: JSON) -> Document:
    return Document(kind, f"{kind}.json", copy.deepcopy(content))


def everything(names: tuple[str, ...] = NAMES) -> tuple[Document, ...]:
    """One result of each kind."""
    return (
        document("harden", harden(names)),
        document("sweep", sweep(names=names)),
        document("audit", audit()),
        document("verify", verify()),
        document("certify", certify()),
    )


def save(folder: Path, *documents: Document) -> list[Path]:
    """Files as the commands write them."""
    paths = []
    for one in documents:
        path = folder / one.name
        path.write_text(json.dumps(one.content))
        paths.append(path)
    return paths
