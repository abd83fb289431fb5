"""Everything the server keeps, in one SQLite file: one writer at a time, any number of readers beside it.

An answer is sent after the commit: a server that is killed has lost nothing that it acknowledged. The file is
in write-ahead mode with synchronous=NORMAL, so a machine that loses power can lose the last transactions.
"""

from __future__ import annotations

import json
import math
import queue
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from camtrap_batch.rehearsal.layerserver.answers import Json, Refused
from camtrap_batch.rehearsal.layerserver.definition import GEOMETRY_COLUMNS, Field, Layer

_TABLES = """
CREATE TABLE IF NOT EXISTS settings(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS services(name TEXT PRIMARY KEY, properties TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS layers(
    service TEXT, id INTEGER, definition TEXT NOT NULL, edited_ms INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(service, id)
);
CREATE TABLE IF NOT EXISTS attachments(
    id INTEGER PRIMARY KEY AUTOINCREMENT, service TEXT, layer INTEGER, parent INTEGER, globalid TEXT,
    name TEXT, content_type TEXT, size INTEGER, keywords TEXT, content BLOB
);
CREATE INDEX IF NOT EXISTS attachments_of ON attachments(service, layer, parent);
CREATE TABLE IF NOT EXISTS items(
    id TEXT PRIMARY KEY, owner TEXT, properties TEXT NOT NULL, name TEXT, content BLOB
);
CREATE TABLE IF NOT EXISTS uploads(id TEXT PRIMARY KEY, name TEXT, committed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS parts(upload TEXT, part INTEGER, content BLOB, PRIMARY KEY(upload, part));
CREATE TABLE IF NOT EXISTS jobs(id TEXT PRIMARY KEY, status TEXT NOT NULL);
"""
_WAIT_S = 60.0


class Database:
    """`layers.sqlite` of a folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "layers.sqlite"
        self._lock = threading.Lock()
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._open: list[sqlite3.Connection] = []
        try:
            self._writer = self._connect()
            self._writer.executescript(_TABLES)
        except sqlite3.Error:
            self.close()
            raise

    def close(self) -> None:
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is committed at the end, or rolled back if an exception passes through."""
        with self._lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One state of the data, however many statements read it."""
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self._connect()
        connection.execute("BEGIN")
        try:
            yield connection
        except (sqlite3.OperationalError, OverflowError) as problem:  # too deep, too long, a number too large
            raise Refused(400, "Unable to perform query operation.", [str(problem)]) from None
        finally:
            connection.execute("ROLLBACK")
            self._idle.put(connection)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.file, timeout=_WAIT_S, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        self._open.append(connection)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA case_sensitive_like=ON")
        # SQLite's own functions know only ASCII, and there is no standard deviation.
        connection.create_function("upper", 1, _upper, deterministic=True)
        connection.create_function("lower", 1, _lower, deterministic=True)
        connection.create_aggregate("var", 1, _Variance)  # type: ignore[arg-type]
        connection.create_aggregate("stddev", 1, _Deviation)  # type: ignore[arg-type]
        return connection


# Definitions ------------------------------------------------------------------------------------------


def save_layer(db: sqlite3.Connection, layer: Layer) -> None:
    """Store the definition, and create the table for its rows if there is none."""
    db.execute(
        "INSERT INTO layers(service, id, definition) VALUES(?, ?, ?)"
        " ON CONFLICT(service, id) DO UPDATE SET definition = excluded.definition",
        (layer.service, layer.id, json.dumps(layer.definition)),
    )
    columns = [
        f"{field.column} INTEGER PRIMARY KEY AUTOINCREMENT"
        if field.name == layer.oid
        else f"{field.column} {layer.sql_type(field)}"
        for field in layer.fields
    ]
    columns += [f"{name} {'TEXT' if name == '_shape' else 'REAL'}" for name in GEOMETRY_COLUMNS]
    db.execute(f"CREATE TABLE IF NOT EXISTS {layer.table} ({', '.join(columns)})")
    db.execute(
        f"CREATE UNIQUE INDEX IF NOT EXISTS {_index_name(layer, 'globalid')}"
        f' ON {layer.table}("{layer.globalid}")'
    )


def add_field(db: sqlite3.Connection, layer: Layer, field: Field) -> None:
    db.execute(f"ALTER TABLE {layer.table} ADD COLUMN {field.column} {layer.sql_type(field)}")
    if field.default is not None:
        db.execute(f"UPDATE {layer.table} SET {field.column} = ?", (field.check(field.default),))


def drop_field(db: sqlite3.Connection, layer: Layer, field: Field) -> None:
    db.execute(f"ALTER TABLE {layer.table} DROP COLUMN {field.column}")


def set_indexes(db: sqlite3.Connection, old: Layer, new: Layer) -> None:
    """Make the indexes those of `new`.

    Raises:
        Refused: a unique index is requested, but values occur twice.
    """
    before, after = {i.name.lower(): i for i in old.indexes}, {i.name.lower(): i for i in new.indexes}
    for name, index in before.items():
        if after.get(name) != index:
            db.execute(f"DROP INDEX IF EXISTS {_index_name(old, name)}")
    for name, index in after.items():
        if before.get(name) == index:
            continue
        columns = ", ".join(f'"{field}"' for field in index.fields)
        unique = "UNIQUE " if index.is_unique else ""
        try:
            db.execute(f"CREATE {unique}INDEX {_index_name(new, name)} ON {new.table}({columns})")
        except sqlite3.IntegrityError:
            reason = f"index '{index.name}' can't be unique: values of {', '.join(index.fields)} occur twice"
            raise Refused(400, "Unable to add feature service definition.", [reason]) from None


def drop_layer(db: sqlite3.Connection, layer: Layer) -> None:
    db.execute(f"DROP TABLE {layer.table}")
    db.execute("DELETE FROM layers WHERE service = ? AND id = ?", (layer.service, layer.id))
    db.execute("DELETE FROM attachments WHERE service = ? AND layer = ?", (layer.service, layer.id))


def _index_name(layer: Layer, name: str) -> str:
    return '"{}"'.format(f"{layer.service}/{layer.id}/{name.lower()}".replace('"', ""))


# Settings ---------------------------------------------------------------------------------------------


def setting(db: sqlite3.Connection, key: str, value: str) -> str:
    """The value of a key, which is first set to `value` if it does not exist."""
    db.execute("INSERT OR IGNORE INTO settings VALUES(?, ?)", (key, value))
    found: str = db.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()[0]
    return found


def load_services(db: sqlite3.Connection) -> dict[str, Json]:
    return {name: json.loads(text) for name, text in db.execute("SELECT name, properties FROM services")}


def load_layers(db: sqlite3.Connection) -> list[Layer]:
    rows = db.execute("SELECT service, id, definition FROM layers ORDER BY service, id")
    return [Layer(service, number, json.loads(text)) for service, number, text in rows]


# Functions of SQL ---------------------------------------------------------------------------------------


def _upper(value: str | float | None) -> str | float | None:
    return value.upper() if isinstance(value, str) else value


def _lower(value: str | float | None) -> str | float | None:
    return value.lower() if isinstance(value, str) else value


class _Variance:
    """Variance of a sample, as in ArcGIS; computed by Welford's method, one value at a time."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def step(self, value: float | None) -> None:
        if value is not None:
            self.count += 1
            distance = value - self.mean
            self.mean += distance / self.count
            self.squares += distance * (value - self.mean)

    def finalize(self) -> float | None:
        return self.squares / (self.count - 1) if self.count > 1 else None


class _Deviation(_Variance):
    def finalize(self) -> float | None:
        variance = super().finalize()
        return None if variance is None else math.sqrt(variance)
