"""Size and modification time of files on a disk, by listing their folders.

For very many files, a second process takes one half: Python's share of the work takes as long as the
system's. It runs this file as a script, and nothing of the package is imported here, so that it starts at
once.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

FOR_TWO = 200_000
"""From this number of files on there are two processes."""

# Signs of a slow network disk: seconds waited per file, and in total.
_SLOW_S = 50e-6
_TRIAL_S = 0.2
_LOOKS_AT_ONCE = 16


_OF_THE_NAME = (errno.ENAMETOOLONG,)
"""Errors that mean that there is no such folder, not that something is wrong with the disk."""

_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM)
"""Errors that mean that there is no such file for this user."""


class CantList(Exception):
    """An existing folder can't be listed; its path inside the root, and why."""

    def __init__(self, folder: str, problem: OSError) -> None:
        super().__init__(folder, problem)
        self.folder, self.problem = folder, problem


def look_up(root: str, file_names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Bytes (-1 if there is no such file) and modification times in ns of `file_names`, in their order.

    Parameters
    ----------
    root : absolute path of a folder
    file_names : n paths inside it, sorted

    Returns
    -------
    (2, n) array

    Raises
    ------
    CantList
    """
    if len(file_names) < FOR_TWO or (os.cpu_count() or 1) < 2:
        return _look_up(root, file_names)
    half = len(file_names) // 2
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answer:
        asked.write("\0".join(file_names[half:]).encode())
        asked.seek(0)
        with subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", __file__, root], stdin=asked, stdout=answer, stderr=subprocess.DEVNULL
        ) as other:
            try:
                first = _look_up(root, file_names[:half])
            except BaseException:
                other.kill()
                raise
        answer.seek(0)
        # If it did not finish, the reason is found here.
        second = (
            _look_up(root, file_names[half:])
            if other.returncode
            else np.frombuffer(answer.read(), np.int64).reshape(2, -1)
        )
    return np.concatenate([first, second], axis=1)


def _look_up(root: str, file_names: Sequence[str]) -> npt.NDArray[np.int64]:
    sizes, times = [-1] * len(file_names), [0] * len(file_names)

    def look(folder: str, first: int, names: Sequence[str]) -> None:
        _list(root, folder, first, names, sizes, times)

    folders = _by_folder(file_names)
    waited, looked_at = 0.0, 0
    for folder, first, names in folders:
        began = time.perf_counter() - time.thread_time()
        look(folder, first, names)
        waited += time.perf_counter() - time.thread_time() - began
        looked_at += len(names)
        if waited > _TRIAL_S and waited > _SLOW_S * looked_at:
            break
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as beside:  # the rest, if the disk is slow
        while some := list(itertools.islice(folders, 16 * _LOOKS_AT_ONCE)):
            list(beside.map(look, *zip(*some, strict=True)))
    return np.array([sizes, times], np.int64)


def _by_folder(file_names: Sequence[str]) -> Iterator[tuple[str, int, list[str]]]:
    """Each folder, the row of its first file, and the names in it, row by row."""
    first = 0
    for folder, group in itertools.groupby(file_names, lambda name: name.rpartition("/")[0]):
        start = len(folder) + 1 if folder else 0
        names = [name[start:] for name in group]
        yield folder, first, names
        first += len(names)


def _list(
    root: str, folder: str, first: int, names: Sequence[str], sizes: list[int], times: list[int]
) -> None:
    """Record bytes and modification time of files of a folder, which have the rows from `first` on."""
    try:
        handle = os.open(f"{root}/{folder}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Some file systems also find a file by a name that is not quite its own.
            there = set(os.listdir(handle))  # noqa: PTH208
            for row, name in enumerate(names, first):
                if name in there:
                    sizes[row], times[row] = _look_at(handle, name)
        finally:
            os.close(handle)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    except OSError as problem:
        if problem.errno in _OF_THE_NAME:
            return
        raise CantList(folder, problem) from None


def _look_at(handle: int, name: str) -> tuple[int, int]:
    """Bytes and modification time of a file of an open folder; zeros if the disk does not tell, though the
    file is in its list."""
    try:
        info = os.stat(name, dir_fd=handle)
    except OSError as problem:
        # A dangling link, removed in the meantime, or not for this user.
        return (-1, 0) if problem.errno in _NO_FILE else (0, 0)
    return (info.st_size, info.st_mtime_ns) if stat.S_ISREG(info.st_mode) else (-1, 0)


if __name__ == "__main__":
    sys.stdout.buffer.write(_look_up(sys.argv[1], sys.stdin.buffer.read().decode().split("\0")).tobytes())
