"""examples/pipeline: a good model is published, and one that c_r = 2^-2 ruined is not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest

from lipcompile import demo

FOLDER = Path(__file__).parents[2] / "examples" / "pipeline"
# As in the example, on fewer images.
SETTINGS = """
[harden]
cr = "{cr}"
min_agreement = 0.95
[verify]
samples = 8
pairs = 0
[audit]
eps = 0.01
samples = 6
max_accuracy_drop = 0.5
min_robust_accuracy = {robust}
[export-triton]
max_batch_size = 16
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pipeline(tmp_path: Path) -> Run:
    """`pipeline(cr=..., robust=..., MODEL=...)` runs the script in an empty folder."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")

    def run(cr: str = "2^-7", robust: float = 0, **variables: str) -> Any:
        (tmp_path / "settings.toml").write_text(SETTINGS.format(cr=cr, robust=robust))
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        ours = {"CONFIG": "settings.toml", "PATH": path, **variables}
        unset = ("GITHUB_STEP_SUMMARY", "MLFLOW_TRACKING_URI")
        return subprocess.run(
            ["bash", str(FOLDER / "pipeline.sh")],
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if k not in unset} | ours,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


def bundled() -> dict[str, str]:
    paths = {"MODEL": demo.MODEL, "CALIB": demo.CALIBRATION, "DATA": demo.TEST}
    return {name: str(path) for name, path in paths.items()}


def cases(path: Path) -> list[ElementTree.Element]:
    return list(ElementTree.parse(path).iter("testcase"))


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_good_model_is_exported_and_published(pipeline: Run, tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack")
    pytest.importorskip("matplotlib")
    done = pipeline(NAME="clothes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("published 'release'\n")
    assert files(tmp_path / "release") == {
        *("clothes.onnx", "harden.json", "verify.json", "audit.json", "report.html"),
        *("triton/clothes/config.pbtxt", "triton/clothes/1/model.onnx"),
    }
    served = tmp_path / "release" / "triton" / "clothes" / "1" / "model.onnx"
    assert served.read_bytes() == (tmp_path / "release" / "clothes.onnx").read_bytes()
    metadata = {p.key: p.value for p in onnx.load(served).metadata_props}
    assert metadata["lipcompile.form"] == "smooth"
    for step in ("harden", "verify", "audit"):
        assert cases(tmp_path / "build" / f"{step}.xml")
        assert not list(ElementTree.parse(tmp_path / "build" / f"{step}.xml").iter("failure"))
    assert "max_batch_size: 16" in (served.parents[1] / "config.pbtxt").read_text()
    again = pipeline(NAME="clothes")
    assert again.returncode == 2
    assert "'build' is left from an earlier run" in again.stderr


def test_planted_bad_model_is_stopped_and_says_why(pipeline: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = pipeline(cr="2^-2", **bundled())
    reason = r"top-1 agreement is [\d.]+ %, below --min-agreement 95.00 %"
    assert done.returncode == 1
    assert re.match(f"FAILED: {reason}\n", done.stdout)
    assert re.search(f"^error: {reason}$", done.stderr, re.MULTILINE)
    assert "stopped with 1: nothing was published" in done.stderr
    assert not (tmp_path / "release").exists()
    build = tmp_path / "build"
    assert files(build) == {
        *("harden.json", "harden.xml", "summary.md", "report.html", "report.md"),
    }
    failure = cases(build / "harden.xml")[0].find("failure")
    assert failure is not None
    assert re.match(reason, failure.get("message", ""))
    told = json.loads((build / "harden.json").read_text())
    assert next(iter(told)) == "outcome"
    assert re.match(f"failed: {reason}", told["outcome"])
    assert re.search(reason, (build / "summary.md").read_text())
    assert "top-1 agreement is" in (build / "report.html").read_text()


def test_a_stopped_model_is_logged_as_one(
    pipeline: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    tracking = pytest.importorskip("mlflow.tracking")
    store = (tmp_path / "runs").as_uri()
    done = pipeline(cr="2^-2", MLFLOW_TRACKING_URI=store, **bundled())
    assert done.returncode == 1
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = tracking.MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("lipcompile").experiment_id])
    assert run.data.tags["lipcompile.outcome"].startswith("failed: top-1 agreement is")
    assert run.data.params["c_r"] == "0.25"
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"harden.json", "report.html"}


def test_planted_bad_audit_publishes_nothing(pipeline: Run, tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack")
    pytest.importorskip("matplotlib")
    done = pipeline(robust=1.0)
    assert done.returncode == 1
    assert "below --min-robust-accuracy" in done.stderr
    assert not (tmp_path / "release").exists()
    assert cases(tmp_path / "build" / "audit.xml")[0].find("failure") is not None
    assert (tmp_path / "build" / "report.html").exists()


def test_planted_missing_model_is_no_failed_gate(pipeline: Run, tmp_path: Path) -> None:
    done = pipeline(**bundled() | {"MODEL": "no.onnx"})
    assert done.returncode == 2
    assert "model 'no.onnx' does not exist" in done.stderr
    assert next(iter(cases(tmp_path / "build" / "harden.xml"))).find("error") is not None
    assert not (tmp_path / "build" / "harden.json").exists()


def test_the_first_failure_is_the_exit_code(pipeline: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("mlflow")
    (tmp_path / "taken").write_text("")
    store = (tmp_path / "taken" / "runs").as_uri()
    done = pipeline(cr="2^-2", MLFLOW_TRACKING_URI=store, **bundled())
    assert "error: MLflow at 'file:" in done.stderr
    assert done.returncode == 1
    assert "stopped with 1: nothing was published" in done.stderr


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"MODEL": "model.onnx"}, "MODEL needs data of its own: set CALIB and DATA"),
        ({"MODEL": "m.onnx", "CALIB": "c"}, "MODEL needs data of its own: set CALIB and DATA"),
        ({"BUILD": "no/build"}, "'no/build' cannot be made in 'no': create that, or set"),
        ({"RELEASE": "no/release"}, "'no/release' cannot be made in 'no': create that, or"),
    ],
    ids=["calib", "data", "build", "release"],
)
def test_bad_variables_are_told_before_any_work(
    pipeline: Run, tmp_path: Path, variables: dict[str, str], reason: str
) -> None:
    done = pipeline(**variables)
    assert done.returncode == 2
    assert done.stderr.startswith(reason)
    assert {path.name for path in tmp_path.iterdir()} == {"settings.toml"}


# The jobs


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_jobs_call_the_script_and_keep_its_evidence(name: str) -> None:
    yaml = pytest.importorskip("yaml")
    text = (FOLDER / name).read_text()
    content = yaml.safe_load(text)
    job = content["jobs"]["harden"] if "jobs" in content else content["harden"]
    steps = job["steps"] if "steps" in job else job["script"]
    commands = [step.get("run", "") if isinstance(step, dict) else step for step in steps]
    assert "bash examples/pipeline/pipeline.sh" in commands
    assert (FOLDER.parents[1] / "examples" / "pipeline" / "pipeline.sh").is_file()
    for kept in ("build/*.xml", "build/*.json", "build/report.*", "release/"):
        assert kept in text


def test_settings_are_those_of_the_commands() -> None:
    settings = tomllib.loads((FOLDER / "lipcompile.toml").read_text())
    assert set(settings) == {"harden", "verify", "audit", "export-triton"}
    assert "min_agreement" in settings["harden"]
    assert "max_accuracy_drop" in settings["audit"]
