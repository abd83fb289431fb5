"""Images that failed are tried again; if that changes nothing, results are reused."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import JobError, choices
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.stage import StageOption
from camtrap_batch.store.shards import Plan, Receipt, Shard, all_settled, digest, find_receipts, settled
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import read_file, read_whole_files, shard_of
from camtrap_batch.vocabulary import Status

CRASHED = Status.CRASHED.value

ALWAYS = math.inf
"""A number of attempts that stands for no limit."""

FAILED = ("unreadable", CRASHED)
"""Statuses of images that could not be shown to a network."""

TRIES = {"unreadable": 3, CRASHED: 1}
"""How often these are tried again in vain, once per run: their whole shard is computed again."""


def retry_option(statuses: Sequence[str], which_are: str, *, in_reprocess: bool = False) -> StageOption:
    """The option `--retry` of a stage.

    Parameters
    ----------
    statuses : the statuses that it can name
    which_are : ends the help text: when such images are tried again without the option
    """
    return StageOption(
        "retry",
        f"try images with these statuses once more: {', '.join(statuses)} ({which_are})",
        default=frozenset(),
        parse=partial(_parse_statuses, possible=statuses),
        metavar="STATUS[,STATUS]",
        in_reprocess=in_reprocess,
    )


def _parse_statuses(given: str | Iterable[str], possible: Sequence[str]) -> frozenset[str]:
    """The statuses in `--retry STATUS[,STATUS]`. Raises JobError if one can't be tried again."""
    if isinstance(given, str):
        given = filter(None, given.replace(" ", "").split(","))
    statuses = frozenset(given)
    for status in sorted(statuses - set(possible)):
        raise JobError(f"--retry: {status!r} is not tried again; {choices(status, possible)}")
    return statuses


RETRY_FAILED = retry_option(FAILED, "the next runs do so anyway, a few times")
"""The option of stages that show images to a network."""


def read_failed(
    context: Context, before: Snapshot | None, statuses: Iterable[str], *, listed: bool = False
) -> pa.Table | None:
    """Images of a table that have one of these statuses: `image_id` and `status`; None if there are none.

    Parameters
    ----------
    listed : the table has a column `modified`, and only images count that the listing showed or that were
        asked for: changes of anything else, such as a folder with a picture's name, show in the listing
    """
    wanted = sorted(statuses)
    if before is None or not any(before.counts.get(status) for status in wanted):
        return None
    columns = ["image_id", "status", *(["modified"] if listed else [])]
    known, _ = read_whole_files(context.run.folder, before, columns)
    status = known["status"].cast(pa.string())
    is_one = pc.is_in(status, pa.array(wanted, pa.string()))
    if listed:
        asked = pa.array(sorted(context.options.get("retry", ())), pa.string())
        is_one = pc.and_(is_one, pc.or_(known["modified"].is_valid(), pc.is_in(status, asked)))
    return pa.table({"image_id": known["image_id"], "status": status}).filter(is_one)


class Retries:
    """How often shards were redone because of images that failed; kept with the table's snapshot.

    A shard that is tried again needs its own id, and so its own receipt: the shard's id with the number of
    the retry. The number of the last retry and that of the one whose rows are in the table differ if a retry
    changed nothing. An image that kills its worker is also tried again once workers have more memory than
    before.

    Parameters
    ----------
    table : name of the table, which has a column `status`
    before : its current snapshot
    failed : images in it that may be tried again, with their status (see `read_failed`)
    most : by status, how often it is tried in vain without being asked for (see `retry_option`)
    image_ids : image ids of the plan's rows
    ids, runs : ids and runs of its shards, as if nothing had ever been tried again
    """

    def __init__(
        self,
        context: Context,
        table: str,
        before: Snapshot | None,
        failed: pa.Table | None,
        most: Mapping[str, float],
        image_ids: pa.ChunkedArray,
        ids: Sequence[str],
        runs: Sequence[tuple[int, int]],
    ) -> None:
        self._folder, self._table, self._ids, self._runs = context.run.folder, table, ids, runs
        self._most, self._memory = most, context.cluster.memory
        self._asked = context.options.get("retry", frozenset())
        kept = before.meta.get("tries", {}) if before is not None else {}
        self._before: dict[str, int] = kept.get("used", {})
        self._last: dict[str, int] = dict(kept.get("last", {}))
        self._in_vain: dict[str, int] = dict(kept.get("in_vain", {}))
        self._had: dict[str, dict[str, int]] = dict(kept.get("memory", {}))
        self._used = dict(self._before)
        self._due: set[str] = set()
        self._given_up: Counter[str] = Counter()
        self._retried = self._runs_with(failed, image_ids, before)
        for number in self._retried:
            id_ = ids[number]
            self._last[id_] = self._used[id_] = self._last.get(id_, 0) + 1

    def shards(self) -> list[Shard]:
        """The shards of the plan; those to be tried again have a new id."""
        return self._shards(self._used)

    def keep_earlier(self, plan: Plan, done: list[Receipt]) -> tuple[Plan, list[Receipt]]:
        """The plan and its receipts, with the earlier receipts of shards whose statuses are the same again.

        So a table stays what it was if all retries were in vain, and nothing that was made from it is remade.
        """
        killing = {receipt.shard_id.partition(".")[0] for receipt in done if receipt.counts.get(CRASHED)}
        for number, (id_, shard) in enumerate(zip(self._ids, plan.shards, strict=True)):
            if shard.id in killing and (id_ not in self._had or number in self._retried):
                had = self._had.get(id_, {})
                self._had[id_] = {
                    **had,
                    **{kind: max(n, had.get(kind, 0)) for kind, n in self._memory.items()},
                }
        if not self._retried:
            return plan, done
        old_plan = Plan.make(plan.stage, self._shards(self._before), plan.inputs)
        old, new = find_receipts(self._folder, old_plan), {receipt.shard_id: receipt for receipt in done}
        for number in self._retried:
            id_ = self._ids[number]
            before, after = settled(old_plan.shards[number], old), settled(plan.shards[number], new)
            is_as_before = before and after and self._statuses(before) == self._statuses(after)
            if is_as_before:
                self._used[id_] = self._before.get(id_, 0)
            self._in_vain[id_] = self._in_vain.get(id_, 0) + 1 if is_as_before else 0
        final = Plan.make(plan.stage, self.shards(), plan.inputs)
        final.freeze(self._folder)
        return final, all_settled(final, old | new)

    def record(self) -> dict[str, Any]:
        """What is kept with the table, as `tries` in its meta."""
        ids = set(self._ids)
        numbers = {"last": self._last, "used": self._used, "in_vain": self._in_vain, "memory": self._had}
        return {
            name: {id_: number for id_, number in by_id.items() if number and id_ in ids}
            for name, by_id in numbers.items()
        }

    @property
    def statuses(self) -> frozenset[str]:
        """The statuses of the images that are tried again."""
        return frozenset(self._due)

    def notes(self) -> list[str]:
        """A line for people about what is no longer tried."""
        if not self._given_up:
            return []
        found = ", ".join(f"{status} {n:,}" for status, n in sorted(self._given_up.items()))
        return [
            f"no longer tried again, after failing repeatedly: {found}; "
            f"--retry {','.join(sorted(self._given_up))} tries "
            "them once more"
        ]

    def _shards(self, used: dict[str, int]) -> list[Shard]:
        return [
            Shard(digest([id_, used[id_]]) if used.get(id_) else id_, *run)
            for id_, run in zip(self._ids, self._runs, strict=True)
        ]

    def _runs_with(
        self, failed: pa.Table | None, image_ids: pa.ChunkedArray, before: Snapshot | None
    ) -> list[int]:
        """Numbers of the table's shards that have an image to try again."""
        if failed is None or not failed.num_rows or before is None:
            return []
        made_by = {shard_of(file.file).partition(".")[0] for file in before.files}
        row = pc.index_in(image_ids, failed["image_id"].combine_chunks())
        status = failed["status"].take(row.combine_chunks())
        is_failed = status.is_valid().to_numpy()
        found = []
        for number, shard in enumerate(self._shards(self._before)):
            if shard.id not in made_by or not is_failed[shard.start : shard.stop].any():
                continue
            statuses = status.slice(shard.start, shard.rows).drop_null().to_pylist()
            if due := {status for status in set(statuses) if self._is_due(self._ids[number], status)}:
                self._due |= due
                found.append(number)
            else:
                self._given_up.update(status for status in statuses if self._most.get(status))
        return found

    def _is_due(self, id_: str, status: str) -> bool:
        if status in self._asked or self._in_vain.get(id_, 0) < self._most.get(status, 0):
            return True
        had = self._had.get(id_, {})
        return status == CRASHED and any(n > had.get(kind, n) for kind, n in self._memory.items())

    def _statuses(self, receipts: list[Receipt]) -> list[str]:
        files = [file.file for receipt in receipts for file in receipt.files if file.table == self._table]
        tables = [read_file(self._folder, file, ["status"]) for file in files]
        return [status for table in tables for status in table["status"].to_pylist()]
