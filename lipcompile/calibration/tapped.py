"""The tapped model: one session whose extra outputs are a few scalars per site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from lipcompile import model_io, runtime
from lipcompile.ops import MARK
from lipcompile.passes.tap_absmax import tap_absmax
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Site

Feeds = Mapping[str, np.ndarray]


class Tap(Protocol):
    """Nodes that measure something at one site."""

    @property
    def tensor(self) -> str: ...

    @property
    def nodes(self) -> Sequence[ir.Node]: ...

    @property
    def outputs(self) -> Sequence[str]: ...

    @property
    def key(self) -> tuple[object, ...]:
        """What it measures, as values that JSON holds."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one run told of the sites.

    Attributes:
        absmax: max |x| by site.
        suspects: Sites whose sum was not finite: they hold NaN or Inf, or the sum overflowed.
        outputs: The model's own tensor outputs, where they were asked for.
        sums: What the further taps gave, by name of their outputs.
    """

    absmax: dict[str, float]
    suspects: tuple[str, ...]
    outputs: dict[str, np.ndarray]
    sums: dict[str, np.ndarray]


class TappedModel:
    """A model with taps at its sites, loaded once; graph optimisation is on.

    Args:
        model: The model.
        sites: Where maxima are measured, and non-finite values are seen.
        options: Providers and threads.
        adding: Further taps.

    Raises:
        ModelError: ONNX Runtime does not load the model.
        ProviderError: A provider that was asked for is not active.
    """

    def __init__(
        self,
        model: model_io.LoadedModel,
        sites: Sequence[Site],
        options: RuntimeOptions,
        adding: Sequence[Tap] = (),
    ) -> None:
        self._model = model
        self._sites = sites
        self._options = options
        self._taps = tap_absmax(sites)
        self._own = [spec.name for spec in model.outputs if spec.dtype is not None]
        self._sums = [name for tap in adding for name in tap.outputs]
        self._session = self._open(self._in_order([*self._taps, *adding]))
        self._suspect: tuple[tuple[str, ...], runtime.Session] | None = None

    @property
    def provider(self) -> str:
        """The execution provider that is active first."""
        return self._session.providers[0]

    def run(self, feeds: Feeds, *, with_outputs: bool = False) -> Reading:
        """Runs complete feeds; `with_outputs` fetches the model's own outputs as well."""
        names = [*(name for tap in self._taps for name in tap.outputs), *self._sums]
        results = self._session.run(names + (self._own if with_outputs else []), feeds)
        readings = {tap.tensor: tap.read(results) for tap in self._taps}
        return Reading(
            absmax={tensor: absmax for tensor, (absmax, _) in readings.items()},
            suspects=tuple(tensor for tensor, (_, finite) in readings.items() if not finite),
            outputs={name: results[name] for name in self._own} if with_outputs else {},
            sums={name: results[name] for name in self._sums},
        )

    def count_nonfinite(self, feeds: Feeds, tensors: Sequence[str]) -> dict[str, int]:
        """How many elements of `tensors` are NaN or Inf, where there are any.

        Loads the model again with the tensors as outputs, which only a suspect is worth.
        """
        wanted = [site for site in self._sites if site.tensor in tensors]
        key = tuple(site.tensor for site in wanted)
        if self._suspect is None or self._suspect[0] != key:
            self._suspect = key, self._open([_copy(site) for site in wanted])
        session = self._suspect[1]
        results = session.run([_copy_name(site) for site in wanted], feeds)
        counts = {
            site.tensor: int((~np.isfinite(results[_copy_name(site)].astype("f8"))).sum())
            for site in wanted
        }
        return {tensor: count for tensor, count in counts.items() if count}

    def _in_order(self, taps: Sequence[Tap]) -> list[ir.Node]:
        """The taps' nodes, those of the last site first.

        ONNX Runtime orders operators by a depth-first search back from the last node that
        nothing reads. So each tap runs as soon as its site is there. In the order of the sites
        all of them would run at the very end, with every site still in memory, and no longer
        in the cache.
        """
        place = {site.tensor: index for index, site in enumerate(self._sites)}
        ordered = sorted(taps, key=lambda tap: place[tap.tensor], reverse=True)
        return [node for tap in ordered for node in tap.nodes]

    def _open(self, nodes: Sequence[ir.Node]) -> runtime.Session:
        tapped = model_io.with_extra_outputs(self._model.proto, nodes)
        return runtime.open_session(tapped, self._options, self._model.base_dir)


def _copy_name(site: Site) -> str:
    return f"{MARK}/tap/{site.tensor}"


def _copy(site: Site) -> ir.Node:
    dtype = ir.DataType.from_numpy(np.dtype(site.dtype))
    value = ir.Value(name=_copy_name(site), type=ir.TensorType(dtype))
    return ir.node("Identity", [ir.Value(name=site.tensor)], outputs=[value])
