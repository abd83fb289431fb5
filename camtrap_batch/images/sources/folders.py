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
from collections.abc import Sequence
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

    def look(folder: str, rows: list[int]) -> None:
        start = len(folder) + 1 if folder else 0
        wanted = {file_names[row][start:]: row for row in rows}
        _list(root, folder, wanted, sizes, times)
        if len(wanted) < len(rows):  # a file that several images name
            for row in rows:
                same = wanted[file_names[row][start:]]
                sizes[row], times[row] = sizes[same], times[same]

    grouped = itertools.groupby(range(len(file_names)), lambda row: file_names[row].rpartition("/")[0])
    folders = ((folder, list(group)) for folder, group in grouped)
    waited, looked_at = 0.0, 0
    for folder, group in folders:
        began = time.perf_counter() - time.thread_time()
        look(folder, group)
        waited += time.perf_counter() - time.thread_time() - began
        looked_at += len(group)
        if waited > _TRIAL_S and waited > _SLOW_S * looked_at:
            break
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as beside:  # the rest, if the disk is slow
        while some := list(itertools.islice(folders, 16 * _LOOKS_AT_ONCE)):
            list(beside.map(look, *zip(*some, strict=True)))
    return np.array([sizes, times], np.int64)


def _list(root: str, folder: str, wanted: dict[str, int], sizes: list[int], times: list[int]) -> None:
    """Record bytes and modification time of the wanted files of a folder, name -> row."""
    try:
        with os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                row = wanted.get(entry.name)
                if row is None:
                    continue
                try:
                    info = entry.stat()
                except OSError:  # a dangling link, or removed in the meantime
                    continue
                if stat.S_ISREG(info.st_mode):
                    sizes[row], times[row] = info.st_size, info.st_mtime_ns
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    except OSError as problem:
        if problem.errno in _OF_THE_NAME:
            return
        raise CantList(folder, problem) from None


if __name__ == "__main__":
    sys.stdout.buffer.write(_look_up(sys.argv[1], sys.stdin.buffer.read().decode().split("\0")).tobytes())
