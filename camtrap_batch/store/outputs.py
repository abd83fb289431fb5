"""Which files outside the run folder its commands wrote: those they may replace; a person's stay.

`outputs/<sha256>.json` in the run folder stands for a file of that content. So a file that was moved is
still known, and one in which somebody has changed a cell is not.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from camtrap_batch.errors import StorageError, UserError
from camtrap_batch.notices import say
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import now


class Outputs:
    """Files that commands of a run folder write outside it.

    Parameters
    ----------
    folder : the run folder
    force : a person's files may be replaced, too
    """

    def __init__(self, folder: Folder, *, force: bool = False) -> None:
        self._folder, self._force = folder, force

    def require(self, path: Path) -> None:
        """Nothing is at `path`, or something that may be replaced.

        Raises
        ------
        UserError
            There is a file with something in it that is not as a command of this run folder wrote it.
        """
        if self._force or not path.is_file() or not path.stat().st_size:
            return
        if not self._folder.exists(_record_of(path)):
            raise UserError(
                f"--out {path}: is there already, and this run did not write it, or it was changed since; "
                "name another file, or add --force to replace it"
            )

    def record(self, path: Path) -> None:
        """Note that a command wrote the file at `path`. A run folder that may only be read stays as it is."""
        if not path.is_file():  # folders tell by what is in them whose they are
            return
        record = {"file": str(path), "bytes": path.stat().st_size, "written": now()}
        try:
            self._folder.write(_record_of(path), json.dumps(record, ensure_ascii=False).encode())
        except (OSError, StorageError) as problem:
            say(f"{path}: to replace it later will take --force, since it could not be noted ({problem})")


def _record_of(path: Path) -> str:
    with path.open("rb") as file:
        return f"outputs/{hashlib.file_digest(file, 'sha256').hexdigest()}.json"
