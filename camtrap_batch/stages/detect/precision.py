"""Before the pictures are looked at: bfloat16 held against float32 on some of them.

One task on a worker, for each detector and run folder; what it found is kept in its receipt, and in the
snapshots made with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from camtrap_batch.detection.agreement import compare
from camtrap_batch.detection.base import Found, Tally
from camtrap_batch.engine.base import Need, WorkerContext
from camtrap_batch.errors import Interrupted
from camtrap_batch.images import ImageRoot
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.rows import pack, unpack
from camtrap_batch.pipeline.shards import fan_out
from camtrap_batch.pipeline.stage import Part, shard_id
from camtrap_batch.runtime import choose_runtime
from camtrap_batch.stages.detect.shard import DetectShard
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Plan, Receipt, Shard, find_receipts
from camtrap_batch.store.tables import finish_shard

PRECISION = Part("detect-precision", 1)
_MOST, _SHARE = 64, 20
"""Images that are looked at: one of `_SHARE`, so that the check takes a small part of the whole time."""


def known_precision(run: Run, work: DetectShard) -> dict[str, Any] | None:
    """What `check_precision` found for this detector; None where it was not asked yet."""
    shard = _shard(work, 1)
    current = run.current("detected")
    if current is not None and (kept := current.meta.get("precision", {})).get("check") == shard.id:
        return dict(kept)
    receipts = find_receipts(run.folder, Plan.make(PRECISION.name, [shard], {}))
    return receipts[shard.id].result if shard.id in receipts else None


def check_precision(context: Context, work: DetectShard, rows: pa.Table, need: Need) -> dict[str, Any]:
    """The precision to compute in, and what was compared to find it, on a worker.

    Raises
    ------
    Interrupted
        `context.stop` was set.
    """
    n = min(_MOST, max(1, rows.num_rows // _SHARE))
    some = rows.take(pa.array(np.linspace(0, rows.num_rows - 1, n).round().astype(np.int64)))
    shard = _shard(work, n)
    plan = Plan.make(PRECISION.name, [shard], {"detector": work.detector.detector_id})
    check = CheckPrecision(replace(work, plan=(plan.stage, plan.id)))
    outcome = fan_out(context, plan, [shard], check, lambda _: pack(some), need=need)
    if outcome.interrupted or (not outcome.receipts and not outcome.failed):
        raise Interrupted("detect: interrupted before it began; the same command goes on")
    if outcome.failed:
        (reason,) = outcome.failed.values()
        context.display.note(f"detect: in float32, as nothing faster could be tried: {reason}")
        found: dict[str, Any] = {"precision": "float32", "why_not": reason, "check": shard.id}
    else:
        found = outcome.receipts[shard.id].result
    context.run.log("precision chosen", stage="detect", **found)
    return found


@dataclass(frozen=True)
class CheckPrecision:
    """Looks at a sample in float32, and in the fastest precision that the worker knows."""

    work: DetectShard
    divisible: ClassVar[bool] = False

    @property
    def folder(self) -> Folder:
        return self.work.folder

    @property
    def plan(self) -> tuple[str, str]:
        return self.work.plan

    @property
    def image_root(self) -> ImageRoot | None:
        return self.work.image_root

    def run(self, shard: Shard, payload: bytes, here: WorkerContext) -> Receipt:
        started = time.monotonic()
        work = self.work
        rows = unpack(payload)
        pictures = list(work.pictures(rows, []))
        fastest = choose_runtime(work.device)[1].precisions(work.device)[0]
        result: dict[str, Any] = {"precision": "float32", "images": len(pictures)}
        if fastest != "float32" and pictures:
            found: dict[str, list[Found]] = {}
            speeds: dict[str, float] = {}
            for precision in ("float32", fastest):
                tally = Tally()
                answers = work.finder(here.threads, precision).find(iter(pictures), tally)
                found[precision] = [one for one in answers if isinstance(one, Found)]
                speeds[precision] = round(len(pictures) / max(tally.forward_s + tally.read_s, 1e-6), 2)
            agreement = compare(found["float32"], found[fastest])
            result |= {
                "tried": fastest,
                "boxes": agreement.boxes,
                "lost": round(agreement.lost, 4),
                "apart": round(agreement.apart, 5),
                "images_per_s": speeds,
            }
            if agreement.holds:
                result["precision"] = fastest
        return finish_shard(
            work.folder,
            work.plan,
            shard,
            {},
            counts={},
            seconds={},
            started=started,
            worker=here.name,
            result={**result, "check": shard.id},
        )

    def crashed(self, shard: Shard, payload: bytes) -> Receipt:
        raise NotImplementedError("a check has no single image to blame")


def _shard(work: DetectShard, rows: int) -> Shard:
    what = (work.detector.detector_id, work.use_thumbnails)
    return Shard(shard_id(PRECISION, *what, table="detected"), 0, rows)
