"""One image: what its bytes hold, and what state they are in."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
import simplejpeg
from PIL import UnidentifiedImageError

from camtrap_batch.images.decode import decode_jpeg, decode_other, jpeg_header, one_line, open_image
from camtrap_batch.images.exif import read_exif, read_jpeg_exif
from camtrap_batch.images.kinds import NOT_READ, VIDEO_KINDS, other_kind, still_kind
from camtrap_batch.images.pixels import (
    Pixels,
    Thumbnail,
    difference_hash,
    is_greyscale,
    make_thumbnail,
    shrink,
    upright,
)
from camtrap_batch.vocabulary import IMAGE_ENDINGS, ending_of

_SMALLEST = 32  # pixels wanted on the short side without a thumbnail: enough for hash, night or day
_WIDEST = 2**31 - 1  # what the manifest's columns hold


@dataclass(frozen=True)
class Limits:
    """What an image may cost, and what is kept of it.

    Attributes
    ----------
    max_pixels : an image with more pixels is `too_large` and not decoded
    timeout_s : maximum seconds to wait for the bytes of an image, and again to decode it
    thumbnail : short side of the thumbnail in pixels; 0: none
    quality : JPEG quality of the thumbnail
    """

    max_pixels: int = 200_000_000
    timeout_s: float = 60
    thumbnail: int = 256
    quality: int = 85


@dataclass(slots=True)
class Verdict:
    """What is known about an image; the names are those of the manifest's columns."""

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
    exif_offset_minutes: int | None = None
    camera_make: str | None = None
    camera_model: str | None = None
    orientation: int | None = None
    is_night: bool | None = None
    thumbnail: Thumbnail | None = None


@cache
def prepare() -> None:
    """Load the compiled loops, or compile them, which takes some seconds, if this machine never has.

    Otherwise the first image would be charged for it.
    """
    judge(simplejpeg.encode_jpeg(np.zeros((512, 512, 3), np.uint8)), "black.jpg", Limits(thumbnail=_SMALLEST))


def judge(data: bytes, file_name: str, limits: Limits) -> Verdict:
    """Judge an image by its bytes. Whatever they are, the result is a verdict."""
    verdict = Verdict("ok", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    if not data:
        verdict.status = "empty_file"
    elif (kind := other_kind(data)) is not None:
        verdict.status, verdict.format = status_of(kind), kind
    elif (kind := still_kind(data)) is None:
        # Only the name says that it should be an image, as with a file full of zeros.
        is_named_still = ending_of(file_name) in IMAGE_ENDINGS
        verdict.status = "corrupt" if is_named_still else "not_image"
        verdict.detail = "not a file of any known image format"
    elif kind in NOT_READ:
        verdict.status, verdict.format = "not_image", kind
        verdict.detail = "a still image of a kind that is not read; convert it to JPEG"
    else:
        verdict.format = kind
        try:
            _judge_picture(verdict, data, limits)
        except MemoryError:
            verdict.status, verdict.detail = "too_large", "decoding it takes more memory than there is"
        except UnidentifiedImageError:
            verdict.status, verdict.detail = "corrupt", "its header can't be read"
        except Exception as problem:  # decoders raise whatever they like; a file's content can't end a job
            verdict.status, verdict.detail = "corrupt", one_line(problem)
    return verdict


def status_of(kind: str) -> str:
    """The status of a file that is surely not a still image, by its kind."""
    return "video" if kind in VIDEO_KINDS else "not_image"


def judge_frame(pixels: Pixels, kind: str, limits: Limits) -> Verdict:
    """The verdict on a frame of a video of this kind, decoded and upright, shape (height, width, 3).

    A frame has no bytes of its own: its hash is that of its pixels.
    """
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    verdict = Verdict("ok", format=kind, mode="RGB", width=width, height=height, sha256=digest)
    _look_at(verdict, pixels, min(width, height), limits)
    return verdict


def _judge_picture(verdict: Verdict, data: bytes, limits: Limits) -> None:
    is_jpeg = verdict.format == "JPEG"
    header = jpeg_header(data) if is_jpeg else None
    image = None
    if header is not None:
        width, height, verdict.mode = header
        exif = read_jpeg_exif(data)
    else:  # for JPEG: Pillow takes some headers that libjpeg does not
        image = open_image(data)
        verdict.format, verdict.mode, (width, height) = image.format, image.mode, image.size
        exif = read_exif(image)
    verdict.datetime_exif, verdict.camera_make, verdict.camera_model = exif.taken, exif.make, exif.model
    verdict.exif_offset_minutes = exif.utc_offset_minutes
    verdict.orientation = exif.orientation if exif.orientation != 1 else None
    if max(width, height) <= _WIDEST:
        verdict.width, verdict.height = width, height
    if width * height > limits.max_pixels:
        verdict.status = "too_large"
        verdict.detail = f"{width} x {height} pixels, the limit is {limits.max_pixels}"
        return
    wanted = max(limits.thumbnail, _SMALLEST)
    if not is_jpeg and image is not None:
        decoded = decode_other(image, wanted)
    elif limits.thumbnail:
        decoded = decode_jpeg(data, wanted)
    else:
        decoded = decode_jpeg(data, wanted, exactly=False)
    verdict.status, verdict.detail = decoded.status, decoded.detail
    if decoded.pixels is None:
        return
    _look_at(verdict, upright(decoded.pixels, exif.orientation), min(width, height), limits)


def _look_at(verdict: Verdict, pixels: Pixels, full_short_side: int, limits: Limits) -> None:
    """What is kept of upright pixels."""
    if limits.thumbnail:
        pixels = shrink(pixels, limits.thumbnail)
        verdict.thumbnail = make_thumbnail(pixels, full_short_side, limits.quality)
    verdict.dhash = difference_hash(pixels)
    verdict.is_night = is_greyscale(pixels)
