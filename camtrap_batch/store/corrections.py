"""What people say about images: kept for good; the newest decision counts.

A correction is durable as soon as `record` returns: a small file of the journal `corrections/` in the run
folder, under a name of its own, so that many can write at a time and none overwrites another. `fold` merges
the journal into the table `corrections`, which only grows, and keeps a second copy of each of its files (see
`copies`). Whatever is read or said twice has the same id and appears once. A file that can't be read is never
passed over: the command ends with a line that names it.

An image is known by the hash of its file: a correction follows it through renames, a new catalog, another
model. If a file is replaced by another picture under the same name, what was said about the old picture does
not hold for the new one.
"""

from __future__ import annotations

import datetime as dt
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import Damaged, InputError
from camtrap_batch.store import copies, snapshots
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.records import is_as_written, with_sum
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import CORRECTIONS
from camtrap_batch.store.shards import File, Plan, Shard, digest, find_faults
from camtrap_batch.store.snapshots import Overtaken, Snapshot
from camtrap_batch.store.tables import ADVICE, commit_plan, finish_shard, open_table

JOURNAL = "corrections"
"""Folder, in the run folder, for what is not in the table yet."""

TABLE = "corrections"

Scope = Literal["image", "box", "sequence", "event"]

_WIDEST_FIRST = ("event", "sequence", "image", "box")

TRAITS = ("count", "sex", "life_stage", "behaviour", "individual", "comment")
"""What may be said about an animal besides its label."""

MOST_COUNTED = 2**31 - 1
"""A larger count has no place in the tables."""


@dataclass(frozen=True)
class Correction:
    """What a person says about some images; attributes as in the table `corrections`.

    Corrections of one decision (several species in an event) have the same `who`, `when`, `scope`, `images`
    and `box`.
    """

    label: str | None
    images: tuple[str, ...]
    sha256: tuple[str | None, ...]
    who: str
    when: dt.datetime
    source: str
    scope: Scope = "image"
    event: str | None = None
    box: tuple[float, float, float, float] | None = None
    count: int | None = None
    sex: str | None = None
    life_stage: str | None = None
    behaviour: str | None = None
    individual: str | None = None
    comment: str | None = None
    replaces: str | None = None
    draw: str | None = None
    probability: float | None = None

    @property
    def decision(self) -> str:
        return digest(
            [self.scope, self.sha256 if all(self.sha256) else self.images, self.box, self.who, self._when]
        )

    @property
    def correction_id(self) -> str:
        return digest([self.decision, self.label, *(getattr(self, name) for name in TRAITS)])

    @property
    def _when(self) -> str:
        return self.when.astimezone(dt.UTC).isoformat(timespec="microseconds")

    def as_row(self) -> dict[str, Any]:
        """A row of the table `corrections`."""
        return {
            "correction_id": self.correction_id,
            "decision": self.decision,
            "scope": self.scope,
            "image_id": self.images[0],
            "event": self.event,
            "images": list(self.images),
            "sha256": list(self.sha256),
            "box": None if self.box is None else list(self.box),
            "label": self.label,
            **{name: getattr(self, name) for name in TRAITS},
            "who": self.who,
            "when": self._when,
            "source": self.source,
            "replaces": self.replaces,
            "draw": self.draw,
            "probability": self.probability,
        }


def record(run: Run, corrections: Sequence[Correction]) -> int:
    """Store corrections durably; returns how many are new. Raises as `write_journal`, and StorageError."""
    known = set(read_corrections(run)["correction_id"].to_pylist())
    new = {one.correction_id: one for one in corrections if one.correction_id not in known}
    if new:
        write_journal(run.folder, list(new.values()))
    return len(new)


def write_journal(folder: Folder, corrections: Sequence[Correction]) -> str:
    """Store corrections without looking at what is already there; returns the journal's new file.

    Raises InputError, and writes nothing, where a value is one that could not be read again.
    """
    try:
        rows = [with_sum(one.as_row()) for one in corrections]
        data = json.dumps(rows, ensure_ascii=False, indent=1).encode() + b"\n"
        parse_journal(data)
    except ValueError as problem:
        raise InputError(f"a correction can't be recorded: {problem}") from None
    stamp = max(row["when"] for row in rows).replace(":", "").replace("+0000", "Z")
    path = f"{JOURNAL}/{stamp}-{uuid.uuid4().hex[:12]}.json"
    folder.write(path, data)
    return path


def read_corrections(run: Run) -> pa.Table:
    """Every correction in the table and the journal, once each, the oldest first.

    Raises
    ------
    Damaged
        A file of either can't be read: what people said is never silently skipped.
    """
    parts = [read_journal(run.folder)[1]]
    if (table := _newest_snapshot(run.folder)) is not None:
        parts.insert(0, open_table(run.folder, table).to_table())
    return _in_order(pa.concat_tables(parts))


def fold(run: Run) -> Snapshot | None:
    """Merge the journal into the table; returns the table's snapshot, None if nothing was ever said.

    Several processes may do so at once: whatever each of them has read ends up in the table. Raises Damaged.
    """
    while True:
        try:
            return _fold(run.folder)
        except Overtaken:  # try again, with what the other process has added
            continue


def _fold(folder: Folder) -> Snapshot | None:
    started = time.monotonic()
    before = _newest_snapshot(folder)
    paths, rows = read_journal(folder)
    if not paths:
        return before
    if before is not None:
        known = open_table(folder, before).to_table(columns=["correction_id"])["correction_id"]
        rows = rows.filter(pc.invert(pc.is_in(rows["correction_id"], known.combine_chunks())))
    rows = _in_order(rows)
    earlier, number = (before.files, before.number) if before else ((), 0)
    if rows.num_rows:
        shard = Shard(digest([TABLE, number, rows["correction_id"].to_pylist()]), 0, rows.num_rows)
        plan = Plan.make(TABLE, [shard], {})
        plan.freeze(folder)
        receipt = finish_shard(
            folder, (TABLE, plan.id), shard, {TABLE: rows}, counts={}, seconds={}, started=started
        )
        _keep_copies(folder, (*earlier, *receipt.files))
        committed = commit_plan(
            folder, plan, [receipt], (TABLE,), inputs={"shard": shard.id}, prepend=earlier, after=number
        )
        before = committed[TABLE]
    for path in paths:
        folder.delete(path)
    return before


def _keep_copies(folder: Folder, files: Sequence[File]) -> None:
    """Keep a second copy of each of the table's files, including those that an earlier version wrote."""
    there = folder.sizes(copies.path_of(f"tables/{TABLE}"))
    missing = [file for file in files if copies.path_of(file.file) not in there]
    faults = find_faults(folder, missing)
    copies.keep(folder, [file.file for file in missing if file.file not in faults])


def _newest_snapshot(folder: Folder) -> Snapshot | None:
    """The table's newest snapshot; raises Damaged if that can't be read, since older ones hold less."""
    try:  # before the others are listed, so that one committed in the meantime does not look lost
        named = folder.read(snapshots.pointer(TABLE)).strip()
    except FileNotFoundError:
        named = b""
    newest = max(snapshots.numbers(folder, TABLE), default=0)
    if named.isdigit() and int(named) > newest:
        raise Damaged(folder.url, snapshots.path_of(TABLE, int(named)), "is missing", ADVICE)
    if not newest:
        return None
    try:
        return snapshots.load(folder, TABLE, newest)
    except Damaged as problem:
        raise Damaged(folder.url, problem.file, problem.fault, ADVICE) from None


def standing(corrections: pa.Table, images: pa.Table) -> pa.Table:
    """What counts now: for each image the rows of the newest decision about it.

    Parameters
    ----------
    corrections : as `read_corrections` gives them
    images : image_id and sha256 of the present images, such as the manifest's rows

    Returns
    -------
    The columns of `corrections`, and `row`, the image's number in `images`, by which it is sorted: one row
    for each image, label and box. A decision about a box counts alongside one about its image, unless that is
    newer. Two images with the same bytes share what was said about either. A decision without a label revokes
    what was said before it: nothing counts then.
    """
    corrections = _in_order(corrections)
    lengths = pc.list_value_length(corrections["images"]).to_numpy()
    of = np.repeat(np.arange(corrections.num_rows), lengths)
    ids = pc.list_flatten(corrections["images"])
    hashes = pc.list_flatten(corrections["sha256"])
    by_id = pc.fill_null(pc.index_in(ids, images["image_id"].combine_chunks()), -1).to_numpy()
    now = images["sha256"].take(pa.array(np.maximum(by_id, 0))) if images.num_rows else hashes
    is_same = pc.fill_null(pc.equal(now, hashes), False).to_numpy(zero_copy_only=False)
    unhashed = hashes.is_null().to_numpy(zero_copy_only=False)
    direct = (by_id >= 0) & (is_same | unhashed)
    pairs = [(of[direct], by_id[direct])]
    wanted = hashes.filter(pa.array(~unhashed))
    if len(wanted):
        # Renamed images, and copies.
        same = np.flatnonzero(pc.is_in(images["sha256"], wanted).to_numpy(zero_copy_only=False))
        copies: dict[str, list[int]] = {}
        for at, name in zip(same.tolist(), images["sha256"].take(pa.array(same)).to_pylist(), strict=True):
            copies.setdefault(name, []).append(at)
        number = np.flatnonzero(~unhashed)
        found = [
            (of[at], copy)
            for at, name in zip(number.tolist(), wanted.to_pylist(), strict=True)
            for copy in copies.get(name, ())
        ]
        if found:
            pairs.append((np.array([one for one, _ in found]), np.array([copy for _, copy in found])))
    which = np.concatenate([one for one, _ in pairs]).astype(np.int64)
    row = np.concatenate([rows for _, rows in pairs]).astype(np.int64)
    keep = _newest(corrections, which, row)
    which, row = which[keep], row[keep]
    stands = corrections["label"].is_valid().to_numpy(zero_copy_only=False)[which]
    which, row = which[stands], row[stands]
    return corrections.take(pa.array(which)).append_column("row", pa.array(row, pa.int64()))


def _newest(corrections: pa.Table, which: np.ndarray[Any, Any], row: np.ndarray[Any, Any]) -> Any:
    """Indices of the pairs of correction and image that count, sorted by image."""
    decision, box = corrections["decision"].to_pylist(), corrections["box"].to_pylist()
    last: dict[tuple[int, tuple[float, ...] | None], tuple[int, str]] = {}
    for one, image in zip(which.tolist(), row.tolist(), strict=True):
        target = (image, tuple(box[one]) if box[one] is not None else None)
        if target not in last or one >= last[target][0]:
            last[target] = (one, decision[one])
    kept = []
    seen: set[tuple[int, int]] = set()
    for at, (one, image) in enumerate(zip(which.tolist(), row.tolist(), strict=True)):
        area = tuple(box[one]) if box[one] is not None else None
        whole = last.get((image, None))
        is_older = area is not None and whole is not None and whole[0] > last[image, area][0]
        if decision[one] == last[image, area][1] and not is_older and (one, image) not in seen:
            seen.add((one, image))
            kept.append(at)
    indices = np.array(kept, np.int64)
    return indices[np.lexsort((which[indices], row[indices]))]


def read_journal(folder: Folder) -> tuple[list[str], pa.Table]:
    """Files of the journal, and the corrections in them. Raises Damaged if one can't be read."""
    paths = [f"{JOURNAL}/{name}" for name in folder.list(JOURNAL) if name.endswith(".json")]
    parts: list[pa.Table] = []
    read: list[str] = []
    for path, data in folder.read_many(paths):
        try:
            parts.append(parse_journal(data))
        except ValueError as problem:
            fault = f"what people said in it can't be read ({problem}): repair it, or move it away"
            raise Damaged(folder.url, path, fault) from None
        read.append(path)
    return read, pa.concat_tables([CORRECTIONS.empty_table(), *parts])


def parse_journal(data: bytes) -> pa.Table:
    """The corrections in a file of the journal. Raises ValueError if it is not what was written."""
    rows = json.loads(data)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is not a list of corrections")
    for number, row in enumerate(rows, 1):
        if missing := [name for name in _NEVER_NULL if row.get(name) is None]:
            raise ValueError(f"correction {number} has no {missing[0]}")
        if not is_as_written(row):
            raise ValueError(
                f'correction {number} is not as it was written; a change that is meant removes its "sum"'
            )
    try:
        read = [{**row, "when": dt.datetime.fromisoformat(row["when"])} for row in rows]
        table = pa.Table.from_pylist(read, CORRECTIONS)
    except (TypeError, OverflowError, pa.ArrowException) as problem:
        raise ValueError(" ".join(str(problem).split())) from None
    lengths = [pc.list_value_length(table[name]) for name in ("images", "sha256")]
    if not lengths[0].equals(lengths[1]):
        raise ValueError("a correction does not have as many hashes as images")
    return table


_NEVER_NULL = ("correction_id", "decision", "scope", "image_id", "images", "sha256", "who", "when", "source")


def _in_order(corrections: pa.Table) -> pa.Table:
    """Oldest first, each once; of those of the same time, what is about less comes later, and so counts."""
    rank = pc.index_in(corrections["scope"], pa.array(_WIDEST_FIRST))
    order = [(name, "ascending") for name in ("when", "rank", "decision", "correction_id")]
    corrections = corrections.append_column("rank", rank).sort_by(order).drop_columns("rank")
    ids = corrections["correction_id"].to_numpy()
    first = np.unique(ids.astype(str), return_index=True)[1] if len(ids) else np.array([], np.int64)
    return corrections.take(pa.array(np.sort(first)))
