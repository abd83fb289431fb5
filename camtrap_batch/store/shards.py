"""Plans, shards and receipts: what a stage is going to do, and what of it is done.

A plan is the frozen list of shards of one stage. A shard is a run of rows of the stage's input; its id is
a hash of everything that its result depends on, so the same work is found done by any later plan. A receipt
is created, once and for all, when a shard's files are complete.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from camtrap_batch.errors import BrokenPromise
from camtrap_batch.store.folder import Folder


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
        """Two shards that together are this one; their ids end in .0 and .1.

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
        Snapshots that the stage reads (table -> number), or what else it was made from; for people.
    shards : tuple of Shard
        In the order of the rows of the stage's input.
    """

    stage: str
    id: str
    inputs: dict[str, Any]
    shards: tuple[Shard, ...]

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
        """Write the plan, if it is not there yet."""
        if not folder.exists(self.path):
            record = {
                **asdict(self),
                "created": now(),
                "shards": [[s.id, s.start, s.stop] for s in self.shards],
            }
            folder.create(self.path, _encode(record))


@dataclass(frozen=True)
class File:
    """One Parquet file of a table; `file` is relative to the run folder."""

    table: str
    file: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Receipt:
    """A finished shard: its files, and what doing it took.

    `counts` are rows by status, `seconds` the wall-clock by phase (read, decode, forward, write, total),
    `result` what the shard made beside rows, `finished` the time in UTC.
    """

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

    @property
    def path(self) -> str:
        return receipt_path(self.stage, self.plan_id, self.shard_id)

    def to_json(self) -> bytes:
        return _encode(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        record = json.loads(data)
        return cls(**{**record, "files": tuple(File(**file) for file in record["files"])})


def file_receipt(folder: Folder, receipt: Receipt) -> Receipt:
    """Put a receipt into the run folder; the first one of a shard wins and is returned."""
    if folder.create(receipt.path, receipt.to_json()):
        return receipt
    return Receipt.from_json(folder.read(receipt.path))


def find_receipts(folder: Folder, plan: Plan) -> dict[str, Receipt]:
    """Receipts of a plan's shards, and of halves of them, by shard id.

    Other plans of the stage are looked through as well: a shard with the same id is the same work.
    """
    wanted = {shard.id for shard in plan.shards}
    paths: dict[str, str] = {}
    other_plans = [name for name in folder.list(f"receipts/{plan.stage}") if name != plan.id]
    for plan_id in [plan.id, *other_plans]:
        for name in folder.list(f"receipts/{plan.stage}/{plan_id}"):
            shard_id = name.removesuffix(".json")
            if shard_id.partition(".")[0] in wanted:
                paths.setdefault(shard_id, receipt_path(plan.stage, plan_id, shard_id))
    receipts = (Receipt.from_json(data) for _, data in folder.read_many(paths.values()))
    return {receipt.shard_id: receipt for receipt in receipts}


def settled(shard: Shard, receipts: dict[str, Receipt]) -> list[Receipt] | None:
    """The receipts that together cover a shard, in row order; None where some of it is not done."""
    if (receipt := receipts.get(shard.id)) is not None:
        return [receipt]
    if shard.rows < 2:
        return None
    first, second = shard.halves()
    # Of a shard that is not begun, not all single images are looked for.
    if (before := settled(first, receipts)) is None or (after := settled(second, receipts)) is None:
        return None
    return before + after


def all_settled(plan: Plan, receipts: dict[str, Receipt]) -> list[Receipt]:
    """The receipts that cover a plan, in row order. Raises BrokenPromise where a shard has none."""
    found: list[Receipt] = []
    for shard in plan.shards:
        parts = settled(shard, receipts)
        if parts is None:
            raise BrokenPromise(f"{plan.stage}: shard {shard.id} has no receipt; nothing was committed")
        found += parts
    return found


def unsettled(shard: Shard, receipts: dict[str, Receipt]) -> list[Shard]:
    """What is left to do of a shard: itself, or those of its halves that an earlier run did not finish."""
    if settled(shard, receipts) is not None:
        return []
    was_halved = any(name.startswith(f"{shard.id}.") for name in receipts)
    return [part for half in shard.halves() for part in unsettled(half, receipts)] if was_halved else [shard]


def digest(parts: Iterable[Any]) -> str:
    """16 hexadecimal digits that stand for a sequence of JSON values."""
    text = json.dumps(list(parts), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cut(keys: Sequence[str], size: int, borders: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """Divide rows into runs of at most `size`, so that a new or removed row moves few borders.

    A run ends, within its second half, where the hash of the next row's key is least: the place depends on
    the rows around it, not on their position, so that after an insertion the following cuts fall where
    they fell before (content-defined chunking).

    Parameters
    ----------
    keys : sequence of str
        One a row, such as image ids.
    size : int
        Most rows in a run.
    borders : sequence of int, optional
        Rank of a cut before each row: 0 is preferred, then 1, and so on. Default: all the same.

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
        places = slice(start + max(1, (size + 1) // 2), start + size + 1)
        weight = np.array([zlib.crc32(key.encode()) for key in keys[places]], np.int64)
        if ranks is not None:
            weight += ranks[places]
        stop = places.start + int(np.argmin(weight))
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


def _encode(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
