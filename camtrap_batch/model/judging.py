"""Judge a trained network on the splits that it has not learnt from."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from camtrap_batch.errors import StageError
from camtrap_batch.model.batches import EvalBatches
from camtrap_batch.model.calibration import (
    calibrated,
    cross_calibrated,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from camtrap_batch.model.device import Normalise
from camtrap_batch.model.metrics import evaluate
from camtrap_batch.model.pixels import Decoder
from camtrap_batch.model.samples import Samples

OnProgress = Callable[[dict[str, Any]], None]

REPORT_EVERY_S = 1.0
RANDOM = "random"
"""Split of training images that the model does not learn from, see `keep_random_images`."""

_RANDOM_SHARE, _RANDOM_MOST, _RANDOM_FEWEST = 0.05, 1000, 20
_WORST = 24
_MAIN = ("n_images", "n_locations", "accuracy", "balanced_accuracy", "macro_f1", "top5_accuracy", "ece")


def keep_random_images(samples: Samples, seed: int) -> Samples:
    """Move some random training images to a split of their own, `RANDOM`, as a split by image would.

    They are from the cameras that the model learns, mostly from sequences whose other frames it learns. The
    accuracy on them beside that on unseen cameras shows how much a random split flatters. A twentieth of the
    training images, 1,000 at most, from each class in proportion; none where that would be fewer than 20, or
    where the split is by image already, that is, where valid and train share a location.
    """
    splits = np.asarray(samples.splits, dtype=object)
    training = samples.of_split("train")
    locations = np.asarray(samples.locations, dtype=object)
    shared = set(locations[samples.of_split("valid")]) & set(locations[training])
    if shared - {""}:  # which camera an image without location is of, nobody knows
        return samples
    share = min(_RANDOM_SHARE, _RANDOM_MOST / max(len(training), 1))
    random = np.random.default_rng(seed)
    truth = samples.truth[training]
    chosen = [
        random.choice(training[truth == label], int(share * np.count_nonzero(truth == label)), replace=False)
        for label in range(len(samples.classes))
    ]
    if sum(map(len, chosen)) < _RANDOM_FEWEST:
        return samples
    splits[np.concatenate(chosen)] = RANDOM
    return dataclasses.replace(samples, splits=splits.tolist())


def judge(
    model: nn.Module,
    decoder: Decoder,
    samples: Samples,
    batch: int,
    normalise: Normalise,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """The figures of metrics.json, but for what it says of the training.

    `valid` and `test`: what `metrics.evaluate` gives, `ece`, `ece_uncalibrated` and `reliability` (see
    `calibration`), and `worst`: the images whose right class got least. The temperature is fitted on valid;
    so that valid's calibration error, too, is of images that the temperature was not fitted on, it is
    measured by `calibration.cross_calibrated`. `random_split`: the main figures on the images that
    `keep_random_images` kept.
    """
    metrics: dict[str, Any] = {}
    temperature = 1.0
    for split in ("valid", "test", RANDOM):
        indices = samples.of_split(split)
        if not len(indices):
            continue
        batches = EvalBatches(decoder, indices, indices, batch, normalise)
        logits, indices = _logits(model, batches, on_progress)
        truth = samples.truth[indices]
        locations = [samples.locations[index] for index in indices.tolist()]
        if split == "valid":
            temperature = fit_temperature(logits, truth)
            probs = cross_calibrated(logits, truth, locations)
        else:
            probs = calibrated(logits, temperature)
        night = samples.is_night
        figures = {
            **evaluate(probs, truth, samples.classes, locations, None if night is None else night[indices]),
            "ece": expected_calibration_error(probs, truth),
            "ece_uncalibrated": expected_calibration_error(calibrated(logits, 1.0), truth),
        }
        if split == RANDOM:
            metrics["random_split"] = {name: figures[name] for name in _MAIN} | {
                "accuracy_interval": figures["intervals"]["accuracy"]
            }
            continue
        metrics[split] = {
            **figures,
            "reliability": reliability(probs, truth),
            "worst": _worst(samples, calibrated(logits, temperature), truth, indices),
        }
    metrics["temperature"] = temperature
    return metrics


def summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The main figures of each split, for model.json."""
    return {
        split: {name: metrics[split][name] for name in _MAIN}
        for split in ("valid", "test", "random_split")
        if split in metrics
    }


def _worst(
    samples: Samples,
    probs: npt.NDArray[np.float32],
    truth: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int64],
) -> list[dict[str, Any]]:
    """The images whose right class got the smallest probability, the smallest first."""
    right = probs[np.arange(len(truth)), truth]
    chosen = np.argsort(right, kind="stable")[:_WORST]
    return [
        {
            "image_id": samples.image_ids[int(indices[row])],
            "truth": samples.classes[int(truth[row])],
            "predicted": samples.classes[int(probs[row].argmax())],
            "confidence": float(probs[row].max()),
            "p_truth": float(right[row]),
        }
        for row in chosen.tolist()
    ]


def _logits(
    model: nn.Module, batches: EvalBatches, on_progress: OnProgress
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Logits (n, classes) of the images that decode, and what the batches gave as their truth (n,)."""
    model.eval()
    answers: list[npt.NDArray[np.float32]] = []
    marks: list[npt.NDArray[np.int64]] = []
    began = told = time.perf_counter()
    with torch.inference_mode():
        for number, (images, mark) in enumerate(batches, 1):
            answers.append(model(images).cpu().numpy())
            marks.append(mark.cpu().numpy())
            now = time.perf_counter()
            if now - told >= REPORT_EVERY_S or number == len(batches):
                told = now
                speed = sum(map(len, answers)) / (now - began)
                on_progress(
                    {
                        "phase": "evaluate",
                        "epoch": 1,
                        "epochs": 1,
                        "batch": number,
                        "batches": len(batches),
                        "images_per_s": speed,
                    }
                )
    if not answers:
        raise StageError("none of the images to judge the model on can be decoded")
    return np.concatenate(answers), np.concatenate(marks)
