"""A detector beside its original: whether the same boxes are found."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from camtrap_batch.detection.base import Found
from camtrap_batch.detection.frames import put
from camtrap_batch.detection.heads import read_boxes
from camtrap_batch.detection.onnx import OnnxDetector
from camtrap_batch.errors import InputError
from camtrap_batch.model.importers.base import SAME
from camtrap_batch.runtime import installed_runtimes, open_network

Rows = npt.NDArray[np.float64]
"""(n, 6): left, top, right, bottom in pixels of the picture, confidence, number of the category."""

LEAST = 0.05
"""Confidence from which boxes are compared."""

_PIXELS, _CONFIDENCE = 1.0, 0.005
_EDGE = 0.01  # a box whose confidence is this close to `LEAST` may be on either side of it
_MOST = 300


@dataclass(frozen=True)
class Boxes:
    """What was compared: pictures, the original's boxes, the import's boxes, and those that both have."""

    n: int
    boxes: int
    same: int
    way: str

    def require(self, where: str) -> None:
        """Raise InputError if the two differ too much."""
        if self.same < SAME * self.boxes:
            raise InputError(f"{where}: what was written does not find what the original finds: {self}")

    def __str__(self) -> str:
        if not self.boxes:
            return (
                f"no box of confidence {LEAST:g} in {self.n} pictures by {self.way}, nor by ours: to compare "
                "boxes, give --pictures a folder of photos with animals"
            )
        return (
            f"{self.same} of {self.boxes} boxes in {self.n} pictures the same as by {self.way}, within a "
            f"pixel and {_CONFIDENCE:g} of confidence"
        )


def compare_boxes(
    detector: OnnxDetector, pictures: Sequence[bytes], theirs: Sequence[Sequence[Sequence[float]]], way: str
) -> Boxes:
    """Compare the boxes that our worker finds with the original's; a list of `Rows` for each picture."""
    finder = detector.finder(detector.path, threads=1)
    boxes = same = 0
    for data, found, rows in zip(pictures, finder.find(pictures), theirs, strict=True):
        if not isinstance(found, Found):
            continue
        with Image.open(io.BytesIO(data)) as image:
            width, height = ImageOps.exif_transpose(image).size
        ours = _rows(found, width, height)
        wanted = _clipped(np.array(rows, np.float64).reshape(-1, 6), width, height)
        wanted = wanted[wanted[:, 5] < len(detector.categories)]
        # If a list is full, either may have boxes below its last one.
        for some, others in ((wanted, ours), (ours, wanted)):
            least = max(LEAST, others[-1, 4] if len(others) >= _MOST else 0) + _EDGE
            compared = some[some[:, 4] > least]
            boxes += len(compared)
            same += sum(_is_among(row, others) for row in compared)
    return Boxes(len(pictures), boxes, same, way)


def compare_detector(detector: OnnxDetector, pictures: Sequence[bytes], where: str) -> Boxes:
    """Compare our worker with ONNX Runtime, or whatever is installed, on pictures decoded by Pillow."""
    runtime = "onnxruntime" if "onnxruntime" in installed_runtimes() else None
    network = open_network(detector.path, "cpu", 1, "float32", runtime)
    theirs = []
    for data in pictures:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        placement = detector.fit.place(*pixels.shape[:2])
        frame = np.empty((1, 3, *placement.frame), np.float32)
        put(pixels, detector.fit, placement, frame[0])
        batch = np.repeat(frame, detector.batch or 1, axis=0).astype(detector.dtype)
        raw = read_boxes(
            detector.layout,
            network.run(batch),
            placement.frame,
            n_categories=len(detector.categories),
            least=LEAST / 2,
            iou=detector.iou,
        )[0]
        corners = (raw.corners - [placement.left, placement.top] * 2) / (
            [placement.width, placement.height] * 2
        )
        corners = corners * ([pixels.shape[1], pixels.shape[0]] * 2)
        theirs.append(np.column_stack([corners.reshape(-1, 4), raw.confidence, raw.category]).tolist())
    compared = compare_boxes(detector, pictures, theirs, runtime or network.runtime)
    compared.require(where)
    return compared


def _rows(found: Found, width: int, height: int) -> Rows:
    corners = found.boxes.astype(np.float64) * [width, height, width, height]
    corners[:, 2:] += corners[:, :2]
    rows = np.concatenate([corners, found.confidence[:, None], found.category[:, None]], axis=1)
    return np.asarray(rows, np.float64)


def _clipped(rows: Rows, width: int, height: int) -> Rows:
    """Boxes cut off at the picture's borders, as ours are; a box without any extent is dropped."""
    rows[:, :4] = np.clip(rows[:, :4], 0, [width, height, width, height])
    kept = rows[(rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])]
    return np.asarray(kept[np.argsort(-kept[:, 4], kind="stable")], np.float64)


def _is_among(row: npt.NDArray[np.float64], others: Rows) -> bool:
    near = np.abs(others[:, :4] - row[:4]).max(axis=1) <= _PIXELS
    near &= (np.abs(others[:, 4] - row[4]) <= _CONFIDENCE) & (others[:, 5] == row[5])
    return bool(near.any())
