"""One layer in a GeoPackage: whether it may be edited, its rows of a job, and the edits themselves."""

# ruff: noqa: S608 - names in statements are quoted, values are parameters

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import InputError
from camtrap_batch.targets.base import EDITS, JOB, LOCATION, LayerRows
from camtrap_batch.targets.edits import STORED, row_hashes
from camtrap_batch.targets.points import SRS, decode_points, encode_points

_BATCH = 20_000
_X, _Y = "geometry: x", "geometry: y"
_TYPES = {
    "text": ("TEXT",),
    "integer": ("INTEGER", "MEDIUMINT", "INT"),
    "real": ("REAL", "DOUBLE"),
    "datetime": ("DATETIME",),
}
"""Kind of value -> the GeoPackage data types (OGC 12-128r18, table 1) that hold it."""


class SentRows:
    """The rows of a layer with their values in SQLite's form.

    Attributes
    ----------
    values : the attributes as text, integers and float64; finally longitude and latitude
    hashes : one for each row
    """

    def __init__(self, rows: LayerRows) -> None:
        self.rows = rows
        columns = {name: _stored(rows.columns[name]) for name in rows.columns.column_names}
        x, y = _stored(rows.longitude), _stored(rows.latitude)
        columns[_X], columns[_Y] = pc.if_else(y.is_valid(), x, None), pc.if_else(x.is_valid(), y, None)
        self.values = pa.table(columns)
        self.hashes = row_hashes(self.values)


@dataclass(frozen=True)
class FeatureTable:
    """A layer of points that some rows go to.

    Attributes
    ----------
    where : file and layer, for messages
    id_, geometry : names of its primary key and of its geometry
    key : field that identifies a row
    fields : the fields in SentRows.values
    lacking : fields that it does not have yet -> their types; they are not read
    """

    db: sqlite3.Connection
    where: str
    name: str
    id_: str
    geometry: str
    key: str
    fields: pa.Schema
    lacking: dict[str, str]

    @classmethod
    def find(cls, db: sqlite3.Connection, sent: SentRows, file: str) -> FeatureTable | None:
        """The layer that these rows go to; None if there is no such layer.

        Raises
        ------
        InputError There is one with another geometry, another reference system or fields of other types, or
            without the fields that identify the rows' owners.
        """
        rows, where = sent.rows, f"{file}, layer {sent.rows.layer}"
        info = db.execute("SELECT name, upper(type), pk FROM pragma_table_info(?)", (rows.layer,)).fetchall()
        if not info:
            return None
        found = db.execute(
            "SELECT column_name, upper(geometry_type_name), z, lower(organization), organization_coordsys_id"
            " FROM gpkg_geometry_columns LEFT JOIN gpkg_spatial_ref_sys USING (srs_id)"
            " WHERE lower(table_name) = lower(?)",
            (rows.layer,),
        ).fetchone()
        if found is None:
            raise InputError(f"{where}: is a table without geometry; it should be a layer of points")
        geometry, kind, z, *system = found
        if kind != "POINT" or z == 1:
            raise InputError(f"{where}: holds {kind}{' Z' if z == 1 else ''}; it should hold POINT")
        if system != ["epsg", SRS]:
            raise InputError(f"{where}: is in {system[0]}:{system[1]}; it should be in epsg:{SRS} (WGS 84)")
        ids = [name for name, type_, pk in info if pk and type_ == "INTEGER"]
        if len(ids) != 1:
            raise InputError(f"{where}: has no INTEGER primary key; a layer of a GeoPackage needs one")
        there = {name.lower(): type_.partition("(")[0] for name, type_, _ in info}
        lacking = {}
        for field in rows.columns.schema:
            wanted = _TYPES[_kind(field.type)]
            type_ = there.get(field.name.lower())
            if type_ is None:
                if field.name in (rows.key, JOB, LOCATION):
                    raise InputError(
                        f"{where}: has no field {field.name}; add it as {wanted[0]}, or publish to a new file"
                    )
                lacking[field.name] = wanted[0]
            elif type_ not in wanted:
                raise InputError(
                    f"{where}: field {field.name} is {type_}; it should be {' or '.join(wanted)}"
                )
        return cls(db, where, rows.layer, ids[0], geometry, rows.key, sent.values.schema, lacking)

    def add_lacking(self) -> None:
        """Give the layer the fields that it lacks, empty in existing rows."""
        for name, type_ in self.lacking.items():
            self.db.execute(f"ALTER TABLE {_quoted(self.name)} ADD COLUMN {_quoted(name)} {type_}")

    def read(self, job: str) -> pa.Table:
        """A job's rows on the layer (base.STORED), by object id.

        Raises
        ------
        InputError
            A field holds a value of another type.
        """
        names = self.fields.names[:-2]
        kept = ["NULL" if name in self.lacking else _quoted(name) for name in names]
        wanted = ", ".join([_quoted(self.id_), _quoted(self.geometry), *kept])
        mine = f"{_quoted(JOB)} = ? AND {_quoted(self.key)} IS NOT NULL ORDER BY {_quoted(self.id_)}"
        parts = [STORED.empty_table()]
        for ids, blobs, *columns in self._select(wanted, mine, job):
            values = {name: self._array(name, column) for name, column in zip(names, columns, strict=True)}
            values[_X], values[_Y] = decode_points(blobs)
            part = {
                "key": values[self.key],
                "row_hash": row_hashes(pa.table(values)),
                "object_id": pa.array(ids, pa.int64()),
                "location": values[LOCATION],
            }
            parts.append(pa.table(part, schema=STORED))
        return pa.concat_tables(parts)

    def require_own(self, job: str, keys: pa.ChunkedArray) -> None:
        """Raise InputError if one of the keys belongs to a row of another job, or of none."""
        wanted = f"{_quoted(self.key)}, {_quoted(JOB)}"
        for theirs, owners in self._select(wanted, f"{_quoted(JOB)} IS NOT ?", job):
            taken = pc.index_in(keys, self._array(self.key, theirs)).drop_null()
            if len(taken):
                row = taken[0].as_py()
                owner = "no job" if owners[row] is None else f"job {owners[row]!r}"
                raise InputError(
                    f"{self.where}: {self.key} {theirs[row]!r} belongs to {owner}, not to job {job!r};"
                    " publish to another file"
                )

    def write(self, sent: SentRows, edits: pa.Table) -> pa.Table:
        """Do the edits; returns them with the object ids of the added rows."""
        names = [_quoted(name) for name in (*self.fields.names[:-2], self.geometry, self.id_)]
        table, id_ = _quoted(self.name), _quoted(self.id_)
        statements = {
            "delete": f"DELETE FROM {table} WHERE {id_} = ?",
            "update": f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in names[:-1])} WHERE {id_} = ?",
            "add": f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
        }
        edits = self._number(edits)
        for kind, statement in statements.items():
            chosen = edits.filter(pc.equal(edits["edit"], kind))
            for start in range(0, chosen.num_rows, _BATCH):
                batch = chosen.slice(start, _BATCH)
                columns = [batch["object_id"].to_pylist()]
                if kind != "delete":
                    values = sent.values.take(batch["row"].combine_chunks())
                    points = encode_points(values[_X], values[_Y])
                    columns = [*(column.to_pylist() for column in values.columns[:-2]), points, *columns]
                self.db.executemany(statement, zip(*columns, strict=True))
        return edits

    def update_contents(self) -> None:
        """Record in the file's own tables when the layer changed, its extent, and its number of rows."""
        table, geometry = _quoted(self.name), _quoted(self.geometry)
        sides = ", ".join(
            f"{side}(ST_{name}({geometry}))"
            for side, name in (("min", "MinX"), ("min", "MinY"), ("max", "MaxX"), ("max", "MaxY"))
        )
        self.db.execute(
            "UPDATE gpkg_contents SET last_change = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),"
            f" (min_x, min_y, max_x, max_y) = (SELECT {sides} FROM {table})"
            " WHERE lower(table_name) = lower(?)",
            (self.name,),
        )
        if has_table(self.db, "gpkg_ogr_contents"):
            self.db.execute(
                f"UPDATE gpkg_ogr_contents SET feature_count = (SELECT count(*) FROM {table})"
                " WHERE lower(table_name) = lower(?)",
                (self.name,),
            )

    def _number(self, edits: pa.Table) -> pa.Table:
        """The edits, where adds have object ids that no row of the layer has ever had."""
        table, id_ = _quoted(self.name), _quoted(self.id_)
        (last,) = self.db.execute(f"SELECT coalesce(max({id_}), 0) FROM {table}").fetchone()
        if has_table(self.db, "sqlite_sequence"):
            (given,) = self.db.execute(
                "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?", (self.name,)
            ).fetchone()
            last = max(last, given)
        is_new = pc.equal(edits["edit"], "add").combine_chunks()
        added = pa.array(np.arange(1, is_new.true_count + 1) + last, pa.int64())
        numbered = pc.replace_with_mask(edits["object_id"].combine_chunks(), is_new, added)
        at = EDITS.get_field_index("object_id")
        return edits.set_column(at, EDITS.field(at), numbered)

    def _select(self, columns: str, condition: str, job: str) -> Iterator[list[tuple[Any, ...]]]:
        """Batches of rows, column by column."""
        cursor = self.db.execute(f"SELECT {columns} FROM {_quoted(self.name)} WHERE {condition}", (job,))
        while batch := cursor.fetchmany(_BATCH):
            yield list(zip(*batch, strict=True))

    def _array(self, name: str, values: Sequence[Any]) -> pa.Array:
        kind = self.fields.field(name).type
        try:
            return pa.array(values, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as problem:
            raise InputError(f"{self.where}: field {name} should hold {kind}: {problem}") from None


def has_table(db: sqlite3.Connection, name: str) -> bool:
    """The database has a table of this name."""
    found = db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND lower(name) = lower(?)", (name,))
    return found.fetchone() is not None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_floating(type_):
        return "real"
    return "datetime" if pa.types.is_timestamp(type_) else "text"


def _stored(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as SQLite stores them: times as text to the millisecond, as in the standard; no NaN, no -0.0."""
    kind = _kind(column.type)
    if kind == "real":
        return pc.add(pc.if_else(pc.is_finite(column), column, None).cast(pa.float64()), 0.0)
    if kind == "datetime":
        zone = "" if column.type.tz is None else "Z"
        text = pc.floor_temporal(column.cast(pa.timestamp("us")), unit="millisecond").cast(pa.timestamp("ms"))
        return pc.binary_join_element_wise(pc.replace_substring(text.cast(pa.string()), " ", "T"), zone, "")
    return column.cast(pa.int64() if kind == "integer" else pa.string())
