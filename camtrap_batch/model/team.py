"""Several processes that train one model: each takes its part of every batch, and gradients are averaged.

The result is that of one process with the same batch, up to rounding and batch normalisation, which sees only
a part of the batch. `SoloTeam` is a team of one.
"""

from __future__ import annotations

import datetime as dt
import os
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = dt.timedelta(minutes=10)
"""How long a process waits for the others in a step. Gloo notices a dead process at once, NCCL after this."""

WAIT = dt.timedelta(hours=2)
"""How long the others wait for the first, which alone searches for the learning rate."""


class TeamLost(Exception):
    """Another process of the team is gone, or does not answer."""


def open_store(host: str, port: int | None, wait: dt.timedelta) -> tuple[Any, int]:
    """Where a team meets: the store of a process at `host`, and its port; opened here without a `port`.

    By default the store would listen to anybody, on every interface; here it listens only on `host`.
    """
    if port is not None:
        return _store(host, port, wait, is_master=False), port
    listening = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    port = listening.getsockname()[1]
    return _store(host, port, wait, is_master=True, master_listen_fd=listening.detach()), port


def use_interface_of(host: str) -> None:
    """Keep the connections of a team that meets at this machine's loopback address on loopback."""
    if ip_address(host).is_loopback:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")


def _store(host: str, port: int, wait: dt.timedelta, **more: Any) -> Any:
    return dist.TCPStore(host, port, wait_for_workers=False, timeout=wait, **more)  # type: ignore[attr-defined]


class SoloTeam:
    """The team of one process."""

    rank, size = 0, 1

    def add(self, values: torch.Tensor) -> torch.Tensor:
        """Replace `values` by their sum over all processes."""
        return values

    def first(self, name: str, make: Callable[[], str]) -> str:
        """The result of rank 0, for all processes."""
        return make()

    def average_gradients(self, parameters: Sequence[torch.nn.Parameter], weight: float) -> None:
        """Replace gradients by their mean over all processes, weighted with each one's `weight`."""

    def average_buffers(self, network: torch.nn.Module) -> None:
        """Replace running statistics by their mean over all processes."""


class Team(SoloTeam):
    """One of several processes; a context that closes the connections at its end.

    Parameters
    ----------
    store
        The store that all processes reach.
    rank, size
        Which process this is, and of how many.
    device
        Where tensors are: NCCL connects GPUs, gloo CPUs.
    """

    def __init__(self, store: Any, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size = rank, size
        self._store, self._device = store, device

    def __enter__(self) -> Team:
        backend = "nccl" if self._device.type == "cuda" else "gloo"
        with _lost():
            dist.init_process_group(
                backend,
                store=dist.PrefixStore(backend, self._store),  # type: ignore[attr-defined]
                rank=self.rank,
                world_size=self.size,
                timeout=PATIENCE,
            )
        return self

    def __exit__(self, *_: object) -> None:
        dist.destroy_process_group()

    def add(self, values: torch.Tensor) -> torch.Tensor:
        moved = values.to(self._device)
        with _lost():
            dist.all_reduce(moved)
        return values.copy_(moved)

    def first(self, name: str, make: Callable[[], str]) -> str:
        key = f"first/{name}"
        if self.rank == 0:
            value = make()
            with _lost():
                self._store.set(key, value)
            return value
        with _lost():
            self._store.wait([key], WAIT)
            return bytes(self._store.get(key)).decode()

    def average_gradients(self, parameters: Sequence[torch.nn.Parameter], weight: float) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = self.add(torch.cat([flat.mul_(weight), flat.new_tensor([weight])]))
        _scatter(flat[:-1] / flat[-1].clamp(min=1e-12), gradients)

    def average_buffers(self, network: torch.nn.Module) -> None:
        buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        if buffers:
            flat = self.add(torch.cat([buffer.flatten() for buffer in buffers]))
            _scatter(flat / self.size, buffers)


class _lost:  # noqa: N801 - used like a function
    """Turns errors of torch.distributed, which are RuntimeErrors of any kind, into TeamLost."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, _: Any) -> None:
        if isinstance(problem, RuntimeError | ValueError):
            lines = str(problem).strip().splitlines()
            raise TeamLost(lines[0] if lines else type(problem).__name__) from problem


def _scatter(flat: torch.Tensor, into: Sequence[torch.Tensor]) -> None:
    start = 0
    for tensor in into:
        tensor.copy_(flat[start : start + tensor.numel()].view(tensor.shape))
        start += tensor.numel()
