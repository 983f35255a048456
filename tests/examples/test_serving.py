"""examples/serving/app.py with the bundled classifier, as it came and hardened."""

from __future__ import annotations

import importlib.util
import io
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import lipcompile
from lipcompile import demo

APP = Path(__file__).parents[2] / "examples" / "serving" / "app.py"
LABELS = demo.ASSETS / "classes.json"


@pytest.fixture(scope="module")
def app() -> Iterator[ModuleType]:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    spec = importlib.util.spec_from_file_location("serving_example", APP)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("served") / "hardened.onnx"
    lipcompile.harden(demo.MODEL, str(demo.CALIBRATION), output=output)
    return output


@pytest.fixture(params=["original", "hardened"])
def model(request: pytest.FixtureRequest, hardened: Path) -> Path:
    return demo.MODEL if request.param == "original" else hardened


def client_of(app: ModuleType, model: Path, labels: Path | None = LABELS) -> Any:
    testclient = pytest.importorskip("fastapi.testclient")
    return testclient.TestClient(app.create_app(app.load(model, labels)))


def test_images_and_arrays_get_the_class_that_the_model_gives(
    app: ModuleType, model: Path
) -> None:
    client = client_of(app, model)
    images, labels = (part[:40] for part in demo.load_test_images())
    answer = client.post("/predict", json=images.tolist())
    assert answer.status_code == 200
    found = [item["class"] for item in answer.json()["predictions"]]
    session = lipcompile.runtime.open_session(model, lipcompile.RuntimeOptions())
    scores = session.run(["logits"], {"image": images})["logits"]
    assert found == scores.argmax(1).tolist()
    assert (np.array(found) == labels).mean() > 0.7
    png = io.BytesIO()
    Image.fromarray((images[0, 0] * 255).astype(np.uint8)).save(png, "PNG")
    one = client.post(
        "/predict", content=png.getvalue(), headers={"Content-Type": "image/png"}
    )
    (prediction,) = one.json()["predictions"]
    assert prediction["class"] == found[0]
    assert prediction["label"] == json.loads(LABELS.read_text())[found[0]]
    assert prediction["score"] == pytest.approx(float(scores[0].max()), abs=1e-4)
    assert len(prediction["top"]) == 5
    assert one.json()["digest"].startswith("sha256:")


def test_other_sizes_and_modes_are_converted(app: ModuleType, hardened: Path) -> None:
    client = client_of(app, hardened)
    jpeg = io.BytesIO()
    Image.new("RGB", (50, 40), (200, 10, 10)).save(jpeg, "JPEG")
    headers = {"Content-Type": "image/jpeg"}
    assert client.post("/predict", content=jpeg.getvalue(), headers=headers).status_code == 200


def test_metadata_tells_a_hardened_file_from_its_original(
    app: ModuleType, hardened: Path
) -> None:
    told = client_of(app, hardened).get("/metadata").json()
    assert told["hardened"] is True
    assert told["provenance"]["lipcompile.form"] == "smooth"
    assert told["provenance"]["lipcompile.c_r"] == "0.0078125"
    assert told["input"] == {"name": "image", "shape": [1, 28, 28]}
    original = client_of(app, demo.MODEL).get("/metadata").json()
    assert (original["hardened"], original["provenance"]) == (False, {})
    assert original["digest"] != told["digest"]
    assert client_of(app, demo.MODEL).get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_images_that_would_be_clipped_are_refused(
    app: ModuleType, hardened: Path, mode: str
) -> None:
    body = io.BytesIO()
    Image.new(mode, (28, 28), 40_000).save(body, "TIFF")
    answer = client_of(app, hardened).post(
        "/predict", content=body.getvalue(), headers={"Content-Type": "image/tiff"}
    )
    assert answer.status_code == 422
    assert f"the image has mode '{mode}': send 8 bits" in answer.json()["detail"]


def bomb() -> bytes:
    """A PNG of few bytes that says it has 400 million pixels."""
    png = io.BytesIO()
    Image.new("L", (1, 1)).save(png, "PNG")
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + png.getvalue()[24:29]
    checksum = struct.pack(">I", zlib.crc32(header))
    return png.getvalue()[:12] + header + checksum + png.getvalue()[33:]


IMAGE = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("content", "headers", "reason"),
    [
        (b"no image", IMAGE, "no image that can be read"),
        (b"", IMAGE, "no image that can be read"),
        (bomb(), IMAGE, "exceeds limit"),
        (b"[[1, 2", JSON, "no JSON array of numbers"),
        (b'{"a": 1}', JSON, "no JSON array of numbers"),
        (b"[[1], [1, 2]]", JSON, "no JSON array of numbers"),
        (b"[" * 100_000, JSON, "no JSON array of numbers"),
        (b"[1, 2, 3]", JSON, "has the shape [3], and [1, 28, 28]"),
        (b"[]", JSON, "has the shape [0]"),
        (json.dumps(np.full((1, 28, 28), 255.0).tolist()).encode(), JSON, "outside of [0, 1]"),
        (
            json.dumps(np.full((1, 28, 28), float("nan")).tolist()).encode(),
            JSON,
            "outside of [0, 1]",
        ),
        (b"[[[" + b"9" * 400 + b"]]]", JSON, "no JSON array of numbers"),
        (b"x", {"Content-Type": "text/plain"}, "'text/plain' is neither image/* nor"),
    ],
    ids=[
        *(
            "noise",
            "empty",
            "bomb",
            "cut",
            "object",
            "ragged",
            "deep",
            "rank",
            "nothing",
            "bytes",
        ),
        *("nan", "digits", "type"),
    ],
)
def test_requests_that_cannot_be_used_get_422_and_the_reason(
    app: ModuleType, content: bytes, headers: dict[str, str], reason: str
) -> None:
    answer = client_of(app, demo.MODEL).post("/predict", content=content, headers=headers)
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]


def test_bodies_that_are_too_large_are_refused(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MAX_BYTES", 10)
    answer = client_of(app, demo.MODEL).post("/predict", content=b"x" * 11, headers=IMAGE)
    assert answer.status_code == 413


def test_labels_have_to_fit_the_model(app: ModuleType, tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("a\nb\n")
    with pytest.raises(ValueError, match="has 2 names, and the model 10 classes"):
        app.load(demo.MODEL, few)


def test_labels_have_to_be_a_list(app: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    for names in ({str(i): "a" for i in range(10)}, list(range(10))):
        path.write_text(json.dumps(names))
        with pytest.raises(ValueError, match=r"names.json' is no list of names"):
            app.load(demo.MODEL, path)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"mean": "0,0,0"}, "MEAN=0,0,0 has 3 numbers, for 1 channels"),
        ({"std": "1,1"}, "STD=1,1 has 2 numbers, for 1 channels"),
        ({"std": "0"}, "STD=0 cannot be used"),
        ({"mean": "nan"}, "MEAN=nan cannot be used"),
    ],
    ids=["mean", "std", "zero", "nan"],
)
def test_planted_bad_normalisation_stops_the_start(
    app: ModuleType, settings: dict[str, str], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        app.load(demo.MODEL, **settings)


def with_batch(size: int, path: Path) -> Path:
    model = onnx.load(demo.MODEL)
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = size
    onnx.save(model, path)
    return path


def test_a_fixed_batch_takes_one_row(app: ModuleType, tmp_path: Path) -> None:
    client = client_of(app, with_batch(1, tmp_path / "one.onnx"))
    row = np.zeros((1, 28, 28)).tolist()
    assert client.post("/predict", json=[row]).status_code == 200
    answer = client.post("/predict", json=[row, row])
    assert answer.status_code == 422
    assert "has the shape [2, 1, 28, 28]" in answer.json()["detail"]
    with pytest.raises(ValueError, match="takes batches of 4 only: export it with N or 1"):
        app.load(with_batch(4, tmp_path / "four.onnx"))


def test_the_server_is_made_from_the_environment(
    app: ModuleType, hardened: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODEL", raising=False)
    with pytest.raises(SystemExit, match="set MODEL"):
        app.from_environment()
    monkeypatch.setenv("MODEL", str(hardened))
    monkeypatch.setenv("STD", "0.5")
    assert app.from_environment().title == "ONNX classifier"
