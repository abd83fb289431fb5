"""Sequences, events and locations: by hand, and against a slow reference written from the definitions."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrap_batch.events import UNKNOWN_LOCATION, combine, find_events, summarise
from camtrap_batch.events.sequences import FRAMES, TRAITS
from camtrap_batch.store.schemas import EVENTS, LOCATIONS, PREDICTIONS, SEQUENCES
from camtrap_batch.vocabulary import STATUSES, UNCERTAIN

START = datetime(2021, 4, 11, 20, 0)
RUN = {"model_id": "m1", "predictions_snapshot": 3, "run_time": datetime(2026, 1, 2, tzinfo=UTC)}
Row = dict[str, Any]


def frames_of(rows: list[Row]) -> pa.Table:
    """Rows with image_id, location, seq_id, datetime and probs: label -> probability, or None."""
    tops = [None if row["probs"] is None else ranked(row["probs"]) for row in rows]
    entries = [None if top is None else [{"label": label, "p": p} for label, p in top] for top in tops]
    return pa.table(
        {
            "image_id": pa.array([row["image_id"] for row in rows], pa.string()),
            "location": pa.array([row["location"] for row in rows], pa.string()),
            "seq_id": pa.array([row["seq_id"] for row in rows], pa.string()),
            "datetime": pa.array([row["datetime"] for row in rows], pa.timestamp("us")),
            "label": pa.array([top[0][0] if top else None for top in tops], pa.string()),
            "confidence": pa.array([top[0][1] if top else None for top in tops], pa.float32()),
            "top5": pa.array(entries, PREDICTIONS.field("top5").type),
        }
    )


def ranked(probs: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(probs.items(), key=lambda entry: (-entry[1], entry[0]))


def frame(image_id: str, seconds: float | None, probs: dict[str, float] | None, **other: Any) -> Row:
    taken = None if seconds is None else START + timedelta(seconds=seconds)
    return {"image_id": image_id, "location": "a", "seq_id": None, "datetime": taken, "probs": probs} | other


def label_of(*rows: Row, min_confidence: float = 0.5) -> tuple[str | None, float | None]:
    found = combine(frames_of(list(rows)), empty="empty", min_confidence=min_confidence).sequences
    assert found.num_rows == 1
    return found["label"][0].as_py(), found["confidence"][0].as_py()


def groups_of(*rows: Row) -> list[set[str]]:
    table = frames_of(list(rows))
    labelled = combine(table, empty="empty", min_confidence=0.5).frames
    groups = defaultdict(set)
    for row in labelled.to_pylist():
        groups[row["location"], row["seq_id"]].add(row["image_id"])
    return sorted(groups.values(), key=sorted)


# Which frames belong together


def test_one_seq_id_at_two_locations_is_two_sequences() -> None:
    sure = {"lion": 0.9}
    rows = [
        frame(name, 0, sure, seq_id="s", location=place)
        for name, place in (("1", "a"), ("2", "b"), ("3", "a"))
    ]
    assert groups_of(*rows) == [{"1", "3"}, {"2"}]


def test_burst_ends_after_a_gap_from_the_previous_image() -> None:
    sure = {"lion": 0.9}
    times = {"1": 0, "2": 60, "3": 120, "4": 180.000001, "5": 200}
    assert groups_of(*(frame(name, at, sure) for name, at in times.items())) == [{"1", "2", "3"}, {"4", "5"}]


def test_images_without_any_tie_stand_alone() -> None:
    sure = {"lion": 0.9}
    undated = [frame(name, None, sure) for name in "12"]
    nowhere = [frame(name, 0, sure, location=None) for name in "34"]
    assert groups_of(*undated, *nowhere) == [{"1"}, {"2"}, {"3"}, {"4"}]


def test_a_named_sequence_does_not_join_a_burst() -> None:
    rows = [
        frame("1", 0, {"lion": 0.9}),
        frame("2", 1, {"lion": 0.9}, seq_id="s"),
        frame("3", 2, {"lion": 0.9}),
    ]
    assert groups_of(*rows) == [{"1", "3"}, {"2"}]


# What their evidence says


def test_the_animal_may_walk_out_of_the_frame() -> None:
    found = label_of(
        frame("1", 0, {"lion": 0.75, "empty": 0.25}),
        frame("2", 1, {"empty": 1.0}),
        frame("3", 2, {"empty": 0.875, "lion": 0.125}),
    )
    assert found == ("lion", 0.75)


def test_unsure_animals_do_not_outvote_the_empty_frames() -> None:
    found = label_of(frame("1", 0, {"lion": 0.375, "empty": 0.25}), frame("2", 1, {"empty": 1.0}))
    assert found == ("empty", 0.625)


def test_frames_that_speak_never_say_empty() -> None:
    rows = [frame("1", 0, {"lion": 0.5, "empty": 0.5}), frame("2", 1, {"heron": 0.5, "empty": 0.5})]
    rows[0]["probs"], rows[1]["probs"] = {"lion": 0.5, "empty": 0.4375}, {"heron": 0.5, "empty": 0.4375}
    assert label_of(*rows, min_confidence=0.5) == (UNCERTAIN, 0.25)


def test_contradiction_is_uncertain_and_keeps_its_confidence() -> None:
    found = label_of(frame("1", 0, {"lion": 0.875, "tiger": 0.125}), frame("2", 1, {"tiger": 0.625}))
    assert found == (UNCERTAIN, 0.4375)


def test_threshold_is_met_by_an_equal_float32() -> None:
    rows = [frame(name, at, {"lion": 0.7}) for at, name in enumerate("123")]
    assert label_of(*rows, min_confidence=0.7)[0] == "lion"


def test_image_that_was_not_classified_has_no_say() -> None:
    assert label_of(frame("1", 0, None), frame("2", 1, {"lion": 0.75})) == ("lion", 0.75)
    assert label_of(frame("1", 0, None)) == (None, None)


def test_best_image_and_own_confidence() -> None:
    rows = [
        frame(name, at, {"lion": p}) for at, (name, p) in enumerate([("2", 0.75), ("1", 0.75), ("0", 0.5)])
    ]
    sequences, labelled = combine(frames_of(rows), empty="empty", min_confidence=0.5)
    assert sequences["best_image_id"].to_pylist() == ["1"]
    assert labelled["image_confidence"].to_pylist() == [0.75, 0.75, 0.5]
    assert labelled["confidence"].to_pylist() == [pytest.approx(2 / 3)] * 3


def test_made_name_depends_on_location_and_first_image_alone() -> None:
    def name(*rows: Row) -> str:
        return str(combine(frames_of(list(rows)), empty="empty", min_confidence=0.5).sequences["seq_id"][0])

    alone = name(frame("1", 0, {"lion": 1.0}))
    assert alone == name(frame("1", 0, {"tiger": 0.5}), frame("2", 5, None))
    assert (
        len({alone, name(frame("2", 0, {"lion": 1.0})), name(frame("1", 0, {"lion": 1.0}, location="b"))})
        == 3
    )


# Events


def events_of(
    *rows: Row, gap_min: float = 30, count: list[int | None] | None = None
) -> tuple[list[Row], int]:
    table = frames_of(list(rows))
    if count is not None:
        table = table.append_column("count", pa.array(count, pa.int32()))
    labelled = combine(table, empty="empty", min_confidence=0.5).frames
    found = find_events(labelled, empty="empty", gap_min=gap_min)
    return found.events.to_pylist(), found.n_undated


def test_gap_counts_from_the_previous_image() -> None:
    minutes = [0, 30, 60, 90, 120.01]
    rows = [frame(str(number), at * 60, {"lion": 0.875}) for number, at in enumerate(minutes)]
    events, _ = events_of(*rows)
    assert [(event["start"], event["end"], event["n_images"]) for event in events] == [
        (START, START + timedelta(minutes=90), 4),
        (START + timedelta(minutes=120.01), START + timedelta(minutes=120.01), 1),
    ]


def test_another_species_in_between_does_not_end_an_event() -> None:
    names = ["lion", "tiger", "empty", "lion"]
    rows = [frame(str(number), number * 600, {name: 0.875}) for number, name in enumerate(names)]
    events, _ = events_of(*rows)
    assert [(event["label"], event["n_images"]) for event in events] == [("lion", 2), ("tiger", 1)]


def test_uncertain_is_an_event_and_undated_is_none() -> None:
    rows = [
        frame("1", 0, {"lion": 0.375}),
        frame("2", None, {"lion": 0.875}),
        frame("3", None, {"empty": 0.875}),
        frame("4", None, None),
    ]
    events, n_undated = events_of(*rows)
    assert [(event["label"], event["best_image_id"]) for event in events] == [(UNCERTAIN, "1")]
    assert n_undated == 1


def test_confidence_and_best_image_of_several_sequences() -> None:
    rows = [
        frame("1", 0, {"lion": 0.625}, seq_id="s"),
        frame("2", 1, {"lion": 0.875}, seq_id="s"),
        frame("3", 600, {"lion": 0.8125}),
    ]
    event = events_of(*rows)[0][0]
    assert (event["confidence"], event["best_image_id"], event["count"]) == (0.8125, "2", 1)


def test_count_is_the_most_seen_in_one_frame() -> None:
    rows = [frame(str(number), number, {"lion": 0.875}) for number in range(3)]
    assert events_of(*rows, count=[2, 3, None])[0][0]["count"] == 3
    assert events_of(*rows, count=[0, None, 0])[0][0]["count"] == 1


# All of it against the definitions


def probabilities() -> st.SearchStrategy[dict[str, float] | None]:
    """Sixteenths, so that ties and means that just meet the threshold are common, and exact."""
    known = st.builds(
        lambda labels, parts: {name: part / 16 for name, part in zip(labels, parts, strict=False)},
        st.permutations(["empty", "heron", "lion", "tiger"]),
        st.tuples(*[st.integers(0, 16)] * 3).filter(lambda parts: 0 < sum(parts) <= 16),
    )
    return st.one_of(known, known, known, st.none())


@st.composite
def any_rows(draw: st.DrawFn) -> list[Row]:
    steps = st.integers(0, 12)
    row = st.fixed_dictionaries(
        {
            "location": st.sampled_from(["a", "b", "b", None]),
            "seq_id": st.sampled_from(["s1", "s2", None, None]),
            "datetime": st.one_of(
                steps.map(lambda number: START + timedelta(seconds=number * 30)),
                steps.map(lambda number: START + timedelta(minutes=number * 15)),
                st.none(),
            ),
            "probs": probabilities(),
        }
    )
    rows = draw(st.lists(row, max_size=14))
    ids = draw(st.permutations(range(len(rows))))
    return [{**row, "image_id": f"é{number:02d}"} for row, number in zip(rows, ids, strict=True)]


def reference_sequences(rows: list[Row], min_confidence: float) -> list[Row]:
    """Sequences as dicts with their rows, from the rule's text."""
    where = [
        row | {"location": row["location"] or UNKNOWN_LOCATION, "known": row["location"]} for row in rows
    ]
    where.sort(key=lambda row: (row["datetime"] is None, row["datetime"] or START, row["image_id"]))
    groups: list[list[Row]] = []
    for row in where:
        for group in groups:
            last = group[-1]
            if last["location"] != row["location"] or last["seq_id"] != row["seq_id"]:
                continue
            if row["seq_id"] is not None:
                break
            if row["known"] is None or row["datetime"] is None:
                continue
            if row["datetime"] - last["datetime"] <= timedelta(seconds=60):
                break
        else:
            groups.append(group := [])
        group.append(row)
    return [reference_label(group, min_confidence) for group in groups]


def reference_label(group: list[Row], min_confidence: float) -> Row:
    classified = [row for row in group if row["probs"]]
    tops = [(ranked(row["probs"])[0], row) for row in classified]
    speaking = [row for (label, p), row in tops if label != "empty" and p >= min_confidence]
    names = {name for row in (speaking or classified) for name in row["probs"]} - (
        {"empty"} if speaking else set()
    )
    among = speaking or classified
    means = [
        (-float(np.float32(sum(row["probs"].get(name, 0) for row in among) / len(among))), name)
        for name in names
    ]
    mean, label = min(means, default=(None, None))
    for row in group:
        row["own"] = row["probs"].get(label, 0.0) if row["probs"] else None
    dates = [row["datetime"] for row in group if row["datetime"]]
    return {
        "location": group[0]["location"],
        "label": label if mean is None or -mean >= min_confidence else UNCERTAIN,
        "confidence": None if mean is None else -mean,
        "n_images": len(group),
        "start": min(dates, default=None),
        "end": max(dates, default=None),
        "best_image_id": min(((-row["own"], row["image_id"]) for row in classified), default=(0, None))[1],
        "rank": None,
        "set_aside": None,
        "reason": None
        if mean is None or -mean >= min_confidence
        else f"{label} {-mean:.3f} is below {min_confidence:g}",
        "group": group,
    }


def reference_events(sequences: list[Row], gap: timedelta) -> list[Row]:
    seen = [
        (sequence["location"], sequence["label"], row["datetime"], row["image_id"], row["own"], sequence)
        for sequence in sequences
        for row in sequence["group"]
        if sequence["label"] not in (None, "empty") and row["datetime"]
    ]
    seen.sort(key=lambda image: image[:4])
    events: list[list[Any]] = []
    for image in seen:
        last = events[-1][-1] if events else None
        if last is None or last[:2] != image[:2] or image[2] - last[2] > gap:
            events.append([])
        events[-1].append(image)
    return [
        {
            "location": images[0][0],
            "label": images[0][1],
            "start": images[0][2],
            "end": images[-1][2],
            "n_images": len(images),
            "count": 1,
            "confidence": max(image[5]["confidence"] for image in images),
            "best_image_id": min((-(image[4] if image[4] is not None else -1), image[3]) for image in images)[
                1
            ],
            "rank": None,
            "date_only": None,
            "images": {image[3] for image in images},
        }
        for images in events
    ]


SAID = {"label_source": "machine", **dict.fromkeys((*TRAITS, "machine_label", "machine_confidence"))}
"""Columns of what nobody said anything of."""


def by_content(rows: list[Row], schema: pa.Schema) -> list[Row]:
    """Rows without their names and the reference's notes, in an order of their own."""
    kept = [
        {name: row[name] for name in schema.names if name in row and not name.endswith("_id")}
        | {name: row.get(name, value) for name, value in SAID.items()}
        | {"best": row["best_image_id"]}
        for row in rows
    ]
    return sorted(kept, key=str)


@settings(deadline=None)
@given(any_rows(), st.sampled_from([0.25, 0.5, 0.75]), st.randoms(use_true_random=False))
def test_definitions(rows: list[Row], min_confidence: float, shuffler: random.Random) -> None:
    gap = timedelta(minutes=30)
    sequences, labelled = combine(frames_of(rows), empty="empty", min_confidence=min_confidence)
    found = find_events(labelled, empty="empty", gap_min=30)
    assert (sequences.schema, labelled.schema, found.events.schema) == (SEQUENCES, FRAMES, EVENTS)

    expected = reference_sequences(rows, min_confidence)
    assert by_content(sequences.to_pylist(), SEQUENCES) == by_content(expected, SEQUENCES)
    expected_events = reference_events(expected, gap)
    assert by_content(found.events.to_pylist(), EVENTS) == by_content(expected_events, EVENTS)

    # each image in exactly one sequence, each dated image with something on it in exactly one event
    assert labelled["image_id"].to_pylist() == [row["image_id"] for row in rows]
    own = {row["image_id"]: row["own"] for sequence in expected for row in sequence["group"]}
    assert labelled["image_confidence"].to_pylist() == [own[row["image_id"]] for row in rows]
    members = defaultdict(set)
    for image, event in zip(labelled["image_id"].to_pylist(), found.event_id.to_pylist(), strict=True):
        members[event].add(image)
    members.pop(None, None)
    assert set(members) == set(found.events["event_id"].to_pylist())
    assert sorted(map(sorted, members.values())) == sorted(
        sorted(event["images"]) for event in expected_events
    )
    for name, key in ((sequences, ["location", "seq_id"]), (found.events, ["event_id"])):
        assert len({tuple(row[part] for part in key) for row in name.to_pylist()}) == name.num_rows
    undated = [
        row for row in labelled.to_pylist() if row["datetime"] is None and row["label"] not in (None, "empty")
    ]
    assert found.n_undated == len(undated)

    # images of one event are at most the gap apart, events of one label at one location more than that
    times = {row["image_id"]: row["datetime"] for row in rows}
    for images in members.values():
        taken = sorted(times[image] for image in images)
        assert all(later - earlier <= gap for earlier, later in pairwise(taken))
    spans = sorted(
        (row["location"], row["label"], row["start"], row["end"]) for row in found.events.to_pylist()
    )
    for one, next_ in pairwise(spans):
        assert one[:2] != next_[:2] or next_[2] - one[3] > gap

    shuffled = rows.copy()
    shuffler.shuffle(shuffled)
    again = combine(frames_of(shuffled), empty="empty", min_confidence=min_confidence)
    assert again.sequences.equals(sequences)
    assert again.frames.sort_by("image_id").equals(labelled.sort_by("image_id"))
    assert find_events(again.frames, empty="empty", gap_min=30).events.equals(found.events)

    manifest = frames_of(rows).append_column("status", pa.array(["ok"] * len(rows), pa.string()))
    places = summarise(manifest, sequences, found.events, None, empty="empty", **RUN)
    check_locations(places, manifest, sequences, found.events)


def check_locations(places: pa.Table, manifest: pa.Table, sequences: pa.Table, events: pa.Table) -> None:
    rows = [row | {"location": row["location"] or UNKNOWN_LOCATION} for row in manifest.to_pylist()]
    assert places["location"].to_pylist() == sorted({row["location"] for row in rows})
    for place in places.to_pylist():
        here = [row for row in rows if row["location"] == place["location"]]
        dates = [row["datetime"] for row in here if row["datetime"]]
        seen = Counter(row["label"] for row in events.to_pylist() if row["location"] == place["location"])
        uncertain = seen.pop(UNCERTAIN, 0)
        ordered = sorted(seen.items(), key=lambda entry: (-entry[1], entry[0]))
        blank = [
            row["n_images"]
            for row in sequences.to_pylist()
            if (row["location"], row["label"]) == (place["location"], "empty")
        ]
        assert place["n_images"] == place["n_ok"] == len(here)
        assert place["n_undated"] == len(here) - len(dates)
        assert (place["first"], place["last"]) == (min(dates, default=None), max(dates, default=None))
        assert place["n_empty"] == sum(blank)
        assert (place["n_events"], place["n_uncertain"]) == (sum(seen.values()) + uncertain, uncertain)
        assert place["events_by_label"] == [{"label": label, "n": n} for label, n in ordered]
        assert place["richness"] == len(seen)
        assert place["top_label"] == (ordered[0][0] if ordered else None)


# Locations


def test_locations_without_anything_usable_and_without_a_name() -> None:
    usable = [frame("1", 0, {"lion": 0.875}, location="x"), frame("2", None, {"empty": 0.875}, location="x")]
    sequences, labelled = combine(frames_of(usable), empty="empty", min_confidence=0.5)
    events = find_events(labelled, empty="empty", gap_min=30).events
    manifest = pa.table(
        {
            "location": pa.array(["x", "x", "x", "broken", None]),
            "status": pa.array(["ok", "truncated", "corrupt", "missing", "crashed"]).dictionary_encode(),
            "datetime": pa.array([START, None, START + timedelta(days=9), START, None], pa.timestamp("us")),
        }
    )
    cameras = pa.table({"location": ["elsewhere", "x"], "longitude": [0.0, 31.5], "latitude": [0.0, -24.25]})
    found = summarise(manifest, sequences, events, cameras, empty="empty", **RUN)
    assert found.schema == LOCATIONS
    broken, elsewhere, unknown, x = found.to_pylist()
    assert [row["location"] for row in found.to_pylist()] == ["broken", "elsewhere", UNKNOWN_LOCATION, "x"]
    assert (elsewhere["n_images"], elsewhere["longitude"], elsewhere["camera_days"]) == (0, 0.0, 0)
    assert (elsewhere["detections_per_100_days"], elsewhere["activity_by_hour"]) == (None, [0] * 24)
    assert (x["camera_days"], x["detections_per_100_days"], x["activity_by_hour"][20]) == (1, 100.0, 1)
    assert {f"n_{status}": x[f"n_{status}"] for status in STATUSES if x[f"n_{status}"]} == {
        "n_ok": 1,
        "n_truncated": 1,
        "n_corrupt": 1,
    }
    assert (x["n_images"], x["n_undated"], x["n_empty"], x["n_events"]) == (3, 1, 1, 1)
    assert (x["first"], x["last"]) == (START, START)
    assert (x["longitude"], x["latitude"]) == (31.5, -24.25)
    assert (broken["n_images"], broken["n_missing"], broken["first"], broken["longitude"]) == (
        1,
        1,
        None,
        None,
    )
    assert (broken["events_by_label"], broken["top_label"], broken["richness"]) == ([], None, 0)
    assert (unknown["n_crashed"], unknown["n_undated"]) == (1, 0)
    assert {key: x[key] for key in RUN} == RUN


# Real data


def test_heron_burst_is_one_sequence_and_one_event(real_images: Path) -> None:
    images = json.loads((real_images / "cct.json").read_text())["images"]
    rows = [
        {
            "image_id": image["id"],
            "location": image["location"],
            "seq_id": image["seq_id"],
            "datetime": datetime.fromisoformat(image["datetime"]) if "datetime" in image else None,
            "probs": {"heron": 0.875, "empty": 0.125} if number % 3 else {"empty": 0.75, "heron": 0.25},
        }
        for number, image in enumerate(images)
        if image["seq_id"] == "burst-001"
    ]
    assert len(rows) >= 3
    taken = [row["datetime"] for row in rows]
    for seq_id in ("burst-001", None):  # also without the metadata's word for it
        table = frames_of([row | {"seq_id": seq_id} for row in rows])
        sequences, labelled = combine(table, empty="empty", min_confidence=0.5)
        assert [(row["label"], row["n_images"]) for row in sequences.to_pylist()] == [("heron", len(rows))]
        (event,) = find_events(labelled, empty="empty", gap_min=30).events.to_pylist()
        assert (event["label"], event["n_images"], event["end"] - event["start"]) == (
            "heron",
            len(rows),
            max(taken) - min(taken),
        )
