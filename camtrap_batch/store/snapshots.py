"""Snapshots: what a table is. An explicit list of files, with totals, that never changes once written.

Readers open the files of a snapshot and no others. `CURRENT` names the newest one and is swapped last.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from camtrap_batch.errors import InputError
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import File, now


@dataclass(frozen=True)
class Snapshot:
    """One version of one table.

    Attributes
    ----------
    table, number
        Which table, and which version of it, from 1.
    plan_id, stage
        What made it: the same plan makes the same rows.
    files : tuple of File
        In row order.
    inputs : dict
        Snapshots it was made from, table -> number, and what else it depends on.
    schema : str
        Fingerprint of the table's schema.
    meta : dict
        What the stage wants to keep beside the table, such as the data set's categories.
    """

    table: str
    number: int
    plan_id: str
    stage: str
    files: tuple[File, ...]
    rows: int
    bytes: int
    counts: dict[str, int]
    inputs: dict[str, Any]
    schema: str
    meta: dict[str, Any]
    created: str = field(default_factory=now)


def commit(folder: Folder, snapshot: Snapshot) -> Snapshot:
    """Write a snapshot under the next free number (whatever number it has) and make it the current one."""
    number = max(numbers(folder, snapshot.table), default=0) + 1
    while True:
        snapshot = Snapshot(**{**_shallow(snapshot), "number": number})
        data = json.dumps(asdict(snapshot), ensure_ascii=False, separators=(",", ":")).encode()
        if folder.create(_path(snapshot.table, number), data):
            break
        number += 1
    folder.write(f"snapshots/{snapshot.table}/CURRENT", str(number).encode())
    return snapshot


def current(folder: Folder, table: str) -> Snapshot | None:
    """The newest snapshot of a table, None where the table was never committed."""
    try:
        number = int(folder.read(f"snapshots/{table}/CURRENT"))
    except FileNotFoundError:
        return None
    return load(folder, table, number)


def load(folder: Folder, table: str, number: int) -> Snapshot:
    """A snapshot by its number. Raises InputError where there is none, naming those there are."""
    try:
        record = json.loads(folder.read(_path(table, number)))
    except FileNotFoundError:
        there = ", ".join(map(str, numbers(folder, table))) or "none"
        raise InputError(f"{folder.url}: no snapshot {number} of {table}; there are: {there}") from None
    return Snapshot(**{**record, "files": tuple(File(**file) for file in record["files"])})


def numbers(folder: Folder, table: str) -> list[int]:
    """Numbers of a table's snapshots, ascending."""
    names = (name.removesuffix(".json") for name in folder.list(f"snapshots/{table}"))
    return sorted(int(name) for name in names if name.isdecimal())


def _path(table: str, number: int) -> str:
    return f"snapshots/{table}/{number}.json"


def _shallow(snapshot: Snapshot) -> dict[str, Any]:
    return {name: getattr(snapshot, name) for name in snapshot.__dataclass_fields__}
