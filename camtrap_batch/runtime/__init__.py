"""ONNX files on CPUs and GPUs, for detectors and classifiers.

`read_onnx` says what is in a file, without a runtime; `open_network` makes a `Network` from it, whose `run`
computes a batch; `stream` computes many, as many at once as there are threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from camtrap_batch.errors import InputError, JobError
from camtrap_batch.runtime.base import (
    RUNTIMES,
    Array,
    Device,
    Network,
    Normalising,
    Precision,
    Runtime,
    best_device,
    choose_runtime,
    count_threads,
    installed_runtimes,
    possible_precision,
    stream,
)
from camtrap_batch.runtime.onnxfile import OnnxInfo, Port, hash_file, needs_code, read_onnx

__all__ = [
    "RUNTIMES",
    "Array",
    "Device",
    "Network",
    "Normalising",
    "OnnxInfo",
    "Port",
    "Precision",
    "Runtime",
    "best_device",
    "choose_runtime",
    "count_threads",
    "hash_file",
    "installed_runtimes",
    "needs_code",
    "open_network",
    "possible_precision",
    "read_onnx",
    "stream",
]


def open_network(
    path: str | Path,
    device: Literal["auto", "cpu", "cuda"] = "cpu",
    threads: int | None = None,
    precision: Precision | Literal["auto"] = "float32",
    runtime: str | None = None,
    normalising: Normalising | None = None,
) -> Network:
    """The network in an ONNX file, or in one of OpenVINO's; loading it runs none of its author's code.

    Parameters
    ----------
    device : auto: a GPU if an installed runtime can use one
    threads : number of batches computed at once on a CPU, each on one thread; None: one for each CPU that
        this process may use
    precision : auto: the shortest floats that the hardware computes with; the caller must check whether the
        answers hold in them
    runtime : openvino or onnxruntime; None: the first that is installed and can use the device
    normalising : made part of the network if the runtime can do that; `info` of the network then says
        that it takes pixels, (n, height, width, 3) uint8

    Raises
    ------
    MissingExtra
        No runtime is installed.
    InputError
        It is neither, has more than one input, or contains an operator that the runtime does not know.
    JobError
        The device is missing, or does not compute in that precision.
    """
    where: Device = best_device() if device == "auto" else device
    if Path(path).suffix == ".xml":
        where, runtime = "cpu", "openvino"
    name, chosen = choose_runtime(where, runtime)
    info = _info(Path(path))
    if len(info.inputs) != 1:
        raise InputError(f"{path}: should have one input, the pictures; it has {info.shapes()}")
    able = chosen.precisions(where)
    if precision == "auto":
        precision = able[0]
    elif precision not in able:
        raise JobError(f"{name} does not compute in {precision} on {where} here; possible: {', '.join(able)}")
    return chosen.open(Path(path), info, where, precision, count_threads(threads), normalising)


def _info(path: Path) -> OnnxInfo:
    if path.suffix != ".xml":
        return read_onnx(path)
    from camtrap_batch.runtime.openvino import describe

    return describe(path)
