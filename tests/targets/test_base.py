"""Which rows differ, and which edits follow."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrap_batch.errors import InputError
from camtrap_batch.targets import LayerRows, Push
from camtrap_batch.targets.base import EDITS
from camtrap_batch.targets.edits import STORED, acknowledged, plan_edits, row_hashes

TEXTS = st.one_of(st.none(), st.text(max_size=4), st.sampled_from(["", "-", "1", "\x1f", "1\x1f", "-\x1f"]))
FLOATS = st.one_of(st.none(), st.floats(allow_nan=False), st.sampled_from([0.1, 0.1 + 2**-56, 1e16]))


def rows_of(keys: list[str], location: str = "a") -> LayerRows:
    n = len(keys)
    columns = {
        "id": pa.array(keys, pa.string()),
        "location": pa.repeat(location, n),
        "job": pa.repeat("j", n),
    }
    nowhere = pa.chunked_array([pa.nulls(n, pa.float64())])
    return LayerRows("photos", "id", pa.table(columns), nowhere, nowhere)


def stored_of(content: dict[str, str]) -> pa.Table:
    n = len(content)
    columns = [list(content), list(content.values()), [number + 10 for number in range(n)], ["a"] * n]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, STORED, strict=True)], schema=STORED
    )


@settings(deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, FLOATS, st.one_of(st.none(), st.integers(-5, 5))), max_size=8))
def test_equal_rows_and_no_others_have_equal_hashes(rows: list[tuple[Any, ...]]) -> None:
    kinds = (pa.string(), pa.string(), pa.float64(), pa.int64())
    names = "abcd"
    columns = [pa.array([row[at] for row in rows], kind) for at, kind in enumerate(kinds)]
    hashes = row_hashes(pa.table(dict(zip(names, columns, strict=True)))).to_pylist()
    for one, first in zip(rows, hashes, strict=True):
        for other, second in zip(rows, hashes, strict=True):
            same = repr(one) == repr(other)
            assert (first == second) == same


def test_hash_does_not_depend_on_chunks() -> None:
    column = pa.array([str(number) for number in range(10)])
    whole = row_hashes(pa.table({"a": column}))
    assert row_hashes(pa.table({"a": pa.chunked_array([column[:3], column[3:]])})).equals(whole)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("12")),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("12")),
)
def test_edits_turn_what_is_stored_into_the_rows(wanted: dict[str, str], before: dict[str, str]) -> None:
    hashes = pa.array(list(wanted.values()), pa.string())
    edits = plan_edits(rows_of(list(wanted)), hashes, stored_of(before), "photos")
    assert edits.schema == EDITS
    after, ids = dict(before), {key: number + 10 for number, key in enumerate(before)}
    for edit in edits.to_pylist():
        key, kind = edit["key"], edit["edit"]
        assert edit["object_id"] == (None if kind == "add" else ids[key])
        if kind == "delete":
            assert edit["row"] is None
            assert edit["row_hash"] == after.pop(key)
            continue
        assert (kind == "update") == (key in after)
        assert list(wanted)[edit["row"]] == key
        assert after.get(key) != edit["row_hash"]
        after[key] = edit["row_hash"]
    assert after == wanted
    kinds = edits["edit"].to_pylist()
    assert kinds == sorted(kinds, key=["delete", "update", "add"].index)


def test_push_counts_and_answers() -> None:
    edits = plan_edits(
        rows_of(["a", "b"], "x"), pa.array(["1", "2"]), stored_of({"z": "0"}), "f|layername=photos"
    )
    assert Push(edits).counts() == [
        ("f|layername=photos", "add", "x", 2),
        ("f|layername=photos", "delete", "a", 1),
    ]
    answered = acknowledged(edits, "ok")
    assert answered.schema == EDITS
    assert Counter(answered["result"].to_pylist()) == {"ok": 3}
    assert answered["time"].null_count == 0
    assert edits["time"].null_count == 3


def test_keys_identify_rows() -> None:
    with pytest.raises(InputError, match="layer photos: id 'a' occurs more than once"):
        rows_of(["a", "b", "a"])
    nowhere = pa.chunked_array([pa.nulls(1, pa.float64())])
    with pytest.raises(InputError, match="layer photos: id is empty in 1 row;"):
        LayerRows("photos", "id", pa.table({"id": pa.nulls(1, pa.string())}), nowhere, nowhere)
    twice = pa.concat_tables([stored_of({"a": "1"}), stored_of({"a": "2"})])
    with pytest.raises(InputError, match="photos: id 'a' occurs more than once"):
        plan_edits(rows_of(["b"]), pa.array(["1"]), twice, "photos")
