"""Elapsed time where offsets are known, and dates without a time of day."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa

from camtrap_batch.events import combine, find_events

DAY = dt.datetime(2021, 10, 31)


def frames(*rows: tuple[str, str, int | None, bool], location: str = "A") -> pa.Table:
    """Images of one label: id, time of 31 October 2021, offset in minutes, whether it is a date alone."""
    times = [dt.datetime.combine(DAY, dt.time.fromisoformat(time)) for _, time, _, _ in rows]
    return pa.table(
        {
            "image_id": [row[0] for row in rows],
            "location": [location] * len(rows),
            "seq_id": pa.nulls(len(rows), pa.string()),
            "datetime": pa.array(times, pa.timestamp("us")),
            "label": ["fox"] * len(rows),
            "confidence": pa.array([0.9] * len(rows), pa.float32()),
            "top5": pa.array([[{"label": "fox", "p": 0.9}]] * len(rows)),
            "utc_offset_minutes": pa.array([row[2] for row in rows], pa.int32()),
            "date_only": pa.array([row[3] or None for row in rows], pa.bool_()),
        }
    )


def found(table: pa.Table) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    sequences = combine(table, empty="empty", min_confidence=0.5)
    events = find_events(sequences.frames, empty="empty", gap_min=30)
    return sequences.sequences.to_pylist(), events.events.to_pylist()


def test_a_burst_over_the_end_of_summer_time_is_one() -> None:
    table = frames(("a", "02:59:50", 120, False), ("b", "02:00:10", 60, False), ("c", "02:00:30", 60, False))
    (sequence,), (event,) = found(table)
    assert (sequence["n_images"], event["n_images"]) == (3, 3)
    # Clocks rule for what is shown: the first image by elapsed time, and the last.
    assert event["start"] == DAY.replace(hour=2, minute=59, second=50)
    assert event["end"] == DAY.replace(hour=2, minute=0, second=30)


def test_an_hour_that_passed_is_an_hour() -> None:
    """02:10 in summer time and 02:15 in winter time are 65 minutes apart."""
    table = frames(("a", "02:10:00", 120, False), ("b", "02:15:00", 60, False))
    assert len(found(table)[1]) == 2


def test_clocks_are_compared_where_an_offset_is_not_known() -> None:
    table = frames(("a", "02:10:00", 120, False), ("b", "02:15:00", None, False))
    assert len(found(table)[1]) == 1


def test_images_with_a_date_alone_are_in_no_burst_and_their_event_says_so() -> None:
    table = frames(
        ("a", "00:00:00", None, True), ("b", "00:00:00", None, True), ("c", "12:00:00", None, False)
    )
    sequences, events = found(table)
    assert [sequence["n_images"] for sequence in sequences] == [1, 1, 1]
    assert [(event["n_images"], event["date_only"]) for event in events] == [(2, True), (1, None)]


def test_rows_of_a_location_are_in_the_order_in_which_time_passed() -> None:
    """As for images in the catalog, so for sequences and events; the clock alone would turn them round."""
    rows = [("a", "02:50:00", 120, False), ("b", "02:10:00", 60, False), ("c", "02:55:00", 60, False)]
    table = frames(*rows).set_column(2, "seq_id", pa.array(["s1", "s2", "s3"]))
    sequences = combine(table, empty="empty", min_confidence=0.5)
    assert sequences.sequences["seq_id"].to_pylist() == ["s1", "s2", "s3"]
    events = find_events(sequences.frames, empty="empty", gap_min=15).events
    assert events["start"].to_pylist() == [table["datetime"][row].as_py() for row in range(3)]
