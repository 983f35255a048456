"""Attacks: an author writes `run`; whether it succeeded is not for the attack to say."""

from __future__ import annotations

from lipcompile.auditing.attacks.auto import APGDCE, APGDT, FABT, Square
from lipcompile.auditing.attacks.base import Attack
from lipcompile.auditing.attacks.gradient import FGSM, PGD, MarginPGD
from lipcompile.auditing.attacks.nes import NES

__all__ = ["APGDCE", "APGDT", "FABT", "FGSM", "NES", "PGD", "Attack", "MarginPGD", "Square"]
