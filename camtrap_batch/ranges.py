"""A file elsewhere, read in parts like one on a disk."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from typing import Any, BinaryIO


class Ranges(io.RawIOBase, BinaryIO):
    """A file of known size: each read is one request for just those bytes.

    Parameters
    ----------
    fetch : called with start and end, returns those bytes
    most : maximum number of bytes per request
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, most: int | None = None) -> None:
        self._fetch, self._size, self._most, self._at = fetch, size, most, 0

    def readinto(self, buffer: Any) -> int:
        asked = len(buffer) if self._most is None else min(len(buffer), self._most)
        end = min(self._at + asked, self._size)
        data = self._fetch(self._at, end) if end > self._at else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "before the file's beginning")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True
