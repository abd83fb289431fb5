from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camtrap_batch.catalog.table import Rows, group_labels, make_catalog, row_order

TEXTS = st.sampled_from([None, "", "a", "B", "b", "ä", "10", "9"])
NUMBERS = st.sampled_from([None, 0, 1, 2, -5, 2**31 - 1, -(2**31)])
TIMES = st.sampled_from([None, "2020-01-01 00:00:00", "2020-01-01 00:00:01", "1950-06-01 00:00:00"])


def catalog_of(rows: list[dict[str, Any]]) -> pa.Table:
    columns: dict[str, Any] = {
        name: [row[name] for row in rows] for name in ("location", "seq_id", "frame_num")
    }
    ids = [row["image_id"] for row in rows]
    return make_catalog(
        Rows(image_id=ids, file_name=ids, dates=[row["date"] for row in rows], **columns),
        None,
        source="csv",
        where="a.csv",
        categories=[],
        notes=Counter(),
        utc_offset=None,
    ).table


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "image_id": st.text("abcé", min_size=1, max_size=4),
                "location": TEXTS,
                "seq_id": TEXTS,
                "frame_num": NUMBERS,
                "date": TIMES,
            }
        ),
        unique_by=lambda row: row["image_id"],
        min_size=1,
        max_size=30,
    )
)
def test_rows_are_in_their_order(rows: list[dict[str, Any]]) -> None:
    def last(value: Any) -> Any:
        return (value is None, value.encode() if isinstance(value, str) else value or 0)

    def start(row: dict[str, Any]) -> str | None:
        same = [
            other["date"]
            for other in rows
            if (other["location"], other["seq_id"]) == (row["location"], row["seq_id"])
        ]
        dates = [row["date"]] if row["seq_id"] is None else same
        return min((date for date in dates if date is not None), default=None)

    expected = sorted(
        rows,
        key=lambda row: (
            last(row["location"]),
            last(start(row)),
            last(row["seq_id"]),
            last(row["frame_num"]),
            last(row["date"]),
            row["image_id"].encode(),
        ),
    )
    assert catalog_of(rows)["image_id"].to_pylist() == [row["image_id"] for row in expected]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_labels_of_many_images(share: float) -> None:
    """Categories that an image has twice are added up where they first come, in a large table, too."""
    rng = np.random.default_rng(5)
    n = 5_000
    rows = rng.permutation(n)
    twice = rng.random(n) < share
    rows = np.concatenate([rows, rows[twice]])
    category = rng.integers(0, 3, len(rows))
    counts = [None if value == 0 else int(value) for value in rng.integers(0, 4, len(rows))]
    expected: list[dict[int, int | None]] = [{} for _ in range(n + 1)]
    for row, number, count in zip(rows.tolist(), category.tolist(), counts, strict=True):
        before = expected[row].setdefault(number, None)
        expected[row][number] = before if count is None else count + (before or 0)
    labels = group_labels(rows, category, counts, n + 1, {0: "empty", 1: "lion", 2: "puma"})
    found = [{label["category_id"]: label["count"] for label in image} for image in labels.to_pylist()]
    assert found == expected
    assert [list(image) for image in found] == [list(image) for image in expected]
    assert {(label["category_id"], label["name"]) for image in labels.to_pylist() for label in image} == {
        (0, "empty"),
        (1, "lion"),
        (2, "puma"),
    }


def test_known_offsets_order_rows() -> None:
    """A burst over the end of summer time; what has no sequence, and sequences, by the time that passed."""
    dates = ["2021-10-31 02:59:58+02:00", "2021-10-31 02:00:01+01:00", "2021-10-31 02:00:03+01:00"]

    def ids(seq: list[str | None], dates: list[str], frame: list[int | None]) -> list[str]:
        rows = [
            {"image_id": name, "location": "A", "seq_id": seq_id, "frame_num": number, "date": date}
            for name, seq_id, number, date in zip("abc", seq, frame, dates, strict=True)
        ]
        found: list[str] = catalog_of(rows)["image_id"].to_pylist()
        return found

    assert ids([None] * 3, dates, [None] * 3) == ["a", "b", "c"]
    assert ids(["s"] * 3, dates, [None] * 3) == ["a", "b", "c"]
    assert ids(["z", "y", "y"], dates, [0, 0, 1]) == ["a", "b", "c"]
    # Where an offset is not known, clocks are compared.
    assert ids([None] * 3, [dates[0], dates[1], dates[2][:19]], [None] * 3) == ["b", "c", "a"]


def test_one_offset_for_all_changes_no_order() -> None:
    rng = np.random.default_rng(3)
    table = pa.table(
        {
            "image_id": [f"i{number}" for number in rng.permutation(200)],
            "location": [f"l{number}" for number in rng.integers(0, 3, 200)],
            "seq_id": [f"s{number}" if number else None for number in rng.integers(0, 20, 200)],
            "frame_num": pa.array(rng.integers(0, 3, 200), pa.int32()),
            "datetime": pa.array(rng.integers(0, 10**12, 200), pa.timestamp("us")),
        }
    )
    minutes = pa.array([120] * 200, pa.int32())
    assert (row_order(table) == row_order(table.append_column("utc_offset_minutes", minutes))).all()
