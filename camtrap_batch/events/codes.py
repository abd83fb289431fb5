"""Locations as integers and columns of flags, so that grouping a million rows means sorting numbers."""

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


def encode_locations(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """Like `encode`, with null read as `UNKNOWN_LOCATION`."""
    return encode(column.cast(pa.string()).fill_null(UNKNOWN_LOCATION))


def flags(frames: pa.Table, name: str) -> Bools:
    """A column of booleans that may be missing; null is False."""
    if name not in frames.column_names:
        return np.zeros(frames.num_rows, np.bool_)
    return np.asarray(one_chunk(frames[name]).fill_null(False).to_numpy(zero_copy_only=False), np.bool_)


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
