"""What a report says first, and which results it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lipcompile.documents import Document
from lipcompile.errors import DataError
from lipcompile.report import Report, read_report
from lipcompile.report.measures import measures
from tests.report import documents as made


def only(kind: str, content: made.JSON) -> Report:
    return Report((made.document(kind, content),))  # type: ignore[arg-type]


# The verdict


@pytest.mark.parametrize(
    ("verdict", "tone", "headline"),
    [
        ("improved", "good", "More robust than the original"),
        ("no measurable change", "neutral", "No measurable change in robustness"),
        ("worse", "bad", "Less robust than the original"),
        ("masked", "warn", "The attacks were fooled: robustness is unknown"),
    ],
)
def test_the_verdict_of_an_audit(verdict: str, tone: str, headline: str) -> None:
    found = only("audit", made.audit(verdict, failed=verdict == "masked")).verdict
    assert (found.word, found.tone, found.headline) == (verdict, tone, headline)
    assert found.source == "audit"
    assert "linf eps = 8/255" in found.text[0]
    assert "n = 200" in found.text[0]


def test_no_measurable_change_says_what_it_does_not_say() -> None:
    text = " ".join(only("audit", made.audit()).verdict.text)
    assert "-3.00 to +3.00" in text
    assert "no proof that the two are equal" in text


def test_improved_says_how_far_it_holds() -> None:
    text = " ".join(only("audit", made.audit("improved")).verdict.text)
    assert "with these attacks, on these images, within this radius" in text
    assert "it is no certificate" in text


def test_masked_is_explained_with_what_the_worst_case_alone_would_say() -> None:
    text = " ".join(only("audit", made.audit("masked", failed=True)).verdict.text)
    assert "1 masking check failed" in text
    assert "fooled rather than resisted" in text
    assert "by itself it would say: worse" in text


def test_the_audit_goes_before_the_sweep_and_the_sweep_before_verify() -> None:
    audit = made.document("audit", made.audit("improved"))
    sweep = made.document("sweep", made.sweep())
    verify = made.document("verify", made.verify())
    harden = made.document("harden", made.harden())
    assert Report((harden, verify, sweep, audit)).verdict.source == "audit"
    assert Report((harden, verify, sweep)).verdict.source == "sweep"
    assert Report((harden, verify)).verdict.source == "verify"
    assert Report((harden,)).verdict.word == "not attacked"


@pytest.mark.parametrize(
    "report",
    [
        only("harden", made.harden()),
        only("verify", made.verify()),
        only("sweep", made.sweep(attacked=False)),
    ],
    ids=["harden", "verify", "sweep"],
)
def test_without_an_attack_nothing_is_known_about_robustness(report: Report) -> None:
    assert "nothing is known about robustness" in " ".join(report.verdict.text)
    (robustness,) = [one for one in report.sections() if one.key == "robustness"]
    assert "nothing is known about robustness" in str(robustness.blocks)
    assert "masking" not in [one.key for one in report.sections()]


def test_a_sweep_without_a_choice_says_to_keep_the_original() -> None:
    found = only("sweep", made.nothing_chosen()).verdict
    assert (found.word, found.tone) == ("nothing chosen", "warn")
    assert "keep the original" in found.headline
    assert "none kept within the limits" in found.text[0]


def test_the_audit_inside_a_sweep_fills_the_sections_of_an_audit() -> None:
    keys = [one.key for one in only("sweep", made.sweep()).sections()]
    assert {"robustness", "masking"} <= set(keys)
    names = [one.name for one in measures(only("sweep", made.sweep()).evidence)]
    assert names[:2] == ["worst-case accuracy", "clean accuracy"]


def test_sections_of_missing_results_are_absent() -> None:
    keys = {one.key for one in only("audit", made.audit()).sections()}
    assert keys.isdisjoint({"sweep", "suppressed", "singular", "thresholds", "verification"})
    everything = [one.key for one in Report(made.everything()).sections()]
    order = "compared numbers sweep suppressed singular thresholds robustness masking latency"
    assert everything == [*order.split(), "verification", "provenance", "notes"]


# What must not be overlooked


def test_failed_gates_and_a_failed_verification_come_first() -> None:
    audit = made.audit() | {"failed_gates": ["worst-case accuracy 42.00 % is too low"]}
    broken = (made.document("audit", audit), made.document("verify", made.verify(holds=False)))
    report = Report(broken)
    assert report.evidence.failures == (
        "audit failed: worst-case accuracy 42.00 % is too low",
        "verify failed: the file is NOT what its provenance says: forged tensors",
    )
    text = report.to_markdown()
    assert text.index("worst-case accuracy 42.00 % is too low") < text.index("Verdict")
    html = report.to_html()
    assert html.index("worst-case accuracy 42.00") < html.index('class="verdict')


def test_results_about_another_setting_than_the_chosen_one_are_told() -> None:
    sweep = made.sweep()
    sweep["confirmed"]["audit"]["hardened"]["digest"] = "sha256:" + "9e" * 32
    pair = (made.document("sweep", sweep), made.document("harden", made.harden()))
    (told,) = Report(pair).evidence.disagreements
    assert told.startswith("The result of harden is about another hardened model")
    assert told in str(Report(pair).sections()[-1])
    agreeing = (made.document("sweep", made.sweep()), pair[1])
    assert Report(agreeing).evidence.disagreements == ()


@pytest.mark.parametrize(
    ("kind", "content", "warning"),
    [
        ("audit", made.audit(), "A gain under white-box attacks alone is no gain"),
        ("sweep", made.sweep(), "Those of the held-out part are the ones to quote"),
        ("harden", made.harden(), "do not show that the model is harder to fool"),
    ],
    ids=["audit", "sweep", "harden"],
)
def test_the_notes_say_what_not_to_conclude(
    kind: str, content: made.JSON, warning: str
) -> None:
    assert warning in str(only(kind, content).sections()[-1])


# What is refused


def test_no_result_is_refused() -> None:
    with pytest.raises(DataError, match="a report needs a result"):
        Report(())


def test_two_results_of_a_kind_are_refused() -> None:
    first, second = (Document("audit", f"{i}.json", made.audit()) for i in "ab")
    with pytest.raises(DataError, match=r"'a.json' and 'b.json' are both results of audit"):
        Report((first, second))


@pytest.mark.parametrize(
    ("key", "which"), [("source", "original models"), ("digest", "hardened models")]
)
def test_results_of_two_models_are_refused(key: str, which: str) -> None:
    other = made.harden() | {key: "sha256:" + "4e" * 32}
    with pytest.raises(DataError, match=f"about different {which}"):
        Report((made.document("audit", made.audit()), made.document("harden", other)))


def test_another_layout_is_refused(tmp_path: Path) -> None:
    content = made.audit() | {"schema": "lipcompile.audit/2", "version": "9.0.0"}
    paths = made.save(tmp_path, made.document("audit", content))
    with pytest.raises(DataError, match=r"'lipcompile.audit/2', written by LipCompile 9.0.0"):
        read_report(paths)


def test_a_report_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(Report(made.everything()).to_json()))
    with pytest.raises(DataError, match="is a report, not a result: give the results that it"):
        read_report([path])


def test_damaged_results_are_refused_with_the_place() -> None:
    cut = made.audit()
    del cut["budget"]["eps"]
    with pytest.raises(DataError, match=r"'audit.json' is no complete .*'budget.eps' is miss"):
        only("audit", cut)
    wrong = made.audit()
    wrong["paths"][1]["broken"] = "three"
    with pytest.raises(DataError, match=r"'paths\[1\].broken' is of type str, expected integ"):
        only("audit", wrong)
    outside = made.audit()
    outside["original"]["clean_accuracy"] = 1.5
    with pytest.raises(DataError, match=r"is 1.5, which is not in \[0, 1\]"):
        only("audit", outside)


def test_reading_gives_what_was_written(tmp_path: Path) -> None:
    report = read_report(made.save(tmp_path, *made.everything()), "A title")
    assert report == Report(made.everything(), "A title")
    assert report.heading == "A title"
    assert Report(made.everything()).heading == "net.hardened.onnx against net.onnx"
    assert only("sweep", made.nothing_chosen()).heading == "Hardening net.onnx"


def test_importing_the_package_loads_no_heavy_package() -> None:
    code = (
        "import sys, lipcompile.report, lipcompile.cli.report_command;"
        "print({'matplotlib', 'jinja2', 'scipy', 'torch', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr
