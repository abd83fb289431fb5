"""Edits of rows: applyEdits and its relatives, with a result for each row."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from camtrap_batch.rehearsal.layerserver.answers import Json, Refused, RowRefused
from camtrap_batch.rehearsal.layerserver.definition import GEOMETRY_COLUMNS, Layer
from camtrap_batch.rehearsal.layerserver.geometry import check_geometry
from camtrap_batch.rehearsal.layerserver.where import normal_guid

ROLLED_BACK = 1003


@dataclass
class Edits:
    """One call.

    Args:
        adds, updates: features, `{"attributes": ..., "geometry": ...}`.
        deletes: object ids, or global ids where `by_globalid`.
        by_globalid: rows are named by their global id (useGlobalIds).
        rollback: keep nothing when one row fails.
        editor: the user's name, for editor tracking.
        fail: what to do with a row before it is applied, by its number in adds, updates, deletes: tests
            make it refuse rows.
    """

    adds: Sequence[Json] = ()
    updates: Sequence[Json] = ()
    deletes: Sequence[int | str] = ()
    by_globalid: bool = False
    rollback: bool = True
    editor: str = ""
    fail: Callable[[int], None] | None = None
    moment_ms: int = field(default_factory=lambda: int(time.time() * 1000))


class RolledBack(Exception):
    """Ends the transaction; carries the answer."""

    def __init__(self, results: dict[str, list[Json]]) -> None:
        super().__init__()
        self.results = results


def apply(db: sqlite3.Connection, layer: Layer, edits: Edits) -> dict[str, list[Json]]:
    """Apply the edits in an open transaction.

    Returns:
        addResults, updateResults and deleteResults, one entry per row, in the order of the rows.

    Raises:
        RolledBack: a row failed and `edits.rollback`; the transaction must end in a rollback.
    """
    writer = _Writer(db, layer, edits)
    calls: list[tuple[str, Callable[[object], Json], Sequence[object]]] = [
        ("addResults", writer.add, edits.adds),
        ("updateResults", writer.update, edits.updates),
        ("deleteResults", writer.delete, edits.deletes),
    ]
    results: dict[str, list[Json]] = {}
    number, has_failed = 0, False
    for name, call, rows in calls:
        results[name] = []
        for row in rows:
            try:
                if edits.fail is not None:
                    edits.fail(number)
                result = call(row)
            except RowRefused as refusal:
                has_failed = True
                result = {"objectId": -1, "success": False, "error": refusal.body()}
                if isinstance(row, int):
                    result["objectId"] = row
            results[name].append(result)
            number += 1
    if has_failed and edits.rollback:
        for row_results in results.values():
            for result in row_results:
                if result["success"]:
                    result["success"] = False
                    result["error"] = {"code": ROLLED_BACK, "description": "Operation rolled back."}
        raise RolledBack(results)
    if any(results.values()):
        db.execute(
            "UPDATE layers SET edited_ms = ? WHERE service = ? AND id = ?",
            (edits.moment_ms, layer.service, layer.id),
        )
    return results


class _Writer:
    def __init__(self, db: sqlite3.Connection, layer: Layer, edits: Edits) -> None:
        self.db, self.layer, self.edits = db, layer, edits
        fields = [f for f in layer.fields if f.name != layer.oid]
        self.column = {f.name: number for number, f in enumerate(fields)}
        self.defaults = [f.default for f in fields]
        self.required = [f for f in fields if not f.is_nullable and f.is_editable and f.default is None]
        columns = [*(f.column for f in fields), *GEOMETRY_COLUMNS]
        marks = ",".join("?" * len(columns))
        self.insert = f"INSERT INTO {layer.table} ({','.join(columns)}) VALUES ({marks})"
        editors = layer.editors
        self.on_add = {
            editors[key]: value
            for key, value in (
                ("creationDateField", edits.moment_ms),
                ("creatorField", edits.editor),
                ("editDateField", edits.moment_ms),
                ("editorField", edits.editor),
            )
            if key in editors
        }
        self.on_update = {
            editors[key]: value
            for key, value in (("editDateField", edits.moment_ms), ("editorField", edits.editor))
            if key in editors
        }

    def add(self, feature: object) -> Json:
        attributes, geometry = self._read(feature)
        values = list(self.defaults)
        given = self._attributes(attributes)
        for name, value in given.items():
            values[self.column[name]] = value
        for required in self.required:
            if required.name not in given:
                required.check(None)
        for name, value in self.on_add.items():
            values[self.column[name]] = value
        guid = self._globalid(attributes) if self.edits.by_globalid else str(uuid.uuid4())
        values[self.column[self.layer.globalid]] = guid
        values += self._shape(geometry)
        try:
            oid = self.db.execute(self.insert, values).lastrowid
        except sqlite3.IntegrityError as problem:
            raise self._not_unique(problem) from None
        return {"objectId": oid, "uniqueId": oid, "globalId": guid, "success": True}

    def update(self, feature: object) -> Json:
        attributes, geometry = self._read(feature)
        oid, guid = self._find(self._key(attributes))
        changes = {
            self.layer.by_name[name.lower()].column: value
            for name, value in self._attributes(attributes).items()
        }
        for name, value in self.on_update.items():
            changes[self.layer.by_name[name.lower()].column] = value
        if isinstance(feature, dict) and "geometry" in feature and self.layer.geometry_type is not None:
            changes.update(zip(GEOMETRY_COLUMNS, self._shape(geometry), strict=True))
        if changes:
            assignments = ",".join(f"{column}=?" for column in changes)
            sql = f'UPDATE {self.layer.table} SET {assignments} WHERE "{self.layer.oid}"=?'
            try:
                self.db.execute(sql, [*changes.values(), oid])
            except sqlite3.IntegrityError as problem:
                raise self._not_unique(problem) from None
        return {"objectId": oid, "uniqueId": oid, "globalId": guid, "success": True}

    def delete(self, key: object) -> Json:
        oid, guid = self._find(key)
        layer = self.layer
        self.db.execute(f'DELETE FROM {layer.table} WHERE "{layer.oid}"=?', (oid,))
        self.db.execute(
            "DELETE FROM attachments WHERE service=? AND layer=? AND parent=?", (layer.service, layer.id, oid)
        )
        return {"objectId": oid, "uniqueId": oid, "globalId": guid, "success": True}

    # Parts of a feature -----------------------------------------------------------------------------

    def _read(self, feature: object) -> tuple[Json, object]:
        attributes = feature.get("attributes") if isinstance(feature, dict) else None
        if not isinstance(feature, dict) or not isinstance(attributes or {}, dict):
            raise RowRefused(1000, "A feature is an object with 'attributes' and 'geometry'.")
        return attributes or {}, feature.get("geometry")

    def _attributes(self, attributes: Json) -> Json:
        """Checked values of the fields that can be edited; the others (ids, editor tracking) are left out."""
        checked: Json = {}
        for name, value in attributes.items():
            field_ = self.layer.by_name.get(name.lower())
            if field_ is None:
                raise RowRefused(1000, f"There is no field '{name}' in layer '{self.layer.name}'.")
            if field_.is_editable:
                kept = field_.check(value)
                if field_.kind == "date" and isinstance(kept, int) and self.layer.dates_to_the_second:
                    kept -= kept % 1000
                checked[field_.name] = kept
        return checked

    def _shape(self, geometry: object) -> Sequence[object]:
        if self.layer.geometry_type is None:
            if geometry:
                raise RowRefused(1015, "Geometry could not be set: this is a table.")
            return (None,) * len(GEOMETRY_COLUMNS)
        found = check_geometry(geometry, self.layer.geometry_type, self.layer.wkid)
        return (None,) * len(GEOMETRY_COLUMNS) if found is None else (found.json, *found.envelope)

    def _key(self, attributes: Json) -> object:
        wanted = self.layer.globalid if self.edits.by_globalid else self.layer.oid
        for name, value in attributes.items():
            if name.lower() == wanted.lower():
                return value
        raise RowRefused(1020 if self.edits.by_globalid else 1011, f"'{wanted}' is missing.")

    def _globalid(self, attributes: Json) -> str:
        value = self._key(attributes)
        checked = self.layer.by_name[self.layer.globalid.lower()].check(value)
        return str(checked)

    def _find(self, key: object) -> tuple[int, str]:
        """Object id and global id of a row."""
        layer = self.layer
        if self.edits.by_globalid:
            column, value = layer.globalid, normal_guid(str(key))
        else:
            column, value = layer.oid, str(key)
            if isinstance(key, bool) or not isinstance(key, int):
                raise RowRefused(1011, f"'{key}' is not an object id.")
        sql = f'SELECT "{layer.oid}", "{layer.globalid}" FROM {layer.table} WHERE "{column}"=?'
        found: tuple[int, str] | None = self.db.execute(sql, (value,)).fetchone()
        if found is None:
            raise RowRefused(1011, f"Object is missing: there is no row with {column} {value}.")
        return found

    def _not_unique(self, problem: sqlite3.IntegrityError) -> RowRefused:
        """SQLite names the columns, `UNIQUE constraint failed: service/0.key`."""
        columns = ", ".join(part.rpartition(".")[2] for part in str(problem).rpartition(": ")[2].split(", "))
        return RowRefused(1000, f"Unique constraint violation error on inserting the value of {columns}.")


def check_right(capabilities: str, *wanted: str) -> None:
    """
    Raises:
        Refused: the layer does not offer what the edit needs.
    """
    have = [word.strip() for word in capabilities.split(",")]
    for word in wanted:
        if word not in have:
            raise Refused(
                400,
                "This operation is not supported.",
                [f"the layer has no capability '{word}': {capabilities}"],
            )
