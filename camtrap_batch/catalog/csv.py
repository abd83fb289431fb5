"""A table of images -> catalog: one row for each file, or for each annotation of one. See docs/csv.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from camtrap_batch.catalog.base import Reader
from camtrap_batch.catalog.csv_columns import (
    COLUMNS,
    LIKELY,
    Cells,
    likely_columns,
    read_count,
    read_counts,
    used_columns,
)
from camtrap_batch.catalog.found import (
    KEY,
    Found,
    Given,
    count_videos,
    find_root,
    guess_levels,
    levels_of,
    listed_in,
)
from camtrap_batch.catalog.labels import label_key, one_name_each, several_in_one, split_cell
from camtrap_batch.catalog.names import tidy_name
from camtrap_batch.catalog.numbers import doubtful
from camtrap_batch.catalog.paths import check_locations, labels_of_paths, location_finder
from camtrap_batch.catalog.places import camera_columns
from camtrap_batch.catalog.table import Catalog, Rows, group_labels, make_catalog
from camtrap_batch.catalog.tabular import ENDINGS, NO, YES, GivenTable, column_name, read_table
from camtrap_batch.dates import Order, are_too_many, join_date_and_time
from camtrap_batch.errors import InputError, choices
from camtrap_batch.job import Label, WithLabel
from camtrap_batch.vocabulary import EMPTY, counted, is_word_for_empty, plural

_KEY = "dataset.metadata"
_OF_ANNOTATIONS = ("category_id", "category_name", "count", "width", "height", "is_empty", "observation_type")
"""Columns in which the rows of one image may differ: a width may be that of an animal's box."""

_KINDS = {"blank": EMPTY, "human": "human", "vehicle": "vehicle"}
"""Values of `observation_type`, as in Camtrap DP and TRAPPER -> labels."""
_EPITHET = re.compile(r"[a-z][a-z-]+(?: [a-z][a-z-]+)?")

Mark = tuple[int, str | None, int | None]  # number of its row, label, count
Cell = TypeVar("Cell")


class CsvDataset(WithLabel):
    has_own_labels: ClassVar[bool] = True

    format: Literal["csv"]
    columns: dict[str, str] | None = Field(
        None,
        description="the table's own names for columns, such as {location: camera, category_name: especie}; "
        "default: those that docs/csv.md lists",
    )

    @field_validator("columns")
    @classmethod
    def _are_read(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for what in value or ():
            if what not in COLUMNS:
                raise ValueError(f"nothing is read that is called {what!r}; {choices(what, COLUMNS, 20)}")
        return value


class CsvReader(Reader[CsvDataset]):
    section = CsvDataset
    help = "a table of file_name,category_id"
    ids_are_paths = True

    @classmethod
    def recognise(cls, given: Given) -> Found | None:
        return _of_table(given) if given.name.endswith(ENDINGS) else None

    def read(self) -> Catalog:
        dataset = self.dataset
        catalog = read_csv(
            str(dataset.metadata),
            location_finder(dataset.location, dataset.path_label),
            dataset.label,
            utc_offset=dataset.utc_offset,
            order=dataset.dates,
            root=dataset.images,
            columns=dataset.columns,
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
    columns: Mapping[str, str] | None = None,
) -> Catalog:
    """Read a table of images; several rows of one file are several annotations of it.

    Parameters
    ----------
    path : file or fsspec URL of a table that `tabular.read_table` accepts, with columns of `COLUMNS`
    location_of : finds the location in a path, for images without one in the column `location`
    label : where a path names the species, for a table without a column for it; or how to read the column
    utc_offset : offset of dates that have none of their own, such as "+02:00"
    order : order of day and month in ambiguous dates
    root : path or URL that file names may begin with, and to which they are relative
    columns : what is read -> the table's own name of its column

    Raises
    ------
    InputError
        The file is missing, has no column file_name, or has an impossible value; with line and column.
    """
    table, used = _open(path, columns)
    notes = table.notes
    path_label, own_label = _where_labels_are(table, used, label)
    names_of_rows = _names(table, used, root)
    marks = _marks(table, used, names_of_rows, own_label)
    rows = _Rows(table, used, [row for row, _, _ in marks])
    files: Cells = [names_of_rows[row] for row in rows.kept]
    ids = [image_id or file or "" for image_id, file in zip(rows.cells("image_id"), files, strict=True)]
    first_of: dict[str, int] = {}
    for row, image_id in enumerate(ids):
        first_of.setdefault(image_id, row)
    firsts = list(first_of.values())
    for what in used:
        if what not in _OF_ANNOTATIONS:
            column = files if what == "file_name" else rows.cells(what)
            _require_agreement(used[what], column, [first_of[image_id] for image_id in ids], rows)
    if path_label is not None:
        labels, categories = labels_of_paths([files[row] or "" for row in firsts], path_label, notes)
    else:
        number = {image_id: at for at, image_id in enumerate(first_of)}
        labels, categories = _labels(rows, marks, own_label, [number[image_id] for image_id in ids])

    return make_catalog(
        _images(rows, files, first_of, location_of),
        labels,
        source="csv",
        where=path,
        categories=categories,
        notes=notes,
        utc_offset=utc_offset,
        order=order,
        at=lambda image: rows.at(firsts[image]),
    )


@dataclass(frozen=True)
class _Rows:
    """The rows that are kept of a table, one for each annotation; their numbers in the table are `kept`."""

    table: GivenTable
    used: Mapping[str, str]
    kept: list[int]

    def cells(self, what: str) -> Cells:
        column = self.table.columns.get(self.used.get(what, ""))
        return [None] * len(self.kept) if column is None else [column[row] for row in self.kept]

    def whole(self, what: str) -> list[int | None]:
        if what not in self.used:
            return [None] * len(self.kept)
        column = self.table.whole(self.used[what])
        return [column[row] for row in self.kept]

    def at(self, row: int) -> str:
        return self.table.at(self.kept[row])


def _images(
    rows: _Rows, files: Cells, first_of: Mapping[str, int], location_of: Callable[[str], str | None]
) -> Rows:
    """What the first row of each image says of it."""

    def first(column: Sequence[Cell]) -> list[Cell]:
        return [column[row] for row in first_of.values()]

    def cells(what: str) -> Cells:
        return first(rows.cells(what))

    return Rows(
        image_id=list(first_of),
        file_name=first(files),
        location=[
            given or location_of(file or "")
            for given, file in zip(cells("location"), first(files), strict=True)
        ],
        deployment=cells("deployment"),
        seq_id=cells("seq_id"),
        frame_num=first(rows.whole("frame_num")),
        seq_num_frames=first(rows.whole("seq_num_frames")),
        dates=cells("datetime")
        if "datetime" in rows.used
        else [join_date_and_time(*both) for both in zip(cells("date"), cells("time"), strict=True)],
        width=cells("width"),
        height=cells("height"),
    )


def _open(path: str, columns: Mapping[str, str] | None) -> tuple[GivenTable, dict[str, str]]:
    """The table, and what is read of it: see `used_columns`."""
    own_names = [column_name(name) for name in (columns or {}).values()]
    table = read_table(path, _KEY, [*(name for names in COLUMNS.values() for name in names), *own_names])
    used = used_columns(table, columns)
    likely = likely_columns(table, used)
    if "file_name" not in used:
        if (name := likely.get("file_name")) is not None:
            raise InputError(
                f"{path}:1: no column file_name; if {name} has it: dataset.columns: {{file_name: {name}}}"
            )
        table.require({"file_name": COLUMNS["file_name"]})
    table.require_cells([used["file_name"]])
    for what, name in likely.items():
        table.notes[
            f"columns ignored: {name}; if it has the {what}: dataset.columns: {{{what}: {name}}}"
        ] += 1
    return table, used


def _where_labels_are(
    table: GivenTable, used: Mapping[str, str], label: Label | None
) -> tuple[Label | None, Label | None]:
    """`label` as the way to find them in paths, and as the way to read the table's own; one of them is None.

    Raises InputError if it fits the table's columns ill.
    """
    path_label = label if label is not None and (label.level is not None or label.regex is not None) else None
    own_label = label if label is not None and label.is_of_metadata else None
    named = next((used[what] for what in ("category_id", "category_name") if what in used), None)
    if path_label is not None and named is not None:
        raise InputError(f"{table.path}:1: has the column {named}: leave out dataset.label, or the column")
    if own_label is not None and named is None:
        raise InputError(
            f"{table.path}:1: has no column for the species, which dataset.label should tell how to read; "
            f"{table.listed(COLUMNS['category_name'])}"
        )
    if own_label is not None and own_label.between is not None and "category_id" in used:
        raise InputError(
            f"{table.path}:1: has the column {used['category_id']}: dataset.label.between is for names"
        )
    return path_label, own_label


def _names(table: GivenTable, used: Mapping[str, str], root: str | None) -> list[str]:
    """The file name of each row, relative to the image root."""
    given = _joined(
        table.columns.get(used.get("folder", ""), [None] * len(table)),
        table.columns[used["file_name"]],
        "/",
    )
    names = [tidy_name(name or "", root) for name in given]
    _note_ways(given, names, table.notes)
    return names


def _marks(
    table: GivenTable, used: Mapping[str, str], names: Sequence[str], label: Label | None
) -> list[Mark]:
    """The annotations; a row may hold several, and repeat one further up."""
    notes = table.notes
    kept = _without_repeats(table, used, names, notes)
    species, counts = _species(table, used, notes), _counts(table, used, notes)
    marks = [(row, species[row], counts[row]) for row in kept]
    if label is not None and label.between is not None:
        return _taken_apart(table, used, marks, label.between, notes)
    _note_several(species, notes)
    return marks


def _labels(
    rows: _Rows, marks: list[Mark], label: Label | None, image: list[int]
) -> tuple[pa.Array, list[tuple[int, str]]]:
    """Labels of the images, and their categories; `image`: the number of each row's."""
    notes = rows.table.notes
    names, category_ids = _categories(
        rows.whole("category_id") if "category_id" in rows.used else None,
        [name for _, name, _ in marks],
        rows.at,
        notes,
        {EMPTY, *(label_key(name) for name in (label.empty if label is not None else ()))},
        label is not None or "is_empty" in rows.used,
    )
    marked = [row for row, category in enumerate(category_ids) if category is not None]
    n_images = len(set(image))
    labels = group_labels(
        np.asarray([image[row] for row in marked], np.int64),
        np.asarray([category_ids[row] for row in marked], np.int64),
        [marks[row][2] for row in marked],
        n_images,
        names,
    )
    notes["images without an annotation"] += n_images - len({image[row] for row in marked})
    return labels, sorted(names.items())


def _joined(first: Cells, then: Cells, between: str) -> Cells:
    """Two columns joined; only one of them if the other is empty."""
    return [
        f"{a.rstrip(between)}{between}{b}" if a and b else a or b for a, b in zip(first, then, strict=True)
    ]


def _note_ways(given: Cells, names: Sequence[str], notes: Counter[str]) -> None:
    """Notes on files that rows write in several ways."""
    ways: dict[str, str] = {}
    several: dict[str, tuple[str, str]] = {}
    for written, name in zip(given, names, strict=True):
        if (first := ways.setdefault(name, written or "")) != written:
            several.setdefault(name, (first, written or ""))
    if several:
        one, other = next(iter(several.values()))
        notes[f"files that rows write in several ways, such as {one!r} and {other!r}"] += len(several)


def _without_repeats(
    table: GivenTable, used: Mapping[str, str], names: Sequence[str], notes: Counter[str]
) -> list[int]:
    """Rows that do not repeat an earlier row, so that what was pasted twice is counted only once.

    Rows are the same word for word, or apart from how they write the file or the species.
    """
    columns = {name: cells for name, cells in table.columns.items() if name != used.get("folder")}
    columns[used["file_name"]] = list(names)
    if (name := used.get("category_name")) is not None:
        key = {text: label_key(text) for text in set(columns[name]) if text}
        columns[name] = [key.get(cell or "") for cell in columns[name]]
    seen: set[tuple[str | None, ...]] = set()
    kept = []
    for row, cells in enumerate(zip(*columns.values(), strict=True)):
        if cells not in seen:
            seen.add(cells)
            kept.append(row)
    notes["rows that are the same as one further up, left out"] += len(table) - len(kept)
    return kept


def _species(table: GivenTable, used: Mapping[str, str], notes: Counter[str]) -> Cells:
    """The label of each row: the column's, with the genus before it if that has a column of its own."""
    name = used.get("category_name")
    labels: Cells = [None] * len(table) if name is None else list(table.columns[name])
    if name == "species" and (genera := table.columns.get("genus")) is not None:
        epithets = [row for row, label in enumerate(labels) if label and _EPITHET.fullmatch(label)]
        joined = [row for row in epithets if genera[row] and " " not in (genera[row] or "")]
        # Only if the table has no whole names beside their genera.
        if joined and len(epithets) == sum(label is not None for label in labels):
            for row in joined:
                labels[row] = f"{genera[row]} {labels[row]}"
            notes[f"species with the genus of its own column before it, such as {labels[joined[0]]!r}"] += (
                len(joined)
            )
            alone = [row for row, label in enumerate(labels) if label is None and genera[row]]
            for row in alone:
                labels[row] = genera[row]
            notes["rows of which only the genus is known, which is the label"] += len(alone)
            common = table.columns.get("common_name", labels)
            rest = [
                row
                for row, label in enumerate(labels)
                if label is None and common[row] and not is_word_for_empty(common[row] or "")
            ]
            for row in rest:
                labels[row] = common[row]
            notes["rows of which only a common name is known, which is the label"] += len(rest)
    kinds = table.columns.get(used.get("observation_type", ""))
    if kinds is not None and name is not None and "category_id" not in used:
        for row, kind in enumerate(kinds):
            meant = _KINDS.get((kind or "").casefold())
            if meant is not None and labels[row] is None:
                labels[row] = meant
                notes[f"rows without a species whose {used['observation_type']} says {kind}"] += 1
    if (flag := used.get("is_empty")) is not None:
        for row, cell in enumerate(table.columns[flag]):
            said = (cell or "").casefold()
            if said and said not in YES | NO:
                raise InputError(f"{table.at(row)}: {flag}: {cell!r} should be yes or no")
            if said in YES:
                labels[row] = EMPTY
    return labels


def _counts(table: GivenTable, used: Mapping[str, str], notes: Counter[str]) -> list[int | None]:
    """The count of each row; none, and a note, if it can't be read or is below 0.

    Raises InputError if too large a part of them can't be read.
    """
    name = used.get("count")
    if name is None:
        return [None] * len(table)
    cells = table.columns[name]
    counts = read_counts(cells)
    strange = [row for row, cell in enumerate(cells) if cell is not None and counts[row] is None]
    if strange and are_too_many(len(strange), sum(cell is not None for cell in cells)):
        raise InputError(table.not_whole(strange[0], name))
    if strange:
        first = strange[0]
        example = f"{table.at(first)}: {cells[first]!r} {doubtful(cells, whole=True).get(first, '')}".strip()
        notes[f"counts that are not whole numbers, taken as not counted: {example}"] += len(strange)
    below = [row for row, count in enumerate(counts) if count is not None and count < 0]
    if below:
        example = f"{table.at(below[0])}: {cells[below[0]]!r}"
        notes[f"annotations whose count is below 0, taken as not counted: {example}"] += len(below)
    for row in below:
        counts[row] = None
    return counts


def _taken_apart(
    table: GivenTable,
    used: Mapping[str, str],
    marks: list[Mark],
    between: str,
    notes: Counter[str],
) -> list[Mark]:
    """One row for each species in a cell that names several, with its count if there is one for each."""
    found: list[Mark] = []
    for row, label, count in marks:
        parts = split_cell(label or "", between)
        if len(parts) < 2:
            found.append((row, parts[0] if parts else label, count))
            continue
        cell = (table.columns[used["count"]][row] or "") if "count" in used else ""
        counts = [read_count(part) for part in split_cell(cell, between)]
        each = counts if len(counts) == len(parts) else [None] * len(parts)
        found += [(row, part, number_) for part, number_ in zip(parts, each, strict=True)]
        notes["cells with several species, taken apart"] += 1
        notes["counts of several species in one cell, taken as not counted"] += bool(
            cell and len(counts) != len(parts)
        )
    return found


def _note_several(labels: Cells, notes: Counter[str]) -> None:
    for sign, cells in several_in_one(labels).items():
        notes[
            f"cells that seem to hold several species, such as {cells[0]!r}, each a class of its own; "
            f"dataset.label: {{between: {sign!r}}} takes them apart"
        ] += len(cells)


def _categories(
    numbers: list[int | None] | None,
    given: Cells,
    at: Callable[[int], str],
    notes: Counter[str],
    nothing: set[str],
    is_told: bool,
) -> tuple[dict[int, str], list[int | None]]:
    """Names of the categories, and the category of each row, None if the row is not annotated.

    Parameters
    ----------
    nothing : the `label_key`s of labels that mean: no animal
    is_told : whether the job says which labels these are: they then have category 0, whatever their id
    """
    one = one_name_each((name for name in given if name), notes)
    one = {text: EMPTY if label_key(name) in nothing else name for text, name in one.items()}
    named = [one[name] if name else None for name in given]
    if numbers is not None:
        names: dict[int, str | None] = {}
        numbers = [
            0 if is_told and category is not None and name == EMPTY else category
            for category, name in zip(numbers, named, strict=True)
        ]
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


def _require_agreement(name: str, column: Cells, first_of: list[int], rows: _Rows) -> None:
    """Raise InputError if rows of one image differ in anything but their annotation."""
    for row, first in enumerate(first_of):
        if column[row] != column[first]:
            raise InputError(
                f"{rows.at(row)}: {name}: {column[row] or ''!r} differs from line "
                f"{rows.table.lines[rows.kept[first]]}, {column[first] or ''!r}, for the same image"
            )


def _of_table(given: Given) -> Found:
    expected = [name for names in (*COLUMNS.values(), *LIKELY.values()) for name in names]
    table = read_table(given.url, KEY, expected)
    used = used_columns(table)
    likely = likely_columns(table, used)
    read = ", ".join(used.values())
    used |= likely
    if "file_name" not in used:
        table.require({"file_name": COLUMNS["file_name"]})
    names = [name or "" for name in table.columns[used["file_name"]]]
    if "folder" in used:
        folders = table.columns[used["folder"]]
        names = [f"{a}/{b}" if a and b else b for a, b in zip(folders, names, strict=True)]
    files = [name for name in names if name]
    root, line, n_found = find_root(given.url, listed_in(given, files))
    of_cameras = [name for name in camera_columns(table).values() if name not in used.values()]
    left = [name for name in table.columns if name not in (*used.values(), *of_cameras)]
    taken = ", ".join(f"{name} ({what})" for what, name in likely.items())
    lines = [
        f"a table of {plural(len(table), 'row')}",
        *([f"columns that are read: {read}"] if read else []),
        *([f"columns taken for what their names say: {taken}"] if taken else []),
        *([f"columns about cameras, for cameras.csv: {', '.join(of_cameras)}"] if of_cameras else []),
        *([f"columns that are ignored: {', '.join(left)}"] if left else []),
        line,
    ]
    found = Found(
        {"format": "csv", "metadata": given.url, "images": root},
        lines,
        videos=count_videos(files),
        table=table,
        files=[tidy_name(name, root) for name in names],
        n_found=n_found,
    )
    found.has_labels = bool({"category_id", "category_name"} & set(used))
    if likely:
        found.dataset["columns"] = likely
    if "category_name" in used and "category_id" not in used:
        several = several_in_one(table.columns[used["category_name"]])
        if several:
            sign, cells = max(several.items(), key=lambda item: len(item[1]))
            found.dataset["label"] = {"between": sign}
            told = counted(len(cells), "cells with several species, which are taken apart, such as")
            lines.append(f"{told} {cells[0]!r}")
    if "location" not in used:
        found.levels = levels_of(tidy_name(name, root) for name in files)
        found.camera, found.species = guess_levels(found.levels, len(files))
    if found.has_labels:
        found.species = None
    return found
