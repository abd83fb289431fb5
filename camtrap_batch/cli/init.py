"""camtrap init: look at what is there and write a job file that runs as it is."""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from camtrap_batch.catalog.found import Found
from camtrap_batch.catalog.look import find_media, look
from camtrap_batch.catalog.zipped import zip_and_name
from camtrap_batch.cli.parser import Parser
from camtrap_batch.errors import InputError, UserError
from camtrap_batch.remote import plain
from camtrap_batch.vocabulary import VIDEO_ENDINGS, counted, ending_of, is_word_for_empty, plural

if TYPE_CHECKING:
    from camtrap_batch.catalog import Catalog, Reader

_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_NONE = "none"
_OF_SERVICES = ("FeatureServer", "MapServer")
_ORDERS = ("dmy", "mdy", "ymd")
_FEW = 3  # cameras; fewer can't be divided by camera


def add(parser: Parser) -> None:
    parser.description = (
        "init: look at what is there, say what was found, and write a commented job file that runs as it is, "
        "and a cameras.csv to be filled in. If there is a choice, it asks on a terminal, and otherwise takes "
        "the most likely one."
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
    parser.add_argument("--name", help="name of the job (default: that of the folder or file)")
    parser.add_argument(
        "--location", metavar="LEVEL", help="folder level that names the camera (0 is the first), or none"
    )
    parser.add_argument("--label", metavar="LEVEL", help="folder level that names the species, or none")
    parser.add_argument(
        "--dates",
        choices=_ORDERS,
        help="what comes first in dates of a table that leave it open, such as 03/04/2022",
    )
    parser.set_defaults(call=_init)


def _init(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.job import Job, Label

    found = look(options.target)
    for line in found.lines:
        print(line)
    for level in found.levels:
        print(f"folder level {level.number}: {level}")
    if found.levels:
        camera = _choose(options.location, "--location", "names the camera", found.camera, len(found.levels))
        takes_labels = found.results is None and not found.has_labels
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
    path = _job_path(options.out, name, found.dataset)
    reader, catalog = _read_with_order(name, path, found, options.dates)
    if reader.package is not None and "://" not in reader.package:
        images = found.dataset["images"]
        print(find_media(found, catalog.table["file_name"].to_pylist()))
        if found.dataset["images"] != images:
            reader, catalog = _read(name, path, found)
    if words := [word for number, word in catalog.categories if number != 0 and is_word_for_empty(word)]:
        print(f"labels taken to mean that there is no animal: {', '.join(words)}")
        if "label" in type(reader.dataset).model_fields:
            label = found.dataset.setdefault("label", {})
            usual = [] if found.has_labels else Label.model_fields["empty"].default
            label["empty"] = [*usual, *words]
            reader, catalog = _read(name, path, found)
        elif all(number != 0 for number, _ in catalog.categories):
            found.empty = words[0]
    for text, count in catalog.notes.items():
        print(counted(count, text))
    locations = sorted(set(catalog.table["location"].drop_null().to_pylist()))
    classes = [category for _, category in catalog.categories]
    print(
        f"{_rows_told(catalog.table['file_name'].to_pylist())} of "
        f"{plural(len(locations), 'camera location')}, {plural(len(classes), 'label')}"
    )
    if locations and reader.cameras() is None:
        found.dataset["cameras"] = _cameras(path.parent, name, locations, _of_cameras(found, catalog))
    is_labelled = reader.has_labels and (bool(classes) or "hierarchy" in found.dataset.get("label", {}))
    text = _job_text(options.target, name, found, path.parent, locations, classes, is_labelled)
    with _written(path) as file:
        file.write(text)
    Job.load(path)
    print(f"{path}: written; next:")
    for line in _next(path, is_labelled, is_found=found.n_found != 0):
        print(f"  {line}")
    return 0


def _rows_told(files: list[str]) -> str:
    """How many images and videos rows are of."""
    n_videos = sum(ending_of(name) in VIDEO_ENDINGS for name in files)
    counts = {"image": len(files) - n_videos, "video": n_videos}
    return " and ".join(plural(number, what) for what, number in counts.items() if number)


def _choose(given: str | None, option: str, what: str, guess: int | None, n_levels: int) -> int | None:
    """A folder level, as given, asked for, or guessed."""
    possible = [*map(str, range(n_levels)), _NONE]
    likely = _NONE if guess is None else str(guess)
    if given is None and _is_asked():
        while given not in possible:
            given = _ask(f"which folder level {what}? {', '.join(possible)} [{likely}] ", option) or likely
    elif given is None:
        given = likely
        print(f"the folder level that {what}: {given} (change it with {option})")
    if given not in possible:
        raise UserError(f"{option}: {given!r} is not possible; possible: {', '.join(possible)}")
    return None if given == _NONE else int(given)


def _read_with_order(name: str, path: Path, found: Found, order: str | None) -> tuple[Reader[Any], Catalog]:
    """`_read`, with the order of day and month as given, or asked for, where dates leave it open."""
    if order is not None:
        found.dataset["dates"] = order
    try:
        return _read(name, path, found)
    except InputError as problem:
        if order is not None or "set dataset.dates" not in str(problem):
            raise
        if not _is_asked():
            raise InputError(f"{problem}; camtrap init: --dates") from None
        print(problem)
    while order not in _ORDERS:
        order = _ask(f"what comes first? {', '.join(_ORDERS)} ", "--dates")
    return _read_with_order(name, path, found, order)


def _ask(question: str, option: str) -> str:
    try:
        return input(question).strip()
    except EOFError:
        raise UserError(f"no answer to: {question.strip()}; {option} gives one") from None


def _is_asked() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _read(name: str, path: Path, found: Found) -> tuple[Reader[Any], Catalog]:
    """What the job that is being written would read."""
    from camtrap_batch.catalog import reader_of
    from camtrap_batch.job import Job

    content = {"name": name, "output": "runs", "dataset": found.dataset}
    reader = reader_of(Job.parse(content, base=path.parent, where=str(path)).dataset)
    return reader, reader.read()


def _name_of(target: str) -> str:
    target = (zip_and_name(target) or (target,))[0]
    path = target.rstrip("/") if "://" in target else os.path.realpath(target)
    last = path.split("?")[0].rsplit("/", 1)[-1]
    # .../services/NAME/FeatureServer/0 is a layer's address.
    for above in re.split("/+", path)[-2::-1]:
        if last != "datapackage.json" and not last.isdecimal() and last not in _OF_SERVICES:
            break
        last = above
    stem = re.sub(r"(\.(json|csv|tsv|txt|xlsx|zip|gz))+$", "", last, flags=re.IGNORECASE)
    return _NAME.sub("-", stem).strip("-._").lower()[:100] or "images"


def _job_path(out: str | None, name: str, dataset: dict[str, object]) -> Path:
    """Where the job file goes: not among the images, where its run folder must not be."""
    images = str(dataset.get("images") or "")
    root = Path(images) if images and "://" not in images else None
    path = Path(out) if out is not None else Path(f"{name}.yaml")
    path = path.absolute()
    if root is not None and root.is_dir() and path.resolve().is_relative_to(root.resolve()):
        if out is not None:
            raise UserError(f"--out {out}: is among the images, {root}; a job writes nothing there")
        path = root.resolve().parent / path.name
        print(f"the job file goes beside the images, to {path}: a job writes nothing among them")
    if path.exists():
        raise UserError(f"{path}: already exists; name another with --out FILE, or remove it")
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent}: can't be written to; say with --out FILE where the job file goes")
    if not path.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {path.parent}")
    return path


def _of_cameras(found: Found, catalog: Catalog) -> dict[str, dict[str, str]]:
    """What a table of images says about its cameras (see `places`); says what it leaves open."""
    from camtrap_batch.catalog.places import camera_columns, cameras_of_images

    if found.table is None or not (columns := camera_columns(found.table)):
        return {}
    names = ("file_name", "location")
    location_of = dict(zip(*(catalog.table[name].to_pylist() for name in names), strict=True))
    known, lines = cameras_of_images(found.table, columns, [location_of.get(file) for file in found.files])
    for line in lines:
        print(line)
    return known


def _cameras(folder: Path, name: str, locations: list[str], known: dict[str, dict[str, str]]) -> str:
    """The name of a camera table in `folder` that has all of `locations`: an existing one, or a new one.

    `known`: location -> column -> what a new one says there.
    """
    for file in ("cameras.csv", f"{name}-cameras.csv"):
        path = folder / file
        if not path.exists():
            _write_cameras(path, locations, known)
            n_placed = sum("latitude" in cells for cells in known.values())
            n_open = len(locations) - n_placed
            if n_placed:
                print(f"{path}: latitude and longitude of {plural(n_placed, 'camera')} are from the table")
            if n_open:
                print(f"{path}: fill in latitude and longitude of {plural(n_open, 'camera')}")
            return file
        if (lacking := _lacking(path, locations)) is None:
            placed = [location for location, cells in known.items() if "latitude" in cells]
            more = (
                f"; the table knows where {plural(len(placed), 'camera is', 'cameras are')}" if placed else ""
            )
            print(f"{path} already exists, and stays as it is{more}")
            return file
        print(f"{path} already exists, stays as it is, and is not used: {lacking}")
    raise UserError(f"{path}: lacks cameras of these images ({lacking}); give the job another --name")


def _lacking(path: Path, locations: list[str]) -> str | None:
    """Why a camera table does not fit `locations`; None if it does."""
    from camtrap_batch.catalog.cameras import read_camera_names

    try:
        named = set(read_camera_names(str(path)).to_pylist())
    except UserError as problem:
        return str(problem)
    gone = [location for location in locations if location not in named]
    return f"it has no row for {', '.join(gone[:3])}{', ...' if len(gone) > 3 else ''}" if gone else None


def _write_cameras(path: Path, locations: list[str], known: dict[str, dict[str, str]]) -> None:
    import csv

    more = [role for role in ("start", "end") if any(role in cells for cells in known.values())]
    columns = ["location", "latitude", "longitude", *more]
    with _written(path) as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({"location": location, **known.get(location, {})} for location in locations)


@contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    """A new file to be written. Raises UserError if that can't be done."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            yield file
    except OSError as problem:
        raise UserError(f"{path}: can't be written: {plain(problem)}") from None


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
        "metadata": "the file that lists the images",
        "images": "the image root; a job never changes it",
        "location": f"the folder level that names the camera: {listed(locations)}",
        "columns": "the table's own names for them",
        "label": f"the folder level that names the species: {listed(classes)}",
        "cameras": "latitude and longitude of each location",
        "layer": "its portal; who may read it",
        "video": f"frames of {plural(found.videos, 'video')} are images of their own",
    }
    if found.has_labels:
        comments["label"] = "how to read them: what means no animal, what stands between several species"
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
    if found.empty is not None:
        row(0, "select", {"empty": {"class": found.empty}}, "the label that means that there is no animal")
    if found.results is not None:
        rows.append(("detect:", ""))
        row(1, "results", _relative(found.results, base), "boxes of animals, people and vehicles")
    if is_labelled:
        text = "the labels of people are the result; without this line a classifier is trained on them"
        rows.append(("infer: {model: none}", text))
        if len(locations) < _FEW:
            few = plural(len(locations), "camera is", "cameras are")
            text = f"to train: {few} too few to divide by camera"
            rows.append(("# select: {split: {by: random}}", text))
    else:
        also = ", and classes in the results," if found.results is not None else ""
        rows.append(("infer: {model: none}", f"the labels of people (camtrap review){also} are the result"))
        rows.append(("# infer: {model: FOLDER}", "a trained model, in place of that"))
    width = min(60, max(len(line) for line, _ in rows))
    body = "\n".join(f"{line:{width}}  # {text}".rstrip() if text else line for line, text in rows)
    return f"# camtrap init {redacted(target)}; all keys: camtrap reprocess --help\n{body}\n"


def _relative(path: str, base: Path) -> str:
    """A path relative to the job file's folder, if it is below or beside that; otherwise unchanged."""
    if (inside := zip_and_name(path)) is not None:
        return f"zip://{inside[1]}::{_relative(inside[0], base)}"
    if "://" in path:
        return path
    near = os.path.relpath(path, base)
    return path if near.startswith("../..") else near


def _next(path: Path, is_labelled: bool, *, is_found: bool) -> list[str]:
    near = os.path.relpath(path)
    shown = str(path) if near.startswith("..") else near
    lines = [f"camtrap reprocess {shown} --dry-run", f"camtrap reprocess {shown}"]
    if not is_found:
        lines = [f"in {shown}, set dataset.images to the folder, zip or bucket with the images", *lines]
    return lines if is_labelled else [*lines, f"camtrap review {shown}  (to label the images)"]
