"""The `query` operation: rows, count, ids, extent or statistics of a layer."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from camtrap_batch.rehearsal.layerserver.answers import (
    Json,
    Refused,
    is_true,
    numbers,
    objects,
    parse,
    whole_number,
    words,
)
from camtrap_batch.rehearsal.layerserver.definition import Field, Layer
from camtrap_batch.rehearsal.layerserver.geometry import (
    project,
    project_json,
    read_envelope,
    read_wkid,
    spatial_reference,
)
from camtrap_batch.rehearsal.layerserver.where import Expression, parse_where

_STATISTICS = {
    "count": "COUNT({})",
    "sum": "SUM({})",
    "min": "MIN({})",
    "max": "MAX({})",
    "avg": "AVG({})",
    "stddev": "stddev({})",
    "var": "var({})",
}
_INVALID = "Cannot perform query. Invalid query parameters."


def query(
    db: sqlite3.Connection, layer: Layer, parameters: Mapping[str, str], creator: str | None = None
) -> Json:
    """Answer a query about the rows that the layer shows; with `creator`, only those that this user added.

    Raises:
        Refused: a parameter is not understood.
    """
    condition = _condition(layer, parameters)
    hidden = [parse_where(layer.view_query, layer.columns)] if layer.view_query else []
    if creator is not None:
        mine = layer.field(layer.editors["creatorField"])
        hidden.append(Expression(f"{mine.column} = ?", (creator,), "truth"))
    for part in hidden:
        condition = Expression(
            f"({condition.sql}) AND ({part.sql})", (*condition.values, *part.values), "truth"
        )
    if is_true(parameters.get("returnCountOnly", "")):
        return _count(db, layer, parameters, condition)
    if is_true(parameters.get("returnIdsOnly", "")):
        order = _order(layer, parameters.get("orderByFields", ""))
        rows = db.execute(
            f'SELECT "{layer.oid}" FROM {layer.table} WHERE {condition.sql} ORDER BY {order}',
            condition.values,
        )
        return {"objectIdFieldName": layer.oid, "objectIds": [oid for (oid,) in rows]}
    if is_true(parameters.get("returnExtentOnly", "")):
        return _extent(db, layer, parameters, condition)
    if parameters.get("outStatistics", "").strip():
        return _statistics(db, layer, parameters, condition)
    if is_true(parameters.get("returnDistinctValues", "")):
        return _distinct(db, layer, parameters, condition)
    return _rows(db, layer, parameters, condition)


def kind_of(parameters: Mapping[str, str]) -> str:
    """The kind of query, for counting requests and choosing faults."""
    for name, kind in (
        ("returnCountOnly", "count"),
        ("returnIdsOnly", "ids"),
        ("returnExtentOnly", "extent"),
    ):
        if is_true(parameters.get(name, "")):
            return kind
    return "statistics" if parameters.get("outStatistics", "").strip() else "rows"


def extent(
    db: sqlite3.Connection, layer: Layer, condition: Expression | None = None
) -> tuple[float, ...] | None:
    """xmin, ymin, xmax, ymax of the rows, in the layer's spatial reference."""
    condition = condition or Expression("1=1", (), "truth")
    row = db.execute(
        f"SELECT MIN(_xmin), MIN(_ymin), MAX(_xmax), MAX(_ymax) FROM {layer.table} WHERE {condition.sql}",
        condition.values,
    ).fetchone()
    return None if row[0] is None else tuple(row)


# Which rows ---------------------------------------------------------------------------------------------


def _condition(layer: Layer, parameters: Mapping[str, str]) -> Expression:
    parts: list[Expression] = []
    where = parameters.get("where", "").strip()
    ids = parameters.get("objectIds", "").strip()
    area = parameters.get("geometry", "").strip()
    moment = parameters.get("time", "").strip()
    if not (where or ids or area or moment):
        raise Refused(400, _INVALID, ["one of 'where', 'objectIds', 'geometry' and 'time' is needed"])
    if where:
        parts.append(parse_where(where, layer.columns))
    if ids:
        values = msgspec.json.encode(numbers(ids, "objectIds")).decode()
        parts.append(Expression(f'"{layer.oid}" IN (SELECT value FROM json_each(?))', (values,), "truth"))
    if area:
        parts.append(_area(layer, area, parameters))
    if moment:
        parts.append(_time(layer, moment))
    sql = " AND ".join(f"({part.sql})" for part in parts)
    return Expression(sql, tuple(value for part in parts for value in part.values), "truth")


def _area(layer: Layer, area: str, parameters: Mapping[str, str]) -> Expression:
    if layer.geometry_type is None:
        raise Refused(400, _INVALID, ["a table has no geometry"])
    relation = parameters.get("spatialRel") or "esriSpatialRelIntersects"
    kind = parameters.get("geometryType") or "esriGeometryEnvelope"
    if parameters.get("distance", "").strip():
        raise Refused(400, _INVALID, ["'distance' is not supported"])
    xmin, ymin, xmax, ymax = read_envelope(area, kind, parameters.get("inSR", ""), layer.wkid)
    # A point's envelope is the point itself; for other geometries the envelopes are compared.
    if relation in ("esriSpatialRelIntersects", "esriSpatialRelEnvelopeIntersects"):
        return Expression(
            "_xmax >= ? AND _xmin <= ? AND _ymax >= ? AND _ymin <= ?", (xmin, xmax, ymin, ymax), "truth"
        )
    if relation == "esriSpatialRelContains":
        return Expression(
            "_xmin >= ? AND _xmax <= ? AND _ymin >= ? AND _ymax <= ?", (xmin, xmax, ymin, ymax), "truth"
        )
    raise Refused(400, _INVALID, [f"spatialRel '{relation}' is not supported"])


def _time(layer: Layer, moment: str) -> Expression:
    info = layer.definition.get("timeInfo") or {}
    start = info.get("startTimeField")
    if not start:
        raise Refused(400, _INVALID, ["the layer has no timeInfo"])
    column = layer.field(start).column
    ends = layer.field(info["endTimeField"]).column if info.get("endTimeField") else column
    bounds = [part.strip().lower() for part in moment.split(",")]
    try:
        first, last = (
            None if part == "null" else int(part) for part in (bounds if len(bounds) == 2 else bounds * 2)
        )
    except ValueError:
        raise Refused(400, _INVALID, [f"time '{moment}' is not two moments in milliseconds"]) from None
    sql, values = [f"{column} IS NOT NULL"], []
    if first is not None:
        sql.append(f"COALESCE({ends}, {column}) >= ?")
        values.append(first)
    if last is not None:
        sql.append(f"{column} <= ?")
        values.append(last)
    return Expression(" AND ".join(sql), tuple(values), "truth")


# Answers ------------------------------------------------------------------------------------------------


def _rows(db: sqlite3.Connection, layer: Layer, parameters: Mapping[str, str], condition: Expression) -> Json:
    fields = _out_fields(layer, parameters.get("outFields", ""))
    order = _order(layer, parameters.get("orderByFields", ""))
    offset, limit = _page(layer, parameters)
    with_shape = (
        layer.geometry_type is not None and parameters.get("returnGeometry", "true").lower() != "false"
    )
    out = _out_wkid(layer, parameters)
    columns = [field.column for field in fields] + (["_shape"] if with_shape else [])
    found = db.execute(
        f"SELECT {', '.join(columns)} FROM {layer.table} WHERE {condition.sql}"
        f" ORDER BY {order} LIMIT ? OFFSET ?",
        (*condition.values, limit + 1, offset),
    ).fetchall()
    names = [field.name for field in fields]
    features: list[Json] = []
    for row in found[:limit]:
        feature: Json = {"attributes": dict(zip(names, row, strict=False))}
        if with_shape and row[-1] is not None:
            feature["geometry"] = (
                msgspec.Raw(row[-1].encode()) if out == layer.wkid else _moved(row[-1], layer.wkid, out)
            )
        features.append(feature)
    answer: Json = {
        "objectIdFieldName": layer.oid,
        "uniqueIdField": {"name": layer.oid, "isSystemMaintained": True},
        "globalIdFieldName": layer.globalid,
        "fields": [field.metadata() for field in fields],
        "features": features,
    }
    if layer.geometry_type is not None:
        answer["geometryType"] = layer.geometry_type
        answer["spatialReference"] = spatial_reference(out)
    if len(found) > limit:
        answer["exceededTransferLimit"] = True
    return answer


def _count(
    db: sqlite3.Connection, layer: Layer, parameters: Mapping[str, str], condition: Expression
) -> Json:
    what = "COUNT(*)"
    source = f"{layer.table} WHERE {condition.sql}"
    if is_true(parameters.get("returnDistinctValues", "")):
        columns = ", ".join(field.column for field in _out_fields(layer, parameters.get("outFields", "")))
        source = f"(SELECT DISTINCT {columns} FROM {source})"
    count = db.execute(f"SELECT {what} FROM {source}", condition.values).fetchone()[0]
    return {"count": count}


def _extent(
    db: sqlite3.Connection, layer: Layer, parameters: Mapping[str, str], condition: Expression
) -> Json:
    if layer.geometry_type is None:
        raise Refused(400, _INVALID, ["a table has no extent"])
    out = _out_wkid(layer, parameters)
    corners = extent(db, layer, condition)
    found: Json = dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), "NaN")
    if corners is not None:
        xmin, ymin, xmax, ymax = corners
        low, high = project(xmin, ymin, layer.wkid, out), project(xmax, ymax, layer.wkid, out)
        found = dict(zip(("xmin", "ymin", "xmax", "ymax"), (*low, *high), strict=True))
    count = db.execute(
        f"SELECT COUNT(*) FROM {layer.table} WHERE {condition.sql}", condition.values
    ).fetchone()[0]
    return {"extent": {**found, "spatialReference": spatial_reference(out)}, "count": count}


def _distinct(
    db: sqlite3.Connection, layer: Layer, parameters: Mapping[str, str], condition: Expression
) -> Json:
    fields = _out_fields(layer, parameters.get("outFields", ""))
    offset, limit = _page(layer, parameters)
    columns = ", ".join(field.column for field in fields)
    order = _order(layer, parameters.get("orderByFields", ""), otherwise=columns)
    found = db.execute(
        f"SELECT DISTINCT {columns} FROM {layer.table} WHERE {condition.sql}"
        f" ORDER BY {order} LIMIT ? OFFSET ?",
        (*condition.values, limit + 1, offset),
    ).fetchall()
    return _table(found, [field.metadata() for field in fields], limit)


@dataclass(frozen=True, slots=True)
class _Statistic:
    name: str
    sql: str
    field: Field
    kind: str

    def metadata(self) -> Json:
        keeps = self.kind in ("min", "max")
        kind = "esriFieldTypeInteger" if self.kind == "count" else "esriFieldTypeDouble"
        entry = {**self.field.metadata(), "name": self.name, "alias": self.name, "domain": None}
        return entry if keeps else {**entry, "type": kind}


def _statistics(
    db: sqlite3.Connection, layer: Layer, parameters: Mapping[str, str], condition: Expression
) -> Json:
    groups = [layer.field(name) for name in words(parameters.get("groupByFieldsForStatistics", ""))]
    statistics = [
        _statistic(layer, number, entry)
        for number, entry in enumerate(objects(parameters["outStatistics"], "outStatistics"))
    ]
    if not statistics:
        raise Refused(400, _INVALID, ["outStatistics is empty"])
    known = {field.name.lower(): Expression(field.column, (), field.kind) for field in groups}
    for statistic in statistics:
        kind = statistic.field.kind if statistic.kind in ("min", "max") else "number"
        known[statistic.name.lower()] = Expression(statistic.sql, (), kind)
    columns = [field.column for field in groups] + [f'{s.sql} AS "{s.name}"' for s in statistics]
    sql, values = (
        f"SELECT {', '.join(columns)} FROM {layer.table} WHERE {condition.sql}",
        list(condition.values),
    )
    if groups:
        sql += f" GROUP BY {', '.join(field.column for field in groups)}"
    if having := parameters.get("having", "").strip():
        test = parse_where(having, {**known, **_calls(layer)})
        sql, values = f"{sql} HAVING {test.sql}", [*values, *test.values]
    order = _ordered(parameters.get("orderByFields", ""), known)
    if order or groups:
        sql += f" ORDER BY {order or ', '.join(field.column for field in groups)}"
    offset, limit = _page(layer, parameters)
    found = db.execute(f"{sql} LIMIT ? OFFSET ?", [*values, limit + 1, offset]).fetchall()
    return _table(found, [*(f.metadata() for f in groups), *(s.metadata() for s in statistics)], limit)


def _statistic(layer: Layer, number: int, entry: Json) -> _Statistic:
    kind, on = str(entry.get("statisticType", "")).lower(), str(entry.get("onStatisticField", ""))
    if kind not in _STATISTICS:
        raise Refused(400, _INVALID, [f"statisticType '{kind}' is not one of {', '.join(_STATISTICS)}"])
    field = layer.field(layer.oid if on in ("1", "*") else on)
    if kind in ("sum", "avg", "stddev", "var") and field.kind != "number":
        raise Refused(400, _INVALID, [f"{kind} of '{field.name}', which is not a number"])
    name = str(entry.get("outStatisticFieldName") or f"{kind}_{field.name}_{number}")
    if not re.fullmatch(r"\w+", name):
        raise Refused(400, _INVALID, [f"outStatisticFieldName '{name}': only letters, digits and _"])
    return _Statistic(name, _STATISTICS[kind].format(field.column), field, kind)


def _calls(layer: Layer) -> dict[str, Expression]:
    """Names for `having`, which knows the statistics by the names given to them."""
    return {field.name.lower(): Expression(field.column, (), field.kind) for field in layer.fields}


def _table(found: Sequence[tuple[Any, ...]], fields: list[Json], limit: int) -> Json:
    names = [entry["name"] for entry in fields]
    answer: Json = {
        "objectIdFieldName": "",
        "globalIdFieldName": "",
        "fields": fields,
        "features": [{"attributes": dict(zip(names, row, strict=True))} for row in found[:limit]],
    }
    if len(found) > limit:
        answer["exceededTransferLimit"] = True
    return answer


# Parameters ---------------------------------------------------------------------------------------------


def _out_fields(layer: Layer, text: str) -> list[Field]:
    names = words(text)
    if "*" in names:
        return layer.fields
    fields = [layer.field(name) for name in names] or [layer.field(layer.oid)]
    return list({field.name: field for field in fields}.values())


def _order(layer: Layer, text: str, otherwise: str = "") -> str:
    return _ordered(text, layer.columns) or otherwise or f'"{layer.oid}"'


def _ordered(text: str, known: Mapping[str, Expression]) -> str:
    parts = []
    for entry in words(text):
        name, _, direction = entry.partition(" ")
        direction = direction.strip().upper() or "ASC"
        found = known.get(name.strip('"').lower())
        if found is None or direction not in ("ASC", "DESC"):
            raise Refused(400, _INVALID, [f"orderByFields: '{entry}' is not a field, with ASC or DESC"])
        parts.append(f"{found.sql} {direction}")
    return ", ".join(parts)


def _page(layer: Layer, parameters: Mapping[str, str]) -> tuple[int, int]:
    """Offset, and at most how many rows."""
    offset = parameters.get("resultOffset", "").strip()
    count = parameters.get("resultRecordCount", "").strip()
    limit = min(whole_number(count, "resultRecordCount"), layer.max_records) if count else layer.max_records
    return (whole_number(offset, "resultOffset") if offset else 0), limit or layer.max_records


def _out_wkid(layer: Layer, parameters: Mapping[str, str]) -> int:
    text = parameters.get("outSR", "").strip()
    try:
        return read_wkid(parse(text, "outSR") if text.startswith("{") else text, layer.wkid)
    except ValueError as problem:
        raise Refused(400, _INVALID, [f"outSR: {problem}"]) from None


def _moved(shape: str, source: int, target: int) -> Json:
    try:
        return project_json(shape, source, target)
    except ValueError as problem:
        raise Refused(400, "Unable to perform query operation.", [f"outSR: {problem}"]) from None
