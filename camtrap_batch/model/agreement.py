"""Which of the fast ways to compute a model is the fastest that gives the labels of float32.

A fast way errs by a little, and changes the label of an image whose two most probable classes are about as
probable. How much it errs is seen on a sample; where the two are closer than that, the image is computed
again in the next finer way, in the end in float32.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camtrap_batch.detection.crops import Picture
from camtrap_batch.images.pixels import Pixels
from camtrap_batch.model.package import load_model
from camtrap_batch.model.precision import Observed, candidates, name_of, observe
from camtrap_batch.model.predictor import Predictor, Probabilities, lead

MOST_AGAIN = 0.25
"""Most images, of the sample, that may have to be computed again: more would take what the fast way saves."""

MOST_DIFFERENCE = 0.01
"""Most that a class's probability may differ from that of float32, on average."""

_OBSERVED, _FEWEST_FOR_INTEGERS = 32, 200
"""Images on which ranges are observed; fewest others to compare on. Integers may be right for the sample and
wrong elsewhere, and what they save in a small job is less than their check takes."""

_WORTH = 0.8  # of the next best's time: integers have to gain something


def choose(
    folder: str | Path, device: str, batch: int, pictures: Iterable[Picture]
) -> tuple[dict[str, Any], Observed | None]:
    """The fastest precision that agrees with float32.

    Parameters
    ----------
    folder, device, batch
        As for `Predictor`.
    pictures
        A sample.

    Returns
    -------
    found
        precision; steps, precision and margin of each (see `load_predictor`); device; images compared; of
        each precision tried `same_top1` (part of the images, none computed again), `difference` (mean, of the
        probabilities), `margin`, `again` (part of the images that are closer) and `images_per_s` (none
        computed again);
        `why_not` of those that can't be computed.
    observed
        For int8, what `Predictor` wants.
    """
    network, _ = load_model(folder)
    exact = Predictor(folder, device, None, batch, torch.float32, network=network)
    pixels = exact.squares(pictures)
    observing = pixels[:0]
    if len(pixels) >= _OBSERVED + _FEWEST_FOR_INTEGERS:
        # From all over the sample, as what is compared.
        is_observed = np.zeros(len(pixels), bool)
        is_observed[np.linspace(0, len(pixels) - 1, _OBSERVED).astype(int)] = True
        observing, pixels = pixels[is_observed], pixels[~is_observed]
    right, speed = _classify(exact, pixels)
    found: dict[str, Any] = {
        "precision": name_of(torch.float32),
        "steps": [[name_of(torch.float32), 0.0]],
        "device": exact.device.type,
        "images": len(pixels),
        "tried": {name_of(torch.float32): {"images_per_s": speed}},
        "why_not": {},
    }
    ranges: Observed | None = None
    # Seconds an image of the best so far: the whole, what is computed again included, and the first step.
    best = first = 1 / speed if speed else 0.0
    for precision in reversed(candidates(exact.device)[:-1]) if len(pixels) > 1 else []:
        name = name_of(precision)
        observed: Observed | None = None
        try:
            if precision == torch.int8:
                if not len(observing):
                    found["why_not"][name] = f"fewer than {_OBSERVED + _FEWEST_FOR_INTEGERS} images to try"
                    continue
                observed = observe(network, exact.network_input(observing), batch)
            quick = Predictor(folder, device, None, batch, precision, observed, network=network)
            answers, speed = _classify(quick, pixels)
        except (ValueError, RuntimeError, NotImplementedError) as problem:
            found["why_not"][name] = str(problem).partition("\n")[0]
            continue
        errors = np.abs(answers - right)
        # Two classes change places only where they are closer than both together err.
        margin = round(2 * float(errors.max()) + 1e-6, 6)
        again = float((lead(answers) < margin).mean())
        found["tried"][name] = {
            "same_top1": round(float((answers.argmax(1) == right.argmax(1)).mean()), 5),
            "difference": round(float(errors.mean()), 6),
            "margin": margin,
            "again": round(again, 5),
            "images_per_s": speed,
        }
        agrees = again <= MOST_AGAIN and errors.mean() <= MOST_DIFFERENCE
        # What is near in a finer precision is so in this one: it is computed again there as well.
        seconds = 1 / speed + again * first + (best - first)
        if agrees and (precision != torch.int8 or seconds <= _WORTH * best):
            found["precision"], found["steps"] = name, [[name, margin], *found["steps"]]
            ranges, best, first = observed, seconds, 1 / speed
    return found, ranges


def _classify(predictor: Predictor, pixels: Pixels) -> tuple[Probabilities, float]:
    """Probabilities, and images a second without the first batch, which makes things ready."""
    if len(pixels) < 2:
        return np.empty((0, len(predictor.info.classes)), np.float32), 0.0
    n_first = max(1, min(predictor.batch, len(pixels) // 4))
    answers = list(predictor.forward(pixels[:n_first]))
    began = time.perf_counter()
    answers += predictor.forward(pixels[n_first:])
    return np.concatenate(answers), round((len(pixels) - n_first) / (time.perf_counter() - began), 2)
