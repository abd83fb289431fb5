"""What of a result anyone may see: cameras at blurred places, and neither people nor their vehicles."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageOps

from camtrap_batch.survey.grid import snap
from camtrap_batch.vocabulary import PEOPLE

BLUR_KM = 10.0
"""Of public places where the job does not say (`report.blur_km`)."""


def is_people(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each label is of people, or of their vehicles; false for null."""
    return pc.is_in(pc.utf8_lower(labels.cast(pa.string())), pa.array(PEOPLE)).fill_null(False)


def public_locations(locations: pa.Table, events: pa.Table, blur_km: float) -> pa.Table:
    """Camera locations (schemas.LOCATIONS) on a grid of `blur_km`, their figures without events of people.

    Parameters
    ----------
    events : schemas.EVENTS, all of them
    """
    columns = dict(zip(locations.column_names, locations.columns, strict=True))
    x, y = (columns[name].to_numpy().copy() for name in ("longitude", "latitude"))
    known = ~np.isnan(x) & ~np.isnan(y)
    x[known], y[known] = snap(x[known], y[known], blur_km)
    columns |= {"longitude": pa.array(x, mask=~known), "latitude": pa.array(y, mask=~known)}
    people = events.filter(is_people(events["label"]))
    gone: dict[str, list[int]] = {}
    for location, start in zip(people["location"].to_pylist(), people["start"].to_pylist(), strict=True):
        hours = gone.setdefault(location, [0] * 24)
        if start is not None:
            hours[start.hour] += 1
    groups = set(events.filter(events["rank"].is_valid())["label"].to_pylist())
    rows = [
        _without_people(row, gone.get(row["location"], [0] * 24), groups)
        for row in locations.select(list(_COUNTED)).to_pylist()
    ]
    for name in _COUNTED:
        columns[name] = pa.array([row[name] for row in rows], locations.schema.field(name).type)
    columns["geometry"] = pa.nulls(locations.num_rows, pa.binary())
    return pa.table(columns, schema=locations.schema)


def without_metadata(picture: bytes) -> bytes:
    """An image file as a JPEG with nothing but the picture: cameras write their place into EXIF."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        ImageOps.exif_transpose(image).convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


_COUNTED = (
    "location",
    "n_events",
    "n_uncertain",
    "richness",
    "events_by_label",
    "top_label",
    "camera_days",
    "detections_per_100_days",
    "activity_by_hour",
)


def _without_people(row: dict[str, Any], hours: list[int], groups: set[str]) -> dict[str, Any]:
    entries = row["events_by_label"] or []
    kept = [entry for entry in entries if entry["label"].lower() not in PEOPLE]
    gone = [entry for entry in entries if entry["label"].lower() in PEOPLE]
    if not gone:
        return row
    n_events = row["n_events"] - sum(entry["n"] for entry in gone)
    days, n_species = row["camera_days"], n_events - row["n_uncertain"]
    activity = row["activity_by_hour"]
    return {
        **row,
        "n_events": n_events,
        "richness": row["richness"] - len(gone),
        "events_by_label": kept,
        "top_label": next((entry["label"] for entry in kept if entry["label"] not in groups), None),
        "detections_per_100_days": 100 * n_species / days if days else None,
        "activity_by_hour": activity and [n - less for n, less in zip(activity, hours, strict=True)],
    }
