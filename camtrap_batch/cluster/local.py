"""Kind local: worker processes on this machine."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import psutil
from pydantic import Field

from camtrap_batch.cluster.sections import (
    Adapt,
    Duration,
    Opened,
    OwnCluster,
    Workers,
    lifetime_arguments,
)
from camtrap_batch.cluster.settings import Tls, tls_settings

if TYPE_CHECKING:
    from distributed import SpecCluster


_LOOPBACK = "127.0.0.1"


class Local(OwnCluster):
    kind: Literal["local"] = Field("local", description="processes on this machine")
    cpu: Workers = Field(
        default_factory=Workers, description="workers that validate and, without a GPU, classify"
    )
    gpu: Workers = Field(Workers(workers=1), description="workers that hold GPU=1 and train")
    adapt: Adapt | None = Field(None, description="start CPU workers as needed: {min, max}")
    lifetime: Duration | None = Field(
        None, description="time after which a worker process leaves in order and is restarted, such as 6h"
    )
    dashboard: str = Field(
        "127.0.0.1:8787", description="address of the Dask dashboard; another port if it is taken"
    )

    def worker_memory(self) -> dict[str, int]:
        return {**dict.fromkeys(("CPU", "GPU"), self._share()), **super().worker_memory()}

    @contextmanager
    def open(self) -> Opened:
        from camtrap_batch.cluster.started import client_of

        wrong = "no cluster can be started here with this `dashboard` and `memory`"
        with client_of(self._start, wrong) as client:
            yield client

    def _start(self) -> SpecCluster:
        from dask.utils import parse_bytes
        from distributed import Nanny, Scheduler
        from distributed.security import Security

        from camtrap_batch.cluster.started import StartedCluster

        security = Security(**_roles(self.security)) if self.security else None
        groups = {"CPU": self.cpu, "GPU": self.gpu}
        numbers, share = self._numbers(), self._share()
        if self.adapt:
            numbers["CPU"] = self.adapt.min
        workers = {
            f"{name.lower()}-{index}": {
                "cls": Nanny,
                "options": {
                    "nthreads": group.threads,
                    "memory_limit": share if group.memory == "auto" else parse_bytes(group.memory),
                    "resources": {name: group.threads if name == "CPU" else 1},
                    "host": _LOOPBACK,
                    "security": security,
                    "dashboard": False,
                    "dashboard_address": f"{_LOOPBACK}:0",
                    "silence_logs": logging.CRITICAL,
                    **lifetime_arguments(self.lifetime),
                },
            }
            for name, group in groups.items()
            for index in range(numbers[name])
        }
        scheduler = {
            "cls": Scheduler,
            "options": {
                "dashboard_address": self.dashboard,
                "host": _LOOPBACK,
                "security": security,
                "protocol": "tls://" if self.security else "tcp://",
            },
        }
        return StartedCluster(workers, scheduler, self.adapt, keep=False, security=security)

    def _numbers(self) -> dict[str, int]:
        """Workers of each kind."""
        cores = len(os.sched_getaffinity(0))
        groups = {"CPU": self.cpu, "GPU": self.gpu}
        return {name: cores if group.workers == "auto" else group.workers for name, group in groups.items()}

    def _share(self) -> int:
        """Bytes of this machine's memory for each worker, once all are there."""
        most = {**self._numbers(), **({"CPU": self.adapt.max} if self.adapt else {})}
        return int(psutil.virtual_memory().total) // max(1, sum(most.values()))


def _roles(tls: Tls) -> dict[str, Any]:
    """Arguments of Dask's `Security`. Raises ClusterError if a file is missing."""
    files = tls_settings(tls)
    roles = {
        f"tls_{role}_{part}": files[f"distributed.comm.tls.{role}.{part}"]
        for role in ("scheduler", "worker", "client")
        for part in ("cert", "key")
    }
    return {**roles, "tls_ca_file": files["distributed.comm.tls.ca-file"], "require_encryption": True}
