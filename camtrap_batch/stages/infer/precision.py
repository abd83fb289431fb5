"""Before images are classified: the fast ways of computing the model, held against float32 on some of them.

One task on a worker, for each model and run folder; what it found is kept in its receipt, and in the
snapshots made with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from camtrap_batch import phases
from camtrap_batch.engine.base import Need, WorkerContext
from camtrap_batch.errors import Interrupted
from camtrap_batch.images import ImageRoot
from camtrap_batch.model.info import OBSERVED
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.rows import pack, unpack
from camtrap_batch.pipeline.shards import fan_out
from camtrap_batch.pipeline.stage import Part, shard_id
from camtrap_batch.stages.infer.shard import InferShard
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Plan, Receipt, Shard, find_receipts
from camtrap_batch.store.tables import finish_shard

if TYPE_CHECKING:
    from camtrap_batch.detection.crops import Picture

PRECISION = Part("precision", 3)
_MOST, _FEWEST, _SHARE = 232, 32, 20
"""Images that are looked at: one of `_SHARE`, so that the check takes a small part of the whole time."""


def known_precision(run: Run, work: InferShard) -> dict[str, Any] | None:
    """What `check_precision` found for this model; None where it was not asked yet."""
    shard = _shard(work, 1)
    current = run.current("predictions")
    if current is not None and (kept := current.meta.get("precision", {})).get("check") == shard.id:
        return dict(kept)
    receipts = find_receipts(run.folder, Plan.make(PRECISION.name, [shard], {}))
    return receipts[shard.id].result if shard.id in receipts else None


def check_precision(context: Context, work: InferShard, rows: pa.Table, need: Need) -> dict[str, Any]:
    """The precision to compute in, and what was compared to find it, on a worker.

    Parameters
    ----------
    rows : that will be classified, as `work` wants them

    Raises
    ------
    Interrupted
        `context.stop` was set.
    """
    some = sample(rows)
    shard = _shard(work, some.num_rows)
    plan = Plan.make(PRECISION.name, [shard], {"model": work.model_id})
    # Meanwhile every worker loads what its first shard would wait for; where it can't, that says why.
    with context.executor().on_each(need, _load, work) as loaded:
        check = CheckPrecision(replace(work, plan=(plan.stage, plan.id)))
        outcome = fan_out(context, plan, [shard], check, lambda _: pack(some), need=need)
    if outcome.interrupted or (not outcome.receipts and not outcome.failed):
        raise Interrupted("infer: interrupted before it began; the same command goes on")
    if outcome.failed:
        # Several copies of the model may be more than a worker's memory holds; one may not.
        (reason,) = outcome.failed.values()
        context.display.note(f"infer: in float32, as no faster precision could be tried: {reason}")
        found: dict[str, Any] = {
            "precision": "float32",
            "why_not": {"all others": reason},
            "check": shard.id,
        }
    else:
        found = outcome.receipts[shard.id].result
    context.run.log("precision chosen", stage="infer", **found, loaded_s=loaded)
    return found


def _load(work: InferShard) -> float:
    """Load torch, the decoder and the model; returns the seconds that it took."""
    began = time.monotonic()
    from camtrap_batch.model.predictor import preload

    preload(work.local_model())
    return round(time.monotonic() - began, 2)


def sample(rows: pa.Table) -> pa.Table:
    """Rows from everywhere in the data set."""
    n = min(rows.num_rows, _MOST, max(_FEWEST, rows.num_rows // _SHARE))
    return rows.take(pa.array(np.linspace(0, rows.num_rows - 1, n).round().astype(np.int64)))


@dataclass(frozen=True)
class CheckPrecision:
    """Classifies a sample in every way that the worker knows."""

    work: InferShard
    divisible: ClassVar[bool] = False

    @property
    def folder(self) -> Any:
        return self.work.folder

    @property
    def plan(self) -> tuple[str, str]:
        return self.work.plan

    @property
    def image_root(self) -> ImageRoot | None:
        return self.work.image_root

    def run(self, shard: Shard, payload: bytes, here: WorkerContext) -> Receipt:
        started = time.monotonic()  # torch is loaded next, as by the first shard of any worker
        from camtrap_batch.model.agreement import choose
        from camtrap_batch.model.precision import pack_observed

        work = self.work
        move = phases.progress()

        gone: list[str] = []

        def pictures() -> Iterator[Picture]:
            for _, picture, _ in work.pictures(unpack(payload), gone):
                move()
                yield picture

        found, observed = choose(work.local_model(), work.device, work.batch, pictures())
        here.look_again(gone)
        if observed is not None:
            work.model.write(OBSERVED, pack_observed(observed))
        return finish_shard(
            work.folder,
            work.plan,
            shard,
            {},
            counts={},
            seconds={},
            started=started,
            worker=here.name,
            result={**found, "check": shard.id},
        )

    def crashed(self, shard: Shard, payload: bytes) -> Receipt:
        raise NotImplementedError("a check has no single image to blame")


def _shard(work: InferShard, rows: int) -> Shard:
    what = (work.model_id, work.use_thumbnails, work.rules is not None)
    return Shard(shard_id(PRECISION, *what, table="predictions"), 0, rows)
