"""Images that could not be read are tried again, and where that changes nothing, nothing is made anew."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import JobError, choices
from camtrap_batch.pipeline.stage import StageOption
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Plan, Receipt, Shard, all_settled, digest, find_receipts, settled
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import read_file, read_whole_files
from camtrap_batch.vocabulary import RETRIED


def parse_statuses(given: str | Iterable[str]) -> frozenset[str]:
    """The statuses in `--retry STATUS[,STATUS]`. Raises JobError where one can't be tried again."""
    if isinstance(given, str):
        given = filter(None, given.replace(" ", "").split(","))
    statuses = frozenset(given)
    for status in sorted(statuses - set(RETRIED)):
        raise JobError(f"--retry: {status!r} is not tried again; {choices(status, RETRIED)}")
    return statuses


RETRY = StageOption(
    "retry",
    f"open images with these statuses once more: {', '.join(RETRIED)} (unreadable: always done)",
    default=frozenset(),
    parse=parse_statuses,
    metavar="STATUS[,STATUS]",
    in_reprocess=True,
)


class Retries:
    """How often shards were done again because of images with some status; kept with the manifest.

    A shard that is tried again needs an id, and so a receipt, of its own: that of the shard, and the number
    of the try. The number of the last try, and of the one whose rows are in the manifest, differ where a try
    changed nothing.

    Parameters
    ----------
    manifest : the current one
    again : statuses of images to try again, beside the `unreadable` that are listed
    image_ids : of the catalog
    ids, runs : of the catalog's shards
    """

    def __init__(
        self,
        run: Run,
        manifest: Snapshot | None,
        again: Collection[str],
        image_ids: pa.ChunkedArray,
        ids: Sequence[str],
        runs: Sequence[tuple[int, int]],
    ) -> None:
        self._folder, self._ids, self._runs = run.folder, ids, runs
        kept = manifest.meta.get("tries", {}) if manifest is not None else {}
        self._before: dict[str, int] = kept.get("used", {})
        self._last: dict[str, int] = dict(kept.get("last", {}))
        self._used = dict(self._before)
        self._retried = self._runs_with(again, manifest, image_ids)
        for number in self._retried:
            id_ = ids[number]
            self._last[id_] = self._used[id_] = self._last.get(id_, 0) + 1

    def shards(self) -> list[Shard]:
        """The catalog's shards, those to be tried again with a new id."""
        return self._shards(self._used)

    def settle(self, plan: Plan, done: list[Receipt]) -> tuple[Plan, list[Receipt]]:
        """The plan and its receipts, with the earlier ones of those shards that have the same statuses again.

        So a manifest stays what it was where all tries were in vain, and nothing that was made of it is made
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
        """What is kept with the manifest."""
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
        self, again: Collection[str], manifest: Snapshot | None, image_ids: pa.ChunkedArray
    ) -> list[int]:
        if manifest is None or not any(manifest.counts.get(status) for status in {"unreadable", *again}):
            return []
        known, _ = read_whole_files(self._folder, manifest, ["image_id", "status", "modified"])
        status = known["status"].cast(pa.string())
        # What the listing does not show, such as a folder with a picture's name, is seen there if it changes.
        is_listed_fault = pc.and_(pc.equal(status, "unreadable"), known["modified"].is_valid())
        is_one = pc.or_(is_listed_fault, pc.is_in(status, pa.array(sorted(again), pa.string())))
        found = pc.is_in(image_ids, known["image_id"].filter(is_one).combine_chunks()).to_numpy()
        return [number for number, (start, stop) in enumerate(self._runs) if found[start:stop].any()]

    def _statuses(self, receipts: list[Receipt]) -> list[str]:
        files = [file.file for receipt in receipts for file in receipt.files if file.table == "manifest"]
        tables = [read_file(self._folder, file, ["status"]) for file in files]
        return [status for table in tables for status in table["status"].to_pylist()]
