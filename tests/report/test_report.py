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
from lipcompile.report.blocks import Bullets, Notice, Section
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


def test_a_sweep_without_a_choice_gives_its_reason() -> None:
    found = only("sweep", made.nothing_chosen()).verdict
    assert (found.word, found.tone) == ("nothing chosen", "neutral")
    assert found.headline == "No setting was chosen"
    assert "none kept within the limits" in found.text[0]


def test_the_audit_inside_a_sweep_fills_the_sections_of_an_audit() -> None:
    keys = [one.key for one in only("sweep", made.sweep()).sections()]
    assert {"robustness", "masking"} <= set(keys)
    names = [one.name for one in measures(only("sweep", made.sweep()).evidence)]
    assert names[:2] == ["worst-case accuracy", "clean accuracy"]


def test_sections_of_missing_results_are_absent() -> None:
    keys = {one.key for one in only("audit", made.audit()).sections()}
    assert keys.isdisjoint(
        {"certificates", "sweep", "suppressed", "singular", "thresholds", "verification"}
    )
    everything = [one.key for one in Report(made.everything()).sections()]
    order = (
        "compared numbers sweep suppressed singular thresholds robustness masking certificates"
    )
    assert everything == [
        *order.split(),
        *("latency", "verification", "provenance", "notes"),
    ]


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
    ("change", "told"),
    [
        ({"c_r": 2**-3}, "smooth 2^-7: form smooth (a = 10, b = 1), c_r = 2^-3, and not form"),
        ({"form": {"name": "hard"}}, "form hard, c_r = 2^-7, and not form smooth"),
        ({"form": {"name": "smooth", "a": 3.0, "b": 1.0}}, "(a = 3, b = 1), c_r = 2^-7, and"),
        (
            {"variant": "weight", "form": None, "zero_rate": 1.0},
            "variant weight, zero rate 100",
        ),
        ({"c_r_by_layer": {"^fc$": 2**-3}}, "1 layer patterns with a c_r of their own, and"),
        ({"ensemble": {"views": "flip"}}, "c_r = 2^-7, ensemble flip, and not form smooth"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("attacked", [True, False])
def test_hardening_with_another_setting_than_the_chosen_one_is_told(
    change: made.JSON, told: str, attacked: bool
) -> None:
    sweep = made.document("sweep", made.sweep(attacked=attacked))
    harden = made.document("harden", made.harden() | change)
    (note,) = Report((sweep, harden)).evidence.disagreements
    assert note.startswith("The result of harden is about another setting than the one that")
    assert told in note


def test_hardening_with_the_chosen_setting_is_no_disagreement() -> None:
    for sweep in (made.sweep(), made.sweep(attacked=False)):
        pair = (made.document("sweep", sweep), made.document("harden", made.harden()))
        assert Report(pair).evidence.disagreements == ()


def test_hardening_where_the_sweep_chose_nothing_is_told() -> None:
    sweep = made.document("sweep", made.nothing_chosen())
    (note,) = Report((sweep, made.document("harden", made.harden()))).evidence.disagreements
    assert note.startswith("The sweep chose no setting; the result of harden is about: form")


def test_numbers_of_a_sweep_name_their_setting() -> None:
    found = measures(only("sweep", made.sweep()).evidence)
    swept = [one.where for one in found if one.where.startswith("sweep")]
    assert swept == [
        "sweep, smooth 2^-7, held-out images, n = 250",
        "sweep, smooth 2^-7, held-out images, n = 250",
        "sweep, smooth 2^-7, median of 40 pairs of runs",
    ]


@pytest.mark.parametrize("attacked", [True, False])
def test_a_choice_that_breaks_the_budget_is_told(attacked: bool) -> None:
    sweep = made.sweep(attacked=attacked)
    told = "On the held-out images the chosen setting is NOT within the budget"
    assert told not in only("sweep", sweep).to_markdown()
    sweep["confirmed"]["within_budget"] = False
    report = only("sweep", sweep)
    assert told in " ".join(report.verdict.text)
    assert report.verdict.tone == "warn"
    (section,) = [one for one in report.sections() if one.key == "sweep"]
    (notice,) = [block for block in section.blocks if isinstance(block, Notice)]
    assert notice.text.startswith(told)
    assert notice.tone == "warn"


def test_the_images_that_were_attacked_are_counted_by_the_pairs() -> None:
    sweep = made.sweep()
    sweep["attack"]["images"] = 5000
    for one in sweep["settings"]:
        one["worst_case"] = made.setting("hard", -7)["worst_case"]
    text = only("sweep", sweep).to_markdown()
    assert "5000" not in text
    assert "preset fast, 100 images" in text
    assert "images 100" in text
    assert "on 100 images under the fast attacks" in str(
        [s.blocks for s in only("sweep", sweep).sections() if s.key == "sweep"]
    )


def test_settings_that_nothing_attacked_have_no_attacked_images() -> None:
    sweep = made.sweep()
    for one in sweep["settings"]:
        one["worst_case"] = None
    assert "preset fast, on no setting" in only("sweep", sweep).to_markdown()


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


# Certificates


def test_of_certificates_alone_the_headline_is_what_was_certified() -> None:
    found = only("certify", made.certify()).verdict
    assert (found.word, found.tone, found.source) == ("certified", "neutral", "certify")
    assert found.headline == "Certified at l2 radius 0.25: 40.00 % original, 35.00 % hardened"
    assert "by Lipschitz bounds, on 40 images; difference -5.00 points" in found.text[0]
    whole = " ".join((found.headline, *found.text)).lower()
    assert "more robust" not in whole
    assert "do not show a model that is harder to attack" in whole


@pytest.mark.parametrize(
    ("content", "headline", "heading", "names"),
    [
        (
            made.original_alone(),
            "Certified at l2 radius 0.25: 40.00 %",
            "Certificates of net.onnx",
            ("net.onnx", None),
        ),
        (
            made.certify(original=False),
            "Certified at l2 radius 0.25: 35.00 %",
            "Certificates of net.hardened.onnx",
            (made.ORIGINAL[:19], "net.hardened.onnx"),
        ),
        (
            made.smoothed("predict", original=False),
            "Certificates without a radius",
            "Certificates of net.hardened.onnx",
            (made.ORIGINAL[:19], "net.hardened.onnx"),
        ),
    ],
    ids=["original", "hardened", "predict"],
)
def test_certificates_of_one_model(
    content: made.JSON, headline: str, heading: str, names: tuple[str, str | None]
) -> None:
    report = only("certify", content)
    assert report.verdict.headline == headline
    assert report.heading == heading
    assert (report.evidence.original_name, report.evidence.hardened_name) == names
    assert headline in report.to_markdown()


def test_an_audit_and_a_sweep_go_before_certificates() -> None:
    certify = made.document("certify", made.certify())
    kinds = {"audit": made.audit("improved"), "sweep": made.sweep()}
    for kind, content in kinds.items():
        pair = (certify, made.document(kind, content))  # type: ignore[arg-type]
        assert Report(pair).verdict.source == kind
    for kind, content in {"harden": made.harden(), "verify": made.verify()}.items():
        pair = (certify, made.document(kind, content))  # type: ignore[arg-type]
        assert Report(pair).verdict.source == "certify"
    wrong = made.document("verify", made.verify(holds=False))
    assert Report((certify, wrong)).verdict.source == "verify"
    unattacked = made.document("sweep", made.sweep(attacked=False))
    text = " ".join(Report((certify, unattacked)).verdict.text)
    assert "what holds beyond the certificates is not known" in text
    assert "nothing is known about robustness" not in text


def test_certified_accuracy_is_a_key_number_where_a_radius_was_named() -> None:
    (found,) = measures(only("certify", made.certify()).evidence)
    assert found.name == "certified accuracy"
    assert found.where == "certify, l2 radius 0.25, Lipschitz bounds, n = 40"
    assert found.original is not None
    assert found.hardened is not None
    assert (found.original.value, found.hardened.value) == (0.4, 0.35)
    assert found.difference is not None
    assert found.difference.value == -0.05
    assert measures(only("certify", made.certify(eps=None)).evidence) == ()
    (alone,) = measures(only("certify", made.original_alone()).evidence)
    assert (alone.hardened, alone.difference) == (None, None)


def test_certificates_of_another_model_are_refused() -> None:
    harden = made.document("harden", made.harden())
    for role, which in (("original", "original models"), ("model", "hardened models")):
        other = made.certify()
        other[role]["digest"] = "sha256:" + "4e" * 32
        with pytest.raises(DataError, match=f"about different {which}"):
            Report((harden, made.document("certify", other)))
    assert Report((harden, made.document("certify", made.original_alone()))).evidence.certified
    foreign = made.certify(original=False)
    foreign["model"]["source"] = "sha256:" + "4e" * 32
    with pytest.raises(DataError, match="about different original models"):
        Report((harden, made.document("certify", foreign)))


def test_failed_gates_of_certificates_come_first() -> None:
    failed = "certified accuracy is 35.00 %, below"
    report = only("certify", made.certify() | {"failed_gates": [failed]})
    assert report.evidence.failures == (f"certify failed: {failed}",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (made.certify(), "its rounding is not covered"),
        (made.smoothed(), "which votes over noisy copies of an image"),
        (made.smoothed(), "Each image's holds with probability 1 - alpha"),
        (made.certify(), "Certified radii are l2 radii in pixels of [0, 1]"),
        (made.certify(), "LipLT was left out behind the last activations"),
    ],
)
def test_certificates_come_with_what_they_do_not_say(content: made.JSON, told: str) -> None:
    assert told in " ".join(_texts(only("certify", content).sections()[-1]))


def _texts(section: Section) -> list[str]:
    bullets = [block for block in section.blocks if isinstance(block, Bullets)]
    return [text for block in bullets for text in block.items]


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


def test_a_whole_number_that_no_float_holds_is_refused_with_its_place() -> None:
    budget, sweep = made.audit(), made.sweep()
    budget["budget"]["eps"] = 10**400
    with pytest.raises(DataError, match=r"'budget.eps' is a whole number of 1329 bits, which"):
        only("audit", budget)
    sweep["settings"][1]["c_r"] = 10**400
    with pytest.raises(DataError, match=r"'settings\[1\].c_r' is a whole number of 1329 bits"):
        only("sweep", sweep)


def test_the_evidence_is_read_once() -> None:
    report = only("audit", made.audit())
    assert report.evidence is report.evidence


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
