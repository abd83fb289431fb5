"""A table of images -> catalog: one row for each file, or for each annotation of one. See docs/csv.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, TypeVar

import numpy as np
from pydantic import Field, field_validator

from camtrap_batch.catalog.base import Reader
from camtrap_batch.catalog.labels import label_key, one_name_each, several_in_one, split_cell
from camtrap_batch.catalog.names import tidy_name
from camtrap_batch.catalog.paths import check_locations, labels_of_paths, location_finder
from camtrap_batch.catalog.table import Catalog, Rows, group_labels, make_catalog
from camtrap_batch.catalog.tabular import NO, YES, GivenTable, Names, column_name, number, read_table
from camtrap_batch.dates import Order, are_too_many, join_date_and_time
from camtrap_batch.errors import InputError, choices
from camtrap_batch.job import Label, WithLabel
from camtrap_batch.vocabulary import (
    EMPTY,
    IMAGE_ENDINGS,
    RAW_ENDINGS,
    VIDEO_ENDINGS,
    ending_of,
    is_word_for_empty,
)

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
    "is_empty": (),
    "observation_type": ("observation_type", "observationtype"),
}
"""What is read -> the names that its column may have; others are ignored, unless named in
`dataset.columns`."""

LIKELY: Names = {
    what: tuple(names.split())
    for what, names in {
        "file_name": "sourcefile image image_name image_file image_path photo photo_name picture foto bild "
        "datei dateiname archivo imagen fichier arquivo",
        "category_name": "common_name species_name taxon taxon_name animal art tierart especie espece espèce "
        "espécie specie soort",
        "count": "number_of_objects number_of_animals n_animals individual_count individualcount group_size "
        "anzahl cantidad quantidade antal aantal",
        "location": "camera camera_id camera_name cam camera_station site site_id site_name placename place "
        "trap location_name locationname kamera standort camara cámara estacion estación sitio deployment_id",
        "deployment": "deployment_id deploymentid",
        "datetime": "datetime_original date_time_original date_taken capture_time captured_at taken "
        "date/time fecha_hora eventstart",
        "date": "fecha datum photo_date",
        "time": "hora uhrzeit heure photo_time",
        "seq_id": "sequence_id sequence",
        "is_empty": "is_blank is_empty blank empty no_animal",
    }.items()
}
"""What is read -> names of columns that probably hold it, but may not: `dataset.columns` has to name them."""

_KEY = "dataset.metadata"
_OF_ANNOTATIONS = ("category_id", "category_name", "count", "width", "height", "is_empty", "observation_type")
"""Columns in which the rows of one image may differ: a width may be that of an animal's box."""

_NUMBERS = dict(
    zip("one two three four five six seven eight nine ten".split(), range(1, 11), strict=True)  # noqa: SIM905
)
_FILES = IMAGE_ENDINGS | RAW_ENDINGS | VIDEO_ENDINGS
_MOSTLY = 0.9  # fraction of a column's values that must fit for it to be taken for what its name says
_KINDS = {"blank": EMPTY, "human": "human", "vehicle": "vehicle"}
"""Values of `observation_type`, as in Camtrap DP and TRAPPER -> labels."""
_EPITHET = re.compile(r"[a-z][a-z-]+(?: [a-z][a-z-]+)?")

Cells = list[str | None]
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


def used_columns(table: GivenTable, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """What is read -> the name of its column, for those that a table has.

    Parameters
    ----------
    given : names given in the job, which take precedence over those of `COLUMNS`

    Raises
    ------
    InputError
        A column that the job names does not exist.
    """
    used = {what: name for what, names in COLUMNS.items() if (name := table.name_of(names))}
    for what, name in (given or {}).items():
        if column_name(name) not in table.columns:
            raise InputError(
                f"{table.path}:1: no column {name!r} (dataset.columns.{what}); "
                f"{choices(name, table.columns, 30)}"
            )
        used[what] = column_name(name)
    for name in COLUMNS["location"] if "location" not in (given or {}) else ():
        if name in table.columns:
            if not _are_files(table.columns[name]):
                used["location"] = name
                break
            table.notes[f"values of the column {name} that are files, not cameras: it is ignored"] += len(
                table
            )
            used.pop("location", None)
    return used


def likely_columns(table: GivenTable, used: Mapping[str, str]) -> dict[str, str]:
    """What is not read from a table -> the name of a column that is likely to hold it."""
    found: dict[str, str] = {}
    for what, names in LIKELY.items():
        if what in used or (what in ("date", "time") and "datetime" in used):
            continue
        for name in names:
            if name in table.columns and name not in used.values() and _may_be(what, table.columns[name]):
                found[what] = name
                break
    if found.get("location") == found.get("deployment"):
        found.pop("deployment", None)
    if "category_id" in used:
        found.pop("category_name", None)
    return found


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
    own_names = [column_name(name) for name in (columns or {}).values()]
    table = read_table(path, _KEY, [*(name for names in COLUMNS.values() for name in names), *own_names])
    used = used_columns(table, columns)
    if "file_name" not in used:
        if (name := likely_columns(table, used).get("file_name")) is not None:
            raise InputError(
                f"{path}:1: no column file_name; if {name} has it: dataset.columns: {{file_name: {name}}}"
            )
        table.require({"file_name": COLUMNS["file_name"]})
    table.require_cells([used["file_name"]])
    notes = table.notes
    for what, name in likely_columns(table, used).items():
        notes[f"columns ignored: {name}; if it has the {what}: dataset.columns: {{{what}: {name}}}"] += 1
    given = _joined(
        table.columns.get(used.get("folder", ""), [None] * len(table)),
        table.columns[used["file_name"]],
        "/",
    )
    names_of_rows = [tidy_name(name or "", root) for name in given]
    _note_ways(given, names_of_rows, notes)
    kept = _without_repeats(table, used, names_of_rows, notes)
    path_label = label if label is not None and (label.level is not None or label.regex is not None) else None
    own_label = label if label is not None and label.is_of_metadata else None
    is_named = "category_id" in used or "category_name" in used
    if path_label is not None and is_named:
        of = next(used[what] for what in ("category_id", "category_name") if what in used)
        raise InputError(f"{path}:1: has the column {of}: leave out dataset.label, or the column")
    if own_label is not None and not is_named:
        raise InputError(
            f"{path}:1: has no column for the species, which dataset.label should tell how to read; "
            f"{table.listed(COLUMNS['category_name'])}"
        )
    species = _species(table, used, notes)
    numbers = _counts(table, used, notes)
    marks = [(row, species[row], numbers[row]) for row in kept]
    if own_label is not None and own_label.between is not None:
        if "category_id" in used:
            raise InputError(
                f"{path}:1: has the column {used['category_id']}: dataset.label.between is for names"
            )
        marks = _taken_apart(table, used, marks, own_label.between, notes)
    else:
        _note_several(species, notes)
    kept = [row for row, _, _ in marks]

    def cells(what: str) -> Cells:
        column = table.columns.get(used.get(what, ""))
        return [None] * len(kept) if column is None else [column[row] for row in kept]

    def whole(what: str) -> list[int | None]:
        found = table.whole(used.get(what, what)) if what in used else [None] * len(table)
        return [found[row] for row in kept]

    def at(row: int) -> str:
        return table.at(kept[row])

    files: Cells = [names_of_rows[row] for row in kept]
    ids = [image_id or file or "" for image_id, file in zip(cells("image_id"), files, strict=True)]
    number_of: dict[str, int] = {}
    for image_id in ids:
        number_of.setdefault(image_id, len(number_of))
    firsts: list[int] = []
    for row, image_id in enumerate(ids):
        if number_of[image_id] == len(firsts):
            firsts.append(row)
    first_of = [firsts[number_of[image_id]] for image_id in ids]
    for what in used:
        if what not in _OF_ANNOTATIONS:
            _require_agreement(
                used[what], files if what == "file_name" else cells(what), first_of, table, kept
            )
    names, category_ids = _categories(
        whole("category_id") if "category_id" in used else None,
        [name for _, name, _ in marks],
        at,
        notes,
        {EMPTY, *(label_key(name) for name in (own_label.empty if own_label is not None else ()))},
        own_label is not None or "is_empty" in used,
    )
    marked = [row for row, category in enumerate(category_ids) if category is not None]
    labels = group_labels(
        np.asarray([number_of[ids[row]] for row in marked], np.int64),
        np.asarray([category_ids[row] for row in marked], np.int64),
        [marks[row][2] for row in marked],
        len(firsts),
        names,
    )
    if path_label is not None:
        labels, categories = labels_of_paths([files[row] or "" for row in firsts], path_label, notes)
        names = dict(categories)
    else:
        notes["images without an annotation"] += len(firsts) - len({number_of[ids[row]] for row in marked})
    dates = (
        cells("datetime")
        if "datetime" in used
        else [join_date_and_time(*both) for both in zip(cells("date"), cells("time"), strict=True)]
    )

    def first(column: Sequence[Cell]) -> list[Cell]:
        return [column[row] for row in firsts]

    return make_catalog(
        Rows(
            image_id=list(number_of),
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


def _are_files(column: Cells) -> bool:
    """Whether cells are paths or URLs of files: as in Wildlife Insights' column `location`."""
    given = [cell for cell in column if cell]
    return bool(given) and all("/" in cell and ending_of(cell) in _FILES for cell in given)


def _may_be(what: str, column: Cells) -> bool:
    """Whether a column with a likely name also has such values."""
    given = [cell for cell in column if cell]
    if what == "location":
        return len(set(given)) > 1 and not _are_files(column)
    if what == "count":
        return sum(_count(cell) is not None for cell in given) > _MOSTLY * len(given)
    if what == "is_empty":
        return bool(given) and all(cell.casefold() in YES | NO for cell in given)
    return bool(given)


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


def _count(cell: str) -> int | None:
    """A number of animals; None if it is not one."""
    value = number(cell)
    if value is None:
        return _NUMBERS.get(cell.casefold())
    return int(value) if value.is_integer() and abs(value) < 2**31 else None


def _counts(table: GivenTable, used: Mapping[str, str], notes: Counter[str]) -> list[int | None]:
    """The count of each row; none, and a note, if it can't be read or is below 0.

    Raises InputError if too large a part of them can't be read.
    """
    name = used.get("count")
    if name is None:
        return [None] * len(table)
    cells = table.columns[name]
    counts = [None if cell is None else _count(cell) for cell in cells]
    strange = [row for row, cell in enumerate(cells) if cell is not None and counts[row] is None]
    if strange and are_too_many(len(strange), sum(cell is not None for cell in cells)):
        raise InputError(table.not_whole(strange[0], name))
    if strange:
        first = strange[0]
        notes[
            f"counts that are not whole numbers, taken as not counted: {table.at(first)}: {cells[first]!r}"
        ] += len(strange)
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
    marks: list[tuple[int, str | None, int | None]],
    between: str,
    notes: Counter[str],
) -> list[tuple[int, str | None, int | None]]:
    """One row for each species in a cell that names several, with its count if there is one for each."""
    found: list[tuple[int, str | None, int | None]] = []
    for row, label, count in marks:
        parts = split_cell(label or "", between)
        if len(parts) < 2:
            found.append((row, parts[0] if parts else label, count))
            continue
        cell = (table.columns[used["count"]][row] or "") if "count" in used else ""
        counts = [_count(part) for part in split_cell(cell, between)]
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
