"""One layer, or table, that rows are pushed to: its fields, its rows of a job, its edits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import InputError
from camtrap_batch.portal.reading import WGS_84, X, Y, look_at, read_features
from camtrap_batch.portal.service import Service, Unknown, change_definition
from camtrap_batch.targets.arcgis.definition import field_definition, kind_of
from camtrap_batch.targets.base import JOB, LOCATION, LayerRows
from camtrap_batch.targets.edits import STORED, row_hashes
from camtrap_batch.vocabulary import plural

_KEYS_AT_ONCE = 200
_DEGREES = 1e-6  # a tenth of a metre; layers keep their own units, and round
_RELATIVE = 1e-9

_TEXT, _DATE = ("esriFieldTypeString",), ("esriFieldTypeDate",)
_WHOLE = {
    "esriFieldTypeSmallInteger": 2**15,
    "esriFieldTypeInteger": 2**31,
    "esriFieldTypeBigInteger": 2**53,
}
_FILLED = ("esriFieldTypeOID", "esriFieldTypeGlobalID")
_REAL = ("esriFieldTypeDouble", "esriFieldTypeSingle")
_KINDS: dict[str, tuple[str, ...]] = {
    "text": _TEXT,
    "integer": (*_WHOLE, *_REAL),
    "real": _REAL,
    "date": _DATE,
}


@dataclass(frozen=True)
class Field:
    """A field of the layer, and the column that fills it."""

    name: str
    type: str
    length: int | None
    column: str


@dataclass(frozen=True)
class Outcome:
    """What a server says about one edit; `object_id` is set for an add."""

    done: bool
    object_id: int | None
    reason: str


class RemoteLayer:
    """A layer of points, or a table, that some rows go to.

    Parameters
    ----------
    url : .../FeatureServer/<number>
    rows : the rows to push
    names : column -> field, for columns whose field has another name

    Raises
    ------
    InputError
        There is no such layer, it does not hold points, can't be edited, may hide what is added to it,
        requires a value that no column has, or lacks the fields that identify a row's owner.

    Attributes
    ----------
    fields : one for each column
    lacking : definitions of fields that the layer does not have yet; they are not read
    """

    def __init__(self, service: Service, url: str, rows: LayerRows, names: dict[str, str]) -> None:
        self._service = service
        self.info = look_at(service, url)
        self.url, about = self.info.url, self.info.about
        self.has_points, self.object_id = self.info.has_points, self.info.object_id
        if not self.has_points:
            raise InputError(
                f"{self.url}: is a table, but {rows.layer} have coordinates; it should be a layer of points"
            )
        _check_rights(self.url, about)
        _check_shows_all(self.url, about, service)
        self.fields, self.lacking = _fields(self.url, about, rows, names)
        _check_required(self.url, about, self.fields)
        self.dates = {field.name for field in self.fields if field.type in _DATE}
        self.key, self.owner = self._field(rows.key), self._field(JOB)
        self.key_is_unique = any(
            index.get("isUnique") and str(index.get("fields", "")).lower() == self.key.lower()
            for index in about.get("indexes") or []
        )

    def _field(self, column: str) -> str:
        return next(field.name for field in self.fields if field.column == column)

    def add_lacking(self) -> None:
        """Give the layer the fields that it lacks. Raises InputError if that is not allowed."""
        if not self.lacking:
            return
        try:
            change_definition(self._service, self.url, "addToDefinition", {"fields": self.lacking})
        except InputError as problem:
            there = {field["name"].lower() for field in self._service.describe(self.url).get("fields") or []}
            # Another push may have added them at the same time.
            if left := [field for field in self.lacking if field["name"].lower() not in there]:
                raise InputError(f"{_lacks(self.url, left)} ({problem})") from None
        self.lacking = []

    def sent(self, rows: LayerRows) -> Sent:
        """The rows in the form in which this layer gets them."""
        return Sent(self, rows)

    def read_job(self, job: str) -> list[dict[str, Any]]:
        """Every row of a job, as `features` returns them."""
        return self.features(f"{self.owner} = {quoted(job)}")

    def read_keys(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """The rows with these keys, whatever their owner."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            some = ", ".join(map(quoted, keys[start : start + _KEYS_AT_ONCE]))
            found += self.features(f"{self.key} IN ({some})")
        return found

    def taken(self, job: str) -> list[tuple[str, str | None]]:
        """(key, job) of every row that has a key and is another job's, or nobody's."""
        owner = self.owner
        where = f"({owner} <> {quoted(job)} OR {owner} IS NULL) AND {self.key} IS NOT NULL"
        return [
            (row[self.key], row[owner])
            for row in self.features(where, fields=[self.key, owner], with_points=False)
        ]

    def features(
        self, where: str, *, fields: Iterable[str] | None = None, with_points: bool = True
    ) -> list[dict[str, Any]]:
        """Attributes of the rows, by object id, as `read_features` gives them."""
        lacking = {definition["name"] for definition in self.lacking}
        wanted = fields or [field.name for field in self.fields if field.name not in lacking]
        return read_features(self._service, self.info, where, wanted, with_points=with_points)

    def apply(
        self, adds: list[dict[str, Any]], updates: list[dict[str, Any]], deletes: list[int]
    ) -> tuple[list[Outcome], list[Outcome], list[Outcome]]:
        """Send edits once; returns what the server says about each, in the order given.

        Raises
        ------
        Unknown
            There is no answer, or one that omits some edit.
        ServiceRefused
            The server rejects all of them.
        """
        answer = self._service.send(
            f"{self.url}/applyEdits",
            {
                "adds": adds or None,
                "updates": updates or None,
                "deletes": ",".join(map(str, deletes)) or None,
                "rollbackOnFailure": "false",
            },
        )
        lists = [
            [_outcome(result) for result in answer.get(name) or []]
            for name in ("addResults", "updateResults", "deleteResults")
        ]
        if list(map(len, lists)) != [len(adds), len(updates), len(deletes)]:
            raise Unknown("an answer that leaves out some of the edits")
        return lists[0], lists[1], lists[2]


class Sent:
    """Rows with their values exactly as a layer gets them.

    Attributes
    ----------
    values : values by field; dates in ms since 1970, UTC; finally longitude and latitude
    hashes : one for each row
    notes : what had to be changed so that the layer can take it
    """

    def __init__(self, layer: RemoteLayer, rows: LayerRows) -> None:
        self._layer = layer
        self.notes: list[str] = []
        columns = {
            field.name: self._fit(field, rows.columns[field.column], rows.utc_offset)
            for field in layer.fields
        }
        if layer.has_points:
            x, y = _plain(rows.longitude), _plain(rows.latitude)
            columns[X], columns[Y] = pc.if_else(y.is_valid(), x, None), pc.if_else(x.is_valid(), y, None)
        self.values = pa.table(columns)
        self.hashes = row_hashes(self.values)
        self.keys: list[str] = self.values[layer.key].to_pylist()
        self.index = {key: index for index, key in enumerate(self.keys)}
        self._require_different_keys()

    def features(
        self, indices: Sequence[int], object_ids: Sequence[int | None] | None = None
    ) -> list[dict[str, Any]]:
        """Rows as JSON; for updates, with their object ids."""
        features = []
        ids = object_ids or [None] * len(indices)
        rows = self.values.take(pa.array(indices, pa.int64())).to_pylist()
        for row, object_id in zip(rows, ids, strict=True):
            x, y = row.pop(X, None), row.pop(Y, None)
            if object_id is not None:
                row[self._layer.object_id] = object_id
            feature: dict[str, Any] = {"attributes": row}
            if x is not None:
                feature["geometry"] = {"x": x, "y": y, "spatialReference": {"wkid": WGS_84}}
            elif object_id is not None and self._layer.has_points:
                feature["geometry"] = None  # without this the layer keeps the old point
            features.append(feature)
        return features

    def differences(self, indices: Sequence[int], stored: Sequence[dict[str, Any]]) -> dict[int, list[str]]:
        """Number of a pair (an index, and a row on the layer) -> the fields in which they differ."""
        different: dict[int, list[str]] = {}
        ours = self.values.take(pa.array(indices, pa.int64()))
        for name in ours.column_names:
            mine, theirs = ours[name].to_pylist(), [row.get(name) for row in stored]
            if mine == theirs:  # nearly always, and much faster than one by one
                continue
            for number, (a, b) in enumerate(zip(mine, theirs, strict=True)):
                if not _same(name, a, b, is_date=name in self._layer.dates):
                    different.setdefault(number, []).append(name)
        return different

    def compare(self, stored: Sequence[dict[str, Any]]) -> pa.Table:
        """The job's rows on the layer, as base.STORED; `row_hash` is that of our row if they are equal."""
        layer = self._layer
        location = layer._field(LOCATION)
        keys = self._known_by([row[layer.key] for row in stored])
        indices = [self.index.get(key) for key in keys]
        known = [number for number, index in enumerate(indices) if index is not None]
        different = self.differences(
            [index for index in indices if index is not None], [stored[number] for number in known]
        )
        equal = np.zeros(len(stored), bool)
        equal[known] = True
        equal[[known[number] for number in different]] = False
        hashes = self.hashes.to_pylist()
        return pa.table(
            {
                "key": keys,
                "row_hash": [
                    hashes[index] if is_equal and index is not None else "differs"
                    for index, is_equal in zip(indices, equal, strict=True)
                ],
                "object_id": [int(row[layer.object_id]) for row in stored],
                "location": [row.get(location) for row in stored],
            },
            schema=STORED,
        )

    def _known_by(self, stored: Sequence[str]) -> list[str]:
        """Keys on the layer, those that now have another case as ours: to many layers they are the same."""
        taken = set(stored)
        ours = {key.lower(): key for key in self.keys if key not in taken}
        # Of several that differ in case alone, the first.
        return [key if key in self.index else ours.pop(key.lower(), key) for key in stored]

    def _fit(self, field: Field, column: pa.ChunkedArray, offsets: pa.ChunkedArray | None) -> pa.Array:
        values = _plain(column)
        if field.type in _DATE:
            return _milliseconds(values, offsets)
        if field.type in _TEXT:
            values = values.cast(pa.string())
            return self._cut(field, values) if field.length else values
        if field.type in _WHOLE:
            values = values.cast(pa.int64())
            most = pc.max(pc.abs(values)).as_py()
            if most is not None and most >= _WHOLE[field.type]:
                raise InputError(f"{self._layer.url}: field {field.name} ({field.type}) can't hold {most}")
            return values
        values = values.cast(pa.float64())
        values = pc.if_else(pc.is_finite(values), values, None)
        # In the form the layer keeps, so that it compares equal afterwards.
        return values.cast(pa.float32()).cast(pa.float64()) if field.type == _REAL[1] else values

    def _require_different_keys(self) -> None:
        """Raise InputError if keys differ only in case: a unique index takes them for the same."""
        seen: dict[str, str] = {}
        for key in self.keys:
            if (other := seen.setdefault(key.lower(), key)) != key:
                raise InputError(
                    f"{self._layer.url}: {self._layer.key} {other!r} and {key!r} differ only in upper and "
                    "lower case, which is the same to many layers; rename one of them"
                )

    def _cut(self, field: Field, values: pa.Array) -> pa.Array:
        length = cast(int, field.length)
        # A text has at most twice as many UTF-16 units, which is what a layer counts, as it has characters.
        doubtful = pc.greater(pc.multiply(pc.utf8_length(values), 2), length).fill_null(False)
        cut = [_first_units(text, length) for text in values.filter(doubtful).to_pylist()]
        fitted = pc.replace_with_mask(values, doubtful, pa.array(cut, pa.string()))
        too_long = pc.not_equal(fitted, values)
        if number := pc.sum(too_long.cast(pa.int64())).as_py():
            if field.name == self._layer.key:
                raise InputError(
                    f"{self._layer.url}: field {field.name} holds {field.length} characters, and "
                    f"{plural(number, 'key is', 'keys are')} longer"
                )
            self.notes.append(
                f"{self._layer.url}: {plural(number, 'text is', 'texts are')} cut to {field.length} "
                f"characters in {field.name}"
            )
        return fitted


def _first_units(text: str, most: int) -> str:
    """As much of a text as fits into `most` UTF-16 units, without splitting a surrogate pair."""
    return text.encode("utf-16-le", "surrogatepass")[: 2 * most].decode("utf-16-le", "ignore")


def quoted(text: str) -> str:
    """A text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def _same(name: str, ours: Any, theirs: Any, *, is_date: bool) -> bool:
    if ours is None or theirs is None:
        return ours is None and theirs is None
    if is_date and isinstance(theirs, int | float) and theirs % 1000 == 0:
        return bool(abs(ours - theirs) < 1000)  # many databases keep dates to the second
    if isinstance(ours, float):
        if not isinstance(theirs, int | float):
            return False
        if name in (X, Y):
            return math.isclose(ours, theirs, rel_tol=0, abs_tol=_DEGREES)
        return math.isclose(ours, theirs, rel_tol=_RELATIVE, abs_tol=_RELATIVE)
    return bool(ours == theirs)


def _outcome(result: dict[str, Any]) -> Outcome:
    error = result.get("error") or {}
    said = " ".join(str(error.get("description") or error.get("message") or "no reason given").split())
    return Outcome(
        bool(result.get("success")),
        None if result.get("objectId") in (None, -1) else int(result["objectId"]),
        f"{said} ({error['code']})" if "code" in error else said,
    )


def _check_rights(url: str, about: dict[str, Any]) -> None:
    can = {word.strip() for word in str(about.get("capabilities") or "").split(",")}
    lacks = [word for word in ("Query", "Create", "Update") if word not in can and "Editing" not in can]
    if "Query" not in can and "Query" not in lacks:
        lacks.insert(0, "Query")
    if lacks:
        raise InputError(
            f"{url}: can't be edited by whoever is signed in (no {', '.join(lacks)}); ask its owner for it"
        )


def _check_shows_all(url: str, about: dict[str, Any], service: Service) -> None:
    """Raise InputError if rows are hidden from whoever is signed in: they would be added again and again."""
    query = str(about.get("viewDefinitionQuery") or about.get("definitionQuery") or "").strip()
    if query:
        what = "a view" if about.get("isView") else "a layer"
        raise InputError(
            f"{url}: is {what} that shows only rows where {' '.join(query.split())[:200]}: rows that are "
            "pushed could be hidden; push to the layer that it is a view of, or remove its filter"
        )
    ownership = about.get("ownershipBasedAccessControlForFeatures") or {}
    if ownership.get("allowOthersToQuery") is False and not service.owns(about.get("serviceItemId")):
        raise InputError(
            f"{url}: shows everyone only their own rows (ownership-based access): rows that another account "
            "has pushed are hidden; sign in as the layer's owner, or let all editors see all features"
        )


def _check_required(url: str, about: dict[str, Any], fields: Sequence[Field]) -> None:
    """Raise InputError if the layer requires a value for a field that none of our columns fills."""
    ours = {field.name for field in fields}
    tracking = {str(name) for name in (about.get("editFieldsInfo") or {}).values()}
    for field in about.get("fields") or []:
        is_filled = field["type"] in _FILLED or field.get("editable") is False or field["name"] in tracking
        if is_filled or field["name"] in ours or field.get("nullable") is not False:
            continue
        if field.get("defaultValue") is None:
            raise InputError(
                f"{url}: field {field['name']} must have a value in every row, but none of our columns "
                "goes into it; make it nullable, give it a default, or name "
                "the column for it in publish.fields"
            )


def _fields(
    url: str, about: dict[str, Any], rows: LayerRows, names: dict[str, str]
) -> tuple[list[Field], list[dict[str, Any]]]:
    """The field for each column, and the definitions of missing ones."""
    there = {field["name"].lower(): field for field in about.get("fields") or []}
    if unknown := sorted(set(names) - set(rows.columns.column_names)):
        raise InputError(
            f"publish.fields.{rows.layer}: no column {unknown[0]!r}; possible: "
            f"{', '.join(rows.columns.column_names)}"
        )
    found, lacking = [], []
    for column in rows.columns.schema:
        name = names.get(column.name, column.name)
        field = there.get(name.lower())
        if field is None:
            field = {**field_definition(column, name, rows.key), "nullable": True}
            lacking.append(field)
        wanted = _KINDS[kind_of(column.type)]
        if field["type"] not in wanted:
            raise InputError(f"{url}: field {name} is {field['type']}; it should be {' or '.join(wanted)}")
        if field.get("editable") is False:
            raise InputError(f"{url}: field {name} can't be edited; choose another (publish.fields)")
        found.append(Field(field["name"], field["type"], field.get("length"), column.name))
    # A layer without these never had a job's rows.
    if any(names.get(column, column).lower() not in there for column in (rows.key, LOCATION, JOB)):
        raise InputError(_lacks(url, lacking))
    return found, lacking


def _lacks(url: str, fields: Sequence[dict[str, Any]]) -> str:
    return (
        f"{url}: has no field {', '.join(field['name'] for field in fields)}; `camtrap layer create JOB` "
        "adds what is missing, publish.fields names your own fields"
    )


def _plain(column: pa.ChunkedArray) -> pa.Array:
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _milliseconds(times: pa.Array, offsets: pa.ChunkedArray | None) -> pa.Array:
    """ms since 1970 in UTC; camera time with an unknown offset is taken as it is."""
    ms = pc.divide(times.cast(pa.timestamp("us")).cast(pa.int64()), 1000)
    if times.type.tz is not None or offsets is None:
        return ms
    minutes = _plain(offsets).cast(pa.int64()).fill_null(0)
    return pc.subtract(ms, pc.multiply(minutes, 60_000))
