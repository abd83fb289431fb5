"""Photos with keywords, as programs write them."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import ExifTags, Image

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"


def xmp(subject: Sequence[str] = (), lightroom: Sequence[str] = (), digikam: Sequence[str] = ()) -> bytes:
    """A packet as Lightroom and digiKam write it."""

    def bag(name: str, kind: str, items: Sequence[str]) -> str:
        listed = "".join(f"<rdf:li>{item}</rdf:li>" for item in items)
        return f"<{name}><rdf:{kind}>{listed}</rdf:{kind}></{name}>" if items else ""

    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about=""'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:lr="http://ns.adobe.com/lightroom/1.0/"'
        ' xmlns:digiKam="http://www.digikam.org/ns/1.0/">'
        + bag("dc:subject", "Bag", subject)
        + bag("lr:hierarchicalSubject", "Bag", lightroom)
        + bag("digiKam:TagsList", "Seq", digikam)
        + '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def photo(
    packet: bytes = b"", *, windows: str = "", iptc: Sequence[bytes] = (), kind: str = "JPEG", shade: int = 90
) -> bytes:
    exif = Image.Exif()
    if windows:
        exif[ExifTags.Base.XPKeywords] = windows.encode("utf-16-le") + b"\0\0"
    file = io.BytesIO()
    extra = {"xmp": packet} if packet and kind == "JPEG" else {}
    if packet and kind == "TIFF":
        extra = {"tiffinfo": {700: packet}}
    Image.new("RGB", (64, 48), (shade, 99, 20)).save(file, kind, exif=exif if windows else b"", **extra)
    data = file.getvalue()
    if iptc:
        records = b"".join(b"\x1c\x02\x19" + len(word).to_bytes(2, "big") + word for word in iptc)
        records = b"\x1c\x02\x05\x00\x05Title" + records
        block = b"8BIM\x04\x04\0\0" + len(records).to_bytes(4, "big") + records + b"\0" * (len(records) % 2)
        other = b"8BIM\x04\x25\x03abc\0\0\0\x02xy"  # another resource, with a name
        content = b"Photoshop 3.0\0" + other + block
        data = data[:2] + b"\xff\xed" + (len(content) + 2).to_bytes(2, "big") + content + data[2:]
    return data
