"""camtrap check: read everything a run folder holds."""

from __future__ import annotations

import argparse
import hashlib
import threading

from camtrap_batch.cli.options import job_argument
from camtrap_batch.cli.parser import Parser
from camtrap_batch.errors import InputError, TargetUnreachable, UserError
from camtrap_batch.job import Job
from camtrap_batch.store.check import Fault
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.identity import require_run_folder
from camtrap_batch.store.run import Run
from camtrap_batch.vocabulary import plural


def add(parser: Parser) -> None:
    parser.description = (
        "Read everything a run folder holds, compare tables with the hashes in their receipts, and name each "
        "fault with its file."
    )
    parser.epilog = "exit codes: 0 all is well, or was repaired; 1 something is wrong; 3 a driver is at work"
    job_argument(parser)
    parser.add_argument(
        "--repair",
        action="store_true",
        help="have the next run remake exactly what is damaged; fix at once what needs no run",
    )
    parser.set_defaults(call=_check)


def _check(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.store.check import check

    run = Run(Job.load(options.job, options.assignments))
    require_run_folder(run.folder)
    report = check(
        run.folder,
        repair=options.repair,
        model_fault=_model_fault,
        figure_faults=_figure_faults,
        detector_fault=_detector_fault,
    )
    report.faults += _target_faults(run)
    for fault in report.faults:
        print(f"{run.folder.url}/{fault.file}: {fault.what}" + (f"; {fault.then}" if fault.then else ""))
    print(
        f"{plural(report.files, 'file')}, {report.bytes / 1e6:,.1f} MB read: {_verdict(len(report.faults))}"
    )
    if report.is_sound:
        return 0
    shards = ", ".join(f"{len(shards):,} of {stage}" for stage, shards in sorted(report.again.items()))
    if not options.repair:
        print("camtrap check JOB --repair does what is said after each semicolon")
        return 1
    if shards:
        print(f"the next run redoes these shards: {shards}")
    by_hand = [fault for fault in report.faults if fault.counts and fault.then.startswith(_BY_HAND)]
    return 1 if by_hand else 0


_BY_HAND = ("remove", "copy", "repair it", "move it away")
"""How what people have to do begins."""


def _verdict(faults: int) -> str:
    return "all is well" if not faults else plural(faults, "fault")


def _target_faults(run: Run) -> list[Fault]:
    """What is wrong with target files in the run folder."""
    from camtrap_batch.targets.base import targets_of
    from camtrap_batch.targets.files import FileTarget

    try:
        targets: list[object] = [target for _, target in targets_of(run)]
    except (UserError, TargetUnreachable):  # `publish` reports it
        return []
    then = "remove it, or copy it there again: publish makes a new one, without what others put into it"
    return [
        Fault(file.name, what, then)
        for target in targets
        if isinstance(target, FileTarget) and target.in_run and target.bucket is None
        for file, what in target.faults().items()
    ]


def _figure_faults(model: Folder) -> dict[str, str]:
    from camtrap_batch.model.library import figure_faults

    return figure_faults(model)


def _detector_fault(detector: Folder) -> str | None:
    from camtrap_batch.detection.library import detector_fault

    return detector_fault(detector)


def _model_fault(model: Folder) -> str | None:
    """What is wrong with a model's folder; an ONNX network identifies itself."""
    from camtrap_batch.model.info import CARD, model_id, read_info
    from camtrap_batch.model.library import fetch_model

    if not model.exists(CARD):
        return None if any(name.endswith(".onnx") for name in model.list("")) else f"has no {CARD}"
    try:
        info = read_info(fetch_model(model))
    except InputError as problem:
        return f"{CARD} is damaged ({problem})"
    try:
        found = model_id(hashlib.sha256(model.read(info.weights)).hexdigest(), info)
    except FileNotFoundError:
        return f"has no {info.weights}"
    expected = model.url.rpartition("/")[2]
    return None if found == expected else f"is damaged: its content is that of a model {found}"
