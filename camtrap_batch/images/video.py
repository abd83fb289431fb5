"""Frames of a video, sampled by time: from a disk, a bucket, a web server or a zip file (extra 'video').

A video is read in parts, so that only its beginning and its index are transferred to learn its duration. A
file that is cut off or damaged gives the frames that can be decoded. Everything runs on one thread.

The driver does not know how many frames a video has, and must not read 100,000 videos: workers `probe` videos
first, which takes some 100 kB each, and `frame_times` derives from the answers which rows each has. A frame
that its container promised is a row even if it does not exist.
"""

from __future__ import annotations

import datetime as dt
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from camtrap_batch.errors import MissingExtra
from camtrap_batch.images.pixels import Pixels
from camtrap_batch.images.sources.root import ImageRoot
from camtrap_batch.ranges import Ranges

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

_PART = 2**20  # bytes of one read
_MOST_IN_MEMORY = 2**30
_WORTH_A_SEEK_S = 5.0  # of frames that would otherwise be decoded in vain
_NAMED_DATE = re.compile(
    r"(?<!\d)(20\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])[-_ T.]?([01]\d|2[0-3])[-_.:]?([0-5]\d)"
    r"[-_.:]?([0-5]\d)(?!\d)"
)


@dataclass(frozen=True)
class VideoInfo:
    """What a video says about itself.

    Attributes
    ----------
    duration_s : seconds; None if it does not say
    rate : frames per second; None if it does not say
    taken : when it began according to its container, in UTC or camera time, depending on the camera; None if
        it does not say
    utc_offset_minutes : what the clock of `taken` showed, east of UTC; None if it does not say. That of
        `creation_time` always says UTC, and means it only in phones.
    """

    duration_s: float | None
    rate: float | None
    width: int
    height: int
    codec: str
    taken: dt.datetime | None
    utc_offset_minutes: int | None = None


@dataclass(frozen=True)
class VideoFrame:
    """A frame: its time, in seconds from the video's start, and pixels, shape (height, width, 3), upright."""

    video_s: float
    pixels: Pixels


class BrokenVideo(Exception):
    """Nothing in the video can be decoded; the message says why."""


def frame_times(duration_s: float | None, every_s: float, most_frames: int) -> list[float]:
    """When frames are sampled, in seconds from the video's start; if the duration is unknown, only the first.

    >>> frame_times(3.2, 1.0, 10), frame_times(60.0, 1.0, 4), frame_times(None, 1.0, 10)
    ([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0], [0.0])
    """
    if not duration_s or duration_s <= 0:
        return [0.0]
    n = int(np.ceil(round(duration_s / every_s, 6)))
    return [round(number * every_s, 3) for number in range(max(1, min(n, most_frames)))]


def probe(file: BinaryIO) -> VideoInfo:
    """What a video says about itself; nothing is decoded. Raises BrokenVideo, OSError, MissingExtra."""
    with _opened(file) as container:
        stream = _stream_of(container)
        duration = container.duration / 1e6 if container.duration else None
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        if duration is None:
            duration = _end_of(container, stream)
        rate = stream.average_rate or stream.guessed_rate
        context = stream.codec_context
        taken, offset = _date_of({**container.metadata, **stream.metadata})
        return VideoInfo(
            duration_s=duration,
            rate=float(rate) if rate else None,
            width=context.width,
            height=context.height,
            codec=context.name,
            taken=taken,
            utc_offset_minutes=offset,
        )


def read_frames(file: BinaryIO, times: Sequence[float]) -> Iterator[VideoFrame]:
    """The frame that is shown at each time, in order; those after the video's end or a fault are left out.

    Parameters
    ----------
    times : seconds from the video's start, ascending

    Raises
    ------
    BrokenVideo
        No frame can be decoded.
    OSError
        The file can't be read.
    MissingExtra
        PyAV is not installed.
    """
    n_found = 0
    try:
        with _opened(file) as container:
            for found in _frames_at(container, times):
                n_found += 1
                yield found
    except BrokenVideo:
        if not n_found:
            raise
    if not n_found:
        raise BrokenVideo("no frame of it can be decoded")


def date_in_name(file_name: str) -> dt.datetime | None:
    """The moment that a file's name contains, as many cameras and phones write it; None if there is none.

    >>> date_in_name("cam1/VID_20210411_204309.mp4"), date_in_name("cam1/2021-04-11 20.43.09.AVI")
    (datetime.datetime(2021, 4, 11, 20, 43, 9), datetime.datetime(2021, 4, 11, 20, 43, 9))
    """
    found = _NAMED_DATE.search(PurePosixPath(file_name).stem)
    try:
        return dt.datetime(*map(int, found.groups())) if found else None  # type: ignore[arg-type]
    except ValueError:  # 31 April
        return None


def open_video(
    root: ImageRoot, file_name: str, size: int, entry: Mapping[str, int] | None = None
) -> BinaryIO:
    """A video as a seekable file, read in parts of 1 MiB if its source can serve parts.

    Parameters
    ----------
    size : bytes, as the listing says
    entry : for a file in an archive, its entry in the listing

    Raises
    ------
    OSError
        The file can't be read.
    BrokenVideo
        It can't be read in parts and is too large to be held in memory.
    """
    if size > 0 and root.has_parts:
        parts = _Parts(lambda start, end: root.read_part(file_name, start, end), size)
        return io.BufferedReader(parts, _PART)
    content = root.read(file_name, _MOST_IN_MEMORY, entry)
    if len(content) > _MOST_IN_MEMORY:
        raise BrokenVideo(f"has more than {_MOST_IN_MEMORY:,} bytes, and can't be read in parts where it is")
    return io.BytesIO(content)


class _Parts(Ranges):
    """Ends where a read has failed: FFmpeg would read on, and PyAV print a traceback for another failure."""

    _has_failed = False

    def readinto(self, buffer: Any) -> int:
        if self._has_failed:
            return 0
        try:
            return super().readinto(buffer)
        except OSError:
            self._has_failed = True
            raise


def _opened(file: BinaryIO) -> InputContainer:
    try:
        import av
    except ImportError:
        raise MissingExtra("video", "reading videos") from None
    try:
        return av.open(file, "r", metadata_errors="replace")
    except av.error.FFmpegError as problem:
        raise BrokenVideo(_reason(problem)) from None


def _stream_of(container: InputContainer) -> av.VideoStream:
    streams = container.streams.video
    if not streams:
        raise BrokenVideo("it has no pictures")
    if streams[0].codec_context is None:
        raise BrokenVideo("its codec is not known")
    return streams[0]


def _frames_at(container: InputContainer, times: Sequence[float]) -> Iterator[VideoFrame]:
    stream = _stream_of(container)
    stream.thread_type = "NONE"
    base = stream.time_base
    start = float(stream.start_time * base) if stream.start_time is not None and base else 0.0
    wanted = list(times)
    last: av.VideoFrame | None = None
    shown_s = 0.0  # of the last frame
    decoded = _decode(container, stream)
    while wanted:
        if base and wanted[0] - shown_s > _WORTH_A_SEEK_S and _seek(container, stream, start + wanted[0]):
            decoded, last = _decode(container, stream), None
        frame = next(decoded, None)
        if frame is None:
            break
        at = frame.time - start if frame.time is not None else shown_s
        # The frame shown at a time is the last one before it.
        while wanted and last is not None and at > wanted[0] + 1e-6:
            yield VideoFrame(wanted.pop(0), _pixels(last))
        last, shown_s = frame, max(at, shown_s)
        if wanted and wanted[0] <= at:
            yield VideoFrame(wanted.pop(0), _pixels(frame))
    while wanted and last is not None and _lasts_until(last, shown_s, stream, wanted[0]):
        yield VideoFrame(wanted.pop(0), _pixels(last))


def _lasts_until(frame: av.VideoFrame, shown_s: float, stream: av.VideoStream, time: float) -> bool:
    """Whether the last frame of a video is shown at a time after it."""
    rate = stream.average_rate or stream.guessed_rate
    length = float(frame.duration * stream.time_base) if frame.duration and stream.time_base else 0.0
    return time < shown_s + max(length, 1 / float(rate) if rate else 0.0)


def _decode(container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Frames in the order in which they are shown, up to the end or to where decoding fails."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the container is cut off or damaged
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:  # this frame is damaged; others may not be
            continue
        yield from (frame for frame in frames if isinstance(frame, av.VideoFrame))


def _end_of(container: InputContainer, stream: av.VideoStream) -> float | None:
    """Where the last packet ends, for a container that does not give its duration: reads all of it."""
    import av

    end = start = None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # cut off
            break
        if packet is None:
            break
        if packet.pts is not None and packet.time_base is not None:
            at = float(packet.pts * packet.time_base)
            start = at if start is None else min(start, at)
            end = max(end or at, at + float((packet.duration or 0) * packet.time_base))
    return None if end is None or start is None else end - start


def _seek(container: InputContainer, stream: av.VideoStream, to_s: float) -> bool:
    """Go to the last key frame before a time; False if the container can't."""
    import av

    try:
        container.seek(int(to_s / stream.time_base), stream=stream)  # type: ignore[operator]
    except av.error.FFmpegError:
        return False
    return True


def _pixels(frame: av.VideoFrame) -> Pixels:
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    turns = round((frame.rotation or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _date_of(metadata: Mapping[str, str]) -> tuple[dt.datetime | None, int | None]:
    """When a recording began: `creation_time` in most containers, `date` or Apple's own key in others; and
    its minutes east of UTC."""
    for key in ("com.apple.quicktime.creationdate", "creation_time", "date", "DATE_DIGITIZED", "IDIT"):
        value = next((value for name, value in metadata.items() if name.lower() == key.lower()), None)
        if value and (found := _date_in_text(value)) is not None and found.year > 1970:
            zone = found.utcoffset() if key != "creation_time" else None
            offset = None if zone is None else round(zone.total_seconds() / 60)
            return found.replace(tzinfo=None, microsecond=0), offset
    return None, None


def _date_in_text(value: str) -> dt.datetime | None:
    text = value.strip().replace("/", "-")
    for form in (None, "%a %b %d %H:%M:%S %Y", "%Y:%m:%d %H:%M:%S"):
        try:
            found = dt.datetime.fromisoformat(text) if form is None else dt.datetime.strptime(text, form)
        except ValueError:
            continue
        return found
    return None


def _reason(problem: Exception) -> str:
    return str(getattr(problem, "strerror", None) or problem).strip() or type(problem).__name__
