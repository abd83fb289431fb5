"""The definition of a layer that can take some rows, as `addToDefinition` wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from camtrap_batch.portal.reading import WGS_84
from camtrap_batch.targets.base import LOCATION, LayerRows

OBJECT_ID, GLOBAL_ID = "OBJECTID", "GlobalID"
MOST_DOMAIN_VALUES = 1000

_TYPES = {"real": "esriFieldTypeDouble", "date": "esriFieldTypeDate", "text": "esriFieldTypeString"}
_LENGTHS = {"file_name": 1000, "events_by_label": 4000, "reason": 1000}
_LENGTH = 255
_TIMES = {"cameras": ("first", "last"), "events": ("start", "end"), "photos": ("datetime", None)}
_LABELS = {"cameras": "top_label", "events": "label", "photos": "ClassLabel"}
_COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167), (120, 120, 120), (148, 103, 189), (140, 86, 75),
)  # fmt: skip
"""Of symbols; the first seven are told apart by colour-blind people (Okabe and Ito 2008)."""


def layer_definition(
    rows: LayerRows, number: int, labels: Sequence[str], names: dict[str, str]
) -> dict[str, Any]:
    """A layer of points for `rows`, with a unique index on the key, time, popup, and symbols by species.

    Parameters
    ----------
    number : of the layer in its service
    labels : species and other labels, most frequent first; they make the domain and the symbols
    names : column -> field, where it has another name
    """
    label = names.get(_LABELS[rows.layer], _LABELS[rows.layer])
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
        "description": rows.description,
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
        "drawingInfo": {"renderer": _renderer(label, labels)},
        "popupInfo": _popup(rows, names),
    }  # fmt: skip


def field_definition(column: pa.Field, name: str, key: str) -> dict[str, Any]:
    """The field for a column of rows whose key is `key`."""
    kind = kind_of(column.type)
    definition: dict[str, Any] = {
        "name": name,
        "alias": name,
        "editable": True,
        "nullable": column.name != key,
    }
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


def key_index(field: str) -> dict[str, Any]:
    """With it, a row that is added twice comes back as an error, and not as a second feature."""
    return {
        "name": f"{field}_unique",
        "fields": field,
        "isUnique": True,
        "isAscending": True,
        "description": "key",
    }


def _renderer(label: str, labels: Sequence[str]) -> dict[str, Any]:
    shown = list(dict.fromkeys(labels))[: len(_COLOURS)]
    return {
        "type": "uniqueValue",
        "field1": label,
        "defaultSymbol": _symbol((160, 160, 160)),
        "defaultLabel": "other",
        "uniqueValueInfos": [
            {"value": text, "label": text, "symbol": _symbol(colour)}
            for text, colour in zip(shown, _COLOURS, strict=False)
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
            {"fieldName": names.get(name, name), "label": name.replace("_", " "), "visible": True}
            for name in rows.columns.column_names
        ],
        "popupElements": [{"type": "fields"}, {"type": "attachments", "displayType": "auto"}],
    }
