"""Locations and times as integers, so that grouping a million rows is a matter of sorting numbers."""

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
"""Location of the images whose metadata names none."""

NO_TIME = np.iinfo(np.int64).max
"""Stands for a missing date, so that undated images sort last."""


def encode_locations(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """As `encode`, with null read as `UNKNOWN_LOCATION`."""
    return encode(column.cast(pa.string()).fill_null(UNKNOWN_LOCATION))


def microseconds(column: pa.ChunkedArray) -> Ints:
    """Timestamps as integers; `NO_TIME` where there is none."""
    values = one_chunk(column).cast(pa.timestamp("us")).cast(pa.int64()).fill_null(NO_TIME)
    return np.asarray(values.to_numpy(zero_copy_only=False))


def timestamps(values: Ints) -> pa.Array:
    """The reverse of `microseconds`."""
    return pa.array(values, pa.int64(), mask=values == NO_TIME).cast(pa.timestamp("us"))


def starts_of_groups(*keys: npt.NDArray[Any]) -> Bools:
    """For sorted keys: where a row differs from the one before it in any of them; true for the first row."""
    starts = np.ones(len(keys[0]), np.bool_)
    starts[1:] = False
    for key in keys:
        starts[1:] |= key[1:] != key[:-1]
    return starts


def short_hash(*parts: str) -> str:
    """16 hexadecimal digits that name the parts."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
