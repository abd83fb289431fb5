"""The result of every rule, and how it becomes a table; codes for columns that are only compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.store.schemas import FINDINGS

Rows = npt.NDArray[np.int64]
"""Positions in the manifest."""

NONE = -1
"""Stands for no other image."""


@dataclass(frozen=True)
class Found:
    """The findings of one kind.

    Attributes
    ----------
    rows : (n,) ascending, each at most once
    others : (n,) the image with which each is compared, `NONE` if there is none
    detail : n texts of one line
    """

    kind: str
    rows: Rows
    others: Rows
    detail: pa.Array


def findings_table(found: Sequence[Found], names: pa.Table) -> pa.Table:
    """schemas.FINDINGS, kind after kind; `names` holds image_id, file_name and location of the manifest."""
    parts = []
    for each in found:
        rows = names.take(pa.array(each.rows))
        others = pa.array(each.others, pa.int64(), mask=each.others == NONE)
        parts.append(
            pa.table(
                {
                    "image_id": rows["image_id"],
                    "file_name": rows["file_name"],
                    "location": rows["location"],
                    "kind": pa.repeat(each.kind, len(each.rows)),
                    "other_image_id": names["image_id"].take(others),
                    "detail": each.detail,
                }
            ).cast(FINDINGS)
        )
    return pa.concat_tables(parts)


def group(first: pa.ChunkedArray | Rows, *others: pa.ChunkedArray | Rows) -> Rows:
    """A number for each row, equal for rows that are equal in every column; null equals null.

    For a single column, null is 0. A column may itself consist of such numbers.
    """
    key = _codes(first)
    for column in others:
        codes = _codes(column)
        key = pd.factorize(key * (codes.max(initial=0) + 1) + codes)[0].astype(np.int64)
    return key


def is_null(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = pc.is_null(column).to_numpy()
    return mask


def sentence(*parts: str | pa.Array) -> pa.Array:
    """Texts joined row by row."""
    return pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="unknown")


def moments(times: npt.NDArray[Any]) -> pa.Array:
    """Times as text for people, to the second."""
    return pa.array(times.astype("datetime64[s]"), pa.timestamp("s")).cast(pa.string())


def _codes(column: pa.ChunkedArray | Rows) -> Rows:
    if isinstance(column, np.ndarray):
        return column
    chunks = column.dictionary_encode().chunks  # they share one dictionary
    if not chunks:
        return np.array([], np.int64)
    codes: Rows = np.concatenate([_codes_of_chunk(chunk) for chunk in chunks])
    return codes


def _codes_of_chunk(chunk: pa.DictionaryArray) -> Rows:
    codes: Rows = pc.fill_null(chunk.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False) + 1
    return codes
