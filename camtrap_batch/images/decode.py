"""From the bytes of an image to small pixels, and what the decoder had to say.

JPEG files are decoded once, at the smallest scale that still serves: a scaled decode reads the whole
entropy-coded stream, so it finds every fault that a full one finds, in less than half the time. Sound files
of the usual kind are read by `baseline`; all others by libjpeg-turbo, whose warnings, which Pillow swallows,
tell `damaged` from `ok`. What is no JPEG goes through Pillow.
"""

from __future__ import annotations

import io
import logging
import math
import re
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

from camtrap_batch.images.exif import read_exif, read_jpeg_exif, silence_pillow
from camtrap_batch.images.pixels import Pixels, is_blank, upright

JPEG = b"\xff\xd8"
"""What every JPEG file begins with."""

# The formats that cameras and their software write. Pillow knows more: some call other programs, some take
# almost any bytes for a picture.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "AVIF")
_CUT_OFF = ("premature end of jpeg file", "truncated", "unexpected end of file", "not enough image data")
_MODES = {"Gray": "L", "CMYK": "CMYK", "YCCK": "CMYK"}
_SPACES = {"Gray": ("GRAY", 1), "CMYK": ("CMYK", 4), "YCCK": ("CMYK", 4)}
_BLOCK = 2 * 16 * 16  # pixels that are rubbish where a JPEG stream ends: its last block, or two
_STRIP_PIXELS = 2**22

# Each image's size is held against the job's own limit before anything is decoded; Pillow's, which is global
# and lower, would refuse images that a job allows.
Image.MAX_IMAGE_PIXELS = None
logging.getLogger("PIL").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Decoded:
    """`pixels` at a reduced size, RGB or grey; None where nothing usable decodes (status `corrupt`)."""

    status: str
    detail: str | None
    pixels: Pixels | None


def decode_upright(data: bytes, wanted: int) -> Pixels:
    """The picture in an image file as EXIF turns it, with `wanted` pixels or more on its short side.

    A truncated or damaged file gives what there is of it; a smaller picture keeps its size.

    Raises
    ------
    ValueError
        Nothing usable decodes.
    """
    if data.startswith(JPEG):
        decoded, orientation = decode_jpeg(data, wanted), read_jpeg_exif(data).orientation
    else:
        try:
            image = open_image(data)
        except Exception as problem:
            raise ValueError(f"not a picture that can be decoded: {one_line(problem)}") from None
        decoded, orientation = decode_other(image, wanted), read_exif(image).orientation
    if decoded.pixels is None:
        raise ValueError(f"not a picture that can be decoded: {decoded.detail}")
    return upright(decoded.pixels, orientation)


def open_image(data: bytes) -> Image.Image:
    """The image with its header read, by Pillow; raises whatever Pillow raises where it can't be."""
    silence_pillow()
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def jpeg_header(data: bytes) -> tuple[int, int, str] | None:
    """Width, height and mode of a JPEG file, by libjpeg; None where that can't read them."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):
        return None
    return int(width), int(height), _MODES.get(space, "RGB")


def decode_jpeg(data: bytes, wanted: int) -> Decoded:
    """Decode a JPEG file to `wanted` pixels or a little more on its short side."""
    from camtrap_batch.images.jpeg.baseline import decode_baseline  # numba takes half a second to import

    sound = decode_baseline(data, wanted)
    return _decode_by_libjpeg(data, wanted) if sound is None else Decoded("ok", None, sound)


def _decode_by_libjpeg(data: bytes, wanted: int) -> Decoded:
    smallest = {"min_width": wanted, "min_height": wanted}
    try:
        height, width, coded, _ = simplejpeg.decode_jpeg_header(data, strict=False, **smallest)
    except (ValueError, KeyError) as refusal:
        return _decode_odd_jpeg(data, wanted, refusal)
    space, channels = _SPACES.get(coded, ("RGB", 3))
    how = {"colorspace": space, "fastupsample": True, **smallest}
    status, detail = "ok", None
    # libjpeg writes the rows that it gets to, also where it complains in the end: the others must not be
    # what memory held before.
    pixels: Pixels = np.zeros((height, width, channels), np.uint8)
    try:
        simplejpeg.decode_jpeg(data, **how, buffer=pixels, strict=True)
    except ValueError as complaint:
        status, detail = _blame(complaint)
        full_height, full_width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
        if is_blank(pixels, _BLOCK * height * width / (full_height * full_width)):
            try:
                simplejpeg.decode_jpeg(data, **how, buffer=pixels, strict=False)
            except ValueError as refusal:
                return _decode_odd_jpeg(data, wanted, refusal)
            return Decoded("corrupt", detail, None)
    return Decoded(status, detail, _from_cmyk(pixels) if space == "CMYK" else pixels)


def decode_other(image: Image.Image, wanted: int) -> Decoded:
    """Decode an image that Pillow has opened, the first of several, as `decode_jpeg` does."""
    silence_pillow()
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a library that was imported meanwhile may have set it
    status, detail = "ok", None
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as problem:
        status, detail = _blame(problem)
        # Without tiles left to decode, Pillow hands out what it has. (Its own switch for truncated files
        # is global, and other threads decode, too.)
        image.tile = []  # type: ignore[attr-defined]
        try:
            image.load()
        except Exception:
            return Decoded("corrupt", detail, None)
    pixels = _shrink(image, wanted)
    if status != "ok" and is_blank(pixels):
        return Decoded("corrupt", detail, None)
    return Decoded(status, detail, pixels)


def one_line(problem: BaseException) -> str:
    """An error's message in one line, short, and the same in every run."""
    text = re.sub(r" at 0x[0-9a-f]+|\?\S+", "", " ".join(str(problem).split()))
    return text.encode("utf-8", "replace").decode()[:200] or type(problem).__name__


def _decode_odd_jpeg(data: bytes, wanted: int, refusal: Exception) -> Decoded:
    """A JPEG file that libjpeg-turbo's plain interface refuses, for its colour sampling for example.

    Pillow may decode it, but without a word about damage; and a damaged header is likelier than a camera
    with a sampling of its own. So it is never `ok`.
    """
    try:
        decoded = decode_other(open_image(data), wanted)
    except Exception:
        decoded = Decoded("corrupt", None, None)
    status = "damaged" if decoded.status == "ok" else decoded.status
    return Decoded(status, one_line(refusal), decoded.pixels)


def _blame(problem: Exception) -> tuple[str, str]:
    """Status and detail for a decoder's complaint."""
    text = one_line(problem)
    return ("truncated" if any(words in text.lower() for words in _CUT_OFF) else "damaged"), text


def _shrink(image: Image.Image, wanted: int) -> Pixels:
    """RGB or grey pixels, `wanted` or up to three times as many on the short side.

    Strip by strip, so that a large image does not need its size several times over.
    """
    factor = max(1, min(image.size) // (2 * wanted))
    rows = factor * max(1, _STRIP_PIXELS // (image.width * factor))
    highest = _highest(image)
    strips = []
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        small = _eight_bit(strip, highest)
        strips.append(np.asarray(small.reduce(factor) if factor > 1 else small))
    pixels = np.concatenate(strips)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _highest(image: Image.Image) -> float:
    """The value that becomes white in an image with more than 8 bits."""
    if image.mode.startswith("I;16"):
        return 65535.0
    if image.mode not in ("I", "F"):
        return 255.0
    highest = float(image.getextrema()[1])  # type: ignore[arg-type]
    return max(highest, 1.0) if math.isfinite(highest) else 1.0


def _eight_bit(image: Image.Image, highest: float) -> Image.Image:
    """RGB or grey with 8 bits; transparency is dropped, not blended."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.clip(np.nan_to_num(np.asarray(image, np.float32)), 0, highest)
        return Image.fromarray((values * np.float32(255 / highest)).astype(np.uint8))
    return image.convert("L" if image.mode in ("L", "1", "LA", "La") else "RGB")


def _from_cmyk(pixels: Pixels) -> Pixels:
    """Adobe's JPEG files hold CMYK inverted: 255 is no ink."""
    return np.asarray((pixels[..., :3].astype(np.uint16) * pixels[..., 3:] // 255).astype(np.uint8))
