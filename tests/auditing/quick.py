"""A set of attacks that is over in seconds, for tests of everything around the attacks."""

from __future__ import annotations

from lipcompile.auditing.attacks import APGDCE, FGSM, PGD, MarginPGD, Square
from lipcompile.auditing.presets import Preset

QUICK = Preset(
    "quick",
    everywhere=(FGSM(), PGD(steps=3, step=0.5), MarginPGD(steps=3, step=0.5)),
    adaptive=APGDCE(steps=5),
    restart=MarginPGD(steps=3, step=0.5),
    survivors=(),
    adaptive_survivors=(),
    black_box=(Square(queries=20),),
    curve=MarginPGD(steps=5, step=0.4),
)
