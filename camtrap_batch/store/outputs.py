"""Which files outside the run folder its commands wrote, and what happens to others under the same names.

`outputs/<sha256>.json` in the run folder stands for a file with that content. So a file that was moved is
still recognised, and one in which somebody has changed a cell is not.
"""

from __future__ import annotations

import filecmp
import hashlib
import itertools
import json
import shutil
from pathlib import Path

from camtrap_batch.errors import StorageError
from camtrap_batch.notices import say
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import now


class Outputs:
    """Files that a run folder's commands write outside it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def keep(self, path: Path) -> None:
        """Copy what is at `path`, which is about to be replaced, unless a command of this run wrote it.

        The copy lies beside it (`events.kept-1.csv` beside `events.csv`), and a line says so.
        """
        if not path.is_file() or not path.stat().st_size or self._folder.exists(_record_of(path)):
            return
        for number in itertools.count(1):
            kept = path.with_name(f"{path.stem}.kept-{number}{path.suffix}")
            if kept.exists() and filecmp.cmp(path, kept, shallow=False):
                return  # kept by a command that failed afterwards
            if not kept.exists() and not kept.is_symlink():
                break
        shutil.copy2(path, kept)
        say(f"{path}: was not written by this run, or changed since; a copy is kept as {kept.name}")

    def record(self, path: Path) -> None:
        """Record that a command wrote the file at `path`. A read-only run folder stays as it is."""
        if not path.is_file():  # a folder's contents show whose it is
            return
        record = {"file": str(path), "bytes": path.stat().st_size, "written": now()}
        try:
            self._folder.write(_record_of(path), json.dumps(record, ensure_ascii=False).encode())
        except (OSError, StorageError) as problem:
            say(f"{path}: will be copied before it is replaced, as its origin can't be recorded ({problem})")


def _record_of(path: Path) -> str:
    with path.open("rb") as file:
        return f"outputs/{hashlib.file_digest(file, 'sha256').hexdigest()}.json"
