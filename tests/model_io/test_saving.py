"""Saving: the input stays, the output is whole or not there, and its data lies beside it."""

from __future__ import annotations

import hashlib
import os
import shutil

import numpy as np
import onnx
import onnx_graphsurgeon
import onnx_ir as ir
import onnxruntime as ort
import pytest

from lipcompile import atomic, model_io
from lipcompile.errors import OutputError, SaveError
from lipcompile.model_io import saving

X = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)


def edited(loaded):
    """A stand-in for a pass: one node differs."""
    loaded.graph_ir.graph[1].op_type = "Sigmoid"
    return model_io.render(loaded.proto, loaded.graph_ir, {"lipcompile.c_r": "0.5"})


def save(path, output):
    loaded = model_io.load(path)
    return model_io.save(loaded, edited(loaded), output)


def outputs(path):
    return ort.InferenceSession(path).run(None, {"x": X})[0]


def state(folder):
    return {
        p.name: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in folder.iterdir()
    }


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_model_with_inline_weights_is_one_file(tmp_path, small_cnn):
    (tmp_path / "in.onnx").write_bytes(small_cnn().SerializeToString())
    before = state(tmp_path)
    files = save(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert files == (tmp_path / "out.onnx",)
    assert names(tmp_path) == ["in.onnx", "out.onnx"]
    assert state(tmp_path) | before == state(tmp_path)
    want = small_cnn()
    want.graph.node[1].op_type = "Sigmoid"
    np.testing.assert_array_equal(
        outputs(files[0]),
        ort.InferenceSession(want.SerializeToString()).run(None, {"x": X})[0],
    )


def test_external_data_is_copied_beside_the_output(tmp_path, external_cnn):
    source, target = external_cnn(tmp_path / "in"), tmp_path / "out" / "net.onnx"
    target.parent.mkdir()
    before = state(source.parent)
    model, data = save(source, target)
    assert model == target and data.parent == target.parent
    assert data.read_bytes() == (source.parent / "net.bin").read_bytes()
    assert state(source.parent) == before
    reference = onnx.load(source)
    reference.graph.node[1].op_type = "Sigmoid"
    want = ort.InferenceSession(reference.SerializeToString()).run(None, {"x": X})[0]
    shutil.rmtree(source.parent)
    np.testing.assert_array_equal(outputs(target), want)
    assert model_io.load(target).external[0].path == data
    data.unlink()
    with pytest.raises(Exception, match=data.name):  # planted: the data is really needed
        outputs(target)


def test_each_data_file_keeps_its_own_copy(tmp_path, small_cnn, externalise):
    proto = small_cnn()
    (tmp_path / "sub").mkdir()
    externalise(proto.graph.initializer[0], tmp_path / "a.bin")
    externalise(proto.graph.initializer[2], tmp_path / "b.bin", location="./b.bin")
    externalise(proto.graph.initializer[3], tmp_path / "sub" / "a.bin", location="sub/a.bin")
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    want = outputs(tmp_path / "net.onnx")
    out = tmp_path / "out"
    out.mkdir()
    loaded = model_io.load(tmp_path / "net.onnx")
    files = model_io.save(
        loaded, model_io.render(loaded.proto, loaded.graph_ir), out / "o.onnx"
    )
    assert len(files) == 4 and sorted(names(out)) == sorted(f.name for f in files)
    np.testing.assert_array_equal(outputs(out / "o.onnx"), want)


def test_same_inputs_give_the_same_bytes(tmp_path, external_cnn):
    source = external_cnn(tmp_path / "in")
    contents = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        files = save(source, tmp_path / folder / "net.onnx")
        contents.append([(f.name, f.read_bytes()) for f in files])
    assert contents[0] == contents[1]
    loaded = model_io.load(source)
    loaded.graph_ir.graph[1].op_type = "Tanh"
    other = model_io.save(
        loaded, model_io.render(loaded.proto, loaded.graph_ir), tmp_path / "one" / "net.onnx"
    )
    assert other[0].read_bytes() != contents[0][0][1]


def test_saving_leaves_the_rendered_model_as_it_is(tmp_path, external_cnn):
    """An onnx_ir.Model that is given back must still find its weights."""
    source = external_cnn(tmp_path / "in")
    (tmp_path / "out").mkdir()
    loaded = model_io.load(ir.load(source))
    proto = edited(loaded)
    before = proto.SerializeToString(deterministic=True)
    model_io.save(loaded, proto, tmp_path / "out" / "net.onnx")
    assert proto.SerializeToString(deterministic=True) == before
    returned = model_io.give_back(loaded, proto)
    weight = returned.graph.initializers["conv_w"].const_value.numpy()
    np.testing.assert_array_equal(weight, onnx.numpy_helper.to_array(_weight(source)))


def _weight(source):
    return next(t for t in onnx.load(source).graph.initializer if t.name == "conv_w")


def test_replacing_an_output_removes_its_stale_data_only(tmp_path, external_cnn, small_cnn):
    source = external_cnn(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    _, old = save(source, out / "net.onnx")
    bystanders = [
        "net.onnx.data",
        "net.onnx.0123abcd.data.bak",
        "net.onnx.0123ABCD.data",
        "other.onnx.0123abcd.data",
        "xnet.onnx.0123abcd.data",
        "netxonnx.0123abcd.data",
    ]
    for name in bystanders:
        (out / name).write_bytes(b"foreign")
    changed = source.parent / "net.bin"
    changed.write_bytes(bytes(len(changed.read_bytes())))
    _, new = save(source, out / "net.onnx")
    assert new != old and not old.exists()
    assert names(out) == sorted(["net.onnx", new.name, *bystanders])
    (tmp_path / "inline.onnx").write_bytes(small_cnn().SerializeToString())
    save(tmp_path / "inline.onnx", out / "net.onnx")
    assert names(out) == sorted(["net.onnx", *bystanders])


def test_two_outputs_in_one_folder_do_not_disturb_each_other(tmp_path, external_cnn):
    source = external_cnn(tmp_path)
    save(source, tmp_path / "a.onnx")
    want = outputs(tmp_path / "a.onnx")
    save(source, tmp_path / "b.onnx")
    save(source, tmp_path / "b.onnx")
    assert len(names(tmp_path)) == 6
    np.testing.assert_array_equal(outputs(tmp_path / "a.onnx"), want)
    np.testing.assert_array_equal(outputs(tmp_path / "b.onnx"), want)


def test_a_renamed_output_keeps_the_data_that_it_still_reads(tmp_path, external_cnn):
    """The data of a renamed model look like stale data of the new output, and are not."""
    source = external_cnn(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    save(source, out / "net.onnx")
    (out / "net.onnx").rename(out / "kept.onnx")
    (out / "net.onnx").write_bytes(b"something else")
    before = state(out)
    save(out / "kept.onnx", out / "net.onnx")
    del before["net.onnx"]
    assert state(out) | before == state(out)
    np.testing.assert_array_equal(outputs(out / "kept.onnx"), outputs(out / "net.onnx"))


def test_a_model_in_memory_may_replace_its_own_file(tmp_path, external_cnn):
    source = external_cnn(tmp_path)
    loaded = model_io.load(ir.load(source))
    model_io.save(loaded, edited(loaded), source)
    assert "net.bin" in names(tmp_path)
    outputs(source)


def test_the_data_of_the_input_is_never_the_output(tmp_path, external_cnn):
    source = external_cnn(tmp_path)
    before = state(tmp_path)
    with pytest.raises(OutputError, match=r"net\.bin' is the input itself"):
        save(source, tmp_path / "net.bin")
    assert state(tmp_path) == before


@pytest.mark.parametrize("failing", ["model", "data"])
def test_a_failure_leaves_the_old_output_whole(failing, tmp_path, external_cnn, monkeypatch):
    source = external_cnn(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    save(source, out / "net.onnx")
    before, want = state(out), outputs(out / "net.onnx")
    changed = source.parent / "net.bin"
    changed.write_bytes(bytes(len(changed.read_bytes())))

    def full(*args):
        raise SaveError("the disk is full")

    monkeypatch.setattr(saving, "write_bytes" if failing == "model" else "copy_file", full)
    with pytest.raises(SaveError, match="the disk is full"):
        save(source, out / "net.onnx")
    with pytest.raises(SaveError, match="the disk is full"):
        save(source, out / "new.onnx")
    assert state(out) == before
    np.testing.assert_array_equal(outputs(out / "net.onnx"), want)


def test_data_that_vanish_while_saving(tmp_path, external_cnn, monkeypatch):
    source = external_cnn(tmp_path)
    loaded = model_io.load(source)
    monkeypatch.setattr(saving, "copy_file", lambda s, t: (s.unlink(), atomic.copy_file(s, t)))
    with pytest.raises(SaveError, match=r"net\.bin' cannot be read \(No such file"):
        model_io.save(loaded, edited(loaded), tmp_path / "out.onnx")
    assert names(tmp_path) == ["net.onnx"]


# What may be written where


def test_a_free_name_in_a_folder_is_accepted(tmp_path):
    model_io.check_output(tmp_path / "out.onnx", force=False)
    (tmp_path / "out.onnx").write_bytes(b"")
    model_io.check_output(tmp_path / "out.onnx", force=True, inputs=(tmp_path / "in.onnx",))


@pytest.mark.parametrize("force", [False, True])
def test_the_input_is_refused_as_output(force, tmp_path, monkeypatch):
    source = tmp_path / "in.onnx"
    source.write_bytes(b"x")
    os.link(source, tmp_path / "hard.onnx")
    (tmp_path / "soft.onnx").symlink_to(source)
    monkeypatch.chdir(tmp_path)
    same = ["in.onnx", "hard.onnx", "soft.onnx", "./in.onnx", f"../{tmp_path.name}/in.onnx"]
    for name in same:
        output = type(source)(name)
        with pytest.raises(OutputError, match="is the input itself, which is never touched"):
            model_io.check_output(output, force, (source,))


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_refused(force, tmp_path):
    with pytest.raises(OutputError, match="is a folder: name a file in it with -o"):
        model_io.check_output(tmp_path, force)


def test_an_existing_file_needs_force(tmp_path):
    (tmp_path / "out.onnx").write_bytes(b"x")
    with pytest.raises(OutputError, match="exists: pass --force to replace it"):
        model_io.check_output(tmp_path / "out.onnx", force=False)


@pytest.mark.parametrize("force", [False, True])
def test_a_missing_folder_is_refused(force, tmp_path):
    with pytest.raises(OutputError, match=r"folder '.*nowhere' does not exist: create it"):
        model_io.check_output(tmp_path / "nowhere" / "out.onnx", force)


@pytest.mark.parametrize("force", [False, True])
def test_a_read_only_folder_is_refused(force, tmp_path, monkeypatch):
    # Not by chmod: the tests may run as root, whom it does not stop.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(OutputError, match=r"folder '.*' is not writable: change -o"):
        model_io.check_output(tmp_path / "out.onnx", force)


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    with pytest.raises(OutputError, match="cannot be a file .* choose another with -o"):
        model_io.check_output(tmp_path / ("a" * 300), force=False)


# Giving back


def test_each_kind_is_given_back_as_it_came(tmp_path, small_cnn):
    path = tmp_path / "net.onnx"
    path.write_bytes(small_cnn().SerializeToString())
    for given, kind in [
        (path, onnx.ModelProto),
        (small_cnn(), onnx.ModelProto),
        (ir.from_proto(small_cnn()), ir.Model),
        (onnx_graphsurgeon.import_onnx(small_cnn()), onnx_graphsurgeon.Graph),
    ]:
        loaded = model_io.load(given)
        returned = model_io.give_back(loaded, edited(loaded))
        assert type(returned) is kind
        again = model_io.load(returned)
        assert [n.op_type for n in again.graph_ir.graph][:3] == [
            "Conv",
            "Sigmoid",
            "GlobalAveragePool",
        ]
        assert model_io.load(path).digest != again.digest
