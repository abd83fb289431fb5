"""How exactly a model is computed when it classifies: the fastest way that gives the same answers.

8-bit integers, where the CPU multiplies them four at a time (VNNI, AMX), take half
the time of bfloat16, and that half the time of float32. For integers the range of every layer's values has to
be known: it is observed on some images, and kept with the model, so that each worker computes the same.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from camtrap_batch.errors import InputError
from camtrap_batch.model.device import Autocast, choose_precision
from camtrap_batch.model.info import OBSERVED

_INTEGERS = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8")

Observed = Mapping[str, torch.Tensor]
"""Ranges of a network's values, as `observe` gives them."""


def candidates(device: torch.device) -> list[torch.dtype]:
    """What to compute in on this machine, the fastest first; the last one is float32."""
    found = [] if device.type == "cuda" or not _multiplies_integers() else [torch.int8]
    if (short := choose_precision(device)) != torch.float32:
        found.append(short)
    return [*found, torch.float32]


def possible(name: str, device: str) -> torch.dtype:
    """The precision of that name, or what comes closest to it on a machine that is not able to."""
    if name == "float32":
        return torch.float32
    if name == "int8" and device == "cpu":
        return torch.int8
    return choose_precision(torch.device(device))


def make_ready(
    network: nn.Module, device: torch.device, precision: torch.dtype, observed: Observed | None = None
) -> nn.Module:
    """`network` for classifying on a device: float32 images in, logits out.

    Parameters
    ----------
    network : in evaluation mode; may be made ready again, in another precision
    observed : for int8, what `observe` returned

    Raises
    ------
    ValueError
        The network can't be computed in int8.
    """
    if precision == torch.int8:
        return _quantised(network, observed or {})
    ready = Autocast.on(device, _fused(network), precision)
    return ready.eval().requires_grad_(False)


def observe(network: nn.Module, images: torch.Tensor, batch: int) -> Observed:
    """Ranges of the network's values over some images; the network itself stays as it is.

    Raises
    ------
    ValueError
        The network is not one that can be computed in int8.
    """
    prepared = _prepared(network, images[:1])
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            prepared(images[start : start + batch])
    return {
        name: value.clone()
        for name, value in prepared.state_dict().items()
        if "activation_post_process" in name
    }


def pack_observed(observed: Observed) -> bytes:
    """The content of a model folder's `int8.safetensors`."""
    return safetensors.torch.save({name: value.contiguous() for name, value in observed.items()})


def load_observed(folder: str | Path) -> Observed:
    """What is kept in a model folder of `observe`. Raises InputError where there is nothing."""
    path = Path(folder) / OBSERVED
    try:
        found: Observed = safetensors.torch.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError) as problem:
        raise InputError(f"{path}: can't be read: {problem}; float32 needs no such file") from None
    return found


def name_of(precision: torch.dtype) -> str:
    """Such as "bfloat16"."""
    return str(precision).removeprefix("torch.")


def _multiplies_integers() -> bool:
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(able.get(name) for name in _INTEGERS) and torch.backends.quantized.engine == "x86"


def _fused(network: nn.Module) -> nn.Module:
    """Batch normalisation put into the convolutions before it, where the network can be rewritten so."""
    from torch.fx.experimental.optimization import fuse

    try:
        fused: nn.Module = fuse(network)
    except Exception:  # a network whose code torch.fx can't follow: it says so in many ways
        return network
    return fused


def _quantised(network: nn.Module, observed: Observed) -> nn.Module:
    with _no_warnings():
        prepared = _prepared(network, None)
        # Loading makes room for histograms, which are empty before.
        missing = prepared.load_state_dict(dict(observed), strict=False).missing_keys
        if any("activation_post_process" in name for name in missing):
            raise ValueError("the ranges observed are those of another network")
        from torch.ao.quantization.quantize_fx import convert_fx

        try:
            converted: nn.Module = convert_fx(prepared)
        except Exception as problem:
            raise ValueError(f"can't be computed in int8: {problem}") from None
    return _ChannelsLast(converted).eval()


def _prepared(network: nn.Module, example: torch.Tensor | None) -> Any:
    with _no_warnings():
        try:
            from torch.ao.quantization import get_default_qconfig_mapping
            from torch.ao.quantization.quantize_fx import prepare_fx
        except ImportError as problem:  # torch means to give these away to another package
            raise ValueError(f"can't be computed in int8 by this torch: {problem}") from None
        example = torch.zeros(1, 3, 64, 64) if example is None else example
        try:
            return prepare_fx(copy.deepcopy(network).cpu(), get_default_qconfig_mapping("x86"), (example,))
        except Exception as problem:  # torch.fx can't follow the network's code, or has no integers for it
            raise ValueError(f"can't be computed in int8: {problem}") from None


class _ChannelsLast(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits


@contextmanager
def _no_warnings() -> Iterator[None]:
    """torch says of its own parts that they will move to another package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
