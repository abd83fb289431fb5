"""Boxes in the same spot in many frames of the same camera: a stump, not an animal.

After MegaDetector's "repeat detection elimination" (github.com/agentmorris/MegaDetector), but without a
person to check the result; so it requires more frames, and large boxes are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float32]

MOST_AREA = 0.3
"""Larger fractions of the frame are not repeats: anything in front of the lens fills it in the same way."""

SAME_BOX = 0.5
"""Intersection over union from which a box that people labelled is one of the detector's."""

_AT_ONCE = 200_000  # boxes whose cells are held in memory
_ROUNDS = 3  # rounds of moving to the middle of the surrounding boxes


@dataclass(frozen=True)
class Spots:
    """Spots that boxes repeat, those of one camera after those of another.

    Attributes
    ----------
    camera : (spots,) number of each spot's camera
    box : (spots, 4) the box that all boxes of a spot overlap: x, y, width, height
    """

    camera: npt.NDArray[np.int64]
    box: Numbers

    @classmethod
    def none(cls) -> Spots:
        return cls(np.empty(0, np.int64), np.empty((0, 4), np.float32))


def find_spots(
    camera: npt.NDArray[np.int64],
    frame: npt.NDArray[np.int64],
    boxes: Numbers,
    *,
    iou: float,
    min_frames: int,
) -> tuple[npt.NDArray[np.int32], Spots]:
    """The spots, and the number of the one that each box repeats: from 0 over all cameras; -1: none.

    Boxes repeat a spot if they all overlap one box, their median, by `iou` or more (intersection over union),
    in at least `min_frames` frames.

    Parameters
    ----------
    camera, frame : (n,) numbers of each box's camera and image; camera -1: unknown, never a repeat
    boxes : (n, 4) x, y, width, height
    """
    found = np.full(len(boxes), -1, np.int32)
    middle, order, borders = _in_order(camera, boxes, frame)
    spots: list[tuple[int, Numbers]] = []
    for cameras in _some_at_once(borders):
        rows = order[cameras[0] : cameras[-1]]
        crowded = _crowded(boxes[rows], cameras - cameras[0], iou, min_frames)
        for mine in np.split(crowded, np.searchsorted(crowded, cameras[1:-1] - cameras[0])):
            if len(mine) < min_frames:
                continue
            some = rows[mine]
            for members, box in _spots(boxes[some], middle[some], frame[some], iou, min_frames):
                found[some[members]] = len(spots)
                spots.append((int(camera[some[0]]), box))
    return found, Spots(
        np.array([one for one, _ in spots], np.int64),
        np.array([box for _, box in spots], np.float32).reshape(-1, 4),
    )


def match_spots(
    camera: npt.NDArray[np.int64], boxes: Numbers, spots: Spots, *, iou: float
) -> npt.NDArray[np.int32]:
    """Number of the spot, among those found before, that a box repeats; -1 if it does not repeat one.

    The numbers are those of `find_spots`, but any part of a camera's boxes will do.
    """
    found = np.full(len(boxes), -1, np.int32)
    middle, order, borders = _in_order(camera, boxes, np.arange(len(boxes)))
    begins = dict(zip(camera[order[borders[:-1]]].tolist(), pairwise(borders.tolist()), strict=True))
    for number, (of, box) in enumerate(zip(spots.camera.tolist(), spots.box, strict=True)):
        start, stop = begins.get(of, (0, 0))
        mine = order[start:stop]
        low, high = _window(middle[mine], box, iou)
        near = mine[low:high]
        near = near[found[near] < 0]
        found[near[overlap(boxes[near], box) >= iou]] = number
    return found


def _in_order(
    camera: npt.NDArray[np.int64], boxes: Numbers, frame: npt.NDArray[np.int64]
) -> tuple[Numbers, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The middle of each box from left to right; the boxes that may be repeats, by camera, then by middle, so
    that boxes that may overlap are neighbours; where each camera's begin in these, and the end."""
    small = np.flatnonzero((camera >= 0) & (boxes[:, 2] * boxes[:, 3] <= MOST_AREA))
    middle = np.asarray(boxes[:, 0] + boxes[:, 2] / 2, np.float32)
    order = small[np.lexsort((frame[small], middle[small], camera[small]))]  # ties in a fixed order
    begins = np.flatnonzero(np.diff(camera[order])) + 1
    return middle, order, np.concatenate([[0], begins, [len(order)]]) if len(order) else np.zeros(1, np.int64)


def _some_at_once(borders: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """The borders of some consecutive cameras, with `_AT_ONCE` boxes or a little more."""
    first = 0
    while first < len(borders) - 1:
        last = max(first + 1, int(np.searchsorted(borders, borders[first] + _AT_ONCE)))
        yield borders[first : last + 1]
        first = min(last, len(borders) - 1)


def _crowded(boxes: Numbers, borders: npt.NDArray[np.int64], iou: float, least: int) -> npt.NDArray[np.int64]:
    """Boxes that may be among `least` of their camera that overlap one this much; few others are kept.

    Such boxes differ little in size and in place. In a grid that is twice as coarse as this difference, or in
    one shifted by half a cell, they are in the same cell.

    Parameters
    ----------
    borders : where each camera's boxes begin, and where the last one's end

    Returns
    -------
    Indices, ascending.
    """
    step = max(4 * np.log(1 / iou), 0.05)
    slack = 2 * (1 - iou) / iou
    cells: list[list[npt.NDArray[np.int64]]] = [[], []]
    for side, (of_size, of_middle) in product((0, 1), product((0.0, 0.5), repeat=2)):
        size = np.maximum(boxes[:, 2 + side], 1e-4)
        bin_ = np.floor(np.log(size) / step + of_size)
        cell = np.maximum(np.exp((bin_ + 1 - of_size) * step) * slack, 2e-6)
        cell_of = np.floor((boxes[:, side] + size / 2) / cell + of_middle)
        cells[side].append((bin_ + 2**9).astype(np.int64) << 20 | cell_of.astype(np.int64))
    found = np.zeros(len(boxes), bool)
    cameras = [(start, stop) for start, stop in pairwise(borders.tolist()) if stop - start >= least]
    for across, down in product(*cells):
        key = across << 30 | down
        for start, stop in cameras:
            in_order = np.sort(key[start:stop])
            is_full = in_order[least - 1 :] == in_order[: stop - start - least + 1]
            if is_full.any():
                found[start:stop] |= np.isin(key[start:stop], in_order[least - 1 :][is_full])
    return np.flatnonzero(found)


def _spots(
    boxes: Numbers, middle: Numbers, frame: npt.NDArray[np.int64], iou: float, min_frames: int
) -> Iterator[tuple[npt.NDArray[np.int64], Numbers]]:
    """The boxes of each spot, and the box that all of them overlap."""
    reach = _reach(iou)
    free = np.ones(len(boxes), bool)

    def around(box: Numbers) -> npt.NDArray[np.int64]:
        low, high = _window(middle, box, iou)
        near = np.flatnonzero(free[low:high]) + low
        return np.asarray(near[overlap(boxes[near], box) >= iou])

    low = np.searchsorted(middle, middle - reach * boxes[:, 2])
    high = np.searchsorted(middle, middle + reach * boxes[:, 2], side="right")
    in_vain: set[bytes] = set()  # equal boxes have equal answers, until some of those around are taken
    for row in np.flatnonzero(high - low >= min_frames):
        if not free[row] or np.count_nonzero(free[low[row] : high[row]]) < min_frames:
            continue
        box = boxes[row]
        if (key := box.tobytes()) in in_vain:
            continue
        members = around(box)
        # A box at the edge of the spot may have too few around it: look from the spot's middle.
        for _ in range(_ROUNDS):
            if len(members) < max(2, min_frames // 4):
                break
            box = np.median(boxes[members], axis=0).astype(np.float32)
            members = around(box)
        if len(np.unique(frame[members])) >= min_frames:
            free[members] = False
            in_vain.clear()
            yield members, box
        else:
            in_vain.add(key)


def _reach(iou: float) -> float:
    """The middles of boxes that overlap this much are no further apart than this fraction of the width."""
    return (1 - iou) / (2 * iou) + 1e-6


def _window(middle: Numbers, box: Numbers, iou: float) -> tuple[int, int]:
    """Between which of the ascending middles those of boxes that overlap this one are."""
    centre, reach = box[0] + box[2] / 2, _reach(iou) * box[2]
    low, high = np.searchsorted(middle, [centre - reach, centre + reach])
    return int(low), int(high)


def overlap(boxes: Numbers, box: Numbers) -> Numbers:
    """Intersection over union of boxes (n, 4) with one (4,)."""
    width = np.minimum(boxes[:, 0] + boxes[:, 2], box[0] + box[2]) - np.maximum(boxes[:, 0], box[0])
    height = np.minimum(boxes[:, 1] + boxes[:, 3], box[1] + box[3]) - np.maximum(boxes[:, 1], box[1])
    both = np.maximum(width, 0) * np.maximum(height, 0)
    union = boxes[:, 2] * boxes[:, 3] + box[2] * box[3] - both
    return np.asarray(both / np.maximum(union, 1e-9))
