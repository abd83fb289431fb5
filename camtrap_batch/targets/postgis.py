"""A PostGIS database as the target of a push: tables of points, edited and read back in one transaction.

The job's rows in the tables are read and compared; if nothing differs, nothing is written. Otherwise all
edits of all layers are one transaction, read back before it is committed: whatever happens, the tables are as
before or as they should be. Simultaneous pushes wait for each other. Other tables, columns and rows stay.

The password comes from PGPASSWORD or ~/.pgpass, never from the job file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from camtrap_batch.errors import InputError, MissingExtra, StageError, StorageError, TargetUnreachable
from camtrap_batch.job.publish import KEY, Publish
from camtrap_batch.remote import redacted
from camtrap_batch.store.run import Run
from camtrap_batch.targets.base import JOB, LOCATION, OK, LayerRows, Push, Wanted
from camtrap_batch.targets.edits import STORED, acknowledged, plan_edits, row_hashes, too_many_deleted
from camtrap_batch.targets.fields import meaning_of
from camtrap_batch.targets.points import SRS

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

_BATCH = 20_000
_CONNECT_S = 15
_ID, _GEOMETRY = "fid", "geom"
_X, _Y = "geometry: x", "geometry: y"
_TYPES: dict[str, tuple[str, ...]] = {
    "text": ("text", "character varying", "character"),
    "integer": ("bigint", "integer", "smallint"),
    "real": ("double precision", "real"),
    "time": ("timestamp without time zone",),
    "time with zone": ("timestamp with time zone",),
}
"""Kind of value -> types of PostgreSQL (information_schema) that hold it; the first is for new columns."""


class PublishPostGIS(Publish):
    """The section `publish` of a job with a database."""

    title: ClassVar[str] = "PostGIS"
    form: ClassVar[str] = "postgresql://[user@]host[:port]/database"

    schema_: str = Field("public", alias="schema", min_length=1, description="schema that the tables are in")

    @classmethod
    def claims(cls, target: str) -> bool:
        return target.startswith(("postgresql://", "postgres://"))

    @field_validator("target")
    @classmethod
    def _is_database(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.password is not None or "password" in parse_qs(parts.query):
            raise ValueError(
                f"{redacted(value)!r}: should have no password, which has no place in a job file: set "
                "PGPASSWORD, or use ~/.pgpass"
            )
        if not parts.path.strip("/"):
            raise ValueError(f"{value!r}: should name a database: {cls.form}")
        return value


@dataclass(frozen=True)
class PostGISTarget:
    """Tables of a database that a job pushes its layers to; the first push makes them.

    Attributes
    ----------
    url : URL of the database, without a password
    schema : schema of the tables cameras, events and photos; it must exist
    job : owner of the rows; rows of other owners are not changed
    key : its section of the job file

    Raises
    ------
    MissingExtra
        psycopg is not installed.
    """

    url: str
    job: str
    schema: str = "public"
    wanted: Wanted = field(default_factory=Wanted)
    key: str = KEY

    section: ClassVar[type[Publish]] = PublishPostGIS
    help: ClassVar[str] = "tables of a PostGIS database; the password is that of PGPASSWORD or ~/.pgpass"

    def __post_init__(self) -> None:
        if find_spec("psycopg") is None:
            raise MissingExtra("postgis", "publishing to a PostGIS database")

    @classmethod
    def of(cls, run: Run, wanted: Wanted) -> Self:
        """The database that `publish.target` names."""
        publish = run.job.publish
        assert isinstance(publish, PublishPostGIS)  # noqa: S101 - `target_of` goes by the section
        return cls(publish.target, run.job.name, publish.schema_, wanted, publish.key)

    def describe(self) -> str:
        """What it is, and where."""
        return f"{self.section.title} {self.url}, schema {self.schema}"

    def identities(self) -> dict[str, str]:
        """See `HasIdentity.identities`: a host has many names, but a server has one number."""
        from psycopg.errors import InsufficientPrivilege

        with self._transaction() as db:
            where = (db.info.dbname, self.schema)
            try:
                (number,) = db.execute("SELECT system_identifier FROM pg_control_system()").fetchone() or (0,)
            except InsufficientPrivilege:  # on a server that has taken this from everybody
                number = f"{db.info.host}:{db.info.port}"
        return {f"{number} {where}": f"{self.url}, schema {self.schema}"}

    def check(self, layers: Sequence[LayerRows]) -> None:
        """Raise UserError if the database does not answer, or has other tables with these names."""
        with self._transaction() as db:
            for rows in layers:
                _Table.find(db, self, _Sent(rows))

    def push(self, layers: Sequence[LayerRows], *, dry_run: bool = False) -> Push:
        """Bring the tables up to date: add, update and delete rows of this job. What is missing is created.

        Raises
        ------
        InputError
            The database has no PostGIS, or no such schema; a table has another geometry, or columns of other
            types; a key belongs to a row of another job. Nothing was changed.
        StageError
            More of a layer would be deleted than is allowed. Nothing was changed.
        StorageError
            The database refuses, or what was written reads back differently. Nothing was changed.
        TargetUnreachable
            It does not answer.
        """
        sent = [_Sent(rows) for rows in layers]
        with self._transaction() as db:
            tables = [_Table.find(db, self, part) for part in sent]
            plans = [table.plan() for table in tables]
            reasons = [
                too_many_deleted(part.rows, edits, n_stored, self.wanted.most_deleted)
                for part, (edits, n_stored) in zip(sent, plans, strict=True)
            ]
            refused = [f"{self.url}, table {reason}" for reason in reasons if reason is not None]
            notes = [
                f"{table.name}: new fields: {', '.join(table.lacking)}"
                for table, (edits, _) in zip(tables, plans, strict=True)
                if table.is_there and table.lacking and edits.num_rows
            ]
            edits = pa.concat_tables([edits for edits, _ in plans])
            unchanged = {
                part.rows.layer: part.rows.columns.num_rows - (plan.num_rows - plan["row"].null_count)
                for part, (plan, _) in zip(sent, plans, strict=True)
            }
            if dry_run:
                return Push(edits, unchanged, [*notes, *(f"a push stops here: {why}" for why in refused)])
            if refused:
                raise StageError(refused[0])
            if all(table.is_there for table in tables) and not edits.num_rows:
                return Push(edits, unchanged)
            written = [table.write(plan) for table, (plan, _) in zip(tables, plans, strict=True)]
            for part in sent:
                _Table.find(db, self, part).require_exact()
            db.commit()
            return Push(acknowledged(pa.concat_tables(written), OK), unchanged, notes)

    @contextmanager
    def _transaction(self) -> Iterator[Connection[Any]]:
        """A connection in a transaction that is rolled back unless it is committed."""
        import psycopg

        try:
            db = psycopg.connect(self.url, connect_timeout=_CONNECT_S)
        except psycopg.OperationalError as problem:
            raise TargetUnreachable(f"{self.url}: {_said(problem)} ({self.key}.target)") from None
        except psycopg.Error as problem:
            raise InputError(f"{self.url}: {_said(problem)} ({self.key}.target)") from None
        try:
            # One push at a time: a second one waits here, and then finds what the first has done.
            db.execute(
                "SELECT pg_advisory_xact_lock(hashtext('camtrap-batch'), hashtext(%s))", (self.schema,)
            )
            yield db
        except psycopg.OperationalError as problem:
            raise TargetUnreachable(f"{self.url}: {_said(problem)}; nothing was changed") from None
        except psycopg.Error as problem:
            raise StorageError(f"{self.url}: {_said(problem)}; nothing was changed") from None
        finally:
            db.close()


class _Sent:
    """The rows of a layer with their values in the database's form; finally longitude and latitude."""

    def __init__(self, rows: LayerRows) -> None:
        self.rows = rows
        columns = {name: _plain(rows.columns[name]) for name in rows.columns.column_names}
        x, y = _plain(rows.longitude), _plain(rows.latitude)
        columns[_X], columns[_Y] = pc.if_else(y.is_valid(), x, None), pc.if_else(x.is_valid(), y, None)
        self.values = pa.table(columns)
        self.hashes = row_hashes(self.values)


@dataclass(frozen=True)
class _Table:
    """A table of points that some rows go to.

    Attributes
    ----------
    is_there : whether it exists; otherwise it is created before anything is written
    id_, geometry : names of the columns that number its rows and hold their points
    lacking : columns that it does not have yet
    """

    db: Connection[Any]
    target: PostGISTarget
    where: str
    name: str
    sent: _Sent
    is_there: bool
    id_: str
    geometry: str
    lacking: tuple[str, ...]

    @classmethod
    def find(cls, db: Connection[Any], target: PostGISTarget, sent: _Sent) -> _Table:
        """The table that rows go to. Raises InputError if something else has its name."""
        rows = sent.rows
        where = f"{target.url}, table {target.schema}.{rows.layer}"
        _require_postgis(db, target)
        there = dict(
            db.execute(
                "SELECT column_name, data_type FROM information_schema.columns"
                " WHERE table_schema = %s AND table_name = %s",
                (target.schema, rows.layer),
            ).fetchall()
        )
        if not there:
            lacking = tuple(rows.columns.column_names)
            return cls(db, target, where, rows.layer, sent, False, _ID, _GEOMETRY, lacking)
        found = db.execute(
            "SELECT f_geometry_column, type, srid FROM geometry_columns"
            " WHERE f_table_schema = %s AND f_table_name = %s ORDER BY f_geometry_column",
            (target.schema, rows.layer),
        ).fetchall()
        if len(found) != 1:
            raise InputError(f"{where}: has {len(found)} columns of geometry; it should have one, of points")
        geometry, kind, srid = found[0]
        if kind != "POINT":
            raise InputError(f"{where}: holds {kind}; it should hold POINT")
        if srid != SRS:
            raise InputError(f"{where}: is in SRID {srid}; it should be in {SRS} (WGS 84)")
        lacks: list[str] = []
        for column in sent.values.schema.names[:-2]:
            wanted = _TYPES[_kind(sent.values.schema.field(column).type)]
            type_ = there.get(column)
            if type_ is None and column in (rows.key, JOB, LOCATION):
                raise InputError(
                    f"{where}: has no column {column}; add it as {wanted[0]}, or name another schema"
                )
            if type_ is None:
                lacks.append(column)
            elif type_ not in wanted:
                raise InputError(f"{where}: column {column} is {type_}; it should be {' or '.join(wanted)}")
        if _ID not in there:
            raise InputError(f"{where}: has no column {_ID}; it should be a bigint that numbers the rows")
        return cls(db, target, where, rows.layer, sent, True, _ID, geometry, tuple(lacks))

    def plan(self) -> tuple[pa.Table, int]:
        """base.EDITS, and the number of the job's rows in the table."""
        stored = STORED.empty_table()
        if self.is_there:
            self._require_own()
            stored = self._read()
        edits = plan_edits(self.sent.rows, self.sent.hashes, stored, f"{self.where}")
        return edits, stored.num_rows

    def write(self, edits: pa.Table) -> pa.Table:
        """Do the edits; returns them with the numbers of the added rows."""
        from psycopg.sql import SQL, Identifier

        if not self.is_there:
            self._make()
        elif edits.num_rows:
            self._add(self.lacking)
        names = [*self.sent.values.column_names[:-2], self.geometry]
        columns = SQL(", ").join(map(Identifier, names))
        deletes, updates, adds = (
            edits.filter(pc.equal(edits["edit"], kind)) for kind in ("delete", "update", "add")
        )
        if deletes.num_rows:
            ids = deletes["object_id"].to_pylist()
            self.db.execute(self._sql("DELETE FROM {table} WHERE {id} = ANY(%s)"), (ids,))
        point = SQL("ST_SetSRID(ST_MakePoint(%s, %s), {})").format(SRS)
        values = SQL(", ").join([SQL("%s")] * (len(names) - 1) + [point])
        with self.db.cursor() as cursor:
            update = self._sql(
                "UPDATE {table} SET ({columns}) = ROW({values}) WHERE {id} = %s",
                columns=columns,
                values=values,
            )
            for some, rows in self._values(updates):
                ids = some["object_id"].to_pylist()
                cursor.executemany(update, [(*row, id_) for row, id_ in zip(rows, ids, strict=True)])
            numbers: list[int] = []
            for some, rows in self._values(adds):
                taken = self._numbers(some.num_rows)
                copy = self._sql("COPY {table} ({id}, {columns}) FROM STDIN", columns=columns)
                with cursor.copy(copy) as copying:
                    for number, (*row, x, y) in zip(taken, rows, strict=True):
                        shape = None if x is None or y is None else f"SRID={SRS};POINT({x!r} {y!r})"
                        copying.write_row((number, *row, shape))
                numbers += taken
        at = edits.column_names.index("object_id")
        ids = [*edits["object_id"].to_pylist()[: edits.num_rows - len(numbers)], *numbers]
        return edits.set_column(at, edits.schema.field(at), [pa.array(ids, pa.int64())])

    def require_exact(self) -> None:
        """Raise StorageError if the table does not hold what was sent."""
        left, _ = self.plan()
        if left.num_rows:
            raise StorageError(
                f"{self.where}: {left.num_rows} rows read back differ from what was sent, such as "
                f"{left['key'][0].as_py()!r}; nothing was changed"
            )

    def _values(self, edits: pa.Table) -> Iterator[tuple[pa.Table, Iterator[tuple[Any, ...]]]]:
        """Edits in batches, each with the rows' values."""
        for start in range(0, edits.num_rows, _BATCH):
            some = edits.slice(start, _BATCH)
            values = self.sent.values.take(some["row"].combine_chunks())
            yield some, zip(*(column.to_pylist() for column in values.columns), strict=True)

    def _numbers(self, n: int) -> list[int]:
        sequence = f'"{self.target.schema}"."{self.name}"'
        rows = self.db.execute(
            "SELECT nextval(pg_get_serial_sequence(%s, %s)) FROM generate_series(1, %s)",
            (sequence, self.id_, n),
        )
        return [number for (number,) in rows]

    def _read(self) -> pa.Table:
        """The job's rows in the table (edits.STORED), by number."""
        from psycopg.sql import SQL, Identifier, Literal

        names = self.sent.values.column_names[:-2]
        columns = [SQL("NULL") if name in self.lacking else Identifier(name) for name in names]
        query = self._sql(
            "SELECT {id}, ST_X({geometry}), ST_Y({geometry}), {columns} FROM {table}"
            " WHERE {job} = {ours} AND {key} IS NOT NULL ORDER BY {id}",
            columns=SQL(", ").join(columns),
            job=Identifier(JOB),
            ours=Literal(self.target.job),
            key=Identifier(self.sent.rows.key),
        )
        parts = [STORED.empty_table()]
        with self.db.cursor(name="held") as cursor:
            cursor.itersize = _BATCH
            cursor.execute(query)
            while batch := cursor.fetchmany(_BATCH):
                ids, x, y, *values = zip(*batch, strict=True)
                schema = self.sent.values.schema
                held = {
                    name: pa.array(column, schema.field(name).type)
                    for name, column in zip(names, values, strict=True)
                }
                held[_X], held[_Y] = pa.array(x, pa.float64()), pa.array(y, pa.float64())
                part = {
                    "key": held[self.sent.rows.key],
                    "row_hash": row_hashes(pa.table(held)),
                    "object_id": pa.array(ids, pa.int64()),
                    "location": held[LOCATION],
                }
                parts.append(pa.table(part, schema=STORED))
        return pa.concat_tables(parts)

    def _require_own(self) -> None:
        from psycopg.sql import Identifier

        key = self.sent.rows.key
        query = self._sql(
            "SELECT {key}, {job} FROM {table} WHERE {job} IS DISTINCT FROM %s AND {key} = ANY(%s) LIMIT 1",
            key=Identifier(key),
            job=Identifier(JOB),
        )
        found = self.db.execute(query, (self.target.job, self.sent.rows.columns[key].to_pylist())).fetchone()
        if found is not None:
            owner = "no job" if found[1] is None else f"job {found[1]!r}"
            raise InputError(
                f"{self.where}: {key} {found[0]!r} belongs to {owner}, not to job {self.target.job!r}; "
                f"name another schema ({self.target.key}.schema)"
            )

    def _make(self) -> None:
        from psycopg.sql import Identifier, Literal

        self.db.execute(
            self._sql(
                "CREATE TABLE {table} ({id} bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,"
                " {geometry} geometry(Point, {srs}))",
                srs=Literal(SRS),
            )
        )
        self._add(self.lacking)
        key = Identifier(self.sent.rows.key)
        self.db.execute(self._sql("ALTER TABLE {table} ADD UNIQUE ({key})", key=key))
        self.db.execute(self._sql("CREATE INDEX ON {table} USING gist ({geometry})"))
        self.db.execute(self._sql("CREATE INDEX ON {table} ({job})", job=Identifier(JOB)))
        about = Literal(self.sent.rows.description)
        self.db.execute(self._sql("COMMENT ON TABLE {table} IS {about}", about=about))

    def _add(self, names: Sequence[str]) -> None:
        """Columns that the table lacks, with what they mean."""
        from psycopg.sql import SQL, Identifier, Literal

        for name in names:
            type_ = SQL(_TYPES[_kind(self.sent.values.schema.field(name).type)][0])
            self.db.execute(
                self._sql("ALTER TABLE {table} ADD COLUMN {name} {type}", name=Identifier(name), type=type_)
            )
            about = meaning_of(self.sent.rows.columns.schema.field(name))
            if about:
                self.db.execute(
                    self._sql(
                        "COMMENT ON COLUMN {table}.{name} IS {about}",
                        name=Identifier(name),
                        about=Literal(about),
                    )
                )

    def _sql(self, text: str, **parts: Any) -> Composed:
        from psycopg.sql import SQL, Identifier

        return SQL(text).format(
            table=Identifier(self.target.schema, self.name),
            id=Identifier(self.id_),
            geometry=Identifier(self.geometry),
            **parts,
        )


def _require_postgis(db: Connection[Any], target: PostGISTarget) -> None:
    found = db.execute(
        "SELECT (SELECT extversion FROM pg_extension WHERE extname = 'postgis'),"
        " EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)",
        (target.schema,),
    ).fetchone()
    version, is_there = found or (None, False)
    if version is None:
        raise InputError(
            f"{target.url}: the database has no PostGIS; its owner adds it: CREATE EXTENSION postgis"
        )
    if not is_there:
        raise InputError(
            f"{target.url}: no schema {target.schema!r} ({target.key}.schema); make it: CREATE SCHEMA"
        )


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_floating(type_):
        return "real"
    if pa.types.is_timestamp(type_):
        return "time" if type_.tz is None else "time with zone"
    return "text"


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values in the database's form: no dictionaries, no NaN, no -0.0, times to the microsecond."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        return pc.add(pc.if_else(pc.is_finite(column), column, None).cast(pa.float64()), 0.0)
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", column.type.tz))
    return column.cast(pa.int64()) if pa.types.is_integer(column.type) else column


def _said(problem: Exception) -> str:
    return " ".join(str(problem).split()) or type(problem).__name__
