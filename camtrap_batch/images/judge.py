"""One image: what its bytes hold, and in which state they are.

JPEG files are decoded once, by libjpeg-turbo, at the smallest scale that still serves: a scaled decode reads
the whole entropy-coded stream, so it finds every fault that a full one finds, in less than half the time. Its
warnings, which Pillow swallows, tell `damaged` from `ok`. Everything else goes through Pillow.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import threading
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageFile

from camtrap_batch.images.kinds import other_kind
from camtrap_batch.images.pixels import (
    Pixels,
    Thumbnail,
    difference_hash,
    is_blank,
    is_greyscale,
    make_thumbnail,
    upright,
)

_SMALLEST = 1  # pixels wanted where no thumbnail is: libjpeg's smallest scale, 1/8
_STILL_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp"}
)
_CUT_OFF = ("premature end of jpeg file", "truncated", "unexpected end of file", "not enough image data")
_pillow = threading.Lock()


@dataclass(frozen=True)
class Limits:
    """What an image may cost, and what is kept of it.

    Attributes
    ----------
    max_pixels : an image with more pixels is `too_large` and not decoded
    timeout_s : most seconds for one image
    thumbnail : short side of the thumbnail in pixels; 0: none
    quality : of the thumbnail, as JPEG quality
    """

    max_pixels: int = 200_000_000
    timeout_s: float = 60
    thumbnail: int = 256
    quality: int = 85


@dataclass(slots=True)
class Verdict:
    """What is known of an image; the names are those of the manifest's columns."""

    status: str
    detail: str | None = None
    format: str | None = None
    mode: str | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    dhash: int | None = None
    datetime_exif: dt.datetime | None = None
    camera_make: str | None = None
    camera_model: str | None = None
    is_night: bool | None = None
    thumbnail: Thumbnail | None = None


def judge(data: bytes, file_name: str, limits: Limits) -> Verdict:
    """Judge an image by its bytes. Whatever they are, the answer is a verdict."""
    verdict = Verdict("ok", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    if not data:
        verdict.status = "empty_file"
    elif (kind := other_kind(data)) is not None:
        verdict.status, verdict.format = "not_image", kind
    else:
        try:
            _judge_picture(verdict, data, file_name, limits)
        except MemoryError:
            verdict.status, verdict.detail = "too_large", "decoding it takes more memory than there is"
        except Exception as problem:  # decoders raise whatever they like; a file's content can't end a job
            verdict.status, verdict.detail = "corrupt", _one_line(problem)
    return verdict


def _judge_picture(verdict: Verdict, data: bytes, file_name: str, limits: Limits) -> None:
    orientation = _read_header(verdict, data)
    is_jpeg = data[:2] == b"\xff\xd8"
    if verdict.format is None and not is_jpeg:
        is_named_still = PurePosixPath(file_name).suffix.lower() in _STILL_SUFFIXES
        verdict.status = "corrupt" if is_named_still else "not_image"
        verdict.detail = "not a file of any known image format"
        return
    if is_jpeg and verdict.width is None:
        verdict.format = "JPEG"
        verdict.height, verdict.width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        verdict.mode = {"Gray": "L", "CMYK": "CMYK", "YCCK": "CMYK"}.get(space, "RGB")
    if verdict.width is None or verdict.height is None:
        raise ValueError("no size in its header")
    if verdict.width * verdict.height > limits.max_pixels:
        verdict.status = "too_large"
        verdict.detail = f"{verdict.width} x {verdict.height} pixels, the limit is {limits.max_pixels}"
        return
    wanted = limits.thumbnail or _SMALLEST
    decode = _decode_jpeg if verdict.format in ("JPEG", "MPO") else _decode_other
    pixels = decode(verdict, data, wanted)
    if pixels is None:
        return
    if verdict.status != "ok" and is_blank(pixels):
        verdict.status = "corrupt"
        return
    pixels = upright(pixels, orientation)
    verdict.dhash = difference_hash(pixels)
    verdict.is_night = is_greyscale(pixels)
    if limits.thumbnail:
        short_side = min(verdict.width, verdict.height)
        verdict.thumbnail = make_thumbnail(pixels, limits.thumbnail, short_side, limits.quality)


def _read_header(verdict: Verdict, data: bytes) -> int:
    """Fill in format, mode, size and EXIF; returns the EXIF orientation."""
    # Each image's size is held against our own limit before anything is decoded; Pillow's, which is global
    # and smaller, would refuse large images that a job allows.
    Image.MAX_IMAGE_PIXELS = None
    try:
        image = Image.open(io.BytesIO(data))
    except Exception:  # Pillow's plugins raise many kinds on broken headers
        return 1
    verdict.format, verdict.mode = image.format, image.mode
    verdict.width, verdict.height = image.size
    try:
        exif = image.getexif()
        inner = exif.get_ifd(ExifTags.IFD.Exif) if exif else {}
    except Exception:  # damaged EXIF is no fault of the picture
        return 1
    taken = inner.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
    verdict.datetime_exif = _exif_date(taken)
    verdict.camera_make = _exif_text(exif.get(ExifTags.Base.Make))
    verdict.camera_model = _exif_text(exif.get(ExifTags.Base.Model))
    orientation = exif.get(ExifTags.Base.Orientation)
    return orientation if isinstance(orientation, int) else 1


def _decode_jpeg(verdict: Verdict, data: bytes, wanted: int) -> Pixels | None:
    """The picture, `wanted` pixels or a little more on its short side; sets the status."""
    space = {"L": "GRAY", "CMYK": "CMYK"}.get(verdict.mode or "", "RGB")
    scale = {"colorspace": space, "min_width": wanted, "min_height": wanted, "fastupsample": True}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, **scale, strict=True)
    except ValueError as complaint:
        verdict.detail = _one_line(complaint)
        verdict.status = "truncated" if _is_cut_off(complaint) else "damaged"
        try:
            pixels = simplejpeg.decode_jpeg(data, **scale, strict=False)
        except ValueError as refusal:
            return _decode_odd_jpeg(verdict, data, refusal)
    return _from_cmyk(pixels) if space == "CMYK" else pixels


def _decode_odd_jpeg(verdict: Verdict, data: bytes, refusal: ValueError) -> Pixels | None:
    """A JPEG that libjpeg-turbo's plain interface does not take: Pillow may (12 bit, odd sampling)."""
    try:
        with _pillow:
            image = Image.open(io.BytesIO(data))
            image.load()
    except Exception:
        verdict.status, verdict.detail = "corrupt", _one_line(refusal)
        return None
    verdict.status, verdict.detail = "ok", None
    return _eight_bit(image)


def _decode_other(verdict: Verdict, data: bytes, wanted: int) -> Pixels | None:
    # The switch for truncated files is Pillow's, and global: one image at a time.
    with _pillow:
        image = Image.open(io.BytesIO(data))
        try:
            image.load()
        except Exception as problem:
            verdict.detail = _one_line(problem)
            verdict.status = "truncated" if _is_cut_off(problem) else "damaged"
            image = Image.open(io.BytesIO(data))
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            try:
                image.load()
            except Exception:
                verdict.status = "corrupt"
                return None
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = False
    if image.mode in ("RGB", "L"):
        # Reduced roughly first: the exact size comes later.
        factor = min(image.size) // wanted // 2
        image = image.reduce(factor) if factor > 1 else image
    return _eight_bit(image)


def _eight_bit(image: Image.Image) -> Pixels:
    """Any Pillow image as RGB or grey with 8 bits; 16 bits lose the lower ones, wider ranges are stretched."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        values = np.asarray(image, np.float64)
        top = 65535.0 if image.mode.startswith("I;16") else float(values.max())
        return (np.clip(values / max(top, 1.0), 0, 1) * 255).astype(np.uint8)[..., None]
    if image.mode in ("L", "1", "LA"):
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))


def _from_cmyk(pixels: Pixels) -> Pixels:
    """Adobe's JPEG files hold CMYK inverted: 255 is no ink."""
    return np.asarray((pixels[..., :3].astype(np.uint16) * pixels[..., 3:] // 255).astype(np.uint8))


def _is_cut_off(problem: Exception) -> bool:
    return any(text in str(problem).lower() for text in _CUT_OFF)


def _exif_date(value: object) -> dt.datetime | None:
    try:
        return dt.datetime.strptime(str(value).strip(" \0")[:19], "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007
    except ValueError:
        return None


def _exif_text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return value.replace("\0", " ").strip().encode("utf-8", "replace").decode() or None


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:200] or type(problem).__name__
