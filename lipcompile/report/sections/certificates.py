"""What was certified: curves of certified accuracy, radii, Lipschitz bounds, votes."""

from __future__ import annotations

from collections.abc import Iterator

from lipcompile.report.blocks import Block, Cell, Facts, Figure, Prose, Row, Section, Table
from lipcompile.report.charts import Chart, Ink, Series
from lipcompile.report.evidence import Content, Evidence
from lipcompile.report.wording import MISSING, between, certified_by, quantity, share

_MOST_STEPS = 150  # of a curve; more cannot be told apart, and make the page large
_INKS: dict[str, Ink] = {"original": "original", "hardened": "hardened"}
_CERTAIN = (
    "Within its radius no perturbation of an image changes the class, by an upper bound of "
    "how fast the scores can change; this holds for the network in real numbers."
)


def certificates(evidence: Evidence) -> Section | None:
    """The results of `certify`."""
    certify = evidence.certify
    if certify is None:
        return None
    models = evidence.certified
    meaning = _probable(certify["smoothing"]) if certify["smoothing"] else _CERTAIN
    blocks: list[Block] = [Prose(meaning)]
    if _has_radii(certify) and any(_radii(one) for one in models.values()):
        blocks.append(
            Figure(
                f"certified accuracy against the l2 radius, {' and '.join(models)}",
                "Share of images with the right class and a certified radius of at least the "
                f"one on the axis (l2, pixels in [0, 1]), by {certified_by(certify)}. "
                f"{meaning}",
                lambda: _curves(certify, models),
            )
        )
    if certify["smoothing"]:
        blocks.append(Facts(tuple(_settings(certify["smoothing"]))))
    rows = tuple(_rows(certify, models))
    blocks.append(Table(("certified", *models), rows, frozenset(range(1, 1 + len(models)))))
    return Section("certificates", "Certificates", tuple(blocks))


def _probable(smoothing: Content) -> str:
    sure = quantity(1 - smoothing["alpha"])
    return (
        "The classes are those of the smoothed model: the vote of the model over copies of "
        f"an image with Gaussian noise of sigma = {quantity(smoothing['sigma'])}. Within its "
        f"radius no perturbation changes that class, for each image with probability {sure}."
    )


def _has_radii(certify: Content) -> bool:
    """Whether radii are bounded, and not only asked about."""
    smoothing = certify["smoothing"]
    return not smoothing or smoothing["procedure"] == "certify"


def _radii(model: Content) -> list[float]:
    """Radii of the images with the right class, ascending; those without one are left out."""
    pairs = zip(model["right"], model["radii_l2"], strict=False)
    return sorted(radius for right, radius in pairs if right and radius > 0)


def _curves(certify: Content, models: dict[str, Content]) -> Chart:
    series = tuple(_curve(role, one) for role, one in models.items())
    eps = certify["eps"]
    return Chart(
        "certified l2 radius (pixels in [0, 1])",
        "certified accuracy (%)",
        series,
        y_range=(0.0, 1.0),
        mark_x=None if eps is None else (eps, f"eps = {quantity(eps)}"),
    )


def _curve(role: str, model: Content) -> Series:
    """Steps: up to each radius, the share that is certified there.

    Where steps are left out, the curve lies below the whole one, never above.
    """
    radii = _radii(model)
    total = len(model["right"])
    every = -(-len(radii) // _MOST_STEPS) if radii else 1
    kept = sorted({*range(0, len(radii), every), len(radii) - 1} - {-1})
    x, y = [0.0], []
    for index in kept:
        level = (len(radii) - index) / total
        y += [level, level]
        x += [radii[index]] * 2
    y.append(0.0)
    ink = _INKS[role]
    return Series(role, tuple(x), tuple(y), ink=ink, mark="none", under=role == "original")


def _settings(smoothing: Content) -> Iterator[tuple[str, str]]:
    yield "procedure", str(smoothing["procedure"])
    yield "sigma", f"{quantity(smoothing['sigma'])}, in pixels of [0, 1]"
    if smoothing["procedure"] != "predict":
        yield "draws that select (n0)", f"{smoothing['n0']:,} per image"
    most = "at most " if smoothing["procedure"] == "test" else ""
    yield "draws that count (n)", f"{most}{smoothing['n']:,} per image"
    yield "alpha", quantity(smoothing["alpha"])
    yield "seed", str(smoothing["seed"])


def _rows(certify: Content, models: dict[str, Content]) -> Iterator[Row]:
    found = list(models.values())
    smoothed = certify["method"] == "smoothing"
    right = "a class is claimed, and right" if smoothed else "accuracy"
    yield right, *(_share(one["accuracy"]) for one in found)
    if certify["eps"] is not None:
        where = f"certified at l2 {quantity(certify['eps'])}"
        yield where, *(_share(one["certified"]) for one in found)
    if _has_radii(certify):
        yield "median l2 radius", *(quantity(one["median_radius_l2"]) for one in found)
    bounds = [one.get("bounds") or {} for one in found]
    for method in dict.fromkeys(name for one in bounds for name in one.get("by_method", ())):
        values = (one.get("by_method", {}).get(method) for one in bounds)
        yield f"Lipschitz bound, {method}", *map(quantity, values)
    if any(bounds):
        yield "largest bound of a pair", *(quantity(one.get("largest_pair")) for one in bounds)
    votes = [one.get("outcomes") or [] for one in found]
    if any(votes):
        yield "noisy images", *(f"{sum(map(_draws, one)):,}" for one in votes)
        answers = (answer["answer"] for one in votes for answer in one)
        for answer in dict.fromkeys(answers):
            counts = (sum(o["answer"] == answer for o in one) for one in votes)
            yield f"images: {answer}", *map(str, counts)


def _draws(outcome: Content) -> int:
    return int(outcome["draws"]) + int(outcome["selection"])


def _share(found: Content | None) -> str | Cell:
    if not found:
        return MISSING
    return Cell(share(found["value"]), between(*found["interval"]))
