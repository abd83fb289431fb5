"""Confidences that mean what they say: temperature scaling and calibration error.

Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017 (arXiv 1706.04599).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_FOLDS = 5  # of cameras, for calibrating some by the others
_BINS = 15  # of confidence

LOWEST, HIGHEST = 0.05, 20.0
"""Bounds of the temperature: a valid split without any mistake would drive it to 0."""


def fit_temperature(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> float:
    """The temperature that maximises the likelihood of `truth` (Guo et al. 2017, section 4.2).

    Parameters
    ----------
    logits
        Shape (n, classes).
    truth
        Shape (n,): index of the right class.

    Returns
    -------
    What to divide logits by before the softmax, between LOWEST and HIGHEST.
    """
    if len(truth) == 0:
        raise ValueError("no image to fit a temperature on")
    exact = np.asarray(logits, np.float64)
    right = exact[np.arange(len(truth)), truth]
    # The mean negative log-likelihood is convex in 1/T; its slope there is the mean of what the softmax
    # expects of the logits minus the right one's. Halving the interval 60 times is exact to float64.
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(60):
        middle = (low + high) / 2
        slope = float(((_softmax(exact * middle) * exact).sum(axis=1) - right).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 2 / (low + high)


def calibrated(logits: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float32]:
    """Probabilities, shape (n, classes), float32, of logits (n, classes)."""
    return _softmax(np.asarray(logits, np.float64) / temperature).astype(np.float32)


def cross_calibrated(
    logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64], locations: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Like `calibrated`, with each camera's images at the temperature fitted on the other cameras' images.

    So calibration can be measured, as if they were new, on the images that the model's own temperature is
    fitted on. With a single location, the temperature is fitted on the images themselves, and the calibration
    error is a little too low.

    Parameters
    ----------
    truth        -1 if it is not known: such rows are calibrated, but no temperature is fitted on them.
    """
    names, location = np.unique(np.asarray(locations, str), return_inverse=True)
    known = truth >= 0
    whole = fit_temperature(logits[known], truth[known])
    if len(names) == 1:
        return calibrated(logits, whole)
    # The largest locations first, one to each fold in turn, so that folds have about the same size.
    fold_of = np.empty(len(names), np.int64)
    fold_of[np.argsort(-np.bincount(location), kind="stable")] = np.arange(len(names)) % _FOLDS
    fold = fold_of[location]
    probs = np.empty(logits.shape, np.float32)
    for number in np.unique(fold).tolist():
        inside = fold == number
        others = ~inside & known
        temperature = fit_temperature(logits[others], truth[others]) if others.any() else whole
        probs[inside] = calibrated(logits[inside], temperature)
    return probs


def expected_calibration_error(probs: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> float:
    """Mean difference between confidence and accuracy, weighted by images (Guo et al. 2017, equation 3)."""
    rows = reliability(probs, truth)
    total = sum(row["n"] for row in rows)
    return sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / total if total else 0.0


def reliability(probs: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """The reliability diagram: for each bin of confidence that has images, how they turned out.

    Returns
    -------
    Rows with `lower` (exclusive) and `upper` (inclusive) bound, `n` images, mean `confidence`, `accuracy`.
    """
    confidence = probs.max(axis=1).astype(np.float64)
    right = probs.argmax(axis=1) == truth
    edges = np.linspace(0, 1, _BINS + 1)
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, _BINS - 1)
    return [
        {
            "lower": float(edges[index]),
            "upper": float(edges[index + 1]),
            "n": int(inside.sum()),
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(right[inside].mean()),
        }
        for index in range(_BINS)
        if (inside := bin_of == index).any()
    ]


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probs
