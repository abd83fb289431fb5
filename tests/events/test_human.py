"""What people say counts before what the machine says."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from camtrap_batch.events import combine, find_events
from camtrap_batch.events.human import overrule

START = datetime(2026, 1, 1, 12)
SAID = pa.schema(
    [("row", pa.int64()), ("label", pa.string()), ("count", pa.int32())]
    + [(name, pa.string()) for name in ("sex", "life_stage", "behaviour", "individual")]
)


def frames(*sequences: tuple[str, int, str]) -> pa.Table:
    """Sequences at location A, an hour apart: name, images, and what the machine is 90 % sure of."""
    rows = [
        {
            "image_id": f"{name}-{number}",
            "location": "A",
            "seq_id": name,
            "datetime": START + timedelta(hours=at, seconds=number),
            "label": label,
            "confidence": 0.9,
            "top5": [{"label": label, "p": 0.9}],
        }
        for at, (name, n, label) in enumerate(sequences)
        for number in range(n)
    ]
    return pa.Table.from_pylist(rows)


def said(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in SAID.names} for row in rows], SAID)


def merged(
    images: pa.Table, told: pa.Table
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Sequences, frames and events."""
    found = combine(images, empty="empty", min_confidence=0.5)
    found, shown = overrule(found, told, empty="empty")
    events = find_events(shown, empty="empty", gap_min=30)
    n = images.num_rows
    of_image = found.frames.append_column("event_id", events.event_id.slice(0, n))
    return found.sequences.to_pylist(), of_image.to_pylist(), events.events.to_pylist()


def short(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def test_a_person_is_right() -> None:
    told = said(*({"row": row, "label": "leopard", "count": 2, "sex": "female"} for row in (0, 1)))
    sequences, images, events = merged(frames(("s1", 2, "lion"), ("s2", 1, "lion")), told)
    assert short(sequences, "seq_id", "label", "confidence", "label_source", "sex") == [
        ("s1", "leopard", 1.0, "human", "female"),
        ("s2", "lion", sequences[1]["confidence"], "machine", None),
    ]
    assert short(images, "label", "label_source", "count") == [
        ("leopard", "human", 2), ("leopard", "human", 2), ("lion", "machine", None),
    ]  # fmt: skip
    assert short(events, "label", "count", "label_source", "sex") == [
        ("leopard", 2, "human", "female"), ("lion", 1, "machine", None),
    ]  # fmt: skip


def test_one_frame_speaks_for_its_sequence() -> None:
    sequences, images, _ = merged(frames(("s1", 3, "lion")), said({"row": 1, "label": "leopard", "count": 1}))
    assert short(sequences, "label", "label_source", "n_images") == [("leopard", "human", 3)]
    assert short(images, "label", "count") == [("leopard", None), ("leopard", 1), ("leopard", None)]


def test_an_empty_frame_beside_an_animal_is_just_that() -> None:
    told = said({"row": 0, "label": "empty"}, {"row": 1, "label": "leopard"})
    sequences, _, events = merged(frames(("s1", 2, "lion")), told)
    assert short(sequences, "label") == [("leopard",)]
    assert short(events, "label", "n_images") == [("leopard", 2)]


def test_all_frames_are_empty() -> None:
    told = said({"row": 0, "label": "empty"}, {"row": 1, "label": "empty"})
    sequences, images, events = merged(frames(("s1", 2, "lion")), told)
    assert short(sequences, "label", "label_source") == [("empty", "human")]
    assert events == []
    assert {row["event_id"] for row in images} == {None}


def test_of_frames_that_nobody_looked_at_the_machine_speaks() -> None:
    sequences, _, events = merged(frames(("s1", 3, "lion")), said({"row": 0, "label": "empty"}))
    assert short(sequences, "label", "label_source") == [("lion", "machine")]
    assert short(events, "label") == [("lion",)]


def test_several_species_are_several_observations() -> None:
    told = said(
        *(
            {"row": row, "label": label, "count": n}
            for row in (0, 1)
            for label, n in (("zebra", 5), ("gnu", 3))
        )
    )
    sequences, images, events = merged(frames(("s1", 2, "lion"), ("s2", 2, "empty")), told)
    assert short(sequences, "seq_id", "label") == [("s1", "gnu"), ("s1", "zebra"), ("s2", "empty")]
    assert short(events, "label", "count", "n_images", "label_source") == [
        ("gnu", 3, 2, "human"), ("zebra", 5, 2, "human"),
    ]  # fmt: skip
    assert [row["image_id"] for row in images] == ["s1-0", "s1-1", "s2-0", "s2-1"]
    assert {row["event_id"] for row in images[:2]} == {events[0]["event_id"]}


def test_what_the_machine_could_not_say_a_person_can() -> None:
    images = frames(("s1", 1, "lion"))
    nothing = {name: pa.nulls(1, images.schema.field(name).type) for name in ("label", "confidence", "top5")}
    for name, values in nothing.items():
        images = images.set_column(images.column_names.index(name), name, values)
    sequences, _, events = merged(images, said({"row": 0, "label": "lion"}))
    assert short(sequences, "label", "confidence") == [("lion", 1.0)]
    assert short(events, "label") == [("lion",)]


def test_different_things_said_of_one_event_leave_it_open() -> None:
    told = said({"row": 0, "label": "lion", "sex": "male"}, {"row": 1, "label": "lion", "sex": "female"})
    sequences, images, events = merged(frames(("s1", 2, "lion")), told)
    assert short(sequences, "sex") == [(None,)]
    assert short(images, "sex") == [("male",), ("female",)]
    assert short(events, "sex") == [(None,)]
