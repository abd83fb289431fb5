"""ONNX files on CPUs and GPUs, for detectors and classifiers.

`read_onnx` says what is in a file, without a runtime; `open_network` makes a `Network` of it, whose `run`
computes a batch; `stream` computes many, as many at once as there are threads.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from camtrap_batch.errors import InputError, JobError
from camtrap_batch.runtime.base import (
    RUNTIMES,
    Array,
    Device,
    Network,
    Precision,
    Runtime,
    best_device,
    choose_runtime,
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
    "OnnxInfo",
    "Port",
    "Precision",
    "Runtime",
    "best_device",
    "choose_runtime",
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
) -> Network:
    """The network in an ONNX file, ready to compute; loading it runs no code of its author's.

    Parameters
    ----------
    device : auto: a GPU where a runtime that is installed can use one
    threads : batches that are computed at once on a CPU, each on one thread; None: one for each CPU that
        this process may use
    precision : auto: the shortest floats that the hardware computes with; whether the answers hold in them
        is for the caller to check
    runtime : openvino or onnxruntime; None: the first that is installed and can use the device

    Raises
    ------
    MissingExtra
        No runtime is installed.
    InputError
        It is no ONNX file, has more than one input, or an operator that the runtime does not know.
    JobError
        The device is not there, or does not compute in that precision.
    """
    info = read_onnx(path)
    if len(info.inputs) != 1:
        raise InputError(f"{path}: should have one input, the pictures; it has {info.shapes()}")
    where: Device = best_device() if device == "auto" else device
    name, chosen = choose_runtime(where, runtime)
    able = chosen.precisions(where)
    if precision == "auto":
        precision = able[0]
    elif precision not in able:
        raise JobError(f"{name} does not compute in {precision} on {where} here; possible: {', '.join(able)}")
    if threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return chosen.open(Path(path), info, where, precision, max(1, threads))
