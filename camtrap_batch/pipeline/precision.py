"""Before the first shard: fast ways of computing a network, compared with float32 on some of the images.

This takes one task on a worker for each network and run folder. Its result is kept in its receipt, and in the
snapshots that were made with it, so that all workers compute in the same way, now and later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from camtrap_batch.engine.base import Need, Work, WorkerContext
from camtrap_batch.errors import Interrupted
from camtrap_batch.images import ImageRoot
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.rows import pack, unpack
from camtrap_batch.pipeline.shards import fan_out
from camtrap_batch.pipeline.stage import Part, shard_id
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Plan, Receipt, Shard, find_receipts
from camtrap_batch.store.tables import finish_shard

Found = dict[str, Any]
"""The result of a check: `precision`, and whatever else the stage wants to know."""


@dataclass(frozen=True)
class Question:
    """The subject of a check.

    Attributes
    ----------
    stage : the stage that asks
    part : name and version of the check
    table : the table whose rows will be computed
    depends : what the answer depends on, JSON values
    earlier : versions of the check whose answers still hold: results made with them stay
    is_whole : whether everything that an answer mentions still exists
    """

    stage: str
    part: Part
    table: str
    depends: tuple[Any, ...]
    earlier: tuple[int, ...] = ()
    is_whole: Callable[[Found], bool] = lambda found: True

    def of(self, *more: Any) -> Question:
        """The same, depending on more."""
        return replace(self, depends=(*self.depends, *more))

    def known(self, run: Run) -> Found | None:
        """The earlier result; None if it has not been asked for yet."""
        return self._look(run)[0]

    def ask(
        self, context: Context, check: PrecisionCheck, some: pa.Table, need: Need, inputs: dict[str, Any]
    ) -> Found:
        """Find out, on a worker.

        Parameters
        ----------
        some : rows to compare on
        inputs : inputs of the check's plan

                Raises
                ------
                Interrupted
                    `context.stop` was set.
        """
        shard = self._shard(some.num_rows, self.part, self._look(context.run)[1])
        plan = Plan.make(self.part.name, [shard], inputs)
        outcome = fan_out(
            context, plan, [shard], check.of((plan.stage, plan.id)), lambda _: pack(some), need=need
        )
        if outcome.interrupted or (not outcome.receipts and not outcome.failed):
            raise Interrupted(f"{self.stage}: interrupted before it began; the same command goes on")
        if not outcome.failed:
            return dict(outcome.receipts[shard.id].result)
        # A worker's memory may be too small for several copies of the network, but not for one.
        (reason,) = outcome.failed.values()
        context.display.note(f"{self.stage}: in float32, as nothing faster could be tried: {reason}")
        return {"precision": "float32", "why_not": {"all others": reason}, "check": shard.id}

    def _look(self, run: Run) -> tuple[Found | None, int]:
        """The earlier result, and how often a result was found whose files no longer exist."""
        lost = 0
        parts = [self.part, *(Part(self.part.name, version) for version in self.earlier)]
        current = run.current(self.table)
        kept = current.meta.get("precision", {}) if current is not None else {}
        for part in parts:
            for times in count():
                shard = self._shard(1, part, times)
                if kept.get("check") == shard.id:
                    found = dict(kept)
                else:
                    receipt = find_receipts(run.folder, Plan.make(part.name, [shard], {})).get(shard.id)
                    if receipt is None:
                        break
                    found = dict(receipt.result)
                if self.is_whole(found):
                    return found, times
            if part is self.part:
                lost = times
        return None, lost

    def _shard(self, rows: int, part: Part, times: int) -> Shard:
        again = (times,) if times else ()
        return Shard(shard_id(part, *self.depends, *again, table=self.table), 0, rows)


@dataclass(frozen=True)
class PrecisionCheck:
    """A `Work` that compares; `of` binds it to a plan."""

    work: Any  # the stage's own work
    divisible: ClassVar[bool] = False

    def of(self, plan: tuple[str, str]) -> Work:
        """This check, as the work of a plan."""
        raise NotImplementedError

    def compare(self, rows: pa.Table, here: WorkerContext) -> Found:
        """The result on these rows."""
        raise NotImplementedError

    @property
    def folder(self) -> Folder:
        return self.work.folder  # type: ignore[no-any-return]

    @property
    def plan(self) -> tuple[str, str]:
        return self.work.plan  # type: ignore[no-any-return]

    @property
    def image_root(self) -> ImageRoot | None:
        return self.work.image_root  # type: ignore[no-any-return]

    def run(self, shard: Shard, payload: bytes, here: WorkerContext) -> Receipt:
        started = time.monotonic()
        found = self.compare(unpack(payload), here)
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            {},
            started=started,
            worker=here.name,
            result={**found, "check": shard.id},
        )

    def crashed(self, shard: Shard, payload: bytes) -> Receipt:
        raise NotImplementedError("a check has no single image to blame")


def sample(rows: pa.Table, share: int, fewest: int, most: int) -> pa.Table:
    """One row in `share`, spread over all, but at least `fewest`, if there are that many, and at most
    `most`."""
    n = min(rows.num_rows, most, max(fewest, rows.num_rows // share))
    return rows.take(pa.array(np.linspace(0, rows.num_rows - 1, n).round().astype(np.int64)))
