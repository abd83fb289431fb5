from __future__ import annotations

from collections.abc import Callable

import pytest

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
