"""The log of a run: a JSON object a line, which the driver alone writes."""

from __future__ import annotations

import time

from camtrap_batch.store.folder import Folder

LOG = "log.jsonl"
"""Its path in the run folder."""

_WAIT_S = 10.0
_MOST_WAIT_S = 60.0
_BYTES_PER_S = 100_000


class Log:
    """Lines at the end of a file.

    On a disk each is appended. A bucket has no appending, only whole files: lines that may wait are held back
    there for 10 s (for longer where the log has grown, so that writing it takes at most 100 KB/s).

    Parameters
    ----------
    path : in `folder`
    """

    def __init__(self, folder: Folder, path: str) -> None:
        self._folder, self._path = folder, path
        self._content: bytes | None = None
        self._held: list[bytes] = []
        self._written = time.monotonic()

    def add(self, line: bytes, *, may_wait: bool = False) -> None:
        if self._folder.is_local:
            self._folder.append(self._path, line)
            return
        self._held.append(line)
        wait = min(max(_WAIT_S, len(self._content or b"") / _BYTES_PER_S), _MOST_WAIT_S)
        if not may_wait or time.monotonic() - self._written >= wait:
            self.flush()

    def flush(self) -> None:
        """Write what is held back."""
        if not self._held:
            return
        if self._content is None:
            try:
                self._content = self._folder.read(self._path)
            except FileNotFoundError:
                self._content = b""
        content = self._content + b"".join(self._held)
        self._folder.write(self._path, content)
        self._content = content
        self._held.clear()
        self._written = time.monotonic()
