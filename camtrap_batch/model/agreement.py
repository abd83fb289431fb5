"""Finds the fastest way to compute a model that gives the labels of float32.

A way is a runtime and a precision. A fast way is slightly inexact, which changes the label of an image whose
two most probable classes are about equally probable. A sample shows how large the errors are; if the two
classes are closer than that, the image is computed again in the next finer precision, in the end in float32.

On CPUs both OpenVINO and torch are available. OpenVINO is examined first, since it has integers; torch is
tried in full only if it is faster on a few images.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from camtrap_batch import phases
from camtrap_batch.detection.crops import Picture
from camtrap_batch.images.pixels import Pixels
from camtrap_batch.model import on_openvino
from camtrap_batch.model.device import choose_device
from camtrap_batch.model.info import ModelInfo
from camtrap_batch.model.on_torch import candidates
from camtrap_batch.model.package import load_model
from camtrap_batch.model.predictor import Predictor, Probabilities, lead, squares
from camtrap_batch.runtime import graphs

if TYPE_CHECKING:
    from torch import nn

MOST_AGAIN = 0.25
"""Largest fraction of the sample that may have to be computed again: more would cost what the fast way
saves."""

MOST_DIFFERENCE = 0.01
"""Largest mean difference of a class's probability from that of float32."""

_OBSERVED, _FEWEST_FOR_INTEGERS = 32, 200
"""Images on which ranges are observed; fewest others to compare on, as `margin_of` needs. What integers save
in a small job is less than their check takes."""

_WORTH = 0.8  # of the next best's time: integers have to gain something
_PROBED, _PROBED_PART = 24, 8
"""Runtimes are timed on at most `_PROBED` images, one in `_PROBED_PART` of the sample."""

_PROBES = 3  # runs; the first one is a warm-up
_CLEARLY = 1.2  # times as fast: otherwise the runtime stays
_COMPARED = 8  # images on which the answers of runtimes are compared
_SAME_NETWORK = 0.002  # most by which a probability may differ between two runtimes in float32


@dataclass
class _Way:
    """The best way found for a runtime.

    Attributes
    ----------
    steps : precision and margin of each step, see `load_predictor`
    right : its answers in float32
    tried : precision -> figures
    seconds : seconds per image, including what is computed again
    first : seconds per image in the first step alone
    """

    runtime: str
    steps: list[list[Any]]
    right: Probabilities
    tried: dict[str, dict[str, float]]
    seconds: float
    first: float

    @property
    def precision(self) -> str:
        return str(self.steps[0][0])

    @property
    def share(self) -> float:
        """The fraction of the first step's speed that remains when near ties are computed again."""
        return self.first / self.seconds if self.seconds else 1.0


def choose(
    folder: str | Path, device: str, batch: int, pictures: Iterable[Picture], threads: int, scratch: Path
) -> dict[str, Any]:
    """The fastest way that agrees with float32.

    Parameters
    ----------
    folder, device, batch
        As for `Predictor`.
    pictures
        A sample.
    threads
        Number of threads with which shards will be computed; the sample is computed on all CPUs.
    scratch
        An empty folder, for what a `Predictor` of the chosen way needs besides the model.

    Returns
    -------
    runtime, precision; steps, with the precision and margin of each (see `load_predictor`); networks, files
    in `scratch` and their SHA-256; device; images compared; for each precision tried in that runtime
    `same_top1` (fraction of the images, none computed again), `difference` (mean, of the probabilities),
    `margin`, `again` (fraction of the images that are closer) and `images_per_s` (none computed again, on all
    CPUs); `why_not`, reasons for what can't be computed; `runtimes`, if there are two, images per second of
    processor time in each one's fastest precision on `threads` threads.
    """
    network, info = load_model(folder)
    trial = _Trial(Path(folder), network, info, choose_device(device).type, batch, scratch)
    trial.look(squares(pictures, info.framing))
    names = candidates(choose_device(device))
    if (ours := trial.of_openvino()) is None:
        return trial.told(trial.compare("torch", names), {})
    speeds = {"openvino": trial.probe("openvino", ours.precision, threads)}
    speeds["torch"] = trial.probe("torch", names[0], threads)
    best = ours
    if speeds["torch"] > _CLEARLY * ours.share * speeds["openvino"]:
        theirs = trial.compare("torch", names, ours)
        if theirs.precision == names[0] and theirs.share * speeds["torch"] > ours.share * speeds["openvino"]:
            best = theirs
    return trial.told(best, speeds)


class _Trial:
    """One model on one sample."""

    def __init__(
        self, folder: Path, network: nn.Module, info: ModelInfo, device: str, batch: int, scratch: Path
    ) -> None:
        self.folder, self.network, self.info = folder, network, info
        self.device, self.batch, self.scratch = device, batch, scratch
        self.why_not: dict[str, str] = {}
        self.pixels = self.observed = np.empty((0, info.size, info.size, 3), np.uint8)
        self._integers: Future[None] | None = None

    def look(self, pixels: Pixels) -> None:
        """Use these squares as the sample."""
        self.pixels = pixels
        if len(pixels) >= _OBSERVED + _FEWEST_FOR_INTEGERS:
            # Taken from all over the sample, like those that are compared.
            is_observed = np.zeros(len(pixels), bool)
            is_observed[np.linspace(0, len(pixels) - 1, _OBSERVED).astype(int)] = True
            self.observed, self.pixels = pixels[is_observed], pixels[~is_observed]

    def predictor(self, runtime: str, precision: str, threads: int | None = None) -> Predictor:
        """The model, computed in this way. Raises ValueError if that is impossible."""
        if precision == "int8" and self._integers is not None:
            self._integers.result()
        return Predictor(
            self.folder,
            self.device,
            threads,
            self.batch,
            precision,
            runtime=runtime,
            network=self.network,
            networks=self.scratch,
        )

    def of_openvino(self) -> _Way | None:
        """The best way with OpenVINO; None if it can't be used."""
        if self.device != "cpu" or len(self.pixels) < 2 or not on_openvino.is_there():
            return None
        try:
            on_openvino.convert(self.network, self.info, self.scratch)
            phases.progress()()
        except ValueError as problem:
            self.why_not["openvino"] = str(problem)
            return None
        few = self.pixels[:_COMPARED]
        one, other = (
            np.concatenate(list(self.predictor(runtime, "float32").forward(few)))
            for runtime in ("openvino", "torch")
        )
        if (apart := float(np.abs(one - other).max())) > _SAME_NETWORK:
            self.why_not["openvino"] = f"its probabilities are up to {apart:.3f} off those of torch"
            return None
        names = on_openvino.candidates()
        if names[0] == "int8" and (reason := self._no_integers()):
            self.why_not["int8"] = reason
            names = names[1:]
        with ThreadPoolExecutor(1) as pool:
            if names[0] == "int8":
                # Quantising takes one CPU, and as long as float32 takes for the sample.
                move = phases.progress()
                self._integers = pool.submit(on_openvino.to_integers, self.observed, self.scratch, move)
            return self.compare("openvino", names)

    def _no_integers(self) -> str:
        if not len(self.observed):
            return f"fewer than {_OBSERVED + _FEWEST_FOR_INTEGERS} images to try"
        return "" if graphs.can_quantise() else "the package nncf is not installed"

    def compare(self, runtime: str, names: list[str], exact: _Way | None = None) -> _Way:
        """The best of these precisions.

        Parameters
        ----------
        names : precisions, the fastest first; the last one is float32
        exact : the result of another runtime, whose float32 answers and speed are used
        """
        if exact is not None:
            right, tried = exact.right, {"float32": exact.tried["float32"]}
        else:
            predictor = self.predictor(runtime, "float32")
            right, speed = _classify(predictor, self.pixels)
            if self._integers is not None:  # which took CPUs from it
                wait([self._integers])
                speed = _time(predictor, self.pixels[:_PROBED])
            tried = {"float32": {"images_per_s": speed}}
        speed = tried["float32"]["images_per_s"]
        seconds = 1 / speed if speed else 0.0
        best = _Way(runtime, [["float32", 0.0]], right, tried, seconds, seconds)
        for name in reversed(names[:-1]) if len(self.pixels) > 1 else []:
            try:
                answers, speed = _classify(self.predictor(runtime, name), self.pixels)
            except (ValueError, RuntimeError, NotImplementedError) as problem:
                self.why_not[name] = str(problem).partition("\n")[0]
                continue
            errors = np.abs(answers - right)
            margin = margin_of(answers, errors.max(axis=1), tight=name == "int8")
            again = float((lead(answers) < margin).mean())
            tried[name] = {
                "same_top1": round(float((answers.argmax(1) == right.argmax(1)).mean()), 5),
                "difference": round(float(errors.mean()), 6),
                "margin": margin,
                "again": round(again, 5),
                "images_per_s": speed,
            }
            agrees = again <= MOST_AGAIN and errors.mean() <= MOST_DIFFERENCE
            # Near ties in a finer precision are near ties in this one: they are computed again there, too.
            seconds = 1 / speed + again * best.first + (best.seconds - best.first)
            if agrees and (name != "int8" or seconds <= _WORTH * best.seconds):
                best = _Way(runtime, [[name, margin], *best.steps], right, tried, seconds, 1 / speed)
        return best

    def probe(self, runtime: str, precision: str, threads: int) -> float:
        """Images per second of processor time, for a few images, on this many threads.

        Other load on the machine must not decide, or two jobs would differ in their last digits.
        """
        few, seconds = self.pixels[: min(_PROBED, max(4, len(self.pixels) // _PROBED_PART))], []
        try:
            predictor = self.predictor(runtime, precision, threads)
            for _ in range(_PROBES):
                began = time.process_time()
                list(predictor.forward(few))
                seconds.append(time.process_time() - began)
        except (ValueError, RuntimeError, NotImplementedError):
            return 0.0
        return round(len(few) / max(min(seconds), 1e-6), 2)

    def told(self, way: _Way, speeds: dict[str, float]) -> dict[str, Any]:
        """See `choose`."""
        names = []
        if way.runtime == "openvino":
            names = on_openvino.files_for([str(precision) for precision, _ in way.steps])
        return {
            "runtime": way.runtime,
            "precision": way.precision,
            "steps": way.steps,
            "networks": on_openvino.hash_files(self.scratch, names),
            "device": self.device,
            "images": len(self.pixels),
            "tried": way.tried,
            "why_not": self.why_not,
            "runtimes": speeds,
        }


def margin_of(answers: Probabilities, errors: Probabilities, *, tight: bool) -> float:
    """The lead of the most probable class from which on a label is taken to be that of float32.

    Two classes change places only if the lead is no more than the sum of their errors, at most twice the
    image's error. So a lead of twice the largest error in the sample is enough for every image with no larger
    error; a sample of less than 200 has not seen the largest errors, and gets the same again as a reserve.

    Integers err most where the network is not sure, and so much there that this would concern a large part of
    all images. `tight` compares each image's lead with its own error: the result is the largest lead that is
    no more than four times the error, twice what could change the label. An image beyond it with a different
    label would have a larger such lead than any in the sample. Of n + 1 images one has the largest, and each
    is equally likely to be that one: so no more than 1 in n + 1 images is expected to be such, for a sample
    of 200 less than 0.5 %.

    Parameters
    ----------
    errors : the largest error of each image
    tight : for samples of 200 or more; a smaller one may have no image near a tie
    """
    is_small = len(errors) < _FEWEST_FOR_INTEGERS
    largest = (4 if is_small else 2) * float(errors.max())
    if not tight:
        return round(largest + 1e-6, 6)
    leads = lead(answers)
    unsafe = leads[leads <= 2 * (2 * errors)]
    return round(min(largest, float(unsafe.max()) if len(unsafe) else 0.0) + 1e-6, 6)


def _classify(predictor: Predictor, pixels: Pixels) -> tuple[Probabilities, float]:
    """Probabilities, and images per second without the first batch, which is a warm-up."""
    if len(pixels) < 2:
        return np.empty((0, len(predictor.info.classes)), np.float32), 0.0
    n_first = max(1, min(predictor.batch, len(pixels) // 4))
    answers = list(predictor.forward(pixels[:n_first]))
    began = time.perf_counter()
    answers += predictor.forward(pixels[n_first:])
    return np.concatenate(answers), _per_s(len(pixels) - n_first, began)


def _time(predictor: Predictor, pixels: Pixels) -> float:
    """Images per second, without a warm-up."""
    began = time.perf_counter()
    list(predictor.forward(pixels))
    return _per_s(len(pixels), began)


def _per_s(n: int, began: float) -> float:
    return round(n / (time.perf_counter() - began), 2)
