"""What the catalog can only learn from the files themselves: workers read it, and a table keeps it.

The driver opens no file. A part of the stage fans out over the files that the metadata name, and has a row
for each: its receipts record what was read before, so that a second run reads only new and changed files, and
those that could not be reached.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch import phases
from camtrap_batch.engine.base import WorkerContext
from camtrap_batch.errors import Damaged
from camtrap_batch.images import ImageRoot
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.retries import ALWAYS, TRIES, Retries, read_failed
from camtrap_batch.pipeline.rows import hash_runs, pack, texts, unpack
from camtrap_batch.pipeline.shards import Done, do_on_workers
from camtrap_batch.pipeline.stage import Part, shard_ids
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.schemas import SCHEMAS
from camtrap_batch.store.shards import Plan, Receipt, Shard, cut
from camtrap_batch.store.tables import finish_shard
from camtrap_batch.vocabulary import RETRIED, plural

ENTRY = "entry"
"""Column for workers: where in an archive a file is. It is not part of the work."""

IN_DOUBT = "is_in_doubt"
"""Key of an answer: a file beside the row's own could not be opened, perhaps since the disk is gone."""

_TRIES = {**TRIES, "unreadable": ALWAYS, "missing": ALWAYS}
_LOST = ("missing", "unreadable")


@dataclass(frozen=True)
class AskShard:
    """Reads the files of a shard, on a worker.

    Attributes
    ----------
    part : the part whose table is made
    shard_size : files per shard
    """

    folder: Folder
    plan: tuple[str, str]
    root: ImageRoot
    timeout_s: float
    part: ClassVar[Part]
    shard_size: ClassVar[int]
    unit: ClassVar[str] = "images"
    divisible: ClassVar[bool] = True

    @property
    def image_root(self) -> ImageRoot:
        return self.root

    @property
    @abstractmethod
    def settings(self) -> list[Any]:
        """What the answers depend on, besides the files: JSON values."""

    def with_others(self, rows: pa.Table) -> pa.Table:
        """The rows with columns about other files that are read, which may come and go."""
        return rows

    @abstractmethod
    def ask(self, rows: pa.Table) -> Iterable[dict[str, Any]]:
        """For each row, in order, the table's columns that the row lacks: `status` and others; `IN_DOUBT`."""

    def run(self, shard: Shard, payload: bytes, here: WorkerContext) -> Receipt:
        started = time.monotonic()
        rows = unpack(payload)
        phases.enter("read")
        move = phases.progress()
        answers = []
        for answer in self.ask(rows):
            move()
            answers.append(answer)
        here.look_again(_gone(rows, answers))
        return self._finish(shard, rows, answers, started, here.name)

    def crashed(self, shard: Shard, payload: bytes) -> Receipt:
        killed = {"status": "crashed", "detail": "killed the worker that opened it"}
        return self._finish(shard, unpack(payload), [killed], time.monotonic(), "driver")

    def _finish(
        self, shard: Shard, rows: pa.Table, answers: Sequence[dict[str, Any]], started: float, worker: str
    ) -> Receipt:
        schema = SCHEMAS[self.part.name]
        columns = {
            field.name: rows[field.name]
            if field.name in rows.column_names
            else pa.array([answer.get(field.name) for answer in answers], field.type)
            for field in schema
        }
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            {self.part.name: pa.table(columns)},
            counts=dict(Counter(answer["status"] for answer in answers)),
            seconds={},
            started=started,
            worker=worker,
        )


def ask_files(
    context: Context,
    of: str,
    rows: Callable[[], pa.Table],
    work: Callable[[Folder, ImageRoot, float], AskShard],
) -> tuple[str | None, list[str]]:
    """Bring a part's table up to the files of the metadata.

    Parameters
    ----------
    of : identifies the metadata, and how they are read
    rows : files to read: image_id, file_name and further columns of the table; called only if the table
        belongs to other metadata
    work : makes the work from folder, image root and timeout

    Returns
    -------
    Id of the table's plan, and notes; None if there is nothing to read, or if a dry run can't know it yet.
    """
    run, job = context.run, context.job
    root = image_root(job)
    asking = work(run.folder, root, job.validate_.timeout_s)
    name = asking.part.name
    before = run.current(name)
    table: pa.Table | None = None
    if before is not None and before.meta.get("of") == of:
        with suppress(Damaged):  # it is made again
            table = run.table(name).to_table(columns=before.meta["asked"])
    if table is None:
        table = rows()
    if not table.num_rows:
        return None, []
    asked = table.column_names
    listing = root.listing(texts(table["file_name"]))
    table = table.append_column("listed_bytes", pa.array(listing.sizes, pa.int64()))
    table = table.append_column("modified", pa.array(listing.modified, pa.string()))
    table = asking.with_others(table)
    runs = cut(texts(table["image_id"]), asking.shard_size)
    hashes = hash_runs(table, table.column_names, runs)
    ids = shard_ids(asking.part, asking.settings, ([hash_] for hash_ in hashes))
    failed = read_failed(context, before, RETRIED)
    if failed is not None:  # a missing file shows in the listing once it exists
        there = table.filter(pc.greater_equal(table["listed_bytes"], 0))["image_id"]
        failed = failed.filter(pc.is_in(failed["image_id"], there.combine_chunks()))
    retries = Retries(context, name, before, failed, _TRIES, table["image_id"], ids, runs)
    plan = Plan.make(name, retries.shards(), {})
    told = table if listing.entries is None else table.append_column(ENTRY, listing.entries)

    def finish(plan: Plan, receipts: list[Receipt]) -> Done:
        plan, receipts = retries.keep_earlier(plan, receipts)
        return Done(plan, receipts, {"of": of, "asked": asked, "tries": retries.record()})

    result = do_on_workers(
        context,
        plan,
        replace(asking, plan=(plan.stage, plan.id)),
        lambda shard: pack(told.slice(shard.start, shard.rows)),
        [name],
        need="CPU",
        finish=finish,
        unit=asking.unit,
    )
    current = run.current(name)
    if context.dry_run and (current is None or current.plan_id != plan.id):
        return None, [f"{plural(table.num_rows, 'file')} would be read ({name})"]
    assert current is not None  # noqa: S101
    return current.plan_id, result.notes


def _gone(rows: pa.Table, answers: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Files that the driver has just listed, but that, or beside which one, could not be opened."""
    for row, answer in zip(rows.select(["file_name", "listed_bytes"]).to_pylist(), answers, strict=True):
        is_lost = answer["status"] in _LOST and row["listed_bytes"] >= 0
        if is_lost or answer.get(IN_DOUBT):
            yield row["file_name"]
