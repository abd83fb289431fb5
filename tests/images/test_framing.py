from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from support import data_folder
from support_pictures import gradient, saved

from camtrap_batch.images.framing import Framing, frame

REAL = data_folder("real_images")
ELEPHANTS = REAL / "google-cameratrapai" / "african_elephants.jpg"


def decode(data: bytes, size: int) -> np.ndarray:
    return frame(data, Framing(size))


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


@pytest.mark.skipif(not REAL.exists(), reason="the real photos are not on this machine")
def test_every_real_photo_decodes() -> None:
    photos = [path for path in sorted(REAL.rglob("*")) if path.suffix.lower() == ".jpg"]
    assert len(photos) in (9, 24)  # in this repository, and beside it
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


def as_torchvision(data: bytes, framing: Framing) -> np.ndarray:
    from torchvision.transforms import functional as transforms

    with Image.open(io.BytesIO(data)) as image:
        picture = ImageOps.exif_transpose(image).convert("RGB")
    filter_ = transforms.InterpolationMode(framing.interpolation)
    size = [framing.side, framing.side] if framing.resize == "squash" else framing.side
    resized = transforms.resize(picture, size, filter_, antialias=framing.antialias)
    return np.asarray(transforms.center_crop(resized, framing.size))


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_other_models_see_what_torchvision_shows_them(resize: str, interpolation: str) -> None:
    framing = Framing(48, resize, 0.75, interpolation)
    for shape in [(400, 300), (300, 400), (311, 97), (64, 64)]:
        data = saved(gradient(*shape), "PNG")
        square = frame(data, framing)
        assert square.shape == (48, 48, 3)
        assert difference(square, as_torchvision(data, framing)) < 1


def test_a_border_is_cut_off() -> None:
    picture = Image.new("RGB", (300, 100), (0, 255, 0))
    picture.paste((255, 0, 0), (0, 0, 100, 100))
    assert (frame(saved(picture, "PNG"), Framing(40, "crop"))[:, 2:, 1] > 200).all()


def test_a_letterbox_keeps_the_shape_and_the_whole_picture() -> None:
    square = frame(saved(Image.new("RGB", (300, 100), (255, 0, 0)), "PNG"), Framing(60, "letterbox"))
    assert (square[20:40] == (255, 0, 0)).all()
    assert (square[:20] == 114).all()
    assert (square[40:] == 114).all()


def test_without_antialias_as_torch_interpolates() -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(5).integers(0, 255, (90, 130, 3), dtype=np.uint8)
    square = frame(saved(Image.fromarray(random), "PNG"), Framing(32, "squash", antialias=False))
    tensor = torch.from_numpy(random).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(tensor, (32, 32), mode="bilinear", align_corners=False)
    assert difference(square, expected[0].permute(1, 2, 0).numpy()) < 0.51
    smooth = frame(saved(Image.fromarray(random), "PNG"), Framing(32, "squash", 0.99))
    assert square.std() > 1.5 * smooth.std()


def test_thumbnails_are_for_models_that_learnt_from_them() -> None:
    assert Framing(224).takes_thumbnails(256)
    assert not Framing(288).takes_thumbnails(256)
    assert not Framing(224, "crop", 0.875, "bicubic").takes_thumbnails(2048)
