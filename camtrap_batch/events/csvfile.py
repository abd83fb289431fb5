"""The small CSV files that a job gives to `events`: taxonomy, species lists, regions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

import fsspec

from camtrap_batch.errors import InputError

Row = dict[str, str]


def read_rows(path: str, key: str, needed: Sequence[str]) -> tuple[list[str], Iterator[tuple[str, Row]]]:
    """The columns of a CSV file, in lower case, and its rows with file and line; blank lines are left out.

    Parameters
    ----------
    key : of the job file, for messages
    needed : columns that it must have, and that may not be empty

    Raises
    ------
    InputError
        The file can't be read, lacks a column, or a cell that must not be empty is.
    """
    try:
        with fsspec.open(path, "rb") as file:
            content = file.read().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file ({key})") from None
    except Exception as problem:  # clients of object stores have errors of their own
        raise InputError(f"{path}: can't be read ({key}): {problem}") from None
    lines = csv.reader(io.StringIO(content, newline=""))
    header = [name.strip().lower() for name in next(lines, [])]
    for name in needed:
        if name not in header:
            raise InputError(
                f"{path}:1: no column {name} ({key}); the columns are: {', '.join(header) or 'none'}"
            )
    if len(set(header)) != len(header):
        raise InputError(f"{path}:1: a column is there twice ({key}); the columns are: {', '.join(header)}")
    return header, _rows(path, key, lines, header, needed)


def _rows(
    path: str, key: str, lines: Iterator[list[str]], header: list[str], needed: Sequence[str]
) -> Iterator[tuple[str, Row]]:
    number = 1
    try:
        for cells in lines:
            number += 1
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{path}:{number}: {len(cells)} values ({key}), the first line names {len(header)}"
                )
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            for name in needed:
                if not row[name]:
                    raise InputError(f"{path}:{number}: {name}: empty ({key})")
            yield f"{path}:{number}", row
    except csv.Error as problem:
        raise InputError(f"{path}:{number}: not CSV ({key}): {problem}") from None
