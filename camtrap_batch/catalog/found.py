"""What `camtrap init` looks at, and what a reader finds there (`Reader.recognise`)."""

from __future__ import annotations

import mmap
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
import msgspec
import numpy as np

from camtrap_batch.catalog.jsonfile import read_json, why_not_json
from camtrap_batch.catalog.names import tidy_name
from camtrap_batch.catalog.tabular import GivenTable
from camtrap_batch.catalog.zipped import name_of, zip_and_name
from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.sources.base import path_key
from camtrap_batch.remote import plain, redacted
from camtrap_batch.vocabulary import (
    IMAGE_ENDINGS,
    PEOPLE,
    RAW_ENDINGS,
    VIDEO_ENDINGS,
    ending_of,
    is_word_for_empty,
)

KEY = "camtrap init"
"""What messages name in the place of a key of the job file."""

MEDIA = IMAGE_ENDINGS | RAW_ENDINGS | VIDEO_ENDINGS

_SAMPLE = 40  # number of names to look for
_SHOWN = 4
_CARD = re.compile(r"(SD|card|disk|usb)[ _-]?\d*", re.IGNORECASE)
_DCIM = re.compile(rf"DCIM|MISC|\d{{3}}[A-Z0-9_]{{5}}|\d{{3}}MEDIA|{_CARD.pattern}", re.IGNORECASE)
_DATE = re.compile(r"\d{4}([-_.]?\d{2}([-_.]?\d{2})?)?|\d{2}[-_.]\d{2}[-_.]\d{4}")
_BINOMIAL = re.compile(r"[A-Z]?[a-z]{3,}[ _][a-z]{3,}([ _][a-z]{3,})?")
_CAMERA = re.compile(r".*\d|.*(cam|site|station|loc|trap|plot|grid)", re.IGNORECASE)
_NO_SPECIES = frozenset({"animal", *PEOPLE})
_NOTHING_BUT_NAMES = re.compile(r"[^\W\d_]+([ _-][^\W\d_]+){0,3}")

Content = TypeVar("Content", bound=msgspec.Struct)


class Given:
    """What somebody wants a job file for: a folder, a file or a URL.

    Attributes
    ----------
    url : absolute path, or URL; `zip://name::URL` for a file in a zip
    name : its path in lower case, to look at the ending
    """

    def __init__(self, url: str) -> None:
        self.url = url
        name = name_of(url)
        self.name = (urlsplit(name).path if "://" in name else name).lower().rstrip("/")

    @property
    def is_local(self) -> bool:
        return "://" not in self.url

    @property
    def is_zip(self) -> bool:
        return self.name.endswith(".zip")

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder; what is at a URL counts as one, unless a reader knows better."""
        return not self.is_zip and (not self.is_local or Path(self.url).is_dir())

    @cached_property
    def names(self) -> Sequence[str]:
        """Names of the files in the folder or zip, relative to it."""
        return list(ImageRoot(self.url).walk())

    @property
    def is_json(self) -> bool:
        """Whether it is a JSON file, or a zip with one, and without media."""
        if not self.is_zip:
            return self.name.endswith((".json", ".json.gz"))
        endings = set(map(ending_of, self.names))
        return ".json" in endings and not endings & MEDIA

    @cached_property
    def json(self) -> bytes | mmap.mmap:
        """The bytes of the JSON file. Raises InputError if it can't be read."""
        return read_json(self.url, KEY)

    def has_key(self, key: str) -> bool:
        """Whether the JSON file has a key, or a string, of that name anywhere."""
        return self.json.find(f'"{key}"'.encode()) >= 0

    def decode(self, type_: type[Content]) -> Content:
        """The JSON file's content. Raises InputError if it is not of that type."""
        try:
            return msgspec.json.decode(self.json, type=type_)
        except msgspec.ValidationError as problem:
            raise InputError(f"{redacted(self.url)}: no list of images ({KEY}): {problem}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            why = why_not_json(self.json, problem)
            raise InputError(f"{redacted(self.url)}: no list of images ({KEY}): {why}") from None

    @property
    def has_results(self) -> bool:
        """Whether the JSON file is a detector's results: MegaDetector's or SpeciesNet's."""
        is_megadetector = self.has_key("detection_categories") or (
            self.has_key("detections") and not self.has_key("annotations")
        )
        return is_megadetector or (self.has_key("predictions") and not self.has_key("images"))


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


def levels_of(names: Iterable[str]) -> list[Level]:
    """The folder levels in the paths of images."""
    counts: list[Counter[str]] = []
    for name in names:
        for at, part in enumerate(name.split("/")[:-1]):
            if at == len(counts):
                counts.append(Counter())
            counts[at][part] += 1
    return [
        Level(at, [name for name, _ in count.most_common()], count.total()) for at, count in enumerate(counts)
    ]


def guess_levels(levels: list[Level], n_images: int) -> tuple[int | None, int | None]:
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


def count_videos(names: Iterable[str]) -> int:
    """The number of videos among files."""
    return sum(ending_of(name) in VIDEO_ENDINGS for name in names)


def listed_in(given: Given, names: Sequence[str]) -> Sequence[str]:
    """The names that a file lists. Raises InputError if there are none."""
    if not names:
        raise InputError(f"{redacted(given.url)}: lists no image ({KEY})")
    return names


def find_root(target: str, names: Sequence[str]) -> tuple[str, str, int | None]:
    """The folder that listed names are relative to, judged by a sample of them; a line about it; and how many
    of the sample were found there, None if they were not looked for."""
    sample = sample_of(names)
    file, inside = zip_and_name(target) or (target, None)
    base = file.rpartition("/")[0] or "."
    if all(name.startswith("/") or "://" in name for name in sample):
        common = os.path.commonpath([name.partition("://")[2] or name for name in sample])
        scheme = sample[0].partition("://")[0] + "://" if "://" in sample[0] else ""
        if "." in common.rpartition("/")[2]:
            common = common.rpartition("/")[0]
        return f"{scheme}{common}", "file names are absolute; their common folder is the image root", None
    folder_in_zip = (inside or "").rpartition("/")[0]
    candidates = [f"zip://{folder_in_zip}::{file}"] if folder_in_zip else []
    candidates += [file] if inside is not None else []
    candidates += [base, f"{base}/images", f"{base}/photos", f"{base}/data"]
    if "://" not in base:
        folder = Path(base)
        candidates += sorted(str(entry) for entry in folder.iterdir() if entry.is_dir())[:50]
        candidates += [str(folder.parent)]
        candidates += sorted(str(entry) for entry in folder.glob("*.zip"))[:10]
    best, most = base, 0
    for candidate in dict.fromkeys(candidates):
        there = count_there(candidate, [tidy_name(name) for name in sample])
        if there > most:
            best, most = candidate, there
        if there == len(sample):
            break
    if not most and "://" not in base and all("/" not in tidy_name(name) for name in sample):
        best, most = _with_bare_names(base, sample) or (best, 0)
    best = _with_top(best, tidy_name(sample[0])) if most else best
    return best, say_found(best, most, len(sample)), most


def _with_top(root: str, name: str) -> str:
    """A zip as an image root, with the folder that all its files are in if `name` leaves it out."""
    if not root.lower().endswith(".zip") or zip_and_name(root) is not None:
        return root
    names = list(ImageRoot(root).walk())
    tops = {inside.partition("/")[0] for inside in names}
    return root if name in names or len(tops) > 1 else f"zip://{tops.pop()}::{root}"


def _with_bare_names(base: str, names: Sequence[str]) -> tuple[str, int] | None:
    """The first folder in `base` that has files of these names somewhere below it, and of how many."""
    wanted = set(map(path_key, names))
    for folder in sorted(entry for entry in Path(base).iterdir() if entry.is_dir()):
        with suppress(OSError, InputError):
            found = wanted & {path_key(name).rpartition("/")[2] for name in ImageRoot(str(folder)).walk()}
            if found:
                return str(folder), sum(path_key(name) in found for name in names)
    return None


def sample_of(names: Sequence[str]) -> list[str]:
    """Some names, evenly spread."""
    return [names[at] for at in np.unique(np.linspace(0, len(names) - 1, _SAMPLE).astype(int))]


def say_found(root: str, n_there: int, n_looked_for: int) -> str:
    """A line about images that were looked for in a folder."""
    if not n_there:
        return (
            f"can't tell where the images are: none of {n_looked_for} names was found beside the file; "
            "set dataset.images"
        )
    return f"images: {n_there} of {n_looked_for} names were found in {redacted(root)}"


def count_there(root: str, names: Sequence[str]) -> int:
    """How many files are in a folder; none if it can't be read."""
    try:
        return int((ImageRoot(root).listing(list(names)).sizes >= 0).sum())
    except (OSError, InputError):
        return 0


def is_there(path: str) -> bool:
    """Whether a file exists. Raises InputError if that can't be said."""
    try:
        filesystem, inner = fsspec.core.url_to_fs(path)
        return bool(filesystem.exists(inner))
    except Exception as problem:  # clients of object stores raise their own errors
        raise InputError(f"{redacted(path)}: can't be read ({KEY}): {plain(problem)}") from None
