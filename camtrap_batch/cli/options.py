"""Options that several commands share, and the context made from them."""

from __future__ import annotations

import argparse
import getpass
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from camtrap_batch.cluster import load_cluster
from camtrap_batch.engine.opened import ExecutorHandle
from camtrap_batch.job import Job
from camtrap_batch.monitor.display import make_display
from camtrap_batch.options import Option
from camtrap_batch.pipeline import Context
from camtrap_batch.store.lease import hold
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import ask_again
from camtrap_batch.yamlfile import reference


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


def load_job(options: argparse.Namespace) -> Job:
    """The job on the command line; notes on it go to standard error."""
    job = Job.load(options.job, options.assignments)
    options.job_name = job.name
    if not getattr(options, "log_json", False):
        for line in job.notes:
            print(f"camtrap: {line}", file=sys.stderr)
    return job


def cluster_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster",
        metavar="FILE|ADDRESS|inline",
        help="cluster file, a scheduler's address, or inline: all in this process (default: worker processes "
        "of this machine)",
    )


def output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print only the result")
    parser.add_argument("--log-json", action="store_true", help="progress as JSON lines on standard error")


def job_options(parser: argparse.ArgumentParser) -> None:
    job_argument(parser)
    cluster_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, write nothing")
    parser.add_argument(
        "--redo",
        action="append",
        default=[],
        metavar="STAGE[:SHARD]",
        help="redo a stage, or one of its shards, although it is done",
    )
    output_options(parser)


def whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number")
    return int(text)


def add_option(group: Any, option: Option, *, as_typed: bool = False) -> None:
    """Give a parser, or a group of its arguments, an option of a variant or of a stage.

    Parameters
    ----------
    as_typed : the value is text, or None if it is not given, for `pipeline.parse_options`
    """
    flag, help_ = f"--{option.name}", option.help.replace("%", "%%")
    if option.metavar is None:
        group.add_argument(flag, action="store_true", default=None if as_typed else False, help=help_)
    elif as_typed:
        group.add_argument(flag, metavar=option.metavar, help=help_)
    else:
        if option.default is not None:
            help_ += f" (default: {option.default})"
        group.add_argument(
            flag, type=_argument(option.parse), default=option.default, metavar=option.metavar, help=help_
        )


def _argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def argument(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None

    return argument


def describe_keys(sections: Collection[str] = ()) -> str:
    """The keys of these sections of a job file, one line each; by default of all of it."""
    rows = [row for row in reference(Job) if not sections or row[0].partition(".")[0] in sections]
    width = max((len(f"{key}: {default}") for key, default, _ in rows), default=0)
    lines = [f"  {f'{key}: {default}':{min(width, 46)}}  {text}" for key, default, text in rows]
    return "\n".join(["keys of the job file, with their defaults:", *lines]) if lines else ""


@contextmanager
def open_context(
    options: argparse.Namespace, stop: threading.Event, job: Job, given: Mapping[str, Any] | None = None
) -> Iterator[Context]:
    """The context for a command's stages; `given` are the values of their own options."""
    display = make_display(quiet=options.quiet, log_json=options.log_json, job=job.name)
    if getattr(options, "redo", None) and not options.dry_run:
        _ask_again(options.redo, job)
    with ExecutorHandle(load_cluster(options.cluster)) as cluster:
        dry_run = getattr(options, "dry_run", False)
        job_file = str(getattr(options, "job", None) or "JOB")
        yield Context(job, Run(job), cluster, display, stop, dry_run, given or {}, Path(job_file).name)


def _ask_again(wanted: Sequence[str], job: Job) -> None:
    """Void the receipts of what is to be redone."""
    folder = Run(job).folder
    with hold(folder, job.name, "--redo"):
        for text in wanted:
            stage, _, shard = text.partition(":")
            ask_again(folder, stage, shard or None)


def user_name() -> str:
    """The name of whoever runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
