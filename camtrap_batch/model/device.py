"""Where a model is computed, and in what precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from camtrap_batch.errors import JobError


def choose_device(name: str) -> torch.device:
    """The device with a name; "auto" is CUDA if torch finds it.

    Raises
    ------
    JobError
        "cuda" on a machine where torch finds none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise JobError("device cuda: torch finds no CUDA GPU on this machine; use auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def choose_precision(device: torch.device) -> torch.dtype:
    """The type that autocast computes in: bfloat16 if the hardware supports it, otherwise float16 (GPU) or
    float32.

    On a CPU without bfloat16 instructions autocast would only emulate it, slower than float32.
    """
    if device.type == "cuda":
        exact = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if exact else torch.float16
    # Not every torch has this: otherwise take the safe choice.
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


class Autocast(nn.Module):
    """`network` computed in `precision`, its answer in float32.

    A module rather than a block around the training loop, so that an exception in the loop leaves nothing
    enabled.
    """

    def __init__(self, network: nn.Module, precision: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.precision = precision

    @classmethod
    def on(cls, device: torch.device, network: nn.Module, precision: torch.dtype | None = None) -> Autocast:
        """`network` on a device, channels last in memory; the precision is the device's unless given."""
        placed = cls(network.to(device), precision or choose_precision(device))
        return placed.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        enabled = self.precision != torch.float32
        with torch.autocast(images.device.type, dtype=self.precision, enabled=enabled):
            logits: torch.Tensor = self.network(images)
        return logits.float()


class Normalise:
    """uint8 pixels (n, height, width, 3) -> float32 (n, 3, height, width), channels last in memory.

    Parameters
    ----------
    mean, std
        Per channel, of pixel values between 0 and 1.
    device
        Where the images go.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.device = device
        self._mean, self._std = (255 * torch.tensor(mean)).to(device), (255 * torch.tensor(std)).to(device)

    def __call__(
        self, pixels: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """`change` is applied before normalising, to float32 (n, 3, height, width) between 0 and 255."""
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        if change is not None:
            images = change(images)
        images = images.contiguous(memory_format=torch.channels_last)
        n, _, height, width = images.shape
        # Row by row, as in memory: channel by channel, torch would process three values at a time.
        rows = images.permute(0, 2, 3, 1).view(n, height, 3 * width)
        rows.sub_(self._mean.repeat(width)).div_(self._std.repeat(width))
        return images
