"""What a report is made from. Independent of run folders: the stage `report` reads them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from camtrap_batch.report.dates import Dates
from camtrap_batch.report.names import Names


@dataclass(frozen=True)
class Box:
    """A box in a photo: fractions of its width and height from its upper left corner, and its label."""

    x: float
    y: float
    w: float
    h: float
    category: str
    confidence: float
    label: str | None = None


@dataclass(frozen=True)
class Photo:
    """A photo to show.

    Attributes
    ----------
    jpeg : upright, without metadata
    width, height : pixels
    file_name, location, taken : those of its image; camera time, None if it has no date
    boxes : those that count
    """

    jpeg: bytes
    width: int
    height: int
    file_name: str
    location: str | None
    taken: dt.datetime | None = None
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Example:
    """An image to show, with its photo in `ReportData.photos`; without one it is left out.

    Attributes
    ----------
    image_id
        As in the tables.
    label, confidence
        What the model says about it, and a probability; no confidence if people said it.
    truth
        What the annotation says; None if nothing is compared.
    """

    image_id: str
    label: str
    confidence: float | None
    truth: str | None = None


@dataclass(frozen=True)
class Finding:
    """A row of the table `findings` to show; image ids are those of `ReportData.photos`."""

    kind: str
    file_name: str
    location: str | None
    detail: str
    image_id: str | None = None
    other_image_id: str | None = None


@dataclass(frozen=True)
class Detected:
    """What a detector found.

    Attributes
    ----------
    name, detector_id : its name, for people and for programs
    threshold : a box with less confidence does not count
    n_images, n_failed : number of images that it examined, and of those about which nothing is known
    n_with : images with a box that counts, by category
    n_boxes : boxes that count, by category
    description : what its file says of itself
    n_without : images that it looked at without a box that counts; None: not known
    """

    name: str
    detector_id: str
    threshold: float
    n_images: int
    n_failed: int
    n_with: dict[str, int]
    n_boxes: dict[str, int]
    description: str = ""
    n_without: int | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows; what has a default may be left out, along with its part of the page.

    Attributes
    ----------
    created
        With a time zone.
    dataset, notes
        Keys of the job's section `dataset`; oddities in the metadata -> how often they occur.
    n_images, status_counts, status_examples
        Rows of the manifest, by status, and some that are not ok: status, file name, location, detail.
    finding_counts, finding_examples
        Kind -> findings, None if they are not made yet; some of each kind.
    selection_reasons, split_counts
        Reason -> images; label -> split -> images, sequences, locations.
    split_by, split_across
        "location" or "random"; sequences and locations with images in several splits, and their totals.
    model
        A model.json, with `training` of its metrics.json.
    computed_in
        What the model was computed in to classify, such as "bfloat16".
    metrics
        One split of a metrics.json (model.metrics.evaluate, calibration), with `classes`, `split` and
        `split_by`, and with `random_split` of that metrics.json if there is one.
    history, lr_find
        Rows of a history.csv and an lr_find.csv, as numbers.
    batch
        A batch of training images, as an SVG document.
    names
        Common names of species, and their categories in the Red List.
    locations, events, deployments
        schemas.LOCATIONS, with the positions that may be shown, schemas.EVENTS and schemas.DEPLOYMENTS.
    dates
        When the images were taken, without dates that a broken clock made.
    rates, occupancy, activity
        Tables of `survey`: species, and estimates if there are enough stations for them.
    reviewed
        What a reviewed random sample says (see `judged`); None if there is none.
    by_labels
        The same, judged by labels of the metadata that the model was not trained on.
    files
        image_id -> file name, of the best images of the events.
    strips
        event_id -> image ids of its frames in their order, for some events.
    photos
        By image id.
    detector
        None if no boxes are known.
    n_corrected
        Number of images for which people said what they show.
    n_unlabelled
        Usable images without a label, where only people give labels.
    best_photos, worst_mistakes
        The most confident first.
    n_undated, undated
        Usable images without a date; some of them: file name, location, label.
    stages
        Dicts with stage, shards, rows, rows_per_s and failed.
    detections
        What the predictions' snapshot keeps about a detector's boxes: n_repeated_places, repeats, and
        repeated_places with location, images, box, category.
    blur_km
        If above 0, the page gives no camera's position more exactly than a grid of this many km.
    hidden
        Location -> km of the coarser grid on which it is shown: something sensitive was seen there.
    people
        Text on how photos of people were treated; None: they were not.
    job_file
        Name of the job file, for suggested commands.
    tiles
        URL template of map tiles or of a PMTiles archive, or the archive itself; None: outlines of countries.
    single_file
        Whether everything goes into one file.
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
    names: Names = field(default_factory=Names)
    locations: pa.Table | None = None
    events: pa.Table | None = None
    deployments: pa.Table | None = None
    dates: Dates | None = None
    rates: pa.Table | None = None
    occupancy: pa.Table | None = None
    activity: pa.Table | None = None
    reviewed: pa.Table | None = None
    by_labels: pa.Table | None = None
    files: dict[str, str] = field(default_factory=dict)
    strips: dict[str, list[str]] = field(default_factory=dict)
    photos: dict[str, Photo] = field(default_factory=dict)
    detector: Detected | None = None
    n_corrected: int = 0
    n_unlabelled: int = 0
    best_photos: list[Example] = field(default_factory=list)
    worst_mistakes: list[Example] = field(default_factory=list)
    n_undated: int = 0
    undated: list[tuple[str, str, str | None]] = field(default_factory=list)
    detections: dict[str, Any] | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)
    blur_km: float = 0
    hidden: dict[str, float] = field(default_factory=dict)
    people: str | None = None
    job_file: str = "JOB"
    tiles: str | bytes | None = None
    single_file: bool = False
