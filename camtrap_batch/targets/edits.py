"""From what a layer holds to what it should hold: the necessary edits, and their outcome."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.targets.base import EDITS, LOCATION, LayerRows, require_unique

STORED = pa.schema(
    [
        ("key", pa.string()),
        ("row_hash", pa.string()),
        ("object_id", pa.int64()),
        ("location", pa.string()),
    ]
)
"""This job's rows on a layer, in the form that `plan_edits` needs."""

_BATCH = 65_536
_FEWEST = 3


def plan_edits(rows: LayerRows, hashes: pa.Array, stored: pa.Table, layer: str) -> pa.Table:
    """The edits that turn what is stored into `rows`.

    Parameters
    ----------
    hashes : hashes of the rows' values as sent, see `row_hashes`
    stored : STORED
        This job's rows on the layer.
    layer : target and layer, for the ledger

    Returns
    -------
    pyarrow.Table
        EDITS: deletes, then updates, then adds, each in the order given. Object ids of adds are null.

    Raises
    ------
    InputError
        The layer holds a key twice.
    """
    require_unique(stored["key"], f"{layer}: {rows.key}")
    keys = rows.columns[rows.key].cast(pa.string())
    found = pc.index_in(keys, stored["key"].combine_chunks()).combine_chunks()
    is_there = found.is_valid().to_numpy(zero_copy_only=False)
    same = pc.equal(stored["row_hash"].combine_chunks().take(found), hashes).fill_null(False)
    is_same = same.to_numpy(zero_copy_only=False)
    update, add = np.flatnonzero(is_there & ~is_same), np.flatnonzero(~is_there)
    sent = pa.array(np.concatenate([update, add]), pa.int64())
    gone = stored.filter(pc.invert(pc.is_in(stored["key"], keys.combine_chunks())))
    n_gone, n_sent = gone.num_rows, len(sent)
    kinds = np.repeat(["delete", "update", "add"], [n_gone, len(update), len(add)])
    object_ids = stored["object_id"].combine_chunks().take(found.take(sent))
    columns = {
        "layer": pa.repeat(layer, n_gone + n_sent),
        "key": _stack(gone["key"], keys.take(sent)),
        "row_hash": _stack(gone["row_hash"], hashes.take(sent)),
        "edit": pa.array(kinds, pa.string()),
        "object_id": _stack(gone["object_id"], object_ids),
        "result": pa.nulls(n_gone + n_sent, pa.string()),
        "time": pa.nulls(n_gone + n_sent, EDITS.field("time").type),
        "location": _stack(gone["location"], rows.columns[LOCATION].cast(pa.string()).take(sent)),
        "row": _stack(pa.nulls(n_gone, pa.int64()), sent),
    }
    return pa.table(columns, schema=EDITS)


def too_many_deleted(rows: LayerRows, edits: pa.Table, n_stored: int, most: float) -> str | None:
    """Why a push that would delete this much of a layer must not begin; None if it may.

    Parameters
    ----------
    edits : EDITS
        Of this layer; the deletes among them count, except those that are replaced (`LayerRows.is_derived`).
    n_stored : rows of this job that the layer holds
    most : largest part of them that may be deleted, 0 to 1; one or two rows never stop a push: of a small
        layer even they are a large part
    """
    is_delete = pc.equal(edits["edit"], "delete")
    n_deleted = edits.filter(is_delete).num_rows
    if rows.is_derived:
        gone = _by_location(edits.filter(is_delete))
        new = _by_location(edits.filter(pc.equal(edits["edit"], "add")))
        n_deleted = sum(max(0, number - new.get(location, 0)) for location, number in gone.items())
    if n_deleted < _FEWEST or n_deleted <= most * n_stored:
        return None
    return (
        f"{rows.layer}: {n_deleted:,} of the {n_stored:,} rows of this job on the layer would be"
        f" deleted, more than limits.deleted ({most:g}) allows; nothing was sent; if they should go, push"
        " with --set limits.deleted=1"
    )


def _by_location(edits: pa.Table) -> dict[str | None, int]:
    counted = edits.group_by("location").aggregate([([], "count_all")])
    return dict(zip(counted["location"].to_pylist(), counted["count_all"].to_pylist(), strict=True))


def acknowledged(edits: pa.Table, result: str) -> pa.Table:
    """The edits with the target's answer, and the present time."""
    n = edits.num_rows
    now = pa.scalar(datetime.now(UTC), EDITS.field("time").type)
    edits = edits.set_column(
        edits.column_names.index("result"), EDITS.field("result"), [pa.repeat(result, n)]
    )
    return edits.set_column(edits.column_names.index("time"), EDITS.field("time"), [pa.repeat(now, n)])


def row_hashes(sent: pa.Table) -> pa.Array:
    """A hash of each row's values, 32 hexadecimal digits.

    Parameters
    ----------
    sent
        Text and numbers exactly as sent to a target: equal values, and only these, have equal hashes.
    """
    hashes: list[str] = []
    for batch in sent.to_batches(_BATCH):
        parts: list[pa.Array] = []
        for column in batch.columns:
            text = column.cast(pa.string())
            # The length in front distinguishes ("a", "bc") from ("ab", "c"), and null from any text.
            parts += [pc.binary_length(text).cast(pa.string()).fill_null("-"), text.fill_null("")]
        lines = pc.binary_join_element_wise(*parts, "\x1f").cast(pa.binary()).to_pylist()
        hashes += [hashlib.blake2b(line, digest_size=16).hexdigest() for line in lines]
    return pa.array(hashes, pa.string())


def _stack(first: pa.Array | pa.ChunkedArray, then: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    chunks = [*first.chunks] if isinstance(first, pa.ChunkedArray) else [first]
    chunks += [*then.chunks] if isinstance(then, pa.ChunkedArray) else [then]
    return pa.chunked_array(chunks)
