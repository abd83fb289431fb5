"""A small stage whose shards are done in this process, for tests of the run folder."""

from __future__ import annotations

import time

import pyarrow as pa
from support import at_once

from camtrap_batch.store import snapshots
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.schemas import SELECTION, THUMBNAILS
from camtrap_batch.store.shards import Plan, Shard, all_settled, find_receipts, unsettled
from camtrap_batch.store.tables import commit_plan, finish_shard, open_table

TABLES = ("selection", "thumbnails")


def make_plan(version: int = 1) -> Plan:
    return Plan.make(
        "select", [Shard(f"v{version}s{number}", number * 2, number * 2 + 2) for number in range(3)], {}
    )


def run(folder: Folder, plan: Plan, *, even_if_current: bool = False) -> None:
    """What a stage does: shards, receipts, commit."""
    before = snapshots.current(folder, TABLES[0])
    if before is not None and before.plan_id == plan.id and not even_if_current:
        return
    plan.freeze(folder)
    receipts = find_receipts(folder, plan)
    for part in unsettled(plan.shards, receipts):
        receipts[part.id] = finish_shard(
            folder,
            (plan.stage, plan.id),
            part,
            {"selection": selection_rows(part), "thumbnails": thumbnail_rows(part)},
            counts={"kept": part.rows},
            seconds={},
            started=time.monotonic(),
        )
    commit_plan(folder, plan, all_settled(plan, receipts), TABLES, inputs={})


def selection_rows(shard: Shard) -> pa.Table:
    ids = [f"{shard.id}-{row}" for row in range(shard.start, shard.stop)]
    rows = [
        {"image_id": id_, "label": "lion", "split": "train", "weight": 1.0, "reason": "kept"} for id_ in ids
    ]
    return pa.Table.from_pylist(rows, SELECTION)


def thumbnail_rows(shard: Shard) -> pa.Table:
    return pa.table([[shard.id], [b"jpeg"], [4], [3], [0.5]], schema=THUMBNAILS)


def rows_of(folder: Folder, plan: Plan) -> list[str]:
    return [f"{shard.id}-{row}" for shard in plan.shards for row in range(shard.start, shard.stop)]


def read(folder: Folder, table: str = "selection") -> list[str] | None:
    snapshot = snapshots.current(folder, table)
    if snapshot is None:
        return None
    ids: list[str] = open_table(folder, snapshot).to_table()["image_id"].to_pylist()
    assert len(ids) == snapshot.rows == sum(file.rows for file in snapshot.files)
    return ids


def one_of_many_creates(folder: Folder) -> None:
    """Threads create the same file at the same time: one does, and it has what that one wrote."""
    won: list[int] = []

    def create(number: int) -> None:
        if folder.create("receipt", str(number).encode()):
            won.append(number)

    at_once(8, create)
    assert [str(number).encode() for number in won] == [folder.read("receipt")]
