"""Species that other programs found in pictures -> what each image shows, by the rules in
docs/inference.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.detection.boxes import Boxes, Look
from camtrap_batch.detection.results import ResultsDetector, find_entries
from camtrap_batch.store.schemas import CROPS
from camtrap_batch.vocabulary import is_word_for_empty, plural

_ROWS = 4096  # images at a time whose probabilities of all classes are held
_TOP = 5
_NEXT_TO_NOTHING = 1e-6

Top = list[tuple[str, float]]


@dataclass(frozen=True)
class Answer:
    """What is known about n images.

    Attributes
    ----------
    classes : all labels, sorted
    label, confidence, top, n_boxes : (n,) as in the table predictions; null if nothing is known
    status : (n,) ok, or why there is no label: unreadable, no_result
    crops : rows of that table: boxes that count and that a classifier has examined
    notes : for people
    """

    classes: list[str]
    label: pa.Array
    confidence: pa.Array
    top: pa.Array
    status: pa.Array
    n_boxes: pa.Array
    crops: pa.Table
    notes: list[str]


def answers(results: ResultsDetector, rows: pa.Table, boxes: Boxes, empty: str) -> Answer:
    """What the results say about the images.

    A box that counts, but that no classifier has examined, is just an animal; it has a say only if there is
    no other box. If the results have a label for the image as a whole, the image gets that.

    Parameters
    ----------
    rows : image_id, file_name and video_s of n images
    boxes : their boxes, from `find_boxes`
    empty : label of images without an animal
    """
    found = results.detections
    entry = find_entries(found, rows["file_name"], results.images)
    said, whole = (found.images[name].combine_chunks().take(entry) for name in ("said", "whole"))
    animal = boxes.rules.categories[boxes.rules.animal]
    names = [empty if is_word_for_empty(name) else name for name in found.species]
    classes = sorted({*names, empty, animal})
    number = {name: place for place, name in enumerate(classes)}
    code = np.array([number[name] for name in names], np.int64)
    tops: list[Top] = []
    n_boxes: list[npt.NDArray[np.int64]] = []
    crops: list[dict[str, Any]] = []
    for start in range(0, rows.num_rows, _ROWS):
        look = Look.at(boxes.column.slice(start, _ROWS), boxes.rules)
        of_boxes = said.slice(start, _ROWS).to_pylist()
        _choose_frames(results, rows.slice(start, _ROWS), entry.slice(start, _ROWS), of_boxes)
        of_images = whole.slice(start, _ROWS).to_pylist()
        n = len(of_images)
        first = np.searchsorted(look.rows_of, np.arange(n))
        told: dict[int, list[tuple[int, list[dict[str, Any]]]]] = {}
        for box in look.classified.tolist():
            row = int(look.rows_of[box])
            place = box - int(first[row])
            told.setdefault(row, []).append((box, (of_boxes[row] or ())[place]))
        probabilities = np.zeros((n, len(classes)), np.float32)
        confidence = look.boxes.field("confidence").to_numpy()
        answer = {
            row: _probabilities(some, code, number[animal], confidence, len(classes))
            for row, some in told.items()
        }
        named, counted = look.frames(probabilities, answer, classes)
        is_known = np.ones(n, bool)
        is_known[look.whole] = False
        for row in range(n):
            if entries := of_images[row]:
                top = _joined([(names[entry["code"]], entry["p"]) for entry in entries])
                counted[row] = 0 if top[0][0] == empty else counted[row]
            elif row in named:
                top = [named[row]]
            elif not is_known[row]:
                top = []
            elif row not in answer:
                top = [(empty, float(probabilities[row, number[empty]]))]
            else:
                top = _of(probabilities[row], classes)
            tops.append(top)
        n_boxes.append(counted)
        for row, some in told.items():
            for box, entries in some:
                if entries:
                    top = _joined([(names[entry["code"]], entry["p"]) for entry in entries])
                    crops.append(_crop(rows["image_id"][start + row].as_py(), box - int(first[row]), top))
    labels = pa.array([top[0][0] if top else None for top in tops], pa.string())
    is_known = boxes.column.is_valid()
    why = pc.if_else(entry.is_valid(), "unreadable", "no_result")
    lacking = pc.sum(entry.is_null()).as_py() or 0
    notes = [f"{len(labels) - labels.null_count:,} of {len(labels):,} images have a label from the results"]
    if lacking:
        notes.append(f"{plural(lacking, 'image is', 'images are')} not in the results: no label")
    counts = np.concatenate([*n_boxes, np.empty(0, np.int64)])
    return Answer(
        classes,
        labels,
        pa.array([top[0][1] if top else None for top in tops], pa.float32()),
        pa.array([_entries(top) or None for top in tops], CROPS.field("top5").type),
        pc.if_else(labels.is_valid(), "ok", why),
        pc.if_else(is_known, pa.array(counts, pa.int32()), pa.scalar(None, pa.int32())),
        pa.Table.from_pylist(crops, CROPS),
        notes,
    )


def _choose_frames(
    results: ResultsDetector,
    rows: pa.Table,
    entry: pa.Array,
    said: list[list[list[dict[str, Any]]] | None],
) -> None:
    """Reduce what is `said` about a video's boxes to what concerns each frame's own (see `match_frames`)."""
    names = results.detections.images["file_name"]
    for row, time in enumerate(rows["video_s"].to_pylist()):
        boxes = said[row]
        if time is None or boxes is None:
            continue
        looked = results.detections.videos.get(names[entry[row].as_py()].as_py())
        places = None if looked is None else looked.boxes_at(time)
        said[row] = None if places is None else [boxes[at] for at in places]


def _probabilities(
    told: list[tuple[int, list[dict[str, Any]]]],
    code: npt.NDArray[np.int64],
    animal: int,
    confidence: npt.NDArray[np.float32],
    n_classes: int,
) -> npt.NDArray[np.float32]:
    """(boxes, classes): what is said about an image's boxes that count."""
    p = np.zeros((len(told), n_classes), np.float32)
    is_classified = any(entries for _, entries in told)
    for place, (box, entries) in enumerate(told):
        for entry in entries:
            p[place, code[entry["code"]]] += entry["p"]
        if not entries:
            p[place, animal] = _NEXT_TO_NOTHING if is_classified else confidence[box]
    return p


def _of(p: npt.NDArray[np.float32], classes: list[str]) -> Top:
    order = np.argsort(-p, kind="stable")[:_TOP]
    return [(classes[place], float(p[place])) for place in order.tolist() if p[place] > 0]


def _joined(said: Top) -> Top:
    """What is said about an image or a box, with classes of one name combined, the most probable first."""
    together: dict[str, float] = {}
    for name, p in said:
        together[name] = together.get(name, 0.0) + p
    return sorted(together.items(), key=lambda one: -one[1])


def _entries(top: Top) -> list[dict[str, Any]]:
    return [{"label": name, "p": p} for name, p in top]


def _crop(image_id: str, box: int, top: Top) -> dict[str, Any]:
    label, p = top[0]
    return {"image_id": image_id, "box": box, "label": label, "confidence": p, "top5": _entries(top)}
