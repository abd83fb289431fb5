"""Plans, shards and receipts: what a stage is going to do, and how much of it is done.

A plan is the frozen list of shards of one stage. A shard is a run of rows of the stage's input; its id is
a hash of everything that its result depends on, so any later plan finds the same work done. A receipt is
created, once and for all, when a shard's files are complete.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np

from camtrap_batch.errors import BrokenPromise, InputError, choices
from camtrap_batch.notices import say_all
from camtrap_batch.store import redo
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.records import Unreadable, dict_to_json, from_json, to_json


@dataclass(frozen=True)
class Shard:
    """Rows [start, stop) of the input of a plan, and the id of the work on them."""

    id: str
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    def halves(self) -> tuple[Shard, Shard]:
        """Two shards that together make up this one; their ids end in .0 and .1.

        >>> Shard("ab", 0, 5).halves()
        (Shard(id='ab.0', start=0, stop=2), Shard(id='ab.1', start=2, stop=5))
        """
        if self.rows < 2:
            raise ValueError(f"shard {self.id} has {self.rows} row, it can't be halved")
        middle = (self.start + self.stop) // 2
        return Shard(f"{self.id}.0", self.start, middle), Shard(f"{self.id}.1", middle, self.stop)


@dataclass(frozen=True)
class Plan:
    """The frozen list of shards of one stage.

    Attributes
    ----------
    stage : str
    id : str
        Hash of the stage and of its shards' ids.
    inputs : dict
        Snapshots that the stage reads (table -> number), and what else it was made from; for people.
    shards : tuple of Shard
        In the order of the rows of the stage's input.
    created : str
        When it was written, in UTC; empty if it has not been.
    """

    stage: str
    id: str
    inputs: dict[str, Any]
    shards: tuple[Shard, ...]
    created: str = field(default="", compare=False)

    @classmethod
    def make(cls, stage: str, shards: Iterable[Shard], inputs: dict[str, Any]) -> Plan:
        shards = tuple(shards)
        return cls(stage, digest([stage, *(shard.id for shard in shards)]), inputs, shards)

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def path(self) -> str:
        return f"plans/{self.stage}/{self.id}.json"

    def freeze(self, folder: Folder) -> None:
        """Write the plan, unless it is there and can be read."""
        data = dict_to_json(
            {**asdict(self), "created": now(), "shards": [[s.id, s.start, s.stop] for s in self.shards]}
        )
        if folder.create(self.path, data):
            return
        try:
            Plan.from_json(folder.read(self.path))
        except (Unreadable, FileNotFoundError):
            folder.write(self.path, data)

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        """A plan in the form that `freeze` writes. Raises Unreadable."""
        record = from_json(data, _PlanRecord)
        shards = tuple(Shard(*entry) for entry in record.shards)
        return cls(record.stage, record.id, record.inputs, shards, record.created)


@dataclass
class _PlanRecord:
    stage: str
    id: str
    inputs: dict[str, Any]
    shards: list[tuple[str, int, int]]
    created: str = ""


@dataclass(frozen=True)
class File:
    """One Parquet file of a table; `file` is relative to the run folder, `sha256` is empty if an earlier
    version wrote it."""

    table: str
    file: str
    rows: int
    bytes: int
    sha256: str = ""
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """A finished shard: its files, and what doing it took.

    `counts` are rows by status, `seconds` wall-clock times by phase (read, decode, forward, write, total),
    `result` is what the shard made besides rows, `finished` the time in UTC.
    """

    RECORDS: ClassVar = {"files": File}

    stage: str
    plan_id: str
    shard_id: str
    rows: int
    files: tuple[File, ...]
    counts: dict[str, int]
    seconds: dict[str, float]
    versions: dict[str, str]
    worker: str
    attempt: str
    result: dict[str, Any] = field(default_factory=dict)
    finished: str = field(default_factory=lambda: now())
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return receipt_path(self.stage, self.plan_id, self.shard_id)

    def to_json(self) -> bytes:
        return to_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        """A receipt in the form that `to_json` writes. Raises Unreadable."""
        return from_json(data, cls)


def file_receipt(folder: Folder, receipt: Receipt) -> Receipt:
    """Put a receipt into the run folder; the first one of a shard wins and is returned.

    A receipt that can't be read, or whose files are not complete, does not count and is replaced.
    """
    if folder.create(receipt.path, receipt.to_json()):
        return receipt
    # Without hard links, another worker's receipt may be there before its content is.
    for wait_s in (0, 0.1, 0.3, 0):
        if (other := read_receipt(folder, receipt.path)) is not None:
            return other
        time.sleep(wait_s)
    folder.write(receipt.path, receipt.to_json())
    return receipt


def read_receipt(folder: Folder, path: str) -> Receipt | None:
    """A receipt whose files are complete; None if there is none."""
    try:
        receipt = Receipt.from_json(folder.read(path))
    except (FileNotFoundError, Unreadable):
        return None
    for file in receipt.files:
        try:
            if folder.size(file.file) != file.bytes:
                return None
        except FileNotFoundError:
            return None
    return receipt


def find_receipts(
    folder: Folder, plan: Plan, known: Mapping[str, Receipt] | None = None
) -> dict[str, Receipt]:
    """Receipts of a plan's shards, and of halves of them, by shard id.

    Other plans of the stage are searched as well: a shard with the same id is the same work. A receipt that
    can't be read, or whose files are missing or of another size, does not count, and the fault is reported.
    Nor does one whose shard is to be redone (see `redo`).

    Parameters
    ----------
    known : receipts that have been read before, by their shard's id: only their existence is checked
    """
    wanted = {shard.id for shard in plan.shards}
    again = redo.asked(folder, plan.stage)
    paths: dict[str, list[str]] = {}
    other_plans = [name for name in folder.list(f"receipts/{plan.stage}") if name != plan.id]
    for plan_id in [plan.id, *other_plans]:
        for name in folder.list(f"receipts/{plan.stage}/{plan_id}"):
            shard_id = name.removesuffix(".json")
            if shard_id.partition(".")[0] in wanted:
                paths.setdefault(shard_id, []).append(receipt_path(plan.stage, plan_id, shard_id))
    found = {name: known[name] for name in paths if name in known and name not in again} if known else {}
    paths = {name: found_at for name, found_at in paths.items() if name not in found}
    wrong: list[str] = []
    while paths:
        read: list[Receipt] = []
        for path, data in folder.read_many([found_at[0] for found_at in paths.values()]):
            try:
                receipt = Receipt.from_json(data)
            except Unreadable as problem:
                wrong.append(f"{folder.url}/{path}: {problem}; its shard is redone")
                continue
            if receipt.attempt in again.get(receipt.shard_id, ()):
                folder.delete(path)
            else:
                read.append(receipt)
        faults = find_faults(folder, [file for receipt in read for file in receipt.files])
        for receipt in read:
            bad = [f"{file.file}: {faults[file.file]}" for file in receipt.files if file.file in faults]
            wrong += [f"{folder.url}/{text}; its shard is redone" for text in bad]
            if not bad:
                found[receipt.shard_id] = receipt
        # If one plan's receipt is unusable, another's may be.
        paths = {name: found_at[1:] for name, found_at in paths.items() if name not in found and found_at[1:]}
    say_all(wrong)
    return found


def ask_again(folder: Folder, stage: str, shard: str | None = None) -> int:
    """Have a stage, or one of its shards, redone by its next run; returns how many receipts are affected.

    Parameters
    ----------
    shard : id of a shard of the stage's last plan, or the beginning of an id; None: all shards

    Raises
    ------
    InputError
        The stage has done nothing yet, or has no such shard.
    """
    plan = last_plan(folder, stage)
    if plan is None:
        done = folder.list("plans")
        raise InputError(f"{folder.url}: nothing of {stage!r} has been done yet; {choices(stage, done)}")
    ids = [each.id for each in plan.shards if shard is None or each.id.startswith(shard.partition(".")[0])]
    if shard is not None and len(ids) != 1:
        known = (each.id for each in plan.shards)
        what = f"{len(ids)} shards begin with it" if ids else choices(shard, known, 3)
        raise InputError(f"{folder.url}: no shard {shard!r} in the last plan of {stage}: {what}")
    attempts: dict[str, list[str]] = {}
    wanted = set(ids)
    paths = [
        receipt_path(stage, plan_id, name.removesuffix(".json"))
        for plan_id in folder.list(f"receipts/{stage}")
        for name in folder.list(f"receipts/{stage}/{plan_id}")
        if name.removesuffix(".json").partition(".")[0] in wanted
    ]
    for _, data in folder.read_many(paths):
        with suppress(Unreadable):  # it counts as missing
            receipt = Receipt.from_json(data)
            attempts.setdefault(receipt.shard_id, []).append(receipt.attempt)
    if shard is not None and "." in shard:  # a half
        attempts = {name: found for name, found in attempts.items() if name.startswith(shard)}
    redo.ask(folder, stage, attempts)
    return len(attempts)


def last_plan(folder: Folder, stage: str) -> Plan | None:
    """The newest readable plan of a stage; plans that can't be read are reported."""
    plans: list[Plan] = []
    wrong: list[str] = []
    for path, data in folder.read_many(f"plans/{stage}/{name}" for name in folder.list(f"plans/{stage}")):
        try:
            plans.append(Plan.from_json(data))
        except Unreadable as problem:
            wrong.append(f"{folder.url}/{path}: {problem}; ignored")
    say_all(wrong)
    return max(plans, key=lambda plan: plan.created, default=None)


def find_faults(folder: Folder, files: Collection[File]) -> dict[str, str]:
    """The files that are missing or of another size: path -> what is wrong.

    Lists each folder that they are in, and makes no request for single files.
    """
    there: dict[str, int] = {}
    for parent in sorted({str(PurePosixPath(file.file).parent) for file in files}):
        there |= folder.sizes(parent)
    faults = {}
    for file in files:
        size = there.get(file.file)
        if size is None:
            faults[file.file] = "is missing"
        elif size != file.bytes:
            faults[file.file] = f"has {size:,} bytes instead of {file.bytes:,}"
    return faults


def settled(shard: Shard, receipts: Mapping[str, Receipt]) -> list[Receipt] | None:
    """The receipts that together cover a shard, in row order; None if part of it is not done."""
    if (receipt := receipts.get(shard.id)) is not None:
        return [receipt]
    if shard.rows < 2:
        return None
    first, second = shard.halves()
    # For a shard that has not been begun, do not look for each single image.
    if (before := settled(first, receipts)) is None or (after := settled(second, receipts)) is None:
        return None
    return before + after


def all_settled(plan: Plan, receipts: dict[str, Receipt]) -> list[Receipt]:
    """The receipts that cover a plan, in row order. Raises BrokenPromise if a shard has none."""
    found: list[Receipt] = []
    for shard in plan.shards:
        parts = settled(shard, receipts)
        if parts is None:
            raise BrokenPromise(f"{plan.stage}: shard {shard.id} has no receipt; nothing was committed")
        found += parts
    return found


def unsettled(shards: Iterable[Shard], receipts: Mapping[str, Receipt]) -> list[Shard]:
    """What is left to do of some shards: whole shards, or those halves that no earlier run finished."""
    begun = {name[:end] for name in receipts for end, letter in enumerate(name) if letter == "."}
    left: list[Shard] = []
    pending = list(shards)[::-1]
    while pending:
        shard = pending.pop()
        if shard.id in receipts:
            continue
        if shard.id in begun and shard.rows > 1:
            pending += shard.halves()[::-1]
        else:
            left.append(shard)
    return left


def digest(parts: Iterable[Any]) -> str:
    """16 hexadecimal digits that stand for a sequence of JSON values."""
    text = json.dumps(list(parts), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cut(keys: Sequence[str], size: int, borders: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """Divide rows into runs of at most `size`, so that a new or removed row moves few borders.

    A run ends, within its second half, where the hash of the next row's key is smallest. This depends on the
    rows around the cut, not on their position, so that after an insertion the following cuts fall where they
    fell before (content-defined chunking).

    Parameters
    ----------
    keys : sequence of str
        One per row, such as image ids.
    size : int
        Maximum number of rows in a run.
    borders : sequence of int, optional
        Rank of a cut before each row: 0 is preferred, then 1, and so on. Default: all equal.

    Returns
    -------
    list of (start, stop)

    >>> cut(["a", "b", "c"], 10)
    [(0, 3)]
    """
    ranks = None if borders is None else np.asarray(borders, np.int64) << 32
    runs: list[tuple[int, int]] = []
    start = 0
    while len(keys) - start > size:
        half = slice(start + max(1, (size + 1) // 2), start + size + 1)
        weight = np.array([zlib.crc32(key.encode()) for key in keys[half]], np.int64)
        if ranks is not None:
            weight += ranks[half]
        stop = half.start + int(np.argmin(weight))
        runs.append((start, stop))
        start = stop
    if start < len(keys):
        runs.append((start, len(keys)))
    return runs


def now() -> str:
    """The time in UTC, ISO 8601, to the millisecond."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def receipt_path(stage: str, plan_id: str, shard_id: str) -> str:
    return f"receipts/{stage}/{plan_id}/{shard_id}.json"
