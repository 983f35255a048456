"""examples/paper/ on the bundled classifier: a few images and steps, for the layout alone."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lipcompile
from lipcompile import demo
from lipcompile.errors import OptionError
from lipcompile.statistics import PairedDifference

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "examples" / "paper"
SCRIPTS = sorted(path.stem for path in PAPER.glob("*_*.py"))
SHARED = ("audits", "cells", "common", "figures", "words")
DEMO = [str(demo.MODEL), "--calib", str(demo.CALIBRATION), "--data", str(demo.TEST)]
QUICK = ["--eps", "0.1", "--images", "6", "--attacks", "trial", "--threads", "1"]
IN_WORDS = "worst case, points (95 %)"

Load = Callable[[str], ModuleType]
RunScript = Callable[..., str]


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    """Imports a module of the folder as the scripts themselves do."""
    pytest.importorskip("pyautoattack")
    sys.path.insert(0, str(PAPER))
    yield importlib.import_module
    sys.path.remove(str(PAPER))
    for name in (*SCRIPTS, *SHARED):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paper")


@pytest.fixture
def run_script(load: Load, results: Path, capsys: pytest.CaptureFixture[str]) -> RunScript:
    def run(name: str, *flags: str, folder: Path = results) -> str:
        capsys.readouterr()
        load(name).main([*DEMO, *QUICK, "--results", str(folder), *flags])
        return capsys.readouterr().out

    return run


# Every script with what its table has to show.
LAYOUT: dict[str, tuple[list[str], list[str]]] = {
    "table1_clean_and_robust": (
        ["--cr", "2^-7,2^-6"],
        [
            "smooth 2^-7: clean",
            "smooth 2^-6: clean",
            "white-box, exact",
            "adaptive worst case",
        ],
    ),
    "table2_forms": ([], ["smooth a=2 b=1", "smooth a=10 b=1", "hard", "soft", IN_WORDS]),
    "table3_placement": ([], ["auto", "all", "mlp", "first half", "last half", IN_WORDS]),
    "table4_calibration_size": (
        ["--sizes", "20"],
        ["20 samples, draw 0", "all samples", "threshold / that of all: median", IN_WORDS],
    ),
    "table5_weight_variant": (
        ["--rates", "1,0.9"],
        ["forged, hard 2^-7", "weight 2^-7, rate 0.9", "columns zeroed", " of 432", IN_WORDS],
    ),
    "table6_norms": (
        ["--factors", "1", "--eps-l2", "0.5"],
        ["linf eps = 0.1", "l2 eps = 0.5", IN_WORDS],
    ),
    "table7_latency": ([], ["smooth 2^-7", "hard 2^-7", "weight 2^-7", "latency / original"]),
    "table8_attacks": (
        [],
        ["white-box", "bpda-identity", "bpda-smooth", "transfer", "black-box", "worst case"],
    ),
    "figure1_accuracy": (["--cr", "2^-7,2^-6"], ["figure1_fashion_mnist_adv.svg", IN_WORDS]),
    "figure2_suppressed": (
        ["--cr", "2^-6"],
        ["figure2_fashion_mnist_adv.svg", "0 anyway, %", "2^-6, %", "/fc1/Gemm"],
    ),
    "appendix_c_singular_values": (
        ["--cr", "2^-6"],
        ["zeros anyway", "/fc1/Gemm", "all: worst, mean of means"],
    ),
}


def test_every_script_is_tried_here() -> None:
    assert sorted(LAYOUT) == SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_print_their_table(name: str, run_script: RunScript) -> None:
    flags, expected = LAYOUT[name]
    printed = run_script(name, *flags)
    assert [text for text in expected if text not in printed] == []
    assert "fashion_mnist_adv" in printed


@pytest.mark.parametrize("name", ["table1_clean_and_robust", "table7_latency"])
def test_markdown_tables_are_whole(name: str, run_script: RunScript) -> None:
    lines = run_script(name, *LAYOUT[name][0], "--markdown").splitlines()
    tables = [
        lines[i - 1 :] for i, line in enumerate(lines) if re.fullmatch(r"\|( --- \|)+", line)
    ]
    assert tables
    for table in tables:
        rows = [line for line in table[: table.index("")] if line.startswith("|")]
        assert len({row.count("|") for row in rows}) == 1
        assert len(rows) >= 3


def test_a_script_goes_on_from_its_results(
    run_script: RunScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--cr", "2^-7"]
    first = run_script("table1_clean_and_robust", *flags, folder=tmp_path)

    def planted(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(lipcompile, "audit", planted)
    assert run_script("table1_clean_and_robust", *flags, folder=tmp_path) == first
    for changed in (["--cr", "2^-5"], [*flags, "--seed", "1"], [*flags, "--images", "5"]):
        with pytest.raises(AssertionError, match="measured again"):
            run_script("table1_clean_and_robust", *changed, folder=tmp_path)
    (cell,) = (tmp_path / "cells").iterdir()
    cell.write_text(cell.read_text()[:-20])
    with pytest.raises(AssertionError, match="measured again"):
        run_script("table1_clean_and_robust", *flags, folder=tmp_path)


# What the numbers say


def bits(right: int, n: int = 100) -> np.ndarray:
    return np.arange(n) < right


def fake_cell(
    load: Load,
    plain: tuple[int, int],
    worst: tuple[int, int],
    verdict: str = "no measurable change",
) -> Any:
    """A cell of 100 images with so many robust ones, original and hardened."""
    content: dict[str, Any] = {"n": 100, "verdict": verdict}
    for name, (before, after) in {"clean": (90, 90), "plain": plain, "worst": worst}.items():
        difference = PairedDifference.of(bits(before), bits(after)).to_json()
        content[name] = {"original": before, "hardened": after, "difference": difference}
    return load("cells").Cell("model", "setting", content)


def test_planted_disagreement_is_called_out_in_words(load: Load) -> None:
    words = load("words")
    cell = fake_cell(load, plain=(50, 60), worst=(50, 46), verdict="masked")
    said = words.row(cell)[-1]
    assert said.startswith("DISAGREE: plain +10.0 (measurable), worst case -4.0")
    assert "no gain in robustness, whatever the plain evaluation shows" in said
    assert "adaptive attacks break 14 more images than plain ones (original: 0)" in said
    assert "masking checks failed" in said
    closing = "\n".join(words.conclusion([cell]))
    assert "of 1 setting 1 (1 measurably) higher, 0 (0 measurably) lower" in closing
    assert "disagree in direction in 1 of 1 (1 with a measurable difference)" in closing
    assert "masking checks failed in 1" in closing
    assert "is not confirmed here" in closing


def test_a_loss_that_only_adaptive_attacks_show_is_called_out(load: Load) -> None:
    said = load("words").remark(fake_cell(load, plain=(50, 50), worst=(50, 40)))
    assert said.startswith("DISAGREE")
    assert "the plain evaluation does not show the loss" in said


def test_a_disagreement_by_an_image_is_not_made_much_of(load: Load) -> None:
    cell = fake_cell(load, plain=(50, 51), worst=(50, 50))
    assert load("words").remark(cell).startswith("disagree within chance: plain +1.0")
    closing = "\n".join(load("words").conclusion([cell]))
    assert "in direction in 1 of 1 (0 with a measurable difference)" in closing


def test_a_gain_that_only_the_plain_measure_shows_is_not_called_measured(load: Load) -> None:
    cell = fake_cell(load, plain=(50, 60), worst=(50, 52))
    said = "both higher: plain measurable, worst case chance may explain it"
    assert load("words").remark(cell).startswith(said)
    assert "not confirmed here" in load("words").conclusion([cell])[-1]


@pytest.mark.parametrize(
    ("robust", "expected"),
    [
        ((50, 60), "both higher, measurable"),
        ((50, 52), "both higher, chance may explain it"),
        ((50, 50), "no change in either"),
        ((50, 40), "both lower, measurable"),
    ],
)
def test_agreement_is_no_disagreement(
    load: Load, robust: tuple[int, int], expected: str
) -> None:
    assert load("words").remark(fake_cell(load, plain=robust, worst=robust)) == expected


def test_a_measured_gain_is_not_denied(load: Load) -> None:
    cell = fake_cell(load, plain=(50, 60), worst=(50, 60), verdict="improved")
    closing = "\n".join(load("words").conclusion([cell, cell]))
    assert "holds in the worst case, measurably, for 2 of 2" in closing
    assert "not confirmed" not in closing


def test_the_plain_measure_counts_exact_gradients_alone(load: Load) -> None:
    def strike(role: str, path: str, attack: str, *broken: int) -> SimpleNamespace:
        found = np.isin(np.arange(6), broken)
        return SimpleNamespace(role=role, path=path, attack=attack, broken=found)

    clean = np.array([1, 1, 1, 1, 1, 0], bool)
    alike = SimpleNamespace(clean=clean, robust=np.array([0, 0, 0, 1, 1, 0], bool))
    strikes = [
        strike("hardened", "white-box", "pgd", 0),
        strike("hardened", "white-box", "apgd-ce", 0, 1, 5),
        strike("hardened", "bpda-smooth", "apgd-ce", 2),
        strike("original", "white-box", "pgd", 3),
        strike("hardened", "transfer", "pgd", 4),
    ]
    result = SimpleNamespace(original=alike, hardened=alike, strikes=strikes)
    audits = load("audits")
    left = audits.robust_to(result, "hardened", "white-box")
    assert left.tolist() == [False, False, True, True, True, False]
    assert audits.robust_to(result, "original", "white-box").sum() == 4
    lines = {(x["path"], x["attack"]): x for x in audits.left_by_path(result)}
    expected = {"path": "white-box", "attack": "pgd", "original": 4, "hardened": 4}
    assert lines["white-box", "pgd"] == expected
    assert lines["white-box", "apgd-ce"]["hardened"] == 3
    assert lines["transfer", "replays"]["hardened"] == 4


def test_a_variation_that_cannot_be_had_says_why(load: Load, results: Path) -> None:
    cells = load("cells")
    arguments = (
        load("common").make_parser(None).parse_args([*DEMO, *QUICK, "--results", str(results)])
    )
    (case,), options = load("common").read(arguments)
    bench = cells.Bench.open(case, options)
    cell = bench.cell(cells.Variation("nowhere", include=("no such layer",)))
    assert "no such layer" in load("words").row(cell)[-1]
    assert load("words").conclusion([cell]) == ["nothing could be measured"]


def test_layers_are_chosen_by_their_whole_name(load: Load) -> None:
    wanted = load("table3_placement").variations(["a.b", "a+b"], "2^-6", "hard", True)
    patterns = {x.label: x.include for x in wanted if x.include}
    assert patterns["first half"] == (r"^a\.b$",)
    assert patterns["only a+b"] == (r"^a\+b$",)


# Figures


def test_a_figure_is_the_same_file_every_time(load: Load, tmp_path: Path) -> None:
    figures = load("figures")
    lines = [
        figures.Line("hardened", [1, 2], [3, 4], [2, 3], [4, 5], group=0),
        figures.Line("original $x$ <b>", [1, 2], [3, 3], reference=True),
    ]
    panel = figures.Panel("a title", "layer", "share, %", lines, {1: "2^-7", 2: "2^-6"})
    for name in ("a.svg", "b.svg"):
        figures.write([panel], tmp_path / name)
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    for text in ("a title", "share, %", "2^-7", "original $x$ &lt;b&gt;"):
        assert text in drawn
    assert "<dc:date>" not in drawn


# The models


TOML = '[net]\nmodel = "m.onnx"\ncalibration = "c"\ndata = "d"\neps = "8/255"\nmean = [0.5]\n'


def read_cases(load: Load, *flags: str) -> Any:
    arguments: argparse.Namespace = load("common").make_parser(None).parse_args(flags)
    return load("common").read(arguments)


def test_paths_of_a_file_of_models_start_from_its_root(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "cases.toml"
    path.write_text(TOML)
    (case,), _ = read_cases(load, str(path))
    assert (case.name, case.model) == ("net", tmp_path / "m.onnx")
    assert (case.eps, case.flags) == ("8/255", {"mean": [0.5]})
    (case,), _ = read_cases(load, str(path), "--root", "elsewhere")
    assert case.data == Path("elsewhere/d")


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (TOML + "epsilon = 1", [], r"\[net\] has a key unknown: epsilon: it takes .*eps_l2"),
        (TOML.replace("eps", "std"), [], r"\[net\] has a key missing: eps"),
        ("net = 1", [], r"'net' is no table: write \[net\]"),
        ("[net", [], "cannot be read as TOML"),
        (TOML, ["--models", "other"], "--models names 'other': there are net"),
        (TOML, ["--images", "0"], "--images 0: give 1 or more"),
    ],
)
def test_a_wrong_file_of_models_is_refused(
    load: Load, content: str, flags: Sequence[str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "cases.toml"
    path.write_text(content)
    with pytest.raises(OptionError, match=message):
        read_cases(load, str(path), *flags)


def test_a_single_model_needs_images(load: Load) -> None:
    with pytest.raises(OptionError, match="one model, which needs images: add --calib"):
        read_cases(load, "model.onnx", "--data", "images")


def test_the_models_of_the_pack_can_be_read(load: Load) -> None:
    cases, _ = read_cases(load, str(PAPER / "pack.toml"), "--root", "PACK")
    assert len(cases) == 7
    assert all(case.model == Path(f"PACK/models/shared/{case.name}.onnx") for case in cases)


def test_errors_end_a_script_with_the_exit_code_of_the_tool(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(_: object) -> None:
        raise OptionError("a fact: a next step")

    with pytest.raises(SystemExit) as stopped:
        load("common").run(script)
    assert stopped.value.code == OptionError.exit_code
    assert capsys.readouterr().err == "error: a fact: a next step\n"


# Pages


def test_scripts_start_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(PAPER / "table1_clean_and_robust.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--results" in done.stdout


@pytest.mark.parametrize("page", ["examples/paper/README.md", "docs/paper.md"])
def test_pages_name_every_script(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [name for name in SCRIPTS if f"{name}.py" not in text] == []


def test_commands_of_the_page_are_accepted(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scripts and flags that docs/paper.md shows, without running them."""
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    commands = re.findall(r"^ *python examples/paper/(\S+)\.py (.+)$", text, re.MULTILINE)
    assert len(commands) >= len(SCRIPTS)
    for script, flags in commands:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            load(script).main(["--help"])
        usage = capsys.readouterr().out
        unknown = [flag for flag in re.findall(r"--[\w-]+", flags) if flag not in usage]
        assert unknown == [], script
