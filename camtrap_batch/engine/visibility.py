"""Whether a process sees what the work needs: the run folder, and the images.

A worker on a machine where a disk is not mounted, or no longer is, would call a whole data set missing, and
nobody would notice. Each process checks before its first shard, and again when a file that should be there is
gone.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from camtrap_batch.errors import StorageError, UnfitWorker, UserError
from camtrap_batch.images import ImageRoot
from camtrap_batch.remote import redacted
from camtrap_batch.store.folder import Folder

_SAME_PATH = "it should be there under the same path or URL as here"

_seen: set[Visibility] = set()


@dataclass(frozen=True)
class Visibility:
    """What each worker must see, as the driver sees it.

    Attributes
    ----------
    folder, file : the run folder, and a file in it
    images : where the work opens images, if it does
    landmark : what distinguishes their root from an empty one in its place (see `ImageRoot.landmark`)
    """

    folder: Folder
    file: str
    images: ImageRoot | None
    landmark: str | None

    @classmethod
    def make(cls, folder: Folder, file: str, images: ImageRoot | None) -> Visibility:
        return cls(folder, file, images, images.landmark() if images is not None else None)

    def missing(self) -> str:
        """What can't be seen from this process, with the reason; empty if everything can.

        What has been seen once is not checked again.
        """
        if self in _seen:
            return ""
        if reason := self._missing():
            return reason
        _seen.add(self)
        return ""

    def missing_now(self, files: Sequence[str] = ()) -> str:
        """Like `missing`, whatever was seen before, and also whether the folders of `files` are gone or
        empty.

        Parameters
        ----------
        files : paths in `images` that existed when the driver listed them, and can't be opened now
        """
        _seen.discard(self)
        return self._missing(files)

    def _missing(self, files: Sequence[str] = ()) -> str:
        run = redacted(self.folder.url)
        try:
            if not self.folder.exists(self.file):
                return f"can't see {self.file} in the run folder {run} (output); {_SAME_PATH}"
        except (OSError, UserError, StorageError) as problem:
            return f"can't see the run folder {run} (output): {_reason(problem)}; {_SAME_PATH}"
        if self.images is None:
            return ""
        try:
            self.images.check()
        except (OSError, UserError) as problem:
            return f"can't see the images: {_reason(problem)}; {_SAME_PATH}"
        lost = self.images.lost(self.landmark, files)
        return f"{lost}; is the disk mounted?" if lost else ""

    def check(self, worker: str) -> None:
        """Raise UnfitWorker if this process, on the worker at that address, can't see what it needs."""
        _refuse(worker, self.missing())

    def check_again(self, worker: str, files: Iterable[str]) -> None:
        """Like `check`, after `files` could not be opened; without files it does nothing."""
        if names := list(files):
            _refuse(worker, self.missing_now(names))


def _refuse(worker: str, missing: str) -> None:
    if missing:
        raise UnfitWorker(worker, f"worker {worker} on host {socket.gethostname()} {missing}")


def _reason(problem: Exception) -> str:
    return (isinstance(problem, OSError) and problem.strerror) or str(problem) or type(problem).__name__
