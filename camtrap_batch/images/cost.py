"""What decoding an image costs, judged by its header and its size in bytes before it is decoded.

A header may claim anything: 58 bytes can say that they are 200 million pixels. The cost is known beforehand,
from the format and how its decoder works, so that a decode that would take more memory or time than one image
may take is never begun.
"""

from __future__ import annotations

from PIL import Image

from camtrap_batch.images.jpeg.frame import Frame

MOST_MEMORY = 600_000_000
"""Bytes that decoding an image may take, besides its file and the reduced picture."""

_MOST_BLOCKS = 10**9
"""Blocks that a decoder may visit, over all scans; libjpeg-turbo takes 8 ns for an empty one."""

_WIDEST_PIXEL = 4  # bytes that Pillow takes for a pixel in a mode that is not listed here
_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_ROW = 8  # bytes for its address

# Bytes per pixel that a decoder takes besides Pillow's own: measured on pictures of 16 megapixels, rounded
# up.
_BESIDE = {"GIF": 1, "BMP": 1, "WEBP": 12, "AVIF": 6}
_OF_A_ROW = 16  # bytes per pixel for decoders that hold a row or two
_JPEG2000_SAMPLE = 4.5
_TIFF_SAMPLE = 1.0  # for a strip, which may be the whole picture

# Bytes of pixels that a byte can stand for at most: deflate (RFC 1951: 258 bytes in 2 bits); LZW of GIF and
# TIFF (strings of up to 4096 bytes in 12 bits); PackBits; in an unpacked bitmap, eight pixels.
_DEFLATE, _LZW = 1032, 2731
_DENSEST: dict[tuple[str, object], int] = {
    ("PNG", None): _DEFLATE,
    ("GIF", None): _LZW,
    ("BMP", 0): 8,
    ("TIFF", "raw"): 1,
    ("TIFF", "tiff_lzw"): _LZW,
    ("TIFF", "tiff_adobe_deflate"): _DEFLATE,
    ("TIFF", "tiff_deflate"): _DEFLATE,
    ("TIFF", "packbits"): 64,
}
_USABLE_PART = 0.1  # fraction of a picture below which the remainder is useless


def refuse_jpeg(frame: Frame, n_bytes: int) -> tuple[str, str] | None:
    """Status and detail of a JPEG file for which libjpeg would need too much memory or time."""
    memory = frame.coefficient_bytes
    if frame.is_lossless:  # never at a fraction
        memory = frame.width * frame.height * 6
    size = f"{frame.width} x {frame.height} pixels"
    if memory > MOST_MEMORY:
        # A block takes one bit or more.
        if 8 * frame.coded < _USABLE_PART * frame.blocks:
            return _no_room(n_bytes, size)
        how = "without loss" if frame.is_lossless else "in several scans"
        return "too_large", f"{size} {how}: decoding takes {memory / 1e9:.1f} GB"
    if frame.is_buffered and frame.scans * frame.blocks > _MOST_BLOCKS:
        return "too_large", f"{size} in {frame.scans} scans: decoding takes too long"
    return None


def refuse_other(image: Image.Image, n_bytes: int) -> tuple[str, str] | None:
    """Status and detail of an image for which Pillow would need too much memory."""
    width, height = image.size
    memory = _memory(image)
    if memory <= MOST_MEMORY:
        return None
    size = f"{width} x {height} pixels"
    raw = width * height * len(image.getbands()) * (1 if image.mode != "1" else 1 / 8)
    dense = _DENSEST.get((image.format or "", image.info.get("compression")))
    if dense is not None and n_bytes * dense < _USABLE_PART * raw:
        return _no_room(n_bytes, size)
    return "too_large", f"{size} as {image.format}: decoding takes {memory / 1e9:.1f} GB"


def _no_room(n_bytes: int, size: str) -> tuple[str, str]:
    return "corrupt", f"its {n_bytes} bytes can't hold a tenth of {size}"


def _memory(image: Image.Image) -> float:
    """Bytes that loading an image takes."""
    width, height = image.size
    n_samples = len(image.getbands())
    pixel = _PIXEL.get(image.mode, _WIDEST_PIXEL)
    own = height * (_ROW + (width * pixel + 3) // 4 * 4) + width * _OF_A_ROW
    if image.format == "JPEG2000":
        return own + width * height * n_samples * _JPEG2000_SAMPLE
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        tile = _number(tags.get(322)) * _number(tags.get(323))  # TileWidth, TileLength
        return own + max(width * height, tile) * n_samples * _TIFF_SAMPLE * max(1, pixel // n_samples)
    return own + width * height * _BESIDE.get(image.format or "", 0)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
