from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from support_onnx import constant_detector, mean_network

from camtrap_batch.errors import InputError
from camtrap_batch.runtime import needs_code, read_onnx


def test_inputs_outputs_and_metadata(tmp_path: Path) -> None:
    path = constant_detector(
        tmp_path / "a.onnx",
        {"boxes": np.zeros((1, 5, 4)), "logits": np.zeros((1, 5, 2))},
        names={0: "Löwe"},
        stride=32,
    )
    info = read_onnx(path)
    assert info.shapes() == "inputs images [1, 3, ?, ?]; outputs boxes [1, 5, 4], logits [1, 5, 2]"
    assert info.metadata == {"names": "{0: 'Löwe'}", "stride": "32"}
    assert (info.opset, info.inputs[0].dtype) == (17, "float32")


def test_agrees_with_onnx(tmp_path: Path) -> None:
    path = mean_network(tmp_path / "a.onnx")
    model = onnx.load(path)
    info = read_onnx(path)
    assert [port.name for port in info.inputs] == [value.name for value in model.graph.input]
    assert info.outputs[0].shape == (None, 3)


def test_weights_listed_among_the_inputs_are_none(tmp_path: Path) -> None:
    path = mean_network(tmp_path / "a.onnx")
    model = onnx.load(path)
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [0.0])
    model.graph.initializer.append(weight)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]))
    onnx.save(model, path)
    assert [port.name for port in read_onnx(path).inputs] == ["x"]


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x08\x08", bytes(1000), b"\xff" * 100])
def test_no_onnx_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.onnx \(detect\.model\): (not an ONNX file|the file is empty)"):
        read_onnx(tmp_path / "a.onnx", "detect.model")


def test_cut_off_anywhere(tmp_path: Path) -> None:
    whole = mean_network(tmp_path / "a.onnx").read_bytes()
    for length in range(1, len(whole) - 8, 7):  # the last bytes are of the opset's version
        (tmp_path / "b.onnx").write_bytes(whole[:length])
        with pytest.raises(InputError, match="not an ONNX file, or cut off"):
            read_onnx(tmp_path / "b.onnx")


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx: no such file"):
        read_onnx(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="can't be read: Is a directory"):
        read_onnx(tmp_path)


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    path = constant_detector(tmp_path / "a.onnx", {"y": np.zeros((1, 500, 6))})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="a.data", size_threshold=0)
    with pytest.raises(InputError, match="its weights are in other files; write one file"):
        read_onnx(path)


def test_operators_of_ones_own_are_refused(tmp_path: Path) -> None:
    path = mean_network(tmp_path / "a.onnx")
    model = onnx.load(path)
    model.graph.node[0].domain = "my.company"
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"operators of 'my\.company'"):
        read_onnx(path)


def test_what_would_run_code(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "new.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps([1]))
    assert all(needs_code(tmp_path / name) for name in ("new.pt", "old.pt", "plain.pkl"))
    assert not needs_code(mean_network(tmp_path / "a.onnx"))
