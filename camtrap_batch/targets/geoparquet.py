"""GeoParquet files as the target of a push: one per layer; the job names the one for cameras.

`locations.parquet` holds cameras, `locations_events.parquet` and `locations_photos.parquet` beside it the
other layers, as a GeoParquet file holds one table. A file in which nothing differs is only read; otherwise a
new one is written beside it, read back, and takes its place: readers see all of the old content or all of the
new. Columns and rows that are not the job's stay.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from camtrap_batch.errors import InputError, StageError, StorageError
from camtrap_batch.job.publish import PublishFile
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.schemas import GEO
from camtrap_batch.store.tables import find_damage
from camtrap_batch.targets.base import JOB, LAYERS, LOCATION, OK, LayerRows, Push
from camtrap_batch.targets.edits import STORED, acknowledged, plan_edits, row_hashes, too_many_deleted
from camtrap_batch.targets.files import FileTarget
from camtrap_batch.targets.points import decode_wkb, encode_wkb

_GEOMETRY = "geometry"
_X, _Y = "geometry: x", "geometry: y"
_WGS_84 = ("OGC:CRS84", "EPSG:4326")


class PublishGeoParquet(PublishFile):
    """The section `publish` of a job with GeoParquet files."""

    title: ClassVar[str] = "GeoParquet"
    form: ClassVar[str] = "a file name that ends in .parquet"
    ending: ClassVar[str] = ".parquet"


@dataclass(frozen=True)
class GeoParquetTarget(FileTarget):
    """GeoParquet files that a job pushes its layers to; they need no extra package."""

    section: ClassVar[type[PublishFile]] = PublishGeoParquet
    help: ClassVar[str] = "GeoParquet files, one per layer (a relative path: in the run folder)"

    def files(self) -> list[Path]:
        """One for each layer."""
        return [self._file(layer) for layer in LAYERS]

    def require_kind(self) -> None:
        """Raise InputError if what is at the path is not a GeoParquet file of points in WGS 84."""
        _read(self.path)

    def faults(self) -> dict[Path, str]:
        """See `FileTarget.faults`."""
        folder = Folder(str(self.path.parent.absolute()))
        found = {file: find_damage(folder, file.name) for file in self.files() if file.exists()}
        return {file: fault for file, fault in found.items() if fault is not None}

    def push_file(self, layers: Sequence[LayerRows], *, dry_run: bool) -> Push:
        """See `FileTarget.push`."""
        plans = [_Plan.of(rows, self._file(rows.layer), self.job) for rows in layers]
        most = self.wanted.most_deleted
        refused = [
            f"{plan.file}, layer {reason}"
            for plan in plans
            if (reason := too_many_deleted(plan.rows, plan.edits, plan.n_stored, most))
        ]
        if refused and not dry_run:
            raise StageError(refused[0])
        edits = pa.concat_tables([plan.edits for plan in plans])
        for plan in plans if not dry_run else []:
            if plan.edits.num_rows or not plan.file.exists():
                plan.write(self.job)
        return Push(
            edits if dry_run else acknowledged(edits, OK),
            {plan.rows.layer: plan.unchanged for plan in plans},
            [
                *(note for plan in plans for note in plan.notes),
                *(f"a push stops here: {why}" for why in refused),
            ],
        )

    def _file(self, layer: str) -> Path:
        return self.path if layer == LAYERS[0] else self.path.with_stem(f"{self.path.stem}_{layer}")


@dataclass(frozen=True)
class _Plan:
    """A file, what it holds, and the edits that make it what it should be.

    Attributes
    ----------
    held : the whole file, None if there is none
    sent : the rows in the file's form, without geometry
    """

    rows: LayerRows
    file: Path
    held: pa.Table | None
    sent: pa.Table
    edits: pa.Table
    n_stored: int

    @classmethod
    def of(cls, rows: LayerRows, file: Path, job: str) -> _Plan:
        held = _read(file) if file.exists() else None
        sent = _sent(rows)
        stored = STORED.empty_table()
        if held is not None:
            _require_own(rows, held, job, file)
            mine = held.filter(pc.equal(held[JOB], job))
            stored = pa.table(
                {
                    "key": mine[rows.key].cast(pa.string()),
                    "row_hash": row_hashes(_as_sent(mine, sent, file)),
                    "object_id": pa.nulls(mine.num_rows, pa.int64()),
                    "location": mine[LOCATION].cast(pa.string()),
                },
                schema=STORED,
            )
        edits = plan_edits(rows, row_hashes(sent), stored, f"{file.name}|layername={rows.layer}")
        return cls(rows, file, held, sent, edits, stored.num_rows)

    @property
    def unchanged(self) -> int:
        n_sent: int = self.edits.num_rows - self.edits["row"].null_count
        n_rows: int = self.rows.columns.num_rows
        return n_rows - n_sent

    @property
    def notes(self) -> list[str]:
        if self.held is None or not self.edits.num_rows:
            return []
        new = [name for name in self.rows.columns.column_names if name not in self.held.column_names]
        return [f"{self.rows.layer}: new fields: {', '.join(new)}"] if new else []

    def write(self, job: str) -> None:
        """Replace the old file by a new one, once that has been read back and is as it should be."""
        staged = self.file.with_name(f".{self.file.stem}-{uuid.uuid4().hex[:8]}.parquet")
        try:
            pq.write_table(self._content(job), staged, compression="zstd")
            left = _Plan.of(self.rows, staged, job).edits
            if left.num_rows:
                raise StorageError(
                    f"{self.file}: {left.num_rows} rows read back differ from what was sent, such as "
                    f"{left['key'][0].as_py()!r}; nothing was changed"
                )
            with staged.open("rb+") as file:
                os.fsync(file.fileno())
            staged.replace(self.file)
        except OSError as problem:
            raise StorageError(f"{self.file}: {problem.strerror or problem}; nothing was changed") from None
        finally:
            staged.unlink(missing_ok=True)

    def _content(self, job: str) -> pa.Table:
        """The rows that are not the job's own, followed by the job's rows as they should be."""
        columns = dict(zip(self.sent.column_names[:-2], self.sent.columns[:-2], strict=True))
        columns[_GEOMETRY] = pa.chunked_array([encode_wkb(self.sent[_X], self.sent[_Y])])
        ours = pa.table(columns)
        described = {field.name: field.metadata for field in self.rows.columns.schema}
        held = self.held
        if held is not None:
            at = pc.index_in(
                self.rows.columns[self.rows.key].cast(pa.string()), _keys_of(held, self.rows, job)
            )
            for field in held.schema:
                if field.name not in ours.column_names:  # a column that the user added
                    mine = held.filter(pc.equal(held[JOB], job))
                    ours = ours.append_column(field, mine[field.name].take(at))
            theirs = held.filter(pc.invert(pc.equal(held[JOB], job).fill_null(False)))
            ours = pa.concat_tables([theirs, ours], promote_options="permissive")
        fields = [
            field.with_metadata(described.get(field.name) or field.metadata or {}) for field in ours.schema
        ]
        metadata = {**((held.schema.metadata or {}) if held is not None else {}), b"geo": GEO.encode()}
        if self.rows.description:
            metadata[b"description"] = self.rows.description.encode()
        return ours.cast(pa.schema(fields)).replace_schema_metadata(metadata)


def _keys_of(held: pa.Table, rows: LayerRows, job: str) -> pa.Array:
    return held.filter(pc.equal(held[JOB], job))[rows.key].cast(pa.string()).combine_chunks()


def _sent(rows: LayerRows) -> pa.Table:
    """The attributes, decoded, without NaN, and last longitude and latitude."""
    columns = {name: _plain(rows.columns[name]) for name in rows.columns.column_names}
    x, y = _plain(rows.longitude), _plain(rows.latitude)
    columns[_X], columns[_Y] = pc.if_else(y.is_valid(), x, None), pc.if_else(x.is_valid(), y, None)
    return pa.table(columns)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        return pc.add(pc.if_else(pc.is_finite(column), column, None), pa.scalar(0.0, column.type))  # no -0.0
    return column


def _as_sent(mine: pa.Table, sent: pa.Table, file: Path) -> pa.Table:
    """Rows of the file with the columns and types of `sent`; missing columns are null."""
    columns: dict[str, Any] = {}
    for field in list(sent.schema)[:-2]:
        if field.name not in mine.column_names:
            columns[field.name] = pa.chunked_array([pa.nulls(mine.num_rows, field.type)])
            continue
        try:
            columns[field.name] = mine[field.name].cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise InputError(
                f"{file}: field {field.name} is {mine[field.name].type}; it should be {field.type}"
            ) from None
    columns[_X], columns[_Y] = decode_wkb(mine[_GEOMETRY])
    return pa.table(columns)


def _require_own(rows: LayerRows, held: pa.Table, job: str, file: Path) -> None:
    for name in (rows.key, JOB, LOCATION):
        if name not in held.column_names:
            raise InputError(f"{file}: has no column {name}; publish to another file")
    theirs = held.filter(pc.invert(pc.equal(held[JOB], job).fill_null(False)))
    keys = rows.columns[rows.key].cast(pa.string()).combine_chunks()
    taken = theirs.filter(pc.is_in(theirs[rows.key].cast(pa.string()), keys)).slice(0, 1).to_pylist()
    if taken:
        owner = "no job" if taken[0][JOB] is None else f"job {taken[0][JOB]!r}"
        raise InputError(
            f"{file}: {rows.key} {taken[0][rows.key]!r} belongs to {owner}, not to job {job!r}; publish to "
            "another file"
        )


def _read(file: Path) -> pa.Table:
    """A whole GeoParquet file. Raises InputError if it is something else, or does not hold points in WGS
    84."""
    if not file.is_file():
        raise InputError(f"{file}: is a folder; it should be a GeoParquet file")
    try:
        table = pq.read_table(file)
        geo = json.loads((table.schema.metadata or {})[b"geo"])
        column = geo["columns"][_GEOMETRY]
    except (pa.ArrowInvalid, OSError):
        raise InputError(f"{file}: is not a Parquet file; publish to another file") from None
    except (KeyError, ValueError, TypeError):
        raise InputError(
            f"{file}: is a Parquet file without a column {_GEOMETRY} of GeoParquet; publish to another file"
        ) from None
    crs = (column.get("crs") or {}).get("id") or {}
    system = f"{crs.get('authority')}:{crs.get('code')}"
    if column.get("crs") is not None and system not in _WGS_84:
        raise InputError(f"{file}: is in {system}; it should be in OGC:CRS84 (WGS 84)")
    if column.get("encoding") != "WKB":
        raise InputError(f"{file}: has geometry as {column.get('encoding')}; it should be WKB")
    return table
