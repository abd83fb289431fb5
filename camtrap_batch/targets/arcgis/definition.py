"""The definition of a layer for some rows, in the form that `addToDefinition` needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from camtrap_batch.portal.reading import WGS_84
from camtrap_batch.targets.base import LOCATION, LayerRows
from camtrap_batch.targets.fields import COLOURS, LABELS, alias_of, meaning_of

OBJECT_ID, GLOBAL_ID = "OBJECTID", "GlobalID"
MOST_DOMAIN_VALUES = 1000

_TYPES = {"real": "esriFieldTypeDouble", "date": "esriFieldTypeDate", "text": "esriFieldTypeString"}
_ZONES = {
    "-11:00": "UTC-11", "-10:00": "Hawaiian Standard Time", "-09:00": "UTC-09", "-08:00": "UTC-08",
    "-07:00": "US Mountain Standard Time", "-06:00": "Central America Standard Time",
    "-05:00": "SA Pacific Standard Time", "-04:00": "SA Western Standard Time",
    "-03:00": "SA Eastern Standard Time", "-02:00": "UTC-02", "-01:00": "Cape Verde Standard Time",
    "+00:00": "UTC", "+01:00": "W. Central Africa Standard Time", "+02:00": "South Africa Standard Time",
    "+03:00": "E. Africa Standard Time", "+04:00": "Arabian Standard Time",
    "+04:30": "Afghanistan Standard Time", "+05:00": "West Asia Standard Time",
    "+05:30": "India Standard Time", "+05:45": "Nepal Standard Time", "+06:00": "Bangladesh Standard Time",
    "+06:30": "Myanmar Standard Time", "+07:00": "SE Asia Standard Time",
    "+08:00": "Singapore Standard Time", "+09:00": "Tokyo Standard Time",
    "+09:30": "AUS Central Standard Time", "+10:00": "E. Australia Standard Time",
    "+11:00": "Central Pacific Standard Time", "+12:00": "UTC+12", "+13:00": "UTC+13",
}  # fmt: skip
"""Offset -> a Windows time zone that has it all year (Unicode CLDR, windowsZones)."""

_LENGTHS = {"file_name": 1000, "events_by_label": 4000, "corrected_by_label": 4000, "reason": 1000}
_LENGTH = 255
_UTC = "time in UTC (that of the camera where its offset is not known)"
_TIMES = {"cameras": ("first", "last"), "events": ("start", "end"), "photos": ("datetime", None)}


def layer_definition(
    rows: LayerRows,
    number: int,
    labels: Sequence[str],
    names: dict[str, str],
    utc_offset: str | None = None,
) -> dict[str, Any]:
    """A layer of points for `rows`, with a unique index on the key, time, popup, and symbols by species.

    Parameters
    ----------
    number : number of the layer in its service
    labels : species and other labels, most frequent first, for the domain and the symbols
    names : column -> field, if it has another name
    utc_offset : offset of the cameras' clocks, such as "+02:00": the zone in which dates are shown
    """
    label = names.get(LABELS[rows.layer], LABELS[rows.layer])
    start, end = _TIMES[rows.layer]
    fields = [
        field_definition(column, names.get(column.name, column.name), rows.key)
        for column in rows.columns.schema
    ]
    for field in fields:
        if field["name"] == label and 0 < len(labels) <= MOST_DOMAIN_VALUES:
            field["domain"] = {
                "type": "codedValue",
                "name": f"{rows.layer}_{label}",
                "codedValues": [{"name": text, "code": text} for text in sorted(set(labels))],
            }
    return {
        "id": number,
        "name": rows.layer,
        "type": "Feature Layer",
        "description": in_utc(rows.description),
        "geometryType": "esriGeometryPoint",
        "spatialReference": {"wkid": WGS_84},
        "extent": {"xmin": -180, "ymin": -90, "xmax": 180, "ymax": 90, "spatialReference": {"wkid": WGS_84}},
        "objectIdField": OBJECT_ID,
        "globalIdField": GLOBAL_ID,
        "displayField": names.get(LOCATION, LOCATION) if rows.layer == "cameras" else label,
        "hasAttachments": True,
        "allowGeometryUpdates": True,
        "capabilities": "Query,Editing,Create,Update,Delete,Sync",
        "fields": [
            {
                "name": OBJECT_ID, "type": "esriFieldTypeOID", "alias": OBJECT_ID, "editable": False,
                "nullable": False,
            },
            {
                "name": GLOBAL_ID, "type": "esriFieldTypeGlobalID", "alias": GLOBAL_ID, "editable": False,
                "nullable": False, "length": 38,
            },
            *fields,
        ],
        "indexes": [key_index(names.get(rows.key, rows.key))],
        "timeInfo": {
            "startTimeField": names.get(start, start),
            "endTimeField": names.get(end, end) if end else None,
            "timeReference": {"timeZone": "UTC", "respectsDaylightSaving": False},
        },
        **preferred_time(utc_offset),
        "drawingInfo": {"renderer": renderer_of(label, labels)},
        "popupInfo": _popup(rows, names),
    }  # fmt: skip


def field_definition(column: pa.Field, name: str, key: str) -> dict[str, Any]:
    """The field for a column of rows whose key is `key`."""
    kind = kind_of(column.type)
    definition: dict[str, Any] = {
        "name": name,
        "alias": alias_of(column.name),
        "editable": True,
        "nullable": column.name != key,
    }
    if meaning := meaning_of(column):
        meaning = in_utc(meaning) if kind == "date" else meaning
        definition["description"] = json.dumps({"value": meaning, "fieldValueType": ""})
    if kind == "integer":
        is_big = column.type.bit_width > 32
        return definition | {"type": "esriFieldTypeBigInteger" if is_big else "esriFieldTypeInteger"}
    definition["type"] = _TYPES[kind]
    if kind == "text":
        definition["length"] = _LENGTHS.get(column.name, _LENGTH)
    return definition


def kind_of(type_: pa.DataType) -> str:
    """text, integer, real or date."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    tests: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
        (pa.types.is_integer, "integer"),
        (pa.types.is_floating, "real"),
        (pa.types.is_timestamp, "date"),
    )
    return next((kind for test, kind in tests if test(type_)), "text")


def in_utc(text: str) -> str:
    """A description of a layer or field with camera times, worded for ArcGIS, which gets them in UTC."""
    return text.replace("local camera time", _UTC)


def preferred_time(utc_offset: str | None) -> dict[str, Any]:
    """The part of a definition that says in which zone dates are shown; empty if it is not known.

    ArcGIS names zones as Windows does; here, each offset has one without daylight saving.
    """
    zone = _ZONES.get(utc_offset or "")
    if zone is None:
        return {}
    return {"preferredTimeReference": {"timeZone": zone, "respectsDaylightSaving": False}}


RELATED = (("cameras", LOCATION, "events", LOCATION), ("events", "event_id", "photos", "event_id"))
"""Relationship classes: layer and its key, the layer that has many rows for each, and its field."""


def relationship(
    number: int, other: int, field: str, ends: tuple[str, str], *, is_origin: bool
) -> dict[str, Any]:
    """One side of a one-to-many relationship.

    Parameters
    ----------
    number : number of the relationship in its layer
    other : number of the layer at the other end
    field : field of this layer that is the same in related rows
    ends : names of the origin and of the destination
    """
    return {
        "id": number,
        "name": f"{ends[0]} and {ends[1]}",
        "relatedTableId": other,
        "cardinality": "esriRelCardinalityOneToMany",
        "role": "esriRelRoleOrigin" if is_origin else "esriRelRoleDestination",
        "keyField": field,
        "composite": False,
    }


def key_index(field: str) -> dict[str, Any]:
    """With this index, adding a row twice causes an error instead of a second feature."""
    return {
        "name": f"{field}_unique",
        "fields": field,
        "isUnique": True,
        "isAscending": True,
        "description": "key",
    }


def renderer_of(label: str, labels: Sequence[str]) -> dict[str, Any]:
    """Symbols by the values of the field `label`: a colour for each of the first `labels`."""
    shown = list(dict.fromkeys(labels))[: len(COLOURS)]
    return {
        "type": "uniqueValue",
        "field1": label,
        "defaultSymbol": _symbol((160, 160, 160)),
        "defaultLabel": "other",
        "uniqueValueInfos": [
            {"value": text, "label": text, "symbol": _symbol(colour)}
            for text, colour in zip(shown, COLOURS, strict=False)
        ],
    }


def _symbol(colour: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "type": "esriSMS",
        "style": "esriSMSCircle",
        "color": [*colour, 255],
        "size": 9,
        "outline": {"color": [255, 255, 255, 255], "width": 1},
    }


def _popup(rows: LayerRows, names: dict[str, str]) -> dict[str, Any]:
    title = names.get(LOCATION, LOCATION)
    return {
        "title": f"{{{title}}}",
        "fieldInfos": [
            {"fieldName": names.get(name, name), "label": alias_of(name), "visible": True}
            for name in rows.columns.column_names
        ],
        "popupElements": [{"type": "fields"}, {"type": "attachments", "displayType": "auto"}],
    }
