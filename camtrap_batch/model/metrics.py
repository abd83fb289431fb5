"""How good a classifier is: over all, per class, by day and night, per camera location."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support


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
        Shape (n,), or None where it is not known.

    Returns
    -------
    What JSON can hold. A figure that nothing is known of (recall of a class without an image, precision of a
    class never predicted) is None, and means leave it out. `balanced_accuracy` and `macro_f1` are means over
    the classes that have images here; `confusion[i][j]` counts images of class i taken for class j.
    """
    if len(truth) == 0:
        raise ValueError("no image to judge predictions on")
    labels = np.arange(len(classes))
    predicted = probs.argmax(axis=1)
    right = predicted == truth
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=labels, zero_division=np.nan
    )
    seen = support > 0
    top = np.argpartition(probs, -min(5, len(classes)), axis=1)[:, -5:]
    places = np.asarray(locations, dtype=object)
    return {
        "n_images": len(truth),
        "n_locations": len(set(locations)),
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
        "by_location": {place: _share(right[places == place]) for place in sorted(set(locations))},
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _share(right: npt.NDArray[np.bool_]) -> dict[str, Any]:
    return {"n": len(right), "accuracy": float(right.mean()) if len(right) else None}
