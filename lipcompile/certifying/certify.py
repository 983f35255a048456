"""certify(): the one place where the steps meet.

read images -> bound or smooth each model -> radii
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lipcompile import model_io
from lipcompile.abstaining.wrapping import take_off
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.certifying import requirements  # noqa: F401  (before scipy is imported)
from lipcompile.certifying.lipschitz.bounds import lipschitz_bounds
from lipcompile.certifying.lipschitz.margins import radii_l2, read_logits
from lipcompile.certifying.options import Method, check_method, parse_radius
from lipcompile.certifying.results import CertifyResult, ModelCertificates
from lipcompile.certifying.smoothing.options import SmoothingOptions
from lipcompile.certifying.smoothing.run import smooth
from lipcompile.errors import ModelError, OptionError, OutputError
from lipcompile.gates import Gates
from lipcompile.labelled import LabelledImages, open_labelled
from lipcompile.model_io import LoadedModel
from lipcompile.records import SOURCE
from lipcompile.runtime import PACKAGES, RuntimeOptions, package_version
from lipcompile.scores import class_count
from lipcompile.statistics import near_chance
from lipcompile.version import __version__

Notify = Callable[[str], None]


def certify(
    model: object,
    data: object,
    *,
    original: object = None,
    method: Method = "lipschitz",
    norm: Literal["l2"] = "l2",
    eps: float | str | None = None,
    smoothing: SmoothingOptions | None = None,
    samples: int | None = 500,
    data_seed: int = 0,
    scores: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    classes: Any = None,
    preprocess: Preprocess | str | Path | Mapping[str, Any] | None = None,
    image_flags: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    runtime: RuntimeOptions | None = None,
    min_certified_accuracy: float | None = None,
    journal: str | os.PathLike[str] | None = None,
    notify: Notify | None = None,
) -> CertifyResult:
    """Proves of each image how far it can be perturbed before the class may change.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or graphsurgeon `Graph`.
        data: Labelled images: a folder of class folders, a CSV, .npz, a pair of arrays, or
            `LabelledImages` as they are.
        original: A model to compare it with on the same images.
        method: "lipschitz" bounds the logits of the deployed graph (arXiv 2310.00116);
            "smoothing" certifies the model under Gaussian noise (arXiv 1902.02918).
        norm: "l2", over all pixel values of an image.
        eps: Radius to ask about, in pixel units before normalisation: 0.5 or "36/255".
        smoothing: Settings of "smoothing"; its procedure "test" needs `eps` as its radius.
        samples: At most so many images, drawn by `data_seed`; None takes all.
        data_seed: Of the subset that `samples` draws.
        scores: The model output with the class scores, where it has several.
        labels: Labels that are not in the data itself: CSV or JSON.
        classes: Class names by index: a list, or a file with them.
        preprocess: How images become inputs, as in `ScanOptions`.
        image_flags: Keyword arguments of `preprocess.resolve.resolve`, as in `ScanOptions`.
        batch_size: Images per run; None chooses. It changes no result.
        runtime: Execution providers and threads.
        min_certified_accuracy: Gate: least certified accuracy of `model` at `eps`, in [0, 1].
        journal: Folder for counts of smoothing, from which an interrupted run goes on.
        notify: Told what was done, line by line.

    Returns:
        The result; gates that do not hold are in `failed_gates`.

    Raises:
        LipCompileError: See `lipcompile.errors`. A model without a finite bound is a
            ModelError that names the part.
    """
    begin = time.perf_counter()
    radius = parse_radius(eps)
    gates = Gates(min_certified_accuracy=min_certified_accuracy)
    _check(method, norm, radius, smoothing, min_certified_accuracy)
    _check_batch(batch_size)
    given = [model_io.load(one) for one in (original, model) if one is not None]
    loaded = [take_off(one)[0] for one in given]  # an abstain head is no class
    _check_alike(loaded)
    images = data
    if not isinstance(images, LabelledImages):
        images = open_labelled(
            data,
            loaded[-1].inputs,
            num_classes=class_count(loaded[-1], scores),
            model=loaded[-1].name,
            samples=samples,
            seed=data_seed,
            labels=labels,
            classes=classes,
            preprocess=preprocess,
            image_flags=image_flags,
        )
    folder = Path(journal) if journal is not None else None
    ask = _Ask(images, runtime or RuntimeOptions(), scores, batch_size, folder, notify)
    if smoothing is None:
        found = [ask.bound(one) for one in loaded]
    else:
        found = [ask.smooth(one, smoothing) for one in loaded]
    result = CertifyResult(
        model=found[-1],
        original=found[0] if len(found) > 1 else None,
        method=method,
        eps=radius,
        smoothing=smoothing,
        labels=images.labels,
        names=images.names,
        data=images.to_record(),
        run={"data_seed": data_seed, "providers": list(ask.runtime.providers)},
        notes=_notes(found),
        versions=_versions(),
        seconds=time.perf_counter() - begin,
    )
    return replace(result, gates=_judge(gates, result))


def _check(
    method: str,
    norm: str,
    eps: float | None,
    smoothing: SmoothingOptions | None,
    gate: float | None,
) -> None:
    check_method(method, norm)
    if (smoothing is None) is (method == "smoothing"):
        raise OptionError(
            f"method '{method}' with smoothing = {smoothing}: give settings (--sigma) for "
            "method smoothing, and for it alone"
        )
    if smoothing is not None and smoothing.radius is not None and smoothing.radius != eps:
        raise OptionError(
            f"eps = {eps} and the radius {smoothing.radius:g} of the test differ: give one"
        )
    if smoothing is not None and smoothing.procedure == "predict" and eps is not None:
        raise OptionError(
            f"procedure predict names classes and certifies no radius: leave --eps {eps:g} "
            "out, or use procedure certify or test"
        )
    if gate is not None and eps is None:
        raise OptionError(
            "--min-certified-accuracy is about a radius, and none is named: add --eps"
        )


def _check_batch(batch: int | None) -> None:
    if batch is not None and batch < 1:
        raise OptionError(f"--batch-size {batch} is out of range: it must be at least 1")


def _check_alike(loaded: list[LoadedModel]) -> None:
    """Two models take the same images.

    Raises:
        ModelError: They do not, or belong to different originals.
    """
    if len(loaded) < 2:
        return
    before, after = loaded
    pairs = zip(before.inputs, after.inputs, strict=False)
    if len(before.inputs) != len(after.inputs) or any(
        (a.dtype, a.shape) != (b.dtype, b.shape) for a, b in pairs
    ):
        raise ModelError(
            f"'{after.name}' takes {[str(s) for s in after.inputs]} and '{before.name}' takes "
            f"{[str(s) for s in before.inputs]}: the two cannot be compared on the same images"
        )
    source = after.metadata.get(SOURCE)
    if source is not None and source != before.digest:
        raise ModelError(
            f"'{after.name}' was made from a model with digest {source[:19]}..., and "
            f"'{before.name}' has {before.digest[:19]}...: name its own original with "
            "--original"
        )


@dataclass(frozen=True, slots=True)
class _Ask:
    """What is the same for every model.

    Attributes:
        images: Labelled images.
        runtime: Providers and threads.
        scores: The output with the scores.
        batch: Images per run.
        journal: Folder of journals.
        notify: Told what was done.
    """

    images: LabelledImages
    runtime: RuntimeOptions
    scores: str | None
    batch: int | None
    journal: Path | None
    notify: Notify | None

    def bound(self, model: LoadedModel) -> ModelCertificates:
        """By Lipschitz bounds."""
        images = self.images
        dims: tuple[int, int, int] = images.pixels.shape[1:]
        bounds = lipschitz_bounds(model, images.normalisation, dims, self.scores)
        self._tell(f"bounded '{model.name}'")
        logits = read_logits(model, images, self.runtime, self.scores, self.batch)
        images.check_labels(logits.shape[1], model.name)
        found = logits.argmax(axis=1)
        radii = radii_l2(logits, bounds, images.pixels[0].size)
        right = found == images.labels
        chance = near_chance(right, logits.shape[1], "the model")
        notes = (*bounds.notes, *([] if chance is None else [chance]))
        return _certificates(model, found, right, radii, bounds=bounds, notes=notes)

    def smooth(self, model: LoadedModel, options: SmoothingOptions) -> ModelCertificates:
        """By randomized smoothing."""
        run = smooth(
            model,
            self.images,
            replace(options, batch=self.batch),
            self.runtime,
            scores=self.scores,
            journal=self._journal(model),
            notify=self.notify,
        )
        found = [-1 if outcome.label is None else outcome.label for outcome in run.outcomes]
        radii = np.array([outcome.radius_l2 for outcome in run.outcomes])
        return _certificates(
            model, np.array(found), run.right, radii, outcomes=run.outcomes, notes=run.notes
        )

    def _journal(self, model: LoadedModel) -> Path | None:
        if self.journal is None:
            return None
        try:
            self.journal.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"the journal folder '{self.journal}' cannot be made ({error.strerror}): name "
                "another with --journal"
            ) from error
        return self.journal / f"{model.digest.removeprefix('sha256:')[:40]}.json"

    def _tell(self, line: str) -> None:
        if self.notify is not None:
            self.notify(line)


def _certificates(
    model: LoadedModel, found: np.ndarray, right: np.ndarray, radii: np.ndarray, **more: Any
) -> ModelCertificates:
    source = model.metadata.get(SOURCE)
    return ModelCertificates(model.name, model.digest, source, found, right, radii, **more)


def _notes(found: list[ModelCertificates]) -> tuple[str, ...]:
    notes = [(one.name, note) for one in found for note in one.notes]
    if len(found) == 1:
        return tuple(note for _, note in notes)
    return tuple(f"{name}: {note}" for name, note in notes)


def _judge(gates: Gates, result: CertifyResult) -> tuple[Any, ...]:
    if result.eps is None:
        return ()
    return gates.certified_accuracy(float(result.model.certified(result.eps).mean()))


def _versions() -> dict[str, str]:
    names = ("numpy", "scipy", *PACKAGES)
    found = {name: version for name in names if (version := package_version(name))}
    return {"lipcompile": __version__, **found}
