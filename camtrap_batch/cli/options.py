"""Options that several commands have, and the context that they make."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from camtrap_batch.cluster import load_cluster
from camtrap_batch.engine.opened import ExecutorHandle
from camtrap_batch.errors import UserError, choices
from camtrap_batch.job import Job
from camtrap_batch.monitor.display import make_display
from camtrap_batch.stages import Context, check_retry
from camtrap_batch.store.run import Run

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `add_subparsers` returns."""


def job_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="job file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assignments",
        help="override a key of the job",
    )


def cluster_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster",
        metavar="FILE|ADDRESS|inline",
        help="cluster file, a scheduler's address, or inline: all in this process (default: worker processes "
        "of this machine)",
    )


def output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print the result alone")
    parser.add_argument("--log-json", action="store_true", help="progress as JSON lines on standard error")


def job_options(parser: argparse.ArgumentParser) -> None:
    job_argument(parser)
    cluster_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, write nothing")
    output_options(parser)


def check_out(out: str, job: Job, endings: Iterable[str]) -> Path:
    """The file that `--out` names. Raises UserError where it can't be written, or should not be."""
    path = Path(out)
    if path.suffix not in endings:
        raise UserError(f"--out {out}: can't write {path.suffix or 'this'}; {choices(path.suffix, endings)}")
    if (used := job.input_at(out)) is not None:
        raise UserError(f"--out {out}: is, or is inside, {used}, which a job never changes")
    if path.is_dir():
        raise UserError(f"--out {out}: is a folder; it should be a file")
    if not path.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {path.parent}")
    return path


def whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number")
    return int(text)


def describe_keys(rows: list[tuple[str, str, str]]) -> str:
    width = max(len(f"{key}: {default}") for key, default, _ in rows)
    lines = [f"  {f'{key}: {default}':{min(width, 46)}}  {text}" for key, default, text in rows]
    return "\n".join(["keys of the job file, with their defaults:", *lines])


@contextmanager
def open_context(options: argparse.Namespace, stop: threading.Event, job: Job) -> Iterator[Context]:
    display = make_display(quiet=options.quiet, log_json=options.log_json)
    with ExecutorHandle(load_cluster(options.cluster)) as cluster:
        retry = check_retry(filter(None, getattr(options, "retry", "").replace(" ", "").split(",")))
        dry_run = getattr(options, "dry_run", False)
        snapshot = getattr(options, "snapshot", None)
        prune = getattr(options, "prune", False)
        yield Context(job, Run(job), cluster, display, stop, dry_run, retry, snapshot, prune)
