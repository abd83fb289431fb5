"""What is different between two results: by hand, and against sums that must hold for any two."""

from __future__ import annotations

import csv
import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrap_batch.diff import Side, compare, render, write_csv
from camtrap_batch.diff.compare import NOT_CLASSIFIED, NOT_THERE, Diff
from camtrap_batch.store.schemas import EVENTS, LOCATIONS
from camtrap_batch.vocabulary import UNCERTAIN

NOON = dt.datetime(2024, 5, 4, 12)
Image = tuple[str, str | None, str | None]


def side(
    name: str, *images: Image, places: dict[str, tuple[str | None, int]] | None = None, **more: Any
) -> Side:
    """Images as (image_id, label, event)."""
    events = {event: label for _, label, event in images if event is not None}
    rows = [
        {
            "event_id": event,
            "location": "A",
            "label": label,
            "start": NOON,
            "end": NOON,
            "n_images": 1,
            "count": 1,
        }
        | {"confidence": 0.5}
        for event, label in events.items()
    ]
    frames = {
        column: pa.array([image[number] for image in images], pa.string())
        for number, column in enumerate(("image_id", "label", "event_id"))
    }
    locations = [
        {"location": place, "top_label": top, "richness": richness, "n_events": len(events)}
        for place, (top, richness) in (places or {}).items()
    ]
    return Side(
        name,
        pa.table(frames),
        pa.Table.from_pylist(rows, EVENTS),
        pa.Table.from_pylist(locations, LOCATIONS),
        **more,
    )


def truth(*rows: tuple[str, str, bool | None]) -> pa.Table:
    names = ("image_id", "label", "is_trained_on")
    return pa.table({name: [row[number] for row in rows] for number, name in enumerate(names)})


def label(diff: Diff, name: str) -> dict[str, int]:
    (row,) = (row for row in diff.labels if row.label == name)
    return row._asdict()


def test_flow_of_labels() -> None:
    before = side("b", ("1", "lion", "x"), ("2", "lion", "x"), ("3", "empty", None), ("4", None, None))
    after = side("a", ("2", "lion", "x"), ("1", "tiger", "y"), ("3", "lion", "z"), ("5", "empty", None))
    diff = compare(before, after)
    assert {row[:2]: row.images for row in diff.flow} == {
        ("lion", "tiger"): 1,
        ("lion", "lion"): 1,
        ("empty", "lion"): 1,
        (NOT_CLASSIFIED, NOT_THERE): 1,
        (NOT_THERE, "empty"): 1,
    }
    assert (diff.n_images, diff.n_changed) == (5, 4)
    assert (label(diff, "lion")["images_before"], label(diff, "lion")["images_after"]) == (2, 2)


def test_events_lost_and_gained() -> None:
    """An event that begins earlier has another id, and is still the same event."""
    before = side("b", ("1", "empty", None), ("2", "lion", "x"), ("3", "lion", "y"), ("4", "tiger", "t"))
    after = side("a", ("1", "lion", "x2"), ("2", "lion", "x2"), ("3", "hare", "h"), ("4", "tiger", "t"))
    diff = compare(before, after)
    assert [(row.change, row.label, row.event_id) for row in diff.events] == [
        ("gained", "hare", "h"),
        ("lost", "lion", "y"),
    ]
    assert (diff.lost, diff.gained) == (1, 1)


def test_events_split_and_joined() -> None:
    one = side("1", ("1", "lion", "x"), ("2", "lion", "x"), ("3", "lion", "x"))
    two = side("2", ("1", "lion", "x"), ("2", "lion", "y"), ("3", "lion", "y"))
    there, back = label(compare(one, two), "lion"), label(compare(two, one), "lion")
    assert (there["lost"], there["gained"], there["split"], there["joined"]) == (0, 0, 1, 0)
    assert (back["lost"], back["gained"], back["split"], back["joined"]) == (0, 0, 0, 1)


def test_cameras_that_changed() -> None:
    before = side("b", places={"A": ("lion", 2), "B": ("lion", 2), "C": (None, 0), "D": ("hare", 1)})
    after = side("a", places={"A": ("lion", 2), "B": ("tiger", 2), "C": ("lion", 1), "E": (None, 0)})
    diff = compare(before, after)
    assert {row.location: row[1:5] for row in diff.cameras} == {
        "B": ("lion", "tiger", 2, 2),
        "C": (None, "lion", 0, 1),
        "D": ("hare", None, 1, None),
        "E": (None, None, None, 0),
    }
    assert diff.n_cameras == 5


def test_accuracy_against_the_annotations() -> None:
    groups = {"lion": frozenset({"panthera"})}
    before = side("b", ("1", "lion", None), ("2", "empty", None), ("3", UNCERTAIN, None), ("4", None, None))
    images: list[Image] = [
        ("1", "panthera", None),
        ("2", "lion", None),
        ("3", "Lion", None),
        ("4", "empty", None),
    ]
    after = side("a", *images, groups=groups, classes=("lion", "empty"))
    known = truth(("1", "lion", True), ("2", "lion", False), ("3", "lion", False), ("4", "zebra", False))
    diff = compare(before, after, known)
    assert [row[1:] for row in diff.accuracy] == [(3, 1, 2, 0, 1, 1, 0), (2, 0, 2, 0, 0, 1, 0)]
    assert [row.of for row in diff.by_class] == ["lion"]
    assert diff.n_unknown == 1
    unsure = truth(("1", "lion", None), ("2", "lion", None))
    assert len(compare(before, after, unsure).accuracy) == 1
    assert compare(before, after).accuracy == []
    no_model = compare(before, side("a", *images), known)
    assert (no_model.accuracy, no_model.n_unknown) == ([], 0), "both sides are labels of people"


IMAGES = st.lists(
    st.tuples(st.sampled_from(["lion", "tiger", "empty", None]), st.integers(0, 2)), min_size=6, max_size=6
)


@settings(deadline=None, max_examples=20)
@given(IMAGES, IMAGES, st.integers(0, 6), st.integers(0, 6))
def test_any_two_results(
    one: list[tuple[str | None, int]], other: list[tuple[str | None, int]], n: int, m: int
) -> None:
    def make(images: list[tuple[str | None, int]]) -> Side:
        animal = ("lion", "tiger")
        return side(
            "s",
            *(
                (str(number), name, f"{name}{event}" if name in animal else None)
                for number, (name, event) in enumerate(images)
            ),
        )

    before, after = make(one[:n]), make(other[:m])
    diff, back = compare(before, after), compare(after, before)
    assert sum(row.images for row in diff.flow) == diff.n_images == max(n, m)
    assert (diff.n_changed, diff.lost, diff.gained) == (back.n_changed, back.gained, back.lost)
    for row in diff.labels:
        counted = [
            sum((name or NOT_CLASSIFIED) == row.label for name, _ in some) for some in (one[:n], other[:m])
        ]
        assert [row.images_before, row.images_after] == counted
        # what is not lost is matched: each kept event has one on the other side
        kept = [row.events_before - row.lost, row.events_after - row.gained]
        assert min(kept) >= 0
        assert (kept[0] == 0) == (kept[1] == 0)
    assert Counter(event.change for event in diff.events) == Counter(
        {"lost": diff.lost, "gained": diff.gained}
    )
    assert (
        compare(before, before).n_changed == compare(after, after).lost == compare(after, after).gained == 0
    )


@pytest.fixture
def diff() -> Diff:
    name = "tiger <script>alert(1)</script>"
    images: list[Image] = [("1", name, "t"), ("2", "lion", "y"), ("3", None, None), ("4", UNCERTAIN, "u")]
    before = side(
        "snapshot 1", ("1", "lion", "x"), ("2", "lion", "x"), ("3", "empty", None), places={"A": ("lion", 1)}
    )
    after = side("snapshot 2", *images, places={"A": (name, 2)}, classes=("lion", name))
    return compare(before, after, truth(("1", name, False), ("2", "lion", True)), "A note.")


def test_page_holds_all_and_asks_for_nothing(diff: Diff) -> None:
    html = render(diff, "job & sons", dt.datetime(2026, 1, 2, tzinfo=dt.UTC))
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")
    for text in ("job &amp; sons", "snapshot 1", "tiger &lt;script&gt;", NOT_CLASSIFIED, "A note.", "<svg"):
        assert text in html
    nothing = compare(side("b"), side("a"))
    assert "No label of an image changed." in render(nothing, "job", dt.datetime(2026, 1, 2, tzinfo=dt.UTC))


def test_csv_holds_all(diff: Diff, tmp_path: Path) -> None:
    write_csv(diff, tmp_path / "diff.csv")
    with (tmp_path / "diff.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    flow = {(row["before"], row["after"]): int(row["n"]) for row in rows if row["part"] == "flow"}
    assert flow == {row[:2]: row.images for row in diff.flow}
    assert Counter(row["part"] for row in rows) == {
        "flow": len(diff.flow),
        "label": 6 * len(diff.labels),
        "camera": 3 * len(diff.cameras),
        "event": len(diff.events),
        "accuracy": 3 * (len(diff.accuracy) + len(diff.by_class)),
    }
    (top,) = (row for row in rows if row["measure"] == "top")
    assert (top["location"], top["before"], top["after"][:5]) == ("A", "lion", "tiger")
