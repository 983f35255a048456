"""Puts an abstain head on a model, and takes it off.

A head is the outermost layer: its bounds are of the whole model in front of it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from lipcompile import model_io
from lipcompile.abstaining.head import Abstention, Head
from lipcompile.errors import InputError, ModelError
from lipcompile.model_io import LoadedModel
from lipcompile.passes.add_abstention import PREFIX, SCORES, AddAbstention
from lipcompile.passes.remove_abstention import RemoveAbstention
from lipcompile.provenance import added_keys
from lipcompile.records import ABSTAIN, read_record


def put_on(source: LoadedModel, proto: Any, plan: Abstention) -> Any:
    """`proto` with the head behind it, as an `onnx.ModelProto`.

    Args:
        source: What was loaded, for the provenance.
        proto: The model as it will be deployed.
        plan: From `plan_abstention` of that very model.
    """
    metadata = added_keys(source, proto, {ABSTAIN: json.dumps(plan.head.to_json())})
    result = model_io.edit(proto, source.name, AddAbstention(plan), metadata)
    declare(result, plan.head)
    return result


def declare(proto: Any, head: Head) -> None:
    """The change of the signature, in place: one more score, or one more output."""
    if head.kind == "logit":
        model_io.set_output_length(proto, head.scores, head.classes + 1)
        model_io.rename_value_info(proto, head.scores, SCORES)
    else:
        model_io.add_flag_output(proto, str(head.output), head.scores)


def take_off(loaded: LoadedModel) -> tuple[LoadedModel, Head | None]:
    """The model without its head, and what the head says; `loaded` itself and None where there
    is none.

    Raises:
        ModelError: The graph does not fit its provenance.
    """
    record = read_record(loaded.metadata, ABSTAIN)
    if record is None:
        _check_plain(loaded)
        return loaded, None
    try:
        head = Head.from_json(record)
        remove = RemoveAbstention(record)
        proto = model_io.edit(loaded.proto, loaded.name, remove, {ABSTAIN: None})
        _undeclare(proto, head)
        inner = model_io.load(proto, loaded.base_dir)
    except ModelError:
        raise
    except (InputError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"metadata '{ABSTAIN}' of '{loaded.name}' does not fit the model ({error}): "
            "harden the original again"
        ) from error
    return replace(inner, kind=loaded.kind, name=loaded.name), head


def _undeclare(proto: Any, head: Head) -> None:
    if head.kind == "logit":
        model_io.set_output_length(proto, head.scores, head.length)
        model_io.rename_value_info(proto, SCORES, head.scores)
    else:
        model_io.drop_output(proto, str(head.output))


def _check_plain(loaded: LoadedModel) -> None:
    for value in (value for node in loaded.graph_ir.graph for value in node.outputs):
        if (value.name or "").startswith(f"{PREFIX}/"):
            raise ModelError(
                f"'{loaded.name}' has a tensor '{value.name}' of an abstain head, and its "
                "metadata does not tell of one (a tool dropped it): take the original"
            )
