"""A GeoPackage file as the target of a push: layers made by GDAL, rows edited in place by SQLite.

Rows are compared with what the file really holds. If nothing differs, the file is only read. Otherwise all
edits of all layers are one SQLite transaction, read back before it is committed: whatever happens, the file
is as before or as it should be. Other layers, fields, styles and rows in the file are not changed.

Times without a zone are written without one, as GDAL does, and not with the Z that the standard (OGC
12-128r18) requires, which would turn local camera time into UTC for every reader. GDAL reads an offset after
the time (+02:00) only with a warning for each layer; the zone, if all cameras have the same, is in the
fields' descriptions.
"""

# ruff: noqa: S608 - names in statements are quoted, values are parameters

from __future__ import annotations

import os
import sqlite3
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from camtrap_batch.errors import InputError, MissingExtra, StageError, StorageError
from camtrap_batch.job.publish import PublishFile
from camtrap_batch.targets.base import OK, LayerRows, Push
from camtrap_batch.targets.edits import STORED, acknowledged, plan_edits, too_many_deleted
from camtrap_batch.targets.featuretable import FeatureTable, SentRows, has_table
from camtrap_batch.targets.files import FileTarget
from camtrap_batch.targets.points import SRS, register_functions
from camtrap_batch.targets.styles import add_style, name_fields

_SQLITE = b"SQLite format 3\x00"
_BUSY_S = 30.0
_CACHE_KIB = 128 * 1024  # a million keys enter their index in random order: it should fit
_GEOMETRY = "geom"
_LISTS = ("gpkg_contents", "gpkg_geometry_columns", "gpkg_extensions", "gpkg_ogr_contents")
"""Tables in which a GeoPackage lists its layers; the others refer to the first."""


class PublishGeoPackage(PublishFile):
    """The section `publish` of a job with a GeoPackage."""

    title: ClassVar[str] = "GeoPackage"
    form: ClassVar[str] = "a file name that ends in .gpkg"
    ending: ClassVar[str] = ".gpkg"


@dataclass(frozen=True)
class GeoPackageTarget(FileTarget):
    """A GeoPackage file that a job pushes its layers to.

    Raises
    ------
    MissingExtra
        pyogrio or shapely is not installed.
    """

    section: ClassVar[type[PublishFile]] = PublishGeoPackage
    help: ClassVar[str] = "a GeoPackage file (a relative path: in the run folder)"

    def __post_init__(self) -> None:
        try:
            import pyogrio  # noqa: F401
            import shapely  # noqa: F401
        except ImportError:
            raise MissingExtra("geo", "publishing to a GeoPackage") from None

    def require_kind(self) -> None:
        """Raise InputError if what is at the path is not a GeoPackage file."""
        if not self.path.is_file():
            raise InputError(f"{self.path}: is a folder; it should be a GeoPackage file")
        with self.path.open("rb") as file:
            if file.read(len(_SQLITE)) != _SQLITE:
                raise InputError(f"{self.path}: is not a GeoPackage file; publish to another file")

    def faults(self) -> dict[Path, str]:
        """See `FileTarget.faults`."""
        if not self.path.exists():
            return {}
        try:
            self.require_kind()
            address = f"{self.path.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(address, timeout=_BUSY_S, uri=True)) as db:
                (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
        except (InputError, sqlite3.Error) as problem:
            said = str(problem).removeprefix(f"{self.path}: ")
        return {} if said == "ok" else {self.path: f"is damaged ({said})"}

    def push_file(self, layers: Sequence[LayerRows], *, dry_run: bool) -> Push:
        """See `FileTarget.push`."""
        sent = [SentRows(rows) for rows in layers]
        if self.path.exists():
            return self._edit(self.path, sent, dry_run=dry_run)
        if dry_run:
            return self._plan(sent, {}).push
        half_written = self.path.with_name(f".{self.path.stem}-{uuid.uuid4().hex[:8]}.gpkg")
        try:
            _create(half_written, layers)
            pushed = self._edit(half_written, sent, dry_run=False)
            os.replace(half_written, self.path)  # noqa: PTH105
        except OSError as problem:
            raise StorageError(f"{self.path}: {problem.strerror or problem}; nothing was written") from None
        finally:
            half_written.unlink(missing_ok=True)
        return pushed

    def _edit(self, path: Path, sent: Sequence[SentRows], *, dry_run: bool) -> Push:
        try:
            with closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as db:
                register_functions(db)
                db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                db.execute("PRAGMA secure_delete = ON")  # no traces of what is not public
                # One transaction from the first look to the last edit; closing without COMMIT undoes it.
                db.execute("BEGIN")
                if not (has_table(db, "gpkg_contents") and has_table(db, "gpkg_geometry_columns")):
                    raise InputError(f"{self.path}: is an SQLite file, but not a GeoPackage with features")
                tables = self._find(db, sent)
                plan = self._plan(sent, tables)
                missing = [part.rows for part in sent if part.rows.layer not in tables]
                if dry_run or not (missing or plan.push.edits.num_rows):
                    return plan.push
                if plan.refused:
                    raise StageError(f"{self.path}, layer {plan.refused}")
                for part, todo in zip(sent, plan.edits, strict=True):
                    if todo.num_rows and part.rows.layer in tables:
                        tables[part.rows.layer].add_lacking()
                        name_fields(db, part.rows, list(tables[part.rows.layer].lacking))
                _add_layers(db, missing)
                tables = self._find(db, sent)
                written = []
                for part, todo in zip(sent, plan.edits, strict=True):
                    table = tables[part.rows.layer]
                    written.append(table.write(part, todo))
                    if todo.num_rows:
                        table.update_contents()
                self._verify(sent, tables)
                db.execute("COMMIT")
                return replace(plan.push, edits=acknowledged(pa.concat_tables(written), OK))
        except sqlite3.Error as problem:
            raise StorageError(f"{self.path}: {problem}; nothing was changed") from None

    def _find(self, db: sqlite3.Connection, sent: Sequence[SentRows]) -> dict[str, FeatureTable]:
        found = {part.rows.layer: FeatureTable.find(db, part, str(self.path)) for part in sent}
        return {layer: table for layer, table in found.items() if table is not None}

    def _plan(self, sent: Sequence[SentRows], tables: dict[str, FeatureTable]) -> _Plan:
        edits, unchanged, notes, refused = [], {}, [], None
        for part in sent:
            rows, table = part.rows, tables.get(part.rows.layer)
            if table is not None:
                table.require_own(self.job, rows.columns[rows.key])
            stored = STORED.empty_table() if table is None else table.read(self.job)
            todo = plan_edits(rows, part.hashes, stored, f"{self.path.name}|layername={rows.layer}")
            n_deleted = todo["row"].null_count
            unchanged[rows.layer] = rows.columns.num_rows - (todo.num_rows - n_deleted)
            edits.append(todo)
            if todo.num_rows and table is not None and table.lacking:
                notes.append(f"{rows.layer}: new fields: {', '.join(table.lacking)}")
            refused = refused or too_many_deleted(rows, todo, stored.num_rows, self.wanted.most_deleted)
        if refused:
            notes.append(f"a push stops here: {refused}")
        return _Plan(edits, Push(pa.concat_tables(edits), unchanged, notes), refused)

    def _verify(self, sent: Sequence[SentRows], tables: dict[str, FeatureTable]) -> None:
        left = self._plan(sent, tables).push
        if left.edits.num_rows:
            row = left.edits.slice(0, 1).to_pylist()[0]
            raise StorageError(
                f"{self.path}: {left.edits.num_rows} rows read back differ from what was sent, such as"
                f" {row['key']!r} in {row['layer']}; nothing was changed"
            )


@dataclass(frozen=True)
class _Plan:
    """`edits` of each layer; all of them as a push not yet done; and why it must not be done, or None."""

    edits: list[pa.Table]
    push: Push
    refused: str | None


def _create(path: Path, layers: Sequence[LayerRows]) -> None:
    """Create a GeoPackage with empty layers whose keys are unique."""
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    for rows in layers:
        empty = rows.columns.schema.empty_table()
        try:
            pyogrio.write_arrow(
                empty.append_column(_GEOMETRY, pa.array([], pa.binary())),
                path,
                layer=rows.layer,
                driver="GPKG",
                geometry_name=_GEOMETRY,
                geometry_type="Point",
                crs=f"EPSG:{SRS}",
                layer_options={"DESCRIPTION": rows.description},
            )
        except (DataSourceError, DataLayerError) as problem:
            raise StorageError(f"{path}: {problem}; nothing was written") from None
    with closing(sqlite3.connect(path)) as db, db:
        for rows in layers:
            db.execute(f'CREATE UNIQUE INDEX "{rows.layer}_{rows.key}" ON "{rows.layer}" ("{rows.key}")')
            _dress(db, rows)


def _dress(db: sqlite3.Connection, rows: LayerRows) -> None:
    """What makes a new layer pleasant to open."""
    add_style(db, rows, _GEOMETRY)
    name_fields(db, rows)


def _add_layers(db: sqlite3.Connection, layers: Sequence[LayerRows]) -> None:
    """Add empty layers to an open GeoPackage within its transaction, copied from what GDAL makes
    elsewhere."""
    if not layers:
        return
    with tempfile.TemporaryDirectory(prefix="camtrap-") as folder:
        made = Path(folder) / "layers.gpkg"
        _create(made, layers)
        with closing(sqlite3.connect(made)) as source:
            _copy_rows(source, db, "gpkg_spatial_ref_sys", "srs_id", SRS)
            for name in ("gpkg_extensions", "gpkg_ogr_contents"):
                if not has_table(db, name):
                    db.execute(
                        *source.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
                    )
            for rows in layers:
                # Tables first, then what depends on them; SQLite itself creates the tables behind a virtual
                # table.
                statements = source.execute(
                    "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND (tbl_name = :layer"
                    " OR name = :index) ORDER BY type != 'table', rowid",
                    {"layer": rows.layer, "index": f"rtree_{rows.layer}_{_GEOMETRY}"},
                )
                for (statement,) in statements:
                    db.execute(statement)
                for name in _LISTS:
                    _copy_rows(source, db, name, "table_name", rows.layer)
                _dress(db, rows)


def _copy_rows(
    source: sqlite3.Connection, db: sqlite3.Connection, table: str, column: str, value: object
) -> None:
    """Copy the rows in which `column` is `value`; existing rows stay."""
    cursor = source.execute(f'SELECT * FROM "{table}" WHERE "{column}" = ?', (value,))
    names = [f'"{name}"' for name, *_ in cursor.description]
    marks = ", ".join("?" * len(names))
    db.executemany(f'INSERT OR IGNORE INTO "{table}" ({", ".join(names)}) VALUES ({marks})', cursor)
