"""Models in and out: the only package that touches raw `onnx`.

The original `ModelProto` stays the truth. `load` makes an `onnx_ir.Model` from it, passes
edit that, and `render` carries only their edits back.
"""

from __future__ import annotations

from lipcompile.model_io.expanding import expand_functions
from lipcompile.model_io.framing import framed
from lipcompile.model_io.outputs import (
    add_flag_output,
    drop_output,
    rename_value_info,
    set_output_length,
)
from lipcompile.model_io.reading import LoadedModel, edit, load, parse, reload
from lipcompile.model_io.rendering import (
    passes_checker,
    rename_dimension,
    render,
    serialize,
    with_extra_outputs,
    with_outputs,
)
from lipcompile.model_io.saving import (
    beside,
    check_output,
    give_back,
    paths_among,
    save,
    with_plain_locations,
)

__all__ = [
    "LoadedModel",
    "add_flag_output",
    "beside",
    "check_output",
    "drop_output",
    "edit",
    "expand_functions",
    "framed",
    "give_back",
    "load",
    "parse",
    "passes_checker",
    "paths_among",
    "reload",
    "rename_dimension",
    "rename_value_info",
    "render",
    "save",
    "serialize",
    "set_output_length",
    "with_extra_outputs",
    "with_outputs",
    "with_plain_locations",
]
