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
        Reason -> images; label, images in train, valid and test, camera locations, for each class.
    model
        A model.json, with `training` of its metrics.json.
    metrics
        One split of a metrics.json (model.metrics.evaluate, calibration), with `classes`, `split` and
        `split_by`.
    history
        Rows of a history.csv, as numbers.
    locations, events
        schemas.LOCATIONS and schemas.EVENTS.
    best_photos, worst_mistakes
        The most confident first.
    n_undated, undated
        Usable images without a date; some of them: file name, location, label.
    stages
        Dicts with stage, shards, rows, rows_per_s and failed.
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
    split_counts: list[tuple[str, int, int, int, int]] = field(default_factory=list)
    model: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    locations: pa.Table | None = None
    events: pa.Table | None = None
    best_photos: list[Example] = field(default_factory=list)
    worst_mistakes: list[Example] = field(default_factory=list)
    n_undated: int = 0
    undated: list[tuple[str, str, str | None]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)
    blur_km: float = 0
