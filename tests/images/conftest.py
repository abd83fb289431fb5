"""Pictures, and ways to write them into files."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

Encode = Callable[..., bytes]
Field = tuple[int, int, int, bytes]
"""Tag, type, count and value of an EXIF field."""


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A colour picture, 640 x 480, smooth as photos are."""
    cells = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((640, 480), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def encode(picture: Image.Image) -> Encode:
    """Write a picture, or the one above, as a file of a format."""

    def encode(kind: str = "JPEG", image: Image.Image | None = None, **options: Any) -> bytes:
        file = io.BytesIO()
        (picture if image is None else image).save(file, kind, **options)
        return file.getvalue()

    return encode


@pytest.fixture(scope="session")
def with_exif(encode: Encode) -> Callable[..., bytes]:
    """A JPEG file with an EXIF block of these fields, byte for byte."""

    def with_exif(
        fields: Sequence[Field], inner: Sequence[Field] = (), image: Image.Image | None = None
    ) -> bytes:
        block = b"Exif\0\0" + _tiff(list(fields), list(inner))
        jpeg = encode("JPEG", image, quality=92)
        return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]

    return with_exif


def _tiff(fields: list[Field], inner: list[Field]) -> bytes:
    start = 8
    if inner:
        end = start + _size([*fields, (0x8769, 4, 1, bytes(4))])
        fields = sorted([*fields, (0x8769, 4, 1, struct.pack("<I", end))])
        return b"II*\0" + struct.pack("<I", start) + _directory(fields, start) + _directory(inner, end)
    return b"II*\0" + struct.pack("<I", start) + _directory(sorted(fields), start)


def _size(fields: list[Field]) -> int:
    return 6 + 12 * len(fields) + sum(len(value) for *_, value in fields if len(value) > 4)


def _directory(fields: list[Field], start: int) -> bytes:
    entries, values = struct.pack("<H", len(fields)), b""
    at = start + 6 + 12 * len(fields)
    for tag, kind, count, value in fields:
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", at + len(values))
        entries += struct.pack("<HHI", tag, kind, count) + place
        values += value if len(value) > 4 else b""
    return entries + bytes(4) + values


@pytest.fixture(scope="session")
def red_left_blue_top() -> npt.NDArray[np.uint8]:
    """A picture of which every turn and mirror image is another: 90 x 60, one corner marked."""
    pixels = np.full((60, 90, 3), 128, np.uint8)
    pixels[:, :30, 0] = 250
    pixels[:20, :, 2] = 250
    pixels[:15, :15] = 0
    return pixels
