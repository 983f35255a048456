"""One model, hardened in memory: from a request and a table to the checked result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lipcompile import model_io
from lipcompile.abstaining.head import Abstention, find_place, plan_abstention
from lipcompile.abstaining.reference import check_abstention
from lipcompile.abstaining.wrapping import put_on
from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.probes import Probe
from lipcompile.calibration.table import CalibrationTable
from lipcompile.changing import Change
from lipcompile.checks import Agreement, check_compaction, check_outputs, check_structure
from lipcompile.ensembles.plan import Ensemble, again, plan_ensembles
from lipcompile.ensembles.trying import wrap_checked
from lipcompile.ensembles.wrapping import unwrap
from lipcompile.errors import ModelError, OptionError
from lipcompile.forged import Hard
from lipcompile.forging import Forging, forge, thresholds_of
from lipcompile.labelled.pixel_domain import PixelDomain, find_pixel_domain
from lipcompile.model_io import LoadedModel
from lipcompile.passes.drop_dead_channels import CompactionReport
from lipcompile.records import ABSTAIN, COLUMNS, LIPSCHITZ, SITES, is_hardened
from lipcompile.request import Request
from lipcompile.rescaling.homogeneous import read_network
from lipcompile.rescaling.plan import Rescaling
from lipcompile.rescaling.rescaling import check_rescaled, rescale
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selection, Selector, find_sites, require_sites
from lipcompile.zeroing import Zeroing, zero

if TYPE_CHECKING:
    from lipcompile.certifying.lipschitz.bounds import LipschitzBounds


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be hardened, and how.

    Attributes:
        loaded: The model, without the ensemble that may have stood around it.
        selection: Its layers; none for variant "none".
        ensembles: What is put around the result, the cheapest first; nothing if empty.
        runtime: Providers and threads.
        pixels: What bounds are about, where any are asked for.
    """

    loaded: LoadedModel
    selection: Selection
    ensembles: tuple[Ensemble, ...]
    runtime: RuntimeOptions
    pixels: PixelDomain | None = None


def open_task(
    model: object,
    selector: Selector | None,
    runtime: RuntimeOptions,
    force: bool,
    request: Request,
    scan: ScanOptions | None = None,
) -> Task:
    """Loads a model, and finds what `request` would edit; see `lipcompile.harden`.

    Raises:
        LipCompileError: The model cannot be read, or the request does not fit it.
    """
    loaded, around = unwrap(_load_unbounded(model))
    pixels = _open_bounds(loaded, around, request, scan or ScanOptions())
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
        nothing = replace(selection, sites=(), refusals=())
        return Task(loaded, nothing, ensembles, runtime, pixels)
    _check_not_hardened(loaded, force, request)
    require_sites(selection, loaded.name)
    request.c_r.assign(selection)  # before any long work
    return Task(loaded, selection, ensembles, runtime, pixels)


def _load_unbounded(model: object) -> LoadedModel:
    """A model whose bounds nothing in it depends on."""
    loaded = model_io.load(model)
    for key, what in ((ABSTAIN, "has an abstain head"), (LIPSCHITZ, "is rescaled")):
        if key in loaded.metadata:
            raise ModelError(
                f"'{loaded.name}' {what} already, for the bounds of the model as it is: "
                "harden the original, with all that it shall have in one command"
            )
    return loaded


def _open_bounds(
    loaded: LoadedModel, around: Ensemble | None, request: Request, scan: ScanOptions
) -> PixelDomain | None:
    """What the bounds that are asked for are about; refuses what they do not fit before any
    long work."""
    if request.lipschitz is None and request.abstain is None:
        return None
    flag = "--abstain" if request.lipschitz is None else "--lipschitz"
    if around is not None:
        raise ModelError(
            f"'{loaded.name}' has an ensemble ({around}), and {flag} bounds a model without "
            "one: use the original, or the result of 'lipcompile strip'"
        )
    pixels = find_pixel_domain(loaded, scan, flag)
    if request.lipschitz is not None:
        if SITES in loaded.metadata:
            raise ModelError(
                f"'{loaded.name}' has forged functions, whose thresholds do not scale: give "
                "--lipschitz the original, or a model of --variant weight"
            )
        read_network(loaded, request.lipschitz.scores)
    if request.abstain is not None:
        find_place(loaded, request.abstain)
    return pixels


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
        rescaling: How its weights were scaled, if they were.
        abstention: Its abstain head, if it has one.
        agreement: Its outputs against the original's; None without probes.
    """

    proto: Any
    done: Forging | Zeroing | None
    ensemble: Ensemble | None
    agreement: Agreement | None
    rescaling: Rescaling | None = None
    abstention: Abstention | None = None

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
    scaled, rescaling, bounds = _rescale(task, request, inside, probes)
    flagged, abstention = _abstain(task, request, scaled, probes, bounds)
    proto, ensemble = _wrap(task, request, flagged, probes)
    change = Change(rescaling, abstention.head if abstention is not None else None)
    check_structure(task.loaded, proto, change)
    agreement = check_outputs(task.loaded, proto, probes, task.runtime, change)
    return Compiled(proto, done, ensemble, agreement, rescaling, abstention)


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


def _rescale(
    task: Task, request: Request, proto: Any, probes: Sequence[Probe]
) -> tuple[Any, Rescaling | None, LipschitzBounds | None]:
    """`proto` with the product bound that is asked for, what was done to it, and its bounds
    then."""
    if request.lipschitz is None or task.pixels is None:
        return proto, None, None
    result, plan, bounds = rescale(task.loaded, proto, request.lipschitz, task.pixels)
    feeds = _feeds(task.loaded, task.pixels, probes)
    check_rescaled(task.loaded, proto, result, plan, feeds, task.runtime)
    return result, plan, bounds


def _abstain(
    task: Task,
    request: Request,
    proto: Any,
    probes: Sequence[Probe],
    bounds: LipschitzBounds | None,
) -> tuple[Any, Abstention | None]:
    """`proto` with the abstain head that is asked for, and which; `bounds` are its own."""
    if request.abstain is None or task.pixels is None:
        return proto, None
    inside = model_io.reload(task.loaded, proto)
    plan = plan_abstention(inside, request.abstain, task.pixels, bounds)
    result = put_on(task.loaded, proto, plan)
    feeds = _feeds(task.loaded, task.pixels, probes)
    check_abstention(task.loaded, proto, result, plan, feeds, task.runtime)
    return result, plan


def _feeds(
    loaded: LoadedModel, pixels: PixelDomain, probes: Sequence[Probe]
) -> list[dict[str, np.ndarray]]:
    """Samples, or random pixels where there are none."""
    return [dict(probe.feeds) for probe in probes] or [pixels.random_feeds(loaded)]


def _wrap(
    task: Task, request: Request, proto: Any, probes: Sequence[Probe]
) -> tuple[Any, Ensemble | None]:
    """`proto` inside of the first ensemble that works, and which; as it is without one."""
    if not task.ensembles:
        return proto, None
    asked = request.ensemble.by if request.ensemble is not None else None
    return wrap_checked(task.loaded, proto, task.ensembles, probes, task.runtime, asked)
