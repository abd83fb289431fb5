"""Options that several commands have, and the context that they make."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from camtrap_batch.cluster import load_cluster
from camtrap_batch.engine.opened import ExecutorHandle
from camtrap_batch.job import Job
from camtrap_batch.monitor.display import make_display
from camtrap_batch.stages import Context, check_retry
from camtrap_batch.store.run import Run


class Parser(argparse.ArgumentParser):
    """A parser that may add options once it sees what it is given.

    Attributes
    ----------
    late : called once with the parser and its arguments, before they are parsed
    """

    late: Callable[[Parser, Sequence[str]], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.late is not None:
            late, self.late = self.late, None
            late(self, sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
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


def load_job(options: argparse.Namespace) -> Job:
    """The job of the command line; what is to be told of it goes to standard error."""
    job = Job.load(options.job, options.assignments)
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
    parser.add_argument("--quiet", action="store_true", help="print the result alone")
    parser.add_argument("--log-json", action="store_true", help="progress as JSON lines on standard error")


def job_options(parser: argparse.ArgumentParser) -> None:
    job_argument(parser)
    cluster_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, write nothing")
    output_options(parser)


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
