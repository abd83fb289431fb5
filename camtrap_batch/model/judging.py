"""Judges a trained network on the splits that it has not learnt from."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import nn

from camtrap_batch.detection.boxes import Look
from camtrap_batch.errors import StageError
from camtrap_batch.model.batches import EvalBatches
from camtrap_batch.model.calibration import (
    calibrated,
    cross_calibrated,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from camtrap_batch.model.decoding import Decoder
from camtrap_batch.model.device import Normalise
from camtrap_batch.model.metrics import evaluate
from camtrap_batch.model.samples import Frames, Samples

Indices = npt.NDArray[np.int64]
OnProgress = Callable[[dict[str, Any]], None]

REPORT_EVERY_S = 1.0
RANDOM = "random"
"""Split of training images that the model does not learn from, see `keep_random_images`."""

_RANDOM_SHARE, _RANDOM_MOST, _RANDOM_FEWEST = 0.05, 1000, 20
_WORST = 24
_MAIN = ("n_images", "n_locations", "accuracy", "balanced_accuracy", "macro_f1", "top5_accuracy", "ece")


def keep_random_images(samples: Samples, seed: int) -> Samples:
    """Move some random training images to a separate split, `RANDOM`, as a split by image would.

    They are from cameras that the model learns from, mostly from sequences whose other frames it learns from.
    The accuracy on them, compared with that on unseen cameras, shows how much a random split flatters. They
    are a twentieth of the training images, at most 1,000, from each class in proportion; none if that would
    be fewer than 20, or if the split is already by image, that is, if valid and train share a location. All
    crops of an image move with it.
    """
    images: Samples | Frames = samples.frames or samples
    splits = np.asarray(images.splits, dtype=object)
    training = images.of_split("train")
    locations = np.asarray(images.locations, dtype=object)
    shared = set(locations[images.of_split("valid")]) & set(locations[training])
    if shared - {""}:  # nobody knows which camera took an image without a location
        return samples
    share = min(_RANDOM_SHARE, _RANDOM_MOST / max(len(training), 1))
    random = np.random.default_rng(seed)
    truth = samples.index_of(images.labels)[training]
    chosen = [
        random.choice(training[truth == label], int(share * np.count_nonzero(truth == label)), replace=False)
        for label in range(len(samples.classes))
    ]
    if sum(map(len, chosen)) < _RANDOM_FEWEST:
        return samples
    splits[np.concatenate(chosen)] = RANDOM
    if samples.frames is None:
        return dataclasses.replace(samples, splits=splits.tolist())
    moved = {samples.frames.image_ids[index] for index in np.concatenate(chosen).tolist()}
    of_crops = [
        RANDOM if image_id in moved else split
        for image_id, split in zip(samples.image_ids, samples.splits, strict=True)
    ]
    frames = dataclasses.replace(samples.frames, splits=splits.tolist())
    return dataclasses.replace(samples, splits=of_crops, frames=frames)


def judge(
    model: nn.Module,
    decoder: Decoder,
    samples: Samples,
    batch: int,
    normalise: Normalise,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """The figures of metrics.json, except those about the training: see `judge_logits`."""

    def logits_of(indices: Indices) -> tuple[npt.NDArray[np.float32], Indices]:
        return _logits(model, EvalBatches(decoder, indices, indices, batch, normalise), on_progress)

    return judge_logits(logits_of, samples)


def judge_logits(
    logits_of: Callable[[Indices], tuple[npt.NDArray[np.float32], Indices]], samples: Samples
) -> dict[str, Any]:
    """The figures of metrics.json, except those about the training.

    `on`: what the model classifies, frames or crops. `valid` and `test`: the results of `metrics.evaluate`,
    with `ece`, `ece_uncalibrated` and `reliability` (see `calibration`), and `worst`: the images whose right
    class got the smallest probability. The temperature is fitted on valid; so that valid's calibration error
    is also measured on images that the temperature was not fitted on, `calibration.cross_calibrated` is used.
    `random_split`: the main figures on the images that `keep_random_images` kept.

    For a model of crops the figures are those of images, labelled as in a job (`detection.boxes`): an animal
    without a box counts as missed, a box without an animal as a mistake. `by_crop` has the main figures of
    the crops whose label is known.

    Parameters
    ----------
    logits_of
        Given indices in the samples: logits (n, classes), and the indices (n,) of those available.
    """
    metrics: dict[str, Any] = {"on": "frames" if samples.frames is None else "crops"}
    temperature = 1.0
    for split in ("valid", "test", RANDOM):
        indices = _to_judge(samples, split)
        if not len(indices):
            continue
        logits, indices = logits_of(indices)
        if split == "valid":
            known = samples.truth[indices] >= 0
            temperature = fit_temperature(logits[known], samples.truth[indices][known])
            locations = [samples.locations[index] for index in indices.tolist()]
            probs = cross_calibrated(logits, samples.truth[indices], locations)
        else:
            probs = calibrated(logits, temperature)
        ways = [probs, calibrated(logits, 1.0), calibrated(logits, temperature)]
        of_crops = _answered(samples, indices, ways)
        by_crop: dict[str, Any] = {}
        if samples.frames is None:
            judged = of_crops
        else:
            judged = _answered_images(samples, samples.frames, split, indices, ways)
            if of_crops.image_ids:
                by_crop = {"by_crop": _main(_figures(of_crops))}
        if not judged.image_ids:
            raise StageError("none of the images to judge the model on can be decoded")
        figures = _figures(judged)
        if split == RANDOM:
            metrics["random_split"] = {
                **_main(figures),
                "accuracy_interval": figures["intervals"]["accuracy"],
                **by_crop,
            }
            continue
        metrics[split] = {
            **figures,
            **by_crop,
            "reliability": reliability(judged.probs[0], judged.truth),
            "worst": _worst(judged),
        }
        if samples.frames is not None:
            metrics[split]["classes"] = judged.classes
    metrics["temperature"] = temperature
    return metrics


@dataclass(frozen=True)
class _Answers:
    """What a model says about labelled images, or crops.

    Attributes
    ----------
    classes : labels, in the order of the probabilities
    probs : (n, classes) each: calibrated, not calibrated, and calibrated by the model's own temperature
    truth : (n,) index of the right class
    """

    image_ids: Sequence[str]
    classes: list[str]
    probs: list[npt.NDArray[np.float32]]
    truth: Indices
    locations: list[str]
    is_night: npt.NDArray[np.bool_] | None


def _to_judge(samples: Samples, split: str) -> Indices:
    """Indices of what must be classified to judge a split."""
    indices = samples.of_split(split)
    if samples.frames is None:
        return indices
    of_images = [samples.frames.crops[index] for index in samples.frames.of_split(split).tolist()]
    return np.unique(np.concatenate([indices, *of_images]).astype(np.int64))


def _answered(samples: Samples, indices: Indices, ways: list[npt.NDArray[np.float32]]) -> _Answers:
    """Compute the answers for those of `indices` whose label is known."""
    known = np.flatnonzero(samples.truth[indices] >= 0)
    kept = indices[known]
    night = samples.is_night
    return _Answers(
        [samples.image_ids[index] for index in kept.tolist()],
        samples.classes,
        [probs[known] for probs in ways],
        samples.truth[kept],
        [samples.locations[index] for index in kept.tolist()],
        None if night is None else night[kept],
    )


def _answered_images(
    samples: Samples, frames: Frames, split: str, indices: Indices, ways: list[npt.NDArray[np.float32]]
) -> _Answers:
    """The answers for the images of a split, labelled by their boxes as in a job, without those that don't
    decode."""
    at = np.full(len(samples), -1)
    at[indices] = np.arange(len(indices))
    kept = [index for index in frames.of_split(split).tolist() if (at[frames.crops[index]] >= 0).all()]
    boxes = frames.boxes.take(pa.array(kept, pa.int64()))
    look = Look.at(boxes, frames.rules)
    classes = list(samples.classes)
    found = []
    for probs in ways:
        of_frames = np.zeros((len(kept), len(samples.classes)), np.float32)
        answers = {}
        for row, index in enumerate(kept):
            rows = at[frames.crops[index]]
            if not boxes[row].is_valid:
                of_frames[row] = probs[rows[0]]
            elif len(rows):
                answers[row] = probs[rows]
        named, _ = look.frames(of_frames, answers, samples.classes)
        found.append((of_frames, named))
        classes += sorted({label for label, _ in named.values()} - set(classes))
    full = []
    for of_frames, named in found:
        # Labels that are not classes of the model, such as person, are right or wrong as well.
        probs = np.hstack([of_frames, np.zeros((len(kept), len(classes) - of_frames.shape[1]), np.float32)])
        for row, (label, confidence) in named.items():
            probs[row] = 0
            probs[row, classes.index(label)] = confidence
        full.append(probs)
    night = frames.is_night
    return _Answers(
        [frames.image_ids[index] for index in kept],
        classes,
        full,
        samples.index_of([frames.labels[index] for index in kept]),
        [frames.locations[index] for index in kept],
        None if night is None else night[np.array(kept, np.int64)],
    )


def _figures(judged: _Answers) -> dict[str, Any]:
    probs, uncalibrated, _ = judged.probs
    return {
        **evaluate(probs, judged.truth, judged.classes, judged.locations, judged.is_night),
        "ece": expected_calibration_error(probs, judged.truth),
        "ece_uncalibrated": expected_calibration_error(uncalibrated, judged.truth),
    }


def _main(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in _MAIN}


def summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The main figures of each split, for model.json."""
    return {split: _main(metrics[split]) for split in ("valid", "test", "random_split") if split in metrics}


def _worst(judged: _Answers) -> list[dict[str, Any]]:
    """The images whose right class got the smallest probability, the smallest first."""
    probs, truth = judged.probs[-1], judged.truth
    right = probs[np.arange(len(truth)), truth]
    chosen = np.argsort(right, kind="stable")[:_WORST]
    return [
        {
            "image_id": judged.image_ids[row],
            "truth": judged.classes[int(truth[row])],
            "predicted": judged.classes[int(probs[row].argmax())],
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
