"""External weights: found everywhere, refused when unsafe or damaged, sampled, not loaded."""

from __future__ import annotations

import os

import onnx
import pytest
from onnx import parser

from lipcompile import model_io
from lipcompile.errors import ModelError
from lipcompile.external_data import ExternalRange, sampled_digest


def test_ranges_say_where_each_tensor_lies(tmp_path, external_cnn):
    path = external_cnn(tmp_path)
    data = tmp_path / "net.bin"
    assert sorted(model_io.load(path).external, key=lambda item: item.offset) == [
        ExternalRange("fc1_w", "net.bin", data, 0, 128),
        ExternalRange("conv_w", "net.bin", data, 128, 432),
    ]


def test_offset_and_length_may_be_left_out(tmp_path, external_cnn):
    path = external_cnn(tmp_path, offset=None, length=None)
    item = next(i for i in model_io.load(path).external if i.tensor == "conv_w")
    assert (item.offset, item.length) == (0, 560)  # the whole file


def test_a_relative_path_finds_its_data(tmp_path, external_cnn, monkeypatch):
    external_cnn(tmp_path / "models")
    monkeypatch.chdir(tmp_path / "models")
    assert len(model_io.load("net.onnx").external) == 2


def test_a_link_inside_the_folder_is_followed(tmp_path, external_cnn):
    path = external_cnn(tmp_path)
    (tmp_path / "net.bin").rename(tmp_path / "real.bin")
    (tmp_path / "net.bin").symlink_to("real.bin")
    assert len(model_io.load(path).external) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param(
            {"location": "gone.bin"},
            r"external data of tensor 'conv_w': 'gone\.bin' is missing from '.*': the",
            id="missing",
        ),
        pytest.param({"location": "../net.bin"}, "points outside the model's", id="dot-dot"),
        pytest.param({"location": "sub/../../x"}, "points outside", id="dot-dot-inside"),
        pytest.param({"location": "..\\net.bin"}, "points outside", id="dot-dot-windows"),
        pytest.param({"location": "."}, "is missing", id="folder"),
        pytest.param({"location": None}, "is missing", id="no-location"),
        pytest.param({"location": "a\0b"}, "cannot be a file .*null (byte|char)", id="nul"),
        pytest.param({"location": "a" * 300}, "cannot be a file .*too long", id="too-long"),
        pytest.param(
            {"offset": 200},
            r"'net\.bin' has 560 bytes, and the tensor needs 432 from offset 200 on",
            id="beyond-the-end",
        ),
        pytest.param({"offset": 10**30}, "has 560 bytes", id="far-beyond-the-end"),
        pytest.param({"offset": -4}, "offset must be non-negative, got -4", id="negative"),
        pytest.param({"length": -1}, "length must be non-negative", id="negative-length"),
        pytest.param({"length": 431}, "has 560 bytes, and the tensor needs 432", id="short"),
        pytest.param({"length": 10**6}, "has 560 bytes", id="long"),
        pytest.param({"offset": "four"}, "invalid literal for int.*'four'", id="no-number"),
    ],
)
def test_damaged_or_unsafe_entries_are_refused(changed, message, tmp_path, external_cnn):
    path = external_cnn(tmp_path / "in", **changed)
    (tmp_path / "net.bin").write_bytes(bytes(1000))  # what ../net.bin would read
    (tmp_path / "x").write_bytes(bytes(1000))
    with pytest.raises(ModelError, match=message):
        model_io.load(path)


def test_an_absolute_location_is_refused(tmp_path, external_cnn):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1000))
    for folder, location in (("a", secret), ("b", tmp_path / "b" / "net.bin")):
        path = external_cnn(tmp_path / folder, location=location)
        with pytest.raises(ModelError, match="points outside the model's folder"):
            model_io.load(path)


@pytest.mark.parametrize("link", ["file", "folder", "chain"])
def test_a_link_that_leaves_the_folder_is_refused(link, tmp_path, external_cnn):
    path = external_cnn(tmp_path / "in", location="sub/w" if link == "folder" else "w")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "w").write_bytes(bytes(1000))
    if link == "folder":
        (tmp_path / "in" / "sub").symlink_to(tmp_path / "out")
    elif link == "file":
        (tmp_path / "in" / "w").symlink_to("../out/w")
    else:
        (tmp_path / "in" / "w").symlink_to("step")
        (tmp_path / "in" / "step").symlink_to(tmp_path / "out" / "w")
    assert (path.parent / ("sub/w" if link == "folder" else "w")).is_file()
    with pytest.raises(ModelError, match="symbolic link that leaves the model's folder"):
        model_io.load(path)


def test_a_loop_of_links_is_refused(tmp_path, external_cnn):
    path = external_cnn(tmp_path, location="loop")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ModelError, match=r"'loop' (cannot be a file|is missing)"):
        model_io.load(path)


@pytest.mark.parametrize(
    "location",
    ["net.bin/", "./net.bin/.", "sub", "C:\\x", "//net.bin", "a/../../x", "~/x", "*"],
)
def test_locations_that_are_no_file_in_the_folder(location, tmp_path, external_cnn):
    path = external_cnn(tmp_path / "in", location=location)
    (tmp_path / "in" / "sub").mkdir()
    (tmp_path / "x").write_bytes(bytes(1000))
    try:
        loaded = model_io.load(path)
    except ModelError as error:
        assert "external data of tensor" in str(error)
    else:  # pathlib drops a slash at the end
        assert {item.path.resolve().parent for item in loaded.external} == {tmp_path / "in"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "/proc/self/mem", "/proc/self/fd/0"])
def test_what_is_no_regular_file_is_not_opened(target, tmp_path, external_cnn):
    path = external_cnn(tmp_path, location="w")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "w").symlink_to(target)
    with pytest.raises(ModelError, match="'w' (is missing|is a symbolic link that leaves)"):
        model_io.load(path)
    (tmp_path / "w").unlink()
    (tmp_path / "pipe").rename(tmp_path / "w")
    with pytest.raises(ModelError, match="'w' is missing"):
        model_io.load(path)


@pytest.mark.parametrize("what", [{"length": 2**62}, {"offset": 2**62}, {"offset": 2**63 - 1}])
def test_lengths_that_no_disk_holds_are_not_believed(what, tmp_path, external_cnn):
    with pytest.raises(ModelError, match="has 560 bytes, and the tensor needs"):
        model_io.load(external_cnn(tmp_path, **what))


def test_an_external_tensor_that_claims_to_be_giant(tmp_path, external_cnn):
    path = external_cnn(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            del tensor.dims[:]
            tensor.dims.extend([2**30, 2**30])
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="the tensor needs 4611686018427387904 from offset"):
        model_io.load(path)


def test_a_truncated_file_is_refused(tmp_path, external_cnn):
    path = external_cnn(tmp_path)
    os.truncate(tmp_path / "net.bin", 559)
    with pytest.raises(ModelError, match=r"has 559 bytes.*truncated or belongs to another"):
        model_io.load(path)


def test_a_model_in_memory_has_no_folder(tmp_path, external_cnn):
    proto = onnx.load(external_cnn(tmp_path), load_external_data=False)
    with pytest.raises(ModelError, match=r"in memory has no folder .* pass the model's path"):
        model_io.load(proto)


def test_constants_in_subgraphs_and_functions_are_found(tmp_path, externalise):
    proto = parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2] x, bool c) => (float[2] y) {
            t = If (c) <
                then_branch = a () => (float[2] u) <float[2] v = {3, 4}> { u = Add (x, v) },
                else_branch = b () => (float[2] u) { u = Identity (x) }>
            y = local.shift (t)
        }
        <domain: "local", opset_import: ["": 17]>
        shift (a) => (c) { k = Constant <value = float[2] {5, 6}> ()  c = Add (a, k) }
    """)
    branch = next(a for a in proto.graph.node[0].attribute if a.name == "then_branch").g
    externalise(branch.initializer[0], tmp_path / "w.bin")
    externalise(proto.functions[0].node[0].attribute[0].t, tmp_path / "w.bin")
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    assert [item.offset for item in model_io.load(path).external] == [0, 8]
    os.truncate(tmp_path / "w.bin", 15)
    with pytest.raises(ModelError, match="truncated"):
        model_io.load(path)


# The sampled digest


@pytest.mark.parametrize("size", [1, 4096, 4097, 65536, 65537, 5_000_000])
def test_the_sample_sees_both_ends_and_the_length(size, tmp_path):
    path = tmp_path / "w.bin"
    content = bytearray(os.urandom(size))

    def sample():
        path.write_bytes(b"head" + content + b"tail")
        return sampled_digest(ExternalRange("w", "w.bin", path, 4, len(content)))

    before = sample()
    assert sample() == before
    for position in {0, size - 1, min(4095, size - 1)}:
        content[position] ^= 1
        assert sample() != before
        content[position] ^= 1
    assert sample() == before
    content.append(0)
    assert sample() != before


def test_small_tensors_are_sampled_in_full(tmp_path):
    """16 blocks of 4 KiB: up to 64 KiB every byte counts."""
    path, content = tmp_path / "w.bin", bytearray(65536)
    item = ExternalRange("w", "w.bin", path, 0, len(content))
    path.write_bytes(content)
    before = sampled_digest(item)
    for position in range(0, len(content), 1021):
        content[position] = 1
        path.write_bytes(content)
        assert sampled_digest(item) != before, position
        content[position] = 0


def test_sampling_reads_little(tmp_path):
    """A sparse file of 1 TiB takes no time; a full read would never end."""
    path = tmp_path / "w.bin"
    path.touch()
    os.truncate(path, 1 << 40)
    item = ExternalRange("w", "w.bin", path, 0, 1 << 40)
    before = sampled_digest(item)
    with path.open("r+b") as stream:
        stream.seek((1 << 40) - 1)
        stream.write(b"x")
    assert sampled_digest(item) != before
