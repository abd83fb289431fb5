"""OpenVINO networks: converted from torch, taking pixels, quantised to 8-bit integers, written to files.

An OpenVINO file is a description (`.xml`) with the weights beside it (`.bin`); reading one runs no code.
Integers are NNCF's: it observes the values that pass through the network for some pictures, and chooses
scales.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from camtrap_batch.runtime.base import Array
from camtrap_batch.runtime.quiet import import_openvino

ENDINGS = (".xml", ".bin")
"""Endings of a network's two files."""

_SIGN_S = 5.0


def files_of(path: Path) -> list[Path]:
    """The two files of the network that has this description."""
    return [path.with_suffix(ending) for ending in ENDINGS]


def of_program(program: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """A torch network, converted to take pixels as decoded.

    Parameters
    ----------
    program : a `torch.export.ExportedProgram` with one input, (n, 3, height, width) float32
    mean, std : normalisation of its pixels, per channel, for values between 0 and 1

    Returns
    -------
    An `openvino.Model` that takes (n, height, width, 3) uint8.

    Raises
    ------
    ValueError
        It contains operators that OpenVINO does not know.
    """
    openvino = import_openvino()
    try:
        model = openvino.convert_model(program)
    except Exception as problem:  # a converter may raise anything for an unknown operator
        raise ValueError(_short(problem)) from None
    return with_pixels(model, mean, std)


def of_onnx(path: Path, size: int, mean: Sequence[float], std: Sequence[float], n_outputs: int) -> Any:
    """The network in an ONNX file, converted to take pixels as decoded.

    Parameters
    ----------
    size : side of the squares that it will be given
    mean, std : as for `of_program`
    n_outputs : number of values, per picture, of the output that is wanted

    Returns
    -------
    An `openvino.Model` that takes (n, size, size, 3) uint8, with one output.

    Raises
    ------
    ValueError
        It has no such output, or can't be read.
    """
    openvino = import_openvino()
    try:
        model = openvino.Core().read_model(str(path))
        n, *sides = model.inputs[0].get_partial_shape()
        is_last = sides[2].is_static and sides[2] == 3 and not (sides[0].is_static and sides[0] == 3)
        model.reshape([n, size, size, 3] if is_last else [n, 3, size, size])
    except RuntimeError as problem:
        raise ValueError(_short(problem)) from None
    for output in model.outputs:
        shape = output.get_partial_shape()
        lengths = [side.get_length() if side.is_static else 0 for side in list(shape)[1:]]
        if lengths and lengths[0] == n_outputs and all(length == 1 for length in lengths[1:]):
            one = openvino.Model([output], model.get_parameters(), model.get_friendly_name())
            return with_pixels(one, mean, std, "NHWC" if is_last else "NCHW")
    raise ValueError(f"none of its outputs is said to be of {n_outputs} classes")


def with_pixels(model: Any, mean: Sequence[float], std: Sequence[float], layout: str = "NCHW") -> Any:
    """An `openvino.Model` that takes pixels, (n, height, width, 3) uint8, and normalises them.

    Parameters
    ----------
    mean, std : per channel, for values between 0 and 1
    layout : layout of the pictures that it takes now
    """
    openvino = import_openvino()
    from openvino.preprocess import PrePostProcessor

    before = PrePostProcessor(model)
    before.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    before.input().model().set_layout(openvino.Layout(layout))
    steps = before.input().preprocess().convert_element_type(openvino.Type.f32)
    if any(mean):
        steps.mean([255 * value for value in mean])
    steps.scale([255 * value for value in std])
    return before.build()


def write(model: Any, path: Path) -> None:
    """Write the two files of an `openvino.Model`; `path` is the description's."""
    import_openvino().save_model(model, str(path), compress_to_fp16=False)


def can_quantise() -> bool:
    """Whether NNCF is installed."""
    return find_spec("nncf") is not None


def quantise(path: Path, inputs: Array, out: Path, move: Callable[[], None] = lambda: None) -> None:
    """Write a network in 8-bit integers.

    In a separate process: NNCF takes memory, writes to the terminal, and changes how a process logs.

    Parameters
    ----------
    path : an ONNX file, or one of OpenVINO's
    inputs : (n, ...) similar to its future inputs; each (1, ...) is, or is repeated to, what the network
        takes at once
    out : where the description goes
    move : called now and then during the work

    Raises
    ------
    ValueError
        The network can't be quantised to integers.
    """
    samples = out.with_suffix(".npy")
    np.save(samples, inputs)
    command = [sys.executable, "-m", "camtrap_batch.runtime.integers", str(path), str(samples), str(out)]
    with subprocess.Popen(  # noqa: S603 - of arguments that no shell reads
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        said = None
        try:
            while said is None:
                try:
                    said = process.communicate(timeout=_SIGN_S)[1]
                except subprocess.TimeoutExpired:
                    move()
        finally:
            process.kill()
            samples.unlink()
    if process.returncode:
        lines = said.strip().splitlines() or [f"ended with {process.returncode}"]
        raise ValueError(lines[-1][:200])


def _short(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:200] or type(problem).__name__
