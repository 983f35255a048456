"""Where the pages are, how to read them, and the folder that their examples assume."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lipcompile import demo, errors
from lipcompile.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PROSE = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [ROOT / "docs" / "commands" / f"{name}.md" for name in COMMANDS]
CONFIGURATION = ROOT / "docs" / "configuration.md"  # flags that every command has
ERRORS = ROOT / "docs" / "errors.md"
PROGRAMS = [
    README,
    ROOT / "docs" / "python.md",
    ROOT / "docs" / "torchview.md",
    ROOT / "docs" / "writing_a_forged_function.md",
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    return [body for language, body in BLOCK.findall(text) if language in languages]


def error_classes() -> list[type[errors.LipCompileError]]:
    return [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.LipCompileError)
    ]


def sections(page: str) -> dict[str, str]:
    """Heading -> what stands below it, for headings that are one name in backticks."""
    parts = re.split(r"^#+ `(\w+)`$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def fill_folder(root: Path) -> None:
    """What the pages assume: model.onnx, calibration_images/, and inputs that go wrong."""
    shutil.copy(demo.MODEL, root / "model.onnx")
    shutil.copy(demo.TEST, root / "test.npz")
    images = sorted(demo.CALIBRATION.glob("*.png"))[:64]
    shards = {"shard_1": images[:32], "shard_2": images[32:], "calibration_images": images}
    for name, chosen in shards.items():
        (root / name).mkdir()
        for image in chosen:
            shutil.copy(image, root / name)
    (root / "external").mkdir()
    model = onnx.load(demo.MODEL)
    options = {"save_as_external_data": True, "location": "model.weights"}
    onnx.save(model, root / "external" / "model.onnx", size_threshold=0, **options)
    stack = np.zeros((4, 1, 28, 28), np.float32)
    stack[2] = 3e38
    np.save(root / "huge.npy", stack)
    np.save(root / "narrow.npy", np.ones((4, 6), np.float32))
    onnx.save(free_width_model(), root / "free_width.onnx")


def free_width_model() -> onnx.ModelProto:
    """Declares any width, and works for width 8 alone."""
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    nodes = []
    for i, source in enumerate(("x", "r0", "r1")):
        out = "y" if i == 2 else f"m{i}"
        nodes.append(helper.make_node("MatMul", [source, "w"], [out], f"fc{i}"))
        if i < 2:
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"]))
    ends = [helper.make_tensor_value_info(n, 1, ["n", "width"]) for n in "xy"]
    graph = helper.make_graph(nodes, "free_width", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
