"""What kind of file it is, from its first bytes."""

from __future__ import annotations

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
_STILL_BRANDS = {b"heic": "HEIF", b"heix": "HEIF", b"mif1": "HEIF", b"msf1": "HEIF", b"crx ": "CR3"}
_MOVIE_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_CONTROL = frozenset(range(32)) - frozenset(b"\t\n\r\f\x1b") | {127}


def still_kind(data: bytes) -> str | None:
    """The kind of still image that a file claims to be; None where it claims none."""
    for signature, kind in _STILL_SIGNATURES:
        if data.startswith(signature):
            return kind
    # Two letters are too few to tell a bitmap by: the size of its second header follows them.
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
    """The kind of a file that is surely no still image (a video, HTML, text); None where it may be one."""
    if still_kind(data) is not None:
        return None
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if data.startswith(b"RIFF") and data[8:12] in (b"AVI ", b"WAVE"):
        return data[8:12].decode().strip()
    if data[4:8] in _MOVIE_ATOMS and data[0] < 32:  # the atom's size, not text
        return "MP4" if data[4:8] == b"ftyp" and data[8:12] != b"qt  " else "MOV"
    return _kind_of_text(data[:1024])


def _kind_of_text(start: bytes) -> str | None:
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = start.decode(encoding, "replace").lstrip()
    lowered = text[:256].lower()
    if lowered.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "HTML"
    if lowered.startswith(("<?xml", "<svg")):
        return "XML"
    # The last character may be cut in two, and is then one that can't be decoded.
    if not text or "\ufffd" in text[:-1] or any(ord(letter) in _CONTROL for letter in text):
        return None
    return "JSON" if text[0] in "{[" else "text"
