"""Species that other programs found in pictures -> what each image shows, by the rules in
docs/inference.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.detection.base import Answer
from camtrap_batch.detection.boxes import Boxes, Look
from camtrap_batch.detection.results import Detections, find_entries
from camtrap_batch.store.schemas import CROPS
from camtrap_batch.vocabulary import is_word_for_empty, plural

_ROWS = 4096  # images at a time whose probabilities of all classes are held
_TOP = 5
_NEXT_TO_NOTHING = 1e-6

Top = list[tuple[str, float]]
Said = list[dict[str, Any]]  # `results.SAID`: code and p of each species
ByRow = dict[int, list[tuple[int, int, Said]]]


def answers(found: Detections, images: str | None, rows: pa.Table, boxes: Boxes, empty: str) -> Answer:
    """What results say about images, see `SpeciesDetector.answers`.

    A box that counts, but that no classifier has examined, is just an animal; it has a say only if there is
    no other box. If the results have a label for the image as a whole, the image gets that.

    Parameters
    ----------
    images : the image root
    """
    entry = find_entries(found, rows["file_name"], images)
    names = [empty if is_word_for_empty(name) else name for name in found.species]
    words = _Words(names, boxes.rules.categories[boxes.rules.animal], empty)
    said, whole = (found.images[name].combine_chunks().take(entry) for name in ("said", "whole"))
    tops: list[Top] = []
    n_boxes: list[npt.NDArray[np.int64]] = []
    crops: list[dict[str, Any]] = []
    for start in range(0, rows.num_rows, _ROWS):
        look = Look.at(boxes.column.slice(start, _ROWS), boxes.rules)
        part, entries = rows.slice(start, _ROWS), entry.slice(start, _ROWS)
        of_boxes = said.slice(start, _ROWS).to_pylist()
        _choose_frames(found, part, entries, of_boxes)
        told = _by_row(look, of_boxes)
        some, counted = _tops(look, told, whole.slice(start, _ROWS).to_pylist(), words)
        tops += some
        n_boxes.append(counted)
        crops += _crops(told, part["image_id"].to_pylist(), words)
    labels = pa.array([top[0][0] if top else None for top in tops], pa.string())
    why = pc.if_else(entry.is_valid(), "unreadable", "no_result")
    notes = [f"{len(labels) - labels.null_count:,} of {len(labels):,} images have a label from the results"]
    if entry.null_count:
        lacking = plural(entry.null_count, "image is", "images are")
        notes.append(f"{lacking} not in the results: no label")
    counts = np.concatenate([*n_boxes, np.empty(0, np.int64)])
    return Answer(
        words.classes,
        labels,
        pa.array([top[0][1] if top else None for top in tops], pa.float32()),
        pa.array([_entries(top) or None for top in tops], CROPS.field("top5").type),
        pc.if_else(labels.is_valid(), "ok", why),
        pc.if_else(boxes.column.is_valid(), pa.array(counts, pa.int32()), pa.scalar(None, pa.int32())),
        pa.Table.from_pylist(crops, CROPS),
        notes,
    )


class _Words:
    """Labels by the codes of the results, with the names of `empty` and of the boxes that count."""

    def __init__(self, names: list[str], animal: str, empty: str) -> None:
        self.names, self.empty = names, empty
        self.classes = sorted({*names, empty, animal})
        number = {name: at for at, name in enumerate(self.classes)}
        self.number = np.array([number[name] for name in names], np.int64)
        self.number_of_animal, self.number_of_empty = number[animal], number[empty]

    def top(self, said: Said) -> Top:
        """What is said about an image or a box, with classes of one name combined, most probable first."""
        together: dict[str, float] = {}
        for entry in said:
            name = self.names[entry["code"]]
            together[name] = together.get(name, 0.0) + entry["p"]
        return sorted(together.items(), key=lambda one: -one[1])


def _choose_frames(found: Detections, rows: pa.Table, entry: pa.Array, said: list[list[Said] | None]) -> None:
    """Reduce what is `said` about a video's boxes to what concerns each frame's own (see `match_frames`)."""
    names = found.images["file_name"]
    for row, time in enumerate(rows["video_s"].to_pylist()):
        boxes = said[row]
        if time is None or boxes is None:
            continue
        looked = found.videos.get(names[entry[row].as_py()].as_py())
        own = None if looked is None else looked.boxes_at(time)
        said[row] = None if own is None else [boxes[at] for at in own]


def _by_row(look: Look, of_boxes: list[list[Said] | None]) -> ByRow:
    """Row -> its boxes that count, each with its number among all boxes, its number in the row, and what is
    said about it."""
    found: ByRow = {}
    numbers = look.numbers()
    for box in look.classified.tolist():
        row, number = int(look.rows_of[box]), int(numbers[box])
        found.setdefault(row, []).append((box, number, (of_boxes[row] or ())[number]))
    return found


def _tops(
    look: Look, told: ByRow, of_images: list[Said | None], words: _Words
) -> tuple[list[Top], npt.NDArray[np.int64]]:
    """The labels of each row, the most probable first, none if nothing is known; and the number of its
    animals."""
    n = len(of_images)
    probabilities = np.zeros((n, len(words.classes)), np.float32)
    confidence = look.boxes.field("confidence").to_numpy()
    of_rows = {row: _probabilities(some, words, confidence) for row, some in told.items()}
    named, counted = look.frames(probabilities, of_rows, words.classes)
    unknown = frozenset(look.whole.tolist())
    tops: list[Top] = []
    for row, said in enumerate(of_images):
        top: Top = []
        if said:
            top = words.top(said)
            counted[row] = 0 if top[0][0] == words.empty else counted[row]
        elif row in named:
            top = [named[row]]
        elif row in of_rows:
            top = _most_probable(probabilities[row], words.classes)
        elif row not in unknown:
            top = [(words.empty, float(probabilities[row, words.number_of_empty]))]
        tops.append(top)
    return tops, counted


def _crops(told: ByRow, image_ids: list[str], words: _Words) -> list[dict[str, Any]]:
    return [
        _crop(image_ids[row], number, words.top(said))
        for row, some in told.items()
        for _, number, said in some
        if said
    ]


def _probabilities(
    told: list[tuple[int, int, Said]], words: _Words, confidence: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """(boxes, classes): what is said about an image's boxes that count."""
    p = np.zeros((len(told), len(words.classes)), np.float32)
    is_classified = any(said for _, _, said in told)
    for number, (box, _, said) in enumerate(told):
        for entry in said:
            p[number, words.number[entry["code"]]] += entry["p"]
        if not said:
            p[number, words.number_of_animal] = _NEXT_TO_NOTHING if is_classified else confidence[box]
    return p


def _most_probable(p: npt.NDArray[np.float32], classes: list[str]) -> Top:
    order = np.argsort(-p, kind="stable")[:_TOP]
    return [(classes[at], float(p[at])) for at in order.tolist() if p[at] > 0]


def _entries(top: Top) -> list[dict[str, Any]]:
    return [{"label": name, "p": p} for name, p in top]


def _crop(image_id: str, box: int, top: Top) -> dict[str, Any]:
    label, p = top[0]
    return {"image_id": image_id, "box": box, "label": label, "confidence": p, "top5": _entries(top)}
