"""ONNX files through ONNX Runtime: on NVIDIA GPUs, and on CPUs for which there is no OpenVINO."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from camtrap_batch.errors import InputError
from camtrap_batch.runtime.base import Array, Device, Normalising, Precision
from camtrap_batch.runtime.onnxfile import OnnxInfo

_CUDA, _TENSORRT, _CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
_SHAPE = ("INVALID_ARGUMENT", "Got invalid dimensions", "Invalid rank")
_OUT_OF_MEMORY = ("bad allocation", "bad_alloc", "failed to allocate", "out of memory", "cuda failure 2")


class OnnxRuntime:
    """The runtime `onnxruntime`."""

    packages = ("onnxruntime",)

    @classmethod
    def precisions(cls, device: Device) -> tuple[Precision, ...]:
        if device == "cpu":
            return ("float32",)
        import onnxruntime

        there = onnxruntime.get_available_providers()
        if _CUDA not in there or not _has_gpu():
            return ()
        return ("float16", "float32") if _TENSORRT in there and _has_tensorrt() else ("float32",)

    @classmethod
    def open(
        cls,
        path: Path,
        info: OnnxInfo,
        device: Device,
        precision: Precision,
        threads: int,
        normalising: Normalising | None = None,
    ) -> OnnxRuntimeNetwork:
        return OnnxRuntimeNetwork(path, info, device, precision, threads)


class OnnxRuntimeNetwork:
    """A `Network` in ONNX Runtime."""

    runtime = "onnxruntime"

    def __init__(
        self, path: Path, info: OnnxInfo, device: Device, precision: Precision, threads: int
    ) -> None:
        import onnxruntime

        self.info, self.device, self.precision = info, device, precision
        self.threads = 1 if device == "cuda" else threads
        if device == "cuda":
            _load_cuda()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # Threads that spin while waiting for work take time from the decoder.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=providers(device, precision)
            )
        except Exception as problem:  # ONNX Runtime's own classes, which differ by version
            raise InputError(f"{path}: ONNX Runtime can't load it: {_short(problem)}") from None
        if device == "cuda" and self._session.get_providers()[0] == _CPU:
            raise InputError(
                f"{path}: ONNX Runtime found no use for the GPU; is its CUDA library the right one?"
            )
        self._input = info.inputs[0].name

    def run(self, batch: Array) -> list[Array]:
        try:
            outputs: list[Array] = self._session.run(None, {self._input: batch})
        except Exception as problem:
            text = str(problem)
            if any(words in text.lower() for words in _OUT_OF_MEMORY):
                raise MemoryError(f"computing a batch of shape {batch.shape} in ONNX Runtime") from None
            if any(words in text for words in _SHAPE):
                raise ValueError(
                    f"a batch of shape {batch.shape} for the input {self.info.inputs[0]}: {_short(problem)}"
                ) from None
            raise
        return outputs


def providers(device: Device, precision: Precision) -> list[Any]:
    """ONNX Runtime's execution providers, the first ones preferred."""
    if device == "cpu":
        return [_CPU]
    # float16 in TensorRT, which converts the weights itself; CUDA computes in the types of the file.
    first = [(_TENSORRT, {"trt_fp16_enable": True})] if precision == "float16" else []
    # An arena that grows only as requested: the GPU may be shared with a second process.
    cuda = (_CUDA, {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"})
    return [*first, cuda, _CPU]


def _has_gpu() -> bool:
    """Whether the driver lists a device; ONNX Runtime lists its CUDA provider even without one."""
    # The last one is that of Linux under Windows (WSL).
    return any(
        any(Path(folder).glob(name))
        for folder, name in (("/proc/driver/nvidia/gpus", "*"), ("/dev", "nvidia[0-9]*"), ("/dev", "dxg"))
    )


@cache
def _load_cuda() -> None:
    """Load the libraries that came with pip, where they are: the system's loader does not look there."""
    import onnxruntime

    if (preload := getattr(onnxruntime, "preload_dlls", None)) is not None:  # since 1.21
        with redirect_stdout(io.StringIO()):  # what it does not find may be elsewhere
            preload()


def _has_tensorrt() -> bool:
    from importlib.util import find_spec

    return find_spec("tensorrt") is not None


def _short(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:200] or type(problem).__name__
