from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from camtrap_batch.images.pixels import (
    Pixels,
    difference_hash,
    is_blank,
    is_greyscale,
    make_thumbnail,
    shrink,
    upright,
)
from camtrap_batch.images.raster import grey_cells, resample
from camtrap_batch.store.schemas import MANIFEST


def night(height: int = 480, width: int = 640, seed: int = 1) -> npt.NDArray[np.uint8]:
    """An infrared picture: grey, three channels."""
    cells = np.random.default_rng(seed).integers(20, 200, (12, 16), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(cells).resize((width, height)))
    return np.repeat(grey[..., None], 3, axis=2)


def decoded(jpeg: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_what_pillow_does(red_left_blue_top: Pixels, orientation: int) -> None:
    image = Image.fromarray(red_left_blue_top)
    image.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(upright(red_left_blue_top, orientation), expected)


@pytest.mark.parametrize("orientation", [0, 9, -1])
def test_no_orientation_no_turn(red_left_blue_top: Pixels, orientation: int) -> None:
    assert np.array_equal(upright(red_left_blue_top, orientation), red_left_blue_top)


def test_blank() -> None:
    pixels = np.full((480, 640, 3), 128, np.uint8)
    assert is_blank(pixels)
    pixels[:16, :16, 1] = 255
    assert not is_blank(pixels)
    assert not is_blank(pixels, 255)
    assert is_blank(pixels, 256)
    assert not is_blank(pixels[:16, :100], 256)


def test_grey_is_night_and_colour_is_day(picture: Image.Image) -> None:
    assert is_greyscale(night())
    assert is_greyscale(night()[..., :1])
    assert not is_greyscale(np.asarray(picture))


def test_a_colour_banner_makes_no_day() -> None:
    pixels = night()
    pixels[:40] = (200, 20, 20)
    pixels[-60:] = (20, 180, 40)
    assert is_greyscale(pixels)


def test_an_animal_in_colour_makes_a_day() -> None:
    pixels = night()
    pixels[200:260, 200:280] = (190, 120, 40)
    assert not is_greyscale(pixels)


def test_a_tint_of_the_whole_picture_is_no_colour() -> None:
    tinted = np.clip(night().astype(np.int16) + np.array([30, 0, 25]), 0, 255).astype(np.uint8)
    assert is_greyscale(tinted)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 2), (9, 8)])
def test_the_smallest_pictures(shape: tuple[int, int]) -> None:
    for channels in (1, 3):
        pixels = np.random.default_rng(0).integers(0, 255, (*shape, channels), dtype=np.uint8)
        assert is_greyscale(pixels) in (True, False)
        assert 0 <= difference_hash(pixels) < 2**64
        thumbnail = make_thumbnail(shrink(pixels, 256), min(shape), 85)
        assert decoded(thumbnail.jpeg).shape[:2] == shape


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def test_near_duplicates_have_near_hashes(picture: Image.Image, encode: Callable[..., bytes]) -> None:
    original = difference_hash(np.asarray(picture))
    again = np.asarray(Image.open(io.BytesIO(encode("JPEG", quality=40))))
    smaller = np.asarray(picture.resize((333, 250)))
    brighter = np.asarray(picture.point(lambda value: min(255, value + 12)))
    for near in (again, smaller, brighter):
        assert distance(original, difference_hash(near)) <= 6
    other = difference_hash(night(seed=5))
    assert distance(original, other) > 16


def test_hash_says_which_neighbour_is_darker() -> None:
    rising = np.repeat(np.arange(0, 180, 2, dtype=np.uint8)[None, :, None], 40, axis=0)
    assert difference_hash(rising) == 2**64 - 1
    assert difference_hash(rising[:, ::-1]) == 0
    half = np.concatenate([rising, rising[:, ::-1]])
    assert difference_hash(half) == (2**32 - 1) << 32


@pytest.mark.parametrize("shape", [(256, 364), (480, 640), (31, 20), (9, 100), (3, 2)])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_cells_are_means_of_grey(shape: tuple[int, int], n_channels: int) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (*shape, n_channels), np.uint8)
    cells = grey_cells(pixels, 8, 9).astype(int)
    image = Image.fromarray(pixels if n_channels == 3 else pixels[..., 0]).convert("L")
    expected = np.asarray(image.resize((9, 8), Image.Resampling.BOX)).astype(int)
    assert np.abs(cells - expected).max() <= 1


def test_every_hash_fits_its_column() -> None:
    kind = MANIFEST.field("dhash").type
    assert (kind.bit_width, str(kind)) == (64, "uint64")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (341, 256)), ((480, 640), (256, 341)), ((300, 900), (256, 768)), ((257, 257), (256, 256))],
)
def test_thumbnail_is_reduced_to_its_short_side(size: tuple[int, int], expected: tuple[int, int]) -> None:
    pixels = night(size[1], size[0])
    thumbnail = make_thumbnail(shrink(pixels, 256), min(size), 85)
    assert (thumbnail.width, thumbnail.height) == expected
    assert decoded(thumbnail.jpeg).shape[:2] == expected[::-1]
    assert thumbnail.scale == pytest.approx(256 / min(size))


@pytest.mark.parametrize("size", [(256, 256), (200, 300), (10, 4000)])
def test_thumbnail_is_never_enlarged(size: tuple[int, int]) -> None:
    thumbnail = make_thumbnail(shrink(night(size[1], size[0]), 256), min(size), 85)
    assert (thumbnail.width, thumbnail.height, thumbnail.scale) == (*size, 1.0)


def test_thumbnail_of_a_reduced_picture_knows_the_files_size() -> None:
    thumbnail = make_thumbnail(shrink(night(384, 512), 256), 1536, 85)
    assert thumbnail.scale == pytest.approx(1 / 6)


def test_thumbnail_looks_like_the_picture(picture: Image.Image) -> None:
    grey = np.asarray(picture.convert("L"))[..., None]
    for pixels in (np.asarray(picture), grey):
        thumbnail = make_thumbnail(shrink(pixels, 120), 480, 85)
        small = decoded(thumbnail.jpeg)
        assert small.ndim == (3 if pixels.shape[2] == 3 else 2)
        reference = Image.fromarray(pixels.squeeze()).resize((160, 120), Image.Resampling.BOX)
        assert np.abs(small.astype(int) - np.asarray(reference).astype(int)).mean() < 4


def test_a_picture_too_long_for_a_jpeg_is_reduced_further() -> None:
    thumbnail = make_thumbnail(shrink(night(4, 70_000), 256), 4, 85)
    assert (thumbnail.width, thumbnail.height) == (65_500, 4)


@pytest.mark.parametrize("size", [(341, 256), (455, 256), (100, 479), (640, 480), (1, 1), (639, 1)])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_another_size_is_what_pillow_makes_of_it(
    picture: Image.Image, size: tuple[int, int], n_channels: int
) -> None:
    image = picture if n_channels == 3 else picture.convert("L")
    expected = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).reshape(size[1], size[0], n_channels)
    resampled = resample(np.asarray(image).reshape(480, 640, n_channels), size[1], size[0])
    assert np.abs(resampled.astype(int) - expected).max() <= 1
