"""Classify images with a saved model: decoding on threads, the network beside it."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from camtrap_batch import phases
from camtrap_batch.detection.crops import Picture, decode_picture
from camtrap_batch.images.framing import Framing, frame
from camtrap_batch.images.pixels import Pixels, make_thumbnail
from camtrap_batch.model.device import Autocast, Normalise, choose_device, choose_precision, choose_threads
from camtrap_batch.model.info import read_info
from camtrap_batch.model.package import load_model
from camtrap_batch.model.precision import Observed, load_observed, make_ready, name_of
from camtrap_batch.runtime.stream import beside, in_order

Probabilities = npt.NDArray[np.float32]

_KEPT = 2  # models a process holds: the one in use, and one more while a job changes over
_TOGETHER = 8  # pictures decoded by one call of a thread: less of the interpreter's lock, still even
_BATCHES_AHEAD = 2
_OUT_OF_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")

_loaded: OrderedDict[tuple[object, ...], Predictor] = OrderedDict()
_preloaded: dict[str, nn.Module] = {}  # of the model that is wanted next, by its id
_loading = threading.Lock()


class Predictor:
    """A model, ready to classify; may be used from several threads.

    Parameters
    ----------
    folder
        Model folder.
    device
        "auto" (CUDA where torch finds it), "cpu" or "cuda".
    threads
        Threads of torch and of decoding; None: one for each CPU this process may use. Beside a GPU all
        CPUs decode.
    batch
        Most images in a forward pass; halved when memory runs out.
    precision
        What to compute in; None: bfloat16 where the hardware supports it, otherwise float16 (GPU) or float32.
        `precision` says which are possible.
    observed
        For int8: ranges of the network's values; None: those kept with the model.
    margin
        What `classify` sees is computed again by `finer` where its two most probable classes are less than
        this apart, so that its label is that of float32. 0: never.
    finer
        The same model in a more exact precision; None: in float32.
    network
        The folder's, where it is loaded already; several predictors may share it.

    Raises
    ------
    InputError
        The folder holds no intact model, or no ranges where they are needed.
    JobError
        "cuda" where there is none.
    """

    _network: nn.Module

    def __init__(
        self,
        folder: str | Path,
        device: str = "auto",
        threads: int | None = None,
        batch: int = 64,
        precision: torch.dtype | None = None,
        observed: Observed | None = None,
        margin: float = 0.0,
        finer: Predictor | None = None,
        network: nn.Module | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.threads = choose_threads(threads)
        self.decoders = choose_threads(None) if self.device.type == "cuda" else self.threads
        self.batch = batch
        self.precision = precision or choose_precision(self.device)
        if network is None:
            network, self.info = load_model(folder)
        else:
            self.info = read_info(folder)
        if self.precision == torch.int8 and observed is None:
            observed = load_observed(folder)
        self.margin = margin if self.precision != torch.float32 else 0.0
        if self.margin and finer is None:
            finer = Predictor(folder, device, threads, batch, torch.float32, network=network)
        self.finer = finer if self.margin else None
        whole = self.finer._network if self.finer else None
        self._network = (
            Autocast(whole.network, self.precision)  # of the same weights
            if isinstance(whole, Autocast) and self.precision != torch.int8
            else make_ready(network, self.device, self.precision, observed)
        )
        self._normalise = Normalise(self.info.mean, self.info.std, self.device)
        self._lock = threading.Lock()

    def predict(self, jpegs: Sequence[bytes]) -> Probabilities:
        """Calibrated probabilities of images, each seen as a whole.

        Parameters
        ----------
        jpegs
            Image files' bytes.

        Returns
        -------
        Shape (n, classes), float32, in the order of `info.classes`.

        Raises
        ------
        ValueError
            An image does not decode; its index in `jpegs` is named.
        """
        answers = [np.empty((0, len(self.info.classes)), np.float32)]
        for index, answer in enumerate(self.classify(Picture(data) for data in jpegs)):
            if isinstance(answer, str):
                raise ValueError(f"image {index}: {answer}")
            answers.append(answer)
        return np.concatenate(answers)

    def classify(self, pictures: Iterable[Picture], tally: Tally | None = None) -> list[Probabilities | str]:
        """Calibrated probabilities of whatever each picture says is to be looked at.

        Pictures are taken from the iterator, decoded and put together to batches on threads, some batches
        ahead of the network. Which picture comes into which batch depends on their order alone.

        Parameters
        ----------
        pictures
            In the order in which they shall be done; reading may take its time.
        tally
            What this takes is added to it.

        Returns
        -------
        For each picture: shape (boxes or 1, classes), float32, in the order of `info.classes`; or why it
        does not decode.
        """
        found: list[int | str] = []  # squares of each picture
        answers = _Answers(self)
        tally = tally or Tally()
        asked = time.perf_counter()
        for pixels in beside(self._batches(pictures, found), _BATCHES_AHEAD):
            got = time.perf_counter()
            answers.add(pixels)
            tally.read_s += got - asked
            asked = time.perf_counter()
            tally.forward_s += asked - got
        ended = time.perf_counter()
        rows = iter(answers.all())
        tally.read_s += ended - asked
        tally.forward_s += time.perf_counter() - ended
        answers.count_again(tally.again)
        return [
            item if isinstance(item, str) else np.stack([next(rows) for _ in range(item)]) for item in found
        ]

    def squares(self, pictures: Iterable[Picture]) -> Pixels:
        """What the network sees of those pictures that decode: shape (n, size, size, 3)."""
        nothing = np.empty((0, self.info.size, self.info.size, 3), np.uint8)
        return np.concatenate([nothing, *self._batches(pictures, [])])

    def network_input(self, pixels: Pixels) -> torch.Tensor:
        """What the network is given for squares (n, size, size, 3): float32 (n, 3, size, size)."""
        return self._normalise(torch.from_numpy(pixels))

    def forward(self, pixels: Pixels) -> Iterator[Probabilities]:
        """Calibrated probabilities of squares (n, size, size, 3), in parts of at most `batch`.

        `margin` is not looked at.
        """
        start, move = 0, phases.progress()
        while start < len(pixels):
            part = pixels[start : start + self.batch]
            try:
                yield self._probabilities(torch.from_numpy(part))
            except RuntimeError as problem:
                if not _is_out_of_memory(problem) or len(part) == 1:
                    raise
                self.batch = max(1, len(part) // 2)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            start += len(part)
            move()

    def _batches(self, pictures: Iterable[Picture], found: list[int | str]) -> Iterator[Pixels]:
        """Squares, `batch` at a time; how many each picture has is added to `found`, or why it has none."""
        size = self.batch
        waiting: list[Pixels] = []
        number = 0
        with ThreadPoolExecutor(self.decoders, thread_name_prefix="decode") as pool:
            ahead = max(2 * self.decoders, size // _TOGETHER)
            for decoded in in_order(pool, self._decode, _together(pictures), ahead):
                found += [item if isinstance(item, str) else len(item) for item in decoded]
                for squares in decoded:
                    if not isinstance(squares, str):
                        waiting.append(squares)
                        number += len(squares)
                while number >= size:
                    together = np.concatenate(waiting)
                    yield together[:size]
                    waiting, number = [together[size:]], number - size
        if number:
            yield np.concatenate(waiting)

    def _decode(self, pictures: Sequence[Picture]) -> list[Pixels | str]:
        decoded: list[Pixels | str] = []
        for picture in pictures:
            try:
                decoded.append(decode_picture(picture, self.info.framing))
            except (ValueError, OSError) as problem:
                decoded.append(str(problem))
        return decoded

    def _probabilities(self, pixels: torch.Tensor) -> Probabilities:
        with self._lock, torch.inference_mode():
            # Of this thread: OpenMP's setting belongs to the thread that made it, and Dask's nanny says 1.
            torch.set_num_threads(self.threads)
            logits = self._network(self._normalise(pixels))
            probs: Probabilities = torch.softmax(logits / self.info.temperature, 1).cpu().numpy()
        return probs


@dataclass
class Tally:
    """What classifying took.

    Attributes
    ----------
    read_s, forward_s
        Seconds of waiting for pixels, and in the network.
    again
        Precision -> how many squares were computed again in it.
    """

    read_s: float = 0.0
    forward_s: float = 0.0
    again: Counter[str] = field(default_factory=Counter)


class _Answers:
    """Probabilities of squares; near ties are handed on to the finer predictor, as many as make a batch."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._batch = predictor.batch
        self._answers = [np.empty((0, len(predictor.info.classes)), np.float32)]
        self._number = 0
        self._near: list[int] = []
        self._waiting: list[Pixels] = []
        self._finer = _Answers(predictor.finer) if predictor.finer else None

    def add(self, pixels: Pixels) -> None:
        """Compute the next squares."""
        answers = np.concatenate(list(self._predictor.forward(pixels)))
        self._answers.append(answers)
        near = np.flatnonzero(lead(answers) < self._predictor.margin)
        self._near += (self._number + near).tolist()
        self._number += len(answers)
        if len(near):
            self._waiting.append(pixels[near])
        if sum(map(len, self._waiting)) >= self._batch:
            self._hand_on()

    def all(self) -> Probabilities:
        """Of all squares, in their order."""
        answers = np.concatenate(self._answers)
        if self._finer and self._near:
            self._hand_on()
            answers[self._near] = self._finer.all()
        return answers

    def count_again(self, again: Counter[str]) -> None:
        """Add how many were near ties."""
        if self._finer and self._near:
            again[name_of(self._finer._predictor.precision)] += len(self._near)
            self._finer.count_again(again)

    def _hand_on(self) -> None:
        if self._finer and self._waiting:
            self._finer.add(np.concatenate(self._waiting))
            self._waiting = []


def lead(answers: Probabilities) -> npt.NDArray[np.float32]:
    """How far the most probable class of each row is before the next one; 1 where there is no other."""
    if answers.shape[1] < 2:
        return np.ones(len(answers), np.float32)
    top: npt.NDArray[np.float32] = np.partition(answers, -2, axis=1)
    return top[:, -1] - top[:, -2]


def load_predictor(
    folder: str | Path,
    device: str = "auto",
    threads: int | None = None,
    batch: int = 64,
    steps: Sequence[tuple[torch.dtype | None, float]] = ((None, 0.0),),
) -> Predictor:
    """A `Predictor` that this process keeps: the second call for the same model loads nothing.

    Parameters
    ----------
    folder, device, threads, batch
        As for `Predictor`.
    steps
        Precision and margin of the predictor, of its finer one, and so on.

    Raises
    ------
    InputError, JobError
        As `Predictor` does.
    """
    model_id = read_info(folder).model_id
    key = (model_id, device, threads, batch, tuple(steps))
    with _loading:
        if key in _loaded:
            _loaded.move_to_end(key)
        else:
            network = _preloaded.pop(model_id, None)
            if network is None:
                network, _ = load_model(folder)
            _loaded[key] = _in_steps(folder, device, threads, batch, steps, network)
            while len(_loaded) > _KEPT:
                _loaded.popitem(last=False)
        return _loaded[key]


def _in_steps(
    folder: str | Path,
    device: str,
    threads: int | None,
    batch: int,
    steps: Sequence[tuple[torch.dtype | None, float]],
    network: nn.Module,
) -> Predictor:
    (precision, margin), *rest = steps
    finer = None
    if rest and precision != torch.float32:
        finer = _in_steps(folder, device, threads, batch, rest, network)
    return Predictor(folder, device, threads, batch, precision, None, margin, finer, network)


def preload(folder: str | Path) -> None:
    """Load what `load_predictor` will want in this process whatever the precision, and the decoder.

    Raises InputError as `Predictor` does.
    """
    frame(make_thumbnail(np.zeros((8, 8, 3), np.uint8), 8, 85).jpeg, Framing(8))
    network, info = load_model(folder)
    with _loading:
        _preloaded.clear()
        _preloaded[info.model_id] = network


def _together(pictures: Iterable[Picture]) -> Iterator[list[Picture]]:
    some = iter(pictures)
    while part := list(islice(some, _TOGETHER)):
        yield part


def _is_out_of_memory(problem: RuntimeError) -> bool:
    text = str(problem)
    return isinstance(problem, torch.OutOfMemoryError) or any(words in text for words in _OUT_OF_MEMORY)
