from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from camtrap_batch.images import Limits, judge
from camtrap_batch.images.kinds import other_kind, still_kind


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"RIFF\x10\0\0\0AVI LIST", "AVI"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "WAVE"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "MP4"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0", "MOV"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "MOV"),
        (b"\x1a\x45\xdf\xa3\x93", "MKV"),
        (b"\0\0\1\xba\x44", "MPEG"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6", "ASF"),
        (b"%PDF-1.7\n", "PDF"),
        (b"PK\3\4\x14\0", "ZIP"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "AppleDouble"),
        (b"\xef\xbb\xbf<!DOCTYPE html>\n<html>", "HTML"),
        (b"  \n<HTML><body>404 caf\xc3\xa9", "HTML"),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code>', "XML"),
        (b'{"error": "not found"}', "JSON"),
        (b"file_name,category\r\na.jpg,3\r\n", "text"),
        ("Blässhuhn am Ufer".encode(), "text"),
        ("übersicht".encode("utf-16"), "text"),
        (b"abc.skip the rest of this", "text"),
        (b"BMW of the ranger", "text"),
    ],
)
def test_what_is_no_image_is_named(start: bytes, kind: str) -> None:
    assert other_kind(start) == kind


def test_text_is_text_where_its_last_letter_is_cut() -> None:
    assert other_kind("é".encode() * 600 + b"x") == "text"
    assert other_kind(b"x" + "é".encode() * 600) == "text"


@pytest.mark.parametrize("data", [bytes(2000), b"\x93\x04\xfe\x11" * 300, b"\x00\x01ab", b" \n"])
def test_bytes_without_a_sign_are_nothing_that_is_known(data: bytes) -> None:
    assert other_kind(data) is None
    assert still_kind(data) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "JPEG2000", "AVIF"])
def test_a_still_image_claims_to_be_one(encode: Callable[..., bytes], kind: str) -> None:
    assert still_kind(encode(kind)) == kind
    assert other_kind(encode(kind)) is None


@pytest.mark.parametrize(
    ("brand", "more", "kind"),
    [
        (b"heic", b"mif1", "HEIF"),
        (b"mif1", b"avif", "AVIF"),
        (b"mif1", b"heic", "HEIF"),
        (b"crx ", b"", "CR3"),
    ],
)
def test_still_images_in_a_movie_container(brand: bytes, more: bytes, kind: str) -> None:
    data = b"\0\0\0\x1cftyp" + brand + bytes(4) + more
    assert still_kind(data) == kind
    assert other_kind(data) is None


def directory(fields: list[tuple[int, int, int, bytes]], at: int, following: int = 0) -> bytes:
    """A directory of a little-endian TIFF file: tag, type, count and value of each field."""
    start = at + 6 + 12 * len(fields)
    entries, values = struct.pack("<H", len(fields)), b""
    for tag, kind, count, value in sorted(fields):
        where = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", start + len(values))
        entries += struct.pack("<HHI", tag, kind, count) + where
        values += value if len(value) > 4 else b""
    return entries + struct.pack("<I", following) + values


def raw(
    make: bytes, own: int = 32803, compression: int = 1, dng: bool = False, chained: bool = False
) -> bytes:
    """A preview, and the sensor's data in a directory below it or behind it."""
    preview = [
        (254, 4, 1, b"\1\0\0\0"),
        (259, 3, 1, b"\1\0"),
        (262, 3, 1, b"\2\0"),
        (271, 2, len(make), make),
    ]
    if dng:
        preview.append((50706, 1, 4, b"\1\4\0\0"))
    n = len(preview) + (not chained)
    below = 8 + 6 + 12 * n + (len(make) if len(make) > 4 else 0)
    if not chained:
        preview.append((330, 4, 1, struct.pack("<I", below)))
    sensor = [(259, 3, 1, struct.pack("<H", compression)), (262, 3, 1, struct.pack("<H", own))]
    head = b"II*\0\x08\0\0\0" + directory(preview, 8, below if chained else 0)
    assert len(head) == below
    return head + directory(sensor, below) + bytes(5000)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (raw(b"NIKON CORPORATION\0"), "NEF"),
        (raw(b"NIKON CORPORATION\0", own=2, compression=34713), "NEF"),
        (raw(b"SONY\0\0\0\0", compression=32767), "ARW"),
        (raw(b"SAMSUNG\0"), "SRW"),
        (raw(b"PENTAX  \0", chained=True), "PEF"),
        (raw(b"Google\0\0", dng=True), "DNG"),
        (raw(b"Some maker\0", chained=True), "RAW"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(5000), "CR2"),
        (b"IIRO\x08\0\0\0" + bytes(5000), "ORF"),
        (b"IIU\0\x18\0\0\0" + bytes(5000), "RW2"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(5000), "RAF"),
        (b"FOVb" + bytes(5000), "X3F"),
    ],
)
def test_raw_files_are_no_images_that_are_read(data: bytes, kind: str) -> None:
    assert still_kind(data) == kind
    for name in ("a.dng", "a.tif", "a.jpg"):
        verdict = judge(data, name, Limits())
        assert (verdict.status, verdict.format) == ("not_image", kind)
        assert "convert it to JPEG" in str(verdict.detail)


def test_a_tiff_file_of_a_camera_is_a_picture(encode: Callable[..., bytes]) -> None:
    data = raw(b"NIKON CORPORATION\0", own=2)
    assert still_kind(data) == "TIFF"
    assert judge(encode("TIFF", tiffinfo={271: "SONY"}), "a.tif", Limits()).status == "ok"


def test_directories_that_go_in_circles() -> None:
    data = b"II*\0\x08\0\0\0" + directory([(259, 3, 1, b"\1\0"), (330, 4, 1, b"\x08\0\0\0")], 8, 8)
    assert still_kind(data) == "TIFF"
    sub = struct.pack("<I", 8) * 4000
    data = b"II*\0\x08\0\0\0" + directory([(330, 4, 4000, sub)], 8, 8)
    assert still_kind(data) == "TIFF"
    for length in range(len(data[:200])):
        still_kind(data[:length])
