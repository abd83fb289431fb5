"""One photo: the scene in the light of the hour, the animals in it, the sensor's noise, banner and EXIF."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from camtrap_batch.rehearsal.animals import Pose, Sprite, draw_animal
from camtrap_batch.rehearsal.plan import Camera, Frame, burst_generator, image_generator
from camtrap_batch.rehearsal.scene import Scene, infrared, scene_of
from camtrap_batch.rehearsal.species import BY_ID

_QUALITY = 76
_SEEN = 96  # of 255: minimum share of a pixel that an animal must cover for its box to include it


Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


class Drawn(NamedTuple):
    """An animal in a photo: its category, and the box around the part of it that is drawn.

    `box` is x and y of the upper left corner, width and height, as fractions of the photo's.
    """

    category_id: int
    box: tuple[float, float, float, float]


class Photo(NamedTuple):
    """A JPEG file, and the animals in it, the nearest first. Grass may hide some of them."""

    data: bytes
    animals: list[Drawn]


def take_photo(camera: Camera, frame: Frame, seed: int, size: tuple[int, int]) -> Photo:
    """The photo of one frame.

    Args:
        camera: where the photo is taken.
        frame: what it shows.
        seed: seed of the data set.
        size: width and height of the photo in pixels, banner included.
    """
    width, height = size
    banner = max(12, round(height * 0.055))
    scene = scene_of(seed, camera.index, (width, height - banner))
    rng = image_generator(seed, frame)
    burst = burst_generator(seed, frame)
    encounter = _encounter(burst)
    view = scene.night.copy() if frame.night else scene.day.copy()
    placed: list[tuple[int, Rectangle]] = []
    if frame.category_id:
        placed = _populate(view, scene, frame, encounter, burst.spawn(3), rng)
    grass = scene.grass_night if frame.night else scene.grass
    sway = int(rng.integers(-6, 7)) * height // 480
    view.paste(grass, (sway, view.height - grass.height), scene.grass_mask)
    if frame.night:  # animals and grass are also darker where the flash is weak
        view = ImageChops.multiply(view, scene.flash.point(lambda light: min(255, 60 + light)))
    shaken = int(rng.integers(-2, 3)), int(rng.integers(-1, 2))  # the mount shakes
    view.paste(view.copy(), shaken)
    view = _expose(view, frame, encounter.exposure if frame.category_id else 1.0, rng)
    photo = Image.new("RGB", size)
    photo.paste(view, (0, 0))
    _write_banner(photo, banner, camera, frame, rng)
    animals = [
        Drawn(category_id, box)
        for category_id, rectangle in placed
        if (box := _in_parts(rectangle, shaken, view.size, size)) is not None
    ]
    return Photo(_jpeg(photo, camera, frame), animals)


def _in_parts(
    rectangle: Rectangle, moved: tuple[int, int], view: tuple[int, int], photo: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """The box of the visible part of a rectangle, as fractions of the photo; None if nothing is visible."""
    left, right = (min(max(rectangle[side] + moved[0], 0), view[0]) / photo[0] for side in (0, 2))
    top, bottom = (min(max(rectangle[side] + moved[1], 0), view[1]) / photo[1] for side in (1, 3))
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


@dataclass(frozen=True, slots=True)
class _Encounter:
    """How the animals of a burst pass the camera, the same in all its frames.

    Args:
        start: where the first animal is in the first frame, 0 (left) to 1 (right).
        speed: how far it moves to the right between two frames, in widths of the view.
        nearness: 0 (far) to 1.
        magnify: factor for its size.
        exposure: factor for the brightness.
        standing: whether it stays where it is.
    """

    start: float
    speed: float
    nearness: float
    magnify: float
    exposure: float
    standing: bool


def _encounter(burst: np.random.Generator) -> _Encounter:
    """Three in twenty are hard: tiny, cut by the border, or too dark."""
    start, speed = float(burst.uniform(0.22, 0.78)), float(burst.uniform(0.02, 0.09))
    speed *= float(burst.choice((-1.0, 1.0)))
    standing = bool(burst.random() < 0.35)
    nearness = float(burst.beta(1.6, 1.4))
    exposure = float(burst.uniform(0.86, 1.12))
    border = float(burst.choice((0.0, 1.0)))
    hard = burst.random()
    tiny, cut, dark = hard < 0.05, 0.05 <= hard < 0.11, 0.11 <= hard < 0.15
    return _Encounter(
        start=border if cut else start,
        speed=0.0 if cut or standing else speed,
        nearness=0.1 * nearness if tiny else nearness,
        magnify=0.6 if tiny else 1.0,
        exposure=exposure * (0.45 if dark else 1.0),
        standing=standing,
    )


def _populate(
    view: Image.Image,
    scene: Scene,
    frame: Frame,
    encounter: _Encounter,
    individuals: Sequence[np.random.Generator],
    rng: np.random.Generator,
) -> list[tuple[int, Rectangle]]:
    """Put the animals of a frame into the view, the farthest first; returns where, the nearest first."""
    placed: list[tuple[int, Rectangle]] = []
    group = [frame.category_id] * frame.count
    if frame.second is not None:
        group.append(frame.second)
    for number, category_id in reversed(list(enumerate(group))):
        individual = individuals[number]
        left = bool(individual.random() < 0.5) if encounter.standing else encounter.speed < 0
        nearness = encounter.nearness * (1 - 0.25 * number)
        low, high = BY_ID[category_id].height
        height = (low + (high - low) * nearness) * encounter.magnify
        middle = encounter.start + encounter.speed * frame.position
        if number:  # beside the first one, on the side where there is room
            middle += 0.28 * number if encounter.start < 0.5 else -0.28 * number
        if 0 < encounter.start < 1:
            middle = min(0.86, max(0.14, middle))
        pose = Pose(
            phase=float(rng.uniform(0, 2 * math.pi)),
            stride=0.25 if encounter.standing else float(rng.uniform(0.5, 1.0)),
            head=float(np.clip(rng.normal(0.2, 0.55), -1, 1)),
        )
        sprite = draw_animal(category_id, height * view.height, pose, individual)
        ground = scene.horizon + (view.height - scene.horizon) * (0.22 + 0.68 * nearness)
        blur = abs(encounter.speed) * 28 if rng.random() < 0.5 else 0.0
        where = _paste(view, scene, frame, sprite, (middle * view.width, ground), left, blur, rng)
        if where is not None:
            placed.insert(0, (category_id, where))
    return placed


def _paste(
    view: Image.Image,
    scene: Scene,
    frame: Frame,
    sprite: Sprite,
    at: tuple[float, float],
    left: bool,
    blur: float,
    rng: np.random.Generator,
) -> Rectangle | None:
    picture, mask = sprite.picture, sprite.mask
    foot = sprite.ground[0]
    eyes = list(sprite.eyes)
    if left:
        picture, mask = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (picture, mask))
        foot = mask.width - foot
        eyes = [(mask.width - x, y) for x, y in eyes]
    if blur >= 1:
        box = ImageFilter.BoxBlur((blur * view.width / 640, 0))
        picture, mask = picture.filter(box), mask.filter(box)
    corner = round(at[0] - foot), round(at[1] - sprite.ground[1])
    _shadow(view, mask, corner, at[1], frame)
    if frame.night:
        light = _light_at(scene, at)
        picture = infrared(picture).point(lambda value: round(value * light))
    view.paste(picture, corner, mask)
    if frame.night:
        _eyeshine(view, [(corner[0] + x, corner[1] + y) for x, y in eyes], sprite.eye)
    _tufts(view, mask, corner, at[1], scene, frame, rng)
    drawn = mask.point(lambda value: 255 if value >= _SEEN else 0).getbbox()
    if drawn is None:
        return None
    return (
        float(corner[0] + drawn[0]),
        float(corner[1] + drawn[1]),
        float(corner[0] + drawn[2]),
        float(corner[1] + drawn[3]),
    )


def _light_at(scene: Scene, at: tuple[float, float]) -> float:
    """How brightly the flash lights whatever stands at a point, as a factor."""
    column = min(scene.flash.width - 1, max(0, round(at[0])))
    row = min(scene.flash.height - 1, max(0, round(at[1])))
    return 0.35 + 0.75 * float(np.asarray(scene.flash)[row, column]) / 255


def _shadow(
    view: Image.Image, mask: Image.Image, corner: tuple[int, int], ground: float, frame: Frame
) -> None:
    """The animal's shadow on the ground: its own shape, flat and soft."""
    box = mask.getbbox()
    if box is None:
        return
    flat = max(4, mask.height // 7)
    shadow = mask.resize((mask.width, flat), Image.Resampling.BOX).filter(ImageFilter.BoxBlur(flat / 5))
    shadow = shadow.point(lambda value: value * 2 // 5)
    dark = Image.new(view.mode, shadow.size, 14 if frame.night else (40, 34, 26))
    view.paste(dark, (corner[0], round(ground) - flat // 2), shadow)


def _eyeshine(view: Image.Image, eyes: list[tuple[float, float]], radius: float) -> None:
    """The flash comes back from the eye: a white disc with a glow."""
    radius = max(1.2, radius * 1.5)
    reach = round(radius * 3) + 1
    span = np.arange(-reach, reach + 1, dtype=np.float32)
    distance = np.hypot(span[:, None], span[None, :])
    glow = np.clip(1.6 * np.exp(-((distance / radius) ** 2) * 0.7), 0, 1) * 255
    disc = Image.fromarray(glow.astype(np.uint8))
    for x, y in eyes:
        view.paste(250, (round(x) - reach, round(y) - reach), disc)


def _tufts(
    view: Image.Image,
    mask: Image.Image,
    corner: tuple[int, int],
    ground: float,
    scene: Scene,
    frame: Frame,
    rng: np.random.Generator,
) -> None:
    """Grass in front of the animal's feet, sometimes in front of half of it."""
    blades = int(rng.choice((6, 18, 60), p=(0.5, 0.35, 0.15)))
    tall = mask.height * (0.12 if blades < 60 else 0.30)
    pen = ImageDraw.Draw(view)
    x = rng.uniform(corner[0], corner[0] + mask.width, blades)
    traits = rng.normal((0.0, 1.0, 0.85), (0.3, 0.3, 0.15), (blades, 3))
    light = _light_at(scene, (corner[0] + mask.width / 2, ground)) if frame.night else 1.0
    grey = round(0.30 * scene.blade[0] + 0.59 * scene.blade[1] + 0.11 * scene.blade[2])
    base = mask.height * 0.03
    for root, (lean, length, tone) in zip(x.tolist(), traits.tolist(), strict=True):
        fill: int | tuple[int, ...]
        if frame.night:
            fill = min(255, max(0, round(grey * tone * light)))
        else:
            fill = tuple(min(255, max(0, round(part * tone))) for part in scene.blade)
        tip = (root + lean * tall, ground + base - abs(length) * tall)
        pen.polygon((root - 1.2, ground + base, root + 1.2, ground + base, *tip), fill=fill)


def _expose(view: Image.Image, frame: Frame, exposure: float, rng: np.random.Generator) -> Image.Image:
    """The light of the hour, then the sensor's noise. Returns RGB, at night with R = G = B."""
    if frame.night:
        view = view.point(lambda value: min(255, round(value * exposure * 1.15)))
        return _grain(view, rng, "L").convert("RGB")
    hour = frame.time.hour + frame.time.minute / 60
    sun = math.sin(math.pi * min(1.0, max(0.0, (hour - 5.6) / 13.2)))
    strength = exposure * (0.62 + 0.44 * sun)
    warm = 0.16 * (1 - sun)
    curves = [
        min(255, round(value * strength * tint)) for tint in (1 + warm, 1.0, 1 - warm) for value in range(256)
    ]
    return _grain(view.point(curves), rng, "RGB")


def _grain(view: Image.Image, rng: np.random.Generator, mode: str) -> Image.Image:
    bank = _grain_bank(mode, (view.width + 97, view.height + 89))
    x, y = int(rng.integers(0, 98)), int(rng.integers(0, 90))
    return ImageChops.add(view, bank.crop((x, y, x + view.width, y + view.height)), scale=1, offset=-128)


@lru_cache(maxsize=4)
def _grain_bank(mode: str, size: tuple[int, int]) -> Image.Image:
    """Noise around 128, larger than a photo: each photo takes a different part of it."""
    rng = np.random.default_rng(7)
    bands = len(mode)
    luminance = rng.normal(128, 7.0 if mode == "L" else 3.2, (size[1], size[0], 1))
    colour = rng.normal(0, 0.0 if mode == "L" else 1.6, (size[1], size[0], bands))
    grain = np.clip(luminance + colour, 0, 255).round().astype(np.uint8)
    return Image.fromarray(grain[..., 0] if mode == "L" else grain)


def _write_banner(
    photo: Image.Image, height: int, camera: Camera, frame: Frame, rng: np.random.Generator
) -> None:
    """The black strip below the picture: time, number in the burst, temperature, camera."""
    pen = ImageDraw.Draw(photo)
    top = photo.height - height
    font = _font(round(height * 0.66))
    line = top + height // 2
    pen.rectangle((0, top, photo.width, photo.height), fill=(0, 0, 0))
    white = (245, 245, 245)
    pen.text((height // 3, line), f"{frame.time:%Y-%m-%d %H:%M:%S}", white, font, anchor="lm")
    pen.text((photo.width * 0.44, line), f"M {frame.position + 1}", white, font, anchor="lm")
    pen.text((photo.width * 0.55, line), f"{_celsius(frame.time, rng)}°C", white, font, anchor="lm")
    pen.text((photo.width - height // 3 - height, line), camera.location, white, font, anchor="rm")
    mark = (photo.width - height, top + 4, photo.width - 6, photo.height - 4)
    # Some makers print their mark in colour, even at night: greyscale does not mean no colour at all.
    pen.ellipse(mark, outline=(40, 190, 70) if camera.make == "RECONYX" else white, width=2)


def _celsius(time: datetime, rng: np.random.Generator) -> int:
    hour = time.hour + time.minute / 60
    return round(21 + 8 * math.sin(math.pi * (hour - 9) / 12) + float(rng.normal(0, 0.6)))


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _jpeg(photo: Image.Image, camera: Camera, frame: Frame) -> bytes:
    file = io.BytesIO()
    if camera.exif:
        exif = Image.Exif()
        exif[ExifTags.Base.Make] = camera.make
        exif[ExifTags.Base.Model] = camera.model
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = f"{frame.time:%Y:%m:%d %H:%M:%S}"
        photo.save(file, "JPEG", quality=_QUALITY, exif=exif)
    else:
        photo.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
