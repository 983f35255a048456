"""A weaker attack that beats a stronger one is noticed, and chance is not.

Every row of `strength_checks` has a planted failure, a sound case beside it, and cases in
which it must say that nothing can be told. The strikes are made by hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lipcompile.auditing.masking.check import Check
from lipcompile.auditing.masking.strength import strength_checks
from lipcompile.auditing.strike import Strike
from tests.auditing.synthetic import FakeVictim, rows, strike, without_pixels

BLACK_BOX = "black-box attacks are not stronger than white-box ones"
ONE_STEP = "one-step attacks are not stronger than iterative ones"
TRANSFER = "transfer from the other model is not stronger than white-box"
IDENTITY = "bpda-identity is not stronger than white-box"
SMOOTH = "bpda-smooth is not stronger than white-box"
GAP = "the gap between CW and APGD does not widen against the original"
SQUARE = "Square does not improve on the gradient attacks"
VIEW = "what fools the torch view fools the deployed file"


def check(
    name: str, *strikes: Strike, count: int = 100, role: str = "hardened", **changes: object
) -> Check:
    campaign = without_pixels(count, *strikes, **changes)
    (found,) = [c for c in strength_checks(campaign, role, "apgd-ce") if c.name == name]
    return found


def white_box(broken: np.ndarray, role: str = "hardened") -> Strike:
    return strike(role, "white-box", "apgd-ce", broken)


def test_rows_of_both_models() -> None:
    """Of the original, no gap between losses: there is nothing to compare it with."""
    for role, gap in (("hardened", [GAP]), ("original", [])):
        found = strength_checks(without_pixels(100), role, "apgd-ce")
        wanted = [BLACK_BOX, ONE_STEP, TRANSFER, IDENTITY, SMOOTH, *gap, SQUARE, VIEW]
        assert [c.name for c in found] == wanted
        assert all(c.passed is None for c in found)


# Black box


def black_box(attack: str, first: int, end: int, count: int = 100) -> Strike:
    return strike("hardened", "black-box", attack, rows(count, (first, end)))


@pytest.mark.parametrize(
    ("count", "gained", "passed"),
    [(100, 20, False), (100, 3, False), (100, 2, True), (1000, 11, False), (1000, 10, True)],
)
def test_black_box_gains_on_white_box(count: int, gained: int, passed: bool) -> None:
    found = check(
        BLACK_BOX,
        white_box(rows(count, (0, 40))),
        black_box("square", 38, 40 + gained, count),
        count=count,
    )
    assert found.passed is passed
    assert f"square broke {gained} of the {count - 40} images" in found.evidence


def test_black_box_attacks_count_together() -> None:
    strikes = white_box(rows(100, (0, 40))), black_box("square", 40, 42)
    assert check(BLACK_BOX, *strikes).passed
    found = check(BLACK_BOX, *strikes, black_box("nes", 42, 44))
    assert found.failed
    assert "square and nes broke 4" in found.evidence


def test_black_box_counts_neither_the_other_model_nor_surrogates() -> None:
    """Only attacks with the exact gradient are compared with."""
    others = (
        strike("original", "black-box", "square", rows(100, (40, 100))),
        strike("hardened", "transfer", "square", rows(100, (40, 100)), found_by="black-box"),
    )
    sound = white_box(rows(100, (0, 40))), black_box("square", 0, 40)
    assert check(BLACK_BOX, *sound, *others).passed
    surrogate = strike("hardened", "bpda-identity", "apgd-ce", rows(100, (0, 100)))
    assert check(BLACK_BOX, surrogate, black_box("square", 0, 40)).failed


@pytest.mark.parametrize(
    "strikes",
    [
        (white_box(rows(100, (0, 40))),),
        (white_box(rows(100, (0, 100))), black_box("square", 0, 100)),
    ],
    ids=["not run", "nothing left"],
)
def test_black_box_that_cannot_be_told(strikes: tuple[Strike, ...]) -> None:
    assert check(BLACK_BOX, *strikes).passed is None


# One attack against another

PAIRS = {
    ONE_STEP: (("white-box", "fgsm"), ("white-box", "pgd")),
    TRANSFER: (("transfer", "apgd-ce"), ("white-box", "apgd-ce")),
    IDENTITY: (("bpda-identity", "apgd-ce"), ("white-box", "apgd-ce")),
    SMOOTH: (("bpda-smooth", "apgd-ce"), ("white-box", "apgd-ce")),
}


def pair(
    name: str,
    only_weak: int,
    only_strong: int,
    count: int = 100,
    both: np.ndarray | None = None,
    role: str = "hardened",
) -> tuple[Strike, Strike]:
    """Two strikes: the weaker one breaks the first images alone, the stronger the next."""
    (weak_path, weak), (path, strong) = PAIRS[name]
    end = only_weak + only_strong
    broken = rows(count, (0, only_weak)), rows(count, (only_weak, end))
    by: dict[str, Any] = {"found_by": "white-box"} if weak_path == "transfer" else {}
    return (
        strike(role, weak_path, weak, broken[0], both, **by),
        strike(role, path, strong, broken[1], both),
    )


@pytest.mark.parametrize("role", ["hardened", "original"])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    ("count", "only_weak", "only_strong", "passed"),
    [
        (100, 30, 0, False),
        (100, 10, 0, False),  # p = 2^-10
        (100, 9, 0, True),  # p = 2^-9 is above the level
        (100, 0, 30, True),
        (100, 20, 20, True),
        (100, 25, 12, True),  # noise: p = 0.02
        (1000, 11, 0, False),
        (1000, 10, 0, True),  # significant, and not more than 1 % of the images
    ],
)
def test_weaker_attack_beats_a_stronger_one(
    name: str, role: str, count: int, only_weak: int, only_strong: int, passed: bool
) -> None:
    strikes = pair(name, only_weak, only_strong, count, role=role)
    found = check(name, *strikes, count=count, role=role)
    assert found.passed is passed
    assert f"alone broke {only_weak}, " in found.evidence
    assert f"alone {only_strong} (one-sided p = " in found.evidence


@pytest.mark.parametrize("name", PAIRS)
def test_only_images_that_both_attacks_saw_are_compared(name: str) -> None:
    weak, strong = pair(name, 50, 0)
    seen = rows(100, (50, 100))
    missed = strike("hardened", strong.path, strong.attack, strong.broken, seen)
    assert check(name, weak, missed).passed
    assert check(name, weak, strong).failed


@pytest.mark.parametrize("name", PAIRS)
def test_too_few_images_tell_nothing(name: str) -> None:
    for images, passed in ((9, None), (10, False)):
        found = check(name, *pair(name, images, 0, both=rows(100, (0, images))))
        assert found.passed is passed
        assert found.evidence.endswith(": too few to tell") is (passed is None)


@pytest.mark.parametrize("name", PAIRS)
def test_attack_that_was_not_run_tells_nothing(name: str) -> None:
    weak, strong = pair(name, 50, 0)
    for alone in (weak, strong):
        found = check(name, alone)
        assert (found.passed, found.evidence) == (None, "not run")


def test_transfer_of_what_surrogates_found_is_not_the_other_models_gradient() -> None:
    replay = strike(
        "hardened", "transfer", "apgd-ce", rows(100, (0, 50)), found_by="bpda-identity"
    )
    strong = white_box(rows(100))
    assert check(TRANSFER, replay, strong).passed is None
    sound = pair(TRANSFER, 0, 0)[0]
    assert check(TRANSFER, replay, strong, sound).passed
    assert check(TRANSFER, replay, *pair(TRANSFER, 50, 0)).failed


@pytest.mark.parametrize("name", [IDENTITY, SMOOTH])
def test_surrogates_of_nothing_are_not_compared(name: str) -> None:
    """Without a forged function such a path is the exact gradient from another start."""
    strikes = pair(name, 50, 0)
    found = check(name, *strikes, hardened=FakeVictim(has_surrogates=False))
    assert found.passed is None
    assert "no forged function" in found.evidence
    assert check(name, *strikes).failed


# The gap between two losses


def losses(role: str, *, margin: np.ndarray, entropy: np.ndarray) -> tuple[Strike, Strike]:
    return strike(role, "white-box", "margin-pgd", margin), white_box(entropy, role)


def gap(
    ahead: int,
    behind: int = 0,
    count: int = 100,
    original: tuple[int, int] = (0, 40),
    original_ahead: int = 0,
) -> Check:
    """The hardened model's margin loss gains `ahead` images on the cross-entropy.

    Args:
        ahead: Broken by the margin loss alone.
        behind: Broken by cross-entropy alone.
        count: Images.
        original: Of the original, both losses break these.
        original_ahead: Of the original, the margin loss breaks so many more.
    """
    first, end = original
    before = losses(
        "original",
        margin=rows(count, (first, end + original_ahead)),
        entropy=rows(count, original),
    )
    after = losses(
        "hardened",
        margin=rows(count, (0, ahead)),
        entropy=rows(count, (ahead, ahead + behind)),
    )
    return check(GAP, *before, *after, count=count)


@pytest.mark.parametrize(
    ("count", "ahead", "behind", "original_ahead", "passed"),
    [
        (100, 40, 0, 0, False),
        (100, 10, 0, 0, False),  # p = 2^-10
        (100, 9, 0, 0, True),  # p = 2^-9
        (100, 0, 40, 0, True),
        (100, 20, 20, 0, True),
        (100, 25, 12, 0, True),  # noise: p = 0.02
        (100, 50, 0, 50, True),  # as wide as the original's
        (1000, 21, 0, 0, False),
        (1000, 20, 0, 0, True),  # significant, and not more than 2 % of the images
    ],
)
def test_gap_between_losses_widens(
    count: int, ahead: int, behind: int, original_ahead: int, passed: bool
) -> None:
    found = gap(ahead, behind, count, original_ahead=original_ahead)
    assert found.passed is passed
    assert f"{ahead - behind:+d} hardened, {original_ahead:+d} original" in found.evidence


@pytest.mark.parametrize(
    ("broken", "ahead", "passed"),
    [
        (90, 10, False),  # there is room
        (91, 10, None),
        (100, 10, None),
        (100, 11, False),  # so wide a gap needs no original
        (100, 9, True),  # nothing to explain
    ],
)
def test_original_that_everything_breaks_leaves_no_room(
    broken: int, ahead: int, passed: bool | None
) -> None:
    found = gap(ahead, original=(0, broken))
    assert found.passed is passed
    assert ("leaves no room" in found.evidence) is (passed is None)


def test_gap_of_too_few_images_tells_nothing() -> None:
    assert gap(9, count=9, original=(0, 0)).passed is None
    assert gap(10, count=10, original=(0, 0)).failed


def test_gap_looks_at_images_that_every_attack_saw() -> None:
    before = losses("original", margin=rows(100), entropy=rows(100))
    margin, entropy = losses("hardened", margin=rows(100, (0, 40)), entropy=rows(100))
    seen = rows(100, (40, 100))
    wrong_at_once = strike("hardened", "white-box", "margin-pgd", margin.broken, seen)
    assert check(GAP, *before, wrong_at_once, entropy).passed
    assert check(GAP, *before, margin, entropy).failed
    # Of what the margin loss did not see on the original, cross-entropy is not ahead.
    margin, entropy = losses("original", margin=rows(100), entropy=rows(100, (0, 40)))
    unseen = strike("original", "white-box", "margin-pgd", margin.broken, seen)
    after = losses("hardened", margin=rows(100), entropy=rows(100))
    assert check(GAP, unseen, entropy, *after).passed
    assert check(GAP, margin, entropy, *after).failed


@pytest.mark.parametrize("missing", range(4))
def test_gap_needs_both_losses_on_both_models(missing: int) -> None:
    broken = {"margin": rows(100, (0, 40)), "entropy": rows(100)}
    strikes = [s for role in ("original", "hardened") for s in losses(role, **broken)]
    assert check(GAP, *strikes).passed
    del strikes[missing]
    found = check(GAP, *strikes)
    assert (found.passed, found.evidence) == (None, "not run")


# Square


@pytest.mark.parametrize(
    ("count", "gained", "passed"),
    [(100, 20, False), (100, 2, False), (100, 1, True), (1000, 3, False), (1000, 2, True)],
)
def test_square_gains_on_gradient_attacks(count: int, gained: int, passed: bool) -> None:
    square = black_box("square", 30, 40 + gained, count)
    found = check(SQUARE, white_box(rows(count, (0, 40))), square, count=count)
    assert found.passed is passed
    assert f"Square broke {gained} of the {count - 40} images" in found.evidence


# What breaks images 40 to 60 beside Square, and whether that is a gradient attack.
BESIDE = [
    ("white-box", "apgd-t", {}, True),
    ("bpda-smooth", "apgd-ce", {}, True),
    ("transfer-start", "margin-pgd", {}, True),
    ("transfer", "apgd-ce", {"found_by": "white-box"}, True),
    ("transfer", "apgd-ce", {"found_by": "bpda-identity"}, True),
    ("transfer", "square", {"found_by": "black-box"}, False),  # its own replay
    ("transfer", "nes", {"found_by": "black-box"}, False),
    ("black-box", "nes", {}, False),
]


@pytest.mark.parametrize(("path", "attack", "settings", "gradient"), BESIDE)
def test_what_counts_as_a_gradient_attack_beside_square(
    path: str, attack: str, settings: dict[str, Any], gradient: bool
) -> None:
    beside = strike("hardened", path, attack, rows(100, (40, 60)), **settings)
    strikes = white_box(rows(100, (0, 40))), black_box("square", 40, 60), beside
    assert check(SQUARE, *strikes).passed is gradient


def test_square_after_which_nothing_is_left_to_gain() -> None:
    found = check(SQUARE, white_box(rows(100, (0, 100))), black_box("square", 0, 100))
    assert found.passed is None
    found = check(SQUARE, white_box(rows(100, (0, 40))))
    assert (found.passed, found.evidence) == (None, "not run")


def test_square_on_the_other_model_is_not_this_ones() -> None:
    other = strike("original", "white-box", "apgd-ce", rows(100, (0, 100)))
    assert check(SQUARE, other, black_box("square", 0, 40)).failed


# The view


@pytest.mark.parametrize(
    ("count", "view_only", "broken", "passed"),
    [
        (100, 30, 50, False),
        (100, 3, 50, False),
        (100, 2, 50, True),
        (100, 2, 0, True),
        (1000, 11, 989, False),
        (1000, 10, 990, True),
        (100, 0, 0, None),
    ],
)
def test_candidates_that_fool_the_view_alone(
    count: int, view_only: int, broken: int, passed: bool | None
) -> None:
    found = check(
        VIEW,
        strike("hardened", "white-box", "pgd", rows(count, (0, broken)), view_only=view_only),
        count=count,
    )
    assert found.passed is passed
    assert found.evidence == f"{view_only} candidates fooled the view alone, {broken} the file"


def test_views_of_every_path_count_and_those_of_the_other_model_do_not() -> None:
    two = [
        strike("hardened", path, "apgd-ce", rows(100), view_only=2)
        for path in ("white-box", "bpda-identity")
    ]
    other = strike("original", "white-box", "apgd-ce", rows(100), view_only=50)
    assert check(VIEW, two[0], other).passed
    assert check(VIEW, *two, other).failed
