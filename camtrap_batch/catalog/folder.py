"""A folder of images and nothing else -> catalog."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from camtrap_batch.catalog.base import Reader
from camtrap_batch.catalog.found import (
    KEY,
    MEDIA,
    Found,
    Given,
    count_videos,
    find_root,
    guess_levels,
    levels_of,
    listed_in,
)
from camtrap_batch.catalog.lists import lists_beside
from camtrap_batch.catalog.names import tidy_name
from camtrap_batch.catalog.paths import check_locations, labels_of_paths, location_finder
from camtrap_batch.catalog.table import Catalog, Rows, make_catalog
from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.exif import read_jpeg_exif
from camtrap_batch.images.keywords import read_keywords
from camtrap_batch.job import Label, WithLabel
from camtrap_batch.remote import redacted
from camtrap_batch.vocabulary import IMAGE_ENDINGS, RAW_ENDINGS, VIDEO_ENDINGS, counted, ending_of, plural

_HEADERS = 40  # number of images whose EXIF is read
_HEADER_BYTES = 2**18
_SHOWN = 4
_TOPS = frozenset({"species", "taxon", "taxa", "animal", "animals", "art", "arten", "espèce", "especie"})


class FolderDataset(WithLabel):
    needs: ClassVar = {"images": "where the images are"}
    refuses: ClassVar = {
        "metadata": "format folder reads no metadata file: leave out the key `metadata`",
    }

    format: Literal["folder"]


class FolderReader(Reader[FolderDataset]):
    section = FolderDataset
    help = "paths alone"
    ids_are_paths = True
    names_are_given = False

    @classmethod
    def recognise(cls, given: Given) -> Found | None:
        """A folder or zip of images, or results of a detector, which list them."""
        if given.is_json and given.has_results:
            return _of_results(given)
        if given.is_zip and any(ending_of(name) in MEDIA for name in given.names):
            found = _of_names(given.url, given.names)
            found.lines += lists_beside(given)
            return found
        return _of_folder(given) if given.is_folder else None

    @property
    def has_labels(self) -> bool:
        return self.dataset.label is not None

    def fingerprint(self) -> dict[str, Any]:
        names = "\n".join(without_run_folders(list(self._root.walk()), Counter()))
        return {"names": hashlib.sha256(names.encode()).hexdigest()}

    def read(self) -> Catalog:
        dataset = self.dataset
        catalog = read_folder(
            self._root.walk(),
            location_finder(dataset.location, dataset.path_label),
            dataset.path_label,
            where=redacted(str(dataset.images)),
            utc_offset=dataset.utc_offset,
        )
        return check_locations(dataset.location, catalog)

    @property
    def _root(self) -> ImageRoot:
        return ImageRoot(str(self.dataset.images), self.dataset.storage_options)


def read_folder(
    names: Iterable[str],
    location_of: Callable[[str], str | None],
    label: Label | None = None,
    *,
    where: str,
    utc_offset: str | None = None,
) -> Catalog:
    """Catalog of the files below a folder.

    Parameters
    ----------
    names : posix paths relative to the image root
    location_of : finds the location in a path
    label : where a path names the species

    Raises
    ------
    InputError
        There is no image among them.
    """
    notes: Counter[str] = Counter()
    files: list[str] = []
    for name in without_run_folders(list(names), notes):
        if ending_of(name) in MEDIA:  # those that can't be read are accounted for as well
            files.append(name)
            if "\ufffd" in name:
                notes["file names that are not UTF-8 and can't be opened; convmv renames them"] += 1
        else:
            notes["files that are neither image nor video, left out"] += 1
    if not files:
        raise InputError(
            f"{where}: no image in this folder (dataset.images); possible: {' '.join(sorted(IMAGE_ENDINGS))}"
        )
    rows = Rows(image_id=files, file_name=files, location=[location_of(name) for name in files])
    labels, categories = labels_of_paths(files, label, notes) if label is not None else (None, [])
    return make_catalog(
        rows,
        labels,
        source="folder",
        where=where,
        categories=categories,
        notes=notes,
        utc_offset=utc_offset,
    )


def without_run_folders(names: Sequence[str], notes: Counter[str]) -> Sequence[str]:
    """File names except those in jobs' run folders, which hold a report's pictures; counted in `notes`."""
    jobs = {name.rpartition("/")[0] for name in names if name.endswith("/job.yaml")}
    folders = tuple(
        f"{job}/"
        for job in jobs
        if any(name.startswith((f"{job}/plans/", f"{job}/snapshots/")) for name in names)
    )
    if not folders:
        return names
    kept = [name for name in names if not name.startswith(folders)]
    notes["files in run folders of jobs, left out"] += len(names) - len(kept)
    return kept


def _of_folder(given: Given) -> Found:
    notes: Counter[str] = Counter()
    names = without_run_folders(given.names, notes)
    inside = _only_folder(names) if _is_here(given) else None
    root = given.url
    if inside is not None:
        root = f"{given.url.rstrip('/')}/{inside}"
        names = [name.removeprefix(f"{inside}/") for name in names if name.startswith(f"{inside}/")]
    found = _of_names(root, names)
    if inside is not None:
        found.lines.insert(1, f"all images here are in {inside}, which is taken as the image root")
    found.lines += [counted(n, text) for text, n in notes.items()]
    found.lines += lists_beside(given)
    return found


def _is_here(given: Given) -> bool:
    """Whether a folder is the current one, or above it: then no job file can be written here for it."""
    return given.is_local and Path.cwd().is_relative_to(Path(given.url).resolve())


def _only_folder(names: Sequence[str]) -> str | None:
    """The folder that all images and videos are in, at the first level, if it is one."""
    tops = {name.partition("/")[0] if "/" in name else "" for name in names if ending_of(name) in MEDIA}
    return tops.pop() or None if len(tops) == 1 else None


def _of_names(target: str, names: Sequence[str]) -> Found:
    kinds = Counter(ending_of(name) for name in names)
    images = [name for name in names if ending_of(name) in IMAGE_ENDINGS | RAW_ENDINGS]
    videos = [name for name in names if ending_of(name) in VIDEO_ENDINGS]
    if not images and not videos:
        raise InputError(f"{redacted(target)}: no image below it ({KEY}); is it the right folder?")
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
    levels = levels_of([*images, *videos])
    camera, species = guess_levels(levels, len(images) + len(videos))
    dataset = {"format": "folder", "images": target}
    return Found(dataset, lines, levels, camera, species, videos=len(videos), hierarchy=hierarchy)


def _headers(root: ImageRoot, images: Sequence[str]) -> list[bytes]:
    """The first bytes of some JPEG files; empty for one that can't be read."""
    jpegs = [name for name in images if ending_of(name) in (".jpg", ".jpeg")]
    headers = []
    for at in np.unique(np.linspace(0, len(jpegs) - 1, _HEADERS).astype(int)) if jpegs else ():
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


class _Listed(msgspec.Struct):
    file: str | None = None


class _Images(msgspec.Struct):
    images: list[_Listed]


class _Predicted(msgspec.Struct):
    filepath: str


class _Predictions(msgspec.Struct):
    predictions: list[_Predicted]


def _of_results(given: Given) -> Found:
    if given.has_key("predictions") and not given.has_key("images"):
        names = [one.filepath for one in given.decode(_Predictions).predictions]
    else:
        names = [one.file for one in given.decode(_Images).images if one.file]
    root, line, n_found = find_root(given.url, listed_in(given, names))
    below = [tidy_name(name, root) for name in names]
    levels = levels_of(below)
    camera, _ = guess_levels(levels, len(below))
    return Found(
        {"format": "folder", "images": root},
        [f"results of a detector for {plural(len(names), 'image')}", line],
        levels,
        camera,
        results=given.url,
        videos=count_videos(below),
        n_found=n_found,
    )
