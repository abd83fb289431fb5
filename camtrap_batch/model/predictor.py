"""Classifies images with a saved model: decoding on threads, the network alongside."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from camtrap_batch import phases
from camtrap_batch.detection.crops import Picture, decode_picture
from camtrap_batch.images.framing import Framing, frame
from camtrap_batch.images.pixels import Pixels, make_thumbnail
from camtrap_batch.model.info import read_info
from camtrap_batch.runtime import count_threads
from camtrap_batch.runtime.stream import beside, in_order

if TYPE_CHECKING:  # a worker that uses another runtime never loads torch
    from torch import nn

Probabilities = npt.NDArray[np.float32]
Steps = Sequence[tuple[str | None, float]]

_KEPT = 2  # models that a process holds: the one in use, and one more while a job switches
_TOGETHER = 8  # pictures decoded per call of a thread: less contention for the lock, still balanced
_BATCHES_AHEAD = 2

_loaded: OrderedDict[tuple[object, ...], Predictor] = OrderedDict()
_preloaded: dict[str, nn.Module] = {}  # the network of the model needed next, by its id
_loading = threading.Lock()


class Forward(Protocol):
    """A network, ready for squares of pixels; may be used from several threads.

    Attributes
    ----------
    runtime : torch, openvino, ...
    precision : the precision it computes in
    """

    runtime: str
    precision: str

    def __call__(self, pixels: Pixels, temperature: float) -> Probabilities:
        """Probabilities (n, classes) of squares (n, size, size, 3), logits divided by the temperature.

        Raises
        ------
        MemoryError
            Memory ran out: fewer at once may do.
        """
        ...


class Predictor:
    """A model, ready to classify; may be used from several threads.

    Parameters
    ----------
    folder
        Model folder.
    device
        "auto" (CUDA if torch finds it), "cpu" or "cuda".
    threads
        Threads of the network and of decoding; None: one for each CPU this process may use. With a GPU, all
        CPUs decode.
    batch
        Maximum number of images in a forward pass; halved when memory runs out.
    precision
        Precision to compute in; None: bfloat16 if the hardware supports it, otherwise float16 (GPU) or
        float32. `on_torch` and `on_openvino` say which are possible.
    runtime
        torch or openvino; for the latter `networks` holds files that the check of precisions made.
    margin
        What `classify` sees is computed again by `finer` if its two most probable classes are less than this
        apart, so that its label is that of float32. 0: never.
    finer
        The same model in a more exact precision; None: in float32.
    network
        The folder's network, for torch, if it is already loaded; several predictors may share it.
    networks
        Folder of files for other runtimes; None: the model's.

    Raises
    ------
    InputError
        The folder holds no intact model.
    JobError
        "cuda" if there is none.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str = "auto",
        threads: int | None = None,
        batch: int = 64,
        precision: Any = None,
        *,
        runtime: str = "torch",
        margin: float = 0.0,
        finer: Predictor | None = None,
        network: nn.Module | None = None,
        networks: str | Path | None = None,
    ) -> None:
        self.info = read_info(folder)
        self.batch = batch
        self.threads = count_threads(threads)
        self.decoders = self.threads
        precision = _name(precision)
        is_exact = precision == "float32"
        if runtime == "torch" and network is None and finer is None:
            network = _load(folder)
        if margin and not is_exact and finer is None:
            finer = Predictor(
                folder, device, threads, batch, "float32", runtime=runtime, network=network, networks=networks
            )
        self.finer = finer if margin and not is_exact else None
        if runtime == "torch":
            self._forward: Forward = self._on_torch(network, device, precision)
        else:
            from camtrap_batch.model.on_openvino import OpenVinoForward

            self._forward = OpenVinoForward(
                Path(networks or folder), precision or "float32", self.threads, self.info.outputs
            )
        self.precision = self._forward.precision
        self.margin = margin if self.finer else 0.0

    def _on_torch(self, network: nn.Module | None, device: str, precision: str | None) -> Forward:
        from camtrap_batch.model.device import choose_device, choose_precision
        from camtrap_batch.model.on_torch import TorchForward, name_of

        where = choose_device(device)
        if where.type == "cuda":
            self.decoders = count_threads(None)
        precision = precision or name_of(choose_precision(where))
        like = self.finer._forward if self.finer else None
        if isinstance(like, TorchForward):
            return like.shared(precision)
        assert network is not None  # noqa: S101  # loaded above
        return TorchForward(network, self.info, where, precision, self.threads)

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
        """Calibrated probabilities of whatever each picture says is to be classified.

        Pictures are taken from the iterator, decoded and combined into batches on threads, some batches ahead
        of the network. Which picture goes into which batch depends only on their order.

        Parameters
        ----------
        pictures
            Pictures in the order in which to classify them; reading them may take time.
        tally
            The cost of this call is added to it.

        Returns
        -------
        For each picture: shape (boxes or 1, classes), float32, in the order of `info.classes`; or why it does
        not decode.
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

    def forward(self, pixels: Pixels) -> Iterator[Probabilities]:
        """Calibrated probabilities of squares (n, size, size, 3), in parts of at most `batch`.

        `margin` is ignored.
        """
        start, move = 0, phases.progress()
        while start < len(pixels):
            part = pixels[start : start + self.batch]
            try:
                yield self._probabilities(part)
            except MemoryError:
                if len(part) == 1:
                    raise
                self.batch = max(1, len(part) // 2)
                continue
            start += len(part)
            move()

    def _probabilities(self, pixels: Pixels) -> Probabilities:
        return self._forward(pixels, self.info.temperature)

    def _batches(self, pictures: Iterable[Picture], found: list[int | str]) -> Iterator[Pixels]:
        """Squares, `batch` at a time; how many each picture has is added to `found`, or why it has none."""
        size = self.batch
        waiting: list[Pixels] = []
        number = 0
        for squares in _decoded(pictures, self.info.framing, self.decoders, size // _TOGETHER):
            found.append(squares if isinstance(squares, str) else len(squares))
            if not isinstance(squares, str):
                waiting.append(squares)
                number += len(squares)
            while number >= size:
                together = np.concatenate(waiting)
                yield together[:size]
                waiting, number = [together[size:]], number - size
        if number:
            yield np.concatenate(waiting)


@dataclass
class Tally:
    """The cost of classifying.

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
        """Results of all squares, in order."""
        answers = np.concatenate(self._answers)
        if self._finer and self._near:
            self._hand_on()
            answers[self._near] = self._finer.all()
        return answers

    def count_again(self, again: Counter[str]) -> None:
        """Add the number of near ties."""
        if self._finer and self._near:
            again[self._finer._predictor.precision] += len(self._near)
            self._finer.count_again(again)

    def _hand_on(self) -> None:
        if self._finer and self._waiting:
            self._finer.add(np.concatenate(self._waiting))
            self._waiting = []


def lead(answers: Probabilities) -> npt.NDArray[np.float32]:
    """The lead of the most probable class of each row over the next one; 1 if there is no other."""
    if answers.shape[1] < 2:
        return np.ones(len(answers), np.float32)
    top: npt.NDArray[np.float32] = np.partition(answers, -2, axis=1)
    return top[:, -1] - top[:, -2]


def squares(pictures: Iterable[Picture], framing: Framing) -> Pixels:
    """What a network sees of the pictures that decode: shape (n, size, size, 3)."""
    nothing = np.empty((0, framing.size, framing.size, 3), np.uint8)
    decoded = _decoded(pictures, framing, count_threads(None), 0)
    return np.concatenate([nothing, *(item for item in decoded if not isinstance(item, str))])


def load_predictor(
    folder: str | Path,
    device: str = "auto",
    threads: int | None = None,
    batch: int = 64,
    steps: Steps = ((None, 0.0),),
    runtime: str = "torch",
    networks: Mapping[str, str] | None = None,
) -> Predictor:
    """A `Predictor` that this process keeps: the second call for the same model loads nothing.

    Parameters
    ----------
    folder, device, threads, batch, runtime
        As for `Predictor`.
    steps
        Precision and margin of the predictor, of its finer one, and so on.
    networks
        Files in the folder that the runtime computes -> the SHA-256 they should have.

    Raises
    ------
    InputError, JobError
        As for `Predictor`; or one of `networks` was changed.
    """
    model_id = read_info(folder).model_id
    named = tuple((_name(precision), margin) for precision, margin in steps)
    key = (model_id, device, threads, batch, named, runtime, tuple(sorted((networks or {}).items())))
    with _loading:
        if key in _loaded:
            _loaded.move_to_end(key)
        else:
            network = None
            if runtime == "torch":
                network = _preloaded.pop(model_id, None)
                network = network if network is not None else _load(folder)
            elif networks:
                from camtrap_batch.model.on_openvino import require_same

                require_same(Path(folder), networks)
            _loaded[key] = _in_steps(folder, device, threads, batch, named, runtime, network)
            while len(_loaded) > _KEPT:
                _loaded.popitem(last=False)
        return _loaded[key]


def _in_steps(
    folder: str | Path,
    device: str,
    threads: int | None,
    batch: int,
    steps: Steps,
    runtime: str,
    network: nn.Module | None,
) -> Predictor:
    (precision, margin), *rest = steps
    finer = None
    if rest and precision != "float32":
        finer = _in_steps(folder, device, threads, batch, rest, runtime, network)
    return Predictor(
        folder,
        device,
        threads,
        batch,
        precision,
        runtime=runtime,
        margin=margin,
        finer=finer,
        network=network,
    )


def preload(folder: str | Path, device: str = "cpu") -> None:
    """Load what `load_predictor` will need in this process whatever the precision, and the decoder.

    Raises InputError like `Predictor`.
    """
    info = read_info(folder)
    frame(make_thumbnail(np.zeros((8, 8, 3), np.uint8), 8, 85).jpeg, Framing(8))
    if device == "cpu":
        from camtrap_batch.model.on_openvino import is_there

        if is_there():  # torch is needed only if it turns out to be faster
            return
    network = _load(folder)
    with _loading:
        _preloaded.clear()
        _preloaded[info.model_id] = network


def _load(folder: str | Path) -> nn.Module:
    from camtrap_batch.model.package import load_model

    return load_model(folder)[0]


def _name(precision: Any) -> str | None:
    return None if precision is None else str(precision).removeprefix("torch.")


def _decoded(
    pictures: Iterable[Picture], framing: Framing, threads: int, ahead: int
) -> Iterator[Pixels | str]:
    """The squares of each picture, or why it does not decode; decoded on threads."""

    def decode(some: Sequence[Picture]) -> list[Pixels | str]:
        decoded: list[Pixels | str] = []
        for picture in some:
            try:
                decoded.append(decode_picture(picture, framing))
            except (ValueError, OSError) as problem:
                decoded.append(str(problem))
        return decoded

    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        for decoded in in_order(pool, decode, _together(pictures), max(2 * threads, ahead)):
            yield from decoded


def _together(pictures: Iterable[Picture]) -> Iterator[list[Picture]]:
    some = iter(pictures)
    while part := list(islice(some, _TOGETHER)):
        yield part
