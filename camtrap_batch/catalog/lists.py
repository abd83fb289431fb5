"""Lists of images that lie beside them, or in a zip with them: `camtrap init` says how to use one."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

from camtrap_batch.catalog.csv_columns import COLUMNS, LIKELY
from camtrap_batch.catalog.datapackage import DESCRIPTOR
from camtrap_batch.catalog.found import KEY, MEDIA, Given
from camtrap_batch.catalog.jsonfile import as_utf8
from camtrap_batch.catalog.tabular import column_name, decode
from camtrap_batch.catalog.zipped import read_file, zip_and_name
from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot
from camtrap_batch.remote import redacted
from camtrap_batch.vocabulary import ending_of

_TABLES = (".csv", ".tsv", ".txt", ".xlsx")
_START = 2**18  # bytes that show what a file is
_SHOWN = 4
_UNKNOWN = "; if it lists them"


def lists_beside(given: Given) -> list[str]:
    """A line about each list of images at the top of a folder or zip, or in a zip there."""
    lines: list[str] = []
    for name in _at_top(given.names, is_in_zip=given.is_zip):
        path = f"zip://{name}::{given.url}" if given.is_zip else f"{given.url.rstrip('/')}/{name}"
        if ending_of(name) == ".zip" and not given.is_zip:
            lines += _in_zip_beside(name, path)
        elif (kind := _kind(path)) is not None:
            where = f"lies {'in the zip' if given.is_zip else 'beside the images'}"
            lines.append(f"{name} {where}{kind}: camtrap init {_shown(path)}")
    return lines[:_SHOWN]


def only_list(given: Given) -> Given:
    """The list of images in a zip that has no images itself; anything else as it is.

    Raises InputError if there are several lists: one has to be chosen.
    """
    if not given.is_zip or any(ending_of(name) in MEDIA for name in given.names):
        return given
    if any(name.rpartition("/")[2] == DESCRIPTOR for name in given.names):
        return given
    paths = [f"zip://{name}::{given.url}" for name in given.names if _may_list(name)]
    found = [path for path in paths if _kind(path) is not None] or paths
    if len(found) > 1:
        some = " or ".join(f"camtrap init {_shown(path)}" for path in found[:_SHOWN])
        raise InputError(f"{redacted(given.url)}: holds {len(found)} lists of images ({KEY}); choose: {some}")
    # Readers of JSON take the zip itself, which is shorter in the job file.
    return Given(found[0]) if found and not given.is_json else given


def _at_top(names: Sequence[str], *, is_in_zip: bool) -> Iterator[str]:
    """Files that may list images, not in a folder; in a zip, its only folder does not count."""
    tops = {name.partition("/")[0] if "/" in name else "" for name in names}
    top = f"{tops.pop()}/" if is_in_zip and len(tops) == 1 else ""
    for name in names:
        if "/" not in name.removeprefix(top) and (_may_list(name) or ending_of(name) == ".zip"):
            yield name


def _in_zip_beside(name: str, path: str) -> Iterator[str]:
    """Lines about what lists images in a zip beside them, or images that are in it."""
    with suppress(InputError, OSError):
        names = list(ImageRoot(path).walk())
        if any(inside.rpartition("/")[2] == DESCRIPTOR for inside in names):
            yield f"{name} holds a data package; to use it: camtrap init {_shown(path)}"
        elif any(ending_of(inside) in MEDIA for inside in names):
            yield f"{name} holds images, which are not counted here: camtrap init {_shown(path)}"
        else:
            for inside in filter(_may_list, names):
                listed = f"zip://{inside}::{path}"
                if (kind := _kind(listed)) is not None:
                    yield f"{inside} in {name} lies beside the images{kind}: camtrap init {_shown(listed)}"


def _may_list(name: str) -> bool:
    return ending_of(name) in (*_TABLES, ".json")


def _shown(path: str) -> str:
    """A path or URL as an argument of a command in the current folder."""
    file, name = zip_and_name(path) or (path, None)
    file = redacted(file) if "://" in file else os.path.relpath(file)
    return shlex.quote(file if name is None else f"zip://{name}::{file}")


def _kind(path: str) -> str | None:
    """What kind of list of images it may be, judging by its beginning; None if it is not one."""
    if path.endswith(".xlsx") or ".xlsx::" in path:
        return _UNKNOWN
    try:
        start = read_file(path, _START)
        if ending_of((zip_and_name(path) or ("", path))[1]) != ".json":
            header = re.split(r"[,;\t|]", decode(path, KEY, start, Counter()).partition("\n")[0])
            names = {*COLUMNS["file_name"], *LIKELY["file_name"]}
            listed = names & {column_name(cell.replace('"', "")) for cell in header}
            return " and lists images; to use it" if listed else None
        start = as_utf8(start)
    except Exception:  # clients of object stores raise their own errors; nothing depends on this
        return _UNKNOWN
    if any(key in start for key in (b'"detection_categories"', b'"detections"', b'"predictions"')):
        return " and has results of a detector; to use them"
    return " and lists images; to use it" if b'"file_name"' in start else None
