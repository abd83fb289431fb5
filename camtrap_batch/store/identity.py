"""Whether a folder is a run folder, and one that this version can read.

`format.json` says which format a run folder has; a folder without it was made before formats were numbered,
and has the first one. An additional field in some record is not a new format: it is kept (see `records`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from camtrap_batch.errors import Damaged, InputError
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.records import Unreadable, from_json, to_json

FORMAT = 1
"""Incremented whenever one version could not read, or would damage, what another has written."""

OURS = frozenset(
    {"snapshots", "receipts", "plans", "lease", "log.jsonl", "log", "job.yaml", "performance", "redo"}
    | {"format.json", "tables"}
)
"""Names that a run folder has and hardly any other folder does."""

_ALSO_OURS = frozenset(
    {"models", "checkpoints", "attachments", "report", "outputs", "tmp", "corrections", "copies", "damaged"}
    | {"detectors", "samples"}
)

_PATH = "format.json"


@dataclass
class _Identity:
    format: int
    written_by: str = ""
    more: dict[str, Any] = field(default_factory=dict)


def require_run_folder(folder: Folder) -> None:
    """Raise InputError if nothing is there at all; whether it is sound is checked elsewhere."""
    if not folder.list(""):
        raise InputError(f"no run folder at {folder.url}; `camtrap reprocess JOB` makes it (output and name)")


def check_identity(folder: Folder) -> bool:
    """Whether there already is a run folder that this version can read.

    Raises
    ------
    InputError
        A newer version wrote it, or it is a folder with other things in it.
    Damaged
        `format.json` can't be read.
    """
    try:
        found = from_json(folder.read(_PATH), _Identity)
    except FileNotFoundError:
        entries = folder.list("")
        if entries and not (OURS | _ALSO_OURS).intersection(entries):
            some = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "")
            raise InputError(
                f"{folder.url}: is not a run folder (it holds {some}); choose another output or name in the "
                "job file"
            ) from None
        return bool(entries)
    except Unreadable as problem:
        raise Damaged(
            folder.url, _PATH, str(problem), "`camtrap check JOB --repair` writes it again"
        ) from None
    if found.format > FORMAT:
        raise InputError(
            f"{folder.url}/{_PATH}: written by a newer camtrap-batch ({found.written_by or 'unknown'}, "
            f"format {found.format}; this one knows {FORMAT}); install that version, or choose another output"
        )
    return True


def write_identity(folder: Folder, *, again: bool = False) -> None:
    """Record the run folder's format, if nothing does so yet."""
    data = to_json(_Identity(FORMAT, version("camtrap-batch")))
    if again:
        folder.write(_PATH, data)
    elif not folder.exists(_PATH):
        folder.create(_PATH, data)
