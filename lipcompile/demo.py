"""The demo: harden a bundled classifier on bundled images, measure it, and write a report.

The model is a small residual network for Fashion-MNIST, adversarially trained at eps_linf
= 0.1 by `examples/train_demo_model.py`; the images are Zalando's (MIT licence).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from lipcompile import atomic
from lipcompile.calibration.scan import Progress
from lipcompile.compiler import harden
from lipcompile.errors import MissingExtraError, OutputError
from lipcompile.findings import Judged, document_text
from lipcompile.measure import LatencyRatio, latency_ratio, predictions
from lipcompile.results import HardenResult
from lipcompile.runtime import RuntimeOptions, Session, open_session
from lipcompile.text import percent, table

ASSETS = Path(str(files("lipcompile"))) / "demo_assets"
MODEL = ASSETS / "fashion_mnist_adv.onnx"
CALIBRATION = ASSETS / "calibration"
TEST = ASSETS / "test.npz"
_AFTERWORD = """\
This shows what hardening costs. It does not show that the model is more robust: that takes
attacks which know of the forged functions, which is what "lipcompile audit" runs.

Try next:
  lipcompile sweep YOUR_MODEL.onnx --calib YOUR_IMAGES/ --data LABELLED/ -o sweep.json
  lipcompile audit HARDENED.onnx --original YOUR_MODEL.onnx --data LABELLED/ --eps 8/255
  lipcompile harden YOUR_MODEL.onnx --calib YOUR_IMAGES/ --cr 2^-7
  lipcompile inspect YOUR_MODEL.onnx --rule all"""

_WRITTEN = ("harden.json", "sweep.json", "report.html")
_NO_REPORT = 'none: pip install "lipcompile[report]" to have one'


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        hardened: The result of hardening.
        samples: Number of labelled test images.
        accuracy_before: Share of them that the original classifies correctly.
        accuracy_after: The same for the hardened model.
        changed: How many test images get another class than before.
        latency: Latency of the hardened model over the original's, at batch 1.
        report: The page with all of it and a sweep of other settings; None without the extra
            that writes it.
    """

    hardened: HardenResult
    samples: int
    accuracy_before: float
    accuracy_after: float
    changed: int
    latency: LatencyRatio
    report: Path | None

    def to_json(self) -> dict[str, Any]:
        return {
            "harden": self.hardened.to_json(),
            "test_samples": self.samples,
            "accuracy_before": self.accuracy_before,
            "accuracy_after": self.accuracy_after,
            "changed": self.changed,
            "latency_ratio": {
                "median": self.latency.median,
                "low": self.latency.low,
                "high": self.latency.high,
                "pairs": self.latency.pairs,
            },
            "report": str(self.report) if self.report is not None else None,
        }

    def __str__(self) -> str:
        before, after = percent(self.accuracy_before), percent(self.accuracy_after)
        rows = (
            ("clean accuracy", f"{before} before, {after} after"),
            (
                "",
                f"({self.samples} labelled test images, {self.changed} classified otherwise)",
            ),
            ("latency", f"{self.latency} of the original's, batch 1"),
            ("original", str(MODEL)),
            ("calibration", str(CALIBRATION)),
            ("test images", str(TEST)),
            ("hardened", str(self.hardened.output)),
            ("report", str(self.report) if self.report is not None else _NO_REPORT),
        )
        measured = table(("measured", "value"), rows)[1:]
        return "\n".join([str(self.hardened), "", *measured, "", _AFTERWORD])


def run_demo(
    output_dir: Path, *, force: bool = False, progress: Progress | None = None
) -> DemoResult:
    """Hardens the bundled model into `output_dir`, measures it, and writes a report.

    Raises:
        LipCompileError: As `harden`; for example when the output exists and `force` is off.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"folder '{output_dir}' cannot be made ({error.strerror}): name another with "
            "--output-dir"
        ) from error
    output = output_dir / "fashion_mnist_adv.hardened.onnx"
    for path in (output, *(output_dir / name for name in _WRITTEN)):
        if path.exists() and not force:
            raise OutputError(
                f"'{path}' exists, as from an earlier demo: pass --force to replace it, or "
                "name another folder with --output-dir"
            )
    hardened = harden(MODEL, CALIBRATION, output=output, force=force, progress=progress)
    taking_turns = RuntimeOptions(spinning=False)
    before, after = open_session(MODEL, taking_turns), open_session(output, taking_turns)
    images, labels = load_test_images()
    old, new = (_classify(session, images) for session in (before, after))
    return DemoResult(
        hardened=hardened,
        samples=len(labels),
        accuracy_before=float((old == labels).mean()),
        accuracy_after=float((new == labels).mean()),
        changed=int((old != new).sum()),
        latency=latency_ratio(before, after, {"image": images[:1]}),
        report=_report(hardened, output_dir),
    )


def _report(hardened: HardenResult, folder: Path) -> Path | None:
    """Sweeps other settings, and writes what both say: JSON, and one page of HTML."""
    try:
        from lipcompile.report import read_report, write_report
        from lipcompile.sweeping.sweep import sweep

        swept = sweep(MODEL, CALIBRATION, TEST)
        *files, page = (folder / name for name in _WRITTEN)
        results: tuple[Judged, ...] = (hardened, swept)
        for path, result in zip(files, results, strict=True):
            atomic.write_bytes(path, document_text(result).encode())
        write_report(read_report(files), [page], force=True)
    except MissingExtraError:
        return None
    return page


def load_test_images() -> tuple[np.ndarray, np.ndarray]:
    """The bundled test images, float32 [1000, 1, 28, 28] in [0, 1], and labels [1000]."""
    with np.load(TEST, allow_pickle=False) as content:
        images = content["images"][:, None].astype(np.float32) / np.float32(255)
        return images, content["labels"].astype(np.int64)


def _classify(session: Session, images: np.ndarray) -> np.ndarray:
    return predictions(session, "image", np.split(images, range(100, len(images), 100)))
