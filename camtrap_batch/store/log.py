"""The log of a run: one JSON object per line, written by the driver alone.

On a disk each line is appended to `log.jsonl`. A bucket can't append, since it holds only whole files: there
the log is a series of files in `log/`, in the order of their names, of which only the last is rewritten, at
most once a second (which is what Google allows). Lines that may wait are held back for 10 s.
"""

from __future__ import annotations

import os
import time

from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import now

LOG = "log.jsonl"
"""Its path in the run folder."""

PARTS = "log"
"""Folder of its parts, in a bucket; they follow `LOG`, which an earlier version wrote."""

_WAIT_S = 10.0
_REWRITE_S = 1.0
_PART_BYTES = 64 * 1024


class Log:
    """Appends lines to a run's log."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._held: list[bytes] = []
        self._flushed = time.monotonic()
        # Names sort by time, and no two drivers use the same.
        self._name = f"{PARTS}/{now().replace(':', '')}-{os.urandom(3).hex()}"
        self._part, self._content, self._written = 0, b"", float("-inf")

    def add(self, line: bytes, *, may_wait: bool = False) -> None:
        if self._folder.is_local:
            self._folder.append(LOG, line)
            return
        self._held.append(line)
        if not may_wait or time.monotonic() - self._flushed >= _WAIT_S:
            self.flush()

    def flush(self) -> None:
        """Write what is held back."""
        if not self._held:
            return
        is_full = len(self._content) >= _PART_BYTES
        if self._part == 0 or is_full or time.monotonic() - self._written < _REWRITE_S:
            self._part, self._content = self._part + 1, b""
        content = self._content + b"".join(self._held)
        self._folder.write(f"{self._name}-{self._part:05}.jsonl", content)
        self._content = content
        self._held.clear()
        self._flushed = self._written = time.monotonic()


def read_log(folder: Folder) -> bytes:
    """All lines of a run's log; empty if there is no log."""
    try:
        lines = folder.read(LOG)
    except FileNotFoundError:
        lines = b""
    if folder.is_local:
        return lines
    parts = [f"{PARTS}/{name}" for name in folder.list(PARTS)]
    return lines + b"".join(data for _, data in folder.read_many(parts))
