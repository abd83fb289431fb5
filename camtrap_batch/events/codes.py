"""Locations and times as integers, so that grouping a million rows means sorting numbers."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from camtrap_batch.codes import Ints, encode, one_chunk

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

UNKNOWN_LOCATION = "unknown"
"""Location of images whose metadata name none."""

NO_TIME = np.iinfo(np.int64).max
"""Stands for a missing date, so that undated images sort last."""


def encode_locations(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """Like `encode`, with null read as `UNKNOWN_LOCATION`."""
    return encode(column.cast(pa.string()).fill_null(UNKNOWN_LOCATION))


def microseconds(column: pa.ChunkedArray) -> Ints:
    """Timestamps as integers; `NO_TIME` where there is none."""
    values = one_chunk(column).cast(pa.timestamp("us")).cast(pa.int64()).fill_null(NO_TIME)
    return np.asarray(values.to_numpy(zero_copy_only=False))


def elapsed(frames: pa.Table, time: Ints, location: Ints) -> Ints:
    """Times on a line on which an hour is an hour: in UTC if the offsets of a location's clocks are known.

    So a burst across the end of summer time stays one burst. If only some of a location's dates have offsets,
    its clocks' times are compared as they are.

    Parameters
    ----------
    frames : n images; a column `utc_offset_minutes` is not needed
    time : (n,) local time, as returned by `microseconds`
    location : (n,) number of each image's location, from 0; -1 if it has none
    """
    if "utc_offset_minutes" not in frames.column_names:
        return time
    column = one_chunk(frames["utc_offset_minutes"])
    minutes = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    is_dated = time != NO_TIME
    lacks = is_dated & column.is_null().to_numpy(zero_copy_only=False)
    n_lacking = np.bincount(location[lacks] + 1, minlength=int(location.max(initial=-1)) + 2)
    is_known = is_dated & (n_lacking[location + 1] == 0)
    return np.where(is_known, time - minutes * 60_000_000, time)


def flags(frames: pa.Table, name: str) -> Bools:
    """A column of booleans that may be missing; null is False."""
    if name not in frames.column_names:
        return np.zeros(frames.num_rows, np.bool_)
    return np.asarray(one_chunk(frames[name]).fill_null(False).to_numpy(zero_copy_only=False), np.bool_)


def timestamps(values: Ints) -> pa.Array:
    """The reverse of `microseconds`."""
    return pa.array(values, pa.int64(), mask=values == NO_TIME).cast(pa.timestamp("us"))


def starts_of_groups(*keys: npt.NDArray[Any]) -> Bools:
    """For sorted keys: which rows differ from the row before in any of them; true for the first row."""
    starts = np.ones(len(keys[0]), np.bool_)
    starts[1:] = False
    for key in keys:
        starts[1:] |= key[1:] != key[:-1]
    return starts


def short_hash(*parts: str) -> str:
    """16 hexadecimal digits that name the parts."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
