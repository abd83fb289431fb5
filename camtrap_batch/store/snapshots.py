"""Snapshots: versions of a table. Each is an explicit list of files, with totals; its rows never change.

Readers open the files of a snapshot and no others. The newest readable snapshot is the table; numbers only
grow, so if two drivers commit at once, neither can undo the other's commit. `CURRENT` names it for people and
for earlier versions, and is swapped last.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from camtrap_batch.errors import Damaged, InputError
from camtrap_batch.notices import say
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.lease import check_held
from camtrap_batch.store.records import Unreadable, from_json, to_json
from camtrap_batch.store.shards import File, now


@dataclass(frozen=True)
class Snapshot:
    """One version of one table.

    Attributes
    ----------
    table, number
        Which table, and which version of it, counted from 1.
    plan_id, stage
        What made it; the same plan makes the same rows.
    files : tuple of File
        In row order.
    inputs : dict
        Snapshots it was made from, table -> number, and whatever else it depends on.
    schema : str
        Fingerprint of the table's schema.
    meta : dict
        What the stage keeps beside the table, such as the data set's categories.
    """

    RECORDS: ClassVar = {"files": File}

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
    more: dict[str, Any] = field(default_factory=dict)

    def with_files(self, files: tuple[File, ...]) -> Snapshot:
        """A copy with other files, and their totals."""
        rows, size = sum(file.rows for file in files), sum(file.bytes for file in files)
        return dataclasses.replace(self, files=files, rows=rows, bytes=size, created=now())


class Overtaken(Exception):
    """Another process has already committed a snapshot under the number that was to be used."""


def commit(folder: Folder, snapshot: Snapshot, *, after: int | None = None) -> Snapshot:
    """Write a snapshot under the next free number (whatever number it carries) and make it the current one.

    Parameters
    ----------
    after : number of the snapshot that it replaces, 0 if there was none. For a table that several processes
        add to, none of which may leave out what another has added.

    Raises
    ------
    LeaseLost
        Another driver has taken over.
    Overtaken
        Another snapshot already follows that one.
    """
    check_held(folder)
    number = (max(numbers(folder, snapshot.table), default=0) if after is None else after) + 1
    while True:
        snapshot = dataclasses.replace(snapshot, number=number)
        if folder.create(path_of(snapshot.table, number), to_json(snapshot)):
            break
        if after is not None:
            raise Overtaken
        number += 1
    point_at_newest(folder, snapshot.table)
    return snapshot


def amend(folder: Folder, snapshot: Snapshot, meta: dict[str, Any]) -> Snapshot:
    """Add entries to the `meta` of a table whose rows stay the same.

    Raises LeaseLost if another driver has taken over.
    """
    check_held(folder)
    amended = dataclasses.replace(snapshot, meta={**snapshot.meta, **meta})
    if amended != snapshot:
        folder.write(path_of(snapshot.table, snapshot.number), to_json(amended))
    return amended


def current(folder: Folder, table: str) -> Snapshot | None:
    """The newest readable snapshot of a table, None if there is none.

    A snapshot that can't be read, or a `CURRENT` that does not hold a number, is reported.
    """
    there = numbers(folder, table)
    if there:
        _check_pointer(folder, table)
    for number in reversed(there):
        try:
            return load(folder, table, number)
        except Damaged as problem:
            say(f"{problem}; ignored")
    return None


def load(folder: Folder, table: str, number: int) -> Snapshot:
    """A snapshot by its number.

    Raises
    ------
    InputError
        There is none; the message names those that exist.
    Damaged
        It can't be read.
    """
    path = path_of(table, number)
    try:
        return from_json(folder.read(path), Snapshot)
    except FileNotFoundError:
        there = ", ".join(map(str, numbers(folder, table))) or "none"
        raise InputError(f"{folder.url}: no snapshot {number} of {table}; there are: {there}") from None
    except Unreadable as problem:
        raise Damaged(folder.url, path, f"{problem}") from None


def numbers(folder: Folder, table: str) -> list[int]:
    """The numbers of a table's snapshots, ascending."""
    names = (name.removesuffix(".json") for name in folder.list(f"snapshots/{table}"))
    return sorted(int(name) for name in names if name.isdecimal())


def path_of(table: str, number: int) -> str:
    return f"snapshots/{table}/{number}.json"


def pointer(table: str) -> str:
    """Path of the file that names the newest snapshot."""
    return f"snapshots/{table}/CURRENT"


def point_at_newest(folder: Folder, table: str) -> None:
    """Make `CURRENT` name the newest snapshot, whichever of several drivers comes last."""
    while True:
        newest = max(numbers(folder, table))
        folder.write(pointer(table), str(newest).encode())
        if max(numbers(folder, table)) == newest:
            return


def _check_pointer(folder: Folder, table: str) -> None:
    try:
        text = folder.read(pointer(table))
    except FileNotFoundError:  # a commit is under way, or its driver was killed
        return
    if not text.strip().isdigit():
        what = "is empty" if not text.strip() else "does not hold a number"
        say(f"{folder.url}/{pointer(table)}: {what}; the newest snapshot that can be read is used")
