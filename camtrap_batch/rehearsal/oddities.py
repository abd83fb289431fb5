"""Sound photos with something odd about them: a few of every kind of finding."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from PIL import Image

from camtrap_batch.rehearsal.plan import Frame

FACTORY_DATE = datetime(2005, 1, 1, 0, 2, 10)
"""What a clock shows some minutes after its batteries were changed."""

_RESAVED_QUALITY = 80
_EACH = 3
_FEWEST = 20  # this many show in which order a camera numbers its files


@dataclass(frozen=True, slots=True)
class Oddity:
    """What is odd about one image.

    Args:
        findings: kinds that must be found.
        copy_of: the frame whose photo takes the place of the image's own.
        resaved: the photo went through a program that compressed it again.
        date: date that the metadata gives instead of the true one.
        scale: ratio of the width and height given in the metadata to the true ones.
    """

    findings: tuple[str, ...]
    copy_of: Frame | None = None
    resaved: bool = False
    date: datetime | None = None
    scale: int = 1

    def write(self, photo: bytes) -> bytes:
        """The file's content, from the photo's."""
        if not self.resaved:
            return photo
        file = io.BytesIO()
        with Image.open(io.BytesIO(photo)) as image:
            image.save(file, "JPEG", quality=_RESAVED_QUALITY, exif=image.getexif())
        return file.getvalue()


def choose_oddities(
    plan: Sequence[Sequence[Frame]],
    taken: Collection[tuple[int, int]],
    is_plain: Callable[[Frame], bool],
) -> dict[tuple[int, int], Oddity]:
    """Which frame, as (camera, index), is odd in which way; small data sets have fewer oddities, or none.

    Args:
        plan: frames by camera.
        taken: frames that have a fault.
        is_plain: whether the metadata gives a frame a date and a sequence.
    """
    chosen: dict[tuple[int, int], Oddity] = {}
    used = set(taken)
    spare = [
        (before, frame)
        for before, frame in _neighbours(plan)
        if is_plain(before) and is_plain(frame) and not {_key(before), _key(frame)} & used
    ]
    for frames in plan:
        burst = [frame for frame in frames if frame.burst == frames[-1].burst]
        if len(frames) >= _FEWEST and all(is_plain(frame) and _key(frame) not in used for frame in burst):
            for frame in burst:
                wrong = FACTORY_DATE + timedelta(seconds=frame.position)
                chosen[_key(frame)] = Oddity(("date_before_camera", "clock_reset"), date=wrong)
                used.add(_key(frame))
            break
    for number, make in enumerate((_copy, _resave, _late, _early, _large) * _EACH):
        # Each kind at different cameras, and no frame twice.
        turn = sorted(spare, key=lambda pair: ((pair[1].camera - number) % len(plan), pair[1].index))
        for before, frame in turn:
            if _key(before) not in used and _key(frame) not in used:
                oddity = make(before, frame)
                if oddity is not None:
                    chosen[_key(frame)] = oddity
                    used |= {_key(before), _key(frame)}
                    break
    return chosen


def _neighbours(plan: Sequence[Sequence[Frame]]) -> Iterator[tuple[Frame, Frame]]:
    """A frame of each burst with the one before it."""
    for frames in plan:
        for before, frame in pairwise(frames):
            if before.burst == frame.burst:
                yield before, frame


def _key(frame: Frame) -> tuple[int, int]:
    return frame.camera, frame.index


def _shows_the_same(before: Frame, frame: Frame) -> bool:
    return (before.category_id, before.count, before.second) == (frame.category_id, frame.count, frame.second)


def _copy(before: Frame, frame: Frame) -> Oddity | None:
    return Oddity(("exact_duplicate",), copy_of=before) if _shows_the_same(before, frame) else None


def _resave(before: Frame, frame: Frame) -> Oddity | None:
    if not _shows_the_same(before, frame):
        return None
    return Oddity(("near_duplicate",), copy_of=before, resaved=True, date=before.time)


def _late(before: Frame, frame: Frame) -> Oddity | None:
    """Digits of the year swapped; only in the last frame, since the next one would be out of order."""
    if frame.position != frame.burst_frames - 1:
        return None
    return Oddity(("date_in_future",), date=frame.time.replace(year=2091))


def _early(before: Frame, frame: Frame) -> Oddity | None:
    return Oddity(("date_out_of_order",), date=frame.time - timedelta(minutes=1))


def _large(before: Frame, frame: Frame) -> Oddity | None:
    return Oddity(("size_differs",), scale=2)
