from __future__ import annotations

import io
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from support import data_folder

from camtrap_batch.model.pixels import Decoder, ahead, decode

REAL = data_folder("real_images")
ELEPHANTS = REAL / "google-cameratrapai" / "african_elephants.jpg"


def gradient(width: int = 64, height: int = 48) -> Image.Image:
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([across, down, 255 - across], 2).astype(np.uint8))


def saved(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}), **options)
    return file.getvalue()


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def test_whole_frame_is_kept() -> None:
    picture = Image.new("RGB", (300, 100))
    picture.paste((255, 0, 0), (0, 0, 15, 100))
    picture.paste((0, 0, 255), (285, 0, 300, 100))
    pixels = decode(saved(picture), 40)
    assert pixels.shape == (40, 40, 3)
    assert pixels.dtype == np.uint8
    assert pixels[20, 0, 0] > 200
    assert pixels[20, -1, 2] > 200


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(gradient(), exif=exif.tobytes())
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    assert difference(decode(data, 32), np.asarray(upright)) < 3


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "P"), ("BMP", "RGB")]
)
def test_other_kinds_of_file(kind: str, mode: str) -> None:
    picture = gradient().convert(mode)
    expected = np.asarray(picture.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
    assert difference(decode(saved(picture, kind), 32), expected) < 6


def test_sixteen_bit_is_not_clipped() -> None:
    values = np.linspace(0, 65535, 64)[None, :].repeat(48, 0).astype(np.uint16)
    pixels = decode(saved(Image.fromarray(values), "PNG"), 32)
    assert pixels[16, 0, 0] < 10
    assert 110 < pixels[16, 16, 0] < 145
    assert pixels[16, -1, 0] > 245


def test_truncated_jpeg_gives_what_there_is() -> None:
    random = np.random.default_rng(0)
    data = saved(Image.fromarray(random.integers(0, 255, (240, 320, 3), dtype=np.uint8)))
    whole, half = decode(data, 64), decode(data[: len(data) // 2], 64)
    assert difference(whole[:20], half[:20]) < 1
    assert half[-20:].std() < 1 < whole[-20:].std()


@pytest.mark.skipif(not ELEPHANTS.exists(), reason="the real photos are not on this machine")
def test_thumbnail_and_original_look_the_same_to_the_network() -> None:
    data = ELEPHANTS.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        scale = 256 / min(image.size)
        small = image.convert("RGB").resize(
            [round(side * scale) for side in image.size], Image.Resampling.BOX
        )
    thumbnail = simplejpeg.encode_jpeg(np.asarray(small), 85)
    assert difference(decode(data, 224), decode(thumbnail, 224)) < 4


def test_every_real_photo_decodes() -> None:
    photos = [path for path in sorted(REAL.rglob("*")) if path.suffix.lower() == ".jpg"]
    assert len(photos) >= 9
    for photo in photos:
        assert decode(photo.read_bytes(), 64).std() > 5, photo.name


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 700), st.booleans())
def test_only_value_error_whatever_the_bytes(junk: bytes, at: int, jpeg: bool) -> None:
    whole = saved(gradient(), "JPEG" if jpeg else "PNG")
    at = min(at, len(whole))
    try:
        pixels = decode(whole[:at] + junk + whole[at + len(junk) :], 16)
    except ValueError:
        return
    assert pixels.shape == (16, 16, 3)


class Files(Sequence[bytes]):
    """Counts how often each file is read; `None` can't be read."""

    def __init__(self, files: list[bytes | None]) -> None:
        self.files = files
        self.reads = [0] * len(files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.reads[index] += 1
        if self.files[index] is None:
            raise FileNotFoundError(f"file {index}")
        return self.files[index]


def flat(value: int) -> bytes:
    return saved(Image.new("RGB", (20, 20), (value, value, value)))


def test_decoder_keeps_what_fits_and_the_order() -> None:
    files = Files([flat(10 * index) for index in range(20)])
    with Decoder(files, 16, threads=2, cache_bytes=12 * 16 * 16 * 3) as decoder:
        for _ in range(2):
            wanted = np.array([19, 0, 7, 12, 11])
            indices, pixels = decoder.get(wanted)
            assert indices.tolist() == wanted.tolist()
            assert np.abs(pixels[:, 8, 8, 0].astype(int) - 10 * wanted).max() <= 2
    assert [files.reads[index] for index in (0, 7, 11)] == [1, 1, 1]
    assert [files.reads[index] for index in (12, 19)] == [2, 2]


def test_decoder_leaves_out_what_fails_and_says_why() -> None:
    with Decoder(Files([flat(0), None, b"<html>", flat(200)]), 16, threads=2) as decoder:
        indices, pixels = decoder.get(np.array([3, 2, 1, 0]))
        assert indices.tolist() == [3, 0]
        assert pixels[:, 0, 0, 0].tolist() == [200, 0]
        assert "file 1" in decoder.failed[1]
        assert "not a picture" in decoder.failed[2]


def test_ahead_works_on_the_next_while_the_last_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]

    def work(item: int) -> int:
        begun[item].set()
        return item * item

    results = ahead(work, range(3))
    assert next(results) == 0
    assert begun[1].wait(5)
    assert list(results) == [1, 4]


def test_ahead_passes_an_error_on() -> None:
    def work(item: int) -> int:
        if item == 1:
            raise ValueError("one")
        return item

    results = ahead(work, range(3))
    assert next(results) == 0
    with pytest.raises(ValueError, match="one"):
        next(results)
