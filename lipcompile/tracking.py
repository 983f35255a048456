"""Results in MLflow: what the documents of one model say, as one run."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipcompile.documents import Document, check_one_model, read_document
from lipcompile.errors import DataError, OptionError, RunFailure
from lipcompile.extras import require_extra
from lipcompile.report.shape import check_shape
from lipcompile.text import count
from lipcompile.tracking_facts import Facts, collect

EXPERIMENT = "lipcompile"
_CREDENTIALS = re.compile(r"//\S+@")  # to the last @: passwords hold "/" and "@" as well
_QUERY = re.compile(r"\?\S+")  # ?token=...
# Set where the user did not: nothing is sent home, an unreachable server is told within
# seconds, a folder may be a store, and MLflow prints no lines of its own.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run that was logged.

    Attributes:
        run_id: MLflow's name of it.
        experiment: Name of its experiment.
        experiment_id: MLflow's number of that.
        tracking_uri: Where it was logged, without credentials and query.
        facts: What was logged.
        artifacts: Names of the files that were logged.
    """

    run_id: str
    experiment: str
    experiment_id: str
    tracking_uri: str
    facts: Facts
    artifacts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "experiment": self.experiment,
            "experiment_id": self.experiment_id,
            "tracking_uri": self.tracking_uri,
            "params": dict(self.facts.params),
            "metrics": dict(self.facts.metrics),
            "tags": dict(self.facts.tags),
            "artifacts": list(self.artifacts),
        }

    def __str__(self) -> str:
        facts = self.facts
        return (
            f"{count(facts.params, 'parameter')}, {count(facts.metrics, 'metric')}, "
            f"{count(facts.tags, 'tag')}, {count(self.artifacts, 'artifact')}\n"
            f"logged run {self.run_id} to experiment '{self.experiment}' of "
            f"'{self.tracking_uri}'"
        )


def log_mlflow(
    results: Sequence[str | os.PathLike[str]],
    *,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    run_name: str | None = None,
    artifacts: Sequence[str | os.PathLike[str]] = (),
) -> TrackedRun:
    """Logs results of one model as one run of MLflow, the files as its artifacts.

    MLflow's own telemetry is switched off, unless MLFLOW_DISABLE_TELEMETRY says otherwise.

    Args:
        results: JSON of harden, audit, certify, sweep and verify; at most one of each.
        tracking_uri: A server, or a folder; the default is what MLflow was told.
        experiment: Made where it does not exist; the default is MLFLOW_EXPERIMENT_NAME, else
            "lipcompile".
        run_name: The default is chosen by MLflow.
        artifacts: More files to log with the run, such as a report.

    Raises:
        DataError: A file cannot be read or is incomplete, or they are about different models.
        OptionError: No tracking server is known.
        MissingExtraError: MLflow is not installed.
        RunFailure: MLflow failed, or its server did not answer.
    """
    documents = [read_document(Path(path)) for path in results]
    _check_kinds(documents)
    for document in documents:
        check_shape(document)
    check_one_model(documents)
    files = [Path(path) for path in (*results, *artifacts)]
    _check_files(files)
    facts = collect(documents)
    with _environment():
        require_extra("mlflow", "mlflow")
        where = _where(tracking_uri)
        name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        try:
            run_id, experiment_id = _log(where, name, run_name, facts, files)
        except Exception as error:  # MLflow's own, of requests, of a database
            raise RunFailure(_failure(where, error)) from error
    names = tuple(path.name for path in files)
    return TrackedRun(run_id, name, experiment_id, _safe(where), facts, names)


def _check_kinds(documents: Sequence[Document]) -> None:
    if not documents:
        raise DataError(
            "no result is named: give the JSON of harden, audit, certify, sweep or verify"
        )
    seen: dict[str, str] = {}
    for document in documents:
        if document.kind in seen:
            raise DataError(
                f"'{seen[document.kind]}' and '{document.name}' are both results of "
                f"{document.kind}, and one run takes one: log them as two runs"
            )
        seen[document.kind] = document.name


def _check_files(files: Sequence[Path]) -> None:
    """Artifacts are stored by their names, so these must differ."""
    for index, path in enumerate(files):
        if not path.is_file():
            raise DataError(f"artifact '{path}' is no file: check --artifact")
        twins = [other for other in files[:index] if other.name == path.name]
        if twins:
            raise DataError(
                f"'{twins[0]}' and '{path}' would be one artifact '{path.name}': rename one"
            )


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """MLflow's settings that the user did not make, as long as it runs."""
    added = {key: value for key, value in _ENVIRONMENT.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


def _where(tracking_uri: str | None) -> str:
    mlflow = importlib.import_module("mlflow")
    if tracking_uri is None and not mlflow.tracking.is_tracking_uri_set():
        raise OptionError(
            "no MLflow server is named: pass --tracking-uri with its address or a folder, or "
            "set MLFLOW_TRACKING_URI"
        )
    return tracking_uri if tracking_uri is not None else str(mlflow.get_tracking_uri())


def _log(
    where: str, experiment: str, run_name: str | None, facts: Facts, files: Sequence[Path]
) -> tuple[str, str]:
    """Writes the run; one that could not be completed is marked as failed."""
    entities = importlib.import_module("mlflow.entities")
    client = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=where)
    known = client.get_experiment_by_name(experiment)
    number = known.experiment_id if known else client.create_experiment(experiment)
    run = client.create_run(number, run_name=run_name)
    run_id: str = run.info.run_id
    try:
        time = run.info.start_time
        client.log_batch(
            run_id,
            metrics=[entities.Metric(k, value, time, 0) for k, value in facts.metrics.items()],
            params=[entities.Param(key, value) for key, value in facts.params.items()],
            tags=[entities.RunTag(key, value) for key, value in facts.tags.items()],
        )
        for path in files:
            client.log_artifact(run_id, str(path))
        client.set_terminated(run_id)
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            client.set_terminated(run_id, status="FAILED")
        raise
    return run_id, str(number)


def _failure(where: str, error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    scheme = where.partition(":")[0]
    hint = (
        "check --tracking-uri, and that the server answers"
        if scheme in ("http", "https")
        else "check --tracking-uri; databases need the whole of MLflow (pip install mlflow)"
    )
    return f"MLflow at '{_safe(where)}' failed ({_safe(lines[0])[:300]}): {hint}"


def _safe(text: str) -> str:
    """Text without what may be secret in a URL: user, password and query."""
    return _QUERY.sub("?...", _CREDENTIALS.sub("//", text))
