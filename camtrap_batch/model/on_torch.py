"""A classifier computed by torch: on GPUs, and on CPUs if no other runtime is faster."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from camtrap_batch.images.pixels import Pixels
from camtrap_batch.model.device import Autocast, Normalise, choose_precision
from camtrap_batch.model.info import ModelInfo

_OUT_OF_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")

PRECISIONS: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def candidates(device: torch.device) -> list[str]:
    """Precisions to try on this machine, the fastest first; the last one is float32."""
    short = name_of(choose_precision(device))
    return [*({short} - {"float32"}), "float32"]


def computes_in(name: str, device: torch.device) -> bool:
    """Whether this machine computes in a precision, and would not only emulate it."""
    return name in candidates(device) or (name == "float16" and device.type == "cuda")


def name_of(precision: torch.dtype | str) -> str:
    """Name of the type, such as "bfloat16"."""
    return str(precision).removeprefix("torch.")


class TorchForward:
    """A `Forward` (see `predictor`) by torch.

    Parameters
    ----------
    network : on the CPU, in evaluation mode; its weights are not changed
    threads : number of torch's threads, on a CPU
    """

    runtime = "torch"

    def __init__(
        self,
        network: nn.Module,
        info: ModelInfo,
        device: torch.device,
        precision: str,
        threads: int,
    ) -> None:
        self.precision, self.threads = precision, threads
        self.network = make_ready(network, device, PRECISIONS[precision])
        self._normalise = Normalise(info.mean, info.std, device)
        self._lock = threading.Lock()

    def __call__(self, pixels: Pixels, temperature: float) -> npt.NDArray[np.float32]:
        with self._lock, torch.inference_mode():
            # For this thread: OpenMP's setting belongs to the thread that made it, and Dask's nanny sets 1.
            torch.set_num_threads(self.threads)
            try:
                logits = self.network(self.network_input(pixels))
                probs: npt.NDArray[np.float32] = torch.softmax(logits / temperature, 1).cpu().numpy()
            except RuntimeError as problem:
                if not _is_out_of_memory(problem):
                    raise
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                raise MemoryError(f"computing {len(pixels)} images at once: {problem}") from None
        return probs

    def shared(self, precision: str) -> TorchForward:
        """A copy in another precision, sharing the weights in memory."""
        other = copy.copy(self)
        other.precision, other.network = precision, Autocast(self.network.network, PRECISIONS[precision])
        return other

    def network_input(self, pixels: Pixels) -> torch.Tensor:
        """The network's input for squares (n, size, size, 3): float32 (n, 3, size, size)."""
        return self._normalise(torch.from_numpy(pixels))


def make_ready(network: nn.Module, device: torch.device, precision: torch.dtype) -> Autocast:
    """`network` for classifying on a device: float32 images in, logits out."""
    ready = Autocast.on(device, _fused(network), precision)
    ready.eval().requires_grad_(False)
    return ready


def _fused(network: nn.Module) -> nn.Module:
    """Batch normalisation folded into the convolutions before it, if the network can be rewritten."""
    from torch.fx.experimental.optimization import fuse

    try:
        fused: nn.Module = fuse(network)
    except Exception:  # torch.fx can't trace the network's code: it fails in many ways
        return network
    return fused


def _is_out_of_memory(problem: RuntimeError) -> bool:
    text = str(problem)
    return isinstance(problem, torch.OutOfMemoryError) or any(words in text for words in _OUT_OF_MEMORY)
