"""What every target shares: the rows of a layer, the edits that bring it up to date, their outcome."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import InputError, StageError
from camtrap_batch.store.schemas import LEDGER

JOB = "job"
"""Field of every layer: the job a row belongs to. A push updates and deletes rows of its own job only."""

LOCATION = "location"
"""Field of every layer: the camera location a row belongs to."""

STORED = pa.schema(
    [
        ("key", pa.string()),
        ("row_hash", pa.string()),
        ("object_id", pa.int64()),
        ("location", pa.string()),
    ]
)
"""What a layer holds of this job, as `plan_edits` wants to know it."""

EDITS = pa.schema([*LEDGER, pa.field("location", pa.string()), pa.field("row", pa.int64())])
"""Edits: the ledger's columns, the camera location, and the row's place in LayerRows (null: delete)."""

_BATCH = 65_536


@dataclass(frozen=True)
class LayerRows:
    """All that a job has to say on one layer.

    Attributes
    ----------
    layer : name of the layer
    key : field that identifies a row, text
    columns : attributes, among them the key, `JOB` and `LOCATION`
        Text, integers, floating point numbers and timestamps; without a time zone they are local camera time.
    longitude, latitude : float64, degrees, WGS 84
        Null where the place is not known: a row without geometry.
    description : for people who open the layer
    utc_offset : int32, minutes east of UTC that the row's camera time was in, null where not known

    Raises
    ------
    InputError
        A key is null, or there twice.
    """

    layer: str
    key: str
    columns: pa.Table
    longitude: pa.ChunkedArray
    latitude: pa.ChunkedArray
    description: str = ""
    utc_offset: pa.ChunkedArray | None = None

    def __post_init__(self) -> None:
        require_unique(self.columns[self.key], f"rows for layer {self.layer}: {self.key}")


@dataclass(frozen=True)
class Push:
    """What a push did, or would do.

    Attributes
    ----------
    edits : EDITS
        Deletes, updates and adds, layer by layer. Result and time are null in a dry run.
    unchanged : layer -> rows that were up to date
    notes : for people, what they should know of the layers
    stopped : why the rest was not sent, such as a token that has expired
    """

    edits: pa.Table
    unchanged: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stopped: StageError | None = None

    @property
    def ledger(self) -> pa.Table:
        """The edits as rows of the table ledger."""
        return self.edits.select(LEDGER.names).cast(LEDGER)

    def counts(self) -> list[tuple[str, str, str | None, int]]:
        """(layer, edit, camera location, number of edits), in that order."""
        grouped = self.edits.group_by(["layer", "edit", "location"]).aggregate([([], "count_all")])
        names = ["layer", "edit", "location"]
        rows = grouped.sort_by([(name, "ascending") for name in names]).select([*names, "count_all"])
        return list(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def plan_edits(rows: LayerRows, hashes: pa.Array, stored: pa.Table, layer: str) -> pa.Table:
    """The edits that turn what is stored into `rows`.

    Parameters
    ----------
    hashes : of the rows' values as sent, see `row_hashes`
    stored : STORED
        What the layer holds of this job.
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


def acknowledged(edits: pa.Table, result: str) -> pa.Table:
    """The edits with the target's answer and the time of it, now."""
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
        Text and numbers exactly as a target gets them: equal values, and no others, have equal hashes.
    """
    hashes: list[str] = []
    for batch in sent.to_batches(_BATCH):
        parts: list[pa.Array] = []
        for column in batch.columns:
            text = column.cast(pa.string())
            # The length in front keeps ("a", "bc") apart from ("ab", "c"), and null from any text.
            parts += [pc.binary_length(text).cast(pa.string()).fill_null("-"), text.fill_null("")]
        lines = pc.binary_join_element_wise(*parts, "\x1f").cast(pa.binary()).to_pylist()
        hashes += [hashlib.blake2b(line, digest_size=16).hexdigest() for line in lines]
    return pa.array(hashes, pa.string())


def require_unique(keys: pa.ChunkedArray, what: str) -> None:
    """Raise InputError where a key is null, or there twice."""
    if keys.null_count:
        raise InputError(f"{what} is empty in {keys.null_count} rows; every row needs one")
    if pc.count_distinct(keys).as_py() != len(keys):
        counted = pc.value_counts(keys)
        twice = counted.filter(pc.greater(counted.field("counts"), 1))[0]["values"].as_py()
        raise InputError(f"{what} {twice!r} is there more than once; it should identify a row")


def _stack(first: pa.Array | pa.ChunkedArray, then: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    chunks = [*first.chunks] if isinstance(first, pa.ChunkedArray) else [first]
    chunks += [*then.chunks] if isinstance(then, pa.ChunkedArray) else [then]
    return pa.chunked_array(chunks)
