"""The cluster file: where to run. Opens a Dask cluster of its kind, or connects to one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camtrap_batch.cluster.address import Address
from camtrap_batch.cluster.kubernetes import Kubernetes
from camtrap_batch.cluster.local import Local
from camtrap_batch.cluster.sections import Adapt, Cluster, Workers
from camtrap_batch.cluster.settings import SETTINGS, Tls, tls_settings
from camtrap_batch.cluster.slurm import Slurm
from camtrap_batch.cluster.ssh import Ssh
from camtrap_batch.errors import ClusterError, choices
from camtrap_batch.yamlfile import parse, read_yaml

if TYPE_CHECKING:  # a cluster file is read by each command, a cluster opened by few
    from distributed import Client

__all__ = [
    "KINDS",
    "SETTINGS",
    "Adapt",
    "Address",
    "Cluster",
    "ClusterHandle",
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
    """The cluster that `--cluster` names: a cluster file, a scheduler's address, or None for this machine.

    Raises
    ------
    ClusterError
        There is no such file, or a key or value in it is wrong.
    """
    if spec is None:
        return Local()
    if "://" in spec:
        return parse(Address, {"kind": "address", "address": spec}, "--cluster", {}, ClusterError)
    path = Path(spec)
    content, lines = read_yaml(path, ClusterError)
    kind = content.get("kind", "local")
    if not isinstance(kind, str) or kind not in KINDS:
        line = f":{lines['kind',]}" if ("kind",) in lines else ""
        raise ClusterError(f"{path}{line}: kind: {kind!r} is not possible; {choices(str(kind), KINDS)}")
    return parse(KINDS[kind], content, str(path), lines, ClusterError)


class ClusterHandle:
    """A cluster that is opened when the first stage needs it, and closed at the end.

    `announce` is called once, with the client.
    """

    def __init__(self, spec: Cluster, announce: Any) -> None:
        self.spec, self._announce = spec, announce
        self._stack = ExitStack()
        self._client: Client | None = None

    @property
    def wait_s(self) -> float:
        return self.spec.wait_s

    @property
    def stall_s(self) -> float:
        return self.spec.stall_s

    def client(self) -> Client:
        """A client of the cluster. Raises ClusterError where it can't be reached."""
        if self._client is None:
            self._client = self._stack.enter_context(open_cluster(self.spec))
            self._announce(self._client)
        return self._client

    def __enter__(self) -> ClusterHandle:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()


@contextmanager
def open_cluster(spec: Cluster) -> Iterator[Client]:
    """A client of the cluster that `spec` describes; what was started for it ends with the block."""
    import dask
    import distributed  # noqa: F401 - its defaults, read inside the block, would go with it

    with dask.config.set({**SETTINGS, **tls_settings(spec.security)}), _quiet(), spec.open() as client:
        yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Distributed says on stderr what the driver reports by itself (lost workers, links, other versions)."""
    from distributed.versions import VersionMismatchWarning

    # Those to which Distributed gives a handler of their own.
    loggers = [
        logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado.application")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)
            # The link that is shown has the port that was taken instead.
            warnings.filterwarnings("ignore", r"Port \d+ is already in use")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
