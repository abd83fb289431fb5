"""A table of images -> catalog: one row for each file, or for each annotation of one. See docs/csv.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np

from camtrap_batch.catalog.base import Reader
from camtrap_batch.catalog.labels import one_name_each
from camtrap_batch.catalog.names import tidy_name
from camtrap_batch.catalog.paths import check_locations, labels_of_paths, location_finder
from camtrap_batch.catalog.table import Catalog, Rows, group_labels, make_catalog
from camtrap_batch.catalog.tabular import GivenTable, Names, read_table
from camtrap_batch.dates import Order
from camtrap_batch.errors import InputError
from camtrap_batch.job import Label, WithLabel
from camtrap_batch.vocabulary import EMPTY

COLUMNS: Names = {
    "file_name": ("file_name", "filename", "file", "file_path", "filepath", "path"),
    "folder": ("relativepath", "relative_path", "directory", "folder"),
    "category_id": ("category_id",),
    "category_name": (
        "category_name",
        "category",
        "label",
        "species",
        "scientific_name",
        "scientificname",
    ),
    "count": ("count",),
    "image_id": ("image_id",),
    "location": ("location", "location_id", "locationid", "station", "station_id"),
    "deployment": ("deployment",),
    "seq_id": ("seq_id",),
    "frame_num": ("frame_num",),
    "seq_num_frames": ("seq_num_frames",),
    "datetime": ("datetime", "date_time", "timestamp", "datetimeoriginal"),
    "date": ("date",),
    "time": ("time",),
    "width": ("width",),
    "height": ("height",),
}
"""What is read -> the names that its column may have; other columns are ignored."""

_KEY = "dataset.metadata"
_OF_ANNOTATIONS = ("category_id", "category_name", "count", "width", "height")
"""Columns in which rows of one image may differ; a width may be that of an animal's box."""

Cells = list[str | None]
Cell = TypeVar("Cell")


class CsvDataset(WithLabel):
    format: Literal["csv"]


class CsvReader(Reader[CsvDataset]):
    section = CsvDataset
    help = "a table of file_name,category_id"
    ids_are_paths = True

    def read(self) -> Catalog:
        dataset = self.dataset
        catalog = read_csv(
            str(dataset.metadata),
            location_finder(dataset.location, dataset.path_label),
            dataset.path_label,
            utc_offset=dataset.utc_offset,
            order=dataset.dates,
            root=dataset.images,
        )
        return check_locations(dataset.location, catalog)


def read_csv(
    path: str,
    location_of: Callable[[str], str | None],
    label: Label | None = None,
    *,
    utc_offset: str | None = None,
    order: Order | None = None,
    root: str | None = None,
) -> Catalog:
    """Read a table of images; several rows of one file are several annotations of it.

    Parameters
    ----------
    path : file or fsspec URL of a table that `tables.read_table` accepts, with columns of `COLUMNS`
    location_of : finds the location in a path, for images without one in the column `location`
    label : where a path names the species, for a table without a column for it
    utc_offset : offset of dates that have none of their own, such as "+02:00"
    order : order of day and month in ambiguous dates
    root : path or URL that file names may begin with, and are relative to

    Raises
    ------
    InputError
        The file is missing, has no column file_name, or has an impossible value; with line and column.
    """
    table = read_table(path, _KEY, [name for names in COLUMNS.values() for name in names])
    used = {what: name for what, names in COLUMNS.items() if (name := table.name_of(names))}
    table.require({"file_name": COLUMNS["file_name"]})
    table.require_cells([used["file_name"]])
    notes = table.notes
    kept = _without_repeats(table, notes)

    def cells(what: str) -> Cells:
        column = table.columns.get(used.get(what, ""))
        return [None] * len(kept) if column is None else [column[row] for row in kept]

    def whole(what: str) -> list[int | None]:
        numbers = table.whole(used.get(what, what))
        return [numbers[row] for row in kept]

    def at(row: int) -> str:
        return table.at(kept[row])

    files: Cells = [tidy_name(name or "", root) for name in _joined(cells("folder"), cells("file_name"), "/")]
    ids = [image_id or file or "" for image_id, file in zip(cells("image_id"), files, strict=True)]
    number: dict[str, int] = {}
    for image_id in ids:
        number.setdefault(image_id, len(number))
    firsts: list[int] = []
    for row, image_id in enumerate(ids):
        if number[image_id] == len(firsts):
            firsts.append(row)
    first_of = [firsts[number[image_id]] for image_id in ids]
    for what in used:
        if what not in _OF_ANNOTATIONS:
            _require_agreement(
                used[what], files if what == "file_name" else cells(what), first_of, table, kept
            )
    names, category_ids = _categories(
        whole("category_id") if "category_id" in used else None, cells("category_name"), at, notes
    )
    marked = [row for row, category in enumerate(category_ids) if category is not None]
    image = np.asarray([number[ids[row]] for row in marked], np.int64)
    counts = [count if count is None or count >= 0 else None for count in whole("count")]
    notes["annotations whose count is below 0, taken as not counted"] += sum(
        (count or 0) < 0 for count in whole("count")
    )
    labels = group_labels(
        image,
        np.asarray([category_ids[row] for row in marked], np.int64),
        [counts[row] for row in marked],
        len(firsts),
        names,
    )
    if label is not None:
        of = next((used[what] for what in ("category_id", "category_name") if what in used), None)
        if of is not None:
            raise InputError(f"{path}:1: has the column {of}: leave out dataset.label, or the column")
        labels, categories = labels_of_paths([files[row] or "" for row in firsts], label, notes)
        names = dict(categories)
    else:
        notes["images without an annotation"] += len(firsts) - len(np.unique(image))
    dates = cells("datetime") if "datetime" in used else _joined(cells("date"), cells("time"), " ")

    def first(column: Sequence[Cell]) -> list[Cell]:
        return [column[row] for row in firsts]

    return make_catalog(
        Rows(
            image_id=list(number),
            file_name=first(files),
            location=[
                given or location_of(file or "")
                for given, file in zip(first(cells("location")), first(files), strict=True)
            ],
            deployment=first(cells("deployment")),
            seq_id=first(cells("seq_id")),
            frame_num=first(whole("frame_num")),
            seq_num_frames=first(whole("seq_num_frames")),
            dates=first(dates),
            width=first(cells("width")),
            height=first(cells("height")),
        ),
        labels,
        source="csv",
        where=path,
        categories=sorted(names.items()),
        notes=notes,
        utc_offset=utc_offset,
        order=order,
        at=lambda row: at(firsts[row]),
    )


def _joined(first: Cells, then: Cells, between: str) -> Cells:
    """Two columns joined; only one of them where the other is empty."""
    return [
        f"{a.rstrip(between)}{between}{b}" if a and b else a or b for a, b in zip(first, then, strict=True)
    ]


def _without_repeats(table: GivenTable, notes: Counter[str]) -> list[int]:
    """Rows that do not repeat an earlier row word for word, so that what was pasted twice is not counted
    twice."""
    seen: set[tuple[str | None, ...]] = set()
    kept = []
    for row, cells in enumerate(zip(*table.columns.values(), strict=True)):
        if cells not in seen:
            seen.add(cells)
            kept.append(row)
    notes["rows that are the same as one further up, left out"] += len(table) - len(kept)
    return kept


def _categories(
    numbers: list[int | None] | None, given: Cells, at: Callable[[int], str], notes: Counter[str]
) -> tuple[dict[int, str], list[int | None]]:
    """Names of the categories, and the category of each row, None if the row is not annotated."""
    one = one_name_each((name for name in given if name), notes)
    named = [one[name] if name else None for name in given]
    if numbers is not None:
        names: dict[int, str | None] = {}
        for row, (category, name) in enumerate(zip(numbers, named, strict=True)):
            if category is None:
                continue
            if name and names.get(category, name) not in (None, name):
                raise InputError(
                    f"{at(row)}: category_id {category} is {name!r} here, {names[category]!r} further up; "
                    "an id should name one category"
                )
            names[category] = names.get(category) or name
        without = [row for row, category in enumerate(numbers) if category is None and named[row]]
        if without:
            notes[f"rows with a name and no category_id, not annotated: {at(without[0])}"] += len(without)
        return {
            category: name or (EMPTY if category == 0 else str(category)) for category, name in names.items()
        }, numbers
    # Ids follow the alphabet: the same table gives the same ids.
    species = sorted({name for name in named if name and name.casefold() != EMPTY})
    number_of = {name: category for category, name in enumerate(species, 1)}
    ids = [None if name is None else 0 if name.casefold() == EMPTY else number_of[name] for name in named]
    return {**({0: EMPTY} if 0 in ids else {}), **{id_: name for name, id_ in number_of.items()}}, ids


def _require_agreement(
    name: str, column: Cells, first_of: list[int], table: GivenTable, kept: list[int]
) -> None:
    """Raise InputError if rows of one image differ in anything but their annotation."""
    for row, first in enumerate(first_of):
        if column[row] != column[first]:
            raise InputError(
                f"{table.at(kept[row])}: {name}: {column[row] or ''!r} differs from line "
                f"{table.lines[kept[first]]}, {column[first] or ''!r}, for the same image"
            )
