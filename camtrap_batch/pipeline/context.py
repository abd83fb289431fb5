"""What every stage is given, what it gives back, and the two ways in which a stage's shards are done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from camtrap_batch.engine import base as engine
from camtrap_batch.errors import Interrupted, ShardsFailed
from camtrap_batch.job import Job
from camtrap_batch.monitor.display import Display, Silent
from camtrap_batch.monitor.progress import Progress
from camtrap_batch.store import schemas
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import (
    Plan,
    Receipt,
    Shard,
    all_settled,
    digest,
    find_receipts,
    settled,
    unsettled,
)
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import commit_plan, finish_shard, stands


@dataclass
class Context:
    """One command's view of a job.

    Attributes
    ----------
    cluster : where shards run; it is not opened by a stage that has nothing to do there
    stop : set by Ctrl-C: finish what is in flight, then leave
    dry_run : say what would be done, write nothing
    retry : statuses of images that `validate` tries again, beside `unreadable`, which it always does
    snapshot : number of the result of `merge` that `publish` pushes; None: the current one
    prune : `publish` deletes stale rows of this job from targets that otherwise keep them
    """

    job: Job
    run: Run
    cluster: engine.ExecutorSource
    display: Display = field(default_factory=Silent)
    stop: threading.Event = field(default_factory=threading.Event)
    dry_run: bool = False
    retry: frozenset[str] = frozenset()
    snapshot: int | None = None
    prune: bool = False

    def __post_init__(self) -> None:
        self.progress = Progress(self.job.name, self.run.folder.url)

    def executor(self) -> engine.Executor:
        """What does shards; the first call opens it, and shows where its progress can be watched."""
        executor = self.cluster.executor()
        for line in executor.publish(self.progress):
            self.display.note(line)
        return executor

    def stall_s(self, executor: engine.Executor) -> float:
        """Of the cluster file; at least what an image may take to be read and decoded, and as much again."""
        return max(executor.stall_s, 4 * self.job.validate_.timeout_s)


@dataclass
class StageResult:
    """What a stage came to.

    Attributes
    ----------
    rows, shards : of the whole plan
    shards_run : done by this call; the others had receipts
    counts : rows by status
    snapshots : table -> number of its snapshot now
    notes : for people, a line each
    """

    stage: str
    rows: int = 0
    shards: int = 0
    shards_run: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def shard_id(stage: str, version: int, table: str, *parts: Any) -> str:
    """Id of a shard: a hash of stage, code version, table schema, and what the work depends on."""
    return digest([stage, version, schemas.fingerprint(table) if table in schemas.SCHEMAS else table, *parts])


def do_on_driver(
    context: Context,
    stage: str,
    id_: str,
    make: Callable[[], Mapping[str, pa.Table]],
    tables: tuple[str, ...],
    *,
    inputs: dict[str, Any],
    meta: Callable[[], dict[str, Any]] = dict,
) -> StageResult:
    """A stage that is one shard, done here: `make` its tables, write, file the receipt, commit.

    Parameters
    ----------
    id_ : id of the shard (see `shard_id`)
    make : called only where the result is not there yet
    tables : names of what `make` returns; the first has a row for each row of the stage
    inputs, meta : as in `Snapshot`; `meta` is called after `make`
    """
    started = time.monotonic()
    run = context.run
    before = run.current(tables[0])
    asked = Plan.make(stage, [Shard(id_, 0, before.rows if before else 0)], inputs)
    if before is not None and before.inputs.get("shard") == id_ and stands(run.folder, asked, tables):
        return _up_to_date(stage, before, run, tables)
    made = make()
    rows = made[tables[0]].num_rows
    if context.dry_run:
        return StageResult(stage, rows, 1, notes=[f"{rows:,} rows would be written"])
    shard = Shard(id_, 0, rows)
    plan = Plan.make(stage, [shard], inputs)
    plan.freeze(run.folder)
    receipt = find_receipts(run.folder, plan).get(id_) or finish_shard(
        run.folder, (stage, plan.id), shard, made, counts={}, seconds={}, started=started
    )
    committed = commit_plan(run.folder, plan, [receipt], tables, inputs={**inputs, "shard": id_}, meta=meta())
    return _finished(context, stage, plan, 1, {}, committed, started)


def do_on_workers(
    context: Context,
    plan: Plan,
    work: engine.Work,
    payload: Callable[[Shard], Any],
    tables: tuple[str, ...],
    *,
    need: engine.Need,
    inputs: dict[str, Any],
    check: Callable[[list[Receipt]], None] | None = None,
    settle: Callable[[list[Receipt]], tuple[Plan, list[Receipt]]] | None = None,
    meta: Callable[[list[Receipt]], dict[str, Any]] | None = None,
    locations: pa.ChunkedArray | None = None,
) -> StageResult:
    """A stage whose shards run on the cluster: what has no receipt yet is done, then all is committed.

    Parameters
    ----------
    tables : that the shards write; the first has a row for each row of the plan
    check : looks at the receipts, in row order, before the commit; raises where something is wrong
    settle : what to commit, from the receipts in row order, if not all of them
    meta : what to keep in the snapshots, from the receipts in row order
    locations : of each row of the plan, to count the cameras that are done

    Raises
    ------
    ShardsFailed
        Some shard could not be done; nothing is committed, the others keep their receipts.
    Interrupted
        `context.stop` was set before all was done.
    """
    started = time.monotonic()
    run, stage = context.run, plan.stage
    before = run.current(tables[0])
    if before is not None and before.plan_id == plan.id and stands(run.folder, plan, tables):
        return _up_to_date(stage, before, run, tables)
    receipts = find_receipts(run.folder, plan)
    todo = unsettled(plan.shards, receipts)
    todo.sort(key=lambda shard: -shard.rows)
    done_rows = plan.rows - sum(shard.rows for shard in todo)
    if context.dry_run:
        notes = [f"{len(todo)} of {len(plan.shards)} shards would run, {plan.rows - done_rows:,} rows"]
        return StageResult(stage, plan.rows, len(plan.shards), notes=notes)
    plan.freeze(run.folder)
    outcome = engine.Outcome()
    with ExitStack() as reports:
        if todo:
            executor = context.executor()
            context.progress.planned(plan, receipts, locations)
            counts: dict[str, int] = {}
            for receipt in receipts.values():
                for status, rows in receipt.counts.items():
                    counts[status] = counts.get(status, 0) + rows
            run.log(
                "stage begins",
                stage=stage,
                plan=plan.id,
                rows=plan.rows,
                shards=len(plan.shards),
                todo=len(todo),
            )
            work_is_done = reports.enter_context(executor.report(run, plan, context.stop))
            context.display.begin(stage, plan.rows, done_rows, counts)
            try:
                outcome = executor.fan_out(
                    plan,
                    todo,
                    work,
                    payload,
                    need=need,
                    observe=lambda event: _observe(context, stage, event),
                    stop=context.stop,
                    stall_s=context.stall_s(executor),
                )
            finally:
                context.display.end()
                run.flush_log()
            work_is_done()
        done = _all_done(run, plan, receipts | outcome.receipts, outcome)
        if settle:
            plan, done = settle(done)
        if check:
            check(done)
        committed = commit_plan(
            run.folder, plan, done, tables, inputs=inputs, meta=meta(done) if meta else {}
        )
    counts = committed[tables[0]].counts
    return _finished(context, stage, plan, len(outcome.receipts), counts, committed, started)


def _all_done(run: Run, plan: Plan, receipts: dict[str, Receipt], outcome: engine.Outcome) -> list[Receipt]:
    """The receipts that cover the plan, in row order; raises where a fan-out left some of it undone."""
    stage = plan.stage
    if outcome.interrupted:
        left = sum(settled(shard, receipts) is None for shard in plan.shards)
        run.log("interrupted", stage=stage, shards_left=left)
        raise Interrupted(
            f"{stage}: interrupted with {left} of {len(plan.shards)} shards left; the same command goes on"
        )
    if outcome.failed:
        run.log("stage failed", stage=stage, failed=outcome.failed)
        named = "; ".join(f"{shard}: {reason}" for shard, reason in list(outcome.failed.items())[:3])
        more = f"; and {len(outcome.failed) - 3} more" if len(outcome.failed) > 3 else ""
        raise ShardsFailed(
            f"{stage}: {len(outcome.failed)} of {len(plan.shards)} shards failed, the others are kept: "
            f"{named}{more}"
        )
    return all_settled(plan, receipts)


def _observe(context: Context, stage: str, event: engine.Event) -> None:
    run, display, progress = context.run, context.display, context.progress
    match event:
        case engine.ShardDone(shard, receipt, attempts):
            display.advance(shard.rows, receipt.counts)
            progress.shard_done(shard, receipt)
            run.log(
                "shard done",
                stage=stage,
                shard=shard.id,
                rows=shard.rows,
                seconds=receipt.seconds,
                tries=attempts,
            )
        case engine.ShardLost(shard, worker, losses, stall):
            progress.shard_lost(stage)
            reason = {}
            if stall is not None:
                display.note(f"{stage}: shard {shard.id} on worker {worker}: {stall}: the worker is ended")
                reason = {"phase": stall.phase, "stalled_s": stall.seconds}
            run.log("shard lost", stage=stage, shard=shard.id, worker=worker, losses=losses, **reason)
        case engine.ShardHalved(shard, halves):
            progress.shard_halved(stage, shard)
            display.note(f"{stage}: shard {shard.id} ({shard.rows} rows) keeps losing its worker: halved")
            run.log("shard halved", stage=stage, shard=shard.id, halves=[half.id for half in halves])
        case engine.ShardErred(shard, error, final):
            progress.shard_erred(stage, shard, error, final=final)
            display.note(f"{stage}: shard {shard.id} {'failed' if final else 'will be tried again'}: {error}")
            run.log("shard failed" if final else "shard erred", stage=stage, shard=shard.id, error=error)
        case engine.WorkerTurnedAway(worker, reason):
            display.note(f"{stage}: turned away: {reason}")
            run.log("worker turned away", stage=stage, worker=worker, reason=reason)
        case engine.ImageCrashed(shard):
            display.note(f"{stage}: one image (shard {shard.id}) kills its worker: marked crashed")
            run.log("image crashed", stage=stage, shard=shard.id)


def _up_to_date(stage: str, before: Snapshot, run: Run, tables: tuple[str, ...]) -> StageResult:
    found = {name: run.current(name) for name in tables}
    numbers = {name: snapshot.number for name, snapshot in found.items() if snapshot is not None}
    return StageResult(stage, before.rows, len(before.files), counts=before.counts, snapshots=numbers)


def _finished(
    context: Context,
    stage: str,
    plan: Plan,
    shards_run: int,
    counts: dict[str, int],
    committed: dict[str, Snapshot],
    started: float,
) -> StageResult:
    numbers = {name: snapshot.number for name, snapshot in committed.items()}
    seconds = time.monotonic() - started
    context.run.log("committed", stage=stage, plan=plan.id, snapshots=numbers, seconds=round(seconds, 2))
    return StageResult(stage, plan.rows, len(plan.shards), shards_run, seconds, counts, numbers)
