"""The camera location that a file's path names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.labels import number_labels, split_cell
from camtrap_batch.catalog.table import Catalog, group_labels
from camtrap_batch.errors import InputError
from camtrap_batch.images import is_unsafe
from camtrap_batch.job import Label, Location


def location_finder(how: Location | None, label: Label | None = None) -> Callable[[str], str | None]:
    """`location_of_path` with the settings of `dataset.location`.

    Without it, a file's folder is its location, except for the level that names the species. A name that is
    no path below the image root has none.
    """
    find = _location_finder(how, label)
    return lambda path: None if is_unsafe(path) else find(path)


def _location_finder(how: Location | None, label: Label | None) -> Callable[[str], str | None]:
    if how is not None:
        return location_of_path(how.level, how.regex)
    folder = location_of_path(None, None)
    if label is None or label.level is None:
        return folder
    level = label.level

    def others(path: str) -> str | None:
        parts = path.split("/")
        return (
            folder("/".join([*parts[:level], *parts[level + 1 :]]))
            if len(parts) > level + 1
            else folder(path)
        )

    return others


def label_finder(how: Label) -> Callable[[str], str | None]:
    """A function from a file's path to the label that `dataset.label` finds in it, or None.

    >>> label_finder(Label(level=1))("CAM1/Vulpes vulpes/a.jpg")
    'Vulpes vulpes'
    """
    search = location_of_path(how.level, how.regex, "label")
    if how.level is None:
        return search
    level = how.level
    return lambda path: search(path) if path.count("/") > level else None


def labels_of_paths(
    files: Sequence[str], how: Label, notes: Counter[str]
) -> tuple[pa.Array, list[tuple[int, str]]]:
    """The column `labels` and the categories that `dataset.label` finds in paths.

    Raises InputError if it finds none.
    """
    find = label_finder(how)
    found = [(row, part) for row, file in enumerate(files) for part in _parts(find(file), how.between)]
    if not found:
        raise InputError(
            f"dataset.label: {how.regex or f'level {how.level}'} finds a label in none of the paths, such as "
            f"{files[0]!r}"
        )
    rows = np.array([row for row, _ in found], np.int64)
    ids, categories = number_labels([name for _, name in found], how.empty, notes)
    notes["images without an annotation"] += len(files) - len(np.unique(rows))
    return group_labels(rows, ids, [None] * len(rows), len(files), dict(categories)), categories


def _parts(label: str | None, between: str | None) -> list[str]:
    if not label:
        return []
    return [label] if between is None else split_cell(label, between)


def check_locations(how: Location | None, catalog: Catalog) -> Catalog:
    """The catalog, with a note on paths that are not as deep as `dataset.location` says.

    Raises InputError if it finds a location in none of the paths.
    """
    if how is not None and catalog.table["location"].null_count == catalog.table.num_rows:
        first = catalog.table["file_name"][0].as_py()
        raise InputError(
            f"dataset.location: {how.regex or f'level {how.level}'} finds a location in none of the paths, "
            f"such as {first!r}"
        )
    if how is not None and how.level is not None:
        names, locations = catalog.table["file_name"], catalog.table["location"]
        folders = pc.count_substring(names, "/")
        is_own_folder = pc.equal(locations, pc.replace_substring_regex(names, r"/[^/]*$", ""))
        is_shallow = pc.and_(pc.less_equal(folders, how.level), is_own_folder)
        if shallow := pc.sum(is_shallow).as_py():
            deepest = pc.max(folders).as_py()
            hint = f"; the deepest is level {deepest - 1}" if deepest <= how.level else ""
            text = (
                f"images without a folder level {how.level} in their path: their own folder is the location"
            )
            catalog.notes[text + hint] = shallow
    return catalog


def location_of_path(
    level: int | None, regex: str | None, group_name: str = "location"
) -> Callable[[str], str | None]:
    """A function from a file's path to its camera location; without level and regex: the file's folder.

    Parameters
    ----------
    level : which folder of the path, 0 = the first; a file that is not that deep belongs to its own folder
    regex : searched in the path; its group `group_name`, or else its first group; no match: None

    >>> location_of_path(0, None)("CAM1/2020/a.jpg")
    'CAM1'
    >>> location_of_path(None, r"(CAM\\d+)")("2020/CAM7_a.jpg")
    'CAM7'
    """
    if regex is not None:
        pattern = re.compile(regex)
        group: int | str = group_name if group_name in pattern.groupindex else 1

        def search(path: str) -> str | None:
            match = pattern.search(path)
            return (match[group] or None) if match else None

        return search

    def folder(path: str) -> str | None:
        parents = PurePosixPath(path).parts[:-1]
        if not parents or ".." in parents:  # out of the image root, there is no camera
            return None
        return "/".join(parents) if level is None or level >= len(parents) else parents[level]

    return folder
