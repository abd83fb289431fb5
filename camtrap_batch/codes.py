"""Text columns as integers, so that grouping a million rows means sorting numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]


def one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column of a table as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def encode(column: pa.Array | pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """Integers in the order of the texts (-1 for null), and the distinct texts, ascending."""
    coded = one_chunk(column).dictionary_encode()
    order = pc.sort_indices(coded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    indices = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    codes = np.full(len(indices), -1, np.int64) if not len(order) else rank[indices]
    codes[indices < 0] = -1
    return codes, coded.dictionary.take(pa.array(order))


def if_else(condition: pa.Array | pa.ChunkedArray, left: Any, right: Any) -> Any:
    """As Arrow's, with columns or scalars on either side, None for null.

    Arrow 23 takes the texts of a slice from the wrong place where the other side is a null scalar: it gets a
    column of nulls here.
    """
    for side, other in ((left, right), (right, left)):
        is_null = side is None or (isinstance(side, pa.Scalar) and not side.is_valid)
        if is_null and isinstance(other, pa.Array | pa.ChunkedArray):
            nulls = pa.nulls(len(other), other.type)
            return pc.if_else(condition, *((nulls, other) if side is left else (other, nulls)))
    return pc.if_else(condition, left, right)
