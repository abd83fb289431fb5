"""Many videos: their frames, and what they say about themselves, each video within a time limit.

A video is opened once for all frames that are wanted. Each has its own thread, and one or a few of these run
ahead of the consumer; a video that yields nothing for too long is given up, and its thread left behind.
"""

from __future__ import annotations

import io
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from PIL import Image

from camtrap_batch.images.decode import one_line
from camtrap_batch.images.judge import Limits, Verdict, judge_frame
from camtrap_batch.images.kinds import other_kind, still_kind
from camtrap_batch.images.pixels import Pixels
from camtrap_batch.images.reading import count_abandoned
from camtrap_batch.images.sources.root import ImageRoot, is_unsafe
from camtrap_batch.images.video import BrokenVideo, VideoInfo, open_video, probe, read_frames

Answer = TypeVar("Answer")

_FRAMES_AHEAD = 2  # per video: a frame in 4K takes 25 MB
_VIDEOS_AHEAD = 2
_PROBED_AT_ONCE = 8
_FIRST_BYTES = 1024


@dataclass(frozen=True)
class Frame:
    """A frame of a video, decoded and upright; `kind`: kind of the video, as named by `kinds`."""

    pixels: Pixels
    kind: str


def read_video_frames(
    root: ImageRoot,
    file_names: Sequence[str],
    seconds: Sequence[float],
    timeout_s: float,
    *,
    sizes: Sequence[int] | None = None,
    entries: Sequence[dict[str, int] | None] | None = None,
) -> Iterator[Frame | Verdict]:
    """Frames of videos, in order, or a verdict if there is none: rows in are frames and verdicts out.

    Neighbours of one file, with ascending times, are read in one go.

    Parameters
    ----------
    seconds : time of each frame, from the start of its video
    timeout_s : maximum seconds for one frame
    sizes : bytes of each file, if known; otherwise it is read whole
    entries : for files in an archive, each file's entry in the listing

    Raises
    ------
    UserError
        PyAV is not installed; or nothing can be read: see `ImageRoot.read`.
    """
    runs = list(_runs(file_names, seconds))

    def frames_of(run: slice) -> Callable[[], Iterator[Frame]]:
        name, size = file_names[run.start], sizes[run.start] if sizes else -1
        entry = entries[run.start] if entries else None
        return lambda: _frames(root, name, seconds[run], size, entry)

    for run, found in zip(runs, _beside(map(frames_of, runs), _VIDEOS_AHEAD), strict=True):
        left = run.stop - run.start
        why = Verdict("corrupt", "the video ends, or can't be decoded any more, before this frame")
        try:
            for frame in found.items(timeout_s):
                left -= 1
                yield frame
        except TimeoutError:
            why = Verdict("unreadable", f"not decoded within {timeout_s:g} s")
        except BrokenVideo as problem:
            why = Verdict("corrupt", str(problem))
        except OSError as problem:
            why = _why_unread(problem)
        for _ in range(left):
            yield why


def judge_video_frames(
    root: ImageRoot,
    file_names: Sequence[str],
    seconds: Sequence[float],
    limits: Limits,
    *,
    sizes: Sequence[int],
    entries: Sequence[dict[str, int] | None] | None,
    clock: dict[str, float],
) -> list[Verdict]:
    """A verdict on each frame; `bytes` is the size of its video. Parameters as for `read_video_frames`.

    `clock`: seconds spent are added to `decode`.
    """
    began = time.monotonic()
    verdicts = []
    found = read_video_frames(root, file_names, seconds, limits.timeout_s, sizes=sizes, entries=entries)
    for frame, size in zip(found, sizes, strict=True):
        verdict = frame if isinstance(frame, Verdict) else _judged(frame, limits)
        verdicts.append(_with_bytes(verdict, size))
    clock["decode"] = clock.get("decode", 0.0) + time.monotonic() - began
    return verdicts


def probe_videos(
    root: ImageRoot,
    file_names: Sequence[str],
    timeout_s: float,
    *,
    sizes: Sequence[int],
    entries: Sequence[dict[str, int] | None] | None,
) -> Iterator[VideoInfo | Verdict]:
    """What each video says about itself, in order, or a verdict if it can't be read."""

    def look_at(number: int) -> Callable[[], Iterator[VideoInfo]]:
        return lambda: _probed(root, file_names[number], sizes[number], entries[number] if entries else None)

    at_once = max(1, min(_PROBED_AT_ONCE, root.reads_at_once))
    for found in _beside(map(look_at, range(len(file_names))), at_once):
        try:
            yield next(iter(found.items(timeout_s)))
        except TimeoutError:
            yield Verdict("unreadable", f"not read within {timeout_s:g} s")
        except BrokenVideo as problem:
            yield Verdict("corrupt", str(problem))
        except OSError as problem:
            yield _why_unread(problem)


def frame_file(pixels: Pixels) -> bytes:
    """A frame as an image file, at full size, for code that takes image files."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()


def _runs(file_names: Sequence[str], seconds: Sequence[float]) -> Iterator[slice]:
    start = 0
    for row in range(1, len(file_names) + 1):
        if row == len(file_names) or file_names[row] != file_names[start] or seconds[row] < seconds[row - 1]:
            yield slice(start, row)
            start = row


def _frames(
    root: ImageRoot, name: str, times: Sequence[float], size: int, entry: dict[str, int] | None
) -> Iterator[Frame]:
    with _opened(root, name, size, entry) as file:
        kind = other_kind(file.read(_FIRST_BYTES)) or "video"
        file.seek(0)
        for frame in read_frames(file, times):
            yield Frame(frame.pixels, kind)


def _probed(root: ImageRoot, name: str, size: int, entry: dict[str, int] | None) -> Iterator[VideoInfo]:
    with _opened(root, name, size, entry) as file:
        if (
            kind := still_kind(file.read(_FIRST_BYTES))
        ) is not None:  # FFmpeg would take it for a short video
            raise BrokenVideo(f"is a {kind} image, whatever its name says")
        file.seek(0)
        yield probe(file)


def _opened(root: ImageRoot, name: str, size: int, entry: dict[str, int] | None) -> Any:
    if is_unsafe(name):
        raise FileNotFoundError
    return open_video(root, name, size, entry)


def _judged(frame: Frame, limits: Limits) -> Verdict:
    height, width = frame.pixels.shape[:2]
    if width * height > limits.max_pixels:
        detail = f"{width} x {height} pixels, the limit is {limits.max_pixels}"
        return Verdict("too_large", detail, format=frame.kind, width=width, height=height)
    return judge_frame(frame.pixels, frame.kind, limits)


def _with_bytes(verdict: Verdict, size: int) -> Verdict:
    return Verdict(**{name: getattr(verdict, name) for name in Verdict.__slots__} | {"bytes": max(size, 0)})


def _why_unread(problem: OSError) -> Verdict:
    if isinstance(problem, FileNotFoundError | NotADirectoryError):
        return Verdict("missing")
    return Verdict("unreadable", problem.strerror or one_line(problem))


class _Beside(Generic[Answer]):
    """The items of an iterator, produced on a thread of its own."""

    def __init__(self, make: Callable[[], Iterator[Answer]]) -> None:
        self._make = make
        self._given: queue.Queue[tuple[Answer | None, BaseException | None]] = queue.Queue(_FRAMES_AHEAD)
        self._is_left = threading.Event()
        self._lock = threading.Lock()
        self._is_counted = self._has_ended = False
        threading.Thread(target=self._work, name="video", daemon=True).start()

    def items(self, timeout_s: float) -> Iterator[Answer]:
        """Each item; raises what the iterator raised, and TimeoutError if an item takes too long."""
        try:
            while True:
                try:
                    item, problem = self._given.get(timeout=timeout_s)
                except queue.Empty:
                    self._give_up()
                    raise TimeoutError from None
                if problem is not None:
                    if isinstance(problem, StopIteration):
                        return
                    raise problem
                assert item is not None  # noqa: S101
                yield item
        finally:
            self.leave()

    def leave(self) -> None:
        """Make the thread end at the next item."""
        self._is_left.set()
        while not self._given.empty():  # it may be waiting for room
            self._given.get_nowait()

    def _give_up(self) -> None:
        with self._lock:
            self._is_counted = not self._has_ended
            count_abandoned(int(self._is_counted))

    def _work(self) -> None:
        end: BaseException = StopIteration()
        try:
            for item in self._make():
                if self._is_left.is_set():
                    break
                self._given.put((item, None))
        except BaseException as problem:
            end = problem
        if not self._is_left.is_set():
            self._given.put((None, end))
        with self._lock:
            self._has_ended = True
            count_abandoned(-int(self._is_counted))


def _beside(makers: Iterable[Callable[[], Iterator[Answer]]], at_once: int) -> Iterator[_Beside[Answer]]:
    """One after the other, with this many begun ahead of the consumer."""
    rest = iter(makers)
    ahead: deque[_Beside[Answer]] = deque()
    try:
        for make in rest:
            ahead.append(_Beside(make))
            if len(ahead) >= at_once:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()
    finally:
        for one in ahead:
            one.leave()
