from __future__ import annotations

import io
import tracemalloc
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from camtrap_batch.images.decode import decode_jpeg, decode_other, jpeg_header, one_line, open_image
from camtrap_batch.images.pixels import Pixels

WANTED = 120


def other(data: bytes, wanted: int = WANTED) -> Pixels:
    decoded = decode_other(open_image(data), wanted)
    assert (decoded.status, decoded.detail) == ("ok", None)
    assert decoded.pixels is not None
    return decoded.pixels


def jpeg(data: bytes, wanted: int = WANTED) -> Pixels:
    decoded = decode_jpeg(data, wanted)
    assert (decoded.status, decoded.detail) == ("ok", None)
    assert decoded.pixels is not None
    return decoded.pixels


def difference(pixels: Pixels, picture: Image.Image) -> float:
    """Mean difference from the picture, over a coarse grid."""
    mode = "L" if pixels.shape[2] == 1 else "RGB"
    image = Image.fromarray(pixels.squeeze())
    ours = np.asarray(image.resize((32, 24), Image.Resampling.BOX), float)
    theirs = np.asarray(picture.convert(mode).resize((32, 24), Image.Resampling.BOX), float)
    return float(np.abs(ours - theirs).mean())


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}]
)
def test_jpeg(
    picture: Image.Image, encode: Callable[..., bytes], mode: str, options: dict[str, object]
) -> None:
    data = encode("JPEG", picture.convert(mode), quality=90, **options)
    pixels = jpeg(data)
    assert pixels.shape == (120, 160, 1 if mode == "L" else 3)
    assert difference(pixels, picture) < 6
    assert jpeg_header(data) == (640, 480, {"YCbCr": "RGB"}.get(mode, mode))


def test_jpeg_is_decoded_at_the_smallest_scale_that_serves(encode: Callable[..., bytes]) -> None:
    assert jpeg(encode(), 480).shape[:2] == (480, 640)
    assert jpeg(encode(), 200).shape[:2] == (240, 320)
    smallest = decode_jpeg(encode(), 1, exactly=False).pixels
    assert smallest is not None
    assert smallest.shape[:2] == (60, 80)


def test_multi_picture_file_gives_its_first(picture: Image.Image, encode: Callable[..., bytes]) -> None:
    data = encode("MPO", picture, save_all=True, append_images=[picture.convert("L").convert("RGB")])
    assert open_image(data).format == "MPO"
    assert difference(jpeg(data), picture) < 6


def test_what_a_damaged_progressive_file_leaves_out_is_not_memory(encode: Callable[..., bytes]) -> None:
    data = encode("JPEG", progressive=True)
    cut = len(data) // 3
    broken = data[:cut] + b"\xff\xd8" + data[cut:]  # libjpeg gives up before the first row
    for _ in range(3):
        rubbish = [np.full((240, 320, 3), 77, np.uint8) for _ in range(20)]
        del rubbish
        decoded = decode_jpeg(broken, 200)
        assert (decoded.status, decoded.pixels) == ("corrupt", None)


def test_jpeg_of_an_unknown_sampling_is_not_called_ok(encode: Callable[..., bytes]) -> None:
    data = bytearray(encode())
    data[data.index(b"\xff\xc0") + 11] = 0x31
    assert jpeg_header(bytes(data)) is None
    decoded = decode_jpeg(bytes(data), WANTED)
    assert decoded.status == "damaged"
    assert decoded.pixels is not None
    assert "subsampling" in str(decoded.detail)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
        *(("TIFF", mode) for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK", "I;16", "F", "I")),
        ("GIF", "P"),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        *(("BMP", mode) for mode in ("RGB", "L", "P", "1")),
        ("JPEG2000", "RGB"),
        ("AVIF", "RGB"),
    ],
)
@pytest.mark.parametrize("wanted", [480, 120, 40])
def test_every_mode(
    picture: Image.Image, encode: Callable[..., bytes], kind: str, mode: str, wanted: int
) -> None:
    if mode in ("I;16", "I", "F"):
        stretched = np.asarray(picture.convert("L"), np.uint16) * 257
        image = Image.fromarray(stretched if mode == "I;16" else stretched.astype(f"{mode.lower()}4"))
        assert image.mode == mode
        if mode != "I;16":  # ranges of their own are stretched
            picture = picture.convert("L").point(lambda value: value * 65_535 / stretched.max())
    else:
        image = picture.convert(mode)
    pixels = other(encode(kind, image), wanted)
    assert pixels.dtype == np.uint8
    assert wanted <= min(pixels.shape[:2]) <= 480
    assert pixels.shape[0] * 4 == pytest.approx(pixels.shape[1] * 3, abs=8)
    assert pixels.shape[2] == (3 if mode in ("RGB", "RGBA", "P", "CMYK") else 1)
    assert difference(pixels, picture) < 9


def test_16_bits_in_either_order(picture: Image.Image, encode: Callable[..., bytes]) -> None:
    stretched = np.asarray(picture.convert("L"), np.uint16) * 257
    for order in ("I;16", "I;16B"):
        image = Image.frombytes(order, picture.size, stretched.astype("<u2" if order == "I;16" else ">u2"))
        assert difference(other(encode("TIFF", image)), picture) < 3


def test_palette_with_transparency(picture: Image.Image, encode: Callable[..., bytes]) -> None:
    data = encode("PNG", picture.convert("P"), transparency=bytes(range(256)))
    assert difference(other(data), picture) < 9


def test_numbers_that_are_none(encode: Callable[..., bytes]) -> None:
    values = np.full((50, 60), np.nan, np.float32)
    values[10:20] = 0.5
    values[20:30] = np.inf
    values[30:40] = -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = other(encode("TIFF", Image.fromarray(values)), 50)
    assert [int(pixels[row, 0, 0]) for row in (0, 15, 25, 35)] == [0, 127, 255, 0]


def test_a_large_image_does_not_take_its_size_over_again() -> None:
    image = Image.new("I;16", (5000, 4000), 30_000)
    tracemalloc.start()
    decoded = decode_other(image, WANTED)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert decoded.pixels is not None
    assert np.all(decoded.pixels == 116)
    # In float32 the whole would be 80 MB.
    assert peak < 60e6


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_its_first_picture(
    picture: Image.Image, encode: Callable[..., bytes], kind: str
) -> None:
    frames = [Image.new("RGB", picture.size, colour) for colour in ("red", "green", "blue")]
    data = encode(kind, picture, save_all=True, append_images=frames)
    assert difference(other(data), picture) < 9


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "P"), ("TIFF", "RGB"), ("GIF", "P"), ("BMP", "RGB")]
)
def test_the_part_before_the_cut_is_kept(
    picture: Image.Image, encode: Callable[..., bytes], kind: str, mode: str
) -> None:
    data = encode(kind, picture.convert(mode), interlace=0)
    decoded = decode_other(open_image(data[: len(data) * 3 // 4]), 480)
    assert decoded.status == "truncated"
    assert decoded.pixels is not None
    there = slice(240, 470) if kind == "BMP" else slice(10, 240)  # a bitmap begins at the bottom
    assert np.array_equal(decoded.pixels[there], other(data, 480)[there])


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {"compression": "tiff_lzw"})])
def test_faults_in_the_middle_are_damage(
    encode: Callable[..., bytes], kind: str, options: dict[str, str]
) -> None:
    data = encode(kind, **options)
    middle = len(data) // 2
    decoded = decode_other(open_image(data[:middle] + bytes(100) + data[middle + 100 :]), WANTED)
    assert decoded.status == "damaged"
    assert decoded.detail
    assert decoded.pixels is not None


def test_nothing_decoded_is_corrupt(encode: Callable[..., bytes]) -> None:
    data = encode("PNG")
    start = data.index(b"IDAT") + 4
    decoded = decode_other(open_image(data[:start] + bytes(len(data) - start)), WANTED)
    assert (decoded.status, decoded.pixels) == ("corrupt", None)


def test_only_formats_of_cameras_are_tried(encode: Callable[..., bytes]) -> None:
    for kind in ("EPS", "PCX", "TGA", "PPM"):
        with pytest.raises(UnidentifiedImageError):
            open_image(encode(kind))


def test_warnings_of_pillow_stay_inside(encode: Callable[..., bytes]) -> None:
    data = encode("TIFF", compression="tiff_lzw")[:-60]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(UnidentifiedImageError):
                open_image(data)
        warnings.simplefilter("error")  # somebody's filter comes before ours again
        with pytest.raises(UnidentifiedImageError):
            open_image(data)
        kept = len(warnings.filters)
        for _ in range(50):
            with pytest.raises(UnidentifiedImageError):
                open_image(data)
        assert len(warnings.filters) == kept


def test_pillow_would_warn(encode: Callable[..., bytes]) -> None:
    data = encode("TIFF", compression="tiff_lzw")[:-60]
    with pytest.warns(UserWarning, match="Truncated File Read"), pytest.raises(SyntaxError):
        TiffImagePlugin.TiffImageFile(io.BytesIO(data))


def test_messages_are_the_same_in_every_run() -> None:
    object_at = OSError(f"cannot identify {io.BytesIO()!r}\n  in https://x.org/a.jpg?sig=SECRET now")
    assert one_line(object_at) == "cannot identify <_io.BytesIO object> in https://x.org/a.jpg now"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 1000))) == 200
    one_line(ValueError("\udc80")).encode()
