"""The camera location that a file's path names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from camtrap_batch.catalog.table import Catalog
from camtrap_batch.errors import InputError
from camtrap_batch.job import Location


def location_finder(how: Location | None) -> Callable[[str], str | None]:
    """`location_of_path` as the job file's `dataset.location` has it."""
    return location_of_path(*((how.level, how.regex) if how is not None else (None, None)))


def check_locations(how: Location | None, catalog: Catalog) -> Catalog:
    """The catalog. Raises InputError where `dataset.location` finds a location in none of its paths."""
    if how is not None and catalog.table["location"].null_count == catalog.table.num_rows:
        first = catalog.table["file_name"][0].as_py()
        raise InputError(
            f"dataset.location: {how.regex or f'level {how.level}'} finds a location in none of the paths, "
            f"such as {first!r}"
        )
    return catalog


def location_of_path(level: int | None, regex: str | None) -> Callable[[str], str | None]:
    """A function from a file's path to its camera location; without level and regex: the file's folder.

    Parameters
    ----------
    level : which folder of the path, 0 = the first; a file that is not so deep belongs to its own folder
    regex : searched in the path; its group `location`, else its first group; no match: None

    >>> location_of_path(0, None)("CAM1/2020/a.jpg")
    'CAM1'
    >>> location_of_path(None, r"(CAM\\d+)")("2020/CAM7_a.jpg")
    'CAM7'
    """
    if regex is not None:
        pattern = re.compile(regex)
        group: int | str = "location" if "location" in pattern.groupindex else 1

        def search(path: str) -> str | None:
            match = pattern.search(path)
            return (match[group] or None) if match else None

        return search

    def folder(path: str) -> str | None:
        parents = PurePosixPath(path).parts[:-1]
        if not parents:
            return None
        return "/".join(parents) if level is None or level >= len(parents) else parents[level]

    return folder
