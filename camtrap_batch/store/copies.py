"""Second copies of what is small and can't be made again: what people said, and what describes a model.

They are in `copies/`, under the paths that the originals have in the run folder. Only `camtrap check
--repair` reads them, to replace originals that are damaged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from camtrap_batch.store.folder import Folder

COPIES = "copies"


def path_of(path: str) -> str:
    """Where the copy of a file is."""
    return f"{COPIES}/{path}"


def keep(folder: Folder, paths: Iterable[str]) -> None:
    """Keep a copy of each of these files, once."""
    for path in paths:
        folder.create(path_of(path), folder.read(path))


def find(folder: Folder, path: str, sha256: str) -> bytes | None:
    """A file's original content, from its copy; None if there is no copy, or the copy is damaged, too."""
    try:
        data = folder.read(path_of(path))
    except FileNotFoundError:
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None
