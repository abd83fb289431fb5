"""Atomic writes and exclusive creation in one folder, on a disk or in a bucket.

Disk: a temporary file in `<folder>/tmp`, fsync, then rename (or hard link, where the first must win).
Bucket: one PUT, conditional where the first must win. Either way a reader sees a whole file or none.
"""

from __future__ import annotations

import errno
import io
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow.fs as pafs

from camtrap_batch.errors import CamtrapError, StorageError
from camtrap_batch.remote import (
    TRIES,
    explain,
    is_missing,
    is_missing_bucket,
    is_refused,
    open_store,
    status_of,
)

STAGING = "tmp"
"""Where files are written before they get their name; nothing there is ever read."""

_proven: set[str] = set()  # URLs of folders in which, so this process has seen, the first creation wins


@dataclass(frozen=True)
class Folder:
    """A folder that several processes write to at once. Paths are posix and relative to it.

    Parameters
    ----------
    url : str
        Absolute path, or URL of a folder in a bucket: `s3://`, `gs://` or `az://`. Credentials come from the
        environment, as the file system's own documentation says. Only the URL travels to a worker.

    What a disk or a store refuses for good is raised as StorageError; FileNotFoundError and what may pass are
    raised as OSError.
    """

    url: str

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file; readers see the old content or the new one, never a part."""
        self.write_with(path, lambda file: file.write(data))

    def write_with(self, path: str, fill: Callable[[BinaryIO], Any]) -> int:
        """As `write`, with the content that `fill` puts into an open binary file; returns its bytes."""
        if self.is_local:
            target = self.local(path)
            with self._errors(path), self._staged(fill) as staged:
                size = staged.stat().st_size
                target.parent.mkdir(parents=True, exist_ok=True)
                staged.replace(target)
                _sync_folder(target.parent)
            return size
        buffer = io.BytesIO()
        fill(buffer)
        with self._errors(path, writing=True):
            self._fs.pipe_file(self._full(path), buffer.getvalue())
        return buffer.tell()

    def create(self, path: str, data: bytes) -> bool:
        """Create a file unless it is there already; False where somebody else was first."""
        if not self.is_local:
            return self._create_in_bucket(path, data)
        target = self.local(path)
        with self._errors(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._staged(lambda file: file.write(data)) as staged:
                try:
                    target.hardlink_to(staged)  # atomic, and fails where the name is taken
                except FileExistsError:
                    return False
                _sync_folder(target.parent)
            return True

    def append(self, path: str, data: bytes) -> None:
        """Add to the end of a file on disk that one process alone writes; all of it or nothing."""
        target = self.local(path)
        with self._errors(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab", buffering=0) as file:
                size = file.tell()
                try:
                    written = file.write(data)
                    if written < len(data):  # what has room of it; the rest tells why
                        file.write(data[written:])
                except OSError:
                    file.truncate(size)
                    raise

    def read(self, path: str) -> bytes:
        """Content of a file. Raises FileNotFoundError."""
        if self.is_local:
            return self.local(path).read_bytes()
        with self._errors(path):
            return bytes(self._fs.cat_file(self._full(path)))

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Path and content of each file, in order; many at a time where each read is a request."""
        paths = list(paths)
        if self.is_local:
            yield from ((path, self.read(path)) for path in paths)
        elif paths:
            with self._errors(""):
                found = self._fs.cat([self._full(path) for path in paths])
            by_name = {name.lstrip("/"): data for name, data in found.items()}
            yield from ((path, by_name[self._full(path).lstrip("/")]) for path in paths)

    def open(self, path: str) -> BinaryIO:
        """A file opened for reading, seekable."""
        if self.is_local:
            return self.local(path).open("rb")
        with self._errors(path):
            return self._fs.open(self._full(path), "rb")  # type: ignore[no-any-return]

    def exists(self, path: str) -> bool:
        if self.is_local:
            return self.local(path).exists()
        with self._errors(path):
            return bool(self._fs.exists(self._full(path)))

    def list(self, path: str) -> list[str]:
        """Names of the entries of a folder, sorted; empty where there is no such folder."""
        try:
            if self.is_local:
                return sorted(entry.name for entry in os.scandir(self.local(path)))
            with self._errors(path):
                names = self._fs.ls(self._full(path), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(PurePosixPath(name).name for name in names if name.rstrip("/") != self._full(path))

    def walk(self, path: str = "") -> Iterator[str]:
        """Every file below a folder, relative to this one."""
        if self.is_local:
            root = self.local("")
            for where, _, names in os.walk(self.local(path)):
                yield from ((Path(where) / name).relative_to(root).as_posix() for name in sorted(names))
        else:
            root_path = self._full("")
            with self._errors(path):
                names = self._fs.find(self._full(path))
            yield from (name.removeprefix(root_path).lstrip("/") for name in names)

    def delete(self, path: str) -> None:
        if self.is_local:
            self.local(path).unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError), self._errors(path):
            self._fs.rm_file(self._full(path))

    def size(self, path: str) -> int:
        """Bytes of a file. Raises FileNotFoundError."""
        if self.is_local:
            return self.local(path).stat().st_size
        with self._errors(path):
            return int(self._fs.size(self._full(path)))

    @property
    def is_local(self) -> bool:
        return "://" not in self.url or self.url.startswith("file://")

    def local(self, path: str) -> Path:
        """The path on disk, of a local folder."""
        return Path(self.url.removeprefix("file://")) / path

    @cached_property
    def arrow(self) -> pafs.FileSystem:
        """This folder as a pyarrow file system: relative paths are opened in it."""
        if self.is_local:
            return pafs.SubTreeFileSystem(str(self.local("")), pafs.LocalFileSystem())
        return pafs.SubTreeFileSystem(self._full(""), pafs.PyFileSystem(pafs.FSSpecHandler(self._fs)))

    def _create_in_bucket(self, path: str, data: bytes) -> bool:
        with self._errors(path, writing=True):
            try:
                self._fs.pipe_file(self._full(path), data, mode="create")
            except Exception as problem:
                if not isinstance(problem, FileExistsError) and status_of(problem) not in (409, 412):
                    raise
                try:
                    # A request that was repeated, since its answer got lost, meets the file that it made.
                    return self.read(path) == data
                except FileNotFoundError:  # another is still making it
                    raise problem from None
        if self.url not in _proven:
            self._prove_that_the_first_wins(path, data)
        return True

    def _prove_that_the_first_wins(self, path: str, data: bytes) -> None:
        """Raise StorageError where the store makes a file that it has just made: it ignores conditions.

        Some that speak S3 do, and receipts would not be safe there. The content is the same, so nothing is
        lost by asking.
        """
        with self._errors(path, writing=True):
            try:
                self._fs.pipe_file(self._full(path), data, mode="create")
            except Exception as problem:
                if not isinstance(problem, FileExistsError) and status_of(problem) not in (409, 412):
                    raise
                _proven.add(self.url)
                return
        raise StorageError(
            f"{self.url}: this store replaces a file that was to be created only once (it ignores "
            "If-None-Match); put the run folder (output) on a disk or into a store with conditional writes"
        )

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        # Its listings are not kept: one that another process has made stale would hide receipts.
        return open_store(self.url, client_tries=TRIES)

    @property
    def _fs(self) -> Any:
        return self._opened[0]

    def _full(self, path: str) -> str:
        return f"{self._opened[1]}/{path}".rstrip("/")

    @contextmanager
    def _staged(self, fill: Callable[[BinaryIO], Any]) -> Iterator[Path]:
        """A complete, synced file under `STAGING`; what is left of it afterwards is removed."""
        staging = self.local(STAGING)
        staging.mkdir(parents=True, exist_ok=True)
        staged = staging / uuid.uuid4().hex
        try:
            with staged.open("xb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            yield staged
        finally:
            staged.unlink(missing_ok=True)

    @contextmanager
    def _errors(self, path: str, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except CamtrapError:
            raise
        except Exception as problem:
            if self.is_local:
                if isinstance(problem, OSError) and (reason := _FATAL.get(_errno(problem))) is not None:
                    raise StorageError(f"{self.url}: {reason} while writing {path}") from problem
                raise
            missing = is_missing(problem)
            if missing and not writing and not is_missing_bucket(problem):
                raise FileNotFoundError(
                    errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{path}"
                ) from None
            kind = StorageError if missing or is_refused(problem) else OSError
            raise kind(explain(f"{self.url}/{path}".rstrip("/"), problem)) from problem

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}


_FATAL = {
    errno.ENOSPC: "no space left on the disk; make room and run the same command again",
    errno.EDQUOT: "the disk quota is used up; make room and run the same command again",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "not permitted",
}


def _errno(problem: OSError) -> int:
    if problem.errno:
        return problem.errno
    # Arrow's own I/O errors carry the number in the text alone.
    return next((number for number in _FATAL if f"[errno {number}]" in str(problem).lower()), 0)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
