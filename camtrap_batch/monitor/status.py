"""What the run folder alone tells about a job: done, running, failed, how fast, how long still."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from camtrap_batch.stages import STAGES
from camtrap_batch.store.log import LOG
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Plan, Receipt, Shard, find_receipts, settled

State = Literal["waiting", "running", "unfinished", "failed", "done"]

_RECENT_S = 120.0


@dataclass(frozen=True)
class StageStatus:
    """How far a stage is: of its last plan. `rows_per_s` over the last two minutes of its work."""

    stage: str
    state: State
    rows: int = 0
    rows_done: int = 0
    shards: int = 0
    shards_done: int = 0
    rows_per_s: float = 0.0
    seconds_left: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def read_status(run: Run) -> list[StageStatus]:
    """The status of each stage that keeps tables, in order."""
    log = _read_log(run)
    return [_stage_status(run, name, log) for name, stage in STAGES.items() if stage.tables]


def _stage_status(run: Run, name: str, log: list[dict[str, Any]]) -> StageStatus:
    plan = _newest_plan(run, name)
    if plan is None:
        return StageStatus(name, "waiting")
    receipts = find_receipts(run.folder, plan)
    done = [shard for shard in plan.shards if settled(shard, receipts) is not None]
    counts: dict[str, int] = {}
    for receipt in receipts.values():
        for status, rows in receipt.counts.items():
            counts[status] = counts.get(status, 0) + rows
    rows_done = sum(receipt.rows for receipt in receipts.values())
    snapshot = run.current(STAGES[name].tables[0])
    is_done = snapshot is not None and snapshot.plan_id == plan.id
    events = [event for event in log if event.get("stage") == name]
    failed = events[-1]["failed"] if events and events[-1]["event"] == "stage failed" else {}
    now = dt.datetime.now(dt.UTC)
    last_sign = max((_time(event["time"]) for event in events), default=None)
    is_alive = last_sign is not None and (now - last_sign).total_seconds() < _RECENT_S
    is_running = is_alive and events[-1]["event"] not in ("interrupted", "stage failed", "committed")
    state: State = "done" if is_done else "failed" if failed else "running" if is_running else "unfinished"
    rate = _rate(receipts)
    left = (plan.rows - rows_done) / rate if state == "running" and rate else None
    return StageStatus(
        name, state, plan.rows, rows_done, len(plan.shards), len(done), rate, left, counts, failed
    )


def _newest_plan(run: Run, stage: str) -> Plan | None:
    names = run.folder.list(f"plans/{stage}")
    records = [
        json.loads(data) for _, data in run.folder.read_many(f"plans/{stage}/{name}" for name in names)
    ]
    if not records:
        return None
    newest = max(records, key=lambda record: record["created"])
    shards = tuple(Shard(*entry) for entry in newest["shards"])
    return Plan(stage, newest["id"], newest["inputs"], shards)


def _rate(receipts: dict[str, Receipt]) -> float:
    """Rows a second over the last stretch of work."""
    finished = sorted(
        ((_time(receipt.finished), receipt) for receipt in receipts.values() if receipt.seconds),
        key=lambda entry: entry[0],
    )
    if not finished:
        return 0.0
    end = finished[-1][0]
    recent = [(time, receipt) for time, receipt in finished if (end - time).total_seconds() <= _RECENT_S]
    first_time, first = recent[0]
    seconds = (end - first_time).total_seconds() + first.seconds.get("total", 0.0)
    return sum(receipt.rows for _, receipt in recent) / seconds if seconds else 0.0


def _read_log(run: Run) -> list[dict[str, Any]]:
    if not run.folder.exists(LOG):
        return []
    events = []
    for line in run.folder.read(LOG).splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:  # the last line, cut off by a kill
            continue
    return events


def _time(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
