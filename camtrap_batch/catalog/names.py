"""File names as given in metadata -> as they are in the image root."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.sources.base import are_unsafe, path_key


def tidy_names(names: pa.Array, notes: Counter[str], root: str | None = None) -> pa.Array:
    """Names with / between folders, relative to `root`, and without redundant ./ and //."""
    contents = [_content(chunk) for chunk in getattr(names, "chunks", [names])]

    def has(text: str) -> bool:
        return any(text.encode() in content for content in contents)

    above = f"{root.rstrip('/')}/" if root else ""
    if has("\\"):
        is_windows = pc.and_not(pc.match_substring(names, "\\"), pc.match_substring(names, "/"))
        if changed := pc.sum(is_windows).as_py():
            notes["file names with backslashes, read as /"] += changed
            names = pc.if_else(is_windows, pc.replace_substring(names, "\\", "/"), names)
    if above and has(above):
        is_below = pc.starts_with(names, above)
        names = pc.if_else(is_below, pc.utf8_slice_codeunits(names, len(above)), names)
    if has("./") or has("//") or has(".\\"):
        names = pc.replace_substring_regex(names, r"(^|/)(?:\./)+", r"\1")
        names = pc.replace_substring_regex(names, r"([^/:])//+", r"\1/")
    return names


def as_files_have_it(
    names: pa.ChunkedArray,
    root: ImageRoot,
    notes: Counter[str],
    locations: pa.ChunkedArray | None = None,
) -> pa.ChunkedArray:
    """File names; a name that no file has is replaced by the only one that differs just in case, or in how
    accents are encoded (NFC, NFD); or, if it has no folder, by the only file of that name in any folder.
    Counted in `notes`.

    If there are many names, a sample shows whether all need to be looked for. On a disk, only those folders
    are listed that may hold the files that do not exist under these names; all of them for names without a
    folder.

    Parameters
    ----------
    locations : the locations given for these files: where a folder is called so, the file must be in it
    """
    step = 1 if len(names) <= _MANY else len(names) // _SAMPLE
    sample = names.take(pa.array(np.arange(0, len(names), step))).to_pylist()
    if (root.listing(sample).sizes >= 0).all():
        return names
    given = names.to_pylist()
    missing = np.flatnonzero(root.listing(given).sizes < 0).tolist()
    try:
        there = list(root.walk_near([given[row] for row in missing]))
    except (InputError, OSError):  # a web server does not list its files
        return names
    taken = set(given)
    files: dict[str, list[str]] = {}
    for name in there:
        files.setdefault(path_key(name), []).append(name)
    found = {}
    for row in missing:
        same = files.get(path_key(given[row]), [])
        if len(same) == 1 and same[0] not in taken:
            found[row] = same[0]
    if found:
        row = min(found)
        notes[
            f"file names taken as the files have them, in case and accents, such as {found[row]!r} for "
            f"{given[row]!r}"
        ] += len(found)
    bare = {row: given[row] for row in missing if row not in found and "/" not in given[row]}
    if bare:
        found |= _in_any_folder(bare, root, taken.union(found.values()), notes, locations)
    if not found:
        return names
    return pa.chunked_array([[found.get(row, name) for row, name in enumerate(given)]], pa.string())


def _in_any_folder(
    bare: dict[int, str],
    root: ImageRoot,
    taken: set[str],
    notes: Counter[str],
    locations: pa.ChunkedArray | None,
) -> dict[int, str]:
    """Row -> the only file of that name, wherever it is, if no other row has it."""
    wanted = {path_key(name) for name in bare.values()}
    files: dict[str, list[str]] = {}
    folders: set[str] = set()
    try:
        there = list(root.walk())
    except (InputError, OSError):
        return {}
    for name in there:
        *above, last = path_key(name).split("/")
        folders.update(above)
        if last in wanted:
            files.setdefault(last, []).append(name)
    found: dict[int, str] = {}
    several: dict[int, list[str]] = {}
    for row, name in bare.items():
        same = files.get(path_key(name), [])
        location = None if locations is None else locations[row].as_py()
        if location is not None and path_key(location) in folders:
            same = [file for file in same if path_key(location) in path_key(file).split("/")[:-1]]
        if len(same) > 1:
            several[row] = same
        elif same and same[0] not in taken:
            found[row] = same[0]
            taken.add(same[0])
    if found:
        row = min(found)
        notes[
            "file names without a folder, taken to be the only file of that name, such as "
            f"{found[row]!r} for {bare[row]!r}"
        ] += len(found)
    if several:
        row = min(several)
        listed = " and ".join(map(repr, sorted(several[row])[:2]))
        notes[
            f"file names without a folder that files in several folders have, such as {listed} for "
            f"{bare[row]!r}: give their folders"
        ] += len(several)
    return found


def outside_of_root(names: pa.ChunkedArray) -> list[str] | None:
    """Which names are not paths inside the image root (see `is_unsafe`); None if all are."""
    whole = names.combine_chunks()
    # Looking at all texts at once takes a hundredth of the time of looking at each.
    if _MAYBE_OUTSIDE.search(_content(whole)) is None and not pc.any(pc.starts_with(whole, "/")).as_py():
        return None
    found: list[str] = names.filter(pa.array(are_unsafe(whole.to_pylist()))).to_pylist()
    return found or None


def _content(names: pa.Array) -> bytes:
    """All texts of an array joined: searching them at once takes a hundredth of the time of searching
    each."""
    buffer = names.buffers()[2] if len(names) else None
    return buffer.to_pybytes() if buffer is not None else b""


_MAYBE_OUTSIDE = re.compile(rb"\.\.|[\\:~\0]")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")  # Excel makes 7 of 007


class Unmatched(list[str]):
    """Names that another list does not have; `text` names some, with the nearest match in it."""

    text: str = ""


def unmatched(names: Sequence[str], others: Sequence[str], where: str) -> Unmatched:
    """The names that are not among `others`.

    >>> unmatched(["CAM03", "CAM4"], ["cam03", "CAM4"], "cameras.csv").text
    "'CAM03' (there is 'cam03' in cameras.csv)"
    """
    known = set(others)
    found = Unmatched(name for name in names if name not in known)
    free = {alike(name): name for name in others if name not in set(names)}

    def near(name: str) -> str:
        same = free.get(alike(name))
        if same is None:
            close = difflib.get_close_matches(alike(name), free, n=1, cutoff=0.75)
            same = free[close[0]] if close else None
        return f"{name!r}" + (f" (there is {same!r} in {where})" if same is not None else "")

    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    found.text = ", ".join(map(near, found[:_SHOWN])) + more
    return found


def alike(name: str) -> str:
    """A key shared by names that differ only in case, blanks, leading zeros, or in how accents are encoded.

    >>> alike("CAM 007") == alike("cam  7")
    True
    """
    return _ZEROS.sub("", unicodedata.normalize("NFC", " ".join(name.split())).casefold())


def tidy_name(name: str, root: str | None = None) -> str:
    """`tidy_names` for one name.

    >>> tidy_name("./cam1//a.jpg"), tidy_name("/data/cam1/a.jpg", "/data")
    ('cam1/a.jpg', 'cam1/a.jpg')
    """
    if root and name.startswith(f"{root.rstrip('/')}/"):
        name = name[len(root.rstrip("/")) + 1 :]
    if "\\" in name and "/" not in name:
        name = name.replace("\\", "/")
    return re.sub(r"([^/:])//+", r"\1/", re.sub(r"(^|/)(?:\./)+", r"\1", name))


_SHOWN = 5
_MANY, _SAMPLE = 20_000, 500  # with this many names, a sample of this size is looked for first
