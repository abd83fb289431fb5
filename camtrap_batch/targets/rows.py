"""The rows of the layers cameras, events and photos, from the job's tables.

Times are local camera time without a zone, as shown by the cameras' clocks; only run_time is UTC.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.targets.base import JOB, LOCATION, LayerRows
from camtrap_batch.targets.fields import described

PHOTOS = pa.schema(
    [
        ("image_id", pa.string()),
        ("file_name", pa.string()),
        ("location", pa.string()),
        ("datetime", pa.timestamp("us")),
        ("status", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("model_id", pa.string()),
        ("seq_id", pa.string()),
        ("event_id", pa.string()),
    ]
)
"""What `photo_rows` needs to know about each image: manifest, prediction, and where the image belongs."""

_SAID = ["label_source", "sex", "life_stage", "behaviour", "individual"]
_WHO = ["classified_by", "classified_at"]
_DECIMALS = 6  # decimals of a float32 probability; more would show 0.9 as 0.8999999761581421


def camera_rows(locations: pa.Table, *, job: str) -> LayerRows:
    """Layer `cameras`: a point for each camera location, with everything in schemas.LOCATIONS.

    Lists are text: `events_by_label` is "lion: 12; heron: 3", `corrected_by_label`, where it is known,
    "lion: 12.4 (9 to 17); ...", `activity_by_hour` "0 0 4 ...".
    """
    columns = locations.drop_columns(["longitude", "latitude", "geometry"])
    days = pc.round(columns["camera_days"]).cast(pa.int32())  # as on layers of older versions
    columns = columns.set_column(columns.column_names.index("camera_days"), "camera_days", days)
    if columns["effort_source"].null_count == columns.num_rows:  # a result of an older version, and its layer
        columns = columns.drop_columns(["effort_source"])
    if columns["corrected_by_label"].null_count == columns.num_rows:
        columns = columns.drop_columns(["corrected_by_label"])
    texts = {
        "events_by_label": [
            "; ".join(f"{entry['label']}: {entry['n']}" for entry in entries)
            for entries in locations["events_by_label"].to_pylist()
        ],
        "activity_by_hour": [
            None if hours is None else " ".join(map(str, hours))
            for hours in locations["activity_by_hour"].to_pylist()
        ],
    }
    if "corrected_by_label" in columns.column_names:
        texts["corrected_by_label"] = [
            None if entries is None else "; ".join(map(_with_interval, entries))
            for entries in locations["corrected_by_label"].to_pylist()
        ]
    for name, values in texts.items():
        columns = columns.set_column(columns.column_names.index(name), name, pa.array(values, pa.string()))
    return LayerRows(
        "cameras",
        "location",
        _owned(_rounded(columns, "detections_per_100_days"), job),
        locations["longitude"],
        locations["latitude"],
        "Camera locations: images by status, species, events. first and last are local camera time.",
    )


def _with_interval(entry: dict[str, Any]) -> str:
    return f"{entry['label']}: {entry['n']:.1f} ({entry['low']} to {entry['high']})"


def event_rows(events: pa.Table, locations: pa.Table, *, job: str) -> LayerRows:
    """Layer `events`: schemas.EVENTS, each at the point of its camera (schemas.LOCATIONS).

    `date_only` is present if any event has it, as text: "true".
    """
    longitude, latitude = _points(events[LOCATION], locations)
    # Who labelled what concerns the people of a project, and is not shown on its map.
    events = events.drop_columns([name for name in _WHO if name in events.column_names])
    said = [name for name in _SAID if name in events.column_names]
    if said and not pc.any(pc.equal(events["label_source"], "human")).as_py():
        # If nobody said anything, the layer stays as it was before there were corrections.
        events = events.drop_columns(said)
    if "date_only" in events.column_names:
        is_date = events["date_only"].cast(pa.string())
        column = events.column_names.index("date_only")
        events = events.remove_column(column)
        if is_date.null_count < len(is_date):
            events = events.add_column(column, "date_only", is_date)
    return LayerRows(
        "events",
        "event_id",
        _owned(_rounded(events, "confidence"), job),
        longitude,
        latitude,
        "Independent events of a species at a camera. start and end are local camera time.",
        is_derived=True,
    )


def photo_rows(photos: pa.Table, locations: pa.Table, *, job: str) -> LayerRows:
    """Layer `photos`: each image of `photos` (PHOTOS) at the point of its camera (schemas.LOCATIONS).

    ClassLabel and Confidence are what the model says about this one image; its event has the label by all the
    evidence. If `photos` have the `label_source` human, ClassLabel is what a person says.
    """
    longitude, latitude = _points(photos[LOCATION], locations)
    told = photos.select([name for name in _SAID[:1] if name in photos.column_names])
    columns = _rounded(photos.select(PHOTOS.names).cast(PHOTOS), "confidence")
    for name in told.column_names:
        columns = columns.append_column(name, told[name])
    names = {"label": "ClassLabel", "confidence": "Confidence"}
    return LayerRows(
        "photos",
        "image_id",
        _owned(columns.rename_columns([names.get(name, name) for name in columns.column_names]), job),
        longitude,
        latitude,
        "Images with the model's label for each alone. datetime is local camera time.",
    )


def _owned(columns: pa.Table, job: str) -> pa.Table:
    return described(columns.append_column(JOB, pa.repeat(job, columns.num_rows)))


def _rounded(table: pa.Table, name: str) -> pa.Table:
    values = pc.round(table[name].cast(pa.float64()), _DECIMALS)
    return table.set_column(table.column_names.index(name), name, values)


def _points(location: pa.ChunkedArray, locations: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    row = pc.index_in(location, locations[LOCATION].combine_chunks())
    return locations["longitude"].take(row), locations["latitude"].take(row)
