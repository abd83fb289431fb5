"""What anyone may see: no exact place, no people, whichever figure or file they could be in."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support_targets import NAMES, events_table, locations_table

from camtrap_batch.errors import InputError
from camtrap_batch.store.schemas import EVENTS, LOCATIONS
from camtrap_batch.survey.places import move
from camtrap_batch.targets.base import Photo
from camtrap_batch.targets.public import bare, is_people, without_metadata, without_people


def with_people() -> tuple[pa.Table, pa.Table]:
    """A camera with three events of lions, two of people, one of a vehicle and one of a genus, and others."""
    labels = ["lion", "Human", "lion", "vehicle", "panthera", "person", "lion"]
    events = events_table(len(labels)).to_pylist()
    for row, label in zip(events, labels, strict=True):
        row |= {"location": NAMES[0], "label": label, "rank": "genus" if label == "panthera" else None}
    rows = locations_table().to_pylist()
    counted = [("lion", 3), ("panthera", 1), ("Human", 1), ("person", 1), ("vehicle", 1)]
    hours = [0] * 24
    for row in events:
        hours[row["start"].hour] += 1
    rows[0] |= {
        "events_by_label": [{"label": label, "n": n} for label, n in counted],
        "n_events": 8,
        "n_uncertain": 1,
        "richness": 4,
        "top_label": "lion",
        "camera_days": 10,
        "detections_per_100_days": 70.0,
        "activity_by_hour": hours,
    }
    return pa.Table.from_pylist(rows, LOCATIONS), pa.Table.from_pylist(events, EVENTS)


def test_figures_are_those_without_people() -> None:
    locations, events = with_people()
    public = without_people(locations, events).to_pylist()
    first = public[0]
    assert first["events_by_label"] == [{"label": "lion", "n": 3}, {"label": "panthera", "n": 1}]
    assert (first["n_events"], first["n_uncertain"], first["richness"]) == (5, 1, 1)
    assert first["top_label"] == "lion"
    assert first["detections_per_100_days"] == 40
    assert sum(first["activity_by_hour"]) == 4
    others = [{**row, "geometry": None} for row in locations.to_pylist()[1:]]
    for row, before in zip(public[1:], others, strict=True):
        for name in set(row) - {"longitude", "latitude", "geometry"}:
            assert row[name] == before[name], name


def test_rates_and_hours_count_what_they_counted_before() -> None:
    """One of three events of people was outside the deployments, another has no time of day: neither is taken
    off what it was not in."""
    locations, events = with_people()
    rows = events.to_pylist()
    rows[1]["date_only"] = True
    places = locations.to_pylist()
    places[0]["detections_per_100_days"] = 60.0  # six of seven
    places[0]["activity_by_hour"][rows[1]["start"].hour] -= 1
    rated = np.array([row["label"] != "vehicle" for row in rows])
    events = pa.Table.from_pylist(rows, EVENTS)
    public = without_people(pa.Table.from_pylist(places, LOCATIONS), events, rated).to_pylist()[0]
    assert public["detections_per_100_days"] == 40
    assert (min(public["activity_by_hour"]), sum(public["activity_by_hour"])) == (0, 4)


def test_a_camera_of_people_alone_has_no_species() -> None:
    locations, events = with_people()
    rows = locations.to_pylist()
    rows[0] |= {
        "events_by_label": [{"label": "Human", "n": 1}],
        "n_events": 1,
        "n_uncertain": 0,
        "richness": 1,
        "top_label": "Human",
    }
    first = without_people(pa.Table.from_pylist(rows, LOCATIONS), events).to_pylist()[0]
    assert (first["n_events"], first["richness"], first["top_label"]) == (0, 0, None)
    assert first["events_by_label"] == []


@pytest.mark.parametrize("km", [1, 10, 100])
def test_a_place_says_no_more_than_its_cell(km: float) -> None:
    locations, _ = with_people()
    rows = locations.to_pylist()
    grid = np.full(len(rows), km)
    public, _ = move(locations, grid)
    assert public["geometry"].null_count == public.num_rows
    moved = 0
    for row, shown in zip(rows, public.to_pylist(), strict=True):
        if row["longitude"] is None:
            assert shown["longitude"] is None
            continue
        north = abs(row["latitude"] - shown["latitude"]) * 111.2
        east = abs(row["longitude"] - shown["longitude"]) * 111.2 * math.cos(math.radians(row["latitude"]))
        assert max(north, east) <= km * 0.51
        moved += (row["longitude"], row["latitude"]) != (shown["longitude"], shown["latitude"])
    assert moved == 3
    shifted = [{**row, "longitude": row["longitude"] and row["longitude"] + 1e-7} for row in rows]
    again, _ = move(pa.Table.from_pylist(shifted, LOCATIONS), grid)
    assert again["longitude"].equals(public["longitude"])


def test_labels_of_people_in_any_case() -> None:
    labels = pa.chunked_array([["Human", "lion", None, "PERSON", "vehicle", "Homo sapiens", "humanoid"]])
    assert is_people(labels).to_pylist() == [True, False, False, True, True, True, False]


def photo_with_place(**settings: Any) -> bytes:
    """A JPEG with a place in EXIF, in XMP, in a comment, and in a second picture behind its end."""
    image = Image.fromarray(np.random.default_rng(3).integers(0, 255, (40, 60, 3), np.uint8))
    exif: Any = Image.Exif()
    exif[0x8825] = {1: "S", 2: (24.0, 30.0, 0.0)}  # GPSInfo
    exif[0x0112] = settings.pop("turned", 1)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, xmp=b"<x GPSLatitude='24,30S'/>", comment=b"24.5 S", **settings)
    assert dict(Image.open(io.BytesIO(buffer.getvalue())).getexif().get_ifd(0x8825))
    return buffer.getvalue() + buffer.getvalue()


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"turned": 6}])
def test_a_picture_keeps_no_place(settings: dict[str, Any]) -> None:
    picture = photo_with_place(**settings)
    found = without_metadata(picture)
    assert not any(mark in found for mark in (b"GPS", b"Exif", b"24.5 S"))
    with Image.open(io.BytesIO(found)) as clean, Image.open(io.BytesIO(picture)) as before:
        assert not dict(clean.getexif())
        if settings.get("turned") == 6:
            assert clean.size == (40, 60)
        else:  # not encoded anew
            assert np.array_equal(np.asarray(clean), np.asarray(before))


def test_a_picture_that_ends_early_keeps_no_place() -> None:
    picture = photo_with_place(quality=95)
    cut = picture[: len(picture) // 2 - 500]
    found = without_metadata(cut)
    assert b"GPS" not in found
    assert cut[-400:] in found


def test_what_can_not_be_read_is_not_attached() -> None:
    assert Image.open(io.BytesIO(bare(Photo("a.jpg", 3, photo_with_place)).read()))
    with pytest.raises(
        InputError, match=r"a\.dng: its metadata, which may reveal a position, can't be removed"
    ):
        bare(Photo("a.dng", 3, lambda: b"raw"))
