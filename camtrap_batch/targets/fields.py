"""What people see of a layer: readable names and meanings of its fields, colours of its symbols."""

from __future__ import annotations

import pyarrow as pa

from camtrap_batch.store.schemas import EVENTS, FRAMES, LOCATIONS, MANIFEST
from camtrap_batch.vocabulary import STATUSES

LABELS = {"cameras": "top_label", "events": "label", "photos": "ClassLabel"}
"""Layer -> the field with the species, by which it is drawn."""

COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167), (120, 120, 120), (148, 103, 189), (140, 86, 75),
)  # fmt: skip
"""Colours of symbols; colour-blind people can distinguish the first seven (Okabe and Ito 2008)."""

_ALIASES = {
    "n_images": "Images",
    **{f"n_{status}": f"Images: {status.replace('_', ' ')}" for status in STATUSES},
    "n_empty": "Images without an animal",
    "n_undated": "Images without a date",
    "n_events": "Events",
    "n_uncertain": "Uncertain events",
    "n_date_findings": "Images with a doubtful date",
    "richness": "Species",
    "events_by_label": "Events by species",
    "corrected_by_label": "Events by species, corrected",
    "top_label": "Species with the most events",
    "detections_per_100_days": "Events per 100 camera days",
    "activity_by_hour": "Events by hour of the day",
    "first": "First image",
    "last": "Last image",
    "run_time": "Time of the run",
    "event_id": "Event",
    "image_id": "Image",
    "best_image_id": "Best image",
    "seq_id": "Sequence",
    "model_id": "Model",
    "file_name": "File",
    "datetime": "Date and time",
    "ClassLabel": "Label",
}

_MEANINGS = {
    "job": "job that the row belongs to: its pushes update and delete no other rows",
    "ClassLabel": "what the model says about this image alone; its event has the label by all the evidence",
    "Confidence": "calibrated probability of the label",
    "events_by_label": "events per species or group, most frequent first",
    "corrected_by_label": "events per species with 95 % intervals, by a random sample that people reviewed",
    "activity_by_hour": "events that start in each hour of the day, camera time, from 0 to 23",
    "model_id": "model that made the predictions",
}


def alias_of(name: str) -> str:
    """A field's name for people.

    >>> alias_of("n_images"), alias_of("camera_days")
    ('Images', 'Camera days')
    """
    return _ALIASES.get(name, name.replace("_", " ").capitalize())


def described(columns: pa.Table) -> pa.Table:
    """The columns with their meaning in their metadata (`description`), as in the tables' schemas."""
    fields = []
    for field in columns.schema:
        meaning = _MEANINGS.get(field.name) or _in_schemas(field.name)
        fields.append(field.with_metadata({"description": meaning} if meaning else None))
    return pa.table(columns.columns, schema=pa.schema(fields))


def meaning_of(field: pa.Field) -> str:
    """What `described` has put there; empty if there is nothing."""
    meaning: bytes = (field.metadata or {}).get(b"description", b"")
    return meaning.decode()


def _in_schemas(name: str) -> str | None:
    for schema in (LOCATIONS, EVENTS, FRAMES, MANIFEST):
        if name in schema.names:
            meaning: str = schema.field(name).metadata[b"description"].decode()
            return meaning
    return None
