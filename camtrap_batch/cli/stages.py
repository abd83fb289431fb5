"""camtrap demo, reprocess, and a command for each stage."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from camtrap_batch.cli.options import (
    add_option,
    cluster_option,
    describe_keys,
    job_options,
    load_job,
    open_context,
    output_options,
)
from camtrap_batch.cli.parser import Parser
from camtrap_batch.errors import CamtrapError, MissingExtra, exit_code_of, explain
from camtrap_batch.job import Job
from camtrap_batch.monitor.display import Display, duration
from camtrap_batch.monitor.notify import notify
from camtrap_batch.notices import say_all
from camtrap_batch.pipeline import (
    STAGES,
    Context,
    StageOption,
    StageResult,
    parse_options,
    reprocess,
    reprocess_options,
    run_one,
)
from camtrap_batch.remote import redacted
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import now
from camtrap_batch.vocabulary import plural


def add_demo(parser: Parser) -> None:
    parser.add_argument(
        "folder", nargs="?", default="demo", metavar="DIR", help="where to put it (default: demo)"
    )
    cluster_option(parser)
    output_options(parser)
    parser.set_defaults(call=_demo)


def add_stage(parser: Parser) -> None:
    name = parser.get_default("command")
    stage = STAGES[name]
    parser.description = f"{name}: {stage.help}."
    parser.describe = partial(describe_keys, stage.sections)
    job_options(parser)
    for option in stage.options:
        add_option(parser, option, as_typed=True)
    parser.set_defaults(call=_stage)


def add_reprocess(parser: Parser) -> None:
    parser.describe = describe_keys
    job_options(parser)
    for option in reprocess_options():
        add_option(parser, option, as_typed=True)
    parser.set_defaults(call=_reprocess)


def _stage(options: argparse.Namespace, stop: threading.Event) -> int:
    given, job = _given(options, STAGES[options.command].options), load_job(options)
    with _end_told(options, job) as results, open_context(options, stop, job, given) as context:
        results.append(run_one(context, options.command))
        _print_result(results[-1], context.display, dry_run=context.dry_run)
    return 0


def _reprocess(options: argparse.Namespace, stop: threading.Event) -> int:
    given, job = _given(options, reprocess_options()), load_job(options)
    with _end_told(options, job) as results, open_context(options, stop, job, given) as context:
        _run_all(context, results)
    return 0


def _given(options: argparse.Namespace, known: Sequence[StageOption]) -> dict[str, Any]:
    typed = {option.name: getattr(options, option.name.replace("-", "_")) for option in known}
    return parse_options(typed, known)


def _run_all(context: Context, results: list[StageResult]) -> None:
    began = time.monotonic()
    told: set[str] = set()
    for result in reprocess(context):
        results.append(result)
        if not context.dry_run:
            # Several stages read the tables of cameras, and what there is to say about them.
            new = [note for note in result.notes if note not in told]
            told.update(new)
            result = replace(result, notes=new)
        _print_result(result, context.display, dry_run=context.dry_run)
    if not context.dry_run:
        context.display.note("")
        _print_summary(context.run)
        context.display.note(f"done in {duration(time.monotonic() - began)}")


@contextmanager
def _end_told(options: argparse.Namespace, job: Job) -> Iterator[list[StageResult]]:
    """Notify whatever `notify` names of how the block ended, with the results put into the list."""
    began, results = time.monotonic(), list[StageResult]()
    ended: BaseException | None = None
    try:
        yield results
    except BaseException as problem:
        ended = problem
        raise
    finally:
        if job.notify is not None and not options.dry_run:
            record = {
                "job": job.name,
                "command": options.command,
                "run_folder": redacted(job.run_url),
                "ended": now(),
                "exit_code": exit_code_of(ended) if ended is not None else 0,
                "problem": explain(ended) if ended is not None else None,
                "seconds": round(time.monotonic() - began, 1),
                "stages": [
                    {
                        "stage": result.stage,
                        "rows": result.rows,
                        "shards_run": result.shards_run,
                        "seconds": round(result.seconds, 1),
                        "counts": result.counts,
                    }
                    for result in results
                ],
            }
            say_all(list(notify(job.notify, record)))


def _demo(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.rehearsal.demo import write_demo_data, write_demo_job

    folder = Path(options.folder)
    with open_context(options, stop, Job.load(write_demo_job(folder))) as context:
        _check_extras(context)
        if context.run.current("model") is None:
            # The dashboard should be visible from the first stage on.
            context.executor()
        write_demo_data(folder, context.display, stop)
        _run_all(context, [])
    return 0


def _check_extras(context: Context) -> None:
    """Raise MissingExtra if something that the demo needs is not installed, before anything is drawn."""
    for stage in STAGES.values():
        try:
            if stage.applies(context.job):
                stage.check(context)
        except MissingExtra:
            raise MissingExtra("demo", "the demo") from None
        except CamtrapError:  # the photos are still to be drawn
            continue


def _print_result(result: StageResult, display: Display, *, dry_run: bool) -> None:
    if dry_run and not result.rows and not result.shards and result.stage in STAGES:
        what = [STAGES[result.stage].help]
    elif result.rows or result.snapshots:
        what = [plural(result.rows, "row")]
    else:  # such as the report
        what = []
    if result.shards > 1 and not dry_run:
        what.append(f"{result.shards_run:,} of {result.shards:,} shards run now")
    is_done = bool(result.snapshots) or not result.notes
    if not dry_run or is_done:
        what.append(duration(result.seconds) if result.shards_run else "nothing to do")
    statuses = sorted(result.counts.items(), key=lambda item: -item[1])
    if statuses:
        what.append(", ".join(f"{name} {number:,}" for name, number in statuses))
    display.note(f"{result.stage:9} {' · '.join(what)}".rstrip())
    for note in result.notes:
        display.note(f"          {note}")


def _print_summary(run: Run) -> None:
    from camtrap_batch.monitor.summary import summary

    console = Console()
    for part in summary(run):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
