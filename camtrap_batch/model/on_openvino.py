"""A classifier computed by OpenVINO, on CPUs: its files in the model folder, and what computes them.

The check of precisions makes the files from the weights, once for each model and run folder, and they are
kept with the model: workers compute the same network, and load neither torch nor the conversion tools. The
networks take pixels as decoded; normalising is part of them.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from camtrap_batch.errors import InputError
from camtrap_batch.images.pixels import Pixels
from camtrap_batch.model.calibration import calibrated
from camtrap_batch.model.info import ONNX_ARCH, ModelInfo, Outputs
from camtrap_batch.runtime import RUNTIMES, graphs, installed_runtimes, open_network, stream

if TYPE_CHECKING:
    from torch import nn

    from camtrap_batch.model.onnx import OnnxClassifier
    from camtrap_batch.runtime import Precision

NETWORKS: Mapping[str, str] = {
    "float32": "openvino-float32.xml",
    "bfloat16": "openvino-float32.xml",
    "float16": "openvino-float32.xml",
    "int8": "openvino-int8.xml",
}
"""Precision -> the file in a model folder that is computed in it."""

_AT_ONCE = 4
"""Number of images computed together. More are no faster on one thread; fewer read the weights more often."""


def is_there() -> bool:
    """Whether OpenVINO is installed, and computes on this CPU."""
    return "openvino" in installed_runtimes() and bool(RUNTIMES["openvino"].precisions("cpu"))


def candidates() -> list[str]:
    """Precisions to try on this machine, the fastest first; the last one is float32."""
    from camtrap_batch.runtime.openvino import OpenVino

    integers = ["int8"] if OpenVino.multiplies_integers() else []
    return [*integers, *OpenVino.precisions("cpu")]


def computes_in(name: str) -> bool:
    """Whether this CPU computes in a precision, and would not only emulate it."""
    return name in candidates()


def convert(network: nn.Module, info: ModelInfo, folder: Path) -> None:
    """Write the network into `folder` in float32.

    Raises
    ------
    ValueError
        It contains something that can't be written as a graph, or that OpenVINO does not know.
    """
    if info.arch == ONNX_ARCH:
        file = cast("OnnxClassifier", network).path
        made = graphs.of_onnx(file, info.size, info.mean, info.std, len(info.classes))
        graphs.write(made, folder / NETWORKS["float32"])
        return
    import torch

    # Two: a size of 1 would be taken as fixed.
    example = torch.zeros(2, 3, info.size, info.size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own parts
        try:
            program = torch.export.export(
                network, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False
            )
        except Exception as problem:  # a network whose code can't be traced fails in many ways
            lines = str(problem).strip().splitlines() or [type(problem).__name__]
            raise ValueError(lines[0][:200]) from None
        graphs.write(graphs.of_program(program, info.mean, info.std), folder / NETWORKS["float32"])


def to_integers(pixels: Pixels, folder: Path, move: Callable[[], None] = lambda: None) -> None:
    """Also write what `convert` wrote into `folder` in 8-bit integers.

    Parameters
    ----------
    pixels : (n, size, size, 3), pictures like those that will be classified
    move : called now and then during the work

    Raises
    ------
    ValueError
        It can't be computed in integers.
    """
    graphs.quantise(folder / NETWORKS["float32"], pixels, folder / NETWORKS["int8"], move)


def files_for(precisions: list[str]) -> list[str]:
    """Names of the files needed to compute in these precisions."""
    names = dict.fromkeys(NETWORKS[name] for name in precisions)
    return [file.name for name in names for file in graphs.files_of(Path(name))]


def hash_files(folder: Path, names: list[str]) -> dict[str, str]:
    """Name -> SHA-256 of the content, in hex."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def require_same(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise InputError if one of the files is not what was checked."""
    for name, right in hashes.items():
        try:
            found = hash_files(folder, [name])[name]
        except OSError as problem:
            raise InputError(f"{folder / name}: can't be read: {problem.strerror or problem}") from None
        if found != right:
            raise InputError(
                f"{folder / name}: is not what was made from the model's weights; delete it, and the "
                "snapshots of predictions, or set infer.precision: float32"
            )


class OpenVinoForward:
    """A `Forward` (see `predictor`) by OpenVINO.

    Each image is computed on one thread, `threads` parts of a batch at once: its answer does not depend on
    how many threads there are.
    """

    runtime = "openvino"

    def __init__(self, folder: Path, precision: str, threads: int, outputs: Outputs = "logits") -> None:
        self.precision, self._outputs = precision, outputs
        floats: Precision = "float32" if precision == "int8" else precision  # type: ignore[assignment]
        self._network = open_network(folder / NETWORKS[precision], "cpu", threads, floats)
        shape = self._network.info.inputs[0].shape
        self._at_once = shape[0] or _AT_ONCE

    def __call__(self, pixels: Pixels, temperature: float) -> npt.NDArray[np.float32]:
        found = [outputs[0] for outputs in stream(self._network, self._parts(pixels))]
        values = np.concatenate(found)[: len(pixels)].reshape(len(pixels), -1).astype(np.float32, copy=False)
        if self._outputs == "probabilities":
            values = np.log(np.maximum(values, np.finfo(np.float32).tiny))
        return calibrated(values, temperature)

    def _parts(self, pixels: Pixels) -> Iterator[npt.NDArray[Any]]:
        for start in range(0, len(pixels), self._at_once):
            part = pixels[start : start + self._at_once]
            if len(part) < self._at_once:  # every other shape would be compiled separately
                rest = np.zeros((self._at_once - len(part), *part.shape[1:]), np.uint8)
                part = np.concatenate([part, rest])
            yield part
