"""What a sweep tries: settings, their names, and their flags."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.errors import OptionError
from lipcompile.layer_cr import read_cr_file
from lipcompile.request import make_request
from lipcompile.sweeping.settings import Setting, make_settings, parse_crs, ratio
from lipcompile.sweeping.writing import Targets


@pytest.mark.parametrize(
    ("text", "exponents"),
    [
        ("2^-9:2^-5", [-9, -8, -7, -6, -5]),
        ("2^-5:2^-7", [-7, -6, -5]),
        ("1/128:1/128", [-7]),
        ("2^-6,2^-8", [-8, -6]),
        ("2^-9:2^-8,2^-8,0.125", [-9, -8, -3]),
        (["2**-4", 0.5], [-4, -1]),
        (0.25, [-2]),
    ],
)
def test_lists_and_ranges_of_c_r(text: str, exponents: list[int]) -> None:
    assert parse_crs(text) == tuple(2.0**e for e in exponents)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2^-9:3", "c_r = 3 is out of range"),
        ("2^-9:0.3", "--cr '2^-9:0.3' is no range: its ends are powers of two"),
        ("2^-9:", "c_r = '' is no number"),
        ("", "c_r = '' is no number"),
        ("2-7", "some shells drop the ^"),
        ("2^-9:2^-8:2^-7", "c_r = '2^-8:2^-7' is no number"),
        ([], "a sweep of 0 settings"),
        ("nan", "out of range"),
    ],
)
def test_wrong_c_r(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        make_settings(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forms": ["smoth"]}, "form 'smoth' is unknown: use smooth, hard, soft"),
        ({"variants": ["none"]}, "variant 'none' is unknown: use forged, weight"),
        ({"variants": []}, "a sweep of 0 settings: give 1 to 500 by --cr"),
        ({"cr": [i / 1000 for i in range(1, 400)]}, "a sweep of 1596 settings"),
        ({"zero_rate": 1.5}, "zero rate = 1.5 is out of range"),
        ({"ensembles": ["flap"]}, "flap"),
        (
            {"ensembles": [EnsembleOptions("flip"), EnsembleOptions("flip", by="batch")]},
            "'ensemble flip' is asked for in two ways",
        ),
    ],
)
def test_wrong_settings(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        make_settings(**options)  # type: ignore[arg-type]


def test_every_form_and_variant_at_every_c_r_and_ensembles_alone() -> None:
    settings = make_settings(
        "2^-8,0.01", ["hard", "soft", "hard"], zero_rate=0.9, ensembles=["flip", "flip"]
    )
    assert [(x.name, x.variant, x.flags()) for x in settings] == [
        ("hard 2^-8", "forged", "--form hard --cr 2^-8"),
        ("hard 0.01", "forged", "--form hard --cr 0.01"),
        ("soft 2^-8", "forged", "--form soft --cr 2^-8"),
        ("soft 0.01", "forged", "--form soft --cr 0.01"),
        ("weight 2^-8", "weight", "--variant weight --cr 2^-8 --zero-rate 0.9"),
        ("weight 0.01", "weight", "--variant weight --cr 0.01 --zero-rate 0.9"),
        ("ensemble flip", "none", "--ensemble flip"),
    ]
    assert settings[4].to_json()["zero_rate"] == 0.9
    assert settings[6].to_json() == {
        "name": "ensemble flip",
        "variant": "none",
        "form": None,
        "c_r": None,
        "c_r_by_layer": {},
        "zero_rate": None,
        "ensemble": "flip",
    }


@pytest.mark.parametrize("c_r", [0.1234567890123, 1 / 3, 2**-7 * (1 + 2**-52), 1e-12])
def test_a_c_r_is_printed_so_that_it_reads_back(c_r: float) -> None:
    assert make_request(ratio(c_r)).c_r.default == c_r
    close = [f"{x!r}" for x in (c_r, c_r * (1 + 2**-50))]
    names = [setting.name for setting in make_settings(close, ["hard"], ["forged"])]
    assert len(set(names)) == 2


def test_an_ensemble_says_all_its_options() -> None:
    options = EnsembleOptions("flip+shift:1", "logits", "branches", "image", "NHWC", "out put")
    setting = Setting(ensemble=options)
    assert setting.name == "ensemble flip+shift:1 logits"
    assert setting.flags() == (
        "--ensemble flip+shift:1 --ensemble-mean logits --ensemble-by branches "
        "--image-input image --layout NHWC --scores 'out put'"
    )


NAMES = [
    "a.b+(c)",
    "fc",
    "fc2",
    "[x]{2}",
    'quo"te',
    "back\\slash",
    "tab\tname",
    "\u00e9\U0001f600",
]


def test_patterns_match_the_one_layer_that_they_name(tmp_path: Path) -> None:
    setting = Setting("hard", 2**-8, by_layer=dict.fromkeys(NAMES, 0.01))
    for name in NAMES:
        hits = [p for p in setting.patterns if re.search(p, name)]
        assert len(hits) == 1
    assert setting.name == "hard per layer"
    assert setting.flags("my file") == "--form hard --cr 2^-8 --cr-file 'my file'"
    assert setting.flags() == "--form hard --cr 2^-8 --cr-file CR.toml"
    assert Setting("hard", 2**-8, by_layer={"a.c": 0.1}).patterns == {r"^a\.c$": 0.1}


def test_the_file_of_c_r_per_layer_reads_back(tmp_path: Path) -> None:
    setting = Setting("hard", 2**-8, by_layer=dict.fromkeys(NAMES, 1 / 3))
    path = tmp_path / "cr.toml"
    Targets(None, None, path).write_c_r(setting)
    assert read_cr_file(path) == setting.patterns
