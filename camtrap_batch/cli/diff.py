"""camtrap diff: what a new model, threshold or event rule changed."""

from __future__ import annotations

import argparse
import datetime as dt
import threading
from dataclasses import replace

from rich.console import Console

from camtrap_batch.cli.options import job_argument, load_job, whole_number
from camtrap_batch.cli.parser import Parser
from camtrap_batch.store.outpath import check_file, replacing
from camtrap_batch.store.outputs import Outputs
from camtrap_batch.store.run import Run

_ENDINGS = (".csv", ".html")


def add(parser: Parser) -> None:
    job_argument(parser)
    parser.add_argument(
        "--from",
        dest="before",
        type=whole_number,
        metavar="SNAPSHOT",
        help="number of a result of merge, as camtrap status lists them (default: the one before --to)",
    )
    parser.add_argument(
        "--to",
        dest="after",
        type=whole_number,
        metavar="SNAPSHOT",
        help="number of the result to compare with it (default: the current one)",
    )
    parser.add_argument("--out", metavar="FILE", help="all of it as one .csv or .html file")
    parser.set_defaults(call=_diff)


def _diff(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.diff import (
        compare,
        find_causes,
        read_side,
        read_sides,
        read_truth,
        render,
        tables,
        write_csv,
    )

    job = load_job(options)
    path = check_file(options.out, job, _ENDINGS) if options.out is not None else None
    run = Run(job)
    outputs = Outputs(run.folder)
    sides = read_sides(run, options.before, options.after)
    before, after = sides
    diff = compare(read_side(before), read_side(after), *read_truth(run, sides))
    diff = replace(diff, causes=find_causes(before, after))
    console = Console()
    for part in tables(diff):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    if path is not None:
        outputs.keep(path)
        with replacing(path) as staged:
            if path.suffix.lower() == ".csv":
                write_csv(diff, staged)
            else:
                from camtrap_batch.stages.report.photos import read_photos

                photos = read_photos(run, [example.image_id for example in diff.examples])
                staged.write_text(render(diff, job.name, dt.datetime.now(dt.UTC), photos), encoding="utf-8")
        outputs.record(path)
        print(f"written to {options.out}")
    return 0
