"""What the run folder alone says about a job: done, running, failed, how fast, how much longer.

It reads plans, receipts, snapshots and the log. No cluster is asked, so it works the same while a job runs,
afterwards, and from another machine. In a bucket, where each receipt is a request but the log only a few,
shards are taken from the log, and the names of receipts that it does not mention yet are listed.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from camtrap_batch.errors import Damaged, InputError
from camtrap_batch.job.publish import KEY
from camtrap_batch.monitor.progress import Cameras, StageStatus, State, count_plan
from camtrap_batch.notices import say
from camtrap_batch.store.lease import Holder
from camtrap_batch.store.log import read_log
from camtrap_batch.store.records import Unreadable
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import File, Plan, Receipt, find_receipts
from camtrap_batch.store.tables import open_files
from camtrap_batch.vocabulary import USABLE

_RECENT_S = 120.0
"""Period over which the present rate is measured, and minimum silence after which nothing is running."""

_ENDED: dict[str, State] = {"interrupted": "unfinished", "stage failed": "failed"}


class Named(Protocol):
    @property
    def name(self) -> str: ...


class Watched(Protocol):
    """Something that has plans: a stage, or a part of one (see `pipeline.stage.Planned`)."""

    @property
    def name(self) -> str: ...

    @property
    def tables(self) -> Sequence[Named]:
        """Tables; the first one is committed when a plan is done; a plan without tables is done when all its
        shards are."""

    @property
    def rows_of(self) -> str | None: ...

    @property
    def is_part(self) -> bool: ...


def read_status(run: Run, plans: Iterable[Watched], driver: Holder | None = None) -> list[StageStatus]:
    """The status of each of these, in order; parts of stages are left out as long as they have no plan.

    Parameters
    ----------
    driver : who holds the lease of the run folder (see `store.lease.look`); None: an earlier version ran it,
        which counts as running as long as there are recent signs of it
    """
    log = _read_log(run)
    found = ((watched, _stage_status(run, watched, log, driver)) for watched in plans)
    return [status for watched, status in found if status.state != "waiting" or not watched.is_part]


def last_pushes(run: Run) -> list[str]:
    """Of a job with a public target beside its own: when each was last edited, one line each."""
    jobs = run.job.by_target
    if len(jobs) == 1:
        return []
    last = {event.get("key", KEY): event for event in _read_log(run) if event["event"] == "pushed"}
    lines = []
    for job in jobs:
        if (event := last.get(job.publish.key)) is None or event["target"] != job.target_url:
            lines.append(f"{job.publish.key}: {job.target_url}: not pushed to yet")
        else:
            when = event["time"][:16].replace("T", " ")
            source = f", from snapshot {event['locations']}" if "locations" in event else ""
            lines.append(f"{job.publish.key}: {job.target_url}: last edited {when}{source}")
    return lines


def _stage_status(
    run: Run, watched: Watched, log: list[dict[str, Any]], driver: Holder | None
) -> StageStatus:
    name = watched.name
    events = [event for event in log if event.get("stage") == name]
    plan = _last_plan(run, name, events)
    if plan is None:
        return StageStatus(name)
    status = StageStatus(name, rows=plan.rows, shards=len(plan.shards))
    if run.folder.is_local:
        receipts = find_receipts(run.folder, plan)
        count_plan(status, plan, receipts, _cameras(run, plan, watched.rows_of))
    else:
        receipts = find_receipts(run.folder, plan, _receipts_in(events))
        is_counted = _count_cameras(status, plan, events)
        count_plan(status, plan, receipts, None if is_counted else _cameras(run, plan, watched.rows_of))
    begins = [number for number, event in enumerate(events) if event["event"] == "stage begins"]
    for event in events[begins[-1] if begins else 0 :]:
        _take_in(status, event)
    status.rows_per_s, status.rows_per_s_mean = _rates(receipts.values())
    status.state = _state(run, plan, watched, events, receipts, driver)
    if status.state == "done":
        status.cameras_done = status.cameras
    if status.state == "running" and status.rows_per_s:
        status.seconds_left = round((status.rows - status.rows_done) / status.rows_per_s, 1)
    if status.state != "failed":
        status.failed = {}
    return status


def _last_plan(run: Run, stage: str, events: Sequence[dict[str, Any]]) -> Plan | None:
    """The existing plan that the log names last, otherwise the newest."""
    names = {name.removesuffix(".json") for name in run.folder.list(f"plans/{stage}")}
    last = next((event["plan"] for event in reversed(events) if event.get("plan") in names), None)
    wanted = [last] if last is not None else sorted(names)
    plans = []
    for path, data in run.folder.read_many(f"plans/{stage}/{name}.json" for name in wanted):
        try:
            plans.append(Plan.from_json(data))
        except Unreadable as problem:
            say(f"{run.folder.url}/{path}: {problem}; ignored")
    return max(plans, key=lambda plan: plan.created, default=None)


def _state(
    run: Run,
    plan: Plan,
    watched: Watched,
    events: Sequence[dict[str, Any]],
    found: Mapping[str, Receipt],
    driver: Holder | None,
) -> State:
    snapshot = run.current(watched.tables[0].name) if watched.tables else None
    if snapshot is not None and snapshot.plan_id == plan.id:
        return "done"
    if not watched.tables and all(shard.id in found for shard in plan.shards):
        return "done"
    if events and events[-1]["event"] in _ENDED:
        return _ENDED[events[-1]["event"]]
    receipts = list(found.values())
    signs = [receipt.finished for receipt in receipts] + [event["time"] for event in events[-1:]]
    slowest = max((receipt.seconds.get("total", 0.0) for receipt in receipts), default=0.0)
    if not signs:
        return "unfinished"
    if driver is not None:
        # What an earlier driver left unfinished is not what this one is working on.
        is_its_own = bool(events) and _time(events[-1]["time"]) >= _time(driver.since)
        return "running" if is_its_own and driver.state() == "held" else "unfinished"
    silent = (dt.datetime.now(dt.UTC) - max(map(_time, signs))).total_seconds()
    return "running" if silent < max(_RECENT_S, 3 * slowest) else "unfinished"


def _receipts_in(events: Iterable[dict[str, Any]]) -> dict[str, Receipt]:
    """What the log says about finished shards, as receipts with one file for all their bytes."""
    return {
        event["shard"]: Receipt(
            stage=event["stage"],
            plan_id="",
            shard_id=event["shard"],
            rows=event["rows"],
            files=(File("", "", event["rows"], event["bytes"]),),
            counts=event["counts"],
            seconds=event["seconds"],
            versions={},
            worker="",
            attempt="",
            finished=event["time"],
        )
        for event in events
        if event["event"] == "shard done" and "bytes" in event  # an earlier version logs less
    }


def _count_cameras(status: StageStatus, plan: Plan, events: Iterable[dict[str, Any]]) -> bool:
    """Take the number of cameras from the log; False if it does not have it."""
    is_counted = False
    for event in events:
        if event["event"] == "stage begins":
            is_counted = event.get("rows") == plan.rows and "cameras" in event
            status.cameras = event["cameras"] if is_counted else 0
        if is_counted:
            status.cameras_done = event.get("cameras_done", status.cameras_done)
    return is_counted


def _take_in(status: StageStatus, event: dict[str, Any]) -> None:
    match event["event"]:
        case "shard lost":
            status.lost += 1
        case "stage failed":
            for shard, reason in event["failed"].items():
                status.fail(shard, reason)
        case "training" | "epoch":
            status.trained(event)


def _cameras(run: Run, plan: Plan, made_of: str | None) -> Cameras | None:
    """The cameras of a plan's rows, as long as the table it was made from exists."""
    number = plan.inputs.get(made_of) if made_of else None
    if made_of is None or not isinstance(number, int):
        return None
    try:
        snapshot = run.snapshot(made_of, number)
        table = open_files(run.folder, made_of, snapshot.files)
        if made_of == "catalog":
            return Cameras(table.to_table(columns=["location"])["location"])
        rows = table.to_table(columns=["location", "status"])
    except InputError:  # `camtrap gc` has deleted it
        return None
    except Damaged as problem:
        say(f"{problem}; cameras are not counted")
        return None
    return Cameras(
        rows.filter(pa.compute.is_in(rows["status"].cast(pa.string()), pa.array(USABLE)))["location"]
    )


def _rates(receipts: Iterable[Receipt]) -> tuple[float, float]:
    """Rows per second: over the last stretch of work, and over all time in which any shard was worked on."""
    ended = sorted(
        (
            (_time(receipt.finished).timestamp(), receipt.seconds["total"], receipt.rows)
            for receipt in receipts
            if receipt.seconds
        ),
    )
    if not ended:
        return 0.0, 0.0
    last = ended[-1][0]
    return (
        _rate([entry for entry in ended if last - entry[0] <= _RECENT_S]),
        _rate(ended),
    )


def _rate(ended: Sequence[tuple[float, float, int]]) -> float:
    """Rows per second for shards (end, seconds, rows) sorted by their end."""
    busy, covered = 0.0, float("inf")
    for end, seconds, _ in reversed(ended):  # backwards, only what no later shard has covered
        begin = end - seconds
        busy += max(0.0, min(end, covered) - min(begin, covered))
        covered = min(covered, begin)
    return round(sum(rows for *_, rows in ended) / busy, 2) if busy else 0.0


def _read_log(run: Run) -> list[dict[str, Any]]:
    events = []
    for line in read_log(run.folder).splitlines():
        if run.folder.is_local and b'"event": "shard done"' in line:  # its receipt says more
            continue
        try:
            events.append(json.loads(line))
        except ValueError:  # the last line, cut off when the driver was killed
            continue
    return events


def _time(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
