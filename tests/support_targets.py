"""Rows of all three layers that are hard on a target: odd names, no place, no date."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from camtrap_batch.store.schemas import EVENTS, LOCATIONS
from camtrap_batch.targets import PHOTOS, LayerRows, Push, camera_rows, event_rows, photo_rows
from camtrap_batch.vocabulary import STATUSES

START = datetime(2021, 4, 11, 20, 43, 9, 250_000)
NAMES = ['Wärterhäuschen "7"', "O'Brien; DROP TABLE photos;--", "水 🦁", "no place"]
JOB = "kruger"


def locations_table(names: list[str] = NAMES, top: str = "lion") -> pa.Table:
    n = len(names)
    known = [name != "no place" for name in names]
    columns: dict[str, Any] = {field.name: pa.nulls(n, field.type) for field in LOCATIONS}
    columns |= {
        "location": names,
        "longitude": [31.5 + at / 7 if there else None for at, there in enumerate(known)],
        "latitude": [-24.25 - at / 3 if there else None for at, there in enumerate(known)],
        **{name: [3] * n for name in ("n_images", *(f"n_{status}" for status in STATUSES))},
        "first": [START] * n,
        "last": [START + timedelta(days=1)] * (n - 1) + [None],
        "events_by_label": [[{"label": top, "n": 12}, {"label": 'grey "fox"', "n": 3}]] * (n - 1) + [[]],
        "top_label": [top] * (n - 1) + [None],
        "model_id": ["m1"] * n,
        "run_time": [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)] * n,
    }
    return pa.table({name: pa.array(column, LOCATIONS.field(name).type) for name, column in columns.items()})


def events_table(n: int = 6, label: str = "lion") -> pa.Table:
    columns = {
        "event_id": [f"{number:016x}" for number in range(n)],
        "location": [NAMES[number % len(NAMES)] for number in range(n)],
        "label": [label] * n,
        "start": [START + timedelta(hours=number) for number in range(n)],
        "end": [START + timedelta(hours=number, seconds=6) for number in range(n)],
        "n_images": [10] * n,
        "count": [1] * n,
        "confidence": [0.9] * n,
        "best_image_id": ["image 3"] * n,
        "rank": [None] * n,
        "date_only": [None] * n,
    }
    return pa.table({name: pa.array(column, EVENTS.field(name).type) for name, column in columns.items()})


def photos_table(n: int = 9) -> pa.Table:
    columns: dict[str, Any] = {
        "image_id": [f"image {number}" for number in range(n)],
        "file_name": [f"a/é {number}.jpg" for number in range(n)],
        "location": [NAMES[number % len(NAMES)] for number in range(n)],
        "datetime": [None if number == 2 else START + timedelta(seconds=number) for number in range(n)],
        "status": ["corrupt" if number == 2 else "ok" for number in range(n)],
        "label": [None if number == 2 else "lion" for number in range(n)],
        "confidence": [None if number == 2 else 0.7 for number in range(n)],
        "model_id": ["m1"] * n,
        "seq_id": ["s"] * n,
        "event_id": [None] * n,
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in PHOTOS})


def layers_of(
    locations: pa.Table | None = None,
    events: pa.Table | None = None,
    photos: pa.Table | None = None,
    job: str = JOB,
) -> list[LayerRows]:
    locations = locations_table() if locations is None else locations
    return [
        camera_rows(locations, job=job),
        event_rows(events_table() if events is None else events, locations, job=job),
        photo_rows(photos_table() if photos is None else photos, locations, job=job),
    ]


def kinds(push: Push) -> dict[tuple[str, str], int]:
    rows = push.edits.select(["layer", "edit"]).to_pylist()
    return dict(Counter((row["layer"].rpartition("=")[2], row["edit"]) for row in rows))
