"""The columns of a table of images: which are read, and which probably should be. See docs/csv.md."""

from __future__ import annotations

from collections.abc import Mapping

from camtrap_batch.catalog.found import MEDIA
from camtrap_batch.catalog.numbers import doubtful, number
from camtrap_batch.catalog.tabular import NO, YES, GivenTable, Names, column_name
from camtrap_batch.errors import InputError, choices
from camtrap_batch.vocabulary import ending_of

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

_NUMBERS = dict(
    zip("one two three four five six seven eight nine ten".split(), range(1, 11), strict=True)  # noqa: SIM905
)
_MOSTLY = 0.9  # fraction of a column's values that must fit for it to be taken for what its name says

Cells = list[str | None]


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


def read_counts(cells: Cells) -> list[int | None]:
    """A column of numbers of animals; None where a cell is none, or may be one or a thousand."""
    open_ = doubtful(cells, whole=True)
    return [None if cell is None or row in open_ else read_count(cell) for row, cell in enumerate(cells)]


def read_count(cell: str) -> int | None:
    """A number of animals; None if it is not one."""
    value = number(cell)
    if value is None:
        return _NUMBERS.get(cell.casefold())
    return int(value) if value.is_integer() and abs(value) < 2**31 else None


def _are_files(column: Cells) -> bool:
    """Whether cells are paths or URLs of files: as in Wildlife Insights' column `location`."""
    given = [cell for cell in column if cell]
    return bool(given) and all("/" in cell and ending_of(cell) in MEDIA for cell in given)


def _may_be(what: str, column: Cells) -> bool:
    """Whether a column with a likely name also has such values."""
    given = [cell for cell in column if cell]
    if what == "location":
        return len(set(given)) > 1 and not _are_files(column)
    if what == "count":
        return sum(read_count(cell) is not None for cell in given) > _MOSTLY * len(given)
    if what == "is_empty":
        return bool(given) and all(cell.casefold() in YES | NO for cell in given)
    return bool(given)
