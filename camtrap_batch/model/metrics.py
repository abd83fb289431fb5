"""How good a classifier is: overall, per class, by day and night, per camera location."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
FEWEST_LOCATIONS = 3
"""With fewer locations there are no intervals: too few cameras to say how much they differ."""
_INTERVAL = (2.5, 97.5)  # percentiles
_Counts = npt.NDArray[np.int64]


def evaluate(
    probs: npt.NDArray[np.float32],
    truth: npt.NDArray[np.int64],
    classes: Sequence[str],
    locations: Sequence[str],
    is_night: npt.NDArray[np.bool_] | None,
) -> dict[str, Any]:
    """Judge predictions.

    Parameters
    ----------
    probs
        Shape (n, classes): calibrated probabilities.
    truth
        Shape (n,): index of the right class.
    classes
        Their labels, in order.
    locations
        Camera location of each image.
    is_night
        Shape (n,), or None if it is not known.

    Returns
    -------
    Values that JSON can hold. A figure that can't be known (recall of a class without an image, precision of
    a class never predicted) is None, and is left out of means. `balanced_accuracy` and `macro_f1` are means
    over the classes that have images here; `confusion[i][j]` counts images of class i taken for class j;
    `intervals` is the result of `bootstrap`.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support  # of the extra `train`

    if len(truth) == 0:
        raise ValueError("no image to judge predictions on")
    labels = np.arange(len(classes))
    predicted = probs.argmax(axis=1)
    right = predicted == truth
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=labels, zero_division=np.nan
    )
    seen = support > 0
    names, location = np.unique(np.asarray(locations, str), return_inverse=True)
    top = np.argpartition(probs, -min(5, len(classes)), axis=1)[:, -5:]
    return {
        "n_images": len(truth),
        "n_locations": len(names),
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(recall[seen].mean()),
        "macro_f1": float(np.nan_to_num(f1[seen]).mean()),
        "top5_accuracy": float((top == truth[:, None]).any(axis=1).mean()),
        "classes_without_images": [label for label, there in zip(classes, seen, strict=True) if not there],
        "per_class": {
            label: {
                "precision": _known(precision[index]),
                "recall": _known(recall[index]) if seen[index] else None,
                "f1": _known(f1[index]) if seen[index] else None,
                "support": int(support[index]),
            }
            for index, label in enumerate(classes)
        },
        "confusion": confusion_matrix(truth, predicted, labels=labels).tolist(),
        "by_light": {}
        if is_night is None
        else {name: _share(right[is_night == night]) for name, night in (("day", False), ("night", True))},
        "by_location": {name: _share(right[location == index]) for index, name in enumerate(names.tolist())},
        "intervals": bootstrap(predicted, truth, classes, location),
    }


def bootstrap(
    predicted: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
    classes: Sequence[str],
    location: npt.NDArray[np.int64],
) -> dict[str, Any]:
    """How much the figures would vary with other cameras: 95 % percentile intervals over locations.

    Whole camera locations are drawn with replacement (the cluster bootstrap), since images of one camera are
    alike: drawing images would give intervals much too narrow. See Efron and Tibshirani 1993, An Introduction
    to the Bootstrap, chapter 13. The draws are always the same.

    Parameters
    ----------
    predicted, truth
        Shape (n,): index of the predicted class, and of the right one.
    classes
        Their labels, in order.
    location
        Shape (n,): number of each image's camera location, from 0.

    Returns
    -------
    `accuracy`, `balanced_accuracy` and `macro_f1` as [low, high], and `per_class`: label -> `precision`,
    `recall`, `f1`. None if the images behind a figure are from fewer than FEWEST_LOCATIONS, or if no draw
    differs from another, as if there is not a single mistake: then nothing can be said.
    """
    n_locations, n_classes = int(location.max()) + 1, len(classes)

    def count(kind: npt.NDArray[np.int64], which: npt.NDArray[np.bool_] | None = None) -> _Counts:
        cells = location * n_classes + kind
        return np.bincount(
            cells if which is None else cells[which], minlength=n_locations * n_classes
        ).reshape(n_locations, n_classes)

    hits, support, taken = count(truth, predicted == truth), count(truth), count(predicted)
    random = np.random.default_rng(0)
    drawn = random.multinomial(n_locations, np.full(n_locations, 1 / n_locations), RESAMPLES).astype(
        np.float32
    )
    # float32 counts exactly up to 2**24, and is four times as fast.
    hit, true, said = (
        (drawn @ counts.astype(np.float32)).astype(np.float64) for counts in (hits, support, taken)
    )
    with np.errstate(invalid="ignore"):  # 0/0: the draw has no image of the class
        recall, precision, f1 = hit / true, hit / said, 2 * hit / (true + said)
    seen = true > 0
    enough = {
        "precision": np.count_nonzero(taken, 0) >= FEWEST_LOCATIONS,
        "recall": np.count_nonzero(support, 0) >= FEWEST_LOCATIONS,
    }
    enough["f1"] = enough["recall"]
    bounds = {name: np.full((2, n_classes), np.nan) for name in enough}
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        there = enough[name]
        if there.any():
            bounds[name][:, there] = np.nanpercentile(values[:, there], _INTERVAL, axis=0)
    n_seen = seen.sum(1)
    figures = {
        "accuracy": hit.sum(1) / true.sum(1),
        "balanced_accuracy": np.where(seen, recall, 0).sum(1) / n_seen,
        "macro_f1": np.where(seen, f1, 0).sum(1) / n_seen,
    }
    whole = n_locations >= FEWEST_LOCATIONS
    return {
        **{
            name: _interval(np.percentile(values, _INTERVAL)) if whole else None
            for name, values in figures.items()
        },
        "per_class": {
            label: {name: _interval(bounds[name][:, index]) for name in enough}
            for index, label in enumerate(classes)
        },
    }


def _interval(bounds: npt.NDArray[np.float64]) -> list[float] | None:
    low, high = bounds.tolist()
    return [low, high] if high > low else None


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _share(right: npt.NDArray[np.bool_]) -> dict[str, Any]:
    return {"n": len(right), "accuracy": float(right.mean()) if len(right) else None}
