"""Which sequence and which event an image belongs to, found again from the tables that `merge` made.

The rules that made them, and the thresholds of that day, are not needed: a sequence has a name at a location,
or is all that there is at a location from its start to its end; so is an event, of its label.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.events.codes import (
    NO_TIME,
    UNKNOWN_LOCATION,
    Ints,
    encode,
    microseconds,
    one_chunk,
    short_hash,
)


def sequence_rows(images: pa.Table, sequences: pa.Table) -> Ints:
    """Row of `sequences` (schemas.SEQUENCES) that each usable image is part of; -1 where there is none.

    Parameters
    ----------
    images : image_id, location, seq_id, datetime, as the manifest has them
    """
    location = images["location"].fill_null(UNKNOWN_LOCATION)
    time = microseconds(images["datetime"])
    found = _places(_keys(location, images["seq_id"]), _keys(sequences["location"], sequences["seq_id"]))
    is_nameless = pc.is_null(images["seq_id"]).to_numpy()
    is_alone = is_nameless & ((time == NO_TIME) | pc.equal(location, UNKNOWN_LOCATION).to_numpy())
    alone = pa.array(is_alone)
    where, ids = location.filter(alone), images["image_id"].filter(alone)
    names = pa.array(
        [f"burst-{short_hash(*both)}" for both in zip(where.to_pylist(), ids.to_pylist(), strict=True)],
        pa.string(),
    )
    found[is_alone] = _places(_keys(where, names), _keys(sequences["location"], sequences["seq_id"]))

    is_open = is_nameless & ~is_alone
    is_burst = np.ones(sequences.num_rows, bool)
    is_burst[found[found >= 0]] = False  # those with a name, and those of one image
    burst = sequences.filter(pa.array(is_burst))
    within = _covering(
        _codes(location.filter(pa.array(is_open)), burst["location"]),
        time[is_open],
        *_spans(burst, _codes(burst["location"], burst["location"])),
    )
    found[is_open] = np.where(within < 0, -1, _at(np.flatnonzero(is_burst), within))
    return found


def event_rows(
    location: pa.ChunkedArray, label: pa.Array, datetime: pa.ChunkedArray, events: pa.Table
) -> Ints:
    """Row of `events` (schemas.EVENTS) that each usable image is part of; -1 where there is none.

    Parameters
    ----------
    label : of the image's sequence
    """
    ours = _keys(location.fill_null(UNKNOWN_LOCATION), label)
    theirs = _keys(events["location"], events["label"])
    return _covering(
        _codes(ours, theirs),
        microseconds(datetime),
        *_spans(events, _codes(theirs, theirs)),
    )


def _keys(*parts: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Texts that stand for what several columns say together; null where one is null."""
    columns = [part.cast(pa.large_string()) for part in parts]
    return pc.binary_join_element_wise(*columns, pa.scalar("\x1f", pa.large_string()))


def _places(keys: pa.ChunkedArray | pa.Array, of: pa.ChunkedArray | pa.Array) -> Ints:
    found = pc.index_in(keys, one_chunk(of), skip_nulls=True)
    return np.array(one_chunk(found.fill_null(-1)).to_numpy(zero_copy_only=False), np.int64)


def _codes(keys: pa.ChunkedArray | pa.Array, of: pa.ChunkedArray | pa.Array) -> Ints:
    """Numbers that stand for the distinct values of `of`; -1 for others."""
    return _places(keys, encode(of.cast(pa.string()))[1].cast(keys.type))


def _spans(table: pa.Table, group: Ints) -> tuple[Ints, Ints, Ints]:
    return group, microseconds(table["start"]), microseconds(table["end"])


def _covering(group: Ints, time: Ints, of: Ints, start: Ints, end: Ints) -> Ints:
    """For each moment of a group: the number of the span of that group that it lies in; -1: none.

    Spans of a group do not overlap: the last that began before a moment is the only one to look at.
    """
    n = len(of)
    is_moment = np.repeat([False, True], [n, len(time)])
    order = np.lexsort((is_moment, np.append(start, time), np.append(of, group)))
    latest = np.maximum.accumulate(np.where(order < n, np.arange(len(order)), -1))
    span = np.full(len(time), -1, np.int64)
    moments = order >= n
    begun = latest[moments]
    span[order[moments] - n] = np.where(begun < 0, -1, _at(order, begun))
    fits = (span >= 0) & (group >= 0) & (time != NO_TIME)
    fits &= (_at(of, span) == group) & (time <= _at(end, span))
    return np.where(fits, span, -1)


def _at(values: Ints, rows: Ints) -> Ints:
    return values[rows] if len(values) else np.full(len(rows), -1, np.int64)
