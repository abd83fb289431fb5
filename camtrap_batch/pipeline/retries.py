"""Images that could not be read are tried again; where that changes nothing, results are reused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Plan, Receipt, Shard, all_settled, digest, find_receipts, settled
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import read_file


class Retries:
    """How often shards were done again because of images that failed; kept with the table's snapshot.

    A shard that is tried again needs an id, and so a receipt, of its own: that of the shard, and the number
    of the retry. The number of the last retry, and of the one whose rows are in the table, differ where a
    retry changed nothing.

    Parameters
    ----------
    table : name of the table, which has a column `status`
    before : its current snapshot
    failed : ids of the images in it that are to be tried again
    image_ids : of the rows of the plan
    ids, runs : of its shards, as if nothing was ever tried again
    """

    def __init__(
        self,
        run: Run,
        table: str,
        before: Snapshot | None,
        failed: pa.ChunkedArray | None,
        image_ids: pa.ChunkedArray,
        ids: Sequence[str],
        runs: Sequence[tuple[int, int]],
    ) -> None:
        self._folder, self._table, self._ids, self._runs = run.folder, table, ids, runs
        kept = before.meta.get("tries", {}) if before is not None else {}
        self._before: dict[str, int] = kept.get("used", {})
        self._last: dict[str, int] = dict(kept.get("last", {}))
        self._used = dict(self._before)
        self._retried = self._runs_with(failed, image_ids, before)
        for number in self._retried:
            id_ = ids[number]
            self._last[id_] = self._used[id_] = self._last.get(id_, 0) + 1

    def shards(self) -> list[Shard]:
        """The shards of the plan, those to be tried again with a new id."""
        return self._shards(self._used)

    def keep_earlier(self, plan: Plan, done: list[Receipt]) -> tuple[Plan, list[Receipt]]:
        """The plan and its receipts, with the earlier ones of those shards that have the same statuses again.

        So a table stays what it was where all retries were in vain, and nothing that was made of it is made
        again.
        """
        if not self._retried:
            return plan, done
        old_plan = Plan.make(plan.stage, self._shards(self._before), plan.inputs)
        old, new = find_receipts(self._folder, old_plan), {receipt.shard_id: receipt for receipt in done}
        for number in self._retried:
            before, after = settled(old_plan.shards[number], old), settled(plan.shards[number], new)
            if before and after and self._statuses(before) == self._statuses(after):
                self._used[self._ids[number]] = self._before.get(self._ids[number], 0)
        final = Plan.make(plan.stage, self.shards(), plan.inputs)
        final.freeze(self._folder)
        return final, all_settled(final, old | new)

    def record(self) -> dict[str, Any]:
        """What is kept with the table, under `tries` in its meta."""
        ids = set(self._ids)
        numbers = {"last": self._last, "used": self._used}
        return {
            name: {id_: number for id_, number in by_id.items() if number and id_ in ids}
            for name, by_id in numbers.items()
        }

    def _shards(self, used: dict[str, int]) -> list[Shard]:
        return [
            Shard(digest([id_, used[id_]]) if used.get(id_) else id_, *run)
            for id_, run in zip(self._ids, self._runs, strict=True)
        ]

    def _runs_with(
        self, failed: pa.ChunkedArray | None, image_ids: pa.ChunkedArray, before: Snapshot | None
    ) -> list[int]:
        """Numbers of the shards with such an image, of those that the table was made by."""
        if failed is None or not len(failed) or before is None:
            return []
        made_by = {file.file.rpartition("/")[2].partition("-")[0].partition(".")[0] for file in before.files}
        found = pc.is_in(image_ids, failed.combine_chunks()).to_numpy()
        return [
            number
            for number, shard in enumerate(self._shards(self._before))
            if shard.id in made_by and found[shard.start : shard.stop].any()
        ]

    def _statuses(self, receipts: list[Receipt]) -> list[str]:
        files = [file.file for receipt in receipts for file in receipt.files if file.table == self._table]
        tables = [read_file(self._folder, file, ["status"]) for file in files]
        return [status for table in tables for status in table["status"].to_pylist()]
