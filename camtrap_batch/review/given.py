"""Labels that people gave elsewhere, in files of Timelapse, Label Studio and others, or in a table.

A reader turns a file into `Given` rows, each with its place in the file. It does not know the job: `matching`
finds the images.
"""

from __future__ import annotations

import datetime as dt
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from camtrap_batch.catalog.csv_columns import COLUMNS, LIKELY
from camtrap_batch.catalog.jsonfile import as_utf8
from camtrap_batch.catalog.numbers import number, whole_number
from camtrap_batch.catalog.tabular import YES, GivenTable, read_table
from camtrap_batch.dates import NULL_OFFSET, Order, check_orders, parse_date, parse_dates
from camtrap_batch.errors import InputError
from camtrap_batch.store.corrections import MOST_COUNTED, TRAITS
from camtrap_batch.vocabulary import EMPTY, is_word_for_empty

Box = tuple[float, float, float, float]

Names = tuple[str, ...]
"""What may identify an image, the most reliable first: its id, its path, the end of its path."""

_SEX = {"f": "female", "m": "male"}


@dataclass(frozen=True)
class Given:
    """What one row of a file says.

    Attributes
    ----------
    where : file and line, for messages
    label : as written there; `EMPTY` if the file says that in its own way
    images : the images concerned; none if it names an event of this project
    event : id of an event or a sequence; None if it is about single images
    box : x, y, w, h as fractions of the picture
    when : when it was said; None if the file does not say
    more : count, sex, life_stage, ... where they are given
    """

    where: str
    label: str
    images: tuple[Names, ...] = ()
    event: str | None = None
    box: Box | None = None
    who: str | None = None
    when: dt.datetime | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """A kind of file: its name, and how it is recognised and read."""

    name: str
    is_like: Callable[[Path], bool]
    read: Callable[[Path, Order | None], Iterator[Given]]


def read_given(path: Path, order: Order | None = None) -> tuple[str, list[Given]]:
    """The format of a file, and what its rows say.

    Parameters
    ----------
    order : order of day and month in a table whose dates leave it open

    Raises
    ------
    InputError
        The file is missing, has an unknown format, or has a row that can't be read, with its line.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir() and not (path / "datapackage.json").is_file():
        raise InputError(
            f"{path}: is a folder without datapackage.json; name a file with labels, or a Camtrap DP package"
        )
    for known in FORMATS:
        if known.is_like(path):
            return known.name, list(known.read(path, order))
    columns = list(read_table(str(path), "corrections").columns) if path.suffix.lower() in _TABLES else []
    found = f"; its columns are: {textwrap.shorten(', '.join(columns), 200)}" if columns else ""
    raise InputError(
        f"{path}: not a known kind of file with labels{found}; it should be a table with the columns label "
        "and image_id, file_name or event, a Timelapse CSV (RelativePath, File), a Label Studio export "
        "(JSON), a Camtrap DP package, or images.csv of Wildlife Insights"
    )


# A table of your own


_TABLES = (".csv", ".tsv", ".txt", ".xlsx")
_OWN = {
    "image": ("image_id", *COLUMNS["file_name"]),
    "event": ("event", "event_id", "seq_id", "sequence"),
    "label": tuple(dict.fromkeys(("label", "species", "scientific_name", *COLUMNS["category_name"]))),
}


def _is_table(path: Path, *needed: Sequence[str]) -> bool:
    """Whether a file is a table that has one of each of these names among its columns."""
    if path.suffix.lower() not in _TABLES:
        return False
    columns = read_table(str(path), "corrections").columns
    return all(any(name in columns for name in names) for names in needed)


def _read_own(path: Path, order: Order | None) -> Iterator[Given]:
    table = read_table(str(path), "corrections")
    label, image, event = (table.name_of(_OWN[what]) for what in ("label", "image", "event"))
    if label is None:
        table.require({"label": _OWN["label"]})
    said = _times(table, "when", order)
    for row, (where, cells) in enumerate(table.rows()):
        about_image = cells[image] if image else None
        about_event = cells[event] if event and about_image is None else None
        if cells[str(label)] is None:
            continue
        if about_image is None and about_event is None:
            raise InputError(f"{where}: names neither an image (image_id, file_name) nor an event")
        yield Given(
            where,
            str(cells[str(label)]),
            images=((about_image,),) if about_image is not None else (),
            event=about_event,
            who=cells.get("who"),
            when=said[row],
            more=_traits(table, row, {name: name for name in TRAITS}),
        )


# Timelapse


_TIMELAPSE = {
    "label": ("species", "label", "animal", "taxon", "scientific_name", "common_name"),
    "count": ("count", "number", "total", "num_animals"),
    "sex": ("sex",),
    "life_stage": ("life_stage", "lifestage", "age"),
    "behaviour": ("behaviour", "behavior", "activity"),
    "individual": ("individual", "individual_id", "animal_id"),
    "comment": ("comment", "comments", "note", "notes"),
    "who": ("analyst", "observer", "reviewer", "classified_by", "who"),
}
_TIMELAPSE_EMPTY = ("empty", "nothing", *LIKELY["is_empty"])


def _read_timelapse(path: Path, _: Order | None) -> Iterator[Given]:
    """Rows with a label; those without one were not looked at. Columns are those of a template.

    `RelativePath` begins below the folder that Timelapse was opened in, whose name is `RootFolder` (`Folder`
    in older versions), and which may be one of several below the image root.
    """
    table = read_table(str(path), "corrections")
    found = {what: name for what, names in _TIMELAPSE.items() if (name := table.name_of(names))}
    empty = table.name_of(_TIMELAPSE_EMPTY)
    if "label" not in found:
        table.require({"label": _TIMELAPSE["label"]})
    for row, (where, cells) in enumerate(table.rows()):
        label = cells[found["label"]]
        if label is None and empty and (cells[empty] or "").casefold() in YES:
            label = EMPTY
        if label is None or cells["file"] is None:
            continue
        folder = (cells["relativepath"] or "").replace("\\", "/").strip("/")
        photo = f"{folder}/{cells['file']}" if folder else str(cells["file"])
        root = (cells.get("rootfolder") or cells.get("folder") or "").replace("\\", "/").strip("/")
        yield Given(
            where,
            label,
            images=((photo, f"{root}/{photo}") if root else (photo,),),
            who=cells[found["who"]] if "who" in found else None,
            more=_traits(table, row, {what: name for what, name in found.items() if what in TRAITS}),
        )


# Wildlife Insights


def _read_wildlife_insights(path: Path, order: Order | None) -> Iterator[Given]:
    """images.csv of a data download: one row for each object identified in an image."""
    table = read_table(str(path), "corrections")
    said = _times(table, "identified_on", order)
    for row, (where, cells) in enumerate(table.rows()):
        by = cells.get("identified_by")
        if by is not None and by.casefold() in _MACHINES:
            continue
        label = _of_taxon(cells)
        if (cells.get("is_blank") or "").casefold() in YES or is_word_for_empty(label or ""):
            label = EMPTY
        if label is None or label.casefold() in _NOT_IDENTIFIED:
            continue
        location = cells.get("location") or ""
        below = unquote(urlsplit(location).path).lstrip("/") if "://" in location else location
        names_of_image = (cells.get("image_id"), cells.get("filename"), below)
        yield Given(
            where,
            label,
            images=(tuple(name for name in names_of_image if name),),
            who=by,
            when=said[row],
            more=_traits(
                table,
                row,
                {
                    "count": "number_of_objects",
                    "sex": "sex",
                    "life_stage": "age",
                    "behaviour": "behavior",
                    "individual": "individual_id",
                    "comment": "individual_animal_notes",
                }
                if label != EMPTY
                else {},
            ),
        )


def _of_taxon(cells: Mapping[str, str | None]) -> str | None:
    """A species by its scientific name; what is known less well by its common name or lowest rank."""
    genus, species = cells.get("genus"), cells.get("species")
    if genus and species:
        return f"{genus} {species}"
    lowest = (cells.get(name) for name in ("common_name", "genus", "family", "order", "class"))
    return next(filter(None, lowest), None)


_NOT_IDENTIFIED = frozenset({"no cv result"})
_MACHINES = frozenset({"computer vision", "speciesnet", "cv", "megadetector"})


# Camtrap DP


def _is_package(path: Path) -> bool:
    return path.is_dir() or path.name == "datapackage.json" or path.suffix.lower() == ".zip"


_DP_COLUMNS = {
    "observations": (
        "observationLevel", "observationType", "mediaID", "deploymentID", "eventID", "eventStart", "eventEnd",
        "scientificName", "count", "sex", "lifeStage", "behavior", "individualID", "observationComments",
        "classificationMethod", "classifiedBy", "classificationTimestamp", "bboxX", "bboxY", "bboxWidth",
        "bboxHeight",
    ),
    "media": ("mediaID", "deploymentID", "timestamp", "filePath"),
}  # fmt: skip
_DP_TRAITS = {
    "count": "count",
    "sex": "sex",
    "life_stage": "lifeStage",
    "behaviour": "behavior",
    "individual": "individualID",
    "comment": "observationComments",
}


def _read_camtrap_dp(path: Path, _: Order | None) -> Iterator[Given]:
    """What people observed (classificationMethod human) in media, or in events, that is, in the media taken
    during them."""
    from camtrap_batch.catalog.datapackage import open_package

    with open_package(str(path)) as package:
        read = {
            name: package.table(name, (), columns).data.select(columns).to_pylist()
            for name, columns in _DP_COLUMNS.items()
        }
    names = {row["mediaID"]: (row["mediaID"], row["filePath"]) for row in read["media"]}
    taken: dict[str, list[tuple[dt.datetime, str]]] = {}
    for row in read["media"]:
        if (moment := _moment(row["timestamp"])) is not None:
            taken.setdefault(row["deploymentID"], []).append((moment, row["mediaID"]))
    for line, row in enumerate(read["observations"], 2):
        where = f"{path}: observations, line {line}"
        if (row["classificationMethod"] or "human") != "human":
            continue
        label = {"blank": EMPTY, "animal": row["scientificName"]}.get(
            row["observationType"], row["observationType"]
        )
        if label in (None, "unknown", "unclassified"):
            continue
        media = [row["mediaID"]]
        if row["mediaID"] is None:
            start, end = _moment(row["eventStart"]), _moment(row["eventEnd"])
            if start is None or end is None:
                raise InputError(f"{where}: eventStart, eventEnd: should be times where mediaID is empty")
            media = [name for at, name in sorted(taken.get(row["deploymentID"], ())) if start <= at <= end]
        box = tuple(_part(row[f"bbox{side}"], where) for side in ("X", "Y", "Width", "Height"))
        yield Given(
            where,
            str(label),
            images=tuple(names.get(name, (name,)) for name in media),
            event=row["eventID"] if row["mediaID"] is None else None,
            box=None if None in box else box,  # type: ignore[arg-type]
            who=row["classifiedBy"],
            when=_moment(row["classificationTimestamp"]),
            more=_clean({what: row[name] for what, name in _DP_TRAITS.items()}, where),
        )


# Label Studio


def _is_label_studio(path: Path) -> bool:
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        return as_utf8(file.read(1024)).lstrip().startswith(b"[")


def _read_label_studio(path: Path, _: Order | None) -> Iterator[Given]:
    """Tasks with annotations, as Label Studio exports them (JSON), or one annotation each (JSON-MIN)."""
    try:
        tasks = json.loads(path.read_bytes())
    except (OSError, ValueError) as problem:
        raise InputError(f"{path}: can't be read as JSON: {problem}") from None
    for which, task in enumerate(tasks, 1):
        where = f"{path}: task {task.get('id', which) if isinstance(task, dict) else which}"
        if isinstance(task, dict) and "annotation_id" in task and "annotations" not in task:
            yield from _label_studio_min(task, where)
            continue
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            raise InputError(
                f"{where}: should be an object with data and annotations, as Label Studio writes it"
            )
        image = _label_studio_image(task["data"])
        for annotation in task.get("annotations") or ():
            if annotation.get("was_cancelled"):
                continue
            by = annotation.get("completed_by")
            who = by.get("email") if isinstance(by, dict) else None if by is None else str(by)
            when = _moment(annotation.get("updated_at") or annotation.get("created_at"))
            yield from _label_studio_labels(annotation.get("result") or (), where, image, who, when)


def _label_studio_image(data: Mapping[str, Any]) -> Names:
    known = (data.get("image_id"), data.get("file_name"), _file_of(str(data.get("image", ""))))
    return tuple(str(name) for name in known if name)


def _label_studio_min(task: Mapping[str, Any], where: str) -> Iterator[Given]:
    """An annotation of JSON-MIN: answers are keyed by the name of the question, beside the data.

    A single answer is a text, which data may be, too: it counts under a name that a label goes by. Several
    are an object with `choices`; taxonomies are lists of paths down the tree, rectangles lists of objects.
    """
    results: list[dict[str, Any]] = []
    for name, value in task.items():
        plain = name.casefold()
        if isinstance(value, dict) and "choices" in value:
            results.append({"type": "choices", "value": value})
        elif isinstance(value, str) and value and plain in _LABEL_STUDIO_LABELS:
            results.append({"type": "choices", "value": {"choices": [value]}})
        elif isinstance(value, int | float) and plain in _TIMELAPSE["count"]:
            results.append({"type": "number", "value": {"number": value}})
        elif isinstance(value, list):
            for one in value:
                if isinstance(one, dict) and "rectanglelabels" in one:
                    results.append({"type": "rectanglelabels", "value": one})
                elif isinstance(one, dict) and "taxonomy" in one:
                    results.append({"type": "taxonomy", "value": one})
                elif isinstance(one, list) and one and all(isinstance(step, str) for step in one):
                    results.append({"type": "taxonomy", "value": {"taxonomy": [one]}})
    by = task.get("annotator")
    who = by.get("email") if isinstance(by, dict) else None if by is None else str(by)
    when = _moment(task.get("updated_at") or task.get("created_at"))
    yield from _label_studio_labels(results, where, _label_studio_image(task), who, when)


_LABEL_STUDIO_LABELS = (*_TIMELAPSE["label"], "choice", "choices")


def _label_studio_labels(
    results: Sequence[dict[str, Any]], where: str, image: Names, who: str | None, when: dt.datetime | None
) -> Iterator[Given]:
    counts = [
        result["value"]["number"]
        for result in results
        if result.get("type") == "number" and "value" in result
    ]
    more = _clean({"count": counts[0]}, where) if len(counts) == 1 else {}
    for result in results:
        kind, value = result.get("type"), result.get("value") or {}
        if kind == "choices":
            for label in value.get("choices") or ():
                yield Given(where, str(label), (image,), who=who, when=when, more=more)
        elif kind == "taxonomy":
            for way in value.get("taxonomy") or ():
                yield Given(where, str(way[-1]), (image,), who=who, when=when, more=more)
        elif kind == "rectanglelabels":
            x, y, w, h = (float(value[side]) / 100 for side in ("x", "y", "width", "height"))
            for label in value.get("rectanglelabels") or ():
                yield Given(where, str(label), (image,), box=(x, y, w, h), who=who, when=when)


def _file_of(address: str) -> str:
    """The file behind one of Label Studio's URLs or local paths."""
    parts = urlsplit(address)
    if parts.query.startswith("d="):  # /data/local-files/?d=folder/file.jpg
        return unquote(parts.query[2:])
    return unquote(parts.path).lstrip("/")


FORMATS = (
    Format("timelapse", lambda path: _is_table(path, ("relativepath",), ("file",)), _read_timelapse),
    Format(
        "wildlife-insights",
        lambda path: _is_table(
            path, ("deployment_id",), ("is_blank", "wi_taxon_id"), ("location", "filename")
        ),
        _read_wildlife_insights,
    ),
    Format("csv", lambda path: _is_table(path, _OWN["label"], (*_OWN["image"], *_OWN["event"])), _read_own),
    Format("camtrap-dp", _is_package, _read_camtrap_dp),
    Format("label-studio", _is_label_studio, _read_label_studio),
)
"""Formats, in the order in which they are tried."""


def _traits(table: GivenTable, row: int, names: dict[str, str]) -> dict[str, Any]:
    return _clean(
        {what: table.columns[name][row] for what, name in names.items() if name in table.columns},
        table.at(row),
    )


def _clean(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Traits without those that are not given; counts as whole numbers."""
    more = {what: value for what, value in given.items() if value not in (None, "")}
    if "count" in more:
        count = whole_number(str(more["count"]))
        if count is None or count < 0:
            raise InputError(f"{where}: count: {more['count']!r} should be a whole number, 0 or more")
        if count > MOST_COUNTED:
            raise InputError(f"{where}: count: {more['count']!r} should be {MOST_COUNTED:,} at most")
        more["count"] = count
    for what in ("sex", "life_stage"):
        if what in more:
            more[what] = _SEX.get(str(more[what]).casefold(), str(more[what]).casefold())
    return more


def _times(table: GivenTable, name: str, order: Order | None) -> list[dt.datetime | None]:
    """A column of moments; those without an offset are taken as UTC. Raises InputError if one can't be
    read, or it is unclear whether its day or its month comes first."""
    cells = table.columns.get(name, [None] * len(table))
    dates = parse_dates(cells)
    if dates.undecided and order is not None:
        dates = parse_dates(cells, order)
    check_orders(dates, cells, lambda row: f"{table.at(row)}: {name}: {cells[row]!r}", None)
    for row in sorted([*dates.strange, *dates.placeholders]):
        raise InputError(
            f"{table.at(row)}: {name}: {cells[row]!r} should be a date and time, such as 2026-11-30 14:05"
        )
    minutes = np.where(dates.offsets == NULL_OFFSET, 0, dates.offsets)
    times = dates.times - minutes.astype("timedelta64[m]")
    return [None if time is None else time.replace(tzinfo=dt.UTC) for time in times.astype(object).tolist()]


def _moment(text: str | None) -> dt.datetime | None:
    """A moment; one without an offset is taken as UTC."""
    if not text:
        return None
    try:
        found = parse_date(str(text))
    except ValueError:
        return None
    if found is None:
        return None
    time, offset = found
    return (time - dt.timedelta(minutes=offset or 0)).replace(tzinfo=dt.UTC)


def _part(value: str | None, where: str) -> float | None:
    if value in (None, ""):
        return None
    found = number(str(value))
    if found is None:
        raise InputError(f"{where}: {value!r} should be a number between 0 and 1")
    return found
