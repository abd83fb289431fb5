"""Whether a worker is fit for the work: it has the driver's versions, sees the images and the run folder, ...

A worker on a machine where a disk is not mounted would call a whole data set missing, and nobody would
notice. All workers are checked before a stage's first shard, those that join later when they join, and each
process checks once more before its own first shard.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Client
from distributed.versions import get_package_info

from camtrap_batch.engine.base import Requirement
from camtrap_batch.engine.visibility import Visibility
from camtrap_batch.errors import ClusterError, UnfitWorker

PACKAGES = (
    "camtrap-batch", "cloudpickle", "dask", "distributed", "msgpack", "numpy", "pandas", "pillow", "pyarrow",
    "python", "simplejpeg",
)  # fmt: skip
"""What carries tasks, and what decides the content of a row."""
_SCHEDULER_PACKAGES = ("dask", "distributed", "msgpack", "python")
_PATIENCE_S = 60.0


def check_scheduler(client: Client) -> None:
    """Raise ClusterError if the scheduler runs other versions of what it shares with the driver."""
    there = client.run_on_scheduler(get_package_info, _SCHEDULER_PACKAGES)
    if different := differences(get_package_info(_SCHEDULER_PACKAGES), there, _SCHEDULER_PACKAGES):
        raise ClusterError(f"the scheduler {client.scheduler_info()['address']} {_other_versions(different)}")


@dataclass(frozen=True)
class Needs:
    """What the work needs of a worker: the driver's versions, what is to be seen, what it asks for itself."""

    visibility: Visibility
    versions: tuple[tuple[str, str | None], ...]
    requirement: Requirement | None = None

    @classmethod
    def make(cls, visibility: Visibility, requirement: Requirement | None = None) -> Needs:
        return cls(visibility, tuple(get_package_info(PACKAGES).items()), requirement)

    def check(self, worker: str) -> None:
        """Raise UnfitWorker if this process, the worker at that address, is not fit; checked once."""
        if self in _fit:
            return
        who = f"worker {worker} on host {socket.gethostname()}"
        if different := differences(dict(self.versions), get_package_info(PACKAGES)):
            raise UnfitWorker(worker, f"{who} {_other_versions(different)}")
        self.visibility.check(worker)
        if self.requirement is not None and (lacking := self.requirement.lacking()):
            raise UnfitWorker(worker, f"{who} {lacking}")
        _fit.add(self)


_fit: set[Needs] = set()


@dataclass(frozen=True)
class Unfit:
    """Workers (addresses) that can't do the work, and why, a line each.

    Attributes
    ----------
    wrong : those with other versions, or without sight of images or run folder: somebody has to mend that
    unable : those that lack what the work itself asks for: others may have it
    """

    wrong: dict[str, str]
    unable: dict[str, str]


def unfit_workers(client: Client, workers: Iterable[str], needs: Needs) -> Unfit:
    """Which of `workers` (addresses) can't do the work.

    A worker that does not answer in time is not named: it checks by itself before its own first shard.
    """
    addresses = list(workers)

    async def ask() -> dict[str, Any]:
        # Each by itself: one that stands still must not hold up the answers of others.
        asked = {
            asyncio.ensure_future(
                client.run(look, needs.visibility, needs.requirement, workers=[address], on_error="return")
            ): address
            for address in addresses
        }
        answered, waiting = await asyncio.wait(asked, timeout=_PATIENCE_S)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return {asked[one]: one.result().get(asked[one]) for one in answered if one.exception() is None}

    looks = client.sync(ask)
    unfit = Unfit({}, {})
    for address, found in looks.items():
        if isinstance(found, WorkerLook):
            who = f"worker {address} on host {found.host}"
            if different := differences(dict(needs.versions), found.versions):
                unfit.wrong[address] = f"{who} {_other_versions(different)}"
            elif found.missing:
                unfit.wrong[address] = f"{who} {found.missing}"
            elif found.lacking:
                unfit.unable[address] = f"{who} {found.lacking}"
        elif isinstance(found, ImportError | AttributeError):
            other = f"worker {address} runs another camtrap-batch than here, or none: {found}"
            unfit.wrong[address] = other
        # Any other exception: it went away in the meantime.
    return unfit


@dataclass(frozen=True)
class WorkerLook:
    """What a worker process says about itself.

    Attributes
    ----------
    missing : what it can't see and why, or empty
    lacking : what it lacks of what the work asks for, or empty
    """

    host: str
    versions: dict[str, str | None]
    missing: str
    lacking: str = ""


async def look(visibility: Visibility, requirement: Requirement | None) -> WorkerLook:
    """Look around, in this process; on a thread, as packages may have to be loaded for it."""
    versions = get_package_info(PACKAGES)
    missing = visibility.missing()
    lacking = ""
    if requirement is not None and not missing:
        lacking = await asyncio.to_thread(requirement.lacking)
    return WorkerLook(socket.gethostname(), versions, missing, lacking)


def differences(
    ours: Mapping[str, str | None], theirs: Mapping[str, str | None], packages: Iterable[str] = PACKAGES
) -> list[str]:
    """The packages whose versions differ, a few words each.

    >>> differences({"dask": "2026.8.0"}, {"dask": "2026.7.1"}, ["dask"])
    ['dask 2026.7.1 there, 2026.8.0 here']
    """
    versions = [(package, _version(package, theirs), _version(package, ours)) for package in packages]
    return [f"{package} {there} there, {here} here" for package, there, here in versions if there != here]


def _other_versions(different: list[str]) -> str:
    return f"runs other versions than this machine: {'; '.join(different)}; install the same versions on both"


def _version(package: str, versions: Mapping[str, str | None]) -> str:
    version = versions.get(package) or "none"
    return ".".join(version.split(".")[:2]) if package == "python" else version
