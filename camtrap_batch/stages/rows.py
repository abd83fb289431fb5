"""Rows of a table on their way to a worker, and a hash of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


def pack(table: pa.Table) -> bytes:
    """A few hundred rows as bytes, to travel with a task."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue())


def unpack(data: bytes) -> pa.Table:
    """The rows in `pack`'s bytes."""
    return pa.ipc.open_stream(data).read_all()


def hash_runs(table: pa.Table, columns: list[str], runs: Iterable[tuple[int, int]]) -> list[str]:
    """For each run of rows (start, stop): a hash of the values of `columns` in it."""
    texts = pc.binary_join_element_wise(
        *(table[name].cast(pa.string()) for name in columns),
        "\x1f",
        null_handling="replace",
        null_replacement="\x1e",
    ).combine_chunks()
    return [
        hashlib.sha256("\x1d".join(texts.slice(start, stop - start).to_pylist()).encode()).hexdigest()[:32]
        for start, stop in runs
    ]
