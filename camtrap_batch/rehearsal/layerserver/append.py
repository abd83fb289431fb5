"""Append jobs: many rows from a file or an item, in the background, without a result for each row."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camtrap_batch.rehearsal.layerserver.answers import Json, Refused, is_true, objects, parse, words
from camtrap_batch.rehearsal.layerserver.database import Database
from camtrap_batch.rehearsal.layerserver.definition import Field, Layer
from camtrap_batch.rehearsal.layerserver.edits import Edits, RolledBack, apply
from camtrap_batch.rehearsal.layerserver.faults import Fault
from camtrap_batch.rehearsal.layerserver.request import Request, Upload
from camtrap_batch.rehearsal.layerserver.site import Site
from camtrap_batch.rehearsal.layerserver.uploads import Uploads
from camtrap_batch.vocabulary import plural

_BATCH = 1000
_FAILED = "Append failed."
_LONGITUDES, _LATITUDES = ("longitude", "lon", "x"), ("latitude", "lat", "y")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job is to do; `matching` is the field that identifies a row, None without upsert."""

    layer: Layer
    rows: Sequence[Json]
    matching: Field | None
    skip_updates: bool
    skip_inserts: bool
    update_geometry: bool
    rollback: bool
    editor: str


def read_source(database: Database, request: Request, uploads: Uploads) -> Upload:
    """What to append: an upload, an item of the portal, or the edits themselves."""
    if edits := request.text("edits").strip():
        return Upload("edits.json", "application/json", edits.encode())
    if upload := request.text("appendUploadId").strip():
        return uploads.uploaded(upload)
    if item := request.text("appendItemId").strip():
        with database.reading() as db:
            row = db.execute("SELECT name, content FROM items WHERE id = ?", (item,)).fetchone()
        if row is None or row[1] is None:
            raise Refused(400, _FAILED, [f"item '{item}' is not there, or has no file"])
        return Upload(row[0] or "", "", row[1])
    raise Refused(400, _FAILED, ["one of 'edits', 'appendUploadId' and 'appendItemId' is needed"])


def plan(layer: Layer, parameters: Mapping[str, str], source: Upload, editor: str) -> Plan:
    """
    Raises:
        Refused: the format is unknown, or not that of the data, or the matching field has no unique index.
    """
    kind = parameters.get("appendUploadFormat", "")
    if kind not in layer.append_formats:
        takes = ", ".join(layer.append_formats) or "nothing"
        raise Refused(400, _FAILED, [f"appendUploadFormat is '{kind}', the layer takes {takes}"])
    mappings = {
        str(entry.get("sourceName", entry.get("source", ""))).lower(): str(entry.get("name"))
        for entry in objects(parameters.get("fieldMappings", ""), "fieldMappings")
    }
    read = _csv_rows if kind == "csv" else _features
    rows = read(layer, source.content, mappings)
    keep = {name.lower() for name in _names(parameters.get("appendFields", ""))}
    matching: Field | None = None
    if is_true(parameters.get("upsert", "")):
        name = parameters.get("upsertMatchingField", "").strip() or layer.oid
        matching = layer.field(name)
        unique = {index.fields for index in layer.indexes if index.is_unique}
        if matching.name not in (layer.oid, layer.globalid) and (matching.name,) not in unique:
            raise Refused(400, _FAILED, [f"field '{matching.name}' has no unique index"])
    if keep:
        keep |= {matching.name.lower()} if matching else set()
        rows = [_only(row, keep) for row in rows]
    return Plan(
        layer,
        rows,
        matching,
        is_true(parameters.get("skipUpdates", "")),
        is_true(parameters.get("skipInserts", "")),
        parameters.get("updateGeometry", "true").lower() != "false",
        is_true(parameters.get("rollbackOnFailure", "")),
        editor,
    )


def run(site: Site, job: str, status: Json, plan: Plan, fault: Fault | None) -> None:
    """Do the job.

    The fault `stall` leaves it pending for a while, `error` ends it after `keep` rows, `rows` refuses rows.
    """
    database = site.database
    if fault is not None and fault.kind == "stall":
        site.ending.wait(fault.seconds)
    rows, ends_as, message = plan.rows, "Completed", ""
    failures: list[str] = []
    if fault is not None and fault.kind == "error":
        rows, ends_as, message = rows[: fault.keep], "Failed", fault.message
    elif fault is not None and fault.kind == "rows":
        refused = range(len(rows)) if fault.rows is None else fault.rows
        failures = [fault.message for number in refused if number < len(rows)]
        rows, ends_as = (
            [row for number, row in enumerate(rows) if number not in refused],
            "CompletedWithErrors",
        )
    status = {**status, "status": "Processing"}
    save_status(database, job, status)
    done = 0
    size = max(len(rows), 1) if plan.rollback else _BATCH
    for start in range(0, len(rows), size):
        try:
            with database.writing() as db:
                applied, reasons = _apply(db, plan, rows[start : start + size])
        except RolledBack as rolled_back:
            applied, reasons = 0, _reasons(rolled_back.results)
        done += applied
        failures += reasons
    if failures:
        message = message or f"{plural(len(failures), 'row')} refused, the first one: {failures[0]}"
        ends_as = "Failed" if plan.rollback or not done else ends_as
    status |= {"status": ends_as, "recordCount": done, "lastUpdatedTime": int(time.time() * 1000)}
    save_status(database, job, {**status, "messages": [message]} if message else status)


def save_status(database: Database, job: str, status: Json) -> None:
    with database.writing() as db:
        db.execute("INSERT OR REPLACE INTO jobs VALUES(?, ?)", (job, json.dumps(status)))


def load_status(database: Database, job: str) -> Json:
    with database.reading() as db:
        row = db.execute("SELECT status FROM jobs WHERE id = ?", (job,)).fetchone()
    if row is None:
        raise Refused(404, "Job not found.", [f"there is no job '{job}'"])
    found: Json = json.loads(row[0])
    return found


def _apply(db: sqlite3.Connection, plan: Plan, rows: Sequence[Json]) -> tuple[int, list[str]]:
    """How many rows were applied, and why the others were not."""
    layer = plan.layer
    adds: list[Json] = []
    updates: list[Json] = []
    if plan.matching is None:
        adds = list(rows)
    else:
        lookup = f'SELECT "{layer.oid}" FROM {layer.table} WHERE {plan.matching.column} = ?'
        for row in rows:
            attributes = row.get("attributes") or {}
            key = next(
                (v for name, v in attributes.items() if name.lower() == plan.matching.name.lower()), None
            )
            found = db.execute(lookup, (key,)).fetchone() if isinstance(key, str | int | float) else None
            if found is None:
                adds += [] if plan.skip_inserts else [row]
            elif not plan.skip_updates:
                update: Json = {"attributes": {**attributes, layer.oid: found[0]}}
                if plan.update_geometry and "geometry" in row:
                    update["geometry"] = row["geometry"]
                updates.append(update)
    results = apply(db, layer, Edits(adds, updates, rollback=plan.rollback, editor=plan.editor))
    reasons = _reasons(results)
    return len(adds) + len(updates) - len(reasons), reasons


def _reasons(results: Mapping[str, list[Json]]) -> list[str]:
    return [str(r["error"]["description"]) for found in results.values() for r in found if not r["success"]]


def _features(layer: Layer, content: bytes, mappings: Mapping[str, str]) -> list[Json]:
    found = parse(content.decode("utf-8", "replace"), "featureCollection")
    if isinstance(found, dict) and isinstance(found.get("layers"), list) and found["layers"]:
        found = found["layers"][0]
    if isinstance(found, dict) and isinstance(found.get("featureSet"), dict):
        found = found["featureSet"]
    if isinstance(found, dict):
        found = found.get("features")
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise Refused(400, _FAILED, ["the feature collection has no list of features"])
    return [{**row, "attributes": _renamed(row.get("attributes") or {}, mappings)} for row in found]


def _csv_rows(layer: Layer, content: bytes, mappings: Mapping[str, str]) -> list[Json]:
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as problem:
        raise Refused(400, _FAILED, [f"the file is not CSV in UTF-8: {problem}"]) from None
    return [_csv_row(layer, _renamed(row, mappings)) for row in rows]


def _csv_row(layer: Layer, row: Mapping[str, str]) -> Json:
    """Text is converted to what the field of that name takes; an empty cell is null."""
    attributes: Json = {}
    place: dict[str, float] = {}
    for name, text in row.items():
        field = layer.by_name.get(name.lower())
        axis = "x" if name.lower() in _LONGITUDES else "y" if name.lower() in _LATITUDES else None
        number = _number(text) if field is None or field.sql_type != "TEXT" else None
        if field is None and axis is not None:
            place |= {} if number is None else {axis: number}
        else:
            attributes[name] = (text or None) if field is None or number is None else number
    feature: Json = {"attributes": attributes}
    if len(place) == 2 and layer.geometry_type is not None:
        feature["geometry"] = {**place, "spatialReference": {"wkid": 4326}}
    return feature


def _number(text: str | None) -> float | int | None:
    try:
        return int(text or "")
    except ValueError:
        try:
            return float(text or "")
        except ValueError:
            return None


def _renamed(attributes: Mapping[str, Any], mappings: Mapping[str, str]) -> Json:
    return {mappings.get(str(name).lower(), str(name)): value for name, value in attributes.items()}


def _only(row: Json, names: set[str]) -> Json:
    return {**row, "attributes": {n: value for n, value in row["attributes"].items() if n.lower() in names}}


def _names(text: str) -> list[str]:
    if text.strip().startswith("["):
        return [str(name) for name in parse(text, "appendFields")]
    return words(text)
