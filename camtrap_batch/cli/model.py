"""camtrap model: a run's model as a file for other programs, or as a portal item."""

from __future__ import annotations

import argparse
import shutil
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from camtrap_batch.cli.options import Commands, job_argument
from camtrap_batch.errors import UserError
from camtrap_batch.job import Job
from camtrap_batch.model.info import CARD, WEIGHTS, ModelInfo
from camtrap_batch.store.outpath import check_file, check_path, replacing
from camtrap_batch.store.run import Run


def add(commands: Commands) -> None:
    """Add the commands."""
    group = commands.add_parser("model", help="a run's model: export it, publish it to a portal")
    actions = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    export = actions.add_parser("export", help="write the model for ArcGIS (dlpk) or other programs")
    job_argument(export)
    export.add_argument("--to", required=True, choices=("dlpk", "safetensors"), help="kind of file")
    export.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="a .dlpk file; a .safetensors file, with its description as .json beside it, or a new folder",
    )
    _model_option(export)
    export.set_defaults(call=_export)

    publish = actions.add_parser(
        "publish", help="add the model to the portal `publish.portal`, or update its item there"
    )
    job_argument(publish)
    publish.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")
    _model_option(publish)
    publish.set_defaults(call=_publish)


def _model_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="ID",
        help="model id of the run, or a model folder (default: infer.model of the job)",
    )


def _export(options: argparse.Namespace, stop: threading.Event) -> int:
    job = Job.load(options.job, options.assignments)
    if options.to == "dlpk":
        out = check_file(options.out, job, (".dlpk",))
    elif options.out.lower().endswith(".safetensors"):
        out = check_file(options.out, job, (".safetensors",))
        check_file(str(out.with_suffix(".json")), job, (".json",))
    else:
        out = check_path(options.out, job)
        if out.exists():
            raise UserError(
                f"--out {out}: is there already; name a new folder, or a file that ends in .safetensors"
            )
    folder, info = _find(job, options.model)
    if options.to == "dlpk":
        _write(out, _package(job, folder))
    elif out.suffix.lower() == ".safetensors":
        _write(out, (folder / WEIGHTS).read_bytes())
        _write(out.with_suffix(".json"), (folder / CARD).read_bytes())
    else:
        _copy(folder, out)
    print(f"model {info.model_id} ({info.arch}, {len(info.classes)} classes) written to {options.out}")
    return 0


def _publish(options: argparse.Namespace, stop: threading.Event) -> int:
    job = Job.load(options.job, options.assignments)
    folder, info = _find(job, options.model)
    package = _package(job, folder)
    if options.dry_run:
        print(f"model {info.model_id}: {len(package):,} bytes would go to {job.publish.portal}")
        return 0
    from camtrap_batch.model import describe
    from camtrap_batch.portal import Portal, connect
    from camtrap_batch.targets.packages import publish_package

    gis = connect(Portal.of(job.publish, "publish"))
    with TemporaryDirectory(prefix="camtrap-publish-") as scratch:
        file = Path(scratch) / f"{job.name}.dlpk"
        file.write_bytes(package)
        done = publish_package(gis, file, name=job.name, model_id=info.model_id, summary=describe(info))
    Run(job).log("model published", model_id=info.model_id, item=done.item_id, portal=job.publish.portal)
    print(f"model {info.model_id}: item {done.item_id} {'added' if done.added else 'updated'}: {done.url}")
    return 0


def _find(job: Job, name: str | None) -> tuple[Path, ModelInfo]:
    from camtrap_batch.stages.infer import fetch_model, open_model

    folder, info = open_model(Run(job), name or job.infer.model)
    return fetch_model(folder), info


def _package(job: Job, folder: Path) -> bytes:
    from camtrap_batch.model import write_package

    return write_package(folder, job.name)


def _write(out: Path, content: bytes) -> None:
    """A file, whole or not at all."""
    with replacing(out) as staged:
        staged.write_bytes(content)


def _copy(folder: Path, out: Path) -> None:
    """The model folder, as `infer.model` takes it; whole or not at all."""
    with replacing(out) as staged:
        shutil.copytree(folder, staged)
