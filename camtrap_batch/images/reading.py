"""Many images: read ahead on threads while one is decoded, each within its time."""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from camtrap_batch.images.decode import one_line
from camtrap_batch.images.judge import Limits, Verdict, judge
from camtrap_batch.images.kinds import other_kind
from camtrap_batch.images.root import ImageRoot, is_unsafe

MOST_BYTES = 256 * 2**20
"""A file with more bytes is not read to its end."""

_READERS = 4
_AHEAD = 8
_TRIES = 3
_FIRST_PAUSE_S = 0.1
_LASTING = (  # reading again won't help
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.EINVAL,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)

_T = TypeVar("_T")


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
    readers, decoder = _Threads(_READERS, "read"), _Threads(1, "decode")
    reads: deque[Future[bytes | Verdict]] = deque()
    try:
        for place, file_name in enumerate(file_names):
            while len(reads) < _AHEAD and place + len(reads) < len(file_names):
                reads.append(readers.submit(_read, root, file_names[place + len(reads)], limits))
            began = time.perf_counter()
            content = _in_time(reads.popleft(), limits)
            if content is None:
                content = Verdict("unreadable", f"not read within {limits.timeout_s:g} s")
                readers.close()
                readers = _Threads(_READERS, "read")
                for ahead, waiting in enumerate(reads):
                    if waiting.cancel():
                        name = file_names[place + 1 + ahead]
                        reads[ahead] = readers.submit(_read, root, name, limits)
            read = time.perf_counter()
            clock["read"] += read - began
            if isinstance(content, Verdict):
                yield content
                continue
            verdict = _in_time(decoder.submit(judge, content, file_name, limits), limits)
            if verdict is None:
                verdict = Verdict(
                    "unreadable", f"not decoded within {limits.timeout_s:g} s", bytes=len(content)
                )
                decoder.close()
                decoder = _Threads(1, "decode")
            clock["decode"] += time.perf_counter() - read
            yield verdict
    finally:
        for waiting in reads:
            waiting.cancel()
        readers.close()
        decoder.close()


class _Threads:
    """Threads for calls that may hang: they can be left alone, and don't keep the process from ending.

    (`ThreadPoolExecutor` waits for its threads, at the latest when the interpreter exits.)
    """

    def __init__(self, number: int, name: str) -> None:
        self._number = number
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        for _ in range(number):
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, function: Callable[..., _T], *args: object) -> Future[_T]:
        future: Future[_T] = Future()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*args))
                except BaseException as problem:
                    future.set_exception(problem)

        self._calls.put(call)
        return future

    def close(self) -> None:
        """Let each thread end when it is done with its call."""
        for _ in range(self._number):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # and the image that it holds


def _in_time(future: Future[_T], limits: Limits) -> _T | None:
    """The result, or None where there is none in time."""
    try:
        return future.result(limits.timeout_s)
    except TimeoutError:
        return None


def _read(root: ImageRoot, file_name: str, limits: Limits) -> bytes | Verdict:
    """The bytes of what may be an image; the verdict on anything else."""
    if is_unsafe(file_name):
        return Verdict("unsafe_path", "not a path inside the image root; it was not opened")
    for attempt in range(_TRIES):
        try:
            data = root.read(file_name, MOST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return Verdict("missing")
        except OSError as problem:
            # The reason alone: the full path would tie the row to where the folder is now.
            reason = problem.strerror or one_line(problem)
            if problem.errno in _LASTING:
                break
            if attempt + 1 < _TRIES:
                time.sleep(_FIRST_PAUSE_S * 2**attempt)
        else:
            kind = other_kind(data)
            if len(data) > MOST_BYTES:
                status = "too_large" if kind is None else "not_image"
                return Verdict(status, f"more than {MOST_BYTES} bytes", format=kind)
            # Videos are large: they are let go at once, instead of waiting for their turn.
            return data if kind is None else judge(data, file_name, limits)
    return Verdict("unreadable", reason)
