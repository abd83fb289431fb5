"""Many images: read ahead on threads while one is decoded, each within its time."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from camtrap_batch.images.judge import Limits, Verdict, judge
from camtrap_batch.images.root import ImageRoot, is_unsafe

MOST_BYTES = 256 * 2**20
"""A file with more bytes is `too_large`."""

_READERS = 4
_AHEAD = 8
_TRIES = 3
_FIRST_PAUSE_S = 0.1


def judge_files(
    root: ImageRoot, file_names: Sequence[str], limits: Limits, *, clock: dict[str, float]
) -> Iterator[Verdict]:
    """A verdict for each file, in order.

    Parameters
    ----------
    clock : seconds spent waiting for `read`, and in `decode`, are added to it
    """
    clock.setdefault("read", 0.0)
    clock.setdefault("decode", 0.0)
    decoder = _Decoder()
    reads: deque[Future[bytes | Verdict]] = deque()
    with ThreadPoolExecutor(_READERS, "read") as readers:
        try:
            for place, file_name in enumerate(file_names):
                while len(reads) < _AHEAD and place + len(reads) < len(file_names):
                    reads.append(readers.submit(_read, root, file_names[place + len(reads)]))
                began = time.perf_counter()
                content = reads.popleft().result()
                read = time.perf_counter()
                clock["read"] += read - began
                if isinstance(content, Verdict):
                    yield content
                    continue
                verdict = decoder.judge(content, file_name, limits)
                if verdict is None:
                    decoder = _Decoder()
                    verdict = Verdict(
                        "unreadable", f"no result within {limits.timeout_s:g} s", bytes=len(content)
                    )
                clock["decode"] += time.perf_counter() - read
                yield verdict
        finally:
            decoder.close()
            for waiting in reads:
                waiting.cancel()


class _Decoder:
    """A thread that judges one image at a time, and can be left alone with one that hangs."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[bytes, str, Limits] | None] = queue.SimpleQueue()
        self._verdicts: queue.SimpleQueue[Verdict] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="decode", daemon=True).start()

    def judge(self, data: bytes, file_name: str, limits: Limits) -> Verdict | None:
        """The verdict, or None where there is none in time."""
        self._tasks.put((data, file_name, limits))
        try:
            return self._verdicts.get(timeout=limits.timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._verdicts.put(judge(*task))


def _read(root: ImageRoot, file_name: str) -> bytes | Verdict:
    if is_unsafe(file_name):
        return Verdict("unsafe_path", "not a path inside the image root; it was not opened")
    for attempt in range(_TRIES):
        try:
            data = root.read(file_name, MOST_BYTES)
        except FileNotFoundError:
            return Verdict("missing")
        except OSError as problem:
            # The reason alone: the full path would tie the row to where the folder is now.
            reason = problem.strerror or " ".join(str(problem).split())[:200]
            if isinstance(problem, IsADirectoryError | NotADirectoryError | PermissionError):
                return Verdict("unreadable", reason)
            if attempt + 1 < _TRIES:
                time.sleep(_FIRST_PAUSE_S * 2**attempt)
        else:
            if len(data) > MOST_BYTES:
                return Verdict("too_large", f"more than {MOST_BYTES} bytes")
            return data
    return Verdict("unreadable", reason)
