"""The two models of a verification, which must belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx_ir as ir

from lipcompile import model_io
from lipcompile.abstaining.head import Head
from lipcompile.abstaining.wrapping import take_off
from lipcompile.changing import Change
from lipcompile.ensembles.plan import Ensemble
from lipcompile.ensembles.wrapping import unwrap
from lipcompile.errors import InputError, ModelError
from lipcompile.graph_walks import nodes_by_output
from lipcompile.linear_layers import LinearLayer
from lipcompile.model_io import LoadedModel
from lipcompile.rebuild import MISFITS
from lipcompile.records import (
    COLUMNS,
    DROPPED,
    SOURCE,
    SOURCE_FILE,
    is_ours,
    read_records,
    read_sites,
)
from lipcompile.sites import Selector, Site, find_sites
from lipcompile.verifying.results import VerifyCheck

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """An original and its hardened model; neither graph is edited.

    Attributes:
        original: The model before hardening.
        hardened: The file in question.
        inner: The model in it, without the ensemble or abstain head that it may have.
        ensemble: That ensemble.
        head: That abstain head.
        fault: Why one could not be taken off; `inner` is the whole file then.
        change: What the provenance says to differ on purpose in the outputs; nothing where it
            is damaged.
        sites: The provenance's records of forged sites.
        columns: Its records of layers with zeroed columns.
    """

    original: LoadedModel
    hardened: LoadedModel
    inner: LoadedModel
    ensemble: Ensemble | None
    fault: str | None
    sites: tuple[Record, ...]
    columns: tuple[Record, ...]
    head: Head | None = None
    change: Change = field(default_factory=Change)

    @property
    def compacted(self) -> bool:
        """Whether channels were removed."""
        return DROPPED in self.hardened.metadata

    @cached_property
    def found(self) -> tuple[Site, ...]:
        """Every site of the original."""
        return find_sites(self.original.graph_ir, Selector("all")).sites

    @cached_property
    def layers(self) -> dict[str, LinearLayer]:
        """The original's layers by name."""
        return {layer.name: layer for site in self.found for layer in site.layers}

    @cached_property
    def dtypes(self) -> dict[str, str]:
        """Element types of the original's sites by tensor."""
        return {site.tensor: site.dtype for site in self.found}

    @cached_property
    def original_nodes(self) -> dict[str, ir.Node]:
        return nodes_by_output(self.original.graph_ir.graph)

    @cached_property
    def hardened_nodes(self) -> dict[str, ir.Node]:
        """Those of the model inside."""
        return nodes_by_output(self.inner.graph_ir.graph)


def open_pair(original: object, hardened: object) -> tuple[Pair, VerifyCheck]:
    """Loads both.

    Raises:
        ModelError: One cannot be read, or they do not belong together.
    """
    before, after = model_io.load(original), model_io.load(hardened)
    metadata = after.metadata
    if not is_ours(metadata) or SOURCE not in metadata:
        swapped = is_ours(before.metadata)
        advice = (
            "give the original first, then the hardened model"
            if swapped
            else "name the file that 'lipcompile harden' wrote"
        )
        raise ModelError(
            f"'{after.name}' is not hardened (its metadata does not say what was done to it), "
            f"so there is nothing to verify: {advice}"
        )
    if metadata[SOURCE] != before.digest:
        raise ModelError(
            f"'{after.name}' and '{before.name}' do not belong together: what was hardened is "
            f"{metadata[SOURCE]}, and '{before.name}' is {before.digest}: name the original"
        )
    sites, columns = read_sites(metadata), read_records(metadata, COLUMNS)
    inner, ensemble, head, fault = after, None, None, None
    change = Change()
    try:
        headless, head = take_off(after)
        inner, ensemble = unwrap(headless)
        change = Change.told_by(metadata)
    except (InputError, *MISFITS) as error:
        fault = str(error)
    pair = Pair(
        before, after, inner, ensemble, fault, tuple(sites), tuple(columns), head, change
    )
    return pair, VerifyCheck("belongs together", True, _same(pair))


def _same(pair: Pair) -> str:
    text = f"the provenance names {pair.original.digest[:19]}"
    recorded, digest = pair.hardened.metadata.get(SOURCE_FILE), pair.original.file_digest
    if recorded is None or digest is None:
        return text
    same = "the very bytes" if recorded == digest else "another file that computes the same"
    return f"{text}; the original is {same}"
