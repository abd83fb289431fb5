"""Detection histories for occupancy models: a folder of CSV files for R's read.csv.

Rows are stations and columns occasions, named as in camtrapR's `detectionHistory`: unmarked's
`unmarkedFrameOccu`, spOccupancy and camtrapR's own functions read them directly.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv

from camtrap_batch.catalog import as_photos_have_it
from camtrap_batch.catalog.cameras import read_covariates
from camtrap_batch.codes import if_else
from camtrap_batch.exports.base import Out
from camtrap_batch.exports.images import Images
from camtrap_batch.exports.written import Written
from camtrap_batch.job import Job
from camtrap_batch.options import Option, fraction, one_of
from camtrap_batch.store.outpath import check_folder
from camtrap_batch.survey.history import Occasions, Records, find_records, make_occasions
from camtrap_batch.survey.result import Counted, counting_of, read_deployments
from camtrap_batch.vocabulary import plural

OPTIONS = "options.json"
EFFORT, COVARIATES, SPECIES = "effort.csv", "site_covariates.csv", "species.csv"
HISTORY = "detection_history_{}.csv"

_TOOL = "camtrap-batch"
_VALUES = ("presence", "events", "individuals")
_LABELS = ("all", "human", "machine")
_UNSAFE = re.compile(r"[^\w.-]+")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{text!r} should be a whole number, 1 or more")
    return int(text)


def _day1(text: str) -> str | dt.date:
    if text in ("survey", "station"):
        return text
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} should be survey, station or a date such as 2022-12-31") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


COUNTED = (
    Option(
        "min-confidence", "an event with less confidence is not a record", 0.0, parse=fraction, metavar="P"
    ),
    Option("groups", "groups of species (events.taxonomy) are also records", False, metavar=None),
    Option("people", "people and vehicles are also records", False, metavar=None),
    Option(
        "labels",
        "human, machine: only events labelled by these; or all",
        "all",
        parse=one_of(_LABELS),
        metavar="WHOSE",
    ),
    Option("species", "names between commas, default: all", parse=_names, metavar="NAME,..."),
)


class DetectionHistoryExport:
    name = "detection-history"
    help = "stations by occasions for each species, for camtrapR, unmarked and spOccupancy"
    out = "a folder"
    options = (
        Option("days", "days in an occasion", 7, parse=_positive, metavar="N"),
        Option(
            "day1",
            "first day of the first occasion: survey, station (that of each station) or a date",
            "station",
            parse=_day1,
            metavar="DAY",
        ),
        Option("most-days", "leave out occasions after this many days", parse=_positive, metavar="N"),
        Option("complete", "only occasions on all of whose days a camera worked", False, metavar=None),
        Option(
            "values",
            "presence (1 and 0), or how many events or individuals",
            "presence",
            parse=one_of(_VALUES),
            metavar="WHAT",
        ),
        *COUNTED,
    )

    def check(self, out: str, job: Job) -> Path:
        return check_folder(out, job, _is_ours)

    def write(self, images: Images, out: Out, options: Mapping[str, Any]) -> Written:
        return write_histories(images, out.path, options)


EXPORT = DetectionHistoryExport()


def write_histories(images: Images, path: Path, options: Mapping[str, Any]) -> Written:
    """Write the folder.

    Raises
    ------
    InputError
        `merge` has not been run, no station's days are known, or an option asks for something that does not
        exist.
    """
    images.check_stop()
    merged = images.merged
    counting = counting_of(merged)
    counted = counted_of(options)
    deployments = read_deployments(merged)
    occasions = make_occasions(
        deployments,
        days=options["days"],
        day1=options["day1"],
        counting=counting,
        complete=options["complete"],
        most_days=options["most-days"],
    )
    events = counted.of(images.events)
    records = find_records(events, occasions, options["values"])
    path.mkdir()
    files = write_matrices(path, occasions, records, images.check_stop)
    counts = {one["values"]: one["counts"] for one in events["label"].value_counts().to_pylist()}
    table = pa.table(
        {
            "species": records.species,
            "file": [files[name] for name in records.species],
            "events": [counts[name] for name in records.species],
            "stations": [
                len(np.unique(records.station[first:last]))
                for first, last in zip(records.begin, records.begin[1:], strict=False)
            ],
        }
    )
    pacsv.write_csv(table, path / SPECIES)
    pacsv.write_csv(_covariates(images, occasions), path / COVARIATES)
    sources = _sources(deployments, occasions)
    (path / OPTIONS).write_text(
        json.dumps(
            {
                "made_by": f"{_TOOL} {version(_TOOL)}",
                "job": images.run.job.name,
                "result_of_merge": merged.number,
                "model": images.model_id,
                **{name: value for name, value in options.items() if not isinstance(value, dt.date)},
                "day1": str(options["day1"]),
                "cameras_at_one_station": counting,
                "stations": len(occasions.stations),
                "occasions": occasions.effort.shape[1],
                "events": events.num_rows,
                "events_outside_of_effort": records.n_outside,
                "effort_rests_on": sources,
            },
            indent=1,
            ensure_ascii=False,
        )
        + "\n",
        encoding="utf-8",
    )
    written = Written(path, images=len(images))
    written.headline = (
        f"detection histories of {len(records.species):,} species at "
        f"{plural(len(occasions.stations), 'station')} in "
        f"{plural(occasions.effort.shape[1], 'occasion')} of {plural(occasions.days, 'day')}, from "
        f"{plural(events.num_rows, 'event')}"
    )
    written.notes["events left out: no camera worked then, by the deployments, or outside the occasions"] = (
        records.n_outside
    )
    written.notes["stations whose effort is taken from photos, and so too short"] = sources.get("images", 0)
    return written


def counted_of(options: Mapping[str, Any]) -> Counted:
    """Which events count, by the options `COUNTED`."""
    return Counted(
        options["min-confidence"],
        options["groups"],
        options["people"],
        options["labels"],
        options["species"] or (),
    )


def write_matrices(
    path: Path, occasions: Occasions, records: Records, check_stop: Callable[[], None] = lambda: None
) -> dict[str, str]:
    """Write a file for each species, and one for the effort, into a folder; returns the names of the former.

    Parameters
    ----------
    check_stop : called before each file; raises Interrupted once the command is to stop
    """
    _write_matrix(path / EFFORT, occasions, occasions.effort)
    content, cells = _blank(occasions)
    files: dict[str, str] = {}
    for number, species in enumerate(records.species):
        check_stop()
        these = slice(records.begin[number], records.begin[number + 1])
        at = cells[records.station[these], records.occasion[these]]
        files[species] = _file_name(species, set(files.values()))
        _fill(content, at, records.value[these]).tofile(path / files[species])
        content[at] = _ZERO
    return files


Bytes = npt.NDArray[np.uint8]
_ZERO = ord("0")


def _blank(occasions: Occasions) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """A file in which nothing was seen, and where each cell begins in it: files differ only in few cells."""
    is_off = np.isnan(occasions.effort)
    starts = [f"{_quoted(name)},".encode() for name in occasions.stations]
    header = ",".join(['""', *map(_quoted, occasions.names)]).encode() + b"\n"
    widths = np.where(is_off, 3, 2)  # including the comma, or the end of the line, after it
    lengths = widths.sum(axis=1) + np.array([len(start) for start in starts])
    begins = len(header) + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    within = np.cumsum(widths, axis=1) - widths + np.array([[len(start)] for start in starts])
    cells = begins[:, None] + within
    content = np.full(len(header) + int(lengths.sum()), ord(","), np.uint8)
    content[: len(header)] = np.frombuffer(header, np.uint8)
    for begin, start in zip(begins.tolist(), starts, strict=True):
        content[begin : begin + len(start)] = np.frombuffer(start, np.uint8)
    content[begins + lengths - 1] = ord("\n")
    content[cells] = np.where(is_off, ord("N"), _ZERO)
    content[cells[is_off] + 1] = ord("A")
    return content, cells


def _fill(content: Bytes, at: npt.NDArray[np.int64], values: npt.NDArray[np.int64]) -> Bytes:
    """The content with numbers in the cells that begin at `at`; a copy if one has several digits."""
    texts = [str(value).encode() for value in values.tolist()]
    content[at] = [text[0] for text in texts]
    more = [(cell + 1, digit) for cell, text in zip(at.tolist(), texts, strict=True) for digit in text[1:]]
    if not more:
        return content
    after, digits = zip(*more, strict=True)
    return np.insert(content, after, digits)


def _write_matrix(path: Path, occasions: Occasions, matrix: Any) -> None:
    header = ",".join(['""', *map(_quoted, occasions.names)])
    with path.open("w", encoding="utf-8") as file:
        file.write(header + "\n")
        for name, row in zip(occasions.stations, matrix.tolist(), strict=True):
            cells = ",".join("NA" if value != value else f"{value:.10g}" for value in row)
            file.write(f"{_quoted(name)},{cells}\n")


def _covariates(images: Images, occasions: Occasions) -> pa.Table:
    """Position and covariates of each station, in the order of the histories."""
    sites = {row["location"]: row for row in images.locations.select(_PLACE).to_pylist()}
    rows = {name: sites.get(name, {}) for name in occasions.stations}
    columns: dict[str, Any] = {
        "station": list(occasions.stations),
        "longitude": pa.array([row.get("longitude") for row in rows.values()], pa.float64()),
        "latitude": pa.array([row.get("latitude") for row in rows.values()], pa.float64()),
        "camera_days": pa.array(np.nansum(occasions.effort, axis=1)),
    }
    if (path := images.run.job.dataset.cameras) is not None:
        stations = pa.chunked_array([list(occasions.stations)], pa.string())
        table = as_photos_have_it(read_covariates(path), lambda: stations)
        at = {name: number for number, name in enumerate(table["location"].to_pylist())}
        order = pa.array([at.get(name) for name in occasions.stations], pa.int64())
        columns |= {name: table[name].take(order) for name in table.column_names if name not in _PLACE}
        hidden = pa.array([name in images.shown.moved for name in occasions.stations])
        for name in columns:
            if _TELLS_PLACE.fullmatch(name):
                columns[name] = if_else(hidden, None, columns[name])
    return pa.table(columns)


_PLACE = ["location", "longitude", "latitude"]

_TELLS_PLACE = re.compile(
    r"(?:(?:utm|gps|map|grid|crs|proj)?_?(?:x|y|e|n|east|north|easting|northing|lat|lon|lng|long|latitude|longitude"
    r"|coords?|coordinates?|ref|reference|square|point)(?:_?(?:utm|gps|dms|dd|wgs84|m))?)"
    r"|utm|mgrs|geohash|plus_?code|what3words|wkt|geom|geometry|gridref",
    re.IGNORECASE,
)
"""Columns of a camera table that give a camera's position in another way."""


def _sources(deployments: pa.Table, occasions: Occasions) -> dict[str, int]:
    """Number of stations by what their effort rests on; photos if any of it does."""
    of: dict[str, str] = {}
    for location, source in zip(
        *(deployments[name].to_pylist() for name in ("location", "source")), strict=True
    ):
        if of.get(location) != "images":
            of[location] = source
    found: dict[str, int] = {}
    for name in occasions.stations:
        found[of[name]] = found.get(of[name], 0) + 1
    return found


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds an earlier export, and nothing else."""
    names = {entry.name for entry in folder.iterdir()}
    known = {OPTIONS, EFFORT, COVARIATES, SPECIES}
    pattern = re.compile(re.escape(HISTORY).replace(r"\{\}", ".+"))
    if not known <= names or not all(pattern.fullmatch(name) for name in names - known):
        return False
    try:
        made_by = json.loads((folder / OPTIONS).read_text(encoding="utf-8")).get("made_by", "")
    except (OSError, ValueError, AttributeError):
        return False
    return str(made_by).startswith(_TOOL)


def _file_name(species: str, taken: set[str]) -> str:
    plain = _UNSAFE.sub("_", species).strip("._")[:80] or "species"
    names = (HISTORY.format(plain if number == 1 else f"{plain}_{number}") for number in range(1, 10_000))
    lowered = {name.lower() for name in taken}
    return next(name for name in names if name.lower() not in lowered)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
