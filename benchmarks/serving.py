"""What does hardening cost a user of a server, from request to answer?

`examples/serving/app.py` runs twice on loopback, in processes of their own, with the original
and with the hardened model. One client sends the same image to both, in turns that swap
places; a ratio is of the two answers of one pair. Beside it stands the ratio of the models
alone, since HTTP, decoding and JSON cost both servers the same.

    python benchmarks/serving.py [--model PATH] [--form smooth] [--cr 2^-7] [--pairs N]
        [--threads N] [--batch 1]

Without --model: the bundled classifier. Calibrated on its images, or on random data.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np

import lipcompile
from lipcompile import RuntimeOptions, demo, model_io
from lipcompile.measure import LatencyRatio, latency_ratio
from lipcompile.runtime import open_session

WARM_UP = 20
APP = Path(__file__).resolve().parents[1] / "examples" / "serving"


@contextlib.contextmanager
def server(model: Path, threads: int) -> Iterator[httpx.Client]:
    """The app with this model, and a client with one open connection to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "app:from_environment"]
    options = ["--port", str(port), "--log-level", "warning"]
    environment = {**os.environ, "MODEL": str(model), "THREADS": str(threads)}
    process = subprocess.Popen([*command, *options], cwd=APP, env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_for(client, process)
            yield client
    finally:
        process.terminate()
        process.wait()


def wait_for(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        with contextlib.suppress(httpx.TransportError):
            if client.get("/health").status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the server did not start within 30 s")


def answer(client: httpx.Client, body: bytes) -> float:
    """Seconds from request to answer."""
    headers = {"Content-Type": "application/json"}
    start = time.perf_counter()
    response = client.post("/predict", content=body, headers=headers)
    seconds = time.perf_counter() - start
    response.raise_for_status()
    return seconds


def measure(before: httpx.Client, after: httpx.Client, body: bytes, pairs: int) -> np.ndarray:
    """Seconds [pairs, 2] of both servers."""
    spent = np.zeros((pairs, 2))
    clients = (before, after)
    for pair in range(-WARM_UP, pairs):
        for column in (0, 1) if pair % 2 else (1, 0):
            seconds = answer(clients[column], body)
            if pair >= 0:
                spent[pair, column] = seconds
    return spent


def ratio_of(spent: np.ndarray) -> LatencyRatio:
    low, median, high = np.quantile(spent[:, 1] / spent[:, 0], [0.1, 0.5, 0.9])
    return LatencyRatio(float(median), float(low), float(high), len(spent))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=demo.MODEL)
    parser.add_argument("--form", default="smooth")
    parser.add_argument("--cr", default="2^-7")
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    bundled = arguments.model == demo.MODEL
    calib = str(demo.CALIBRATION) if bundled else "random:16"
    with tempfile.TemporaryDirectory() as folder:
        hardened = Path(folder) / "hardened.onnx"
        settings = {"form": arguments.form, "cr": arguments.cr, "output": hardened}
        lipcompile.harden(arguments.model, calib, **settings)
        (spec,) = model_io.load(arguments.model).inputs
        shape = (arguments.batch, *(spec.shape or ())[1:])
        rows = np.random.default_rng(0).random(shape).astype(np.float32).round(4)
        body = str(rows.tolist()).encode()
        options = RuntimeOptions(threads=arguments.threads, spinning=False)
        sessions = [open_session(path, options) for path in (arguments.model, hardened)]
        alone = latency_ratio(*sessions, {spec.name: rows}, pairs=arguments.pairs)
        with (
            server(arguments.model, arguments.threads) as before,
            server(hardened, arguments.threads) as after,
        ):
            spent = measure(before, after, body, arguments.pairs)
    original = 1000 * np.quantile(spent[:, 0], [0.1, 0.5, 0.9])
    print(f"{arguments.model.name}, {arguments.form} at {arguments.cr}: hardened / original")
    print(f"  request to answer  {ratio_of(spent)}")
    print(f"  the model alone    {alone}")
    print("  original, request to answer: {1:.2f} ms ({0:.2f} to {2:.2f})".format(*original))


if __name__ == "__main__":
    main()
