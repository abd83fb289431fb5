"""The part of a result that anyone may see: cameras at blurred positions, without people and their
vehicles."""

from __future__ import annotations

import datetime as dt
import io
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageOps

from camtrap_batch.errors import InputError
from camtrap_batch.events.codes import Bools, flags
from camtrap_batch.images.exif import read_jpeg_exif
from camtrap_batch.targets.base import Photo
from camtrap_batch.vocabulary import PEOPLE

BLUR_KM = 10.0
"""Grid of public positions in km if the job does not say (`report.blur_km`)."""


def is_people(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each label means people, or their vehicles; false for null."""
    return pc.is_in(pc.utf8_lower(labels.cast(pa.string())), pa.array(PEOPLE)).fill_null(False)


def without_people(locations: pa.Table, events: pa.Table, rated: Bools | None = None) -> pa.Table:
    """Camera locations (schemas.LOCATIONS), with figures without events of people, and without geometry.

    Parameters
    ----------
    locations : locations with positions that may be shown (`survey.places.shown_locations`)
    events : schemas.EVENTS, all of them
    rated : which of them count in `detections_per_100_days` (`survey.effort.rated_events`); None: all
    """
    columns = dict(zip(locations.column_names, locations.columns, strict=True))
    counts = np.ones(events.num_rows, np.bool_) if rated is None else rated
    people = pa.table(
        {
            "location": events["location"],
            "start": pc.if_else(pa.array(~flags(events, "date_only")), events["start"], None),
            "is_rated": counts,
        }
    ).filter(is_people(events["label"]))
    gone: dict[str, _Gone] = {}
    for row in people.to_pylist():
        gone.setdefault(row["location"], _Gone()).add(row["start"], row["is_rated"])
    groups = set(events.filter(events["rank"].is_valid())["label"].to_pylist())
    rows = [
        _without_people(row, gone.get(row["location"], _Gone()), groups)
        for row in locations.select(list(_COUNTED)).to_pylist()
    ]
    for name in _COUNTED:
        columns[name] = pa.array([row[name] for row in rows], locations.schema.field(name).type)
    columns["geometry"] = pa.nulls(locations.num_rows, pa.binary())
    return pa.table(columns, schema=locations.schema)


def bare(photo: Photo) -> Photo:
    """A photo reduced to its picture. Raises InputError if it can't be read as one."""

    def read() -> bytes:
        try:
            return without_metadata(photo.read())
        except OSError as problem:
            raise InputError(
                f"{photo.name}: its metadata, which may reveal a position, can't be removed: {problem}; "
                "attach "
                "a JPEG of it (publish.public, publish.sensitive)"
            ) from None

    return Photo(photo.name, len(read()), read)


def without_metadata(picture: bytes) -> bytes:
    """An image file as a JPEG with only the picture: cameras write their position into EXIF.

    The pixels of an upright JPEG stay bit for bit; other pictures are re-encoded.
    """
    if (found := _without_segments(picture)) is not None:
        return found
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    upright.info = {}  # Pillow would write comments and XMP back
    upright.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


_KEPT = frozenset({0xE0, 0xEE})  # JFIF and Adobe, which say what the colours are


def _without_segments(picture: bytes) -> bytes | None:
    """A JPEG file without comments, application segments and what follows its end; None if it is not a JPEG,
    or lies on its side.

    What follows the first scan is examined, too: markers there are stuffed or restarts (T.81, B.1.1.2).
    """
    if picture[:2] != b"\xff\xd8" or read_jpeg_exif(picture).orientation != 1:
        return None
    parts, at = [picture[:2]], 2
    while True:
        start = at
        while picture[at : at + 1] == b"\xff":
            at += 1
        if at == start or at >= len(picture):
            return None
        marker = picture[at]
        at += 1
        if marker == 0xD9:
            return b"".join([*parts, b"\xff\xd9"])
        if at + 2 > len(picture):
            return None
        end = at + int.from_bytes(picture[at : at + 2], "big")
        is_metadata = marker == 0xFE or (0xE0 <= marker <= 0xEF and marker not in _KEPT)
        if not is_metadata:
            parts.append(bytes([0xFF, marker]) + picture[at:end])
        at = end
        if marker == 0xDA:
            scan = _SCAN.match(picture, at)
            assert scan is not None  # noqa: S101 - it also matches nothing
            parts.append(scan[0])
            at = scan.end()
            if at >= len(picture):  # it was cut off, and is complete as far as it goes
                return b"".join([*parts, b"\xff\xd9"])


_SCAN = re.compile(rb"(?:[^\xff]++|\xff[\x00\xd0-\xd7])*+")


_COUNTED = (
    "location",
    "n_events",
    "n_uncertain",
    "richness",
    "events_by_label",
    "corrected_by_label",
    "top_label",
    "camera_days",
    "detections_per_100_days",
    "activity_by_hour",
)


@dataclass
class _Gone:
    """Events of people at a location: how many count in its rate, and how many start in each hour."""

    rated: int = 0
    hours: list[int] = field(default_factory=lambda: [0] * 24)

    def add(self, start: dt.datetime | None, is_rated: bool) -> None:
        self.rated += is_rated
        if start is not None:  # a date without a time of day is no midnight
            self.hours[start.hour] += 1


def _without_people(row: dict[str, Any], people: _Gone, groups: set[str]) -> dict[str, Any]:
    entries = row["events_by_label"] or []
    kept = [entry for entry in entries if entry["label"].lower() not in PEOPLE]
    gone = [entry for entry in entries if entry["label"].lower() in PEOPLE]
    if (corrected := row["corrected_by_label"]) is not None:
        others = [entry for entry in corrected if entry["label"].lower() not in PEOPLE]
        row = {**row, "corrected_by_label": others}
    if not gone:
        return row
    n_events = row["n_events"] - sum(entry["n"] for entry in gone)
    days, rate = row["camera_days"], row["detections_per_100_days"]
    n_rated = 0 if rate is None else round(rate * days / 100) - people.rated
    activity = row["activity_by_hour"]
    return {
        **row,
        "n_events": n_events,
        "richness": row["richness"] - len(gone),
        "events_by_label": kept,
        "top_label": next((entry["label"] for entry in kept if entry["label"] not in groups), None),
        "detections_per_100_days": None if rate is None else 100 * n_rated / days,
        "activity_by_hour": activity and [n - less for n, less in zip(activity, people.hours, strict=True)],
    }
