"""The two ways to do a stage's shards: a single one on the driver, or many on workers.

Both do what has no receipt yet, and commit; if nothing is left to do, neither opens a cluster.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from camtrap_batch.engine import base as engine
from camtrap_batch.errors import Interrupted, ShardsFailed
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.stage import Made, Planned, StageResult
from camtrap_batch.store import snapshots
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import (
    File,
    Plan,
    Receipt,
    Shard,
    all_settled,
    find_receipts,
    settled,
    unsettled,
)
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import commit_plan, finish_shard, stands
from camtrap_batch.vocabulary import plural

_NAMED = 3  # number of failed shards named in the message


def do_on_driver(
    context: Context, of: Planned, id_: str, make: Callable[[], Made], *, inputs: dict[str, Any]
) -> StageResult:
    """Make tables here, unless they exist: one shard, written, with a receipt, and committed.

    Parameters
    ----------
    id_ : id of the shard (see `shard_id`)
    make : called only if the result does not exist yet
    inputs : snapshots that the tables are made from, table -> number
    """
    started = time.monotonic()
    run, names = context.run, [table.name for table in of.tables]
    before = run.current(names[0])
    asked = Plan.make(of.name, [Shard(id_, 0, before.rows if before else 0)], inputs)
    if before is not None and before.inputs.get("shard") == id_ and stands(run.folder, asked, names):
        return _up_to_date(run, of.name, before, names)
    if inputs and not context.dry_run:  # all but the catalog, which may find nothing to write
        context.begin_writing()
    made = make()
    if context.dry_run:
        rows = made.tables[names[0]].num_rows
        return StageResult(of.name, rows, 1, notes=[f"{plural(rows, 'row')} would be written", *made.notes])
    context.begin_writing()
    return commit_made(run, of, id_, made, inputs=inputs, started=started)


def commit_made(
    run: Run,
    of: Planned,
    id_: str,
    made: Made,
    *,
    inputs: dict[str, Any],
    started: float,
    prepend: tuple[File, ...] = (),
) -> StageResult:
    """Write what was made as the only shard of a plan, and commit it; parameters as for `do_on_driver`.

    Parameters
    ----------
    started : time.monotonic() when work on it began
    prepend : files of the table's last snapshot that stay, for a table that only grows
    """
    names = [table.name for table in of.tables]
    shard = Shard(id_, 0, made.tables[names[0]].num_rows)
    plan = Plan.make(of.name, [shard], inputs)
    plan.freeze(run.folder)
    receipt = find_receipts(run.folder, plan).get(id_) or finish_shard(
        run.folder, (plan.stage, plan.id), shard, made.tables, counts={}, seconds={}, started=started
    )
    committed = commit_plan(
        run.folder, plan, [receipt], names, inputs={**inputs, "shard": id_}, meta=made.meta, prepend=prepend
    )
    return _committed(run, plan, 1, {}, committed, started, made.notes)


@dataclass
class Done:
    """What to commit for a plan.

    Attributes
    ----------
    receipts : receipts that cover the plan, in row order
    meta : what is kept in the snapshots besides the rows
    notes : lines for people
    """

    plan: Plan
    receipts: list[Receipt]
    meta: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def do_on_workers(
    context: Context,
    plan: Plan,
    work: engine.Work,
    payload: Callable[[Shard], Any],
    tables: Sequence[str],
    *,
    need: engine.Need,
    finish: Callable[[Plan, list[Receipt]], Done] = Done,
    locations: pa.ChunkedArray | None = None,
    unit: str = "images",
) -> StageResult:
    """Do the shards of a plan on workers, and commit when all are done.

    Parameters
    ----------
    payload : what a shard's work needs to know, made when it begins
    tables : the tables that the shards write; the first has one row for each row of the plan
    finish : given the receipts, in row order, says what to commit, and with what meta; if it raises, nothing
        is committed
    locations : location of each row of the plan, to count the cameras that are done
    unit : what the rows are, for people

    Raises
    ------
    ShardsFailed
        A shard could not be done; nothing is committed, the others keep their receipts.
    Interrupted
        `context.stop` was set before all was done.
    """
    started = time.monotonic()
    run = context.run
    before = run.current(tables[0])
    if before is not None and before.plan_id == plan.id and stands(run.folder, plan, tables):
        return _up_to_date(run, plan.stage, before, tables)
    receipts = find_receipts(run.folder, plan)
    todo = unsettled(plan.shards, receipts)
    if context.dry_run:
        rows = sum(shard.rows for shard in todo)
        notes = [f"{len(todo):,} of {len(plan.shards):,} shards would run, {plural(rows, 'row')}"]
        return StageResult(plan.stage, plan.rows, len(plan.shards), notes=notes)
    context.begin_writing()
    plan.freeze(run.folder)
    outcome = engine.Outcome()
    with ExitStack() as record:
        if todo:
            _begin(context, plan, receipts, todo, locations, unit)
            executor = context.executor()
            work_is_done = record.enter_context(executor.report(run, plan, context.stop))
            outcome = _shown(context, plan, todo, work, payload, need)
            work_is_done()
        done = finish(plan, _all_done(run, plan, receipts | outcome.receipts, outcome))
        if before is not None and before.plan_id == done.plan.id and stands(run.folder, done.plan, tables):
            # Every retry was in vain.
            snapshots.amend(run.folder, before, done.meta)
            run.log("nothing changed", stage=plan.stage, plan=done.plan.id)
            result = _up_to_date(run, plan.stage, before, tables)
            return replace(
                result,
                shards_run=len(outcome.receipts),
                seconds=time.monotonic() - started,
                notes=list(done.notes),
            )
        committed = commit_plan(
            run.folder, done.plan, done.receipts, tables, inputs=done.plan.inputs, meta=done.meta
        )
    counts = committed[tables[0]].counts
    return _committed(run, done.plan, len(outcome.receipts), counts, committed, started, done.notes)


def ask_workers(
    context: Context,
    plan: Plan,
    work: engine.Work,
    payload: Callable[[Shard], Any],
    *,
    need: Callable[[], engine.Need],
    unit: str = "images",
) -> list[Receipt]:
    """Do the shards of a plan that writes no table; what they found is in their receipts, in row order.

    Parameters and errors are those of `do_on_workers`, but `need` is called only if there is something to do.
    """
    run = context.run
    receipts = find_receipts(run.folder, plan)
    outcome = engine.Outcome()
    if todo := unsettled(plan.shards, receipts):
        context.begin_writing()
        plan.freeze(run.folder)
        _begin(context, plan, receipts, todo, None, unit)
        outcome = _shown(context, plan, todo, work, payload, need())
    return _all_done(run, plan, receipts | outcome.receipts, outcome)


def _shown(
    context: Context,
    plan: Plan,
    todo: Sequence[Shard],
    work: engine.Work,
    payload: Callable[[Shard], Any],
    need: engine.Need,
) -> engine.Outcome:
    """Have workers do shards, before the eyes of whoever watches."""
    try:
        return fan_out(context, plan, todo, work, payload, need=need, shown=True)
    finally:
        context.display.end()
        context.run.flush_log()


def fan_out(
    context: Context,
    plan: Plan,
    todo: Iterable[Shard],
    work: engine.Work,
    payload: Callable[[Shard], Any],
    *,
    need: engine.Need,
    shown: bool = False,
) -> engine.Outcome:
    """Have workers do these shards, the largest first; `shown`: events are shown, logged and counted."""
    executor = context.executor()

    def observe(event: engine.Event) -> None:
        if shown:
            _observe(context, plan.stage, event)

    return executor.fan_out(
        plan,
        sorted(todo, key=lambda shard: -shard.rows),
        work,
        payload,
        need=need,
        observe=observe,
        stop=context.stop,
        stall_s=context.stall_s(executor),
    )


def _begin(
    context: Context,
    plan: Plan,
    receipts: Mapping[str, Receipt],
    todo: Sequence[Shard],
    locations: pa.ChunkedArray | None,
    unit: str,
) -> None:
    """Tell observers what is to be done, and how much of it was done before."""
    context.executor()  # this says where to look
    context.progress.planned(plan, receipts, locations)
    counts: Counter[str] = Counter()
    for receipt in receipts.values():
        counts.update(receipt.counts)
    cameras, cameras_done = context.progress.cameras(plan.stage)
    context.run.log(
        "stage begins",
        stage=plan.stage,
        plan=plan.id,
        rows=plan.rows,
        shards=len(plan.shards),
        todo=len(todo),
        cameras=cameras,
        cameras_done=cameras_done,
    )
    rows_left = sum(shard.rows for shard in todo)
    context.display.begin(plan.stage, plan.rows, plan.rows - rows_left, dict(counts), unit)


def _all_done(run: Run, plan: Plan, receipts: dict[str, Receipt], outcome: engine.Outcome) -> list[Receipt]:
    """The receipts that cover the plan, in row order; raises if a fan-out left part of it undone."""
    stage = plan.stage
    if outcome.interrupted:
        left = sum(settled(shard, receipts) is None for shard in plan.shards)
        run.log("interrupted", stage=stage, shards_left=left)
        raise Interrupted(
            f"{stage}: interrupted with {left:,} of {len(plan.shards):,} shards left; the same "
            "command goes on"
        )
    if outcome.failed:
        run.log("stage failed", stage=stage, failed=outcome.failed)
        named = "; ".join(f"{shard}: {reason}" for shard, reason in list(outcome.failed.items())[:_NAMED])
        more = f"; and {len(outcome.failed) - _NAMED} more" if len(outcome.failed) > _NAMED else ""
        raise ShardsFailed(
            f"{stage}: {len(outcome.failed):,} of {len(plan.shards):,} shards failed, the others are kept: "
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
                counts=receipt.counts,
                bytes=sum(file.bytes for file in receipt.files),
                cameras_done=progress.cameras(stage)[1],
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
            display.note(
                f"{stage}: shard {shard.id} ({plural(shard.rows, 'row')}) keeps losing its worker: halved"
            )
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


def _up_to_date(run: Run, stage: str, before: Snapshot, tables: Iterable[str]) -> StageResult:
    found = {name: run.current(name) for name in tables}
    numbers = {name: snapshot.number for name, snapshot in found.items() if snapshot is not None}
    return StageResult(stage, before.rows, len(before.files), counts=before.counts, snapshots=numbers)


def _committed(
    run: Run,
    plan: Plan,
    shards_run: int,
    counts: dict[str, int],
    committed: Mapping[str, Snapshot],
    started: float,
    notes: list[str],
) -> StageResult:
    numbers = {name: snapshot.number for name, snapshot in committed.items()}
    seconds = time.monotonic() - started
    run.log("committed", stage=plan.stage, plan=plan.id, snapshots=numbers, seconds=round(seconds, 2))
    return StageResult(
        plan.stage, plan.rows, len(plan.shards), shards_run, seconds, counts, numbers, list(notes)
    )
