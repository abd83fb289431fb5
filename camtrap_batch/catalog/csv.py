"""A table of images, `file_name,category_id` at least, -> catalog."""

from __future__ import annotations

import csv
import io
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import fsspec
import numpy as np

from camtrap_batch.catalog.base import Reader
from camtrap_batch.catalog.paths import check_locations, location_finder
from camtrap_batch.catalog.table import Catalog, Rows, group_labels, make_catalog
from camtrap_batch.errors import InputError
from camtrap_batch.job import WithLocation
from camtrap_batch.vocabulary import EMPTY

_NAMES = ("category_name", "category", "label", "species")
KNOWN = (
    "file_name", "category_id", *_NAMES, "count", "image_id", "location", "deployment", "seq_id", "frame_num",
    "seq_num_frames", "datetime", "width", "height",
)  # fmt: skip
"""Columns that are read; others are left alone. `category`, `label` and `species` mean category_name."""


class CsvDataset(WithLocation):
    format: Literal["csv"]


class CsvReader(Reader[CsvDataset]):
    section = CsvDataset
    help = "a table of file_name,category_id"
    ids_are_paths = True

    def read(self) -> Catalog:
        dataset = self.dataset
        find = location_finder(dataset.location)
        catalog = read_csv(str(dataset.metadata), find, utc_offset=dataset.utc_offset)
        return check_locations(dataset.location, catalog)


def read_csv(
    path: str, location_of: Callable[[str], str | None], *, utc_offset: str | None = None
) -> Catalog:
    """Read a table of images; several rows of one file are several annotations of it.

    Parameters
    ----------
    path : file or fsspec URL; UTF-8, comma separated, the first line names the columns (see `KNOWN`)
    location_of : location from a path, for images without one in the column `location`

    Raises
    ------
    InputError
        The file is not there, has no column file_name, or a value that can't be; with line and column.
    """
    table = _read(path)
    columns = table.columns
    file_names = columns["file_name"]
    if "" in file_names:
        raise InputError(f"{table.at(file_names.index(''))}: file_name: empty")
    given_ids = columns.get("image_id", file_names)
    ids = [image_id or file for image_id, file in zip(given_ids, file_names, strict=True)]
    place: dict[str, int] = {}
    for row, image_id in enumerate(ids):
        place.setdefault(image_id, row)
    firsts = list(place.values())
    _require_agreement(table, ids, place)
    names, category_ids = _categories(table)
    marked = [row for row, number in enumerate(category_ids) if number is not None]
    position = {image_id: number for number, image_id in enumerate(place)}
    image = np.asarray([position[ids[row]] for row in marked], np.int64)
    counts = table.integers("count")
    labels = group_labels(
        image,
        np.asarray([category_ids[row] for row in marked], np.int64),
        [counts[row] for row in marked],
        len(firsts),
        names,
    )
    notes = Counter({"images without an annotation": len(firsts) - len(np.unique(image))})

    def text(name: str) -> list[str | None]:
        column = columns.get(name)
        return [(column[row] or None) if column else None for row in firsts]

    def whole(name: str) -> list[int | None]:
        column = table.integers(name)
        return [column[row] for row in firsts]

    files = [file_names[row] for row in firsts]
    return make_catalog(
        Rows(
            image_id=list(place),
            file_name=files,
            location=[
                given or location_of(file) for given, file in zip(text("location"), files, strict=True)
            ],
            deployment=text("deployment"),
            seq_id=text("seq_id"),
            frame_num=whole("frame_num"),
            seq_num_frames=whole("seq_num_frames"),
            dates=text("datetime"),
            width=text("width"),
            height=text("height"),
        ),
        labels,
        source="csv",
        where=path,
        categories=sorted(names.items()),
        notes=notes,
        utc_offset=utc_offset,
    )


@dataclass(frozen=True)
class _Table:
    """The known columns, and the line of the file that each row stands on."""

    path: str
    columns: dict[str, list[str]]
    lines: list[int]

    def at(self, row: int) -> str:
        return f"{self.path}:{self.lines[row]}"

    def integers(self, name: str) -> list[int | None]:
        numbers: list[int | None] = []
        for row, cell in enumerate(self.columns.get(name, [""] * len(self.lines))):
            try:
                value = float(cell) if cell else None
                if value is not None and not (value.is_integer() and abs(value) < 2**31):
                    raise ValueError
            except (ValueError, OverflowError):
                raise InputError(
                    f"{self.at(row)}: {name}: {cell!r} should be a whole number, at most {2**31 - 1}"
                ) from None
            numbers.append(None if value is None else int(value))
        return numbers


def _read(path: str) -> _Table:
    try:
        with fsspec.open(path, "rb") as file:
            data = file.read()
        lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        header = [name.strip() for name in next(lines, [])]
        rows = [(lines.line_num, row) for row in lines]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (dataset.metadata)") from None
    except Exception as problem:  # clients of object stores have errors of their own
        raise InputError(f"{path}: can't be read as CSV in UTF-8 (dataset.metadata): {problem}") from None
    if "file_name" not in header:
        found = textwrap.shorten(", ".join(header), 200) or "none"
        raise InputError(f"{path}:1: no column file_name; the columns, between commas, are: {found}")
    if twice := [name for name, number in Counter(header).items() if number > 1 and name in KNOWN]:
        raise InputError(f"{path}:1: the column {twice[0]} is there twice")
    kept = [(number, row) for number, row in rows if any(cell.strip() for cell in row)]
    for number, row in kept:
        if len(row) != len(header):
            raise InputError(
                f"{path}:{number}: {len(row)} values, the first line names {len(header)} columns"
            )
    columns = {name: [row[at].strip() for _, row in kept] for at, name in enumerate(header) if name in KNOWN}
    return _Table(path, columns, [number for number, _ in kept])


def _categories(table: _Table) -> tuple[dict[int, str], list[int | None]]:
    """Names of the categories, and the category of each row, None where the row is not annotated."""
    given = next((table.columns[name] for name in _NAMES if name in table.columns), None)
    if "category_id" in table.columns:
        numbers = table.integers("category_id")
        names: dict[int, str] = {}
        for row, number in enumerate(numbers):
            if number is None:
                continue
            name = given[row] if given else ""
            if name and names.get(number, name) not in ("", name):
                raise InputError(
                    f"{table.at(row)}: category_id {number} is {name!r} here, {names[number]!r} further up; "
                    "an id should name one category"
                )
            names[number] = names.get(number) or name
        blank = {number: EMPTY if number == 0 else str(number) for number in names}
        return {number: name or blank[number] for number, name in names.items()}, numbers
    if given is None:
        return {}, [None] * len(table.lines)
    # Ids follow the alphabet: the same table gives the same ids.
    species = sorted({name for name in given if name and name.casefold() != EMPTY})
    number_of = {name: number for number, name in enumerate(species, 1)}
    has_empty = any(name.casefold() == EMPTY for name in given)
    ids = [0 if name.casefold() == EMPTY else number_of.get(name) for name in given]
    return {**({0: EMPTY} if has_empty else {}), **{number: name for name, number in number_of.items()}}, ids


def _require_agreement(table: _Table, ids: list[str], place: dict[str, int]) -> None:
    """Rows of one image differ in their annotation alone."""
    for name, column in table.columns.items():
        # A width may be that of an animal's box: such a table is read, too.
        if name in (*_NAMES, "category_id", "count", "width", "height"):
            continue
        for row, image_id in enumerate(ids):
            first = place[image_id]
            if column[row] != column[first]:
                raise InputError(
                    f"{table.at(row)}: {name}: {column[row]!r} differs from line {table.lines[first]}, "
                    f"{column[first]!r}, for the same image"
                )
