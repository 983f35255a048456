"""The same images give the same table, whatever they lie in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import lipcompile
from lipcompile import CalibrationTable, ScanOptions, Selector
from tests.calibration.sources.data import encoded, put
from tests.calibration.sources.shards import tar

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 12, 12] x) => (float[N, 5] y)
{
    c = Conv <pads = [1, 1, 1, 1]> (x, w0)
    r = Relu (c)
    d = Conv <pads = [1, 1, 1, 1]> (r, w1)
    g = GlobalAveragePool (d)
    f = Flatten (g)
    y = MatMul (f, w2)
}
"""


def network() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(3)
    for name, shape in {"w0": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "w2": (8, 5)}.items():
        weight = rng.normal(size=shape).astype("float32")
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    return model


NETWORK = network()


def table(data: object, **options: object) -> CalibrationTable:
    scan = ScanOptions(**options)
    return lipcompile.calibrate(NETWORK, data, selector=Selector("all"), scan=scan)


@pytest.fixture
def images(tmp_path: Path) -> dict[str, bytes]:
    files = {f"{i:03d}.jpg": encoded(i, (20 + i, 17), "JPEG") for i in range(30)}
    put(tmp_path / "plain", files)
    return files


def in_tars(root: Path, images: dict[str, bytes]) -> object:
    for number in range(3):
        tar(root / "tars" / f"s-{number}.tar", dict(list(images.items())[number::3]))
    return root / "tars"


def in_parquet(root: Path, images: dict[str, bytes]) -> object:
    pq = pytest.importorskip("pyarrow.parquet")
    path = root / "t.parquet"
    pq.write_table(_pictures(images), path, row_group_size=7)
    return path


def in_arrow(root: Path, images: dict[str, bytes]) -> object:
    pa = pytest.importorskip("pyarrow")
    rows = _pictures(images)
    with pa.ipc.new_stream(root / "t.arrow", rows.schema) as writer:
        writer.write_table(rows, 7)
    return str(root / "t.arrow")


def _pictures(images: dict[str, bytes]):
    pa = pytest.importorskip("pyarrow")
    return pa.table({"image": [{"bytes": data, "path": None} for data in images.values()]})


def behind_a_url(root: Path, images: dict[str, bytes]) -> object:
    pytest.importorskip("fsspec")
    return f"file://{root}/plain"


@pytest.mark.parametrize("put_in", [in_tars, in_parquet, in_arrow, behind_a_url])
def test_thresholds_do_not_depend_on_what_the_images_lie_in(tmp_path: Path, images, put_in):
    want = table(tmp_path / "plain")
    got = table(put_in(tmp_path, images))
    assert got.digest == want.digest
    assert (got.sites, got.data.digest, got.data.samples) == (
        want.sites,
        want.data.digest,
        want.data.samples,
    )
    assert (got.preprocess, got.input_range) == (want.preprocess, want.input_range)
    (tmp_path / "plain" / "003.jpg").write_bytes(images["004.jpg"])
    assert table(tmp_path / "plain").digest != want.digest
