"""ONNX files, and OpenVINO's own (see `graphs`), on CPUs through OpenVINO.

A file is compiled for the shape of each batch: with open shapes OpenVINO takes a tenth longer. Only the last
few compiled networks are kept, since each holds the weights in its own layout.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite.binding import get_host_cpu_features

from camtrap_batch.errors import InputError
from camtrap_batch.runtime.base import Array, Device, Normalising, Precision
from camtrap_batch.runtime.graphs import with_pixels
from camtrap_batch.runtime.onnxfile import OnnxInfo, Port
from camtrap_batch.runtime.quiet import import_openvino

_KEPT = 3  # compiled shapes: upright, wide and tall pictures
_DOT_PRODUCTS = ("avx512vnni", "avxvnni", "dotprod", "i8mm")
"""LLVM's names of the features that multiply and add 8-bit integers in 32 bits, on x86 and ARM."""
_HINTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_OUT_OF_MEMORY = ("bad_alloc", "could not create a memory", "failed to allocate", "out of memory")


class OpenVino:
    """The runtime `openvino`."""

    packages = ("openvino",)

    @classmethod
    def precisions(cls, device: Device) -> tuple[Precision, ...]:
        if device != "cpu":
            return ()
        able = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        # A CPU that has instructions for short floats says so; others would convert there and back.
        short: tuple[Precision, ...] = (
            ("bfloat16",) if "BF16" in able else ("float16",) if "FP16" in able else ()
        )
        return (*short, "float32")

    @classmethod
    def open(
        cls,
        path: Path,
        info: OnnxInfo,
        device: Device,
        precision: Precision,
        threads: int,
        normalising: Normalising | None = None,
    ) -> OpenVinoNetwork:
        return OpenVinoNetwork(path, info, precision, threads, normalising)

    @classmethod
    def multiplies_integers(cls) -> bool:
        """Whether this CPU has instructions for networks in 8-bit integers.

        Without them OpenVINO adds up pairs of products in 16 bits, which may be too few: answers may differ.
        """
        features = get_host_cpu_features()
        return any(features.get(name) for name in _DOT_PRODUCTS)


def describe(path: Path) -> OnnxInfo:
    """What an OpenVINO file says about itself. Raises InputError if it can't be read."""
    model = _read(path)
    inputs, outputs = (
        tuple(
            Port(
                next(iter(sorted(port.get_names())), ""),
                tuple(size.get_length() if size.is_static else None for size in port.get_partial_shape()),
                np.dtype(port.get_element_type().to_dtype()).name,
            )
            for port in ports
        )
        for ports in (model.inputs, model.outputs)
    )
    return OnnxInfo(inputs, outputs, {}, 0)


class OpenVinoNetwork:
    """A `Network` in OpenVINO."""

    runtime = "openvino"
    device: Device = "cpu"

    def __init__(
        self,
        path: Path,
        info: OnnxInfo,
        precision: Precision,
        threads: int,
        normalising: Normalising | None = None,
    ) -> None:
        if normalising is not None:
            name, (n, _, *sides) = info.inputs[0].name, info.inputs[0].shape
            info = replace(info, inputs=(Port(name, (n, *sides, 3), "uint8"),))
        self.info, self.precision, self.threads = info, precision, threads
        self._path, self._normalising = path, normalising
        self._compiled: OrderedDict[tuple[int, ...], _Compiled] = OrderedDict()
        self._lock = threading.Lock()
        _read(path)  # so that an unknown operator is reported here, not by the first batch

    def run(self, batch: Array) -> list[Array]:
        _check_shape(self.info, batch)
        try:
            return self._at(batch.shape).run(batch)
        except RuntimeError as problem:
            if any(words in str(problem).lower() for words in _OUT_OF_MEMORY):
                raise MemoryError(f"computing a batch of shape {batch.shape} in OpenVINO") from None
            raise

    def _at(self, shape: tuple[int, ...]) -> _Compiled:
        with self._lock:
            found = self._compiled.pop(shape, None)
            if found is None:
                while len(self._compiled) >= _KEPT:
                    self._compiled.popitem(last=False)
                found = self._compile(shape)
            self._compiled[shape] = found
            return found

    def _compile(self, shape: tuple[int, ...]) -> _Compiled:
        model = _read(self._path)
        if self._normalising is not None:
            model = with_pixels(model, self._normalising.mean, self._normalising.std)
        try:
            if model.inputs[0].get_partial_shape().is_dynamic:
                model.reshape(list(shape))
        except RuntimeError as problem:
            first = str(problem).strip().splitlines()[-1][:200]
            raise ValueError(f"the network does not take a batch of shape {shape}: {first}") from None
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "NUM_STREAMS": self.threads,
            "INFERENCE_NUM_THREADS": self.threads,
            # Processes that pin themselves to the first cores would share them.
            "ENABLE_CPU_PINNING": False,
            "PERFORMANCE_HINT": "THROUGHPUT",
        }
        return _Compiled(_core().compile_model(model, "CPU", settings))


class _Compiled:
    """A network compiled for one shape, with a request for each thread that uses it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._free: list[Any] = []
        self._n_outputs = len(model.outputs)

    def run(self, batch: Array) -> list[Array]:
        try:
            request = self._free.pop()
        except IndexError:
            request = self._model.create_infer_request()
        request.infer({0: np.ascontiguousarray(batch)}, share_inputs=True)
        outputs = [np.array(request.get_output_tensor(number).data) for number in range(self._n_outputs)]
        self._free.append(request)
        return outputs


@cache
def _core() -> Any:
    return import_openvino().Core()


def _read(path: Path) -> Any:
    try:
        return _core().read_model(str(path))
    except RuntimeError as problem:
        raise InputError(f"{path}: OpenVINO can't read it: {_short(problem)}") from None


def _check_shape(info: OnnxInfo, batch: Array) -> None:
    wanted = info.inputs[0].shape
    if wanted and (
        len(wanted) != batch.ndim
        or any(size not in (None, there) for size, there in zip(wanted, batch.shape, strict=True))
    ):
        raise ValueError(f"a batch of shape {batch.shape} for the input {info.inputs[0]}")


def _short(problem: BaseException) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return (lines[-1] if lines else type(problem).__name__)[:200]
