"""camtrap init: look at what is there and write a job file that runs as it is."""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

from camtrap_batch.catalog.look import Found, look
from camtrap_batch.cli.options import Commands
from camtrap_batch.errors import UserError
from camtrap_batch.vocabulary import counted, plural

_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_NONE = "none"
_FEW = 3  # cameras; with fewer there is nothing to divide by camera


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "init",
        help="look at a folder, a file or a URL and write a job file for it",
        description="init: look at what is there, say what was found, and write a commented job file that "
        "runs as it is, and a cameras.csv to be filled in. Where it has to choose it asks on a terminal, and "
        "takes the likeliest elsewhere.",
    )
    parser.add_argument(
        "target",
        nargs="?",
        default=".",
        metavar="FOLDER|FILE|URL",
        help="images, or what lists them: folder, zip, bucket, COCO or results .json, .csv, .xlsx, data "
        "package, feature layer (default: the current folder)",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="the job file (default: NAME.yaml, here or beside the images)"
    )
    parser.add_argument("--name", help="of the job (default: as the folder or the file is named)")
    parser.add_argument(
        "--location", metavar="LEVEL", help="folder level that names the camera, 0 = first, or none"
    )
    parser.add_argument("--label", metavar="LEVEL", help="folder level that names the species, or none")
    parser.set_defaults(call=_init)


def _init(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.catalog import reader_of
    from camtrap_batch.job import Job

    found = look(options.target)
    for line in found.lines:
        print(line)
    for level in found.levels:
        print(f"folder level {level.number}: {level}")
    if found.levels:
        camera = _choose(options.location, "--location", "names the camera", found.camera, len(found.levels))
        takes_labels = found.results is None and not _has_labels(found.dataset)
        species = None
        if takes_labels:
            species = _choose(options.label, "--label", "names the species", found.species, len(found.levels))
        if camera is not None and camera == species:
            raise UserError(f"--location and --label: both are {camera}; a folder level is one or the other")
        if camera is not None:
            found.dataset["location"] = {"level": camera}
        if species is not None:
            found.dataset["label"] = {"level": species}
        elif takes_labels and found.hierarchy is not None and options.label is None:
            found.dataset["label"] = {"hierarchy": found.hierarchy}
    if found.videos and find_spec("av") is not None:
        found.dataset["video"] = {"every_s": 1, "most_frames": 10}
    name = options.name or _name_of(options.target)
    path = _place(options.out, name, found.dataset)
    content = {"name": name, "output": "runs", "dataset": found.dataset}
    job = Job.parse(content, base=path.parent, where=str(path))
    reader = reader_of(job.dataset)
    catalog = reader.read()
    for text, count in catalog.notes.items():
        print(counted(count, text))
    locations = sorted(set(catalog.table["location"].drop_null().to_pylist()))
    classes = [category for _, category in catalog.categories]
    print(
        f"{plural(catalog.table.num_rows, 'image')} of {plural(len(locations), 'camera location')}, "
        f"{plural(len(classes), 'label')}"
    )
    if locations and reader.cameras() is None:
        found.dataset["cameras"] = _cameras(path.parent, name, locations)
    is_labelled = reader.has_labels and (bool(classes) or "hierarchy" in found.dataset.get("label", {}))
    text = _job_text(options.target, name, found, path.parent, locations, classes, is_labelled)
    path.write_text(text, encoding="utf-8")
    Job.load(path)
    print(f"{path}: written; next:")
    for line in _next(path, is_labelled):
        print(f"  {line}")
    return 0


def _choose(given: str | None, option: str, what: str, guess: int | None, n_levels: int) -> int | None:
    """A folder level, as given, asked for, or guessed."""
    possible = [*map(str, range(n_levels)), _NONE]
    likely = _NONE if guess is None else str(guess)
    if given is None and sys.stdin.isatty() and sys.stdout.isatty():
        while given not in possible:
            given = input(f"which folder level {what}? {', '.join(possible)} [{likely}] ").strip() or likely
    elif given is None:
        given = likely
        print(f"the folder level that {what}: {given} (say otherwise with {option})")
    if given not in possible:
        raise UserError(f"{option}: {given!r} is not possible; possible: {', '.join(possible)}")
    return None if given == _NONE else int(given)


def _has_labels(dataset: dict[str, object]) -> bool:
    from camtrap_batch.catalog.csv import COLUMNS
    from camtrap_batch.catalog.tables import read_table

    if dataset["format"] != "csv":
        return False
    table = read_table(str(dataset["metadata"]), "camtrap init")
    return any(table.name_of(COLUMNS[what]) for what in ("category_id", "category_name"))


def _name_of(target: str) -> str:
    path = target.rstrip("/") if "://" in target else os.path.realpath(target)
    last = path.split("?")[0].rsplit("/", 1)[-1]
    if last == "datapackage.json" or last.isdecimal():
        last = path.rsplit("/", 2)[-2] if path.count("/") > 1 else last
    stem = re.sub(r"(\.(json|csv|tsv|txt|xlsx|zip|gz))+$", "", last, flags=re.IGNORECASE)
    return _NAME.sub("-", stem).strip("-._").lower()[:100] or "images"


def _place(out: str | None, name: str, dataset: dict[str, object]) -> Path:
    """Where the job file goes: not among the images, where its run folder could not be."""
    images = str(dataset.get("images") or "")
    root = Path(images) if images and "://" not in images else None
    path = Path(out) if out is not None else Path(f"{name}.yaml")
    path = path.absolute()
    if root is not None and root.is_dir() and path.resolve().is_relative_to(root.resolve()):
        if out is not None:
            raise UserError(f"--out {out}: is among the images, {root}; a job writes nothing there")
        path = root.resolve().parent / path.name
    if path.exists():
        raise UserError(f"{path}: is there already; name another with --out FILE, or remove it")
    if not path.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {path.parent}")
    return path


def _cameras(folder: Path, name: str, locations: list[str]) -> str:
    """The name of a camera table in `folder` that has all of `locations`: one that is there, or a new one."""
    for file in ("cameras.csv", f"{name}-cameras.csv"):
        path = folder / file
        if not path.exists():
            _write_cameras(path, locations)
            print(f"{path}: fill in latitude and longitude of {plural(len(locations), 'camera')}")
            return file
        if (lacking := _lacking(path, locations)) is None:
            print(f"{path} is there already, and stays as it is")
            return file
        print(f"{path} is there already, stays as it is, and is not used: {lacking}")
    raise UserError(f"{path}: lacks cameras of these images ({lacking}); give the job another --name")


def _lacking(path: Path, locations: list[str]) -> str | None:
    """What keeps a camera table from being that of `locations`, None: nothing."""
    from camtrap_batch.catalog.cameras import read_camera_names

    try:
        named = set(read_camera_names(str(path)).to_pylist())
    except UserError as problem:
        return str(problem)
    gone = [location for location in locations if location not in named]
    return f"it has no row for {', '.join(gone[:3])}{', ...' if len(gone) > 3 else ''}" if gone else None


def _write_cameras(path: Path, locations: list[str]) -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["location", "latitude", "longitude"])
        writer.writerows([location, "", ""] for location in locations)


def _job_text(
    target: str,
    name: str,
    found: Found,
    base: Path,
    locations: list[str],
    classes: list[str],
    is_labelled: bool,
) -> str:
    from camtrap_batch.remote import redacted
    from camtrap_batch.yamlfile import write_yaml

    rows: list[tuple[str, str]] = []

    def row(indent: int, key: str, value: object, comment: str) -> None:
        written = (
            write_yaml(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
        )
        rows.append((f"{'  ' * indent}{key}: {written}", comment))

    def listed(names: list[str]) -> str:
        return ", ".join(names[:3]) + (f", ... ({len(names):,})" if len(names) > 3 else "")

    comments = {
        "format": found.lines[0],
        "metadata": "what lists the images",
        "images": "the image root; a job never changes it",
        "location": f"the folder level that names the camera: {listed(locations)}",
        "label": f"the folder level that names the species: {listed(classes)}",
        "cameras": "fill in latitude and longitude of each location there",
        "layer": "its portal; who may read it",
        "video": f"frames of {plural(found.videos, 'video')} are images of their own",
    }
    if "hierarchy" in found.dataset.get("label", {}):
        comments["label"] = "the keyword below which photos have their species"
    row(0, "name", name, "the run folder is <output>/<name>")
    row(0, "output", "runs", "folder, relative to this file, or a bucket: s3://bucket/runs")
    rows.append(("dataset:", ""))
    for key, value in found.dataset.items():
        if isinstance(value, str) and key in ("metadata", "images"):
            value = redacted(_relative(value, base))
        row(1, key, value, comments.get(key, ""))
    if found.videos and "video" not in found.dataset:
        note = plural(found.videos, "video is", "videos are")
        note += " only counted; with camtrap-batch[video] their frames are images"
        rows.append(("  # video: {every_s: 1, most_frames: 10}", note))
    if found.results is not None:
        rows.append(("detect:", ""))
        row(1, "results", _relative(found.results, base), "boxes: crops of animals are classified")
    if is_labelled:
        text = "the labels of people are the result; without this line a classifier is trained on them"
        rows.append(("infer: {model: none}", text))
        if len(locations) < _FEW:
            few = plural(len(locations), "camera is", "cameras are")
            text = f"to train: {few} too few to divide by camera"
            rows.append(("# select: {split: {by: random}}", text))
    else:
        text = "a trained model: these images have no labels to learn from; or"
        rows.append(("# infer: {model: FOLDER}", text))
        rows.append(("# infer: {model: none}", "labels that people give: camtrap review"))
    width = min(60, max(len(line) for line, _ in rows))
    body = "\n".join(f"{line:{width}}  # {text}".rstrip() if text else line for line, text in rows)
    return f"# camtrap init {redacted(target)}; all keys: camtrap reprocess --help\n{body}\n"


def _relative(path: str, base: Path) -> str:
    """A path as one relative to the job file's folder, where it is below that or beside it."""
    if "://" in path:
        return path
    near = os.path.relpath(path, base)
    return path if near.startswith("../..") else near


def _next(path: Path, is_labelled: bool) -> list[str]:
    near = os.path.relpath(path)
    shown = str(path) if near.startswith("..") else near
    if is_labelled:
        return [f"camtrap reprocess {shown} --dry-run", f"camtrap reprocess {shown}"]
    return [
        f"camtrap catalog {shown}",
        f"camtrap validate {shown}  (opens every image and says what is wrong)",
        f"camtrap reprocess {shown}  (once infer.model names a trained model, or none)",
    ]
