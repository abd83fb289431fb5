"""Keywords that people gave a photo, from XMP (in the file or beside it), IPTC and EXIF.

- XMP part 1 (ISO 16684-1): a packet of RDF, which may be searched for in any file
- dc:subject: flat; lr:hierarchicalSubject (Lightroom) with | between levels; digiKam:TagsList with /
- IPTC-IIM 4.2, record 2, dataset 25, in Photoshop's resource 1028 (JPEG, APP13)
- XPKeywords, which Windows writes into EXIF: UTF-16 with semicolons
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from PIL import ExifTags

_PACKETS = ((b"<x:xmpmeta", b"</x:xmpmeta>"), (b"<x:xapmeta", b"</x:xapmeta>"), (b"<rdf:RDF", b"</rdf:RDF>"))
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_FLAT = "{http://purl.org/dc/elements/1.1/}subject"
_PATHS = {
    "{http://ns.adobe.com/lightroom/1.0/}hierarchicalSubject": "|",
    "{http://www.digikam.org/ns/1.0/}TagsList": "/",
}
_EXIF = b"Exif\0\0"
_PHOTOSHOP, _IPTC_RESOURCE, _KEYWORD = b"Photoshop 3.0\0", 1028, b"\x1c\x02\x19"


@dataclass(frozen=True)
class Keywords:
    """`flat`: plain keywords; `paths`: those in a hierarchy, from the top; each once, in order."""

    flat: tuple[str, ...] = ()
    paths: tuple[tuple[str, ...], ...] = ()


def read_keywords(data: bytes, sidecar: bytes = b"") -> Keywords:
    """The keywords of a photo.

    Parameters
    ----------
    data : an image file; of a JPEG file, everything before the picture is enough
    sidecar : the .xmp file beside it
    """
    flat: dict[str, None] = {}
    paths: dict[tuple[str, ...], None] = {}
    for packet in (*_packets(data), *_packets(sidecar)):
        for name, text in _items(packet):
            if name == _FLAT:
                flat[text] = None
            else:
                parts = (part.strip() for part in text.split(_PATHS[name]))
                paths[tuple(part for part in parts if part)] = None
    flat |= dict.fromkeys(filter(None, (*_iptc(data), *_windows(data))))
    return Keywords(tuple(flat), tuple(path for path in paths if path))


def _packets(data: bytes) -> Iterator[bytes]:
    for begin, end in _PACKETS:
        start = data.find(begin)
        stop = data.find(end, start)
        if 0 <= start < stop:
            yield data[start : stop + len(end)]
            return


def _items(packet: bytes) -> Iterator[tuple[str, str]]:
    """Each keyword, with the name of the property that holds it. A broken packet has none."""
    if b"<!" in packet:  # XMP has neither document types nor entities: nothing to expand
        return
    try:
        root = ElementTree.fromstring(packet)  # noqa: S314
    except (ElementTree.ParseError, ValueError, LookupError):
        return
    for name in (_FLAT, *_PATHS):
        for found in root.iter(name):
            for item in found.iter(f"{_RDF}li"):
                if text := " ".join((item.text or "").split()):
                    yield name, text


def _segments(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Marker and content of each segment of a JPEG file before the picture (ITU-T T.81, B.1.1)."""
    at = 2 if data.startswith(b"\xff\xd8") else len(data)
    while data[at : at + 1] == b"\xff":
        marker = data[at + 1 : at + 2]
        if marker == b"\xff":
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (b"\xd9", b"\xda") or length < 2:
            return
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length


def _iptc(data: bytes) -> Iterator[str]:
    for marker, content in _segments(data):
        if marker != b"\xed" or not content.startswith(_PHOTOSHOP):
            continue
        at = len(_PHOTOSHOP)
        while content[at : at + 4] == b"8BIM" and at + 12 <= len(content):
            number = int.from_bytes(content[at + 4 : at + 6], "big")
            at += 6
            at += (content[at] + 2) // 2 * 2  # a name, padded to an even length with its own length
            size = int.from_bytes(content[at : at + 4], "big")
            if number == _IPTC_RESOURCE:
                yield from _iptc_keywords(content[at + 4 : at + 4 + size])
            at += 4 + (size + 1) // 2 * 2


def _iptc_keywords(content: bytes) -> Iterator[str]:
    at = 0
    while content[at : at + 1] == b"\x1c" and at + 5 <= len(content):
        size = int.from_bytes(content[at + 3 : at + 5], "big")
        if content.startswith(_KEYWORD, at):
            value = content[at + 5 : at + 5 + size]
            try:
                text = value.decode()
            except UnicodeDecodeError:
                text = value.decode("latin-1")
            yield " ".join(text.split())
        at += 5 + size


def _windows(data: bytes) -> Iterator[str]:
    """XPKeywords of the main directory of the EXIF block (TIFF 6.0, section 2)."""
    tiff = next(
        (text[6:] for marker, text in _segments(data) if marker == b"\xe1" and text[:6] == b"Exif\0\0"), b""
    )
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return
    try:
        (start,) = struct.unpack_from(f"{order}L", tiff, 4)
        (number,) = struct.unpack_from(f"{order}H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * number, 12):
            tag, _, size, value = struct.unpack_from(f"{order}HHLL", tiff, at)
            if tag == ExifTags.Base.XPKeywords and size > 4:
                text = tiff[value : value + size].decode("utf-16-le", "replace")
                yield from (" ".join(part.split()) for part in text.rstrip("\0").split(";"))
    except struct.error:
        return
