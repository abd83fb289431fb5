"""Events of the synthetic data set, one by one, against the truth that comes with it."""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from camtrap_batch.events import combine, find_events, summarise
from camtrap_batch.rehearsal.faults import choose_faults
from camtrap_batch.rehearsal.metadata import name_images, write_truth, write_truth_events
from camtrap_batch.rehearsal.plan import images_per_camera, plan_cameras, plan_frames
from camtrap_batch.vocabulary import USABLE

Row = dict[str, Any]
KEY = ("location", "label", "start", "end", "n_images")


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], list[Row]]:
    """Usable images and events of the demo's data set; nothing is drawn."""
    folder = tmp_path_factory.mktemp("truth")
    cameras, seed = plan_cameras(20, 42), 42
    plan = [plan_frames(at, share, seed) for at, share in enumerate(images_per_camera(20, 2400, seed))]
    images = [image for some in name_images(cameras, plan, choose_faults(plan, seed), seed) for image in some]
    write_truth(folder / "images.csv", images)
    write_truth_events(folder / "events.csv", images)
    rows = [row for row in read(folder / "images.csv") if row["status"] in USABLE]
    events = [
        {**row, "start": when(row["start"]), "end": when(row["end"]), "n_images": int(row["n_images"])}
        for row in read(folder / "events.csv")
    ]
    assert len(rows) > 2000
    assert len(events) > 300
    return rows, events


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def when(text: str) -> datetime:
    return datetime.fromisoformat(text)


def frames_of(rows: list[Row], seq_id: str | None) -> pa.Table:
    """Frames that say what is drawn on them; `seq_id`: the column that names their sequence."""
    return pa.table(
        {
            "image_id": [row["image_id"] for row in rows],
            "location": [row["location"] for row in rows],
            "seq_id": pa.array([row[seq_id] if seq_id else None for row in rows], pa.string()),
            "datetime": pa.array(
                [when(row["datetime"]) if row["dated"] == "1" else None for row in rows], pa.timestamp("us")
            ),
            "label": [row["label"] for row in rows],
            "confidence": pa.array([1.0] * len(rows), pa.float32()),
            "count": pa.array([int(row["count"]) for row in rows], pa.int32()),
        }
    )


def test_every_event_of_the_truth_and_no_other(truth: tuple[list[Row], list[Row]]) -> None:
    """Each image speaks for itself, so that events are those of the animals drawn, to the second."""
    rows, events = truth
    shuffled = random.Random(3).sample(rows, len(rows))
    labelled = combine(frames_of(shuffled, "image_id"), empty="empty", min_confidence=0.5).frames
    found = find_events(labelled, empty="empty", gap_min=30)
    rows_found = found.events.to_pylist()
    key = lambda row: tuple(row[name] for name in KEY)  # noqa: E731
    assert sorted(map(key, rows_found)) == sorted(map(key, events))
    assert found.n_undated == sum(row["dated"] == "0" and row["label"] != "empty" for row in rows)

    # The largest number of animals in one frame, event by event.
    seen = dict(zip(labelled["image_id"].to_pylist(), found.event_id.to_pylist(), strict=True))
    most: dict[str | None, int] = defaultdict(int)
    for row in rows:
        most[seen[row["image_id"]]] = max(most[seen[row["image_id"]]], int(row["count"]))
    assert {row["event_id"]: row["count"] for row in rows_found} == {
        event: n for event, n in most.items() if event is not None
    }
    assert {row["count"] for row in rows_found} == {1, 2}


@pytest.mark.parametrize("seq_id", ["seq_id", None])
def test_sequences_add_their_empty_frames_and_nothing_else(
    truth: tuple[list[Row], list[Row]], seq_id: str | None
) -> None:
    """By the metadata's bursts, and by time alone: the same events, which may end with an empty frame."""
    rows, events = truth
    labelled = combine(frames_of(rows, seq_id), empty="empty", min_confidence=0.5).frames
    found = find_events(labelled, empty="empty", gap_min=30).events.to_pylist()
    key = lambda row: (row["location"], row["label"], row["start"])  # noqa: E731
    assert sorted(map(key, found)) == sorted(map(key, events))
    of_truth = {key(row): row for row in events}
    for row in found:
        expected = of_truth[key(row)]
        assert row["n_images"] >= expected["n_images"]
        assert timedelta(0) <= row["end"] - expected["end"] <= timedelta(seconds=5)


def test_effort_and_activity_of_cameras(truth: tuple[list[Row], list[Row]]) -> None:
    rows, events = truth
    frames = frames_of(rows, "image_id")
    sequences, labelled = combine(frames, empty="empty", min_confidence=0.5)
    found = find_events(labelled, empty="empty", gap_min=30).events
    manifest = frames.append_column("status", pa.array([row["status"] for row in rows]))
    places = summarise(
        manifest,
        sequences,
        found,
        None,
        empty="empty",
        model_id="m",
        predictions_snapshot=1,
        run_time=datetime(2026, 1, 1).astimezone(),
    ).to_pylist()
    assert len(places) == 20
    for place in places:
        here = [event for event in events if event["location"] == place["location"]]
        days = {
            row["datetime"][:10]
            for row in rows
            if row["location"] == place["location"] and row["dated"] == "1"
        }
        assert place["camera_days"] == len(days) > 0
        assert place["detections_per_100_days"] == pytest.approx(100 * len(here) / len(days))
        hours = [event["start"].hour for event in here]
        assert place["activity_by_hour"] == [hours.count(hour) for hour in range(24)]
