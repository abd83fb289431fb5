"""Images in a folder on a disk, local or mounted; and one large file there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import stamina

from camtrap_batch.errors import InputError
from camtrap_batch.images.source import KEY, Listing, empty_listing, is_unsafe

# What a network disk, or a bad cable, may not say the next time.
_MAY_PASS = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN, errno.ECONNRESET})

_T = TypeVar("_T")
_P = ParamSpec("_P")


class Disk:
    """A folder. Symbolic links inside it are followed: it is the user's own.

    Parameters
    ----------
    path : absolute
    """

    reads_at_once = 4

    def __init__(self, path: str) -> None:
        self.path = path

    def check(self) -> None:
        try:
            with os.scandir(self.path):
                pass
        except FileNotFoundError:
            raise InputError(f"{self.path}: no such folder ({KEY})") from None
        except NotADirectoryError:
            raise InputError(
                f"{self.path}: is a file ({KEY}); it should be a folder, or a zip file that ends in .zip"
            ) from None
        except OSError as problem:
            raise self._cant_list(self.path, problem) from None

    def listing(self, file_names: Sequence[str]) -> Listing:
        """Each folder is listed, no file is opened."""
        sizes, modified = empty_listing(len(file_names))
        by_folder: dict[str, dict[str, list[int]]] = {}
        for row, file_name in enumerate(file_names):
            if not is_unsafe(file_name):
                folder, _, name = file_name.rpartition("/")
                by_folder.setdefault(folder, {}).setdefault(name, []).append(row)
        for folder, rows_by_name in by_folder.items():
            for name, info in self._entries(folder, rows_by_name):
                for row in rows_by_name[name]:
                    sizes[row], modified[row] = info.st_size, str(info.st_mtime_ns)
        return Listing(sizes, modified)

    def walk(self) -> Iterator[str]:
        def refuse(problem: OSError) -> None:
            raise self._cant_list(str(problem.filename or self.path), problem) from None

        above: dict[Path, frozenset[tuple[int, int]]] = {}
        for where, folders, names in os.walk(self.path, followlinks=True, onerror=refuse):
            here = Path(where)
            info = here.stat()
            folder = info.st_dev, info.st_ino
            parents = above.get(here.parent, frozenset())
            if folder in parents:  # a link to a folder that it lies in
                folders.clear()
                continue
            above[here] = parents | {folder}
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = here.relative_to(self.path).as_posix()
            yield from (f"{inside}/{name}".removeprefix("./") for name in names if not name.startswith("."))

    def read(self, file_name: str, end: int | None, place: Mapping[str, int] | None) -> bytes:
        try:
            return again(self._read, file_name, end)
        except NotADirectoryError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file_name) from None

    def _read(self, file_name: str, end: int | None) -> bytes:
        path = Path(self.path, file_name)
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file_name)
        if not stat.S_ISREG(info.st_mode):  # opening a pipe would wait for someone to write into it
            raise OSError(errno.EINVAL, "not a regular file", file_name)
        with path.open("rb", buffering=0) as file:
            return file.read() if end is None or info.st_size < end else _read_up_to(file, end)

    def _entries(self, folder: str, wanted: Mapping[str, Any]) -> Iterator[tuple[str, os.stat_result]]:
        """Name and details of those files of a folder that are wanted."""
        try:
            with os.scandir(Path(self.path, folder)) as entries:
                for entry in entries:
                    if entry.name in wanted and (info := _stat(entry)) is not None:
                        yield entry.name, info
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return
        except OSError as problem:
            raise self._cant_list(folder or self.path, problem) from None

    def _cant_list(self, where: str, problem: OSError) -> InputError:
        if where != self.path:
            where = f"{self.path}: folder {where!r}"
        return InputError(f"{where}: can't be listed ({KEY}): {problem.strerror or problem}")


class DiskFile:
    """One large file on a disk."""

    def __init__(self, path: str) -> None:
        self.path = path

    def stat(self) -> tuple[int, str]:
        info = Path(self.path).stat()
        return info.st_size, str(info.st_mtime_ns)

    def read(self, start: int, end: int) -> bytes:
        return again(self._read, start, end)

    def _read(self, start: int, end: int) -> bytes:
        with open(self.path, "rb", buffering=0) as file:  # noqa: PTH123 - Path.open takes twice as long
            file.seek(start)
            return _read_up_to(file, end - start)


def again(function: Callable[_P, _T], /, *args: _P.args, **options: _P.kwargs) -> _T:
    """`function(*args)`, up to four times where a disk says what it may not say the next time."""
    try:
        return function(*args, **options)
    except OSError as problem:
        if not _may_pass(problem):
            raise
    # Only here, since setting it up takes as long as reading a small file.
    caller = stamina.RetryingCaller(attempts=3, timeout=10, wait_initial=0.1, wait_jitter=0.1)
    return caller(_may_pass, function, *args, **options)


def _may_pass(problem: Exception) -> bool:
    return isinstance(problem, OSError) and problem.errno in _MAY_PASS


def _read_up_to(file: Any, most: int) -> bytes:
    parts = []
    while most > 0 and (part := file.read(most)):
        parts.append(part)
        most -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Of a regular file; None for anything else."""
    try:
        info = entry.stat()
    except OSError:  # a dangling link, or removed since
        return None
    return info if stat.S_ISREG(info.st_mode) else None
