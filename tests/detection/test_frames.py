from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from camtrap_batch.detection.frames import GREY, Fit, put, put_pixels
from camtrap_batch.images.decode import decode_whole

cv2 = pytest.importorskip("cv2", reason="OpenCV, which detectors prepare pictures with, is not installed")


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(height * width)
    coarse = rng.integers(0, 256, (height // 7 + 2, width // 7 + 2, channels), np.uint8)
    return np.atleast_3d(cv2.resize(coarse, (width, height))).astype(np.uint8)


@settings(deadline=None, max_examples=60)
@given(height=st.integers(1, 300), width=st.integers(1, 300), stride=st.sampled_from([0, 32]))
def test_a_letterbox_as_opencv_makes_it(height: int, width: int, stride: int) -> None:
    """Against what YOLOv5 and ultralytics do, step by step."""
    pixels = picture(height, width)
    fit = Fit((96, 128), stride=stride)
    place = fit.place(height, width)
    scale = min(96 / height, 128 / width)
    new = max(round(width * scale), 1), max(round(height * scale), 1)
    across, down = 128 - new[0], 96 - new[1]
    if stride:
        across, down = across % stride, down % stride
    small = pixels if new == (width, height) else cv2.resize(pixels, new, interpolation=cv2.INTER_LINEAR)
    top, bottom = round(down / 2 - 0.1), round(down / 2 + 0.1)
    left, right = round(across / 2 - 0.1), round(across / 2 + 0.1)
    wanted = cv2.copyMakeBorder(small, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(GREY,) * 3)
    out = np.full((3, *place.frame), np.nan, np.float32)
    put(pixels, fit, place, out)
    whole = np.zeros((*place.frame, 3), np.uint8)
    put_pixels(pixels, place, whole)
    assert (np.round(out.transpose(1, 2, 0) * 255) == whole).all()
    assert out.shape == (3, *wanted.shape[:2])
    assert (
        np.abs(out.transpose(1, 2, 0) * 255 - wanted).max() < 1.01
    )  # OpenCV's SIMD rounds otherwise at times


def test_the_way_that_photos_go_is_exact() -> None:
    pixels = picture(1536, 2048)
    fit = Fit((640, 640), stride=32)
    place = fit.place(1536, 2048)
    out = np.empty((3, *place.frame), np.float32)
    put(pixels, fit, place, out)
    wanted = cv2.resize(pixels, (640, 480), interpolation=cv2.INTER_LINEAR)
    assert (np.round(out.transpose(1, 2, 0) * 255) == wanted).all()


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("size", [(300, 500), (40, 30), (64, 64), (1, 70)])
def test_stretched_smooth_and_normalised_as_torchvision_does(size: tuple[int, int], smooth: bool) -> None:
    torch = pytest.importorskip("torch")
    transforms = pytest.importorskip("torchvision").transforms.functional
    pixels = picture(*size)
    fit = Fit((64, 96), "stretch", smooth=smooth, in_floats=True, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    place = fit.place(*size)
    out = np.empty((3, 64, 96), np.float32)
    put(pixels, fit, place, out)
    small = transforms.resize(
        torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, [64, 96], antialias=smooth
    )
    wanted = transforms.normalize(small, fit.mean, fit.std).numpy()
    assert out == pytest.approx(wanted, abs=1e-4)


def test_a_grey_picture_has_three_channels() -> None:
    pixels = picture(50, 60, 1)
    fit = Fit((64, 64))
    out = np.empty((3, 64, 64), np.float32)
    put(pixels, fit, fit.place(50, 60), out)
    whole = np.empty((64, 64, 3), np.uint8)
    put_pixels(pixels, fit.place(50, 60), whole)
    assert (np.round(out.transpose(1, 2, 0) * 255) == whole).all()
    assert (out[0] == out[1]).all()
    assert (out[0] == out[2]).all()


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_decoded_as_pillow_does(subsampling: str) -> None:
    data = simplejpeg.encode_jpeg(picture(123, 211), 85, colorsubsampling=subsampling)
    assert (decode_whole(data) == np.asarray(Image.open(io.BytesIO(data)))).all()


def test_turned_as_exif_says() -> None:
    image = Image.fromarray(picture(40, 60))
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    assert decode_whole(file.getvalue()).shape == (60, 40, 3)


def test_cut_off_as_far_as_pillow_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    data = simplejpeg.encode_jpeg(picture(200, 300), 90)[:6000]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert (decode_whole(data) == np.asarray(Image.open(io.BytesIO(data)))).all()


def test_other_formats_and_nothing() -> None:
    file = io.BytesIO()
    Image.fromarray(picture(40, 60)).save(file, "PNG")
    assert (decode_whole(file.getvalue()) == picture(40, 60)).all()
    for data in (b"", b"<html>", b"\xff\xd8\xff\xe0nothing"):
        with pytest.raises(ValueError, match="not a picture"):
            decode_whole(data)
