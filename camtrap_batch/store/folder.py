"""Atomic writes and exclusive creation in one folder, on a disk or in a bucket.

Disk: a temporary file beside the target, fsync, then rename (or hard link, where the first must win; where
the file system has no hard links, exclusive creation). Nothing is written through a symbolic link: each
folder is opened by the handle of its parent. Bucket: one PUT, conditional where the first must win. Either
way a reader sees a whole file or none; the one exception, a file cut short by a kill on a file system without
hard links, is treated as missing.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from camtrap_batch.errors import CamtrapError, StorageError, StoreUnreachable
from camtrap_batch.ranges import Ranges
from camtrap_batch.remote import (
    TRIES,
    explain,
    is_missing,
    is_missing_bucket,
    is_refused,
    is_transient,
    modified_of,
    open_store,
    status_of,
)

STAGING = "tmp"
"""Where earlier versions wrote files before giving them their names; nothing there is ever read."""

_STAGED = ".part"
"""Ending of a file that does not have its final name yet; its temporary name begins with a dot."""

_proven: set[str] = set()  # URLs of folders where this process has seen that the first creation wins


@dataclass(frozen=True)
class Entry:
    """A file of a folder: its path, its bytes, and when it was last written (seconds since 1970, by the clock
    of the disk or the store; None if that is unknown)."""

    path: str
    bytes: int
    modified: float | None


@dataclass(frozen=True)
class Folder:
    """A folder that several processes write to at once. Paths are posix and relative to it.

    Parameters
    ----------
    url : str
        Absolute path, or URL of a folder in a bucket: `s3://`, `gs://` or `az://`. Credentials come from the
        environment, as the file system's own documentation says. Only the URL travels to a worker.

    What a disk or a store refuses for good is raised as StorageError; FileNotFoundError and transient errors
    are raised as OSError.
    """

    url: str

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file; readers see the old content or the new one, never a part."""
        self.write_with(path, lambda file: file.write(data))

    def write_with(self, path: str, fill: Callable[[BinaryIO], Any]) -> int:
        """Like `write`, with the content that `fill` writes into an open file; returns its size in bytes."""
        if self.is_local:
            with self._errors(path), self._parent(path) as (parent, name):
                with _staged(parent, name, fill) as (staged, size):
                    os.replace(staged, name, src_dir_fd=parent, dst_dir_fd=parent)
                _sync(parent)
            return size
        buffer = io.BytesIO()
        fill(buffer)
        with self._errors(path, writing=True):
            self._fs.pipe_file(self._full(path), buffer.getvalue())
        return buffer.tell()

    def create(self, path: str, data: bytes) -> bool:
        """Create a file unless it already exists; False if somebody else was first."""
        if not self.is_local:
            return self._create_in_bucket(path, data)
        with self._errors(path), self._parent(path) as (parent, name):
            with _staged(parent, name, lambda file: file.write(data)) as (staged, _):
                is_first = _link(parent, staged, name)
            if is_first is None:
                is_first = _create_exclusively(parent, name, data)
            if is_first:
                _sync(parent)
            return is_first

    def append(self, path: str, data: bytes) -> None:
        """Append to a file on disk that only one process writes; all of it or nothing."""
        with self._errors(path), self._parent(path) as (parent, name):
            try:
                # Opening a pipe without a reader would block.
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
                handle = os.open(name, flags, 0o666, dir_fd=parent)
            except OSError as problem:
                if problem.errno in (errno.ELOOP, errno.ENXIO):
                    raise StorageError(self._not_a_file(path)) from None
                raise
            with open(handle, "ab", buffering=0) as file:  # noqa: PTH123
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise StorageError(self._not_a_file(path))
                size = file.seek(0, os.SEEK_END)
                try:
                    written = file.write(data)
                    if written < len(data):  # only part of it fits; writing the rest raises the reason
                        file.write(data[written:])
                except OSError:
                    file.truncate(size)
                    raise

    def make(self, path: str) -> Path:
        """The path on disk of a folder in this one, created if missing; never through a symbolic link."""
        with self._errors(path), self._parent(f"{path}/x"):
            return self.local(path)

    def read(self, path: str) -> bytes:
        """Content of a file. Raises FileNotFoundError."""
        if self.is_local:
            return self.local(path).read_bytes()
        with self._errors(path):
            return bytes(self._fs.cat_file(self._full(path)))

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Path and content of each file that exists, in order; many at a time where each is a request."""
        paths = list(paths)
        if self.is_local:
            for path in paths:
                with suppress(FileNotFoundError):
                    yield path, self.read(path)
            return
        if not paths:
            return
        with self._errors(""):
            found = self._fs.cat([self._full(path) for path in paths], on_error="return")
        by_name = {name.lstrip("/"): data for name, data in found.items()}
        for path in paths:
            data = by_name[self._full(path).lstrip("/")]
            try:
                with self._errors(path):
                    if isinstance(data, BaseException):
                        raise data
            except FileNotFoundError:
                continue
            yield path, data

    def open(self, path: str, size: int | None = None) -> BinaryIO:
        """A file opened for reading, seekable. In a bucket its size is requested, unless it is given."""
        if self.is_local:
            return self.local(path).open("rb")
        if size is not None:
            return _ranges(self._fs, self._full(path), size)
        with self._errors(path):
            return self._fs.open(self._full(path), "rb")  # type: ignore[no-any-return]

    def exists(self, path: str) -> bool:
        if self.is_local:
            return self.local(path).exists()
        with self._errors(path):
            return bool(self._fs.exists(self._full(path)))

    def list(self, path: str) -> list[str]:
        """Names of the entries of a folder, sorted; empty if there is no such folder."""
        try:
            if self.is_local:
                names = [entry.name for entry in os.scandir(self.local(path))]
            else:
                with self._errors(path):
                    found = self._fs.ls(self._full(path), detail=False)
                names = [PurePosixPath(name).name for name in found if name.rstrip("/") != self._full(path)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not is_staged(name))

    def walk(self, path: str = "") -> Iterator[str]:
        """Every file below a folder, relative to this one, except those that are not complete yet."""
        return (entry.path for entry in self.entries(path) if not is_staged(entry.path))

    def entries(self, path: str = "") -> Iterator[Entry]:
        """Every file below a folder, with its size; in a bucket, one request per thousand."""
        if self.is_local:
            root = str(self.local(""))
            for where, folders, names in os.walk(self.local(path)):
                folders.sort()
                inside = os.path.relpath(where, root)
                for name in sorted(names):
                    full = os.path.join(where, name)  # noqa: PTH118
                    try:
                        found = os.stat(full)  # noqa: PTH116
                    except FileNotFoundError:  # deleted in the meantime, or a dangling symbolic link
                        continue
                    at = name if inside == "." else f"{inside}/{name}"
                    yield Entry(at, found.st_size, found.st_mtime)
            return
        root = self._full("")
        with self._errors(path):
            infos = self._fs.find(self._full(path), detail=True)
        for name, info in infos.items():
            yield Entry(name.removeprefix(root).lstrip("/"), int(info.get("size") or 0), modified_of(info))

    def sizes(self, path: str) -> dict[str, int]:
        """Size in bytes of every file below a folder, by path; empty if there is no such folder."""
        if not self.is_local:
            return {entry.path: entry.bytes for entry in self.entries(path)}
        # Takes a fifth of the time of `entries` for thousands of files.
        found: dict[str, int] = {}
        try:
            for entry in os.scandir(self.local(path)):
                name = f"{path}/{entry.name}"
                if entry.is_dir():
                    found |= self.sizes(name)
                else:
                    found[name] = entry.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return found
        return found

    def delete(self, path: str) -> None:
        """Delete a file, if it exists; never through a symbolic link."""
        if self.is_local:
            with (
                suppress(FileNotFoundError),
                self._errors(path),
                self._parent(path, make=False) as (parent, name),
            ):
                os.unlink(name, dir_fd=parent)
            return
        with suppress(FileNotFoundError), self._errors(path):
            self._fs.rm_file(self._full(path))

    def size(self, path: str) -> int:
        """Size of a file in bytes. Raises FileNotFoundError."""
        if self.is_local:
            return self.local(path).stat().st_size
        with self._errors(path):
            return int(self._fs.size(self._full(path)))

    @property
    def is_local(self) -> bool:
        return "://" not in self.url or self.url.startswith("file://")

    def local(self, path: str) -> Path:
        """The path on disk; for local folders only."""
        return Path(self.url.removeprefix("file://")) / path

    @cached_property
    def arrow(self) -> pafs.FileSystem:
        """This folder as a pyarrow file system, in which relative paths are opened."""
        if self.is_local:
            return pafs.SubTreeFileSystem(str(self.local("")), pafs.LocalFileSystem())
        return self.arrow_of({})

    def arrow_of(self, sizes: Mapping[str, int]) -> pafs.FileSystem:
        """Like `arrow`; in a bucket, no request is made for the size of a file that `sizes` has."""
        if self.is_local:
            return self.arrow
        known = {self._full(path): size for path, size in sizes.items()}
        return pafs.SubTreeFileSystem(self._full(""), pafs.PyFileSystem(_Handler(self._fs, known)))

    def _create_in_bucket(self, path: str, data: bytes) -> bool:
        with self._errors(path, writing=True):
            try:
                self._fs.pipe_file(self._full(path), data, mode="create")
            except Exception as problem:
                if not isinstance(problem, FileExistsError) and status_of(problem) not in (409, 412):
                    raise
                try:
                    # A request repeated because its answer was lost meets the file that it created itself.
                    return self.read(path) == data
                except FileNotFoundError:  # another process is still creating it
                    raise problem from None
        if self.url not in _proven:
            self._prove_that_the_first_wins(path, data)
        return True

    def _prove_that_the_first_wins(self, path: str, data: bytes) -> None:
        """Raise StorageError if the store creates a file that is already there: it ignores conditions.

        Some stores that speak S3 do, and receipts would not be safe there. The content is the same, so trying
        loses nothing.
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
        # Listings are not cached: a listing that another process has made stale would hide receipts.
        return open_store(self.url, client_tries=TRIES)

    @property
    def _fs(self) -> Any:
        return self._opened[0]

    def _full(self, path: str) -> str:
        return f"{self._opened[1]}/{path}".rstrip("/")

    @contextmanager
    def _parent(self, path: str, *, make: bool = True) -> Iterator[tuple[int, str]]:
        """A handle on the folder that a file is in, created if it is missing, and the file's name in it."""
        *folders, name = PurePosixPath(path).parts
        root = self.local("")
        if make:
            try:
                root.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                where = next(
                    above for above in (root, *root.parents) if above.exists() and not above.is_dir()
                )
                raise StorageError(f"{where}: is a file where the run folder should be") from None
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for number, folder in enumerate(folders, 1):
                below = self._step(handle, folder, "/".join(folders[:number]), make=make)
                os.close(handle)
                handle = below
            yield handle, name
        finally:
            os.close(handle)

    def _step(self, parent: int, name: str, path: str, *, make: bool) -> int:
        """A handle on a folder inside another one, created if it is missing."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            return os.open(name, flags, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                raise
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent)
                _sync(parent)
        except OSError as problem:
            if problem.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise StorageError(self._not_a_file(path, "a folder")) from None
        return os.open(name, flags, dir_fd=parent)

    def _not_a_file(self, path: str, wanted: str = "a file") -> str:
        is_link = self.local(path).is_symlink()
        what = "is a symbolic link, and nothing is written through one" if is_link else f"is not {wanted}"
        return f"{self.url}/{path}: {what}; remove it, or set it right, and run the same command again"

    @contextmanager
    def _errors(self, path: str, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except CamtrapError:
            raise
        except Exception as problem:
            if self.is_local:
                if isinstance(problem, OSError) and (reason := _FATAL.get(_errno(problem))) is not None:
                    raise StorageError(f"{self.url}: {reason} (while writing {path})") from problem
                if isinstance(problem, OSError) and problem.errno in _GONE:
                    text = f"{self.url}/{path}: {os.strerror(problem.errno)}; is the disk still there?"
                    raise StoreUnreachable(text) from problem
                raise
            missing = is_missing(problem)
            if missing and not writing and not is_missing_bucket(problem):
                raise FileNotFoundError(
                    errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{path}"
                ) from None
            kind: type[Exception] = StorageError if missing or is_refused(problem) else OSError
            if kind is OSError and is_transient(problem):
                kind = StoreUnreachable
            raise kind(explain(f"{self.url}/{path}".rstrip("/"), problem)) from problem

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}

    def listed(self, *folders: str) -> Folder:
        """The same folder for a single look: names in these folders are listed once, as they are now, and not
        requested again; nor is what was read in them.

        In a bucket that takes one request per thousand names, instead of one for each folder and for each
        missing file. On a disk, where neither costs anything, it is this folder.
        """
        if self.is_local:
            return self
        return _Listed(
            self.url, frozenset(folders), frozenset(name for top in folders for name in self.walk(top))
        )


@dataclass(frozen=True)
class _Listed(Folder):
    folders: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    names: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def read(self, path: str) -> bytes:
        if not self._may_be(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{path}")
        if path not in self.names:
            return super().read(path)
        if path not in self._read:
            self._read[path] = super().read(path)
        return self._read[path]

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        return super().read_many([path for path in paths if self._may_be(path)])

    def exists(self, path: str) -> bool:
        return super().exists(path) if self._top(path) not in self.folders else path in self._children

    def list(self, path: str) -> list[str]:
        return super().list(path) if self._top(path) not in self.folders else self._children.get(path, [])

    def _may_be(self, path: str) -> bool:
        return self._top(path) not in self.folders or path in self.names

    @staticmethod
    def _top(path: str) -> str:
        return path.partition("/")[0]

    @cached_property
    def _read(self) -> dict[str, bytes]:
        return {}

    @cached_property
    def _children(self) -> dict[str, builtins.list[str]]:
        """Names in each folder, sorted; a file has none."""
        found: dict[str, set[str]] = {}
        for path in self.names:
            found.setdefault(path, set())
            while path:
                parent, _, name = path.rpartition("/")
                found.setdefault(parent, set()).add(name)
                path = parent
        return {path: sorted(names) for path, names in found.items()}


class _Handler(pafs.FSSpecHandler):  # type: ignore[misc]
    """An fsspec file system for Arrow that does not request sizes it already knows.

    Arrow's own handler makes two requests for each file: whether it is one, and how large it is.
    """

    def __init__(self, filesystem: Any, sizes: Mapping[str, int]) -> None:
        super().__init__(filesystem)
        self._sizes = sizes

    def open_input_file(self, path: str) -> pa.NativeFile:
        size = self._sizes.get(path)
        if size is None:
            return super().open_input_file(path)
        return pa.PythonFile(_ranges(self.fs, path, size), mode="r")

    def __reduce__(self) -> tuple[type[_Handler], tuple[Any, dict[str, int]]]:
        return _Handler, (self.fs, {})  # when pickled, it is used for a few of many files


def _ranges(filesystem: Any, path: str, size: int) -> Ranges:
    return Ranges(lambda start, end: bytes(filesystem.cat_file(path, start=start, end=end)), size)


_FATAL = {
    errno.ENOSPC: "no space left on the disk; make room and run the same command again",
    errno.EDQUOT: "the disk quota is used up; make room and run the same command again",
    errno.EROFS: "the file system is read-only; make it writable and run the same command again",
    errno.EACCES: "no permission",
    errno.EPERM: "not permitted",
}


_GONE = frozenset({errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH})
"""The errors of a network disk that is no longer there."""

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
"""The errors of a file system without hard links; exFAT and FAT say that it is not permitted."""


def is_staged(path: str) -> bool:
    """Whether a file does not have its final name yet: it is being written, or its writer was killed."""
    return path.endswith(_STAGED) and PurePosixPath(path).name.startswith(".")


@contextmanager
def _staged(parent: int, name: str, fill: Callable[[BinaryIO], Any]) -> Iterator[tuple[str, int]]:
    """A complete, synced file beside its target, and its size; if it still exists at the end, it is
    removed."""
    staged = f".{name}.{uuid.uuid4().hex[:12]}{_STAGED}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(staged, flags, 0o666, dir_fd=parent), "wb") as file:  # noqa: PTH123
            fill(file)
            file.flush()
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        yield staged, size
    finally:
        with suppress(FileNotFoundError):
            os.unlink(staged, dir_fd=parent)


def _link(parent: int, staged: str, name: str) -> bool | None:
    """Give a file its final name unless that is taken, atomically. None if there are no hard links."""
    try:
        os.link(staged, name, src_dir_fd=parent, dst_dir_fd=parent)
    except FileExistsError:
        return False
    except OSError as problem:
        if problem.errno in _NO_LINKS:
            return None
        raise
    return True


def _create_exclusively(parent: int, name: str, data: bytes) -> bool:
    try:
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666, dir_fd=parent)
    except FileExistsError:
        return False
    try:
        with open(handle, "wb") as file:  # noqa: PTH123
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(name, dir_fd=parent)
        raise
    return True


def _errno(problem: OSError) -> int:
    if problem.errno:
        return problem.errno
    # Arrow's own I/O errors carry the number only in their text.
    return next((number for number in _FATAL if f"[errno {number}]" in str(problem).lower()), 0)


def _sync(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as problem:  # some network file systems support it for files only
        if problem.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
