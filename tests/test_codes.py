"""Columns of text, chosen and coded."""

from __future__ import annotations

import pyarrow as pa
import pytest

from camtrap_batch.codes import if_else

TEXTS = pa.array([f"text {number}" for number in range(40)])
NULL = pa.scalar(None, pa.string())


@pytest.mark.parametrize("null", [None, NULL], ids=["none", "scalar"])
@pytest.mark.parametrize("chunked", [False, True])
def test_texts_of_a_slice_beside_null(null: pa.Scalar | None, chunked: bool) -> None:
    """Which Arrow itself gets wrong, without an error."""
    texts = TEXTS[10:30]
    is_first = pa.array([number % 3 > 0 for number in range(20)])
    if chunked:
        texts = pa.chunked_array([TEXTS[10:17], TEXTS[17:30]])
        is_first = pa.chunked_array([is_first[:12], is_first[12:]])
    there = texts.to_pylist()
    for left, right, expected in (
        (texts, null, [text if n % 3 else None for n, text in enumerate(there)]),
        (null, texts, [None if n % 3 else text for n, text in enumerate(there)]),
    ):
        found = if_else(is_first, left, right)
        found.validate(full=True)
        assert found.to_pylist() == expected


def test_what_has_no_texts_is_as_in_arrow() -> None:
    numbers, condition = pa.array([1, 2, 3]), pa.array([True, False, None])
    assert if_else(condition, numbers, None).to_pylist() == [1, None, None]
    assert if_else(condition, "a", "b").to_pylist() == ["a", "b", None]
    assert if_else(condition, numbers, 7).to_pylist() == [1, 7, None]
