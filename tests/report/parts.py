"""What results of a model that does not exist are put together from."""

from __future__ import annotations

from typing import Any

from lipcompile.statistics import PairedDifference, exact_interval

JSON = dict[str, Any]
ORIGINAL = "sha256:" + "0a" * 32
HARDENED = "sha256:" + "1b" * 32
DATA = "sha256:" + "2c" * 32
NAMES = ("layer1/conv1", "layer1/conv2", "layer2/conv1", "layer2/conv2", "layer3/conv1", "fc1")


def estimate(successes: int, n: int) -> JSON:
    return {
        "value": successes / n,
        "interval": list(exact_interval(successes, n)),
        "n": n,
    }


def difference(gained: int, lost: int, n: int) -> JSON:
    # Wider than the exact interval, which takes long to compute and is not looked at here.
    low, high = (gained - lost) / n - 0.03, (gained - lost) / n + 0.03
    return PairedDifference(n, gained, lost, low, high, 0.5, 0.95).to_json()


def calibration() -> JSON:
    return {
        "format": "lipcompile.calibration/1",
        "model": {"name": "net.onnx", "digest": ORIGINAL},
        "data": {
            "kind": "images",
            "label": "calibration",
            "samples": 512,
            "digest": "3d" * 32,
            "unreadable": [],
            "nonfinite": [],
        },
        "preprocess": {"resize": 32, "layout": "NCHW", "mean": [0.0]},
        "input_range": {"image": [0.0, 1.0]},
        "runtime": "onnxruntime 1.31.1, CPUExecutionProvider",
        "complete": True,
    }


def outcome(name: str, digest: str, clean: int, left: int, n: int) -> JSON:
    return {
        "name": name,
        "digest": digest,
        "clean_accuracy": clean / n,
        "clean_interval": list(exact_interval(clean, n)),
        "worst_case_accuracy": left / n,
        "worst_case_interval": list(exact_interval(left, n)),
        "robust_images": [1] * left + [0] * (n - left),
    }


def certified(name: str, digest: str, scale: float, eps: float | None, n: int) -> JSON:
    """Every fifth image is wrong; the radii are `scale` times 0 to 0.5."""
    right = [int(i % 5 > 0) for i in range(n)]
    radii = [round(scale * 0.5 * ((i * 7) % n) / n, 9) for i in range(n)]
    held = [
        r and radius > 0 and radius >= (eps or 0)
        for r, radius in zip(right, radii, strict=True)
    ]
    return {
        "name": name,
        "digest": digest,
        "source": None,
        "accuracy": estimate(sum(right), n),
        "certified": None if eps is None else estimate(sum(held), n),
        "median_radius_l2": 0.2 * scale,
        "labels": [0] * n,
        "right": right,
        "radii_l2": radii,
        "notes": [],
        "bounds": {
            "whole": 41.5 / scale,
            "by_method": {"product": 1234.5, "LipLT": 41.5 / scale, "ECLipsE-Fast": 77.0},
            "largest_pair": 39.25 / scale,
            "layers": [{"name": "fc1", "norm": 2.5}],
        },
    }


def strike(role: str, path: str, attack: str, attacked: int, *, found_by: str) -> JSON:
    settings: JSON = {"attack": attack, "seed": 0}
    if found_by:
        settings |= {"found_on": "other", "found_by": found_by}
    return {
        "model": role,
        "path": "transfer" if found_by else path,
        "attack": attack,
        "attacked": attacked,
        "broken": attacked // (3 if found_by else 2),
        "settings": settings,
        "seconds": 0.1,
    }


def check(name: str, passed: bool | None) -> JSON:
    return {"name": name, "source": "ours", "passed": passed, "evidence": "of 50 images, 1"}


_FORMS: dict[str, JSON] = {
    "smooth": {"name": "smooth", "a": 10.0, "b": 1.0},
    "hard": {"name": "hard"},
    "soft": {"name": "soft"},
}


def setting(form: str | None, exponent: int, names: tuple[str, ...] = NAMES) -> JSON:
    """Suppresses more, and costs more, the larger c_r is."""
    c_r = 2.0**exponent
    strength = (exponent + 10) / 6
    variant = "forged" if form else "weight"
    lost = round(1 + 9 * strength**2) if form else round(3 + 12 * strength**2)
    layers = [
        {
            "layer": name,
            "c_r": c_r,
            "c": c_r * (1 + i),
            "suppressed": min(1.0, strength * (0.25 + 0.5 * ((i * 3) % 7) / 7)),
            "singular_worst": 1 - 0.05 * strength * (1 + (i % 3)),
            "singular_mean": 1 - 0.12 * strength * (1 + (i % 3)),
        }
        for i, name in enumerate(names)
    ]
    worst = difference(round(6 * strength), round(4 * strength), 100)
    return {
        "name": f"{form or variant} 2^{exponent}",
        "variant": variant,
        "form": dict(_FORMS[form]) if form else None,
        "c_r": c_r,
        "c_r_by_layer": {},
        "zero_rate": None if form else 1.0,
        "ensemble": None,
        "flags": f"--form {form} --cr 2^{exponent}"
        if form
        else f"--variant weight --cr {c_r}",
        "problem": None,
        "accuracy": estimate(218 - lost, 250),
        "clean_difference": difference(1, lost + 1, 250),
        "agreement": estimate(248 - lost, 250),
        "latency": {"median": 1.05 if form else 0.99, "low": 0.95, "high": 1.2, "pairs": 20},
        "layers": layers,
        "suppressed": sum(row["suppressed"] for row in layers) / len(layers),
        "singular_worst": max(row["singular_worst"] for row in layers),
        "singular_mean": sum(row["singular_mean"] for row in layers) / len(layers),
        "worst_case": {
            "original": 0.42,
            "hardened": 0.42 + worst["difference"],
            "difference": worst,
            "verdict": "no measurable change",
        },
        "admitted": lost <= 5,
        "reason": None if lost <= 5 else "accuracy fell by more than 1.00 %",
    }


def baseline(names: tuple[str, ...]) -> JSON:
    """Every layer without hardening: what is 0 anyway."""
    layers = [
        {
            "layer": name,
            "c_r": 0.0,
            "c": 0.0,
            "suppressed": 0.02 * (i % 3),
            "singular_worst": 1.0,
            "singular_mean": 1.0 - 0.01 * (i % 3),
        }
        for i, name in enumerate(names)
    ]
    return {"layers": layers, "suppressed": 0.02, "singular_mean": 0.99, "singular_worst": 1.0}
