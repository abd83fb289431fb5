from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from camtrap_batch.images.jpeg.baseline import decode_baseline
from camtrap_batch.images.judge import Limits, judge
from camtrap_batch.images.pixels import Pixels, make_thumbnail, shrink

Encode = Callable[..., bytes]
FULL, HALF, QUARTER = 0, 1, 2
"""Pillow's names for as many samples of chroma as of luma, half as many, a quarter."""


def by_libjpeg(data: bytes, wanted: int, space: str = "GRAY") -> Pixels:
    """Raises ValueError where libjpeg complains."""
    size = {"min_height": wanted, "min_width": wanted}
    return np.asarray(simplejpeg.decode_jpeg(data, space, strict=True, fastupsample=True, **size))


def decoded(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def luma(pixels: Pixels) -> np.ndarray:
    return pixels.astype(float) @ ([0.299, 0.587, 0.114] if pixels.shape[2] == 3 else [1.0])


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    """Nothing compresses worse: codes of every length occur."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


@pytest.mark.parametrize("subsampling", [FULL, HALF, QUARTER])
@pytest.mark.parametrize("restart", [0, 1, 7])
@pytest.mark.parametrize("optimize", [False, True])
def test_an_eighth_is_libjpegs(
    picture: Image.Image, encode: Encode, subsampling: int, restart: int, optimize: bool
) -> None:
    large_noise = [] if optimize else [noise(250, 333), noise(8, 2000)]  # Pillow's buffer is too small for it
    for image in (picture, noise(9, 17), noise(1, 1), *large_noise):
        for quality in (20, 90, 100):
            data = encode(
                image=image,
                quality=quality,
                subsampling=subsampling,
                optimize=optimize,
                restart_marker_blocks=restart,
            )
            pixels = decode_baseline(data, 1)
            assert pixels is not None
            expected = by_libjpeg(data, 1, "RGB")
            assert pixels.shape == expected.shape
            if subsampling == FULL:
                assert np.abs(pixels.astype(int) - expected).max() <= 1
            else:  # luma is the same but for what rounding and the limits of RGB do to it
                is_inside = ((pixels > 0) & (pixels < 255)).all(axis=2)
                assert np.abs(luma(pixels) - by_libjpeg(data, 1)[..., 0])[is_inside].max(initial=0) <= 1.5


@pytest.mark.parametrize("subsampling", [FULL, QUARTER])
def test_grey_is_libjpegs_to_the_bit(picture: Image.Image, encode: Encode, subsampling: int) -> None:
    for image in (picture, noise(250, 333), noise(17, 9)):
        data = encode(image=image.convert("L"), quality=95, subsampling=subsampling)
        pixels = decode_baseline(data, 1)
        assert pixels is not None
        assert np.array_equal(pixels, by_libjpeg(data, 1))


@pytest.mark.parametrize("subsampling", [FULL, HALF, QUARTER])
def test_a_quarter_shows_what_the_picture_shows(
    picture: Image.Image, encode: Encode, subsampling: int
) -> None:
    data = encode(quality=95, subsampling=subsampling)
    pixels = decode_baseline(data, 100)
    assert pixels is not None
    assert pixels.shape == (120, 160, 3)
    means = np.asarray(picture, float).reshape(120, 4, 160, 4, 3).mean(axis=(1, 3))
    assert np.abs(luma(pixels) - luma(means)).mean() < 1.5
    assert np.abs(pixels - means).mean() < 5  # chroma is coarser


@pytest.mark.parametrize("subsampling", [FULL, HALF, QUARTER])
@pytest.mark.parametrize(("wanted", "size"), [(120, (120, 160)), (101, (101, 135))])
def test_brought_to_size_by_planes_it_looks_as_brought_to_size_in_colours(
    picture: Image.Image, encode: Encode, subsampling: int, wanted: int, size: tuple[int, int]
) -> None:
    data = encode(image=picture, quality=90, subsampling=subsampling)
    exact, more = decode_baseline(data, wanted, exactly=True), decode_baseline(data, wanted)
    assert exact is not None
    assert more is not None
    assert exact.shape[:2] == size
    shrunk = shrink(more, wanted)
    assert np.abs(luma(exact) - luma(shrunk)).mean() < 1
    # Chroma is as coarse as the thumbnail keeps it, and lies where it did.
    thumbnails = [decoded(make_thumbnail(pixels, 480, 85).jpeg).astype(int) for pixels in (exact, shrunk)]
    assert np.abs(thumbnails[0] - thumbnails[1]).mean() < 2


def test_chroma_brought_to_size_lies_where_luma_does(encode: Encode) -> None:
    """A red square on grey, at a place that neither half of the size nor a block divides."""
    pixels = np.full((480, 640, 3), 128, np.uint8)
    pixels[168:312, 216:424] = (200, 60, 60)
    data = encode(image=Image.fromarray(pixels), quality=95, subsampling=QUARTER)
    exact = decode_baseline(data, 101, exactly=True)
    assert exact is not None
    reference = np.asarray(Image.fromarray(pixels).resize((135, 101), Image.Resampling.BOX)).astype(int)
    redness = [(image[..., 0] - image[..., 1]).astype(float) for image in (exact.astype(int), reference)]
    for axis, extent in ((0, 101), (1, 135)):
        centres = [(one.sum(axis=1 - axis) * np.arange(extent)).sum() / one.sum() for one in redness]
        assert centres[0] == pytest.approx(centres[1], abs=0.35)


def test_edges_of_a_quarter_lie_where_they_should(encode: Encode) -> None:
    halves = np.zeros((64, 64), np.uint8)
    halves[:, 28:] = 250
    halves[36:, :] = 250
    pixels = decode_baseline(encode(image=Image.fromarray(halves), quality=100), 16)
    assert pixels is not None
    assert pixels.shape == (16, 16, 1)
    expected = halves.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.abs(pixels[..., 0] - expected).max() < 50  # the highest frequencies are not there
    assert np.array_equal(pixels[..., 0] > 125, expected > 125)


def test_more_pixels_than_a_quarter_has_are_not_to_be_had(encode: Encode) -> None:
    assert decode_baseline(encode(), 120) is not None
    assert decode_baseline(encode(), 121) is None


def test_fill_bytes_before_a_marker_are_allowed(encode: Encode) -> None:
    data = encode(restart_marker_blocks=50)
    filled = data[:-2] + b"\xff\xff\xff" + data[-2:]
    by_libjpeg(filled, 1)
    pixels = decode_baseline(filled, 1)
    assert pixels is not None
    assert np.array_equal(pixels, decode_baseline(data, 1))


@pytest.mark.parametrize(
    "unusual",
    [
        pytest.param(lambda data: data[:-2], id="no end"),
        pytest.param(lambda data: data[:-200], id="cut off"),
        pytest.param(lambda data: data[:-200] + data[-2:], id="ends early"),
        pytest.param(lambda data: data[:-2] + b"\0" + data[-2:], id="a byte too many"),
        pytest.param(lambda data: data[:2000] + b"\xff\xd0" + data[2000:], id="a restart too many"),
        pytest.param(lambda data: data.replace(b"JFIF\0\1", b"JFIF\0\2"), id="JFIF 2"),
        pytest.param(
            lambda data: data[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\0") + data[2:], id="RGB, says Adobe"
        ),
        pytest.param(lambda data: data[:2] + segment(0xDC, b"\0\x10") + data[2:], id="number of lines"),
        pytest.param(lambda data: data[:2] + b"\0" + data[2:], id="no marker"),
        pytest.param(lambda data: data[:300], id="header alone"),
        pytest.param(lambda data: data[:2], id="start alone"),
    ],
)
def test_what_is_not_sound_or_unusual_is_left_to_libjpeg(
    encode: Encode, unusual: Callable[[bytes], bytes]
) -> None:
    data = encode()
    changed = unusual(data)
    assert changed != data
    assert decode_baseline(data, 1) is not None
    assert decode_baseline(changed, 1) is None
    assert decode_baseline(changed, 100) is None


def test_kinds_of_jpeg_that_cameras_do_not_write_are_left_to_libjpeg(
    picture: Image.Image, encode: Encode
) -> None:
    assert decode_baseline(encode(progressive=True), 1) is None
    assert decode_baseline(encode(image=picture.convert("CMYK")), 1) is None
    four_to_one = simplejpeg.encode_jpeg(np.asarray(picture), colorsubsampling="411")
    by_libjpeg(four_to_one, 1)
    assert decode_baseline(four_to_one, 1) is None


def test_a_picture_larger_than_its_bytes_is_not_made_room_for(encode: Encode) -> None:
    data = encode()
    frame = data.index(b"\xff\xc0")
    giant = data[: frame + 5] + b"\xff\xff\xff\xff" + data[frame + 9 :]
    assert decode_baseline(giant, 1) is None


def test_what_is_called_sound_libjpeg_does_not_complain_of(picture: Image.Image, encode: Encode) -> None:
    """Bits flipped, bytes set, put in and taken out, most of them near the header, the end and each other."""
    randomly = random.Random(7)
    small = picture.resize((48, 40))
    originals = [
        encode(image=image, quality=quality, subsampling=subsampling, restart_marker_blocks=restart)
        for image in (small, small.convert("L"), noise(24, 40))
        for quality in (40, 100)
        for subsampling in (FULL, HALF, QUARTER)
        for restart in (0, 3)
    ]
    n_sound = n_spoilt = 0
    for original in originals:
        for _ in range(300):
            data = bytearray(original)
            for _ in range(randomly.choice((1, 1, 2, 4))):
                _spoil(data, randomly)
            pixels = decode_baseline(bytes(data), 1)
            if pixels is not None:
                by_libjpeg(bytes(data), 1)
                n_sound += 1
            else:
                n_spoilt += 1
    assert n_sound > 1000
    assert n_spoilt > 1000


def _spoil(data: bytearray, randomly: random.Random) -> None:
    near = randomly.choice((0, 150, 600, len(data) - 12))
    place = min(max(0, near + randomly.randrange(-4, 160)), len(data) - 1)
    match randomly.randrange(5):
        case 0:
            data[place] ^= 1 << randomly.randrange(8)
        case 1:
            data[place] = randomly.choice((0, 255, 0xD9, 0xD0, randomly.randrange(256)))
        case 2:
            del data[place : place + randomly.randint(1, 3)]
        case 3:
            data[place:place] = randomly.randbytes(randomly.randint(1, 3))
        case 4:
            del data[max(place, 2) :]
    data += b"\xff\xd9" * (len(data) < 2)


def test_thumbnails_of_real_photos_are_as_near_to_pillows_as_measured(real_images: Path) -> None:
    """In dB, to the whole photo at that size: 37.0; 37.1 where colours were brought to size (2026-12-01)."""
    near = []
    for path in sorted(real_images.rglob("*.[jJ][pP][gG]")):
        image = Image.open(io.BytesIO(path.read_bytes()))
        try:
            image.load()
        except OSError:  # cut off
            continue
        if image.getexif().get(274, 1) != 1:
            continue
        thumbnail = judge(path.read_bytes(), path.name, Limits(thumbnail=256)).thumbnail
        assert thumbnail is not None
        expected = image.convert("RGB").resize((thumbnail.width, thumbnail.height), Image.Resampling.BILINEAR)
        found = np.asarray(Image.open(io.BytesIO(thumbnail.jpeg)).convert("RGB"))
        error = np.mean((found.astype(float) - np.asarray(expected)) ** 2)
        near.append(10 * np.log10(255**2 / error))
    assert np.mean(near) > 36.5
    assert min(near) > 29.5


def test_real_photos_are_read(real_images: Path) -> None:
    n_read = 0
    for path in real_images.rglob("*.*"):
        if path.suffix.lower() != ".jpg":
            continue
        data = path.read_bytes()
        pixels = decode_baseline(data, 32)
        try:
            expected = by_libjpeg(data, 32)
        except ValueError:
            assert pixels is None
            continue
        assert pixels is not None
        is_inside = ((pixels > 0) & (pixels < 255)).all(axis=2)
        assert np.abs(luma(pixels) - expected[..., 0])[is_inside].max() <= 1.5
        n_read += 1
    assert n_read >= 8


def test_pillow_agrees_on_the_colours(encode: Encode) -> None:
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[:32, :32], colours[:32, 32:] = (200, 30, 40), (30, 190, 50)
    colours[32:, :32], colours[32:, 32:] = (40, 50, 210), (128, 128, 128)
    data = encode(image=Image.fromarray(colours), quality=95, subsampling=QUARTER)
    pixels = decode_baseline(data, 1)
    assert pixels is not None
    expected = (
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
    )
    inside = [0, 1, 2, 5, 6, 7]  # Pillow smoothes chroma where two colours meet
    assert np.abs(pixels - expected)[np.ix_(inside, inside)].max() <= 2


def test_machine_code_that_can_not_be_kept_is_used_all_the_same(encode: Encode, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encode())
    script = f"""
import resource
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
from camtrap_batch.images import Limits, judge
print(judge(Path({str(tmp_path / "a.jpg")!r}).read_bytes(), "a.jpg", Limits()).status)
"""
    cache = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "ok"
    assert cache.is_dir()
    assert max((path.stat().st_size for path in cache.rglob("*") if path.is_file()), default=0) <= 500
