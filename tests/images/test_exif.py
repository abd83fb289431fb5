from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from camtrap_batch.images import Limits, judge
from camtrap_batch.images.decode import open_image
from camtrap_batch.images.exif import ExifFields, read_exif, read_jpeg_exif

MAKE, MODEL, ORIENTATION, DATE, ORIGINAL, DIGITIZED = 271, 272, 274, 306, 36867, 36868
ASCII, SHORT, UNDEFINED = 2, 3, 7
Field = tuple[int, int, int, bytes]


def text(tag: int, value: bytes) -> Field:
    return tag, ASCII, len(value), value


def exif_of(data: bytes) -> ExifFields:
    """The fields of a JPEG file, which are the same whether it is opened as an image or not."""
    fields = read_jpeg_exif(data)
    assert fields == read_exif(open_image(data))
    return fields


def test_all_fields(with_exif: Callable[..., bytes]) -> None:
    data = with_exif(
        [text(MAKE, b"RECONYX\0"), text(MODEL, b"HYPERFIRE 2\0"), (ORIENTATION, SHORT, 1, b"\6\0")],
        [text(ORIGINAL, b"2021:04:11 20:43:09\0")],
    )
    assert exif_of(data) == ExifFields(
        dt.datetime(2021, 4, 11, 20, 43, 9), make="RECONYX", model="HYPERFIRE 2", orientation=6
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"2021:04:11 20:43:09\0", dt.datetime(2021, 4, 11, 20, 43, 9)),
        (b"2021:04:11 20:43:09.75\0", dt.datetime(2021, 4, 11, 20, 43, 9)),
        (b"2021-04-11 20:43:09\0", dt.datetime(2021, 4, 11, 20, 43, 9)),
        (b"2021:04:11T20:43:09\0", dt.datetime(2021, 4, 11, 20, 43, 9)),
        (b" 2021:4:1  2:03:09\0\0", dt.datetime(2021, 4, 1, 2, 3, 9)),
        (b"2021:04:11 20:43:09", dt.datetime(2021, 4, 11, 20, 43, 9)),
        (b"0000:00:00 00:00:00\0", None),
        (b"2021:02:30 20:43:09\0", None),
        (b"2021:04:11 24:00:00\0", None),
        (b"    :  :     :  :  \0", None),
        (b"2021:04:11\0", None),
        (b"\xff\xfe\0", None),
    ],
)
def test_dates(with_exif: Callable[..., bytes], written: bytes, read: dt.datetime | None) -> None:
    assert exif_of(with_exif([], [text(ORIGINAL, written)])).taken == read


def test_the_best_date_that_is_one(with_exif: Callable[..., bytes]) -> None:
    blank, digitized, changed = b"0000:00:00 00:00:00\0", b"2020:01:01 00:00:00\0", b"2022:01:01 00:00:00\0"
    both = with_exif([text(DATE, changed)], [text(ORIGINAL, blank), text(DIGITIZED, digitized)])
    assert exif_of(both).taken == dt.datetime(2020, 1, 1)
    assert exif_of(with_exif([text(DATE, changed)])).taken == dt.datetime(2022, 1, 1)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"Bushnell   \0", "Bushnell"),
        (b"Cuddeback\0\0\0", "Cuddeback"),
        (b"Moultrie\0\x93\xfa garbage", "Moultrie"),
        ("Büro\0".encode(), "Büro"),
        (b"B\xfcro\0", "Büro"),
        (b"\xff\xff\xff\xff\0\0", "ÿÿÿÿ"),
        (b"a\x01\x02b\0", "ab"),
        (b"\0\0\0\0\0\0", None),
        (b"      \0", None),
    ],
)
def test_make_in_any_bytes(with_exif: Callable[..., bytes], written: bytes, read: str | None) -> None:
    assert exif_of(with_exif([text(MAKE, written)])).make == read
    # Some cameras give the wrong type.
    assert exif_of(with_exif([(MAKE, UNDEFINED, len(written), written)])).make == read


@pytest.mark.parametrize("written", [b"\0\0", b"\x09\0", b"\xff\xff"])
def test_orientation_that_is_none(with_exif: Callable[..., bytes], written: bytes) -> None:
    assert exif_of(with_exif([(ORIENTATION, SHORT, 1, written)])).orientation == 1


def test_a_broken_field_hides_no_other(with_exif: Callable[..., bytes]) -> None:
    beyond_the_end = (MODEL, ASCII, 2**31, b"12345678")
    found = exif_of(
        with_exif([text(MAKE, b"RECONYX\0"), beyond_the_end, (0x8769, 4, 1, b"\xff\xff\xff\xff")])
    )
    assert found == ExifFields(make="RECONYX")


@pytest.mark.parametrize("at", range(0, 90, 3))
def test_broken_exif_is_no_fault_of_the_picture(with_exif: Callable[..., bytes], at: int) -> None:
    fields = [text(MAKE, b"RECONYX\0"), text(DATE, b"2021:04:11 20:43:09\0")]
    data = bytearray(with_exif(fields, [text(ORIGINAL, b"2021:04:11 20:43:09\0")]))
    start = data.index(b"Exif\0\0") + 6 + at
    data[start : start + 8] = b"\xff" * 8
    assert judge(bytes(data), "a.jpg", Limits()).status == "ok"


def test_exif_of_real_photos(real_images: Path) -> None:
    found = [exif_of(path.read_bytes()) for path in real_images.rglob("*.jpg")]
    assert sum(fields.taken is not None for fields in found) >= 2


@pytest.mark.parametrize("length", [*range(60), 700])
def test_exif_of_what_is_left_of_a_file(with_exif: Callable[..., bytes], length: int) -> None:
    read_jpeg_exif(with_exif([text(MAKE, b"RECONYX\0")])[:length])


def test_segments_before_exif(with_exif: Callable[..., bytes]) -> None:
    data = with_exif([text(MAKE, b"RECONYX\0")])
    comment = b"\xff\xfe\0\x06note"
    other = b"\xff\xe1\0\x0dhttp://ns.a"
    assert exif_of(data[:2] + comment + other + b"\xff" + data[2:]).make == "RECONYX"


def test_asking_a_png_for_exif_does_not_decode_it(encode: Callable[..., bytes]) -> None:
    image = open_image(encode("PNG"))
    assert read_exif(image) == ExifFields()
    assert image._im is None


def test_exif_of_a_png(encode: Callable[..., bytes]) -> None:
    exif = Image.Exif()
    exif[MAKE] = "RECONYX"
    assert read_exif(open_image(encode("PNG", exif=exif))).make == "RECONYX"


OFFSET, OFFSET_ORIGINAL = 36880, 36881


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"2021:04:11 08:25:38 PM\0", dt.datetime(2021, 4, 11, 20, 25, 38)),
        (b"2021:04:11 08:25:38 am\0", dt.datetime(2021, 4, 11, 8, 25, 38)),
        (b"2021:04:11 08:25:38+02:00\0", dt.datetime(2021, 4, 11, 8, 25, 38)),
        (b"2021:04:11 08:25:38 garbage\0", None),
        (b"0021:04:11 08:25:38\0", None),
        (b"1021:04:11 08:25:38\0", None),
    ],
)
def test_dates_are_dates_as_in_metadata(
    with_exif: Callable[..., bytes], written: bytes, read: dt.datetime | None
) -> None:
    assert exif_of(with_exif([], [text(ORIGINAL, written)])).taken == read


def test_a_date_in_the_main_directory_and_offsets(with_exif: Callable[..., bytes]) -> None:
    date = b"2021:04:11 20:43:09\0"
    assert exif_of(with_exif([text(ORIGINAL, date)])).taken == dt.datetime(2021, 4, 11, 20, 43, 9)
    fields = exif_of(with_exif([], [text(ORIGINAL, date), text(OFFSET_ORIGINAL, b"-03:30\0")]))
    assert fields.utc_offset_minutes == -210
    assert (
        exif_of(with_exif([], [text(ORIGINAL, date), text(OFFSET, b"+02:00\0")])).utc_offset_minutes is None
    )
    assert (
        exif_of(with_exif([], [text(ORIGINAL, date), text(OFFSET_ORIGINAL, b"+99:00\0")])).utc_offset_minutes
        is None
    )
    zoned = exif_of(with_exif([], [text(ORIGINAL, b"2021:04:11 20:43:09+02:00\0")]))
    assert zoned.utc_offset_minutes == 120
