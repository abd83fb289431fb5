"""A Camtrap DP data package of the predictions: deployments, media, observations.

Format: camtrap-dp.tdwg.org, version 1.0.2. `catalog.camtrap_dp` reads what is written here.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from camtrap_batch.catalog import reader_of
from camtrap_batch.clocks import MINUTE, NO_TIME, microseconds
from camtrap_batch.codes import Ints, if_else, one_chunk
from camtrap_batch.errors import InputError
from camtrap_batch.events.codes import Bools, short_hash
from camtrap_batch.exports.base import Out
from camtrap_batch.exports.csv import no_formula
from camtrap_batch.exports.images import BOX, Block, Images, take
from camtrap_batch.exports.written import Written
from camtrap_batch.job import Job
from camtrap_batch.options import Option
from camtrap_batch.store.outpath import check_file, check_folder
from camtrap_batch.survey.effort import FROM_IMAGES, as_rows
from camtrap_batch.survey.places import Shown, uncertainty_m
from camtrap_batch.survey.result import read_deployments
from camtrap_batch.vocabulary import NO_MODEL, PEOPLE, PERSONS, UNCERTAIN, USABLE, VEHICLES

DEPLOYMENTS = (
    "deploymentID", "locationID", "locationName", "latitude", "longitude", "coordinateUncertainty",
    "deploymentStart", "deploymentEnd", "setupBy", "cameraID", "cameraModel", "cameraDelay", "cameraHeight",
    "cameraDepth", "cameraTilt", "cameraHeading", "detectionDistance", "timestampIssues", "baitUse",
    "featureType", "habitat", "deploymentGroups", "deploymentTags", "deploymentComments",
)  # fmt: skip
MEDIA = (
    "mediaID", "deploymentID", "captureMethod", "timestamp", "filePath", "filePublic", "fileName",
    "fileMediatype", "exifData", "favorite", "mediaComments",
)  # fmt: skip
OBSERVATIONS = (
    "observationID", "deploymentID", "mediaID", "eventID", "eventStart", "eventEnd", "observationLevel",
    "observationType", "cameraSetupType", "scientificName", "count", "lifeStage", "sex", "behavior",
    "individualID", "individualPositionRadius", "individualPositionAngle", "individualSpeed", "bboxX",
    "bboxY", "bboxWidth", "bboxHeight", "classificationMethod", "classifiedBy", "classificationTimestamp",
    "classificationProbability", "observationTags", "observationComments",
)  # fmt: skip
LEFT_OUT = ("kind", "id", "file_name", "location", "reason")
"""Columns of the list of what was left out of the package."""

TABLES = {"deployments": DEPLOYMENTS, "media": MEDIA, "observations": OBSERVATIONS}
_DESCRIPTOR = "datapackage.json"
_FILES = frozenset({_DESCRIPTOR, *(f"{name}.csv" for name in TABLES)})
TOOL = "camtrap-batch"
_SCHEMAS = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2"
IN_PARQUET = "-parquet"
"""Suffix of the name of a table's resource with its rows as Parquet."""
PROFILE = f"{_SCHEMAS}/camtrap-dp-profile.json"
BY_PEOPLE = "observations of media by people"
SHOWS_PEOPLE = "that show people (--without-people)"
_MISSING = ("", "NA", "NaN", "nan")
"""Values that the format reads as missing."""
_REFUSED_PATH = r"^[./~]|\.\.|\n"
_BBOX = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")
_NUMBERS = ("latitude", "longitude", *_BBOX, "classificationProbability")
_RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species", "subspecies")
_COUNTED = pa.array(["animal", "human", "vehicle"])
FROM_MANIFEST = (
    "image_id", "file_name", "location", "deployment", "datetime", "utc_offset_minutes", "status", "format",
    "camera_make", "camera_model", "video_s",
)  # fmt: skip
_KINDS = {
    **dict.fromkeys(PERSONS, "human"),
    **dict.fromkeys(VEHICLES, "vehicle"),
    UNCERTAIN: "unknown",
}
_NO_OFFSET = np.iinfo(np.int32).min


_LIST = ".left-out.csv"
"""Suffix of the list's name, after that of the package."""


@dataclass(frozen=True)
class Rules:
    """What a package is to be like.

    Attributes
    ----------
    without_people : whether to leave out media that show people
    decimals : decimals of coordinates; None: unchanged
    about : members of datapackage.json that the job gives
    parquet : whether to write the tables as Parquet, too
    """

    without_people: bool = False
    decimals: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    parquet: bool = False

    @classmethod
    def of(cls, images: Images, options: Mapping[str, Any]) -> Rules:
        """From the options of the export, and the job's `dataset.about`."""
        given = images.run.job.dataset.about
        about = read_about(given) if isinstance(given, str) else _checked(dict(given or {}), "dataset.about")
        return cls(options["without-people"], options["coordinate-decimals"], about, options["parquet"])


def read_about(path: str) -> dict[str, Any]:
    """The file `dataset.about`: JSON with members for the description of data packages.

    Raises InputError if it can't be read, or has members that follow from the data.
    """
    try:
        with fsspec.open(path, "rb") as file:
            content = json.loads(file.read())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (dataset.about)") from None
    except Exception as problem:  # clients of object stores raise their own errors
        raise InputError(f"{path}: can't be read (dataset.about): {problem}") from None
    if not isinstance(content, dict):
        raise InputError(f'{path}: should be a JSON object such as {{"contributors": [...]}} (dataset.about)')
    return _checked(content, path)


def _checked(content: dict[str, Any], where: str) -> dict[str, Any]:
    for name in content:
        if name in _FROM_DATA:
            raise InputError(f"{where}: {name}: follows from the data, and can't be set (dataset.about)")
    return content


_FROM_DATA = ("resources", "profile", "$schema", "created", "spatial", "temporal", "taxonomic", "sources")


def _decimals(text: str) -> int:
    if not text.isdecimal() or int(text) > 8:
        raise ValueError(f"{text!r} should be a whole number, at most 8")
    return int(text)


class CamtrapDpExport:
    name = "camtrap-dp"
    help = "a Camtrap DP data package, for GBIF, Agouti, Trapper and camtrapdp in R"
    out = "a folder, or a file that ends in .zip"
    options = (
        Option(
            "without-people",
            "leave out media that show people, and the observations of them",
            False,
            metavar=None,
        ),
        Option(
            "coordinate-decimals",
            "round coordinates to this many decimals (2: about a kilometre)",
            parse=_decimals,
            metavar="N",
        ),
        Option("parquet", "also write the tables as Parquet, beside the CSV files", False, metavar=None),
    )

    def check(self, out: str, job: Job) -> Path:
        if _is_zip(out):
            path = check_file(out, job, (".zip",))
        else:
            path = check_folder(out, job, is_package_of_ours, instead=", or end in .zip")
        check_file(str(list_beside(path)), job, (".csv",))
        return path

    def write(self, images: Images, out: Out, options: Mapping[str, Any]) -> Written:
        rules = Rules.of(images, options)
        write = write_zip if _is_zip(out.final.name) else write_package
        written = write(images, out.path, out.beside(_LIST), rules)
        written.listed = list_beside(out.final)
        return written


EXPORT = CamtrapDpExport()


def _is_zip(out: str) -> bool:
    return out.lower().endswith(".zip")


def list_beside(path: Path) -> Path:
    """Path of the list of what was left out of the package at `path`."""
    return path.with_name(f"{path.name}{_LIST}")


def is_package_of_ours(folder: Path) -> bool:
    """Whether a folder holds an earlier export, and nothing else."""
    names = {str(entry.relative_to(folder)) for entry in folder.rglob("*") if not entry.is_dir()}
    if not names >= _FILES:
        return False
    try:
        descriptor = json.loads((folder / _DESCRIPTOR).read_text(encoding="utf-8"))
        if not any(source.get("title") == TOOL for source in descriptor.get("sources", [])):
            return False
        paths = [resource.get("path", []) for resource in descriptor["resources"]]
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return False
    listed = {name for path in paths for name in ([path] if isinstance(path, str) else path)}
    return names <= {*_FILES, *listed}


def write_package(images: Images, path: Path, left_out: Path, rules: Rules) -> Written:
    """Like `write_camtrap_dp`; if the data set is itself a package, that one complete, with our additions."""
    source = reader_of(images.run.job.dataset).package
    if source is None:
        written = write_camtrap_dp(images, path, left_out, rules)
    else:
        from camtrap_batch.exports.camtrap_dp_source import (
            write_whole,  # it uses parts of this module
        )

        written = write_whole(images, path, left_out, source, rules)
    if rules.parquet:
        _write_parquet(path)
    return written


def _write_parquet(path: Path) -> None:
    """Add each table of the package in the folder `path` as another resource, in Parquet; times stay text."""
    for name, columns in TABLES.items():
        numbers = {**dict.fromkeys(_NUMBERS, pa.float64()), "count": pa.int64()}
        kinds = {column: numbers.get(column, pa.string()) for column in columns}
        options = pacsv.ConvertOptions(column_types=kinds, strings_can_be_null=True, null_values=[""])
        with (
            pacsv.open_csv(path / f"{name}.csv", convert_options=options) as reader,
            pq.ParquetWriter(path / f"{name}.parquet", reader.schema, compression="zstd") as writer,
        ):
            for batch in reader:
                writer.write_batch(batch)
    descriptor = json.loads((path / _DESCRIPTOR).read_text(encoding="utf-8"))
    descriptor["resources"] += [
        {
            "name": f"{name}{IN_PARQUET}",
            "path": f"{name}.parquet",
            "format": "parquet",
            "mediatype": "application/vnd.apache.parquet",
            "description": f"The rows of {name}.csv",
        }
        for name in TABLES
    ]
    write_descriptor(path, descriptor)


def write_camtrap_dp(images: Images, path: Path, left_out: Path, rules: Rules | None = None) -> Written:
    """Write the package into the new folder `path`, and to `left_out` a list of what is not in it.

    Raises
    ------
    InputError
        No image can be included: none has a date, coordinates and a sound file.
    """
    rules = rules or Rules()
    written = Written(path, listed=left_out)
    deployments = _Deployments(images.doubted_dates(), _Given.of(images))
    people = People(images)
    taxa: set[str] = set()
    events = EventTimes(images.events.num_rows)
    path.mkdir()
    with ExitStack() as opened:
        media, observations = (
            opened.enter_context(CsvWriter(path / f"{name}.csv", TABLES[name]))
            for name in ("media", "observations")
        )
        unlisted = opened.enter_context(CsvWriter(left_out, LEFT_OUT))
        for block in images.blocks(list(FROM_MANIFEST), boxes=images.has_boxes):
            reasons, why = _reasons(images, block, without_people=rules.without_people)
            is_in = reasons < 0
            said = people.of(is_in)
            list_images(unlisted, block, reasons, why, written)
            if not is_in.any():
                continue
            rows = block.rows.filter(pa.array(is_in))
            written.images += rows.num_rows
            deployment = deployments.add(rows)
            media.write(_media(rows, deployments.ids(deployment)))
            label = block.label.filter(pa.array(is_in))
            written.notes["media that could not be classified, as unclassified"] += label.null_count
            what = seen(images, block, np.flatnonzero(is_in))
            written.notes["observations of a box"] += pc.count(what["bboxX"]).as_py()
            events.observed(what, said, deployment, rows)
            table = of_media(images, rows, deployments.ids(deployment), what)
            by_people = of_people(images, rows, deployments.ids(deployment), *said)
            for made in (table, by_people):
                taxa.update(made["scientificName"].drop_null().unique().to_pylist())
                observations.write(made)
            written.notes[BY_PEOPLE] += by_people.num_rows
        if not written.images:
            listed = ", ".join(f"{number:,} {reason}" for reason, number in written.left_out.most_common())
            raise InputError(f"no image can be in a Camtrap DP package: {listed}")
        taxa |= write_events(images, events, deployments, observations, unlisted, written)
    table = rounded(deployments.table(images.shown), rules.decimals)
    with CsvWriter(path / "deployments.csv", DEPLOYMENTS) as file:
        file.write(table)
    write_descriptor(path, described(_descriptor(images, table, taxa, written), rules))
    written.notes["deployments"] = table.num_rows
    written.notes["of them with timestampIssues: a doubtful date, or no time zone"] = (
        deployments.with_issues()
    )
    return written


def write_zip(images: Images, path: Path, left_out: Path, rules: Rules) -> Written:
    """Like `write_package`, all files in one .zip."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=path.name) as scratch:
        folder = Path(scratch) / "package"
        written = write_package(images, folder, left_out, rules)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                if not file.is_dir():
                    archive.write(file, file.relative_to(folder).as_posix())
    return written


# --- which images can be in it


def _reasons(images: Images, block: Block, *, without_people: bool) -> tuple[Ints, list[str]]:
    """For each image the number of the reason why it can't be in the package, -1 if it can; and the reasons.

    If there are several, the status counts, otherwise the last of `others`.
    """
    rows, positions = block.rows, images.locations
    known = positions.filter(pc.and_(pc.is_valid(positions["latitude"]), pc.is_valid(positions["longitude"])))
    is_placed = pc.is_in(rows["location"], known["location"].combine_chunks())
    status = rows["status"].combine_chunks().dictionary_encode()
    statuses = status.dictionary.to_pylist()
    others = [
        ("without a date", pc.is_null(rows["datetime"])),
        ("of a location without coordinates", pc.invert(is_placed)),
        ("without a location", pc.is_null(rows["location"])),
        ("with a file name that Camtrap DP does not allow", _is_refused(rows["file_name"], _REFUSED_PATH)),
        ("with an id that Camtrap DP takes as missing", _is_refused(rows["image_id"], None)),
    ]
    if without_people:
        others.append((SHOWS_PEOPLE, pa.chunked_array([shows_people(images, block)])))
    why = [f"with status {name}" for name in statuses] + [text for text, _ in others]
    found = np.full(rows.num_rows, -1, np.int64)
    for number, (_, mask) in enumerate(others, len(statuses)):
        found[np.asarray(mask.to_numpy(), bool)] = number
    number = status.indices.to_numpy()
    is_unusable = ~np.isin(number, [i for i, name in enumerate(statuses) if name in USABLE])
    found[is_unusable] = number[is_unusable]
    return found, why


def shows_people(images: Images, block: Block) -> Bools:
    """Whether a label of an image (see `people_in`), or a box in it that counts, is of people or their
    vehicles."""
    found = pc.is_in(block.rows["image_id"], images.people)
    shown = np.array(found.to_numpy(zero_copy_only=False), bool)
    for row, boxes in block.boxes.items():
        if any(str(box["label"]).casefold() in PEOPLE for box in images.counting(boxes)):
            shown[row] = True
    return shown


def _is_refused(texts: pa.ChunkedArray, pattern: str | None) -> pa.ChunkedArray:
    missing = pc.is_in(pc.utf8_trim_whitespace(texts), pa.array(_MISSING))
    return missing if pattern is None else pc.or_(missing, pc.match_substring_regex(texts, pattern))


def list_left_out(file: CsvWriter, block: Block, mask: Bools, why: str, written: Written) -> None:
    """List the images of a block where `mask` is true as left out."""
    list_images(file, block, np.where(mask, 0, -1), [why], written)


def list_images(file: CsvWriter, block: Block, reasons: Ints, why: list[str], written: Written) -> None:
    """List the images of a block that are left out: those whose reason, an index into `why`, is not -1."""
    is_out = reasons >= 0
    if not is_out.any():
        return
    rows = block.rows.filter(pa.array(is_out))
    text = pa.array(why).take(pa.array(reasons[is_out]))
    file.write(
        pa.table(
            {
                "kind": pa.repeat("image", rows.num_rows),
                "id": no_formula(rows["image_id"]),
                "file_name": no_formula(rows["file_name"]),
                "location": no_formula(rows["location"]),
                "reason": text,
            }
        )
    )
    written.left_out.update(Counter(text.to_pylist()))


# --- deployments


@dataclass
class _Deployment:
    id: str
    location: str
    name: str | None
    first: tuple[int, int, int] | None = None  # instant in UTC, local time, offset
    last: tuple[int, int, int] | None = None
    has_issues: bool = False
    cameras: set[str | None] = field(default_factory=set)


class _Given:
    """Recorded deployments, with their true start and end."""

    def __init__(self, deployments: pa.Table) -> None:
        self._rows: dict[str, list[dict[str, Any]]] = {}
        for row in as_rows(deployments):
            is_recorded = row["source"] != FROM_IMAGES or row.get("known") is not None
            if is_recorded and None not in (row["start"], row["end"]):
                day = str(np.datetime64(row["start"], "us").astype("datetime64[D]"))
                parts = (row["location"], row["camera"], day)
                row["name"] = row["deployment"] or "-".join(part for part in parts if part)
                self._rows.setdefault(row["location"], []).append(row)

    @classmethod
    def of(cls, images: Images) -> _Given:
        return cls(read_deployments(images.merged))

    def names(self) -> Iterator[tuple[str, str]]:
        """Location and name of each."""
        for location, rows in self._rows.items():
            for row in rows:
                yield location, row["name"]

    def row(self, location: str, name: str | None) -> dict[str, Any] | None:
        return next((row for row in self._rows.get(location, []) if row["name"] == name), None)

    def named(self, rows: pa.Table) -> pa.Table:
        """Images, each with the name of its deployment, or of the nearest one in time."""
        if not self._rows:
            return rows
        location, time = rows["location"].to_pylist(), microseconds(rows["datetime"]).tolist()
        names = rows["deployment"].to_pylist()
        for number, (where, when) in enumerate(zip(location, time, strict=True)):
            known = self._rows.get(where)
            if not known or any(row["name"] == names[number] for row in known):
                continue
            nearest = min(known, key=lambda row: max(row["start"] - when, when - row["end"], 0))
            names[number] = nearest["name"]
        return rows.set_column(
            rows.column_names.index("deployment"), "deployment", pa.array(names, pa.string())
        )


class _Deployments:
    """Deployments as they are encountered, and what is known about each after all images.

    Parameters
    ----------
    doubted : ids of images whose date may be wrong
    """

    def __init__(self, doubted: pa.Array, given: _Given) -> None:
        self._doubted, self._given = doubted, given
        self._number: dict[tuple[str, str | None], int] = {}
        self._all: list[_Deployment] = []
        self._ids = set(_MISSING)

    def add(self, rows: pa.Table) -> Ints:
        """Add images; returns the number of each one's deployment."""
        rows = self._given.named(rows)
        pairs = pa.table(
            {name: rows[name].combine_chunks().dictionary_encode() for name in ("location", "deployment")}
        )
        where, which = (
            pairs[name].combine_chunks().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            for name in ("location", "deployment")
        )
        _, first_row, inverse = np.unique(
            where * (which.max() + 2) + which + 1, return_index=True, return_inverse=True
        )
        locations, names = (
            rows[name].take(pa.array(first_row)).to_pylist() for name in ("location", "deployment")
        )
        numbers = np.array([self._number_of(*pair) for pair in zip(locations, names, strict=True)], np.int64)
        number = numbers[inverse]
        self._see(number, rows)
        return number

    def ids(self, number: Ints) -> pa.Array:
        return pa.array([deployment.id for deployment in self._all], pa.string()).take(pa.array(number))

    def table(self, shown: Shown) -> pa.Table:
        """Rows of deployments.csv, by id."""
        positions = shown.locations.select(["location", "latitude", "longitude"]).to_pylist()
        of = {
            row["location"]: row | {"off": uncertainty_m(km) if km else None}
            for row, km in zip(positions, shown.grid_km.tolist(), strict=True)
        }
        for location, name in self._given.names():  # including those that saw nothing
            if of.get(location, {}).get("latitude") is not None:
                self._number_of(location, name)
        rows = []
        for deployment in sorted(self._all, key=lambda one: one.id):
            position = of[deployment.location]
            known = self._given.row(deployment.location, deployment.name)
            times = [deployment.first or (0, 0, _NO_OFFSET), deployment.last or (0, 0, _NO_OFFSET)]
            if known is not None:
                times = [(0, known[name], times[at][2]) for at, name in enumerate(("start", "end"))]
            start, end = (
                stamps(np.array([time]), np.array([offset]))[0].as_py() for _, time, offset in times
            )
            camera = next(iter(deployment.cameras)) if len(deployment.cameras) == 1 else None
            rows.append(
                {
                    "deploymentID": deployment.id,
                    "locationID": deployment.location,
                    "locationName": deployment.location,
                    "latitude": position["latitude"],
                    "longitude": position["longitude"],
                    "coordinateUncertainty": position["off"],
                    "deploymentStart": start,
                    "deploymentEnd": end,
                    "cameraID": None if known is None else known["camera"],
                    "cameraModel": camera,
                    "timestampIssues": "true" if deployment.has_issues else "false",
                }
            )
        return pa.Table.from_pylist(rows)

    def with_issues(self) -> int:
        return sum(deployment.has_issues for deployment in self._all)

    def _number_of(self, location: str, name: str | None) -> int:
        found = self._number.get((location, name))
        if found is None:
            id_ = location if name is None else name
            if id_.strip() in self._ids:  # the id of another location, or a word that means missing
                id_ = f"{id_}-{short_hash(location, name or '')}"
            self._ids.add(id_.strip())
            found = self._number[location, name] = len(self._all)
            self._all.append(_Deployment(id_, location, name))
        return found

    def _see(self, number: Ints, rows: pa.Table) -> None:
        time, offset = _times(rows)
        instant = _instant(time, offset)
        order = np.lexsort((instant, number))
        begins = np.flatnonzero(np.diff(number[order], prepend=-1))
        ends = np.append(begins[1:], len(order)) - 1
        for first, last in zip(order[begins].tolist(), order[ends].tolist(), strict=True):
            seen = self._all[number[first]]
            early, late = ((int(instant[at]), int(time[at]), int(offset[at])) for at in (first, last))
            seen.first = early if seen.first is None else min(seen.first, early)
            seen.last = late if seen.last is None else max(seen.last, late)
        is_doubted = np.asarray(pc.is_in(rows["image_id"], self._doubted).to_numpy(), bool)
        for one in np.unique(number[is_doubted | (offset == _NO_OFFSET)]).tolist():
            self._all[one].has_issues = True
        cameras = pc.binary_join_element_wise(rows["camera_make"], rows["camera_model"], "-").combine_chunks()
        coded = cameras.dictionary_encode()
        names = [*coded.dictionary.to_pylist(), None]
        code = coded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)
        for one, camera in {*zip(number.tolist(), code.tolist(), strict=True)}:
            self._all[one].cameras.add(names[camera])


# --- media and observations


def _media(rows: pa.Table, deployment: pa.Array) -> pa.Table:
    kind, is_frame = pc.utf8_lower(rows["format"]), rows["video_s"].is_valid()
    return pa.table(
        {
            "mediaID": rows["image_id"],
            "deploymentID": deployment,
            "timestamp": stamps(*_times(rows)),
            "filePath": rows["file_name"],
            "filePublic": pa.repeat("false", rows.num_rows),
            "fileName": pc.replace_substring_regex(rows["file_name"], r"^(?s:.*)/", ""),
            "fileMediatype": pc.binary_join_element_wise(
                pc.if_else(is_frame, "video", "image"), pc.if_else(pc.equal(kind, "mpo"), "jpeg", kind), "/"
            ),
            # The format does not have frames: each is a separate medium, of the same file.
            "mediaComments": pc.binary_join_element_wise(
                "frame at", rows["video_s"].cast(pa.string()), "s", " "
            ),
        }
    )


def seen(images: Images, block: Block, rows_of: Ints) -> pa.Table:
    """What is seen in images: what the metadata say, if that counts; otherwise what the machine says.

    Columns are the image's number in `rows_of`, a prefix of the observation's id, label, confidence, box, the
    row of its event in `images.events` (-1: none), and for people's labels `count`, and `is_human`.
    """
    event = images.event[block.predicted[rows_of]]
    by_machine = _by_machine(images, block, rows_of)
    image = by_machine["image"].to_numpy()
    machine = dict(zip(by_machine.column_names, by_machine.columns, strict=True))
    found = pa.table(
        {
            **machine,
            "event": pa.array(event[image]),
            "count": pa.nulls(len(image), pa.int32()),
            "is_human": pa.repeat(False, len(image)),
        }
    )
    # What was said in corrections becomes a separate observation, see `of_people`.
    told = {row: said for row, said in block.told.items() if said[0]["classified_at"] is None}
    is_told = np.isin(rows_of, np.fromiter(told, np.int64, len(told)))
    if not is_told.any():
        return found
    by_metadata = [
        {
            "image": number,
            "prefix": "media" if which == 0 else f"media:{which}",
            "label": one["label"],
            "count": one["count"],
            "event": images.event_row(one["event_id"]),
            "is_human": True,
        }
        for number in np.flatnonzero(is_told).tolist()
        for which, one in enumerate(told[int(rows_of[number])])
    ]
    rows = pa.Table.from_pylist(
        [{name: one.get(name) for name in found.column_names} for one in by_metadata], found.schema
    )
    every = pa.concat_tables([found.filter(pa.array(~is_told[image])), rows])
    return every.take(pc.sort_indices(every, sort_keys=[("image", "ascending"), ("prefix", "ascending")]))


def _by_machine(images: Images, block: Block, rows_of: Ints) -> pa.Table:
    """What a machine has seen: each image's boxes, or its label if there are none."""
    labels, confidences = (part.take(pa.array(rows_of)) for part in (block.machine, block.machine_p))
    if not images.has_boxes:
        n = len(rows_of)
        return pa.table(
            {
                "image": np.arange(n),
                "prefix": pa.repeat("media", n),
                "label": labels,
                "confidence": confidences,
                **{name: pa.nulls(n, pa.float64()) for name in _BBOX},
            }
        )
    rows: list[tuple[Any, ...]] = []
    for number, (row, label, confidence) in enumerate(
        zip(rows_of.tolist(), labels.to_pylist(), confidences.to_pylist(), strict=True)
    ):
        boxes = images.counting(block.boxes.get(row, []))
        for which, box in enumerate(boxes):
            corners = [round(box[name], 6) for name in BOX]
            if min(corners[2:]) <= 0:  # the format does not allow this
                corners = [None] * 4
            rows.append((number, f"box:{which}", box["label"], round(box["label_confidence"], 4), *corners))
        if not boxes:
            rows.append((number, "media", label, confidence, *[None] * 4))
    kinds = (pa.int64(), pa.string(), pa.string(), *[pa.float64()] * 5)
    names = ("image", "prefix", "label", "confidence", *_BBOX)
    columns = zip(*rows, strict=True)
    return pa.table(
        {name: pa.array(column, kind) for name, column, kind in zip(names, columns, kinds, strict=True)}
    )


def of_media(images: Images, rows: pa.Table, deployment: pa.Array, seen: pa.Table) -> pa.Table:
    image = seen["image"].combine_chunks()
    time, ids = stamps(*_times(rows)).take(image), rows["image_id"].take(image)
    observed = _observed(images, seen["label"].combine_chunks(), seen["confidence"].combine_chunks())
    human = seen["is_human"].combine_chunks()
    observed["classificationMethod"] = pc.if_else(human, "human", observed["classificationMethod"])
    for name in ("classifiedBy", "classificationTimestamp"):
        observed[name] = if_else(human, None, observed[name])
    boxes = if_else(pc.is_valid(seen["bboxX"]), 1, pa.scalar(None, pa.int32()))
    is_counted = pc.is_in(observed["observationType"], _COUNTED)
    return pa.table(
        {
            "observationID": pc.binary_join_element_wise(seen["prefix"], ids, ":"),
            "deploymentID": deployment.take(image),
            "mediaID": ids,
            "eventID": take(images.events["event_id"].combine_chunks(), seen["event"].to_numpy()),
            "eventStart": time,
            "eventEnd": time,
            "observationLevel": pa.repeat("media", seen.num_rows),
            "count": pc.coalesce(if_else(is_counted, seen["count"], None), boxes),
            **{name: seen[name] for name in _BBOX},
            **observed,
        }
    )


class People:
    """What people said about images, block by block."""

    def __init__(self, images: Images) -> None:
        said = images.said
        # Statements about a whole sequence or event say nothing about each of its images.
        of_one = None if said is None else pc.is_in(said["scope"], pa.array(["image", "box"]))
        self._said = None if said is None else said.filter(of_one)
        self._start = 0

    def of(self, is_in: Bools) -> tuple[pa.Table | None, Ints]:
        """What was said about the next images for which `is_in` is true, and the number of each among
        these."""
        start, self._start = self._start, self._start + len(is_in)
        if self._said is None:
            return None, np.zeros(0, np.int64)
        row = self._said["row"].to_numpy()
        first, last = np.searchsorted(row, (start, self._start))
        of_block = row[first:last] - start
        kept = is_in[of_block]
        number = np.cumsum(is_in) - 1
        return self._said.slice(first, last - first).filter(pa.array(kept)), number[of_block[kept]]


def of_people(
    images: Images, rows: pa.Table, deployment: pa.Array, said: pa.Table | None, image: Ints
) -> pa.Table:
    """Observations of single media by people.

    Parameters
    ----------
    rows, deployment : images, and the deployment of each
    said, image : results of `People.of`
    """
    if said is None or not said.num_rows:
        return pa.table({name: pa.array([], pa.string()) for name in ("observationID", "scientificName")})
    at = pa.array(image)
    ids, time = rows["image_id"].take(at), stamps(*_times(rows)).take(at)
    kind = _kinds(images, said["label"].combine_chunks())
    boxes = [box if box is not None and min(box[2:]) > 0 else [None] * 4 for box in said["box"].to_pylist()]
    return pa.table(
        {
            "observationID": pc.binary_join_element_wise("said", said["correction_id"], ids, ":"),
            "deploymentID": deployment.take(at),
            "mediaID": ids,
            "eventID": take(images.events["event_id"].combine_chunks(), said["of_event"].to_numpy()),
            "eventStart": time,
            "eventEnd": time,
            "observationLevel": pa.repeat("media", said.num_rows),
            "observationType": kind,
            "scientificName": if_else(pc.equal(kind, "animal"), said["label"], None),
            "count": if_else(pc.is_in(kind, _COUNTED), said["count"], None),
            **{name: [box[number] for box in boxes] for number, name in enumerate(_BBOX)},
            **_traits(said),
            "classificationMethod": pa.repeat("human", said.num_rows),
            "classifiedBy": said["who"],
            "classificationTimestamp": _instants(said["when"]),
            "observationComments": said["comment"],
        }
    )


def _traits(said: pa.Table) -> dict[str, pa.Array]:
    """Traits in the format's vocabulary; other words become null."""
    known = [name for name in _TRAITS.values() if name in said.column_names]
    found = {}
    for theirs, ours in _TRAITS.items():
        if ours not in known:
            continue
        values = one_chunk(said[ours])
        if theirs in _WORDS:
            values = pc.utf8_lower(values)
            values = if_else(pc.is_in(values, pa.array(_WORDS[theirs])), values, None)
        found[theirs] = values
    return found


_TRAITS = {
    "sex": "sex", "lifeStage": "life_stage", "behavior": "behaviour", "individualID": "individual",
}  # fmt: skip
_WORDS = {"sex": ("female", "male"), "lifeStage": ("adult", "subadult", "juvenile")}


def _instants(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times in UTC in the form of the format."""
    seconds = times.cast(pa.timestamp("s", tz="UTC"), safe=False)
    return pc.strftime(seconds, "%Y-%m-%dT%H:%M:%SZ")


def _kinds(images: Images, label: pa.Array) -> pa.Array:
    """The format's kind of observation for each label."""
    coded = label.dictionary_encode()
    kinds = [
        "blank" if images.is_empty(text) else _KINDS.get(text.casefold(), "animal")
        for text in coded.dictionary.to_pylist()
    ]
    return pc.fill_null(pa.array(kinds, pa.string()).take(coded.indices), "unclassified")


def _observed(images: Images, label: pa.Array, confidence: pa.Array) -> dict[str, pa.Array]:
    """What observations say about a machine's labels."""
    kind = _kinds(images, label)
    by_machine = pc.is_valid(label)
    made = pa.scalar(utc(images.snapshot.created), pa.string())
    if images.is_by_metadata:  # which do not say when a machine said it
        made = pa.scalar(None, pa.string())
    return {
        "observationType": kind,
        "scientificName": if_else(pc.equal(kind, "animal"), label, None),
        "classificationMethod": if_else(by_machine, "machine", None),
        "classifiedBy": if_else(by_machine, images.model_id, None),
        "classificationTimestamp": if_else(by_machine, made, None),
        "classificationProbability": confidence,
    }


class HasIds(Protocol):
    """Deployments identified by numbers."""

    def ids(self, number: Ints) -> pa.Array:
        """The id of each number."""
        ...


class EventTimes:
    """For each event: a deployment of its images in the package (-1: none is included), and zones of its
    times."""

    def __init__(self, number: int) -> None:
        self.deployment = np.full(number, -1, np.int64)
        self.start_offset, self.end_offset = (np.full(number, _NO_OFFSET, np.int32) for _ in range(2))
        self._earliest, self._latest = np.full(number, NO_TIME), np.full(number, -NO_TIME)

    def observed(
        self,
        seen: pa.Table,
        said: tuple[pa.Table | None, Ints],
        deployment: Ints,
        rows: pa.Table,
    ) -> None:
        """Take note of what is `seen` in images, and `said` about them; `deployment` and `rows` belong to the
        images."""
        image, event = seen["image"].to_numpy(), seen["event"].to_numpy()
        told, of = said
        if told is not None:
            image, event = np.append(image, of), np.append(event, told["of_event"].to_numpy())
        self.add(event, deployment[image], rows.take(pa.array(image)))

    def add(self, event: Ints, deployment: Ints, rows: pa.Table) -> None:
        time, offset = _times(rows)
        time = _instant(time, offset)
        is_in = event >= 0
        event, deployment, time, offset = event[is_in], deployment[is_in], time[is_in], offset[is_in]
        order = np.lexsort((time, event))
        begins = np.flatnonzero(np.diff(event[order], prepend=-1))
        first = order[begins]
        last = order[np.append(begins[1:], len(order))[: len(begins)] - 1]
        first = first[time[first] < self._earliest[event[first]]]
        last = last[time[last] > self._latest[event[last]]]
        self._earliest[event[first]], self._latest[event[last]] = time[first], time[last]
        self.deployment[event[first]] = deployment[first]
        self.start_offset[event[first]], self.end_offset[event[last]] = offset[first], offset[last]


def write_events(
    images: Images,
    times: EventTimes,
    deployments: HasIds,
    observations: CsvWriter,
    unlisted: CsvWriter,
    written: Written,
    known: pa.Array | None = None,
    *,
    is_ours: Bools | None = None,
) -> set[str]:
    """Write the events; returns the names in them.

    Parameters
    ----------
    known : ids of observations that are not written again
    is_ours : which events are to be written, or listed as left out; default: all
    """
    events = images.events
    every = np.ones(events.num_rows, bool) if is_ours is None else is_ours
    mask = (times.deployment >= 0) & every
    is_in = pa.array(mask)
    out = events.filter(pa.array(every & ~mask))
    unlisted.write(
        pa.table(
            {
                "kind": pa.repeat("event", out.num_rows),
                "id": out["event_id"],
                "location": no_formula(out["location"]),
                "reason": pa.repeat("all its images are left out", out.num_rows),
            }
        )
    )
    written.notes["events, as observations of an event"] = int(mask.sum())
    written.notes["events left out with all their images"] = out.num_rows
    within = events.filter(is_in).combine_chunks()
    label = within["label"].combine_chunks()
    observed = _observed(images, label, pc.round(within["confidence"].combine_chunks().cast("float64"), 4))
    observed |= _by_people(images, within, mask, observed) | _traits(within)
    written.notes["of them labelled by people"] = (
        pc.sum(pc.equal(observed["classificationMethod"], "human")).as_py() or 0
    )
    is_counted = pc.is_in(observed["observationType"], _COUNTED)
    table = pa.table(
        {
            "observationID": pc.binary_join_element_wise("event", within["event_id"], ":"),
            "deploymentID": deployments.ids(times.deployment[mask]),
            "eventID": within["event_id"],
            "eventStart": stamps(microseconds(within["start"]), times.start_offset[mask]),
            "eventEnd": stamps(microseconds(within["end"]), times.end_offset[mask]),
            "observationLevel": pa.repeat("event", within.num_rows),
            "count": if_else(is_counted, within["count"], None),
            **observed,
        }
    )
    if known is not None:
        table = table.filter(pc.invert(pc.is_in(table["observationID"], known)))
    observations.write(table)
    return set(observed["scientificName"].drop_null().to_pylist())


def _by_people(
    images: Images, events: pa.Table, kept: Bools, observed: Mapping[str, pa.Array]
) -> dict[str, pa.Array]:
    """Who labelled events, and when, if it was a person.

    Parameters
    ----------
    kept : which of all events are in `events`
    """
    if "label_source" not in events.column_names:
        return {}
    is_human = pc.fill_null(pc.equal(events["label_source"], "human"), False)
    who: dict[int, set[str]] = {}
    when: dict[int, dt.datetime] = {}
    said = images.said
    if said is not None:
        for row in said.select(["of_event", "who", "when"]).to_pylist():
            event, time = row["of_event"], row["when"]
            if row["who"] is not None:
                who.setdefault(event, set()).add(row["who"])
            if time is not None:
                when[event] = max(when.get(event, time), time)
    numbers = np.flatnonzero(kept).tolist()
    names = pa.array([", ".join(sorted(who.get(number, ()))) or None for number in numbers], pa.string())
    moments = pa.array([when.get(number) for number in numbers], pa.timestamp("us", tz="UTC"))
    times = _instants(pa.chunked_array([moments]))
    return {
        "classificationMethod": pc.if_else(is_human, "human", observed["classificationMethod"]),
        "classifiedBy": pc.if_else(is_human, names, observed["classifiedBy"]),
        "classificationTimestamp": pc.if_else(is_human, times, observed["classificationTimestamp"]),
        "classificationProbability": if_else(is_human, None, observed["classificationProbability"]),
    }


# --- the descriptor


def write_descriptor(path: Path, descriptor: Mapping[str, Any]) -> None:
    """datapackage.json in the folder `path`."""
    text = json.dumps(descriptor, ensure_ascii=False, indent=2) + "\n"
    (path / _DESCRIPTOR).write_text(text, encoding="utf-8")


def described(descriptor: dict[str, Any], rules: Rules) -> dict[str, Any]:
    """A descriptor with what the job says about the project, and how coordinates were rounded."""
    about = dict(rules.about)
    if isinstance(about.get("project"), dict) and isinstance(descriptor.get("project"), dict):
        about["project"] = descriptor["project"] | about["project"]
    found = descriptor | about
    if rules.decimals is not None:
        found["coordinatePrecision"] = round(10.0**-rules.decimals, rules.decimals)
    return found


def rounded(deployments: pa.Table, decimals: int | None) -> pa.Table:
    """Rows of deployments.csv with their coordinates, numbers or text, rounded; other columns unchanged."""
    if decimals is None:
        return deployments
    for name in ("latitude", "longitude"):
        column = deployments[name]
        found = pc.round(column.cast(pa.float64()), decimals)
        at = deployments.column_names.index(name)
        deployments = deployments.set_column(at, name, found.cast(column.type))
    return deployments


def resources() -> list[dict[str, Any]]:
    """The three tables, as a descriptor lists them."""
    return [
        {
            "name": table,
            "path": f"{table}.csv",
            "profile": "tabular-data-resource",
            "format": "csv",
            "mediatype": "text/csv",
            "encoding": "utf-8",
            "schema": f"{_SCHEMAS}/{table}-table-schema.json",
        }
        for table in TABLES
    ]


def source() -> dict[str, str]:
    """What a descriptor says about us."""
    return {"title": TOOL, "version": version(TOOL)}


def _descriptor(images: Images, deployments: pa.Table, taxa: set[str], written: Written) -> dict[str, Any]:
    """datapackage.json. What a run does not know is the format's most general value; see docs/exports.md."""
    name = images.run.job.name
    notes = f"Labels are predictions of {images.made_by or f'model {images.model_id}'}"
    people = images.said is not None or images.has_told
    notes += "; what people said is marked as theirs." if people else ", not by people."
    if images.model_id == NO_MODEL:
        notes = "Labels are by people."
    if written.left_out:
        notes += f" {written.left_out.total():,} of {len(images):,} images are not included: "
        notes += ", ".join(f"{number:,} {reason}" for reason, number in written.left_out.most_common()) + "."
    return {
        "resources": resources(),
        "profile": PROFILE,
        "name": re.sub(r"[^a-z0-9._-]", "-", name.lower()),
        "created": utc(dt.datetime.now(dt.UTC).isoformat()),
        "title": name,
        "description": notes,
        "contributors": [{"title": TOOL, "role": "contributor"}],
        "sources": [source()],
        "project": {
            "title": name,
            "samplingDesign": "opportunistic",
            "captureMethod": ["activityDetection"],
            "individualAnimals": _knows_individuals(images),
            "observationLevel": ["media", "event"],
        },
        "spatial": spatial(deployments),
        "temporal": {
            "start": min(text[:10] for text in deployments["deploymentStart"].to_pylist()),
            "end": max(text[:10] for text in deployments["deploymentEnd"].to_pylist()),
        },
        "taxonomic": taxonomic(images, taxa),
    }


def _knows_individuals(images: Images) -> bool:
    events = images.events
    return "individual" in events.column_names and events["individual"].null_count < events.num_rows


def taxonomic(images: Images, taxa: set[str]) -> list[dict[str, str]]:
    """The observed species and groups, with what the taxonomy of `merge` says about them."""
    chains = images.merged.snapshot.meta["taxonomy"] or {}
    groups = {
        name.casefold(): (rank.casefold(), chain[at + 1 :])
        for chain in chains.values()
        for at, (rank, name) in enumerate(chain)
    }
    described = []
    for label in sorted(taxa):
        rank, above = groups.get(label.casefold(), (None, chains.get(label.casefold(), [])))
        taxon = {"scientificName": label}
        if rank in _RANKS:
            taxon["taxonRank"] = rank
        of = {higher.casefold(): name for higher, name in above}
        described.append(taxon | {higher: of[higher] for higher in _RANKS[:-2] if higher in of})
    return described


def spatial(deployments: pa.Table) -> dict[str, Any]:
    """The bounding box of all deployments, as GeoJSON; a point if they are all in one place."""
    (west, east), (south, north) = (
        pc.min_max(deployments[name].cast(pa.float64())).as_py().values()
        for name in ("longitude", "latitude")
    )
    if west == east and south == north:
        return {"type": "Point", "coordinates": [west, south]}
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


# --- times and files


def stamps(time: Ints, offset: npt.NDArray[np.int32]) -> pa.Array:
    """Local times in the form of the format, to the second, each with its zone.

    Parameters
    ----------
    time : microseconds
    offset : minutes east of UTC; if it is not known, the time gets a Z
    """
    texts = pc.strftime(pa.array(time // 1_000_000, pa.timestamp("s")), "%Y-%m-%dT%H:%M:%S")
    offsets, inverse = np.unique(offset, return_inverse=True)
    zones = pa.array([_zone(minutes) for minutes in offsets.tolist()], pa.string())
    return pc.binary_join_element_wise(texts, zones.take(pa.array(inverse)), "")


def _zone(minutes: int) -> str:
    if minutes in (0, _NO_OFFSET):
        return "Z"
    hours, rest = divmod(abs(minutes), 60)
    return f"{'+' if minutes > 0 else '-'}{hours:02}:{rest:02}"


def _times(rows: pa.Table) -> tuple[Ints, npt.NDArray[np.int32]]:
    offset = rows["utc_offset_minutes"].combine_chunks().fill_null(_NO_OFFSET).to_numpy(zero_copy_only=False)
    return microseconds(rows["datetime"]), np.asarray(offset, np.int32)


def _instant(time: Ints, offset: npt.NDArray[np.int32]) -> Ints:
    """Times in UTC; by the camera's clock if its offset is not known."""
    return time - np.where(offset == _NO_OFFSET, 0, offset).astype(np.int64) * MINUTE


def utc(text: str) -> str:
    """A time with a zone, to the second, as UTC."""
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class CsvWriter:
    """A CSV file with columns of which most stay empty."""

    def __init__(self, path: Path, columns: tuple[str, ...], *, as_text: bool = False) -> None:
        """`as_text`: numbers given as text stay as they are written."""
        kinds = {} if as_text else {**dict.fromkeys(_NUMBERS, pa.float64()), "count": pa.int32()}
        self._schema = pa.schema([(name, kinds.get(name, pa.string())) for name in columns])
        self._writer = pacsv.CSVWriter(path, self._schema)

    def __enter__(self) -> CsvWriter:
        return self

    def __exit__(self, *problem: object) -> None:
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        n = table.num_rows
        self._writer.write_table(
            pa.table(
                [
                    table[field.name].cast(field.type)
                    if field.name in table.column_names
                    else pa.nulls(n, field.type)
                    for field in self._schema
                ],
                schema=self._schema,
            )
        )
