"""A classifier in an ONNX file, called like a torch network: normalised pictures in, logits out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from camtrap_batch.errors import CamtrapError, InputError
from camtrap_batch.model.info import ModelInfo, Outputs
from camtrap_batch.runtime import (
    Array,
    Device,
    Network,
    OnnxInfo,
    Precision,
    open_network,
    possible_precision,
    stream,
)

_TOGETHER = 8
"""Pictures that a thread computes at once on a CPU, padded at the end: so an answer does not depend on how
many there are, and only one shape must be compiled."""

_DTYPES = {"float32": np.float32, "float16": np.float16}
_SUMS = 1e-3  # tolerance for the sum of probabilities, which should be 1


class OnnxClassifier(nn.Module):
    """The network of a model folder whose `arch` is onnx; its weights are not torch parameters.

    It computes on the device of the pictures, in the precision of torch's autocast, with as many threads as
    torch has on the first call.
    """

    def __init__(self, path: Path, info: ModelInfo) -> None:
        super().__init__()
        self.path, self.info = path, info
        self._networks: dict[tuple[Device, Precision], Network] = {}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        network = self._open(images.device.type)
        pixels = arrange(images.float().cpu().numpy(), network.info)
        n = network.info.inputs[0].shape[0] or (len(pixels) if network.device == "cuda" else _TOGETHER)
        parts = [_filled(pixels[start : start + n], n) for start in range(0, len(pixels), n)]
        found = [answers(outputs, len(self.info.classes)) for outputs in stream(network, parts)]
        if any(some is None for some in found):
            raise InputError(f"{self.path}: its outputs changed their shapes")
        values = torch.from_numpy(np.concatenate(found)[: len(pixels)].astype(np.float32))  # type: ignore[arg-type]
        if self.info.outputs == "probabilities":
            values = values.clamp_min(torch.finfo(torch.float32).tiny).log()
        return values.to(images.device)

    def _open(self, device_type: str) -> Network:
        device: Device = "cuda" if device_type == "cuda" else "cpu"
        wanted: Any = "float32"
        if torch.is_autocast_enabled(device_type):
            wanted = str(torch.get_autocast_dtype(device_type)).removeprefix("torch.")
        precision = possible_precision(wanted, device)
        if (device, precision) not in self._networks:
            threads = torch.get_num_threads()
            self._networks[device, precision] = open_network(self.path, device, threads, precision)
        return self._networks[device, precision]


def arrange(images: npt.NDArray[np.float32], info: OnnxInfo) -> Array:
    """Pictures (n, 3, height, width) in the form a network takes: channels first or last, in its float
    type."""
    port = info.inputs[0]
    if _is_last(port.shape):
        images = images.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images, _DTYPES[port.dtype])


def answers(outputs: list[Array], n_classes: int) -> Array | None:
    """The output (pictures, classes) among a network's outputs; None if there is none."""
    for output in outputs:
        flat = output.reshape(len(output), -1) if output.ndim > 1 else output
        if output.ndim > 1 and flat.shape[1] == n_classes == output.shape[1]:
            return flat
    return None


def side_of(info: OnnxInfo, where: str) -> int | None:
    """Side of the square pictures that a network takes; None if it takes any.

    Raises InputError if it is not a network for pictures.
    """
    port = info.inputs[0] if len(info.inputs) == 1 else None
    if port is None or len(port.shape) != 4 or 3 not in (port.shape[1], port.shape[3]):
        raise InputError(
            f"{where}: not a classifier: should have one input of shape [pictures, 3, height, width] or "
            f"[pictures, height, width, 3], and has {info.shapes()}"
        )
    if port.dtype not in _DTYPES:
        raise InputError(f"{where}: takes pictures in {port.dtype}; should be {' or '.join(_DTYPES)}")
    height, width = port.shape[1:3] if _is_last(port.shape) else port.shape[2:]
    if height is not None and width is not None and height != width:
        raise InputError(f"{where}: takes pictures of {width} x {height} pixels; should be squares")
    return height or width


def look(path: Path, info: OnnxInfo, size: int, n_classes: int, where: str) -> Outputs:
    """What a network returns for a white picture: probabilities, or logits.

    Raises
    ------
    InputError
        It fails, or does not return as many numbers as there are classes.
    MissingExtra
        No runtime is installed.
    """
    network = open_network(path, "cpu", 1, "float32")
    n = info.inputs[0].shape[0] or 1
    try:
        outputs = network.run(arrange(np.ones((n, 3, size, size), np.float32), info))
    except CamtrapError:
        raise
    except Exception as problem:  # a runtime may raise anything for a network that does not take a picture
        short = " ".join(str(problem).split())[:200]
        raise InputError(f"{where}: not a classifier: fails on {size} x {size} pixels: {short}") from None
    found = answers(outputs, n_classes)
    if found is None:
        shapes = ", ".join(str(list(output.shape)) for output in outputs)
        raise InputError(
            f"{where}: gives {shapes} for {'a picture' if n == 1 else f'{n} pictures'} of {size} x {size} "
            f"pixels, and has {n_classes} classes: should give [{n}, {n_classes}]"
        )
    if not np.isfinite(found).all():
        raise InputError(f"{where}: gives values that are not finite numbers")
    sums = found.astype(np.float64).sum(axis=1)
    return "probabilities" if (found >= 0).all() and (abs(sums - 1) < _SUMS).all() else "logits"


def _is_last(shape: tuple[int | None, ...]) -> bool:
    return shape[3] == 3 and shape[1] != 3


def _filled(pixels: Array, n: int) -> Array:
    missing = n - len(pixels)
    return (
        np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), pixels.dtype)]) if missing else pixels
    )
