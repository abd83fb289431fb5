"""Judge a trained network on the splits that it has not learnt from."""

from __future__ import annotations

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
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from camtrap_batch.model.device import Normalise
from camtrap_batch.model.metrics import evaluate
from camtrap_batch.model.pixels import Decoder
from camtrap_batch.model.samples import Samples

Progress = Callable[[dict[str, Any]], None]

REPORT_EVERY_S = 1.0


def judge(
    model: nn.Module,
    decoder: Decoder,
    samples: Samples,
    batch: int,
    normalise: Normalise,
    on_progress: Progress,
) -> dict[str, Any]:
    """Figures of the splits valid and test, and the `temperature`, fitted on valid."""
    metrics: dict[str, Any] = {}
    temperature = 1.0
    for split in ("valid", "test"):
        indices = samples.of_split(split)
        if not len(indices):
            continue
        batches = EvalBatches(decoder, indices, indices, batch, normalise)
        logits, indices = _logits(model, batches, on_progress)
        truth = samples.truth[indices]
        if split == "valid":
            temperature = fit_temperature(logits, truth)
        probs = calibrated(logits, temperature)
        night = samples.is_night
        places = [samples.locations[index] for index in indices.tolist()]
        metrics[split] = {
            **evaluate(probs, truth, samples.classes, places, None if night is None else night[indices]),
            "ece": expected_calibration_error(probs, truth),
            "ece_uncalibrated": expected_calibration_error(calibrated(logits, 1.0), truth),
            "reliability": reliability(probs, truth),
        }
    metrics["temperature"] = temperature
    return metrics


def summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The main figures of each split, for model.json."""
    names = ("n_images", "n_locations", "accuracy", "balanced_accuracy", "macro_f1", "top5_accuracy", "ece")
    return {
        split: {name: metrics[split][name] for name in names}
        for split in ("valid", "test")
        if split in metrics
    }


def _logits(
    model: nn.Module, batches: EvalBatches, on_progress: Progress
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
