"""camtrap status, table and gc: what is in a run folder."""

from __future__ import annotations

import argparse
import threading

from rich.console import Console
from rich.table import Table as Grid

from camtrap_batch.cli.options import Commands, check_out, job_argument, whole_number
from camtrap_batch.job import Job
from camtrap_batch.monitor.display import duration
from camtrap_batch.monitor.status import read_status
from camtrap_batch.stages.findings import current_findings, kind_counts
from camtrap_batch.store.merged import list_merged
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import SCHEMAS

_MOST_RESULTS = 10


def add(commands: Commands) -> None:
    """Add the commands."""
    status = commands.add_parser("status", help="what is done, running, failed; speeds; time left")
    job_argument(status)
    status.set_defaults(call=_status)

    table = commands.add_parser("table", help="one table as one .parquet or .csv file")
    job_argument(table)
    table.add_argument("name", metavar="NAME", help=", ".join(SCHEMAS))
    table.add_argument("--out", required=True, metavar="FILE", help="ends in .parquet or .csv")
    table.add_argument("--snapshot", type=whole_number, metavar="N", help="default: the current one")
    table.set_defaults(call=_table)

    gc = commands.add_parser("gc", help="delete what no snapshot refers to")
    job_argument(gc)
    gc.add_argument("--dry-run", action="store_true", help="say what would be deleted")
    gc.add_argument(
        "--keep",
        type=whole_number,
        default=0,
        metavar="N",
        help="snapshots to keep of each table (default: all)",
    )
    gc.set_defaults(call=_gc)


def _status(options: argparse.Namespace, stop: threading.Event) -> int:
    run = Run(Job.load(options.job, options.assignments))
    status = read_status(run)
    grid = Grid(
        "stage", "state", "rows", "shards", "rows/s", "left", "by status", box=None, header_style="bold"
    )
    for stage in status:
        grid.add_row(
            stage.stage,
            stage.state,
            f"{stage.rows_done:,}/{stage.rows:,}" if stage.rows else "",
            f"{stage.shards_done:,}/{stage.shards:,}" if stage.shards else "",
            f"{stage.rows_per_s:,.0f}" if stage.rows_per_s else "",
            duration(stage.seconds_left) if stage.seconds_left is not None else "",
            " ".join(f"{name} {number:,}" for name, number in stage.counts.items()),
        )
    console = Console()
    console.print(f"run folder: {run.folder.url}", highlight=False, soft_wrap=True)
    console.print(grid)
    if run.current("manifest") is not None:
        found = current_findings(run)
        counts = ", ".join(f"{kind} {n:,}" for kind, n in kind_counts(found).items())
        text = "not made yet; validate makes them" if found is None else counts or "none"
        console.print(f"findings: {text}", highlight=False, soft_wrap=True)
    merged = list_merged(run)
    current = run.current("locations")
    for result in merged[:_MOST_RESULTS]:
        mark = "current " if current is not None and result.number == current.number else ""
        console.print(f"results of merge: {mark}{result.describe()}", highlight=False, soft_wrap=True)
    if len(merged) > _MOST_RESULTS:
        console.print(f"results of merge: {len(merged) - _MOST_RESULTS} older ones", highlight=False)
    failed = [stage for stage in status if stage.failed]
    for stage in failed:
        for shard, reason in stage.failed.items():
            console.print(f"{stage.stage}: shard {shard} failed: {reason}", highlight=False, soft_wrap=True)
    return 1 if failed else 0


def _table(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.store.outfile import WRITERS, write_out

    job = Job.load(options.job, options.assignments)
    path = check_out(options.out, job, WRITERS)
    run = Run(job)
    rows = write_out(run.table(options.name, options.snapshot), path)
    print(f"{rows:,} rows of {options.name} written to {options.out}")
    return 0


def _gc(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.store.gc import collect

    run = Run(Job.load(options.job, options.assignments))
    files, size = collect(run.folder, keep=options.keep, dry_run=options.dry_run)
    verb = "would be deleted" if options.dry_run else "deleted"
    print(f"{files:,} files ({size / 1e6:,.1f} MB) {verb}")
    return 0
