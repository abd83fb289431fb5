"""What a report is made from. Knows nothing of run folders: the stage `report` reads them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Example:
    """A photo to show.

    Attributes
    ----------
    jpeg
        A thumbnail, some 20 kB; it goes into the page as it is.
    image_id, location
        Where it is in the tables.
    label, confidence
        What the model says of it; a probability.
    truth
        What the annotation says; None where nothing is compared.
    """

    jpeg: bytes
    image_id: str
    location: str | None
    label: str
    confidence: float
    truth: str | None


@dataclass(frozen=True)
class Finding:
    """A row of the table `findings` to show.

    Attributes
    ----------
    kind, file_name, location, detail
        As in the table.
    jpeg, other_jpeg
        Thumbnails of the image and of the one it is compared with; None where there is none.
    other_file_name
        None where the image is not compared with another.
    """

    kind: str
    file_name: str
    location: str | None
    detail: str
    jpeg: bytes | None = None
    other_jpeg: bytes | None = None
    other_file_name: str | None = None


@dataclass(frozen=True)
class ReportData:
    """All that a report shows; what has a default may be left out, and its part of the page is.

    Attributes
    ----------
    created
        With a time zone.
    dataset, notes
        Keys of the job's section `dataset`; what was odd in the metadata -> how often.
    n_images, status_counts, status_examples
        Rows of the manifest, by status, and some that are not ok: status, file name, location, detail.
    finding_counts, finding_examples
        Kind -> findings, None where they are not made yet; some of each kind.
    selection_reasons, split_counts
        Reason -> images; label -> split -> images, sequences, locations.
    split_by, split_across
        "location" or "random"; sequences and locations with images in several splits, and how many there are.
    model
        A model.json, with `training` of its metrics.json.
    computed_in
        What the model was computed in to classify, such as "bfloat16".
    metrics
        One split of a metrics.json (model.metrics.evaluate, calibration), with `classes`, `split` and
        `split_by`, and with `random_split` of that metrics.json where it is there.
    history, lr_find
        Rows of a history.csv and an lr_find.csv, as numbers.
    batch
        A batch as the model was trained on, as an SVG document.
    locations, events
        schemas.LOCATIONS and schemas.EVENTS.
    best_photos, worst_mistakes
        The most confident first.
    n_undated, undated
        Usable images without a date; some of them: file name, location, label.
    stages
        Dicts with stage, shards, rows, rows_per_s and failed.
    detections
        What the predictions' snapshot keeps of a detector's boxes: n_repeated_places, repeats, and
        repeated_places with location, images, box, category.
    blur_km
        Above 0, the page holds no place of a camera more exact than a grid of so many km.
    """

    job_name: str
    created: dt.datetime
    run_folder: str
    job_yaml: str
    dataset: dict[str, Any]
    notes: dict[str, int]
    n_images: int
    status_counts: dict[str, int]
    status_examples: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    finding_counts: dict[str, int] | None = None
    finding_examples: list[Finding] = field(default_factory=list)
    selection_reasons: dict[str, int] = field(default_factory=dict)
    split_counts: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    split_by: str = "location"
    split_across: dict[str, list[int]] = field(default_factory=dict)
    model: dict[str, Any] | None = None
    computed_in: str | None = None
    metrics: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    lr_find: list[dict[str, float]] = field(default_factory=list)
    batch: str | None = None
    locations: pa.Table | None = None
    events: pa.Table | None = None
    best_photos: list[Example] = field(default_factory=list)
    worst_mistakes: list[Example] = field(default_factory=list)
    n_undated: int = 0
    undated: list[tuple[str, str, str | None]] = field(default_factory=list)
    detections: dict[str, Any] | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)
    blur_km: float = 0
