from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFilter

from camtrap_batch.rehearsal.animals import Pose, draw_animal
from camtrap_batch.rehearsal.photo import take_photo
from camtrap_batch.rehearsal.plan import Camera, Frame, plan_cameras, plan_frames
from camtrap_batch.rehearsal.species import BY_ID

SIZE = (320, 240)
CAMERAS = plan_cameras(8, 42)


def first(night: bool, camera: int = 0) -> Frame:
    return next(frame for frame in plan_frames(camera, 100, 42) if frame.category_id and frame.night == night)


def photo(camera: Camera, frame: Frame) -> Image.Image:
    return Image.open(io.BytesIO(take_photo(camera, frame, 42, SIZE).data))


def test_a_photo_by_day_is_coloured_and_one_in_infrared_is_not() -> None:
    for night in (False, True):
        pixels = np.asarray(photo(CAMERAS[0], first(night)))[: SIZE[1] * 9 // 10].astype(int)
        chroma = np.ptp(pixels, axis=2)
        assert (chroma.max() <= 2) == night


@pytest.mark.parametrize("night", [False, True])
def test_the_animal_is_in_the_picture(night: bool) -> None:
    frame = first(night)
    empty = replace(frame, category_id=0, count=0, second=None)
    view = slice(0, SIZE[1] * 9 // 10)
    with_animal = np.asarray(photo(CAMERAS[0], frame).convert("L"))[view].astype(int)
    without = np.asarray(photo(CAMERAS[0], empty).convert("L"))[view].astype(int)
    assert (np.abs(with_animal - without) > 30).mean() > 0.01


@pytest.mark.parametrize("night", [False, True])
def test_boxes_are_around_what_is_drawn(night: bool) -> None:
    """What an animal changes in the picture is in its box, and reaches the box's sides."""
    for camera in CAMERAS[:4]:
        frame = replace(first(night, camera.index), second=None)
        empty = replace(frame, category_id=0, count=0)
        taken = take_photo(camera, frame, 42, SIZE)
        assert [drawn.category_id for drawn in taken.animals] == [frame.category_id] * frame.count
        assert take_photo(camera, empty, 42, SIZE).animals == []
        inside = np.zeros((SIZE[1], SIZE[0]), bool)
        for x, y, w, h in (drawn.box for drawn in taken.animals):
            assert min(x, y) >= 0 < min(w, h)
            assert max(x + w, y + h) <= 1
            rows, columns = (
                slice(round(start * side), round((start + length) * side))
                for start, length, side in ((y, h, SIZE[1]), (x, w, SIZE[0]))
            )
            inside[rows, columns] = True
        grey = [
            np.asarray(Image.open(io.BytesIO(data)).convert("L").filter(ImageFilter.BoxBlur(2)), int)
            for data in (taken.data, take_photo(camera, empty, 42, SIZE).data)
        ]
        # An encounter has its own exposure, which changes the whole picture.
        exposure = np.median(grey[0][~inside]) / np.median(grey[1][~inside])
        changed = (np.abs(grey[0] - grey[1] * exposure) > 30)[: SIZE[1] * 9 // 10]
        inside = inside[: SIZE[1] * 9 // 10]
        inside = inside[: SIZE[1] * 9 // 10]
        assert changed[inside].mean() > 0.15
        assert changed[inside].mean() > 5 * changed[~inside].mean()  # shadow, grass, the sky's brightness
        for axis in (0, 1):  # no larger than need be
            reached = (changed & inside).any(axis).nonzero()[0]
            whole = inside.any(axis).nonzero()[0]
            assert np.ptp(reached) > 0.8 * np.ptp(whole)


def test_cameras_see_different_places() -> None:
    frames = [replace(first(False), camera=camera, category_id=0, count=0) for camera in (0, 1)]
    views = [
        np.asarray(photo(camera, frame).resize((16, 12))).astype(int)
        for camera, frame in zip(CAMERAS[:2], frames, strict=True)
    ]
    assert np.abs(views[0] - views[1]).mean() > 10


def test_exif_says_when_and_with_what() -> None:
    frame = first(False)
    exif = photo(CAMERAS[0], frame).getexif()
    assert exif[ExifTags.Base.Make] == CAMERAS[0].make
    assert exif[ExifTags.Base.Model] == CAMERAS[0].model
    written = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal]
    assert written == frame.time.strftime("%Y:%m:%d %H:%M:%S")


def test_some_cameras_write_no_exif() -> None:
    (without,) = (camera for camera in CAMERAS if not camera.exif)
    frame = plan_frames(without.index, 1, 42)[0]
    assert not photo(without, frame).getexif()


def test_the_banner_is_a_black_strip_with_white_letters() -> None:
    strip = np.asarray(photo(CAMERAS[0], first(False)).convert("L"))[-10:]
    assert np.median(strip) < 12
    assert strip.max() > 200


@pytest.mark.parametrize("category_id", BY_ID)
@pytest.mark.parametrize("height", [12.0, 150.0])
def test_every_animal_can_be_drawn(category_id: int, height: float) -> None:
    for seed in range(4):
        sprite = draw_animal(
            category_id, height, Pose(seed * 1.5, 0.8, seed / 2 - 0.8), np.random.default_rng(seed)
        )
        box = sprite.mask.getbbox()
        assert box is not None
        assert sprite.picture.size == sprite.mask.size
        # It stands on the ground and is neither cut at the sides nor at the top of its canvas.
        assert box[3] == pytest.approx(sprite.ground[1], abs=0.06 * height + 2)
        assert box[0] > 0
        assert box[2] < sprite.mask.width
        assert box[1] > 0
        assert all(0 <= x < sprite.mask.width and 0 <= y < sprite.mask.height for x, y in sprite.eyes)


def test_the_same_individual_looks_the_same() -> None:
    pose = Pose(1.0, 0.5, 0.0)
    one, same, other = (draw_animal(7, 100, pose, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.picture.tobytes() == same.picture.tobytes()
    assert one.picture.tobytes() != other.picture.tobytes()


def test_species_differ_in_grey_too() -> None:
    pose = Pose(1.0, 0.5, 0.0)
    for a, b in ((24, 128), (372, 374), (7, 149), (7, 90), (100, 119), (119, 127)):
        greys = []
        for category_id in (a, b):
            sprite = draw_animal(category_id, 100, pose, np.random.default_rng(1))
            page = Image.new("L", (400, 300), 128)
            corner = 200 - round(sprite.ground[0]), 290 - round(sprite.ground[1])
            page.paste(sprite.picture.convert("L"), corner, sprite.mask)
            greys.append(np.asarray(page, dtype=int))
        drawn = (greys[0] != 128) | (greys[1] != 128)
        assert (np.abs(greys[0] - greys[1])[drawn] > 25).mean() > 0.1, (a, b)
