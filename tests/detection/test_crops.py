from __future__ import annotations

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from camtrap_batch.detection.crops import Picture, decode_picture
from camtrap_batch.images.framing import Framing, frame


def photo(width: int = 800, height: int = 600) -> bytes:
    """Grey, but for a red square of 80 pixels around (600, 150)."""
    pixels = np.full((height, width, 3), 90, np.uint8)
    pixels[110:190, 560:640] = (220, 20, 20)
    return simplejpeg.encode_jpeg(pixels, 95)


RED = (560 / 800, 110 / 600, 80 / 800, 80 / 600)


def test_the_whole_frame() -> None:
    assert (decode_picture(Picture(photo()), Framing(64)) == frame(photo(), Framing(64))).all()


def test_a_box_is_all_that_is_seen() -> None:
    red, grey = decode_picture(Picture(photo(), [RED, (0.1, 0.5, 0.1, 0.1)]), Framing(64))
    assert red.shape == (64, 64, 3)
    assert red[4:-4, 4:-4].reshape(-1, 3).mean(0) == pytest.approx([220, 20, 20], abs=8)
    assert grey.reshape(-1, 3).mean(0) == pytest.approx([90, 90, 90], abs=3)


def test_a_flat_box_is_seen_with_what_is_around_it() -> None:
    (seen,) = decode_picture(Picture(photo(), [(560 / 800, 140 / 600, 80 / 800, 20 / 600)]), Framing(64))
    assert seen[4:-4, 4:-4].reshape(-1, 3).mean(0) == pytest.approx([220, 20, 20], abs=8)


def test_a_small_decode_shows_what_a_full_one_does() -> None:
    box = (0.2, 0.1, 0.7, 0.6)
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
    data = simplejpeg.encode_jpeg(np.asarray(coarse.resize((1600, 1200), Image.Resampling.BICUBIC)), 95)
    (seen,) = decode_picture(Picture(data, [box]), Framing(64))
    full = Image.fromarray(simplejpeg.decode_jpeg(data))
    side = 0.7 * 1600
    right = full.resize((64, 64), Image.Resampling.BILINEAR, box=(320, 0, 320 + side, side))
    assert np.abs(seen.astype(int) - np.asarray(right)).mean() < 4


def test_specks_and_borders() -> None:
    for box in [(0.0, 0.0, 0.0, 0.0), (0.999, 0.999, 0.001, 0.001), (0.0, 0.0, 1.0, 1.0)]:
        assert decode_picture(Picture(photo(), [box]), Framing(32)).shape == (1, 32, 32, 3)


def test_what_does_not_decode() -> None:
    with pytest.raises(ValueError, match="not a picture"):
        decode_picture(Picture(b"<html>", [RED]), Framing(32))
