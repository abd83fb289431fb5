"""Sequences and events of images, found again from their tables."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrap_batch.events import combine, find_events
from camtrap_batch.exports.belonging import event_rows, sequence_rows
from camtrap_batch.exports.images import take
from camtrap_batch.store.schemas import PREDICTIONS

START = dt.datetime(2021, 4, 11)
images = st.lists(
    st.tuples(
        st.sampled_from(["A", "B", None]),
        st.sampled_from([None, None, "s1", "s2", "burst-s1"]),
        st.one_of(st.none(), st.integers(0, 20_000), st.floats(0, 300)),
        st.sampled_from(["empty", "lion", "oryx", None]),
        st.sampled_from([0.3, 0.8]),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(images, st.sampled_from([1.0, 30.0]))
def test_finds_what_the_rules_made(rows: list[tuple], gap_min: float) -> None:
    where, names, seconds, labels, sure = zip(*rows, strict=True) if rows else ((),) * 5
    tops = [label and [{"label": label, "p": p}] for label, p in zip(labels, sure, strict=True)]
    frames = pa.table(
        {
            "image_id": pa.array([f"i{number}" for number in range(len(rows))], pa.string()),
            "location": pa.array(where, pa.string()),
            "seq_id": pa.array(names, pa.string()),
            "datetime": pa.array(
                [None if s is None else START + dt.timedelta(seconds=s) for s in seconds], pa.timestamp("us")
            ),
            "label": pa.array(labels, pa.string()),
            "confidence": pa.array(
                [label and p for label, p in zip(labels, sure, strict=True)], pa.float32()
            ),
            "top5": pa.array(tops, PREDICTIONS.field("top5").type),
        }
    )
    made = combine(frames, empty="empty", min_confidence=0.5)
    events = find_events(made.frames, empty="empty", gap_min=gap_min)

    sequence = sequence_rows(frames, made.sequences)
    assert (sequence >= 0).all()
    assert take(made.sequences["seq_id"].combine_chunks(), sequence).equals(
        made.frames["seq_id"].combine_chunks()
    )
    where = take(made.sequences["location"].combine_chunks(), sequence)
    assert where.equals(made.frames["location"].combine_chunks())
    label = take(made.sequences["label"].combine_chunks(), sequence)
    event = event_rows(frames["location"], label, frames["datetime"], events.events)
    assert take(events.events["event_id"].combine_chunks(), event).equals(events.event_id)


def test_images_of_no_sequence_belong_to_none() -> None:
    nothing = combine(
        pa.table(
            {
                "image_id": pa.array([], pa.string()),
                "location": pa.array([], pa.string()),
                "seq_id": pa.array([], pa.string()),
                "datetime": pa.array([], pa.timestamp("us")),
                "label": pa.array([], pa.string()),
                "confidence": pa.array([], pa.float32()),
                "top5": pa.array([], PREDICTIONS.field("top5").type),
            }
        ),
        empty="empty",
        min_confidence=0.5,
    )
    image = pa.table(
        {
            "image_id": ["a", "b"],
            "location": ["A", "A"],
            "seq_id": pa.array(["s", None], pa.string()),
            "datetime": pa.array([START, START], pa.timestamp("us")),
        }
    )
    np.testing.assert_array_equal(sequence_rows(image, nothing.sequences), [-1, -1])
