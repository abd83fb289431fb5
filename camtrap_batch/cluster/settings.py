"""Dask's own settings, the same for driver, scheduler and workers, wherever they run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from camtrap_batch.errors import ClusterError
from camtrap_batch.yamlfile import Section

SETTINGS: dict[str, Any] = {
    # Losses are counted by the driver, which knows how to handle them.
    "distributed.scheduler.allowed-failures": 0,
    # A worker that stands still is restarted by its nanny after this long without a heartbeat (default: 5
    # minutes).
    "distributed.scheduler.worker-ttl": "2 minutes",
    # Tasks return receipts: there is nothing to spill; only the task itself uses memory.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    # Nor does waiting make room: a worker that its libraries alone nearly fill would stand still until it is
    # taken for stalled.
    "distributed.worker.memory.pause": False,
    "distributed.worker.preload": ["camtrap_batch.worker"],
    # Every 10 ms, the default, takes a tenth of a training task's time.
    "distributed.worker.profile.interval": "100ms",
    # Done by every process many times a second, busy or not: by default it takes a twentieth of two cores.
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.memory.monitor-interval": "200ms",
    "distributed.comm.timeouts.connect": "20s",
}


class Tls(Section):
    ca_file: str = Field(description="certificate of the authority that signed `cert`")
    cert: str = Field(description="certificate of this side")
    key: str = Field(description="private key of this side")


def tls_settings(tls: Tls | None) -> dict[str, Any]:
    """Settings with which scheduler, workers and client speak only TLS, each with this certificate.

    Raises
    ------
    ClusterError
        A file is missing.
    """
    if tls is None:
        return {}
    files = {
        name: str(Path(getattr(tls, name)).expanduser().absolute()) for name in ("ca_file", "cert", "key")
    }
    for name, file in files.items():
        if not Path(file).is_file():
            raise ClusterError(f"{file}: no such file (security.{name})")
    return tls_paths(files["ca_file"], files["cert"], files["key"])


def tls_paths(ca_file: str, cert: str, key: str) -> dict[str, Any]:
    """Like `tls_settings`, for files that need not be on this machine."""
    settings: dict[str, Any] = {
        "distributed.comm.tls.ca-file": ca_file,
        "distributed.comm.require-encryption": True,
    }
    for role in ("scheduler", "worker", "client"):
        settings[f"distributed.comm.tls.{role}.cert"] = cert
        settings[f"distributed.comm.tls.{role}.key"] = key
    return settings


def is_loopback(dashboard: str) -> bool:
    """Whether a dashboard at this address is visible only from its own machine.

    >>> is_loopback("127.0.0.1:8787"), is_loopback(":8787")
    (True, False)
    """
    return dashboard.rpartition(":")[0] in ("127.0.0.1", "localhost", "[::1]")


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Environment variables from which Dask takes `settings`.

    >>> environment({"distributed.worker.memory.spill": False})
    {'DASK_DISTRIBUTED__WORKER__MEMORY__SPILL': 'False'}
    """
    return {
        "DASK_" + key.upper().replace(".", "__").replace("-", "_"): str(value)
        for key, value in settings.items()
    }
