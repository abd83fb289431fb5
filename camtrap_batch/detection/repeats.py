"""Boxes in the same spot in many frames of the same camera: a stump, not an animal.

After MegaDetector's "repeat detection elimination" (github.com/agentmorris/MegaDetector), but without a
person to check the result; so it requires more frames, and large boxes are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float32]

MOST_AREA = 0.3
"""Larger fractions of the frame are not repeats: anything in front of the lens fills it in the same way."""

_ROUNDS = 3  # rounds of moving to the middle of the surrounding boxes


def find_repeats(
    camera: npt.NDArray[np.int64],
    frame: npt.NDArray[np.int64],
    boxes: Numbers,
    *,
    iou: float,
    min_frames: int,
) -> npt.NDArray[np.int32]:
    """Number of the spot that a box repeats, from 0 over all cameras; -1 if it does not repeat one.

    Boxes repeat a spot if they all overlap one box, their median, by `iou` or more (intersection over union),
    in at least `min_frames` frames.

    Parameters
    ----------
    camera, frame : (n,) numbers of each box's camera and image; camera -1: unknown, never a repeat
    boxes : (n, 4) x, y, width, height
    """
    found = np.full(len(boxes), -1, np.int32)
    small = np.flatnonzero((camera >= 0) & (boxes[:, 2] * boxes[:, 3] <= MOST_AREA))
    # By camera, then from left to right, so that boxes that may overlap are neighbours. Ties in a fixed
    # order.
    middle = np.asarray(boxes[:, 0] + boxes[:, 2] / 2, np.float32)
    order = small[np.lexsort((frame[small], middle[small], camera[small]))]
    borders = np.flatnonzero(np.diff(camera[order])) + 1
    place = 0
    for rows in np.split(order, borders):
        if len(rows) < min_frames:
            continue
        rows = rows[_crowded(boxes[rows], iou, min_frames)]
        for members in _places(boxes[rows], middle[rows], frame[rows], iou, min_frames):
            found[rows[members]] = place
            place += 1
    return found


def _crowded(boxes: Numbers, iou: float, least: int) -> npt.NDArray[np.bool_]:
    """Boxes that may be among `least` overlapping ones; quickly discards nearly all others.

    Such boxes differ little in size and position. In a grid twice as coarse as that, or in one shifted by
    half a cell, they are in one cell.
    """
    step = max(4 * np.log(1 / iou), 0.05)
    slack = 2 * (1 - iou) / iou
    found = np.zeros(len(boxes), bool)
    for shifts in product((0.0, 0.5), repeat=4):
        key = np.zeros(len(boxes), np.int64)
        for side, (of_size, of_middle) in enumerate((shifts[:2], shifts[2:])):
            size = np.maximum(boxes[:, 2 + side], 1e-4)
            bin_ = np.floor(np.log(size) / step + of_size)
            cell = np.maximum(np.exp((bin_ + 1 - of_size) * step) * slack, 2e-6)
            cell_of = np.floor((boxes[:, side] + size / 2) / cell + of_middle)
            key = key << 30 | (bin_ + 2**9).astype(np.int64) << 20 | cell_of.astype(np.int64)
        _, cell_of, counts = np.unique(key, return_inverse=True, return_counts=True)
        found |= counts[cell_of] >= least
    return found


def _places(
    boxes: Numbers, middle: Numbers, frame: npt.NDArray[np.int64], iou: float, min_frames: int
) -> Iterator[npt.NDArray[np.int64]]:
    # The middles of boxes that overlap this much are no further apart than this fraction of the width.
    reach = (1 - iou) / (2 * iou) + 1e-6
    free = np.ones(len(boxes), bool)

    def around(box: Numbers) -> npt.NDArray[np.int64]:
        centre, width = box[0] + box[2] / 2, box[2]
        low, high = np.searchsorted(middle, [centre - reach * width, centre + reach * width])
        near = np.flatnonzero(free[low:high]) + low
        return np.asarray(near[overlap(boxes[near], box) >= iou])

    low = np.searchsorted(middle, middle - reach * boxes[:, 2])
    high = np.searchsorted(middle, middle + reach * boxes[:, 2], side="right")
    for row in np.flatnonzero(high - low >= min_frames):
        if not free[row] or np.count_nonzero(free[low[row] : high[row]]) < min_frames:
            continue
        members = around(boxes[row])
        # A box at the edge of the spot may have too few around it: look from the spot's middle.
        for _ in range(_ROUNDS):
            if len(members) < max(2, min_frames // 4):
                break
            members = around(np.median(boxes[members], axis=0).astype(np.float32))
        if len(np.unique(frame[members])) >= min_frames:
            free[members] = False
            yield members


def overlap(boxes: Numbers, box: Numbers) -> Numbers:
    """Intersection over union of boxes (n, 4) with one (4,)."""
    width = np.minimum(boxes[:, 0] + boxes[:, 2], box[0] + box[2]) - np.maximum(boxes[:, 0], box[0])
    height = np.minimum(boxes[:, 1] + boxes[:, 3], box[1] + box[3]) - np.maximum(boxes[:, 1], box[1])
    both = np.maximum(width, 0) * np.maximum(height, 0)
    union = boxes[:, 2] * boxes[:, 3] + box[2] * box[3] - both
    return np.asarray(both / np.maximum(union, 1e-9))
