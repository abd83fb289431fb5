"""Images for training, decoded on threads as `images.framing` says, and kept as far as memory permits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from camtrap_batch.images import decode_upright
from camtrap_batch.images.framing import Framing, frame
from camtrap_batch.images.pixels import Pixels

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 8  # images decoded per call of a thread: less contention for the interpreter's lock, still balanced


class Decoder:
    """Decodes images on threads, and keeps as many as fit.

    Parameters
    ----------
    files
        Bytes of image files; read from several threads.
    size
        Side of the square, in pixels.
    threads
        How many images are decoded at once.
    cache_bytes
        Memory for decoded images.
    margin
        Pixels around the square on each side, if the files are crops, which must have exactly that size.
    """

    def __init__(
        self, files: Sequence[bytes], size: int, threads: int, cache_bytes: int = 0, margin: int = 0
    ) -> None:
        self.size, self.margin, self.side = size, margin, size + 2 * margin
        """Width and height of the pictures in pixels, with the square in the middle."""
        self._framing = Framing(size)
        self.failed: dict[int, str] = {}
        """Images that could not be read or decoded: index in `files` -> reason."""
        self._files = files
        # Pages of an empty array are allocated only when a picture is written to them.
        room = min(len(files), cache_bytes // (self.side * self.side * 3))
        self._cache = np.empty((room, self.side, self.side, 3), np.uint8)
        self._cached = np.zeros(room, bool)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._lock = threading.Lock()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def get(self, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Pixels]:
        """The images of `indices` that decode: their indices (n,), and pixels (n, side, side, 3)."""
        batch = np.empty((len(indices), self.side, self.side, 3), np.uint8)
        room = len(self._cached)
        cached = np.zeros(len(indices), bool)
        inside = np.flatnonzero(indices < room)
        cached[inside] = self._cached[indices[inside]]
        batch[cached] = self._cache[indices[cached]]
        todo = np.flatnonzero(~cached)
        parts = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
        for _ in self._pool.map(lambda rows: self._fill(batch, indices, rows), parts):
            pass
        good = np.fromiter((index not in self.failed for index in indices.tolist()), bool, len(indices))
        return (indices, batch) if good.all() else (indices[good], batch[good])

    def _fill(self, batch: Pixels, indices: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> None:
        for row in rows.tolist():
            index = int(indices[row])
            if index in self.failed:
                continue
            try:
                batch[row] = self._decode(self._files[index])
            except (ValueError, OSError) as problem:
                with self._lock:
                    self.failed[index] = str(problem)
                continue
            if index < len(self._cached):
                self._cache[index] = batch[row]
                self._cached[index] = True

    def _decode(self, data: bytes) -> Pixels:
        if not self.margin:
            return frame(data, self._framing)
        pixels = decode_upright(data, self.side)
        if pixels.shape != (self.side, self.side, 3):
            raise ValueError(f"a crop of {pixels.shape[1]} x {pixels.shape[0]} pixels, not of {self.side}")
        return pixels


def ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map(work, items)`, computing the next result while the caller uses the last one."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        waiting = None
        for item in items:
            following = thread.submit(work, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
