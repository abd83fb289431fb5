"""A layer or table as defined: its fields, what each takes, and the metadata that clients read."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from camtrap_batch.rehearsal.layerserver.answers import Json, Refused, RowRefused, words
from camtrap_batch.rehearsal.layerserver.geometry import (
    GEOMETRY_TYPES,
    WEB_MERCATOR,
    read_wkid,
    spatial_reference,
)
from camtrap_batch.rehearsal.layerserver.where import Expression, Kind, normal_guid

EDITING = ("Create", "Update", "Delete")
DEFAULT_CAPABILITIES = "Create,Delete,Query,Update,Editing"
APPEND_FORMATS = ("csv", "featureCollection")
MAX_RECORDS = 2000
GEOMETRY_COLUMNS = ("_shape", "_xmin", "_ymin", "_xmax", "_ymax")
EDITOR_FIELDS: Mapping[str, tuple[str, str]] = {
    "creationDateField": ("CreationDate", "esriFieldTypeDate"),
    "creatorField": ("Creator", "esriFieldTypeString"),
    "editDateField": ("EditDate", "esriFieldTypeDate"),
    "editorField": ("Editor", "esriFieldTypeString"),
}

_INNER = ("wkid", "fields", "indexes", "rehearsal")
_NAME = re.compile(r"[^\W\d_]\w*")
_LONGEST_NAME, _DEFAULT_LENGTH = 64, 256
_INTEGERS = {
    "esriFieldTypeSmallInteger": 2**15,
    "esriFieldTypeInteger": 2**31,
    "esriFieldTypeBigInteger": 2**53,  # what a JSON number holds exactly
    "esriFieldTypeOID": 2**53,
}
_FLOATS = {"esriFieldTypeSingle": 3.4028235e38, "esriFieldTypeDouble": math.inf}
_GUIDS = ("esriFieldTypeGUID", "esriFieldTypeGlobalID")
_DATE_BOUNDS_MS = (-62_135_596_800_000, 253_402_300_799_999)
"""Years 1 to 9999."""
FIELD_TYPES = (
    *_INTEGERS,
    *_FLOATS,
    *_GUIDS,
    "esriFieldTypeString",
    "esriFieldTypeDate",
    "esriFieldTypeDateOnly",
)


@dataclass(frozen=True, slots=True)
class Field:
    """One field: `definition` is what was sent, `length` counts UTF-16 units as ArcGIS does."""

    name: str
    type: str
    length: int
    is_nullable: bool
    is_editable: bool
    default: object
    definition: Json

    @classmethod
    def read(cls, definition: Json) -> Field:
        name, kind = definition.get("name"), definition.get("type")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
            reason = f"'{name}' can't be a field's name: letters, digits and _, at most {_LONGEST_NAME}"
            raise Refused(400, "Invalid definition", [reason])
        if kind not in FIELD_TYPES:
            reason = f"field '{name}': type '{kind}' is not one of {', '.join(FIELD_TYPES)}"
            raise Refused(400, "Invalid definition", [reason])
        length = definition.get("length") or _DEFAULT_LENGTH
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise Refused(400, "Invalid definition", [f"field '{name}': length {length!r}"])
        kept = kind in ("esriFieldTypeOID", "esriFieldTypeGlobalID")
        return cls(
            name,
            kind,
            length,
            definition.get("nullable", True) is not False and not kept,
            definition.get("editable", True) is not False and not kept,
            definition.get("defaultValue"),
            definition,
        )

    @property
    def column(self) -> str:
        return f'"{self.name}"'

    @property
    def sql_type(self) -> str:
        if self.type in _FLOATS:
            return "REAL"
        return "INTEGER" if self.type in _INTEGERS or self.type == "esriFieldTypeDate" else "TEXT"

    @property
    def kind(self) -> Kind:
        if self.type in _GUIDS:
            return "guid"
        if self.type == "esriFieldTypeDate":
            return "date"
        return "text" if self.sql_type == "TEXT" else "number"

    def metadata(self) -> Json:
        entry = {
            "name": self.name,
            "type": self.type,
            "alias": self.definition.get("alias") or self.name,
            "description": self.definition.get("description"),
            "sqlType": "sqlTypeOther",
            "nullable": self.is_nullable,
            "editable": self.is_editable,
            "visible": True,
            "domain": self.definition.get("domain"),
            "defaultValue": self.default,
        }
        if self.type == "esriFieldTypeString":
            entry["length"] = self.length
        elif self.type in _GUIDS:
            entry["length"] = 38
        elif self.type == "esriFieldTypeDate":
            entry["length"] = 8
        return entry

    def check(self, value: object) -> object:
        """The value as it is stored.

        Raises:
            RowRefused: code 1001 for a forbidden null, 1016 for a value that the field does not take.
        """
        if value is None:
            if self.is_nullable:
                return None
            raise RowRefused(1001, f"Field: {self.name} is not nullable. Cannot set null value.")
        kind = self.type
        if kind == "esriFieldTypeString":
            if not isinstance(value, str):
                raise self._wrong(value, "text")
            length = len(value) if value.isascii() else len(value.encode("utf-16-le", "surrogatepass")) // 2
            if length > self.length:
                raise RowRefused(
                    1016,
                    f"Setting of value for {self.name} failed:"
                    f" it takes {self.length} characters, not {length}.",
                )
            return value
        if kind in _INTEGERS:
            whole = self._number(value)
            if not whole.is_integer() or not -_INTEGERS[kind] <= whole < _INTEGERS[kind]:
                raise self._wrong(value, f"a whole number of {kind.removeprefix('esriFieldType')}")
            return int(whole)
        if kind in _FLOATS:
            number = self._number(value)
            if abs(number) > _FLOATS[kind]:
                raise self._wrong(value, "a number of single precision")
            return number
        if kind == "esriFieldTypeDate":
            moment = self._number(value)
            if not moment.is_integer() or not _DATE_BOUNDS_MS[0] <= moment <= _DATE_BOUNDS_MS[1]:
                raise self._wrong(value, "milliseconds since 1970, UTC")
            return int(moment)
        if not isinstance(value, str):
            raise self._wrong(value, "text")
        try:
            return (
                date.fromisoformat(value).isoformat()
                if kind not in _GUIDS
                else str(uuid.UUID(normal_guid(value)))
            )
        except ValueError:
            raise self._wrong(value, "a GUID" if kind in _GUIDS else "a date such as 2024-05-31") from None

    def _number(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(value, "a number")
        try:
            return float(value)
        except OverflowError:
            raise self._wrong(value, "a number") from None

    def _wrong(self, value: object, wanted: str) -> RowRefused:
        shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:60]}..."
        return RowRefused(1016, f"Setting of value for {self.name} failed: {shown} is not {wanted}.")


@dataclass(frozen=True, slots=True)
class Index:
    name: str
    fields: tuple[str, ...]
    is_unique: bool

    @classmethod
    def read(cls, definition: Json, names: Iterable[str]) -> Index:
        known = {name.lower(): name for name in names}
        given = [
            part.strip().lower() for part in str(definition.get("fields", "")).split(",") if part.strip()
        ]
        if not given or any(name not in known for name in given):
            reason = (
                f"index '{definition.get('name')}': fields '{definition.get('fields')}' are not in the layer"
            )
            raise Refused(400, "Invalid definition", [reason])
        fields = tuple(known[name] for name in given)
        return cls(str(definition["name"]), fields, definition.get("isUnique") is True)

    def metadata(self) -> Json:
        return {
            "name": self.name,
            "fields": ",".join(self.fields),
            "isAscending": True,
            "isUnique": self.is_unique,
            "description": "",
        }


class Layer:
    """A layer or table; rebuilt when its definition changes."""

    def __init__(self, service: str, number: int, definition: Json) -> None:
        self.service, self.id = service, number
        self.definition = _completed(definition)
        self.name = str(self.definition["name"])
        self.fields = [Field.read(entry) for entry in self.definition["fields"]]
        self.by_name = {field.name.lower(): field for field in self.fields}
        if len(self.by_name) < len(self.fields):
            raise Refused(400, "Invalid definition", ["two fields have the same name"])
        self.oid, self.globalid = self.definition["objectIdField"], self.definition["globalIdField"]
        self.geometry_type: str | None = self.definition.get("geometryType")
        if self.geometry_type is not None and self.geometry_type not in GEOMETRY_TYPES:
            reason = f"geometryType '{self.geometry_type}' is not one of {', '.join(GEOMETRY_TYPES)}"
            raise Refused(400, "Invalid definition", [reason])
        self.wkid: int = self.definition["wkid"]
        self.indexes = [
            Index.read(entry, [f.name for f in self.fields]) for entry in self.definition["indexes"]
        ]
        self.editors: dict[str, str] = self.definition.get("editFieldsInfo") or {}
        self.has_attachments = self.definition.get("hasAttachments") is True
        self.append_formats = words(self.definition.get("supportedAppendFormats", ",".join(APPEND_FORMATS)))
        self.max_records = int(self.definition.get("maxRecordCount") or MAX_RECORDS)
        self.columns = {field.name.lower(): Expression(field.column, (), field.kind) for field in self.fields}
        self.view_query = str(self.definition.get("viewDefinitionQuery") or "").strip()
        ownership = self.definition.get("ownershipBasedAccessControlForFeatures") or {}
        self.shows_others = not self.editors or ownership.get("allowOthersToQuery") is not False
        likeness = self.definition.get("rehearsal") or {}
        self.dates_to_the_second = likeness.get("datesToTheSecond") is True
        self.ignores_case = likeness.get("ignoresCase") is True

    @property
    def table(self) -> str:
        return f'"{self.service}/{self.id}"'

    def sql_type(self, field: Field) -> str:
        """Type of a field's column; some databases treat upper and lower case as the same."""
        is_like = self.ignores_case and field.kind == "text"
        return f"{field.sql_type} COLLATE NOCASE" if is_like else field.sql_type

    def field(self, name: str) -> Field:
        """
        Raises:
            Refused: there is no such field.
        """
        found = self.by_name.get(name.strip().strip('"').lower())
        if found is None:
            raise Refused(
                400,
                "Cannot perform query. Invalid query parameters.",
                [f"there is no field '{name.strip()}'"],
            )
        return found

    def metadata(
        self, capabilities: str, extent: tuple[float, ...] | None, edited_ms: int, version: float
    ) -> Json:
        """The answer of the layer's own address.

        Args:
            capabilities: capabilities of the layer, or of its service.
            extent: extent of its rows, in its spatial reference.
            edited_ms: when it was last edited.
            version: the server's version.
        """
        can_edit = any(word in capabilities for word in ("Editing", *EDITING))
        return {
            **{key: value for key, value in self.definition.items() if key not in _INNER},
            "currentVersion": version,
            "id": self.id,
            "name": self.name,
            "type": "Table" if self.geometry_type is None else "Feature Layer",
            "description": self.definition.get("description", ""),
            "copyrightText": self.definition.get("copyrightText", ""),
            "displayField": self.definition.get("displayField") or self.oid,
            "objectIdField": self.oid,
            "globalIdField": self.globalid,
            "uniqueIdField": {"name": self.oid, "isSystemMaintained": True},
            **self._shape(extent),
            "fields": [field.metadata() for field in self.fields],
            "indexes": [
                Index(f"PK_{self.service}_{self.id}", (self.oid,), True).metadata(),
                *(index.metadata() for index in self.indexes),
            ],
            "editFieldsInfo": self.editors or None,
            "editingInfo": {"lastEditDate": edited_ms, "dataLastEditDate": edited_ms},
            "timeInfo": self.definition.get("timeInfo"),
            "dateFieldsTimeReference": {"timeZone": "UTC", "respectsDaylightSaving": False},
            "hasAttachments": self.has_attachments,
            "attachmentProperties": [
                {"name": name, "isEnabled": True} for name in ("name", "size", "contentType", "keywords")
            ],
            "htmlPopupType": "esriServerHTMLPopupTypeAsHTMLText",
            "capabilities": capabilities,
            "maxRecordCount": self.max_records,
            "standardMaxRecordCount": self.max_records,
            "hasStaticData": not can_edit,
            "isDataVersioned": False,
            "supportsAppend": can_edit and bool(self.append_formats),
            "supportedAppendFormats": ",".join(self.append_formats) if can_edit else "",
            **_SUPPORTED,
        }  # fmt: skip

    def _shape(self, extent: tuple[float, ...] | None) -> Json:
        """What a layer's metadata say about its geometry; nothing in a table."""
        if self.geometry_type is None:
            return {}
        xmin, ymin, xmax, ymax = extent or (-20037508.34, -20037508.34, 20037508.34, 20037508.34)
        reference = spatial_reference(self.wkid)
        return {
            "extent": {
                "xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax, "spatialReference": reference
            },
            "sourceSpatialReference": reference,
            "geometryType": self.geometry_type,
            "hasZ": False,
            "hasM": False,
            "allowGeometryUpdates": True,
            "hasGeometryProperties": False,
        }  # fmt: skip


_SUPPORTED: Json = {
    "supportsRollbackOnFailureParameter": True,
    "supportsApplyEditsWithGlobalIds": True,
    "supportsStatistics": True,
    "supportsAdvancedQueries": True,
    "supportsCoordinatesQuantization": False,
    "supportsAttachmentsByUploadId": True,
    "supportsValidateSql": False,
    "supportsCalculate": False,
    "supportsTruncate": False,
    "supportedQueryFormats": "JSON",
    "useStandardizedQueries": True,
    "advancedQueryCapabilities": {
        "supportsPagination": True,
        "supportsPaginationOnAggregatedQueries": True,
        "supportsQueryAttachments": True,
        "supportsQueryAttachmentsCountOnly": True,
        "supportsQueryAttachmentOrderByFields": False,
        "supportsReturningQueryExtent": True,
        "supportsStatistics": True,
        "supportsOrderBy": True,
        "supportsDistinct": True,
        "supportsCountDistinct": True,
        "supportsHavingClause": True,
        "supportsQueryWithDistance": False,
        "supportsQueryWithResultType": False,
        "supportsSqlExpression": False,
        "supportsPercentileStatistics": False,
    },
    "advancedEditingCapabilities": {
        "supportedSqlFormatsInCalculate": [],
        "supportsAsyncApplyEdits": False,
        "supportsApplyEditsbyUploadID": False,
        "supportsReturnEditResults": True,
    },
}
"""What every layer of this server says about what it can do."""


def _completed(definition: Json) -> Json:
    """The definition with what ArcGIS adds by itself: ids, spatial reference, fields of editor tracking."""
    done: Json = dict(definition)
    done["name"] = str(done.get("name") or "layer")
    for key in ("fields", "indexes"):
        entries = done.get(key) or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise Refused(400, "Invalid definition", [f"'{key}' must be a list of objects"])
    fields: list[Any] = [dict(entry) for entry in done.get("fields") or []]
    kinds = {entry.get("type"): entry.get("name") for entry in fields}
    if "esriFieldTypeOID" not in kinds:
        fields.insert(0, {"name": "OBJECTID", "type": "esriFieldTypeOID"})
    if "esriFieldTypeGlobalID" not in kinds:
        fields.insert(1, {"name": "GlobalID", "type": "esriFieldTypeGlobalID"})
    done["objectIdField"] = kinds.get("esriFieldTypeOID") or "OBJECTID"
    done["globalIdField"] = kinds.get("esriFieldTypeGlobalID") or "GlobalID"
    editors = done.get("editFieldsInfo")
    if editors:
        known = {str(entry.get("name")).lower() for entry in fields}
        done["editFieldsInfo"] = {key: editors.get(key) or name for key, (name, _) in EDITOR_FIELDS.items()}
        for key, (_, kind) in EDITOR_FIELDS.items():
            name = done["editFieldsInfo"][key]
            if name.lower() not in known:
                fields.append({"name": name, "type": kind, "editable": False})
    done["fields"] = fields
    if done.get("type") == "Table":
        done.pop("geometryType", None)
    stated = (
        done.get("wkid") or (done.get("extent") or {}).get("spatialReference") or done.get("spatialReference")
    )
    try:
        done["wkid"] = read_wkid(stated, WEB_MERCATOR)
    except ValueError as problem:
        raise Refused(400, "Invalid definition", [str(problem)]) from None
    primary = str(done["objectIdField"]).lower()
    done["indexes"] = [  # the primary key exists anyway, and clients send it back with what they have read
        {**entry, "name": str(entry.get("name") or f"{str(entry.get('fields', '')).replace(',', '_')}_index")}
        for entry in done.get("indexes") or []
        if str(entry.get("fields", "")).lower() not in (primary, "shape")
    ]
    return done
