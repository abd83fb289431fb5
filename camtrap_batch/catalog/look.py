"""Looks at what somebody has, and says what it is and which job file would read it (`camtrap init`).

Nothing is decided for good: if folders could mean one thing or another, `Found` has the levels to choose from
and a guess.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import urllib.request
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import msgspec
import numpy as np

from camtrap_batch.catalog.csv import COLUMNS, LIKELY, likely_columns, used_columns
from camtrap_batch.catalog.folder import without_run_folders
from camtrap_batch.catalog.jsonfile import read_json
from camtrap_batch.catalog.labels import several_in_one
from camtrap_batch.catalog.names import tidy_name
from camtrap_batch.catalog.places import camera_columns
from camtrap_batch.catalog.tabular import GivenTable, column_name, read_table
from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.exif import read_jpeg_exif
from camtrap_batch.images.keywords import read_keywords
from camtrap_batch.images.sources.base import path_key
from camtrap_batch.job.base import web_address
from camtrap_batch.remote import plain, redacted
from camtrap_batch.vocabulary import (
    IMAGE_ENDINGS,
    PEOPLE,
    RAW_ENDINGS,
    VIDEO_ENDINGS,
    counted,
    ending_of,
    is_word_for_empty,
    plural,
)

_PATIENCE_S = 20.0
_MOST_BYTES = 2**22
_SAMPLE = 40  # number of images whose EXIF is read, and of names to look for
_HEADER_BYTES = 2**18
_SHOWN = 4
_CARD = re.compile(r"(SD|card|disk|usb)[ _-]?\d*", re.IGNORECASE)
_DCIM = re.compile(rf"DCIM|MISC|\d{{3}}[A-Z0-9_]{{5}}|\d{{3}}MEDIA|{_CARD.pattern}", re.IGNORECASE)
_DATE = re.compile(r"\d{4}([-_.]?\d{2}([-_.]?\d{2})?)?|\d{2}[-_.]\d{2}[-_.]\d{4}")
_BINOMIAL = re.compile(r"[A-Z]?[a-z]{3,}[ _][a-z]{3,}([ _][a-z]{3,})?")
_CAMERA = re.compile(r".*\d|.*(cam|site|station|loc|trap|plot|grid)", re.IGNORECASE)
_TOPS = frozenset({"species", "taxon", "taxa", "animal", "animals", "art", "arten", "espèce", "especie"})
_NO_SPECIES = frozenset({"animal", *PEOPLE})
_NOTHING_BUT_NAMES = re.compile(r"[^\W\d_]+([ _-][^\W\d_]+){0,3}")


@dataclass(frozen=True)
class Level:
    """A folder level of the images' paths: 0 = the first below the image root.

    Attributes
    ----------
    names : names of its folders, the one with the most images first
    n_images : number of images that lie below one of them
    """

    number: int
    names: list[str]
    n_images: int

    def __str__(self) -> str:
        more = f", ... ({len(self.names):,})" if len(self.names) > _SHOWN else ""
        return ", ".join(self.names[:_SHOWN]) + more


@dataclass
class Found:
    """What was found.

    Attributes
    ----------
    dataset : the section `dataset` of a job file, as far as it is known
    lines : what was found, for people, one thing per line
    levels : folder levels, if only paths show camera and species
    camera, species : the most likely levels; None: none is likely
    results : path or URL of detections, if that is what was looked at
    videos : number of videos
    hierarchy : the keyword below which photos have their species
    has_labels : whether a table has a column for the species
    table, files : a table of images, and the file that each of its rows names
    n_found : how many of some of the images listed were found; None: the images themselves were looked at
    empty : the label that means that there is no animal, if it is not one that says so by itself
    """

    dataset: dict[str, Any]
    lines: list[str]
    levels: list[Level] = field(default_factory=list)
    camera: int | None = None
    species: int | None = None
    results: str | None = None
    videos: int = 0
    hierarchy: str | None = None
    has_labels: bool = False
    empty: str | None = None
    table: GivenTable | None = None
    files: list[str] = field(default_factory=list)
    n_found: int | None = None


def look(target: str) -> Found:
    """Look at a folder, a file or a URL; a path may be relative.

    Raises
    ------
    InputError
        There is nothing, or nothing that a job could read; the message says what would be possible.
    """
    path = urlsplit(target).path if "://" in target else target
    if re.search(r"/(Feature|Map)Server(/\d+)?/?$", path):
        return _of_layer(target.rstrip("/"))
    if "://" not in target:
        target = os.path.abspath(Path(target).expanduser())  # noqa: PTH100 - keeps the user's symbolic links
        if not os.path.lexists(target):
            raise InputError(f"{target}: no such file or folder (camtrap init)")
    name = path.lower().rstrip("/")
    if name.endswith((".json", ".json.gz")):
        return _of_json(target)
    if name.endswith((".csv", ".tsv", ".txt", ".xlsx", ".xls", ".ods", ".csv.gz")):
        return _of_table(target)
    if name.endswith(".zip"):
        return _of_zip(target)
    if "://" not in target and Path(target).is_file():
        raise InputError(
            f"{target}: is neither images nor a list of them; possible: a folder, .zip, .json, .csv, .xlsx, "
            "a bucket or a feature layer (camtrap init)"
        )
    return _of_folder(target)


def _of_layer(target: str) -> Found:
    """A feature layer: its server says which portal it belongs to, and whether it can be read without signing
    in."""
    lines = [f"a feature layer: {redacted(target)}; its photos are read when the job runs"]
    dataset: dict[str, Any] = {"format": "feature-layer", "metadata": target}
    layer: dict[str, Any] = {}
    if "/rest/services/" in target:
        portal = _asked(f"{target.partition('/rest/services/')[0]}/rest/info").get("owningSystemUrl")
        if isinstance(portal, str) and portal:
            layer["portal"] = portal.rstrip("/")
    answer = _asked(target)
    if "error" in answer:
        lines.append(
            "it can't be read by everybody: set CAMTRAP_ARCGIS_TOKEN in the environment, or sign in as "
            "docs/arcgis.md says"
        )
    else:
        layer["anonymous"] = True
        lines.append(f"its name is {answer.get('name')!r}; everybody can read it")
        if not answer.get("hasAttachments", True):
            raise InputError(f"{redacted(target)}: has no attachments, and so no photos (camtrap init)")
    return Found({**dataset, **({"layer": layer} if layer else {})}, lines)


def _asked(url: str) -> dict[str, Any]:
    """What an ArcGIS server says about a service. Raises InputError if nothing answers."""
    address = web_address(url.partition("?")[0])
    try:
        with urllib.request.urlopen(f"{address}?f=json", timeout=_PATIENCE_S) as answer:  # noqa: S310
            content = json.loads(answer.read(_MOST_BYTES))
    except (OSError, ValueError) as problem:
        raise InputError(
            f"{redacted(url)}: no feature server answers there (camtrap init): {plain(problem)}"
        ) from None
    return content if isinstance(content, dict) else {}


def _of_folder(target: str) -> Found:
    descriptor = f"{target.rstrip('/')}/datapackage.json"
    if _exists(descriptor):
        return _of_json(descriptor)
    notes: Counter[str] = Counter()
    names = without_run_folders(list(ImageRoot(target).walk()), notes)
    lists = [name for name in names if "/" not in name and ending_of(name) in (".json", ".csv", ".xlsx")]
    inside = _only_folder(names) if _is_here(target) else None
    root = target
    if inside is not None:
        root = f"{target.rstrip('/')}/{inside}"
        names = [name.removeprefix(f"{inside}/") for name in names if name.startswith(f"{inside}/")]
    found = _of_names(root, names)
    if inside is not None:
        found.lines.insert(1, f"all images here are in {inside}, which is taken as the image root")
    found.lines += [counted(n, text) for text, n in notes.items()]
    base = os.path.relpath(target) if _is_local(target) else redacted(target).rstrip("/")
    for name in lists[:_SHOWN]:
        if (kind := _kind(f"{target}/{name}")) is not None:
            listed = name if base == "." else f"{base}/{name}"
            found.lines.append(f"{name} lies beside the images{kind}: camtrap init {listed}")
    return found


def _is_local(target: str) -> bool:
    return "://" not in target


def _is_here(target: str) -> bool:
    """Whether a folder is the current one, or above it: then no job file can be written here for it."""
    return _is_local(target) and Path.cwd().is_relative_to(Path(target).resolve())


def _only_folder(names: Sequence[str]) -> str | None:
    """The folder that all images and videos are in, at the first level, if it is one."""
    listed = IMAGE_ENDINGS | RAW_ENDINGS | VIDEO_ENDINGS
    tops = {name.partition("/")[0] if "/" in name else "" for name in names if ending_of(name) in listed}
    return tops.pop() or None if len(tops) == 1 else None


def _kind(path: str) -> str | None:
    """What kind of list of images it may be, judging by its beginning; None if it is not one."""
    unknown = "; if it lists them"
    if ending_of(path) not in (".json", ".csv"):
        return unknown
    try:
        with fsspec.open(path, "rb") as file:
            start: bytes = file.read(_HEADER_BYTES)
    except Exception:  # clients of object stores raise their own errors; nothing depends on this
        return unknown
    if ending_of(path) == ".csv":
        header = re.split(
            r"[,;\t|]", start.decode("utf-8-sig", "replace").partition("\n")[0].replace('"', "")
        )
        names = {*COLUMNS["file_name"], *LIKELY["file_name"]}
        return " and lists images; to use it" if names & set(map(column_name, header)) else None
    if any(key in start for key in (b'"detection_categories"', b'"detections"', b'"predictions"')):
        return " and has results of a detector; to use them"
    return " and lists images; to use it" if b'"file_name"' in start else None


def _of_names(target: str, names: Sequence[str]) -> Found:
    kinds = Counter(ending_of(name) for name in names)
    images = [name for name in names if ending_of(name) in IMAGE_ENDINGS | RAW_ENDINGS]
    videos = [name for name in names if ending_of(name) in VIDEO_ENDINGS]
    if not images and not videos:
        raise InputError(f"{redacted(target)}: no image below it (camtrap init); is it the right folder?")
    n_other = len(names) - len(images) - len(videos)
    endings = ", ".join(f"{kind} {number:,}" for kind, number in kinds.most_common(_SHOWN))
    lines = [
        plural(len(images), "image")
        + (f", {plural(len(videos), 'video')}" if videos else "")
        + f" ({endings})",
        *([counted(n_other, "other files, which are left out")] if n_other else []),
    ]
    headers = _headers(ImageRoot(target), images)
    lines.append(_dates(headers))
    hierarchy, told = _keywords(headers)
    lines += told
    levels = _levels([*images, *videos])
    camera, species = _guess(levels, len(images) + len(videos))
    dataset = {"format": "folder", "images": target}
    return Found(dataset, lines, levels, camera, species, videos=len(videos), hierarchy=hierarchy)


def _n_videos(names: Iterable[str]) -> int:
    return sum(ending_of(name) in VIDEO_ENDINGS for name in names)


def _levels(names: Iterable[str]) -> list[Level]:
    counts: list[Counter[str]] = []
    for name in names:
        for at, part in enumerate(name.split("/")[:-1]):
            if at == len(counts):
                counts.append(Counter())
            counts[at][part] += 1
    return [
        Level(at, [name for name, _ in count.most_common()], count.total()) for at, count in enumerate(counts)
    ]


def _guess(levels: list[Level], n_images: int) -> tuple[int | None, int | None]:
    """The levels of cameras and of species that their names make most likely."""

    def part(level: Level, like: re.Pattern[str]) -> float:
        return sum(bool(like.fullmatch(name)) for name in level.names) / len(level.names)

    def is_of_species(level: Level) -> bool:
        words = [name.replace("_", " ").casefold() for name in level.names]
        known = sum(word in _NO_SPECIES or is_word_for_empty(word) for word in words)
        likely = part(level, _BINOMIAL) >= 0.5 or (known and part(level, _NOTHING_BUT_NAMES) >= 0.8)
        return bool(likely) and part(level, _DATE) == 0

    open_levels = [
        level
        for level in levels
        if part(level, _DCIM) < 0.5 and part(level, _DATE) < 0.5 and level.n_images > 0.5 * n_images
    ]
    species = next((level for level in open_levels if is_of_species(level)), None)
    rest = [level for level in open_levels if level is not species]
    several = [level for level in rest if len(level.names) > 1]
    named = [level for level in several if part(level, _CAMERA) >= 0.5]
    # Cards with nothing but a camera's own folders below: one card, one camera.
    cards = [level for level in levels if len(level.names) > 1 and part(level, _CARD) == 1]
    camera = next(iter(named or several or rest or cards), None)
    return (camera.number if camera else None), (species.number if species else None)


def _headers(root: ImageRoot, images: Sequence[str]) -> list[bytes]:
    """The first bytes of some JPEG files; empty for one that can't be read."""
    jpegs = [name for name in images if ending_of(name) in (".jpg", ".jpeg")]
    headers = []
    for at in np.unique(np.linspace(0, len(jpegs) - 1, _SAMPLE).astype(int)) if jpegs else ():
        try:
            headers.append(root.read(jpegs[at], most=_HEADER_BYTES))
        except (OSError, ValueError):
            headers.append(b"")
    return headers


def _keywords(headers: Sequence[bytes]) -> tuple[str | None, list[str]]:
    """The keyword above the species, if its name shows that, and lines about keywords."""
    found = [read_keywords(header) for header in headers]
    tagged = [keywords for keywords in found if keywords.flat or keywords.paths]
    if not tagged:
        return None, []
    tops = Counter(path[0] for keywords in tagged for path in keywords.paths if len(path) > 1)
    words = Counter(word for keywords in tagged for word in keywords.flat)
    words += Counter("|".join(path) for keywords in tagged for path in keywords.paths)
    some = ", ".join(word for word, _ in words.most_common(_SHOWN))
    line = f"keywords: {len(tagged)} of {len(found)} images looked at have some: {some}"
    hierarchy = next((top for top, _ in tops.most_common() if top.casefold() in _TOPS), None)
    hint = "" if hierarchy else "; if they name species, dataset.label: {hierarchy: NAME} or {keywords: true}"
    return hierarchy, [line + hint]


def _dates(headers: Sequence[bytes]) -> str:
    if not headers:
        return "dates: not looked for (no JPEG)"
    taken: list[dt.datetime] = []
    cameras: Counter[str] = Counter()
    for header in headers:
        fields = read_jpeg_exif(header)
        if fields.taken is not None:
            taken.append(fields.taken)
        if fields.make or fields.model:
            cameras[" ".join(filter(None, (fields.make, fields.model)))] += 1
    made = f"; taken with {', '.join(name for name, _ in cameras.most_common(2))}" if cameras else ""
    if not taken:
        return f"dates: none of {len(headers)} images looked at has one in its EXIF{made}"
    return (
        f"dates: {len(taken)} of {len(headers)} images looked at have one in their EXIF, "
        f"{min(taken):%Y-%m-%d} to {max(taken):%Y-%m-%d}{made}"
    )


class _Named(msgspec.Struct):
    file: str | None = None
    file_name: str | None = None


class _Listed(msgspec.Struct):
    images: list[_Named]


class _Predicted(msgspec.Struct):
    filepath: str


class _Predictions(msgspec.Struct):
    predictions: list[_Predicted]


def _of_json(target: str) -> Found:
    data = read_json(target, "camtrap init")

    def has(key: str) -> bool:
        return data.find(f'"{key}"'.encode()) >= 0

    if has("resources"):
        base = target.rpartition("/")[0]
        return Found(
            {"format": "camtrap-dp", "metadata": target, "images": base},
            [f"a Camtrap DP data package: {redacted(target)}"],
        )
    is_results = has("detection_categories") or (has("detections") and not has("annotations"))
    try:
        if has("predictions") and not has("images"):
            names = [one.filepath for one in msgspec.json.decode(data, type=_Predictions).predictions]
        else:
            listed = msgspec.json.decode(data, type=_Listed).images
            names = [name for one in listed if (name := one.file if is_results else one.file_name)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise InputError(f"{redacted(target)}: no list of images (camtrap init): {problem}") from None
    if not names:
        raise InputError(f"{redacted(target)}: lists no image (camtrap init)")
    root, line, n_found = _root_of(target, names)
    if is_results or not has("images"):
        found = _of_results(target, names, root)
        found.n_found = n_found
        found.lines.append(line)
        return found
    labelled = "with labels of people" if has("annotations") else "without labels"
    lines = [f"a COCO Camera Traps file of {plural(len(names), 'image')}, {labelled}", line]
    dataset = {"format": "cct", "metadata": target, "images": root}
    return Found(dataset, lines, videos=_n_videos(names), n_found=n_found)


def _of_results(target: str, names: list[str], root: str) -> Found:
    below = [tidy_name(name, root) for name in names]
    levels = _levels(below)
    camera, _ = _guess(levels, len(below))
    lines = [f"results of a detector for {plural(len(names), 'image')}"]
    return Found({"format": "folder", "images": root}, lines, levels, camera, None, target, _n_videos(below))


def _of_table(target: str) -> Found:
    expected = [name for names in (*COLUMNS.values(), *LIKELY.values()) for name in names]
    table = read_table(target, "camtrap init", expected)
    used = used_columns(table)
    likely = likely_columns(table, used)
    read = ", ".join(used.values())
    used |= likely
    if "file_name" not in used:
        table.require({"file_name": COLUMNS["file_name"]})
    names = [name or "" for name in table.columns[used["file_name"]]]
    if "folder" in used:
        folders = table.columns[used["folder"]]
        names = [f"{a}/{b}" if a and b else b for a, b in zip(folders, names, strict=True)]
    files = [name for name in names if name]
    if not files:
        raise InputError(f"{redacted(target)}: lists no image (camtrap init)")
    root, line, n_found = _root_of(target, files)
    of_cameras = [name for name in camera_columns(table).values() if name not in used.values()]
    left = [name for name in table.columns if name not in (*used.values(), *of_cameras)]
    taken = ", ".join(f"{name} ({what})" for what, name in likely.items())
    lines = [
        f"a table of {plural(len(table), 'row')}",
        *([f"columns that are read: {read}"] if read else []),
        *([f"columns taken for what their names say: {taken}"] if taken else []),
        *([f"columns about cameras, for cameras.csv: {', '.join(of_cameras)}"] if of_cameras else []),
        *([f"columns that are ignored: {', '.join(left)}"] if left else []),
        line,
    ]
    found = Found(
        {"format": "csv", "metadata": target, "images": root},
        lines,
        videos=_n_videos(files),
        table=table,
        files=[tidy_name(name, root) for name in names],
        n_found=n_found,
    )
    found.has_labels = bool({"category_id", "category_name"} & set(used))
    if likely:
        found.dataset["columns"] = likely
    if "category_name" in used and "category_id" not in used:
        several = several_in_one(table.columns[used["category_name"]])
        if several:
            sign, cells = max(several.items(), key=lambda item: len(item[1]))
            found.dataset["label"] = {"between": sign}
            told = counted(len(cells), "cells with several species, which are taken apart, such as")
            lines.append(f"{told} {cells[0]!r}")
    if "location" not in used:
        found.levels = _levels(tidy_name(name, root) for name in files)
        found.camera, found.species = _guess(found.levels, len(files))
    if found.has_labels:
        found.species = None
    return found


def _of_zip(target: str) -> Found:
    names = list(ImageRoot(target).walk())
    packages = [name for name in names if name.rpartition("/")[2] == "datapackage.json"]
    if packages:
        inside = packages[0].rpartition("/")[0]
        root = f"zip://{inside}::{target}" if inside else target
        return Found(
            {"format": "camtrap-dp", "metadata": target, "images": root},
            [f"a Camtrap DP data package in a zip: {redacted(target)}"],
        )
    if not any(ending_of(name) in IMAGE_ENDINGS | RAW_ENDINGS | VIDEO_ENDINGS for name in names):
        if any(ending_of(name) == ".json" for name in names):
            return _of_json(target)
        raise InputError(f"{redacted(target)}: holds neither images nor metadata (camtrap init)")
    return _of_names(target, names)


def find_media(found: Found, names: Sequence[str]) -> str:
    """Look where the media of a data package are, and set `dataset.images` to it; returns a line about it."""
    metadata, images = (str(found.dataset[key]) for key in ("metadata", "images"))
    if not metadata.endswith(".json"):
        found.n_found = _n_there(images, _sample(names))
        return _told(images, found.n_found, len(_sample(names)))
    found.dataset["images"], line, found.n_found = _root_of(metadata, names)
    return line


def _sample(names: Sequence[str]) -> list[str]:
    return [names[at] for at in np.unique(np.linspace(0, len(names) - 1, _SAMPLE).astype(int))]


def _root_of(target: str, names: Sequence[str]) -> tuple[str, str, int | None]:
    """The folder that listed names are relative to, judged by a sample of them; a line about it; and how many
    of the sample were found there, None if they were not looked for."""
    sample = _sample(names)
    base = target.rpartition("/")[0] or "."
    if all(name.startswith("/") or "://" in name for name in sample):
        common = os.path.commonpath([name.partition("://")[2] or name for name in sample])
        scheme = sample[0].partition("://")[0] + "://" if "://" in sample[0] else ""
        if "." in common.rpartition("/")[2]:
            common = common.rpartition("/")[0]
        return f"{scheme}{common}", "file names are absolute; their common folder is the image root", None
    candidates = [base, f"{base}/images", f"{base}/photos", f"{base}/data"]
    if "://" not in base:
        folder = Path(base)
        candidates += sorted(str(entry) for entry in folder.iterdir() if entry.is_dir())[:50]
        candidates += [str(folder.parent)]
        candidates += sorted(str(entry) for entry in folder.glob("*.zip"))[:10]
    best, most = base, 0
    for candidate in dict.fromkeys(candidates):
        there = _n_there(candidate, [tidy_name(name) for name in sample])
        if there > most:
            best, most = candidate, there
        if there == len(sample):
            break
    if not most and "://" not in base and all("/" not in name and "\\" not in name for name in sample):
        best, most = _with_bare_names([path for path in candidates[1:] if Path(path).is_dir()], sample) or (
            best,
            0,
        )
    return best, _told(best, most, len(sample)), most


def _with_bare_names(folders: Sequence[str], names: Sequence[str]) -> tuple[str, int] | None:
    """The first folder that has files of these names somewhere below it, and of how many."""
    wanted = set(map(path_key, names))
    for folder in dict.fromkeys(folders):
        found = wanted & {path_key(name).rpartition("/")[2] for name in ImageRoot(folder).walk()}
        if found:
            return folder, sum(path_key(name) in found for name in names)
    return None


def _told(root: str, n_there: int, n_looked_for: int) -> str:
    if not n_there:
        return (
            f"can't tell where the images are: none of {n_looked_for} names was found beside the file; "
            "set dataset.images"
        )
    return f"images: {n_there} of {n_looked_for} names were found in {redacted(root)}"


def _n_there(root: str, names: Sequence[str]) -> int:
    try:
        return int((ImageRoot(root).listing(list(names)).sizes >= 0).sum())
    except (OSError, InputError):
        return 0


def _exists(path: str) -> bool:
    try:
        filesystem, inner = fsspec.core.url_to_fs(path)
        return bool(filesystem.exists(inner))
    except Exception as problem:  # clients of object stores raise their own errors
        raise InputError(f"{redacted(path)}: can't be read (camtrap init): {plain(problem)}") from None


__all__ = ["Found", "Level", "look"]
