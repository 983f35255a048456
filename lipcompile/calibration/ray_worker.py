"""What runs on the machines of a Ray cluster: a scan, made again from a recipe."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lipcompile import model_io
from lipcompile.abstaining.wrapping import take_off
from lipcompile.calibration.journal import ScanState
from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.preparing import prepare_scan
from lipcompile.calibration.scan import Scan
from lipcompile.ensembles.wrapping import unwrap
from lipcompile.errors import DataError, ModelError
from lipcompile.passes.count_suppressed import tap_suppressed
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selector, Site, find_sites


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a worker needs to make the same scan, small enough to be sent.

    Attributes:
        model: Path of the model, or a reference to its bytes.
        base_dir: Folder of its external weights, for bytes.
        digest: Of the model.
        layers: By site, the positions of its layers.
        thresholds: By site, what is counted; empty for maxima.
        data: Path of the data, "random:N", or a reference to data in memory.
        options: How it is read.
        runtime: How the model runs.
        key: What a journal knows the scan by, where the data is on disk.
    """

    model: Any
    base_dir: Path | None
    digest: str
    layers: dict[str, tuple[int, ...]]
    thresholds: dict[str, tuple[float, ...]]
    data: Any
    options: ScanOptions
    runtime: RuntimeOptions
    key: str | None


class Worker:
    """A scan of its own, on the machine of the worker; a Ray actor."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._scan: Scan | None = None

    def measure(self, start: int, stop: int) -> tuple[int, ScanState]:
        """Returns how many samples were run, and what they gave."""
        if self._scan is None:  # not in the constructor, whose errors end the actor
            self._scan = _open_scan(self._recipe)
        self._scan.state = ScanState()
        self._scan.read(start, stop)
        state = self._scan.state
        return state.tally.seen, state


def _open_scan(recipe: Recipe) -> Scan:
    """The driver's scan, made again here.

    Raises:
        ModelError, DataError: This machine sees another model or other data.
    """
    ray: Any = importlib.import_module("ray")
    given, data = recipe.model, recipe.data
    model = given if isinstance(given, str) else model_io.parse(ray.get(given))
    loaded, _ = unwrap(take_off(model_io.load(model, recipe.base_dir))[0])
    if loaded.digest != recipe.digest:
        raise ModelError(
            f"a worker finds another model at '{given}' than this process: put the same file "
            "on every machine of the cluster, or into a shared folder"
        )
    found = find_sites(loaded.graph_ir, Selector("all")).sites
    sites = tuple(_narrowed(site, recipe) for site in found if site.tensor in recipe.layers)
    taps = tap_suppressed(sites, recipe.thresholds, loaded.opset)
    scan = prepare_scan(
        loaded,
        sites,
        data if isinstance(data, str) else ray.get(data),
        recipe.options,
        recipe.runtime,
        taps,
        probes=0,
    )
    if scan.find_key() != recipe.key:
        raise DataError(
            f"a worker finds other data at '{data}' than this process, or has another version "
            "of ONNX Runtime: put the same files on every machine of the cluster, or into a "
            "shared folder"
        )
    return scan


def _narrowed(site: Site, recipe: Recipe) -> Site:
    """The site with the selected layers alone."""
    wanted = recipe.layers[site.tensor]
    return replace(site, layers=tuple(x for x in site.layers if x.position in wanted))
