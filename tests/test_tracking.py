"""log_mlflow: what of the documents is logged, where, and what happens where it cannot be."""

from __future__ import annotations

import copy
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from lipcompile.cli import main
from lipcompile.documents import Document, header
from lipcompile.errors import DataError, MissingExtraError, OptionError, RunFailure
from lipcompile.tracking import _safe, log_mlflow
from lipcompile.tracking_facts import collect
from tests.report import documents as whole

ORIGINAL, HARDENED = "sha256:" + "a" * 64, "sha256:" + "b" * 64
DIFFERENCE = {
    "n": 60,
    "gained": 1,
    "lost": 4,
    "difference": -0.05,
    "low": -0.12,
    "high": 0.02,
    "confidence": 0.95,
    "mcnemar_p": 0.375,
}


def side(clean: float, worst: float, digest: str) -> dict[str, Any]:
    return {
        "digest": digest,
        "clean_accuracy": clean,
        "clean_interval": [clean - 0.1, clean + 0.1],
        "worst_case_accuracy": worst,
        "worst_case_interval": [worst - 0.1, worst + 0.1],
    }


HARDEN = {
    **header("harden"),
    "source": ORIGINAL,
    "digest": HARDENED,
    "variant": "forged",
    "form": {"name": "smooth", "a": 10.0, "b": 1.0},
    "c_r": 0.0078125,
    "c_r_by_layer": {"conv": 0.25},
    "target": "portable",
    "zero_rate": None,
    "agreement": {"samples": 64, "top1": 0.984375, "max_difference": 0.01},
    "calibration": {"data": {"samples": 512}},
    "failed_gates": [],
}
AUDIT = {
    **header("audit"),
    "verdict": "masked",
    "original": side(0.85, 0.75, ORIGINAL),
    "hardened": side(0.8, 0.7, HARDENED),
    "clean_difference": DIFFERENCE,
    "worst_case_difference": DIFFERENCE | {"mcnemar_p": float("nan")},
    "latency": {"median": 1.25, "low": 1.0, "high": 1.5, "pairs": 40},
    "failed_gates": ["worst-case accuracy 70.00 % is below 75.00 %"],
    "masking_checks": [
        {"name": "a", "source": "ours", "passed": False, "evidence": "1"},
        {"name": "b", "source": "ours", "passed": True, "evidence": "2"},
    ],
    "budget": {"norm": "linf", "eps": 0.1, "unit": "pixels"},
    "attacks": {"name": "fast"},
    "data": {"name": "test.npz", "images": 60, "digest": "sha256:c"},
    "seed": 0,
}
SWEEP = {
    **header("sweep"),
    "model": {"digest": ORIGINAL},
    "chosen": "hard 2^-6",
    "verdict": "no measurable change",
    "settings": [
        {"name": "hard 2^-9", "form": {"name": "hard"}, "c_r": 1 / 512, "suppressed": 0.1},
        {
            "name": "hard 2^-6",
            "variant": "forged",
            "form": {"name": "hard"},
            "c_r": 1 / 64,
            "accuracy": {"value": 0.86, "interval": [0.8, 0.9], "n": 250},
            "clean_difference": DIFFERENCE,
            "latency": None,
            "suppressed": 0.4,
            "singular_mean": None,
            "worst_case": {"original": 0.7, "hardened": 0.72},
        },
    ],
    "confirmed": {"accuracy": {"value": 0.84, "interval": [0.79, 0.88], "n": 250}},
    "failed_gates": [],
}


def document(content: dict[str, Any]) -> Document:
    kind = content["schema"].removeprefix("lipcompile.").partition("/")[0]
    return Document(kind, f"{kind}.json", content)


def write(folder: Path, *contents: dict[str, Any]) -> list[Path]:
    """Files as the commands write them: with all that the contents above leave out."""
    paths = []
    for content in contents:
        paths.append(folder / document(content).name)
        paths[-1].write_text(json.dumps(filled(content)))
    return paths


def filled(content: dict[str, Any]) -> dict[str, Any]:
    """The content over a complete result of the same kind, which it changes."""
    return over(getattr(whole, document(content).kind)(), content)


def over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return base | {
        key: over(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in changes.items()
    }


# What is logged


def test_settings_numbers_and_verdict_are_collected() -> None:
    facts = collect([document(HARDEN), document(AUDIT)])
    assert facts.params["form"] == "smooth"
    assert facts.params["form.a"] == "10.0"
    assert facts.params["c_r"] == "0.0078125"
    assert facts.params["c_r_by_layer"] == '{"conv": 0.25}'
    assert facts.params["audit.budget.eps"] == "0.1"
    assert "harden.zero_rate" not in facts.params
    assert facts.metrics["harden.agreement"] == 0.984375
    assert facts.metrics["audit.clean_accuracy.original"] == 0.85
    assert facts.metrics["audit.worst_case_accuracy.hardened.low"] == pytest.approx(0.6)
    assert facts.metrics["audit.clean_difference"] == -0.05
    assert facts.metrics["audit.clean_difference.mcnemar_p"] == 0.375
    assert facts.metrics["audit.latency_ratio"] == 1.25
    assert facts.metrics["audit.masking_checks_failed"] == 1
    assert facts.tags["lipcompile.verdict"] == "masked"
    assert facts.tags["lipcompile.outcome"].startswith("failed: worst-case accuracy 70.00 %")
    assert facts.tags["lipcompile.original"] == ORIGINAL
    assert facts.tags["lipcompile.hardened"] == HARDENED
    # NaN is no number that a server takes.
    assert "audit.worst_case_difference.mcnemar_p" not in facts.metrics


def test_of_a_sweep_the_chosen_setting_is_logged() -> None:
    facts = collect([document(SWEEP)])
    assert (facts.params["form"], facts.params["c_r"]) == ("hard", "0.015625")
    assert facts.params["sweep.chosen"] == "hard 2^-6"
    assert facts.metrics["sweep.chosen.accuracy"] == 0.86
    assert facts.metrics["sweep.chosen.suppressed"] == 0.4
    assert facts.metrics["sweep.chosen.worst_case.hardened"] == 0.72
    assert facts.metrics["sweep.confirmed.accuracy.high"] == 0.88
    assert facts.tags["lipcompile.verdict"] == "no measurable change"
    assert facts.tags["lipcompile.outcome"] == "passed"


def test_the_audit_inside_of_a_sweep_is_logged_like_any_other() -> None:
    facts = collect([document(SWEEP | {"confirmed": {"audit": AUDIT}})])
    assert facts.metrics["audit.worst_case_accuracy.hardened"] == 0.7
    other = copy.deepcopy(AUDIT)
    other["hardened"]["worst_case_accuracy"] = 0.5
    facts = collect([document(SWEEP | {"confirmed": {"audit": other}}), document(AUDIT)])
    assert facts.metrics["audit.worst_case_accuracy.hardened"] == 0.7


def test_a_sweep_that_chose_nothing_has_no_setting() -> None:
    facts = collect([document(SWEEP | {"chosen": None, "confirmed": None})])
    assert "form" not in facts.params
    assert not [key for key in facts.metrics if key.startswith("sweep.chosen")]


def test_certificates_are_logged_by_model() -> None:
    facts = collect([document(whole.certify())])
    assert facts.params["certify.method"] == "lipschitz"
    assert facts.params["certify.eps"] == "0.25"
    assert "certify.smoothing.sigma" not in facts.params
    assert facts.metrics["certify.accuracy.original"] == 0.8
    assert facts.metrics["certify.certified_accuracy.hardened"] == 0.35
    assert facts.metrics["certify.certified_accuracy.hardened.low"] < 0.35
    assert facts.metrics["certify.certified_difference"] == -0.05
    assert facts.metrics["certify.certified_difference.mcnemar_p"] == 0.5
    assert facts.metrics["certify.median_radius_l2.original"] == 0.2
    assert facts.metrics["certify.lipschitz_bound.original.ECLipsE-Fast"] == 77.0
    assert facts.metrics["certify.largest_pair_bound.original"] == 39.25
    assert facts.tags["lipcompile.verdict"] == "certified"
    assert facts.tags["lipcompile.original"] == whole.ORIGINAL
    assert facts.tags["lipcompile.hardened"] == whole.HARDENED
    alone = collect([document(whole.smoothed(original=False))])
    assert alone.params["certify.smoothing.sigma"] == "0.25"
    assert "certify.accuracy.original" not in alone.metrics
    assert "certify.certified_accuracy.hardened" in alone.metrics


def test_the_verdict_is_the_one_of_a_report() -> None:
    certify, verify = document(whole.certify()), document(whole.verify())
    assert collect([certify, verify]).tags["lipcompile.verdict"] == "certified"
    wrong = document(whole.verify(holds=False))
    assert "NOT" in collect([certify, wrong]).tags["lipcompile.verdict"]
    audit = document(whole.audit("improved"))
    assert collect([certify, audit]).tags["lipcompile.verdict"] == "improved"


def test_without_an_attack_that_is_the_verdict() -> None:
    assert collect([document(HARDEN)]).tags["lipcompile.verdict"] == "not attacked"


def test_missing_and_misshapen_parts_are_left_out() -> None:
    bare = AUDIT | {"clean_difference": None, "latency": None, "masking_checks": "many"}
    bare["original"] = {"digest": ORIGINAL}
    facts = collect([document(bare)])
    assert "audit.clean_difference" not in facts.metrics
    assert "audit.latency_ratio" not in facts.metrics
    assert "audit.clean_accuracy.original" not in facts.metrics
    assert facts.metrics["audit.clean_accuracy.hardened"] == 0.8


def test_what_a_sweep_attacked_with_is_logged() -> None:
    sweep = whole.sweep() | {"budget": {"min_robust_accuracy": 0.4}}
    params = collect([document(sweep)]).params
    assert (params["sweep.attack.preset"], params["sweep.attack.seed"]) == ("fast", "0")
    assert params["sweep.budget.min_robust_accuracy"] == "0.4"


def test_the_outcome_says_each_reason_once() -> None:
    told = "the file is NOT what its provenance says: forged tensors failed"
    verify = whole.verify(holds=False) | {"failed_gates": [told]}
    tags = collect([document(verify), document(AUDIT)]).tags
    assert tags["lipcompile.outcome"] == f"failed: {told}; {AUDIT['failed_gates'][0]}"
    verify = {"outcome": f"failed: {told}", **verify}
    assert collect([document(verify)]).tags["lipcompile.outcome"] == f"failed: {told}"
    passed = {"outcome": "passed", **whole.verify()}
    assert collect([document(passed)]).tags["lipcompile.outcome"] == "passed"


def test_numbers_that_no_float_holds_are_left_out() -> None:
    facts = collect([document(whole.audit() | {"seconds": 10**400})])
    assert "audit.seconds" not in facts.metrics
    assert "audit.latency_ratio" in facts.metrics


def test_long_values_are_cut() -> None:
    many = {f"layer{i}": 0.25 for i in range(100)}
    value = collect([document(HARDEN | {"c_r_by_layer": many})]).params["c_r_by_layer"]
    assert (len(value), value[-3:]) == (500, "...")


# Logging


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a store in a folder, as mlflow-skinny has one."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    tracking = pytest.importorskip("mlflow.tracking")
    return tracking.MlflowClient(tracking_uri=(tmp_path / "store").as_uri())


def test_a_run_holds_what_the_documents_say(tmp_path: Path, client: Any) -> None:
    results = write(tmp_path, HARDEN, AUDIT)
    (tmp_path / "report.html").write_text("<p>")
    where = (tmp_path / "store").as_uri()
    run = log_mlflow(
        results,
        tracking_uri=where,
        experiment="clothes",
        run_name="smooth",
        artifacts=[tmp_path / "report.html"],
    )
    logged = client.get_run(run.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "smooth"
    assert client.get_experiment_by_name("clothes").experiment_id == run.experiment_id
    assert logged.data.params == run.facts.params
    assert logged.data.metrics == run.facts.metrics
    assert run.facts.tags.items() <= logged.data.tags.items()
    artifacts = {item.path for item in client.list_artifacts(run.run_id)}
    assert artifacts == {"harden.json", "audit.json", "report.html"}
    again = log_mlflow(results, tracking_uri=where, experiment="clothes")
    assert again.experiment_id == run.experiment_id
    assert again.run_id != run.run_id


def test_the_command_prints_the_run(
    tmp_path: Path, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    where = (tmp_path / "store").as_uri()
    paths = [str(path) for path in write(tmp_path, HARDEN, AUDIT)]
    assert main.run(["log-mlflow", *paths, "--tracking-uri", where]) == 0
    out = capsys.readouterr().out
    assert "2 artifacts" in out
    assert f"to experiment 'lipcompile' of '{where}'" in out
    options = ("--tracking-uri", where, "--format", "json")
    assert main.run(["log-mlflow", *paths, *options]) == 0
    run = json.loads(capsys.readouterr().out)
    assert client.get_run(run["run_id"]).data.params["form"] == "smooth"


def test_the_environment_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    before = dict(os.environ)
    log_mlflow(write(tmp_path, HARDEN), tracking_uri=(tmp_path / "store").as_uri())
    assert dict(os.environ) == before


def test_a_run_that_breaks_is_marked_as_failed(
    tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, *given: object, **named: object) -> None:
        raise ConnectionResetError("planted")

    monkeypatch.setattr(type(client), "log_artifact", broken)
    with pytest.raises(RunFailure, match=r"MLflow at 'file:.*' failed \(planted\): check"):
        log_mlflow(write(tmp_path, HARDEN), tracking_uri=(tmp_path / "store").as_uri())
    experiment = client.get_experiment_by_name("lipcompile").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FAILED"


def test_a_server_that_does_not_answer_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        where = f"http://someone:secret@127.0.0.1:{taken.getsockname()[1]}"
        (path,) = write(tmp_path, HARDEN)
        assert main.run(["log-mlflow", str(path), "--tracking-uri", where]) == 4
    error = capsys.readouterr().err
    assert error.startswith("error: MLflow at 'http://127.0.0.1:")
    assert "check --tracking-uri, and that the server answers" in error
    assert "secret" not in error
    assert error.count("\n") == 1


def test_no_server_at_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(OptionError, match="no MLflow server is named: pass --tracking-uri"):
        log_mlflow(write(tmp_path, HARDEN))


def test_a_missing_package_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr("lipcompile.extras.importlib.import_module", missing)
    with pytest.raises(MissingExtraError, match=r'pip install "lipcompile\[mlflow\]"'):
        log_mlflow(write(tmp_path, HARDEN), tracking_uri="http://localhost")


# What is refused before anything is logged


def test_results_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    other = copy.deepcopy(AUDIT)
    other["original"]["digest"] = "sha256:" + "d" * 64
    with pytest.raises(DataError, match="are about different original models"):
        log_mlflow(write(tmp_path, HARDEN, other), tracking_uri="unused")
    (path,) = write(tmp_path, HARDEN)
    twin = tmp_path / "twin.json"
    twin.write_text(path.read_text())
    with pytest.raises(DataError, match=r"'harden.json' and 'twin.json' are both results of"):
        log_mlflow([path, twin], tracking_uri="unused")
    with pytest.raises(DataError, match="no result is named"):
        log_mlflow([], tracking_uri="unused")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"schema": "lipcompile.audit/1"}, "complete result of audit: 'version' is missing"),
        (
            whole.audit() | {"original": None},
            "audit: 'original' is of type null, expected obj",
        ),
        (whole.sweep() | {"model": None}, "sweep: 'model' is of type null, expected object"),
        (whole.harden() | {"agreement": 5}, "harden: 'agreement' is of type int, expected"),
    ],
    ids=["empty", "audit", "sweep", "harden"],
)
def test_incomplete_results_are_refused(
    tmp_path: Path, content: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=problem):
        log_mlflow([path], tracking_uri="unused")


@pytest.mark.parametrize("content", [{}, {"original": None, "model": 5, "hardened": "x"}])
def test_digests_of_an_incomplete_document_are_unknown(content: dict[str, Any]) -> None:
    for kind in ("audit", "sweep", "certify"):
        found = document({"schema": f"lipcompile.{kind}/1", **content})
        assert (found.original, found.hardened) == (None, None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:p@ss@host/a", "http://host/a"),
        ("http://user:p/w@host", "http://host"),
        ("at http://host?token=SECRET now", "at http://host?... now"),
        ("https://host/a?password=s", "https://host/a?..."),
        ("file:///runs and http://host:5000", "file:///runs and http://host:5000"),
    ],
    ids=["at", "slash", "token", "password", "nothing"],
)
def test_secrets_of_an_address_are_not_shown(text: str, shown: str) -> None:
    assert _safe(text) == shown


def test_artifacts_have_to_be_files_with_names_of_their_own(tmp_path: Path) -> None:
    (path,) = write(tmp_path, HARDEN)
    with pytest.raises(DataError, match="artifact .*no.html' is no file: check --artifact"):
        log_mlflow([path], tracking_uri="unused", artifacts=[tmp_path / "no.html"])
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "harden.json").write_text("{}")
    with pytest.raises(DataError, match="would be one artifact 'harden.json': rename one"):
        log_mlflow([path], tracking_uri="unused", artifacts=[tmp_path / "old" / "harden.json"])
