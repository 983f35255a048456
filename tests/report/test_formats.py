"""The three formats: escaping, the schema, the same bytes, numbers that are none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lipcompile.errors import OptionError, OutputError
from lipcompile.report import Report, write_report
from lipcompile.report.shape import schema
from tests.report import documents as made

EVIL = '<img src=x onerror="alert(1)">'
EVIL_NAMES = (
    EVIL,
    "</script></style><svg onload=alert(1)>",
    r"$\frac{1}{2}$ _hidden",
    "a|b`c`*d*[e](https://f.org) @someone",
    "{{ 7 * 7 }}",
    "\u202eevil\x00\ud800",
)
REPORTS = {
    "everything": Report(made.everything()),
    "masked": Report((made.document("audit", made.audit("masked", failed=True)),)),
    "harden": Report((made.document("harden", made.harden()),)),
    "nothing chosen": Report((made.document("sweep", made.nothing_chosen()),)),
    "per layer": Report((made.document("sweep", made.per_layer()),)),
    "verify": Report((made.document("verify", made.verify(holds=False)),)),
    "certify": Report((made.document("certify", made.certify()),)),
    "smoothing alone": Report((made.document("certify", made.smoothed(original=False)),)),
}
_EXTERNAL = re.compile(
    r"https?:|//|<script|<link|<img|<iframe|<object|@import|@font-face|url\((?!#)|src=", re.I
)


def evil() -> Report:
    """Names with markup wherever a name can stand."""
    harden, sweep = made.harden(EVIL_NAMES), made.sweep(names=EVIL_NAMES)
    audit, verify, certify = made.audit(), made.verify(), made.certify()
    harden["model"] = verify["original"] = sweep["model"]["name"] = f"{EVIL}.onnx"
    audit["original"]["name"] = f"{EVIL}.onnx"
    audit["notes"] = [EVIL]
    audit["data"]["name"] = EVIL
    for strike in audit["paths"]:
        strike["attack"] = f"$x^2$ {EVIL}"
    sweep["settings"][0]["form"]["name"] = EVIL
    sweep["settings"][0]["name"] = EVIL
    sweep["command"] = f"lipcompile ``` {EVIL}"
    verify["checks"][0]["evidence"] = EVIL
    certify["model"]["bounds"]["by_method"] = {EVIL: 2.0}
    certify["norm"] = certify["data"]["name"] = EVIL
    kinds = ("harden", "sweep", "audit", "verify", "certify")
    named = zip(kinds, (harden, sweep, audit, verify, certify), strict=True)
    documents = [made.document(kind, content) for kind, content in named]  # type: ignore[arg-type]
    return Report(tuple(documents), f"Title {EVIL}")


def external(text: str) -> list[str]:
    """What a browser would fetch or run."""
    return _EXTERNAL.findall(text)


# HTML


@pytest.mark.parametrize("name", REPORTS)
def test_html_holds_no_external_reference(name: str) -> None:
    text = REPORTS[name].to_html()
    assert external(text) == []
    assert text.startswith("<!doctype html>")
    assert len(text.encode()) < 500_000


def test_planted_external_references_are_caught() -> None:
    for planted in (
        '<img src="a.png">',
        "<style>@import 'x.css'</style>",
        '<a href="https://example.org">',
        "background: url(x.png)",
        "<script>1</script>",
    ):
        assert external(planted)
    assert not external('<use href="#f1-m0"/><g clip-path="url(#f1-p0)"/>')


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser takes them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_with_markup_are_text_in_html() -> None:
    page, plain = Page(evil().to_html()), Page(REPORTS["everything"].to_html())
    assert page.tags <= plain.tags
    assert page.attributes <= plain.attributes
    for name in (*EVIL_NAMES[:-1], f"$x^2$ {EVIL[:10]}"):
        assert name in page.text
    assert "\ufffdevil\ufffd\ufffd" in page.text
    page.text.encode()


def test_planted_markup_is_caught() -> None:
    page = Page(REPORTS["harden"].to_html().replace("<h1>", f"<h1>{EVIL}"))
    assert "img" in page.tags
    assert "onerror" in page.attributes


def test_ids_are_unique_and_every_reference_has_a_target() -> None:
    text = REPORTS["everything"].to_html()
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    assert targets
    assert set(targets) <= set(ids)


def test_the_same_results_give_the_same_bytes() -> None:
    first, second = Report(made.everything()), Report(made.everything())
    assert first.to_html() == second.to_html()
    assert first.to_markdown() == second.to_markdown()
    assert first.to_json() == second.to_json()


def test_120_layers_stay_small() -> None:
    names = tuple(f"/blocks/blocks.{i}/mlp/fc/MatMul" for i in range(120))
    report = Report(made.everything(names))
    assert len(report.to_html().encode()) < 500_000
    assert len(report.to_markdown()) < 65_536


# Markdown


def test_markdown_says_the_verdict_then_the_numbers_then_the_rest_folded() -> None:
    text = REPORTS["everything"].to_markdown()
    places = [text.index(part) for part in ("### Verdict", "| measured |", "<details>")]
    assert places == sorted(places)
    assert text.count("<details>") == text.count("</details>") > 5
    assert "-0.40 points" in text


def test_captions_end_in_one_mark() -> None:
    text = REPORTS["everything"].to_markdown()
    assert ".:" not in text
    assert "the largest ratio of any layer and input:\n" in text


def test_names_with_markup_are_text_in_markdown() -> None:
    text = evil().to_markdown()
    fenced = re.sub(r"^(`{3,})sh\n.*?\n\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert "<img" not in fenced
    assert re.search(r"^````sh\nlipcompile ``` <img", text, re.MULTILINE)
    assert "@someone" not in text
    rows = [line for line in fenced.splitlines() if line.startswith("| ")]
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows if "onerror" in row}
    heads = {len(re.findall(r"(?<!\\)\|", row)) for row in rows if "onerror" not in row}
    assert widths <= heads


def test_a_comment_that_would_be_refused_is_cut_at_the_details() -> None:
    names = tuple(f"{i}/{'long' * 300}" for i in range(40))
    text = Report(made.everything(names)).to_markdown()
    assert len(text) < 65_536
    assert "<details>" not in text
    assert "too long for a comment" in text
    assert "| measured |" in text


# JSON


@pytest.mark.parametrize("name", REPORTS)
def test_json_follows_its_schema(name: str) -> None:
    text = json.dumps(REPORTS[name].to_json(), allow_nan=False)
    jsonschema.Draft202012Validator(schema()).validate(json.loads(text))


def test_planted_faults_break_the_schema() -> None:
    validator = jsonschema.Draft202012Validator(schema())
    jsonschema.Draft202012Validator.check_schema(schema())
    for key in ("schema", "version", "verdict", "key_numbers", "results"):
        found = REPORTS["everything"].to_json()
        del found[key]
        assert not validator.is_valid(found), key
    found = REPORTS["everything"].to_json()
    found["results"]["other"] = {}
    assert not validator.is_valid(found)


def test_json_holds_the_results_as_they_were() -> None:
    found = REPORTS["everything"].to_json()
    assert found["results"]["audit"] == made.audit()
    assert found["verdict"]["word"] == "no measurable change"
    assert found["models"] == {"original": "net.onnx", "hardened": "net.hardened.onnx"}
    (first, *_) = found["key_numbers"]
    assert (first["name"], first["unit"]) == ("worst-case accuracy", "share")
    assert first["hardened"] == {
        "value": 0.42,
        "low": first["hardened"]["low"],
        "high": first["hardened"]["high"],
        "n": 200,
    }


# Numbers that are none


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a number: its container and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in items:
        if isinstance(one, dict | list):
            yield from leaves(one)
        elif isinstance(one, float):
            yield value, key


def test_nan_is_shown_as_missing_and_is_no_json() -> None:
    sweep, harden = made.sweep(), made.harden()
    for one in sweep["settings"]:
        for row in one["layers"][:1]:
            row |= dict.fromkeys(
                ("suppressed", "singular_worst", "singular_mean"), float("nan")
            )
        one["suppressed"] = one["singular_worst"] = float("nan")
        if one["latency"]:
            one["latency"]["median"] = float("nan")
    harden["layers"][0] |= {"absmax": float("inf"), "c": float("nan")}
    report = Report((made.document("sweep", sweep), made.document("harden", harden)))
    assert ">nan" not in report.to_html()
    assert " nan" not in report.to_markdown()
    json.dumps(report.to_json(), allow_nan=False)


def test_any_number_that_a_result_may_lack_can_be_nan() -> None:
    for kind, content in (("sweep", made.short_sweep()), ("harden", made.harden())):
        for container, key in list(leaves(content)):
            before, container[key] = container[key], float("nan")
            try:
                report = Report((made.document(kind, content),))  # type: ignore[arg-type]
            except Exception as error:
                assert type(error).__name__ == "DataError", error
            else:
                report.to_markdown()
            container[key] = before


# Files


def test_the_suffix_names_the_format(tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("a.html", "b.md", "c.JSON")]
    report = REPORTS["harden"]
    write_report(report, outputs)
    assert outputs[0].read_text() == report.to_html()
    assert outputs[1].read_text() == report.to_markdown()
    assert json.loads(outputs[2].read_text()) == report.to_json()


def test_unknown_suffixes_and_existing_files_are_refused(tmp_path: Path) -> None:
    report, old = REPORTS["verify"], tmp_path / "old.md"
    old.write_text("old")
    with pytest.raises(
        OptionError, match=r"a.pdf' does not say .* end its name in .html, .md"
    ):
        write_report(report, [tmp_path / "a.pdf"])
    with pytest.raises(OutputError, match="exists: pass --force"):
        write_report(report, [tmp_path / "new.json", old])
    assert not (tmp_path / "new.json").exists()
    assert old.read_text() == "old"
    with pytest.raises(OptionError, match="names one file twice"):
        write_report(report, [tmp_path / "a.md", tmp_path / "a.md"])
    write_report(report, [old], force=True)
    assert old.read_text() == report.to_markdown()
