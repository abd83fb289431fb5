"""camtrap table: one table of a run as a file."""

from __future__ import annotations

import argparse
import threading

from camtrap_batch.cli.options import add_option, job_argument, load_job, whole_number
from camtrap_batch.cli.parser import Parser
from camtrap_batch.errors import InputError, choices
from camtrap_batch.exports.detection_history import COUNTED, counted_of
from camtrap_batch.store.merged import MergeResult
from camtrap_batch.store.outfile import WRITERS, write_out
from camtrap_batch.store.outpath import check_file
from camtrap_batch.store.outputs import Outputs
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import SCHEMAS
from camtrap_batch.survey.derived import DERIVED, derive, with_choice
from camtrap_batch.survey.estimates import ESTIMATES
from camtrap_batch.vocabulary import plural


def add(parser: Parser) -> None:
    job_argument(parser)
    parser.add_argument(
        "name",
        metavar="NAME",
        help=", ".join(SCHEMAS) + "; made from these: " + ", ".join([*DERIVED, *ESTIMATES]),
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="ends in .parquet or .csv")
    parser.add_argument("--snapshot", type=whole_number, metavar="N", help="default: the current one")
    group = parser.add_argument_group("which events to count, for " + ", ".join([*DERIVED, *ESTIMATES]))
    for option in COUNTED:
        add_option(group, option)
    parser.add_argument(
        "--days",
        type=whole_number,
        default=7,
        metavar="N",
        help="days in an occasion, for occupancy (default: 7)",
    )
    parser.set_defaults(call=_table)


def _table(options: argparse.Namespace, stop: threading.Event) -> int:
    job = load_job(options)
    path = check_file(options.out, job, WRITERS)
    run = Run(job)
    chosen = {option.name: getattr(options, option.name.replace("-", "_")) for option in COUNTED}
    if options.name in ESTIMATES:
        merged = MergeResult.find(run, options.snapshot)
        table = ESTIMATES[options.name](merged, counted_of(chosen), options.days)
        table = with_choice(table, merged, counted_of(chosen), days=options.days)
        found = table
    elif options.name in DERIVED:
        table = derive(options.name, MergeResult.find(run, options.snapshot), counted_of(chosen))
        found = table
    elif options.name not in SCHEMAS:
        raise InputError(
            f"no table {options.name!r}; {choices(options.name, [*SCHEMAS, *DERIVED, *ESTIMATES], most=30)}"
        )
    else:
        found = run.table(options.name, options.snapshot)
    outputs = Outputs(run.folder)
    outputs.keep(path)
    rows = write_out(found, path)
    outputs.record(path)
    print(f"{plural(rows, 'row')} of {options.name} written to {options.out}")
    if "jpeg" in found.schema.names and job.report.people != "show":
        print("the pictures in it are the run folder's own, in which people are not blurred")
    return 0
