"""Serve an ONNX image classifier with ONNX Runtime, original or hardened: nothing changes.

A hardened model has the inputs and outputs of its original and standard operators only, so a
server needs nothing of LipCompile. What LipCompile says of the file travels inside of it, and
/metadata shows it.

    MODEL=model.hardened.onnx uvicorn --factory app:from_environment

MODEL     the model; one float input [N, C, H, W], one output [N, classes]
LABELS    names of the classes, one per line or as a JSON list (optional)
MEAN, STD one number or one per channel, for models that do not normalise by themselves:
          0.485,0.456,0.406
THREADS   of ONNX Runtime; 0 is one per core
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image

MAX_BYTES = 16 << 20
MAX_PIXELS = 64_000_000
MAX_ROWS = 64
TOP = 5
MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, slots=True)
class Classifier:
    """A model that is ready to run, and what is known of it."""

    session: onnxruntime.InferenceSession
    name: str
    digest: str
    labels: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    @property
    def input(self) -> Any:
        return self.session.get_inputs()[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.input.shape[1:]
        return channels, height, width

    @property
    def most_rows(self) -> int:
        """How many images one request may bring."""
        return 1 if isinstance(self.input.shape[0], int) else MAX_ROWS

    @property
    def provenance(self) -> dict[str, str]:
        """What LipCompile wrote into the file; nothing for an original."""
        metadata = self.session.get_modelmeta().custom_metadata_map
        return {
            key: metadata[key] for key in sorted(metadata) if key.startswith("lipcompile.")
        }

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Class scores [n, classes] of images [n, C, H, W] in [0, 1]."""
        feeds = {self.input.name: ((rows - self.mean) / self.std).astype(np.float32)}
        return self.session.run(None, feeds)[0].reshape(len(rows), -1)


def load(
    model: Path,
    labels: Path | None = None,
    mean: str = "0",
    std: str = "1",
    threads: int = 0,
) -> Classifier:
    """Loads a model; fails at the start of the server, not at its first request."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape
    fits = len(shape) == 4 and all(isinstance(axis, int) for axis in shape[1:])
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not fits:
        taken = [f"{item.name}: {item.type} {item.shape}" for item in inputs]
        raise ValueError(f"'{model}' takes {taken}, not one float image [N, C, H, W]")
    if shape[1] not in MODES:
        raise ValueError(f"'{model}' takes {shape[1]} channels, not 1 or 3")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ValueError(f"'{model}' takes batches of {shape[0]} only: export it with N or 1")
    names = () if labels is None else tuple(_names(labels))
    classes = outputs[0].shape[-1]
    if names and isinstance(classes, int) and len(names) != classes:
        raise ValueError(f"'{labels}' has {len(names)} names, and the model {classes} classes")
    return Classifier(
        session=session,
        name=model.name,
        digest=f"sha256:{hashlib.sha256(model.read_bytes()).hexdigest()}",
        labels=names,
        mean=_per_channel("MEAN", mean, shape[1]),
        std=_per_channel("STD", std, shape[1]),
    )


def _names(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    names = json.loads(text) if path.suffix == ".json" else text.splitlines()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"'{path}' is no list of names: give [name, name, ...]")
    return names


def _per_channel(what: str, text: str, channels: int) -> np.ndarray:
    numbers = np.array([float(word) for word in text.split(",")], np.float32)
    if len(numbers) not in (1, channels):
        raise ValueError(f"{what}={text} has {len(numbers)} numbers, for {channels} channels")
    if not np.isfinite(numbers).all() or (what == "STD" and not numbers.all()):
        raise ValueError(f"{what}={text} cannot be used: finite numbers, and no STD of 0")
    return numbers.reshape(-1, 1, 1)


def create_app(classifier: Classifier) -> FastAPI:
    """The server of one model."""
    app = FastAPI(title="ONNX classifier", version=classifier.digest[:19])

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metadata")
    def metadata() -> dict[str, Any]:
        return {
            "model": classifier.name,
            "digest": classifier.digest,
            "hardened": "lipcompile.source" in classifier.provenance,
            "provenance": classifier.provenance,
            "input": {"name": classifier.input.name, "shape": list(classifier.image_shape)},
            "classes": list(classifier.labels),
        }

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BYTES:  # before the rest of it takes memory
                raise HTTPException(413, f"the body has more than {MAX_BYTES} bytes")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        return await run_in_threadpool(_predict, classifier, kind, body)

    return app


def _predict(classifier: Classifier, kind: str, body: bytes) -> dict[str, Any]:
    if kind == "application/json":
        rows = rows_of_json(body, classifier.image_shape, classifier.most_rows)
    elif kind.startswith("image/"):
        rows = row_of_image(body, classifier.image_shape)
    else:
        raise refused(f"content type '{kind}' is neither image/* nor application/json")
    scores = classifier.scores(rows)
    if not np.isfinite(scores).all():
        raise HTTPException(500, "the model gave NaN or infinite scores")
    return {
        "model": classifier.name,
        "digest": classifier.digest,
        "predictions": [_prediction(row, classifier.labels) for row in scores],
    }


def _prediction(scores: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    best = np.argsort(-scores, kind="stable")[:TOP]
    named = [{"class": int(i), "score": float(scores[i])} for i in best]
    if labels:
        named = [item | {"label": labels[item["class"]]} for item in named]
    return named[0] | {"top": named}


def row_of_image(body: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """An encoded image as [1, C, H, W] in [0, 1]."""
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(body)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise refused(f"the image has {image.size} pixels, more than {MAX_PIXELS}")
            if image.mode.startswith(("I", "F")):  # convert would clip at 255
                raise refused(f"the image has mode '{image.mode}': send 8 bits per channel")
            fitted = image.convert(MODES[channels])
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise refused(f"the body is no image that can be read ({error})") from error
    if fitted.size != (width, height):
        fitted = fitted.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(fitted, np.float32).reshape(height, width, channels)
    return pixels.transpose(2, 0, 1)[None] / np.float32(255)


def rows_of_json(body: bytes, shape: tuple[int, int, int], most: int) -> np.ndarray:
    """A JSON array [C, H, W] or [n, C, H, W] of numbers in [0, 1]."""
    try:
        rows = np.array(json.loads(body), np.float32)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise refused(f"the body is no JSON array of numbers ({error})") from error
    if rows.ndim == 3:
        rows = rows[None]
    if rows.shape[1:] != shape or not 0 < len(rows) <= most:
        wanted = f"{list(shape)}, or up to {most} of that in one array"
        raise refused(f"the array has the shape {list(rows.shape)}, and {wanted} is taken")
    if not (np.isfinite(rows).all() and rows.min() >= 0 and rows.max() <= 1):
        raise refused("the array has numbers outside of [0, 1]: divide bytes by 255")
    return rows


def refused(reason: str) -> HTTPException:
    return HTTPException(422, reason)


def from_environment() -> FastAPI:
    """For uvicorn --factory."""
    if "MODEL" not in os.environ:
        raise SystemExit("set MODEL to the path of an ONNX model")
    labels = os.environ.get("LABELS")
    return create_app(
        load(
            Path(os.environ["MODEL"]),
            Path(labels) if labels else None,
            os.environ.get("MEAN", "0"),
            os.environ.get("STD", "1"),
            int(os.environ.get("THREADS", "0")),
        )
    )
