"""MegaDetector batch results, for Timelapse and MegaDetector's own tools.

Format: lila.science/megadetector-output-format, version 1.6.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from camtrap_batch.exports.base import Out
from camtrap_batch.exports.images import BOX, Block, Images
from camtrap_batch.exports.jsonfile import encode, write_members
from camtrap_batch.exports.written import Written
from camtrap_batch.job import Job
from camtrap_batch.options import Option
from camtrap_batch.remote import redacted
from camtrap_batch.store.outpath import check_file
from camtrap_batch.vocabulary import VIDEO_ENDINGS, Status, ending_of

_CATEGORIES = {"1": "animal", "2": "person", "3": "vehicle"}
_CATEGORY_OF = {name: number for number, name in _CATEGORIES.items()} | {"human": "2"}
_SURE = 1.0
_UNKNOWN_RATE = 1000.0  # frames are numbered by milliseconds
_WHOLE = [0.0, 0.0, 1.0, 1.0]
_NOT_OPENED, _NOT_INFERRED = "image access failure", "inference failure"
"""What MegaDetector itself writes (FAILURE_IMAGE_OPEN and FAILURE_INFER of its run_detector)."""
# A whole frame that is not empty is more likely not to be; of boxes, MegaDetector v5's own defaults.
_THRESHOLDS_WHOLE = {"typical_detection_threshold": 0.5, "conservative_detection_threshold": 0.5}
_THRESHOLDS_BOXES = {"typical_detection_threshold": 0.2, "conservative_detection_threshold": 0.05}


class MdJsonExport:
    name = "md-json"
    help = "MegaDetector's results, for Timelapse and MegaDetector's own tools"
    out = "a file that ends in .json"
    options: tuple[Option, ...] = ()

    def check(self, out: str, job: Job) -> Path:
        return check_file(out, job, (".json",))

    def write(self, images: Images, out: Out, options: Mapping[str, Any]) -> Written:
        return write_md_json(images, out.path)


EXPORT = MdJsonExport()


def write_md_json(images: Images, path: Path) -> Written:
    """Write every image of the catalog; those with neither a label nor boxes looked for have a failure."""
    written = Written(path)
    classes = {label: str(number) for number, label in enumerate(sorted(images.labels()))}
    made = dt.datetime.fromisoformat(images.snapshot.created).strftime("%Y-%m-%d %H:%M:%S")
    info = {
        "format_version": "1.6",
        "detector": _detector(images),
        "detection_completion_time": made,
        "detector_metadata": _THRESHOLDS_BOXES if images.has_boxes else _THRESHOLDS_WHOLE,
        "classifier": images.classifier,
        "classification_completion_time": made,
    }

    def records() -> Iterator[bytes]:
        rates = _frame_rates(images)
        for rows in _by_file(_rows(images, classes, written)):
            record = rows[0].record if rows[0].video_s is None else _video(rows, rates)
            if "failure" in record:
                written.notes["of them with a failure: the image can't be opened, or has no label"] += 1
            yield encode(record)

    with path.open("wb") as file:
        write_members(
            file,
            {
                "info": info,
                "detection_categories": _CATEGORIES,
                "classification_categories": {number: label for label, number in classes.items()},
                "images": records(),
            },
        )
    return written


def _detector(images: Images) -> str:
    settings = images.run.job.detection[0] if images.has_boxes and images.run.job.detection else None
    if settings is None:
        return "camtrap-batch, whole frames"
    detected = images.run.current("detected")
    found = detected.meta.get("found", {}) if detected is not None else {}
    if settings.results is not None and found.get("detector"):
        return str(found["detector"])
    return redacted(str(settings.model or settings.results)).replace("\\", "/").rpartition("/")[2]


class _Row(NamedTuple):
    """What is written about an image; `video_s`: time of a frame of a video."""

    record: dict[str, Any]
    status: str
    video_s: float | None

    @property
    def is_of_video(self) -> bool:
        return self.video_s is not None or self.status == Status.VIDEO


def _rows(images: Images, classes: dict[str, str], written: Written) -> Iterator[_Row]:
    for block in images.blocks(["file_name", "status", "video_s"], boxes=images.has_boxes):
        written.images += block.rows.num_rows
        columns = (block.rows["status"].to_pylist(), block.rows["video_s"].to_pylist())
        for record, status, video_s in zip(_records(images, block, classes), *columns, strict=True):
            yield _Row(record, status, video_s)


def _by_file(rows: Iterator[_Row]) -> Iterator[list[_Row]]:
    """Each image separately; all rows of a video, which are consecutive, together."""
    for _, group in groupby(rows, lambda row: (row.record["file"], row.is_of_video)):
        of_file = list(group)
        if of_file[0].video_s is None:
            yield from ([row] for row in of_file)
        else:
            yield of_file


def _video(rows: list[_Row], rates: dict[str, float]) -> dict[str, Any]:
    """One entry for the frames of a video, which the format numbers."""
    file = rows[0].record["file"]
    rate = rates.get(file) or _UNKNOWN_RATE
    record: dict[str, Any] = {"file": file, "frame_rate": rate, "frames_processed": []}
    found: list[dict[str, Any]] = []
    for row in rows:
        if row.video_s is not None and row.record["detections"] is not None:
            number = round(row.video_s * rate)
            record["frames_processed"].append(number)
            found += [detection | {"frame_number": number} for detection in row.record["detections"]]
    if record["frames_processed"]:
        return record | {"detections": found}
    failures = [row.record["failure"] for row in rows if row.video_s is not None]
    return record | {"detections": None, "failure": next(iter(failures), _NOT_OPENED)}


def _frame_rates(images: Images) -> dict[str, float]:
    if images.run.current("videos") is None:
        return {}
    table = images.run.table("videos").to_table(columns=["file_name", "rate"])
    rates = zip(table["file_name"].to_pylist(), table["rate"].to_pylist(), strict=True)
    return {name: round(rate, 4) for name, rate in rates if rate}


def _records(images: Images, block: Block, classes: dict[str, str]) -> Iterator[dict[str, Any]]:
    columns = (block.rows["file_name"].to_pylist(), block.predicted.tolist(), block.label.to_pylist())
    is_frame = block.rows["video_s"].is_valid().to_pylist()
    for number, (file_name, row, label) in enumerate(zip(*columns, strict=True)):
        record: dict[str, Any] = {"file": file_name}
        # As MegaDetector's tools tell a video.
        is_video = ending_of(file_name) in VIDEO_ENDINGS and not is_frame[number]
        if is_video:
            record |= {"frame_rate": 1.0, "frames_processed": [0] if label is not None else []}
        if label is None and (row < 0 or not images.is_searched[row]):
            yield record | {"detections": None, "failure": _NOT_OPENED if row < 0 else _NOT_INFERRED}
            continue
        found = [_box(box, classes) for box in block.boxes.get(number, [])]
        if number in block.told:
            found = _said(images, found, block.told[number], classes)
        elif not found and label is not None and not images.is_empty(label):
            found = [_whole_frame(images, row, label, classes)]
        if is_video:
            found = [detection | {"frame_number": 0} for detection in found]
        yield record | {"detections": found}


def _said(
    images: Images, boxes: list[dict[str, Any]], told: list[dict[str, Any]], classes: dict[str, str]
) -> list[dict[str, Any]]:
    """Detections of an image that a person labelled: sure, in its boxes, or for the whole image.

    If people saw several species, nothing says which box shows which; each is for the whole picture.
    """
    labels = [one["label"] for one in told if not images.is_empty(one["label"])]
    if not labels:
        return []
    mine = [box for box in boxes if box["category"] == _category(labels[0])] if len(labels) == 1 else []
    return [
        {**box, "conf": _SURE, "classifications": [[classes[label], _SURE]]}
        for label in labels
        for box in (mine or [{"category": _category(label), "bbox": _WHOLE}])
    ]


def _category(label: str) -> str:
    return _CATEGORY_OF.get(label.casefold(), "1")


def _whole_frame(images: Images, row: int, label: str, classes: dict[str, str]) -> dict[str, Any]:
    """What the model says about a whole picture."""
    predictions = images.predictions
    first, last = predictions.top_begin[row : row + 2]
    labels = [predictions.labels[code] for code in predictions.top_label[first:last].tolist()]
    shares = [round(p, 4) for p in predictions.top_p[first:last].tolist()]
    top = list(zip(labels, shares, strict=True))
    return {
        "category": _category(label),
        "conf": round(1.0 - sum(p for name, p in top if images.is_empty(name)), 4),
        "bbox": _WHOLE,
        "classifications": [[classes[name], p] for name, p in top if p],
    }


def _box(box: dict[str, Any], classes: dict[str, str]) -> dict[str, Any]:
    category = str(box["category"]).casefold()
    detection: dict[str, Any] = {
        "category": category if category in _CATEGORIES else _CATEGORY_OF.get(category, "1"),
        "conf": round(float(box["confidence"]), 4),
        "bbox": [round(float(box[name]), 4) for name in BOX],
    }
    if box["label"] is not None:
        detection["classifications"] = [[classes[box["label"]], round(float(box["label_confidence"]), 4)]]
    return detection
