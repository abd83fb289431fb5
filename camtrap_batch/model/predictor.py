"""Classify images with a saved model."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from camtrap_batch.images.pixels import Pixels
from camtrap_batch.model.device import (
    Autocast,
    Normalise,
    choose_device,
    choose_threads,
)
from camtrap_batch.model.info import read_info
from camtrap_batch.model.package import load_model
from camtrap_batch.model.pixels import Decoder, ahead

_KEPT = 2  # models a process holds: the one in use, and one more while a job changes over
_loaded: OrderedDict[tuple[str, str, int | None, int], Predictor] = OrderedDict()
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
        Threads of torch and of decoding; None: one for each CPU this process may use.
    batch
        Most images in a forward pass; halved when memory runs out.
    precision
        What to compute in; None: bfloat16 where the hardware has it, else float16 (GPU) or float32 (CPU).

    Raises
    ------
    InputError
        The folder holds no intact model.
    JobError
        "cuda" where there is none.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str = "auto",
        threads: int | None = None,
        batch: int = 64,
        precision: torch.dtype | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.threads = choose_threads(threads)
        self.batch = batch
        network, self.info = load_model(folder)
        self._network = Autocast.on(self.device, network, precision).eval().requires_grad_(False)
        self._normalise = Normalise(self.info.mean, self.info.std, self.device)
        self._lock = threading.Lock()

    def predict(self, jpegs: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Calibrated probabilities of images.

        Parameters
        ----------
        jpegs
            Image files' bytes; may read when indexed, from several threads.

        Returns
        -------
        Shape (n, classes), float32, in the order of `info.classes`.

        Raises
        ------
        ValueError
            An image does not decode; its place in `jpegs` is named.
        """
        answers = [np.empty((0, len(self.info.classes)), np.float32)]
        with Decoder(jpegs, self.info.size, self.threads) as decoder:

            def work(places: npt.NDArray[np.int64]) -> Pixels:
                _, pixels = decoder.get(places)
                for index, reason in decoder.failed.items():
                    raise ValueError(f"image {index}: {reason}")
                return pixels

            parts = np.split(np.arange(len(jpegs)), range(self.batch, len(jpegs), self.batch))
            for pixels in ahead(work, parts if len(jpegs) else []):
                answers.extend(self._forward(pixels))
        return np.concatenate(answers)

    def _forward(self, pixels: Pixels) -> Iterator[npt.NDArray[np.float32]]:
        start = 0
        while start < len(pixels):
            part = pixels[start : start + self.batch]
            try:
                yield self._probabilities(torch.from_numpy(part))
            except RuntimeError as problem:
                if not _out_of_memory(problem) or len(part) == 1:
                    raise
                self.batch = max(1, len(part) // 2)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            start += len(part)

    def _probabilities(self, pixels: torch.Tensor) -> npt.NDArray[np.float32]:
        with self._lock, torch.inference_mode():
            # Of this thread: OpenMP's setting belongs to the thread that made it, and Dask's nanny says 1.
            torch.set_num_threads(self.threads)
            logits = self._network(self._normalise(pixels))
            probs: npt.NDArray[np.float32] = torch.softmax(logits / self.info.temperature, 1).cpu().numpy()
        return probs


def load_predictor(
    folder: str | Path, device: str = "auto", threads: int | None = None, batch: int = 64
) -> Predictor:
    """A `Predictor` that this process keeps: the second call for the same model loads nothing.

    Parameters and errors as for `Predictor`.
    """
    key = (read_info(folder).model_id, device, threads, batch)
    with _loading:
        if key in _loaded:
            _loaded.move_to_end(key)
        else:
            _loaded[key] = Predictor(folder, device, threads, batch)
            while len(_loaded) > _KEPT:
                _loaded.popitem(last=False)
        return _loaded[key]


def _out_of_memory(problem: RuntimeError) -> bool:
    return isinstance(problem, torch.OutOfMemoryError) or "can't allocate memory" in str(problem)
