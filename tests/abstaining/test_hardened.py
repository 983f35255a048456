"""harden --abstain and --lipschitz as a whole: files, provenance, and the way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import lipcompile
from lipcompile import AbstainOptions, LipschitzOptions, ScanOptions, Selector, model_io
from lipcompile.abstaining.head import plan_abstention
from lipcompile.abstaining.wrapping import put_on
from lipcompile.cli import main
from lipcompile.demo import CALIBRATION, MODEL, load_test_images
from lipcompile.errors import DataError, ModelError, OptionError
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.labelled.pixel_domain import PixelDomain
from lipcompile.report.wording import hardening
from lipcompile.torchview import torch_view
from tests.abstaining.heads import by_definition, images, linear, run
from tests.auditing.quick import QUICK
from tests.rescaling.networks import drawn_network

Call = Callable[..., tuple[int, str, str]]
DEMO = PixelDomain(Normalisation(), (1, 28, 28))
GREY = ScanOptions(image_flags={"mean": (0.4,), "std": (0.25,)})


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run_it(*arguments: str) -> tuple[int, str, str]:
        code = main.run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_it


def perceptron(seed: int = 0) -> onnx.ModelProto:
    """Two dense layers on grey images of 5 by 5 pixels, 3 classes."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17], producer_name: "maker"> '
        "g (float[N,1,5,5] x) => (float[N,3] y) "
        "{ f = Flatten(x) a = Gemm(f, W, B) h = Relu(a) y = Gemm(h, V, C) }"
    )
    rng = np.random.default_rng(seed)
    shapes = {"W": (25, 8), "B": (8,), "V": (8, 3), "C": (3,)}
    for name, shape in shapes.items():
        array = rng.normal(size=shape).astype(np.float32) / np.float32(np.sqrt(shape[0]))
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def write(proto: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(perceptron(), tmp_path)


KINDS: dict[str, dict[str, Any]] = {
    "logit": {"abstain": 0.05},
    "bool": {"abstain": AbstainOptions(0.05, "bool")},
    "top 2": {"abstain": AbstainOptions(0.05, "logit", 2)},
    "rescaled": {"lipschitz": 1.0},
    "rescaled, logit": {"lipschitz": 1.0, "abstain": 0.05},
    "smooth, bool": {"abstain": AbstainOptions(0.05, "bool"), "form": "smooth", "cr": 0.05},
    "soft, logit": {"abstain": 0.05, "form": "soft", "cr": 0.05},
    "weight, rescaled": {"lipschitz": 2.0, "variant": "weight", "cr": 0.3, "zero_rate": 0.5},
    "weight, logit": {"abstain": 0.05, "variant": "weight", "cr": 0.3, "zero_rate": 0.5},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def harden(path: Path, kind: str, **more: Any) -> lipcompile.HardenResult:
    options = {"scan": GREY, "output": path.with_name("hardened.onnx"), **KINDS[kind], **more}
    if {"cr", "variant"} & KINDS[kind].keys():
        options["selector"] = Selector("all")
    return lipcompile.harden(path, "random:8", **options)


# The whole way


@kinds
def test_verify_and_strip(kind: str, path: Path) -> None:
    result = harden(path, kind)
    first = result.output.read_bytes() if result.output else b""
    assert harden(path, kind, force=True).output.read_bytes() == first  # type: ignore[union-attr]
    verified = lipcompile.verify(path, result.output, pairs=0)
    assert verified.holds, str(verified)
    assert ("abstain head" in str(verified)) is ("abstain" in KINDS[kind])
    assert ("product bound" in str(verified)) is ("lipschitz" in KINDS[kind])
    assert result.agreement is not None
    if result.request.variant == "none":
        assert result.agreement.top1 == 1.0
        assert result.agreement.max_difference < 1e-5
    if "rescaled" in kind or "weight" in kind:
        what = "variant weight" if "weight" in kind else "was rescaled to a product bound of"
        with pytest.raises(ModelError, match=rf"{what}.*take the original, sha256:"):
            lipcompile.strip(result.output)
    else:
        stripped = lipcompile.strip(result.output)
        assert stripped.identical
        assert stripped.output.read_bytes() == path.read_bytes()  # type: ignore[union-attr]
        assert "abstain head taken off (" in str(stripped)


@kinds
def test_nothing_is_hardened_twice(kind: str, path: Path) -> None:
    output = harden(path, kind).output
    what = "has an abstain head" if "abstain" in KINDS[kind] else "is rescaled"
    for options in ({"cr": 0.1, "force": True}, {"ensemble": "flip"}, {"abstain": 1.0}):
        with pytest.raises(ModelError, match=rf"{what} already, for the bounds of the model"):
            lipcompile.harden(output, "random:4", output=path.with_name("b.onnx"), **options)  # type: ignore[arg-type]


@kinds
def test_inspect_and_json_tell_of_it(kind: str, path: Path) -> None:
    result = harden(path, kind)
    assert result.output is not None
    document, seen = (
        json.loads(json.dumps(result.to_json())),
        lipcompile.inspect(result.output),
    )
    assert (document["lipschitz"] is None) is (seen.rescaled is None)
    assert (document["abstain"] is None) is (seen.abstains is None)
    for line in (seen.rescaled, seen.abstains):
        assert line is None or (line in str(seen) and line in str(result))
    told = hardening(document)
    assert ("product bound " in told) is (document["lipschitz"] is not None)
    assert ("abstains beyond eps_l2 = 0.05" in told) is (document["abstain"] is not None)
    layers = [row.layer for row in lipcompile.inspect(path).rows]
    assert [row.layer for row in seen.rows] == layers


def test_the_file_says_what_it_is_about(path: Path) -> None:
    output = harden(path, "rescaled, logit").output
    props = {prop.key: prop.value for prop in onnx.load(output).metadata_props}
    scaled, head = (json.loads(props[f"lipcompile.{k}"]) for k in ("lipschitz", "abstain"))
    assert scaled["bound"] == 1.0
    assert scaled["factor"] == 1.0 / scaled["product"]
    wanted = {"eps": 0.05, "norm": "l2", "as": "logit", "top": 1, "classes": 3, "length": 3}
    assert wanted.items() <= head.items()
    for record in (scaled, head):
        assert record["dims"] == [1, 5, 5]
        assert record["normalisation"]["std"] == [0.25]


def test_bounds_are_of_the_model_as_it_is_deployed(path: Path) -> None:
    """A rescaled model has a bound of 1, so that its head is that of a bound of 1."""
    result = harden(path, "rescaled, logit")
    assert result.abstention is not None
    scaled = lipcompile.harden(path, lipschitz=1.0, scan=GREY, output=path.with_name("s.onnx"))
    slopes = result.abstention.pixels.bounds(model_io.load(scaled.output), "y").pairwise
    x = GREY_RULE(images(100))
    (wide,) = run(onnx.load(result.output), x, "y")
    wanted = by_definition(wide[:, :3], slopes, 0.05)
    np.testing.assert_array_equal(wide.argmax(axis=1) != 3, wanted)


GREY_RULE = Normalisation(mean=(0.4,), std=(0.25,))


# What certified means


def test_certified_rows_of_the_demo_model_are_those_of_numpy() -> None:
    x, _ = load_test_images()
    x = x[:300]
    (scores,) = run(onnx.load(MODEL), x, "logits")
    loaded = model_io.load(MODEL)
    bounds = DEMO.bounds(loaded, "logits")
    slopes = bounds.pairwise
    eps = float(np.median(np.diff(np.sort(scores, axis=1)[:, -2:]))) / float(slopes.max())
    wanted = by_definition(scores, slopes, eps)
    assert 0.1 < wanted.mean() < 0.9
    for kind in ("logit", "bool"):
        options = AbstainOptions(eps, kind)  # type: ignore[arg-type]
        model = put_on(loaded, loaded.proto, plan_abstention(loaded, options, DEMO, bounds))
        outputs = run(model, x, *(["logits"] + ["certified"] * (kind == "bool")))
        np.testing.assert_array_equal(outputs[0][:, :10], scores)
        flags = outputs[1] if kind == "bool" else outputs[0].argmax(axis=1) != 10
        np.testing.assert_array_equal(flags, wanted)


@pytest.mark.parametrize("seed", range(3))
def test_no_attack_within_eps_changes_a_certified_answer(seed: int, tmp_path: Path) -> None:
    """L2 PGD on pixels; of the answers that are not certified it does change some."""
    original = write(perceptron(seed), tmp_path)
    eps = 0.12
    output = tmp_path / "a.onnx"
    lipcompile.harden(original, abstain=AbstainOptions(eps, "bool"), scan=GREY, output=output)
    x = images(400, seed=seed + 9)
    model = onnx.load(output)
    scores, flags = run(model, GREY_RULE(x), "y", "certified")
    answer = scores.argmax(axis=1)
    changed = np.zeros(len(x), bool)
    for attempt in range(4):
        moved = attack(original, x, answer, eps, attempt)
        length = np.linalg.norm((moved - x).reshape(len(x), -1).astype(np.float64), axis=1)
        assert length.max() <= eps * (1 + 1e-5)
        (after,) = run(model, GREY_RULE(moved), "y")
        changed |= after.argmax(axis=1) != answer
    assert flags.mean() > 0.2
    assert not (changed & flags).any()
    assert changed[~flags].mean() > 0.05


def attack(
    path: Path, pixels: np.ndarray, answer: np.ndarray, eps: float, seed: int
) -> np.ndarray:
    """Float32 pixels within eps_l2 of `pixels`, which need not stay in [0, 1]."""
    view = torch_view(path)
    start, labels = torch.from_numpy(pixels), torch.from_numpy(answer)
    generator = torch.Generator().manual_seed(seed)
    moved = start + project(torch.randn(start.shape, generator=generator) * 0.05, eps)
    for _ in range(40):
        moved = moved.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(view((moved - 0.4) / 0.25), labels)
        (slope,) = torch.autograd.grad(loss * len(pixels), moved)
        length = slope.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
        moved = start + project(moved + slope / length * eps / 6 - start, eps)
    found: np.ndarray = moved.detach().numpy()
    return found


def project(step: torch.Tensor, eps: float) -> torch.Tensor:
    length = step.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
    return step * (eps * (1 - 1e-6) / length).clamp_max(1)


def test_a_rescaled_model_can_be_audited(path: Path, tmp_path: Path) -> None:
    output = harden(path, "rescaled").output
    x = images(60)
    labels = run(onnx.load(path), GREY_RULE(x), "y")[0].argmax(axis=1)
    audited = lipcompile.audit(
        output,
        path,
        (x, labels),
        eps=0.05,
        samples=40,
        attacks=QUICK,
        image_flags=GREY.image_flags,
    )
    assert audited.clean.difference == 0.0
    assert abs(audited.worst.difference) < 0.1


def test_an_audit_takes_a_flag_and_no_abstain_logit(path: Path, tmp_path: Path) -> None:
    x = images(40)
    labels = run(onnx.load(path), GREY_RULE(x), "y")[0].argmax(axis=1)
    how: Any = {"eps": 0.02, "samples": 20, "attacks": QUICK, "image_flags": GREY.image_flags}
    flagged = harden(path, "bool").output
    assert lipcompile.audit(flagged, path, (x, labels), **how).clean.difference == 0.0
    wide = harden(path, "logit", force=True).output
    with pytest.raises(
        ModelError, match="has an abstain logit, a score that is no class, and"
    ):
        lipcompile.audit(wide, path, (x, labels), **how)


# What verify catches


def tampered(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    change(model)
    return write(model, path.parent, "tampered.onnx")


def smaller_reach(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Constant" and list(node.attribute[0].t.dims) == [3, 3]:
            tensor = node.attribute[0].t
            tensor.raw_data = (numpy_helper.to_array(tensor) * np.float32(0.8)).tobytes()


def changed_record(key: str, **fields: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for prop in model.metadata_props:
            if prop.key == key:
                prop.value = json.dumps(json.loads(prop.value) | fields)

    return change


def other_weight(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.raw_data = (numpy_helper.to_array(tensor) * np.float32(1.5)).tobytes()


TAMPERED = {
    "a smaller reach": (smaller_reach, "abstain head"),
    "a larger eps": (changed_record("lipcompile.abstain", eps=0.06), "abstain head"),
    "a smaller bound": (changed_record("lipcompile.lipschitz", bound=0.5), "product bound"),
    "another product": (
        changed_record("lipcompile.lipschitz", product=1.0),
        "rescaled logits",
    ),
    "another weight": (other_weight, "product bound"),
    "another mean": (
        changed_record("lipcompile.abstain", normalisation={"scale": 1.0, "std": [2.0]}),
        "abstain head",
    ),
    "an image size that is none": (
        changed_record("lipcompile.abstain", dims="x"),
        "signature",
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_verify_catches(name: str, path: Path) -> None:
    change, check = TAMPERED[name]
    output = harden(path, "rescaled, logit").output
    assert output is not None
    np.save(path.with_name("data.npy"), GREY_RULE(images(200)))
    data = path.with_name("data.npy")
    how = ScanOptions(samples=200)
    assert lipcompile.verify(path, output, data, scan=how, pairs=0).holds
    found = lipcompile.verify(path, tampered(output, change), data, scan=how, pairs=0)
    failed = {one.name for one in found.checks if one.failed}
    assert {"rebuilt from provenance", check} <= failed, str(found)


# On the command line


def test_flags(path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    words = (
        "harden model.onnx --lipschitz 1/2 --abstain 36/255 --abstain-as bool --abstain-top 2"
    )
    code, out, err = call(*words.split(), "--mean", "0.4", "--std", "0.25", "--scores", "y")
    assert (code, err) == (0, "")
    assert "rescaled: product bound " in out
    assert "-> 0.5 (logits times" in out
    assert "1x5x5 pixels in [0, 1], mean 0.4, std 0.25" in out
    assert (
        "abstains: output 'certified' says which answers are certified to stay in the" in out
    )
    code, out, _ = call("verify", "model.onnx", "model.hardened.onnx", "--pairs", "0")
    assert code == 0
    assert "unchanged but for the abstain head" in out


REFUSED = {
    "--abstain-as bool": "--abstain-as is about an abstain head, and there is none: add --abs",
    "--abstain-top 2": "--abstain-top is about an abstain head, and there is none: add --abst",
    "--scores y": "--scores is about an ensemble, and there is none: add --ensemble",
    "--lipschitz 1 --ensemble flip": "--lipschitz bounds the model itself, and not the mean",
    "--abstain 1 --ensemble flip": "--abstain bounds the model itself, and not the mean",
    "--lipschitz 1 --cr 2^-7": "--lipschitz scales activations, and the thresholds of forged",
    "--abstain 1 --form hard": "--abstain needs a bound on how far scores can move, and form",
    "--variant none": "variant none hardens nothing: add --ensemble, --lipschitz or --abstain",
    "--lipschitz 0": "--lipschitz 0 is out of range",
    "--lipschitz x": "--lipschitz 'x' is no number",
    "--abstain 0.5x": "--abstain '0.5x' is no number",
    "--abstain 1 --scores z": "'model.onnx' has no output 'z': it gives 'y: float32 [N, 3]'",
    "--abstain 1 --table t.json": "variant none hardens no layer and has no table",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_mistakes_are_one_message(
    flags: str, path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    code, out, err = call("harden", "model.onnx", *flags.split())
    assert code == 2
    assert out == ""
    assert err.startswith(f"error: {REFUSED[flags]}")
    assert not path.with_name("model.hardened.onnx").exists()


def test_different_scores_for_both_are_refused(path: Path) -> None:
    with pytest.raises(OptionError, match="name the same scores for both"):
        lipcompile.harden(path, lipschitz=LipschitzOptions(1.0, "y"), abstain=1.0)


def test_a_size_that_is_open_is_asked_for(tmp_path: Path) -> None:
    proto = drawn_network(0)
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"s{axis}"
    path = write(proto, tmp_path)
    with pytest.raises(OptionError, match=r"--abstain needs the size .*: pass --input-size"):
        lipcompile.harden(path, abstain=0.1)
    sized = ScanOptions(image_flags={"input_size": 8})
    result = lipcompile.harden(path, abstain=0.1, scan=sized)
    assert result.abstention is not None
    assert result.abstention.pixels.dims == (3, 8, 8)


def test_inputs_that_are_no_images_are_refused(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (int64[N,4] x) => (float[N,4] y) '
        "{ y = Cast<to = 1>(x) }"
    )
    with pytest.raises(DataError, match="--lipschitz is a bound per pixel of an image: input"):
        lipcompile.harden(write(proto, tmp_path), lipschitz=1.0)


def test_forged_functions_are_not_rescaled(path: Path) -> None:
    forged = path.with_name("forged.onnx")
    lipcompile.harden(path, "random:8", cr=0.1, selector=Selector("all"), output=forged)
    with pytest.raises(
        ModelError, match="has forged functions, whose thresholds do not scale"
    ):
        lipcompile.harden(forged, lipschitz=1.0, output=path.with_name("b.onnx"))
    later = path.with_name("later.onnx")
    lipcompile.harden(forged, abstain=0.05, scan=GREY, output=later)
    once = path.with_name("once.onnx")
    both = {"cr": 0.1, "selector": Selector("all"), "abstain": 0.05, "scan": GREY}
    lipcompile.harden(path, "random:8", output=once, **both)  # type: ignore[arg-type]
    assert lipcompile.verify(path, later, pairs=0).holds
    assert lipcompile.verify(path, once, pairs=0).holds


def test_an_ensemble_stays_without_bounds(tmp_path: Path) -> None:
    path = write(linear(), tmp_path)
    wrapped = lipcompile.harden(
        path,
        ensemble=lipcompile.EnsembleOptions("flip", image_input="x"),
        output=tmp_path / "views.onnx",
    ).output
    with pytest.raises(
        ModelError, match=r"has an ensemble \(.*\), and --abstain bounds a model"
    ):
        lipcompile.harden(wrapped, abstain=0.1, output=tmp_path / "b.onnx")


def test_calibrating_a_model_with_a_head_is_calibrating_the_original(path: Path) -> None:
    output = harden(path, "logit").output
    how = {"selector": Selector("all")}
    first, second = (lipcompile.calibrate(p, "random:4", **how) for p in (path, output))  # type: ignore[arg-type]
    assert first.digest == second.digest


def test_latency_gate_and_dry_run(path: Path) -> None:
    result = harden(path, "logit", max_latency_ratio=1e6, min_agreement=1.0, dry_run=True)
    assert result.failed_gates == ()
    assert result.output is None
    assert "but for the abstain head" in str(result.findings()[0])


def test_samples_are_read_as_images(tmp_path: Path) -> None:
    """The bundled images and the bundled model, in one go."""
    output = tmp_path / "a.onnx"
    result = lipcompile.harden(MODEL, CALIBRATION, abstain=1e-4, lipschitz=100, output=output)
    assert result.agreement is not None
    assert result.agreement.top1 == 1.0
    assert result.rescaling == replace(result.rescaling, bound=100.0)  # type: ignore[type-var]
    assert lipcompile.verify(MODEL, output, CALIBRATION, pairs=0).holds


@pytest.mark.parametrize("kind", ["logit", "bool"])
def test_certify_agrees_with_the_head(kind: str, path: Path) -> None:
    """It looks at the model without the head, and certifies the same answers."""
    output = harden(path, kind, force=True).output
    x = images(50)
    labels = run(onnx.load(path), GREY_RULE(x), "y")[0].argmax(axis=1)
    found = lipcompile.certify(output, (x, labels), image_flags=GREY.image_flags)
    answers = run(onnx.load(output), GREY_RULE(x), "y" if kind == "logit" else "certified")[0]
    flags = answers.argmax(axis=1) != 3 if kind == "logit" else answers
    assert 0.1 < flags.mean() < 0.9
    np.testing.assert_array_equal(found.model.radii_l2 > 0.05, flags)


@pytest.mark.parametrize("what", ["lipschitz", "abstain"])
def test_a_model_without_a_bound_is_named_by_its_file(what: str, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,1,5,5] x) => (float[N,25] y) '
        "{ m = MatMul(x, x) y = Flatten(m) }"
    )
    with pytest.raises(ModelError, match=r"'model.onnx' (has no Lip|cannot be res).*MatMul"):
        lipcompile.harden(write(proto, tmp_path), scan=GREY, **{what: 1.0})  # type: ignore[arg-type]
