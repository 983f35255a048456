"""Run a scan on a Ray cluster: one session per worker, parts of the data, tallies in a tree.

Workers read the data themselves, by its path, or from Ray's object store for arrays and lists
in memory; what comes back of a part is its `ScanState`. States add up in any order, so the
table is that of the local runner. A part whose worker is lost is measured by another one.
https://docs.ray.io/en/latest/ray-core/actors.html
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lipcompile import model_io
from lipcompile.calibration.journal import ScanState
from lipcompile.calibration.ray_worker import Recipe, Worker
from lipcompile.calibration.scan import Progress, Scan
from lipcompile.calibration.sources.reading_ahead import cores
from lipcompile.errors import (
    DataError,
    LipCompileError,
    RunFailure,
    SetupError,
)
from lipcompile.extras import require_extra
from lipcompile.passes.count_suppressed import CountTap
from lipcompile.runtime import provider_name

_PARTS_PER_WORKER = 8
_FAN_IN = 8
_TRIES = 3  # for a part whose workers are lost: the data may be what kills them
_POLL_SECONDS = 1.0
_KNOCK_SECONDS = 10.0
_ON_GPU = frozenset(map(provider_name, ("cuda", "tensorrt", "rocm", "migraphx")))

Part = tuple[int, int]


def run_on_ray(
    scan: Scan, progress: Progress | None = None, kept: Callable[[], None] | None = None
) -> None:
    """Reads all samples that were not read yet, as `Scan.run` does, on a cluster.

    Raises:
        MissingExtraError: Ray is not installed.
        SetupError: The cluster cannot be reached, or has nothing to run on.
        DataError: The data cannot be divided, or a worker sees another than this process.
        LipCompileError: What a worker raised.
    """
    require_extra("ray", "ray")
    count = _count(scan)
    scan.probe_first()
    with _cluster(scan.options.ray_address) as ray:
        run = _Run(ray, scan, _recipe(ray, scan), progress, kept)
        try:
            run.all_parts(count)
        except KeyboardInterrupt:
            run.gather()  # for the journal
            raise
        finally:
            run.stop()
    scan.conclude()
    if kept is not None:
        kept()


def _count(scan: Scan) -> int:
    if scan.source.count is None or not scan.source.indexed:
        raise DataError(
            f"data of kind '{scan.source.kind}' comes one sample after another, and cannot be "
            "divided among workers: give files, an array or a list, or leave out --runner ray"
        )
    return scan.source.count


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected: to the cluster at `address`, to the one that this process is connected
    to already, or to one on this machine that ends with the block."""
    ray: Any = importlib.import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    quiet = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": False}
    try:
        if address is None:
            ray.init("local", num_cpus=cores(), include_dashboard=False, **quiet)
        else:
            _knock(address)
            ray.init(address, **quiet)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, ...
        where = "a local Ray" if address is None else f"the Ray cluster at '{address}'"
        raise SetupError(
            f"{where} cannot be reached ({_first_line(error)}): check --ray-address, 'ray "
            "status' there, and the token where Ray asks for one (RAY_AUTH_TOKEN)"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where no one listens; Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?([\w.-]+):(\d{1,5})", address)
    if found is not None:
        with socket.create_connection((found[1], int(found[2])), timeout=_KNOCK_SECONDS):
            pass


def _recipe(ray: Any, scan: Scan) -> Recipe:
    model = scan.model
    on_disk = model.path is not None
    data = scan.data
    options = replace(scan.options, runner="local", ray_address=None, readers=1)
    if (resolved := scan.transform()) is not None:
        options = replace(options, preprocess=resolved, image_flags={})
    return Recipe(
        model=os.path.abspath(model.path or "")
        if on_disk
        else ray.put(model_io.serialize(model.proto)),
        base_dir=model.base_dir and model.base_dir.absolute(),
        digest=model.digest,
        layers={site.tensor: tuple(x.position for x in site.layers) for site in scan.sites},
        thresholds={
            tap.tensor: tap.thresholds for tap in scan.adding if isinstance(tap, CountTap)
        },
        data=_absolute(data) if isinstance(data, (str, os.PathLike)) else ray.put(data),
        options=options,
        runtime=replace(scan.runtime_options, threads=scan.runtime_options.threads or 1),
        key=scan.find_key(),
    )


def _absolute(data: str | os.PathLike[str]) -> str:
    """Workers run in other folders; what is no file here is a name, such as "random:8"."""
    return os.path.abspath(data) if os.path.exists(data) else os.fspath(data)


@dataclass(slots=True)
class _Run:
    """One run on a connected cluster.

    Attributes:
        ray: The module.
        scan: Whose state grows.
        recipe: What workers are made from.
        progress: As for `Scan.run`.
        kept: As for `Scan.run`.
        parts: What no worker has yet.
        busy: The worker and its part, by the reference of the part's summary.
        idle: Workers without a part.
        measured: References of states that are whole, with the parts that they cover.
        lost: How often each part lost its worker.
        seen: How many samples the measured parts ran.
    """

    ray: Any
    scan: Scan
    recipe: Recipe
    progress: Progress | None
    kept: Callable[[], None] | None
    parts: deque[Part] = field(default_factory=deque)
    busy: dict[Any, tuple[Any, Part, Any]] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    measured: list[tuple[Any, list[Part]]] = field(default_factory=list)
    lost: dict[Part, int] = field(default_factory=dict)
    seen: int = 0

    def all_parts(self, count: int) -> None:
        """Measures every part, and adds their states to the scan's."""
        gaps = [(a, b) for a, b in self.scan.state.covered.gaps(count) if b is not None]
        workers = min(self._slots(), sum(b - a for a, b in gaps))
        self.parts.extend(_divided(gaps, workers * _PARTS_PER_WORKER))
        while self.parts or self.busy:
            wanted = min(workers, len(self.parts) + len(self.busy))
            while len(self.idle) + len(self.busy) < wanted:
                self.idle.append(self._worker())
            while self.idle and self.parts:
                self._start(self.idle.pop(), self.parts.popleft())
            ready, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=_POLL_SECONDS)
            for reference in ready:
                self._finish(reference)
            if len(self.measured) >= _FAN_IN or not (self.parts or self.busy):
                self.gather()

    def stop(self) -> None:
        """Ends the workers."""
        for worker in [*self.idle, *(worker for worker, _, _ in self.busy.values())]:
            with contextlib.suppress(Exception):  # it may be gone already
                self.ray.kill(worker)

    def _slots(self) -> int:
        """How many workers the cluster has room for."""
        have, need = self.ray.cluster_resources(), self._needs()
        room = min(int(have.get(name, 0) // number) for name, number in need.items())
        if room < 1:
            raise SetupError(
                f"the Ray cluster has {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} "
                f"GPUs, and a worker needs {need}: use fewer --threads, or other --providers"
            )
        return room

    def _needs(self) -> dict[str, int]:
        """CPUs and GPUs of one worker."""
        runtime = self.recipe.runtime
        on_gpu = any(provider_name(name) in _ON_GPU for name in runtime.providers)
        return {"CPU": runtime.threads} | ({"GPU": 1} if on_gpu else {})

    def _worker(self) -> Any:
        need = self._needs()
        actor = self.ray.remote(num_cpus=need["CPU"], num_gpus=need.get("GPU", 0))(Worker)
        return actor.remote(self.recipe)

    def _start(self, worker: Any, part: Part) -> None:
        summary, state = worker.measure.options(num_returns=2).remote(*part)
        self.busy[summary] = worker, part, state

    def _finish(self, reference: Any) -> None:
        """Takes a part that was measured, or whose worker raised or was lost."""
        worker, part, state = self.busy.pop(reference)
        try:
            seen = self._get(reference)
        except _Lost as error:
            self._again(part, error)
            return
        self.idle.append(worker)
        self.measured.append((state, [part]))
        self.seen += seen
        if self.progress is not None:
            self.progress(self.scan.state.tally.seen + self.seen, self.scan.source.count)

    def gather(self) -> None:
        """Adds the states of measured parts up, on the cluster, and the sum to the scan's."""
        while len(self.measured) > 1:
            some, self.measured = self.measured[:_FAN_IN], self.measured[_FAN_IN:]
            joined = self.ray.remote(num_cpus=0)(_join).remote(*(state for state, _ in some))
            self.measured.append((joined, [part for _, parts in some for part in parts]))
        for state, parts in self.measured:
            try:
                self.scan.state = self.scan.state + self._get(state)
            except _Lost as error:  # with the machine that held it
                for part in parts:
                    self._again(part, error)
        self.measured, self.seen = [], 0
        if self.kept is not None:
            self.kept()

    def _again(self, part: Part, error: _Lost) -> None:
        self.lost[part] = self.lost.get(part, 0) + 1
        if self.lost[part] >= _TRIES:
            raise RunFailure(
                f"samples {part[0]} to {part[1] - 1} of '{self.scan.source.label}' lost "
                f"{_TRIES} workers ({error}): a worker may run out of memory, see the logs of "
                "Ray; give a smaller --batch-size, or run them alone without --runner ray"
            ) from error
        self.parts.append(part)

    def _get(self, reference: Any) -> Any:
        exceptions = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, LipCompileError):
                raise cause from error
            if isinstance(cause, exceptions.RayError):  # a state that a sum needs is lost
                raise _Lost(_first_line(cause)) from error
            raise RunFailure(
                f"a worker failed ({type(cause).__name__}: {_first_line(cause)}): see the "
                "logs of Ray; do all workers have this lipcompile and the same packages?"
            ) from error
        except exceptions.RayError as error:
            raise _Lost(_first_line(error)) from error


class _Lost(Exception):
    """A worker, or what it held, is gone."""


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _divided(gaps: list[Part], count: int) -> Iterator[Part]:
    """About `count` parts of nearly equal length, none across two gaps."""
    length = max(1, -(-sum(stop - start for start, stop in gaps) // max(count, 1)))
    for start, stop in gaps:
        for first in range(start, stop, length):
            yield first, min(first + length, stop)


def _join(*states: ScanState) -> ScanState:
    return functools.reduce(lambda a, b: a + b, states)
