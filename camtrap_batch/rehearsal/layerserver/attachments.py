"""Attachments of rows: add, update, delete, list, query, download."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping

import msgspec

from camtrap_batch.rehearsal.layerserver.answers import (
    Json,
    Raw,
    Refused,
    RowRefused,
    is_true,
    numbers,
    whole_number,
    words,
)
from camtrap_batch.rehearsal.layerserver.definition import Layer
from camtrap_batch.rehearsal.layerserver.request import Upload
from camtrap_batch.rehearsal.layerserver.where import Expression, normal_guid, parse_where

_COLUMNS = {
    "attachmentid": Expression("a.id", (), "number"),
    "name": Expression("a.name", (), "text"),
    "att_name": Expression("a.name", (), "text"),
    "size": Expression("a.size", (), "number"),
    "contenttype": Expression("a.content_type", (), "text"),
    "content_type": Expression("a.content_type", (), "text"),
    "keywords": Expression("a.keywords", (), "text"),
}


def check_attachments(layer: Layer) -> None:
    """
    Raises:
        Refused: the layer has no attachments.
    """
    if not layer.has_attachments:
        raise Refused(400, "This operation is not supported.", [f"layer '{layer.name}' has no attachments"])


def add(db: sqlite3.Connection, layer: Layer, parent: int, upload: Upload, keywords: str) -> Json:
    """
    Raises:
        RowRefused: code 1008, there is no such row.
    """
    _check_parent(db, layer, parent, 1008)
    guid = str(uuid.uuid4())
    number = db.execute(
        "INSERT INTO attachments"
        "(service, layer, parent, globalid, name, content_type, size, keywords, content)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (layer.service, layer.id, parent, guid, upload.name, upload.content_type, len(upload.content),
         keywords,          upload.content),
    ).lastrowid  # fmt: skip
    return {"objectId": number, "globalId": guid, "success": True}


def update(
    db: sqlite3.Connection,
    layer: Layer,
    parent: int,
    number: int,
    upload: Upload | None,
    keywords: str | None,
) -> Json:
    """
    Raises:
        RowRefused: code 1009, there is no such row or attachment.
    """
    guid = _check_attachment(db, layer, parent, number, 1009)
    if upload is not None:
        db.execute(
            "UPDATE attachments SET name=?, content_type=?, size=?, content=? WHERE id=?",
            (upload.name, upload.content_type, len(upload.content), upload.content, number),
        )
    if keywords is not None:
        db.execute("UPDATE attachments SET keywords=? WHERE id=?", (keywords, number))
    return {"objectId": number, "globalId": guid, "success": True}


def delete(db: sqlite3.Connection, layer: Layer, parent: int, number: int) -> Json:
    """
    Raises:
        RowRefused: code 1010, there is no such row or attachment.
    """
    guid = _check_attachment(db, layer, parent, number, 1010)
    db.execute("DELETE FROM attachments WHERE id=?", (number,))
    return {"objectId": number, "globalId": guid, "success": True}


def infos(db: sqlite3.Connection, layer: Layer, parent: int) -> Json:
    _check_parent_known(db, layer, parent)
    rows = db.execute(
        "SELECT id, globalid, name, content_type, size, keywords FROM attachments"
        " WHERE service=? AND layer=? AND parent=? ORDER BY id",
        (layer.service, layer.id, parent),
    )
    return {"attachmentInfos": [_info(row) for row in rows]}


def download(db: sqlite3.Connection, layer: Layer, parent: int, number: int) -> Raw:
    row = db.execute(
        "SELECT name, content_type, content FROM attachments"
        " WHERE service=? AND layer=? AND parent=? AND id=?",
        (layer.service, layer.id, parent, number),
    ).fetchone()
    if row is None:
        raise Refused(404, "Attachment not found.", [f"row {parent} has no attachment {number}"])
    name = "".join(
        letter if letter.isascii() and letter.isprintable() and letter not in '"\\' else "_"
        for letter in row[0]
    )
    return Raw(row[2], row[1], headers={"Content-Disposition": f'attachment; filename="{name}"'})


def query(db: sqlite3.Connection, layer: Layer, parameters: Mapping[str, str], address: str) -> Json:
    """Attachments of many rows, in groups by row; the page counts attachments.

    Args:
        address: the layer's address, for `returnUrl`.
    """
    condition, values = _condition(layer, parameters)
    source = (
        f'attachments a JOIN {layer.table} r ON r."{layer.oid}" = a.parent'
        f" WHERE a.service = ? AND a.layer = ? AND {condition}"
    )
    given = (layer.service, layer.id, *values)
    if is_true(parameters.get("returnCountOnly", "")):
        counts = db.execute(
            f'SELECT a.parent, r."{layer.globalid}", COUNT(*) FROM {source}'
            " GROUP BY a.parent ORDER BY a.parent",
            given,
        )
        groups = [
            {"parentObjectId": parent, "parentGlobalId": guid, "count": count}
            for parent, guid, count in counts
        ]
        return {"attachmentGroups": groups}
    offset = parameters.get("resultOffset", "").strip()
    count = parameters.get("resultRecordCount", "").strip()
    limit = (
        min(whole_number(count, "resultRecordCount") or layer.max_records, layer.max_records)
        if count
        else layer.max_records
    )
    found = db.execute(
        f'SELECT a.parent, r."{layer.globalid}", a.id, a.globalid, a.name, a.content_type, a.size, a.keywords'
        f" FROM {source} ORDER BY a.parent, a.id LIMIT ? OFFSET ?",
        (*given, limit + 1, whole_number(offset, "resultOffset") if offset else 0),
    ).fetchall()
    by_parent: dict[int, Json] = {}
    for parent, guid, *rest in found[:limit]:
        group = by_parent.setdefault(
            parent, {"parentObjectId": parent, "parentGlobalId": guid, "attachmentInfos": []}
        )
        info = _info(rest)
        if is_true(parameters.get("returnUrl", "")):
            info["url"] = f"{address}/{parent}/attachments/{info['id']}"
        group["attachmentInfos"].append(info)
    answer: Json = {"attachmentGroups": list(by_parent.values())}
    if len(found) > limit:
        answer["exceededTransferLimit"] = True
    return answer


def _condition(layer: Layer, parameters: Mapping[str, str]) -> tuple[str, tuple[object, ...]]:
    parts: list[str] = ["1=1"]
    values: list[object] = []
    rows = {name: Expression(f"r.{known.sql}", (), known.kind) for name, known in layer.columns.items()}
    for name, columns in (("definitionExpression", rows), ("attachmentsDefinitionExpression", _COLUMNS)):
        if text := parameters.get(name, "").strip():
            condition = parse_where(text, columns)
            parts.append(condition.sql)
            values += condition.values
    lists: list[tuple[str, str, list[object]]] = [
        ("objectIds", "a.parent", [*numbers(parameters.get("objectIds", ""), "objectIds")]),
        (
            "globalIds",
            f'r."{layer.globalid}"',
            [normal_guid(g) for g in words(parameters.get("globalIds", ""))],
        ),
        ("attachmentTypes", "a.content_type", [*words(parameters.get("attachmentTypes", ""))]),
        ("keywords", "a.keywords", [*words(parameters.get("keywords", ""))]),
    ]
    for name, column, members in lists:
        if parameters.get(name, "").strip():
            parts.append(f"{column} IN (SELECT value FROM json_each(?))")
            values.append(msgspec.json.encode(members).decode())
    if size := parameters.get("size", "").strip("()[] "):
        bounds = numbers(size, "size")
        parts.append("a.size >= ?" if len(bounds) == 1 else "a.size BETWEEN ? AND ?")
        values += bounds[:2]
    return " AND ".join(f"({part})" for part in parts), tuple(values)


def _info(row: list[object] | tuple[object, ...]) -> Json:
    number, guid, name, content_type, size, keywords = row
    return {
        "id": number,
        "globalId": guid,
        "name": name,
        "contentType": content_type,
        "size": size,
        "keywords": keywords,
    }


def _check_parent(db: sqlite3.Connection, layer: Layer, parent: int, code: int) -> None:
    if db.execute(f'SELECT 1 FROM {layer.table} WHERE "{layer.oid}"=?', (parent,)).fetchone() is None:
        raise RowRefused(code, f"there is no row {parent}")


def _check_parent_known(db: sqlite3.Connection, layer: Layer, parent: int) -> None:
    try:
        _check_parent(db, layer, parent, 404)
    except RowRefused as refusal:
        raise Refused(404, "Feature not found.", [refusal.description]) from None


def _check_attachment(db: sqlite3.Connection, layer: Layer, parent: int, number: int, code: int) -> str:
    row: tuple[str] | None = db.execute(
        "SELECT globalid FROM attachments WHERE service=? AND layer=? AND parent=? AND id=?",
        (layer.service, layer.id, parent, number),
    ).fetchone()
    if row is None:
        raise RowRefused(code, f"row {parent} has no attachment {number}")
    return row[0]
