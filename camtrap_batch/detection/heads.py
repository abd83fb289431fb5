"""What a detector's outputs mean: recognises the layouts of present-day exports, and reads them as boxes.

- yolov5: [boxes, 5 + classes], centre and size in pixels, objectness, classes; YOLOv5, MegaDetector v5
- yolov8: [4 + classes, boxes], centre and size in pixels, classes; YOLOv8, v9, v11, and v10 and v26 if their
  boxes are still to be suppressed
- end2end: [boxes, 6], corners in pixels, confidence, class; YOLOv10, v26, exports with suppression inside
- rtdetr: [boxes, 4 + classes], centre and size in fractions of the frame, classes; RT-DETR
- rtdetr-top: [boxes, 6], centre and size in fractions of the frame, confidence, class; RT-DETR of ultralytics
  8.4
- rf-detr: [boxes, 4], centre and size in fractions of the frame, and [boxes, classes], logits; RF-DETR, and
  what `transformers` has of its kind
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from camtrap_batch.errors import InputError
from camtrap_batch.images.compiled import compiled
from camtrap_batch.runtime import Array

Layout = Literal["yolov5", "yolov8", "end2end", "rtdetr", "rtdetr-top", "rf-detr"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

IOU: dict[Layout, float] = {"yolov5": 0.45, "yolov8": 0.7}
"""Overlap from which the less sure of two boxes of a category is dropped, if the layout's own software drops
any: the default of YOLOv5 and MegaDetector, and of ultralytics."""

MOST_BOXES = 300
"""Maximum number of boxes per picture, the most confident ones: as many as any of that software keeps."""

_STRIDES = (4, 8, 16, 32, 64, 128)
"""Strides of the grids on which YOLO networks find boxes; a network uses several consecutive ones."""
_MOST_QUERIES = 1000
_TO_SUPPRESS = 30_000
_APART = np.float32(7680)  # pixels


@dataclass(frozen=True)
class Raw:
    """Boxes in a frame, the most confident first.

    Attributes
    ----------
    corners : (n, 4) float32, left, top, right, bottom in pixels of the frame
    confidence : (n,) float32
    category : (n,) int16
    """

    corners: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    category: npt.NDArray[np.int16]


def tell_layout(
    outputs: Sequence[Array], frame: tuple[int, int], metadata: Mapping[str, str], n_names: int | None
) -> Layout | None:
    """The layout of a network's outputs for one picture in that frame; None if it is unknown.

    Parameters
    ----------
    outputs : the network's outputs for a picture, in a batch of 1
    metadata : metadata of the ONNX file
    n_names : number of known category names
    """
    shapes = [output.shape for output in outputs]
    if pair := _boxes_and_logits(outputs):
        boxes, logits = pair
        # Boxes on a grid come from a YOLO export that is not known here.
        return "rf-detr" if boxes.shape[1] <= _MOST_QUERIES and logits.shape[2] >= 1 else None
    flat = [shape for shape in shapes if len(shape) == 3]
    if len(flat) != 1 or shapes[0] != flat[0] or flat[0][0] != 1:
        return None
    _, rows, columns = flat[0]
    cells = _cells(frame)
    # The number of names decides if a grid is of an unknown kind.
    if columns > rows > 4 and (columns in cells or rows == 4 + (n_names or -1)):
        return "yolov8"
    if (rows in {3 * n for n in cells} and columns > 5) or (
        n_names and columns == 5 + n_names and rows > _MOST_QUERIES
    ):
        return "yolov5"
    if rows > _MOST_QUERIES or columns <= 4:
        return None
    return _of_queries(outputs[shapes.index(flat[0])][0], metadata, n_names)


def _cells(frame: tuple[int, int]) -> set[int]:
    """Possible total numbers of cells in a network's grids."""
    each = [-(-frame[0] // stride) * -(-frame[1] // stride) for stride in _STRIDES]
    return {sum(each[i:j]) for i in range(len(each)) for j in range(i + 2, len(each) + 1)}


def _of_queries(rows: Array, metadata: Mapping[str, str], n_names: int | None) -> Layout:
    """The layout of outputs [boxes, values] with a few hundred boxes, which have no grid."""
    in_parts = bool((np.abs(rows[:, :4]) <= 2).all())
    if rows.shape[1] != 6:
        return "rtdetr"
    if metadata.get("head") == "RTDETRDecoder":
        return "rtdetr-top"
    if not in_parts or metadata.get("end2end") == "True":
        return "end2end"
    # Two classes, or a confidence and a class number, which is whole.
    has_numbers = bool((rows[:, 5] == np.round(rows[:, 5])).all())
    return "rtdetr" if n_names == 2 and not has_numbers else "rtdetr-top"


def count_classes(layout: Layout, outputs: Sequence[Array]) -> int | None:
    """How many classes the outputs have; None if they hold only a class's number."""
    if layout == "rf-detr":
        pair = _boxes_and_logits(outputs)
        return int(pair[1].shape[2]) if pair else None
    shape = next(output.shape for output in outputs if output.ndim == 3)
    return {"yolov5": shape[2] - 5, "yolov8": shape[1] - 4, "rtdetr": shape[2] - 4}.get(layout)


def read_boxes(
    layout: Layout,
    outputs: Sequence[Array],
    frame: tuple[int, int],
    *,
    n_categories: int,
    least: float,
    iou: float,
) -> list[Raw]:
    """The boxes in a network's outputs for a batch, for each picture.

    Parameters
    ----------
    frame : height and width of the pictures that the network was given
    n_categories : number of categories with names; others are not detections
    least : boxes with less confidence are left out
    iou : see `IOU`

    Raises
    ------
    InputError
        The outputs do not have that layout.
    """
    if layout == "rf-detr":
        pair = _boxes_and_logits(outputs)
        if pair is None:
            raise InputError("the network's outputs changed their shapes")
        parts = zip(pair[0], pair[1], strict=True)
        return [_rf_detr(boxes, logits, frame, n_categories, least) for boxes, logits in parts]
    output = next(output for output in outputs if output.ndim == 3).astype(np.float32, copy=False)
    read = {
        "yolov5": _yolov5,
        "yolov8": _yolov8,
        "end2end": _end2end,
        "rtdetr": _rtdetr,
        "rtdetr-top": _rtdetr_top,
    }[layout]
    return [read(picture, frame, n_categories, least, iou) for picture in output]


def suppress(found: Raw, iou: float) -> Raw:
    """The surest `MOST_BOXES` of the boxes that do not overlap a surer one of their category by more than
    `iou`."""
    order = np.argsort(-found.confidence, kind="stable")[:_TO_SUPPRESS]
    category = found.category[order]
    # Separated by category as in that software, so that a box right at `iou` is rounded in the same way.
    apart = found.corners[order] + category[:, None].astype(np.float32) * _APART
    kept = order[_suppress(apart, category, np.float32(iou))]
    return Raw(found.corners[kept], found.confidence[kept], found.category[kept])


@compiled
def _suppress(
    corners: npt.NDArray[np.float32], category: npt.NDArray[np.int16], iou: Any
) -> npt.NDArray[np.int64]:
    n = len(corners)
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    gone = np.zeros(n, np.bool_)
    kept = np.empty(min(n, MOST_BOXES), np.int64)
    number = 0
    for box in range(n):
        if gone[box]:
            continue
        if number == MOST_BOXES:
            break
        kept[number] = box
        number += 1
        left, top, right, bottom = corners[box]
        for other in range(box + 1, n):
            if gone[other] or category[other] != category[box]:
                continue
            width = min(right, corners[other, 2]) - max(left, corners[other, 0])
            height = min(bottom, corners[other, 3]) - max(top, corners[other, 1])
            if width <= 0 or height <= 0:
                continue
            common = width * height
            if common / (areas[box] + areas[other] - common) > iou:
                gone[other] = True
    return kept[:number]


def _yolov5(rows: Array, frame: tuple[int, int], n: int, least: float, iou: float) -> Raw:
    rows = rows[rows[:, 4] > least]
    return suppress(_best_class(_from_centres(rows[:, :4]), rows[:, 5 : 5 + n] * rows[:, 4:5], least), iou)


def _yolov8(values: Array, frame: tuple[int, int], n: int, least: float, iou: float) -> Raw:
    rows = values[:, values[4 : 4 + n].max(axis=0) > least].T
    return suppress(_best_class(_from_centres(rows[:, :4]), rows[:, 4 : 4 + n], least), iou)


def _end2end(rows: Array, frame: tuple[int, int], n: int, least: float, iou: float) -> Raw:
    return _with_numbers(rows[:, :4], rows[:, 4], rows[:, 5], n, least)


def _rtdetr(rows: Array, frame: tuple[int, int], n: int, least: float, iou: float) -> Raw:
    return _sorted(_best_class(_from_parts(rows[:, :4], frame), rows[:, 4 : 4 + n], least))


def _rtdetr_top(rows: Array, frame: tuple[int, int], n: int, least: float, iou: float) -> Raw:
    return _with_numbers(_from_parts(rows[:, :4], frame), rows[:, 4], rows[:, 5], n, least)


def _rf_detr(boxes: Array, logits: Array, frame: tuple[int, int], n: int, least: float) -> Raw:
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float32)))
    # A box may be of several categories, each with its own confidence.
    order = np.argsort(-probabilities, axis=None, kind="stable")[:MOST_BOXES]
    box, category = np.divmod(order, logits.shape[1])
    corners = _from_parts(boxes.astype(np.float32), frame)[box]
    return _with_numbers(corners, probabilities.ravel()[order], category, n, least)


def _boxes_and_logits(outputs: Sequence[Array]) -> tuple[Array, Array] | None:
    flat = [output for output in outputs if output.ndim == 3]
    if len(flat) != 2 or flat[0].shape[:2] != flat[1].shape[:2]:
        return None
    boxes = [output for output in flat if output.shape[2] == 4]
    if len(boxes) == 2:  # four classes: boxes come first, or are called so
        return flat[0], flat[1]
    return (boxes[0], next(output for output in flat if output is not boxes[0])) if boxes else None


def _best_class(corners: Array, scores: Array, least: float) -> Raw:
    category = scores.argmax(axis=1) if len(scores) else np.zeros(0, np.int64)
    return _above(corners, scores[np.arange(len(scores)), category], category, least)


def _with_numbers(corners: Array, confidence: Array, category: Array, n: int, least: float) -> Raw:
    named = (category >= 0) & (category < n)
    return _sorted(_above(corners[named], confidence[named], category[named], least))


def _above(corners: Array, confidence: Array, category: Array, least: float) -> Raw:
    sure = confidence > least
    return Raw(
        np.ascontiguousarray(corners[sure], np.float32),
        confidence[sure].astype(np.float32),
        category[sure].astype(np.int16),
    )


def _sorted(found: Raw) -> Raw:
    order = np.argsort(-found.confidence, kind="stable")[:MOST_BOXES]
    return Raw(found.corners[order], found.confidence[order], found.category[order])


def _from_parts(boxes: Array, frame: tuple[int, int]) -> Array:
    return _from_centres(boxes) * np.array([frame[1], frame[0]] * 2, np.float32)


def _from_centres(boxes: Array) -> Array:
    half = boxes[:, 2:4] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
