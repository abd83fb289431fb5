"""What runs ONNX files: `Network`, and the runtimes that make one from a file.

On a CPU that is OpenVINO if it is installed, otherwise ONNX Runtime; on an NVIDIA GPU ONNX Runtime with CUDA.
Neither runs code of a model's author. A network computes each batch by itself on a fixed number of threads,
so that an answer depends only on the batch, and not on which worker computed it, or on what came before.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy.typing as npt

from camtrap_batch.errors import JobError, MissingExtra
from camtrap_batch.registry import Registry
from camtrap_batch.runtime.onnxfile import OnnxInfo
from camtrap_batch.runtime.stream import in_order

Array = npt.NDArray[Any]
Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Normalising:
    """What is done to pixels before the first layer: divide by 255, subtract the mean, divide by std."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


class Network(Protocol):
    """A network, ready to compute; may be used from several threads.

    Attributes
    ----------
    info : inputs, outputs and metadata of its file
    runtime : name of what computes it
    precision : precision it computes in; inputs and outputs keep their types
    threads : number of batches that may be computed at once, each on its own thread; 1 on a GPU
    """

    info: OnnxInfo
    runtime: str
    device: Device
    precision: Precision
    threads: int

    def run(self, batch: Array) -> list[Array]:
        """The outputs, in order, for a batch of its one input.

        Raises
        ------
        MemoryError
            Memory ran out: a smaller batch may do.
        ValueError
            The batch does not fit the network.
        """
        ...


class Runtime(Protocol):
    """A package that computes ONNX files."""

    packages: tuple[str, ...]
    """The modules that must be installed."""

    @classmethod
    def precisions(cls, device: Device) -> tuple[Precision, ...]:
        """The precisions it computes in on this machine, the fastest first; empty if it can't use the
        device."""
        ...

    @classmethod
    def open(
        cls,
        path: Path,
        info: OnnxInfo,
        device: Device,
        precision: Precision,
        threads: int,
        normalising: Normalising | None = None,
    ) -> Network:
        """A network that is ready.

        Parameters
        ----------
        normalising : made part of the network if the runtime can do that: its `info` then says that it
            takes (n, height, width, 3) uint8
        """
        ...


RUNTIMES: Registry[type[Runtime]] = Registry(
    "camtrap_batch.runtimes",
    {
        "openvino": "camtrap_batch.runtime.openvino:OpenVino",
        "onnxruntime": "camtrap_batch.runtime.onnxruntime:OnnxRuntime",
    },
)
"""Name -> runtime; the first that is installed and can use the device is used."""


def installed_runtimes() -> list[str]:
    """Names of the runtimes whose packages are installed here."""
    return [name for name, runtime in RUNTIMES.items() if _is_installed(runtime)]


def choose_runtime(device: Device, name: str | None = None) -> tuple[str, type[Runtime]]:
    """A runtime for a device.

    Parameters
    ----------
    name : which one; None: the first in `RUNTIMES` that is installed and can use the device

    Raises
    ------
    MissingExtra
        None is installed.
    JobError
        None that is installed can use the device.
    """
    extra = "onnx-gpu" if device == "cuda" else "onnx"
    there = [name] if name else installed_runtimes()
    if not there or (name and not _is_installed(RUNTIMES.choose(name, "runtime"))):
        raise MissingExtra(extra, f"computing an ONNX file on {device}")
    for candidate in there:
        if RUNTIMES[candidate].precisions(device):
            return candidate, RUNTIMES[candidate]
    if device == "cuda":
        raise JobError(
            f"device cuda: no GPU that {' or '.join(there)} can use here; use cpu, or install "
            "'camtrap-batch[onnx-gpu]' on the GPU worker"
        )
    raise JobError(f"{' and '.join(there)} can't compute on {device}")


def best_device() -> Device:
    """cuda if an installed runtime can use a GPU, otherwise cpu."""
    return "cuda" if any(RUNTIMES[name].precisions("cuda") for name in installed_runtimes()) else "cpu"


def possible_precision(name: Precision, device: Device) -> Precision:
    """The precision with this name, or float32 on a machine that would only emulate it."""
    return name if name in choose_runtime(device)[1].precisions(device) else "float32"


def count_threads(threads: int | None) -> int:
    """`threads`, or one for each CPU this process may use."""
    if threads is not None:
        return max(1, threads)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def stream(network: Network, batches: Iterable[Array]) -> Iterator[list[Array]]:
    """The outputs of each batch, in order; `network.threads` of them are computed at once."""
    if network.threads == 1:
        yield from map(network.run, batches)
        return
    with ThreadPoolExecutor(network.threads, thread_name_prefix="network") as pool:
        yield from in_order(pool, network.run, batches, network.threads - 1)


def _is_installed(runtime: type[Runtime]) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in runtime.packages)
