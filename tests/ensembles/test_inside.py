"""What other commands say of a wrapped model is said of the model inside, and comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import lipcompile
from lipcompile import Selector, model_io
from lipcompile.errors import ModelError
from lipcompile.rebuild import rebuild
from tests.ensembles.models import Network
from tests.ensembles.test_composition import (
    ENSEMBLES,
    ensembles,
    forged,
    harden,
    variants,
    wrap,
    write,
)
from tests.hardened import GRAPHS

ALL = Selector("all")


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return write(Network(ending="Softmax").proto(), tmp_path)


# inspect and calibrate


@ensembles
def test_inspect_lists_the_layers_inside(ensemble: str, original: Path) -> None:
    plain = lipcompile.inspect(original, selector=ALL)
    found = lipcompile.inspect(wrap(original, ensemble, "wrapped.onnx"), selector=ALL)
    assert found.rows == plain.rows
    assert plain.ensemble is None and "ensemble" not in str(plain)
    views = f"views ({ENSEMBLES[ensemble].views})"
    assert found.ensemble is not None and views in found.ensemble
    assert f"ensemble around it: {found.ensemble}" in str(found)
    assert "hardened already" not in str(found)
    assert found.to_json()["ensemble"] == found.ensemble
    assert "lipcompile.ensemble" in found.provenance


def test_inspect_tells_of_both(original: Path) -> None:
    both = harden(original, "soft", "both.onnx", ensemble="flip").output
    told = str(lipcompile.inspect(both, selector=ALL))
    assert "ensemble around it: " in told and "hardened already: form soft" in told


@ensembles
def test_a_table_of_a_wrapped_model_fits_its_original(ensemble: str, original: Path) -> None:
    wrapped = wrap(original, ensemble, "wrapped.onnx")
    tables = [lipcompile.calibrate(m, "random:4", selector=ALL) for m in (original, wrapped)]
    assert tables[0].to_json() | {"model": ""} == tables[1].to_json() | {"model": ""}
    hardened = lipcompile.harden(
        original, table=tables[1], selector=ALL, output=original.with_name("a.onnx")
    )
    again = lipcompile.harden(
        wrapped, table=tables[0], selector=ALL, output=original.with_name("b.onnx")
    )
    assert again.output is not None and hardened.output is not None
    assert again.ensemble is not None and hardened.ensemble is None
    assert wrap(hardened.output, ensemble, "c.onnx").read_bytes() == again.output.read_bytes()


def test_counts_of_a_wrapped_model_fit_its_original(original: Path) -> None:
    wrapped = wrap(original, "branches", "wrapped.onnx")
    tables = [
        lipcompile.calibrate(model, "random:4", selector=ALL, count_cr=(0.2,))
        for model in (original, wrapped)
    ]
    assert tables[0].digest == tables[1].digest


# strip


@ensembles
@forged
def test_strip_takes_off_both(variant: str, ensemble: str, original: Path) -> None:
    both = harden(original, variant, "both.onnx", ensemble=ENSEMBLES[ensemble]).output
    result = lipcompile.strip(both)
    assert result.output is not None
    assert result.output.read_bytes() == original.read_bytes()
    assert result.identical and len(result.layers) > 1
    assert result.ensemble is not None and "ensemble taken off (mean of " in str(result)
    assert f"functions of {len(result.layers)} layers taken out" in str(result)


@ensembles
def test_strip_takes_off_an_ensemble_alone(ensemble: str, original: Path) -> None:
    result = lipcompile.strip(wrap(original, ensemble, "wrapped.onnx"))
    assert result.output is not None
    assert result.output.read_bytes() == original.read_bytes()
    assert result.layers == () and "forged functions" not in str(result)
    assert result.to_json()["ensemble"] == result.ensemble


def test_external_data_comes_along(
    external_cnn: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = external_cnn(tmp_path / "net")
    both = harden(path, "smooth", "both.onnx", ensemble="flip").output
    assert both is not None
    assert lipcompile.verify(path, both, pairs=0).holds
    result = lipcompile.strip(both)
    assert result.differences == ("external data lies in files of other names",)
    assert result.output is not None and onnx.load(path) == onnx.load(result.output)


@pytest.mark.parametrize("variant", ["weight", "compact"])
def test_edited_weights_cannot_be_given_back(variant: str, original: Path) -> None:
    both = harden(original, variant, "both.onnx", ensemble="flip").output
    with pytest.raises(ModelError, match=r"editing the weights of 1 layer \(variant weight\)"):
        lipcompile.strip(both)


# rebuild


@ensembles
@variants
def test_rebuilding_gives_the_same_bytes(variant: str, ensemble: str, original: Path) -> None:
    both = harden(original, variant, "both.onnx", ensemble=ENSEMBLES[ensemble]).output
    assert both is not None
    again = rebuild(model_io.load(original), model_io.load(both).metadata)
    assert model_io.serialize(again) == both.read_bytes()


@ensembles
def test_rebuilding_an_ensemble_alone(ensemble: str, original: Path) -> None:
    wrapped = wrap(original, ensemble, "wrapped.onnx")
    again = rebuild(model_io.load(original), model_io.load(wrapped).metadata)
    assert model_io.serialize(again) == wrapped.read_bytes()


def test_an_ensemble_of_another_original_is_not_rebuilt(original: Path) -> None:
    metadata = model_io.load(wrap(original, "batch", "wrapped.onnx")).metadata
    other = model_io.load(GRAPHS["chain"].proto())  # of rows of 4 numbers
    with pytest.raises(ModelError, match="the provenance does not fit the original"):
        rebuild(other, metadata)
