"""What kind of file it is, judged by its first bytes, and for a TIFF file by its directories.

Cameras' RAW files are mostly TIFF files whose first directory is often a small preview, which Pillow would
take for the picture. They are recognised by how the sensor's own data are labelled (TIFF/EP, DNG 1.7).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x1a\x45\xdf\xa3", "MKV"),
    (b"\x00\x00\x01\xba", "MPEG"),
    (b"\x00\x00\x01\xb3", "MPEG"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF"),
    (b"FLV\x01", "FLV"),
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "GZIP"),
    (b"SQLite format 3\x00", "SQLite"),
    (b"\x00\x05\x16\x07", "AppleDouble"),  # the `._IMG_0001.JPG` that macOS leaves beside a copied photo
)
VIDEO_KINDS = frozenset({"AVI", "MP4", "MOV", "MKV", "MPEG", "MPEG-TS", "ASF", "FLV"})
"""Kinds of files that are videos."""

_STILL_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
_RAW_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"IIRO", "ORF"),
    (b"IIRS", "ORF"),
    (b"MMOR", "ORF"),
    (b"IIU\0", "RW2"),
    (b"FUJIFILMCCD-RAW", "RAF"),
    (b"II\x1a\0\0\0HEAPCCDR", "CRW"),
    (b"\0MRM", "MRW"),
    (b"FOVb", "X3F"),
)
_RAW_MAKES = (
    (b"NIKON", "NEF"),
    (b"SONY", "ARW"),
    (b"PENTAX", "PEF"),
    (b"RICOH", "PEF"),
    (b"SAMSUNG", "SRW"),
    (b"CANON", "CR2"),
    (b"OLYMPUS", "ORF"),
    (b"OM DIGITAL", "ORF"),
    (b"PANASONIC", "RW2"),
    (b"LEICA", "RWL"),
    (b"HASSELBLAD", "3FR"),
    (b"PHASE ONE", "IIQ"),
    (b"KODAK", "KDC"),
    (b"EPSON", "ERF"),
)
NOT_READ = frozenset(
    {"HEIF", "CR3", "CRW", "MRW", "X3F", "RAF", "DNG", "RAW", *(kind for _, kind in _RAW_MAKES)}
)
"""Kinds of still images that are not read: they must be converted to JPEG first."""

_MAKE, _SUB_IFDS, _DNG_VERSION = 271, 330, 50706  # tags of a TIFF file
_PHOTOMETRIC, _COMPRESSION = 262, 259
_OF_A_SENSOR = (32803, 34892)  # photometric interpretations: colour filter array, linear RAW
_PACKED_BY_CAMERAS = (34713, 32767, 32770, 65535, 65000)  # compressions of NEF, ARW, SRW, PEF and DCR
_MOST_DIRECTORIES = 16
_STILL_BRANDS = {b"heic": "HEIF", b"heix": "HEIF", b"mif1": "HEIF", b"msf1": "HEIF", b"crx ": "CR3"}
_MOVIE_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_CONTROL = frozenset(range(32)) - frozenset(b"\t\n\r\f\x1b") | {127}


def still_kind(data: bytes) -> str | None:
    """The kind of still image that a file claims to be; None if it claims none."""
    for signature, kind in _RAW_SIGNATURES:
        if data.startswith(signature):
            return kind
    for signature, kind in _STILL_SIGNATURES:
        if data.startswith(signature):
            return _raw_kind(data) or kind if kind == "TIFF" else kind
    # Two letters are too few to recognise a bitmap: check the size of its second header, too.
    if data.startswith(b"BM") and data[15:18] == b"\0\0\0":
        return "BMP"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand in (b"avif", b"avis") or (brand in (b"mif1", b"msf1") and b"avif" in data[16:64]):
            return "AVIF"
        return _STILL_BRANDS.get(brand)
    return None


def other_kind(data: bytes) -> str | None:
    """The kind of a file that is surely not a still image (a video, HTML, text); None if it may be one."""
    if still_kind(data) is not None:
        return None
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if data.startswith(b"RIFF") and data[8:12] in (b"AVI ", b"WAVE"):
        return data[8:12].decode().strip()
    if data[4:8] in _MOVIE_ATOMS and data[0] < 32:  # the atom's size, not text
        return "MP4" if data[4:8] == b"ftyp" and data[8:12] != b"qt  " else "MOV"
    if _is_transport_stream(data):
        return "MPEG-TS"
    return _kind_of_text(data[:1024])


def _is_transport_stream(data: bytes) -> bool:
    """Packets of 188 bytes, each with a mark; camcorders put four bytes of time before each."""
    return any(data[at : at + 3 * step : step] == b"GGG" for at, step in ((0, 188), (4, 192)))


def _raw_kind(data: bytes) -> str | None:
    """The kind of RAW file that a TIFF file is; None if it is a picture."""
    if data[8:10] == b"CR" and data[10:11] in (b"\1", b"\2"):
        return "CR2"
    make, is_raw = b"", False
    for directory in _directories(data):
        if _DNG_VERSION in directory:
            return "DNG"
        make = make or _text(data, directory.get(_MAKE, (0, 0, 0)))
        is_raw |= directory.get(_PHOTOMETRIC, (0, 0, 0))[2] in _OF_A_SENSOR
        is_raw |= directory.get(_COMPRESSION, (0, 0, 0))[2] in _PACKED_BY_CAMERAS
    if not is_raw:
        return None
    return next((kind for start, kind in _RAW_MAKES if make.upper().startswith(start)), "RAW")


def _directories(data: bytes) -> Iterator[dict[int, tuple[int, int, int]]]:
    """Tag -> type, count and value, for each directory of a TIFF file and those below it."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    layout = struct.Struct(("<" if order == "little" else ">") + "HHL4s")
    ahead, seen = [int.from_bytes(data[4:8], order)], {0}
    while ahead and len(seen) <= _MOST_DIRECTORIES:
        start = ahead.pop(0)
        if start in seen:
            continue
        seen.add(start)
        end = start + 2 + layout.size * int.from_bytes(data[start : start + 2], order)
        entries = data[start + 2 : end]
        found = {}
        for tag, kind, count, value in layout.iter_unpack(
            entries[: len(entries) // layout.size * layout.size]
        ):
            number = int.from_bytes(value[:2] if kind == 3 else value, order)
            found[tag] = kind, count, number
        yield found
        _, count, number = found.get(_SUB_IFDS, (0, 0, 0))
        if count == 1:
            ahead.append(number)
        for at in range(number, number + 4 * min(count, _MOST_DIRECTORIES), 4) if count > 1 else ():
            ahead.append(int.from_bytes(data[at : at + 4], order))
        ahead.append(int.from_bytes(data[end : end + 4], order))


def _text(data: bytes, field: tuple[int, int, int]) -> bytes:
    """The text of a field that does not fit into the field itself, such as a maker's name."""
    _, count, at = field
    return data[at : at + min(count, 64)].strip(b"\0 ")


def _kind_of_text(start: bytes) -> str | None:
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = start.decode(encoding, "replace").lstrip()
    lowered = text[:256].lower()
    if lowered.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "HTML"
    if lowered.startswith(("<?xml", "<svg")):
        return "XML"
    # The last character may be cut in two, and then can't be decoded.
    if not text or "\ufffd" in text[:-1] or any(ord(letter) in _CONTROL for letter in text):
        return None
    return "JSON" if text[0] in "{[" else "text"
