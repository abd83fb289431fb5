"""How well two ways of computing a detector agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from camtrap_batch.detection.base import Found

_SURE = 0.1  # boxes below this are useless
_MARGIN = 0.05  # a box that is surer by this much must be found both ways
_SAME = 0.8  # overlap of equal boxes
_LEAST_BOXES = 10
_MOST_LOST = 0.02
_MOST_APART = 0.01


@dataclass(frozen=True)
class Agreement:
    """What two ways of computing found in the same pictures.

    Attributes
    ----------
    boxes : number of boxes that the first way found with a confidence that counts
    lost : share of the surer boxes that only one of the two ways found
    apart : mean difference in confidence of boxes that both found
    """

    boxes: int
    lost: float
    apart: float

    @property
    def holds(self) -> bool:
        """Whether one way may replace the other: there are enough boxes, and both ways found nearly all."""
        return self.boxes >= _LEAST_BOXES and self.lost <= _MOST_LOST and self.apart <= _MOST_APART


def compare(exact: Sequence[Found], other: Sequence[Found]) -> Agreement:
    """Compare what was found in the same pictures, in the same order."""
    lost = surer = boxes = 0
    apart: list[float] = []
    for one, two in zip(exact, other, strict=True):
        overlaps = _overlaps(one, two)
        for mine, theirs, table in ((one, two, overlaps), (two, one, overlaps.T)):
            for box in np.flatnonzero(mine.confidence >= _SURE).tolist():
                same = table[box] >= _SAME
                if mine.confidence[box] >= _SURE + _MARGIN:
                    surer += 1
                    lost += not same.any()
                if mine is one:
                    boxes += 1
                    if same.any():
                        apart.append(float(np.abs(theirs.confidence[same] - mine.confidence[box]).min()))
    return Agreement(boxes, lost / max(surer, 1), float(np.mean(apart)) if apart else 0.0)


def _overlaps(one: Found, two: Found) -> npt.NDArray[np.float64]:
    """Intersection over union of every pair of boxes; 0 if their categories differ."""
    first, second = (
        np.concatenate([found.boxes[:, :2], found.boxes[:, :2] + found.boxes[:, 2:]], axis=1)
        for found in (one, two)
    )
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [found.boxes[:, 2:].prod(axis=1) for found in (one, two)]
    union = areas[0][:, None] + areas[1][None, :] - common
    same = one.category[:, None] == two.category[None, :]
    return np.asarray(np.where(same, common / np.maximum(union, 1e-12), 0.0), np.float64)
