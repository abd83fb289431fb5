"""Atomic writes and exclusive creation in one folder, on a local disk or any fsspec file system.

Local: a temporary file in `<folder>/tmp`, fsync, then rename (or hard link, where the first must win).
Object store: one PUT, conditional where the first must win. Either way a reader sees a whole file or none.
"""

from __future__ import annotations

import errno
import io
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec
import pyarrow.fs as pafs

from camtrap_batch.errors import InputError, StorageError

STAGING = "tmp"
"""Where files are written before they get their name; nothing there is ever read."""


@dataclass(frozen=True)
class Folder:
    """A folder that several processes write to at once. Paths are posix and relative to it.

    Parameters
    ----------
    url : str
        Absolute path, or an fsspec URL such as `s3://bucket/runs/job`. Credentials come from the
        environment, as the file system's own documentation says.
    """

    url: str

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file; readers see the old content or the new one, never a part."""
        self.write_with(path, lambda file: file.write(data))

    def write_with(self, path: str, fill: Callable[[BinaryIO], Any]) -> int:
        """As `write`, with the content that `fill` puts into an open binary file; returns its bytes."""
        with self._storage_errors(path):
            if self.is_local:
                target = self.local(path)
                with self._staged(fill) as staged:
                    size = staged.stat().st_size
                    target.parent.mkdir(parents=True, exist_ok=True)
                    staged.replace(target)
                    _sync_folder(target.parent)
                return size
            buffer = io.BytesIO()
            fill(buffer)
            self._fs.pipe_file(self._full(path), buffer.getvalue())
            return buffer.tell()

    def create(self, path: str, data: bytes) -> bool:
        """Create a file unless it is there already; False where somebody else was first."""
        with self._storage_errors(path):
            if not self.is_local:
                try:
                    self._fs.pipe_file(self._full(path), data, mode="create")
                except FileExistsError:
                    return False
                return True
            target = self.local(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._staged(lambda file: file.write(data)) as staged:
                try:
                    target.hardlink_to(staged)  # atomic, and fails where the name is taken
                except FileExistsError:
                    return False
                _sync_folder(target.parent)
            return True

    def append(self, path: str, data: bytes) -> None:
        """Add to the end of a file that one process alone writes."""
        with self._storage_errors(path):
            if self.is_local:
                target = self.local(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("ab") as file:
                    file.write(data)
            else:
                self.write(path, (self.read(path) if self.exists(path) else b"") + data)

    def read(self, path: str) -> bytes:
        """Content of a file. Raises FileNotFoundError."""
        if self.is_local:
            return self.local(path).read_bytes()
        return bytes(self._fs.cat_file(self._full(path)))

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Path and content of each file, in order; many at a time where each read is a request."""
        paths = list(paths)
        if self.is_local:
            yield from ((path, self.read(path)) for path in paths)
        elif paths:
            found = self._fs.cat([self._full(path) for path in paths])
            by_name = {name.lstrip("/"): data for name, data in found.items()}
            yield from ((path, by_name[self._full(path).lstrip("/")]) for path in paths)

    def open(self, path: str) -> BinaryIO:
        """A file opened for reading, seekable."""
        if self.is_local:
            return self.local(path).open("rb")
        return self._fs.open(self._full(path), "rb")  # type: ignore[no-any-return]

    def exists(self, path: str) -> bool:
        return self.local(path).exists() if self.is_local else bool(self._fs.exists(self._full(path)))

    def list(self, path: str) -> list[str]:
        """Names of the entries of a folder, sorted; empty where there is no such folder."""
        try:
            if self.is_local:
                return sorted(entry.name for entry in os.scandir(self.local(path)))
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
            root_path = self._full("").rstrip("/")
            yield from (name.removeprefix(root_path).lstrip("/") for name in self._fs.find(self._full(path)))

    def delete(self, path: str) -> None:
        if self.is_local:
            self.local(path).unlink(missing_ok=True)
        else:
            self._fs.rm_file(self._full(path))

    def size(self, path: str) -> int:
        """Bytes of a file. Raises FileNotFoundError."""
        return self.local(path).stat().st_size if self.is_local else int(self._fs.size(self._full(path)))

    @property
    def is_local(self) -> bool:
        return "://" not in self.url

    def local(self, path: str) -> Path:
        """The path on disk, of a local folder."""
        return Path(self.url) / path

    @cached_property
    def arrow(self) -> pafs.FileSystem:
        """This folder as a pyarrow file system: relative paths are opened in it."""
        if self.is_local:
            return pafs.SubTreeFileSystem(self.url, pafs.LocalFileSystem())
        return pafs.SubTreeFileSystem(self._full(""), pafs.PyFileSystem(pafs.FSSpecHandler(self._fs)))

    @cached_property
    def _fs(self) -> Any:
        try:
            # A listing that another process has made stale would hide receipts.
            filesystem, _ = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as problem:
            raise InputError(f"{self.url}: its file system is not installed: {problem}") from None
        except ValueError as problem:
            raise InputError(f"{self.url}: {problem}") from None
        return filesystem

    def _full(self, path: str) -> str:
        root = str(self._fs._strip_protocol(self.url)).rstrip("/")
        return f"{root}/{path}".rstrip("/")

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
    def _storage_errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            if (reason := _FATAL.get(_errno(problem))) is not None:
                raise StorageError(f"{self.url}: {reason} while writing {path}") from problem
            raise

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
