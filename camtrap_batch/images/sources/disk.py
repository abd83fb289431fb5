"""Images in a folder on a disk, local or mounted; and one large file there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np
import pyarrow as pa
import stamina

from camtrap_batch.errors import InputError
from camtrap_batch.images.sources.base import KEY, Listing, are_unsafe, is_hidden, is_utf8, path_key
from camtrap_batch.images.sources.folders import CantList, look_up

# Errors of a network disk, or a bad cable, that may not recur.
_MAY_PASS = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN, errno.ECONNRESET})
_OF_THE_SYSTEM = ("lost+found",)
_MOST_FOLDERS = 20  # number of folders examined for files that are gone

_T = TypeVar("_T")
_P = ParamSpec("_P")


class Disk:
    """A folder. Symbolic links inside it are followed: it is the user's own folder.

    Parameters
    ----------
    path : absolute
    """

    reads_at_once = 4

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def open(cls, url: str, options: Mapping[str, Any]) -> Self:
        return cls(url)

    @staticmethod
    def open_file(url: str, options: Mapping[str, Any]) -> DiskFile:
        return DiskFile(url)

    def check(self) -> None:
        try:
            with os.scandir(self.path) as entries:
                is_empty = all(entry.name in _OF_THE_SYSTEM for entry in entries)
        except FileNotFoundError:
            raise InputError(f"{self.path}: no such folder ({KEY})") from None
        except NotADirectoryError:
            raise InputError(
                f"{self.path}: is a file ({KEY}); it should be a folder, or a zip file that ends in .zip"
            ) from None
        except OSError as problem:
            raise self._cant_list(self.path, problem) from None
        if is_empty:  # what an unmounted disk leaves behind
            raise InputError(f"{self.path}: is an empty folder ({KEY}); is the disk mounted?")

    def landmark(self) -> str | None:
        """A name in the folder: if the disk is not mounted, an empty folder may be in its place."""
        try:
            with os.scandir(self.path) as entries:
                return next((found.name for found in entries), None)
        except OSError:
            return None

    def lost(self, landmark: str, file_names: Sequence[str]) -> str:
        """What is gone or empty: the folder in which `landmark` was, or the folders of files that were there;
        an empty text if everything except these files is as it was."""
        if not os.path.lexists(os.path.join(self.path, landmark)):  # noqa: PTH118
            return f"can't see {landmark} in {self.path} ({KEY}), as the driver does"
        for folder in sorted({name.rpartition("/")[0] for name in file_names})[:_MOST_FOLDERS]:
            path = os.path.join(self.path, folder).rstrip("/")  # noqa: PTH118
            try:
                with os.scandir(path) as entries:
                    is_empty = next(entries, None) is None
            except OSError as problem:
                return f"no longer sees {path} ({KEY}): {problem.strerror}"
            if is_empty:
                return f"sees nothing in {path} ({KEY}), where files were"
        return ""

    def listing(self, file_names: Sequence[str]) -> Listing:
        """Lists each folder and opens no file; many at a time if the disk answers slowly."""
        rows = np.flatnonzero(~are_unsafe(file_names)).tolist()
        rows.sort(key=file_names.__getitem__)
        sizes, times = np.full(len(file_names), -1), np.zeros(len(file_names), np.int64)
        try:
            sizes[rows], times[rows] = look_up(self.path, [file_names[row] for row in rows])
        except CantList as wrong:
            raise self._cant_list(wrong.folder or self.path, wrong.problem) from None
        modified = pa.array(times, pa.int64(), mask=sizes < 0).cast(pa.string())
        return Listing(sizes, modified.to_numpy(zero_copy_only=False).tolist())

    def walk(self) -> Iterator[str]:
        def refuse(problem: OSError) -> None:
            raise self._cant_list(str(problem.filename or self.path), problem) from None

        above: dict[Path, frozenset[tuple[int, int]]] = {}
        for where, folders, names in os.walk(self.path, followlinks=True, onerror=refuse):
            here = Path(where)
            info = here.stat()
            folder = info.st_dev, info.st_ino
            parents = above.get(here.parent, frozenset())
            if folder in parents:  # a link to a folder that contains it
                folders.clear()
                continue
            above[here] = parents | {folder}
            folders[:] = [name for name in folders if not is_hidden(name)]
            inside = here.relative_to(self.path).as_posix()
            yield from (f"{inside}/{name}".removeprefix("./") for name in names if not is_hidden(name))

    def walk_near(self, file_names: Sequence[str]) -> Iterator[str]:
        """As `ImageRoot.walk_near`. A folder that can't be listed holds nothing."""

        @cache
        def listed(folder: str) -> list[tuple[str, bool]]:
            try:
                with os.scandir(os.path.join(self.path, folder)) as entries:  # noqa: PTH118
                    found = [(entry.name, entry.is_dir()) for entry in entries]
            except OSError:
                return []
            return [(name, is_folder) for name, is_folder in found if not is_hidden(name) and is_utf8(name)]

        @cache
        def folders(key: str) -> list[str]:
            """The folders of that key."""
            if not key:
                return [""]
            above, _, last = key.rpartition("/")
            return [
                f"{parent}{name}/"
                for parent in folders(above)
                for name, is_folder in listed(parent)
                if is_folder and path_key(name) == last
            ]

        for key in sorted({path_key(name).rpartition("/")[0] for name in file_names}):
            for folder in folders(key):
                yield from (f"{folder}{name}" for name, is_folder in listed(folder) if not is_folder)

    def read(self, file_name: str, end: int | None, entry: Mapping[str, int] | None) -> bytes:
        try:
            return again(self._read, file_name, end)
        except NotADirectoryError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file_name) from None

    def part(self, file_name: str, start: int, end: int) -> bytes:
        """Bytes of a file, from `start` to before `end`."""
        try:
            return again(DiskFile(f"{self.path}/{file_name}").read, start, end)
        except NotADirectoryError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file_name) from None

    def _read(self, file_name: str, end: int | None) -> bytes:
        # Without O_NONBLOCK, opening a pipe would wait for someone to write into it.
        handle = os.open(f"{self.path}/{file_name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            info = os.fstat(handle)
            if stat.S_ISDIR(info.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file_name)
            if not stat.S_ISREG(info.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", file_name)
            return _read_up_to(handle, info.st_size if end is None else min(info.st_size, end))
        finally:
            os.close(handle)

    def _cant_list(self, where: str, problem: OSError) -> InputError:
        if where != self.path:
            where = f"{self.path}: folder {where!r}"
        return InputError(f"{where}: can't be listed ({KEY}): {problem.strerror or problem}")


class DiskFile:
    """One large file on a disk."""

    reads_at_once = Disk.reads_at_once

    def __init__(self, path: str) -> None:
        self.path = path

    def stat(self) -> tuple[int, str]:
        info = Path(self.path).stat()
        return info.st_size, str(info.st_mtime_ns)

    def read(self, start: int, end: int) -> bytes:
        return again(self._read, start, end)

    def _read(self, start: int, end: int) -> bytes:
        handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.lseek(handle, start, os.SEEK_SET)
            return _read_up_to(handle, end - start)
        finally:
            os.close(handle)


def again(function: Callable[_P, _T], /, *args: _P.args, **options: _P.kwargs) -> _T:
    """`function(*args)`, up to four times if a disk reports an error that may not recur."""
    try:
        return function(*args, **options)
    except OSError as problem:
        if not _may_pass(problem):
            raise
    # Only now, since setting it up takes as long as reading a small file.
    caller = stamina.RetryingCaller(attempts=3, timeout=10, wait_initial=0.1, wait_jitter=0.1)
    return caller(_may_pass, function, *args, **options)


def _may_pass(problem: Exception) -> bool:
    return isinstance(problem, OSError) and problem.errno in _MAY_PASS


def _read_up_to(handle: int, most: int) -> bytes:
    parts = []
    while most > 0 and (part := os.read(handle, most)):
        parts.append(part)
        most -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
