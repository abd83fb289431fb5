"""camtrap export: a run's predictions as a file that other programs read."""

from __future__ import annotations

import argparse
import threading

from camtrap_batch.cli.options import Commands, job_argument, whole_number
from camtrap_batch.errors import UserError, choices
from camtrap_batch.exports import FORMATS, Images, Source, check_out, export
from camtrap_batch.job import Job
from camtrap_batch.store.run import Run


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("export", help="predictions for other programs: " + ", ".join(FORMATS))
    job_argument(parser)
    parser.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="md-json: MegaDetector's results, for Timelapse; camtrap-dp: a data package; csv: one row an "
        "image; cct: COCO Camera Traps",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="a file that ends in .json or .csv; for camtrap-dp a folder or a .zip",
    )
    parser.add_argument(
        "--snapshot",
        type=whole_number,
        metavar="N",
        help="an earlier result of merge, as camtrap status lists them (default: the current predictions)",
    )
    parser.set_defaults(call=_export)


def _export(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.model.info import read_info
    from camtrap_batch.selection.classes import empty_class
    from camtrap_batch.stages.infer import fetch_model, model_folder

    if options.to not in FORMATS:
        raise UserError(f"--to {options.to}: no such format; {choices(options.to, FORMATS)}")
    job = Job.load(options.job, options.assignments)
    path = check_out(options.to, options.out, job)
    run = Run(job)
    source = Source.find(run, options.snapshot)
    if source.merged is not None:  # whatever the job file says today
        empty = source.merged.snapshot.meta["empty"]
    else:
        model = fetch_model(model_folder(run, str(source.predictions.inputs["model"])))
        empty = empty_class(job, read_info(model))
    images = Images(run, source, empty=empty, stop=stop)
    written = export(images, options.to, path)
    print("\n".join(written.lines()))
    return 0
