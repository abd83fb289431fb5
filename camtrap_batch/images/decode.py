"""From the bytes of an image to small pixels, with the decoder's complaints.

JPEG files are decoded once, at the smallest sufficient scale: a scaled decode reads the whole
entropy-coded stream, so it finds every fault that a full one finds, in less than half the time. Sound files
of the usual kind are read by `baseline`; all others by libjpeg-turbo, whose warnings, which Pillow swallows,
distinguish `damaged` from `ok`. Other formats go through Pillow.
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

from camtrap_batch.images.cost import refuse_jpeg, refuse_other
from camtrap_batch.images.exif import read_exif, read_jpeg_exif, silence_pillow
from camtrap_batch.images.jpeg.frame import read_frame
from camtrap_batch.images.libtiff import hear_libtiff
from camtrap_batch.images.pixels import JPEG_LONGEST, Pixels, is_blank, upright

JPEG = b"\xff\xd8"
"""The first bytes of every JPEG file."""

# The formats that cameras and their software write. Pillow knows more, but some of those call other programs,
# and some take almost any bytes for a picture.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "AVIF")
_CUT_OFF = ("premature end of jpeg file", "truncated", "unexpected end of file", "not enough image data")
_MODES = {"Gray": "L", "CMYK": "CMYK", "YCCK": "CMYK"}
_SPACES = {"Gray": ("GRAY", 1), "CMYK": ("CMYK", 4), "YCCK": ("CMYK", 4)}
_BLOCK = 2 * 16 * 16  # pixels of rubbish where a JPEG stream breaks off: its last block or two
_TILE_PIXELS = 2**20
_MANY_PIXELS = 2**24
_ALL = 2**16  # pixels on the short side: full size
_MOST_DRAFT = 8  # largest factor by which Pillow's JPEG decoder reduces

# Each image's size is checked against the job's own limit before anything is decoded; Pillow's limit, which
# is global and lower, would refuse images that a job allows.
Image.MAX_IMAGE_PIXELS = None
logging.getLogger("PIL").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Decoded:
    """`pixels` at a reduced size, RGB or grey; None if nothing usable decodes (status `corrupt`)."""

    status: str
    detail: str | None
    pixels: Pixels | None


def decode_upright(data: bytes, wanted: int) -> Pixels:
    """The picture in an image file as EXIF turns it, with `wanted` pixels or more on its short side.

    A truncated or damaged file gives what can be decoded; a smaller picture keeps its size.

    Raises
    ------
    ValueError
        Nothing usable decodes.
    """
    if data.startswith(JPEG):
        decoded, orientation = decode_jpeg(data, wanted, exactly=False), read_jpeg_exif(data).orientation
    else:
        try:
            image = open_image(data)
        except Exception as problem:
            raise ValueError(f"not a picture that can be decoded: {one_line(problem)}") from None
        decoded, orientation = decode_other(image, wanted), read_exif(image).orientation
    if decoded.pixels is None:
        raise ValueError(f"not a picture that can be decoded: {decoded.detail}")
    return upright(decoded.pixels, orientation)


def decode_whole(data: bytes) -> Pixels:
    """The picture in an image file, upright, at full size.

    Uses the exact inverse transform and smooth chroma, as OpenCV and Pillow do, if possible.

    Returns
    -------
    Shape (height, width, 3) RGB, or (height, width, 1) grey.

    Raises
    ------
    ValueError
        Nothing decodes.
    """
    if data.startswith(JPEG):
        try:
            coded = simplejpeg.decode_jpeg_header(data, strict=False)[2]
            space = {"Gray": "GRAY", "YCbCr": "RGB", "RGB": "RGB"}[coded]
            pixels = simplejpeg.decode_jpeg(
                data, colorspace=space, fastdct=False, fastupsample=False, strict=False
            )
        except (ValueError, KeyError):
            pass  # another kind of file, or so damaged that libjpeg gives up
        else:
            return upright(pixels, read_jpeg_exif(data).orientation)
    return decode_upright(data, _ALL)


def open_image(data: bytes) -> Image.Image:
    """The image, opened by Pillow with its header read; raises whatever Pillow raises if it can't be read."""
    silence_pillow()
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def jpeg_header(data: bytes) -> tuple[int, int, str] | None:
    """Width, height and mode of a JPEG file, read by libjpeg; None if it can't read them."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):
        return None
    return int(width), int(height), _MODES.get(space, "RGB")


def decode_jpeg(data: bytes, wanted: int, exactly: bool = True) -> Decoded:
    """Decode a JPEG file to `wanted` pixels or a little more on its short side.

    `exactly`: to no more than that, for a thumbnail, if this costs half as much as `pixels.shrink` would; a
    larger result still has to be shrunk by the caller.
    """
    from camtrap_batch.images.jpeg.baseline import decode_baseline  # numba takes half a second to import

    sound = decode_baseline(data, wanted, exactly)
    if sound is not None:
        return Decoded("ok", None, sound)
    frame = read_frame(data)
    refusal = None if frame is None else refuse_jpeg(frame, len(data))
    if refusal is not None:
        return Decoded(*refusal, None)
    return _decode_by_libjpeg(data, wanted)


def _decode_by_libjpeg(data: bytes, wanted: int) -> Decoded:
    smallest = {"min_width": wanted, "min_height": wanted}
    try:
        height, width, coded, _ = simplejpeg.decode_jpeg_header(data, strict=False, **smallest)
    except (ValueError, KeyError) as refusal:
        return _decode_odd_jpeg(data, wanted, refusal)
    space, channels = _SPACES.get(coded, ("RGB", 3))
    how = {"colorspace": space, "fastupsample": True, **smallest}
    status, detail = "ok", None
    # libjpeg writes the rows that it reaches, even if it complains in the end; the others must not show what
    # memory held before.
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
    """Decode an image opened by Pillow, the first if there are several, as `decode_jpeg` does."""
    if (refusal := refuse_other(image, _bytes_of(image))) is not None:
        return Decoded(*refusal, None)
    silence_pillow()
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a library that was imported in the meantime may have set it
    status, detail = "ok", None
    with hear_libtiff() as said:
        try:
            image.load()
        except MemoryError:
            raise
        except Exception as problem:
            status, detail = _blame(problem)
            # With no tiles left to decode, Pillow hands out what it has. (Its own switch for truncated files
            # is global, and other threads are decoding.)
            image.tile = []  # type: ignore[attr-defined]
            try:
                image.load()
            except Exception:
                return Decoded("corrupt", detail, None)
    if status == "ok" and said:
        status, detail = _blame(OSError(said[0]))
    pixels = _shrink(image, wanted)
    if status != "ok" and is_blank(pixels):
        return Decoded("corrupt", detail, None)
    return Decoded(status, detail, pixels)


def one_line(problem: BaseException) -> str:
    """An error's message on one short line, the same in every run."""
    text = re.sub(r" at 0x[0-9a-f]+|\?\S+", "", " ".join(str(problem).split()))
    return text.encode("utf-8", "replace").decode()[:200] or type(problem).__name__


def _decode_odd_jpeg(data: bytes, wanted: int, refusal: Exception) -> Decoded:
    """A JPEG file that libjpeg-turbo's plain interface refuses, for example because of its colour sampling.

    Pillow may decode it, but without a word about damage. So it is `ok` only if our own reader, which goes
    over every byte, calls it sound, or if libjpeg-turbo, which has no name for its sampling in its interface,
    reads all of it without a complaint; a damaged header is likelier than an odd file.
    """
    from camtrap_batch.images.jpeg.baseline import is_sound_baseline

    try:
        image = open_image(data)
        reduced = max(1, min(min(image.size) // wanted, _MOST_DRAFT))
        image.draft(None, (image.width // reduced, image.height // reduced))
        decoded = decode_other(image, wanted)
    except Exception:
        decoded = Decoded("corrupt", None, None)
    if decoded.status != "ok":
        return Decoded(decoded.status, one_line(refusal), decoded.pixels)
    if is_sound_baseline(data) or (isinstance(refusal, KeyError) and _reads_without_complaint(data)):
        return decoded
    detail = "its colour sampling is unusual" if isinstance(refusal, KeyError) else one_line(refusal)
    return Decoded("damaged", detail, decoded.pixels)


def _reads_without_complaint(data: bytes) -> bool:
    """Whether libjpeg-turbo goes over a whole file, at an eighth of its size, without a warning."""
    frame = read_frame(data)
    if frame is None:
        return False
    for space in ("RGB", "GRAY", "CMYK"):
        try:
            simplejpeg.decode_jpeg(data, colorspace=space, min_height=1, min_width=1, strict=True)
        except (ValueError, KeyError):
            continue
        return True
    return False


def _blame(problem: Exception) -> tuple[str, str]:
    """Status and detail for a decoder's complaint."""
    text = one_line(problem)
    return ("truncated" if any(words in text.lower() for words in _CUT_OFF) else "damaged"), text


def _shrink(image: Image.Image, wanted: int) -> Pixels:
    """RGB or grey pixels, `wanted` or up to three times as many on the short side, fewer for a thin picture.

    Tile by tile, so that a large image does not need its size several times over.
    """
    across, down = _factors(image.size, wanted)
    columns = across * max(1, min(-(-image.width // across), _TILE_PIXELS // (across * down)))
    rows = down * max(1, _TILE_PIXELS // (columns * down))
    highest = _highest(image)
    bands = []
    for top in range(0, image.height, rows):
        tiles = []
        for left in range(0, image.width, columns):
            box = left, top, min(left + columns, image.width), min(top + rows, image.height)
            small = _eight_bit(image.crop(box), highest)
            tile = np.asarray(small.reduce((across, down)) if across * down > 1 else small)
            tiles.append(tile if tile.ndim == 3 else tile[..., None])
        bands.append(np.concatenate(tiles, axis=1) if len(tiles) > 1 else tiles[0])
    return np.concatenate(bands)


def _factors(size: tuple[int, int], wanted: int) -> tuple[int, int]:
    """How many columns and rows `_shrink` merges into one."""
    factor = max(1, min(size) // (2 * wanted))
    if size[0] * size[1] <= _MANY_PIXELS * factor * factor:
        return factor, factor
    # Long and thin: `pixels.shrink` will limit its long side.
    ratio = min(1.0, wanted / min(size), JPEG_LONGEST / max(size))
    across, down = (max(1, side // max(1, round(side * ratio))) for side in size)
    return across, down


def _bytes_of(image: Image.Image) -> int:
    file = getattr(image, "fp", None)
    return file.getbuffer().nbytes if isinstance(file, io.BytesIO) else 0


def _highest(image: Image.Image) -> float:
    """The value that becomes white in an image with more than 8 bits."""
    if image.mode.startswith("I;16"):
        return 65535.0
    if image.mode not in ("I", "F"):
        return 255.0
    highest = float(image.getextrema()[1])  # type: ignore[arg-type]
    return max(highest, 1.0) if math.isfinite(highest) else 1.0


def _eight_bit(image: Image.Image, highest: float) -> Image.Image:
    """RGB or grey in 8 bits; transparency is dropped, not blended."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.clip(np.nan_to_num(np.asarray(image, np.float32)), 0, highest)
        return Image.fromarray((values * np.float32(255 / highest)).astype(np.uint8))
    return image.convert("L" if image.mode in ("L", "1", "LA", "La") else "RGB")


def _from_cmyk(pixels: Pixels) -> Pixels:
    """Adobe's JPEG files hold inverted CMYK: 255 means no ink."""
    colours = np.empty((*pixels.shape[:2], 3), np.uint8)
    rows = max(1, _TILE_PIXELS // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        some = pixels[top : top + rows]
        colours[top : top + rows] = some[..., :3].astype(np.uint16) * some[..., 3:] // 255
    return colours
