"""Whether a process sees what the work needs: the run folder, and the images.

A worker on whose machine a disk is not mounted, or no longer, would call a whole data set missing, and nobody
would notice. Each process looks before its first shard, and again when a file is gone that should be there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from camtrap_batch.errors import StorageError, UnfitWorker, UserError
from camtrap_batch.images import ImageRoot
from camtrap_batch.remote import redacted
from camtrap_batch.store.folder import Folder

_SAME_PATH = "it should be there under the same path or URL as here"
_MOST_FOLDERS = 20  # that are looked at for files that are gone

_seen: set[Visibility] = set()


@dataclass(frozen=True)
class Visibility:
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
    def make(cls, folder: Folder, file: str, images: ImageRoot | None) -> Visibility:
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
        run, root = redacted(self.folder.url), redacted(self.images.url) if self.images else ""
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

    def missing_now(self, files: Iterable[str] = ()) -> str:
        """As `missing`, whatever was seen before; and whether the folders of `files` are gone or empty.

        Parameters
        ----------
        files : paths in `images` that were there when the driver listed them, and can't be opened now
        """
        _seen.discard(self)
        if (reason := self.missing()) or self.entry is None or self.images is None:
            return reason
        folders = sorted({str(PurePosixPath(file).parent) for file in files})
        for folder in folders[:_MOST_FOLDERS]:
            path = Path(self.images.url, folder)
            try:
                with os.scandir(path) as entries:
                    is_empty = next(entries, None) is None
            except OSError as problem:
                return f"no longer sees {path} (dataset.images): {problem.strerror}; is the disk mounted?"
            if is_empty:
                return f"sees nothing in {path} (dataset.images), where files were; is the disk mounted?"
        return ""

    def check(self, worker: str) -> None:
        """Raise UnfitWorker where this process, on the worker at that address, can't see what it needs."""
        _refuse(worker, self.missing())

    def check_again(self, worker: str, files: Iterable[str]) -> None:
        """As `check`, where `files` could not be opened; without any, nothing is looked at."""
        if names := list(files):
            _refuse(worker, self.missing_now(names))


def _refuse(worker: str, missing: str) -> None:
    if missing:
        raise UnfitWorker(worker, f"worker {worker} on host {socket.gethostname()} {missing}")


def _reason(problem: Exception) -> str:
    return (isinstance(problem, OSError) and problem.strerror) or str(problem) or type(problem).__name__
