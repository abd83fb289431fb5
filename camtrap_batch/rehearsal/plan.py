"""What each camera sees and when: cameras, visits, bursts, frames. Nothing is drawn here.

Everything about a camera follows from (seed, camera), so that a data set with more cameras, or more
images, begins with the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import numpy as np

from camtrap_batch.rehearsal.species import BY_ID, DISTRACTORS, EMPTY_ID, SELECTED

KRUGER_WEB_MERCATOR: tuple[tuple[float, float], ...] = (
    (3544922.6348, -2774718.7709),
    (3522933.4897, -2791843.0610),
    (3550955.0552, -2813053.8294),
    (3541614.5334, -2845745.6558),
    (3519430.7940, -2867734.8010),
)
"""x, y in EPSG:3857 of the five cameras in Kruger National Park of the sample notebook."""

_EARTH_RADIUS_M = 6378137.0
_BODIES = (
    ("RECONYX", "HC550 HYPERFIRE"),
    ("RECONYX", "HYPERFIRE 2 COVERT"),
    ("BUSHNELL", "119876C"),
    ("RECONYX", "PC800 PROFESSIONAL"),
)
_DAY = (6.2, 18.2)  # hours between which the pictures are in colour
_BURST_FRAMES = (1, 2, 3, 4, 5)
_BURST_WEIGHTS = (0.06, 0.12, 0.62, 0.10, 0.10)
_EMPTY_CARDS = 15
_LACKING = 3  # of the selected species, a camera never sees this many

# A generator's purpose is part of its seed, so that drawing more of one thing leaves the others unchanged.
_CAMERA, _VISITS, _BURST, _IMAGE, _SCENE, _FAULT, _METADATA = range(7)


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera. Its location is its name; `numeric` ones are written as a number in the metadata."""

    index: int
    location: str
    numeric: bool
    longitude: float
    latitude: float
    make: str
    model: str
    exif: bool

    @property
    def folder(self) -> str:
        return f"animals/{401 + self.index:04d}"


@dataclass(frozen=True, slots=True)
class Frame:
    """One image to be taken: who is in view, when, and its position in the burst."""

    camera: int
    index: int
    burst: int
    burst_frames: int
    """Images in the burst."""
    position: int
    """Position in the burst, from 0."""
    time: datetime
    night: bool
    visitor: int
    """Category that set off the burst (0: the wind)."""
    category_id: int
    """Category in view: the visitor, or 0 once it has left."""
    count: int
    second: int | None
    """Category of another species in view."""


def generator(seed: int, camera: int, purpose: int, number: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, camera, purpose, number])


def burst_generator(seed: int, frame: Frame) -> np.random.Generator:
    """What all frames of a burst share: the animal, its size and its way."""
    return generator(seed, frame.camera, _BURST, frame.burst)


def image_generator(seed: int, frame: Frame) -> np.random.Generator:
    return generator(seed, frame.camera, _IMAGE, frame.index)


def scene_generator(seed: int, camera: int) -> np.random.Generator:
    return generator(seed, camera, _SCENE)


def fault_generator(seed: int, camera: int) -> np.random.Generator:
    return generator(seed, camera, _FAULT)


def metadata_generator(seed: int) -> np.random.Generator:
    return generator(seed, 0, _METADATA)


def web_mercator_to_wgs84(x: float, y: float) -> tuple[float, float]:
    """Longitude and latitude in degrees of a point in EPSG:3857 (spherical inverse, EPSG method 1024)."""
    return math.degrees(x / _EARTH_RADIUS_M), math.degrees(math.atan(math.sinh(y / _EARTH_RADIUS_M)))


def plan_cameras(cameras: int, seed: int) -> list[Camera]:
    """The five cameras of the notebook, KNP-01 to KNP-05, then others between and around them."""
    return [_camera(index, seed) for index in range(cameras)]


def images_per_camera(cameras: int, images: int, seed: int) -> list[int]:
    """Share out `images`: unevenly, as with real cameras, at least one each, `images` in all."""
    weights = np.array([generator(seed, index, _CAMERA, 1).uniform(0.6, 1.4) for index in range(cameras)])
    exact = weights / weights.sum() * (images - cameras)
    counts = np.floor(exact).astype(int)
    largest_rests = np.argsort(-(exact - counts), kind="stable")
    counts[largest_rests[: images - cameras - counts.sum()]] += 1
    return [int(count) + 1 for count in counts]


def plan_frames(camera: int, images: int, seed: int) -> list[Frame]:
    """The first `images` images of a camera, in the order in which they are taken."""
    rng = generator(seed, camera, _VISITS)
    deck: list[int] = []
    frames: list[Frame] = []
    burst = 0
    clock = datetime(2019, 5, 1) + timedelta(days=int(rng.integers(0, 60)))
    while len(frames) < images:
        if not deck:
            deck = _deck(camera, seed, rng)
        visitor = deck.pop()
        night = bool(rng.random() < (BY_ID[visitor].night if visitor else 0.3))
        clock = _next_time(clock, night, rng)
        herd = 2 if visitor and rng.random() < BY_ID[visitor].herd else 1
        second = _companion(visitor, rng)
        for _ in range(int(rng.choice((1, 2, 3), p=(0.6, 0.28, 0.12)))):
            length = int(rng.choice(_BURST_FRAMES, p=_BURST_WEIGHTS))
            stays = length if rng.random() > 0.15 else int(rng.integers(1, length + 1))
            for position in range(length):
                present = bool(visitor) and position < stays
                frames.append(
                    Frame(
                        camera=camera,
                        index=len(frames),
                        burst=burst,
                        burst_frames=length,
                        position=position,
                        time=clock + timedelta(seconds=position),
                        night=_is_night(clock),
                        visitor=visitor,
                        category_id=visitor if present else EMPTY_ID,
                        count=herd if present else 0,
                        second=second if present else None,
                    )
                )
            burst += 1
            # The same visitor again: within the half hour that makes one event, or clearly after it.
            minutes = rng.uniform(2, 24) if rng.random() < 0.65 else rng.uniform(36, 90)
            clock += timedelta(minutes=float(minutes), seconds=int(rng.integers(5, 60)))
            clock = clock.replace(microsecond=0)
    last = frames[images - 1]
    return [
        replace(frame, burst_frames=last.position + 1) if frame.burst == last.burst else frame
        for frame in frames[:images]
    ]


def plan_deployments(plan: Sequence[Sequence[Frame]], seed: int) -> list[tuple[date, date]]:
    """Days of setup and retrieval of each camera: it sees nothing for some days at either end."""
    found = []
    for camera, frames in enumerate(plan):
        before, after = (int(days) for days in generator(seed, camera, _CAMERA, 4).integers(1, 9, 2))
        start, end = frames[0].time.date(), frames[-1].time.date()
        found.append((start - timedelta(days=before), end + timedelta(days=after)))
    return found


def _camera(index: int, seed: int) -> Camera:
    rng = generator(seed, index, _CAMERA)
    if index < len(KRUGER_WEB_MERCATOR):
        longitude, latitude = web_mercator_to_wgs84(*KRUGER_WEB_MERCATOR[index])
    else:
        longitude, latitude = float(rng.uniform(31.25, 31.95)), float(rng.uniform(-25.2, -24.1))
    numeric = index >= len(KRUGER_WEB_MERCATOR) and index % 4 == 2
    make, model = _BODIES[int(rng.integers(len(_BODIES)))]
    return Camera(
        index=index,
        location=str(4000 + index) if numeric else f"KNP-{index + 1:02d}",
        numeric=numeric,
        longitude=round(longitude, 6),
        latitude=round(latitude, 6),
        make=make,
        model=model,
        exif=index % 7 != 6,
    )


def _deck(camera: int, seed: int, rng: np.random.Generator) -> list[int]:
    """Some weeks' visits, shuffled: every species of the camera at least once, its favourites often."""
    favour = generator(seed, camera, _CAMERA, 2)
    turn = int(generator(seed, 0, _CAMERA, 3).integers(len(SELECTED)))
    lacking = {(turn + camera * _LACKING + step) % len(SELECTED) for step in range(_LACKING)}
    cards = [EMPTY_ID] * _EMPTY_CARDS
    for position, species in enumerate(SELECTED):
        liking = favour.lognormal(0.0, 0.4)
        if position not in lacking:
            cards += [species.category_id] * max(1, round(species.share * liking))
    cards.append(DISTRACTORS[camera % len(DISTRACTORS)].category_id)
    return [int(card) for card in rng.permutation(cards)]


def _companion(visitor: int, rng: np.random.Generator) -> int | None:
    """Two species in one picture are rare, and both graze."""
    grazers = (100, 119, 127, 24)
    if rng.random() < 0.06 and visitor in grazers[:3]:
        return int(rng.choice([other for other in grazers if other != visitor]))
    return None


def _is_night(time: datetime) -> bool:
    return not _DAY[0] <= time.hour + time.minute / 60 < _DAY[1]


def _next_time(after: datetime, night: bool, rng: np.random.Generator) -> datetime:
    """A time by day or by night, at least 100 minutes and at most some two days after `after`."""
    earliest = after + timedelta(minutes=100 + float(rng.exponential(180)))
    first, last = (_DAY[1] + 0.2, _DAY[0] + 24 - 2.5) if night else (_DAY[0] + 0.2, _DAY[1] - 2.5)
    for days in range(-1, 3):
        midnight = datetime(earliest.year, earliest.month, earliest.day) + timedelta(days=days)
        opens, closes = midnight + timedelta(hours=first), midnight + timedelta(hours=last)
        if earliest < closes:
            start = max(earliest, opens)
            chosen = start + (closes - start) * float(rng.random())
            return chosen.replace(microsecond=0)
    raise AssertionError("every day has a day and a night")
