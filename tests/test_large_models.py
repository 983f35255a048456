"""A model of several gigabytes, whose weights stay on disk: in a file that is a hole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from lipcompile import CalibrationTable, model_io
from lipcompile.calibration.table import DataRecord, SiteRange
from lipcompile.sites import find_sites

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads its memory from Linux's /proc"
)
SIDE = 4096
LIMIT_MB = 200
LAYER_MB = 4 * SIDE * SIDE >> 20

# The peak of the process itself: `ru_maxrss` of a child begins with that of its parent.
CHILD = """
import sys
from lipcompile import checks
from lipcompile.cli.main import run
{plant}
code = run(sys.argv[1:])
print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])
sys.exit(code)
"""
READ_ALL = """
from dataclasses import replace
honest = checks._open
checks._open = lambda source, proto, options: honest(
    source, proto, replace(options, optimize=True, prepack=True)
)
"""


def external(name: str, offset: int, length: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[SIDE, SIDE])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def large_model(folder: Path, layers: int) -> Path:
    """MatMul and Relu, 64 MiB of zeros each, and a table for it."""
    nodes, tensors, x, size = [], [], "x", 4 * SIDE * SIDE
    for i in range(layers):
        tensors.append(external(f"w{i}", i * size, size))
        nodes.append(helper.make_node("MatMul", [x, f"w{i}"], [f"m{i}"], f"fc{i}"))
        x = f"r{i}" if i < layers - 1 else "y"
        nodes.append(helper.make_node("Relu", [f"m{i}"], [x], f"relu{i}"))
    ends = [helper.make_tensor_value_info(e, TensorProto.FLOAT, ["N", SIDE]) for e in "xy"]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with open(folder / "w.bin", "wb") as stream:
        stream.truncate(layers * size)
    path = folder / "large.onnx"
    path.write_bytes(model.SerializeToString())
    loaded = model_io.load(path)
    sites = find_sites(loaded.graph_ir).sites
    rows = tuple(SiteRange(site.tensor, site.dtype, 1.0) for site in sites)
    record = DataRecord("npz", "made up", 1, "0" * 64)
    table = CalibrationTable(loaded.digest, path.name, rows, record, None, {}, "none")
    table.save(folder / "table.json")
    return path


def peak_mb(model: Path, plant: str = "") -> float:
    """Resident memory of the whole command at its peak, mapped pages included."""
    flags = ["--table", model.with_name("table.json"), "--dry-run", "-q"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(plant=plant), "harden", model, *flags],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout) / 1024


def test_hardening_from_a_table_reads_no_external_weight(tmp_path: Path) -> None:
    assert peak_mb(large_model(tmp_path, 8192 // LAYER_MB)) < LIMIT_MB


def test_planted_reading_of_the_weights_is_caught(tmp_path: Path) -> None:
    assert peak_mb(large_model(tmp_path, 512 // LAYER_MB), READ_ALL) > LIMIT_MB
