"""What kind of file it is, from its first bytes."""

from __future__ import annotations

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (8, b"AVI ", "AVI"),
    (0, b"\x1a\x45\xdf\xa3", "MKV"),
    (0, b"\x00\x00\x01\xba", "MPEG"),
    (0, b"\x00\x00\x01\xb3", "MPEG"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF"),
    (0, b"FLV\x01", "FLV"),
    (0, b"%PDF", "PDF"),
    (0, b"PK\x03\x04", "ZIP"),
    (0, b"\x1f\x8b", "GZIP"),
    (0, b"SQLite format 3\x00", "SQLite"),
)
_STILL_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"crx ")
_TEXT = bytes(range(32, 127)) + b"\t\r\n\f\x1b"


def other_kind(data: bytes) -> str | None:
    """The kind of a file that is surely no still image (a video, HTML, text, ...); None where it may be one."""
    for at, signature, kind in _SIGNATURES:
        if data[at : at + len(signature)] == signature:
            return kind
    if data[4:8] == b"ftyp" and data[8:12] not in _STILL_BRANDS:
        return "MOV" if data[8:12] == b"qt  " else "MP4"
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()
    lowered = start[:256].lower()
    if lowered.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "HTML"
    if lowered.startswith((b"<?xml", b"<svg")):
        return "XML"
    if start and not start.translate(None, _TEXT):
        return "JSON" if start[:1] in b"{[" else "text"
    return None
