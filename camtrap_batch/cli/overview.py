"""camtrap status and gc: what is in a run folder."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Console
from rich.table import Table as Grid

from camtrap_batch.cli.options import job_argument, load_job, whole_number
from camtrap_batch.cli.parser import Parser
from camtrap_batch.monitor.display import duration
from camtrap_batch.monitor.progress import StageStatus
from camtrap_batch.monitor.status import last_pushes, read_status
from camtrap_batch.pipeline import STAGES, plans
from camtrap_batch.store.identity import check_identity, require_run_folder
from camtrap_batch.store.lease import Holder, look
from camtrap_batch.store.manifest import current_findings, kind_counts
from camtrap_batch.store.merged import list_merged
from camtrap_batch.store.run import Run
from camtrap_batch.vocabulary import plural

_MOST_RESULTS = 10


def add_status(parser: Parser) -> None:
    job_argument(parser)
    parser.add_argument("--json", action="store_true", help="everything as JSON, for programs")
    parser.set_defaults(call=_status)


def add_gc(parser: Parser) -> None:
    job_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be deleted")
    parser.add_argument(
        "--keep",
        type=whole_number,
        default=0,
        metavar="N",
        help="snapshots to keep of each table (default: all)",
    )
    parser.add_argument(
        "--min-age",
        type=float,
        default=1.0,
        metavar="HOURS",
        help="keep files younger than this that no snapshot ever referred to (default: 1)",
    )
    parser.set_defaults(call=_gc)


def _status(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.stages.report import STAGE as REPORT

    run = Run(load_job(options))
    check_identity(run.folder)
    run.folder = run.folder.listed("lease", "log", "plans", "receipts", "redo", "snapshots")
    driver = look(run.folder)
    status = read_status(run, plans(), driver)
    for one in status:
        if one.state == "waiting" and one.stage in STAGES and not STAGES[one.stage].applies(run.job):
            one.state = "not needed"
    status.append(StageStatus(REPORT.name, "done" if REPORT.is_made(run) else "waiting"))
    failed = any(stage.failed for stage in status)
    findings = None
    if run.current("manifest") is not None:
        found = current_findings(run)
        findings = None if found is None else kind_counts(found)
    if options.json:
        record = {
            "job": run.job.name,
            "folder": run.folder.url,
            "driver": None if driver is None else {**asdict(driver), "state": driver.state()},
            "findings": findings,
        }
        print(json.dumps({**record, "stages": [asdict(stage) for stage in status]}, ensure_ascii=False))
        return 1 if failed else 0
    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(f"run folder: {run.folder.url}")
    if driver is not None and (text := _driver(driver)):
        say(f"driver: {text}")
    console.print(_status_grid(status))
    for stage in status:
        for text in _details(stage):
            say(f"{stage.stage}: {text}")
    if run.current("manifest") is not None:
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in (findings or {}).items())
        text = "not made yet (validate makes them)" if findings is None else kinds or "none"
        say(f"findings: {text}")
    merged = list_merged(run)
    current = run.current("locations")
    for result in merged[:_MOST_RESULTS]:
        mark = "current " if current is not None and result.number == current.number else ""
        say(f"results of merge: {mark}{result.describe()}")
    if len(merged) > _MOST_RESULTS:
        say(f"results of merge: {len(merged) - _MOST_RESULTS} older ones")
    for text in last_pushes(run):
        say(text)
    return 1 if failed else 0


def _driver(driver: Holder) -> str:
    """What became of the driver; empty if it ended normally."""
    match driver.state():
        case "held":
            return driver.describe()
        case "gone":
            return f"{driver.describe()}: it was killed, or its machine went down; the same command goes on"
        case "silent":
            return f"{driver.describe()}: no sign of life for {duration(abs(driver.silence_s()))}"
        case _:
            return ""


def _status_grid(status: list[StageStatus]) -> Grid:
    names = ("stage", "state", "rows", "shards", "cameras", "rows/s", "mean", "left")
    grid = Grid(*names, box=None, header_style="bold")
    for stage in status:
        grid.add_row(
            stage.stage,
            stage.state,
            f"{stage.rows_done:,}/{stage.rows:,}" if stage.rows else "",
            f"{stage.shards_done:,}/{stage.shards:,}" if stage.shards else "",
            f"{stage.cameras_done:,}/{stage.cameras:,}" if stage.cameras else "",
            f"{stage.rows_per_s:,.0f}" if stage.rows_per_s else "",
            f"{stage.rows_per_s_mean:,.0f}" if stage.rows_per_s_mean else "",
            duration(stage.seconds_left) if stage.seconds_left is not None else "",
        )
    return grid


def _details(stage: StageStatus) -> Iterator[str]:
    """Lines about a stage that do not fit into the table."""
    if stage.counts:
        most = sorted(stage.counts.items(), key=lambda item: -item[1])
        yield ", ".join(f"{name} {number:,}" for name, number in most)
    if stage.lost or stage.halved:
        lost, halved = plural(stage.lost, "try", "tries"), plural(stage.halved, "shard")
        yield f"{lost} lost with {'its' if stage.lost == 1 else 'their'} worker, {halved} halved"
    phases = {name: seconds for name, seconds in stage.seconds.items() if name != "total"}
    if stage.shards > 1 and phases:
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in phases.items())
        yield f"{duration(stage.seconds.get('total', 0.0))} of worker time, including {parts}"
    if stage.training.get("phase") == "train":
        yield f"epoch {stage.training['epoch']} of {stage.training['epochs']}"
    if judged := [point for point in stage.losses if "valid_loss" in point]:
        last = judged[-1]
        accuracy = f", accuracy {last['accuracy']:.3f}" if "accuracy" in last else ""
        yield (
            f"after epoch {last['epoch']:.0f}: loss {last['train_loss']:.3f}, "
            f"valid loss {last['valid_loss']:.3f}{accuracy}"
        )
    for shard, reason in stage.failed.items():
        yield f"shard {shard} failed: {reason}"


def _gc(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.store.gc import collect

    run = Run(load_job(options))
    require_run_folder(run.folder)
    files, size = collect(
        run.folder, keep=options.keep, dry_run=options.dry_run, min_age_s=options.min_age * 3600
    )
    verb = "would be deleted" if options.dry_run else "deleted"
    print(f"{plural(files, 'file')} ({size / 1e6:,.1f} MB) {verb}")
    return 0
