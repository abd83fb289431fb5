"""A table as one file, for people and other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from camtrap_batch.store.outpath import replacing


def write_out(table: ds.Dataset | pa.Table, path: Path) -> int:
    """Write a dataset to `path`, batch by batch; its ending says how (see `WRITERS`). Returns the number of
    rows.

    In CSV, lists and structs are JSON text, and binary columns (thumbnails) are left out.
    `path` is as `outpath.check_file` returns it.
    """
    with replacing(path) as staged:
        return WRITERS[path.suffix.lower()](table, staged)


def _write_parquet(table: ds.Dataset | pa.Table, path: Path) -> int:
    rows = 0
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for batch in _batches(table, table.schema.names):
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _write_csv(table: ds.Dataset | pa.Table, path: Path) -> int:
    names = [field.name for field in table.schema if not pa.types.is_binary(field.type)]
    schema = pa.schema([(name, _flat_type(table.schema.field(name).type)) for name in names])
    rows = 0
    with pacsv.CSVWriter(path, schema) as writer:
        for batch in _batches(table, names):
            writer.write_batch(
                pa.record_batch([_flat(batch[name], schema.field(name).type) for name in names], schema)
            )
            rows += batch.num_rows
    return rows


WRITERS: dict[str, Callable[[ds.Dataset | pa.Table, Path], int]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
}


def _flat_type(kind: pa.DataType) -> pa.DataType:
    is_plain = not (pa.types.is_nested(kind) or pa.types.is_dictionary(kind))
    return kind if is_plain else pa.string()


def _flat(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_nested(column.type):
        return column.cast(kind)
    import json

    # Times inside lists, such as outages, have the form that they have in a column.
    texts = (
        None if value is None else json.dumps(value, ensure_ascii=False, default=str)
        for value in column.to_pylist()
    )
    return pa.array(texts, pa.string())


def _batches(table: ds.Dataset | pa.Table, names: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of rows; a table in memory is not scanned as a dataset.

    An Arrow thread that releases NumPy's memory while Python exits would end the command with "terminate
    called without an active exception" and code 134.
    """
    if isinstance(table, pa.Table):
        yield from table.select(names).to_batches()
    else:
        yield from table.to_batches(columns=names)
