"""The cluster file: where to run. Opens a Dask cluster of its kind, or connects to one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from camtrap_batch.cluster.address import Address
from camtrap_batch.cluster.kubernetes import Kubernetes
from camtrap_batch.cluster.local import Local
from camtrap_batch.cluster.sections import Adapt, Cluster, DaskCluster, Inline, Workers
from camtrap_batch.cluster.settings import SETTINGS, Tls, tls_settings
from camtrap_batch.cluster.slurm import Slurm
from camtrap_batch.cluster.ssh import Ssh
from camtrap_batch.errors import ClusterError, choices
from camtrap_batch.yamlfile import parse, read_yaml

if TYPE_CHECKING:  # every command reads a cluster file, few open a cluster
    from distributed import Client

__all__ = [
    "KINDS",
    "SETTINGS",
    "Adapt",
    "Address",
    "Cluster",
    "DaskCluster",
    "Inline",
    "Kubernetes",
    "Local",
    "Slurm",
    "Ssh",
    "Tls",
    "Workers",
    "load_cluster",
    "open_cluster",
]

KINDS: dict[str, type[Cluster]] = {
    "local": Local,
    "address": Address,
    "ssh": Ssh,
    "slurm": Slurm,
    "kubernetes": Kubernetes,
}


def load_cluster(spec: str | None) -> Cluster:
    """What `--cluster` names: a cluster file, a scheduler's address, `inline`, or None for this machine.

    Raises
    ------
    ClusterError
        There is no such file, or a key or value in it is wrong.
    """
    if spec is None:
        return Local()
    if spec == "inline":
        return Inline()
    if "://" in spec:
        return parse(Address, {"kind": "address", "address": spec}, "--cluster", {}, ClusterError)
    path = Path(spec)
    content, lines = read_yaml(path, ClusterError)
    kind = content.get("kind", "local")
    if not isinstance(kind, str) or kind not in KINDS:
        line = f":{lines['kind',]}" if ("kind",) in lines else ""
        raise ClusterError(f"{path}{line}: kind: {kind!r} is not possible; {choices(str(kind), KINDS)}")
    return parse(KINDS[kind], content, str(path), lines, ClusterError)


@contextmanager
def open_cluster(spec: DaskCluster) -> Iterator[Client]:
    """A client of the cluster that `spec` describes; whatever was started for it ends with the block."""
    import dask
    import distributed  # noqa: F401 - its defaults, if read inside the block, would be lost with it

    with (
        spec.secured() as secured,
        # A local cluster's certificates are its own; they do not concern other clients in this process.
        dask.config.set({**SETTINGS, **({} if isinstance(spec, Local) else tls_settings(secured.security))}),
        _quiet(),
        secured.open() as client,
    ):
        yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Distributed prints although the driver reports it itself (lost workers, links,
    versions)."""
    from distributed.versions import VersionMismatchWarning

    # Loggers to which Distributed gives a handler of their own.
    loggers = [
        logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado.application")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)
            # The link that is shown has the port that was used instead.
            warnings.filterwarnings("ignore", r"Port \d+ is already in use")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
