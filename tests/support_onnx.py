"""Small ONNX files for tests: networks whose answers can be told beforehand."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    weights: Mapping[str, npt.NDArray[Any]] | None = None,
    metadata: Mapping[str, Any] | None = None,
    opset: int = 17,
) -> Path:
    """Write a network; a size that is text is free."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {key: str(value) for key, value in (metadata or {}).items()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def constant_detector(
    path: Path,
    outputs: Mapping[str, npt.NDArray[np.float32]],
    *,
    sides: Sequence[int | str] = ("height", "width"),
    **metadata: Any,
) -> Path:
    """A network that gives the same outputs, each of shape (1, ...), for whatever picture."""
    nodes = [helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0)]
    weights: dict[str, npt.NDArray[Any]] = {"nought": np.zeros(1, np.float32)}
    nodes.append(helper.make_node("Mul", ["mean", "nought"], ["none"]))
    nodes.append(helper.make_node("ReduceSum", ["none"], ["zero"], keepdims=0))
    for name, value in outputs.items():
        weights[f"{name} value"] = value.astype(np.float32)
        nodes.append(helper.make_node("Add", [f"{name} value", "zero"], [name]))
    inputs = {"images": [1, 3, *sides]}
    shapes = {name: value.shape for name, value in outputs.items()}
    return save(path, nodes, inputs, shapes, weights, metadata)


def spot_detector(path: Path, size: int = 64, cell: int = 8, **metadata: Any) -> Path:
    """A YOLOv8 kind of network that finds bright cells: a box of one cell, as sure as the cell is bright.

    Its grid has strides `cell`, 2 `cell` and 4 `cell`; only the first one finds anything. Class 0 is what it
    finds; the class 1 never is.
    """
    grids = [(size // (cell * 2**level)) ** 2 for level in range(3)]
    n, side = sum(grids), size // cell
    centres = (np.indices((side, side)).reshape(2, -1)[::-1] + 0.5) * cell
    boxes = np.zeros((1, 4, n), np.float32)
    boxes[0, :2, : grids[0]], boxes[0, 2:, : grids[0]] = centres, cell
    boxes[0, :, grids[0] :] = cell
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("AveragePool", ["grey"], ["cells"], kernel_shape=[cell, cell], strides=[cell, cell]),
        helper.make_node("Reshape", ["cells", "as row"], ["row"]),
        helper.make_node("Pad", ["row", "by"], ["scores"]),
        helper.make_node("Mul", ["scores", "nought"], ["nothing"]),
        helper.make_node("Concat", ["boxes", "scores", "nothing"], ["output0"], axis=1),
    ]
    weights = {
        "as row": np.array([1, 1, grids[0]], np.int64),
        "by": np.array([0, 0, 0, 0, 0, n - grids[0]], np.int64),
        "nought": np.zeros(1, np.float32),
        "boxes": boxes,
    }
    said = {"names": {0: "animal", 1: "person"}, "stride": 4 * cell, **metadata}
    return save(path, nodes, {"images": [1, 3, size, size]}, {"output0": [1, 6, n]}, weights, said)


def mean_network(path: Path) -> Path:
    """A network for any batch of any size: the mean of each channel."""
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)
    return save(path, [node], {"x": ["batch", 3, "height", "width"]}, {"y": ["batch", 3]})


def export(
    network: torch.nn.Module, example: torch.Tensor, path: Path, free: Mapping[int, str], batch: bool = True
) -> Path:
    """Write a network of torch's, as most programs do; `free`: axes of its input that may have any size.

    `batch`: whether the first axis of its output may.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own parts
        torch.onnx.export(
            network,
            (example,),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["pictures"],
            output_names=["answers"],
            dynamic_axes={"pictures": dict(free), "answers": {0: "n"} if batch else {}},
        )
    return path
