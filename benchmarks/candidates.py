"""Does another transformation after training make a model more robust? Builds it.

    clip           Activations bounded to what calibration saw: x -> min(max(x, -m), m) in
                   front of every selected layer, with m = max |x| of its input.
    forged-mean    The mean of the scores of the model and of three of its hardened versions:
                   form `smooth` at c_r = 2^-8, 2^-7 and 2^-6.

Neither is part of LipCompile: `docs/measurements.md` says what they gained. What is
(`lipcompile harden` with `--ensemble shift:1`, `--form soft`, `--variant weight`) needs no
script.

    python benchmarks/candidates.py CANDIDATE MODEL TABLE OUTPUT
    lipcompile audit OUTPUT --original MODEL --data LABELLED --eps EPS [flags of preprocessing]

TABLE is a calibration table of MODEL (`lipcompile calibrate`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import compose, helper

import lipcompile
from lipcompile import CalibrationTable, model_io
from lipcompile.provenance import source_keys
from lipcompile.sites import find_sites

RATIOS = ("2^-8", "2^-7", "2^-6")


def clip(model: model_io.LoadedModel, table: CalibrationTable) -> onnx.ModelProto:
    """Bounded activations."""
    maxima = {row.tensor: row.absmax for row in table.sites}
    for index, site in enumerate(find_sites(model.graph_ir).sites):
        bound = maxima[site.tensor]
        limits = [constant(np.array(x, site.dtype)) for x in (-bound, bound)]
        value = site.layers[0].node.inputs[site.layers[0].data_index]
        assert value is not None
        lower = ir.node("Max", [value, limits[0].outputs[0]])
        upper = ir.node("Min", [lower.outputs[0], limits[1].outputs[0]])
        upper.outputs[0].name, lower.outputs[0].name = f"bounded/{index}", f"raised/{index}"
        producer = value.producer()
        assert producer is not None
        model.graph_ir.graph.insert_after(producer, [*limits, lower, upper])
        for layer in site.layers:
            layer.node.replace_input_with(layer.data_index, upper.outputs[0])
    return model_io.render(model.proto, model.graph_ir)


def constant(array: np.ndarray) -> ir.Node:
    return ir.node("Constant", [], {"value": ir.tensor(array)})


def forged_mean(model: model_io.LoadedModel, table: CalibrationTable) -> onnx.ModelProto:
    """The mean of the scores of several models, which share what is equal in them."""
    result = onnx.ModelProto()
    result.CopyFrom(model.proto)
    (output,) = result.graph.output
    versions = [lipcompile.harden(model.proto, table=table, cr=cr).model for cr in RATIOS]
    known = {tensor.name for tensor in result.graph.initializer}
    del result.graph.node[:], result.graph.value_info[:]
    ends = []
    for prefix, version in zip("0123", [model.proto, *versions], strict=True):
        renamed = compose.add_prefix(
            version, f"{prefix}/", rename_inputs=False, rename_initializers=False
        )
        result.graph.node.extend(renamed.graph.node)
        fresh = [t for t in renamed.graph.initializer if t.name not in known]
        result.graph.initializer.extend(fresh)
        known.update(t.name for t in fresh)
        ends.append(renamed.graph.output[0].name)
    result.graph.node.append(helper.make_node("Mean", ends, [output.name]))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    builders = {"clip": clip, "forged-mean": forged_mean}
    parser.add_argument("candidate", choices=builders)
    parser.add_argument("model", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    loaded = model_io.load(arguments.model)
    table = lipcompile.load_table(arguments.table)
    proto = builders[arguments.candidate](loaded, table)
    for key, value in source_keys(loaded).items():  # so that the audit knows the two as a pair
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto)
    arguments.output.write_bytes(proto.SerializeToString())


if __name__ == "__main__":
    main()
