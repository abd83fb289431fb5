"""Whether a worker is fit for the work: the same versions as the driver, images and run folder in sight.

A worker on whose machine a disk is not mounted would call a whole data set missing, and nobody would notice.
All workers are looked at before a stage's first shard, those that join later when they join, and each
process looks once more before its own first shard.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.versions import get_package_info

from camtrap_batch.errors import ClusterError, StorageError, UnfitWorker, UserError
from camtrap_batch.images import ImageRoot
from camtrap_batch.remote import shown
from camtrap_batch.store.folder import Folder

PACKAGES = (
    "camtrap-batch", "cloudpickle", "dask", "distributed", "msgpack", "numpy", "pandas", "pillow", "pyarrow",
    "python", "simplejpeg",
)  # fmt: skip
"""What tasks travel with, and what decides on the content of a row."""
_SCHEDULER_PACKAGES = ("dask", "distributed", "msgpack", "python")
_SAME_PATH = "it should be there under the same path or URL as here"
_PATIENCE_S = 60.0

_seen: set[Sight] = set()


def check_scheduler(client: Client) -> None:
    """Raise ClusterError where the scheduler runs other versions of what it shares with the driver."""
    there = client.run_on_scheduler(get_package_info, _SCHEDULER_PACKAGES)
    if different := differences(get_package_info(_SCHEDULER_PACKAGES), there, _SCHEDULER_PACKAGES):
        raise ClusterError(f"the scheduler {client.scheduler_info()['address']} {_other_versions(different)}")


@dataclass(frozen=True)
class Sight:
    """What each worker has to see, as the driver sees it.

    Attributes
    ----------
    folder, file : the run folder, and a file in it
    images : what the work opens images in, if it does
    entry : a name in that folder, where it is one on a disk: of a disk that is not mounted, an empty folder
        may be all that is there
    """

    folder: Folder
    file: str
    images: ImageRoot | None
    entry: str | None

    @classmethod
    def make(cls, folder: Folder, file: str, images: ImageRoot | None) -> Sight:
        entry = None
        if images is not None and Path(images.url).is_dir():
            with os.scandir(images.url) as entries:
                entry = next((found.name for found in entries), None)
        return cls(folder, file, images, entry)

    def missing(self) -> str:
        """What can't be seen from this process, with the reason; empty where all can be.

        What was seen once is taken as seen.
        """
        if self in _seen:
            return ""
        run, root = shown(self.folder.url), shown(self.images.url) if self.images else ""
        try:
            if not self.folder.exists(self.file):
                return f"can't see {self.file} in the run folder {run} (output); {_SAME_PATH}"
        except (OSError, UserError, StorageError) as problem:
            return f"can't see the run folder {run} (output): {_reason(problem)}; {_SAME_PATH}"
        try:
            if self.images is not None:
                self.images.check()
            if self.entry is not None and not os.path.lexists(Path(root, self.entry)):
                return (
                    f"can't see {self.entry} in {root} (dataset.images); {_SAME_PATH}; is the disk mounted?"
                )
        except (OSError, UserError) as problem:
            return f"can't see the images: {_reason(problem)}; {_SAME_PATH}"
        _seen.add(self)
        return ""


def unfit_workers(client: Client, workers: Iterable[str], sight: Sight) -> dict[str, str]:
    """Which of `workers` (addresses) can't do the work, and why, a line each."""

    async def ask() -> dict[str, Any]:
        looks: dict[str, Any] = await client.run(look, sight, workers=list(workers), on_error="return")
        return looks

    try:
        looks = client.sync(ask, callback_timeout=_PATIENCE_S)
    except TimeoutError:  # one of them stalls; before its own first shard, each looks by itself
        return {}
    ours = get_package_info(PACKAGES)
    unfit = {}
    for address, found in looks.items():
        if isinstance(found, Look):
            who = f"worker {address} on host {found.host}"
            if different := differences(ours, found.versions):
                unfit[address] = f"{who} {_other_versions(different)}"
            elif found.blind:
                unfit[address] = f"{who} {found.blind}"
        elif isinstance(found, ImportError | AttributeError):
            unfit[address] = f"worker {address} runs another camtrap-batch than here, or none: {found}"
        # Any other exception: it went away meanwhile.
    return unfit


@dataclass(frozen=True)
class Look:
    """What a worker process says of itself; `blind`: what it can't see, and why, empty where it sees all."""

    host: str
    versions: dict[str, str | None]
    blind: str


def look(sight: Sight) -> Look:
    """Look around, in this process."""
    return Look(socket.gethostname(), get_package_info(PACKAGES), sight.missing())


def check_here(address: str, sight: Sight) -> None:
    """Raise UnfitWorker where this process, the worker at `address`, can't see what its work needs."""
    if blind := sight.missing():
        raise UnfitWorker(address, f"worker {address} on host {socket.gethostname()} {blind}")


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
    return f"runs other versions than this machine: {'; '.join(different)}; install the same on both"


def _version(package: str, versions: Mapping[str, str | None]) -> str:
    version = versions.get(package) or "none"
    return ".".join(version.split(".")[:2]) if package == "python" else version


def _reason(problem: Exception) -> str:
    return (isinstance(problem, OSError) and problem.strerror) or str(problem) or type(problem).__name__
