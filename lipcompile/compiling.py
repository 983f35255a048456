"""One model, hardened in memory: from a request and a table to the checked result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lipcompile import model_io
from lipcompile.calibration.probes import Probe
from lipcompile.calibration.table import CalibrationTable
from lipcompile.checks import Agreement, check_compaction, check_outputs, check_structure
from lipcompile.ensembles.plan import Ensemble, again, plan_ensembles
from lipcompile.ensembles.trying import wrap_checked
from lipcompile.ensembles.wrapping import unwrap
from lipcompile.errors import ModelError, OptionError
from lipcompile.forged import Hard
from lipcompile.forging import Forging, forge, thresholds_of
from lipcompile.model_io import LoadedModel
from lipcompile.passes.drop_dead_channels import CompactionReport
from lipcompile.records import COLUMNS, is_hardened
from lipcompile.request import Request
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selection, Selector, find_sites, require_sites
from lipcompile.zeroing import Zeroing, zero


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be hardened, and how.

    Attributes:
        loaded: The model, without the ensemble that may have stood around it.
        selection: Its layers; none for variant "none".
        ensembles: What is put around the result, the cheapest first; nothing if empty.
        runtime: Providers and threads.
    """

    loaded: LoadedModel
    selection: Selection
    ensembles: tuple[Ensemble, ...]
    runtime: RuntimeOptions


def open_task(
    model: object,
    selector: Selector | None,
    runtime: RuntimeOptions,
    force: bool,
    request: Request,
) -> Task:
    """Loads a model, and finds what `request` would edit; see `lipcompile.harden`.

    Raises:
        LipCompileError: The model cannot be read, or the request does not fit it.
    """
    loaded, around = unwrap(model_io.load(model))
    ensembles: tuple[Ensemble, ...] = () if around is None else again(around)
    if request.ensemble is not None:
        if around is not None:
            raise ModelError(
                f"'{loaded.name}' has an ensemble already ({around}), and its views would be "
                "viewed again: harden the original, or the result of 'lipcompile "
                "strip', with one --ensemble that names all views"
            )
        ensembles = plan_ensembles(loaded, request.ensemble)
    selection = find_sites(loaded.graph_ir, selector)
    if request.variant == "none":
        if selector not in (None, Selector()):
            raise OptionError(
                "variant none hardens no layer, so there is nothing to select: leave --rule, "
                "--include, --exclude and --op-types out, or add --variant forged"
            )
        return Task(loaded, replace(selection, sites=(), refusals=()), ensembles, runtime)
    _check_not_hardened(loaded, force, request)
    require_sites(selection, loaded.name)
    request.c_r.assign(selection)  # before any long work
    return Task(loaded, selection, ensembles, runtime)


def _check_not_hardened(loaded: LoadedModel, force: bool, request: Request) -> None:
    if not is_hardened(loaded.metadata):
        return
    if request.weight is not None or COLUMNS in loaded.metadata:
        raise ModelError(
            f"'{loaded.name}' is hardened already, and weights are edited in an original "
            "alone: harden that"
        )
    if not force:
        raise ModelError(
            f"'{loaded.name}' is hardened already: harden the original, or pass --force to "
            "forge layers that are not forged yet"
        )


@dataclass(frozen=True, slots=True)
class Compiled:
    """A hardened model that has passed its checks.

    Attributes:
        proto: The rendered `onnx.ModelProto`.
        done: What was forged or zeroed; None for variant "none".
        ensemble: What stands around it, if anything.
        agreement: Its outputs against the original's; None without probes.
    """

    proto: Any
    done: Forging | Zeroing | None
    ensemble: Ensemble | None
    agreement: Agreement | None

    @property
    def compaction(self) -> CompactionReport | None:
        """Channels that were removed, or could not be, where that was asked for."""
        return self.done.compaction if isinstance(self.done, Zeroing) else None


def compile_task(
    task: Task, request: Request, table: CalibrationTable | None, probes: Sequence[Probe]
) -> Compiled:
    """Rewrites and checks the model of a task, which is used up: its graph is edited.

    Args:
        task: From `open_task`, with this very request.
        request: What is wanted.
        table: Maxima, and counts for variant "weight"; None for variant "none".
        probes: Samples with the original's outputs, to compare with.

    Raises:
        LipCompileError: A threshold, an encoding or a column cannot be had, or a check failed.
    """
    done = _rewrite(task, request, table)
    inside = task.loaded.proto if done is None else done.proto
    if isinstance(done, Zeroing) and done.uncompacted is not None:
        check_compaction(task.loaded, done.uncompacted, inside, probes, task.runtime)
    proto, ensemble = _wrap(task, request, inside, probes)
    check_structure(task.loaded, proto)
    agreement = check_outputs(task.loaded, proto, probes, task.runtime)
    return Compiled(proto, done, ensemble, agreement)


def _rewrite(
    task: Task, request: Request, table: CalibrationTable | None
) -> Forging | Zeroing | None:
    """Decides on every site and edits the graph; raises before the first edit."""
    if table is None:
        return None
    form = request.form or Hard()
    thresholds = thresholds_of(task.selection, table, request.c_r, form)
    if request.weight is not None:
        return zero(task.loaded, thresholds, request.weight, table, request.c_r)
    return forge(task.loaded, thresholds, form, request.target, table, request.c_r)


def _wrap(
    task: Task, request: Request, proto: Any, probes: Sequence[Probe]
) -> tuple[Any, Ensemble | None]:
    """`proto` inside of the first ensemble that works, and which; as it is without one."""
    if not task.ensembles:
        return proto, None
    asked = request.ensemble.by if request.ensemble is not None else None
    return wrap_checked(task.loaded, proto, task.ensembles, probes, task.runtime, asked)
