"""ONNX Runtime sessions: what was asked for is what runs, and failures say what to do."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from lipcompile import model_io, runtime
from lipcompile.errors import (
    MissingExtraError,
    ModelError,
    OptionError,
    ProviderError,
    RunFailure,
)
from lipcompile.runtime import RuntimeOptions, open_session

X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def test_a_model_runs(small_cnn):
    model = small_cnn().SerializeToString()
    session = open_session(model, RuntimeOptions())
    assert session.providers == (CPU,) and session.outputs == ("y",)
    want = onnxruntime.InferenceSession(model).run(None, {"x": X})[0]
    np.testing.assert_array_equal(session.run(["y"], {"x": X})["y"], want)


def test_a_path_runs(tmp_path, external_cnn):
    path = external_cnn(tmp_path)
    want = open_session(path, RuntimeOptions()).run(["y"], {"x": X})["y"]
    np.testing.assert_array_equal(
        onnxruntime.InferenceSession(path).run(None, {"x": X})[0], want
    )


@pytest.mark.parametrize("relative", [False, True])
def test_serialised_models_find_their_weights(relative, tmp_path, external_cnn, monkeypatch):
    path = external_cnn(tmp_path / "models")
    want = open_session(path, RuntimeOptions()).run(["y"], {"x": X})["y"]
    model = model_io.serialize(model_io.load(path).proto)
    monkeypatch.chdir(tmp_path)
    folder = path.parent.relative_to(tmp_path) if relative else path.parent
    session = open_session(model, RuntimeOptions(), folder)
    np.testing.assert_array_equal(session.run(["y"], {"x": X})["y"], want)
    with pytest.raises(ModelError, match=r"ONNX Runtime .* does not load the model"):
        open_session(model, RuntimeOptions(), tmp_path)  # planted: the folder matters


def test_threads_and_optimisation_reach_onnx_runtime(small_cnn, monkeypatch):
    seen = []
    real = onnxruntime.InferenceSession

    def spy(source, options, **kwargs):
        seen.append((options.intra_op_num_threads, options.graph_optimization_level.name))
        seen.append(options.log_severity_level)
        return real(source, options, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    model = small_cnn().SerializeToString()
    open_session(model, RuntimeOptions(threads=1, optimize=False))
    open_session(model, RuntimeOptions(verbose=True))
    assert seen == [(1, "ORT_DISABLE_ALL"), 4, (0, "ORT_ENABLE_ALL"), 2]


# Options


@pytest.mark.parametrize(
    ("name", "full"),
    [("cpu", CPU), ("CUDA", CUDA), (" tensorrt ", "TensorrtExecutionProvider"), (CPU, CPU)],
)
def test_provider_names(name, full):
    assert runtime.provider_name(name) == full
    assert RuntimeOptions(providers=(name,)).providers == (name,)


@pytest.mark.parametrize("name", ["gpu", "", "cpuexecutionprovider", "CPU ExecutionProvider"])
def test_an_unknown_provider(name):
    with pytest.raises(
        OptionError, match=f"provider '{name}' is unknown: use one of cpu, cuda"
    ):
        RuntimeOptions(providers=("cpu", name))


def test_no_provider_and_negative_threads():
    with pytest.raises(OptionError, match="no execution provider is named: use for example"):
        RuntimeOptions(providers=())
    with pytest.raises(OptionError, match="threads = -1 is negative: use 0 for automatic"):
        RuntimeOptions(threads=-1)


# Providers that are not there


def fake(monkeypatch, available, active):
    """A module in place of onnxruntime whose sessions report `active`."""
    created = []

    class Session:
        def __init__(self, source, options, providers):
            created.append(providers)

        def get_providers(self):
            return active

        def get_outputs(self):
            return [SimpleNamespace(name="y")]

    module = SimpleNamespace(
        __version__="9.9",
        InferenceSession=Session,
        SessionOptions=lambda: SimpleNamespace(add_session_config_entry=lambda *args: None),
        get_available_providers=lambda: available,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return created


def installed(monkeypatch, *packages):
    def version(name):
        if name in packages:
            return "9.9"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_a_provider_that_is_not_available(monkeypatch):
    created = fake(monkeypatch, [CPU], [CPU])
    installed(monkeypatch, "onnxruntime")
    with pytest.raises(
        ProviderError,
        match=rf"'{CUDA}' was asked for .* \(installed: {CPU}\).*lipcompile\[gpu\]",
    ) as caught:
        open_session(b"", RuntimeOptions(providers=("cuda",)))
    assert caught.value.exit_code == 3 and "--allow-cpu-fallback" in str(caught.value)
    assert created == []
    options = RuntimeOptions(providers=("cuda",), allow_cpu_fallback=True)
    assert open_session(b"", options).providers == (CPU,)
    assert created == [[CPU]]


def test_a_silent_fallback_is_noticed(monkeypatch):
    """ONNX Runtime lists the provider, fails to start it, and runs on the CPU."""
    created = fake(monkeypatch, [CUDA, CPU], [CPU])
    installed(monkeypatch, "onnxruntime-gpu")
    with pytest.raises(ProviderError, match=rf"'{CUDA}' .* is not active \(active: {CPU}\)"):
        open_session(b"", RuntimeOptions(providers=("cuda",)))
    assert created == [[CUDA, CPU]]
    options = RuntimeOptions(providers=("cuda",), allow_cpu_fallback=True)
    assert open_session(b"", options).providers == (CPU,)


def test_an_active_provider_is_accepted(monkeypatch):
    created = fake(monkeypatch, [CUDA, CPU], [CUDA, CPU])
    session = open_session(b"", RuntimeOptions(providers=("cuda", "cpu")))
    assert session.providers == (CUDA, CPU) and created == [[CUDA, CPU]]


def test_the_real_runtime_without_the_provider(small_cnn):
    missing = sorted(
        {"coreml", "directml", "cuda"}
        - {
            short
            for short in ("coreml", "directml", "cuda")
            if runtime.provider_name(short) in onnxruntime.get_available_providers()
        }
    )
    for name in missing:
        with pytest.raises(ProviderError, match="is not active"):
            open_session(small_cnn().SerializeToString(), RuntimeOptions(providers=(name,)))


def test_both_packages_are_explained(monkeypatch):
    fake(monkeypatch, [CPU], [CPU])
    installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(
        ProviderError, match="onnxruntime and onnxruntime-gpu are both installed"
    ):
        open_session(b"", RuntimeOptions(providers=("cuda",)))


# No ONNX Runtime


def test_without_onnx_runtime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    installed(monkeypatch)
    with pytest.raises(
        MissingExtraError, match=r'pip install "lipcompile\[cpu\]" or "lipcompile\[gpu\]"'
    ) as caught:
        open_session(b"", RuntimeOptions())
    assert caught.value.exit_code == 3


def test_without_onnx_runtime_although_both_are_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(
        MissingExtraError, match="both onnxruntime and onnxruntime-gpu are installed, which"
    ):
        runtime.load_onnxruntime()


def test_what_a_pip_uninstall_leaves_is_no_onnx_runtime(monkeypatch):
    """An empty folder imports, as a namespace package."""
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    installed(monkeypatch)
    with pytest.raises(MissingExtraError, match="does not import.*content is not"):
        runtime.load_onnxruntime()


def test_onnxruntime_is_imported_late():
    code = "import sys, lipcompile.runtime; print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_versions_of_packages():
    assert runtime.package_version("numpy") == np.__version__
    assert runtime.package_version("no-such-package-at-all") is None


# Models and inputs that do not fit


@pytest.mark.parametrize("model", [b"", b"no model", onnx.ModelProto(ir_version=8)])
def test_a_model_that_does_not_load(model):
    content = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(
        ModelError, match=f"Runtime {onnxruntime.__version__} does not load the"
    ):
        open_session(content, RuntimeOptions())


def test_an_operator_that_does_not_exist(small_cnn):
    proto = small_cnn()
    proto.graph.node[1].op_type = "Reloo"
    with pytest.raises(ModelError, match="does not load the model: .*Reloo"):
        open_session(proto.SerializeToString(), RuntimeOptions())


@pytest.mark.parametrize(
    ("outputs", "feeds", "message"),
    [
        (["y"], {"x": X[:, :2]}, r"on 'x' float32 \[2, 2, 8, 8\] .*dimensions"),
        (["y"], {"x": X.astype(np.float64)}, r"on 'x' float64 \[2, 3, 8, 8\] .*double"),
        (["y"], {"z": X}, r"on 'z' float32 \[2, 3, 8, 8\] .*x"),
        (["nothing"], {"x": X}, r"on 'x' float32 \[2, 3, 8, 8\] .*nothing"),
    ],
    ids=["shape", "dtype", "input-name", "output-name"],
)
def test_a_run_that_fails_names_the_shapes(outputs, feeds, message, small_cnn):
    session = open_session(small_cnn().SerializeToString(), RuntimeOptions())
    with pytest.raises(RunFailure, match=message) as caught:
        session.run(outputs, feeds)
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)
