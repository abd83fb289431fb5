"""camtrap model: import published models, export a run's model for other programs, publish it to a portal."""

from __future__ import annotations

import argparse
import io
import shutil
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from camtrap_batch.cli.options import add_option, job_argument, load_job
from camtrap_batch.cli.parser import Parser
from camtrap_batch.errors import MissingExtra, UserError
from camtrap_batch.job import Job
from camtrap_batch.model import EXTRA_MODULES
from camtrap_batch.model.importers.base import IMPORTERS
from camtrap_batch.model.info import CARD, WEIGHTS, ModelInfo
from camtrap_batch.store.outpath import check_file, check_path, replacing
from camtrap_batch.store.outputs import Outputs
from camtrap_batch.store.run import Run
from camtrap_batch.vocabulary import IMAGE_ENDINGS, ending_of, plural

_PICTURES, _FEWEST_PICTURES = 24, 2


def add(parser: Parser) -> None:
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    published = actions.add_parser(
        "import", help="write a published model as a folder that a job can use, and compare the two"
    )
    kinds = published.add_subparsers(
        dest="kind", title="where the model is from", metavar="KIND", required=True
    )
    for name, importer in IMPORTERS.items():
        kind = kinds.add_parser(name, help=importer.help, description=f"{name}: {importer.help}")
        for argument in importer.arguments:
            kind.add_argument(
                argument.name,
                metavar=argument.metavar,
                nargs="?" if argument.is_optional else None,
                help=argument.help,
            )
        kind.add_argument("--out", required=True, metavar="FOLDER", help="a new folder")
        kind.add_argument(
            "--pictures", metavar="FOLDER", help="photos to compare them on (default: drawn ones)"
        )
        for option in importer.options:
            add_option(kind, option)
        kind.set_defaults(call=_import)

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


def _import(options: argparse.Namespace, stop: threading.Event) -> int:
    out = Path(options.out)
    if out.exists():
        raise UserError(f"--out {out}: already exists; name a new folder")
    importer = IMPORTERS[options.kind]
    names = [argument.name for argument in importer.arguments] + [option.name for option in importer.options]
    given = {name: getattr(options, name.replace("-", "_")) for name in names}
    with TemporaryDirectory(prefix="camtrap-import-") as scratch:
        pictures = _read_pictures(Path(options.pictures) if options.pictures else _draw(Path(scratch)))
        work = Path(scratch, "work")
        work.mkdir()
        with replacing(out) as staged:
            try:
                made = importer.run(given, pictures, work)
            except ModuleNotFoundError as problem:
                if str(problem.name).partition(".")[0] not in EXTRA_MODULES:
                    raise
                raise MissingExtra("train", f"camtrap model import {options.kind}") from problem
            shutil.copytree(made.folder, staged)
    print(f"{made.what}, written to {out}: {made.compared}")
    for note in made.notes:
        print(f"  {note}")
    print("in the job file:")
    for line in made.job:
        print(f"  {line.format(out=out)}")
    return 0


def _read_pictures(folder: Path) -> list[bytes]:
    """Some photos from all over a folder."""
    if not folder.is_dir():
        raise UserError(f"--pictures {folder}: no such folder")
    found = sorted(path for path in folder.rglob("*") if ending_of(path.name) in IMAGE_ENDINGS)
    some = [path.read_bytes() for path in found[:: max(1, len(found) // _PICTURES)][:_PICTURES]]
    whole = [data for data in some if _is_whole(data)]
    if len(whole) < _FEWEST_PICTURES:
        raise UserError(
            f"--pictures {folder}: holds {len(whole)} photos that can be read; {_FEWEST_PICTURES} or more "
            "are needed"
        )
    return whole


def _is_whole(data: bytes) -> bool:
    """Whether Pillow reads the whole photo, as the compared programs do."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True


def _draw(folder: Path) -> Path:
    from camtrap_batch.rehearsal import write_dataset

    return write_dataset(folder / "drawn", cameras=6, images=_PICTURES, broken=False).images


def _export(options: argparse.Namespace, stop: threading.Event) -> int:
    job = load_job(options)
    if options.to == "dlpk":
        out = check_file(options.out, job, (".dlpk",))
    elif options.out.lower().endswith(".safetensors"):
        out = check_file(options.out, job, (".safetensors",))
        check_file(str(out.with_suffix(".json")), job, (".json",))
    else:
        out = check_path(options.out, job)
        if out.exists():
            raise UserError(
                f"--out {out}: already exists; name a new folder, or a file that ends in .safetensors"
            )
    outputs = Outputs(Run(job).folder)
    folder, info = _find(job, options.model)
    if options.to == "dlpk":
        _write(outputs, out, _package(job, folder))
    elif out.suffix.lower() == ".safetensors":
        if info.weights != WEIGHTS:
            raise UserError(f"--out {options.out}: model {info.model_id} is an ONNX file; name a new folder")
        _write(outputs, out, (folder / WEIGHTS).read_bytes())
        _write(outputs, out.with_suffix(".json"), (folder / CARD).read_bytes())
    else:
        _copy(folder, out)
    classes = plural(len(info.classes), "class", "classes")
    print(f"model {info.model_id} ({info.arch}, {classes}) written to {options.out}")
    return 0


def _publish(options: argparse.Namespace, stop: threading.Event) -> int:
    job = load_job(options)
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
    from camtrap_batch.model.library import fetch_model, open_model

    folder, info = open_model(Run(job), name or job.infer.model)
    return fetch_model(folder), info


def _package(job: Job, folder: Path) -> bytes:
    from camtrap_batch.model import write_package

    return write_package(folder, job.name)


def _write(outputs: Outputs, out: Path, content: bytes) -> None:
    """A file, whole or not at all."""
    outputs.keep(out)
    with replacing(out) as staged:
        staged.write_bytes(content)
    outputs.record(out)


def _copy(folder: Path, out: Path) -> None:
    """Write the model folder, in the form that `infer.model` takes; completely or not at all."""
    with replacing(out) as staged:
        shutil.copytree(folder, staged)
