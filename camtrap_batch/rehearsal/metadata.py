"""The files beside the photos: COCO Camera Traps JSON with its usual quirks, camera table, truth tables."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

from camtrap_batch.rehearsal.faults import OUTSIDE, Fault
from camtrap_batch.rehearsal.oddities import Oddity
from camtrap_batch.rehearsal.photo import Drawn
from camtrap_batch.rehearsal.plan import Camera, Frame, metadata_generator, plan_deployments
from camtrap_batch.rehearsal.species import EMPTY_ID, categories, name_of
from camtrap_batch.vocabulary import USABLE

EVENT_GAP = timedelta(minutes=30)

_PERSON = "homo sapiens"
_NAMESPACE = uuid.UUID("6f1c8a52-2d0e-5b36-9c11-7d8d5c0f42aa")


@dataclass(frozen=True, slots=True)
class Image:
    """One row of the data set: what is planned, what is wrong with it or odd about it, and its name."""

    camera: Camera
    frame: Frame
    fault: Fault | None
    image_id: str
    file_name: str
    seq_id: str
    oddity: Oddity | None = None

    @property
    def status(self) -> str:
        return self.fault.status if self.fault else "ok"

    @property
    def findings(self) -> tuple[str, ...]:
        odd = self.fault or self.oddity
        return odd.findings if odd else ()

    @property
    def slot(self) -> int:
        return _slot(self.frame)

    @property
    def dated(self) -> bool:
        """Whether the metadata or EXIF says when the image was taken."""
        return _DATES.get(self.slot, _PLAIN) not in _NO_DATE or (self.camera.exif and self.status in USABLE)


_PLAIN = "%Y-%m-%d %H:%M:%S"
_NULL = "null"
_NO_DATE = {_NULL, "unknown", "0000-00-00 00:00:00"}
_DATES = {
    3: "%Y-%m-%dT%H:%M:%S",
    13: "%Y:%m:%d %H:%M:%S",
    23: "%Y-%m-%d %H:%M:%S.000",
    33: "%Y-%m-%dT%H:%M:%S+02:00",
    38: "unknown",
    43: _NULL,
    48: "0000-00-00 00:00:00",
}
_NOT_ANNOTATED = 53
_FLAGGED_WRONGLY = (7, 57)


def name_images(
    cameras: Sequence[Camera],
    plan: Sequence[Sequence[Frame]],
    faults: dict[tuple[int, int], Fault],
    seed: int,
    oddities: Mapping[tuple[int, int], Oddity] = MappingProxyType({}),
) -> list[list[Image]]:
    """Give every planned frame its identifiers, camera by camera."""
    return [
        [
            _name_image(
                camera, frame, faults.get(key := (frame.camera, frame.index)), oddities.get(key), seed
            )
            for frame in frames
        ]
        for camera, frames in zip(cameras, plan, strict=True)
    ]


def is_plain(frame: Frame) -> bool:
    """Whether the metadata gives a frame a date and a sequence."""
    return _DATES.get(_slot(frame), _PLAIN) not in _NO_DATE and not _lacks_sequence(frame)


def write_cct(path: Path, images: Sequence[Image], seed: int, size: tuple[int, int]) -> None:
    """COCO Camera Traps JSON, images in no particular order, with the quirks of WCS Camera Traps."""
    shuffled = [images[int(number)] for number in metadata_generator(seed).permutation(len(images))]
    lost = [
        {
            "id": _identifier(seed, f"lost annotation {number}"),
            "image_id": _identifier(seed, f"lost image {number}"),
            "category_id": category,
        }
        for number, category in enumerate((EMPTY_ID, 24, 100))
    ]
    content = {
        "info": {"version": "1.0", "description": f"Synthetic camera-trap images, seed {seed}", "year": 2019},
        "categories": [{"id": number, "name": name} for number, name in categories()],
        "images": [_cct_image(image, size) for image in shuffled],
        "annotations": [row for image in shuffled for row in _cct_annotations(image, seed)] + lost,
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_cameras(path: Path, cameras: Sequence[Camera], plan: Sequence[Sequence[Frame]], seed: int) -> None:
    """location, latitude, longitude in WGS 84 degrees, and the days of setup and retrieval."""
    rows = (
        (camera.location, f"{camera.latitude:.6f}", f"{camera.longitude:.6f}", *days)
        for camera, days in zip(cameras, plan_deployments(plan, seed), strict=True)
    )
    _write_csv(path, ("location", "latitude", "longitude", "start", "end"), rows)


def write_truth(path: Path, images: Sequence[Image]) -> None:
    """One row per image: what is drawn on it, and what must come out.

    `category_id` and `label` are those of the first animal, and empty if nothing usable can be decoded;
    `second_id` is the category id of another species in the picture. `annotated` is 0 if the metadata has no
    annotation, `dated` 0 if neither metadata nor EXIF has a date. `datetime` is always the true one;
    `findings` are the kinds of findings that must come out, separated by spaces.
    """
    columns = (
        "image_id", "file_name", "location", "status", "fault", "category_id", "label", "count", "second_id",
        "night", "seq_id", "frame_num", "datetime", "annotated", "dated",
        "findings",
    )  # fmt: skip
    _write_csv(path, columns, (_truth_row(image) for image in images))


def write_truth_events(path: Path, images: Sequence[Image]) -> None:
    """The events of what is drawn on usable, dated images.

    A new event begins when a camera has not seen the species for more than 30 minutes since its previous
    image of it.
    """
    rows: list[list[Any]] = []
    current: dict[tuple[str, str], list[Any]] = {}
    seen = [image for image in images if image.status in USABLE and image.dated and image.frame.category_id]
    for image in sorted(seen, key=lambda image: (image.camera.location, image.frame.time, image.image_id)):
        key = (image.camera.location, name_of(image.frame.category_id))
        event = current.get(key)
        if event is None or image.frame.time - event[3] > EVENT_GAP:
            event = current[key] = [*key, image.frame.time, image.frame.time, 0]
            rows.append(event)
        event[3] = image.frame.time
        event[4] += 1
    rows.sort(key=lambda row: (row[0], row[1], row[2]))
    _write_csv(path, ("location", "label", "start", "end", "n_images"), rows)


def write_truth_boxes(path: Path, images: Sequence[Image], animals: Mapping[str, Sequence[Drawn]]) -> None:
    """Where animals and people are drawn on usable images, as MegaDetector JSON; `animals` by image id."""
    species = sorted({drawn.category_id for some in animals.values() for drawn in some})
    content = {
        "info": {
            "format_version": "1.6",
            "detector": "what was drawn",
            "detector_metadata": {"description": "boxes of a synthetic data set: drawings, not photographs"},
        },
        "detection_categories": {"1": "animal", "2": "person"},
        "classification_categories": {str(number): name_of(number) for number in species},
        "images": [
            {
                "file": image.file_name,
                "detections": [
                    {
                        "category": "2" if name_of(drawn.category_id) == _PERSON else "1",
                        "conf": 1.0,
                        "bbox": [round(part, 4) for part in drawn.box],
                        "classifications": [[str(drawn.category_id), 1.0]],
                    }
                    for drawn in animals[image.image_id]
                ],
            }
            for image in images
            if image.status in USABLE
        ],
    }
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _slot(frame: Frame) -> int:
    """0 to 59: quirks are assigned by this number, so that a data set of 60 images has all of them."""
    return (frame.index + 17 * frame.camera) % 60


def _lacks_sequence(frame: Frame) -> bool:
    return (frame.burst + 5 * frame.camera) % 19 == 7


def _name_image(camera: Camera, frame: Frame, fault: Fault | None, oddity: Oddity | None, seed: int) -> Image:
    if fault is not None and fault.status == "unsafe_path":
        file_name = OUTSIDE
    else:
        file_name = f"{camera.folder}/{frame.index + 1:04d}{fault.suffix if fault else '.jpg'}"
    return Image(
        camera=camera,
        frame=frame,
        fault=fault,
        image_id=_identifier(seed, f"image {camera.index} {frame.index}"),
        file_name=file_name,
        seq_id=_identifier(seed, f"sequence {camera.index} {frame.burst}"),
        oddity=oddity,
    )


def _identifier(seed: int, name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{seed} {name}"))


def _cct_image(image: Image, size: tuple[int, int]) -> dict[str, Any]:
    frame, camera = image.frame, image.camera
    form = _DATES.get(image.slot, _PLAIN)
    time, scale = frame.time, 1
    if image.oddity is not None:
        time, scale = image.oddity.date or time, image.oddity.scale
    row: dict[str, Any] = {
        "id": image.image_id,
        "file_name": image.file_name,
        "width": size[0] * scale,
        "height": size[1] * scale,
        "location": int(camera.location) if camera.numeric else camera.location,
        "datetime": None if form == _NULL else form if form in _NO_DATE else time.strftime(form),
        "seq_id": image.seq_id,
        "seq_num_frames": frame.burst_frames,
        "frame_num": frame.position,
        "country_code": "ZAF",
    }
    if _lacks_sequence(frame):
        row |= {"seq_id": None, "seq_num_frames": None, "frame_num": None}
    if image.slot in _FLAGGED_WRONGLY:
        row["corrupt"] = image.fault is None
    elif image.status in ("corrupt", "damaged"):
        row["corrupt"] = True
    return row


def _cct_annotations(image: Image, seed: int) -> list[dict[str, Any]]:
    """One annotation for each species; in every third picture of two animals, one for each animal."""
    if image.slot == _NOT_ANNOTATED:
        return []
    frame = image.frame
    if frame.category_id == EMPTY_ID:
        seen: list[tuple[int, int | None]] = [(EMPTY_ID, None)]
    elif frame.count == 2 and frame.index % 3 == 0:
        seen = [(frame.category_id, 1), (frame.category_id, 1)]
    else:
        seen = [(frame.category_id, frame.count)]
    if frame.second is not None:
        seen.append((frame.second, 1))
    rows = []
    for number, (category_id, count) in enumerate(seen):
        row: dict[str, Any] = {
            "id": _identifier(seed, f"annotation {image.image_id} {number}"),
            "image_id": image.image_id,
            "category_id": category_id,
        }
        if count is not None:
            row["count"] = count
        rows.append(row)
    return rows


def _truth_row(image: Image) -> tuple[Any, ...]:
    frame = image.frame
    usable = image.status in USABLE
    return (
        image.image_id,
        image.file_name,
        image.camera.location,
        image.status,
        image.fault.name if image.fault else "",
        frame.category_id if usable else "",
        name_of(frame.category_id) if usable else "",
        frame.count if usable else "",
        frame.second if usable and frame.second is not None else "",
        int(frame.night),
        image.seq_id,
        frame.position,
        frame.time,
        int(image.slot != _NOT_ANNOTATED),
        int(image.dated),
        " ".join(image.findings),
    )


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([f"{cell:{_PLAIN}}" if isinstance(cell, datetime) else cell for cell in row])
