"""What an audit found: curves, attack paths, masking checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from lipcompile.attack_paths import PATHS
from lipcompile.report.blocks import Block, Cell, Figure, Notice, Row, Section, Table, Tone
from lipcompile.report.charts import Bars, Chart, Series
from lipcompile.report.evidence import Content, Evidence
from lipcompile.report.wording import MISSING, between, radius, share

Role = Literal["original", "hardened"]
_ROLES: tuple[Role, Role] = ("original", "hardened")


def robustness(evidence: Evidence) -> Section:
    """Accuracy against epsilon, and every attack on every path."""
    audit = evidence.audit
    if audit is None:
        return Section("robustness", "Robustness", (_no_attack(evidence),))
    blocks: list[Block] = []
    if audit["curve"]:
        blocks.append(
            Figure(
                "share of images that stay correct against epsilon, original and hardened",
                "Images that stay correct under one attack with the exact gradient "
                f"({audit['budget']['norm']}, pixels in [0, 1]), of those that are correct "
                "without attack, with exact 95 % intervals. It is one attack: what decides is "
                "the worst case over all paths.",
                lambda: _curve(audit),
            )
        )
    if audit["paths"]:
        blocks.append(
            Figure(
                "images broken by each attack, original and hardened",
                f"Images broken within {radius(audit['budget'])} by each attack, and by all "
                "of them together with an exact 95 % interval. Later attacks ran on what "
                "earlier ones had left, so their bars are shorter. Replays of what was found "
                "on the other model are in the table.",
                lambda: _bars(audit),
            )
        )
    blocks.append(_paths(audit))
    return Section("robustness", "Robustness", tuple(blocks))


def _no_attack(evidence: Evidence) -> Notice:
    if evidence.sweep and evidence.sweep["attack"]:
        return Notice(
            "The sweep attacked its settings only to choose one of them; none was attacked on "
            "held-out images. Nothing is known about robustness."
        )
    if evidence.certify:
        return Notice(
            "No attack was run: beyond the certificates nothing is known about robustness. "
            '"lipcompile audit" attacks the hardened model and the original.'
        )
    return Notice(
        'No attack was run: nothing is known about robustness. "lipcompile audit" attacks the '
        "hardened model and the original."
    )


def _curve(audit: Content) -> Chart:
    from lipcompile.statistics import exact_interval

    series = []
    for role, mark in zip(_ROLES, ("circle", "square"), strict=True):
        found = sorted(
            (p for p in audit["curve"] if p["model"] == role), key=lambda p: float(p["eps"])
        )
        limits = [
            exact_interval(round(p["accuracy"] * p["images"]), p["images"]) for p in found
        ]
        # Without attack all of these images are correct, which is how they were chosen.
        series.append(
            Series(
                role,
                (0.0, *(p["eps"] for p in found)),
                (1.0, *(p["accuracy"] for p in found)),
                (1.0, *(low for low, _ in limits)),
                (1.0, *(high for _, high in limits)),
                role,
                mark,  # type: ignore[arg-type]
                under=role == "original",
            )
        )
    return Chart(
        f"{audit['budget']['norm']} epsilon (pixels in [0, 1])",
        "images that stay correct (%)",
        tuple(series),
        y_range=(0.0, 1.0),
        mark_x=(audit["budget"]["eps"], "audited"),
    )


def _lines(audit: Content) -> list[tuple[str, str, str]]:
    """Path, attack and, for replays, what found them; in the order of the audit."""
    keys = dict.fromkeys(_key(path) for path in audit["paths"])
    known = {name: i for i, name in enumerate(PATHS)}
    return sorted(keys, key=lambda key: known.get(key[0], len(known)))


def _key(path: Content) -> tuple[str, str, str]:
    return path["path"], path["attack"], path["settings"].get("found_by", "")


def _strikes(audit: Content, key: tuple[str, str, str], role: Role) -> list[Content]:
    return [p for p in audit["paths"] if p["model"] == role and _key(p) == key]


def _name(key: tuple[str, str, str]) -> str:
    path, attack, found_by = key
    return f"{path} {attack}" + (f" ({found_by})" if found_by else "")


def _paths(audit: Content) -> Table:
    rows: list[Row] = [("none", "clean accuracy", *_accuracies(audit, "clean"))]
    for key in _lines(audit):
        path, attack, found_by = key
        name = f"{attack} found by {found_by}" if found_by else attack
        rows.append((path, name, *(_cell(_strikes(audit, key, role)) for role in _ROLES)))
    rows.append(("all", "worst case", *_accuracies(audit, "worst_case")))
    n = audit["data"]["images"]
    return Table(
        ("path", "attack", "original", "hardened"),
        tuple(rows),
        frozenset({2, 3}),
        f"Every attack on every path, {radius(audit['budget'])}, {n} images",
        last_is_total=True,
    )


def _accuracies(audit: Content, which: str) -> tuple[Cell, Cell]:
    first, second = (
        Cell(share(audit[r][f"{which}_accuracy"]), between(*audit[r][f"{which}_interval"]))
        for r in _ROLES
    )
    return first, second


def _cell(strikes: list[Content]) -> str:
    """ "3 of 50 broken"; a line that was run several times shows its strongest run."""
    if not strikes:
        return MISSING
    best = max(strikes, key=lambda strike: int(strike["broken"]))
    return f"{best['broken']} of {best['attacked']} broken"


def _bars(audit: Content) -> Bars:
    from lipcompile.statistics import exact_interval

    lines = [key for key in _lines(audit) if key[0] != "transfer"]
    n = audit["data"]["images"]
    series = []
    for role in _ROLES:
        values = [
            float(max((s["broken"] for s in _strikes(audit, key, role)), default=0))
            for key in lines
        ]
        right, left = (
            round(audit[role][f"{which}_accuracy"] * n) for which in ("clean", "worst_case")
        )
        low, high = exact_interval(right - left, right)
        values.append(float(right - left))
        rest = len(lines)
        series.append(
            Series(
                role,
                tuple(float(i) for i in range(rest + 1)),
                tuple(values),
                (*values[:rest], low * right),
                (*values[:rest], high * right),
                role,
                "none",
            )
        )
    names = (*(_name(key) for key in lines), "all paths together")
    return Bars("images broken", names, tuple(series))


def masking(evidence: Evidence) -> Section | None:
    """The checks that ask whether attacks were fooled rather than resisted."""
    if evidence.audit is None or not evidence.audit["masking_checks"]:
        return None
    checks = evidence.audit["masking_checks"]
    failed = sum(check["passed"] is False for check in checks)
    passed = sum(check["passed"] is True for check in checks)
    summary = (
        f"{passed} of {len(checks)} hold, {failed} failed, {len(checks) - passed - failed} "
        "not made."
    )
    blocks: tuple[Block, ...] = (
        Notice(f"{summary} A failed check means that attacks were fooled, not resisted.")
        if failed
        else Notice(f"{summary} Nothing shows that attacks were fooled.", "neutral"),
        Table(("result", "check", "from"), tuple(_checks(checks)), wide=frozenset({1})),
    )
    return Section("masking", "Masking checks", blocks)


def _checks(checks: list[Content]) -> Iterator[Row]:
    words: dict[bool | None, tuple[str, Tone | None]] = {
        True: ("pass", "good"),
        False: ("FAIL", "bad"),
        None: ("not made", None),
    }
    for check in checks:
        word, tone = words[check["passed"]]
        yield Cell(word, tone=tone), Cell(check["name"], check["evidence"]), check["source"]
