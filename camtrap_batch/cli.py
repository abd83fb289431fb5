"""The `camtrap` command: parse, call a stage, print.

Exit codes: 0 all done; 1 something failed that must not (the last line says what); 2 the command, the job
file or the cluster file is wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table as Grid

from camtrap_batch import __version__
from camtrap_batch.cluster import ClusterHandle, load_cluster
from camtrap_batch.errors import CamtrapError, UserError, choices
from camtrap_batch.job import Job
from camtrap_batch.monitor.display import Display, JsonLines, duration, make_display
from camtrap_batch.monitor.status import read_status
from camtrap_batch.stages import RETRIED, STAGES, Context, StageResult, check_retry, reprocess, run_one
from camtrap_batch.stages.findings import current_findings, kind_counts
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import SCHEMAS
from camtrap_batch.yamlfile import reference

_INTERRUPTED = 130
_NO_LOG = logging.NullHandler()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    stop = threading.Event()
    # What libraries log ends in a status or in an error of ours; without a handler it would be printed.
    logging.getLogger().addHandler(_NO_LOG)
    try:
        with _orderly_stop(options, stop):
            code: int = options.call(options, stop)
            return code
    except CamtrapError as problem:
        _say(options, str(problem))
        return problem.exit_code
    except KeyboardInterrupt:
        _say(options, "stopped at once; finished shards are kept: the same command goes on")
        return _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as problem:  # of a disk or a file system that no stage can do without
        _say(options, f"{problem.filename}: {problem.strerror}" if problem.filename else str(problem))
        return 1


def _say(options: argparse.Namespace, text: str) -> None:
    """What the command has to say for itself, on one line of standard error."""
    text = " ".join(text.split("\n"))
    if getattr(options, "log_json", False):
        JsonLines(sys.stderr).event("error", text=text)
    else:
        print(f"camtrap: {text}", file=sys.stderr, flush=True)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="camtrap",
        description="From camera-trap images to species per camera on a feature layer, on a Dask cluster.",
        epilog="exit codes: 0 all done; 1 something failed, see the last lines; "
        "2 the command or a file is wrong; 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"camtrap-batch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo", help="a synthetic data set, the whole job, the report: needs nothing else"
    )
    demo.add_argument(
        "folder", nargs="?", default="demo", metavar="DIR", help="where it goes (default: demo)"
    )
    _cluster_option(demo)
    _output_options(demo)
    demo.set_defaults(call=_demo)

    for name, stage in STAGES.items():
        keys = [row for row in reference(Job) if row[0].partition(".")[0] in stage.keys]
        command = commands.add_parser(
            name,
            help=stage.help,
            description=f"{name}: {stage.help}.",
            epilog=_describe_keys(keys),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _job_options(command)
        if name == "validate":
            _retry_option(command)
        command.set_defaults(call=_stage, stage=name)

    whole = commands.add_parser(
        "reprocess",
        help="every stage in order; each does only what is not done yet",
        epilog=_describe_keys(reference(Job)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _job_options(whole)
    _retry_option(whole)
    whole.set_defaults(call=_reprocess)

    status = commands.add_parser("status", help="what is done, running, failed; speeds; time left")
    _job_argument(status)
    status.set_defaults(call=_status)

    table = commands.add_parser("table", help="one table as one .parquet or .csv file")
    _job_argument(table)
    table.add_argument("name", metavar="NAME", help=", ".join(SCHEMAS))
    table.add_argument("--out", required=True, metavar="FILE", help="ends in .parquet or .csv")
    table.add_argument("--snapshot", type=_whole, metavar="N", help="default: the current one")
    table.set_defaults(call=_table)

    gc = commands.add_parser("gc", help="delete what no snapshot refers to")
    _job_argument(gc)
    gc.add_argument("--dry-run", action="store_true", help="say what would be deleted")
    gc.add_argument(
        "--keep", type=_whole, default=0, metavar="N", help="snapshots to keep of each table (default: all)"
    )
    gc.set_defaults(call=_gc)
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number")
    return int(text)


def _job_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="job file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assignments",
        help="override a key of the job",
    )


def _cluster_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster",
        metavar="FILE|ADDRESS",
        help="cluster file, or a scheduler's address (default: this machine)",
    )


def _output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print the result alone")
    parser.add_argument("--log-json", action="store_true", help="progress as JSON lines on standard error")


def _job_options(parser: argparse.ArgumentParser) -> None:
    _job_argument(parser)
    _cluster_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, write nothing")
    _output_options(parser)


def _retry_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--retry",
        default="",
        metavar="STATUS[,STATUS]",
        help=f"open images with these statuses once more: {', '.join(RETRIED)} (unreadable: always done)",
    )


def _describe_keys(rows: list[tuple[str, str, str]]) -> str:
    width = max(len(f"{key}: {default}") for key, default, _ in rows)
    lines = [f"  {f'{key}: {default}':{min(width, 46)}}  {text}" for key, default, text in rows]
    return "\n".join(["keys of the job file, with their defaults:", *lines])


@contextmanager
def _orderly_stop(options: argparse.Namespace, stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) sets `stop`, the second one ends the command at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        _say(options, "finishing what is in flight; once more to stop at once")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _context(options: argparse.Namespace, stop: threading.Event, job: Job) -> Iterator[Context]:
    display = make_display(quiet=options.quiet, log_json=options.log_json)
    spec = load_cluster(options.cluster)
    with ClusterHandle(spec, lambda address: display.note(f"Dask dashboard: {address}")) as cluster:
        retry = check_retry(filter(None, getattr(options, "retry", "").replace(" ", "").split(",")))
        dry_run = getattr(options, "dry_run", False)
        yield Context(job, Run(job), cluster, display, stop, dry_run, retry)


def _stage(options: argparse.Namespace, stop: threading.Event) -> int:
    with _context(options, stop, Job.load(options.job, options.assignments)) as context:
        _print_result(run_one(context, options.stage), context.display)
    return 0


def _reprocess(options: argparse.Namespace, stop: threading.Event) -> int:
    job = Job.load(options.job, options.assignments)
    with _context(options, stop, job) as context:
        _run_all(context)
    return 0


def _run_all(context: Context) -> None:
    began = time.monotonic()
    for result in reprocess(context):
        _print_result(result, context.display)
    if not context.dry_run:
        context.display.note("")
        _print_summary(context.run)
        context.display.note(f"done in {duration(time.monotonic() - began)}")


def _demo(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.rehearsal.demo import write_demo_data, write_demo_job

    folder = Path(options.folder)
    with _context(options, stop, Job.load(write_demo_job(folder))) as context:
        if context.run.current("model") is None:
            # The dashboard is there to be watched from the first stage on.
            context.cluster.client()
        write_demo_data(folder, context.display, stop)
        _run_all(context)
    return 0


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
    failed = [stage for stage in status if stage.failed]
    for stage in failed:
        for shard, reason in stage.failed.items():
            console.print(f"{stage.stage}: shard {shard} failed: {reason}", highlight=False, soft_wrap=True)
    return 1 if failed else 0


def _table(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.store.outfile import WRITERS, write_out

    ending = Path(options.out).suffix
    if ending not in WRITERS:
        raise UserError(f"--out {options.out}: can't write {ending or 'this'}; {choices(ending, WRITERS)}")
    job = Job.load(options.job, options.assignments)
    if (used := job.input_at(options.out)) is not None:
        raise UserError(f"--out {options.out}: is, or is inside, {used}, which a job never changes")
    if Path(options.out).is_dir():
        raise UserError(f"--out {options.out}: is a folder; it should be a file")
    run = Run(job)
    rows = write_out(run.table(options.name, options.snapshot), Path(options.out))
    print(f"{rows:,} rows of {options.name} written to {options.out}")
    return 0


def _gc(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.store.gc import collect

    run = Run(Job.load(options.job, options.assignments))
    files, size = collect(run.folder, keep=options.keep, dry_run=options.dry_run)
    verb = "would be deleted" if options.dry_run else "deleted"
    print(f"{files:,} files ({size / 1e6:,.1f} MB) {verb}")
    return 0


def _print_result(result: StageResult, display: Display) -> None:
    what = [f"{result.stage:9} {result.rows:,} rows"]
    if result.shards > 1:
        what.append(f"{result.shards_run:,} of {result.shards:,} shards run now")
    what.append(duration(result.seconds) if result.shards_run else "nothing to do")
    statuses = sorted(result.counts.items(), key=lambda item: -item[1])
    if statuses:
        what.append(", ".join(f"{name} {number:,}" for name, number in statuses))
    display.note(" · ".join(what))
    for note in result.notes:
        display.note(f"          {note}")


def _print_summary(run: Run) -> None:
    from camtrap_batch.monitor.summary import summary

    console = Console()
    for part in summary(run):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))


if __name__ == "__main__":
    sys.exit(main())
