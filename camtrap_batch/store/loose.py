"""Files of a run folder that no snapshot, receipt or journal names: what is wrong with each.

Those that carry sums (see `sums`) are compared with them. Others, and those of earlier versions, are read as
far as a job would read them.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from camtrap_batch.errors import Damaged
from camtrap_batch.store import copies, snapshots, sums
from camtrap_batch.store.folder import Entry, Folder
from camtrap_batch.store.records import OTHER_BYTES, Unreadable, from_json
from camtrap_batch.store.tables import open_table

_PAGE = "report/index.html"
_PHOTO = re.compile(r"(\d+-(\d+))")
_NAME_OF_PHOTO = re.compile(r"\d+/(\d+-\d+)/[^/]+")  # see images.sources.attachments


@dataclass(frozen=True)
class Loose:
    """What is wrong with a file.

    Attributes
    ----------
    file, what, then : as in `check.Fault`
    action : what a repair does with `files`: they are put aside, deleted, or replaced by `data`
    files : `file`, and what is useless without it
    """

    file: str
    what: str
    then: str
    action: Literal["aside", "delete", "replace", "none"]
    files: tuple[str, ...] = ()
    data: bytes = field(default=b"", repr=False)


@dataclass
class _Any:
    more: dict[str, Any] = field(default_factory=dict)


def find_loose(
    folder: Folder, entries: Mapping[str, Entry], detector_fault: Callable[[Folder], str | None]
) -> Iterator[Loose]:
    """What is wrong with each of the files that nothing else names.

    Parameters
    ----------
    detector_fault : returns what is wrong with the folder of a detector that has no sums
    """
    yield from _job(folder, entries)
    yield from _detectors(folder, entries, detector_fault)
    yield from _checkpoints(folder, entries)
    yield from _report(folder, entries)
    yield from _performance(folder, entries)
    yield from _samples(folder, entries)
    yield from _outputs(folder, entries)
    yield from _attachments(folder, entries)


def _job(folder: Folder, entries: Mapping[str, Entry]) -> Iterator[Loose]:
    path = "job.yaml"
    for data in _content(folder, entries, path):
        what = None
        try:
            if sums.read_seal(data, sums.HASH_SIGN) is None:
                what = "is cut off" if sums.SEALED in data else None
                what = what if data.strip(b"\0") else "is empty"
                yaml.safe_load(data)
        except Unreadable as problem:
            what = str(problem)
        except yaml.YAMLError:
            what = what or "is not YAML"
        if what:
            yield Loose(path, what, f"{_aside(path)}, and the next run of catalog writes it again", "aside")


def _detectors(
    folder: Folder, entries: Mapping[str, Entry], fault: Callable[[Folder], str | None]
) -> Iterator[Loose]:
    again = "the next run of detect puts it there again"
    for name in sorted({path.split("/")[1] for path in _below(entries, "detectors", 3)}):
        where = f"detectors/{name}"
        inside, record = Folder(f"{folder.url}/{where}"), f"{where}/{sums.RECORD}"
        try:
            hashes = sums.read_sums(inside)
        except Unreadable as problem:
            hashes = None
            yield Loose(record, str(problem), "it is deleted, and written again by detect", "delete")
        if hashes is None:
            if (what := fault(inside)) is not None:
                files = tuple(_below(entries, where))
                yield Loose(where, what, f"{_aside(where)}, and {again}", "aside", files)
            continue
        for file, sha256 in sorted(hashes.items()):
            path = f"{where}/{file}"
            if path not in entries:
                yield Loose(path, "is missing", again, "delete", (record,))
            elif _hash_of(folder, path) != sha256:
                # Without its record the folder counts as one that is not complete yet.
                yield Loose(path, OTHER_BYTES, f"{_aside(path)}, and {again}", "aside", (path, record))


def _checkpoints(folder: Folder, entries: Mapping[str, Entry]) -> Iterator[Loose]:
    for path in _below(entries, "checkpoints"):
        if not path.endswith(".pt"):
            continue
        try:
            with folder.open(path) as file, zipfile.ZipFile(file) as packed:
                is_whole = packed.testzip() is None
        except FileNotFoundError:  # its training has ended
            continue
        except Exception:  # a damaged archive fails anywhere in its reading
            is_whole = False
        if not is_whole:
            shard = path.rpartition("-")[0]
            files = tuple(other for other in entries if other.rpartition("-")[0] == shard)
            then = f"{_aside(path)}, and training starts from the beginning"
            yield Loose(path, "is damaged (not a checkpoint)", then, "aside", files)


def _report(folder: Folder, entries: Mapping[str, Entry]) -> Iterator[Loose]:
    then = "the next run of report writes it again"
    for data in _content(folder, entries, _PAGE):
        try:
            hashes = sums.read_seal(data)
        except Unreadable as problem:
            yield Loose(_PAGE, str(problem), then, "delete")
            return
        if hashes is None and not _is_page(data):
            yield Loose(_PAGE, "is damaged (not a page)", then, "delete")
        found = []
        for name, sha256 in sorted((hashes or {}).items()):
            path, what = f"report/{name}", "is missing"
            with suppress(FileNotFoundError):
                what = "" if _hash_of(folder, path) == sha256 else OTHER_BYTES
            if what:
                # The page is what a run looks for.
                found.append(Loose(path, what, then, "delete", (path, _PAGE)))
        if found and folder.read(_PAGE) == data:  # otherwise it has just been written again
            yield from found


def _performance(folder: Folder, entries: Mapping[str, Entry]) -> Iterator[Loose]:
    for path in _below(entries, "performance"):
        for data in _content(folder, entries, path):
            try:
                is_whole = sums.read_seal(data) is not None or _is_page(data)
            except Unreadable:
                is_whole = False
            if not is_whole and path.endswith(".html"):
                then = f"it is only to be looked at: {_aside(path)}"
                yield Loose(path, OTHER_BYTES, then, "aside")


def _samples(folder: Folder, entries: Mapping[str, Entry]) -> Iterator[Loose]:
    """Random samples, whose probabilities can't be computed again, and their copies."""
    copied = (path.removeprefix(f"{copies.COPIES}/") for path in _below(entries, copies.path_of("samples")))
    for path in sorted({*_below(entries, "samples"), *copied}):
        if not path.endswith(".json"):
            continue
        copy = copies.path_of(path)
        data, what = _record(folder, entries, path)
        spare, what_of_copy = _record(folder, entries, copy)
        if what and spare:
            yield Loose(path, what, "it is restored from its copy", "replace", (path,), spare)
        elif what:
            yield Loose(path, what, "move it away, and draw again", "none")
        if what_of_copy and copy in entries and data:
            yield Loose(copy, what_of_copy, "it is made again", "replace", (copy,), data)


def _record(folder: Folder, entries: Mapping[str, Entry], path: str) -> tuple[bytes, str]:
    """A record that can be read, or what is wrong with it."""
    for data in _content(folder, entries, path):
        try:
            from_json(data, _Any)
        except Unreadable as problem:
            return b"", str(problem)
        return data, ""
    return b"", "is missing"


def _outputs(folder: Folder, entries: Mapping[str, Entry]) -> Iterator[Loose]:
    for path, data in folder.read_many(path for path in _below(entries, "outputs") if path.endswith(".json")):
        try:
            from_json(data, _Any)
        except Unreadable as problem:
            then = "it is deleted; the file that it stands for is kept when it is written again"
            yield Loose(path, str(problem), then, "delete")


def _attachments(folder: Folder, entries: Mapping[str, Entry]) -> Iterator[Loose]:
    """Photos of a feature layer: their sizes, and the hashes that the manifest has."""
    paths = [path for path in _below(entries, "attachments") if _PHOTO.fullmatch(path.rpartition("/")[2])]
    known = _hashes_of_photos(folder) if paths else {}
    for path in paths:
        name = path.rpartition("/")[2]
        size, found = int(name.rpartition("-")[2]), entries[path].bytes
        what = None
        if size != found:
            what = f"has {found:,} bytes instead of {size:,}"
        elif name in known:
            what = None if _hash_of(folder, path) in known[name] else OTHER_BYTES
        elif not folder.read(path).strip(b"\0"):
            what = "has no content"
        if what:
            yield Loose(path, what, "it is downloaded again", "delete")


def _hashes_of_photos(folder: Folder) -> dict[str, set[str]]:
    manifest = snapshots.current(folder, "manifest")
    found: dict[str, set[str]] = {}
    with suppress(Damaged, FileNotFoundError):  # reported elsewhere
        if manifest is not None:
            rows = open_table(folder, manifest).to_table(columns=["file_name", "sha256"])
            for name, sha256 in zip(rows["file_name"].to_pylist(), rows["sha256"].to_pylist(), strict=True):
                if sha256 and (match := _NAME_OF_PHOTO.fullmatch(name)):
                    found.setdefault(match[1], set()).add(sha256)
    return found


def _below(entries: Mapping[str, Entry], folder_name: str, depth: int = 0) -> list[str]:
    """Files in a folder, at any depth or as deep as this in the run folder."""
    return [
        path for path in entries if path.startswith(f"{folder_name}/") and depth in (0, path.count("/") + 1)
    ]


def _content(folder: Folder, entries: Mapping[str, Entry], path: str) -> Iterator[bytes]:
    """The content of a file, if it is still there."""
    if path in entries:
        with suppress(FileNotFoundError):
            yield folder.read(path)


def _hash_of(folder: Folder, path: str) -> str:
    return sums.sha256_of(folder.read(path))


def _is_page(data: bytes) -> bool:
    return b"</html>" in data.lower() and b"\0" not in data


def _aside(path: str) -> str:
    return f"it is put aside as damaged/{path}"
