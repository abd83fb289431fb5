"""How good the model is, from the figures of one split, in the order in which readers want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from camtrap_batch.report.text import is_known

MOST_CLASSES = 60
"""Maximum number of classes for a readable confusion matrix."""

_BINS = 10
_MOST_CONFUSED, _MOST_CAMERAS = 15, 10  # that a page lists


@dataclass(frozen=True)
class Confusion:
    """Images of class `truth` taken for `predicted`; `share` is relative to the images of class `truth`."""

    truth: str
    predicted: str
    n: int
    share: float


@dataclass(frozen=True)
class Spread:
    """Accuracy over cameras: how many are in each tenth, the median, and the cameras with the lowest."""

    tenths: list[int]
    median: float
    lowest: list[tuple[str, int, float]]


def class_rows(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The classes with their figures, those with the most images first."""
    per_class = metrics.get("per_class") or {}
    return sorted(per_class.items(), key=lambda item: (-(item[1].get("support") or 0), item[0]))


def most_frequent_share(metrics: Mapping[str, Any]) -> float | None:
    """Share of the images that are of the most frequent class: the accuracy of a majority-class baseline."""
    support = [figures.get("support") or 0 for _, figures in class_rows(metrics)]
    return max(support) / sum(support) if sum(support) else None


def matrix(
    metrics: Mapping[str, Any], most: int | None = MOST_CLASSES
) -> tuple[list[str], list[list[int]]] | None:
    """Classes and counts of a confusion matrix, those with the most images first.

    Only classes that occur, in truth or prediction; None if there are none, or more than `most`.
    """
    counts: Sequence[Sequence[int]] = metrics.get("confusion") or []
    classes: Sequence[str] = metrics.get("classes") or list(metrics.get("per_class") or {})
    support = [sum(row) for row in counts]
    used = [index for index in range(len(counts)) if support[index] or any(row[index] for row in counts)]
    if not used or (most is not None and len(used) > most) or len(classes) != len(counts):
        return None
    order = sorted(used, key=lambda index: (-support[index], classes[index]))
    return [classes[index] for index in order], [[counts[row][column] for column in order] for row in order]


def most_confused(metrics: Mapping[str, Any]) -> list[Confusion]:
    """The pairs of classes with the most mistakes."""
    counts: Sequence[Sequence[int]] = metrics.get("confusion") or []
    classes: Sequence[str] = metrics.get("classes") or list(metrics.get("per_class") or {})
    if len(classes) != len(counts):
        return []
    pairs = [
        Confusion(classes[i], classes[j], n, n / sum(row))
        for i, row in enumerate(counts)
        for j, n in enumerate(row)
        if n and i != j
    ]
    return sorted(pairs, key=lambda pair: (-pair.n, -pair.share, pair.truth, pair.predicted))[:_MOST_CONFUSED]


def camera_spread(metrics: Mapping[str, Any]) -> Spread | None:
    """How accuracy differs from camera to camera; None if it is not known."""
    cameras = metrics.get("by_location") or {}
    rows = [
        (camera or "unknown", int(entry["n"]), float(entry["accuracy"]))
        for camera, entry in cameras.items()
        if is_known(entry.get("accuracy"))
    ]
    if not rows:
        return None
    tenths = [0] * _BINS
    for _, _, accuracy in rows:
        tenths[min(int(accuracy * _BINS + 1e-9), _BINS - 1)] += 1
    lowest = sorted(rows, key=lambda row: (row[2], -row[1], row[0]))[:_MOST_CAMERAS]
    return Spread(tenths, median(accuracy for _, _, accuracy in rows), lowest)
